"""Tables and columns of any container as those of narwhals and as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import narwhals.stable.v1 as nw
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import sparse

# Arguments in any container, such as lists, arrays, tensors and frames.
ArrayLike: TypeAlias = npt.ArrayLike | Sequence[Any]
# Side features: a table, a matrix, or a function that returns one of them.
TableLike: TypeAlias = ArrayLike | sparse.sparray | sparse.spmatrix | Callable[[], Any]

INDEX_OF_PANDAS = "__index_level_0__"


def as_array(values: Any) -> np.ndarray:
    """Values of any container as an array; masked values are None.

    Datetimes of a time zone are pandas Timestamps in UTC, since NumPy has no zones.
    """
    if type(values) is np.ndarray and values.dtype.isnative:
        return values
    series = values
    if not isinstance(values, nw.Series):
        series = nw.from_native(values, series_only=True, pass_through=True)
    if isinstance(series, nw.Series):
        if isinstance(series.dtype, nw.Int128 | nw.String):
            # NumPy has no integers that long, and its strings of a fixed width lose
            # NULs at their ends.
            return np.array(series.to_list(), dtype=object)
        values = series.to_numpy()
        if getattr(series.dtype, "time_zone", None) is not None:
            values = in_utc(values)
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


def is_empty(values: Any) -> bool:
    """Whether a container holds no rows, of any width."""
    if hasattr(values, "shape"):
        return values.shape[:1] == (0,)
    return hasattr(values, "__len__") and len(values) == 0


def as_coded_array(values: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Categories of a categorical column of pandas, and the code of each row.

    Anything else is an array of all its values, without codes.
    """
    native = values.to_native() if isinstance(values, nw.Series) else values
    if not isinstance(getattr(native, "dtype", None), pd.CategoricalDtype):
        return as_array(values), None
    column = pd.Categorical(native)
    return as_array(np.asarray(column.categories)), column.codes


def without_index(table: nw.DataFrame) -> nw.DataFrame:
    """A table without the index that pyarrow keeps of a pandas frame as a column."""
    return table.drop(INDEX_OF_PANDAS) if INDEX_OF_PANDAS in table.columns else table


def as_frame(X: Any) -> Any:
    """A table or structured array as a table of narwhals; anything else as it is.

    Columns of pandas have numbers for names where two names are equal.
    """
    if isinstance(X, np.ndarray) and X.dtype.names:
        X = pd.DataFrame(X)
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


def object_array(rows: list | tuple) -> np.ndarray:
    """Rows as an object array, or as NumPy sees them where they are ragged."""
    try:
        # Without the dtype a row ("ann", 7) becomes two strings.
        return np.array(rows, dtype=object)
    except ValueError:
        return np.array(rows)


def in_utc(dates: np.ndarray) -> np.ndarray:
    """Timestamps in UTC, of aware datetimes or of datetimes that are in UTC."""
    return pd.to_datetime(dates, utc=True).astype(object).to_numpy()
