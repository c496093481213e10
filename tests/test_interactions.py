"""Canonical rows: what was rated and how often counts, how it was written does not."""

import datetime
import decimal
import uuid
from dataclasses import fields

import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import rated_rows, small
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skrec._data.interactions import Interactions, sorting_order
from skrec._data.reading import Columns

# Random ratings may all be equal.
pytestmark = pytest.mark.filterwarnings("ignore:All .* ratings in y are")

INT64 = np.iinfo(np.int64)


def canonical(X, rating, weight=None):
    return Interactions.from_columns(Columns.from_array(X), rating, weight)


def assert_same(first, second):
    for field in fields(Interactions):
        if field.name in ("side_features", "shares", "known_context", "precision"):
            continue
        one, other = getattr(first, field.name), getattr(second, field.name)
        assert one.dtype == other.dtype, field.name
        assert_array_equal(one, other, err_msg=field.name)


def as_written(data):
    """The rows of canonical data as tuples, with their weights."""
    rows = zip(
        data.user_ids[data.users],
        data.item_ids[data.items],
        data.rating,
        *data.context.T,
        strict=True,
    )
    return dict(zip(rows, data.weight, strict=True))


RATINGS = given(rows=rated_rows())
QUICK = settings(max_examples=60)


@RATINGS
@QUICK
def test_canonical_rows_are_the_distinct_rows_with_their_weights_summed(rows):
    X, rating, weight = rows
    expected = {}
    for (user, item, *features), y, w in zip(X, rating, weight, strict=True):
        if w > 0:
            row = (user, item, y, *features)
            expected[row] = expected.get(row, 0) + w
    data = canonical(*rows)
    assert as_written(data) == expected
    assert len(data.rating) == len(expected)
    assert data.shape == (len({row[0] for row in expected}), len(data.item_ids))
    pairs = list(zip(data.users.tolist(), data.items.tolist(), strict=True))
    assert pairs == sorted(pairs)


@given(rows=rated_rows(), seed=st.integers(0, 2**32 - 1), fraction=st.booleans())
@QUICK
def test_the_order_of_rows_does_not_matter(rows, seed, fraction):
    X, rating, weight = rows
    if fraction:
        weight = weight * 0.1
    order = np.random.default_rng(seed).permutation(len(X))
    assert_same(
        canonical(X[order], rating[order], weight[order]), canonical(X, rating, weight)
    )


@RATINGS
@QUICK
def test_a_whole_weight_is_the_row_so_many_times(rows):
    X, rating, weight = rows
    times = weight.astype(int)
    assert_same(
        canonical(np.repeat(X, times, axis=0), np.repeat(rating, times)),
        canonical(X, rating, weight),
    )


@RATINGS
@QUICK
def test_a_row_without_weight_vanishes_with_the_ids_that_only_it_holds(rows):
    X, rating, weight = rows
    lonely = np.full((1, X.shape[1]), 99)
    data = canonical(
        np.vstack([lonely, X, lonely + 1]), np.r_[5.0, rating, 5.0], np.r_[0, weight, 0]
    )
    assert_same(data, canonical(X, rating, weight))
    assert 99 not in data.user_ids
    assert 100 not in data.item_ids


def test_two_ratings_of_one_pair_stay_two_rows():
    data = canonical(np.array([[1, 2], [1, 2], [1, 2]]), np.array([5.0, 3.0, 5.0]))
    assert as_written(data) == {(1, 2, 3.0): 1.0, (1, 2, 5.0): 2.0}


def test_one_rating_with_two_features_stays_two_rows():
    data = canonical(np.array([[1, 2, 0.5], [1, 2, 0.0]]), np.array([5.0, 5.0]))
    assert as_written(data) == {(1, 2, 5.0, 0.0): 1.0, (1, 2, 5.0, 0.5): 1.0}


FEW = settings(max_examples=12)


@given(rows=rated_rows())
@FEW
def test_each_row_is_predicted_for_itself(rows):
    X, rating, weight = rows
    model = small().fit(X, rating, weight)
    alone = [model.predict(X[[row]]).item() for row in range(len(X))]
    assert_allclose(alone, model.predict(X), rtol=1e-7, atol=1e-7)


@given(
    rows=rated_rows(max_features=0),
    names=st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True),
)
@FEW
def test_the_names_of_columns_do_not_matter(rows, names):
    X, rating, weight = rows
    frame = pd.DataFrame(X.astype(np.int64), columns=names)
    expected = small().fit(X, rating, weight).predict(X)
    assert_array_equal(small().fit(frame, rating, weight).predict(frame), expected)


@given(seed=st.integers(0, 2**32 - 1))
@FEW
def test_ids_that_sort_in_another_order_give_the_same_predictions(seed):
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.integers(0, 12, 150), rng.integers(0, 9, 150)])
    rating = X[:, 0] % 4 + (X[:, 0] % 3) * (X[:, 1] % 3) + rng.normal(size=150)
    users, items = rng.permutation(12), rng.permutation(9)
    relabelled = np.column_stack([users[X[:, 0]], items[X[:, 1]]])
    expected = small().fit(X, rating).predict(X)
    found = small().fit(relabelled, rating).predict(relabelled)
    assert_allclose(found, expected, atol=1e-3 * rating.std())


@given(
    ids=st.lists(st.integers(INT64.min, INT64.max), min_size=4, max_size=4, unique=True)
)
@FEW
def test_ids_may_be_any_int64_negative_and_beyond_float_precision(ids):
    close = [*ids, *(i - 1 for i in ids if i > INT64.min and i - 1 not in ids)]
    X = np.array([(user, item) for user in close for item in close])
    rating = np.arange(len(X), dtype=float)
    model = small().fit(X, rating)
    assert model.user_ids_.tolist() == sorted(close)
    ranks = np.searchsorted(np.sort(close), X)
    assert_array_equal(model.predict(X), small().fit(ranks, rating).predict(ranks))
    assert_array_equal(model.predict(X.tolist()), model.predict(X))


def test_the_empty_string_is_an_id():
    X = [("", "Heat"), ("ann", ""), ("ann", "Heat")]
    model = small().fit(X, [1.0, 4.0, 5.0])
    assert model.user_ids_.tolist() == ["", "ann"]
    assert model.item_ids_.tolist() == ["", "Heat"]
    known, unknown = model.predict([("", "Heat"), ("bob", "Heat")])
    assert known != unknown
    assert model.recommend([""], 1).tolist() == [[""]]


@pytest.mark.parametrize(
    ("fitted", "unknown"),
    [
        ([1, 2], 3),
        ([1.5, 2.5], 2.0),
        (["ann", "bob"], "eve"),
        ([uuid.UUID(int=1), uuid.UUID(int=2)], uuid.UUID(int=3)),
        ([decimal.Decimal("0.1"), decimal.Decimal(2)], decimal.Decimal("0.2")),
        (
            [datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)],
            datetime.date(2026, 1, 3),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("solver", ["vb", "gibbs", "als"])
def test_an_unknown_user_is_predicted_alike_whatever_the_id(fitted, unknown, solver):
    X = [(user, item) for user in fitted for item in (0, 1, 2)]
    rating = np.array([1.0, 2.0, 5.0, 1.0, 3.0, 5.0])
    model = small(solver=solver, max_iter=2, random_state=0).fit(X, rating)
    cold = model.predict([(unknown, item) for item in (0, 1, 2, 3)])
    assert np.isfinite(cold).all()
    assert cold[0] < cold[1] < cold[2]
    assert model.recommend([unknown], 3).tolist() == [[2, 1, 0]]
    assert model.user_ids_.tolist() == fitted


def test_integers_of_128_bits_are_ids():
    column = pl.Series("user", [2**70, 3, 2**70], dtype=pl.Int128)
    frame = pl.DataFrame({"user": column, "item": [1, 2, 3]})
    model = small().fit(frame, [1.0, 2.0, 3.0])
    assert list(model.user_ids_) == [3, 2**70]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize(("n_rows", "n_numbers"), [(0, 3), (1, 1), (50, 7), (999, 400)])
def test_rows_are_sorted_by_counting(n_rows, n_numbers, dtype):
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, n_numbers, n_rows).astype(dtype)
    expected = np.argsort(numbers, kind="stable")
    assert_array_equal(sorting_order(numbers, n_numbers), expected)


@given(seed=st.integers(0, 99), n_context=st.integers(0, 2))
@settings(max_examples=30)
def test_merged_rows_are_means_of_a_pair_and_context(seed, n_context):
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 30)
    X = rng.integers(3, size=(n, 2 + n_context))
    y, weight = rng.integers(4, size=n) / 3, rng.integers(1, 4, size=n) / 2
    data = canonical(X, y, weight)
    merged, variance = data.merged()
    frame = pd.DataFrame(X).assign(w=weight, wy=weight * y)
    keys = list(range(2 + n_context))
    expected = frame.groupby(keys, as_index=False).sum()
    found = pd.DataFrame(
        {
            0: merged.user_ids[merged.users],
            1: merged.item_ids[merged.items],
            **{2 + j: column for j, column in enumerate(merged.context.T)},
            "w": merged.weight,
            "wy": merged.weight * merged.rating,
        }
    ).astype(expected.dtypes)
    found = found.sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(found, expected)
    mean = frame.groupby(keys)["wy"].transform("sum")
    mean /= frame.groupby(keys)["w"].transform("sum")
    scatter = np.average((y - mean) ** 2, weights=weight)
    assert variance == pytest.approx(scatter, abs=1e-12)
