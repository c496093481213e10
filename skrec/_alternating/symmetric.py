"""Symmetric positive definite matrices under rounding.

A covariance or a precision is symmetric and positive definite in exact arithmetic. In
floating point these functions keep it so: an asymmetry of a few ulps that is handed
from sweep to sweep grows until a Cholesky factorisation fails.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .scalars import holds, is_any, is_postponing, total

# Shares of the diagonal that are added to it until a matrix has a Cholesky factor; with
# the last every symmetric matrix of non-negative diagonal is close to diagonal.
JITTERS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e2, 1e4)

# Matrices of more rows than this are split before LAPACK has them.
MAX_LAPACK_SIZE = 24

# So many matrices of at most this size are inverted all at once, since LAPACK, which
# has them one by one, takes longer to begin with one than to invert it.
MAX_ELIMINATED_SIZE, MIN_ELIMINATED = 32, 400


def identity(size: int, like: Tensor) -> Tensor:
    """The identity matrix, of the dtype and on the device of another tensor."""
    return _identity(size, like.dtype, like.device)


@lru_cache(16)
def _identity(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.eye(size, dtype=dtype, device=device)


def symmetrised(matrix: Tensor) -> Tensor:
    """The symmetric part of matrices."""
    return (matrix + matrix.mT) / 2


def with_fixed_signs(vectors: Tensor) -> Tensor:
    """Columns whose largest entry is positive.

    The signs of eigenvectors and of singular vectors are those of a library, and draws
    in their directions would differ between devices.
    """
    largest = vectors.abs().argmax(0, keepdim=True)
    return vectors * vectors.gather(0, largest).sign()


def times(matrices: Tensor, vectors: Tensor, out: Tensor | None = None) -> Tensor:
    """The product of each matrix and its vector."""
    if matrices.device.type != "cpu":
        column = None if out is None else out[:, :, None]
        return torch.bmm(matrices, vectors[:, :, None], out=column).squeeze(2)
    # On small matrices twice as fast as a batched matrix product.
    if not is_last(matrices):
        return torch.sum(matrices * vectors[:, None, :], 2, out=out)
    product = (matrices.permute(1, 2, 0) * vectors.T.contiguous()).sum(1).T
    return product.contiguous() if out is None else out.copy_(product)


def eliminates(n_matrices: int, size: int, device: torch.device) -> bool:
    """Whether matrices are inverted all at once, and best lie along the last axis."""
    is_small = size <= MAX_ELIMINATED_SIZE and device.type == "cpu"
    return is_small and n_matrices >= MIN_ELIMINATED


def is_last(matrices: Tensor) -> bool:
    """Whether the same entries of all matrices are neighbours in memory.

    Processors then compute several matrices at a time.
    """
    return matrices.stride(0) == 1 and matrices.device.type == "cpu"


def inverse(matrix: Tensor, floor: float = 0.0) -> Tensor:
    """Inverse of a positive definite matrix, symmetric to the bit.

    Eigenvalues of the matrix are at least `floor`, or if that is 0, those of the matrix
    scaled to a diagonal of ones are not so far below the largest that its precision
    could not tell it from a singular one.
    """
    M = symmetrised(matrix.double())
    eps = len(M) * torch.finfo(matrix.dtype).eps
    if floor and matrix.device.type == "cpu":
        found = _inverse_by_eigenvalues(M, floor, eps)
        return symmetrised(found).to(matrix.dtype)
    root, failure = torch.linalg.cholesky_ex(M)
    # Where there is a floor, M was made to have no eigenvalue below it, and only
    # rounding could. The others are those of M scaled, as is the square of its root.
    least = 0.0 if floor else eps

    def is_definite(failure: np.ndarray, root: np.ndarray, M: np.ndarray) -> bool:
        return not failure and bool((root**2 >= least * M).all())

    if holds(is_definite, failure, root.diagonal(), M.diagonal()):
        # Its transpose is contiguous.
        found = _inverse_of_product(root).mT
    elif floor:
        found = _inverse_by_eigenvalues(M, floor, eps)
    else:
        scale = M.diagonal().clamp(min=torch.finfo(M.dtype).tiny).rsqrt()
        scaled = scale[:, None] * M * scale
        found = _inverse_by_eigenvalues(scaled, 0.0, eps)
        found = scale[:, None] * found * scale
    return symmetrised(found).to(matrix.dtype)


def _inverse_of_product(roots: Tensor) -> Tensor:
    """(RRᵀ)⁻¹ of lower triangular roots R; its transpose is contiguous."""
    if roots.device.type == "cpu":
        return torch.cholesky_inverse(roots)
    one = identity(roots.shape[-1], roots)
    inverse_roots = torch.linalg.solve_triangular(roots, one, upper=False)
    return (inverse_roots.mT @ inverse_roots).mT


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
    roots, failures = _factorised(matrices)
    if not is_any(failures):
        return roots
    failed = failures.nonzero().squeeze(1)
    for jitter in JITTERS:
        A = matrices[failed]
        A.diagonal(dim1=-2, dim2=-1).mul_(1 + jitter)
        again, failures = _factorised(A)
        roots[failed] = again
        failed = failed[failures != 0]
        if not len(failed):
            return roots
    raise torch.linalg.LinAlgError(
        f"{len(failed)} matrices have no Cholesky factor: they are not finite, or have "
        "a diagonal that is not positive."
    )


def _factorised(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Lower Cholesky factors, and whether there is none, which is not 0."""
    roots, failures = torch.linalg.cholesky_ex(matrices)
    if matrices.device.type != "cpu" and not is_postponing():
        # Libraries of devices may take matrices that are not finite. Where checks are
        # postponed, numbers that follow are checked.
        failures = failures + 0 * roots.diagonal(dim1=-2, dim2=-1).sum(-1)
    return roots, failures


def log_det_of_product(roots: Tensor, power: int = 1) -> Tensor:
    """Sum of log det RRᵀ over triangular roots R, for a power of RRᵀ."""
    return 2 * power * total(roots.diagonal(dim1=1, dim2=2).log())


def covariance_and_log_det(precisions: Tensor) -> tuple[Tensor, Tensor]:
    """Inverses of a batch of precisions, and the sum of the inverses' log dets."""
    size = precisions.shape[-1]
    if eliminates(len(precisions), size, precisions.device):
        covariance, pivots = _eliminated(precisions)
        if not is_any(~(pivots > 0)):
            return covariance, -total(pivots.log())
    if size <= MAX_LAPACK_SIZE:
        root = cholesky(precisions)
        return _inverse_of_product(root).mT, log_det_of_product(root, -1)
    half = size // 2
    head, below, rest = _halves(precisions, half)
    tail, log_det = covariance_and_log_det(rest)
    below = below @ head
    across = tail @ below
    covariance = torch.empty_like(precisions)
    torch.baddbmm(head.mT @ head, below.mT, across, out=covariance[:, :half, :half])
    torch.neg(across, out=covariance[:, half:, :half])
    torch.neg(across.mT, out=covariance[:, :half, half:])
    covariance[:, half:, half:] = tail
    return covariance, log_det + log_det_of_product(head)


def _eliminated(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Inverses by elimination of one row after another of all matrices, and the pivots.

    Pivots of positive definite matrices are positive, and their product is the
    determinant. The inverses lie along the last axis (see `is_last`).
    """
    A = matrices.permute(1, 2, 0).clone(memory_format=torch.contiguous_format)
    size, n_matrices = A.shape[1:]
    pivots, row = A.new_empty(2, size, n_matrices).unbind()
    scale = A.new_empty(n_matrices)
    for k, pivot in enumerate(pivots):
        torch.rsqrt(pivot.copy_(A[k, k]), out=scale)
        torch.mul(A[k], scale, out=row)
        # A square of each matrix's own row, which is symmetric to the bit.
        A.addcmul_(row[:, None], row, value=-1)
        row *= scale
        A[k], A[:, k] = row, row
        torch.mul(scale, -scale, out=A[k, k])
    return A.neg_().permute(2, 0, 1), pivots


def inverse_root(A: Tensor) -> Tensor:
    """L⁻¹ for the Cholesky factors A = LLᵀ of positive definite matrices."""
    size = A.shape[-1]
    if size <= MAX_LAPACK_SIZE:
        return torch.linalg.solve_triangular(
            cholesky(A), identity(size, A), upper=False
        )
    # By halves, since LAPACK is slow on matrices of this size one by one, and batched
    # matrix products are not.
    half = size // 2
    head, below, rest = _halves(A, half)
    tail = inverse_root(rest)
    root = torch.zeros_like(A)
    root[:, :half, :half] = head
    root[:, half:, half:] = tail
    torch.neg(tail @ (below @ head), out=root[:, half:, :half])
    return root


def _halves(A: Tensor, half: int) -> tuple[Tensor, Tensor, Tensor]:
    """By the first rows and the others: L⁻¹ and below it L, and A given the first."""
    head = inverse_root(A[:, :half, :half])
    below = A[:, half:, :half] @ head.mT
    return head, below, torch.baddbmm(A[:, half:, half:], below, below.mT, alpha=-1)
