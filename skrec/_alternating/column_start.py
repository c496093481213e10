"""The start of terms of columns of context beside a factorisation."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .conditional import fitted_values
from .evidence import PRIOR_ROWS
from .layout import Layout
from .pair_evidence import PairEvidence
from .problem import Problem
from .rules import Rule
from .scalars import fetched, total
from .start import leading_singular_vectors
from .state import PRIOR_VARIANCE, ColumnState, Effects, PairState, Side, State
from .symmetric import identity
from .value_pairs import Groups, ValuePairs

# A prior for the variance of slopes, worth one row. Slopes of standardised numbers are
# smaller than other effects, and each lasts for all ratings of a row, so that where
# they are none a wider prior would let too much noise in.
SLOPE_VARIANCE = 1e-3

# Factors of a column, if it has so many values, and extra columns of the power
# iteration that their start takes.
MAX_FACTORS, OVERSAMPLING = 4, 4

# Shrinkage of the start in ratings, and start of the precision of factors.
SHRINKAGE, ROW_PRECISION = 10.0, 100.0

# Alternations of the noise and the precision of effects that als keeps.
N_ROUNDS = 3


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
            return _with_products(pairs, weight, residual, precision)
        prior_variance = PRIOR_VARIANCE if has_values else SLOPE_VARIANCE
        if rule.keeps_precision:
            precision = _likeliest_penalty(
                problem, pairs, residual, rule, prior_variance
            )
        return _without_products(pairs, residual, precision, prior_variance)

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


def _without_products(
    pairs: ValuePairs, like: Tensor, precision: float, prior_variance: float
) -> PairState:
    n_rows, n_values = pairs.shape
    return PairState(
        Side.at(like.new_zeros(n_rows, 0)),
        Side.at(like.new_zeros(n_values, 0)),
        Effects(like.new_zeros(len(pairs)), None, precision, 0.0, prior_variance),
        Effects(like.new_zeros(n_rows)),
        like.new_zeros(len(pairs)),
    )


def _with_products(
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
        Effects(residual.new_zeros(n_rows)),
        residual.new_zeros(len(pairs)),
    )
