"""Seen items against Python's sets of pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skrec._data.seen import SeenItems, is_in_sorted
from skrec._data.vocabulary import Growth

N_USERS, N_ITEMS = 5, 6
PAIRS = st.lists(
    st.tuples(st.integers(0, N_USERS - 1), st.integers(0, N_ITEMS - 1)), max_size=30
)


def seen_of(pairs, shape=(N_USERS, N_ITEMS)):
    """Seen items of pairs, which may repeat."""
    rows = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    return SeenItems.of_pairs(*rows.T, *shape)


def as_pairs(users, items):
    return list(zip(users.tolist(), items.tolist(), strict=True))


@given(pairs=PAIRS)
def test_pairs_are_numbered_each_once_in_order(pairs):
    seen = seen_of(pairs)
    assert len(seen) == len(set(pairs))
    assert (seen.n_users, seen.n_items) == (N_USERS, N_ITEMS)
    assert as_pairs(*seen.take(np.arange(len(seen)))) == sorted(set(pairs))
    users, items = (
        list(numbers) for numbers in np.array([*set(pairs)]).reshape(-1, 2).T
    )
    assert seen.counts.user.tolist() == [users.count(n) for n in range(N_USERS)]
    assert seen.counts.item.tolist() == [items.count(n) for n in range(N_ITEMS)]
    backwards = np.arange(len(seen))[::-1]
    assert as_pairs(*seen.take(backwards)) == sorted(set(pairs))[::-1]


@given(pairs=PAIRS, rows=st.lists(st.integers(-2, N_USERS - 1), max_size=8))
def test_pairs_of_users_are_theirs_and_unknown_users_have_none(pairs, rows):
    position, users, items = seen_of(pairs).of_users(np.array(rows, dtype=np.int64))
    found = list(zip(position.tolist(), users.tolist(), items.tolist(), strict=True))
    assert found == [
        (place, user, item)
        for place, user in enumerate(rows)
        for known, item in sorted(set(pairs))
        if known == user
    ]


@given(pairs=PAIRS, rows=st.lists(st.integers(0, N_ITEMS - 1), unique=True))
def test_pairs_of_items_are_theirs(pairs, rows):
    position, users, items = seen_of(pairs).of_items(np.array(rows, dtype=np.int64))
    found = zip(position.tolist(), users.tolist(), items.tolist(), strict=True)
    assert sorted(found) == sorted(
        (place, user, item)
        for place, item in enumerate(rows)
        for user, known in set(pairs)
        if known == item
    )


@given(pairs=PAIRS.filter(len))
def test_any_pair_is_looked_up(pairs):
    users, items = np.indices((N_USERS + 2, N_ITEMS + 2)).reshape(2, -1)
    found = seen_of(pairs).contain(users, items)
    assert found.tolist() == [pair in set(pairs) for pair in as_pairs(users, items)]


@st.composite
def growths(draw, n_known, n_all):
    """Ids of a fit, which are even numbers, and of further rows."""
    known = 2 * np.arange(n_known)
    further = draw(st.lists(st.integers(0, n_all), min_size=1, unique=True).map(sorted))
    further = np.array(further)
    rows = np.where(further < 2 * n_known, further // 2, -1)
    return Growth.of(known, further, np.where(further % 2, -1, rows))


@given(
    pairs=PAIRS,
    users=growths(N_USERS, 2 * N_USERS + 3),
    items=growths(N_ITEMS, 2 * N_ITEMS + 3),
    data=st.data(),
)
def test_further_pairs_are_added_among_all_ids(pairs, users, items, data):
    # Every id of further rows is in one of them at least.
    n_users, n_items = len(users.given), len(items.given)
    further = {(n % n_users, n % n_items) for n in range(max(n_users, n_items))}
    further |= data.draw(
        st.sets(st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items - 1)))
    )
    rows = np.array(sorted(further)).T
    given_users, given_items = users.given[rows[0]], items.given[rows[1]]
    seen = seen_of(pairs).grown(users, items, given_users, given_items)
    expected = set(as_pairs(given_users, given_items)) | {
        (users.shifted(user), items.shifted(item)) for user, item in pairs
    }
    whole = seen_of(expected, (len(users.ids), len(items.ids)))
    assert_array_equal(seen.offsets, whole.offsets)
    assert_array_equal(seen.items, whole.items)
    assert seen.items.dtype == np.int32
    assert seen.n_items == whole.n_items


@pytest.mark.parametrize("among", [[], [0], [0, 3, 7]])
def test_values_among_sorted_ones_are_found(among):
    values = np.array([7, 0, 3, 9, 1, 0])
    found = is_in_sorted(values, np.array(among, dtype=np.int64))
    assert_array_equal(found, np.isin(values, among))
