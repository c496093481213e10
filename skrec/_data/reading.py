"""Arguments as arrays of ids, numbers and weights, or errors that name them.

Estimators, metrics, splitters and side features read all that they are given by these
functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MappingView, Set
from dataclasses import dataclass, replace
from numbers import Integral, Real
from os import PathLike
from typing import Any

import narwhals.stable.v1 as nw
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from sklearn.utils import column_or_1d

from .containers import as_array, as_frame
from .context import NO_CONTEXT, KnownContext, number_values, read_values
from .messages import counted, shown
from .vocabulary import DATE_KINDS, NUMBER_KINDS, Ids

MAX_RATING, MIN_RATING = 1e30, 1e-100

# Of the largest weight. Smaller ones have no effect, and their reciprocals overflow.
LEAST_WEIGHT = 1e-30

SCALED = "Give ratings in another unit, such as y / np.abs(y).max()."

# Advice where numbers are missing: of ratings and others that cannot be made up, of
# weights, and of further columns of X.
LEAVE_OUT = " Leave these rows out."
NO_WEIGHT = " Leave these rows out, or give them a weight of 0."
FILL = " Leave these rows out, or fill in numbers, such as the median."

# Indicators are the input of factorisation machines.
SPARSE_ROWS = (
    "Sparse data was passed for {name}, but column 0 must hold user ids and column 1 "
    "item ids. Indicators of users and items are ids once more by "
    "np.column_stack([{name}[:, :n_users].argmax(axis=1), "
    "{name}[:, n_users:].argmax(axis=1)]); a matrix of ratings, users by items, "
    "becomes rows by skrec.datasets.from_matrix."
)


@dataclass(frozen=True)
class Columns:
    """The columns of X: raw ids of users and items, numbers and values of rows.

    Attributes
    ----------
    users, items : Ids
        One id per row.
    features : ndarray of shape (n_samples, n_numeric_columns), dtype float64
    values : tuple of Ids
        Further columns of values (see `context`).
    known : KnownContext
        The further columns; those of `fit`, where there was one, with its values.
    """

    users: Ids
    items: Ids
    features: np.ndarray
    values: tuple[Ids, ...] = ()
    known: KnownContext = NO_CONTEXT

    @classmethod
    def from_frame(
        cls, frame: nw.DataFrame, known: KnownContext | None = None
    ) -> Columns:
        """Columns of a pandas, polars or pyarrow table, each in its own dtype."""
        return cls.from_columns(list(frame.iter_columns()), frame.columns, known)

    @classmethod
    def from_array(cls, X: np.ndarray, known: KnownContext | None = None) -> Columns:
        """Columns of a two-dimensional array."""
        return cls.from_columns(list(X.T), list(range(X.shape[1])), known)

    @classmethod
    def from_columns(
        cls, columns: list[Any], names: list[Any], known: KnownContext | None = None
    ) -> Columns:
        """Columns as arrays or series, with names for messages.

        `known` are the further columns of `fit`; None is those of a fit to come.
        """
        users, items = (
            Ids.from_column(columns[j], describe_column(j, "X", names[j], noun))
            for j, noun in enumerate(("users", "items"))
        )
        has_values = (NO_CONTEXT if known is None else known).is_category
        refused = context_refused if known is None else as_in_fit_refused
        numbers: list[np.ndarray] = []
        values: list[Ids] = []
        vocabularies: list[np.ndarray | None] = []
        for j in range(2, len(columns)):
            where = describe_column(j, "X", names[j])
            if has_values(j - 2, columns[j]):
                values.append(read_values(columns[j], where))
                vocabularies.append(values[-1].distinct[:0])
            else:
                numbers.append(
                    as_numbers(columns[j], where, "row", refused=refused, advice=FILL)
                )
                vocabularies.append(None)
        features = np.empty((len(users), len(numbers)))
        for place, column in enumerate(numbers):
            features[:, place] = column
        if known is None:
            known = KnownContext(tuple(names[2:]), tuple(vocabularies))
        return cls(users, items, features, tuple(values), known)

    @property
    def n_further(self) -> int:
        """Number of the columns after users and items."""
        return self.features.shape[1] + len(self.values)

    @property
    def numeric_places(self) -> list[int]:
        """Places in X of the columns of numbers."""
        if not self.known.values:
            return list(range(2, 2 + self.n_further))
        return [j for j, values in enumerate(self.known.values, 2) if values is None]

    @property
    def context(self) -> np.ndarray:
        """Numbers and values as a model has them (see `KnownContext`)."""
        if not self.values:
            return self.known.select(self.features)
        return self.known.select(np.column_stack([self.features, *self._codes]))

    @property
    def _codes(self) -> list[np.ndarray]:
        """The numbers of values among those of `fit`, of each column of values."""
        known = (values for values in self.known.values if values is not None)
        return list(map(number_values, self.values, known))

    def found(
        self, users: np.ndarray, items: np.ndarray
    ) -> dict[str, tuple[Ids, np.ndarray]]:
        """Ids and values of all rows with their numbers, by noun."""
        found = {"users": (self.users, users), "items": (self.items, items)}
        pairs = zip(self.known.names, self.known.values, strict=True)
        names = [name for name, values in pairs if values is not None]
        for name, values, numbers in zip(names, self.values, self._codes, strict=True):
            found[f"values of {name!r}"] = values, numbers
        return found

    def with_own_values(self) -> Columns:
        """The same columns, where values are new to the fit, with a number for each."""
        vocabularies = self.known.vocabularies
        if not vocabularies or any(map(len, vocabularies)):
            return self
        own = [column.numbered()[1] for column in self.values]
        return replace(self, known=self.known.with_values(own))

    def all_fractional(self) -> bool:
        """Whether every column holds numbers with a fractional part."""
        ids = self.users.fractions().any() and self.items.fractions().any()
        fractions = (self.features != np.trunc(self.features)).any(0).all()
        return bool(ids and fractions and not self.values)

    def are_indicators(self) -> bool:
        """Whether 4 columns or more hold 0 and 1 alone, as many ones in every row."""
        columns = (self.users, self.items, *self.values)
        if self.n_further < 2 or not all(column.are_indicators() for column in columns):
            return False
        ones = self.features == 1
        n_ones = ones.sum(axis=1) + sum(column.values == 1 for column in columns)
        alike = n_ones[0] > 1 and (n_ones == n_ones[0]).all()
        return bool(alike and (ones | (self.features == 0)).all())


def describe_column(j: int, table: str, name: Any = None, noun: str = "") -> str:
    """A column of a table for messages; numbers are not names."""
    described = [noun] * bool(noun) + [repr(name)] * isinstance(name, str)
    return f"column {j} of {table}" + f" ({', '.join(described)})" * bool(described)


def as_rows(X: Any, name: str) -> Any:
    """Rows as a table of narwhals, or as they are where they are no table.

    Containers that hold no rows, or not as rows, are refused with the way to pass them.
    """
    kind = type(X).__name__
    if sparse.issparse(X):
        raise TypeError(SPARSE_ROWS.format(name=name))
    if isinstance(X, Mapping):
        raise TypeError(
            f"{name} is a {kind} of columns, and rows are read of tables and arrays: "
            f"pass pandas.DataFrame({name})."
        )
    frame = as_frame(X)
    if isinstance(frame, nw.DataFrame):
        return frame
    if hasattr(X, "collect"):
        raise TypeError(
            f"{name} is a {kind}, which holds no rows yet: pass {name}.collect()."
        )
    if isinstance(X, pd.MultiIndex):
        raise TypeError(
            f"{name} is an index of user and item, not a table: pass "
            f"{name}.to_frame(index=False)."
        )
    first = X[0] if isinstance(X, list | tuple) and X else X
    of_arrow = type(first).__module__.startswith("pyarrow.")
    if of_arrow or isinstance(X, str | PathLike | Iterator | MappingView | Set):
        raise TypeError(
            f"{name} is a {kind}, which has to be read first: list({name}) reads rows, "
            "pandas.read_csv a file of text, and X, y = "
            "skrec.datasets.from_arrow(source) Parquet files and batches of Arrow."
        )
    return frame


def read_table(X: Any, name: str) -> nw.DataFrame:
    """Rows in any container as a table of users, items and further columns."""
    table = as_rows(X, name)
    if not isinstance(table, nw.DataFrame):
        # np.asarray would turn a row ("ann", 7) into two strings; pandas does not.
        rows = list(X) if isinstance(X, list | tuple) else as_array(X)
        if isinstance(rows, np.ndarray) and rows.ndim != 2:
            raise ValueError(
                f"{name} must be an array-like of shape (n_samples, 2 + n_features), "
                f"got {type(X).__name__} of shape {rows.shape}."
            )
        try:
            frame = pd.DataFrame(rows)
        except UnicodeEncodeError:
            # It has no strings with lone surrogates, which the reader of ids names.
            frame = pd.DataFrame(rows, dtype=object)
        table = as_frame(frame)
    if table.shape[1] < 2:
        raise ValueError(
            f"{name} needs a column of users and a column of items, got shape "
            f"{table.shape}."
        )
    if table.shape[0] == 0:
        raise ValueError(f"{name} has no rows; at least one is required.")
    return table


def read_pairs(X: Any, name: str) -> tuple[Ids, Ids]:
    """Users and items of rows in any container, whatever else its columns hold."""
    table = read_table(X, name)
    users, items = (
        Ids.from_column(table[:, j], describe_column(j, name)) for j in (0, 1)
    )
    return users, items


def read_id_column(table: nw.DataFrame, j: int) -> Ids:
    """Users (column 0) or items (column 1) of X."""
    where = describe_column(j, "X", table.columns[j], ("users", "items")[j])
    return Ids.from_column(table[:, j], where)


def read_ids(values: Any, name: str) -> Ids:
    """Ids of a one-dimensional container."""
    if isinstance(values, torch.Tensor):
        # pandas takes a tensor for a scalar.
        values = as_array(values)
    if isinstance(values, dict) or pd.api.types.is_scalar(values):
        raise ValueError(
            f"{name} must be a one-dimensional array-like of ids, such as ['ann'] for "
            f"the id 'ann', got the single value {shown(values)}."
        )
    if isinstance(values, list | tuple):
        array = np.empty(len(values), dtype=object)
        array[:] = values
    else:
        array = as_array(values)
    if array.ndim != 1:
        raise ValueError(
            f"{name} must be a one-dimensional array-like of ids, such as a list or a "
            f"column of a frame, got {type(values).__name__} of shape {array.shape}."
        )
    return Ids.from_column(array, name)


def read_ratings(y: Any, n_rows: int) -> np.ndarray:
    """One finite rating per row of X."""
    _check_is_dense(y, "y", "ratings")
    values = as_array(y)
    if values.ndim == 0:
        raise TypeError(
            f"y must hold one rating per row of X, got a single {type(y).__name__}, "
            f"{shown(y)}."
        )
    if len(values) != n_rows:
        raise ValueError(
            f"X and y must have as many rows, but X has {n_rows} and y has "
            f"{len(values)} (inconsistent numbers of samples)."
        )
    rating = as_numbers(column_or_1d(values, warn=True), "y", "rating")
    largest = np.abs(rating).max(initial=0)
    if largest > MAX_RATING:
        raise ValueError(
            f"y holds a rating of magnitude {largest:.3g}; ratings must be within "
            f"±{MAX_RATING:.0e}, which single precision can represent. {SCALED}"
        )
    return rating


def check_scale(rating: np.ndarray) -> None:
    """Refuse ratings of a fit, whose unit they set, if all are tiny."""
    largest = np.abs(rating).max(initial=0)
    if 0 < largest < MIN_RATING:
        raise ValueError(
            f"y holds no rating of a magnitude above {largest:.3g}; the largest must "
            f"be at least {MIN_RATING:.0e}, so that variances are in range. {SCALED}"
        )


def read_numbers(values: Any, name: str, n_rows: int) -> np.ndarray:
    """One finite number per row, from one dimension or from a single column."""
    _check_is_dense(values, name, "numbers")
    values = as_array(values)
    if values.ndim != 1 and values.shape != (n_rows, 1):
        raise ValueError(f"{name} must be one-dimensional, got shape {values.shape}.")
    if len(values) != n_rows:
        raise ValueError(
            f"{name} must hold one number per row, but there are {n_rows} rows and "
            f"{name} holds {len(values)}."
        )
    return as_numbers(values.ravel(), name, "row")


def read_weights(
    sample_weight: Any, n_rows: int, rows: str = "X", *, may_be_zero: bool = False
) -> np.ndarray:
    """One weight per row of `rows`, some of them positive; all are 1 for None."""
    if sample_weight is None:
        # One number in memory.
        return np.broadcast_to(1.0, n_rows)
    _check_is_dense(sample_weight, "sample_weight", "weights")
    name, noun = "sample_weight", "weight"
    weight = as_numbers(sample_weight, name, noun, advice=NO_WEIGHT)
    if weight.ndim == 0:
        weight = np.full(n_rows, weight)
    if weight.shape != (n_rows,):
        raise ValueError(
            f"sample_weight has shape {weight.shape}, but {rows} has {n_rows} rows; it "
            "must hold one weight per row."
        )
    if (weight < 0).any():
        raise ValueError(
            "Negative values in data passed to `sample_weight`: "
            f"{counted(weight < 0, 'weight')}; weights must be at least 0."
        )
    if not (weight.any() or may_be_zero):
        raise ValueError(
            "sample_weight is zero in all rows; at least one must be positive."
        )
    with np.errstate(over="ignore"):
        total = weight.sum()
    if not np.isfinite(total):
        raise ValueError(
            "sample_weight adds up to infinity. A common factor of all weights changes "
            "nothing: pass sample_weight / sample_weight.max()."
        )
    least = LEAST_WEIGHT * weight.max(initial=0)
    is_tiny = (weight > 0) & (weight < least)
    return np.where(is_tiny, least, weight) if is_tiny.any() else weight


def _check_is_dense(values: Any, name: str, noun: str) -> None:
    if sparse.issparse(values):
        raise TypeError(
            f"{name} is a sparse matrix; it must be a dense array of {noun}."
        )


def check_int(value: Any, name: str, least: int) -> None:
    """Refuse a parameter that is no int, or less than `least`."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name} must be an int of at least {least}, got {value!r}.")


def check_number(value: Any, name: str, least: float, most: float = np.inf) -> None:
    """Refuse a parameter that is no number from `least` to `most`."""
    if not isinstance(value, Real) or not least <= float(value) <= most:
        limits = f"from {least} to {most}" if most < np.inf else f"of at least {least}"
        raise ValueError(f"{name} must be a number {limits}, got {value!r}.")


def refused_values(kind: str, found: str) -> str:
    """The end of an error about values that are no numbers."""
    how = ""
    if kind == "string":
        how = " Convert them to numbers, such as by pd.to_numeric(values)."
    return f"must be numeric, but holds {found}.{how}"


def as_in_fit_refused(kind: str, found: str) -> str:
    """The end of an error about a further column of X that held numbers in a fit."""
    return (
        f"must be numeric, as in fit, but holds {found}. Convert it to numbers as in "
        "fit, such as by pd.to_numeric(column)."
    )


def as_numbers(
    values: Any,
    where: str,
    noun: str,
    *,
    may_be_missing: bool = False,
    refused: Callable[[str, str], str] = refused_values,
    advice: str = LEAVE_OUT,
) -> np.ndarray:
    """Finite float64 numbers, or an error that counts the others.

    With `may_be_missing`, NaN stands for missing numbers. `refused` makes the end of an
    error of the kind of other values and their description; `advice` ends one of
    missing numbers.
    """
    values = as_array(values)
    if values.dtype.kind in "OUSmMc":
        kind = pd.api.types.infer_dtype(values, skipna=True)
        if kind not in (*NUMBER_KINDS, "decimal", "empty"):
            wrong = next((v for v in values.flat if not _is_number(v)), values.flat[0])
            found = f"values of kind {kind!r}, such as {shown(wrong)}"
            raise ValueError(f"{where} {refused(kind, found)}")
        numbers = pd.to_numeric(pd.Series(values.ravel()), errors="coerce")
        numbers = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
        values = numbers.reshape(values.shape)
    values = values.astype(np.float64, copy=False)
    wrong = np.isinf(values) if may_be_missing else ~np.isfinite(values)
    if wrong.any():
        raise ValueError(
            f"{where} must hold finite numbers, but is missing, NaN or infinite for "
            f"{counted(wrong, noun)}.{'' if may_be_missing else advice}"
        )
    return values


def context_refused(kind: str, found: str) -> str:
    """The end of an error about a further column of X that has no place in a fit."""
    users_and_items = "Column 0 of X holds the user, column 1 the item"
    if kind in (*DATE_KINDS, "period"):
        dates = "dates" if kind != "period" else "dates.dt.to_timestamp()"
        return (
            f"holds dates: {found}. {users_and_items}, and others categories or "
            "numbers: make categories such as month and hour of this one, by "
            f"skrec.preprocessing.DatetimeBins on {dates}, or numbers such as days "
            "since the first date, (dates - dates.min()).dt.days, which go on as a "
            "straight line after the last date; or leave it out."
        )
    how = "strings, column.astype(str), whose values become categories"
    if kind.startswith("timedelta"):
        how = "seconds, durations.dt.total_seconds()"
    return (
        f"must be numeric, or strings, categories or bools, but holds {found}. "
        f"{users_and_items}: leave this one out, or give it as {how}."
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) or pd.isna(value)
