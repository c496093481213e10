"""Gain of a rating: its place in the range of ratings, above that of the least.

Where most ratings are near the least, as counts are, few rows would have nearly all of
the gain. Places then have a power that takes that of the mean rating to the middle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import Tensor

from .._data.rating_summary import RatingSummary

# Gain of the lowest rating, where the range of ratings is one. On a scale from 1 to 5
# gains are thus in proportion to the ratings.
LEAST_GAIN = 0.25


@dataclass(frozen=True)
class Gain:
    """Gain of ratings; 1 where all are equal.

    It does not depend on the origin and the unit of the ratings.

    Attributes
    ----------
    low, high : float
        Ratings beyond have the gain of these.
    power : float
        Of the place of a rating between them, which is from 0 to 1.
    """

    low: float
    high: float
    power: float = 1.0

    @classmethod
    def of(cls, ratings: RatingSummary) -> Self:
        """By the range without outliers, and the mean place in it."""
        low, high = ratings.range
        mean = cls(low, high).places(ratings.values) @ ratings.weight
        mean /= max(ratings.weight.sum(), np.finfo(np.float64).tiny)
        return cls(low, high, math.log(0.5) / math.log(mean) if 0 < mean < 0.5 else 1.0)

    def __call__(self, rating: np.ndarray) -> np.ndarray:
        if not self.span:
            return np.ones_like(rating, dtype=np.float64)
        gain = self.places(rating)
        if self.power != 1:
            gain **= self.power
        gain += LEAST_GAIN
        return gain

    @property
    def span(self) -> float:
        """Length of the range."""
        return max(self.high - self.low, 0.0)

    def places(self, rating: np.ndarray) -> np.ndarray:
        """Places of ratings in the range, from 0 to 1."""
        places = rating.clip(self.low, self.high)
        places -= self.low
        places /= self.span or 1.0
        return places

    def at_places_(self, places: Tensor) -> Tensor:
        """Gains in place of places, some of which are beyond the range."""
        places.clamp_(0, 1)
        if self.power != 1:
            places.pow_(self.power)
        return places.add_(LEAST_GAIN)
