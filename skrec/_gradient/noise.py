"""How much there is to learn from the rows of a fit, beside noise.

A penalty that suits ratings with much to learn lets a network learn the noise of
others, and predict worse than their mean, so it follows the noise. How much there is to
learn of users and of items alone is seen from biases, each rating without its own part
in them. Whether there is more to learn, of both together, is seen from the first
singular vectors of what biases leave: by the singular value, beside that of the same
residuals with random signs, and by the residuals of pairs that had no part in the
vectors. The first sees less in few columns, whose random signs share the signal, and
the second in few pairs.

Whether it is at random whom rows have ratings with is seen from the singular values of
pairs alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from .._data.interactions import Interactions
from .._data.units import ROUNDING
from .._data.weights import loo_residuals
from .._share import Share

# Ratio of singular values at which a network may learn, and at which it can learn well.
LEAST_RATIO, CLEAR_RATIO = 1.03, 1.15

# Largest multiple of the penalty, where biases predict no better than the mean.
MAX_MULTIPLE = 10.0

# Standard errors above zero of the products of pairs left out at which it may, and can.
LEAST_SCORE, CLEAR_SCORE = 2.0, 3.5

N_MULTIPLICATIONS = 20
N_FOLDS, N_MULTIPLICATIONS_OF_FOLD = 20, 10

# Pairs up to which some are left out; of more, the singular values tell enough.
MAX_LEFT_OUT = 10**4

# Ratio of the singular values of pairs and of shuffled ones below which pairs are as
# random; and the value of shuffled pairs up to which this can be told.
LEAST_RATIO_OF_PAIRS, MAX_RANDOM = 1.05, 0.3

TINY = np.finfo(np.float64).tiny


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
    n_all = int(share.sum(float(len(weight))))
    own = slice(n_before, n_before + len(weight))
    rng = np.random.RandomState(0)
    signs = rng.randint(0, 2, n_all)[own] * 2.0 - 1
    fold = rng.randint(N_FOLDS, size=n_all)[own]
    matrix = _Scaled(data, users, items, weight)
    values = [matrix.largest_singular_value(x * residual) for x in (1.0, signs)]
    excess = (values[0] / values[1] - LEAST_RATIO) / (CLEAR_RATIO - LEAST_RATIO)
    if excess < 1 and n_all <= MAX_LEFT_OUT:
        score = _score_of_left_out(matrix, rating, fold)
        excess = max(excess, (score - LEAST_SCORE) / (CLEAR_SCORE - LEAST_SCORE))
    return float(multiple ** (1 - np.clip(excess, 0, 1)))


def _score_of_left_out(matrix: _Scaled, rating: np.ndarray, fold: np.ndarray) -> float:
    """What biases leave of each fold, times its predictions by the other folds.

    The sum, relative to its standard deviation if the signs of the first were random.
    Biases are those of the other folds, since residuals of common ones depend on one
    another.
    """
    sums = np.zeros(2)
    for number in range(N_FOLDS):
        is_out = fold == number
        residual = matrix.loo_residuals(rating, np.where(is_out, 0.0, matrix.weight))
        rest = np.where(is_out, 0, residual)
        left, right = matrix.first_vectors(rest, N_MULTIPLICATIONS_OF_FOLD)
        users, items = (places[is_out] for places in matrix.places)
        product = left[users] * right[items] * (matrix.scale * residual)[is_out]
        sums += product.sum(), product @ product
    of_products, of_squares = matrix.share.sum(sums)
    return float(of_products / max(math.sqrt(of_squares), TINY))


class _Scaled:
    """Matrices of the pairs of a share, with rows and columns of noise of about 1."""

    def __init__(
        self,
        data: Interactions,
        users: np.ndarray,
        items: np.ndarray,
        weight: np.ndarray,
    ) -> None:
        self.share, self.weight = data.shares.user, weight
        self.pairs = users, items, data.shape
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

    def loo_residuals(self, rating: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return loo_residuals(*self.pairs, rating, weight, self.share)

    def largest_singular_value(self, values: np.ndarray) -> float:
        """About the largest singular value of a matrix with these values of pairs."""
        left, _ = self.first_vectors(values, N_MULTIPLICATIONS)
        return math.sqrt(self.share.sum(float(left @ left)))

    def first_vectors(
        self, values: np.ndarray, n_multiplications: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """About the first singular vectors, the left one times the singular value."""
        entries = self.scale * values
        matrix = sparse.csr_array((entries, self.places), self.shape)
        transposed = sparse.csr_array(matrix.T)
        return _first_vectors(
            lambda right: matrix @ right,
            lambda left: self.share.sum(transposed @ left),
            self.shape[1],
            n_multiplications,
        )


def _first_vectors(
    times: Callable[[np.ndarray], np.ndarray],
    transposed_times: Callable[[np.ndarray], np.ndarray],
    n_columns: int,
    n_multiplications: int,
) -> tuple[np.ndarray, np.ndarray]:
    """About the first singular vectors, the left one times the singular value."""
    right = np.random.RandomState(0).standard_normal(n_columns)
    right /= np.linalg.norm(right)
    for _ in range(n_multiplications - 1):
        right = transposed_times(times(right))
        right /= max(np.linalg.norm(right), TINY)
    return times(right), right


@dataclass(frozen=True)
class Selection:
    """Whether it is not at random whom rows have ratings with.

    Pairs less their expected number, with rows and columns of about length one, have a
    largest singular value that is above that of shuffled pairs if rows have
    counterparts in common. The value of shuffled pairs falls with the number of pairs
    of a row; where it is large, pairs are too few to tell, and may be.
    """

    data: Interactions

    @property
    def is_informative(self) -> bool:
        """Whether it may tell something."""
        return not self._is_enough or self._stands_out

    @property
    def is_clearly_informative(self) -> bool:
        """Whether it tells something, by pairs that are enough to tell."""
        return self._is_enough and self._stands_out

    @property
    def _is_enough(self) -> bool:
        _, random = self._singular_values
        return random <= MAX_RANDOM

    @property
    def _stands_out(self) -> bool:
        given, random = self._singular_values
        return given >= LEAST_RATIO_OF_PAIRS * random

    @cached_property
    def _singular_values(self) -> tuple[float, float]:
        """Largest singular values of the pairs, and of shuffled ones."""
        data, share = self.data, self.data.shares.user
        (n_users, n_items), n_own = data.shape, len(data.items)
        own, n_before = share.rows(n_users), share.n_before(n_own)
        shuffled = np.random.RandomState(0).permutation(data.all_items)
        shuffled = shuffled[n_before : n_before + n_own]
        rows, shape = data.users - own.start, (own.stop - own.start, n_items)
        given, random = (
            _largest_singular_value(rows, items, shape, share)
            for items in (data.items, shuffled)
        )
        return given, random


def _largest_singular_value(
    users: np.ndarray, items: np.ndarray, shape: tuple[int, int], share: Share
) -> float:
    """About the largest singular value of the pairs less their expected number.

    The rows are those of a share.
    """
    matrix = sparse.csr_array((np.ones(len(users)), (users, items)), shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    of_users, of_items = matrix.sum(axis=1), share.sum(matrix.sum(axis=0))
    n_pairs = of_items.sum()
    # The means keep rows of few pairs from having large values by themselves.
    left = 1 / np.sqrt(of_users + n_pairs / share.sum(float(shape[0])))
    right = 1 / np.sqrt(of_items + of_items.mean())
    scaled = sparse.diags_array(left) @ matrix @ sparse.diags_array(right)
    matrix, transposed = sparse.csr_array(scaled), sparse.csr_array(scaled.T)
    p, q = left * of_users / n_pairs, right * of_items
    vector, _ = _first_vectors(
        lambda right: matrix @ right - p * (q @ right),
        lambda left: share.sum(transposed @ left) - q * share.sum(float(p @ left)),
        len(q),
        N_MULTIPLICATIONS,
    )
    return math.sqrt(share.sum(float(vector @ vector)))
