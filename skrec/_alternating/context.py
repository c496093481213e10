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

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from .conditional import Gaussians, NaturalGaussians, fitted_values
from .evidence import PRIOR_ROWS, precision_evidence
from .layout import Layout
from .problem import Problem
from .ratings import Ratings
from .rules import (
    Rule,
    over_relax,
)
from .scalars import fetched, total
from .start import leading_singular_vectors
from .state import PRIOR_VARIANCE, ColumnState, Effects, PairState, Side, State
from .symmetric import identity, times
from .tiles import SideConditional, update_rows
from .value_pairs import Groups, PairSums, ValueColumn, ValuePairs

# A prior for the variance of slopes, worth one row. Slopes of standardised numbers are
# smaller than other effects, and each lasts for all ratings of a row, so that where
# they are none a wider prior would let too much noise in.
SLOPE_VARIANCE = 1e-3

# Precision of the levels beside slopes: a weak prior, which leaves them to the ratings.
LEVEL_PRECISION = 100.0

# The same where there are no biases, and so no levels.
NO_LEVEL = 1e12

# A precision is searched for within this distance of the last one, on a logarithmic
# scale, by so many golden sections.
SPAN, N_SECTIONS, GOLDEN = 1.0, 3, (math.sqrt(5) - 1) / 2

# Factors of a column, if it has so many values, and extra columns of the power
# iteration that their start takes.
MAX_FACTORS, OVERSAMPLING = 4, 4

# Shrinkage of the start in ratings, and start of the precision of factors.
SHRINKAGE, ROW_PRECISION = 10.0, 100.0

# Alternations of the noise and the precision of effects that als keeps.
N_ROUNDS = 3

# Mean square, in variances of the ratings, of products that are nothing. They stay as
# they are, which no bound forbids.
LEAST_PRODUCT = 1e-6

SIDES = "users", "items"


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


@dataclass(frozen=True)
class PairEvidence:
    """Conditional of the effects δ and the levels l of pairs, by the precision τ of δ.

    With g_j and h_j the sums over a pair's ratings of β x^j and of β x^j times the
    residual, A = g₂ + τ, and L = L₀ + Σ (g₀ − g₁² / A) over the n pairs of a row,

        l ~ N(Σ (h₀ − g₁ h₁ / A) / L, 1 / L),    δ | l ~ N((h₁ − g₁ l) / A, 1 / A).

    Without l, the bias of a row would have taken up what its effects have in common,
    as if it were known, and τ would be too large. The prior of l beside values is that
    of the mean of these effects, L₀ = nτ, so that a column without effects has no
    levels either, whose variance would count twice, beside that of the biases. A slope
    is about the mean of a number, and says nothing of l, for which L₀ is fixed.

    Attributes
    ----------
    pairs : ValuePairs
    g : sequence of Tensor of shape (n_pairs,)
        g₀, g₁ and g₂, which are the same where all numbers are 1.
    h : sequence of Tensor of shape (n_pairs,)
        h₀ and h₁.
    biased : bool
        Whether there are levels.
    prior_variance : float
        Variance of an effect by the prior of τ.
    """

    pairs: ValuePairs
    g: Sequence[Tensor]
    h: Sequence[Tensor]
    biased: bool = True
    prior_variance: float = PRIOR_VARIANCE

    @cached_property
    def within(self) -> tuple[Tensor, Tensor]:
        """g₀g₂ − g₁² and h₀g₂ − h₁g₁, which are 0 where all numbers are 1."""
        (g0, g1, g2), (h0, h1) = self.g, self.h
        return (g0 * g2 - g1.square()).clamp_(min=0), h0 * g2 - h1 * g1

    @cached_property
    def level_precision(self) -> float:
        """L₀ where it is fixed; 0 where it grows with τ."""
        if not self.biased:
            return NO_LEVEL
        return 0.0 if self.pairs.numbers is None else LEVEL_PRECISION

    @cached_property
    def n_effects(self) -> Tensor:
        """Effects of which the level of each row is the mean; 0 where L₀ is fixed."""
        counts = self.pairs.by_row.offsets.diff().clamp(min=1).to(self.g[0])
        return torch.zeros_like(counts) if self.level_precision else counts

    @property
    def n_draws(self) -> int:
        """Effects, and levels, of which τ is the precision."""
        n_levels = 0 if self.level_precision else len(self.n_effects)
        return len(self.pairs) + n_levels

    def levels(self, tau: float) -> tuple[Tensor, Tensor]:
        """Means and precisions of the levels."""
        A, (of_g, of_h) = self.g[2] + tau, self.within
        shares = (of_h + tau * self.h[0]) / A, (of_g + tau * self.g[0]) / A
        sums = self.pairs.by_row_entries.sum(torch.stack(shares, 1), None)
        precision = self.level_precision + tau * self.n_effects + sums[:, 1]
        return sums[:, 0] / precision, precision

    def effects(self, level: Tensor, tau: float) -> Tensor:
        """Means of the effects given the levels."""
        return (self.h[1] - self.g[1] * level[self.pairs.rows]) / (self.g[2] + tau)

    def value(self, tau: float) -> float:
        """Twice the evidence of τ, up to a constant."""
        mean, precision = self.levels(tau)
        A = self.g[2] + tau
        (value,) = fetched(
            total(self.h[1].square() / A - A.log())
            + total(precision * mean.square() - precision.log())
        )
        return value + precision_evidence(self.n_draws, tau, self.prior_variance)

    def likeliest_precision(self, before: float | None) -> float:
        """The τ of the largest evidence, perhaps only the largest near to one before.

        Alternating updates of τ and of the effects would creep, above all where there
        are none and only the prior of τ bounds it.
        """
        if before is None:
            grid = [10.0 ** (power / 2) for power in range(-2, 14)]
            before = max(grid, key=self.value)
        # Golden sections of an interval around it.
        # One of the two points of a section is a point of the last one, nearly.
        at = cache(lambda x: self.value(math.exp(x)))

        def value(x: float) -> float:
            return at(round(x, 9))

        low, high = math.log(before) - SPAN, math.log(before) + SPAN
        tried = [math.log(before)]
        for _ in range(N_SECTIONS):
            left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
            low, high = (low, right) if value(left) >= value(right) else (left, high)
            tried += [left, right]
        return math.exp(max(tried, key=value))


def column_layout(n_values: int, like: Tensor) -> Layout:
    """Layout of the factors of a column with so many values."""
    return Layout(max(1, min(MAX_FACTORS, n_values - 1)), False, like.device)


def with_columns(problem: Problem, state: State, rule: Rule) -> State:
    """A start beside a factorisation: singular vectors of pairs' residuals.

    Effects of values and coefficients begin with what all ratings have in common, those
    of pairs and rows at zero, and the values' factors at their singular vectors.
    """
    rest = problem.without_context(state.coef, None)
    weight, share = problem.users.weight, problem.users.share
    residual = rest.users.target - fitted_values(
        problem.users, state.users.mean, state.items.mean, problem.layout
    )
    # What all slopes have in common is no slope, and likewise of values.
    x = problem.context
    A = share.sum((x.T * weight) @ x) + identity(len(state.coef), x)
    step = torch.linalg.solve(A, share.sum(x.T @ (weight * residual)))
    residual = residual - x @ step
    common = []
    for column in problem.columns:
        effects = _common_effects(problem, column.values, residual, rule)
        residual = residual - column.values.spread(effects.mean)
        common.append(effects)

    def start(pairs: ValuePairs) -> PairState:
        has_values, precision = pairs.numbers is None, 1 / PRIOR_VARIANCE
        if has_values and not rule.keeps_precision:
            return _start_pairs(pairs, weight, residual, precision)
        prior_variance = PRIOR_VARIANCE if has_values else SLOPE_VARIANCE
        if rule.keeps_precision:
            likeliest = _likeliest_penalty
            precision = likeliest(problem, pairs, residual, rule, prior_variance)
        return _no_products(pairs, residual, precision, prior_variance)

    columns = tuple(
        ColumnState(effects, start(column.users), start(column.items))
        for column, effects in zip(problem.columns, common, strict=True)
    )
    return replace(state, coef=state.coef + step, columns=columns)


def _common_effects(
    problem: Problem, groups: Groups, residual: Tensor, rule: Rule
) -> Effects:
    """Effects of values on all ratings, and their precision, beside nothing else."""
    weight, rest, n = problem.users.weight, residual, len(groups)
    if not n:
        return Effects(residual.new_zeros(0))
    W, T = groups.sums(weight, weight * residual)
    precision, noise_variance = 1 / PRIOR_VARIANCE, 1.0
    for _ in range(N_ROUNDS):
        square = problem.users.share.sum(total(weight * rest.square()))
        noise_variance = rule.noise_variance(problem.weight, square)
        A = W / noise_variance + precision
        mean = T / noise_variance / A
        rest = residual - groups.spread(mean)
        (of_effects,) = fetched(total(mean.square() + 1 / A))
        precision = (PRIOR_ROWS + n) / (PRIOR_ROWS * PRIOR_VARIANCE + of_effects)
    unit = noise_variance if rule.keeps_precision else 1.0
    return Effects(mean, None, unit * precision)


def _likeliest_penalty(
    problem: Problem,
    pairs: ValuePairs,
    residual: Tensor,
    rule: Rule,
    prior_variance: float,
) -> float:
    """Precision of effects in units of that of the noise which they leave."""
    weight, rest = problem.users.weight, residual
    for _ in range(N_ROUNDS):
        square = problem.users.share.sum(total(weight * rest.square()))
        noise_variance = rule.noise_variance(problem.weight, square)
        sums = pairs.sums_over(weight / noise_variance, residual)
        evidence = PairEvidence(
            pairs, sums.weight, sums.residual, prior_variance=prior_variance
        )
        tau = evidence.likeliest_precision(None)
        level, _ = evidence.levels(tau)
        rest = residual - pairs.terms(level[pairs.rows], evidence.effects(level, tau))
    return noise_variance * tau


def _no_levels(n_rows: int, like: Tensor) -> Effects:
    return Effects(like.new_zeros(n_rows))


def _no_products(
    pairs: ValuePairs, like: Tensor, precision: float, prior_variance: float
) -> PairState:
    n_rows, n_values = pairs.shape
    return PairState(
        Side.at(like.new_zeros(n_rows, 0)),
        Side.at(like.new_zeros(n_values, 0)),
        Effects(like.new_zeros(len(pairs)), None, precision, 0.0, prior_variance),
        _no_levels(n_rows, like),
        like.new_zeros(len(pairs)),
    )


def _start_pairs(
    pairs: ValuePairs, weight: Tensor, residual: Tensor, precision: float
) -> PairState:
    n_rows, n_values = pairs.shape
    size = column_layout(n_values, residual).row_size
    count, total_residual = pairs.sums(weight, weight * residual)
    scale = [
        (pattern.sum_values(weights) + SHRINKAGE).rsqrt()
        for pattern, weights in (
            (pairs.by_row, count),
            (pairs.by_value, count[pairs.to_values]),
        )
    ]
    entries = total_residual * scale[0][pairs.rows] * scale[1][pairs.values]
    by_value = pairs.by_value, entries[pairs.to_values]
    V, _ = leading_singular_vectors(
        (pairs.by_row, entries), by_value, size, OVERSAMPLING
    )
    values = residual.new_zeros(n_values, size)
    values[:, : V.shape[1]] = n_values**0.5 * V
    return PairState(
        replace(
            Side.at(residual.new_zeros(n_rows, size)),
            prior_precision=ROW_PRECISION * identity(size, residual),
        ),
        Side.at(values),
        Effects(residual.new_zeros(len(pairs)), None, precision),
        _no_levels(n_rows, residual),
        residual.new_zeros(len(pairs)),
    )


def with_centred_slopes(problem: Problem, state: State, rule: Rule) -> State:
    """The state with coefficients of numbers that hold their slopes' common part."""
    coef, columns = state.coef.clone(), []
    for column, known in zip(problem.columns, state.columns, strict=True):
        if column.number is None:
            columns.append(known)
            continue
        place = slice(column.number, column.number + 1)
        for side in SIDES:
            common = Effects(coef[place], precision=state.coef_precision)
            terms: PairState = getattr(known, side)
            common, effects = _centred(
                common, getattr(column, side), terms.effects, rule
            )
            coef[place] = common.mean
            known = _with_pairs(known, side, replace(terms, effects=effects))
        columns.append(known)
    return replace(state, coef=coef, columns=tuple(columns))


def _with_pairs(column: ColumnState, side: str, terms: PairState) -> ColumnState:
    if side == "users":
        return replace(column, users=terms)
    return replace(column, items=terms)


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


def column_mean(
    columns: tuple[ValueColumn, ...],
    states: tuple[ColumnState, ...],
    places: Tensor | None = None,
) -> Tensor:
    """Mean of the terms of all columns at each rating, or at some places."""
    means = [
        mean
        for column, state in zip(columns, states, strict=True)
        for mean in (
            column.values.spread(state.values.mean, places),
            column.users.terms(*pair_means(column.users, state.users), places=places),
            column.items.terms(*pair_means(column.items, state.items), places=places),
        )
    ]
    return sum(means[1:], means[0])


def column_variance(
    columns: tuple[ValueColumn, ...],
    states: tuple[ColumnState, ...],
    places: Tensor | None = None,
) -> Tensor | None:
    """Variance of these terms, likewise; None for points."""
    variances = []
    for column, state in zip(columns, states, strict=True):
        if state.values.variance is not None:
            variances.append(column.values.spread(state.values.variance, places))
        for pairs, terms in ((column.users, state.users), (column.items, state.items)):
            if terms.effects.variance is not None:
                variances.append(_pair_variance(pairs, terms, places))
    return sum(variances[1:], variances[0]) if variances else None


def _pair_variance(
    pairs: ValuePairs, state: PairState, places: Tensor | None
) -> Tensor:
    """Variance of the terms l + x (a·r + δ) of ratings: all, or at some places."""
    effects, levels, covariance = state.effects, state.levels, state.covariance
    assert effects.variance is not None
    assert levels.variance is not None
    assert covariance is not None
    constant = levels.variance.index_select(0, pairs.rows)
    linear, square = 2 * covariance, effects.variance
    if places is not None and pairs.numbers is None:
        pairs, kept = pairs.at(places)
        state, places = replace(state, products=state.products[kept]), None
        constant, linear, square = constant[kept], linear[kept], square[kept]
    square = square + _product_variance(pairs, state)
    return pairs.terms(constant, linear, square, places=places)


def _product_variance(pairs: ValuePairs, state: PairState) -> Tensor | float:
    """Variance of a·r of each pair."""
    size = state.rows.mean.shape[1]
    if not size:
        return 0.0
    layout, product = Layout(size, False, state.products.device), state.products
    of_rows, of_values = (
        layout.pack(side.mean[:, :, None] * side.mean[:, None]) + side.covariance
        for side in (state.rows, state.values)
        if side.covariance is not None
    )
    # ⟨E[aaᵀ], E[rrᵀ]⟩, where entries off the diagonal are packed once and count twice.
    twice = 2 - identity(size, of_values)
    of_values = of_values * layout.pack(twice[None])
    square = of_rows.index_select(0, pairs.rows)
    square = torch.linalg.vecdot(square, of_values.index_select(0, pairs.values))
    return (square - product.square()).clamp_(min=0)


def pair_means(pairs: ValuePairs, state: PairState) -> tuple[Tensor, Tensor]:
    """Means of l and of a·r + δ of each pair."""
    levels = state.levels.mean.index_select(0, pairs.rows)
    return levels, state.products + state.effects.mean


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
        for side in SIDES:
            pairs: ValuePairs = getattr(column, side)
            terms: PairState = getattr(state, side)
            values, effects = _centred(state.values, pairs, terms.effects, self.rule)
            terms = replace(terms, effects=effects)
            if self._has_products(terms):
                values, terms = self._centred_rows(values, pairs, terms, weight)
            state = _with_pairs(replace(state, values=values), side, terms)
        return state

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
                levels=_no_levels(pairs.shape[0], effects.mean),
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
