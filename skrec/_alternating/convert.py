"""Conversion of solver state to a `Posterior`, and back to a state to start from.

Solvers work in standard units, and a `Posterior` is in rating units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .._data.units import Units
from .._interfaces import Start
from .._threads import torch_threads
from .axes import Axes, AxisVariances
from .covariances import AxisCovariance, PackedCovariance
from .feature_weights import Block, LinkMatrix
from .layout import Layout
from .links import DESCRIBED, IMPLICIT, FittedLinkMatrix
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

# A small multiple of the identity keeps the covariance of coefficients invertible.
MIN_COEF_VARIANCE = 1e-9

# A coefficient of standardised context beyond this belongs to a column whose unit has
# changed since the fit, and is of no use.
MAX_COEF = 1e6


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
        return selection * count / np.where(w > 0, w, 1), float(ratio)

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


def as_state(
    last: Start[Posterior],
    problem: Problem,
    units: Units,
    *,
    exponent: float = 0.0,
    with_covariance: bool = True,
) -> State:
    """A state to start from; new rows start at their prior.

    The precision of a prior grows with the row's count to the power of `exponent`.
    """
    model, row_units = last.model, RowUnits.of(units, problem)
    coef, coef_covariance = _standard_coef(model, units, last.numbers)
    of_users = _SideImport(
        model.users, problem.users, last.users, last.columns.user, last.items
    )
    of_items = _SideImport(
        model.items, problem.items, last.items, last.columns.item, last.users
    )
    users, items = (
        side.state(row_units, exponent, with_covariance=with_covariance)
        for side in (of_users, of_items)
    )
    return State(
        users=users,
        items=items,
        coef=row_units.tensor(coef),
        coef_factor=row_units.tensor(np.linalg.cholesky(coef_covariance).T),
        noise_precision=units.scale**2 / np.nan_to_num(model.noise_variance, nan=1.0),
    )


def check_row_size(last: Posterior, n_factors: int | None, biased: bool) -> None:
    """Refuse to continue a fit with other factors or biases; None is any number."""
    before = {"n_factors": last.n_factors, "biased": last.row_size > last.n_factors}
    now = {"n_factors": n_factors, "biased": biased}
    if n_factors is None:
        del before["n_factors"]
    changed = [name for name, value in before.items() if now[name] != value]
    if changed:
        had, has = (
            " and ".join(f"{name}={values[name]}" for name in changed)
            for values in (before, now)
        )
        raise ValueError(
            f"The last fit, which is to be continued, had {had}, but now there is "
            f"{has}. Set it back, or begin anew by fit with warm_start=False."
        )


def _standard_coef(
    last: Posterior, units: Units, numbers: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the coefficients in standard units."""
    if numbers is None:
        numbers = np.arange(len(last.coef))
    # The last coefficient is that of new columns.
    last_scale = np.append(last.units.feature_scale, np.inf)[numbers]
    covariance = np.pad(last.coef_covariance, (0, 1))[numbers][:, numbers]
    feature_scale = np.nan_to_num(units.feature_scale, posinf=0)
    ratio = feature_scale / last_scale / units.scale
    with np.errstate(over="ignore", invalid="ignore"):
        coef = np.append(last.coef, 0)[numbers] * (feature_scale / units.scale)
        covariance = covariance * ratio * ratio[:, None]
        known = np.abs(coef) < MAX_COEF
        known &= covariance.diagonal() < MAX_COEF**2
    covariance = np.where(np.outer(known, known), covariance, 0)
    # Coefficients of constant columns are known to be zero, nearly.
    return np.where(known, coef, 0), covariance + MIN_COEF_VARIANCE * np.eye(len(coef))


@dataclass(frozen=True)
class _SideImport:
    """One side of a `Posterior`, on its way to the state of a problem.

    Attributes
    ----------
    known : Rows
    ratings : Ratings
    where, columns, others : ndarray
        Numbers in the posterior of the problem's rows, of the columns of their
        described features, and of the rows of the other side; -1 is a new one.
    """

    known: Rows
    ratings: Ratings
    where: np.ndarray
    columns: np.ndarray
    others: np.ndarray

    def state(
        self, row_units: RowUnits, exponent: float, *, with_covariance: bool
    ) -> Side:
        """The rows in standard units, perhaps with covariances."""
        known, layout = self.known, row_units.layout
        alpha, shape = known.relative_precisions(self.where)
        own_covariance = row_units.standard_covariances(known.residual_covariance[-1])
        side = Side(
            mean=row_units.standard_rows(self._means()),
            prior_mean=row_units.standard_rows(known.prior_mean[-1, -1]),
            prior_precision=inverse(own_covariance),
            relative_precision=row_units.tensor(alpha),
            relative_shape=row_units.tensor(shape),
            concentration=known.concentration,
        )
        if isinstance(known.covariance, AxisCovariance):
            variance = row_units.tensor(
                self._axis_variances(known.covariance, exponent)
            )
            axes = row_units.standard_axes(known.covariance)
            side = replace(side, axes=AxisVariances(axes, variance))
        elif with_covariance:
            covariance = row_units.standard_covariances(self._covariances(exponent))
            side = replace(side, covariance=layout.pack(covariance))
        weights = [self._weights(block, row_units) for block in self.ratings.features]
        return side.with_weights(self.ratings, weights)

    def _weights(self, block: Block, row_units: RowUnits) -> LinkMatrix:
        """Weights of a block in standard units, zero if it is new."""
        if block.name not in self.known.links:
            return LinkMatrix.at_zero(block, row_units.layout.row_size)
        known = self.known.links[block.name]
        numbers = self.columns if block.name == DESCRIBED else self.others
        columns = known.columns_of(numbers)
        # The same weights for entries that are scaled otherwise.
        ratio = known.scale / block.scale if block.scale else 0.0
        # The last row is that of new columns.
        mean = np.pad(known.mean[-1], [(0, 1), (0, 0)])[columns] * ratio
        covariance = known.prior_covariance * max(ratio, 1e-3) ** 2
        precision = inverse(row_units.standard_covariances(covariance))
        return LinkMatrix.at(row_units.standard_rows(mean), precision)

    def _means(self) -> np.ndarray:
        """Means of the rows; those of new ones are their prior's."""
        known, is_new = self.known, self.where < 0
        *_, mean = known.means(self.where)
        mean[is_new] -= known.cold_offset[-1]
        if self._implies_new:
            link = known.links[IMPLICIT]
            mean[is_new] += link.effect_means(self._implicit_features(link)[is_new])[-1]
        return mean

    def _covariances(self, exponent: float) -> np.ndarray:
        """Covariances of the rows; those of new ones are their prior's."""
        known, is_new = self.known, self.where < 0
        *_, covariance = known.covariances(self.where)
        if self._implies_new:
            link = known.links[IMPLICIT]
            _, spread = link.effects(self._implicit_features(link)[is_new])
            covariance[is_new] += spread[-1] - link.effect_covariance[-1]
        if exponent:
            count = array(self.ratings.count.double())[is_new]
            covariance[is_new] /= (count**exponent)[:, None, None]
        return covariance

    def _axis_variances(self, stored: AxisCovariance, exponent: float) -> np.ndarray:
        """As `_covariances`, along the axes of those of the last fit."""
        known, is_new = self.known, self.where < 0
        variance = stored.variance[np.maximum(self.where, 0)]
        numbers, place = np.unique(self.where[is_new], return_inverse=True)
        new = stored.along(known.prior_covariance[-1, numbers])[place]
        if self._implies_new:
            link = known.links[IMPLICIT]
            energy = link.energies(self._implicit_features(link)[is_new])
            new += energy[:, None] * stored.along(link.covariance[-1:])
            new -= stored.along(link.effect_covariance[-1:])
        if exponent:
            new /= (array(self.ratings.count.double())[is_new] ** exponent)[:, None]
        variance[is_new] = new
        return variance

    @property
    def _implies_new(self) -> bool:
        """Whether new rows are predicted by the rows that they have ratings with."""
        has_link = IMPLICIT in self.known.links and not self.ratings.features
        return has_link and bool((self.where < 0).any())

    def _implicit_features(self, link: FittedLinkMatrix) -> sparse.csr_array:
        """1/√n for each of the n others that a row has ratings with.

        Columns are those of the weights, which new others do not have.
        """
        offsets, others = array(self.ratings.offsets), array(self.ratings.others)
        shape = len(self.ratings), len(self.others)
        # A copy, since duplicates are summed in place.
        matrix = sparse.csr_array(
            (np.ones(len(others)), others, offsets), shape, copy=True
        )
        matrix.sum_duplicates()
        matrix.data[:] = 1
        root = np.sqrt(matrix.sum(axis=1))
        columns = link.columns_of(self.others)
        known = np.flatnonzero(columns >= 0)
        places = sparse.csr_array(
            (np.ones(len(known)), (known, columns[known])),
            shape=(len(self.others), link.mean.shape[1]),
        )
        return sparse.csr_array(sparse.diags_array(1 / root) @ matrix @ places)
