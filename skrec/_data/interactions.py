"""Raw rows to canonical training rows and back: raw id <-> row number.

Canonical rows do not depend on the order of the rows given, nor on how a repeated row
is written: rows without weight are dropped, ids are numbered in sorted order, rows
stand in (user, item) order, and equal rows are one row with their weights summed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import narwhals.stable.v1 as nw
import numpy as np
import pandas as pd
import torch
from scipy import sparse

N_ROWS_SHOWN = 5

# A search for each id beats a hash table of n fitted ids as long as there are fewer
# than n divided by this.
MIN_IDS_PER_SEARCH = 64

# Rows put between others one by one.
MAX_PIECES = 2**10

NUMBER_KINDS = {"integer", "floating", "mixed-integer-float", "boolean"}
DATE_KINDS = {"date", "datetime", "datetime64"}
MIXED_KINDS = {"mixed", "mixed-integer"}
INDEX_OF_PANDAS = "__index_level_0__"
NESTED_TYPES = (list, tuple, dict, set, frozenset, np.ndarray, torch.Tensor)

# Indicators are what factorisation machines take.
SPARSE_ROWS = (
    "Sparse data was passed for {name}, but column 0 must hold user ids and column 1 "
    "item ids. Indicators of users and items are ids once more by "
    "np.column_stack([{name}[:, :n_users].argmax(axis=1), "
    "{name}[:, n_users:].argmax(axis=1)]); a matrix of ratings, users by items, "
    "becomes rows by skrec.datasets.from_matrix."
)


@dataclass(frozen=True)
class Columns:
    """The columns of X: raw ids of users and items, and further numeric features.

    Attributes
    ----------
    users, items : Ids
        One id per row.
    features : ndarray of shape (n_samples, n_further_columns), dtype float64
    """

    users: Ids
    items: Ids
    features: np.ndarray

    @classmethod
    def from_frame(cls, frame: nw.DataFrame) -> Columns:
        """Columns of a pandas, polars or pyarrow table, each in its own dtype."""
        series = list(frame.iter_columns())
        names = [repr(column.name) for column in series]
        for j, column in enumerate(series[2:], 2):
            if isinstance(column.dtype, nw.Categorical | nw.Enum):
                raise ValueError(
                    f"column {j} of X ({names[j]}) must be numeric, but is "
                    "categorical, and codes of categories are no numbers. Give each "
                    "category a column of 0 and 1, by OneHotEncoder or "
                    "pandas.get_dummies."
                )
        return cls.from_columns([as_array(column) for column in series], names)

    @classmethod
    def from_array(cls, X: np.ndarray) -> Columns:
        """Columns of a two-dimensional array."""
        return cls.from_columns(list(X.T), [""] * X.shape[1])

    @classmethod
    def from_columns(cls, columns: list[np.ndarray], names: list[str]) -> Columns:
        """Columns as arrays, with names for messages."""
        ids = [
            Ids.from_column(
                columns[j], f"column {j} of X ({', '.join(filter(None, described))})"
            )
            for j, described in enumerate([("users", names[0]), ("items", names[1])])
        ]
        features = np.empty((len(columns[0]), len(columns) - 2))
        for j in range(2, len(columns)):
            where = f"column {j} of X ({names[j]})" if names[j] else f"column {j} of X"
            features[:, j - 2] = as_numbers(columns[j], where, "feature")
        return cls(*ids, features)

    def all_fractional(self) -> bool:
        """Whether every column holds numbers with a fractional part."""
        ids = self.users.fractions().any() and self.items.fractions().any()
        return bool(ids and (self.features != np.trunc(self.features)).any(0).all())

    def are_indicators(self) -> bool:
        """Whether all is 0 and 1, as many ones in every row, in 4 columns or more."""
        if self.features.shape[1] < 2 or not (
            self.users.are_indicators() and self.items.are_indicators()
        ):
            return False
        ones = self.features == 1
        n_ones = ones.sum(axis=1) + (self.users.values == 1) + (self.items.values == 1)
        alike = n_ones[0] > 1 and (n_ones == n_ones[0]).all()
        return bool(alike and (ones | (self.features == 0)).all())


@dataclass(frozen=True)
class Ids:
    """One raw id per row, all of one sortable kind.

    Attributes
    ----------
    values : ndarray of shape (n_samples,)
        The ids in their own dtype.
    kind : str
        What they are: "number", "string", "date", …
    where : str
        Where they were found, for messages.
    """

    values: np.ndarray
    kind: str
    where: str

    @classmethod
    def from_column(cls, values: np.ndarray, where: str) -> Ids:
        """Ids of a column, or an error that counts what is no id."""
        values = as_array(values)
        if values.ndim != 1:
            raise TypeError(f"{where} holds nested ids; an id must be a single value.")
        missing = pd.isna(values)
        if values.dtype.kind == "f":
            missing |= np.isinf(values)
        if missing.any():
            raise ValueError(
                f"{where} holds {counted(missing, 'missing id')} (None, NaN, NaT or "
                f"infinite); every row needs an id."
            )
        values, kind = _with_kind(values, where)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            infinite = ~np.isfinite(values)
            raise ValueError(f"{where} holds {counted(infinite, 'infinite id')}.")
        return cls(values, kind, where)

    def are_indicators(self) -> bool:
        """Whether ids are 0 and 1 alone."""
        if self.values.dtype.kind not in "biuf":
            return False
        return bool(((self.values == 0) | (self.values == 1)).all())

    def fractions(self, n_decimals: int = 0) -> np.ndarray:
        """Which ids are floats of more decimals than so many."""
        if self.values.dtype.kind != "f":
            return np.zeros(len(self.values), dtype=bool)
        return self.values != np.round(self.values, n_decimals)

    def numbered(self) -> tuple[np.ndarray, np.ndarray]:
        """Row number of each id, and the sorted ids."""
        numbers, ids = pd.factorize(self.values, sort=True)
        return numbers, np.asarray(ids).astype(self.values.dtype, copy=False)

    def numbered_in(self, ids: np.ndarray) -> np.ndarray:
        """Row number of each id among fitted `ids`, -1 where it is not there."""
        # All fitted ids are of one kind.
        fitted = kind_of(ids[:1])
        if self.kind != fitted and len(self.values):
            raise TypeError(
                f"{self.where} holds ids of kind {self.kind!r} (the first is "
                f"{shown(self.values[0])}), but this model was fitted on ids of kind "
                f"{fitted!r} (the first is {shown(ids[0])})."
            )
        if len(self.values) * MIN_IDS_PER_SEARCH < len(ids):
            asked = _alike(self.values, ids, fitted)
            if asked is not None:
                where = np.searchsorted(ids, asked)
                found = ids[np.minimum(where, len(ids) - 1)]
                return np.where(found == self.values, where, -1)
        if fitted == "number":
            return _numbers_in(self.values, ids)
        return _index(ids).get_indexer(_index(self.values))


def as_array(values: Any) -> np.ndarray:
    """Values of any container as an array; what is masked is None.

    Datetimes of a time zone are pandas Timestamps in UTC, since NumPy has no zones.
    """
    if type(values) is np.ndarray and values.dtype.isnative:
        return values
    series = values
    if not isinstance(values, nw.Series):
        series = nw.from_native(values, series_only=True, pass_through=True)
    if isinstance(series, nw.Series):
        if isinstance(series.dtype, nw.Int128):
            # NumPy has no integers that long.
            return np.array(series.to_list(), dtype=object)
        values = series.to_numpy()
        if getattr(series.dtype, "time_zone", None) is not None:
            values = _instants(values)
    elif isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    elif isinstance(values, np.ma.MaskedArray):
        masked, values = np.ma.getmaskarray(values), values.data
        if masked.any():
            values = values.astype(object)
            values[masked] = None
    values = np.asarray(values)
    # pandas cannot read the bytes of another machine.
    return (
        values
        if values.dtype.isnative
        else values.astype(values.dtype.newbyteorder("="))
    )


def without_index(table: nw.DataFrame) -> nw.DataFrame:
    """A table without the index that pyarrow keeps of a pandas frame as a column."""
    return table.drop(INDEX_OF_PANDAS) if INDEX_OF_PANDAS in table.columns else table


def as_frame(X: Any) -> Any:
    """A pandas, polars or pyarrow table as one of narwhals; anything else as it is.

    Columns of pandas have numbers for names where two names are equal.
    """
    try:
        frame = nw.from_native(X, eager_only=True, pass_through=True)
    except nw.exceptions.DuplicateError:
        if not isinstance(X, pd.DataFrame):
            raise
        X = X.set_axis(range(X.shape[1]), axis=1)
        frame = nw.from_native(X, eager_only=True)
    if isinstance(frame, nw.DataFrame) and not isinstance(X, pd.DataFrame):
        return without_index(frame)
    return frame


def as_table(X: Any, name: str) -> nw.DataFrame:
    """Rows in any container as a table of users, items and further columns."""
    if sparse.issparse(X):
        raise TypeError(SPARSE_ROWS.format(name=name))
    table = as_frame(X)
    if not isinstance(table, nw.DataFrame):
        # np.asarray would turn a row ("ann", 7) into two strings; pandas does not.
        rows = list(X) if isinstance(X, list | tuple) else as_array(X)
        if isinstance(rows, np.ndarray) and rows.ndim != 2:
            raise ValueError(
                f"{name} must be an array-like of shape (n_samples, 2 + n_features), "
                f"got {type(X).__name__} of shape {rows.shape}."
            )
        table = as_frame(pd.DataFrame(rows))
    if table.shape[1] < 2:
        raise ValueError(
            f"{name} needs a column of users and a column of items, got shape "
            f"{table.shape}."
        )
    return table


def id_columns(X: Any, name: str) -> tuple[Ids, Ids]:
    """Users and items of rows in any container, whatever else its columns hold."""
    table = as_table(X, name)
    users, items = (
        Ids.from_column(table[:, j], f"column {j} of {name}") for j in (0, 1)
    )
    return users, items


def object_array(rows: list | tuple) -> np.ndarray:
    """Rows as an object array, or as NumPy sees them where they are ragged."""
    try:
        # Without the dtype a row ("ann", 7) becomes two strings.
        return np.array(rows, dtype=object)
    except ValueError:
        return np.array(rows)


def numbered(ids: np.ndarray, among: np.ndarray, where: str = "X") -> np.ndarray:
    """Row numbers of ids among fitted ones, -1 where they are not there."""
    return Ids.from_column(ids, where).numbered_in(among)


def inserted(array: np.ndarray, at: np.ndarray, values: Any) -> np.ndarray:
    """A copy of an array with rows put in before its rows `at`, which are sorted."""
    values = np.broadcast_to(values, (len(at), *array.shape[1:]))
    dtype = array.dtype
    if values.dtype != dtype:
        dtype = np.result_type(array, values)
    if len(at) > MAX_PIECES:
        return np.insert(array.astype(dtype, copy=False), at, values, axis=0)
    # Pieces are copied several times as fast as by a mask.
    whole = np.empty((len(array) + len(at), *array.shape[1:]), dtype)
    start = 0
    for row, stop in enumerate(at):
        whole[start + row : stop + row] = array[start:stop]
        whole[stop + row] = values[row]
        start = stop
    whole[start + len(at) :] = array[start:]
    return whole


@dataclass(frozen=True)
class Growth:
    """Sorted ids that further ones have been put between.

    Attributes
    ----------
    ids : ndarray of shape (n_ids,)
    at : ndarray of shape (n_new,), dtype int64
        The number that each new id would have had among the fitted ones.
    given : ndarray of shape (n_given,), dtype int64
        Row numbers of all further ids, new or not.
    is_new : ndarray of shape (n_given,), dtype bool
    """

    ids: np.ndarray
    at: np.ndarray
    given: np.ndarray
    is_new: np.ndarray

    @classmethod
    def of(cls, fitted: np.ndarray, further: np.ndarray, rows: np.ndarray) -> Growth:
        """Fitted and further ids, both sorted; negative `rows` of the latter are new.

        Time follows the further ids, but for a copy of the fitted ones.
        """
        is_new = rows < 0
        new = further[is_new]
        if not len(new):
            return cls(fitted, np.empty(0, dtype=np.int64), rows, is_new)
        kind = kind_of(fitted[:1])
        if kind == "number" and new.dtype != fitted.dtype:
            both = _together(fitted, new)
            fitted, new = both[: len(fitted)], both[len(fitted) :]
        elif kind in ("date", "duration") and _form(new) != _form(fitted):
            fitted, new = (np.asarray(_index(ids)) for ids in (fitted, new))
        at = np.searchsorted(fitted, new)
        given = rows + np.searchsorted(at, rows, side="right")
        given[is_new] = at + np.arange(len(new))
        return cls(inserted(fitted, at, new), at, given, is_new)

    def shifted(self, rows: np.ndarray) -> np.ndarray:
        """Row numbers among all ids, of those among fitted ones."""
        return rows + np.searchsorted(self.at, rows, side="right")

    def inserted(self, array: np.ndarray, values: Any = 0) -> np.ndarray:
        """A copy of rows of fitted ids, with those of new ones put in."""
        return inserted(array, self.at, np.asarray(values, dtype=array.dtype))


def _form(times: np.ndarray) -> tuple[str, type]:
    """How dates or durations are held, which compare with their like alone."""
    return times.dtype.kind, type(times[0])


def _together(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Numbers of two dtypes in one that rounds none of them."""
    first, second = (
        ids.astype(np.uint8) if ids.dtype.kind == "b" else ids
        for ids in (first, second)
    )
    both = np.concatenate([ids.astype(object) for ids in (first, second)])
    whole = (both % 1 == 0).all()
    if first.dtype.kind == "f" or not whole:
        if np.abs(both).max() < 2**53:
            return both.astype(np.float64)
        if not whole:
            raise ValueError(
                "Ids with a fractional part cannot be told from integers of 2**53 or "
                "more; give all ids as integers or as strings."
            )
    both = np.array([int(value) for value in both], dtype=object)
    for dtype in (first.dtype, np.int64, np.uint64):
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            if limits.min <= both.min() and both.max() <= limits.max:
                return both.astype(dtype)
    return both


def _numbers_in(asked: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Place of each number among fitted ones, compared without rounding."""
    asked, fitted = (
        ids.astype(np.uint8) if ids.dtype.kind == "b" else ids
        for ids in (asked, fitted)
    )
    held = np.ones(len(asked), dtype=bool)
    if asked.dtype.kind == "f" and fitted.dtype.kind != "f":
        held = asked == np.trunc(asked)
    if fitted.dtype.kind in "iu" and asked.dtype != fitted.dtype:
        limits = np.iinfo(fitted.dtype)
        held &= ((asked >= limits.min) & (asked <= limits.max)).astype(bool)
    asked = asked[held]
    if asked.dtype.kind == "f" and fitted.dtype.kind == "O":
        asked = asked.astype(np.int64)
    rows = np.full(len(held), -1)
    rows[held] = _index(fitted).get_indexer(_index(asked.astype(fitted.dtype)))
    return rows


def _index(ids: np.ndarray) -> pd.Index:
    """Ids in a form that finds its like in any other dtype of the same kind."""
    if ids.dtype.kind in "iufMm":
        return pd.Index(ids)
    kind = pd.api.types.infer_dtype(ids, skipna=False)
    if kind in ("date", "datetime"):
        return pd.Index(pd.to_datetime(ids))
    if kind == "timedelta":
        return pd.Index(pd.to_timedelta(ids))
    return pd.Index(ids.astype(object), dtype=object)


def _alike(asked: np.ndarray, fitted: np.ndarray, kind: str) -> np.ndarray | None:
    """Ids to search for among fitted ones, if their order is that of NumPy."""
    if kind == "string" and {asked.dtype.kind, fitted.dtype.kind} <= {"O", "U"}:
        # One that is cut short by this is not equal to what it finds.
        return asked.astype(fitted.dtype, copy=False)
    if asked.dtype == fitted.dtype and fitted.dtype.kind in "iufM":
        return asked
    return None


def _instants(dates: np.ndarray) -> np.ndarray:
    """Timestamps in UTC, of aware datetimes or of datetimes that are in UTC."""
    return pd.to_datetime(dates, utc=True).astype(object).to_numpy()


def kind_of(ids: np.ndarray) -> str:
    """Kind of fitted ids."""
    return _with_kind(ids, "")[1]


def _with_kind(values: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    """Ids in a dtype that can be sorted, and their kind."""
    if values.dtype.kind in "biuf":
        if values.dtype.kind == "f":
            values = _exact(values, where)
        return values, "number"
    kind = pd.api.types.infer_dtype(values, skipna=False)
    if kind in NUMBER_KINDS:
        numbers = np.array(values.tolist())
        if kind == "integer" and numbers.dtype.kind not in "iu":
            # NumPy rounds integers that neither int64 nor uint64 can hold together.
            return values, "number"
        return _with_kind(numbers, where)
    if kind in DATE_KINDS:
        return _dates(values, where)
    if kind in ("timedelta", "timedelta64"):
        return values, "duration"
    if kind in MIXED_KINDS:
        types = {type(value) for value in values}
        names = ", ".join(sorted(t.__name__ for t in types))
        if len(types) > 1:
            raise TypeError(
                f"{where} mixes ids of types {names}; ids of one column must be of one "
                "sortable kind, such as all strings or all numbers."
            )
        if issubclass(types.pop(), NESTED_TYPES):
            raise TypeError(
                f"{where} holds nested ids of type {names}; an id must be a single "
                "argument such as a string or a number."
            )
        try:
            sorted(values[:2])
        except TypeError as error:
            raise TypeError(
                f"{where} holds ids of type {names}, which are not sortable: {error}."
            ) from error
        kind = names
    if kind in ("complex", "unknown-array"):
        raise TypeError(f"{where} holds values of dtype {values.dtype}, not ids.")
    return values, kind


def _exact(values: np.ndarray, where: str) -> np.ndarray:
    """Floats as ids, in a precision that pandas knows, or an error where they merge."""
    digits = min(np.finfo(values.dtype).nmant, 52) + 1
    # Not a number and infinity are counted elsewhere.
    merged = np.isfinite(values) & (np.abs(values) >= 2.0**digits)
    if merged.any():
        raise ValueError(
            f"{where} holds {counted(merged, 'id')} of 2**{digits} or more as "
            f"{values.dtype}, in which integers that large have become equal to "
            "their neighbours. Give such ids as integers or as strings from the start."
        )
    # pandas has no hash table for half and extended precision.
    return values if values.dtype.itemsize in (4, 8) else values.astype(np.float64)


def _dates(values: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    """Dates as ids; those of a time zone are instants in UTC."""
    if values.dtype.kind == "M":
        return values, "date"
    aware = np.array([getattr(value, "tzinfo", None) is not None for value in values])
    if not aware.any():
        return values, "date"
    if not aware.all():
        raise TypeError(
            f"{where} mixes datetimes with and without a time zone, such as "
            f"{shown(values[aware][0])} and {shown(values[~aware][0])}; ids of one "
            "column must be of one sortable kind."
        )
    return _instants(values), "date with a time zone"


def as_numbers(
    values: Any, where: str, noun: str, *, may_be_missing: bool = False
) -> np.ndarray:
    """Finite float64 numbers, or an error that counts what is not.

    What is missing is NaN where it may be.
    """
    values = as_array(values)
    if values.dtype.kind in "OUSmMc":
        kind = pd.api.types.infer_dtype(values, skipna=True)
        if kind not in (*NUMBER_KINDS, "decimal", "empty"):
            wrong = next((v for v in values.flat if not _is_number(v)), values.flat[0])
            raise ValueError(
                f"{where} must be numeric, but holds values of kind {kind!r} (the "
                f"first that is none is {shown(wrong)}).{_advice(where, kind)}"
            )
        numbers = pd.to_numeric(pd.Series(values.ravel()), errors="coerce")
        numbers = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
        values = numbers.reshape(values.shape)
    values = values.astype(np.float64, copy=False)
    wrong = np.isinf(values) if may_be_missing else ~np.isfinite(values)
    if wrong.any():
        raise ValueError(
            f"{where} must hold finite numbers, but is missing, NaN or infinite for "
            f"{counted(wrong, noun)}."
        )
    return values


def _advice(where: str, kind: str) -> str:
    """How a further column of X becomes numeric."""
    if not where.startswith("column "):
        return ""
    if kind in DATE_KINDS:
        how = "days since the first date, (dates - dates.min()).dt.days"
    elif kind.startswith("timedelta"):
        how = "seconds, durations.dt.total_seconds()"
    else:
        how = "columns of 0 and 1, by OneHotEncoder"
    return (
        f" Column 0 of X holds the user, column 1 the item, and others numbers: leave "
        f"this one out, or give it as {how}."
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) or pd.isna(value)


def shown(value: Any) -> str:
    """A value as its user would write it."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def counted(mask: np.ndarray, noun: str) -> str:
    """The count of a mask and its first rows, in words."""
    rows = np.flatnonzero(mask)
    plural = noun if len(rows) == 1 else f"{noun}s"
    first = ", ".join(map(str, rows[:N_ROWS_SHOWN]))
    more = ", …" if len(rows) > N_ROWS_SHOWN else ""
    return f"{len(rows)} {plural} (first rows: {first}{more})"


@dataclass(frozen=True)
class Described:
    """What is said of the ids of one side, in columns of numbers.

    Attributes
    ----------
    names : list of str
        Of the columns.
    matrix : csr_array of shape (n_ids, n_columns)
    """

    names: list[str]
    matrix: sparse.csr_array


@dataclass(frozen=True)
class Interactions:
    """Canonical training rows.

    Attributes
    ----------
    user_ids, item_ids : ndarray of shape (n_users,) and (n_items,)
        Sorted raw ids.
    users, items : ndarray of shape (n_rows,), dtype int64
        Row numbers of each rating's user and item.
    rating, weight : ndarray of shape (n_rows,), dtype float64
    features : ndarray of shape (n_rows, n_further_columns), dtype float64
    described : dict of str to Described
        What is said of the ids of a "user" and of an "item", if anything.
    growths : tuple of Growth of users and items, or None
        How the ids have grown, where these rows are further ones.
    """

    user_ids: np.ndarray
    item_ids: np.ndarray
    users: np.ndarray
    items: np.ndarray
    rating: np.ndarray
    weight: np.ndarray
    features: np.ndarray
    described: dict[str, Described] = field(default_factory=dict)
    growths: tuple[Growth, Growth] | None = None

    @classmethod
    def from_columns(
        cls, columns: Columns, rating: np.ndarray, weight: np.ndarray | None
    ) -> Interactions:
        """Canonical rows of validated columns, ratings and weights."""
        users, items, features = columns.users, columns.items, columns.features
        if weight is None:
            weight = np.ones(len(rating))
        elif not weight.all():
            kept = np.flatnonzero(weight)
            users, items = (
                Ids(ids.values[kept], ids.kind, ids.where) for ids in (users, items)
            )
            rating, weight, features = rating[kept], weight[kept], features[kept]
        user_numbers, user_ids = users.numbered()
        item_numbers, item_ids = items.numbered()

        pair = user_numbers * np.int64(len(item_ids)) + item_numbers
        order = np.argsort(pair)
        sorted_pair = pair[order]
        if (sorted_pair[1:] == sorted_pair[:-1]).any():
            columns_of_row = (*features.T[::-1], rating, pair)
            order = np.lexsort((weight, *columns_of_row))
            changes = np.zeros(len(order), dtype=bool)
            changes[:1] = True
            for values in columns_of_row:
                changes[1:] |= np.diff(values[order]) != 0
            starts = np.flatnonzero(changes)
            weight = np.add.reduceat(weight[order], starts)
            order = order[starts]
        else:
            weight = weight[order]
        return cls(
            user_ids=user_ids,
            item_ids=item_ids,
            users=user_numbers[order],
            items=item_numbers[order],
            rating=rating[order],
            weight=weight,
            features=features[order],
        )

    def among(self, users: Growth, items: Growth) -> Interactions:
        """The same rows, numbered among more ids."""
        return replace(
            self,
            user_ids=users.ids,
            item_ids=items.ids,
            users=users.given[self.users],
            items=items.given[self.items],
            described={},
            growths=(users, items),
        )

    @property
    def pairs(self) -> np.ndarray:
        """user * n_items + item of all rows, which are sorted."""
        return self.users * len(self.item_ids) + self.items

    @property
    def shape(self) -> tuple[int, int]:
        """Number of users and number of items."""
        return len(self.user_ids), len(self.item_ids)
