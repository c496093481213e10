"""Ratings of Parquet files and of batches of Arrow, as compact rows in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd

from .._data.messages import counted
from .._data.reading import (
    FILL,
    LEAVE_OUT,
    NO_WEIGHT,
    as_numbers,
    context_refused,
    refused_values,
)
from .._data.vocabulary import Ids, index_of

# Rows that are decoded at a time.
BATCH_ROWS = 2**19


def from_arrow(
    source: Any,
    *,
    user: str = "user",
    item: str = "item",
    rating: str | None = "rating",
    context: Sequence[str] = (),
    sample_weight: str | None = None,
) -> tuple[Any, ...]:
    """Read a Parquet file or batches of Arrow into `X` and `y`, one after another.

    Users and items become pandas categories, with a code of at most four bytes per row,
    and each id is an object once. A row of user, item and rating thus takes 12 bytes.
    `fit`, splitters, searches and scorers take `X` and `y` as any other rows, with the
    same results.

    `source` is read twice: for the ids, and for the rows.

    Parameters
    ----------
    source : str, path, Dataset, ParquetFile, Table, callable or iterable
        - a Parquet file, or a folder of Parquet files, whose folders may be named
          by values of columns, as in `country=fr`;
        - a ``pyarrow.dataset.Dataset``, which may select rows and read other formats,
          or a ``pyarrow.parquet.ParquetFile``;
        - a table of Arrow, or an iterable of record batches or tables that can be
          iterated twice, such as a list;
        - a function without arguments that returns such an iterable, or a new
          generator.
    user, item : str
        Names of the columns of ids.
    rating : str or None, default="rating"
        Name of the column of ratings. None is for choices, and `y` is None.
    context : sequence of str, default=()
        Names of the columns of context that follow in `X`. Strings and dictionaries
        become categories too, bools stay, and others must be numbers.
    sample_weight : str, default=None
        Name of a column of weights.

    Returns
    -------
    X : DataFrame of shape (n_ratings, 2 + n_context)
        Rows in the order of `source`.
    y : ndarray of shape (n_ratings,)
        Ratings, in single precision where it holds all of them exactly, else in double.
    sample_weight : ndarray of shape (n_ratings,)
        Only with `sample_weight`. As `y`.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    ValueError
        If a column is not there or named twice, an id or a value of context is missing,
        a number is missing or infinite, a column of context holds dates, there are no
        rows, or if the second reading has other rows than the first.
    TypeError
        If `source` is none of the above, such as a generator, which can be read once,
        if a name is no string, or if batches have columns of other types than the first
        one.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from skrec.datasets import from_arrow
    >>> table = pa.table({"user": ["bob", "ann"], "item": [7, 9], "stars": [4.5, 3]})
    >>> X, y = from_arrow(table.to_batches(), rating="stars")
    >>> X
      user  item
    0  bob     7
    1  ann     9
    >>> y
    array([4.5, 3. ], dtype=float32)
    """
    _check_names(user, item, rating, context, sample_weight)
    read = _reader(source)
    ids = [_IdColumn(name) for name in (user, item)]
    advised = (rating, LEAVE_OUT), (sample_weight, NO_WEIGHT)
    numbers = [
        _NumberColumn(name, advice) for name, advice in advised if name is not None
    ]
    of_context: list[_Column] = []
    columns: list[_Column] = [*ids, *numbers]
    names = [*(column.name for column in columns), *context]
    n_rows = 0
    for rows, batch in _batches(read, names):
        if not n_rows:
            of_context = [_context_column(batch.schema.field(name)) for name in context]
            columns += of_context
        n_rows = rows.stop
        for column in columns:
            column.look_at(batch.column(column.name), rows)
    if not n_rows:
        raise ValueError("source has no rows; at least one is required.")
    for column in columns:
        column.allocate(n_rows)
    n_filled = 0
    for rows, batch in _batches(read, names):
        n_filled = rows.stop
        if n_filled > n_rows:
            break
        for column in columns:
            column.fill(batch.column(column.name), rows)
    _release_memory()
    if n_filled != n_rows or not all(column.is_known() for column in columns):
        raise ValueError(
            f"source had {n_rows} rows at the first reading and other ones at the "
            "second. It is read twice, and must have the same rows both times."
        )
    values = {column.name: column.values for column in numbers}
    of_X = {column.name: column.values for column in (*ids, *of_context)}
    X = pd.DataFrame(of_X, copy=False)
    y = None if rating is None else values[rating]
    return (X, y) if sample_weight is None else (X, y, values[sample_weight])


def _check_names(
    user: str,
    item: str,
    rating: str | None,
    context: Sequence[str],
    sample_weight: str | None,
) -> None:
    """Refuse a name of no column, and a column in two places."""
    if isinstance(context, str) or not np.iterable(context):
        raise TypeError(
            "context must be a list of names of columns, such as ['hour'], got "
            f"{context!r}."
        )
    names: dict[str, Any] = {"user": user, "item": item}
    names |= {"rating": rating} if rating is not None else {}
    names |= {f"context[{place}]": name for place, name in enumerate(context)}
    names |= {"sample_weight": sample_weight} if sample_weight is not None else {}
    places: dict[str, str] = {}
    for place, name in names.items():
        if not isinstance(name, str):
            raise TypeError(
                f"{place} must be the name of a column, such as 'customer', got "
                f"{name!r}."
            )
        if name in places:
            raise ValueError(
                f"{places[name]} and {place} both are the column {name!r}; each needs "
                "a column of its own."
            )
        places[name] = place


class _Column(ABC):
    """A column on its way into memory, which is read twice."""

    values: Any

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def look_at(self, column: Any, rows: slice) -> None:
        """Find what the values of some rows need, at the first reading."""

    @abstractmethod
    def allocate(self, n_rows: int) -> None:
        """Make place for so many rows."""

    @abstractmethod
    def fill(self, column: Any, rows: slice) -> None:
        """Keep the values of some rows, at the second reading."""

    def is_known(self) -> bool:
        """Whether all values were there at the first reading too."""
        return True


class _IdColumn(_Column):
    """Ids of a column: each once, and a code for each row."""

    missing = "holds {}; every row needs an id. Leave these rows out."
    noun = "missing id"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.found: list[Any] = []
        self.n_merged = self.n_found = 0

    def look_at(self, column: Any, rows: slice) -> None:
        import pyarrow as pa

        # A dictionary may hold missing values, too.
        is_missing = _decoded(column).is_null(nan_is_null=True)
        is_missing = is_missing.to_numpy(zero_copy_only=False)
        if is_missing.any():
            found = self.missing.format(counted(is_missing, self.noun))
            raise ValueError(f"{_place(self.name, rows)} {found}")
        if pa.types.is_nested(column.type):
            raise TypeError(
                f"{_place(self.name, rows)} holds nested ids; an id must be a single "
                "value."
            )
        self.found.append(_decoded(column).unique())
        self.n_found += len(self.found[-1])
        if self.n_found > 2 * self.n_merged + BATCH_ROWS:
            self._merge()

    def _merge(self) -> Any:
        import pyarrow as pa

        merged = pa.chunked_array(self.found).unique()
        self.found, self.n_merged = [merged], len(merged)
        self.n_found = self.n_merged
        return merged

    def allocate(self, n_rows: int) -> None:
        self.ids = self._ids(self._merge()).numbered()[1]
        self.index = index_of(self.ids)
        self.codes = np.empty(n_rows, dtype=np.int32)

    def fill(self, column: Any, rows: slice) -> None:
        # An id that was not found before has the code -1.
        encoded = _decoded(column).dictionary_encode()
        ids = self._ids(encoded.dictionary)
        places = self.index.get_indexer(index_of(ids.distinct)).astype(np.int32)
        self.codes[rows] = places[encoded.indices.to_numpy(zero_copy_only=False)]

    def is_known(self) -> bool:
        return bool((self.codes >= 0).all())

    @property
    def values(self) -> Any:
        ids = pd.Index(self.ids)
        return pd.Categorical.from_codes(self.codes, ids, validate=False)

    def _ids(self, values: Any) -> Ids:
        return Ids.from_column(_series(values), f"column {self.name!r} of source")


class _ValueColumn(_IdColumn):
    """Values of a column of context, which are numbered as ids are; bools stay."""

    missing = (
        "is missing for {}. Give missing values a category of their own, such as by "
        "pyarrow.compute.fill_null(column, 'unknown'), or leave these rows out."
    )
    noun = "row"

    @property
    def values(self) -> Any:
        values = super().values
        is_bool = self.ids.dtype == bool
        return self.ids[self.codes] if is_bool else values


def _context_column(field: Any) -> _Column:
    """A column of values, or of numbers, as `fit` takes those of a table."""
    import pyarrow as pa

    kinds = ("dictionary", "boolean", "string", "large_string", "string_view")
    if any(getattr(pa.types, f"is_{kind}")(field.type) for kind in kinds):
        return _ValueColumn(field.name)
    return _NumberColumn(field.name, FILL, context_refused)


class _NumberColumn(_Column):
    """Finite numbers of a column, in single precision if it holds them exactly."""

    def __init__(
        self,
        name: str,
        advice: str,
        refused: Callable[[str, str], str] = refused_values,
    ) -> None:
        super().__init__(name)
        self.dtype: type[np.floating] = np.float32
        self.advice, self.refused = advice, refused

    def look_at(self, column: Any, rows: slice) -> None:
        values = self._numbers(column, rows)
        with np.errstate(over="ignore"):
            if not (values.astype(self.dtype) == values).all():
                self.dtype = np.float64

    def allocate(self, n_rows: int) -> None:
        self.values = np.empty(n_rows, dtype=self.dtype)

    def fill(self, column: Any, rows: slice) -> None:
        self.values[rows] = self._numbers(column, rows)

    def _numbers(self, column: Any, rows: slice) -> np.ndarray:
        column = _series(_decoded(column))
        where = _place(self.name, rows)
        return as_numbers(
            column, where, "row", refused=self.refused, advice=self.advice
        )


def _release_memory() -> None:
    """Give back the memory of batches, which the pool of Arrow would keep."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def _place(name: str, rows: slice) -> str:
    return f"column {name!r} of source, from row {rows.start} on,"


def _decoded(column: Any) -> Any:
    """A column without a dictionary, which may be another one in each batch."""
    import pyarrow as pa

    is_coded = pa.types.is_dictionary(column.type)
    return column.dictionary_decode() if is_coded else column


def _series(array: Any) -> Any:
    """An array of Arrow as a column that other functions read."""
    import pyarrow as pa

    return pa.chunked_array([array])


def _reader(source: Any) -> Callable[[list[str]], Iterator[Any]]:
    """Function from names of columns to record batches, for a reading of its own."""
    try:
        import pyarrow as pa
        from pyarrow import dataset, parquet
    except ImportError as error:
        raise ImportError(
            "from_arrow reads by pyarrow, which is not installed: pip install pyarrow."
        ) from error
    if isinstance(source, str | PathLike):
        source = dataset.dataset(source, format="parquet", partitioning="hive")
    if isinstance(source, pa.Table | pa.RecordBatch):
        source = [source]
    if isinstance(source, dataset.Dataset):
        return lambda names: source.to_batches(
            columns=_known(names, source.schema.names),
            batch_size=BATCH_ROWS,
            batch_readahead=1,
            fragment_readahead=1,
        )
    if isinstance(source, parquet.ParquetFile):
        return lambda names: source.iter_batches(
            BATCH_ROWS, columns=_known(names, source.schema_arrow.names)
        )
    is_function = callable(source)
    if not is_function and (
        not isinstance(source, Iterable) or isinstance(source, Iterator | dict)
    ):
        raise TypeError(
            "source must be the path of a Parquet file, a Dataset, ParquetFile or "
            "Table of pyarrow, or an iterable of batches that can be read twice, got "
            f"{type(source).__name__}. Instead of a generator give the function that "
            "makes it, such as from_arrow(lambda: read_batches())."
        )

    def batches(names: list[str]) -> Iterator[Any]:
        for part in source() if is_function else source:
            if not isinstance(part, pa.Table | pa.RecordBatch):
                raise TypeError(
                    "source must hold record batches or tables of pyarrow, but this "
                    f"{type(source).__name__} holds a {type(part).__name__}. A frame "
                    "in memory needs no from_arrow: X = frame[[user, item]] and "
                    "y = frame[rating]. Several files are one source by "
                    "pyarrow.dataset.dataset(paths)."
                )
            selected = part.select(_known(names, part.schema.names))
            if isinstance(selected, pa.RecordBatch):
                yield selected
            else:
                yield from selected.to_batches(BATCH_ROWS)

    return batches


def _known(names: list[str], columns: list[str]) -> list[str]:
    """Names of columns to read, or an error where there is none of a name."""
    for name in names:
        if columns.count(name) != 1:
            number = "several columns" if name in columns else "no column"
            raise ValueError(
                f"source has {number} {name!r}; its columns are {columns[:20]}. Give "
                "their names, such as from_arrow(source, user='customer', "
                "item='product', rating='stars')."
            )
    return list(dict.fromkeys(names))


def _batches(
    read: Callable[[list[str]], Iterator[Any]], names: list[str]
) -> Iterator[tuple[slice, Any]]:
    """Batches and their places among all rows, with columns of the same types."""
    types: dict[str, Any] = {}
    start = 0
    for number, batch in enumerate(read(names)):
        for field in batch.schema:
            # A dictionary is another form of the values.
            own = getattr(field.type, "value_type", field.type)
            first = types.setdefault(field.name, own)
            if own != first:
                raise TypeError(
                    f"column {field.name!r} of source is of type {first} in the first "
                    f"batch and of type {own} in batch {number}, counted from 0; all "
                    "batches need the same types."
                )
        if batch.num_rows:
            yield slice(start, start + batch.num_rows), batch
            start += batch.num_rows
