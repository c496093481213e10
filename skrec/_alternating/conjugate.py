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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .axes import Axes
from .layout import Layout
from .ratings import Ratings


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

    def without_rows(self) -> Quadratic:
        """The same A, for `times` alone, without what takes most of the memory."""
        nothing = self.start.new_empty(0)
        return replace(self, start=nothing, prior_mean=nothing)

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
