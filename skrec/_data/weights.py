"""Relative weights of pairs that are logged several times, or with a weight.

Repeated rows of one user and item share the deviation of this pair from the model, so
they hold less information than as many rows of different pairs. The noise of a pair of
total weight W, in units of that of a pair of mean weight W̄, is

    v(W) = 1 − s + s W̄ / W,

with the share s of the noise that repeats average out. s is 0 where repeats are copies
of one event, and 1 where each is an observation of its own, as weights of least squares
are. s is learned from the residuals of biases, each without the pair's own part in
them. A common factor of all weights cancels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar

from .._share import ALL_ROWS, Share
from .._storage import stored
from .interactions import Interactions, blocks, sums_by
from .reading import LEAST_WEIGHT

# A weight near zero leaves its pair out even if such pairs are no noisier than others,
# and however large a weight is, it averages out no more than this share of the noise.
MIN_SHARE, MAX_SHARE = 0.01, 0.99

# Biases are found with this share at most, so that no pair has a row of its own.
MAX_BIAS_SHARE = 0.5

# Smaller relative weights have no effect, and single precision holds sums of these.
MIN_WEIGHT = 1e-8

# Choices of less than this share of the largest weight do not count in their mean, and
# rows that are no choices, where pairs without rows count, have this share of theirs.
MIN_CONFIDENCE, NOT_CHOSEN = 1e-6, 1e-7

# Biases are shrunken as by so many pairs of mean weight, and found in so many passes.
SHRINKAGE, N_PASSES = 10.0, 2

# The share is learned in turn with the biases, until it moves by less.
SHARE_TOL, MAX_ROUNDS = 0.01, 5


@stored
@dataclass(frozen=True)
class Weighting:
    """Map from weights to relative weights, W to c / v(W).

    Attributes
    ----------
    mean : float
        W̄, mean weight of a pair in fit.
    share : float
        s.
    factor : float
        c. With it relative weights add up to the number of pairs if v is proportional
        to the variance of their residuals, and to the number of those that count if
        these do not differ, as where weights near zero leave pairs out.
    precision : float
        Where it stands between the two: 1 where v is proportional to the variance of
        the residuals, 0 where this does not differ.
    """

    mean: float
    share: float = 1.0
    factor: float = 1.0
    precision: float = 0.0

    @classmethod
    def of_choices(cls, data: Interactions) -> Weighting:
        """Weighting of rows without ratings, whose weights are confidences."""
        weight, share = _sums(data.weight, data.pair_starts), data.shares.user
        counted = weight[weight > MIN_CONFIDENCE * share.largest(float(weight.max()))]
        return cls(_mean_and_range(counted, share)[0])

    @classmethod
    def of_ratings(cls, data: Interactions) -> Weighting:
        """Weighting learned from canonical rows of ratings."""
        of_users, starts = data.shares.user, data.pair_starts
        weight = _sums(data.weight, starts)
        mean, range_of_all = _mean_and_range(weight, of_users)
        if range_of_all <= 1e-9 * mean:
            return cls(mean)
        rating = _sums(data.weight * data.rating, starts) / weight
        largest = of_users.largest(float(np.abs(rating).max(initial=0)))
        rating /= largest if largest else 1
        inverse = mean / weight
        users, items = data.users, data.items
        if starts is not None:
            users, items = users[starts], items[starts]
        del starts, weight

        def relative(share: float) -> np.ndarray:
            variance = share * inverse
            variance += 1 - share
            return np.divide(1, variance, out=variance)

        share, squares = MIN_SHARE, np.empty(0)
        for _ in range(MAX_ROUNDS):
            del squares
            counted = relative(min(share, MAX_BIAS_SHARE))
            squares = loo_residuals(users, items, data.shape, rating, counted, of_users)
            squares *= squares
            del counted
            previous, share = share, _likeliest_share(squares, inverse, of_users)
            if abs(share - previous) < SHARE_TOL:
                break
        counted = relative(share)
        sums = [len(counted), counted.sum(), counted @ counted, squares @ counted]
        counted *= counted
        n, once, twice, left, right = of_users.sum(np.array([*sums, squares @ counted]))
        least, most = once / twice, n / once
        factor = float(np.clip(left / right if left > 0 else least, least, most))
        precision = (factor - least) / (most - least) if most > least else 0.0
        return cls(mean, share, factor, precision)

    def applied(self, data: Interactions) -> Interactions:
        """The same rows with relative weights; rows of a pair share that of the pair.

        A pair of weight `mean` has the weight `factor`.
        """
        starts = data.pair_starts
        weight = np.maximum(_sums(data.weight, starts), LEAST_WEIGHT * self.mean)
        # In place, since these are large where ratings are many.
        ratio = self.share * self.mean / weight
        ratio += 1 - self.share
        np.divide(self.factor, ratio, out=ratio)
        np.maximum(ratio, MIN_WEIGHT, out=ratio)
        if starts is not None:
            of_pair = np.diff(starts, append=len(data.weight))
            weight, ratio = np.repeat(weight, of_pair), np.repeat(ratio, of_pair)
        np.divide(data.weight, weight, out=weight)
        ratio *= weight
        return replace(data, weight=ratio, precision=self.precision)


def as_choices(
    rating: np.ndarray, weight: np.ndarray, threshold: float, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ratings of 1 from a threshold on, and 0 with a share of their weight below."""
    is_chosen = rating >= threshold
    return is_chosen.astype(float), np.where(is_chosen, weight, share * weight)


def _mean_and_range(values: np.ndarray, share: Share) -> tuple[float, float]:
    """Mean and range of the values of all processes."""
    total = share.sum(float(values.sum()))
    mean = total / share.sum(float(len(values)))
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    return mean, share.largest(float(high)) + share.largest(float(-low))


def _sums(values: np.ndarray, starts: np.ndarray | None) -> np.ndarray:
    """Sums over the rows of each pair, by the first row of each."""
    return values if starts is None else np.add.reduceat(values, starts)


def loo_residuals(
    users: np.ndarray,
    items: np.ndarray,
    shape: tuple[int, int],
    rating: np.ndarray,
    weight: np.ndarray,
    share: Share = ALL_ROWS,
) -> np.ndarray:
    """Leave-one-out residuals of shrunken biases.

    Of the rows of a share, which has those of a user as a whole.
    """
    (n_users, n_items) = shape
    n, of_weight, of_rating = share.sum(
        np.array([len(weight), weight.sum(), weight @ rating])
    )
    shrinkage = SHRINKAGE * (of_weight / n)
    user_weight = sums_by(users, lambda block: weight[block], n_users) + shrinkage
    item_weight = sums_by(items, lambda block: weight[block], n_items)
    item_weight = share.sum(item_weight) + shrinkage
    residual = rating - of_rating / of_weight

    def sums(
        numbers: np.ndarray, n_sums: int, others: np.ndarray, bias: np.ndarray
    ) -> np.ndarray:
        def left(block: slice) -> np.ndarray:
            return weight[block] * (residual[block] - bias[others[block]])

        return sums_by(numbers, left, n_sums)

    user_bias = np.zeros(n_users)
    for _ in range(N_PASSES):
        item_bias = share.sum(sums(items, n_items, users, user_bias)) / item_weight
        user_bias = sums(users, n_users, items, item_bias) / user_weight
    for b in blocks(len(users)):
        residual[b] -= user_bias[users[b]] + item_bias[items[b]]
        leverage = weight[b] / user_weight[users[b]] + weight[b] / item_weight[items[b]]
        residual[b] /= 1 - np.minimum(leverage, 0.9)
    return residual


def _likeliest_share(
    squares: np.ndarray, inverse: np.ndarray, of_rows: Share = ALL_ROWS
) -> float:
    """Maximum-likelihood s of residuals from N(0, σ² v), at the best σ²."""
    n = of_rows.sum(float(len(squares)))
    if not of_rows.largest(float(squares.max(initial=0))):
        return MIN_SHARE

    def cost(share: float) -> float:
        sums = np.zeros(2)
        for block in blocks(len(squares)):
            variance = 1 - share + share * inverse[block]
            sums += np.log(variance).sum(), (squares[block] / variance).sum()
        logs, ratios = of_rows.sum(sums) / n
        return logs + np.log(ratios)

    found = minimize_scalar(
        cost, bounds=(MIN_SHARE, MAX_SHARE), method="bounded", options={"xatol": 1e-3}
    )
    return float(found.x)
