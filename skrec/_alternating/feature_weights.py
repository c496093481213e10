"""Prior means of rows from their features, and the weights of these.

A row x with features f has the prior N(m + Bᵀf, Λ⁻¹), and each row of the link matrix B
the prior N(0, Ω⁻¹). So it is in Macau (Simm et al., 2015), except for Ω, which is
learned. Features come in blocks, such as the described features of an item and the
users who have rated it, and every block has a link matrix and an Ω of its own.

Given the other side, rows and weights together are Gaussian, and `step_weights` moves
both. Rows follow the weights by their conditional: with x* and A⁻¹ the mean and the
covariance of a row given the present weights, and D a step of these,

    x = x* + A⁻¹Λ Dᵀf.

The weights then have the gradient Σ f (Λ (x* − m − Bᵀf))ᵀ − BΩ and the curvature
Σ ffᵀ ⊗ M + I ⊗ Ω, M = Λ − ΛA⁻¹Λ. "vb" gives all weights of a block one covariance,

    C = (Σ ‖f‖² M / n_columns + Ω)⁻¹,

the best of those that are the same for all, and a row then has the covariance
A⁻¹ + A⁻¹Λ (Σ ‖f‖² C) ΛA⁻¹ where the sum is over blocks. If rows and weights were taken
for independent instead, their variances would be too small, and they would overfit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from operator import add

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .._share import ALL_ROWS, Share
from .._sparse import ParallelMap, SparseRows
from .layout import Layout
from .scalars import fetched, total
from .symmetric import (
    cholesky,
    identity,
    inverse,
    symmetrised,
    times,
    with_fixed_signs,
)

# The start of Ω: weights are small until ratings say otherwise.
START_PRECISION = 10.0

# A draw of weights solves its linear system to this share of the error of zero, or as
# well as so many steps can.
DRAW_TOL = 0.1
DRAW_MAX_STEPS = 50


@dataclass(frozen=True)
class Block:
    """A block of features: a sparse matrix, each column minus its mean.

    Attributes
    ----------
    name : str
    rows, columns : SparseRows
        Pattern of the matrix by rows and by columns.
    row_values, column_values : Tensor of shape (n_entries,)
        The entries in either order, scaled so that the mean of `square` is one.
    mean : Tensor of shape (n_columns,)
        Mean of each column.
    square : Tensor of shape (n_rows,)
        ‖f‖² of each row.
    scale : float
        Factor that entries were multiplied with; 0 if no column varies.
    """

    name: str
    rows: SparseRows
    columns: SparseRows
    row_values: Tensor
    column_values: Tensor
    mean: Tensor
    square: Tensor
    scale: float

    @cached_property
    def total_square(self) -> float:
        """Σ ‖f‖² of all rows."""
        (square,) = fetched(total(self.square))
        return square

    @classmethod
    def from_entries(
        cls,
        name: str,
        by_row: tuple[SparseRows, Tensor],
        by_column: tuple[SparseRows, Tensor],
        square: Tensor,
    ) -> Block:
        """A matrix by its pattern and entries, in both orders.

        Entries of the same place add up; `square` is the sum of squares of each row.
        Entries are scaled in place.
        """
        (rows, row_values), (columns, column_values) = by_row, by_column
        mean = columns.sum_values(column_values) / len(rows)
        product = rows.sum(mean[:, None], row_values).squeeze(1)
        centred = (square - 2 * product + mean.square().sum()).clamp_(min=0)
        # Rounding leaves a little of columns that do not vary.
        varies = float(centred.mean()) > 1e-6 * float(square.mean())
        scale = float(centred.mean()) ** -0.5 if varies else 0.0
        return cls(
            name=name,
            rows=rows,
            columns=columns,
            row_values=row_values.mul_(scale),
            column_values=column_values.mul_(scale),
            mean=mean * scale,
            square=centred * scale**2,
            scale=scale,
        )

    @classmethod
    def from_matrix(
        cls, name: str, matrix: sparse.sparray, dtype: torch.dtype, device: torch.device
    ) -> Block:
        """A sparse matrix of shape (n_rows, n_columns)."""
        index = partial(torch.as_tensor, dtype=torch.int32, device=device)
        by_row, by_column = (
            (
                SparseRows(index(form.indptr), index(form.indices)),
                torch.tensor(form.data, dtype=dtype, device=device),
            )
            for form in (matrix.tocsr(), matrix.tocsc())
        )
        square = by_row[0].sum_values(by_row[1].square())
        return cls.from_entries(name, by_row, by_column, square)

    def times(self, weights: Tensor, parallel_map: ParallelMap = map) -> Tensor:
        """Bᵀf of every row, shape (n_rows, row_size)."""
        product = self.rows.sum(weights, self.row_values, parallel_map)
        return product - self.mean @ weights

    def transposed_times(self, rows: Tensor, parallel_map: ParallelMap = map) -> Tensor:
        """Σ f xᵀ over the rows, shape (n_columns, row_size)."""
        product = self.columns.sum(rows, self.column_values, parallel_map)
        return torch.addr(product, self.mean, rows.sum(0), alpha=-1)


@dataclass(frozen=True)
class LinkMatrix:
    """Weights of a block of features in the prior means of rows.

    Attributes
    ----------
    mean : Tensor of shape (n_columns, row_size)
        B: its posterior mean, or its point.
    precision : Tensor of shape (row_size, row_size)
        Ω.
    covariance : Tensor of shape (row_size, row_size)
        C, which all rows of B share.
    response : Tensor of shape (row_size, row_size)
        Σ ‖f‖² A⁻¹Λ over the rows: how far they follow the weights.
    """

    mean: Tensor
    precision: Tensor
    covariance: Tensor
    response: Tensor

    @classmethod
    def at(cls, mean: Tensor, precision: Tensor) -> LinkMatrix:
        """Points, which have no covariance."""
        zero = torch.zeros_like(precision)
        return cls(mean, precision, covariance=zero, response=zero)

    @classmethod
    def at_zero(cls, block: Block, row_size: int) -> LinkMatrix:
        """Weights before any ratings."""
        zero = block.mean.new_zeros(len(block.columns), row_size)
        return cls.at(zero, START_PRECISION * identity(row_size, zero))


def own_covariance(
    square: float, response: np.ndarray, covariance: np.ndarray
) -> np.ndarray:
    """Σ (Cov[x − Bᵀf] − Cov[x]) over rows of which `square` is Σ ‖f‖².

    `covariance` and `response` are those of the weights.
    """
    follows = response @ covariance
    return square * covariance - follows - follows.T


def shift_of(blocks: Sequence[Block], weights: Sequence[LinkMatrix]) -> Tensor:
    """Σ Bᵀf of every row, where the sum is over blocks."""
    shifts = [b.times(w.mean) for b, w in zip(blocks, weights, strict=True)]
    return torch.stack(shifts).sum(0)


@dataclass(frozen=True)
class RowsGivenWeights:
    """Conditional of all rows given the present weights.

    Attributes
    ----------
    deviation : Tensor of shape (n_rows, row_size)
        x* − m − Bᵀf.
    covariance : Tensor of shape (n_rows, row_size (row_size + 1) / 2)
        A⁻¹ of every row, packed.
    prior_precision : Tensor of shape (row_size, row_size)
        Λ.
    prior_weight : Tensor of shape (n_rows,) or None
        Factor of Λ for each row; None is 1. `covariance` is then that of noise and
        prior divided by it.
    share : Share
        The rows that `deviation` and `covariance` hold.
    """

    deviation: Tensor
    covariance: Tensor
    prior_precision: Tensor
    prior_weight: Tensor | None
    share: Share = ALL_ROWS

    @property
    def own(self) -> slice:
        """The rows of the share."""
        return self.share.rows(len(self.deviation))

    def weighted(self, values: Tensor, rows: slice = slice(None)) -> Tensor:
        """Values of rows times the factor of Λ for each."""
        if self.prior_weight is None:
            return values
        weight = self.prior_weight[rows]
        return values * (weight if values.ndim == 1 else weight[:, None])

    @cached_property
    def prior_gradient(self) -> Tensor:
        """Λ (x* − m − Bᵀf) of every row, weighted."""
        gradient = self.weighted(self.deviation @ self.prior_precision)
        self.share.complete(gradient)
        return gradient


@dataclass(frozen=True)
class WeightStep:
    """A step of the weights along D, and that of the rows that follow it.

    Attributes
    ----------
    weights : tuple of LinkMatrix
        With the covariances that are best given A⁻¹.
    length : Tensor of shape ()
        Length of the step, by which directions are multiplied.
    shift_direction : Tensor of shape (n_rows, row_size)
        Dᵀf of every row.
    row_direction : Tensor of shape (n_rows, row_size)
        A⁻¹ΛDᵀf of every row of the share.
    trace : Tensor of shape (n_rows,) or None
        Trace of βGS where S is the covariance of a row that follows uncertain weights,
        likewise.
    """

    weights: tuple[LinkMatrix, ...]
    length: Tensor
    shift_direction: Tensor
    row_direction: Tensor
    trace: Tensor | None


def step_weights(
    blocks: Sequence[Block],
    weights: Sequence[LinkMatrix],
    rows: RowsGivenWeights,
    layout: Layout,
    parallel_map: ParallelMap,
    *,
    with_covariance: bool,
) -> WeightStep:
    """A step of the weights along C times the gradient, of the best length.

    `with_covariance` turns `rows.covariance` into the covariance of rows that follow
    uncertain weights, in place.
    """
    directions = [
        Direction.of(block, w, rows, layout, parallel_map)
        for block, w in zip(blocks, weights, strict=True)
    ]
    Lambda = rows.prior_precision
    shift = reduce(add, [direction.shift for direction in directions])
    pulled = shift @ Lambda
    follows, trace = torch.empty_like(shift), shift.new_empty(len(shift))
    squares = [block.square for block in blocks]
    spreads = [Lambda @ d.weights.covariance @ Lambda for d in directions]

    def follow(tile: slice) -> Tensor:
        V = layout.unpack(rows.covariance[tile])
        stays = shift[tile] - times(V, pulled[tile], out=follows[tile])
        held = total(rows.weighted(pulled[tile], tile) * stays)
        if with_covariance:
            of_tile = [square[tile] for square in squares]
            S = _inflated(V, of_tile, spreads, Lambda, trace[tile])
            # Last, since it must not be done twice.
            layout.pack(S, out=rows.covariance[tile])
        return held

    held = layout.map_tiles(follow, rows.own, parallel_map)
    curvature = reduce(add, [direction.curvature for direction in directions])
    curvature = curvature + rows.share.sum(reduce(add, held))
    slope = reduce(add, [direction.slope for direction in directions])
    length = (slope / curvature).masked_fill_(curvature <= 0, 0.0)
    return WeightStep(
        weights=tuple(direction.taken(length) for direction in directions),
        length=length,
        shift_direction=shift,
        row_direction=follows,
        trace=trace if with_covariance else None,
    )


@dataclass(frozen=True)
class Direction:
    """Direction D of the weights of one block.

    Attributes
    ----------
    weights : LinkMatrix
        The present ones, with the covariance that is best given A⁻¹.
    step : Tensor of shape (n_columns, row_size)
        D, the gradient times C.
    shift : Tensor of shape (n_rows, row_size)
        Dᵀf of every row, perhaps along axes of rows.
    slope, curvature : Tensor of shape ()
        ⟨gradient, D⟩, or the part of the prior −⟨BΩ, D⟩, and ⟨DΩ, D⟩.
    """

    weights: LinkMatrix
    step: Tensor
    shift: Tensor
    slope: Tensor
    curvature: Tensor

    @classmethod
    def of(
        cls,
        block: Block,
        weights: LinkMatrix,
        rows: RowsGivenWeights,
        layout: Layout,
        parallel_map: ParallelMap,
    ) -> Direction:
        Lambda, n_columns = rows.prior_precision, len(block.columns)
        square, all_squares = rows.weighted(block.square), block.total_square
        if rows.prior_weight is not None:
            (all_squares,) = fetched(total(square))
        spread = rows.share.sum(square[rows.own] @ rows.covariance[rows.own])
        response = layout.unpack(spread[None])[0] @ Lambda
        free = torch.addmm(
            Lambda,
            Lambda,
            response,
            beta=all_squares / n_columns,
            alpha=-1 / n_columns,
        )
        C = inverse(free + weights.precision)
        of_rows = block.transposed_times(rows.prior_gradient, parallel_map)
        gradient = torch.addmm(of_rows, weights.mean, weights.precision, alpha=-1)
        step = gradient @ C
        return cls(
            weights=replace(weights, covariance=C, response=response),
            step=step,
            shift=block.times(step, parallel_map),
            slope=total(gradient * step),
            curvature=total(step @ weights.precision * step),
        )

    def taken(self, length: Tensor) -> LinkMatrix:
        """The weights after a step of this length."""
        mean = torch.addcmul(self.weights.mean, length, self.step)
        return replace(self.weights, mean=mean)


def _inflated(
    V: Tensor,
    squares: Sequence[Tensor],
    spreads: Sequence[Tensor],
    Lambda: Tensor,
    trace: Tensor,
) -> Tensor:
    """Covariances S = V + VQV for Q = Σ ‖f‖² ΛCΛ, and tr(βGS) into `trace`.

    `squares` has ‖f‖² of each row, and `spreads` ΛCΛ, of each block.
    """
    parts = zip(squares, spreads, strict=True)
    VQ = reduce(add, [V @ M * square[:, None, None] for square, M in parts])
    S = torch.baddbmm(V, VQ, V)
    # βGS = I + QV − ΛS.
    traces = VQ.diagonal(dim1=1, dim2=2).add_(1).sum(1)
    torch.addmv(traces, S.flatten(1), Lambda.flatten(), alpha=-1, out=trace)
    return S


def draw_weights(
    block: Block,
    weights: LinkMatrix,
    rows: Tensor,
    prior_precision: Tensor,
    random_state: np.random.RandomState,
) -> LinkMatrix:
    """Weights drawn given `rows`: x minus m and the shifts of other blocks.

    With Λ = TTᵀ and Ω = T diag(ω) Tᵀ, the columns of BT are independent given the rows,
    with precision FᵀF + ω I. A draw solves for the right-hand side with noise of that
    covariance (as Macau does), by conjugate gradients.
    """

    def normal(like: Tensor) -> Tensor:
        return torch.as_tensor(random_state.standard_normal(like.shape)).to(like)

    L = cholesky(prior_precision[None])[0]
    half = torch.linalg.solve_triangular(L, weights.precision, upper=False)
    half = torch.linalg.solve_triangular(L, half.mT, upper=False)
    omega, V = (x.to(rows) for x in torch.linalg.eigh(symmetrised(half).cpu()))
    omega.clamp_(min=torch.finfo(omega.dtype).eps)
    T = L @ with_fixed_signs(V)
    target = rows @ T
    right = block.transposed_times(target + normal(target))
    right += omega.sqrt() * normal(right)

    def apply(x: Tensor) -> Tensor:
        return block.transposed_times(block.times(x)) + omega * x

    x = _conjugate_gradients(apply, right, weights.mean @ T)
    return LinkMatrix.at(torch.linalg.solve(T, x, left=False), weights.precision)


def _conjugate_gradients(
    apply: Callable[[Tensor], Tensor], right: Tensor, start: Tensor
) -> Tensor:
    """Approximate solutions x of apply(x) = right, column by column."""
    x = start
    residual = right - apply(x)
    direction = residual
    square = residual.square().sum(0)
    enough = DRAW_TOL**2 * right.square().sum(0)
    for _ in range(DRAW_MAX_STEPS):
        if bool((square <= enough).all()):
            break
        image = apply(direction)
        length = square / (direction * image).sum(0).clamp_min(1e-30)
        x = x + length * direction
        residual = residual - length * image
        previous, square = square, residual.square().sum(0)
        direction = residual + square / previous.clamp_min(1e-30) * direction
    return x
