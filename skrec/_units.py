"""Units of ratings and features: the way to standard ones and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._interactions import Interactions


@dataclass(frozen=True)
class Units:
    """A rating is centre + scale × its standard value; a feature likewise.

    Attributes
    ----------
    centre, scale : float
    feature_mean, feature_scale : ndarray of shape (n_features,)
    """

    centre: float
    scale: float
    feature_mean: np.ndarray
    feature_scale: np.ndarray

    @classmethod
    def of(cls, data: Interactions, *, centred: bool, scaled: bool = True) -> Units:
        """Ratings to mean 0 (if `centred`) and mean square 1 (if `scaled`)."""
        weight = data.weight / data.weight.sum()
        rating, centre = data.rating, 0.0
        if centred:
            # Rounding takes the mean of equal ratings past them.
            centre = float((weight @ rating).clip(rating.min(), rating.max()))
        scale = np.sqrt(weight @ (rating - centre) ** 2) if scaled else 1.0
        mean = weight @ data.features
        deviation = np.sqrt(weight @ (data.features - mean) ** 2)
        # Rounding leaves a constant column a deviation of a few ulps. An infinite scale
        # gives it a coefficient of zero.
        return cls(
            centre=centre,
            scale=float(scale) if scale > 1e-9 * abs(centre) else 1.0,
            feature_mean=mean,
            feature_scale=np.where(deviation > 1e-9 * np.abs(mean), deviation, np.inf),
        )

    def standard_ratings(self, rating: np.ndarray) -> np.ndarray:
        return (rating - self.centre) / self.scale

    def standard_features(self, features: np.ndarray) -> np.ndarray:
        return (features - self.feature_mean) / self.feature_scale

    def row_scale(self, n_factors: int, row_size: int) -> np.ndarray:
        """What a row (p, b) in standard units is to be multiplied with."""
        scale = np.full(row_size, self.scale, dtype=np.float32)
        scale[:n_factors] **= 0.5
        return scale
