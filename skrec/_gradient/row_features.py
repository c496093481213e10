"""Features of a table's rows, and the weights by which they say where the rows are."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

# How much more weights of features are penalised than rows. As much would take features
# of each row for a second row, and overfit; more would shrink what they say.
PENALTY = 3.0

# Conjugate gradients end after so many steps, or at this share of the residual at zero.
RIDGE_MAX_STEPS, RIDGE_TOL = 30, 1e-2


class RowFeatures(nn.Module):
    """A sparse matrix, each column less its mean.

    Attributes
    ----------
    mean : Tensor of shape (n_columns,)
    energy : float
        Mean of the rows' squared norms.
    """

    def __init__(self, matrix: sparse.sparray) -> None:
        super().__init__()
        self.n_rows, self.n_columns = matrix.shape
        for name, form in (("row", matrix.tocsr()), ("column", matrix.tocsc())):
            for part, values in (
                ("offsets", form.indptr.astype("i8")),
                ("others", form.indices.astype("i8")),
                ("values", form.data.astype("f4")),
            ):
                self.register_buffer(f"{name}_{part}", torch.as_tensor(values))
        mean = np.asarray(matrix.mean(axis=0)).ravel()
        self.register_buffer("mean", torch.as_tensor(mean.astype("f4")))
        square = float(np.square(matrix.data).sum()) / self.n_rows
        energy = square - float(mean @ mean)
        # Rounding leaves a little of columns that do not vary.
        self.energy = energy if energy > 1e-6 * square else 0.0

    def times(self, weight: Tensor) -> Tensor:
        """What features say of every row, shape (n_rows, row_size)."""
        return self._sums("row", weight) - self.mean @ weight

    def transposed_times(self, rows: Tensor) -> Tensor:
        """Σ f xᵀ over the rows, shape (n_columns, row_size)."""
        return self._sums("column", rows) - torch.outer(self.mean, rows.sum(0))

    def ridge(self, rows: Tensor, row_weight: Tensor, start: Tensor) -> Tensor:
        """Weights B by ridge regression of rows on their features and a constant.

        They minimise Σ v ‖x − m − Bᵀf‖² + PENALTY v̄ e ‖B‖² for row weights v, their
        mean v̄ and the energy e. With the energy, the penalty is one of what features
        say of a row on average, however many they are.
        """
        total = row_weight.sum()
        if not (self.energy and total > 0):
            return torch.zeros_like(start)
        share = (row_weight / total)[:, None]
        penalty = PENALTY * self.energy / self.n_rows

        def product(rows: Tensor) -> Tensor:
            return self.transposed_times(share * (rows - (share * rows).sum(0)))

        def curved(weight: Tensor) -> Tensor:
            return product(self.times(weight)) + penalty * weight

        weight = start.clone()
        gap = product(rows) - curved(weight)
        direction, square = gap.clone(), gap.square().sum(0)
        enough = RIDGE_TOL**2 * product(rows).square().sum(0)
        for _ in range(RIDGE_MAX_STEPS):
            if bool((square <= enough).all()):
                break
            image = curved(direction)
            bend = (direction * image).sum(0)
            step = torch.where(bend > 0, square / bend, 0)
            weight += step * direction
            gap -= step * image
            previous, square = square, gap.square().sum(0)
            turn = torch.where(previous > 0, square / previous, 0)
            direction = gap + turn * direction
        return weight

    def _sums(self, order: str, table: Tensor) -> Tensor:
        parts = ("offsets", "others", "values")
        offsets, others, values = (self.get_buffer(f"{order}_{p}") for p in parts)
        return nn.functional.embedding_bag(
            others,
            table,
            offsets,
            mode="sum",
            per_sample_weights=values,
            include_last_offset=True,
        )
