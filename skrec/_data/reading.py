"""Arguments as arrays of ids, numbers and weights, or errors that name them."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import narwhals.stable.v1 as nw
import numpy as np
import pandas as pd

from .containers import as_array, as_table
from .messages import counted, shown
from .vocabulary import DATE_KINDS, NUMBER_KINDS, Ids


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


def id_columns(X: Any, name: str) -> tuple[Ids, Ids]:
    """Users and items of rows in any container, whatever else its columns hold."""
    table = as_table(X, name)
    users, items = (
        Ids.from_column(table[:, j], f"column {j} of {name}") for j in (0, 1)
    )
    return users, items


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
