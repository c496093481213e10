"""Symmetric positive definite matrices under rounding.

A covariance or a precision is symmetric and positive definite in exact arithmetic. In
floating point these functions keep it so: an asymmetry of a few ulps that is handed
from sweep to sweep grows until a Cholesky factorisation fails.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Shares of the diagonal that are added to it until a matrix has a Cholesky factor; with
# the last every symmetric matrix of non-negative diagonal is close to diagonal.
JITTERS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e2, 1e4)

# Matrices of more rows than this are split before LAPACK has them.
MAX_LAPACK_SIZE = 24


def symmetrised(matrix: Tensor) -> Tensor:
    """The symmetric part of matrices."""
    return (matrix + matrix.mT) / 2


def times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """The product of each matrix and its vector."""
    # On small matrices twice as fast as a batched matrix product.
    return (matrices * vectors[:, None, :]).sum(2)


def inverse(matrix: Tensor, floor: float = 0.0) -> Tensor:
    """Inverse of a positive definite matrix, symmetric to the bit.

    Eigenvalues of the matrix are at least `floor`, or if that is 0, those of the matrix
    scaled to a diagonal of ones are not so far below the largest that its precision
    could not tell it from a singular one.
    """
    M = symmetrised(matrix.double())
    eps = len(M) * torch.finfo(matrix.dtype).eps
    if floor:
        found = _inverse_by_eigenvalues(M, floor, eps)
    else:
        scale = M.diagonal().clamp(min=torch.finfo(M.dtype).tiny).rsqrt()
        M = scale[:, None] * M * scale
        root, failure = torch.linalg.cholesky_ex(M)
        if bool(failure) or bool((root.diagonal() ** 2 < eps).any()):
            found = _inverse_by_eigenvalues(M, 0.0, eps)
        else:
            found = torch.cholesky_inverse(root)
        found = scale[:, None] * found * scale
    return symmetrised(found).to(matrix.dtype)


def _inverse_by_eigenvalues(M: Tensor, floor: float, eps: float) -> Tensor:
    """Inverse with eigenvalues of at least `floor`, and `eps` of the largest."""
    values, vectors = torch.linalg.eigh(M)
    # They are sorted.
    values = torch.maximum(values, (eps * values[-1:]).clamp(min=floor))
    return (vectors / values) @ vectors.mT


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


def log_det_of_product(roots: Tensor) -> float:
    """Sum of log det RRᵀ over triangular roots R."""
    return 2 * float(roots.diagonal(dim1=1, dim2=2).log().sum(dtype=torch.float64))


def covariance_and_log_det(precisions: Tensor) -> tuple[Tensor, float]:
    """Inverses of a batch of precisions, and the sum of the inverses' log dets."""
    if precisions.shape[-1] <= MAX_LAPACK_SIZE:
        root = cholesky(precisions)
        # Symmetric, and the transpose is the contiguous one.
        return torch.cholesky_inverse(root).mT, -log_det_of_product(root)
    root = inverse_root(precisions)
    return root.mT @ root, log_det_of_product(root)


def inverse_root(A: Tensor) -> Tensor:
    """L⁻¹ for the Cholesky factors A = LLᵀ of positive definite matrices."""
    size = A.shape[-1]
    if size <= MAX_LAPACK_SIZE:
        identity = torch.eye(size, dtype=A.dtype, device=A.device)
        return torch.linalg.solve_triangular(cholesky(A), identity, upper=False)
    # By halves, since LAPACK is slow on matrices of this size one by one, and batched
    # matrix products are not.
    half = size // 2
    head = inverse_root(A[:, :half, :half])
    below = A[:, half:, :half] @ head.mT
    tail = inverse_root(torch.baddbmm(A[:, half:, half:], below, below.mT, alpha=-1))
    root = torch.zeros_like(A)
    root[:, :half, :half] = head
    root[:, half:, half:] = tail
    torch.neg(tail @ (below @ head), out=root[:, half:, :half])
    return root
