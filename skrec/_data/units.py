"""Units of ratings and features, and their conversion to standard units and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .._share import ALL_ROWS, Share
from .._storage import stored
from .interactions import Interactions
from .sides import Sides

# Share of a mean that is a deviation by rounding: some units in the last place.
ROUNDING = 4 * np.finfo(np.float64).eps

# Least scale relative to a mean that stays in the ratings.
LEAST_DEVIATION = 1e-3

# A feature that varies by less is constant: its coefficient, which is relative to its
# deviation, could be out of range.
MIN_DEVIATION = 1e-270


# Farther ratings, in standard deviations of those of fit, have squares and variances
# that single precision cannot hold.
MAX_FURTHER = 1e15

# Deviation of a Gaussian whose median distance from the mean is 1.
GAUSSIAN_SPREAD = 1.4826


@stored
@dataclass(frozen=True)
class Units:
    """A rating is centre + scale × its standard value; a feature likewise.

    Attributes
    ----------
    centre, scale : float
    feature_mean, feature_scale : ndarray of shape (n_features,)
    mean_weight : float
        Of a pair.
    penalty : float
        Multiple of a default penalty, by the noise of the ratings.
    bias_penalties : tuple of float or None
        Penalties of the squares of biases of users and of items; None for those of
        factors.
    """

    centre: float
    scale: float
    feature_mean: np.ndarray
    feature_scale: np.ndarray
    mean_weight: float = 1.0
    penalty: float = 1.0
    bias_penalties: tuple[float, float] | None = None

    @classmethod
    def of(
        cls,
        data: Interactions,
        *,
        centred: bool,
        scaled: bool = True,
        about_mean: bool = False,
    ) -> Units:
        """Ratings to mean 0 (if `centred`) and mean square 1 (if `scaled`).

        The mean square is a variance, also without a mean of 0, if `about_mean`.
        """
        share = data.shares.user
        total = share.sum(float(data.weight.sum()))
        weight, rating, mean, scale = data.weight / total, data.rating, 0.0, 1.0
        if centred or about_mean:
            # Rounding takes the mean of equal ratings past them.
            mean = float(np.clip(share.sum(weight @ rating), *data.rating_range))
        if scaled:
            scale = float(_root_mean_square(rating - mean, weight, share))
            if not centred:
                # Single precision has to tell ratings apart beside their mean.
                scale = max(scale, LEAST_DEVIATION * abs(mean))
            if scale <= ROUNDING * abs(mean):
                scale = abs(mean) or 1.0
        feature_mean, feature_scale = number_units(data)
        return cls(
            centre=mean if centred else 0.0,
            scale=scale,
            feature_mean=feature_mean,
            feature_scale=feature_scale,
            mean_weight=total / n_pairs(data),
        )

    def standard_ratings(self, rating: np.ndarray) -> np.ndarray:
        return (rating - self.centre) / self.scale

    def check_further(self, rating: np.ndarray) -> None:
        """Refuse further ratings in a unit that cannot be that of fit."""
        farthest = np.abs(self.standard_ratings(rating)).max(initial=0)
        if farthest > MAX_FURTHER:
            raise ValueError(
                f"y holds a rating that is {farthest:.2g} standard deviations of the "
                f"ratings of fit away from their mean; at most {MAX_FURTHER:.0e} are "
                "in range. Give ratings in the unit of fit, or fit anew."
            )

    def centred(self, context: np.ndarray) -> np.ndarray:
        """Numbers of a context minus their means."""
        return context[:, : len(self.feature_mean)] - self.feature_mean

    def standard_features(self, context: np.ndarray) -> np.ndarray:
        return self.centred(context) / self.feature_scale

    def row_scale(self, n_factors: int, row_size: int) -> np.ndarray:
        """Factor that takes a row (p, b) from standard units to those of ratings."""
        # Squares of variances of ratings that are large or small overflow sooner.
        wide = not 1e-9 < self.scale < 1e9
        scale = np.full(row_size, self.scale, dtype=np.float64 if wide else np.float32)
        scale[:n_factors] = np.sqrt(scale[:n_factors])
        return scale


def mean_factors(mean: float) -> Sides[float]:
    """First factors of a row of users and of one of items whose product is the mean."""
    root = math.sqrt(abs(mean))
    return Sides(root, math.copysign(root, mean))


def n_pairs(data: Interactions) -> float:
    """Number of the pairs of all processes, of which each has those of its users."""
    starts = data.pair_starts
    n_own = len(data.rating) if starts is None else len(starts)
    return data.shares.user.sum(float(n_own))


def robust_units(units: Units, data: Interactions, *, centred: bool) -> Units:
    """Units of ratings by medians, which no small share of the ratings moves.

    The scale is the median distance from the median, as the deviation of Gaussian
    ratings that have it, or the one given if that is smaller. Where most ratings are
    equal it is that of the others.
    """
    share, rating, weight = data.shares.user, data.rating, data.weight
    centre = median(rating, weight, share)
    distance = np.abs(rating - centre)
    least = ROUNDING * abs(centre)
    spread = median(distance, weight, share)
    if spread <= least:
        varies = distance > least
        spread = median(distance[varies], weight[varies], share)
    scale = min(GAUSSIAN_SPREAD * spread, units.scale) if spread else units.scale
    return replace(units, centre=centre if centred else 0.0, scale=scale)


def median(values: np.ndarray, weight: np.ndarray, share: Share = ALL_ROWS) -> float:
    """Smallest value up to which half of the weight of all processes lies; 0 of none.

    By bisection, since a process does not know the values of others.
    """
    half = share.sum(float(weight.sum())) / 2
    low = -share.largest(-float(values.min(initial=np.inf)))
    high = share.largest(float(values.max(initial=-np.inf)))
    while low < (middle := low / 2 + high / 2) < high:
        if share.sum(float(weight @ (values <= middle))) >= half:
            high = middle
        else:
            low = middle
    if share.sum(float(weight @ (values <= low))) >= half:
        high = low
    found = share.largest(float(values.max(initial=-np.inf, where=values <= high)))
    return found if np.isfinite(found) else 0.0


def number_units(data: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Means and deviations of the numbers of a context.

    An infinite deviation gives a constant column a coefficient of zero.
    """
    share = data.shares.user
    weight = data.weight / share.sum(float(data.weight.sum()))
    mean = share.sum(weight @ data.numbers)
    mean = np.clip(mean, *_range(data.numbers, share))
    deviation = _root_mean_square(data.numbers - mean, weight, share)
    varies = deviation > np.maximum(ROUNDING * np.abs(mean), MIN_DEVIATION)
    return mean, np.where(varies, deviation, np.inf)


def _range(values: np.ndarray, share: Share) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest number of each column of all rows."""
    low = share.largest(-values.min(axis=0, initial=np.inf))
    return -low, share.largest(values.max(axis=0, initial=-np.inf))


def _root_mean_square(
    values: np.ndarray, weight: np.ndarray, share: Share
) -> np.ndarray:
    """Root of the weighted mean of squares, which need not be in range themselves."""
    largest = share.largest(np.abs(values).max(axis=0, initial=0))
    unit = np.where(largest > 0, largest, 1)
    return unit * np.sqrt(share.sum(weight @ (values / unit) ** 2))
