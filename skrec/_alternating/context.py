"""Columns of context: terms of users and items beside the factorisation.

The rating of user u and item i under the value c of a column has the further terms

    e_c + (a_u·r_c + δ_uc) + (d_i·s_c + δ_ic),

the effect of the value, and what it changes for this user and for this item. The
effects of a user under all values, a_u·r_c + δ_uc, are thus Gaussian, with a covariance
of low rank plus a diagonal: products are what users have in common, and δ is what is
left of a pair. Priors have mean zero, and their precisions are learned.

A user and a value form a pair with all of their ratings. Given all else, a conditional
depends on two sums over a pair's ratings: of weights, and of weighted residuals. So a
sweep passes over the ratings a few times, whatever the number of factors, and all else
is over pairs, which are no more than ratings: rows a given r are those of `conditional`
with z = r and no offset, and likewise r given a.

Beside the effects of pairs, a row has a level l, which is a part of its bias (see
`PairEvidence`).

A column of numbers x has the slopes x δ_u and x δ_i. They are the effects of one value
that ratings have to a degree, so that two sums over a pair's ratings become five, of
weights times powers of x; e is a coefficient of the linear term, and there is no
product, since a row has one slope alone.

Everything here is arrays in, arrays out: no raw ids, no estimator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .column_moments import pair_means
from .conditional import Gaussians, NaturalGaussians
from .layout import Layout
from .pair_evidence import PairEvidence
from .problem import Problem
from .ratings import Ratings
from .rules import (
    Rule,
    over_relax,
)
from .scalars import fetched, total
from .state import ColumnState, Effects, PairState, Side, State
from .symmetric import times
from .tiles import SideConditional, update_rows
from .value_pairs import PairSums, ValueColumn, ValuePairs

# Mean square, in variances of the ratings, of products that are nothing. They stay as
# they are, which no bound forbids.
LEAST_PRODUCT = 1e-6


@dataclass(frozen=True)
class Scalars(Gaussians):
    """N(h / A, 1 / A) of each of many scalars, as rows of one number.

    Attributes
    ----------
    A, h : Tensor of shape (n_scalars,)
    """

    A: Tensor
    h: Tensor

    def mean(self) -> Tensor:
        return (self.h / self.A)[:, None]

    def draw(self, normal: Tensor) -> Tensor:
        return self.mean() + normal * self.A.rsqrt()[:, None]

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.mean(), 1 / self.A[:, None, None], -total(self.A.log())


def with_centred_slopes(problem: Problem, state: State, rule: Rule) -> State:
    """The state with coefficients of numbers that hold their slopes' common part."""
    coef, columns = state.coef.clone(), []
    for column, known in zip(problem.columns, state.columns, strict=True):
        if column.number is None:
            columns.append(known)
            continue
        place, sides = slice(column.number, column.number + 1), []
        for pairs, terms in zip(column.pairs, known.pairs, strict=True):
            common = Effects(coef[place], precision=state.coef_precision)
            common, effects = _centred(common, pairs, terms.effects, rule)
            coef[place] = common.mean
            sides.append(replace(terms, effects=effects))
        columns.append(ColumnState(known.values, *sides))
    return replace(state, coef=coef, columns=tuple(columns))


def _centred(
    common: Effects, pairs: ValuePairs, effects: Effects, rule: Rule
) -> tuple[Effects, Effects]:
    """Effects of values that hold the common part of the effects of their pairs.

    Only the priors of both depend on a step m of an effect e and of its pairs, e + m
    and δ − m. Without these steps, e and δ creep towards each other.
    """
    sums = pairs.by_value.sum_values(effects.mean[pairs.to_values])
    counts = pairs.by_value.offsets.diff().to(sums)
    given = Scalars(
        counts * effects.precision + common.precision,
        sums * effects.precision - common.mean * common.precision,
    )
    step, _, _ = rule.rows(given, rule.auxiliary(torch.zeros_like(sums)[:, None]))
    return (
        replace(common, mean=common.mean + step[:, 0]),
        replace(effects, mean=effects.mean - step[pairs.values, 0]),
    )


def _products(pairs: ValuePairs, rows: Side, values: Side) -> Tensor:
    a = rows.mean.index_select(0, pairs.rows)
    return torch.linalg.vecdot(a, values.mean.index_select(0, pairs.values))


@dataclass(frozen=True)
class ColumnSweep:
    """An update of the terms of all columns, given the factorisation.

    Attributes
    ----------
    problem : Problem
    rule : Rule
    noise_precision : float
        β.
    """

    problem: Problem
    rule: Rule
    noise_precision: float

    def __call__(
        self, states: tuple[ColumnState, ...], weight: Tensor, residual: Tensor
    ) -> tuple[ColumnState, ...]:
        """Columns after a sweep over their terms, by residuals and their weights."""
        columns = []
        for column, known in zip(self.problem.columns, states, strict=True):
            if column.number is None:
                known = self._centred(column, known, weight)
            values = known.values
            if len(column.values):
                W, T = column.values.sums(weight, weight * residual)
                values = self._effects(values, W, T + W * values.mean)
                residual = residual - column.values.spread(
                    values.mean - known.values.mean
                )
            items, residual = self._pairs(column.items, known.items, weight, residual)
            users, residual = self._pairs(column.users, known.users, weight, residual)
            columns.append(ColumnState(values, users, items))
        return tuple(columns)

    def _centred(
        self, column: ValueColumn, state: ColumnState, weight: Tensor
    ) -> ColumnState:
        """The same terms, where effects of values hold the common part of the rest."""
        values, sides = state.values, []
        for pairs, terms in zip(column.pairs, state.pairs, strict=True):
            values, effects = _centred(values, pairs, terms.effects, self.rule)
            terms = replace(terms, effects=effects)
            if self._has_products(terms):
                values, terms = self._centred_rows(values, pairs, terms, weight)
            sides.append(terms)
        return ColumnState(values, *sides)

    def _centred_rows(
        self, common: Effects, pairs: ValuePairs, state: PairState, weight: Tensor
    ) -> tuple[Effects, PairState]:
        """Effects of values that hold the common part m·r of products.

        A step m leaves all means of ratings, for e + m·r and a − m.
        """
        a, r = state.rows.mean, state.values.mean
        precision, n_rows = state.rows.prior_precision, len(a)
        A = n_rows * precision + common.precision * (r.T @ r)
        h = precision @ a.sum(0) - common.precision * (r.T @ common.mean)
        covariance = state.values.covariance
        if covariance is not None and not self.rule.is_certain:
            # The uncertainty of r counts as the length of a.
            layout = Layout(a.shape[1], False, a.device)
            T = self.noise_precision * layout.unpack(covariance)
            (W,) = pairs.sums(weight)
            W = W[pairs.to_values]
            sums = pairs.by_value.sum_values(W), pairs.by_value.sum(a, W)
            A = A + (sums[0][:, None, None] * T).sum(0)
            h = h + times(T, sums[1]).sum(0)
        auxiliary = self.rule.auxiliary(torch.zeros_like(h)[None])
        step, _, _ = self.rule.rows(NaturalGaussians(A[None], h[None]), auxiliary)
        along = r @ step[0]
        return replace(common, mean=common.mean + along), replace(
            state,
            rows=replace(state.rows, mean=a - step),
            products=state.products - along[pairs.values],
        )

    def _pairs(
        self, pairs: ValuePairs, state: PairState, weight: Tensor, residual: Tensor
    ) -> tuple[PairState, Tensor]:
        """The terms of pairs, and the residuals after them."""
        before = pair_means(pairs, state)
        sums = pairs.sums_over(weight, residual).plus(*before)
        if self._has_products(state):
            W, T = sums.weight[0], sums.residual[0]
            target = T / W.clamp(min=torch.finfo(W.dtype).tiny)
            target = target - sum(before) + state.products
            order = pairs.to_values
            rows = self._rows(pairs.by_row, W, target, state.rows, state.values)
            values = self._rows(
                pairs.by_value, W[order], target[order], state.values, rows
            )
            products = _products(pairs, rows, values)
            state = replace(state, rows=rows, values=values, products=products)
        nothing = torch.zeros_like(state.products)
        state = self._pair_effects(pairs, state, sums.plus(nothing, -state.products))
        after = pair_means(pairs, state)
        steps = (new - old for new, old in zip(after, before, strict=True))
        return state, residual - pairs.terms(*steps)

    def _has_products(self, state: PairState) -> bool:
        """Whether products are more than nothing, or have not been learned yet."""
        if not state.rows.mean.shape[1]:
            return False
        if state.rows.covariance is None or not len(state.products):
            return True
        (square,) = fetched(total(state.products.square()))
        return square > LEAST_PRODUCT * len(state.products)

    def _pair_effects(
        self, pairs: ValuePairs, state: PairState, sums: PairSums
    ) -> PairState:
        """Effects and levels by sums over the ratings of each pair."""
        effects, levels = state.effects, state.levels
        if self.rule.is_certain:
            # Points and draws have no level beside the bias.
            return replace(
                state,
                effects=self._effects(effects, sums.weight[2], sums.residual[1]),
                levels=Effects(effects.mean.new_zeros(pairs.shape[0])),
                covariance=None,
            )
        beta = self.noise_precision
        evidence = PairEvidence(
            pairs,
            [beta * weight for weight in sums.weight],
            [beta * residual for residual in sums.residual],
            self.problem.layout.biased,
            effects.prior_variance,
        )
        tau = evidence.likeliest_precision(
            None if effects.variance is None else effects.precision
        )
        level, precision = evidence.levels(tau)
        A = evidence.g[2] + tau
        mean = over_relax(evidence.effects(level, tau), effects.mean)
        level = over_relax(level, levels.mean)
        along = evidence.g[1] / A
        covariance = -along / precision[pairs.rows]
        variance = 1 / A - along * covariance
        square = total(mean.square() + variance)
        square = square + total(evidence.n_effects * (level.square() + 1 / precision))
        (known_square,) = fetched(square)
        return replace(
            state,
            effects=replace(
                effects,
                mean=mean,
                variance=variance,
                precision=self._precision(effects, evidence.n_draws, known_square),
                log_det=-total(A.log()) - total(precision.log()),
            ),
            levels=Effects(level, 1 / precision, evidence.level_precision),
            covariance=covariance,
        )

    def _effects(self, effects: Effects, W: Tensor, T: Tensor) -> Effects:
        """Effects by sums of weights and of weighted residuals without them."""
        beta, previous = self.noise_precision, effects.mean[:, None]
        given = Scalars(beta * W + effects.precision, beta * T)
        auxiliary = self.rule.auxiliary(previous)
        mean, covariance, log_det = self.rule.rows(given, auxiliary)
        variance = None if covariance is None else covariance.flatten()
        square = total(mean.square())
        if variance is not None:
            square = square + total(variance)
        (known_square,) = fetched(square)
        return replace(
            effects,
            mean=mean[:, 0],
            variance=variance,
            precision=self._precision(effects, len(effects.mean), known_square),
            log_det=log_det,
        )

    def _precision(self, effects: Effects, n: int, square: float) -> float:
        """The precision of n effects, and levels, by their E[‖δ‖²]."""
        if self.rule.keeps_precision:
            return effects.precision
        return self.rule.coef_precision(n, square, effects.prior_variance)

    def _rows(
        self, pattern: Any, weight: Tensor, target: Tensor, side: Side, other: Side
    ) -> Side:
        """One side's factors given the other's."""
        layout = Layout(side.mean.shape[1], False, side.mean.device)
        ratings = Ratings(
            offsets=pattern.offsets,
            others=pattern.others,
            weight=weight,
            target=target,
            count=side.relative_precision,
        )
        if self.rule.is_certain:
            other = replace(other, covariance=None)
        given = SideConditional.given(
            ratings, side, other, self.noise_precision, layout, map
        )
        side, _ = update_rows(given, self.rule)
        return self.rule.centred_prior(side, layout)
