"""Described users and items: a table by raw id, and the sparse matrix it becomes.

Numbers become a column each, in units of their standard deviation unless all are 0 or
1; of a column of categories every value becomes one, and so it does of a column that
holds several values in a cell. Where a value is missing stands the mean of the rows of
the fit, and a column that says so where `fit` has met such rows.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

import narwhals.stable.v1 as nw
import numpy as np
import pandas as pd
from scipy import sparse

from .._warn import warn
from .containers import INDEX_OF_PANDAS, as_array, without_index
from .messages import shown
from .reading import as_numbers
from .vocabulary import DATE_KINDS, MIXED_KINDS, NUMBER_KINDS, Ids

N_SHOWN = 5
SEVERAL = (list, tuple, set, frozenset, np.ndarray)
TIME_KINDS = (*DATE_KINDS, "timedelta", "timedelta64", "period", "time")

# Modules of scikit-learn that pass arguments on as they are.
CALLERS_OF_WHOLE = (
    "sklearn.base",
    "sklearn.callback",
    "sklearn.compose",
    "sklearn.pipeline",
    "sklearn.utils",
)


@dataclass(frozen=True)
class Labels:
    """A column of categories, or of several in a cell, as indicators of all labels.

    Attributes
    ----------
    labels : ndarray of shape (n_labels,)
        Sorted.
    matrix : csr_array of shape (n_ids, n_labels)
        1 where a row has the label.
    missing : ndarray of shape (n_ids,), dtype bool
    several : bool
        Whether a row may have several labels, or none.
    """

    labels: np.ndarray
    matrix: sparse.csr_array
    missing: np.ndarray
    several: bool

    @classmethod
    def of_cells(cls, cells: np.ndarray, missing: np.ndarray, where: str) -> Self:
        """Labels of an array of objects."""
        several = any(isinstance(cell, SEVERAL) for cell in cells[~missing])
        if several:
            single = [
                cell
                for cell in cells[~missing]
                if not isinstance(cell, SEVERAL) or np.ndim(cell) > 1
            ]
            if single:
                raise TypeError(
                    f"{where} holds several values in some cells and a "
                    f"{type(single[0]).__name__}, {shown(single[0])}, in another; let "
                    f"every cell be a list of labels, such as [{shown(single[0])}]."
                )
        present = np.flatnonzero(~missing)
        lists = [_present(cells[row]) if several else [cells[row]] for row in present]
        rows = np.repeat(present, [len(labels) for labels in lists])
        flat = np.empty(len(rows), dtype=object)
        flat[:] = [label for labels in lists for label in labels]
        _check_labels(flat, several, where)
        places, labels = pd.factorize(flat, sort=True)
        shape = len(cells), len(labels)
        matrix = sparse.csr_array((np.ones(len(rows)), (rows, places)), shape=shape)
        matrix.sum_duplicates()
        matrix.data[:] = 1
        return cls(labels, matrix, missing, several)


def _present(cell: Any) -> list:
    """Labels of a cell; an empty string is what a split leaves of no label."""
    nested = [label for label in cell if not pd.api.types.is_scalar(label)]
    return nested or [label for label in cell if not (pd.isna(label) or label == "")]


def _check_labels(labels: np.ndarray, several: bool, where: str) -> None:
    """Refuse what cannot be told apart or sorted."""
    kind = pd.api.types.infer_dtype(labels, skipna=False)
    if kind in TIME_KINDS:
        raise TypeError(f"{where} holds dates or times; turn them into numbers.")
    inside = " in its cells" if several else ""
    if several and kind in ("floating", "mixed-integer-float", "decimal"):
        raise TypeError(
            f"{where} holds lists of numbers with a fractional part; give each number "
            "a column of its own."
        )
    if kind in MIXED_KINDS:
        types = sorted({type(label).__name__ for label in labels})
        raise TypeError(
            f"{where} holds values of type {', '.join(types)}{inside}; labels must be "
            "all strings or all numbers, and several in one cell a list of them."
        )


@dataclass(frozen=True)
class Table:
    """What is said of ids, a row each.

    Attributes
    ----------
    ids : Ids
    columns : dict of str to csr_array of n_ids rows or Labels
        Numbers are matrices, with NaN where they are missing.
    where : str
        Where it was found, for messages.
    is_matrix : bool
        Whether ids are row numbers.
    may_be_cut : bool
        Whether it is as long as X, so that scikit-learn cuts it when it cuts X.
    """

    ids: Ids
    columns: dict[str, sparse.csr_array | Labels]
    where: str
    is_matrix: bool = False
    may_be_cut: bool = False

    @classmethod
    def read(
        cls,
        features: Any,
        where: str,
        *,
        id_name: Any = None,
        ids: np.ndarray | None = None,
        n_rows: int | None = None,
    ) -> Self:
        """A table by raw id in any container, or a function that returns one.

        Ids are in the column that has the name of X's, `id_name`; else in the index of
        a pandas frame, or in the first column of a frame that has no index; row i of a
        matrix is the id i. With `ids`, those of X, a frame is refused where another
        column could be meant. `n_rows` is the length of X: scikit-learn cuts whatever
        is as long when it cuts X.
        """
        is_safe = callable(features)
        if is_safe:
            features = features()
        if isinstance(features, pd.Series):
            features = features.to_frame()
        if isinstance(features, np.ndarray) and features.dtype.names:
            features = pd.DataFrame(features)
        if isinstance(features, pd.DataFrame):
            # Before narwhals, which refuses equal names.
            names = [str(name) for name in features.columns]
            series = [features.iloc[:, j] for j in range(len(names))]
            table = cls._of_frame(features.index, names, series, where, id_name, ids)
        else:
            frame = nw.from_native(features, eager_only=True, pass_through=True)
            if isinstance(frame, nw.DataFrame):
                index = None
                if INDEX_OF_PANDAS in frame.columns:
                    index = pd.Index(as_array(frame[INDEX_OF_PANDAS]))
                    frame = without_index(frame)
                series = [frame[:, j] for j in range(frame.shape[1])]
                table = cls._of_frame(index, frame.columns, series, where, id_name, ids)
            else:
                table = cls._of_matrix(features, where)
        if is_safe or n_rows != len(table.ids.values):
            return table
        if table.is_matrix:
            raise ValueError(f"{where} {table.trap}")
        return replace(table, may_be_cut=True)

    @property
    def trap(self) -> str:
        """Why a table as long as X may be cut, and how it is not."""
        return (
            f"has as many rows as X, {len(self.ids.values)}. Cross-validation and "
            "searches of scikit-learn cut such an argument as they cut X. Pass a "
            "function that returns the table, which nobody cuts: "
            f"{self.where}=lambda: table."
        )

    @classmethod
    def _of_matrix(cls, matrix: Any, where: str) -> Self:
        given = type(matrix).__name__
        matrix = matrix if sparse.issparse(matrix) else as_array(matrix)
        if matrix.ndim != 2:
            raise TypeError(
                f"{where} must be a frame indexed by raw id, a matrix that has row i "
                f"for the id i, or a function that returns either, got {given}. Rows "
                "as dicts become a frame by pandas.DataFrame."
            )
        if not sparse.issparse(matrix):
            matrix = as_numbers(matrix, where, "value", may_be_missing=True)
        matrix = sparse.csr_array(matrix)
        data = as_numbers(matrix.data, where, "value", may_be_missing=True)
        matrix = sparse.csr_array((data, matrix.indices, matrix.indptr), matrix.shape)
        ids = np.arange(matrix.shape[0])
        return cls._checked(ids, {"": matrix}, where, "its rows", is_matrix=True)

    @classmethod
    def _of_frame(
        cls,
        index: pd.Index | None,
        names: list[str],
        series: list[Any],
        where: str,
        id_name: Any,
        ids: np.ndarray | None,
    ) -> Self:
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise ValueError(f"{where} has several columns named {few(twice)}.")
        if id_name in names:
            place, index = names.index(id_name), None
        else:
            place = None if index is not None else 0
        if place is None:
            if isinstance(index, pd.MultiIndex):
                raise TypeError(
                    f"{where} has an index of {index.nlevels} levels; an id is one of "
                    "them."
                )
            own, found = index, "its index"
        elif not names:
            raise ValueError(f"{where} has no columns.")
        else:
            own, found = series[place], f"its column {names[place]!r}"
        if ids is not None and (place is None or names[place] != id_name):
            _check_no_other_ids(own, place, names, series, ids, where)
        own = as_array(own)
        columns = {
            name: _read_column(series[j], f"{where}[{name!r}]")
            for j, name in enumerate(names)
            if j != place
        }
        return cls._checked(own, columns, where, found)

    @classmethod
    def _checked(
        cls,
        ids: np.ndarray,
        columns: dict,
        where: str,
        found: str,
        is_matrix: bool = False,
    ) -> Self:
        if not columns:
            raise ValueError(f"{where} has no columns.")
        ids = Ids.from_column(ids, f"{where} ({found})")
        twice = pd.Series(ids.values).duplicated().to_numpy()
        if twice.any():
            raise ValueError(
                f"{where} has several rows for {few(ids.values[twice])}; an id is "
                "described once."
            )
        return cls(ids, columns, where, is_matrix)

    def n_missing(self) -> dict[str, int]:
        """How many values are missing in each column that lacks some."""
        counts = {
            name: int(column.missing.sum())
            if isinstance(column, Labels)
            else int(np.isnan(column.data).sum())
            for name, column in self.columns.items()
        }
        return {name: count for name, count in counts.items() if count}


def _check_no_other_ids(
    own: Any,
    place: int | None,
    names: list[str],
    series: list[Any],
    ids: np.ndarray,
    where: str,
) -> None:
    """Refuse a frame whose ids could be in another column than where they are sought.

    An index without a name that holds integers may just count the rows.
    """
    counts_rows = place is None and own.name is None and own.dtype.kind in "iu"
    n_own = _n_found(own, ids)
    if n_own == len(ids) and not counts_rows:
        return
    for j, name in enumerate(names):
        if j == place or len(names) == 1:
            continue
        n_found = _n_found(series[j], ids)
        if n_found > len(ids) / 2 and n_found >= n_own:
            sought = "its index" if place is None else f"its column {names[place]!r}"
            how = (
                f"Use {where}=table.set_index({name!r}) for the column"
                if place is None
                else f"Put the column {name!r} first"
            )
            named = " and table.rename_axis('id') for the index" if counts_rows else ""
            raise ValueError(
                f"{where} is ambiguous: its column {name!r} holds {n_found} of the "
                f"{len(ids)} ids of X and {sought} {n_own}. {how}{named}, or name the "
                "column of ids as in X."
            )


def _n_found(values: Any, ids: np.ndarray) -> int:
    """How many ids a column has, once each; 0 if it is no column of ids."""
    try:
        column = Ids.from_column(as_array(values), "")
        if column.are_indicators() or not pd.Series(column.values).is_unique:
            return 0
        return int((Ids.from_column(ids, "").numbered_in(column.values) >= 0).sum())
    except (TypeError, ValueError):
        return 0


@dataclass(frozen=True)
class Numbers:
    """Encodes a matrix of numbers, or a column of a frame, less its mean.

    A matrix stays sparse, so its zeros stay zero.

    Attributes
    ----------
    names : list of str
    mean : float
        What is taken from a column of a frame.
    scale, fill : ndarray of shape (n_columns,)
        Deviations, and what stands where a number is missing.
    flagged : ndarray of int
        Columns that have another one which says where they are missing.
    """

    names: list[str]
    mean: float
    scale: np.ndarray
    fill: np.ndarray
    flagged: np.ndarray

    @classmethod
    def fitted(cls, name: str, matrix: sparse.csr_array) -> Self:
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

    def encoded(self, matrix: Any, where: str) -> sparse.csr_array:
        if isinstance(matrix, Labels) and matrix.missing.all():
            matrix = sparse.csr_array(np.full((len(matrix.missing), 1), np.nan))
        if not sparse.issparse(matrix) or matrix.shape[1] != len(self.scale):
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

    def contrast(self, mean: np.ndarray) -> sparse.sparray:
        return sparse.eye_array(len(mean))


def _without_missing(
    matrix: sparse.csr_array,
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """A matrix with zeros for NaN, and ones where they were."""
    absent = np.isnan(matrix.data)
    if not absent.any():
        return matrix, sparse.csr_array(matrix.shape)
    filled, missing = matrix.copy(), matrix.copy()
    filled.data = np.where(absent, 0.0, matrix.data)
    missing.data = absent.astype(np.float64)
    missing.eliminate_zeros()
    return filled, missing


@dataclass(frozen=True)
class Categories:
    """Encodes a column of labels; one that is new has zeros.

    Attributes
    ----------
    names : list of str
    labels : Index
    several : bool
    fill : ndarray of shape (n_labels,)
        The shares of labels, which stand where they are missing.
    is_flagged : bool
        Whether another column says where they are missing.
    """

    names: list[str]
    labels: pd.Index
    several: bool
    fill: np.ndarray
    is_flagged: bool

    @classmethod
    def fitted(cls, name: str, column: Labels) -> Self:
        counts = column.matrix.sum(axis=0)
        labels = column.labels[counts > 0]
        n_present = max(int((~column.missing).sum()), 1)
        is_flagged = 0 < int(column.missing.sum()) < len(column.missing)
        return cls(
            names=[f"{name}_{label}" for label in labels]
            + [f"{name}_missing"] * is_flagged,
            labels=pd.Index(labels, dtype=object),
            several=column.several,
            fill=counts[counts > 0] / n_present,
            is_flagged=is_flagged,
        )

    def encoded(self, column: Any, where: str) -> sparse.csr_array:
        if sparse.issparse(column) and np.isnan(column.data).all():
            # A column that holds nothing is of no kind.
            nothing = np.isnan(column.toarray()).all(axis=1)
            if nothing.all():
                column = Labels.of_cells(np.empty(len(nothing), object), nothing, where)
        if not isinstance(column, Labels):
            raise ValueError(f"{where} must hold categories, as in fit, not numbers.")
        given = column.labels
        if len(given) and len(self.labels) and _is_text(given) != _is_text(self.labels):
            raise ValueError(
                f"{where} must hold categories like {shown(self.labels[0])}, as in "
                f"fit, not like {shown(given[0])}."
            )
        places = self.labels.get_indexer(given)
        known = np.flatnonzero(places >= 0)
        chosen = sparse.csr_array(
            (np.ones(len(known)), (known, places[known])),
            shape=(len(given), len(self.labels)),
        )
        missing = sparse.csr_array(column.missing[:, None].astype(np.float64))
        parts = [column.matrix @ chosen + missing @ sparse.csr_array(self.fill[None])]
        return sparse.csr_array(sparse.hstack(parts + [missing] * self.is_flagged))

    def contrast(self, mean: np.ndarray) -> sparse.sparray:
        # One label of several is compared with its absence, the one of a row with any.
        n = len(self.labels)
        contrast = np.eye(len(mean))
        if not self.several:
            contrast[:n, :n] -= mean[:n]
        return sparse.csr_array(contrast)


def _is_text(labels: Sequence) -> bool:
    return isinstance(labels[0], str | bytes)


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
        return cls(
            {
                name: Categories.fitted(
                    name,
                    replace(
                        column,
                        matrix=column.matrix[rows],
                        missing=column.missing[rows],
                    ),
                )
                if isinstance(column, Labels)
                else Numbers.fitted(name, column[rows])
                for name, column in table.columns.items()
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
        cls,
        features: Any,
        ids: np.ndarray,
        where: str,
        *,
        id_name: Any = None,
        n_rows: int | None = None,
    ) -> tuple[Self, sparse.csr_array]:
        """A description, and the rows of `ids`, which have ratings."""
        table = Table.read(features, where, id_name=id_name, ids=ids, n_rows=n_rows)
        rows = _numbered(ids, table.ids.values, table.ids.where)
        described = np.flatnonzero(rows >= 0)
        absent = ids[rows < 0]
        if len(absent):
            lacks = f"lacks {len(absent)} of {len(ids)}: {few(absent)}"
            if table.may_be_cut:
                raise ValueError(f"{where} {lacks}, and it {table.trap}")
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
        description = cls(encoder, table.ids.values[others], matrix[others])
        if len(absent):
            mean = sparse.csr_array(matrix[rows[described]].mean(axis=0)[None])
            matrix = sparse.csr_array(sparse.vstack([matrix, mean]))
            rows = np.where(rows < 0, matrix.shape[0] - 1, rows)
        return description, matrix[rows]

    def rows_of(
        self,
        ids: np.ndarray,
        features: Any,
        where: str,
        *,
        id_name: Any = None,
        n_rows: int | None = None,
    ) -> tuple[np.ndarray, sparse.csr_array]:
        """Which ids are described, by `features` or in `fit`, and their rows."""
        sources = [(self.ids, self.matrix, f"{where} of fit")]
        if features is not None:
            table = Table.read(features, where, id_name=id_name, n_rows=n_rows)
            _warn_of_missing(table)
            lacking = _numbered(ids, table.ids.values, table.ids.where) < 0
            if table.may_be_cut and lacking.any():
                warn(f"{where} lacks {few(ids[lacking])}, and it {table.trap}")
            source = table.ids.values, self.encoder.encoded(table), table.ids.where
            sources.insert(0, source)
        found = np.zeros(len(ids), dtype=bool)
        places, parts = [], []
        for described, matrix, place in sources:
            rows = _numbered(ids, described, place)
            new = np.flatnonzero(~found & (rows >= 0))
            found[new] = True
            places.append(new)
            parts.append(matrix[rows[new]])
        order = np.argsort(np.concatenate(places), kind="stable")
        return found, sparse.csr_array(sparse.vstack(parts))[order]


def arguments_may_be_cut() -> bool:
    """Whether a meta-estimator of scikit-learn calls that may split rows.

    It cuts what is as long as X as it cuts X, and gives no other sign of it.
    """
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("sklearn.") and not module.startswith(CALLERS_OF_WHOLE):
            return True
        frame = frame.f_back
    return False


def _warn_of_missing(table: Table) -> None:
    """Count what is missing in a table."""
    counts = table.n_missing()
    if counts:
        n_ids = len(table.ids.values)
        counted = ", ".join(
            f"{count} in {f'column {name!r}' if name else 'all'}"
            for name, count in counts.items()
        )
        warn(
            f"{table.where} has missing values for {n_ids} ids: {counted}. The mean "
            "stands for them, and a column says where, if fit has met such rows."
        )


def _numbered(ids: np.ndarray, among: np.ndarray, where: str) -> np.ndarray:
    """Row number of each id among others, -1 where it is not there."""
    if not (len(ids) and len(among)):
        return np.full(len(ids), -1)
    index = Ids.from_column(among, where)
    # Asked for the other way round, so that a message names both sides.
    found = index.numbered_in(ids)
    rows = np.full(len(ids), -1)
    rows[found[found >= 0]] = np.flatnonzero(found >= 0)
    return rows


def few(values: Sequence) -> str:
    """The first of some values, in words."""
    first = ", ".join(shown(value) for value in values[:N_SHOWN])
    return first + (", …" if len(values) > N_SHOWN else "")


def _read_column(series: Any, where: str) -> sparse.csr_array | Labels:
    """Numbers as a matrix of one column, categories as labels."""
    native = nw.from_native(series, series_only=True)
    dtype = native.dtype
    if isinstance(dtype, nw.Datetime | nw.Date | nw.Duration | nw.Time):
        raise TypeError(f"{where} holds dates or times; turn them into numbers.")
    if isinstance(dtype, nw.List | nw.Array):
        cells = np.empty(len(native), dtype=object)
        cells[:] = native.to_list()
    else:
        cells = as_array(native)
    if cells.ndim > 1:
        raise TypeError(f"{where} holds structures; give each field a column.")
    missing = pd.isna(cells)
    if isinstance(dtype, nw.Categorical | nw.Enum):
        if cells.dtype.kind == "f":
            # Codes that stand beside missing ones have become floats.
            whole = (cells[~missing] == np.trunc(cells[~missing])).all()
            cells = cells.astype(object)
            if whole:
                cells[~missing] = cells[~missing].astype(np.int64)
        return Labels.of_cells(cells.astype(object), missing, where)
    kind = pd.api.types.infer_dtype(cells, skipna=True)
    if kind in TIME_KINDS:
        raise TypeError(f"{where} holds dates or times; turn them into numbers.")
    if cells.dtype.kind in "biuf" or kind in (*NUMBER_KINDS, "decimal", "empty"):
        numbers = as_numbers(cells, where, "value", may_be_missing=True)
        return sparse.csr_array(numbers[:, None])
    return Labels.of_cells(cells.astype(object), missing, where)
