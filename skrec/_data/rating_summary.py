"""RatingSummary: the distinct ratings of a fit, and their range without outliers.

Outliers are typing errors, or the far end of a long tail. On either side of the median
the range ends at the farthest rating within three robust standard deviations: those of
a Gaussian with the same median absolute deviation (Rousseeuw and Croux, 1993). Since
ratings are skewed, each side has a deviation of its own, among the ratings that differ
from the median; a side of few ratings has that of both. A rating that many rows have is
a level of the scale, and no outlier.

References: Rousseeuw, Croux (1993). Alternatives to the median absolute deviation.
Journal of the American Statistical Association.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from .._storage import stored
from .interactions import Interactions

# Median absolute deviations that three standard deviations of a Gaussian are. They are
# more than four, so that of five levels in equal steps none is an outlier.
MAX_DEVIATION = 3 * 1.4826

# Share of all ratings, and number of pairs, that are many.
LEVEL_SHARE, LEVEL_WEIGHT = 0.005, 5

# Distinct ratings that a summary has at most, and rows that it takes in at a time.
MAX_RATINGS, BLOCK_ROWS = 2**10, 2**16


@stored
@dataclass(frozen=True)
class RatingSummary:
    """Distinct ratings, or as many of their quantiles as a summary has at most.

    Attributes
    ----------
    values : ndarray of shape (n_values,)
        Sorted.
    weight : ndarray of shape (n_values,)
        Of the rows with each value, in units of the mean weight of a pair.
    """

    values: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, data: Interactions) -> Self:
        """Summary of the rows of all processes, which have relative weights."""
        nothing, share = cls(np.empty(0), np.empty(0)), data.shares.user
        own = nothing.with_further(data.rating, data.weight)
        if share.has_all:
            return own
        n_own = len(own.values)
        first, n_values = share.n_before(n_own), int(share.sum(float(n_own)))
        table = np.zeros((2, n_values))
        table[:, first : first + n_own] = own.values, own.weight
        return nothing.with_further(*share.sum(table))

    def with_further(self, rating: np.ndarray, weight: np.ndarray) -> Self:
        """Summary with further ratings."""
        summary = self
        for start in range(0, len(rating), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            summary = summary._with_block(rating[block], weight[block])
        return summary

    def _with_block(self, rating: np.ndarray, weight: np.ndarray) -> Self:
        place, distinct = pd.factorize(np.concatenate([self.values, rating]))
        weight = np.bincount(place, np.concatenate([self.weight, weight]))
        order = np.argsort(distinct)
        values, weight = distinct[order], weight[order]
        if len(values) > MAX_RATINGS:
            centres = np.cumsum(weight) - weight / 2
            quantile = (centres * (MAX_RATINGS / weight.sum())).astype(np.int64)
            starts = np.flatnonzero(np.diff(quantile, prepend=-1))
            total, weight = np.cumsum(weight), np.add.reduceat(weight, starts)
            # Weighted medians, or a new rating would take the place of thousands.
            middle = np.searchsorted(total, np.cumsum(weight) - weight / 2)
            values = values[np.minimum(middle, len(values) - 1)]
        return type(self)(values, weight)

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest rating that is no outlier."""
        values, weight = self.values, self.weight
        middle = _median(values, weight)
        deviation = np.abs(values - middle)
        enough = max(LEVEL_SHARE * weight.sum(), LEVEL_WEIGHT)
        bounds = []
        for side in (values < middle, values > middle):
            among = side if weight[side].sum() >= enough else values != middle
            reach = MAX_DEVIATION * _median(deviation[among], weight[among])
            bounds.append(values[side & ((deviation <= reach) | (weight >= enough))])
        low, high = bounds
        return float(low.min(initial=middle)), float(high.max(initial=middle))


def _median(values: np.ndarray, weight: np.ndarray) -> float:
    """Weighted median; 0 without values."""
    if not len(values):
        return 0.0
    order = np.argsort(values)
    total = np.cumsum(weight[order])
    return float(values[order[np.searchsorted(total, total[-1] / 2)]])
