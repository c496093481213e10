"""What features say of rows before their ratings do: prior means, and their weights.

A row x with features f has the prior N(m + Bᵀf, Λ⁻¹), and each weight, a row of B, the
prior N(0, Ω⁻¹). So it is in Macau (Simm et al., 2015), but for Ω, which is learned.
Features come in blocks, such as what describes an item and who has rated it, and every
block has an Ω of its own.

Given the other side, rows and weights together are Gaussian, and `uphill` moves both.
Rows follow the weights as their conditional says: with x* and A⁻¹ the mean and the
covariance of a row given the weights of before, and D what is added to them,

    x = x* + A⁻¹Λ Dᵀf.

What is left to do for the weights has the gradient Σ f (Λ (x* − m − Bᵀf))ᵀ − BΩ and the
curvature Σ ffᵀ ⊗ M + I ⊗ Ω, M = Λ − ΛA⁻¹Λ. "vb" gives all weights of a block one
covariance,

    C = (Σ ‖f‖² M / n_columns + Ω)⁻¹,

the best of those that are the same for all, and a row then has the covariance
A⁻¹ + A⁻¹Λ (Σ ‖f‖² C) ΛA⁻¹ where the sum is over blocks. Rows and weights that are taken
for independent instead look better known than they are, and overfit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .conditional import Layout, Links, times, total
from .symmetric import cholesky, inverse, symmetrised

# The start of Ω: weights are small until ratings say otherwise.
START_PRECISION = 10.0

# A draw of weights solves its linear system to this share of the error of zero, or as
# well as so many steps can.
DRAW_TOL = 0.1
DRAW_MAX_STEPS = 50


@dataclass(frozen=True)
class Block:
    """A block of features: a sparse matrix, each column less its mean.

    Attributes
    ----------
    name : str
    rows, columns : Links
        Where the entries of each row and of each column are.
    row_values, column_values : Tensor of shape (n_entries,)
        The entries in either order, scaled so that the mean of `energy` is one.
    mean : Tensor of shape (n_columns,)
        Mean of each column.
    energy : Tensor of shape (n_rows,)
        ‖f‖² of each row.
    scale : float
        What entries were multiplied with; 0 if no column varies.
    """

    name: str
    rows: Links
    columns: Links
    row_values: Tensor
    column_values: Tensor
    mean: Tensor
    energy: Tensor
    scale: float

    @classmethod
    def from_links(
        cls,
        name: str,
        rows: Links,
        columns: Links,
        row_values: Tensor,
        column_values: Tensor,
        row_squares: Tensor,
    ) -> Block:
        """A matrix given in both orders.

        Entries of the same place add up; `row_squares` are their shares in the square.
        """
        mean = columns.sum(row_values.new_ones(len(rows), 1), column_values) / len(rows)
        square = rows.sum(row_values.new_ones(len(columns), 1), row_squares)
        energy = square - 2 * rows.sum(mean, row_values) + mean.square().sum()
        energy = energy.squeeze(1).clamp_(min=0)
        # Rounding leaves a little of columns that do not vary.
        varies = float(energy.mean()) > 1e-6 * float(square.mean())
        scale = float(energy.mean()) ** -0.5 if varies else 0.0
        return cls(
            name=name,
            rows=rows,
            columns=columns,
            row_values=row_values * scale,
            column_values=column_values * scale,
            mean=mean.squeeze(1) * scale,
            energy=energy * scale**2,
            scale=scale,
        )

    @classmethod
    def from_matrix(
        cls,
        name: str,
        matrix: sparse.sparray,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Block:
        """A sparse matrix of shape (n_rows, n_columns)."""

        def half(form: sparse.csr_array | sparse.csc_array) -> tuple[Links, Tensor]:
            offsets, others, values = (
                torch.as_tensor(part, dtype=kind, device=device)
                for part, kind in (
                    (form.indptr, torch.int32),
                    (form.indices, torch.int32),
                    (form.data, dtype),
                )
            )
            return Links(offsets, others), values

        (rows, row_values), (columns, column_values) = (
            half(matrix.tocsr()),
            half(matrix.tocsc()),
        )
        return cls.from_links(
            name, rows, columns, row_values, column_values, row_values.square()
        )

    def times(self, weights: Tensor) -> Tensor:
        """Bᵀf of every row, shape (n_rows, row_size)."""
        return self.rows.sum(weights, self.row_values) - self.mean @ weights

    def transposed_times(self, rows: Tensor) -> Tensor:
        """Σ f xᵀ over the rows, shape (n_columns, row_size)."""
        total = self.columns.sum(rows, self.column_values)
        return total - torch.outer(self.mean, rows.sum(0))


@dataclass(frozen=True)
class Weights:
    """What is believed of the weights of a block.

    Attributes
    ----------
    mean : Tensor of shape (n_columns, row_size)
        B: its posterior mean, or its point.
    precision : Tensor of shape (row_size, row_size)
        Ω.
    covariance : Tensor of shape (row_size, row_size) or None
        C, of each weight; None for points.
    following : Tensor of shape (row_size, row_size) or None
        Σ ‖f‖² A⁻¹Λ over the rows: how far they follow the weights.
    """

    mean: Tensor
    precision: Tensor
    covariance: Tensor | None = None
    following: Tensor | None = None

    @classmethod
    def at_zero(cls, block: Block, row_size: int) -> Weights:
        """Weights before any ratings."""
        precision = START_PRECISION * torch.eye(row_size).to(block.mean)
        zero = block.mean.new_zeros(len(block.columns), row_size)
        return cls(mean=zero, precision=precision)

    def own_covariance(self, energy: float) -> Tensor:
        """What these weights bring to the covariances of x − Bᵀf, less those of x.

        Summed over rows, of which `energy` is Σ ‖f‖².
        """
        follows = self.following @ self.covariance
        return energy * self.covariance - follows - follows.T


def shift_of(blocks: Sequence[Block], weights: Sequence[Weights]) -> Tensor:
    """Σ Bᵀf of every row, where the sum is over blocks."""
    return sum(b.times(w.mean) for b, w in zip(blocks, weights, strict=True))


@dataclass(frozen=True)
class Step:
    """A step of the weights, and how rows follow it.

    Attributes
    ----------
    weights : tuple of Weights
        With the covariances that are best given A⁻¹.
    shift : Tensor of shape (n_rows, row_size)
        Dᵀf of every row.
    followed : Tensor of shape (n_rows, row_size)
        A⁻¹ΛDᵀf of every row.
    trace : Tensor of shape (n_rows,) or None
        Trace of βGS where S is the covariance of a row that follows uncertain weights.
    """

    weights: tuple[Weights, ...]
    shift: Tensor
    followed: Tensor
    trace: Tensor | None


def uphill(
    blocks: Sequence[Block],
    weights: Sequence[Weights],
    gap: Tensor,
    covariance: Tensor,
    prior_precision: Tensor,
    prior_weight: Tensor | None,
    layout: Layout,
    tile_map: Callable,
    *,
    with_spread: bool,
) -> Step:
    """A step of the weights uphill, as far as it pays when rows follow.

    Parameters
    ----------
    blocks : sequence of Block
    weights : sequence of Weights
    gap : Tensor of shape (n_rows, row_size)
        x* − m − Bᵀf.
    covariance : Tensor of shape (n_rows, row_size (row_size + 1) / 2)
        A⁻¹ of every row, packed. `with_spread` makes of it the covariance of a row that
        follows uncertain weights, in place.
    prior_precision : Tensor of shape (row_size, row_size)
        Λ.
    prior_weight : Tensor of shape (n_rows,) or None
        How much firmer than Λ the prior of each row is; None is 1. `covariance` is then
        that of noise and prior divided by it.
    layout : Layout
    tile_map : callable
        A map over tiles of rows.
    with_spread : bool
    """
    firm = gap.new_ones(len(gap)) if prior_weight is None else prior_weight
    pull = firm[:, None] * (gap @ prior_precision)
    moved, slope, curvature = torch.zeros_like(gap), 0.0, 0.0
    directions, learned = [], []
    for block, w in zip(blocks, weights, strict=True):
        energy = block.energy * firm
        following = layout.unpack((energy @ covariance)[None])[0] @ prior_precision
        free = total(energy) * prior_precision - prior_precision @ following
        C = inverse(free / len(block.columns) + w.precision)
        gradient = block.transposed_times(pull) - w.mean @ w.precision
        direction = gradient @ C
        directions.append(direction)
        learned.append(replace(w, covariance=C, following=following))
        moved += block.times(direction)
        slope += _dot(gradient, direction)
        curvature += _dot(direction @ w.precision, direction)
    pulled = moved @ prior_precision

    energies = torch.stack([block.energy for block in blocks], dim=1)
    spreads = torch.stack([prior_precision @ w.covariance for w in learned])
    spreads = (spreads @ prior_precision).flatten(1)
    dual = layout.pack_dual(prior_precision)
    followed, trace = torch.empty_like(gap), torch.empty_like(firm)

    def follow(start: int) -> float:
        rows = slice(start, start + size)
        V = layout.unpack(covariance[rows])
        followed[rows] = times(V, pulled[rows])
        if with_spread:
            # S = V + VQV for Q = Λ (Σ ‖f‖² C) Λ, so that βGS = I + QV − ΛS.
            VQ = V @ (energies[rows] @ spreads).view_as(V)
            covariance[rows] = layout.pack(torch.baddbmm(V, VQ, V))
            torch.sub(
                layout.row_size + VQ.diagonal(dim1=1, dim2=2).sum(1),
                covariance[rows] @ dual,
                out=trace[rows],
            )
        return _dot(firm[rows, None] * pulled[rows], moved[rows] - followed[rows])

    size = layout.tile_rows(len(gap))
    curvature += sum(tile_map(follow, range(0, len(gap), size)))
    length = slope / curvature if curvature > 0 else 0.0
    return Step(
        weights=tuple(
            replace(w, mean=w.mean + length * direction)
            for w, direction in zip(learned, directions, strict=True)
        ),
        shift=length * moved,
        followed=length * followed,
        trace=trace if with_spread else None,
    )


def draw(
    block: Block,
    weights: Weights,
    rows: Tensor,
    prior_precision: Tensor,
    random_state: np.random.RandomState,
) -> Weights:
    """Weights drawn given the rows, less m and what other blocks say of them.

    With Λ = TTᵀ and Ω = T diag(ω) Tᵀ, the columns of BT are independent given the rows,
    with precision FᵀF + ω I. A draw solves for the right-hand side with noise of that
    covariance (as Macau does), by conjugate gradients.
    """

    def normal(like: Tensor) -> Tensor:
        return torch.as_tensor(random_state.standard_normal(like.shape)).to(like)

    L = cholesky(prior_precision[None])[0]
    half = torch.linalg.solve_triangular(L, weights.precision, upper=False)
    half = torch.linalg.solve_triangular(L, half.mT, upper=False)
    omega, V = torch.linalg.eigh(symmetrised(half))
    omega, T = omega.clamp_(min=torch.finfo(omega.dtype).eps), L @ V
    target = rows @ T
    right = block.transposed_times(target + normal(target))
    right += omega.sqrt() * normal(right)

    def apply(x: Tensor) -> Tensor:
        return block.transposed_times(block.times(x)) + omega * x

    x = _solved(apply, right, weights.mean @ T)
    return replace(weights, mean=torch.linalg.solve(T, x, left=False))


def _solved(apply: Callable[[Tensor], Tensor], right: Tensor, start: Tensor) -> Tensor:
    """Conjugate gradients on every column."""
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


def _dot(a: Tensor, b: Tensor) -> float:
    return total(a * b)
