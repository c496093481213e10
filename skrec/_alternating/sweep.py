"""Sweeps of an alternating solver over its rows, by a rule.

Model, for ratings y of mean zero and variance one:

    y = b_u + c_i + p_u·q_i + f·w + ε,      ε ~ N(0, 1 / (β α_u γ_i)),

rows (p_u, b_u) ~ N(m + Bᵀf_u, Λ⁻¹) with features f_u, likewise for items, relative
precisions α_u and γ_i ~ Gamma(a, a), coefficients w ~ N(0, I / λ) of the context f. A
sweep updates the coefficients, the user rows, the item rows.

Everything here is arrays in, arrays out: no raw ids, no estimator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .._sparse import ParallelMap
from .._threads import torch_threads
from .along_axes import AxisConditional, update_along_axes
from .column_moments import column_mean, column_variance
from .column_start import with_columns
from .conditional import NaturalGaussians, fitted_values
from .context import ColumnSweep, with_centred_slopes
from .problem import Problem
from .ratings import Ratings
from .residuals import square_worth
from .rules import Rule
from .scalars import NotDefinite, fetched, postponed_checks, total
from .state import PRIOR_VARIANCE, Side, State
from .symmetric import cholesky, identity
from .tiles import SideConditional, parallel_map, update_rows


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
        rest = self._without_context(state)
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
        rest, beta = self._without_context(state), state.noise_precision
        users, _ = self.update_side(rest.users, state.users, state.items, beta)
        items, _ = self.update_side(rest.items, state.items, state.users, beta)
        return replace(state, users=users, items=items)

    def _without_context(self, state: State) -> Problem:
        """The problem with the ratings minus all terms of context."""
        problem, factor = self.problem, state.coef_factor
        if self.rule.is_certain:
            factor = None
        if not state.columns:
            return problem.without_context(state.coef, factor)
        of_columns = problem.columns, state.columns
        mean, variance = column_mean(*of_columns), column_variance(*of_columns)
        linear_mean, linear_variance = problem.context_moments(state.coef, factor)
        if linear_variance is not None:
            variance = linear_variance + (0 if variance is None else variance)
        return problem.without(mean + linear_mean, variance)

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
        given: AxisConditional | SideConditional
        if rule.is_along_axes(layout):
            given = AxisConditional.given(*of_side)
            side, squares = update_along_axes(given, rule)
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
