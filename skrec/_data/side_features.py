"""Side features: encoding of feature tables as sparse matrices, and cold rows.

A numeric column becomes one column, in units of its standard deviation unless all its
values are 0 or 1. A column of labels becomes an indicator column for each label. A
missing value is replaced by the mean of the rows of the fit, and flagged in a further
column if `fit` has met such rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy import sparse

from .._storage import stored
from .._warn import warn
from .feature_table import FeatureTable, Labels
from .messages import quote_first, shown
from .vocabulary import Ids


@stored
@dataclass(frozen=True)
class Numbers:
    """Encoder of a matrix of numbers, or of a centred column of a frame.

    A matrix stays sparse, so its zeros stay zero.

    Attributes
    ----------
    names : list of str
    mean : float
        Subtracted from a column of a frame.
    scale, fill : ndarray of shape (n_columns,)
        Standard deviations, and values in place of missing ones.
    flagged : ndarray of int
        Columns whose missing values are flagged in a further column.
    """

    names: list[str]
    mean: float
    scale: np.ndarray
    fill: np.ndarray
    flagged: np.ndarray

    @classmethod
    def fitted(cls, name: str, matrix: sparse.csr_array) -> Self:
        """Encoder with the moments of a matrix, or of the column `name`."""
        matrix, missing = _without_missing(matrix)
        n_rows, n_columns = matrix.shape
        n_missing = missing.sum(axis=0)
        n_present = np.maximum(n_rows - n_missing, 1)
        # Moments in units of the largest value, since squares may be out of range.
        unit = abs(matrix).max(axis=0).toarray().ravel()
        unit = np.where(unit > np.finfo(float).tiny, unit, 1)
        shares = sparse.csr_array(matrix @ sparse.diags_array(1 / unit))
        square = shares.multiply(shares).sum(axis=0) / n_present
        mean = shares.sum(axis=0) / n_present
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        is_flag = (matrix != matrix.astype(bool)).sum(axis=0) == 0
        # Rounding leaves a constant column a deviation of a few ulps.
        taken = is_flag | (deviation <= 1e-6 * np.sqrt(square))
        flagged = np.flatnonzero((n_missing > 0) & (n_missing < n_rows))
        names = [name] if name else [str(j) for j in range(n_columns)]
        return cls(
            names=names + [f"{names[j]}_missing" for j in flagged],
            mean=0.0 if not name or is_flag[0] else float(mean[0] * unit[0]),
            scale=np.where(is_flag, 1.0, unit * np.where(taken, 1.0, deviation)),
            fill=mean * unit,
            flagged=flagged,
        )

    def encoded(
        self, matrix: sparse.csr_array | Labels, where: str
    ) -> sparse.csr_array:
        """Standardised numbers, and flags of missing ones."""
        if isinstance(matrix, Labels) and matrix.missing.all():
            matrix = sparse.csr_array(np.full((len(matrix.missing), 1), np.nan))
        if isinstance(matrix, Labels) or matrix.shape[1] != len(self.scale):
            n = len(self.scale)
            raise ValueError(
                f"{where} must hold numbers in {n} column{'s' * (n > 1)}, as in fit."
            )
        matrix, missing = _without_missing(matrix)
        if missing.nnz:
            matrix = matrix + missing @ sparse.diags_array(self.fill)
        if self.mean:
            matrix = matrix.toarray() - self.mean
        matrix = matrix @ sparse.diags_array(1 / self.scale)
        return sparse.csr_array(sparse.hstack([matrix, missing[:, self.flagged]]))

    def contrast(self, mean: np.ndarray) -> sparse.csr_array:
        """One more of each number."""
        return sparse.csr_array(sparse.eye_array(len(mean)))

    def by_column(
        self, name: str, mean: np.ndarray, effect: np.ndarray
    ) -> tuple[list[str], np.ndarray]:
        """Names of the numbers, and the effect of each by itself."""
        n = len(self.scale)
        return self.names[:n], np.eye(n, len(mean))


def _without_missing(
    matrix: sparse.csr_array,
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """A matrix with zeros for NaN, and the indicators of NaN."""
    absent = np.isnan(matrix.data)
    if not absent.any():
        return matrix, sparse.csr_array(matrix.shape)
    filled, missing = matrix.copy(), matrix.copy()
    filled.data = np.where(absent, 0.0, matrix.data)
    missing.data = absent.astype(np.float64)
    missing.eliminate_zeros()
    return filled, missing


@stored
@dataclass(frozen=True)
class Categories:
    """Encoder of a column of labels; a label that `fit` has not met is zero.

    Attributes
    ----------
    names : list of str
    labels : ndarray of shape (n_labels,), dtype object
    several : bool
        Whether a row may have several labels.
    fill : ndarray of shape (n_labels,)
        Shares of labels, in place of missing ones.
    is_flagged : bool
        Whether missing labels are flagged in a further column.
    """

    names: list[str]
    labels: np.ndarray
    several: bool
    fill: np.ndarray
    is_flagged: bool

    @classmethod
    def fitted(cls, name: str, column: Labels) -> Self:
        """Encoder of the labels that occur in a column."""
        counts = column.matrix.sum(axis=0)
        labels = column.labels[counts > 0]
        n_present = max(int((~column.missing).sum()), 1)
        is_flagged = 0 < int(column.missing.sum()) < len(column.missing)
        return cls(
            names=[f"{name}_{label}" for label in labels]
            + [f"{name}_missing"] * is_flagged,
            labels=np.asarray(labels, dtype=object),
            several=column.several,
            fill=counts[counts > 0] / n_present,
            is_flagged=is_flagged,
        )

    def encoded(
        self, column: sparse.csr_array | Labels, where: str
    ) -> sparse.csr_array:
        """Indicators of labels, and flags of missing ones."""
        if not isinstance(column, Labels) and np.isnan(column.toarray()).all():
            # An empty column is of no kind.
            n_rows = column.shape[0]
            empty = np.empty(n_rows, dtype=object)
            column = Labels.from_cells(empty, np.ones(n_rows, dtype=bool), where)
        if not isinstance(column, Labels):
            raise ValueError(f"{where} must hold categories, as in fit, not numbers.")
        given = column.labels
        if len(given) and len(self.labels) and _is_text(given) != _is_text(self.labels):
            raise ValueError(
                f"{where} must hold categories like {shown(self.labels[0])}, as in "
                f"fit, not like {shown(given[0])}."
            )
        places = pd.Index(self.labels, dtype=object).get_indexer(given)
        known = np.flatnonzero(places >= 0)
        chosen = sparse.csr_array(
            (np.ones(len(known)), (known, places[known])),
            shape=(len(given), len(self.labels)),
        )
        missing = sparse.csr_array(column.missing[:, None].astype(np.float64))
        parts = [column.matrix @ chosen + missing @ sparse.csr_array(self.fill[None])]
        return sparse.csr_array(sparse.hstack(parts + [missing] * self.is_flagged))

    def contrast(self, mean: np.ndarray) -> sparse.csr_array:
        """Each label less the mean of all, or less its absence."""
        # One label of several is compared with its absence, the one of a row with any.
        n = len(self.labels)
        contrast = np.eye(len(mean))
        if not self.several:
            contrast[:n, :n] -= mean[:n]
        return sparse.csr_array(contrast)

    def by_column(
        self, name: str, mean: np.ndarray, effect: np.ndarray
    ) -> tuple[list[str], np.ndarray]:
        """The column, and the gradient of its standard deviation of effects."""
        n = len(self.labels)
        share = mean[:n] * (1 - mean[:n]) if self.several else mean[:n]
        gradient = np.zeros((1, len(mean)))
        deviation = np.sqrt(share @ effect[:n] ** 2)
        if deviation > 0:
            gradient[0, :n] = share * effect[:n] / deviation
        return [name], gradient


def _is_text(labels: Any) -> bool:
    return isinstance(labels[0], str | bytes)


@stored
@dataclass(frozen=True)
class Encoder:
    """Encoder of tables that have the columns of a fit.

    Attributes
    ----------
    columns : dict of str to Numbers or Categories
    """

    columns: dict[str, Numbers | Categories]

    @classmethod
    def fitted(cls, table: FeatureTable, rows: np.ndarray) -> Self:
        """Encoder with the labels and moments of some rows."""
        columns: dict[str, Numbers | Categories] = {}
        for name, column in table.columns.items():
            if isinstance(column, Labels):
                columns[name] = Categories.fitted(name, column[rows])
            else:
                columns[name] = Numbers.fitted(name, column[rows])
        return cls(columns)

    @property
    def names(self) -> list[str]:
        """Names of the columns of the matrix."""
        return [name for column in self.columns.values() for name in column.names]

    def contrasts(self, mean: np.ndarray) -> sparse.csr_array:
        """Contrasts of columns whose effects are asked for, one row each.

        A category is compared with the mean of all, a number with one less.
        """
        parts = [
            column.contrast(mean[place])
            for column, place in zip(self.columns.values(), self._places, strict=True)
        ]
        return sparse.csr_array(sparse.block_diag(parts))

    def by_column(
        self, mean: np.ndarray, effect: np.ndarray
    ) -> tuple[list[str], sparse.csr_array]:
        """Columns of the table, and weights of the effects of values in those of each.

        The weighted sum is the effect of a number, and the standard deviation of the
        effects of labels. Weights are gradients, so that the variance of the sum is
        that of the deviation to first order.
        """
        names, parts = [], []
        for (name, column), place in zip(
            self.columns.items(), self._places, strict=True
        ):
            own_names, weights = column.by_column(name, mean[place], effect[place])
            names += own_names
            parts.append(weights)
        return names, sparse.csr_array(sparse.block_diag(parts))

    @property
    def _places(self) -> list[slice]:
        """Columns of the matrix for each column of the table."""
        sizes = [len(column.names) for column in self.columns.values()]
        return [slice(*bounds) for bounds in pairwise(np.cumsum([0, *sizes]))]

    def encoded(self, table: FeatureTable) -> sparse.csr_array:
        """All rows of a table, shape (n_ids, n_columns)."""
        missing = [name for name in self.columns if name not in table.columns]
        surplus = [name for name in table.columns if name not in self.columns]
        if missing or surplus:
            raise ValueError(
                f"{table.where} must have the columns that it had in fit"
                + (f"; {quote_first(missing)} is missing" if missing else "")
                + (f"; {quote_first(surplus)} was not there" if surplus else "")
                + "."
            )
        parts = [
            column.encoded(table.columns[name], f"{table.where}[{name!r}]")
            for name, column in self.columns.items()
        ]
        return sparse.csr_array(sparse.hstack(parts))


@stored
@dataclass(frozen=True)
class ColdRows:
    """Encoded features of users, or of items, that have no ratings.

    Attributes
    ----------
    encoder : Encoder
        That of the rows with ratings.
    ids : ndarray of shape (n_ids,)
    values, columns : ndarray of shape (n_values,)
        Features of `ids`, row by row, and their columns.
    offsets : ndarray of shape (n_ids + 1,)
        Start of each row among the values.
    """

    encoder: Encoder
    ids: np.ndarray
    values: np.ndarray
    columns: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of_matrix(
        cls, encoder: Encoder, ids: np.ndarray, matrix: sparse.csr_array
    ) -> Self:
        """Cold rows of encoded features."""
        return cls(encoder, ids, matrix.data, matrix.indices, matrix.indptr)

    @property
    def matrix(self) -> sparse.csr_array:
        """Features of `ids`, shape (n_ids, n_columns)."""
        parts = self.values, self.columns, self.offsets
        return sparse.csr_array(parts, (len(self.ids), len(self.encoder.names)))

    @classmethod
    def of(
        cls,
        features: Any,
        ids: np.ndarray,
        where: str,
        *,
        id_name: Any = None,
        n_rows: int | None = None,
    ) -> tuple[Self, sparse.csr_array]:
        """Cold rows of a table, and the encoded features of `ids`, which have ratings.

        The encoder is fitted to the rows of `ids`.
        """
        table = FeatureTable.read(
            features, where, id_name=id_name, ids=ids, n_rows=n_rows
        )
        rows = _rows_in_table(ids, table.ids.values, table.ids.where)
        described = np.flatnonzero(rows >= 0)
        absent = ids[rows < 0]
        if len(absent):
            lacks = f"lacks {len(absent)} of {len(ids)}: {quote_first(absent)}"
            if table.may_be_cut:
                raise ValueError(f"{where} {lacks}, and it {table.cut_warning}")
            if table.is_matrix or not len(described):
                raise ValueError(
                    f"{table.ids.where} must have a row for every id of X, but {lacks}."
                )
            warn(
                f"{where} should have a row for every id of X, but {lacks}. The mean "
                "of the others stands for them."
            )
        _warn_of_missing(table)
        encoder = Encoder.fitted(table, rows[described])
        matrix = encoder.encoded(table)
        others = np.setdiff1d(np.arange(len(table.ids.values)), rows)
        cold = cls.of_matrix(encoder, table.ids.values[others], matrix[others])
        if len(absent):
            mean = sparse.csr_array(matrix[rows[described]].mean(axis=0)[None])
            matrix = sparse.csr_array(sparse.vstack([matrix, mean]))
            rows = np.where(rows < 0, matrix.shape[0] - 1, rows)
        return cold, matrix[rows]

    def have(self, ids: np.ndarray) -> np.ndarray:
        """Mask of sorted ids with features."""
        return _rows_in_table(ids, self.ids, "side features of fit") >= 0

    def without(self, ids: np.ndarray) -> Self:
        """Without the features of some sorted ids."""
        rows = _rows_in_table(ids, self.ids, "side features of fit")
        kept = np.setdiff1d(np.arange(len(self.ids)), rows)
        return self.of_matrix(self.encoder, self.ids[kept], self.matrix[kept])

    def rows_of(
        self,
        ids: np.ndarray,
        features: Any,
        where: str,
        *,
        id_name: Any = None,
        n_rows: int | None = None,
    ) -> tuple[np.ndarray, sparse.csr_array]:
        """Mask of sorted ids with features, given here or in `fit`, and their rows."""
        sources = [(self.ids, self.matrix, f"{where} of fit")]
        if features is not None:
            table = FeatureTable.read(features, where, id_name=id_name, n_rows=n_rows)
            _warn_of_missing(table)
            lacking = _rows_in_table(ids, table.ids.values, table.ids.where) < 0
            if table.may_be_cut and lacking.any():
                absent = quote_first(ids[lacking])
                warn(f"{where} lacks {absent}, and it {table.cut_warning}")
            source = table.ids.values, self.encoder.encoded(table), table.ids.where
            sources.insert(0, source)
        found = np.zeros(len(ids), dtype=bool)
        places, parts = [], []
        for described, matrix, place in sources:
            rows = _rows_in_table(ids, described, place)
            new = np.flatnonzero(~found & (rows >= 0))
            found[new] = True
            places.append(new)
            parts.append(matrix[rows[new]])
        order = np.argsort(np.concatenate(places), kind="stable")
        return found, sparse.csr_array(sparse.vstack(parts))[order]


def _warn_of_missing(table: FeatureTable) -> None:
    """Warn of missing values, by column."""
    missing = table.missing()
    if missing:
        n_ids = len(np.unique(np.concatenate([*missing.values()])))
        counted = ", ".join(
            f"{len(rows)} in {f'column {name!r}' if name else 'all'}"
            for name, rows in missing.items()
        )
        warn(
            f"{table.where} has missing values for {n_ids} of {len(table.ids.values)} "
            f"ids: {counted}. The mean stands for them, and a column says where, if "
            "fit has met such rows."
        )


def _rows_in_table(ids: np.ndarray, among: np.ndarray, where: str) -> np.ndarray:
    """Row number of each of sorted ids in a table, -1 where it is not there."""
    rows = np.full(len(ids), -1)
    if len(ids) and len(among):
        # The table is looked up in the ids, so that a message names both.
        found = Ids.from_column(among, where).numbered_in(ids)
        rows[found[found >= 0]] = np.flatnonzero(found >= 0)
    return rows
