"""Gain of a rating: its place in the range of ratings, above that of the least."""

from __future__ import annotations

import numpy as np

# Gain of the lowest rating, where the range of ratings is one. On a scale from 1 to 5
# gains are thus in proportion to the ratings.
LEAST_GAIN = 0.25


def gain_of(rating: np.ndarray, low: float, high: float) -> np.ndarray:
    """Gain of ratings; 1 where all are equal.

    It does not depend on the origin and the unit of the ratings.
    """
    if high <= low:
        return np.ones_like(rating, dtype=np.float64)
    gain = rating.clip(low, high)
    gain -= low
    gain /= high - low
    gain += LEAST_GAIN
    return gain
