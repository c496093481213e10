"""Raw ids and their row numbers: kinds of ids, look-up, and growth by further ids."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from .containers import as_coded_array, in_utc
from .messages import counted, shown

# Fewer ids than n divided by this are faster to search for one by one than by a hash
# table of n fitted ids.
MIN_IDS_PER_SEARCH = 64

# Rows that are inserted one by one; more of them by a mask.
MAX_PIECES = 2**10

# Bytes of an id in a hash table that grows, and less than a fit takes for a row.
HASH_BYTES = 64

# Strings that are encoded at a time, and characters that have no encoding.
TEXT_ROWS = 2**16
SURROGATE = re.compile("[\ud800-\udfff]")

NUMBER_KINDS = {"integer", "floating", "mixed-integer-float", "boolean"}
DATE_KINDS = {"date", "datetime", "datetime64"}
MIXED_KINDS = {"mixed", "mixed-integer"}
NESTED_TYPES = (list, tuple, dict, set, frozenset, np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class Ids:
    """One raw id per row, all of one sortable kind.

    Attributes
    ----------
    distinct : ndarray
        The ids in their own dtype: one per row, or each id that occurs once.
    kind : str
        "number", "string", "date", …
    where : str
        Name of their argument or column, for messages.
    codes : ndarray of shape (n_samples,) or None
        Place of each row's id in `distinct`; None is one place per row.
    """

    distinct: np.ndarray
    kind: str
    where: str
    codes: np.ndarray | None = None

    @classmethod
    def from_column(cls, values: Any, where: str) -> Ids:
        """Ids of a column, or an error that counts the values that are no ids."""
        values, codes = as_coded_array(values)
        if values.ndim != 1:
            raise TypeError(f"{where} holds nested ids; an id must be a single value.")
        missing = pd.isna(values)
        if values.dtype.kind == "f":
            missing |= np.isinf(values)
        if codes is not None:
            # A missing value has the code -1, and takes the last place here.
            missing = np.append(missing, True)[codes]
        if missing.any():
            raise ValueError(
                f"{where} holds {counted(missing, 'missing id')} (None, NaN, NaT or "
                f"infinite); every row needs an id."
            )
        values, codes = _occurring(values, codes)
        values, kind = _with_kind(values, where)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            infinite = ~np.isfinite(values)
            raise ValueError(f"{where} holds {counted(infinite, 'infinite id')}.")
        return cls(values, kind, where, codes)

    def __len__(self) -> int:
        return len(self.distinct if self.codes is None else self.codes)

    @property
    def values(self) -> np.ndarray:
        """The id of each row."""
        return self._of_rows(self.distinct)

    def _of_rows(self, of_distinct: np.ndarray) -> np.ndarray:
        return of_distinct if self.codes is None else of_distinct[self.codes]

    def take(self, rows: np.ndarray) -> Ids:
        """The ids of some rows."""
        if self.codes is None:
            return self.of_kind(self.distinct[rows])
        distinct, codes = _occurring(self.distinct, self.codes[rows])
        return Ids(distinct, self.kind, self.where, codes)

    def of_kind(self, values: np.ndarray) -> Ids:
        """Other ids of the same kind and place."""
        return Ids(values, self.kind, self.where)

    def are_indicators(self) -> bool:
        """Whether ids are 0 and 1 alone."""
        ids = self.distinct
        return ids.dtype.kind in "biuf" and bool(((ids == 0) | (ids == 1)).all())

    def fractions(self, n_decimals: int = 0) -> np.ndarray:
        """Mask of the floats with more than `n_decimals` decimals."""
        ids = self.distinct
        if ids.dtype.kind != "f":
            return np.zeros(len(self), dtype=bool)
        return self._of_rows(ids != np.round(ids, n_decimals))

    def numbered(self) -> tuple[np.ndarray, np.ndarray]:
        """Row number of each id, and the sorted ids."""
        # pandas ends the process if its hash table does not fit, this raises an error.
        np.empty(HASH_BYTES * len(self.distinct), dtype=np.uint8)
        numbers, ids = pd.factorize(self.distinct, sort=True)
        ids = np.asarray(ids).astype(self.distinct.dtype, copy=False)
        if self.codes is not None:
            numbers = numbers.astype(np.int32)
        return self._of_rows(numbers), ids

    def numbered_in(
        self, ids: np.ndarray, owner: str = "this model was fitted on ids"
    ) -> np.ndarray:
        """Row number of each id among sorted `ids`, -1 where it is not there.

        An error about the kind of ids says that `owner` is of another kind.
        """
        if not len(ids):
            return np.full(len(self), -1)
        # Ids that are numbered are all of one kind.
        fitted = kind_of(ids[:1])
        if self.kind != fitted and len(self):
            raise TypeError(
                f"{self.where} holds ids of kind {self.kind!r} (the first is "
                f"{shown(self.take(np.arange(1)).values[0])}), but {owner} of kind "
                f"{fitted!r} (the first is {shown(ids[0])})."
            )
        return self._of_rows(_places_in(self.distinct, ids, fitted))


def _occurring(
    distinct: np.ndarray, codes: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The ids that occur, and their codes."""
    if codes is None:
        return distinct, None
    occurs = np.zeros(len(distinct), dtype=bool)
    occurs[codes] = True
    if occurs.all():
        return distinct, codes
    place = np.cumsum(occurs, dtype=np.int32) - np.int32(1)
    return distinct[occurs], place[codes]


def _places_in(asked: np.ndarray, fitted: np.ndarray, kind: str) -> np.ndarray:
    """Place of each id among fitted ones of the same kind, -1 if it is not there."""
    if len(asked) * MIN_IDS_PER_SEARCH < len(fitted):
        sought = _searchable(asked, fitted, kind)
        if sought is not None:
            where = np.searchsorted(fitted, sought)
            found = fitted[np.minimum(where, len(fitted) - 1)]
            return np.where(found == asked, where, -1)
    if kind == "number":
        return _numbers_in(asked, fitted)
    return index_of(fitted).get_indexer(index_of(asked))


def numbered(ids: np.ndarray, among: np.ndarray, where: str = "X") -> np.ndarray:
    """Row numbers of ids among fitted ones, -1 where they are not there."""
    return Ids.from_column(ids, where).numbered_in(among)


def inserted(array: np.ndarray, at: np.ndarray, values: Any) -> np.ndarray:
    """A copy of an array with rows inserted before its rows `at`, which are sorted."""
    values = np.broadcast_to(values, (len(at), *array.shape[1:]))
    dtype = array.dtype
    if values.dtype != dtype:
        dtype = np.result_type(array, values)
    if len(at) > MAX_PIECES:
        return np.insert(array.astype(dtype, copy=False), at, values, axis=0)
    # Copies of slices are several times as fast as a mask.
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
    """Sorted ids, grown by further ones.

    Attributes
    ----------
    ids : ndarray of shape (n_ids,)
    at : ndarray of shape (n_new,), dtype int64
        Place of each new id among the fitted ones.
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
        """Growth of sorted ids by sorted further ones, new where `rows` is negative.

        Besides a copy of the fitted ids, the cost is proportional to the further ones.
        """
        is_new = rows < 0
        new = further[is_new]
        if not len(new):
            return cls(fitted, np.empty(0, dtype=np.int64), rows, is_new)
        kind = kind_of(fitted[:1])
        if kind == "number" and new.dtype != fitted.dtype:
            both = _in_common_dtype(fitted, new)
            fitted, new = both[: len(fitted)], both[len(fitted) :]
        elif kind in ("date", "duration") and _time_type(new) != _time_type(fitted):
            fitted, new = (np.asarray(index_of(ids)) for ids in (fitted, new))
        at = np.searchsorted(fitted, new)
        given = rows + np.searchsorted(at, rows, side="right")
        given[is_new] = at + np.arange(len(new))
        return cls(inserted(fitted, at, new), at, given, is_new)

    def shifted(self, rows: np.ndarray) -> np.ndarray:
        """Row numbers among all ids, from those among fitted ones."""
        return rows + np.searchsorted(self.at, rows, side="right")

    def inserted(self, array: np.ndarray, values: Any = 0) -> np.ndarray:
        """A copy of rows of fitted ids, with rows of new ones inserted."""
        return inserted(array, self.at, np.asarray(values, dtype=array.dtype))


def _time_type(times: np.ndarray) -> tuple[str, type]:
    """Representation of dates or durations; only equal ones can be compared."""
    return times.dtype.kind, type(times[0])


def _in_common_dtype(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Numbers of two dtypes in a common one that rounds none of them."""
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
    rows[held] = index_of(fitted).get_indexer(index_of(asked.astype(fitted.dtype)))
    return rows


def index_of(ids: np.ndarray) -> pd.Index:
    """Ids as an index that matches equal ids of another dtype of the same kind."""
    if ids.dtype.kind in "iufMm":
        return pd.Index(ids)
    kind = pd.api.types.infer_dtype(ids, skipna=False)
    if kind in ("date", "datetime"):
        return pd.Index(pd.to_datetime(ids))
    if kind == "timedelta":
        return pd.Index(pd.to_timedelta(ids))
    return pd.Index(ids.astype(object), dtype=object)


def _searchable(asked: np.ndarray, fitted: np.ndarray, kind: str) -> np.ndarray | None:
    """Ids for a binary search among fitted ones, None if NumPy cannot order them."""
    if kind == "string" and {asked.dtype.kind, fitted.dtype.kind} <= {"O", "U"}:
        # An id that this truncates is not equal to the one that it finds.
        return asked.astype(fitted.dtype, copy=False)
    if asked.dtype == fitted.dtype and fitted.dtype.kind in "iufM":
        return asked
    return None


def kind_of(ids: np.ndarray) -> str:
    """Kind of fitted ids."""
    return _with_kind(ids, "")[1]


def _with_kind(values: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    """Ids in a dtype that can be sorted, and their kind."""
    if values.dtype.kind in "biuf":
        if values.dtype.kind == "f":
            values = _as_exact_floats(values, where)
        return values, "number"
    kind = pd.api.types.infer_dtype(values, skipna=False)
    if kind == "string":
        check_is_text(values, where)
    if kind in NUMBER_KINDS:
        numbers = np.array(values.tolist())
        if kind == "integer" and numbers.dtype.kind not in "iu":
            # NumPy rounds integers that neither int64 nor uint64 can hold together.
            return values, "number"
        return _with_kind(numbers, where)
    if kind in DATE_KINDS:
        return _as_dates(values, where)
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


def check_is_text(strings: np.ndarray, where: str) -> None:
    """Refuse strings that have no encoding, which pandas cannot hold in a frame."""
    for start in range(0, len(strings), TEXT_ROWS):
        block = strings[start : start + TEXT_ROWS].tolist()
        try:
            "".join(block).encode()
        except UnicodeEncodeError:
            wrong = next(s for s in block if SURROGATE.search(s))
            raise ValueError(
                f"{where} holds {wrong!a}, which has a lone surrogate and is no "
                "text. Decode such bytes by their encoding or by errors='replace', as "
                "in bytes.decode('latin-1')."
            ) from None


def _as_exact_floats(values: np.ndarray, where: str) -> np.ndarray:
    """Floats as ids in single or double precision, or an error if they are rounded."""
    digits = min(np.finfo(values.dtype).nmant, 52) + 1
    # Ids.from_column counts NaN and infinity.
    merged = np.isfinite(values) & (np.abs(values) >= 2.0**digits)
    if merged.any():
        raise ValueError(
            f"{where} holds {counted(merged, 'id')} of 2**{digits} or more as "
            f"{values.dtype}, in which integers that large have become equal to "
            "their neighbours. Give such ids as integers or as strings from the start."
        )
    # pandas has no hash table for half and extended precision.
    return values if values.dtype.itemsize in (4, 8) else values.astype(np.float64)


def _as_dates(values: np.ndarray, where: str) -> tuple[np.ndarray, str]:
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
    return in_utc(values), "date with a time zone"
