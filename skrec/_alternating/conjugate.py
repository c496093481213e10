"""Rows of many factors, by conjugate gradients in place of exact solutions.

The mean A⁻¹h of a row's conditional takes n k² + k³ operations for n ratings and k
factors. A product with A takes n k, besides the part that rows share:

    A x = β (Σ w z (z·x) + M x) + Λ x

with the sum M over unobserved pairs. In coordinates in which Λ is the identity and M is
diagonal, that part takes k, and A is close to its diagonal. A few steps of conjugate
gradients from the present row, preconditioned by the diagonal, are then nearly as good
as the mean (Takács, Pilászy and Tikk, 2011, without these coordinates). No step raises
the objective.

For further ratings a row keeps the diagonal of its precision in these coordinates: k
numbers for k (k + 1) / 2.

If the other side's rows are Gaussians with such diagonals, their covariances add to A
for each row the product of a matrix that all rows share, a diagonal and the transposed
matrix, so that expectations cost as little as points.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from .._share import Share
from .._sparse import ParallelMap
from .axes import Axes, AxisVariances
from .conditional import Layout, SideMoments, unobserved_totals
from .feature_weights import Block, Direction, LinkMatrix
from .ratings import Ratings
from .rules import Rule
from .scalars import total
from .state import Side
from .symmetric import inverse

T = TypeVar("T")

# Rows of a tile have about this many elements, so that they stay in the cache.
TILE_SIZE, MIN_TILES, MIN_TILE_ROWS = 2**17, 4, 512

# Tables of the rows of a tile that are alive at once.
TABLES_OF_ROWS = 16

# torch warns once a process that its compressed sparse rows are in beta.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0], [], [], (0, 0))


@dataclass(frozen=True)
class SharedSums:
    """Sums over unobserved pairs, along the axes: α Σ z zᵀ, α Σ c z and α Σ c².

    Attributes
    ----------
    share : Tensor of shape (n_rows, 1) or None
        Factor of the sums for each row; None is 1.
    moments : Tensor of shape (row_size,) or (row_size, row_size)
        The former is a diagonal.
    along : Tensor of shape (row_size,)
    square : Tensor of shape ()
    """

    share: Tensor | None
    moments: Tensor
    along: Tensor
    square: Tensor

    @classmethod
    def of(
        cls,
        share: Tensor | None,
        packed: Tensor,
        axes: Axes,
        diagonal: Tensor | None,
        layout: Layout,
    ) -> SharedSums:
        """Packed sums of e eᵀ; the diagonal of their head is given if it is one."""
        d, M = layout.row_size, layout.unpack_extended(packed[None])[0]
        moments = axes.form_matrix(M[:d, :d]) if diagonal is None else diagonal
        along, square = M.new_zeros(d), M.new_zeros(())
        if layout.biased:
            along, square = axes.forms(M[-1, :d]), M[-1, -1]
        return cls(share, moments, along, square)

    def of_rows(self, rows: slice, ratings: Ratings) -> SharedSums:
        """The sums of some rows, which have these ratings."""
        return self if self.share is None else replace(self, share=self.share[rows])

    @property
    def diagonal(self) -> Tensor:
        """Diagonal of the moments of each row, or one for all."""
        M = self.moments
        return self._shared(M if M.ndim == 1 else M.diagonal())

    def times(self, x: Tensor) -> Tensor:
        """Product of the moments and each row."""
        M = self.moments
        return self._shared(x * M if M.ndim == 1 else x @ M)

    def descent(self, x: Tensor) -> Tensor:
        """Half the negative gradient of the sum of squares."""
        return -self.times(x) - self._shared(self.along)

    def squares(self, x: Tensor) -> Tensor:
        """Sum of squares of each row x, shape (n_rows,)."""
        squares = (x * self.times(x)).sum(1)
        offset = 2 * (x @ self.along) + self.square
        return squares + (offset if self.share is None else self.share[:, 0] * offset)

    def _shared(self, values: Tensor) -> Tensor:
        return values if self.share is None else self.share * values


@dataclass(frozen=True)
class VarianceSums:
    """Sums over the ratings of each row of the covariances of the other side's rows.

    With the covariance C diag(s) Cᵀ of a row of the other side, a prediction has the
    variance Σ s (Hᵀx + b)², where H is the part of C that x meets, along the axes of x,
    and b the part of the offset.

    Attributes
    ----------
    ratings : Ratings
    others : Tensor of shape (n_others, row_size)
        s of the other side's rows.
    forms : Tensor of shape (row_size, row_size)
        H.
    offset : Tensor of shape (row_size,)
        b.
    """

    ratings: Ratings
    others: Tensor
    forms: Tensor
    offset: Tensor

    def of_rows(self, rows: slice, ratings: Ratings) -> VarianceSums:
        """The sums of some rows, which have these ratings."""
        return replace(self, ratings=ratings)

    @cached_property
    def variance(self) -> Tensor:
        """Σ w s over the ratings of each row."""
        return self.ratings.sum(self.others, self.ratings.weight)

    @property
    def diagonal(self) -> Tensor:
        """Diagonal of the moments of each row."""
        return self.variance @ self.forms.square().T

    def times(self, x: Tensor) -> Tensor:
        """Product of the moments and each row."""
        return (self.variance * (x @ self.forms)) @ self.forms.T

    def descent(self, x: Tensor) -> Tensor:
        """Half the negative gradient of the sum of variances."""
        return -(self.variance * (x @ self.forms + self.offset)) @ self.forms.T

    def squares(self, x: Tensor) -> Tensor:
        """Sum of the variances of each row x, shape (n_rows,)."""
        return (self.variance * (x @ self.forms + self.offset).square()).sum(1)


@dataclass(frozen=True)
class Quadratic:
    """Objective F of rows along the axes, β Σ w (y − c − x·z)² + (x − m)ᵀV⁻¹(x − m).

    The sum includes unobserved pairs.

    Attributes
    ----------
    ratings : Ratings
        Their targets are y − c.
    table, table_square : Tensor of shape (n_others, row_size)
        z of the other side, and its squares.
    start : Tensor of shape (n_rows, row_size)
        The rows as they are.
    prior_mean, prior_precision : Tensor of shape (n_rows or 1, row_size)
        m, and the diagonal of V⁻¹.
    noise_precision : Tensor of shape (n_rows, 1)
        β of each row.
    shared : sequence of SharedSums or VarianceSums
        Terms beside those of the ratings.
    """

    ratings: Ratings
    table: Tensor
    table_square: Tensor
    start: Tensor
    prior_mean: Tensor
    prior_precision: Tensor
    noise_precision: Tensor
    shared: Sequence[SharedSums | VarianceSums]

    @cached_property
    def diagonal(self) -> Tensor:
        """Diagonal of A of each row, for F = xᵀAx − 2 h·x + const."""
        squares = self.ratings.sum(self.table_square, self.ratings.weight)
        squares = sum((s.diagonal for s in self.shared), squares)
        return self.prior_precision + self.noise_precision * squares

    @cached_property
    def _of_start(self) -> tuple[Tensor, Tensor]:
        """h − Ax of the start, and the sum of squares."""
        ratings, x = self.ratings, self.start
        rest = ratings.target - self._products(x)
        weighted = ratings.weight * rest
        descent = ratings.sum(self.table, weighted)
        squares = ratings.sum_values(weighted * rest)
        if ratings.target_variance is not None:
            squares += ratings.sum_values(ratings.weight * ratings.target_variance)
        for s in self.shared:
            descent = descent + s.descent(x)
            squares = squares + s.squares(x)
        of_prior = self.prior_precision * (self.prior_mean - x)
        return torch.addcmul(of_prior, self.noise_precision, descent), squares

    @property
    def descent(self) -> Tensor:
        """h − Ax of the start."""
        return self._of_start[0]

    def times(self, x: Tensor) -> Tensor:
        """A x of each row."""
        weighted = self.ratings.weight * self._products(x)
        product = self.ratings.sum(self.table, weighted)
        product = sum((s.times(x) for s in self.shared), product)
        return torch.addcmul(self.prior_precision * x, self.noise_precision, product)

    def squares_of(self, x: Tensor) -> Tensor:
        """Σ w (x·z)² of each row, without unobserved pairs."""
        return self.ratings.sum_values(self.ratings.weight * self._products(x).square())

    def squares(self, x: Tensor, descent: Tensor) -> Tensor:
        """Residual sum of squares of each row x, by its h − Ax."""
        # F(x) = F(x₀) − (x − x₀)·(descent + descent₀) needs no pass over the ratings.
        descent_of_start, squares = self._of_start
        gain = (x - self.start) * (descent + descent_of_start)
        gain += (
            self.prior_precision
            * (x - self.start)
            * (x + self.start - 2 * self.prior_mean)
        )
        return squares - gain.sum(1) / self.noise_precision[:, 0]

    def spread_squares(self, variance: Tensor) -> Tensor:
        """What variances along the axes add to the expected sum of squares."""
        spread = ((self.diagonal - self.prior_precision) * variance).sum(1)
        return spread / self.noise_precision[:, 0]

    def minimise(self, max_steps: int, least_share: float) -> tuple[Tensor, Tensor]:
        """Rows after a few steps of conjugate gradients, and their h − Ax.

        Steps of a row end when one more would add less than a share to the fall of its
        objective, whatever rows its tile has.
        """
        x, descent, D = self.start, self.descent, self.diagonal
        direction = preconditioned = descent / D
        slope = (descent * preconditioned).sum(1, keepdim=True)
        fallen = torch.zeros_like(slope)
        least = torch.finfo(x.dtype).tiny
        for step in range(max_steps):
            # The fall of a step of length one, which D makes nearly the best.
            moves = slope > least_share * fallen
            if step and not moves.any():
                break
            image = self.times(direction)
            length = slope / (direction * image).sum(1, keepdim=True).clamp_min(least)
            length = length.where(moves, 0.0)
            x = torch.addcmul(x, length, direction)
            descent = torch.addcmul(descent, length, image, value=-1)
            fallen += length * slope
            preconditioned, previous = descent / D, slope
            slope = (descent * preconditioned).sum(1, keepdim=True)
            direction = torch.addcmul(
                preconditioned, slope / previous.clamp_min(least), direction
            )
        return x, descent

    def _products(self, x: Tensor) -> Tensor:
        """x·z of every rating."""
        return self.ratings.inner_products(x, self.table)


@dataclass(frozen=True)
class PointConditional:
    """Objective of one side's rows given the other side's rows, along axes.

    These are points, or Gaussians with variances along axes of their own.

    Attributes
    ----------
    ratings : Ratings
        Their targets are y − c, and their weights those of the objective.
    side : Side
        The rows as they are.
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
    ) -> PointConditional:
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
        weight, target = ratings.weight, ratings.target
        gamma = other.relative_precision.index_select(0, ratings.others)
        ratings = replace(ratings, weight=weight * gamma)
        if layout.biased:
            offset = other.mean[:, -1].index_select(0, ratings.others)
            ratings = replace(ratings, target=target - offset)
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
        side, prior = self.side, self.side.row_priors
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


def update_points(given: PointConditional, rule: Rule) -> tuple[Side, Tensor]:
    """Rows by the rule, and the expected residual sum of squares of each.

    Perhaps with a step of the weights of features that rows follow.
    """
    if given.side.weights and rule.steps_weights:
        return _update_points_and_weights(given, rule)
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


def _update_points_and_weights(
    given: PointConditional, rule: Rule
) -> tuple[Side, Tensor]:
    """As `update_points`, with a step of the weights that rows follow.

    While the weights go by D, rows follow by Dᵀf over the diagonal of A, and both go as
    far as lowers the objective most.
    """
    side, axes, features = given.side, given.axes, given.ratings.features
    assert side.shift is not None
    rows = _PointPass.over(given, rule)
    share, own, weight = rows.share, rows.own, rows.weight
    blocks = zip(features, side.weights, strict=True)
    found = [_axis_direction(block, w, rows, given) for block, w in blocks]
    directions, spreads = zip(*found, strict=True)
    shift = torch.stack([direction.shift for direction in directions]).sum(0)
    follow = shift / rows.diagonal
    image = torch.empty_like(follow)

    def multiply(tile: slice, objective: Quadratic) -> float:
        image[tile] = objective.times(follow[tile])
        return 0.0

    given.map_tiles(multiply)
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
class _PointPass:
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
    share: Share

    @property
    def own(self) -> slice:
        """The rows of the share."""
        return self.share.rows(len(self.x))

    @classmethod
    def over(cls, given: PointConditional, rule: Rule) -> _PointPass:
        """A pass over the tiles of a side."""
        side = given.side
        x, descent, diagonal, deviation, lowest = (
            torch.empty_like(side.mean) for _ in range(5)
        )
        squares = torch.empty_like(side.relative_precision)
        relaxed = 1 + rule.relaxation

        def keep(rows: slice, objective: Quadratic) -> float:
            x[rows], descent[rows] = _over_relaxed(objective, rule)
            diagonal[rows] = objective.diagonal
            squares[rows] = objective.squares(x[rows], descent[rows])
            deviation[rows] = x[rows] - objective.prior_mean
            beyond = rule.relaxation / relaxed * (x[rows] - objective.start)
            lowest[rows] = deviation[rows] - beyond
            return 0.0

        given.map_tiles(keep)
        weight = torch.ones_like(side.mean[:, :1])
        if side.prior_weight is not None:
            weight = side.prior_weight[:, None]
        share = given.ratings.share
        return cls(x, descent, diagonal, deviation, lowest, squares, weight, share)


def _axis_direction(
    block: Block, weights: LinkMatrix, rows: _PointPass, given: PointConditional
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
