"""Covariances of rows: packed, perhaps rounded, or along axes of all rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .._data.vocabulary import Growth
from .._sparse import ParallelMap
from .._storage import stored
from .triangles import QuantisedTriangles, compact, packed, unpacked

# Updated covariances stay apart from the stored ones up to this number of rows, and up
# to this share of them.
MIN_PATCH, MAX_PATCH = 2**8, 1 / 64


@stored
@dataclass(frozen=True)
class PackedCovariance:
    """Covariances of rows by their lower triangles, with updated ones apart.

    An update of a few rows does not copy the others, which may be rounded. It is
    indexed as an array of shape (1, n_rows, row_size, row_size).

    Attributes
    ----------
    stored : ndarray of shape (n_stored, row_size (row_size + 1) / 2)
        Or QuantisedTriangles of such a shape.
    updated : ndarray of shape (n_updated, row_size (row_size + 1) / 2)
    place : ndarray of shape (n_rows,)
        Place of each row in `stored` followed by `updated`.
    factor : float or ndarray of shape (row_size (row_size + 1) / 2,)
        Multiplies all of them, so that a change of units does not copy them.
    """

    stored: np.ndarray | QuantisedTriangles
    updated: np.ndarray
    place: np.ndarray
    factor: float | np.ndarray = 1.0

    @classmethod
    def of(cls, covariances: np.ndarray) -> PackedCovariance:
        """Covariances of shape (n_rows, row_size, row_size), none of them updated."""
        return cls.of_triangles(packed(covariances))

    @classmethod
    def of_triangles(
        cls,
        stored: np.ndarray | QuantisedTriangles,
        factor: float | np.ndarray = 1.0,
    ) -> PackedCovariance:
        return cls(stored, stored[:0], np.arange(len(stored)), factor)

    def __getitem__(self, key: int | tuple) -> np.ndarray:
        _, rows = key if isinstance(key, tuple) else (key, slice(None))
        return unpacked(self._triangles(rows) * self.factor)

    def __mul__(self, factor: float) -> PackedCovariance:
        return replace(self, factor=self.factor * factor)

    def __reduce__(self) -> tuple:
        # Updated rows may be rounded where they are merged.
        is_rounded = isinstance(self.stored, QuantisedTriangles)
        merged = self if is_rounded else self._merged()
        if len(merged.updated) or len(merged.stored) < len(merged.place):
            return PackedCovariance, (
                *(merged.stored, merged.updated),
                *(merged.place, merged.factor),
            )
        return PackedCovariance.of_triangles, (merged.stored, merged.factor)

    def _merged(self) -> PackedCovariance:
        """The same covariances in one table, unless rows share fewer of them."""
        if len(self.stored) + len(self.updated) < len(self.place):
            return self
        return self.take(slice(None))

    def compact(self, parallel_map: ParallelMap = map) -> PackedCovariance:
        """The covariances, rounded if that saves much memory and none is updated."""
        stored = self.stored
        if isinstance(stored, QuantisedTriangles) or len(self.updated):
            return self
        if len(stored) < len(self.place):
            return self
        return replace(self, stored=compact(stored, parallel_map))

    def take(self, rows: np.ndarray | slice) -> PackedCovariance:
        """Covariances of some rows, none of them updated."""
        if isinstance(self.stored, QuantisedTriangles):
            taken = self.stored.followed_by(self.updated).take(self.place[rows])
            return PackedCovariance.of_triangles(taken, self.factor)
        return PackedCovariance.of_triangles(self._triangles(rows), self.factor)

    def _triangles(self, rows: np.ndarray | slice) -> np.ndarray:
        place = self.place[rows]
        flat = np.ravel(place)
        n_stored = len(self.stored)
        taken = self.stored[np.minimum(flat, n_stored - 1)]
        is_updated = flat >= n_stored
        taken[is_updated] = self.updated[flat[is_updated] - n_stored]
        return taken.reshape(*np.shape(place), taken.shape[1])

    def with_updates(
        self, updated: PackedCovariance | AxisCovariance, own: Growth
    ) -> PackedCovariance:
        """Covariances among new rows, with `updated` for the rows that are given."""
        values = packed(updated[0])
        place = own.inserted(self.place)
        place[own.given] = len(self.stored) + len(self.updated) + np.arange(len(values))
        values = (values / self.factor).astype(self.stored.dtype)
        grown = np.concatenate([self.updated, values])
        patched = replace(self, updated=grown, place=place)
        if len(grown) > max(MIN_PATCH, len(place) * MAX_PATCH):
            return patched._merged().compact()
        return patched


@stored
@dataclass(frozen=True)
class AxisCovariance:
    """Covariances B diag(v) Bᵀ of rows, with the same axes B for all of them.

    It is indexed as an array of shape (1, n_rows, row_size, row_size).

    Attributes
    ----------
    basis : ndarray of shape (row_size, row_size)
        B.
    variance : ndarray of shape (n_rows, row_size)
        v.
    """

    basis: np.ndarray
    variance: np.ndarray

    def __getitem__(self, key: int | tuple) -> np.ndarray:
        _, rows = key if isinstance(key, tuple) else (key, slice(None))
        return (self.variance[rows][..., None, :] * self.basis) @ self.basis.T

    def __mul__(self, factor: float) -> AxisCovariance:
        return replace(self, variance=self.variance * factor)

    def along(self, covariances: np.ndarray) -> np.ndarray:
        """Variances of other covariances along the axes, shape (n_rows, row_size)."""
        inverse = np.linalg.inv(self.basis)
        return np.einsum("jk,nkl,jl->nj", inverse, covariances, inverse, optimize=True)

    def take(self, rows: np.ndarray) -> AxisCovariance:
        """Covariances of some rows."""
        return replace(self, variance=self.variance[rows])

    def with_updates(
        self, updated: PackedCovariance | AxisCovariance, own: Growth
    ) -> AxisCovariance:
        """Covariances among new rows, with `updated` for the rows that are given.

        Of other covariances the variances along the axes are kept.
        """
        if isinstance(updated, AxisCovariance):
            values = updated.variance
        else:
            values = self.along(updated[0])
        variance = own.inserted(self.variance)
        variance[own.given] = values
        return replace(self, variance=variance)
