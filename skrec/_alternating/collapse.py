"""Ratings that a fit reproduces, so that nothing of them is left to be noise.

The learned noise variance does not show it where ratings are few: its prior holds it
up, and so do the covariances of rows. Residuals of the ratings do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from .._data.interactions import NO_FEATURES, Interactions
from .._interfaces import Model

# Share of the ratings' variance below which residuals are no noise.
COLLAPSED_SHARE = 1e-3
COLLAPSED = (
    "The noise has collapsed: the model reproduces the ratings to 3 % of their "
    "standard deviation, so standard deviations of predictions are unreliable. Look "
    "for a column of X that determines the ratings, or for ratings that were computed "
    "from each other."
)

# Rows that stand for all of a process.
SAMPLE_SIZE = 2**13


@dataclass(frozen=True)
class RatingSample:
    """Some of the ratings that a model is fitted to.

    Attributes
    ----------
    data : Interactions
    """

    data: Interactions

    @classmethod
    def of(cls, data: Interactions) -> Self:
        """A sample that is the same for every fit of these ratings."""
        rows: slice | np.ndarray = slice(None)
        if len(data.rating) > SAMPLE_SIZE:
            rows = np.random.default_rng(0).integers(len(data.rating), size=SAMPLE_SIZE)
        return cls(replace(data.at(rows), side_features=NO_FEATURES))

    def warning(self, model: Model) -> str:
        """Warning of a model that reproduces the ratings, or an empty string."""
        return COLLAPSED if self._is_reproduced(model) else ""

    def _is_reproduced(self, model: Model) -> bool:
        data, share = self.data, self.data.shares.user
        rows = data.users, data.items, data.context
        predicted, _ = model.predict(*rows, False, torch.device("cpu"))
        weight, rating = data.weight, data.rating
        total, of_rating = share.sum(np.array([weight.sum(), weight @ rating]))
        deviations = rating - of_rating / total, rating - predicted
        variance, left = share.sum(np.array([weight @ d**2 for d in deviations]))
        return bool(left < COLLAPSED_SHARE * variance)
