"""Rows by their conditionals along axes that all rows share, tile by tile.

For rows of many factors, and for those of a warm-up of "vb". Means come from conjugate
gradients, and variances are over the diagonals of precisions (see `conjugate`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from .._share import Share
from .._sparse import ParallelMap
from .axes import Axes, AxisVariances
from .conjugate import Quadratic, SharedSums, VarianceSums
from .feature_weights import Block, Direction, LinkMatrix
from .layout import Layout
from .moments import SideMoments, unobserved_totals
from .ratings import Ratings
from .rules import Rule
from .scalars import total
from .state import Side
from .symmetric import inverse

# Rows of a tile have about this many elements, so that they stay in the cache.
TILE_SIZE, MIN_TILES, MIN_TILE_ROWS = 2**17, 4, 512

# Tables of the rows of a tile that are alive at once.
TABLES_OF_ROWS = 16

T = TypeVar("T")


@dataclass(frozen=True)
class AxisConditional:
    """Objective of one side's rows given the other side's rows, along axes.

    These are points, or Gaussians with variances along axes of their own.

    Attributes
    ----------
    ratings : Ratings
    side, other : Side
        The rows as they are, and those of the other side.
    axes : Axes
    table, table_square : Tensor of shape (n_others, row_size)
        z of the other side along the axes, and its squares.
    noise_precision : float
        β.
    row_precision : Tensor of shape (n_rows, 1)
        β of each row.
    layout : Layout
    parallel_map : callable
    shared : tuple of SharedSums or VarianceSums
        Terms beside those of the ratings, of all rows.
    """

    ratings: Ratings
    side: Side
    other: Side
    axes: Axes
    table: Tensor
    table_square: Tensor
    noise_precision: float
    row_precision: Tensor
    layout: Layout
    parallel_map: ParallelMap
    shared: tuple[SharedSums | VarianceSums, ...]

    @classmethod
    def given(
        cls,
        ratings: Ratings,
        side: Side,
        other: Side,
        noise_precision: float,
        layout: Layout,
        parallel_map: ParallelMap,
    ) -> AxisConditional:
        """The objective, which is expected where the other side has variances."""
        k, variances, totals = layout.n_factors, other.axes, []
        one = torch.ones_like(other.relative_precision)
        if ratings.unobserved is not None:
            moments = SideMoments.of(other.mean, None, one, layout, parallel_map)
            totals = unobserved_totals(ratings.unobserved, moments, layout)
        axes, diagonal = _axes(ratings, side, other, totals, layout)
        shared: list[SharedSums | VarianceSums] = [
            SharedSums.of(share, packed, axes, diagonal, layout)
            for share, packed in totals
        ]
        if variances is not None:
            basis = variances.axes.basis
            forms, offset = axes.basis[:k].T @ basis[:k], basis[k:].sum(0)
            shared.append(VarianceSums(ratings, variances.variance, forms, offset))
        beta = noise_precision * side.relative_precision[:, None]
        if side.prior_weight is not None:
            beta /= side.prior_weight[:, None]
        table = axes.forms(layout.extend(other.mean)[:, : layout.row_size])
        return cls(
            ratings,
            side,
            other,
            axes,
            table,
            table.square(),
            noise_precision,
            beta,
            layout,
            parallel_map,
            tuple(shared),
        )

    def map_tiles(self, function: Callable[[slice, Quadratic], T]) -> list[T]:
        """Values of a function of the rows of each tile and their objective."""
        n_rows, size = self.side.mean.shape
        tile_rows = self.layout.work_size // (TABLES_OF_ROWS * size)
        if self.layout.device.type == "cpu":
            share = max(MIN_TILE_ROWS, -(-n_rows // MIN_TILES))
            tile_rows = min(share, TILE_SIZE // size)
        tiles = self.ratings.tiles(max(1, tile_rows))
        return list(
            self.parallel_map(lambda tile: function(tile[0], self._of(*tile)), tiles)
        )

    def _of(self, rows: slice, ratings: Ratings) -> Quadratic:
        side, other, prior = self.side, self.other, self.side.row_priors
        gamma = other.relative_precision.index_select(0, ratings.others)
        ratings = replace(ratings, weight=gamma.mul_(ratings.weight))
        if self.layout.biased:
            offset = other.mean[:, -1].index_select(0, ratings.others)
            target = torch.sub(ratings.target, offset, out=offset)
            ratings = replace(ratings, target=target)
        if prior is not None and prior.axes is not None:
            prior_mean = prior.mean[rows]
            prior_precision = prior.axes.variance[rows].reciprocal()
        else:
            prior_mean = side.prior_means(rows).view(-1, side.mean.shape[1])
            prior_precision = torch.ones_like(side.prior_mean)[None]
        return Quadratic(
            ratings,
            self.table,
            self.table_square,
            self.axes.coordinates(side.mean[rows]),
            self.axes.coordinates(prior_mean),
            prior_precision,
            self.row_precision[rows],
            [sums.of_rows(rows, ratings) for sums in self.shared],
        )


def _axes(
    ratings: Ratings,
    side: Side,
    other: Side,
    totals: Sequence[tuple[Tensor | None, Tensor]],
    layout: Layout,
) -> tuple[Axes, Tensor | None]:
    """Axes of the prior and of all moments of the other side together.

    Those of sums over unobserved pairs, if there are `totals`, come with the diagonal
    that the first of these has along them. Rows of an earlier fit keep their axes.
    """
    d, k, prior = layout.row_size, layout.n_factors, side.row_priors
    if prior is not None and prior.axes is not None:
        return prior.axes.axes, None
    if totals:
        M = layout.unpack_extended(totals[0][1][None])[0]
        return Axes.of(side.prior_precision, M[:d, :d])
    z = layout.extend(other.mean)[:, :d]
    count = torch.bincount(ratings.others, ratings.weight, len(z))
    count = ratings.share.sum(count).to(z) * other.relative_precision
    M = (z * count[:, None]).T @ z
    if other.axes is not None:
        basis = other.axes.axes.basis[:k]
        M[:k, :k] += (basis * (count @ other.axes.variance)) @ basis.T
    axes, _ = Axes.of(side.prior_precision, M)
    return axes, None


def update_along_axes(given: AxisConditional, rule: Rule) -> tuple[Side, Tensor]:
    """Rows by the rule, and the expected residual sum of squares of each.

    Perhaps with a step of the weights of features that rows follow.
    """
    if given.side.weights and rule.steps_weights:
        return _update_with_weights(given, rule)
    side, axes = given.side, given.axes
    mean = torch.empty_like(side.mean)
    squares = torch.empty_like(side.relative_precision)
    variance = torch.empty_like(side.mean) if rule.has_covariance else None

    def update_tile(rows: slice, objective: Quadratic) -> Tensor:
        x, descent = objective.start, objective.descent
        if rule.moves_rows:
            x, descent = _over_relaxed(objective, rule)
        mean[rows] = axes.rows(x) if rule.moves_rows else side.mean[rows]
        squares[rows] = objective.squares(x, descent)
        if variance is not None:
            variance[rows] = objective.diagonal.reciprocal()
            if not rule.is_certain:
                squares[rows] += objective.spread_squares(variance[rows])
            if side.prior_weight is not None:
                variance[rows] /= side.prior_weight[rows, None]
        if side.row_priors is None:
            return x.new_zeros(())
        return total(objective.squares_of(x - objective.start))

    share = given.ratings.share
    squared_change = share.sum(torch.stack(given.map_tiles(update_tile)).sum())
    share.complete(mean, squares, *([] if variance is None else [variance]))
    variances = None if variance is None else AxisVariances(axes, variance)
    side = replace(
        side,
        mean=mean,
        covariance=None,
        axes=variances,
        log_det=side.log_det if variances is None else variances.log_det,
        squared_change=squared_change,
    )
    return side, squares


def _over_relaxed(objective: Quadratic, rule: Rule) -> tuple[Tensor, Tensor]:
    """Rows beyond the minimum of an objective, and their h − Ax."""
    x, descent = objective.minimise(rule.max_steps, rule.least_share)
    # Both are linear along the way.
    return (
        x + rule.relaxation * (x - objective.start),
        descent + rule.relaxation * (descent - objective.descent),
    )


def _update_with_weights(given: AxisConditional, rule: Rule) -> tuple[Side, Tensor]:
    """As `update_along_axes`, with a step of the weights that rows follow.

    While the weights go by D, rows follow by Dᵀf over the diagonal of A, and both go as
    far as lowers the objective most.
    """
    side, axes, features = given.side, given.axes, given.ratings.features
    assert side.shift is not None
    rows = _Pass.over(given, rule)
    share, own, weight = rows.share, rows.own, rows.weight
    blocks = zip(features, side.weights, strict=True)
    found = [_axis_direction(block, w, rows, given) for block, w in blocks]
    directions, spreads = zip(*found, strict=True)
    shift = torch.stack([direction.shift for direction in directions]).sum(0)
    follow = shift / rows.diagonal
    image = torch.empty_like(follow)

    def multiply(tile: tuple[slice, Quadratic]) -> None:
        some, objective = tile
        image[some] = objective.times(follow[some])

    list(given.parallel_map(multiply, rows.objectives))
    along = weight * (rows.deviation * shift + rows.descent * follow)
    curvatures = weight * (follow * (image - 2 * shift) + shift.square())
    slope, curvature = (share.sum(total(x[own])) for x in (along, curvatures))
    slope = slope + sum(direction.slope for direction in directions)
    curvature = curvature + sum(direction.curvature for direction in directions)
    length = torch.where(curvature > 0, slope / curvature, 0.0)
    gain = 2 * (rows.descent + rows.deviation) - length * (image - follow)
    gain = length * (follow * gain).sum(1) / given.row_precision[:, 0]
    mean, squares = axes.rows(rows.x + length * follow), rows.squares - gain
    variances: AxisVariances | None = None
    log_det = side.log_det
    if not rule.is_certain:
        variance = rows.diagonal.reciprocal()
        log_det = share.sum(AxisVariances(axes, variance[own]).log_det)
        # Rows follow weights that are uncertain.
        variances = AxisVariances(axes, variance.clone())
        for block, spread in zip(features, spreads, strict=True):
            spread = block.square[:, None] * spread
            variances.variance.addcmul_(variance.square(), spread)
        curvatures = ((rows.diagonal - 1) * variances.variance).sum(1)
        squares += curvatures / given.row_precision[:, 0]
    share.complete(mean, squares, *([] if variances is None else [variances.variance]))
    side = replace(
        side,
        mean=mean,
        covariance=None,
        axes=variances,
        log_det=log_det,
        weights=tuple(direction.taken(length) for direction in directions),
        shift=side.shift + axes.rows(length * shift),
    )
    return side, squares


@dataclass(frozen=True)
class _Pass:
    """Rows along the axes after an update given the weights.

    Those that this process computes, in tables of all rows.

    Attributes
    ----------
    x, descent, diagonal : Tensor of shape (n_rows, row_size)
        The rows, their h − Ax, and the diagonal of A.
    deviation, deviation_at_minimum : Tensor of shape (n_rows, row_size)
        x − m − Bᵀf, and that before rows are relaxed.
    squares : Tensor of shape (n_rows,)
        Residual sums of squares.
    weight : Tensor of shape (n_rows, 1)
        Factor of Λ for each row.
    objectives : list of tuple
        The rows of each tile, and their objective without them.
    share : Share
        The rows that this process computes.
    """

    x: Tensor
    descent: Tensor
    diagonal: Tensor
    deviation: Tensor
    deviation_at_minimum: Tensor
    squares: Tensor
    weight: Tensor
    objectives: list[tuple[slice, Quadratic]]
    share: Share

    @property
    def own(self) -> slice:
        """The rows of the share."""
        return self.share.rows(len(self.x))

    @classmethod
    def over(cls, given: AxisConditional, rule: Rule) -> _Pass:
        """A pass over the tiles of a side."""
        side = given.side
        x, descent, diagonal, deviation, lowest = (
            torch.empty_like(side.mean) for _ in range(5)
        )
        squares = torch.empty_like(side.relative_precision)
        relaxed = 1 + rule.relaxation

        def keep(rows: slice, objective: Quadratic) -> tuple[slice, Quadratic]:
            x[rows], descent[rows] = _over_relaxed(objective, rule)
            diagonal[rows] = objective.diagonal
            squares[rows] = objective.squares(x[rows], descent[rows])
            deviation[rows] = x[rows] - objective.prior_mean
            beyond = rule.relaxation / relaxed * (x[rows] - objective.start)
            lowest[rows] = deviation[rows] - beyond
            return rows, objective.without_rows()

        objectives = given.map_tiles(keep)
        weight = torch.ones_like(side.mean[:, :1])
        if side.prior_weight is not None:
            weight = side.prior_weight[:, None]
        tables = x, descent, diagonal, deviation, lowest, squares, weight
        return cls(*tables, objectives, given.ratings.share)


def _axis_direction(
    block: Block, weights: LinkMatrix, rows: _Pass, given: AxisConditional
) -> tuple[Direction, Tensor]:
    """Direction of the weights of a block, and the diagonal of C, along the axes.

    The weights have the covariance that is best given the diagonals of A.
    """
    axes, parallel_map = given.axes, given.parallel_map
    square = block.square * rows.weight[:, 0]
    diagonal = rows.diagonal[rows.own]
    response = rows.share.sum(square[rows.own] @ diagonal.reciprocal())
    free = (total(square) - response).clamp_(min=0)
    Omega = axes.form_matrix(weights.precision)
    C = inverse(free.diag() / len(block.columns) + Omega)
    of_prior = axes.coordinates(weights.mean) @ Omega
    deviation = rows.weight * rows.deviation_at_minimum
    rows.share.complete(deviation)
    step = (block.transposed_times(deviation, parallel_map) - of_prior) @ C
    weights = replace(
        weights,
        covariance=axes.basis @ C @ axes.basis.mT,
        response=axes.rows(response.diag()).mT @ axes.inverse,
    )
    direction = Direction(
        weights,
        axes.rows(step),
        shift=block.times(step, parallel_map),
        slope=-total(of_prior * step),
        curvature=total(step @ Omega * step),
    )
    return direction, C.diagonal()
