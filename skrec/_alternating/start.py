"""The start of alternating solvers: biases, and singular vectors of their residuals."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from .._data.units import mean_factors
from .._sparse import SparseRows
from .._threads import torch_threads
from .feature_weights import LinkMatrix
from .problem import Problem
from .ratings import Ratings
from .scalars import total
from .state import Side, State
from .symmetric import with_fixed_signs

# Shrinkage of biases in ratings, extra columns and passes of the power iteration, and a
# factor that makes the start small.
START_SHRINKAGE = 10.0
OVERSAMPLING, ITERATIONS = 8, 3
START_SCALE = 0.03

# The start of Λ, over the root of the number of factors: the variance of p·q does not
# depend on that number. It is looser than where it will end, because factors that are
# held back too early die out. Many factors, each of which matters less, start looser:
# from so many on, the variance of p·q grows with the square of their number.
START_PRECISION, START_FACTORS = 1.0, 36

# Share in the variance of ratings below which a factor has died out, and how much more
# than the largest of some draws of noise there must be for others in its place, since
# shrinkage leaves a little.
LEAST_SHARE, NOISE_MARGIN, N_SIGNS = 1e-4, 0.03, 4


@torch_threads(1)
def spectral_start(problem: Problem) -> State:
    """A start for any rule: the leading singular vectors of the residuals of biases.

    Item factors are V √S of the residuals y − b − c, each divided by the square roots
    of its row's and its column's (shrunken) count. They are scaled down so that the
    first sweeps can still turn them.

    Without biases, rows start around a row of each side, with a product that is the
    mean rating, and these are their prior means: a product of two rows that are near
    zero is a saddle, and where ratings are few it is the least of penalties.
    """
    layout, y = problem.layout, problem.target
    user_bias, item_bias = _biases(problem)
    of_user, of_item = mean_rows(problem)
    residual = _scaled(problem, _residual(problem, user_bias, item_bias))
    V, S = _singular_vectors(problem, residual, layout.n_factors)
    mean = y.new_zeros(len(problem.items), layout.row_size)
    mean[:, : len(S)] = START_SCALE * math.sqrt(len(mean)) * V * S.sqrt()
    if layout.biased:
        mean[:, -1] = item_bias
    nothing = y.new_zeros(len(problem.users), layout.row_size)
    return State(
        users=_start(nothing, problem.users, of_user),
        items=_start(mean, problem.items, of_item),
        coef=y.new_zeros(problem.context.shape[1]),
    )


@torch_threads(1)
def goes_on(problem: Problem, last: State) -> bool:
    """Whether sweeps from the state of a last fit can fit the ratings of a problem.

    A factor that has died out on both sides is a saddle of the objective, which sweeps
    do not leave. It must have nothing to find: the leading singular value of the
    residuals, beside the directions of the factors that are alive, must be about that
    of the same residuals with random signs.
    """
    users, items, weight = problem.users, problem.items, problem.users.weight
    n_factors = problem.layout.n_factors
    P, Q = _orthogonal(*(side.mean[:, :n_factors] for side in (last.users, last.items)))
    share = (P.square() * users.sum(Q.square(), weight)).sum(0) / weight.sum()
    is_alive = share > LEAST_SHARE
    if is_alive.all():
        return True
    P, Q = P[:, is_alive], Q[:, is_alive]
    biases = (side.mean[:, n_factors:].sum(1) for side in (last.users, last.items))
    residual = _residual(problem, *biases)
    for p, q in zip(P.T, Q.T, strict=True):
        p, q = p.index_select(0, problem.user_index), q.index_select(0, users.others)
        residual.addcmul_(p, q, value=-1)
    residual = _scaled(problem, residual)
    known = _basis(P, users.count), _basis(Q, items.count)
    found = _largest_singular_value(problem, residual, known)
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(2, (N_SIGNS, len(residual)), generator=generator)
    noise = [
        _largest_singular_value(problem, residual * (2 * of_draw - 1), known)
        for of_draw in signs.to(residual)
    ]
    return found < (1 + NOISE_MARGIN) * max(noise)


@torch_threads(1)
def decomposed_start(problem: Problem) -> State:
    """A start for als of all pairs: the best approximation if all weigh the same.

    Nearly all do, so one sweep from here is worth five from a start that is small.
    """
    users, items, y = problem.users, problem.items, problem.target
    V, S = _singular_vectors(problem, users.weight * y, problem.layout.n_factors)
    of_users, of_items = (
        y.new_zeros(len(side), problem.layout.row_size) for side in (users, items)
    )
    root = S.clamp(min=torch.finfo(S.dtype).eps * float(S[0])).sqrt()
    of_users[:, : len(S)] = users.sum(V, users.weight * y) / root
    of_items[:, : len(S)] = V * S.sqrt()
    return State(
        users=_start(of_users, users),
        items=_start(of_items, items),
        coef=y.new_zeros(problem.context.shape[1]),
    )


def _biases(problem: Problem) -> tuple[Tensor, Tensor]:
    """Shrunken means of items, and of the users' residuals."""
    users, items, y = problem.users, problem.items, problem.target
    if not problem.layout.biased:
        return y.new_full((len(users),), _mean(problem)), y.new_zeros(len(items))
    of_all = items.sum_values(items.weight * items.target)
    item_bias = of_all / (items.count + START_SHRINKAGE)
    rest = y - item_bias.index_select(0, users.others)
    of_all = users.sum_values(rest.mul_(users.weight))
    return of_all / (users.count + START_SHRINKAGE), item_bias


def _mean(problem: Problem) -> float:
    """Mean rating without biases; 0 where all pairs count."""
    users = problem.users
    if users.unobserved is not None:
        return 0.0
    return users.share.sum(float(total(users.weight * problem.target))) / problem.weight


def mean_rows(problem: Problem) -> tuple[Tensor, Tensor]:
    """A row of users and one of items whose product is the mean, without biases."""
    rows = problem.target.new_zeros(2, problem.layout.row_size)
    if not problem.layout.biased:
        rows[0, 0], rows[1, 0] = mean_factors(_mean(problem))
    return rows[0], rows[1]


def with_centres(problem: Problem, state: State) -> State:
    """The state with priors around the mean rating, where there are no biases."""
    if problem.layout.biased:
        return state
    users, items = (
        replace(side, centre=centre)
        for side, centre in zip(
            (state.users, state.items), mean_rows(problem), strict=True
        )
    )
    return replace(state, users=users, items=items)


def _residual(problem: Problem, user_bias: Tensor, item_bias: Tensor) -> Tensor:
    residual = problem.target - user_bias.index_select(0, problem.user_index)
    residual -= item_bias.index_select(0, problem.users.others)
    return residual


def _scaled(problem: Problem, residual: Tensor) -> Tensor:
    """Residuals times their weights, over the roots of the counts of both rows."""
    users, items = problem.users, problem.items
    of_users, of_items = (
        (side.count + START_SHRINKAGE).rsqrt() for side in (users, items)
    )
    residual *= users.weight
    both = of_users.index_select(0, problem.user_index)
    residual *= both.mul_(of_items.index_select(0, users.others))
    return residual


def _orthogonal(P: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    """Factors with the same products p·q, whose columns are orthogonal."""
    (of_users, R), (of_items, S) = torch.linalg.qr(P), torch.linalg.qr(Q)
    U, values, Vh = torch.linalg.svd(R @ S.T, full_matrices=False)
    return of_users @ (U * values), of_items @ Vh.T


def _basis(factors: Tensor, count: Tensor) -> Tensor:
    """Orthonormal directions of factors in a matrix of scaled residuals."""
    return torch.linalg.qr(factors * count.sqrt()[:, None]).Q


def _largest_singular_value(
    problem: Problem, values: Tensor, known: tuple[Tensor, Tensor]
) -> float:
    _, S = _singular_vectors(problem, values, 1, known)
    return float(S[0])


def _singular_vectors(
    problem: Problem,
    values: Tensor,
    n: int,
    known: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[Tensor, Tensor]:
    """Those of the matrix with values in the places of the ratings."""
    entries = (problem.users, values), (problem.items, problem.by_item(values))
    return leading_singular_vectors(*entries, n, OVERSAMPLING, known)


def leading_singular_vectors(
    by_row: tuple[SparseRows, Tensor],
    by_column: tuple[SparseRows, Tensor],
    n: int,
    n_extra: int,
    known: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[Tensor, Tensor]:
    """Leading right singular vectors of a sparse matrix, and the singular values.

    By block power iteration, with some extra columns, on the pattern and the values of
    the matrix in both orders. It is seen beside the directions of its rows and columns
    that are known.
    """
    (rows, values), (columns, of_columns) = by_row, by_column
    k = min(n, len(rows), len(columns))
    size = min(k + n_extra, len(rows), len(columns))
    generator = torch.Generator().manual_seed(0)
    V = torch.randn(len(columns), size, generator=generator).to(values)
    for _ in range(ITERATIONS):
        Y = _beside(known[0], rows.sum(V, values))
        V = torch.linalg.qr(_beside(known[1], columns.sum(Y, of_columns))).Q
    Y = _beside(known[0], rows.sum(V, values))
    if Y.device.type != "cpu":
        # This factor has the same singular vectors, and is small.
        Y = torch.linalg.qr(Y, mode="r").R.cpu()
    _, S, W = torch.linalg.svd(Y, full_matrices=False)
    return with_fixed_signs((V @ W.T.to(V))[:, :k]), S[:k].to(V)


def _beside(basis: Tensor | None, vectors: Tensor) -> Tensor:
    """Vectors without their parts in a subspace."""
    return vectors if basis is None else vectors - basis @ (basis.T @ vectors)


def _start(mean: Tensor, ratings: Ratings, centre: Tensor | None = None) -> Side:
    """Points around a centre under a loose prior, with weights of zero."""
    side = Side.at(mean)
    if centre is not None:
        side = replace(side, mean=mean + centre, prior_mean=centre)
    row_size = mean.shape[1]
    n_factors = max(row_size - 1, 1)
    precision = START_PRECISION * math.sqrt(n_factors)
    precision *= min(1.0, START_FACTORS / n_factors)
    side = replace(side, prior_precision=precision * side.prior_precision)
    return side.with_weights(
        ratings, [LinkMatrix.at_zero(block, row_size) for block in ratings.features]
    )
