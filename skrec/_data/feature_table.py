"""Tables of features by raw id, read from any container.

A column holds numbers, or labels: one category in each cell, or several of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import narwhals.stable.v1 as nw
import numpy as np
import pandas as pd
from scipy import sparse

from .containers import INDEX_OF_PANDAS, as_array, without_index
from .messages import quote_first, shown
from .reading import as_numbers
from .vocabulary import DATE_KINDS, MIXED_KINDS, NUMBER_KINDS, Ids, check_is_text

COLLECTIONS = (list, tuple, set, frozenset, np.ndarray)
TIME_KINDS = (*DATE_KINDS, "timedelta", "timedelta64", "period", "time")
TIMES = "{where} holds dates or times; turn them into numbers."


@dataclass(frozen=True)
class FeatureTable:
    """Features of ids, one row each.

    Attributes
    ----------
    ids : Ids
    columns : dict of str to csr_array of n_ids rows or Labels
        Numbers are matrices, with NaN where they are missing.
    where : str
        Name of the argument, for messages.
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
        frame = _Frame.read(features)
        if frame is None:
            table = cls._from_matrix(features, where)
        else:
            table = cls._from_frame(frame, where, id_name, ids)
        if is_safe or n_rows != len(table.ids.values):
            return table
        if table.is_matrix:
            raise ValueError(f"{where} {table.cut_warning}")
        return replace(table, may_be_cut=True)

    @property
    def cut_warning(self) -> str:
        """Why a table as long as X may be cut, and how to prevent it."""
        return (
            f"has as many rows as X, {len(self.ids.values)}. Cross-validation and "
            "searches of scikit-learn cut such an argument as they cut X. Pass a "
            "function that returns the table, which nobody cuts: "
            f"{self.where}=lambda: table."
        )

    @classmethod
    def _from_matrix(cls, matrix: Any, where: str) -> Self:
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
        ids = Ids.from_column(np.arange(matrix.shape[0]), f"{where} (its rows)")
        return cls(ids, {"": matrix}, where, is_matrix=True)

    @classmethod
    def _from_frame(
        cls, frame: _Frame, where: str, id_name: Any, ids: np.ndarray | None
    ) -> Self:
        names = frame.names
        repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if repeated:
            raise ValueError(
                f"{where} has several columns named {quote_first(repeated)}."
            )
        place = frame.place_of_ids(id_name)
        if len(names) <= (place is not None):
            raise ValueError(f"{where} has no columns.")
        if place is None and isinstance(frame.index, pd.MultiIndex):
            raise TypeError(
                f"{where} has an index of {frame.index.nlevels} levels; an id is one "
                "of them."
            )
        if ids is not None and (place is None or names[place] != id_name):
            _check_no_other_ids(frame, place, ids, where)
        own = Ids.from_column(frame.ids(place), f"{where} ({frame.describe(place)})")
        repeats = pd.Series(own.values).duplicated().to_numpy()
        if repeats.any():
            raise ValueError(
                f"{where} has several rows for {quote_first(own.values[repeats])}; an "
                "id is described once."
            )
        columns = {
            name: _read_column(frame.columns[j], f"{where}[{name!r}]")
            for j, name in enumerate(names)
            if j != place
        }
        return cls(own, columns, where)

    def missing(self) -> dict[str, np.ndarray]:
        """Row of each missing value, of the columns that have any."""
        rows = {
            name: np.flatnonzero(column.missing)
            if isinstance(column, Labels)
            else column.tocoo().coords[0][np.isnan(column.data)]
            for name, column in self.columns.items()
        }
        return {name: found for name, found in rows.items() if len(found)}


@dataclass(frozen=True)
class _Frame:
    """Columns of a frame of any library, and the index of one of pandas."""

    names: list[str]
    columns: list[Any]
    index: pd.Index | None = None

    @classmethod
    def read(cls, features: Any) -> Self | None:
        """Columns of a frame, a series or a structured array; None for all else."""
        if isinstance(features, pd.Series):
            features = features.to_frame()
        if isinstance(features, np.ndarray) and features.dtype.names:
            features = pd.DataFrame(features)
        if isinstance(features, pd.DataFrame):
            # narwhals refuses equal names with less of a message.
            names = [str(name) for name in features.columns]
            columns = [features.iloc[:, j] for j in range(len(names))]
            return cls(names, columns, features.index)
        frame = nw.from_native(features, eager_only=True, pass_through=True)
        if not isinstance(frame, nw.DataFrame):
            return None
        index = None
        if INDEX_OF_PANDAS in frame.columns:
            index = pd.Index(as_array(frame[INDEX_OF_PANDAS]))
            frame = without_index(frame)
        return cls(frame.columns, list(frame.iter_columns()), index)

    def place_of_ids(self, id_name: Any) -> int | None:
        """Column of ids by its name, else the first; None is the index."""
        if id_name in self.names:
            return self.names.index(id_name)
        return 0 if self.index is None else None

    def ids(self, place: int | None) -> np.ndarray:
        return as_array(self.index if place is None else self.columns[place])

    def describe(self, place: int | None) -> str:
        return "its index" if place is None else f"its column {self.names[place]!r}"


def _check_no_other_ids(
    frame: _Frame, place: int | None, ids: np.ndarray, where: str
) -> None:
    """Refuse a frame that may have its ids elsewhere than at `place`.

    An index without a name that holds integers may just count the rows.
    """
    own = frame.ids(place)
    index = frame.index if place is None else None
    counts_rows = index is not None and index.name is None and own.dtype.kind in "iu"
    n_own = _n_found(own, ids)
    if n_own == len(ids) and not counts_rows:
        return
    for j, name in enumerate(frame.names):
        if j == place or len(frame.names) == 1:
            continue
        n_found = _n_found(frame.columns[j], ids)
        if n_found > len(ids) / 2 and n_found >= n_own:
            how = (
                f"Use {where}=table.set_index({name!r}) for the column"
                if place is None
                else f"Put the column {name!r} first"
            )
            named = " and table.rename_axis('id') for the index" if counts_rows else ""
            raise ValueError(
                f"{where} is ambiguous: its column {name!r} holds {n_found} of the "
                f"{len(ids)} ids of X and {frame.describe(place)} {n_own}. {how}"
                f"{named}, or name the column of ids as in X."
            )


def _n_found(values: Any, ids: np.ndarray) -> int:
    """Number of sorted ids in a column that has each once, 0 if it has no ids."""
    try:
        column = Ids.from_column(as_array(values), "")
        if column.are_indicators() or not pd.Series(column.values).is_unique:
            return 0
        return int((column.numbered_in(ids) >= 0).sum())
    except (TypeError, ValueError):
        return 0


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

    def __getitem__(self, rows: np.ndarray) -> Self:
        """The labels of some rows."""
        return replace(self, matrix=self.matrix[rows], missing=self.missing[rows])

    @classmethod
    def from_cells(cls, cells: np.ndarray, missing: np.ndarray, where: str) -> Self:
        """Labels of an array of objects."""
        present = np.flatnonzero(~missing)
        several = any(isinstance(cell, COLLECTIONS) for cell in cells[present])
        if several:
            single = [cell for cell in cells[present] if not _is_flat_list(cell)]
            if single:
                raise TypeError(
                    f"{where} holds several values in some cells and a "
                    f"{type(single[0]).__name__}, {shown(single[0])}, in another; let "
                    f"every cell be a list of labels, such as [{shown(single[0])}]."
                )
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


def _is_flat_list(cell: Any) -> bool:
    return isinstance(cell, COLLECTIONS) and np.array(cell, dtype=object).ndim < 2


def _present(cell: Any) -> list[Any]:
    """Labels of a cell; an empty string is the split of no label."""
    nested = [label for label in cell if not pd.api.types.is_scalar(label)]
    return nested or [label for label in cell if not (pd.isna(label) or label == "")]


def _check_labels(labels: np.ndarray, several: bool, where: str) -> None:
    """Refuse labels that cannot be distinguished or sorted."""
    kind = pd.api.types.infer_dtype(labels, skipna=False)
    if kind in TIME_KINDS:
        raise TypeError(TIMES.format(where=where))
    if kind == "string":
        check_is_text(labels, where)
    if several and kind in ("floating", "mixed-integer-float", "decimal"):
        raise TypeError(
            f"{where} holds lists of numbers with a fractional part; give each number "
            "a column of its own."
        )
    if kind in MIXED_KINDS:
        types = sorted({type(label).__name__ for label in labels})
        inside = " in its cells" if several else ""
        raise TypeError(
            f"{where} holds values of type {', '.join(types)}{inside}; labels must be "
            "all strings or all numbers, and several in one cell a list of them."
        )


def _read_column(series: Any, where: str) -> sparse.csr_array | Labels:
    """Numbers as a matrix of one column, categories as labels."""
    column = nw.from_native(series, series_only=True)
    dtype = column.dtype
    if isinstance(dtype, nw.Datetime | nw.Date | nw.Duration | nw.Time):
        raise TypeError(TIMES.format(where=where))
    if isinstance(dtype, nw.List | nw.Array):
        cells = np.empty(len(column), dtype=object)
        cells[:] = column.to_list()
    else:
        cells = as_array(column)
    if cells.ndim > 1:
        raise TypeError(f"{where} holds structures; give each field a column.")
    missing = pd.isna(cells)
    is_category = isinstance(dtype, nw.Categorical | nw.Enum)
    if is_category and cells.dtype.kind == "f":
        # Integer categories beside missing ones have become floats.
        whole = (cells[~missing] == np.trunc(cells[~missing])).all()
        cells = cells.astype(object)
        if whole:
            cells[~missing] = cells[~missing].astype(np.int64)
    kind = pd.api.types.infer_dtype(cells, skipna=True)
    if kind in TIME_KINDS:
        raise TypeError(TIMES.format(where=where))
    are_numbers = kind in (*NUMBER_KINDS, "decimal", "empty")
    if not is_category and (are_numbers or cells.dtype.kind in "biuf"):
        numbers = as_numbers(cells, where, "value", may_be_missing=True)
        return sparse.csr_array(numbers[:, None])
    return Labels.from_cells(cells.astype(object), missing, where)
