"""Columns of context that have values: their terms beside the factorisation.

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

Everything here is arrays in, arrays out: no raw ids, no estimator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .conditional import Gaussians, Layout, SideMoments, fitted_values
from .problem import Problem
from .ratings import Ratings
from .rules import Rule, over_relax, precision_evidence
from .scalars import fetched, total
from .state import ColumnState, Effects, PairState, Side, State
from .symmetric import identity, with_fixed_signs
from .tiles import SideConditional
from .value_pairs import Groups, Pairs, ValueColumn

# Precision of the levels: a weak prior, which leaves them to the ratings.
LEVEL_PRECISION = 100.0

# The same where there are no biases, and so no levels.
NO_LEVEL = 1e12

# A precision is searched for within this distance of the last one, on a logarithmic
# scale, by so many golden sections.
SPAN, N_SECTIONS, GOLDEN = 1.0, 3, (math.sqrt(5) - 1) / 2

# Factors of a column, if it has so many values, and extra columns and passes of the
# power iteration that their start takes.
MAX_FACTORS = 4
OVERSAMPLING, ITERATIONS = 4, 3

# Shrinkage of the start in ratings, and start of the precision of effects.
SHRINKAGE, START_PRECISION, ROW_PRECISION = 10.0, 10.0, 100.0

# Mean square, in variances of the ratings, of products that are nothing. They stay as
# they are, which no bound forbids.
LEAST_PRODUCT = 1e-6

# A function that updates the rows of a conditional by a rule.
UpdateRows = Callable[[SideConditional, Rule], tuple[Side, Tensor]]


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

    With g and h the sums over a pair's ratings of β and of β times the residual,
    A = g + τ, and L = τ₀ + Σ gτ / A over the pairs of a row,

        l ~ N(Σ (τ / A) h / L, 1 / L),    δ | l ~ N((h − g l) / A, 1 / A).

    Without l, the bias of a row would have taken up what its effects have in common,
    as if it were known, and τ would be too large.

    Attributes
    ----------
    pairs : Pairs
    g, h : Tensor of shape (n_pairs,)
    level_precision : float
        τ₀.
    """

    pairs: Pairs
    g: Tensor
    h: Tensor
    level_precision: float = LEVEL_PRECISION

    def levels(self, tau: float) -> tuple[Tensor, Tensor]:
        """Means and precisions of the levels."""
        share = tau / (self.g + tau)
        sums = self.pairs.by_row_entries.sum(
            torch.stack([share * self.h, share * self.g], 1), None
        )
        precision = self.level_precision + sums[:, 1]
        return sums[:, 0] / precision, precision

    def value(self, tau: float) -> float:
        """Twice the evidence of τ, up to a constant."""
        mean, precision = self.levels(tau)
        A = self.g + tau
        (value,) = fetched(
            total(self.h.square() / A - A.log())
            + total(precision * mean.square() - precision.log())
        )
        return value + precision_evidence(len(A), tau)

    def likeliest_precision(self, before: float | None) -> float:
        """The τ of the largest evidence, perhaps only the largest near to one before.

        Alternating updates of τ and of the effects would creep, above all where there
        are none and only the prior of τ bounds it.
        """
        if before is None:
            grid = [10.0 ** (power / 2) for power in range(-2, 14)]
            before = max(grid, key=self.value)
        # Golden sections of an interval around it.
        value = cache(lambda x: self.value(math.exp(x)))
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


def start_columns(problem: Problem, state: State) -> tuple[ColumnState, ...]:
    """A start beside a factorisation: singular vectors of pairs' residuals.

    Effects and rows begin at zero, and the values' factors at their singular vectors.
    """
    rest = problem.without_context(state.coef, None)
    residual = rest.users.target - fitted_values(
        problem.users, state.users.mean, state.items.mean, problem.layout
    )
    return tuple(
        ColumnState(
            _no_effects(len(column.values), residual),
            _start_pairs(column.users, problem.users.weight, residual),
            _start_pairs(column.items, problem.users.weight, residual),
        )
        for column in problem.columns
    )


def _no_effects(n_groups: int, like: Tensor) -> Effects:
    return Effects(like.new_zeros(n_groups), None, START_PRECISION)


def _no_levels(n_rows: int, like: Tensor) -> Effects:
    return Effects(like.new_zeros(n_rows), None, LEVEL_PRECISION)


def _start_pairs(pairs: Pairs, weight: Tensor, residual: Tensor) -> PairState:
    n_rows, n_values = pairs.shape
    size = column_layout(n_values, residual).row_size
    count, total_residual = pairs.sums(
        torch.stack([weight, weight * residual], 1)
    ).unbind(1)
    scale = [
        (pattern.sum_values(weights) + SHRINKAGE).rsqrt()
        for pattern, weights in (
            (pairs.by_row, count),
            (pairs.by_value, count[pairs.to_values]),
        )
    ]
    entries = total_residual * scale[0][pairs.rows] * scale[1][pairs.values]
    generator = torch.Generator().manual_seed(0)
    width = min(size + OVERSAMPLING, n_values)
    V = torch.randn(n_values, width, generator=generator).to(residual)
    for _ in range(ITERATIONS):
        image = pairs.by_row.sum(V, entries)
        V = torch.linalg.qr(pairs.by_value.sum(image, entries[pairs.to_values])).Q
    _, _, W = torch.linalg.svd(pairs.by_row.sum(V, entries).cpu(), full_matrices=False)
    V = with_fixed_signs(V @ W.T.to(V))
    values = residual.new_zeros(n_values, size)
    n_found = min(size, V.shape[1])
    values[:, :n_found] = n_values**0.5 * V[:, :n_found]
    return PairState(
        replace(
            Side.at(residual.new_zeros(n_rows, size)),
            prior_precision=ROW_PRECISION * identity(size, residual),
        ),
        Side.at(values),
        _no_effects(len(pairs), residual),
        _no_levels(n_rows, residual),
        residual.new_zeros(len(pairs)),
    )


def column_moments(
    columns: tuple[ValueColumn, ...],
    states: tuple[ColumnState, ...],
    places: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Mean and variance of the terms of all columns at ratings, or at some places.

    The variance is None for points.
    """
    means: list[Tensor] = []
    variances: list[Tensor] = []
    for column, state in zip(columns, states, strict=True):
        effects = state.values
        means.append(column.values.spread(effects.mean, places))
        if effects.variance is not None:
            variances.append(column.values.spread(effects.variance, places))
        for pairs, terms in ((column.users, state.users), (column.items, state.items)):
            at, mean, variance = _pair_moments(pairs, terms, places)
            means.append(at.spread(mean))
            if variance is not None:
                variances.append(at.spread(variance))
    mean = sum(means[1:], means[0])
    return mean, sum(variances[1:], variances[0]) if variances else None


def column_mean(
    columns: tuple[ValueColumn, ...], states: tuple[ColumnState, ...]
) -> Tensor:
    """Mean of the terms of all columns at each rating."""
    means = [
        groups.spread(mean)
        for column, state in zip(columns, states, strict=True)
        for groups, mean in (
            (column.values, state.values.mean),
            (column.users, pair_mean(column.users, state.users)),
            (column.items, pair_mean(column.items, state.items)),
        )
    ]
    return sum(means[1:], means[0])


def _pair_moments(
    pairs: Pairs, state: PairState, places: Tensor | None
) -> tuple[Pairs, Tensor, Tensor | None]:
    """Pairs at ratings, and mean and variance of their terms l + a·r + δ.

    All pairs, or those at some places. The variance is None for points.
    """
    mean, product = pair_mean(pairs, state), state.products
    variance = state.effects.variance
    if places is not None:
        pairs, kept = pairs.at(places)
        mean, product = mean[kept], product[kept]
        variance = None if variance is None else variance[kept]
    if variance is None:
        return pairs, mean, None
    layout = Layout(state.rows.mean.shape[1], False, mean.device)
    of_rows, of_values = (
        layout.pack(side.mean[:, :, None] * side.mean[:, None]) + side.covariance
        for side in (state.rows, state.values)
        if side.covariance is not None
    )
    # ⟨E[aaᵀ], E[rrᵀ]⟩, where entries off the diagonal are packed once and count twice.
    of_values = of_values * layout.pack_dual(
        torch.ones_like(state.rows.prior_precision)
    )
    square = of_rows.index_select(0, pairs.rows)
    square = torch.linalg.vecdot(square, of_values.index_select(0, pairs.values))
    return pairs, mean, (square - product.square()).clamp_(min=0) + variance


def pair_mean(pairs: Pairs, state: PairState) -> Tensor:
    """Means of the terms of each pair."""
    levels = state.levels.mean.index_select(0, pairs.rows)
    return state.products + state.effects.mean + levels


def _products(pairs: Pairs, rows: Side, values: Side) -> Tensor:
    a = rows.mean.index_select(0, pairs.rows)
    return torch.linalg.vecdot(a, values.mean.index_select(0, pairs.values))


@dataclass(frozen=True)
class ColumnSweep:
    """An update of the terms of all columns, given the factorisation.

    Attributes
    ----------
    problem : Problem
    rule : Rule
    update_rows : callable
    noise_precision : float
        β.
    """

    problem: Problem
    rule: Rule
    update_rows: UpdateRows
    noise_precision: float

    def __call__(self, state: State) -> tuple[ColumnState, ...]:
        """Columns after a sweep over their terms."""
        problem, ratings = self.problem, self.problem.users
        weight = (
            ratings.weight
            * state.users.relative_precision[problem.user_index]
            * state.items.relative_precision[ratings.others]
        )
        residual = ratings.target - fitted_values(
            ratings, state.users.mean, state.items.mean, problem.layout
        )
        residual -= column_mean(problem.columns, state.columns)
        columns = []
        for column, known in zip(problem.columns, state.columns, strict=True):
            W, T = _group_sums(column.values, weight, residual)
            values = self._effects(known.values, W, T + W * known.values.mean)
            residual -= column.values.spread(values.mean - known.values.mean)
            items, residual = self._pairs(column.items, known.items, weight, residual)
            users, residual = self._pairs(column.users, known.users, weight, residual)
            columns.append(ColumnState(values, users, items))
        return tuple(columns)

    def _pairs(
        self, pairs: Pairs, state: PairState, weight: Tensor, residual: Tensor
    ) -> tuple[PairState, Tensor]:
        """The terms of pairs, and the residuals after them."""
        W, T = _group_sums(pairs, weight, residual)
        before = pair_mean(pairs, state)
        T = T + W * before
        target = T / W.clamp(min=torch.finfo(W.dtype).tiny) - before + state.products
        if self._has_products(state):
            order = pairs.to_values
            rows = self._rows(pairs.by_row, W, target, state.rows, state.values)
            values = self._rows(
                pairs.by_value, W[order], target[order], state.values, rows
            )
            products = _products(pairs, rows, values)
            state = replace(state, rows=rows, values=values, products=products)
        state = self._pair_effects(pairs, state, W, T - W * state.products)
        return state, residual - pairs.spread(pair_mean(pairs, state) - before)

    def _has_products(self, state: PairState) -> bool:
        """Whether products are more than nothing, or have not been learned yet."""
        if state.rows.covariance is None or not len(state.products):
            return True
        (square,) = fetched(total(state.products.square()))
        return square > LEAST_PRODUCT * len(state.products)

    def _pair_effects(
        self, pairs: Pairs, state: PairState, W: Tensor, T: Tensor
    ) -> PairState:
        """Effects and levels by sums of weights and of weighted residuals."""
        if self.rule.is_certain:
            # Points and draws have no level beside the bias.
            levels = _no_levels(pairs.shape[0], T)
            return replace(
                state, effects=self._effects(state.effects, W, T), levels=levels
            )
        effects, levels = state.effects, state.levels
        beta = self.noise_precision
        of_levels = LEVEL_PRECISION if self.problem.layout.biased else NO_LEVEL
        evidence = PairEvidence(pairs, beta * W, beta * T, of_levels)
        tau = evidence.likeliest_precision(
            None if effects.variance is None else effects.precision
        )
        level, precision = evidence.levels(tau)
        A, g, h = evidence.g + tau, evidence.g, evidence.h
        mean = (h - g * level[pairs.rows]) / A
        of_level = (1 / precision)[pairs.rows]
        mean = over_relax(mean, effects.mean)
        square = total(mean.square() + 1 / A + (g / A).square() * of_level)
        (known_square,) = fetched(square)
        return replace(
            state,
            effects=Effects(
                mean,
                1 / A + (tau / A).square() * of_level,
                self.rule.coef_precision(len(mean), known_square),
                -total(A.log()) - total(precision.log()),
            ),
            levels=Effects(over_relax(level, levels.mean), 1 / precision, of_levels),
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
        precision = self.rule.coef_precision(len(mean), known_square)
        return Effects(mean[:, 0], variance, precision, log_det)

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
        covariance = None if self.rule.is_certain else other.covariance
        moments = SideMoments.of(
            other.mean, covariance, torch.ones_like(other.mean[:, 0]), layout, map
        )
        given = SideConditional(
            ratings, side, moments, _nothing, self.noise_precision, layout, map
        )
        side, _ = self.update_rows(given, self.rule)
        return self.rule.centred_prior(side, layout)


def _nothing(rows: slice) -> None:
    return None


def _group_sums(
    groups: Groups, weight: Tensor, residual: Tensor
) -> tuple[Tensor, Tensor]:
    sums = groups.sums(torch.stack([weight, weight * residual], 1))
    return sums[:, 0], sums[:, 1]
