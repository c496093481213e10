"""Alternating solvers: als, vb and gibbs, three uses of one Gaussian conditional.

Model, for ratings y of mean zero and variance one:

    y = b_u + c_i + p_u·q_i + f·w + ε,      ε ~ N(0, 1 / (β α_u γ_i)),

rows (p_u, b_u) ~ N(m, Λ⁻¹), likewise for items, relative precisions α_u and γ_i ~
Gamma(a, a), coefficients w ~ N(0, I / λ). A sweep updates the coefficients, the user
rows, the item rows. What a solver makes of a conditional is its rule: `Mode` takes the
mode, `Moments` mean and covariance, `Draw` a draw, `Revision` what further ratings make
of what was believed before them, and `Spread` the covariance alone.

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
from scipy import sparse, stats
from scipy.optimize import brentq
from scipy.special import digamma
from torch import Tensor

from ._conditional import (
    Layout,
    Ratings,
    Sums,
    conditional,
    fitted_values,
    updated,
)
from ._threads import torch_threads

# A prior for the covariance of a side's rows, worth one row: a tenth of the variance of
# the ratings in every direction.
PRIOR_ROWS = 1.0
PRIOR_VARIANCE = 0.1

# a, the concentration of the relative precisions: 2 where rows differ so much that
# their variances are barely finite, 1e4 where they are equal in effect.
CONCENTRATION_BOUNDS = (2.0, 1e4)
INITIAL_CONCENTRATION = 10.0

# The start: shrinkage of its biases in ratings, extra columns and passes of its power
# iteration, and how far its factors are scaled down.
START_SHRINKAGE = 10.0
START_OVERSAMPLING = 8
START_ITERATIONS = 3
START_SCALE = 0.03

# How far a row goes beyond the mean of its conditional. The objective is quadratic in a
# mean, so going any share r < 1 too far lowers it still, by 1 − r² of what stopping at
# the mean would, and a half saves a third of the sweeps.
OVER_RELAXATION = 0.5

# The noise keeps at least this share of the ratings' variance, where single precision
# still tells noise from rounding.
MIN_NOISE_VARIANCE = 1e-5


@dataclass(frozen=True)
class Problem:
    """Ratings in canonical order, as both sides see them.

    Attributes
    ----------
    users, items : Ratings
        The same ratings, sorted by user and by item.
    user_index : Tensor of shape (n_ratings,)
        User of each rating, in the order of `users`.
    to_items : Tensor of shape (n_ratings,)
        Takes the order of `users` to the order of `items`.
    target : Tensor of shape (n_ratings,)
        Standardised ratings, in the order of `users`.
    features : Tensor of shape (n_ratings, n_features)
        Standardised features, in the order of `users`.
    layout : Layout
    weight : float
        Sum of the weights.
    """

    users: Ratings
    items: Ratings
    user_index: Tensor
    to_items: Tensor
    target: Tensor
    features: Tensor
    layout: Layout
    weight: float

    @classmethod
    @torch_threads(1)
    def from_arrays(
        cls,
        user_index: np.ndarray,
        item_index: np.ndarray,
        shape: tuple[int, int],
        target: np.ndarray,
        weight: np.ndarray,
        features: np.ndarray,
        *,
        n_factors: int,
        biased: bool,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> Problem:
        """Ratings sorted by user, then item."""
        users = torch.as_tensor(user_index, device=device)
        items = torch.as_tensor(item_index, device=device)
        y = torch.as_tensor(target, dtype=dtype, device=device)
        w = torch.as_tensor(weight, dtype=dtype, device=device)
        # A counting sort: the transpose of a sparse matrix that holds row numbers.
        by_user = np.searchsorted(user_index, np.arange(shape[0] + 1))
        numbers = sparse.csr_array(
            (np.arange(len(item_index)), item_index, by_user), shape=shape
        )
        to_items = torch.as_tensor(numbers.tocsc().data, device=device)
        return cls(
            users=Ratings.from_sorted(users, items, shape[0], w, y),
            items=Ratings.from_sorted(
                items[to_items], users[to_items], shape[1], w[to_items], y[to_items]
            ),
            user_index=users,
            to_items=to_items,
            target=y,
            features=torch.as_tensor(features, dtype=dtype, device=device),
            layout=Layout(n_factors, biased, device),
            weight=float(weight.sum(dtype=np.float64)),
        )

    def without_features(self, coef: Tensor, coef_factor: Tensor | None) -> Problem:
        """The same problem once the features' share is taken off the ratings."""
        if not len(coef):
            return self
        target = self.target - self.features @ coef
        square = target.square()
        if coef_factor is not None:
            square += (self.features @ coef_factor.T).square().sum(1)
        return replace(
            self,
            users=replace(self.users, target=target, target_square=square),
            items=replace(
                self.items,
                target=target[self.to_items],
                target_square=square[self.to_items],
            ),
        )


@dataclass(frozen=True)
class Side:
    """What is believed of one side's rows.

    Attributes
    ----------
    mean : Tensor of shape (n_rows, row_size)
        Posterior means, or points.
    covariance : Tensor of shape (n_rows, row_size (row_size + 1) / 2) or None
        Packed posterior covariances; None where the rule has none.
    log_det : float
        Sum of the log determinants of the covariances.
    prior_mean, prior_precision : Tensor
        m and Λ, which rows share.
    relative_precision : Tensor of shape (n_rows,)
        α (users) or γ (items).
    relative_shape : Tensor of shape (n_rows,) or None
        Shape of the Gamma posterior with mean `relative_precision`; None for points.
    concentration : float
        a.
    before : Side or None
        What was believed of these rows before the ratings at hand, instead of what
        rows share.
    moved : float
        Sum over the ratings of the squared change of the predictions that the last
        update of these rows made, weighted.
    """

    mean: Tensor
    covariance: Tensor | None
    log_det: float
    prior_mean: Tensor
    prior_precision: Tensor
    relative_precision: Tensor
    relative_shape: Tensor | None
    concentration: float
    moved: float = 0.0
    before: Side | None = None

    @classmethod
    def at(
        cls,
        mean: Tensor,
        layout: Layout,
        *,
        covariance: Tensor | None = None,
        prior_mean: Tensor | None = None,
        prior_precision: Tensor | None = None,
        relative_precision: Tensor | None = None,
        relative_shape: Tensor | None = None,
        concentration: float = INITIAL_CONCENTRATION,
    ) -> Side:
        """Rows at `mean`; what else is not known yet is at its start."""
        if prior_mean is None:
            prior_mean = mean.new_zeros(layout.row_size)
        if prior_precision is None:
            prior_precision = torch.eye(layout.row_size).to(mean)
        if relative_precision is None:
            relative_precision = mean.new_ones(len(mean))
        return cls(
            mean=mean,
            covariance=covariance,
            log_det=0.0,
            prior_mean=prior_mean,
            prior_precision=prior_precision,
            relative_precision=relative_precision,
            relative_shape=relative_shape,
            concentration=concentration,
        )

    @property
    def relative_variance(self) -> Tensor:
        """E[1 / α] of each row."""
        if self.relative_shape is None:
            return 1 / self.relative_precision
        shape = self.relative_shape
        return shape / (shape - 1) / self.relative_precision


@dataclass(frozen=True)
class State:
    """Where a solver stands after a sweep.

    Attributes
    ----------
    users, items : Side
    coef : Tensor of shape (n_features,)
        Posterior mean of w, or its point.
    coef_factor : Tensor of shape (n_features, n_features) or None
        R, where RᵀR is the posterior covariance of w; None for a point.
    coef_precision : float
        λ.
    coef_prior : tuple of Tensor of shape (n_features,) and (n_features, n_features)
        Mean and precision of w before further ratings; None is 0 and λ I.
    noise_precision : float
        β.
    noise_variance : float
        Mean squared residual, weighted by all precisions but β.
    objective : float
        What the solver lowers, per unit of weight (see the rules).
    change : float
        Root mean square of the change that the sweep made to the predictions.
    """

    users: Side
    items: Side
    coef: Tensor
    coef_factor: Tensor | None = None
    coef_precision: float = 1.0
    coef_prior: tuple[Tensor, Tensor] | None = None
    noise_precision: float = 1.0
    noise_variance: float = 1.0
    objective: float = math.nan
    change: float = math.inf


class Mode:
    """Rule of "als": the mode of every conditional, under a fixed penalty.

    The objective is Σ w (y − ŷ)² + reg (Σ rows² + Σ w²).
    """

    has_covariance, is_certain = False, True

    def __init__(self, reg: float) -> None:
        self.reg = reg

    def companion(self, previous: Tensor) -> Tensor:
        return previous

    def rows(
        self, mean: Tensor, factor: Tensor, previous: Tensor
    ) -> tuple[Tensor, None]:
        return mean + OVER_RELAXATION * (mean - previous), None

    def learn(self, side: Side, count: Tensor, squares: Tensor, layout: Layout) -> Side:
        return side

    def start(self, side: Side, layout: Layout) -> Side:
        """A side's points under the penalty."""
        identity = torch.eye(layout.row_size).to(side.mean)
        return Side.at(side.mean, layout, prior_precision=self.reg * identity)

    def noise_precision(self, weight: float, residual: float) -> float:
        return 1.0

    def coef_precision(self, n_features: int, square: float) -> float:
        return self.reg

    def objective(self, state: State, problem: Problem, residual: float) -> float:
        points = (state.users.mean, state.items.mean, state.coef)
        return residual + self.reg * sum(_total(x.square()) for x in points)


class Moments:
    """Rule of "vb": mean and covariance, and the priors that maximise the bound.

    The objective is minus the evidence lower bound.
    """

    has_covariance, is_certain = True, False

    def companion(self, previous: Tensor) -> Tensor:
        return previous

    def rows(
        self, mean: Tensor, factor: Tensor, previous: Tensor
    ) -> tuple[Tensor, Tensor]:
        return mean + OVER_RELAXATION * (mean - previous), factor.mT @ factor

    def learn(self, side: Side, count: Tensor, squares: Tensor, layout: Layout) -> Side:
        centre = side.mean.mean(0)
        deviation = side.mean - centre
        scatter = layout.unpack(side.covariance.sum(0, keepdim=True))[0]
        scatter = scatter + deviation.T @ deviation
        scatter.diagonal().add_(PRIOR_ROWS * PRIOR_VARIANCE)
        shape = side.concentration + count / 2
        alpha = shape / (side.concentration + squares / 2)
        # Dividing every α by their mean, which β takes over, maximises the bound among
        # all such exchanges. Without it β and a creep towards each other.
        alpha /= alpha.mean()
        return replace(
            side,
            prior_mean=centre,
            prior_precision=torch.linalg.inv(scatter / (PRIOR_ROWS + len(deviation))),
            relative_precision=alpha,
            relative_shape=shape,
            concentration=_concentration(alpha, shape),
        )

    def noise_precision(self, weight: float, residual: float) -> float:
        return weight / max(residual, MIN_NOISE_VARIANCE * weight)

    def coef_precision(self, n_features: int, square: float) -> float:
        return (PRIOR_ROWS + n_features) / (PRIOR_ROWS * PRIOR_VARIANCE + square)

    def objective(self, state: State, problem: Problem, residual: float) -> float:
        return -evidence_lower_bound(state, problem, residual)


class Draw:
    """Rule of "gibbs": a draw of everything but a, which vb has found.

    The objective is half the weighted residual sum of squares, times β: minus the log
    likelihood but for its normalisation.
    """

    has_covariance, is_certain = False, True

    def __init__(self, random_state: np.random.RandomState) -> None:
        self.random_state = random_state

    def companion(self, previous: Tensor) -> Tensor:
        normal = self.random_state.standard_normal(previous.shape)
        return torch.as_tensor(normal).to(previous)

    def rows(self, mean: Tensor, factor: Tensor, normal: Tensor) -> tuple[Tensor, None]:
        return mean + (factor.mT @ normal[:, :, None]).squeeze(2), None

    def learn(self, side: Side, count: Tensor, squares: Tensor, layout: Layout) -> Side:
        # Normal–Wishart posterior, Salakhutdinov and Mnih (2008), equation 14, with
        # prior mean 0 and the scale matrix that PRIOR_VARIANCE asks for.
        n_rows, size = side.mean.shape
        rows = side.mean.double().cpu().numpy()
        centre = rows.mean(0)
        strength = PRIOR_ROWS + n_rows
        scatter = (rows - centre).T @ (rows - centre)
        scatter += PRIOR_ROWS * n_rows / strength * np.outer(centre, centre)
        scatter += size * PRIOR_VARIANCE * np.eye(size)
        precision = stats.wishart.rvs(
            size + n_rows, np.linalg.inv(scatter), random_state=self.random_state
        ).reshape(size, size)
        deviation = np.linalg.solve(
            np.linalg.cholesky(strength * precision).T,
            self.random_state.standard_normal(size),
        )
        shape = (side.concentration + count / 2).cpu().numpy()
        gamma = torch.as_tensor(self.random_state.standard_gamma(shape)).to(squares)
        return replace(
            side,
            relative_precision=gamma / (side.concentration + squares / 2),
            relative_shape=None,
            prior_mean=torch.as_tensor(centre * n_rows / strength + deviation).to(
                side.mean
            ),
            prior_precision=torch.as_tensor(precision).to(side.mean),
        )

    def noise_precision(self, weight: float, residual: float) -> float:
        rate = max(residual, MIN_NOISE_VARIANCE * weight)
        return 2 * self.random_state.standard_gamma(weight / 2) / rate

    def coef_precision(self, n_features: int, square: float) -> float:
        gamma = self.random_state.standard_gamma((PRIOR_ROWS + n_features) / 2)
        return 2 * gamma / (PRIOR_ROWS * PRIOR_VARIANCE + square)

    def objective(self, state: State, problem: Problem, residual: float) -> float:
        return state.noise_precision * residual / 2


class Revision:
    """Rule of `revise`: what was believed of a row is its prior.

    What is shared by rows stays, but for the noise, which is that of all ratings. The
    objective is as of `Draw`.
    """

    has_covariance = True

    def __init__(
        self, *, is_certain: bool, past_weight: float, past_variance: float
    ) -> None:
        self.is_certain = is_certain
        self.past_weight = past_weight
        self.past_variance = past_variance

    def companion(self, previous: Tensor) -> Tensor:
        return previous

    def rows(
        self, mean: Tensor, factor: Tensor, previous: Tensor
    ) -> tuple[Tensor, Tensor]:
        return mean, factor.mT @ factor

    def learn(self, side: Side, count: Tensor, squares: Tensor, layout: Layout) -> Side:
        if self.is_certain:
            return side
        before = side.before
        shape = before.relative_shape + count / 2
        rate = before.relative_shape / before.relative_precision + squares / 2
        return replace(side, relative_precision=shape / rate, relative_shape=shape)

    def noise_precision(self, weight: float, residual: float) -> float:
        past = self.past_weight * self.past_variance
        return (self.past_weight + weight) / (past + residual)

    def coef_precision(self, n_features: int, square: float) -> float:
        return math.nan

    def objective(self, state: State, problem: Problem, residual: float) -> float:
        return state.noise_precision * residual / 2


class Spread:
    """Rule of `with_covariance`: rows stay, and get the covariance of a Gaussian."""

    has_covariance = is_certain = True

    def companion(self, previous: Tensor) -> Tensor:
        return previous

    def rows(
        self, mean: Tensor, factor: Tensor, previous: Tensor
    ) -> tuple[Tensor, Tensor]:
        return previous, factor.mT @ factor

    def learn(self, side: Side, count: Tensor, squares: Tensor, layout: Layout) -> Side:
        return side

    def coef_precision(self, n_features: int, square: float) -> float:
        return math.nan


Rule = Mode | Moments | Draw | Revision | Spread


def als(problem: Problem, start: State, reg: float) -> Iterator[State]:
    """Alternating least squares: endless sweeps from `start`."""
    rule = Mode(reg)
    start = replace(
        start,
        users=rule.start(start.users, problem.layout),
        items=rule.start(start.items, problem.layout),
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
    `is_certain` the other side is taken for its points, as als takes it.

    Users come first, and come again until what was new to the items has moved the
    predictions by no more than `tol`: for new users among known items, once is enough.
    """

    def believed(side: Side) -> Side:
        if is_certain:
            # als takes the noise to be the same everywhere.
            one = torch.ones_like(side.relative_precision)
            side = replace(side, relative_precision=one, relative_shape=None)
        return replace(side, before=side)

    precision = torch.linalg.inv(start.coef_factor.T @ start.coef_factor)
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
    return replace(state, noise_variance=1 / state.noise_precision)


def mode_as_belief(state: State) -> State:
    """What als has found as the mode of a posterior.

    The penalised sum of squares is that of noise of variance σ², which the residuals
    show, and of rows and coefficients of precision reg / σ².
    """
    variance = max(state.noise_variance, MIN_NOISE_VARIANCE)

    def scaled(side: Side) -> Side:
        return replace(side, prior_precision=side.prior_precision / variance)

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
    with ThreadPoolExecutor(n_threads) as pool:
        yield pool.map


def _sweeps(problem: Problem, state: State, rule: Rule) -> Iterator[State]:
    with _tile_map(problem) as tile_map:
        while True:
            with torch_threads(1):
                state = _sweep(problem, state, rule, tile_map)
            yield state


def _sweep(problem: Problem, state: State, rule: Rule, tile_map: Callable) -> State:
    previous = state.coef
    state = _update_coef(problem, state, rule)
    shift = problem.features @ (state.coef - previous)
    moved = _total(problem.users.weight * shift.square())
    factor = None if rule.is_certain else state.coef_factor
    rest = problem.without_features(state.coef, factor)
    users, residual = _update_side(
        rest.users,
        state.users,
        state.items,
        state.noise_precision,
        rule,
        problem,
        tile_map,
    )
    beta = rule.noise_precision(problem.weight, residual)
    items, residual = _update_side(
        rest.items, state.items, users, beta, rule, problem, tile_map
    )
    beta = rule.noise_precision(problem.weight, residual)
    state = replace(
        state,
        users=users,
        items=items,
        noise_precision=beta,
        noise_variance=residual / problem.weight,
    )
    return replace(
        state,
        objective=rule.objective(state, problem, residual) / problem.weight,
        change=math.sqrt((moved + users.moved + items.moved) / problem.weight),
    )


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
    companion = rule.companion(side.mean)
    seen = layout.seen(other.mean) * other.relative_precision[:, None]
    moments = _moments(other, rule, layout, tile_map)
    mean = torch.empty_like(side.mean)
    squares = torch.empty_like(side.relative_precision)
    covariance = None
    if rule.has_covariance:
        covariance = mean.new_empty(len(mean), layout.n_packed_row)

    def visit(part: tuple[slice, Ratings]) -> tuple[float, float]:
        rows, tile = part
        sums = Sums.over(tile, moments, seen, other.relative_precision, layout)
        beta, log_det = noise_precision * side.relative_precision[rows], math.nan
        if side.before is None:
            centre, factor = conditional(
                sums, beta, side.prior_mean, side.prior_precision
            )
            log_det = 2 * _total(factor.diagonal(dim1=1, dim2=2).log())
        else:
            covariance_before = layout.unpack(side.before.covariance[rows])
            centre, factor = updated(
                sums, beta, side.before.mean[rows], covariance_before
            )
        mean[rows], spread = rule.rows(centre, factor, companion[rows])
        if spread is not None:
            covariance[rows] = layout.pack(spread)
        squares[rows] = sums.residual(mean[rows], None if rule.is_certain else spread)
        return log_det, _total(sums.squared(mean[rows] - side.mean[rows]))

    tiles = ratings.tiles(layout.tile_rows(len(ratings)))
    log_det, moved = map(sum, zip(*tile_map(visit, tiles), strict=True))
    squares.clamp_(min=0)
    side = replace(
        side,
        mean=mean,
        covariance=covariance,
        log_det=log_det,
        moved=max(0.0, moved),
    )
    side = rule.learn(side, ratings.count, noise_precision * squares, layout)
    return side, _total(side.relative_precision * squares)


def _moments(side: Side, rule: Rule, layout: Layout, tile_map: Callable) -> Tensor:
    """Relative precision times packed moments: what the other side sums over."""
    table = side.mean.new_empty(len(side.mean), layout.n_packed)
    step = layout.tile_rows(len(table))

    def visit(start: int) -> None:
        rows = slice(start, start + step)
        covariance = None
        if side.covariance is not None and not rule.is_certain:
            covariance = side.covariance[rows]
        moments = layout.moments(side.mean[rows], covariance)
        torch.mul(moments, side.relative_precision[rows, None], out=table[rows])

    list(tile_map(visit, range(0, len(table), step)))
    return table


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
    factor = torch.linalg.solve_triangular(
        torch.linalg.cholesky(A), identity, upper=False
    )
    coef, covariance = rule.rows(
        (factor.T @ (factor @ h))[None], factor[None], rule.companion(state.coef[None])
    )
    if covariance is None:
        factor = None
    square = _total(coef.square()) + (
        0.0 if factor is None else _total(factor.square())
    )
    return replace(
        state,
        coef=coef[0],
        coef_factor=factor,
        coef_precision=rule.coef_precision(n_features, square),
    )


def evidence_lower_bound(state: State, problem: Problem, residual: float) -> float:
    """The bound that "vb" raises, for `residual` = Σ w α γ E[(y − ŷ)²].

    E[log p(y, rows, α, γ, w)] + entropy, with the log priors of Λ and λ but for their
    normalisation.
    """
    doubled = problem.weight * math.log(state.noise_precision / (2 * math.pi))
    doubled -= state.noise_precision * residual
    for ratings, side in ((problem.users, state.users), (problem.items, state.items)):
        n_rows, size = side.mean.shape
        log_alpha = _expected_log(side.relative_precision, side.relative_shape)
        doubled += _total(ratings.count * log_alpha)
        doubled += 2 * _relative_evidence(side, log_alpha)
        log_det = float(torch.linalg.slogdet(side.prior_precision).logabsdet)
        doubled += side.log_det + (PRIOR_ROWS + n_rows) * log_det - PRIOR_ROWS * size
    if state.coef_factor is not None:
        n_features = len(state.coef)
        doubled += 2 * _total(state.coef_factor.diagonal().log())
        doubled += (PRIOR_ROWS + n_features) * math.log(state.coef_precision)
        doubled -= PRIOR_ROWS
    return doubled / 2


def _concentration(alpha: Tensor, shape: Tensor) -> float:
    """The a that maximises the bound: log a − ψ(a) + 1 = mean(E[α] − E[log α])."""
    gap = _total(alpha - _expected_log(alpha, shape)) / len(alpha)

    def slope(a: float) -> float:
        return math.log(a) - digamma(a) + 1 - gap

    low, high = CONCENTRATION_BOUNDS
    if slope(low) <= 0:
        return low
    return high if slope(high) >= 0 else brentq(slope, low, high, rtol=1e-6)


def _expected_log(alpha: Tensor, shape: Tensor) -> Tensor:
    """E[log α] under Gamma distributions of mean `alpha` and shape `shape`."""
    return torch.digamma(shape) - shape.log() + alpha.log()


def _relative_evidence(side: Side, log_alpha: Tensor) -> float:
    """E[log p(α)] + entropy of the relative precisions of a side."""
    a, shape, alpha = side.concentration, side.relative_shape, side.relative_precision
    prior = a * math.log(a) - math.lgamma(a) + (a - 1) * log_alpha - a * alpha
    entropy = shape - (shape / alpha).log() + torch.lgamma(shape)
    entropy += (1 - shape) * torch.digamma(shape)
    return _total(prior + entropy)


def _total(x: Tensor) -> float:
    return float(x.sum(dtype=torch.float64))


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
    return State(
        users=Side.at(y.new_zeros(len(users), layout.row_size), layout),
        items=Side.at(mean, layout),
        coef=y.new_zeros(problem.features.shape[1]),
    )
