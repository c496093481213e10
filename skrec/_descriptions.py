"""Described users and items: a table by raw id, and the sparse matrix it becomes.

Numbers become a column each, in units of their standard deviation unless all are 0 or
1; of a categorical column every value becomes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import narwhals.stable.v1 as nw
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.preprocessing import OneHotEncoder

from ._interactions import DATE_KINDS, NUMBER_KINDS, Ids, as_numbers, shown

N_SHOWN = 5


@dataclass(frozen=True)
class Table:
    """What is said of ids, a row each.

    Attributes
    ----------
    ids : Ids
    columns : dict of str to ndarray of shape (n_ids,) or csr_array of n_ids rows
        Categories are arrays, and numbers are matrices.
    where : str
        Where it was found, for messages.
    """

    ids: Ids
    columns: dict[str, np.ndarray | sparse.csr_array]
    where: str

    @classmethod
    def read(cls, features: Any, where: str) -> Self:
        """A frame by its index, or a matrix that has row i for the id i.

        A table of a library whose frames have no index has ids in its first column.
        """
        if isinstance(features, pd.Series):
            features = features.to_frame()
        if isinstance(features, pd.DataFrame):
            # Before narwhals, which refuses equal names.
            return cls._of_frame(features.index, features, where)
        table = nw.from_native(features, eager_only=True, pass_through=True)
        if isinstance(table, nw.DataFrame):
            series = [table[:, j].to_numpy() for j in range(table.shape[1])]
            frame = pd.concat([pd.Series(values) for values in series], axis=1)
            frame.columns = table.columns
            return cls._of_frame(frame.iloc[:, 0], frame.iloc[:, 1:], where)
        matrix = features if sparse.issparse(features) else np.asarray(features)
        if matrix.ndim != 2:
            raise TypeError(
                f"{where} must be a frame indexed by raw id, or a matrix that has row "
                f"i for the id i, got {type(features).__name__}."
            )
        if not sparse.issparse(matrix):
            matrix = as_numbers(matrix, where, "value")
        matrix = sparse.csr_array(matrix)
        as_numbers(matrix.data, where, "value")
        return cls._checked(np.arange(matrix.shape[0]), {"": matrix}, where)

    @classmethod
    def _of_frame(cls, ids: Any, frame: pd.DataFrame, where: str) -> Self:
        if isinstance(ids, pd.MultiIndex):
            raise TypeError(
                f"{where} has an index of {ids.nlevels} levels; an id is one of them."
            )
        names = [str(name) for name in frame.columns]
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise ValueError(f"{where} has several columns named {few(twice)}.")
        ids = ids.to_numpy()
        columns = {
            name: _read_column(frame.iloc[:, place], f"{where}[{name!r}]", ids)
            for place, name in enumerate(names)
        }
        return cls._checked(ids, columns, where)

    @classmethod
    def _checked(cls, ids: np.ndarray, columns: dict, where: str) -> Self:
        if not columns:
            raise ValueError(f"{where} has no columns.")
        ids = Ids.from_column(ids, f"{where} (its index)")
        twice = pd.Series(ids.values).duplicated().to_numpy()
        if twice.any():
            raise ValueError(
                f"{where} has several rows for {few(ids.values[twice])}; an id is "
                "described once."
            )
        return cls(ids, columns, where)


@dataclass(frozen=True)
class Numbers:
    """Encodes a matrix of numbers, or a column of a frame, less its mean.

    A matrix stays sparse, so its zeros stay zero.
    """

    names: list[str]
    mean: float
    scale: np.ndarray

    @classmethod
    def fitted(cls, name: str, matrix: sparse.csr_array) -> Self:
        n_columns = matrix.shape[1]
        # Moments in units of the largest value, since squares may be out of range.
        unit = abs(matrix).max(axis=0).toarray()
        unit = np.where(unit > np.finfo(float).tiny, unit, 1)
        shares = sparse.csr_array(matrix @ sparse.diags_array(1 / unit))
        square = shares.multiply(shares).mean(axis=0)
        mean = shares.mean(axis=0)
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        is_flag = (matrix != matrix.astype(bool)).sum(axis=0) == 0
        # Rounding leaves a constant column a deviation of a few ulps.
        taken = is_flag | (deviation <= 1e-6 * np.sqrt(square))
        return cls(
            names=[name] if name else [str(j) for j in range(n_columns)],
            mean=0.0 if not name or is_flag[0] else float(mean[0] * unit[0]),
            scale=np.where(is_flag, 1.0, unit * np.where(taken, 1.0, deviation)),
        )

    def encoded(self, matrix: Any, where: str) -> sparse.csr_array:
        if not sparse.issparse(matrix) or matrix.shape[1] != len(self.scale):
            n = len(self.scale)
            raise ValueError(
                f"{where} must hold numbers in {n} column{'s' * (n > 1)}, as in fit."
            )
        if self.mean:
            matrix = matrix.toarray() - self.mean
        return sparse.csr_array(matrix @ sparse.diags_array(1 / self.scale))

    def contrast(self, mean: np.ndarray) -> sparse.sparray:
        return sparse.eye_array(len(mean))


@dataclass(frozen=True)
class Categories:
    """Encodes a column of categories; one that is new has zeros."""

    names: list[str]
    encoder: OneHotEncoder

    @classmethod
    def fitted(cls, name: str, values: np.ndarray) -> Self:
        encoder = OneHotEncoder(handle_unknown="ignore", dtype=np.float64)
        encoder.fit(values[:, None])
        return cls([f"{name}_{value}" for value in encoder.categories_[0]], encoder)

    def encoded(self, values: Any, where: str) -> sparse.csr_array:
        if sparse.issparse(values):
            raise ValueError(f"{where} must hold categories, as in fit, not numbers.")
        return sparse.csr_array(self.encoder.transform(values[:, None]))

    def contrast(self, mean: np.ndarray) -> sparse.sparray:
        return sparse.csr_array(np.eye(len(mean)) - mean)


@dataclass(frozen=True)
class Encoder:
    """Takes tables with the columns of a fit into matrices.

    Attributes
    ----------
    columns : dict of str to Numbers or Categories
    """

    columns: dict[str, Numbers | Categories]

    @classmethod
    def fitted(cls, table: Table, rows: np.ndarray) -> Self:
        """Categories and scales are those of some rows."""
        kinds = {
            name: Numbers if sparse.issparse(values) else Categories
            for name, values in table.columns.items()
        }
        return cls(
            {
                name: kinds[name].fitted(name, values[rows])
                for name, values in table.columns.items()
            }
        )

    @property
    def names(self) -> list[str]:
        """Names of the columns of the matrix."""
        return [name for column in self.columns.values() for name in column.names]

    def contrasts(self, mean: np.ndarray) -> sparse.csr_array:
        """What is compared when one asks what a column says, a row for each.

        A category with the mean of all; one more of a number with one less.
        """
        bounds = np.cumsum(
            [0] + [len(column.names) for column in self.columns.values()]
        )
        parts = [
            column.contrast(mean[start:stop])
            for column, (start, stop) in zip(
                self.columns.values(), pairwise(bounds), strict=True
            )
        ]
        return sparse.csr_array(sparse.block_diag(parts))

    def encoded(self, table: Table) -> sparse.csr_array:
        """All rows of a table, shape (n_ids, n_columns)."""
        missing = [name for name in self.columns if name not in table.columns]
        surplus = [name for name in table.columns if name not in self.columns]
        if missing or surplus:
            raise ValueError(
                f"{table.where} must have the columns that it had in fit"
                + (f"; {few(missing)} is missing" if missing else "")
                + (f"; {few(surplus)} was not there" if surplus else "")
                + "."
            )
        parts = [
            column.encoded(table.columns[name], f"{table.where}[{name!r}]")
            for name, column in self.columns.items()
        ]
        return sparse.csr_array(sparse.hstack(parts))


@dataclass(frozen=True)
class Description:
    """What `fit` was told of one side's ids.

    Attributes
    ----------
    encoder : Encoder
    ids : ndarray of shape (n_ids,)
        Ids that are described but have no ratings.
    matrix : csr_array of shape (n_ids, n_columns)
        Their rows.
    """

    encoder: Encoder
    ids: np.ndarray
    matrix: sparse.csr_array

    @classmethod
    def of(
        cls, features: Any, ids: np.ndarray, where: str
    ) -> tuple[Self, sparse.csr_array]:
        """A description, and the rows of `ids`, which have ratings."""
        table = Table.read(features, where)
        rows = _numbered(ids, table.ids.values, where)
        absent = ids[rows < 0]
        if len(absent):
            raise ValueError(
                f"{where} must have a row for every id of X, but lacks "
                f"{len(absent)} of {len(ids)}: {few(absent)}."
            )
        encoder = Encoder.fitted(table, rows)
        matrix = encoder.encoded(table)
        others = np.setdiff1d(np.arange(len(table.ids.values)), rows)
        return cls(encoder, table.ids.values[others], matrix[others]), matrix[rows]

    def rows_of(
        self, ids: np.ndarray, features: Any, where: str
    ) -> tuple[np.ndarray, sparse.csr_array]:
        """Which ids are described, by `features` or in `fit`, and their rows."""
        sources = [(self.ids, self.matrix)]
        if features is not None:
            table = Table.read(features, where)
            sources.insert(0, (table.ids.values, self.encoder.encoded(table)))
        found = np.zeros(len(ids), dtype=bool)
        places, parts = [], []
        for described, matrix in sources:
            rows = _numbered(ids, described, where)
            new = np.flatnonzero(~found & (rows >= 0))
            found[new] = True
            places.append(new)
            parts.append(matrix[rows[new]])
        order = np.argsort(np.concatenate(places), kind="stable")
        return found, sparse.csr_array(sparse.vstack(parts))[order]


def _numbered(ids: np.ndarray, among: np.ndarray, where: str) -> np.ndarray:
    """Row number of each id among others, -1 where it is not there."""
    if not (len(ids) and len(among)):
        return np.full(len(ids), -1)
    index = Ids.from_column(among, f"{where} (its index)")
    # Asked for the other way round, so that a message names both sides.
    found = index.numbered_in(ids)
    rows = np.full(len(ids), -1)
    rows[found[found >= 0]] = np.flatnonzero(found >= 0)
    return rows


def few(values: Sequence) -> str:
    """The first of some values, in words."""
    first = ", ".join(shown(value) for value in values[:N_SHOWN])
    return first + (", …" if len(values) > N_SHOWN else "")


def _read_column(
    series: pd.Series, where: str, ids: np.ndarray
) -> np.ndarray | sparse.csr_array:
    """Numbers as a matrix of one column, categories as an array of objects."""
    missing = series.isna().to_numpy()
    if missing.any():
        raise ValueError(
            f"{where} is missing for {few(ids[missing])} ({missing.sum()} of "
            f"{len(ids)} ids); fill it in, or leave the column out."
        )
    if isinstance(series.dtype, pd.CategoricalDtype):
        return series.to_numpy(dtype=object)
    kind = pd.api.types.infer_dtype(series, skipna=False)
    if kind in DATE_KINDS or kind in ("timedelta", "period"):
        raise TypeError(f"{where} holds dates or times; turn them into numbers.")
    if pd.api.types.is_numeric_dtype(series.dtype) or kind in NUMBER_KINDS:
        numbers = as_numbers(series.to_numpy(), where, "value")
        return sparse.csr_array(numbers[:, None])
    return series.to_numpy(dtype=object)
