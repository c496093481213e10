"""From a matrix of ratings, in its many shapes, to rows of user, item and rating."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse


def from_matrix(
    matrix: Any, *, missing: float = np.nan
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
          item ids;
        - any other frame with a ``to_pandas`` method (polars, pyarrow), whose first
          column holds the user ids;
        - a 2-D array; ids are row and column numbers.
    missing : float, default=nan
        The value that means "no rating"; give 0 for tables that are filled up with
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
        If `matrix`, or what it holds for a user, is none of the above.
    ValueError
        If ratings are not numbers, a user and item have two ratings, or there are no
        ratings at all.

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
    if isinstance(matrix, Mapping):
        users, items, ratings = _from_mapping(matrix)
    elif sparse.issparse(matrix):
        users, items, ratings = _from_sparse(matrix)
    else:
        users, items, ratings = _from_dense(matrix)

    rated = ~pd.isna(ratings)
    if ratings.dtype.kind not in "biufO":
        raise ValueError(f"ratings must be numbers, got {ratings.dtype}.")
    try:
        rated[rated] = ratings[rated].astype(np.float64) != missing
    except (TypeError, ValueError) as error:
        raise ValueError(f"ratings must be numbers ({error}).") from None
    if not rated.any():
        raise ValueError(f"matrix holds no rating among its {len(ratings)} entries.")
    X = pd.DataFrame({"user": users[rated], "item": items[rated]})
    repeated = X.duplicated()
    if repeated.any():
        user, item = X[repeated].iloc[0]
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
    if isinstance(matrix, np.ndarray) and matrix.ndim == 2:
        matrix = pd.DataFrame(matrix)
    elif not isinstance(matrix, pd.DataFrame) and hasattr(matrix, "to_pandas"):
        matrix = matrix.to_pandas()
        matrix = matrix.set_index(matrix.columns[0])
    if not isinstance(matrix, pd.DataFrame):
        shape = f" of shape {matrix.shape}" if hasattr(matrix, "shape") else ""
        raise TypeError(
            "matrix must be a dict of dicts, a scipy sparse matrix, a frame or a 2-D "
            f"array, got {type(matrix).__name__}{shape}."
        )
    # A mask first, because a wide frame is mostly empty: only what is rated is
    # gathered.
    row, column = np.nonzero(matrix.notna().to_numpy())
    return (
        matrix.index.take(row),
        matrix.columns.take(column),
        matrix.to_numpy()[row, column],
    )
