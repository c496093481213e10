"""Alternating solvers: als, vb and gibbs, three uses of one Gaussian conditional.

Model, for ratings y of mean zero and variance one:

    y = b_u + c_i + p_u·q_i + f·w + ε,      ε ~ N(0, 1 / (β α_u γ_i)),

rows (p_u, b_u) ~ N(m + Bᵀf_u, Λ⁻¹) with features f_u, likewise for items, relative
precisions α_u and γ_i ~ Gamma(a, a), coefficients w ~ N(0, I / λ) of the context f. A
sweep updates the coefficients, the user rows, the item rows.

Everything here is arrays in, arrays out: no raw ids, no estimator.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from .._sparse import ParallelMap
from .._threads import torch_threads
from .conditional import NaturalGaussians, fitted_values
from .conjugate import PointConditional, update_points
from .context import (
    ColumnSweep,
    column_mean,
    column_variance,
    with_centred_slopes,
    with_columns,
)
from .problem import Problem
from .ratings import Ratings
from .residuals import square_worth
from .rules import (
    ALSRule,
    ConditionalRule,
    CovarianceRule,
    GibbsRule,
    Rule,
    UpdateRule,
    VBRule,
)
from .scalars import NotDefinite, fetched, postponed_checks, total
from .start import with_centres
from .state import PRIOR_VARIANCE, Side, State
from .symmetric import cholesky, identity, inverse
from .tiles import SideConditional, parallel_map, update_rows

# Sweeps by which relative precisions find the differences between rows.
SETTLING_SWEEPS = 5


def als(
    problem: Problem, start: State, reg: float, exponent: float = 0.0
) -> Iterator[State]:
    """Alternating least squares: endless sweeps from `start`.

    The penalty of a row is `reg` times its count to the power of `exponent`.
    """
    rule, start = ALSRule(reg, exponent), with_centres(problem, start)
    start = replace(
        start,
        users=rule.start(start.users, problem.users),
        items=rule.start(start.items, problem.items),
        coef_factor=None,
        coef_precision=reg,
        noise_precision=1.0,
    )
    return sweeps(problem, start, rule)


def vb(
    problem: Problem, start: State, *, warm_up: int = 0, least_fall: float = 0.0
) -> Iterator[State]:
    """Variational Bayes: endless sweeps from `start`.

    No update lowers the evidence lower bound (Lim and Teh, 2007, with full covariances;
    relative precisions as in Lakshminarayanan, Bouchard and Archambeau, 2011), unless
    rows are far from the others (see `squares_of_level`).

    Up to `warm_up` sweeps come first in which covariances are diagonal along axes of
    all rows, until one lowers the objective by less than `least_fall`. They are marked
    as warm-up.
    """
    fall, previous = math.inf, math.inf
    for state in islice(sweeps(problem, start, VBRule(along_axes=True)), warm_up):
        fall, previous = previous - state.objective, state.objective
        start = state
        yield replace(state, is_warm_up=True)
        del state
        if fall < least_fall:
            break
    start = replace(
        start,
        users=replace(start.users, axes=None),
        items=start.items.with_packed_covariance(problem.layout),
    )
    states = sweeps(problem, start, VBRule())
    # A sweep needs the memory of the start.
    del start
    yield from states


def tempered_vb(problem: Problem, start: State) -> Iterator[State]:
    """Variational Bayes for noise that is not Gaussian: endless sweeps from `start`.

    A square of a residual counts by the kurtosis of the noise (see `VBRule`),
    which every sweep measures anew after some of `vb`, marked as warm-up: differences
    between rows that these find are not taken for kurtosis.
    """
    for state in islice(vb(problem, start), SETTLING_SWEEPS):
        start = state
        yield replace(state, is_warm_up=True)
        del state
    start = start.with_square_worth(square_worth(problem, start))
    yield from sweeps(problem, start, VBRule(is_tempered=True))


def gibbs(
    problem: Problem,
    start: State,
    random_state: np.random.RandomState,
    *,
    vb_sweeps: int = 0,
    burn_in: int = 0,
) -> Iterator[State]:
    """Gibbs sampling (Salakhutdinov and Mnih, 2008): endless draws from `start`.

    The chain begins where so many sweeps of `vb` lead. These and the first draws,
    `burn_in` of them, are marked as warm-up.
    """
    start = with_centres(problem, start)
    for state in islice(vb(problem, start), vb_sweeps):
        start = state
        yield replace(state, is_warm_up=True)
    draws = sweeps(problem, start, GibbsRule(random_state))
    for state in islice(draws, burn_in):
        yield replace(state, is_warm_up=True)
    yield from draws


def update(
    problem: Problem,
    start: State,
    *,
    is_certain: bool,
    past_weight: float,
    max_sweeps: int,
    tol: float,
) -> State:
    """Posterior after further ratings, by the posterior before them.

    `start` holds the rows that these ratings meet, with the covariances and the noise
    that `past_weight` of past ratings have left; they are the prior in every sweep.
    Given the other side, a row then has the posterior of all ratings together. With
    `is_certain` the other side is taken for its points, as als takes it, and the noise
    that a penalty is relative to stays.

    Users come first, and come again until the update of the items has moved the
    predictions by no more than `tol`: for new users among known items, once is enough.
    """

    def as_prior(side: Side) -> Side:
        if is_certain:
            # als takes the noise to be the same everywhere.
            one = torch.ones_like(side.relative_precision)
            side = replace(side, relative_precision=one, relative_shape=None)
        return replace(side, row_priors=side)

    first = replace(
        start,
        users=as_prior(start.users),
        items=as_prior(start.items),
        coef_prior=(start.coef, inverse(start.coef_covariance)),
    )
    rule = UpdateRule(is_certain, past_weight, past_variance=1 / start.noise_precision)
    for state in islice(sweeps(problem, first, rule), max_sweeps):
        if math.sqrt(state.items.squared_change / problem.weight) <= tol:
            break
    return state


def as_map_estimate(state: State) -> State:
    """State of als as the maximum a posteriori estimate of a Gaussian model.

    The penalised sum of squares is that of noise of the residuals' variance σ², and of
    rows and coefficients of precision reg / σ².
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
    with parallel_map(problem) as tile_map, torch_threads(1):
        sweep = Sweep(problem, CovarianceRule(), tile_map)
        return sweep.update_apart(sweep.update_context(state))


def given_others(problem: Problem, state: State) -> State:
    """Rows of "vb" with the moments of their conditionals, given all others as is."""
    with parallel_map(problem) as tile_map, torch_threads(1):
        return Sweep(problem, ConditionalRule(), tile_map).update_apart(state)


def sweeps(problem: Problem, state: State, rule: Rule) -> Iterator[State]:
    """Endless sweeps from a state.

    Terms of rows of context begin beside rows after one sweep without them. A sweep
    does without the covariances of the users before it, which take most of the
    memory: they are freed if the caller does not keep the state.
    """
    with parallel_map(problem) as tile_map:
        if problem.columns and not state.columns:
            with torch_threads(1):
                state = Sweep(replace(problem, columns=()), rule, tile_map)(state)
                state = with_columns(problem, state, rule)
        sweep = Sweep(problem, rule, tile_map)
        while True:
            state = replace(state, users=replace(state.users, covariance=None))
            with torch_threads(1):
                state = sweep(state)
            if rule.is_tempered:
                state = state.with_square_worth(square_worth(problem, state))
            yield state


@dataclass(frozen=True)
class Sweep:
    """One sweep over the coefficients, the users and the items, by a rule."""

    problem: Problem
    rule: Rule
    parallel_map: ParallelMap

    def __call__(self, state: State) -> State:
        """The state after the sweep."""
        try:
            with postponed_checks(self.problem.layout.device):
                return self._after(state)
        except NotDefinite:
            # Rare, and mended where it is seen.
            return self._after(state)

    def _after(self, state: State) -> State:
        problem, rule = self.problem, self.rule
        state = self.update_context(state)
        factor = None if rule.is_certain else state.coef_factor
        rest = _rest(problem, state, factor)
        users, of_users = self.update_side(
            rest.users, state.users, state.items, state.noise_precision
        )
        weight, residual = problem.users.total_weight, of_users
        beta = rule.noise_precision(weight, residual)
        items, residual_of_items = self.update_side(
            rest.items, state.items, users, beta
        )
        if not problem.has_more_user_pairs:
            weight, residual = problem.items.total_weight, residual_of_items
        (residual,) = fetched(residual)
        users, items = rule.with_priors(users, items)
        state = replace(
            state,
            users=users,
            items=items,
            noise_precision=rule.noise_precision(weight, residual),
            noise_variance=rule.noise_variance(weight, residual),
        )
        objective = rule.objective(state, problem, residual)
        return replace(state, objective=objective / problem.weight)

    def update_apart(self, state: State) -> State:
        """Both sides' rows, each side given the other as it is in `state`."""
        factor = None if self.rule.is_certain else state.coef_factor
        rest, beta = _rest(self.problem, state, factor), state.noise_precision
        users, _ = self.update_side(rest.users, state.users, state.items, beta)
        items, _ = self.update_side(rest.items, state.items, state.users, beta)
        return replace(state, users=users, items=items)

    def update_context(self, state: State) -> State:
        """Coefficients and terms of rows of the context given both sides' rows."""
        problem, ratings = self.problem, self.problem.users
        if not problem.context.shape[1] and not state.columns:
            return state
        weight = (
            ratings.weight
            * state.users.relative_precision[problem.user_index]
            * state.items.relative_precision[ratings.others]
        )
        residual = problem.target - fitted_values(
            ratings, state.users.mean, state.items.mean, problem.layout
        )
        if state.columns:
            state = with_centred_slopes(problem, state, self.rule)
            residual -= column_mean(problem.columns, state.columns)
        state = self._update_coef(state, weight, residual)
        if not state.columns or not self.rule.moves_rows:
            return state
        residual -= problem.context @ state.coef
        beta = state.noise_precision
        sweep = ColumnSweep(problem, self.rule, beta)
        return replace(state, columns=sweep(state.columns, weight, residual))

    def _update_coef(self, state: State, weight: Tensor, residual: Tensor) -> State:
        """Coefficients by residuals without the linear term, and their weights."""
        n_context = self.problem.context.shape[1]
        if not n_context:
            return state
        coef, covariance, _ = self.rule.rows(
            self._conditional_coef(state, weight, residual),
            self.rule.auxiliary(state.coef[None]),
        )
        factor, square = None, total(coef.square())
        if covariance is not None:
            factor = cholesky(covariance)[0].mT
            square += total(factor.square())
        (known_square,) = fetched(square)
        return replace(
            state,
            coef=coef[0],
            coef_factor=factor,
            coef_precision=self.rule.coef_precision(
                n_context, known_square, PRIOR_VARIANCE
            ),
        )

    def _conditional_coef(
        self, state: State, weight: Tensor, residual: Tensor
    ) -> NaturalGaussians:
        context, share = self.problem.context, self.problem.users.share
        precision = state.noise_precision * weight
        prior_mean = torch.zeros_like(state.coef)
        prior_precision = state.coef_precision * identity(len(state.coef), context)
        if state.coef_prior is not None:
            prior_mean, prior_precision = state.coef_prior
        A = share.sum((context.T * precision) @ context) + prior_precision
        h = share.sum(context.T @ (precision * residual))
        h = h + prior_precision @ prior_mean
        return NaturalGaussians(A[None], h[None])

    def update_side(
        self, ratings: Ratings, side: Side, other: Side, noise_precision: float
    ) -> tuple[Side, Tensor | float]:
        """One side's rows given the other, and their weighted residual."""
        rule, layout = self.rule, self.problem.layout
        if rule.is_certain:
            other = replace(other, covariance=None, axes=None)
        of_side = ratings, side, other, noise_precision, layout, self.parallel_map
        given: PointConditional | SideConditional
        if rule.is_along_axes(layout):
            given = PointConditional.given(*of_side)
            side, squares = update_points(given, rule)
        else:
            given = SideConditional.given(*of_side)
            side, squares = update_rows(given, rule)
        squares = _of_pairs(squares, ratings, other)
        side = rule.update_priors(side, noise_precision / 2 * squares, given)
        return rule.finish(side, total(side.relative_precision * squares))


def _of_pairs(squares: Tensor, ratings: Ratings, other: Side) -> Tensor:
    """Residual sums of squares of rows without the scatter of each pair.

    Where ratings of a pair differ in context, factors predict their mean.
    """
    if ratings.pair is not None:
        weight = other.relative_precision.index_select(0, ratings.others)
        squares = squares - ratings.scatter(ratings.target, weight * ratings.weight)
    return squares.clamp_(min=0)


def _rest(problem: Problem, state: State, coef_factor: Tensor | None) -> Problem:
    """The problem with the ratings minus all terms of context."""
    if not state.columns:
        return problem.without_context(state.coef, coef_factor)
    of_columns = problem.columns, state.columns
    mean, variance = column_mean(*of_columns), column_variance(*of_columns)
    of_context = problem.context_moments(state.coef, coef_factor)
    mean = mean + of_context[0]
    if of_context[1] is not None:
        variance = of_context[1] if variance is None else variance + of_context[1]
    return problem.without(mean, variance)
