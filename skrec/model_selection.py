"""Splitters of ratings into training and test sets, each for a question of its own.

All follow scikit-learn's protocol, so any `cv=` takes them. Column 0 of X is the user
and column 1 the item, as raw ids, in every container that the estimators take.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Literal

import narwhals.stable.v1 as nw
import numpy as np
import pandas as pd
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import check_consistent_length, check_random_state

from ._data.containers import as_array, object_array
from ._data.messages import counted
from ._data.reading import check_int, describe_column, read_id_column, read_table
from ._data.sides import check_side
from ._data.times import read_times
from ._warn import warn

__all__ = ["ColdStartKFold", "LeaveLastOut", "TemporalSplit", "UserHoldout"]

ROW_ORDER = "row_order"


class _Splitter(BaseCrossValidator):
    """Base of the splitters: their number of splits, and a reader of X."""

    n_splits: int

    def get_n_splits(
        self,
        X: Any = None,
        y: Any = None,
        groups: Any = None,
        timestamps: Any = None,
    ) -> int:
        """Number of splits.

        Parameters
        ----------
        X, y, groups, timestamps : object
            Ignored, exist for API compatibility.

        Returns
        -------
        n_splits : int
        """
        return self.n_splits

    def _read(self, X: Any, y: Any, groups: Any) -> nw.DataFrame:
        """X as a table, with a check of the other arguments."""
        if groups is not None:
            warn(f"The groups parameter is ignored by {type(self).__name__}")
        table = read_table(X, "X")
        check_consistent_length(X, y)
        return table


class _TimeSplitter(_Splitter):
    """Base of the splitters that order rows by time."""

    time: str | int | None
    needs_time = True

    def split(
        self, X: Any, y: Any = None, groups: Any = None, timestamps: Any = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Row numbers of the training set and of the test set, split by split.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2 + n_features)
            Column 0 holds the user, column 1 the item.
        y : array-like of shape (n_samples,), default=None
            Only its length is checked.
        groups : object, default=None
            Ignored with a warning, exists for API compatibility.
        timestamps : array-like of shape (n_samples,), default=None
            The time of each row, where `time` is None: numbers, datetimes, or anything
            else that can be sorted. Meta-estimators pass it on under metadata routing,
            after ``set_split_request(timestamps=True)``.

        Yields
        ------
        train : ndarray of shape (n_train,), dtype int64
            Sorted row numbers of the training set.
        test : ndarray of shape (n_test,), dtype int64
            Sorted row numbers of the test set.

        Raises
        ------
        ValueError
            If an id or a time is missing, if the column of `time` is not there, if
            times are given twice or not one per row, if none are given where they are
            needed, or if the rows do not suffice for `n_splits`.
        TypeError
            If ids or times are not of one sortable kind.
        """
        table = self._read(X, y, groups)
        return _row_numbers(self._masks(table, self._times(table, timestamps)))

    def _times(self, table: nw.DataFrame, timestamps: Any) -> np.ndarray | None:
        """Number of each row's time, in sorted order; None without times."""
        if self.time is None:
            if timestamps is not None:
                return _time_numbers(_array(timestamps, len(table)), "timestamps")
            if self.needs_time:
                raise ValueError(
                    f"{type(self).__name__} needs the time of each row: name the "
                    "column of X that holds it, such as time='timestamp', or pass "
                    "timestamps to split. If rows are in the order of time, say so by "
                    f"time={ROW_ORDER!r}."
                )
            return None
        if timestamps is not None:
            raise ValueError(
                f"{type(self).__name__} got the times twice: as time={self.time!r} and "
                "as timestamps. Pass one of them."
            )
        if self.time == ROW_ORDER:
            if ROW_ORDER in table.columns:
                raise ValueError(
                    f"time={ROW_ORDER!r} is the order of the rows, and X has a column "
                    "of that name. Rename it, or give its position."
                )
            return np.arange(len(table))
        j = _position(table, self.time)
        where = describe_column(j, "X", table.columns[j], "times")
        return _time_numbers(as_array(table[:, j]), where)

    @abstractmethod
    def _masks(
        self, table: nw.DataFrame, time: np.ndarray | None
    ) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """Masks of the training set and of the test set, split by split."""


class LeaveLastOut(_TimeSplitter):
    """Test the last rating of every user.

    Measures how well the next rating of each known user is predicted.

    With `n_splits` above 1 the splits walk back in time: the last split tests the last
    row of each user, the one before it the last but one, and so on; a split trains on
    the rows that come before the tested one. A user with too few rows to leave one for
    training is not tested in that split: all rows of that user are in its training set.

    Training sets hold later rows of other users; use :class:`TemporalSplit` for a
    future that the model has not seen, and :class:`ColdStartKFold` for new users.

    Parameters
    ----------
    n_splits : int, default=1
        Number of splits, at least 1.
    time : str or int, default=None
        Name or position of the column of X that holds the time of each row, for a
        pipeline to drop before the estimator. None takes the `timestamps` of `split`.
        "row_order" means that rows are in the order of time. Rows of equal time are in
        the order of the rows.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> from skrec.model_selection import LeaveLastOut
    >>> X = [["ann", "Heat"], ["bob", "Heat"], ["ann", "Alien"], ["ann", "Up"]]
    >>> for train, test in LeaveLastOut(n_splits=2, time="row_order").split(X):
    ...     print(train, test)
    [0 1] [2]
    [0 1 2] [3]
    """

    def __init__(self, n_splits: int = 1, *, time: str | int | None = None):
        check_int(n_splits, "n_splits", 1)
        _check_time(time)
        self.n_splits = n_splits
        self.time = time

    def _masks(
        self, table: nw.DataFrame, time: np.ndarray | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        user = read_id_column(table, 0).numbered()[0]
        assert time is not None
        turn, count = _turns(user, time)
        n_splits = int(self.n_splits)
        if count.max() <= n_splits:
            raise ValueError(
                f"LeaveLastOut(n_splits={self.n_splits}) tests users with at least "
                f"{n_splits + 1} rows in its first split, but no user has more "
                f"than {count.max()}."
            )
        # Rows that a user has after the tested one.
        for later in reversed(range(n_splits)):
            too_few = count < later + 2
            tested = count - 1 - later
            yield too_few | (turn < tested), ~too_few & (turn == tested)


class TemporalSplit(_TimeSplitter):
    """Train on all ratings before a point in time and test those that follow.

    Measures how well a model of today predicts later ratings, those of new users and of
    new items among them.

    As in :class:`~sklearn.model_selection.TimeSeriesSplit`, a test set ends where the
    next begins, the last one ends with the last row, and every training set holds all
    that came before. Rows need not be sorted. Rows of equal time are never cut apart:
    each cut moves to the nearest change of time, and test sets differ in size by as
    much.

    Users without a row after the cut are not tested; use :class:`LeaveLastOut` to test
    every known user.

    Parameters
    ----------
    n_splits : int, default=5
        Number of splits, at least 1.
    test_size : int or float, default=None
        Rows of each test set: a number, or a share of all rows between 0 and 1. None
        is ``n_samples // (n_splits + 1)``.
    time : str or int, default=None
        Name or position of the column of X that holds the time of each row, for a
        pipeline to drop before the estimator. None takes the `timestamps` of `split`.
        "row_order" means that rows are in the order of time.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> from skrec.model_selection import TemporalSplit
    >>> X = [["ann", "Heat", 2024], ["bob", "Up", 2026], ["bob", "Heat", 2025],
    ...      ["ann", "Alien", 2025]]
    >>> for train, test in TemporalSplit(n_splits=2, time=2).split(X):
    ...     print(train, test)
    [0] [2 3]
    [0 2 3] [1]
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        test_size: float | None = None,
        time: str | int | None = None,
    ):
        check_int(n_splits, "n_splits", 1)
        if test_size is not None:
            _check_size(test_size, "test_size")
        _check_time(time)
        self.n_splits = n_splits
        self.test_size = test_size
        self.time = time

    def _masks(
        self, table: nw.DataFrame, time: np.ndarray | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        n_rows, n_splits = len(table), int(self.n_splits)
        size = n_rows // (n_splits + 1)
        if self.test_size is not None:
            size = _n_rows(self.test_size, n_rows)
        if not 0 < n_splits * size < n_rows:
            raise ValueError(
                f"{self!r} needs at least one row in each test set and one to train "
                f"on, but of {n_rows} rows it puts {size} in each of {n_splits} test "
                "sets."
            )
        assert time is not None
        edges = np.cumsum(np.bincount(time))[:-1]
        wanted = n_rows - size * np.arange(n_splits, 0, -1)
        nearest = np.searchsorted((edges[1:] + edges[:-1]) / 2, wanted)
        cuts = [*(nearest + 1), len(edges) + 1]
        if not np.diff(cuts).all():
            raise ValueError(
                f"{self!r} never cuts rows of equal time apart, and {len(edges) + 1} "
                f"distinct times in {n_rows} rows leave a test set without a row. Use "
                "fewer splits, larger test sets or finer times."
            )
        for start, stop in pairwise(cuts):
            yield time < start, (start <= time) & (time < stop)


class UserHoldout(_TimeSplitter):
    """Test users of whom only some ratings are given.

    Measures the predictions for users with few ratings.

    Users are dealt into `n_splits` folds. Of each user of the fold, `given` rows stay
    in the training set and the other rows are the test set; all rows of all other users
    are in the training set. Users who would have no row left to test are dealt into no
    fold: their rows are always in the training set.

    Use :class:`ColdStartKFold` for users without ratings. Training sets hold later rows
    of other users; use :class:`TemporalSplit` for the future.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    given : int or float, default=0.5
        Rows of each tested user that stay in the training set: a number, or a share of
        the user's rows between 0 and 1, rounded half up. At least one row stays.
    random_state : int, RandomState instance or None, default=None
        Deals the users and, without times, draws the given rows. Pass an int for the
        same splits at every call.
    time : str or int, default=None
        Name or position of the column of X that holds the time of each row, for a
        pipeline to drop before the estimator: the given rows are then the earliest of
        their user. None takes the `timestamps` of `split`; without them the given rows
        are drawn at random. "row_order" means that rows are in the order of time.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> from skrec.model_selection import UserHoldout
    >>> X = [["ann", "Heat"], ["bob", "Heat"], ["ann", "Up"], ["bob", "Up"]]
    >>> cv = UserHoldout(n_splits=2, given=1, random_state=0)
    >>> for train, test in cv.split(X, timestamps=[2024, 2026, 2025, 2025]):
    ...     print(train, test)
    [0 2 3] [1]
    [0 1 3] [2]
    """

    needs_time = False

    def __init__(
        self,
        n_splits: int = 5,
        *,
        given: float = 0.5,
        random_state: int | np.random.RandomState | None = None,
        time: str | int | None = None,
    ):
        check_int(n_splits, "n_splits", 2)
        _check_size(given, "given")
        _check_time(time)
        self.n_splits = n_splits
        self.given = given
        self.random_state = random_state
        self.time = time

    def split_given(
        self, X: Any, y: Any = None, groups: Any = None, timestamps: Any = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Row numbers to fit, to update with, and to test, split by split.

        For models that learn about users after `fit`: ``fit`` on `train`,
        ``partial_fit`` on `given`, ``score`` on `test`. The splits are those of
        `split`, whose training sets are `train` and `given` together.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2 + n_features)
            Column 0 holds the user, column 1 the item.
        y : array-like of shape (n_samples,), default=None
            Only its length is checked.
        groups : object, default=None
            Ignored with a warning, exists for API compatibility.
        timestamps : array-like of shape (n_samples,), default=None
            The time of each row, where `time` is None.

        Yields
        ------
        train : ndarray of shape (n_train,), dtype int64
            Sorted row numbers of the users who are not tested.
        given : ndarray of shape (n_given,), dtype int64
            Sorted row numbers of the given rows of the tested users.
        test : ndarray of shape (n_test,), dtype int64
            Sorted row numbers of the test set.

        Raises
        ------
        ValueError
            As in `split`.
        TypeError
            As in `split`.
        """
        table = self._read(X, y, groups)
        return _row_numbers(self._folds(table, self._times(table, timestamps)))

    def _masks(
        self, table: nw.DataFrame, time: np.ndarray | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for train, given, test in self._folds(table, time):
            yield train | given, test

    def _folds(
        self, table: nw.DataFrame, time: np.ndarray | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Masks of rows that train, are given and test, split by split."""
        user = read_id_column(table, 0).numbered()[0]
        rng = check_random_state(self.random_state)
        turn, count = _turns(user, rng.permutation(len(user)) if time is None else time)
        left = turn >= np.maximum(1, _n_rows(self.given, count))
        tested = np.bincount(user, weights=left) > 0
        if tested.sum() < self.n_splits:
            raise ValueError(
                f"UserHoldout needs at least n_splits={self.n_splits} users with a row "
                f"left to test, but with given={self.given} there are {tested.sum()} "
                f"among {len(tested)} users."
            )
        folds = np.full(len(tested), -1)
        folds[tested] = rng.permutation(np.arange(tested.sum()) % int(self.n_splits))
        fold = folds[user]
        for k in range(int(self.n_splits)):
            yield fold != k, (fold == k) & ~left, (fold == k) & left


class ColdStartKFold(_Splitter):
    """Test users, or items, of which no rating is in the training set.

    Measures the predictions for new users, or for new items.

    Ids are dealt into `n_splits` folds of as many ids, give or take one, and all rows
    of the ids of a fold are its test set. Every row is tested once.

    A model without features of users (items) gives the same answer for all new ones, so
    this compares no personal rankings.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    by : {"user", "item"}, default="user"
        Whose ids are dealt.
    shuffle : bool, default=True
        Deal the ids in random order; otherwise in sorted order, in turn.
    random_state : int, RandomState instance or None, default=None
        Used with ``shuffle=True``. Pass an int for the same splits at every call.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or `random_state` is set without `shuffle`.

    Examples
    --------
    >>> from skrec.model_selection import ColdStartKFold
    >>> X = [["ann", "Heat"], ["bob", "Heat"], ["ann", "Up"], ["bob", "Alien"]]
    >>> for train, test in ColdStartKFold(n_splits=2, shuffle=False).split(X):
    ...     print(train, test)
    [1 3] [0 2]
    [0 2] [1 3]
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        by: Literal["user", "item"] = "user",
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
    ):
        check_int(n_splits, "n_splits", 2)
        check_side(by, "by")
        if not isinstance(shuffle, bool):
            raise ValueError(f"shuffle must be True or False, got {shuffle!r}.")
        if not shuffle and random_state is not None:
            raise ValueError(
                f"random_state={random_state!r} has no effect with shuffle=False; "
                "leave it at None, or set shuffle=True."
            )
        self.n_splits = n_splits
        self.by = by
        self.shuffle = shuffle
        self.random_state = random_state

    def split(
        self, X: Any, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Row numbers of the training set and of the test set, split by split.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2 + n_features)
            Column 0 holds the user, column 1 the item.
        y : array-like of shape (n_samples,), default=None
            Only its length is checked.
        groups : object, default=None
            Ignored with a warning, exists for API compatibility.

        Yields
        ------
        train : ndarray of shape (n_train,), dtype int64
            Sorted row numbers of the training set.
        test : ndarray of shape (n_test,), dtype int64
            Sorted row numbers of the test set.

        Raises
        ------
        ValueError
            If an id is missing, or there are fewer ids than folds.
        TypeError
            If ids are not of one sortable kind.
        """
        return _row_numbers(self._masks(self._read(X, y, groups)))

    def _masks(self, table: nw.DataFrame) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        side = ("user", "item").index(self.by)
        number, ids = read_id_column(table, side).numbered()
        n_ids = len(ids)
        if n_ids < self.n_splits:
            raise ValueError(
                f"ColdStartKFold needs at least n_splits={self.n_splits} {self.by}s, "
                f"but X has {n_ids}."
            )
        folds = np.arange(n_ids) % int(self.n_splits)
        if self.shuffle:
            folds = check_random_state(self.random_state).permutation(folds)
        fold = folds[number]
        for k in range(int(self.n_splits)):
            yield fold != k, fold == k


def _check_size(size: Any, name: str) -> None:
    if isinstance(size, Integral) and not isinstance(size, bool):
        is_valid = int(size) >= 1
    else:
        is_valid = isinstance(size, Real) and 0 < float(size) < 1
    if not is_valid:
        raise ValueError(
            f"{name} must be an int of at least 1, a number of rows, or a float "
            f"between 0 and 1, a share of them, got {size!r}."
        )


def _check_time(time: Any) -> None:
    if isinstance(time, bool) or not isinstance(time, str | Integral | None):
        raise ValueError(
            "time must be the name or the position of a column of X, "
            f"{ROW_ORDER!r}, or None, got {time!r}."
        )


def _n_rows(size: float, n_rows: Any) -> Any:
    """Number of rows of a `size`, a number or a share of `n_rows`."""
    if isinstance(size, Integral):
        return int(size)
    return np.floor(size * n_rows + 0.5).astype(np.int64)


def _position(table: nw.DataFrame, time: str | int) -> int:
    """Position of the column that `time` names."""
    n_columns = table.shape[1]
    if isinstance(time, str):
        if time not in table.columns:
            raise ValueError(
                f"time={time!r} is not among the columns of X, {table.columns}. An "
                "int is taken as a position."
            )
        time = table.columns.index(time)
    if not -n_columns <= time < n_columns or time % n_columns < 2:
        raise ValueError(
            f"time={time!r} must be the position of a column of X after those of users "
            f"and items, but X has {n_columns} columns."
        )
    return range(n_columns)[time]


def _array(timestamps: Any, n_rows: int) -> np.ndarray:
    """Timestamps as an array of one per row."""
    listed = isinstance(timestamps, list | tuple)
    values = object_array(timestamps) if listed else as_array(timestamps)
    if values.shape != (n_rows,):
        raise ValueError(
            f"timestamps must hold one time per row of X, shape ({n_rows},), got "
            f"shape {values.shape}."
        )
    return values


def _time_numbers(values: np.ndarray, where: str) -> np.ndarray:
    """Number of each row's time among the distinct times, in sorted order."""
    if pd.api.types.infer_dtype(values, skipna=True) in ("string", "bytes"):
        values = read_times(values, where).tz_localize(None).to_numpy()
    missing = pd.isna(values)
    if missing.any():
        raise ValueError(
            f"{where} holds {counted(missing, 'missing time')} (None, NaN or NaT); "
            "every row needs a time."
        )
    try:
        # factorize(sort=True) would silently put numbers before strings.
        number, distinct = pd.factorize(pd.Series(values).infer_objects())
        order = distinct.argsort()
    except TypeError as error:
        raise TypeError(
            f"{where} must hold times of one sortable kind, such as numbers or "
            f"datetimes: {error}."
        ) from error
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[number]


def _turns(user: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's place in time among the rows of its user, and the number of these.

    Rows of equal time are in the order of the rows.
    """
    count = np.bincount(user)
    # One key sorts twice as fast as a lexsort of two.
    order = np.argsort(user * np.int64(len(user)) + time, kind="stable")
    turn = np.empty(len(user), dtype=np.int64)
    turn[order] = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    return turn, count[user]


def _row_numbers(
    splits: Iterable[tuple[np.ndarray, ...]],
) -> Iterator[Any]:
    """Masks of rows as sorted row numbers."""
    return (tuple(map(np.flatnonzero, masks)) for masks in splits)
