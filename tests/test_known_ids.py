"""Known ids and their row numbers, and ids that are unknown."""

import datetime
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from skrec._data.known_ids import KnownIds, handle_unknown, take_ids
from skrec._data.vocabulary import Ids

NAMES = np.array(["ann", "bob", "cleo"], dtype=object)
AGES = pd.DataFrame({"age": [20.0, 30, 40, 50, 60]}, index=[*"abcde"])


def ids_of(values):
    return Ids.from_column(np.array(values), "column 0 of X")


def described():
    """Users a, b and c with ratings, and an age of each and of d and e."""
    known = KnownIds("user", np.array([*"abc"], dtype=object))
    return known.with_features(AGES, 9)


def test_known_ids_have_row_numbers_and_others_none():
    known = KnownIds("user", NAMES)
    assert len(known) == 3
    rows, features = known.rows(ids_of(["cleo", "eve", "ann", "cleo"]))
    assert_array_equal(rows, [2, -1, 0, 2])
    assert features is None
    assert_array_equal(known.known_rows(["bob", "ann"]), [1, 0])
    with pytest.raises(ValueError, match=r"users must be known, but 2 of 3 .*'eve', "):
        known.known_rows(["eve", "ann", "zoe"])


def test_features_become_a_matrix_of_the_known_ids():
    known, features = described()
    age = AGES["age"].to_numpy()
    assert features.names == known.feature_names == ["age"]
    expected = (age[:3] - age[:3].mean()) / age[:3].std()
    assert_array_equal(features.matrix.toarray()[:, 0].round(9), expected.round(9))


@pytest.mark.parametrize("order", [1, -1])
def test_many_ids_are_found_in_a_small_table_in_any_order(order):
    known, _ = described()
    asked = [*(f"x{number}" for number in range(500)), "d", "e"][::order]
    rows, features = known.rows(ids_of(asked))
    assert_array_equal(np.flatnonzero(rows < -1), [[500, 501], [0, 1]][order < 0])
    of_d = rows[asked.index("d")]
    assert features.toarray()[-2 - of_d, 0] == pytest.approx(
        20 / AGES["age"][:3].std(ddof=0)
    )


def test_named_ids_have_rows_or_features():
    known, _ = described()
    rows, ids = known.named_rows(["d", "c", "a", "d"])
    assert_array_equal(rows, [2, 0])
    assert_array_equal(ids, [*"acd"])
    with pytest.raises(ValueError, match=r"users must be known, but 1 of 2 .*'z'"):
        known.named_rows(["z", "e"])
    without = known.without(ids, np.array([1]))
    assert_array_equal(without.ids, ["b"])
    assert_array_equal(without.described.ids, ["e"])


def test_ids_without_ratings_are_numbered_by_their_features():
    known, _ = described()
    rows, features = known.rows(ids_of([*"dbzed"]))
    unit = AGES["age"][:3].std(ddof=0)
    assert rows[1] == 1
    assert rows[2] == -1
    for place, age in ((0, 50), (3, 60), (4, 50)):
        found = features.toarray()[-2 - rows[place], 0]
        assert found == pytest.approx((age - 30) / unit)
    assert rows[0] == rows[4]
    given = pd.DataFrame({"age": [10.0]}, index=["z"])
    rows, features = known.rows(ids_of(["z"]), given)
    assert_array_equal(rows, [-2])
    assert features.toarray()[0, 0] == pytest.approx(-20 / unit)


def test_features_that_fit_was_not_given_are_refused():
    with pytest.raises(ValueError, match="item_features were not given to fit"):
        KnownIds("item", NAMES).check_features(AGES)


@pytest.mark.parametrize(
    ("fitted", "given", "dtype"),
    [
        (np.array([1, 2, 3]), np.array([2.0, 7.0]), np.int64),
        (np.array([1, 2, 3]), np.array([2.0, 7.5]), np.float64),
        (np.array([1, 2, 3], dtype=np.int8), np.array([2, 700]), np.int64),
        (np.array(["a", "b"]), np.array(["a", "b"], dtype=object), "U1"),
        (
            np.array(["2024-01-01", "2024-01-02"], dtype="M8[ns]"),
            np.array([datetime.date(2024, 1, 2)], dtype=object),
            "M8[ns]",
        ),
    ],
)
def test_ids_come_back_in_the_dtype_of_the_fit_if_it_holds_them(fitted, given, dtype):
    known = KnownIds("user", fitted)
    rows, _ = known.rows(ids_of(given))
    found = known.like_fitted(given, rows)
    assert found.dtype == np.dtype(dtype)
    assert [str(value) for value in found[rows >= 0]] == [
        str(found.dtype.type(fitted[row])) if dtype == np.float64 else str(fitted[row])
        for row in rows[rows >= 0]
    ]


@pytest.mark.parametrize(
    ("ids", "dtype", "missing"),
    [
        (np.array([1, 2]), object, None),
        (np.array([0.5, 2]), np.float64, np.nan),
        (np.array(["a", "b"]), object, None),
        (np.array(["2024-01-01", "2024-01-02"], "M8[D]"), "M8[D]", "NaT"),
        (np.array([1, 2], "m8[s]"), "m8[s]", "NaT"),
    ],
)
def test_empty_places_hold_the_missing_value_of_their_dtype(ids, dtype, missing):
    places = np.array([[1, -1], [0, 1]])
    taken = take_ids(ids, places)
    assert taken.dtype == np.dtype(dtype)
    assert_array_equal(pd.isna(taken), places < 0)
    assert str(taken[0, 1]) == str(missing)
    assert_array_equal(taken[places >= 0], ids[places[places >= 0]])
    assert take_ids(ids, places[1]).dtype == ids.dtype


def test_unknown_ids_are_ignored_warned_of_or_refused():
    users, items = ids_of(["x", "y", "z"]), ids_of([7, 8, 9])
    found = {
        "users": (users, np.array([0, -1, -1])),
        "items": (items, np.array([-1, 1, -2])),
    }
    message = (
        "unknown users in 2 of 3 rows, such as 'y' and unknown items in 1 of 3 rows, "
        "such as 7"
    )
    with pytest.raises(ValueError, match=f"Found {message}; .* refuses them"):
        handle_unknown("error", found)
    with pytest.warns(UserWarning, match=f"Found {message}; they are answered"):
        handle_unknown("warn", found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handle_unknown("ignore", found)
        handle_unknown("error", {"users": (users, np.array([0, 1, -2]))})
