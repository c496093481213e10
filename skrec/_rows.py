"""Columns of X as an estimator reads them, and warnings of likely slips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import narwhals.stable.v1 as nw
import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from ._data.containers import as_array, object_array
from ._data.interactions import Interactions
from ._data.messages import counted, shown
from ._data.reading import Columns, as_rows
from ._data.vocabulary import Ids
from ._sklearn import check_columns
from ._warn import warn

MIN_ROWS_OF_TARGET = 10
MAX_DECIMALS = 3

# Doublings of the pairs since a fit that need no word.
FEW_DOUBLINGS = 1


def read_columns(
    estimator: BaseEstimator, X: Any, *, reset: bool, may_be_empty: bool = False
) -> Columns:
    """Columns of X in any container; `reset` keeps their number and names."""
    frame = as_rows(X, "X")
    known = None if reset else getattr(estimator, "_context", None)
    if isinstance(frame, nw.DataFrame):
        names = list(getattr(estimator, "feature_names_in_", ()))
        if reset or frame.columns != names:
            # For one row this takes longer than all else.
            check_columns(estimator, frame, reset)
        _check_shape(frame.shape, type(estimator).__name__, may_be_empty)
        return Columns.from_frame(frame, known)
    if isinstance(X, list | tuple):
        X = object_array(X)
    elif isinstance(X, np.ndarray | torch.Tensor):
        X = as_array(X)
    X = validate_data(
        estimator,
        X,
        reset=reset,
        dtype=None,
        ensure_all_finite=False,
        ensure_min_samples=int(not may_be_empty),
        ensure_min_features=2 if reset else 1,
    )
    return Columns.from_array(X, known)


def _check_shape(shape: tuple[int, int], estimator: str, may_be_empty: bool) -> None:
    """Refuse a frame as scikit-learn refuses an array that is too small."""
    if shape[0] == 0 and not may_be_empty:
        raise ValueError(
            f"Found array with 0 sample(s) (shape={shape}) while a minimum of 1 is "
            f"required by {estimator}: X has no rows."
        )
    if shape[1] < 2:
        raise ValueError(
            f"Found array with {shape[1]} feature(s) (shape={shape}) while a minimum "
            f"of 2 is required by {estimator}: X needs a column of users and a column "
            "of items."
        )


def warn_of_ids(columns: Columns, *fitted: np.ndarray, named: bool) -> None:
    """Warn of ids that look like numbers, unless the `fitted` ids do so too.

    A wide array with continuous columns only, as in scikit-learn's checks, has no other
    column of ids, and gives no warning. With two columns only, numbers of few decimals
    are ids.
    """
    n_context = columns.n_further
    if not len(columns.users):
        return
    if n_context and not named and columns.all_fractional():
        return
    for place, (side, ids) in enumerate(
        (("user", columns.users), ("item", columns.items))
    ):
        fractions = ids.fractions(0 if n_context else MAX_DECIMALS)
        if not fractions.any():
            continue
        if fitted and Ids(fitted[place], "", "").fractions().any():
            continue
        warn(
            f"{ids.where} holds {counted(fractions, 'id')} with a fractional part, "
            f"such as {shown(ids.values[fractions][0])}. It looks like a scaled column "
            f"in the place of the {side}s: column 0 of X must hold the user and column "
            "1 the item. Put other columns after them, for example at the end of the "
            "list of a ColumnTransformer.",
        )
    if not fitted and columns.are_indicators():
        warn(
            "X holds as many ones in every row, and zeros elsewhere, as indicators of "
            "users and items do. Column 0 must hold user ids and column 1 item ids: "
            "give the ids themselves, without OneHotEncoder.",
        )


def warn_of_target(
    columns: Columns, rating: np.ndarray, names: Sequence[str] | None
) -> None:
    """Warn of context columns of which the ratings are a linear function."""
    if len(rating) < MIN_ROWS_OF_TARGET or np.ptp(rating) == 0:
        return
    y = rating - rating.mean()
    for j, column in zip(columns.numeric_places, columns.features.T, strict=True):
        x = column - column.mean()
        scale = np.abs(x).max()
        if scale <= 1e-9 * np.abs(column).max():
            continue
        x = x / scale
        explained = (x @ y) ** 2 / ((x @ x) * (y @ y))
        if explained > 1 - 1e-9:
            name = "" if names is None else f" ({names[j]!r})"
            warn(
                f"y is a linear function of column {j} of X{name}. Leave it out of X, "
                "such as X[['user', 'item']], unless it is known before the rating.",
            )


def warn_of_growth(n_of_fit: int, n_before: int, n_after: int) -> None:
    """Warn, once for each doubling, of a model that has outgrown its fit."""
    before, after = (
        math.floor(math.log2(max(n / max(n_of_fit, 1), 1))) for n in (n_before, n_after)
    )
    if n_of_fit and after > max(before, FEW_DOUBLINGS):
        warn(
            f"The last fit was of {n_of_fit} pairs of user and item, and there are "
            f"{n_after} now. What partial_fit keeps, such as the number of factors and "
            "their priors, suits the few: fit all rows anew."
        )


def check_choices(data: Interactions, rating: np.ndarray, threshold: float) -> None:
    """Raise a ValueError if no rating is above the threshold of choices."""
    if not data.rating_range[1]:
        largest = data.shares.user.largest(float(rating.max(initial=-np.inf)))
        raise ValueError(
            f"choice_threshold={threshold} leaves no choices, since the largest rating "
            f"in y is {largest:g}. Lower it."
        )


def warn_of_equal_ratings(data: Interactions) -> None:
    """Warn of ratings that do not differ."""
    low, high = data.rating_range
    n_rows = data.n_rows
    if n_rows > 1 and low == high:
        warn(
            f"All {n_rows} ratings in y are {low:g}, so all items have the "
            "same prediction. If rows of X are choices, let other pairs count as not "
            "chosen: MFRegressor(solver='als', unobserved_weight=0.1) weighs all of "
            "them, and loss='log_loss' or loss='bpr' (solver='adam' or NCFRegressor) "
            "draws some.",
        )
