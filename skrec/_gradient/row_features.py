"""Side features of the rows of a table, and ridge regression of rows on them."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from .._sparse import SparseRows

# Penalty of feature weights relative to that of rows. Less overfits where each row has
# features of its own; more shrinks the predictions of features.
PENALTY = 3.0

# Conjugate gradients stop after this many steps, or at this relative residual.
RIDGE_MAX_STEPS, RIDGE_TOL = 30, 1e-2


# Random signs in the estimate of leverages, and the largest leverage.
N_PROBES, MAX_LEVERAGE = 64, 0.9


class RowFeatures(nn.Module):
    """Sparse matrix with centred columns.

    Attributes
    ----------
    mean : Tensor of shape (n_columns,)
    energy : float
        Mean squared norm of the centred rows.
    """

    mean: Tensor

    def __init__(self, matrix: sparse.sparray) -> None:
        super().__init__()
        self.n_rows, self.n_columns = matrix.shape
        self.parts: dict[str, dict] = {"row": {}, "column": {}}
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
        # Constant columns leave a small rest by rounding.
        self.energy = energy if energy > 1e-6 * square else 0.0

    def times(self, weight: Tensor) -> Tensor:
        """Rows predicted from features, of shape (n_rows, row_size)."""
        return self._sums("row", weight) - self.mean @ weight

    def transposed_times(self, rows: Tensor) -> Tensor:
        """Σ f xᵀ over the rows, of shape (n_columns, row_size)."""
        return self._sums("column", rows) - torch.outer(self.mean, rows.sum(0))

    def ridge(self, rows: Tensor, row_weight: Tensor, start: Tensor) -> Tensor:
        """Weights B by ridge regression of rows on their features and a constant.

        They minimise Σ v ‖x − m − Bᵀf‖² + PENALTY v̄ e ‖B‖² for row weights v, their
        mean v̄ and the energy e. The factor e makes the penalty one of the mean squared
        prediction, independent of the number of features.
        """
        total = row_weight.sum()
        if not (self.energy and total > 0):
            return torch.zeros_like(start)
        share = (row_weight / total)[:, None]
        penalty = PENALTY * self.energy / self.n_rows

        def normal_rhs(rows: Tensor) -> Tensor:
            return self.transposed_times(share * (rows - (share * rows).sum(0)))

        def normal_times(weight: Tensor) -> Tensor:
            return normal_rhs(self.times(weight)) + penalty * weight

        weight = start.clone()
        residual = normal_rhs(rows) - normal_times(weight)
        direction, square = residual.clone(), residual.square().sum(0)
        tolerance = RIDGE_TOL**2 * normal_rhs(rows).square().sum(0)
        for _ in range(RIDGE_MAX_STEPS):
            if bool((square <= tolerance).all()):
                break
            product = normal_times(direction)
            curvature = (direction * product).sum(0)
            step = torch.where(curvature > 0, square / curvature, 0)
            weight += step * direction
            residual -= step * product
            previous, square = square, residual.square().sum(0)
            ratio = torch.where(previous > 0, square / previous, 0)
            direction = residual + ratio * direction
        return weight

    def leverages(self, row_weight: Tensor) -> Tensor:
        """Share of each row in its own prediction by `ridge`, of shape (n_rows,).

        Hutchinson's estimate of the diagonal of the matrix from rows to predictions,
        the constant not counted.
        """
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(2, (self.n_rows, N_PROBES), generator=generator)
        signs = (2 * signs - 1).to(row_weight)
        start = signs.new_zeros(self.n_columns, N_PROBES)
        weights = self.ridge(signs, row_weight, start)
        leverages = (signs * self.times(weights)).mean(1)
        return leverages.clamp(0, MAX_LEVERAGE)

    def _sums(self, order: str, table: Tensor) -> Tensor:
        parts = ("offsets", "others", "values")
        offsets, others, values = (self.get_buffer(f"{order}_{p}") for p in parts)
        rows = SparseRows(offsets, others, parts=self.parts[order])
        return rows.sum(table, values)
