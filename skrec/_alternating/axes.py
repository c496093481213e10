"""Coordinates along the axes of two quadratic forms, and variances along them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .scalars import total
from .symmetric import cholesky, symmetrised


@dataclass(frozen=True)
class Axes:
    """Coordinates x̃ of rows x = Bx̃.

    Attributes
    ----------
    basis : Tensor of shape (row_size, row_size)
        B.
    inverse : Tensor of shape (row_size, row_size)
        B⁻¹.
    """

    basis: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, prior_precision: Tensor, moments: Tensor) -> tuple[Axes, Tensor]:
        """Axes along which Λ is the identity and moments are diagonal; the diagonal.

        BᵀΛB = I and BᵀMB = diag(μ).
        """
        # In double precision, since eigenvalues of moments differ by far, and on the
        # host, since the matrices are small.
        forms = torch.stack([prior_precision, moments]).double().cpu()
        L = cholesky(forms[:1])[0]
        M = torch.linalg.solve_triangular(L, forms[1], upper=False)
        M = torch.linalg.solve_triangular(L, M.mT, upper=False)
        values, vectors = torch.linalg.eigh(symmetrised(M))
        basis = torch.linalg.solve_triangular(L.mT, vectors, upper=True)
        inverse, diagonal = vectors.mT @ L.mT, values.clamp_(min=0).diag()
        basis, inverse, diagonal = torch.stack([basis, inverse, diagonal]).to(moments)
        return cls(basis, inverse), diagonal.diagonal()

    def coordinates(self, rows: Tensor) -> Tensor:
        """x̃ of rows x."""
        return rows @ self.inverse.mT

    def rows(self, coordinates: Tensor) -> Tensor:
        """x of coordinates x̃."""
        return coordinates @ self.basis.mT

    def forms(self, vectors: Tensor) -> Tensor:
        """z̃ = Bᵀz, so that z̃·x̃ = z·x."""
        return vectors @ self.basis

    def form_matrix(self, matrix: Tensor) -> Tensor:
        """BᵀMB."""
        return self.basis.mT @ matrix @ self.basis


@dataclass(frozen=True)
class AxisVariances:
    """Gaussians whose covariances are diagonal along the same axes.

    Attributes
    ----------
    axes : Axes
    variance : Tensor of shape (n_rows, row_size)
    """

    axes: Axes
    variance: Tensor

    @property
    def log_det(self) -> Tensor:
        """Sum of the log determinants of the covariances."""
        of_basis = torch.linalg.slogdet(self.axes.basis.double()).logabsdet
        return total(self.variance.log()) + 2 * len(self.variance) * of_basis

    @property
    def summed(self) -> Tensor:
        """Sum of the covariances."""
        basis = self.axes.basis
        return (basis * self.variance.sum(0)) @ basis.mT

    def covariances(self, rows: slice) -> Tensor:
        """Covariances of some rows, shape (n_rows, row_size, row_size)."""
        basis = self.axes.basis
        return (basis * self.variance[rows, None, :]) @ basis.mT
