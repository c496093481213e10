"""Conversion of matrices of ratings to rows of user, item and rating."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

# Names of columns of a table of rows.
_SUFFIX = r"s?[ _.-]?(ids?|idx|index|codes?|names?|keys?|no|number)?"
_USER = re.compile(
    r"(user|customer|member|client|visitor|viewer|listener|reader|reviewer|rater|"
    r"person|account|subscriber)" + _SUFFIX,
    re.IGNORECASE,
)
_ITEM = re.compile(
    r"(item|movie|film|product|book|isbn|asin|song|track|artist|article|game|anime|"
    r"business|title|recipe|course)" + _SUFFIX,
    re.IGNORECASE,
)
_RATING = re.compile(
    r"(rating|score|star|value|count|play|click|view|purchase|weight|quantity|"
    r"timestamp|date|time|label|target|y)s?",
    re.IGNORECASE,
)

_LONG_FRAME = (
    "A frame with a row for each rating needs no from_matrix: X = frame[[user, item]] "
    "and y = frame[rating]."
)

# Ratings of one table share a scale; ids outgrow it.
_OUTGROWN = 10

# A user, an item, a rating and a time; and so many rows that no scale of ratings has
# another level for each.
_LONG_COLUMNS, _MANY = 4, 12


def from_matrix(
    matrix: Any, *, missing: float | None = np.nan
) -> tuple[pd.DataFrame, np.ndarray]:
    """Turn a matrix of ratings into `X` and `y`, one row for each rating.

    Parameters
    ----------
    matrix : dict of dicts, sparse matrix or array, wide frame, or 2-D array
        Users are rows and items are columns:

        - a mapping from user id to a mapping from item id to rating;
        - a scipy sparse matrix or array: every stored entry is a rating, a stored
          zero too; ids are row and column numbers;
        - a pandas DataFrame whose index holds the user ids and whose columns are the
          item ids. A frame that has a row for each rating, or users in a column, is
          refused; name the index of a wide frame that looks like one;
        - any other frame with a ``to_pandas`` method (polars, pyarrow), whose first
          column holds the user ids;
        - a 2-D array; ids are row and column numbers.
    missing : float or None, default=nan
        The number that means "no rating"; give 0 for tables that are filled up with
        zeros. NaN, None and nulls are never ratings.

    Returns
    -------
    X : DataFrame of shape (n_ratings, 2)
        Columns ``user`` and ``item``, in the ids' own dtypes. Rows are in the order of
        `matrix`: user by user, and within a user item by item.
    y : ndarray of float64 of shape (n_ratings,)
        The ratings.

    Raises
    ------
    TypeError
        If `matrix`, or its value for a user, is none of the above, or `missing` is no
        number.
    ValueError
        If ratings are not numbers, a user and item have two ratings, there are no
        ratings at all, or a frame holds a row for each rating, or users in a column
        where its index should have them.

    Examples
    --------
    >>> from skrec.datasets import from_matrix
    >>> X, y = from_matrix({"ann": {"Heat": 5, "Up": 3}, "bob": {"Up": 4}})
    >>> X
      user  item
    0  ann  Heat
    1  ann    Up
    2  bob    Up
    >>> y
    array([5., 3., 4.])
    """
    if not isinstance(missing, Real | Decimal | None):
        raise TypeError(
            "missing must be a number, such as 0 for a table that is filled up with "
            f"zeros, got {missing!r}."
        )
    # A sparse matrix of one format is a mapping, from places.
    if sparse.issparse(matrix):
        users, items, ratings = _from_sparse(matrix)
    elif isinstance(matrix, Mapping):
        users, items, ratings = _from_mapping(matrix)
    else:
        users, items, ratings = _from_dense(matrix)

    rated = ~pd.isna(ratings)
    if ratings.dtype.kind not in "biufO":
        raise ValueError(f"ratings must be numbers, got {ratings.dtype}.")
    try:
        numbers = ratings[rated].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"ratings must be numbers ({error}).") from None
    if missing is not None:
        # NumPy compares a float of Python in the precision of the entries.
        entries = ratings[rated] if ratings.dtype.kind == "f" else numbers
        with np.errstate(over="ignore"):
            rated[rated] = entries != float(missing)
    if not rated.any():
        raise ValueError(f"matrix holds no rating among its {len(ratings)} entries.")
    X = pd.DataFrame({"user": users[rated], "item": items[rated]})
    repeated = X.duplicated()
    if repeated.any():
        user, item = next(X[repeated].itertuples(index=False))
        raise ValueError(
            f"matrix holds two ratings of user {user!r} for item {item!r}."
        )
    return X, ratings[rated].astype(np.float64)


def _from_mapping(matrix: Mapping) -> tuple[pd.Index, pd.Index, np.ndarray]:
    for user, row in matrix.items():
        if not isinstance(row, Mapping):
            raise TypeError(
                f"matrix[{user!r}] must be a mapping from item to rating, got "
                f"{type(row).__name__}."
            )
    users = [user for user, row in matrix.items() for _ in row]
    items = [item for row in matrix.values() for item in row]
    ratings = (rating for row in matrix.values() for rating in row.values())
    return pd.Index(users), pd.Index(items), np.fromiter(ratings, object)


def _from_sparse(matrix: Any) -> tuple[pd.Index, pd.Index, np.ndarray]:
    if matrix.ndim != 2:
        raise TypeError(f"matrix must have 2 dimensions, got {matrix.ndim}.")
    entries = matrix.tocoo()
    order = np.lexsort((entries.col, entries.row))
    users, items = entries.row[order], entries.col[order]
    return pd.Index(users), pd.Index(items), entries.data[order]


def _from_dense(matrix: Any) -> tuple[pd.Index, pd.Index, np.ndarray]:
    given = type(matrix).__name__
    if isinstance(matrix, np.ndarray) and matrix.ndim == 2:
        matrix = pd.DataFrame(matrix)
    elif not isinstance(matrix, pd.DataFrame) and hasattr(matrix, "to_pandas"):
        matrix = matrix.to_pandas()
        matrix = matrix.set_index(matrix.columns[0])
    if not isinstance(matrix, pd.DataFrame):
        shape = f" of shape {matrix.shape}" if hasattr(matrix, "shape") else ""
        raise TypeError(
            "matrix must be a dict of dicts, a scipy sparse matrix, a frame or a 2-D "
            f"array, got {given}{shape}."
        )
    _check_is_wide(matrix)
    # A mask first, because a wide frame is mostly empty.
    row, column = np.nonzero(matrix.notna().to_numpy())
    return (
        matrix.index.take(row),
        matrix.columns.take(column),
        matrix.to_numpy()[row, column],
    )


def _check_is_wide(frame: pd.DataFrame) -> None:
    """Refuse a frame that has a row for each rating, or users in one of its columns."""
    columns = [str(name) for name in frame.columns]
    names = columns if frame.index.name is None else [str(frame.index.name), *columns]
    users, items, ratings = (
        [name for name in names if kind.fullmatch(name)]
        for kind in (_USER, _ITEM, _RATING)
    )
    if items and (users or ratings):
        raise ValueError(
            f"matrix has the columns {columns[:5]} and thus a row for each rating, not "
            f"one for each user. {_LONG_FRAME}"
        )
    suspect = [name for name in users if name in columns]
    counts_rows = frame.index.name is None and frame.index.dtype.kind in "iu"
    if counts_rows and not suspect:
        suspect = _outgrown(frame)
        if len(suspect) > 1:
            raise ValueError(
                f"matrix has values in its columns {suspect} that are no ratings as "
                "those of the others are, and seems to have a row for each rating, not "
                f"one for each user. {_LONG_FRAME} A table of users by items is taken "
                "if its index has a name: matrix.rename_axis('user')."
            )
    if suspect:
        raise ValueError(
            f"matrix seems to have users in its column {suspect[0]!r}, where ratings "
            f"are expected. Use matrix.set_index({suspect[0]!r}); if that column is an "
            "item, name the index: matrix.rename_axis('user')."
        )
    if not frame.index.is_unique:
        twice = frame.index[frame.index.duplicated()].tolist()[0]
        raise ValueError(
            f"matrix has several rows for user {twice!r}; each user needs one row. "
            f"{_LONG_FRAME}"
        )


def _outgrown(frame: pd.DataFrame) -> list:
    """Columns that hold ids rather than ratings, by their values.

    Such a column is text; or complete and of whole numbers, which are beyond the scale
    of the others, or as many as there are rows.
    """
    if min(frame.shape) < 2:
        return []
    text = [
        name
        for name, column in frame.items()
        if pd.api.types.infer_dtype(column, skipna=True) in ("string", "bytes")
    ]
    if text:
        return text
    try:
        values = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        return []
    whole = np.array([(column == np.trunc(column)).all() for column in values.T])
    whole &= np.isfinite(values).all(axis=0)
    distinct = np.array([len(np.unique(column)) == len(column) for column in values.T])
    largest = np.where(np.isfinite(values), np.abs(values), 0).max(axis=0)
    few = len(largest) <= _LONG_COLUMNS
    beyond = largest > _OUTGROWN * max(largest.min() if few else np.median(largest), 1)
    suspect = whole & distinct & (beyond | (len(values) >= _MANY))
    if few:
        suspect |= whole & beyond & (values != 0).all(axis=0)
        if len(largest) > 2 and len(values) >= _MANY and whole[:3].all():
            # No pair of user and item twice, and fewer ratings than either.
            pairs, levels = (
                [len(np.unique(part, axis=0)) for part in parts]
                for parts in ([values[:, :2]], values.T[:3])
            )
            if pairs == [len(values)] and levels[0] + levels[1] > 4 * levels[2]:
                suspect[:2] = True
    elif suspect.sum() > 1:
        # Counts, such as those of plays, have no scale in common.
        return []
    return list(frame.columns[suspect])
