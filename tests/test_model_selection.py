"""Splitters: no row leaks, every container and every meta-estimator gives the same."""

import datetime
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from helpers import small
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    TimeSeriesSplit,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skrec import MFRegressor
from skrec.datasets import make_ratings
from skrec.model_selection import (
    ColdStartKFold,
    LeaveLastOut,
    TemporalSplit,
    UserHoldout,
)

FRAME, Y = make_ratings(12, 15, 120, random_state=0)
TIMES = np.random.default_rng(0).permutation(len(Y))
TIMED = FRAME.assign(time=TIMES)

SPLITTERS = {
    "LeaveLastOut": lambda **params: LeaveLastOut(2, **params),
    "TemporalSplit": lambda **params: TemporalSplit(3, **params),
    "UserHoldout": lambda **params: UserHoldout(3, random_state=0, **params),
    "ColdStartKFold": lambda **params: ColdStartKFold(3, random_state=0, **params),
}
EVERY_SPLITTER = pytest.mark.parametrize("make", SPLITTERS.values(), ids=SPLITTERS)
TIMED_SPLITTERS = {n: make for n, make in SPLITTERS.items() if n != "ColdStartKFold"}
EVERY_TIMED_SPLITTER = pytest.mark.parametrize(
    "make", TIMED_SPLITTERS.values(), ids=TIMED_SPLITTERS
)


@st.composite
def ratings(draw, *, max_users=5, ties=True, min_rows=2):
    """Users, items and times of some rows."""
    n_rows = draw(st.integers(min_rows, 25))
    column = st.lists(st.integers(0, max_users), min_size=n_rows, max_size=n_rows)
    users, items, times = draw(column), draw(column), draw(column)
    if not ties:
        times = draw(st.permutations(range(n_rows)))
    return np.column_stack([users, items]), np.array(times)


def listed(splits):
    return [tuple(rows.tolist() for rows in split) for split in splits]


def rows_of_users(X, times):
    """Row numbers of each user, in the order of time."""
    rows = defaultdict(list)
    for row in sorted(range(len(X)), key=lambda row: times[row]):
        rows[X[row, 0]].append(row)
    return rows


@given(ratings(), st.integers(1, 3))
def test_leave_last_out_is_what_a_loop_over_users_gives(data, n_splits):
    X, times = data
    users = rows_of_users(X, times)
    assume(max(map(len, users.values())) > n_splits)
    expected = []
    for back in range(n_splits, 0, -1):
        train, test = [], []
        for rows in users.values():
            if len(rows) > back:
                train += rows[:-back]
                test.append(rows[-back])
            else:
                train += rows
        expected.append((sorted(train), sorted(test)))
    splits = LeaveLastOut(n_splits).split(X, timestamps=times)
    assert listed(splits) == expected


def test_the_order_of_the_rows_is_the_order_of_time_if_asked_for():
    X = [["ann", 1], ["ann", 2], ["bob", 1], ["ann", 3], ["bob", 2]]
    assert listed(LeaveLastOut(time="row_order").split(X)) == [([0, 1, 2], [3, 4])]
    assert listed(TemporalSplit(2, test_size=1, time="row_order").split(X)) == [
        ([0, 1, 2], [3]),
        ([0, 1, 2, 3], [4]),
    ]
    given = UserHoldout(2, given=1, time="row_order", random_state=0).split_given(X)
    assert sorted(part.tolist() for _, part, _ in given) == [[0], [2]]


@pytest.mark.parametrize("cv", [LeaveLastOut(), TemporalSplit(2)])
def test_no_time_is_refused(cv):
    with pytest.raises(ValueError, match=r"needs the time of each row.*'row_order'"):
        cv.split(FRAME)
    with pytest.raises(ValueError, match="needs the time of each row"):
        cross_validate(small(), FRAME, np.asarray(Y, dtype=float), cv=cv)


@EVERY_TIMED_SPLITTER
def test_a_column_that_is_named_like_the_order_of_rows_is_ambiguous(make):
    X = TIMED.rename(columns={"time": "row_order"})
    with pytest.raises(ValueError, match=r"X has a column of that name\. Rename it"):
        make(time="row_order").split(X)
    assert listed(make(time=2).split(X)) == listed(make(time="time").split(TIMED))


@given(ratings(ties=False), st.integers(2, 5), st.none() | st.integers(1, 4))
def test_temporal_split_is_time_series_split_over_time(data, n_splits, test_size):
    X, times = data
    assume(n_splits * (test_size or 1) < len(X))
    by_time = np.argsort(times)
    expected = [
        (sorted(by_time[train]), sorted(by_time[test]))
        for train, test in TimeSeriesSplit(n_splits, test_size=test_size).split(X)
    ]
    cv = TemporalSplit(n_splits, test_size=test_size)
    assert listed(cv.split(X, timestamps=times)) == expected


@given(ratings(min_rows=6), st.integers(1, 3))
def test_temporal_split_cuts_at_the_nearest_change_of_time(data, n_splits):
    X, times = data
    ordered = sorted(times)
    size = len(X) // (n_splits + 1)
    changes = [row for row in range(1, len(X)) if ordered[row] > ordered[row - 1]]
    assume(changes)
    starts = [
        min(changes, key=lambda row: abs(row - (len(X) - size * left)))
        for left in range(n_splits, 0, -1)
    ]
    assume(len(set(starts)) == n_splits)
    splits = list(TemporalSplit(n_splits).split(X, timestamps=times))
    assert [len(train) for train, _ in splits] == starts
    assert [len(test) for _, test in splits] == np.diff([*starts, len(X)]).tolist()
    for train, test in splits:
        assert times[train].max() < times[test].min()
    for (train, test), (later, _) in pairwise(splits):
        assert_array_equal(np.union1d(train, test), later)


def test_temporal_split_takes_a_share_of_the_rows():
    cv = TemporalSplit(3, test_size=0.1, time="row_order")
    sizes = [len(test) for _, test in cv.split(FRAME)]
    assert sizes == [12, 12, 12]


GIVEN = st.integers(1, 4) | st.floats(0.05, 0.95)


@given(ratings(), st.integers(2, 4), GIVEN, st.integers(0, 9), st.booleans())
def test_user_holdout_gives_some_rows_and_tests_the_rest(
    data, n_splits, given, seed, timed
):
    X, times = data
    users = rows_of_users(X, times)
    n_given = {
        user: given
        if isinstance(given, int)
        else max(1, int(given * len(rows) + 0.5))  # rounds half up
        for user, rows in users.items()
    }
    testable = {user for user, rows in users.items() if n_given[user] < len(rows)}
    assume(len(testable) >= n_splits)
    cv = UserHoldout(n_splits, given=given, random_state=seed)
    metadata = {"timestamps": times} if timed else {}
    folds = []
    for train, part, test in cv.split_given(X, **metadata):
        assert sorted([*train, *part, *test]) == list(range(len(X)))
        fold = set(X[test, 0])
        folds.append(fold)
        assert set(X[part, 0]) == fold
        assert not set(X[train, 0]) & fold
        for user in fold:
            of_user = [row for row in part if X[row, 0] == user]
            assert len(of_user) == n_given[user]
            if timed:
                assert set(of_user) == set(users[user][: n_given[user]])
    # Every user who can be tested is in one fold, and folds are of like size.
    assert sorted(user for fold in folds for user in fold) == sorted(testable)
    assert max(map(len, folds)) - min(map(len, folds)) <= 1


@pytest.mark.parametrize("time", [None, "time"])
def test_split_given_tells_apart_what_split_puts_together(time):
    cv = UserHoldout(3, random_state=0, time=time)
    together = [
        (np.union1d(train, part).tolist(), test.tolist())
        for train, part, test in cv.split_given(TIMED)
    ]
    assert together == listed(cv.split(TIMED))


def test_given_rows_update_a_fitted_model():
    y = np.asarray(Y, dtype=float)
    for train, part, test in UserHoldout(3, random_state=0).split_given(FRAME):
        model = MFRegressor(2, solver="adam", max_iter=1, random_state=0)
        model.fit(FRAME.iloc[train], y[train])
        tested = set(FRAME["user"].iloc[test])
        assert not tested & set(model.user_ids_)
        model.partial_fit(FRAME.iloc[part], y[part])
        assert tested <= set(model.user_ids_)
        assert np.isfinite(model.score(FRAME.iloc[test], y[test]))


def test_given_rows_are_drawn_from_all_rows_of_a_user():
    X = [["ann", item] for item in range(10)] + [["bob", item] for item in range(10)]
    given = {
        row
        for seed in range(20)
        for _, part, _ in UserHoldout(2, given=1, random_state=seed).split_given(X)
        for row in part
    }
    assert {row // 10 for row in given} == {0, 1}
    assert len({row % 10 for row in given}) > 5


@given(
    ratings(),
    st.integers(2, 4),
    st.sampled_from(["user", "item"]),
    st.booleans(),
)
def test_cold_start_shares_no_id_between_training_and_test(data, n_splits, by, shuffle):
    X, _ = data
    ids = X[:, ["user", "item"].index(by)]
    n_ids = len(set(ids))
    assume(n_ids >= n_splits)
    cv = ColdStartKFold(n_splits, by=by, shuffle=shuffle)
    splits = list(cv.split(X))
    for train, test in splits:
        assert not set(ids[train]) & set(ids[test])
        assert sorted([*train, *test]) == list(range(len(X)))
    assert sorted(row for _, test in splits for row in test) == list(range(len(X)))
    sizes = [len(set(ids[test])) for _, test in splits]
    assert len(sizes) == n_splits
    assert sum(sizes) == n_ids
    assert max(sizes) - min(sizes) <= 1


def test_cold_start_deals_sorted_ids_in_turn_without_shuffle():
    X = [[user, 0] for user in "dacb"]
    assert listed(ColdStartKFold(2, shuffle=False).split(X)) == [
        ([0, 3], [1, 2]),
        ([1, 2], [0, 3]),
    ]


@EVERY_SPLITTER
@settings(max_examples=20)
@given(order=st.permutations(range(len(Y))))
def test_the_order_of_the_rows_does_not_matter_where_times_differ(make, order):
    order = np.array(order)
    metadata = {"timestamps": TIMES} if make in TIMED_SPLITTERS.values() else {}
    shuffled = {name: values[order] for name, values in metadata.items()}
    expected = listed(make().split(FRAME, **metadata))
    splits = make().split(FRAME.iloc[order], **shuffled)
    back = [tuple(sorted(order[rows].tolist()) for rows in split) for split in splits]
    assert back == expected


def test_rows_of_equal_time_are_in_the_order_of_the_rows():
    X = [["ann", item] for item in range(4)]
    assert listed(LeaveLastOut().split(X, timestamps=[1, 2, 2, 1])) == [
        ([0, 1, 3], [2])
    ]
    X += [["bob", item] for item in range(4)]
    cv = UserHoldout(2, given=2, random_state=0)
    given = [part.tolist() for _, part, _ in cv.split_given(X, timestamps=[1] * 8)]
    assert sorted(given) == [[0, 1], [4, 5]]


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: UserHoldout(3, random_state=seed),
        lambda seed: ColdStartKFold(3, random_state=seed),
    ],
    ids=["UserHoldout", "ColdStartKFold"],
)
def test_random_state_means_what_it_means_in_sklearn(make):
    def splits(cv):
        return listed(cv.split(FRAME))

    cv = make(0)
    assert splits(cv) == splits(cv) == splits(make(0)) == splits(clone(cv, safe=False))
    assert splits(cv) != splits(make(1))
    drawing = make(np.random.RandomState(0))
    assert splits(drawing) == splits(cv)
    assert splits(drawing) != splits(cv)


USERS, ITEMS = FRAME["user"].to_numpy(), FRAME["item"].to_numpy()
NAMES = [f"user {user:02}" for user in USERS]
DATES = pd.Timestamp("2026-01-01") + pd.to_timedelta(TIMES, unit="h")
NAMED = TIMED.assign(user=NAMES)
DATED = NAMED.assign(time=DATES)
CONTAINERS = {
    "array": TIMED.to_numpy(),
    "array of floats": TIMED.to_numpy(dtype=float),
    "array of objects": NAMED.to_numpy(dtype=object),
    "lists": TIMED.to_numpy().tolist(),
    "tuples of a string and ints": list(zip(NAMES, ITEMS, TIMES, strict=True)),
    "tuples with a datetime": tuple(zip(NAMES, ITEMS, DATES, strict=True)),
    "pandas": TIMED,
    "pandas strings": NAMED,
    "pandas categories": NAMED.astype({"user": "category", "item": "category"}),
    "pandas Int64": TIMED.astype("Int64"),
    "pandas datetimes": DATED,
    "pandas datetimes with a zone": DATED.assign(time=DATES.tz_localize("Asia/Tokyo")),
    "pandas durations": DATED.assign(time=pd.to_timedelta(TIMES, unit="h")),
    "pandas with times as text": DATED.assign(time=DATES.astype(str)),
    "pandas with dates as objects": DATED.assign(
        time=pd.Series(
            [datetime.date(2026, 1, 1) + datetime.timedelta(int(t)) for t in TIMES],
            dtype=object,
        )
    ),
    "pandas with another index": DATED.set_index(TIMES),
    "pandas with equal names": TIMED.set_axis(["id", "id", "time"], axis=1),
    "polars": pl.from_pandas(TIMED),
    "polars datetimes": pl.from_pandas(DATED),
    "pyarrow": pa.Table.from_pandas(TIMED),
    "pyarrow datetimes": pa.Table.from_pandas(DATED),
}


@pytest.mark.parametrize("X", CONTAINERS.values(), ids=CONTAINERS)
def test_every_container_gives_the_same_splits(X):
    for make in TIMED_SPLITTERS.values():
        assert listed(make(time=2).split(X)) == listed(make(time=2).split(TIMED))
    for by in ("user", "item"):
        cv = ColdStartKFold(3, by=by, random_state=0)
        assert listed(cv.split(X)) == listed(cv.split(FRAME))


TIMESTAMPS = {
    "array": TIMES,
    "list": TIMES.tolist(),
    "list of datetimes": list(DATES),
    "floats": TIMES / 7,
    "datetime64": DATES.to_numpy(),
    "index": DATES,
    "series with another index": pd.Series(TIMES, index=TIMES),
    "polars": pl.Series(DATES),
    "pyarrow": pa.array(TIMES),
    "pyarrow in chunks": pa.chunked_array([TIMES[:50], TIMES[50:]]),
    "infinite": [np.inf if t == max(TIMES) else t for t in TIMES],
}


@EVERY_TIMED_SPLITTER
def test_times_come_as_a_column_or_as_timestamps(make):
    expected = listed(make().split(FRAME, timestamps=TIMES))
    for time in ("time", 2, -1, np.int64(2)):
        assert listed(make(time=time).split(TIMED)) == expected
    for timestamps in TIMESTAMPS.values():
        assert listed(make().split(FRAME, timestamps=timestamps)) == expected
    assert listed(make(time="row_order").split(FRAME)) != expected


def without_times(make):
    """A splitter that needs no column of times."""
    return make(time="row_order") if make in TIMED_SPLITTERS.values() else make()


@EVERY_SPLITTER
def test_meta_estimators_take_a_splitter(make):
    y, cv = np.asarray(Y, dtype=float), without_times(make)
    splits = list(cv.split(FRAME))
    result = cross_validate(small(), FRAME, y, cv=cv, return_indices=True)
    assert listed(zip(*result["indices"].values(), strict=True)) == listed(splits)
    expected = cross_validate(small(), FRAME, y, cv=splits)
    assert_array_equal(result["test_score"], expected["test_score"])
    assert cv.get_n_splits() == cv.get_n_splits(FRAME, y) == len(splits)


def test_cross_val_predict_takes_cold_start_folds():
    y = np.asarray(Y, dtype=float)
    predicted = cross_val_predict(small(), FRAME, y, cv=ColdStartKFold(3))
    assert np.isfinite(predicted).all()


def split_scores(search):
    return [search.cv_results_[f"split{k}_test_score"] for k in range(search.n_splits_)]


@EVERY_TIMED_SPLITTER
def test_grid_search_routes_timestamps(make):
    y = np.asarray(Y, dtype=float)
    grid = {"n_factors": [1, 2]}
    with config_context(enable_metadata_routing=True):
        cv = make().set_split_request(timestamps=True)
        assert cv.get_n_splits(FRAME, y, timestamps=TIMES) == cv.n_splits
        routed = GridSearchCV(small(), grid, cv=cv).fit(FRAME, y, timestamps=TIMES)
        cross_validate(small(), FRAME, y, cv=cv, params={"timestamps": TIMES})
    splits = list(make().split(FRAME, timestamps=TIMES))
    expected = GridSearchCV(small(), grid, cv=splits).fit(FRAME, y)
    assert_array_equal(split_scores(routed), split_scores(expected))


@EVERY_TIMED_SPLITTER
@pytest.mark.parametrize("routing", [False, True])
def test_grid_search_over_a_pipeline_that_drops_the_times(make, routing):
    y = np.asarray(Y, dtype=float)
    drop = FunctionTransformer(lambda X: X.drop(columns="time"))
    grid = {"mfregressor__n_factors": [1, 2]}
    with config_context(enable_metadata_routing=routing):
        search = GridSearchCV(make_pipeline(drop, small()), grid, cv=make(time="time"))
        search.fit(DATED, y)
    splits = list(make().split(FRAME, timestamps=TIMES))
    expected = GridSearchCV(small(), {"n_factors": [1, 2]}, cv=splits)
    expected.fit(NAMED[["user", "item"]], y)
    assert_array_equal(split_scores(search), split_scores(expected))
    assert search.best_estimator_[-1].n_features_in_ == 2


def test_cold_start_consumes_no_metadata():
    assert not hasattr(ColdStartKFold(), "set_split_request")


@pytest.mark.parametrize(
    ("cv", "text"),
    [
        (LeaveLastOut(), "LeaveLastOut(n_splits=1, time=None)"),
        (TemporalSplit(), "TemporalSplit(n_splits=5, test_size=None, time=None)"),
        (
            UserHoldout(given=3, time="time"),
            "UserHoldout(given=3, n_splits=5, random_state=None, time='time')",
        ),
        (
            ColdStartKFold(3, by="item"),
            "ColdStartKFold(by='item', n_splits=3, random_state=None, shuffle=True)",
        ),
    ],
)
def test_repr_names_the_parameters(cv, text):
    assert repr(cv) == repr(clone(cv, safe=False)) == text


@EVERY_SPLITTER
def test_groups_are_ignored_with_the_warning_of_kfold(make):
    expected = listed(without_times(make).split(FRAME))
    groups = np.zeros(len(Y))
    with pytest.warns(UserWarning, match="groups") as kfold:
        list(KFold().split(FRAME, groups=groups))
    with pytest.warns(UserWarning, match="groups") as warned:
        splits = without_times(make).split(FRAME, groups=groups)
    assert listed(splits) == expected
    (kfold,), (warned,) = kfold, warned
    name = type(make()).__name__
    assert str(warned.message) == str(kfold.message).replace("KFold", name)
    assert warned.filename == __file__


ROWS = [["ann", 1, 1.0], ["bob", 1, 2.0], ["ann", 2, 3.0], ["bob", 2, 4.0]]
NAIVE = datetime.datetime(2026, 1, 1)

BAD_PARAMETERS = {
    "no split": (lambda: LeaveLastOut(0), "n_splits must be an int of at least 1"),
    "half a split": (lambda: TemporalSplit(1.5), "at least 1, got 1.5"),
    "splits as a bool": (lambda: LeaveLastOut(True), "at least 1, got True"),
    "one fold of users": (lambda: UserHoldout(1), "at least 2, got 1"),
    "one cold fold": (lambda: ColdStartKFold(1), "at least 2, got 1"),
    "no given row": (lambda: UserHoldout(given=0), "given must be an int of at least"),
    "a share above 1": (lambda: UserHoldout(given=1.5), "between 0 and 1.*got 1.5"),
    "a share of 1": (lambda: UserHoldout(given=1.0), "between 0 and 1.*got 1.0"),
    "a share of text": (lambda: UserHoldout(given="all"), "given must be.*got 'all'"),
    "a share as a bool": (lambda: UserHoldout(given=True), "given must.*got True"),
    "no test row": (lambda: TemporalSplit(test_size=0), "test_size must be an int"),
    "by the day": (lambda: ColdStartKFold(by="day"), "by must be 'user' or 'item'"),
    "shuffle as an int": (lambda: ColdStartKFold(shuffle=1), "True or False, got 1"),
    "a seed for nothing": (
        lambda: ColdStartKFold(shuffle=False, random_state=0),
        "random_state=0 has no effect with shuffle=False",
    ),
    **{
        f"time of {cv.__name__}": (lambda cv=cv: cv(time=1.5), "time must be the name")
        for cv in (LeaveLastOut, TemporalSplit, UserHoldout)
    },
    "time as a bool": (lambda: LeaveLastOut(time=True), "None, got True"),
}


@pytest.mark.parametrize(
    ("make", "message"), BAD_PARAMETERS.values(), ids=BAD_PARAMETERS
)
def test_bad_parameters_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def replaced(row, column, value):
    rows = [list(r) for r in ROWS]
    rows[row][column] = value
    return rows


BAD_DATA = {
    "nothing": (LeaveLastOut(), [], {}, r"X needs a column of users.*\(0, 0\)"),
    "no rows": (LeaveLastOut(), np.empty((0, 2)), {}, "X has no rows"),
    "one column": (LeaveLastOut(), [[1], [2]], {}, r"column of items.*\(2, 1\)"),
    "one dimension": (LeaveLastOut(), np.arange(3), {}, r"got ndarray of shape \(3,\)"),
    "another length of y": (LeaveLastOut(), ROWS, {"y": [1]}, "inconsistent numbers"),
    "a user is missing": (
        UserHoldout(2),
        pd.DataFrame(replaced(2, 0, None), columns=["who", "what", "when"]),
        {},
        r"column 0 of X \(users, 'who'\) holds 1 missing id \(first rows: 2\)",
    ),
    "an item is missing": (
        ColdStartKFold(2, by="item"),
        replaced(1, 1, np.nan),
        {},
        r"column 1 of X \(items\) holds 1 missing id",
    ),
    "a time is missing in X": (
        TemporalSplit(2, time="when"),
        pl.DataFrame(replaced(3, 2, None), schema=["u", "i", "when"], orient="row"),
        {},
        r"column 2 of X \(times, 'when'\) holds 1 missing time \(first rows: 3\)",
    ),
    "a timestamp is missing": (
        LeaveLastOut(),
        ROWS,
        {"timestamps": [1, None, 3, np.nan]},
        r"timestamps holds 2 missing times \(first rows: 1, 3\)",
    ),
    "a timestamp is empty text": (
        LeaveLastOut(),
        ROWS,
        {"timestamps": ["2026-01-31", "", "2026-01-30", None]},
        r"timestamps holds 2 missing times \(first rows: 1, 3\)",
    ),
    "too few timestamps": (
        LeaveLastOut(),
        ROWS,
        {"timestamps": [1, 2, 3]},
        r"one time per row of X, shape \(4,\), got shape \(3,\)",
    ),
    "a table of timestamps": (
        LeaveLastOut(),
        ROWS,
        {"timestamps": pd.DataFrame({"t": [1, 2, 3, 4]})},
        r"one time per row of X, shape \(4,\), got shape \(4, 1\)",
    ),
    "one timestamp": (LeaveLastOut(), ROWS, {"timestamps": 5}, r"got shape \(\)"),
    "times twice": (
        TemporalSplit(2, time=2),
        ROWS,
        {"timestamps": [1, 2, 3, 4]},
        "TemporalSplit got the times twice: as time=2",
    ),
    "no such column": (
        LeaveLastOut(time="when"),
        pd.DataFrame(ROWS, columns=["who", "what", "time"]),
        {},
        r"time='when' is not among the columns of X, \['who', 'what', 'time'\]",
    ),
    "a name in an array": (LeaveLastOut(time="t"), ROWS, {}, "taken as a position"),
    "a position out of range": (LeaveLastOut(time=3), ROWS, {}, "time=3.*3 columns"),
    "a position before": (LeaveLastOut(time=-4), ROWS, {}, "time=-4.*3 columns"),
    "the time is the user": (LeaveLastOut(time=-3), ROWS, {}, "after those of users"),
    "the time is the item": (LeaveLastOut(time=1), ROWS, {}, "after those of users"),
    "every user too short": (
        LeaveLastOut(2, time="row_order"),
        ROWS,
        {},
        "at least 3 rows in its first split, but no user has more than 2",
    ),
    "too few rows": (
        TemporalSplit(4, time=2),
        ROWS,
        {},
        "of 4 rows it puts 0 in each of 4",
    ),
    "no row to train on": (
        TemporalSplit(2, test_size=0.5, time=2),
        ROWS,
        {},
        "of 4 rows it puts 2 in each of 2 test sets",
    ),
    "one time for all": (
        TemporalSplit(1),
        ROWS,
        {"timestamps": [7, 7, 7, 7]},
        "1 distinct times in 4 rows leave a test set without a row",
    ),
    "fewer times than cuts": (
        TemporalSplit(3),
        ROWS,
        {"timestamps": [6, 7, 7, 7]},
        "2 distinct times in 4 rows leave a test set without a row",
    ),
    "more folds than users": (
        UserHoldout(3),
        ROWS,
        {},
        "n_splits=3 users with a row left to test, but with given=0.5 there are 2 "
        "among 2 users",
    ),
    "all rows given": (
        UserHoldout(2, given=2),
        ROWS,
        {},
        "with given=2 there are 0 among 2 users",
    ),
    "more folds than ids": (
        ColdStartKFold(3, by="item"),
        ROWS,
        {},
        "at least n_splits=3 items, but X has 2",
    ),
}


@pytest.mark.parametrize(
    ("cv", "X", "arguments", "message"), BAD_DATA.values(), ids=BAD_DATA
)
def test_bad_data_is_named_and_counted(cv, X, arguments, message):
    with pytest.raises(ValueError, match=message):
        list(cv.split(X, **arguments))


UNSORTABLE = {
    "numbers and strings": [1, "2", 3, 4],
    "with and without a zone": [NAIVE, NAIVE.replace(tzinfo=datetime.UTC)] * 2,
    "complex objects": [{}] * 4,
}


@pytest.mark.parametrize("timestamps", UNSORTABLE.values(), ids=UNSORTABLE)
def test_times_must_be_sortable(timestamps):
    with pytest.raises(TypeError, match="timestamps must hold times of one sortable"):
        list(LeaveLastOut().split(ROWS, timestamps=timestamps))


def test_ids_must_be_of_one_kind():
    with pytest.raises(TypeError, match=r"column 0 of X \(users\) mixes ids"):
        list(LeaveLastOut(time="row_order").split(replaced(0, 0, 7)))


def test_times_in_text_are_read_as_times():
    times = [pd.Timestamp("2026-01-01") + pd.Timedelta(int(t), "D") for t in TIMES]
    expected = listed(LeaveLastOut().split(FRAME, timestamps=times))
    zoned = [f"{t:%Y-%m-%dT%H:%M:%S}+02:00" for t in times]
    for text in ([f"{t:%Y-%m-%d}" for t in times], zoned, np.array(zoned)):
        assert listed(LeaveLastOut().split(FRAME, timestamps=text)) == expected


@pytest.mark.parametrize(
    "text", [["9", "10", "11", "12"], ["31/01/2026"] * 4, [b"2026-01-31"] * 4]
)
def test_text_that_is_not_sorted_as_times_are_is_refused(text):
    X = pd.DataFrame(ROWS, columns=["user", "item", "time"]).assign(time=text)
    with pytest.raises(ValueError, match=r"column 2 of X \(times, 'time'\) holds text"):
        list(LeaveLastOut(time="time").split(X))


def test_small_integers_of_numpy_are_integers():
    n = np.int8(100)
    times = np.arange(120)
    expected = listed(TemporalSplit(100, test_size=1).split(FRAME, timestamps=times))
    cv = TemporalSplit(n, test_size=np.int8(1))
    assert listed(cv.split(FRAME, timestamps=times)) == expected
    X = np.column_stack([np.arange(200), np.zeros(200, int)])
    cv = ColdStartKFold(np.uint8(200), shuffle=False)
    assert len(listed(cv.split(X))) == 200
