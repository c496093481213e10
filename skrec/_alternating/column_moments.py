"""Mean and variance of the terms of columns of context at each rating."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .layout import Layout
from .state import ColumnState, PairState
from .symmetric import identity
from .value_pairs import ValueColumn, ValuePairs


def column_mean(
    columns: tuple[ValueColumn, ...],
    states: tuple[ColumnState, ...],
    places: Tensor | None = None,
) -> Tensor:
    """Mean of the terms of all columns at each rating, or at some places."""
    means = []
    for column, state in zip(columns, states, strict=True):
        means.append(column.values.spread(state.values.mean, places))
        for pairs, terms in zip(column.pairs, state.pairs, strict=True):
            means.append(pairs.terms(*pair_means(pairs, terms), places=places))
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
        for pairs, terms in zip(column.pairs, state.pairs, strict=True):
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
