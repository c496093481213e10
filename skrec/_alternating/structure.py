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

from .._data.interactions import Interactions, blocks, sums_by
from .._data.seen import first_of_pairs
from .._interfaces import Iteration

# Pairs with ratings for each number in the factors, and bounds of `n_factors`: the
# larger one for fits that begin with a warm-up, which makes factors cheap.
PAIRS_PER_NUMBER = 2.0
MIN_FACTORS, MAX_FACTORS, MAX_WARM_FACTORS = 2, 32, 36

# A fit with a warm-up leads to the same end if its factors are at most the first share
# of those that the ratings can support. Up to the second share it leads nearly there if
# the warm-up ends sooner: covariances along axes let weak factors die.
MAX_SUPPORT, MAX_WARM_SUPPORT = 0.8, 1.6

# Ratings of which another fit takes no time.
MAX_FEW_ROWS = 2**15

# Weights of rows that other processes have are zero.
TINY = np.finfo(np.float64).tiny

# Alternations of means that come close to the least squares of biases.
N_ROUNDS = 3


def supported_n_factors(data: Interactions) -> float:
    """Number of factors that the pairs with ratings can support, however many."""
    n_rows = sum(data.shape)
    is_new = first_of_pairs(data.users, data.items)
    n_pairs = data.shares.user.sum(float(np.count_nonzero(is_new)))
    return n_pairs / (PAIRS_PER_NUMBER * n_rows)


def suitable_n_factors(data: Interactions, warms_up: bool) -> int:
    """Number of factors that a fit takes by itself."""
    supported = supported_n_factors(data)
    warm = min(MAX_WARM_FACTORS, int(MAX_SUPPORT * supported)) if warms_up else 0
    return int(np.clip(np.ceil(supported), MIN_FACTORS, max(MAX_FACTORS, warm)))


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

    0 where features or context may explain more. Among many ratings, context counts for
    nothing here: a fit with factors that has less error than biases without context is
    kept, since another fit with context takes long.
    """
    has_context = data.context.shape[1] and data.n_rows <= MAX_FEW_ROWS
    if has_context or any(f is not None for f in data.side_features):
        return 0.0
    share, (n_users, n_items) = data.shares.user, data.shape
    total = share.sum(float(data.weight.sum()))
    residual = data.rating - share.sum(float(data.weight @ data.rating)) / total

    def weighted(block: slice) -> np.ndarray:
        return data.weight[block] * residual[block]

    def take_out(means: np.ndarray, numbers: np.ndarray) -> None:
        for block in blocks(len(numbers)):
            residual[block] -= means[numbers[block]]

    of_users = sums_by(data.users, lambda block: data.weight[block], n_users)
    of_items = sums_by(data.items, lambda block: data.weight[block], n_items)
    of_items = share.sum(of_items)
    for _ in range(N_ROUNDS):
        sums = share.sum(sums_by(data.items, weighted, n_items))
        take_out(sums / of_items, data.items)
        # The rows of a user are all here.
        sums = sums_by(data.users, weighted, n_users)
        take_out(sums / np.maximum(of_users, TINY), data.users)
    squares = sum(float(weighted(b) @ residual[b]) for b in blocks(len(residual)))
    return float(np.sqrt(share.sum(squares) / total))


def best_fit(
    first: Iterator[Iteration],
    alternatives: Iterable[Alternative],
    max_iter: int,
    least_error: float = 0.0,
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
        if not number and first_error <= least_error:
            break
        if number > 1 and errors[2] < errors[1]:
            break
        other = end_of(islice(alternative.fit(), max_iter))
        error = _error(other)
        errors.append(error)
        if error < lowest and not alternative.is_probe:
            progress = f"{alternative.name}: {other.progress}"
            best, lowest = replace(other, progress=progress, converged=True), error
        if not number and error >= first_error:
            break
    yield best


def end_of(iterations: Iterator[Iteration]) -> Iteration:
    """The iteration that ends a fit, with the curve of its objective."""
    losses = []
    for iteration in iterations:
        losses.append(iteration.objective)
        if iteration.converged:
            break
    return replace(iteration, curves={"loss_curve_": losses} | iteration.curves)


def _error(iteration: Iteration) -> float:
    assert iteration.error is not None
    return iteration.error()
