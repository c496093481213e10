"""Alternating solvers: als, vb and gibbs, three uses of one Gaussian conditional.

Model, for ratings y of mean zero and variance one:

    y = b_u + c_i + p_u·q_i + f·w + ε,      ε ~ N(0, 1 / (β α_u γ_i)),

rows (p_u, b_u) ~ N(m + what features say, Λ⁻¹), likewise for items, relative precisions
α_u and γ_i ~ Gamma(a, a), coefficients w ~ N(0, I / λ). A sweep updates the
coefficients, the user rows, the item rows.

Everything here is arrays in, arrays out: no raw ids, no estimator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from .._threads import set_own_threads, torch_threads
from .conditional import (
    Conditional,
    Gaussians,
    Layout,
    Ratings,
    Revised,
    Shown,
    Sums,
    fitted_values,
    times,
    total,
)
from .feature_weights import Block, Weights, uphill
from .rules import (
    Draw,
    Mode,
    Moments,
    Revision,
    Rule,
    Spread,
    beyond,
)
from .state import Problem, Side, State
from .symmetric import cholesky, inverse

# The start: shrinkage of its biases in ratings, extra columns and passes of its power
# iteration, and how far its factors are scaled down.
START_SHRINKAGE = 10.0
START_OVERSAMPLING = 8
START_ITERATIONS = 3
START_SCALE = 0.03

# The start of Λ. It is looser than where it will end, because factors that are held
# back too early die out.
START_PRECISION = 3.0


def als(
    problem: Problem, start: State, reg: float, exponent: float = 0.0
) -> Iterator[State]:
    """Alternating least squares: endless sweeps from `start`.

    The penalty of a row is `reg` times its count to the power of `exponent`.
    """
    rule = Mode(reg, exponent)
    start = replace(
        start,
        users=rule.start(start.users, problem.users, problem.layout),
        items=rule.start(start.items, problem.items, problem.layout),
        coef_factor=None,
        coef_precision=reg,
        noise_precision=1.0,
    )
    return _sweeps(problem, start, rule)


def vb(problem: Problem, start: State) -> Iterator[State]:
    """Variational Bayes: endless sweeps from `start`.

    No update lowers the evidence lower bound (Lim and Teh, 2007, with full covariances;
    relative precisions as in Lakshminarayanan, Bouchard and Archambeau, 2011).
    """
    return _sweeps(problem, start, Moments())


def gibbs(
    problem: Problem, start: State, random_state: np.random.RandomState
) -> Iterator[State]:
    """Gibbs sampling (Salakhutdinov and Mnih, 2008): endless draws from `start`."""
    return _sweeps(problem, start, Draw(random_state))


def revise(
    problem: Problem,
    start: State,
    *,
    is_certain: bool,
    past_weight: float,
    max_sweeps: int,
    tol: float,
) -> State:
    """What is believed after further ratings, by what was believed before them.

    `start` holds the rows that these ratings meet, with the covariances and the noise
    that `past_weight` of past ratings have left; they are the prior in every sweep.
    Given the other side, a row is thus what all ratings together would make of it. With
    `is_certain` the other side is taken for its points, as als takes it, and the noise
    that a penalty is relative to stays.

    Users come first, and come again until what was new to the items has moved the
    predictions by no more than `tol`: for new users among known items, once is enough.
    """

    def believed(side: Side) -> Side:
        if is_certain:
            # als takes the noise to be the same everywhere.
            one = torch.ones_like(side.relative_precision)
            side = replace(side, relative_precision=one, relative_shape=None)
        return replace(side, before=side)

    precision = inverse(start.coef_factor.T @ start.coef_factor)
    first = replace(
        start,
        users=believed(start.users),
        items=believed(start.items),
        coef_prior=(start.coef, precision),
    )
    rule = Revision(
        is_certain=is_certain,
        past_weight=past_weight,
        past_variance=1 / start.noise_precision,
    )
    for state in islice(_sweeps(problem, first, rule), max_sweeps):
        if math.sqrt(state.items.moved / problem.weight) <= tol:
            break
    return state


def mode_as_belief(state: State) -> State:
    """What als has found as the mode of a posterior.

    The penalised sum of squares is that of noise of variance σ², which the residuals
    show, and of rows and coefficients of precision reg / σ².
    """
    variance = state.noise_variance

    def scaled(side: Side) -> Side:
        weights = tuple(
            replace(w, precision=w.precision / variance) for w in side.weights
        )
        prior_precision = side.prior_precision / variance
        return replace(side, prior_precision=prior_precision, weights=weights)

    return replace(
        state,
        users=scaled(state.users),
        items=scaled(state.items),
        coef_precision=state.coef_precision / variance,
        noise_precision=1 / variance,
    )


def with_covariance(problem: Problem, state: State) -> State:
    """The same points, with the covariance of each given all others."""
    rule = Spread()
    with _tile_map(problem) as tile_map, torch_threads(1):
        state = _update_coef(problem, state, rule)
        rest = problem.without_features(state.coef, None)

        def spread(ratings: Ratings, side: Side, other: Side) -> Side:
            beta = state.noise_precision
            return _update_side(ratings, side, other, beta, rule, problem, tile_map)[0]

        return replace(
            state,
            users=spread(rest.users, state.users, state.items),
            items=spread(rest.items, state.items, state.users),
        )


@contextmanager
def _tile_map(problem: Problem) -> Iterator[Callable]:
    """A map over tiles of rows, which are independent.

    A thread for each tile beats all threads for one tile after another, because torch
    solves small systems one by one. The fit does not depend on the number of threads.
    """
    n_threads = torch.get_num_threads() if problem.target.device.type == "cpu" else 1
    n_rows = max(len(problem.users), len(problem.items))
    one_tile = n_rows <= problem.layout.tile_rows(n_rows)
    if one_tile or n_threads == 1:
        yield map
        return
    with ThreadPoolExecutor(
        n_threads, initializer=set_own_threads, initargs=(1,)
    ) as pool:
        yield pool.map


def _sweeps(problem: Problem, state: State, rule: Rule) -> Iterator[State]:
    with _tile_map(problem) as tile_map:
        while True:
            with torch_threads(1):
                state = _sweep(problem, state, rule, tile_map)
            yield state


def _sweep(problem: Problem, state: State, rule: Rule, tile_map: Callable) -> State:
    state = _update_coef(problem, state, rule)
    factor = None if rule.is_certain else state.coef_factor
    rest = problem.without_features(state.coef, factor)
    users, of_users = _update_side(
        rest.users,
        state.users,
        state.items,
        state.noise_precision,
        rule,
        problem,
        tile_map,
    )
    weight, residual = rest.users.total_weight, of_users
    beta = rule.noise_precision(weight, residual)
    items, of_items = _update_side(
        rest.items, state.items, users, beta, rule, problem, tile_map
    )
    if not problem.is_of_users:
        weight, residual = rest.items.total_weight, of_items
    beta = rule.noise_precision(weight, residual)
    state = replace(
        state,
        users=users,
        items=items,
        noise_precision=beta,
        noise_variance=rule.noise_variance(weight, residual),
    )
    objective = rule.objective(state, problem, residual)
    return replace(state, objective=objective / problem.weight)


@dataclass(frozen=True)
class Given:
    """What a tile of rows is believed to be given the other side."""

    rows: slice
    belief: Conditional | Revised


# Maps a function over all tiles of rows, given the other side.
EachTile = Callable[[Callable[[Given], tuple]], list[tuple]]


def _update_side(
    ratings: Ratings,
    side: Side,
    other: Side,
    noise_precision: float,
    rule: Rule,
    problem: Problem,
    tile_map: Callable,
) -> tuple[Side, float]:
    """One side's rows given the other side, and the weighted residual they leave."""
    layout = problem.layout
    covariance = None if rule.is_certain else other.covariance
    shown = Shown.by(other.mean, covariance, other.relative_precision, layout, tile_map)
    unobserved = None
    if ratings.unobserved is not None:
        unobserved = ratings.unobserved.moments(shown, layout)

    def given_other(part: tuple[slice, Ratings]) -> Given:
        rows, tile = part
        pairs = None if unobserved is None else unobserved(rows)
        sums = Sums.over(tile, shown, layout, pairs)
        beta = noise_precision * side.relative_precision[rows]
        if side.prior_weight is not None:
            # A prior twice as firm is noise twice as large, but for the covariance.
            beta /= side.prior_weight[rows]
        if side.before is not None:
            before = side.before
            spread = layout.unpack(before.covariance[rows])
            return Given(rows, Revised(sums, beta, before.mean[rows], spread))
        mean = side.prior_mean
        if side.shift is not None:
            mean = mean + side.shift[rows]
        return Given(rows, Conditional.given(sums, beta, mean, side.prior_precision))

    def each_tile(visit: Callable[[Given], tuple]) -> list[tuple]:
        tiles = ratings.tiles(layout.tile_rows(len(ratings)))
        return list(tile_map(lambda part: visit(given_other(part)), tiles))

    if side.weights and rule.moves_weights:
        side, squares = _update_with_weights(
            side, ratings.features, rule, layout, each_tile, tile_map
        )
    else:
        side, squares = _update_rows(side, rule, layout, each_tile)
    squares.clamp_(min=0)
    residual = noise_precision * squares
    side = rule.learn(side, ratings, residual, layout, noise_precision)
    return side, total(side.relative_precision * squares)


def _update_rows(
    side: Side, rule: Rule, layout: Layout, each_tile: EachTile
) -> tuple[Side, Tensor]:
    """Rows by the rule, and the expected residual sum of squares of each."""
    companion = rule.companion(side.mean)
    mean = torch.empty_like(side.mean)
    squares = torch.empty_like(side.relative_precision)
    covariance = None
    if rule.has_covariance:
        covariance = mean.new_empty(len(mean), layout.n_packed_row)

    def visit(given: Given) -> tuple[float, float]:
        rows, belief = given.rows, given.belief
        mean[rows], spread, log_det = rule.rows(belief, companion[rows])
        if spread is not None:
            covariance[rows] = layout.pack(spread)
            if side.prior_weight is not None:
                covariance[rows] /= side.prior_weight[rows, None]
        squares[rows] = belief.residual(mean[rows], None if rule.is_certain else spread)
        moved = 0.0
        if side.before is not None:
            moved = total(belief.squared(mean[rows] - side.mean[rows]))
        return log_det, moved

    log_det, moved = map(sum, zip(*each_tile(visit), strict=True))
    side = replace(side, mean=mean, covariance=covariance, log_det=log_det, moved=moved)
    return side, squares


def _update_with_weights(
    side: Side,
    features: tuple[Block, ...],
    rule: Rule,
    layout: Layout,
    each_tile: EachTile,
    tile_map: Callable,
) -> tuple[Side, Tensor]:
    """As `_update_rows`, with a step of the weights that rows follow."""
    mean, ahead, linear = (torch.empty_like(side.mean) for _ in range(3))
    beta, squares = (torch.empty_like(side.relative_precision) for _ in range(2))
    covariance = mean.new_empty(len(mean), layout.n_packed_row)

    def keep(given: Given) -> tuple[float]:
        rows, belief = given.rows, given.belief
        mean[rows], spread, log_det = belief.moments()
        covariance[rows] = layout.pack(spread)
        beta[rows], linear[rows] = belief.noise_precision, belief.sums.g
        ahead[rows] = beyond(mean[rows], side.mean[rows]) - mean[rows]
        further = (ahead[rows] * times(belief.A, ahead[rows])).sum(1)
        squares[rows] = belief.sums.s + further / beta[rows]
        return (log_det,)

    log_det = sum(log_det for (log_det,) in each_tile(keep))
    prior_mean = side.prior_mean + side.shift
    # The gradient for the weights is that at the means, however far rows go beyond.
    step = uphill(
        features,
        side.weights,
        mean - prior_mean,
        covariance,
        side.prior_precision,
        side.prior_weight,
        layout,
        tile_map,
        with_spread=rule.has_covariance,
    )
    mean += step.followed
    prior_mean += step.shift
    # G is not formed again: at the mean of a conditional βGx = βg − Λ(x − m), and
    # beyond it βG = A − Λ.
    gap, prior_precision = mean - prior_mean, side.prior_precision
    squares -= (linear * mean).sum(1)
    held = (gap @ prior_precision * mean).sum(1)
    held += ((2 * gap + ahead) @ prior_precision * ahead).sum(1)
    squares -= held / beta
    mean += ahead
    if rule.has_covariance:
        squares += step.trace / beta
    side = replace(
        side,
        mean=mean,
        covariance=covariance if rule.has_covariance else None,
        log_det=log_det,
        weights=step.weights,
        shift=side.shift + step.shift,
    )
    return side, squares


def _update_coef(problem: Problem, state: State, rule: Rule) -> State:
    """Coefficients of the features given both sides' rows."""
    features = problem.features
    n_features = features.shape[1]
    if not n_features:
        return state
    u, i = problem.user_index, problem.users.others
    users, items = state.users, state.items
    precision = (
        state.noise_precision
        * problem.users.weight
        * users.relative_precision[u]
        * items.relative_precision[i]
    )
    fitted = fitted_values(problem.users, users.mean, items.mean, problem.layout)
    identity = torch.eye(n_features).to(features)
    prior_mean = torch.zeros_like(state.coef)
    prior_precision = state.coef_precision * identity
    if state.coef_prior is not None:
        prior_mean, prior_precision = state.coef_prior
    A = (features.T * precision) @ features + prior_precision
    h = features.T @ (precision * (problem.target - fitted))
    h += prior_precision @ prior_mean
    coef, covariance, _ = rule.rows(
        Gaussians(A[None], h[None]), rule.companion(state.coef[None])
    )
    factor = None if covariance is None else cholesky(covariance)[0].mT
    square = total(coef.square()) + (0.0 if factor is None else total(factor.square()))
    return replace(
        state,
        coef=coef[0],
        coef_factor=factor,
        coef_precision=rule.coef_precision(n_features, square),
    )


@torch_threads(1)
def spectral_start(problem: Problem) -> State:
    """A start for any rule: the leading singular vectors of what biases leave.

    Item factors are V √S of the residuals y − b − c, each divided by the square roots
    of its row's and its column's (shrunken) count, found by block power iteration. They
    are scaled down so that the first sweeps can still turn them.
    """
    layout, users, items = problem.layout, problem.users, problem.items
    y = problem.target
    user_bias, item_bias = y.new_zeros(len(users)), y.new_zeros(len(items))
    u, i = problem.user_index, problem.users.others
    if layout.biased:
        one = y.new_ones(len(users), 1)
        total = items.sum(one, items.weight * items.target).squeeze(1)
        item_bias = total / (items.count + START_SHRINKAGE)
        total = users.sum(
            y.new_ones(len(items), 1), users.weight * (y - item_bias[i])
        ).squeeze(1)
        user_bias = total / (users.count + START_SHRINKAGE)
    scale = [(side.count + START_SHRINKAGE).rsqrt() for side in (users, items)]
    residual = (y - user_bias[u] - item_bias[i]) * users.weight
    residual *= scale[0][u] * scale[1][i]
    by_item = residual[problem.to_items]

    k = min(layout.n_factors, len(users), len(items))
    size = min(k + START_OVERSAMPLING, len(users), len(items))
    generator = torch.Generator().manual_seed(0)
    V = torch.randn(len(items), size, generator=generator).to(y)
    for _ in range(START_ITERATIONS):
        V = torch.linalg.qr(items.sum(users.sum(V, residual), by_item)).Q
    _, S, W = torch.linalg.svd(users.sum(V, residual), full_matrices=False)
    mean = y.new_zeros(len(items), layout.row_size)
    mean[:, :k] = START_SCALE * math.sqrt(len(items)) * (V @ W.T)[:, :k] * S[:k].sqrt()
    if layout.biased:
        mean[:, -1] = item_bias

    def started(mean: Tensor, ratings: Ratings) -> Side:
        precision = START_PRECISION * torch.eye(layout.row_size).to(mean)
        side = Side.at(mean, layout, prior_precision=precision)
        return side.with_weights(
            ratings,
            [Weights.at_zero(block, layout.row_size) for block in ratings.features],
        )

    return State(
        users=started(y.new_zeros(len(users), layout.row_size), users),
        items=started(mean, items),
        coef=y.new_zeros(problem.features.shape[1]),
    )
