"""Symmetric positive definite matrices, which rounding can make neither.

A covariance or a precision is symmetric and positive definite in exact arithmetic. In
floating point it is what these functions make it: an asymmetry of a few ulps that is
handed from sweep to sweep grows until a Cholesky factorisation fails.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Shares of the diagonal that are added to it until a matrix has a Cholesky factor; with
# the last every symmetric matrix of non-negative diagonal is close to diagonal.
JITTERS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e2, 1e4)


def symmetrised(matrix: Tensor) -> Tensor:
    """The symmetric part of matrices."""
    return (matrix + matrix.mT) / 2


def inverse(matrix: Tensor, floor: float = 0.0) -> Tensor:
    """Inverse of a positive definite matrix, symmetric to the bit.

    Eigenvalues of the matrix are at least `floor`. Those of the matrix scaled to a
    diagonal of ones are not so far below the largest that its precision could not tell
    it from a singular one.
    """
    M = symmetrised(matrix.double())
    if floor:
        values, vectors = torch.linalg.eigh(M)
        M = (vectors * values.clamp(min=floor)) @ vectors.mT
    scale = M.diagonal().clamp(min=torch.finfo(M.dtype).tiny).rsqrt()
    values, vectors = torch.linalg.eigh(symmetrised(scale[:, None] * M * scale))
    # Eigenvalues are sorted.
    least = len(M) * torch.finfo(matrix.dtype).eps * values[-1:]
    values = torch.maximum(values, least)
    half = scale[:, None] * vectors * values.rsqrt()
    return symmetrised(half @ half.mT).to(matrix.dtype)


def cholesky(matrices: Tensor) -> Tensor:
    """Lower Cholesky factors of a batch of positive definite matrices.

    A matrix that rounding has left indefinite gets the smallest of JITTERS that helps.
    """
    roots, failures = torch.linalg.cholesky_ex(matrices)
    if not bool(failures.any()):
        return roots
    failed = failures.nonzero().squeeze(1)
    for jitter in JITTERS:
        A = matrices[failed]
        A.diagonal(dim1=-2, dim2=-1).mul_(1 + jitter)
        again, failures = torch.linalg.cholesky_ex(A)
        roots[failed] = again
        failed = failed[failures > 0]
        if not len(failed):
            return roots
    raise torch.linalg.LinAlgError(
        f"{len(failed)} matrices have no Cholesky factor: they are not finite, or have "
        "a diagonal that is not positive."
    )
