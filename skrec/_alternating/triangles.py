"""Lower triangles of covariances of rows, and their rounding to bytes.

Rows with few ratings stay near the prior, so that their correlations differ little from
those of all rows. These differences are rounded to bytes, in steps of each row's own. A
row whose covariance would be too far off, such as one with many ratings, keeps its
numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch

from .._sparse import ParallelMap
from .._storage import stored

# Most that rounding may change the variance of any sum of the elements of a row,
# relative to this variance.
TOLERANCE = 0.01

# Triangles of fewer bytes stay as they are, and so do those of which rounding would
# leave more than this share, by a sample of so many rows.
MIN_BYTES, MAX_SHARE, SAMPLE_SIZE = 2**25, 0.75, 2**10

MAX_CODE = 127

# Elements that are rounded at a time.
TILE_SIZE = 2**18


@dataclass(frozen=True)
class TrianglePlaces:
    """Places of elements of a matrix in its lower triangle, which is row by row.

    Attributes
    ----------
    flat : ndarray of shape (n_packed,)
        Place in the matrix of each element of the triangle.
    whole : ndarray of shape (size, size)
        Place in the triangle of each element of the matrix.
    diagonal, below : ndarray
        Places in the triangle of elements on the diagonal, and of the others.
    order : ndarray of shape (n_packed,)
        Place of each element of the triangle among `below` followed by `diagonal`.
    """

    flat: np.ndarray
    whole: np.ndarray
    diagonal: np.ndarray
    below: np.ndarray
    order: np.ndarray

    @classmethod
    @cache
    def of_size(cls, size: int) -> TrianglePlaces:
        rows, columns = np.tril_indices(size)
        whole = np.empty((size, size), dtype=np.intp)
        whole[rows, columns] = whole[columns, rows] = np.arange(len(rows))
        diagonal = np.flatnonzero(rows == columns)
        below = np.flatnonzero(rows != columns)
        order = np.argsort(np.concatenate([below, diagonal]))
        return cls(rows * size + columns, whole, diagonal, below, order)

    @classmethod
    def of(cls, triangles: np.ndarray) -> TrianglePlaces:
        """Places in triangles, which are along the last axis."""
        return cls.of_size((math.isqrt(8 * triangles.shape[-1] + 1) - 1) // 2)


def packed(matrices: np.ndarray) -> np.ndarray:
    """Lower triangles of symmetric matrices, row by row."""
    *shape, size, _ = matrices.shape
    return matrices.reshape(*shape, size**2)[..., TrianglePlaces.of_size(size).flat]


def unpacked(triangles: np.ndarray) -> np.ndarray:
    """Symmetric matrices of lower triangles."""
    whole = TrianglePlaces.of(triangles).whole
    flat = np.take(triangles, whole.ravel(), axis=-1)
    return flat.reshape(*triangles.shape[:-1], *whole.shape)


@stored
@dataclass(frozen=True)
class QuantisedTriangles:
    """Lower triangles of covariances, rounded where that is close enough.

    With standard deviations u and correlations R of the mean covariance, that of a row
    is

        S_jj = u_j² v_j,    S_jk = u_j u_k (R_jk + s c_jk),

    v in half precision and c in bytes. It is indexed as an array of shape (n_rows,
    n_packed).

    Attributes
    ----------
    mean : ndarray of shape (n_packed,)
        Triangle of the mean covariance.
    variance : ndarray of shape (n_rows, size), dtype float16
        v.
    code : ndarray of shape (n_rows, n_packed - size), dtype int8
        c of the elements below the diagonal.
    step : ndarray of shape (n_rows,), dtype float32
        s.
    exact : ndarray of shape (n_exact, n_packed)
        Triangles that are not rounded.
    place : ndarray of shape (n_rows,), dtype int32
        Place of each row among these; -1 for those that are rounded.
    """

    mean: np.ndarray
    variance: np.ndarray
    code: np.ndarray
    step: np.ndarray
    exact: np.ndarray
    place: np.ndarray

    @classmethod
    def of(
        cls, triangles: np.ndarray, mean: np.ndarray, parallel_map: ParallelMap = map
    ) -> QuantisedTriangles:
        """Triangles of shape (n_rows, n_packed), rounded about a mean."""
        (n_rows, n_packed), size = (
            triangles.shape,
            len(TrianglePlaces.of(triangles).diagonal),
        )
        rounded = cls(
            mean,
            variance=np.empty((n_rows, size), dtype=np.float16),
            code=np.empty((n_rows, n_packed - size), dtype=np.int8),
            step=np.empty(n_rows, dtype=np.float32),
            exact=triangles[:0],
            place=np.full(n_rows, -1, dtype=np.int32),
        )
        unit, is_far = rounded._unit, np.empty(n_rows, dtype=bool)
        height = max(1, TILE_SIZE // n_packed)

        def write(start: int) -> None:
            rows = slice(start, start + height)
            scaled = triangles[rows] / unit
            rounded._write(scaled, rows)
            is_far[rows] = ~_are_close(rounded[rows] / unit - scaled, scaled)

        for _ in parallel_map(write, range(0, n_rows, height)):
            pass
        rounded.place[is_far] = np.arange(is_far.sum())
        return replace(rounded, exact=triangles[is_far])

    def _write(self, scaled: np.ndarray, rows: slice) -> None:
        """Round triangles in units of u to these rows."""
        places = TrianglePlaces.of(scaled)
        away = np.take(scaled, places.below, axis=1)
        away -= (self.mean / self._unit)[places.below]
        step = np.abs(away).max(axis=1, initial=0) / MAX_CODE
        away /= np.where(step > 0, step, 1)[:, None]
        # What is out of range is not close, and not used.
        with np.errstate(over="ignore", invalid="ignore"):
            self.variance[rows] = np.take(scaled, places.diagonal, axis=1)
            self.code[rows] = np.rint(away, out=away)
            self.step[rows] = step

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        places, unit = TrianglePlaces.of(self.mean), self._unit
        code, place = self.code[rows], self.place[rows]
        parts = np.empty((len(code), len(unit)), dtype=self.dtype)
        below, diagonal = np.split(parts, [code.shape[1]], axis=1)
        np.multiply(code, self.step[rows, None], out=below)
        below += (self.mean / unit)[places.below]
        diagonal[:] = self.variance[rows]
        triangles = np.take(parts, places.order, axis=1)
        triangles *= unit
        is_exact = place >= 0
        triangles[is_exact] = self.exact[place[is_exact]]
        return triangles

    def __len__(self) -> int:
        return len(self.code)

    @property
    def dtype(self) -> np.dtype:
        return self.mean.dtype

    @property
    def nbytes(self) -> int:
        arrays = self.variance, self.code, self.step, self.exact, self.place
        return sum(array.nbytes for array in arrays)

    @property
    def _unit(self) -> np.ndarray:
        """u_j u_k, as a triangle."""
        deviation = np.sqrt(self.mean[TrianglePlaces.of(self.mean).diagonal])
        return packed(np.outer(deviation, deviation))

    def take(self, rows: np.ndarray | slice) -> QuantisedTriangles:
        """Some of the rows, which are not rounded again."""
        place = self.place[rows]
        is_exact = place >= 0
        exact = self.exact[place[is_exact]]
        return replace(
            self,
            variance=self.variance[rows],
            code=self.code[rows],
            step=self.step[rows],
            exact=exact,
            place=np.where(is_exact, is_exact.cumsum() - 1, -1).astype(np.int32),
        )

    def followed_by(self, triangles: np.ndarray) -> QuantisedTriangles:
        """These rows and further ones, rounded about the same mean."""
        further = QuantisedTriangles.of(triangles, self.mean)
        place = np.where(further.place < 0, -1, further.place + len(self.exact))
        further = replace(further, place=place.astype(np.int32))
        names = "variance", "code", "step", "exact", "place"
        arrays = {n: [getattr(part, n) for part in (self, further)] for n in names}
        return replace(self, **{n: np.concatenate(arrays[n]) for n in names})


def compact(
    triangles: np.ndarray, parallel_map: ParallelMap = map
) -> np.ndarray | QuantisedTriangles:
    """Triangles of covariances, rounded if that saves much memory."""
    if triangles.nbytes < MIN_BYTES:
        return triangles
    mean = triangles.mean(axis=0, dtype=np.float64).astype(triangles.dtype)
    sample = triangles[:: -(-len(triangles) // SAMPLE_SIZE)]
    if QuantisedTriangles.of(sample, mean).nbytes > MAX_SHARE * sample.nbytes:
        return triangles
    return QuantisedTriangles.of(triangles, mean, parallel_map)


def _are_close(error: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Whether errors change no variance by more than the tolerance.

    zᵀ(S + E)z is between (1 − ε) zᵀSz and (1 + ε) zᵀSz for all z if εS ± E is positive
    definite. Where correlations are small, bounds by norms show that at less cost.
    """
    places = TrianglePlaces.of(triangles)
    variance = np.take(triangles, places.diagonal, axis=1)
    below = np.einsum("nj,nj->n", triangles, triangles) - (variance**2).sum(axis=1)
    least = variance.min(axis=1) - np.sqrt(2 * np.maximum(below, 0))
    most = np.sqrt(2 * np.einsum("nj,nj->n", error, error))
    are_close = most < TOLERANCE * least
    (rest,) = (~are_close).nonzero()
    are_close[rest] = True
    for sign in (1, -1):
        margin = unpacked(TOLERANCE * triangles[rest] + sign * error[rest])
        _, failures = torch.linalg.cholesky_ex(torch.from_numpy(margin))
        are_close[rest] &= failures.numpy() == 0
    return are_close
