"""The structure of a factorisation: number of factors, and implicit features or none.

The number of factors follows from the size of the data: the factors hold half as many
numbers as there are pairs with ratings. Whether these factors and implicit features are
worth having is decided by the estimated errors of fits with and without them (see
`unseen`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from .._data.interactions import Interactions
from .._interfaces import Iteration

# Pairs with ratings for each number in the factors, and bounds of `n_factors`.
PAIRS_PER_NUMBER = 2.0
MIN_FACTORS, MAX_FACTORS = 2, 32

# Alternations of means that come close to the least squares of biases.
N_ROUNDS = 3


def suitable_n_factors(data: Interactions) -> int:
    """Number of factors that the pairs with ratings can support."""
    n_rows = sum(data.shape)
    # Rows of a pair follow each other.
    is_new = (np.diff(data.users) != 0) | (np.diff(data.items) != 0)
    n_pairs = data.shares.user.sum(1.0 + np.count_nonzero(is_new))
    n_factors = np.ceil(n_pairs / (PAIRS_PER_NUMBER * n_rows))
    return int(n_factors.clip(MIN_FACTORS, MAX_FACTORS))


@dataclass(frozen=True)
class Alternative:
    """Another fit of the same ratings.

    Attributes
    ----------
    name : str
    fit : callable
        Returns its iterations.
    is_probe : bool
        Whether it only tells if other alternatives are worth a try.
    """

    name: str
    fit: Callable[[], Iterator[Iteration]]
    is_probe: bool = False


def least_error(data: Interactions) -> float:
    """A bound below the errors of biases: that of least squares on its own rows.

    0 where features or context may explain more.
    """
    if data.context.shape[1] or any(f is not None for f in data.side_features):
        return 0.0
    share, (n_users, n_items) = data.shares.user, data.shape
    total = share.sum(float(data.weight.sum()))
    residual = data.rating - share.sum(float(data.weight @ data.rating)) / total
    of_users = np.bincount(data.users, data.weight, n_users)
    of_items = share.sum(np.bincount(data.items, data.weight, n_items))
    for _ in range(N_ROUNDS):
        sums = share.sum(np.bincount(data.items, data.weight * residual, n_items))
        residual = residual - (sums / of_items)[data.items]
        # The rows of a user are all here.
        sums = np.bincount(data.users, data.weight * residual, n_users)
        residual = residual - sums[data.users] / of_users[data.users]
    return float(np.sqrt(share.sum(float(data.weight @ residual**2)) / total))


def best_fit(
    first: Iterator[Iteration],
    alternatives: Iterable[Alternative],
    max_iter: int,
    least_error: Callable[[], float] = lambda: 0.0,
) -> Iterator[Iteration]:
    """Iterations of a first fit until it converges, then the best of several fits.

    Alternatives are biases without implicit features, perhaps biases with them, and
    factors without them. The first one is tried unless the estimated error of the first
    fit is below `least_error`, and the others if it is better than that fit. Implicit
    features that are of use to biases are of use to factors, so factors without them
    are not tried then. Each fit has at most `max_iter` iterations. One that ends before
    it converges is the first one.
    """
    for last in first:
        if last.converged:
            break
        yield last
    best, first_error = last, _error(last)
    lowest, errors = first_error, [first_error]
    for number, alternative in enumerate(alternatives):
        if not number and first_error <= least_error():
            break
        if number > 1 and errors[2] < errors[1]:
            break
        other = _end(islice(alternative.fit(), max_iter))
        error = _error(other)
        errors.append(error)
        if error < lowest and not alternative.is_probe:
            progress = f"{alternative.name}: {other.progress}"
            best, lowest = replace(other, progress=progress, converged=True), error
        if not number and error >= first_error:
            break
    yield best


def _end(iterations: Iterator[Iteration]) -> Iteration:
    """The iteration that ends a fit, with the curve of its objective."""
    losses = []
    for iteration in iterations:
        losses.append(iteration.objective)
        if iteration.converged:
            break
    return replace(iteration, curves=iteration.curves | {"loss_curve_": losses})


def _error(iteration: Iteration) -> float:
    assert iteration.error is not None
    return iteration.error()
