"""Conversion of the state of a solver, in standard units, to a `Posterior`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .._data.units import Units
from .._threads import torch_threads
from .axes import Axes, AxisVariances
from .covariances import AxisCovariance, PackedCovariance
from .feature_weights import Block, LinkMatrix
from .layout import Layout
from .links import DESCRIBED, FittedLinkMatrix
from .posterior import Posterior
from .problem import Problem
from .ratings import Ratings
from .rows import FactorSums, Rows
from .state import (
    ColumnState,
    Effects,
    PairState,
    Side,
    State,
)
from .symmetric import inverse
from .triangles import packed
from .value_pairs import ValueColumn, ValuePairs
from .value_terms import (
    FittedColumn,
    FittedEffects,
    FittedFactors,
    FittedLevels,
    FittedPairs,
)


def array(tensor: Tensor) -> np.ndarray:
    """A tensor of any device as an array."""
    return tensor.cpu().numpy()


@dataclass(frozen=True)
class RowUnits:
    """Conversion of rows and their covariances to rating units and back.

    Attributes
    ----------
    scale : ndarray of shape (row_size,)
        Rating units per standard unit.
    layout : Layout
    like : Tensor
        Tensor of the dtype and the device of standard rows.
    """

    scale: np.ndarray
    layout: Layout
    like: Tensor

    @classmethod
    def of(cls, units: Units, problem: Problem) -> RowUnits:
        layout = problem.layout
        scale = units.row_scale(layout.n_factors, layout.row_size)
        return cls(scale, layout, problem.target)

    def rows(self, tensor: Tensor) -> np.ndarray:
        """Standard rows in rating units."""
        return array(tensor).astype(self.scale.dtype, copy=False) * self.scale

    def covariances(self, tensor: Tensor) -> np.ndarray:
        """Standard covariances in rating units."""
        square = np.outer(self.scale, self.scale)
        return array(tensor).astype(self.scale.dtype, copy=False) * square

    def packed_covariances(self, tensor: Tensor) -> PackedCovariance:
        """Packed standard covariances in rating units."""
        square = packed(np.outer(self.scale, self.scale))
        values = array(tensor).astype(self.scale.dtype, copy=False)
        return PackedCovariance.of_triangles(values, square)

    def axis_covariance(self, variances: AxisVariances) -> AxisCovariance:
        """Variances along axes of standard rows, with the axes in rating units."""
        dtype = self.scale.dtype
        basis = array(variances.axes.basis).astype(dtype) * self.scale[:, None]
        variance = array(variances.variance).astype(dtype, copy=False)
        return AxisCovariance(basis, variance)

    def standard_axes(self, covariance: AxisCovariance) -> Axes:
        """Axes of rating units in standard ones."""
        basis = covariance.basis / self.scale[:, None]
        return Axes(self.tensor(basis), self.tensor(np.linalg.inv(basis)))

    def tensor(self, values: np.ndarray) -> Tensor:
        """An array as a tensor."""
        return torch.as_tensor(values, dtype=self.like.dtype, device=self.like.device)

    def standard_rows(self, rows: np.ndarray) -> Tensor:
        """Rows of rating units in standard ones."""
        return self.tensor(rows / self.scale)

    def standard_covariances(self, covariances: np.ndarray) -> Tensor:
        """Covariances of rating units in standard ones."""
        return self.tensor(covariances / np.outer(self.scale, self.scale))


@torch_threads(1)
def in_rating_units(
    state: State,
    units: Units,
    problem: Problem,
    *,
    knows_variance: bool,
    learns_prior: bool = True,
    last: Posterior | None = None,
) -> Posterior:
    """The state of an alternating solver in rating units, as NumPy arrays.

    An unknown row is predicted by its prior mean where the solver `learns_prior`, else
    by the mean of all rows. After further ratings it stays as in the `last` fit.
    """
    row_units = RowUnits.of(units, problem)
    state = _with_levels(state, problem.layout)
    known = (None, None) if last is None else (last.users, last.items)
    of_users, of_items = (
        _SideExport(side, ratings, _cold_offset(side, rows, learns_prior, row_units))
        for side, ratings, rows in (
            (state.users, problem.users, known[0]),
            (state.items, problem.items, known[1]),
        )
    )
    users = of_users.rows(of_items, row_units, units.scale)
    items = of_items.rows(of_users, row_units, units.scale)
    coef = array(state.coef.double()) * units.scale / units.feature_scale
    return Posterior(
        users=users,
        items=items,
        n_factors=problem.layout.n_factors,
        centre=units.centre,
        units=units,
        coef=coef,
        coef_covariance=array(state.coef_covariance.double()) * units.scale**2,
        noise_variance=units.scale**2 * state.noise_variance,
        knows_variance=knows_variance,
        columns=tuple(
            _fitted_column(known, column, units.scale, problem.users.weight)
            for known, column in zip(state.columns, problem.columns, strict=True)
        ),
    )


def _fitted_column(
    state: ColumnState, column: ValueColumn, scale: float, weight: Tensor
) -> FittedColumn:
    """Terms of a column of context in rating units."""
    effects = _fitted_effects(state.values, scale)
    if column.number is not None:
        # The linear term has the effect on all.
        effects.variance[:] = 0
    (of_values,) = column.values.sums(weight)
    return FittedColumn(
        effects,
        _fitted_pairs(state.users, column.users, scale),
        _fitted_pairs(state.items, column.items, scale),
        array(of_values.double()),
        column.number,
    )


def _fitted_effects(effects: Effects, scale: float) -> FittedEffects:
    mean, precision = _in_range(effects.mean, scale), effects.precision
    variance = torch.zeros_like(mean)
    if effects.variance is not None:
        variance = _in_range(effects.variance, scale)
    return FittedEffects(
        scale * np.append(array(mean), np.float32(0)),
        scale**2 * np.append(array(variance), np.float32(1 / precision)),
    )


def _in_range(values: Tensor, scale: float) -> Tensor:
    """Values in double precision where squares of the scale need it."""
    return values if 1e-9 < scale < 1e9 else values.double()


def _fitted_pairs(state: PairState, pairs: ValuePairs, scale: float) -> FittedPairs:
    """Terms of pairs, where factors of values have the unit of ratings."""
    keys = pairs.rows * pairs.shape[1] + pairs.values
    effects, levels = _fitted_effects(state.effects, scale), None
    if state.covariance is not None and state.levels.variance is not None:
        variance, covariance = (
            scale**2 * np.append(array(_in_range(values, scale)), np.float32(0))
            for values in (state.levels.variance, state.covariance)
        )
        if pairs.numbers is None:
            # Of an unknown row, too, more than the effect of a value is unknown.
            variance[-1] = variance[:-1].mean()
        levels = FittedLevels(variance, covariance)
    return FittedPairs(
        _fitted_factors(state.rows, 1.0),
        _fitted_factors(state.values, scale),
        array(keys),
        effects,
        levels,
    )


def _with_levels(state: State, layout: Layout) -> State:
    """The same state, where biases have the levels of rows beside context."""
    if not layout.biased:
        return state
    users, items = state.users, state.items
    for column in state.columns:
        users, items = (
            replace(side, mean=_raised(side.mean, pairs.levels.mean))
            for side, pairs in ((users, column.users), (items, column.items))
        )
    return replace(state, users=users, items=items)


def _raised(rows: Tensor, levels: Tensor) -> Tensor:
    return torch.cat([rows[:, :-1], rows[:, -1:] + levels[:, None]], dim=1)


def _fitted_factors(side: Side, scale: float) -> FittedFactors:
    mean = np.pad(array(side.mean), ((0, 1), (0, 0)))
    covariance = None
    if side.covariance is not None:
        layout = Layout(mean.shape[1], False, side.mean.device)
        prior = array(_in_range(inverse(side.prior_precision), scale))
        known = array(layout.unpack(side.covariance))
        covariance = scale**2 * np.concatenate([known, prior[None]])
    return FittedFactors(scale * mean[None], covariance)


def _cold_offset(
    side: Side, known: Rows | None, learns_prior: bool, row_units: RowUnits
) -> Tensor:
    """The row that stands for an unknown one, minus its prior mean."""
    if known is not None:
        return row_units.standard_rows(known.cold_offset[-1])
    if learns_prior:
        return torch.zeros_like(side.prior_mean)
    return side.own.mean(0) - side.prior_mean


@dataclass(frozen=True)
class _SideExport:
    """One side of the state of a problem, on its way to a `Posterior`.

    Attributes
    ----------
    side : Side
    ratings : Ratings
    cold_offset : Tensor of shape (row_size,)
        The row that stands for an unknown one, minus its prior mean.
    """

    side: Side
    ratings: Ratings
    cold_offset: Tensor

    @cached_property
    def deviations(self) -> Tensor:
        """Rows minus the row that their described features alone predict."""
        rest = self.side.mean - self.side.prior_mean - self.cold_offset
        for block, w in zip(self.ratings.features, self.side.weights, strict=True):
            if block.name == DESCRIBED:
                rest = rest - block.times(w.mean)
        return rest

    def selection(
        self, others: _SideExport, layout: Layout
    ) -> tuple[np.ndarray, float]:
        """Shares of the others' deviations in predictions, summed over ratings.

        And the ratio of their variance between rows to that within, by the method of
        moments: means over the counterparts of a row vary more than those over
        counterparts drawn at random.
        """
        ratings, of_others = self.ratings, others.deviations
        if ratings.unobserved is not None:
            return np.zeros(len(ratings)), 0.0
        weight, x = ratings.weight, self.side.mean.clone()
        x[:, layout.n_factors :] = 1
        sums = ratings.sum(of_others, weight)
        total = (sums * x).sum(1)
        sums_of_weight = torch.stack(
            [ratings.sum_values(weight), ratings.sum_values(weight.square())], 1
        )
        ratings.share.complete(sums_of_weight)
        # The mean square of one share of a row, over counterparts drawn at random.
        counts = others.ratings.count
        S = of_others.T @ (of_others * counts[:, None]) / counts.sum()
        parts = total, (x @ S * x).sum(1), *sums_of_weight.T, ratings.count
        selection, square, w, w2, count = array(torch.stack(parts).double())
        drawn = (square > 0) & (w > 0)
        between = selection[drawn] ** 2 / (w[drawn] * square[drawn])
        excess = between.sum() - (w2[drawn] / w[drawn]).sum()
        within = w[drawn].sum() - between.sum()
        # One counterpart tells no more than itself.
        ratio = excess / max(within, excess) if excess > 0 else 0.0
        # Rows know their count alone.
        return selection * (count / np.where(w > 0, w, 1)), float(ratio)

    def rows(self, others: _SideExport, row_units: RowUnits, scale: float) -> Rows:
        """The rows, with `scale` rating units per standard unit."""
        side, ratings, layout = self.side, self.ratings, row_units.layout
        covariance: PackedCovariance | AxisCovariance | None = None
        if side.axes is not None:
            covariance = row_units.axis_covariance(side.axes)
        elif side.covariance is not None:
            covariance = row_units.packed_covariances(side.covariance)
        own = row_units.covariances(inverse(side.prior_precision))[None]
        links = {
            block.name: _fitted_link(block, w, row_units)
            for block, w in zip(ratings.features, side.weights, strict=True)
        }
        of_links = sum(link.effect_covariance for link in links.values())
        mean = row_units.rows(side.mean)[None]
        selection, ratio = self.selection(others, layout)
        return Rows(
            mean=mean,
            covariance=covariance,
            prior_mean=row_units.rows(side.prior_mean)[None, None],
            prior_covariance=(own + of_links)[:, None],
            cold_offset=row_units.rows(self.cold_offset)[None],
            residual_covariance=own,
            count=array(ratings.count.double()),
            relative_variance=array(side.relative_variance.double()),
            concentration=side.concentration,
            selection=scale * selection,
            selection_ratio=ratio,
            factor_sums=FactorSums.of(mean[..., : layout.n_factors]),
            links=links,
        )


def _fitted_link(
    block: Block, weights: LinkMatrix, row_units: RowUnits
) -> FittedLinkMatrix:
    """Link matrix of a block in rating units."""
    C = row_units.covariances(weights.covariance)
    spread = torch.cov(block.times(weights.mean).T, correction=0).reshape(C.shape)
    return FittedLinkMatrix(
        mean=row_units.rows(weights.mean)[None],
        covariance=C[None],
        prior_covariance=row_units.covariances(inverse(weights.precision)),
        effect_covariance=(row_units.covariances(spread) + C)[None],
        column_mean=array(block.mean).astype(C.dtype, copy=False),
        scale=block.scale,
    )
