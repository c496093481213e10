"""Leading eigenvectors of RᵀR, by block power iteration (Halko et al., 2011).

Reference: Halko, Martinsson, Tropp (2011). Finding structure with randomness. SIAM
Review.
"""

from __future__ import annotations

import numpy as np
import torch

from .._share import ALL_ROWS, Share
from .excess import TINY, Excess

N_PASSES = 2

# Items, and items per eigenvector, up to which all eigenvectors are found at once, from
# RᵀR itself.
MAX_FEW_ITEMS, MAX_ITEMS_PER_FACTOR = 512, 2

# Rows of a tall matrix that are squared at once, in double precision.
BLOCK_ROWS = 2**13

# Smallest pivot of a scaled Cholesky root at which columns count as independent.
MIN_PIVOT = 1e-3


def eigenvectors(
    excess: Excess, basis: np.ndarray, share: Share
) -> tuple[np.ndarray, np.ndarray]:
    """Leading eigenvalues of RᵀR, largest first, and their eigenvectors.

    By block power iteration from a basis (Halko et al., 2011), or from RᵀR itself where
    that is small, or where they are not few among all.
    """
    size = basis.shape[1]
    if len(basis) <= max(MAX_FEW_ITEMS, MAX_ITEMS_PER_FACTOR * size):
        values, V = _decomposed(torch.from_numpy(excess.square(share)))
        return values[:size], np.ascontiguousarray(V[:, :size])
    for _ in range(N_PASSES - 1):
        basis = _orthonormal(excess.projected(excess @ basis, share))
    # The last pass is by half steps, of which the second gives the eigenvectors.
    U = _orthonormal(excess @ basis, share)
    Y = excess.projected(U, share)
    eigenvalues, W = _eigen(Y)
    W /= np.sqrt(eigenvalues.clip(TINY))
    return eigenvalues.astype(np.float32), product(Y, W.astype(np.float32))


def _orthonormal(Y: np.ndarray, share: Share = ALL_ROWS) -> np.ndarray:
    """An orthonormal basis of the columns of a tall matrix, of the rows of a share."""
    # By YᵀY, since Householder's method takes many times as long, and in double
    # precision, since the condition of YᵀY is the square of that of Y.
    square = share.sum(_square(Y))
    basis = _by_root(Y, square)
    if basis is not None:
        return basis
    squares, W = _decomposed(square)
    least = (len(squares) * np.finfo(Y.dtype).eps) ** 2 * squares[0]
    squares = squares.clip(TINY)
    is_kept = squares >= max(least, TINY)
    is_kept[0] = True
    return product(Y, (W[:, is_kept] / np.sqrt(squares[is_kept])).astype(Y.dtype))


def _eigen(Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of YᵀY, largest first, and its eigenvectors, in double precision."""
    return _decomposed(_square(Y))


def _decomposed(square: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, largest first, and eigenvectors."""
    values, W = torch.linalg.eigh(square)
    return values.flip(0).numpy(), W.flip(1).numpy()


def _by_root(Y: np.ndarray, square: torch.Tensor) -> np.ndarray | None:
    """An orthonormal basis by a Cholesky root; None where columns are dependent."""
    scale = square.diagonal().clamp(min=torch.finfo(square.dtype).tiny).rsqrt()
    root, failure = torch.linalg.cholesky_ex(scale[:, None] * square * scale)
    if failure or root.diagonal().min() < MIN_PIVOT:
        return None
    # Y R⁻¹ for YᵀY = RᵀR, some thirty times as fast as by eigenvectors.
    one = torch.eye(len(root), dtype=root.dtype)
    inverse = torch.linalg.solve_triangular(root, one, upper=False).T
    return product(Y, (scale[:, None] * inverse).numpy().astype(Y.dtype))


def _square(Y: np.ndarray) -> torch.Tensor:
    """YᵀY in double precision."""
    square = torch.zeros(Y.shape[1], Y.shape[1], dtype=torch.float64)
    for block in torch.from_numpy(Y).split(BLOCK_ROWS):
        wide = block.double()
        square.addmm_(wide.T, wide)
    return square


def product(Y: np.ndarray, W: np.ndarray) -> np.ndarray:
    """YW by as many threads as torch has here."""
    return (torch.from_numpy(Y) @ torch.from_numpy(W)).numpy()
