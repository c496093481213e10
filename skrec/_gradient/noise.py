"""Noise of ratings, by which the penalty of a network follows the data.

A penalty that suits ratings with much to learn lets a network learn the noise of
others, and predict worse than their mean. How much there is to learn of users and of
items alone is seen from biases, each rating without its own part in them. Whether there
is more to learn, of both together, is seen from the largest singular value of what
biases leave, beside that of the same residuals with random signs.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse

from .._data.interactions import Interactions
from .._data.units import ROUNDING
from .._data.weights import loo_residuals

# Ratio of singular values at which a network may learn, and at which it can learn well.
LEAST_RATIO, CLEAR_RATIO = 1.03, 1.15

# Largest multiple of the penalty, where biases predict no better than the mean.
MAX_MULTIPLE = 10.0

N_MULTIPLICATIONS = 20


def penalty_multiple(data: Interactions, rating: np.ndarray) -> float:
    """Multiple of the penalty for ratings of which there is little to learn.

    The root of the noise relative to the signal of biases, at least 1, and less of it
    the more there is to learn beyond biases.

    Parameters
    ----------
    data : Interactions
    rating : ndarray of shape (n_rows,)
        To use in place of those of `data`.
    """
    share, weight = data.shares.user, data.weight
    users, items, starts = data.users, data.items, data.pair_starts
    if starts is not None:
        weight = np.add.reduceat(data.weight, starts)
        rating = np.add.reduceat(data.weight * rating, starts) / weight
        users, items = users[starts], items[starts]
    residual = loo_residuals(users, items, data.shape, rating, weight, share)
    sums = np.array([weight.sum(), weight @ rating, weight @ residual**2])
    total, of_rating, noise = share.sum(sums)
    mean = of_rating / total
    variance = share.sum(float(weight @ (rating - mean) ** 2))
    if variance <= total * (ROUNDING * mean) ** 2:
        return 1.0
    signal = max(variance - noise, noise / MAX_MULTIPLE**2)
    multiple = math.sqrt(noise / signal)
    if multiple <= 1:
        return 1.0

    n_before = share.n_before(len(weight))
    n_all = n_before + len(weight)
    signs = np.random.RandomState(0).randint(0, 2, n_all)[n_before:] * 2.0 - 1
    matrix = _Scaled(data, users, items, weight)
    values = [matrix.largest_singular_value(x * residual) for x in (1.0, signs)]
    excess = values[0] / values[1] - LEAST_RATIO
    clearness = np.clip(excess / (CLEAR_RATIO - LEAST_RATIO), 0, 1)
    return float(multiple ** (1 - clearness))


class _Scaled:
    """Matrices of the pairs of a share, with rows and columns of noise of about 1."""

    def __init__(
        self,
        data: Interactions,
        users: np.ndarray,
        items: np.ndarray,
        weight: np.ndarray,
    ) -> None:
        self.share = data.shares.user
        n_users, n_items = data.shape
        own = self.share.rows(n_users)
        self.places = users - own.start, items
        self.shape = own.stop - own.start, n_items
        left = np.bincount(self.places[0], weight, self.shape[0])
        right = self.share.sum(np.bincount(items, weight, n_items))
        # The means keep rows of few pairs from having large values by themselves.
        total = right.sum()
        left, right = left + total / n_users, right + total / n_items
        self.scale = weight / np.sqrt(left[self.places[0]] * right[items])

    def largest_singular_value(self, values: np.ndarray) -> float:
        """About the largest singular value of a matrix with these values of pairs."""
        entries = self.scale * values
        matrix = sparse.csr_array((entries, self.places), self.shape)
        transposed = sparse.csr_array(matrix.T)
        vector = np.random.RandomState(0).standard_normal(self.shape[1])
        found = 0.0
        for _ in range(N_MULTIPLICATIONS):
            vector /= max(np.linalg.norm(vector), np.finfo(np.float64).tiny)
            product = matrix @ vector
            found = math.sqrt(self.share.sum(float(product @ product)))
            vector = self.share.sum(transposed @ product)
        return found
