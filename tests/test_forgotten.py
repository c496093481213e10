"""Rows and ids to forget, among numbered pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skrec._data.forgotten import ForgottenRows
from skrec._data.interactions import Interactions
from skrec._data.reading import Columns
from skrec._data.seen import SeenItems
from skrec._data.sides import Sides

PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1)


@given(pairs=PAIRS, data=st.data())
def test_pairs_that_are_left_are_those_of_loops(pairs, data):
    pairs = sorted(set(pairs))
    rows = data.draw(st.lists(st.sampled_from(pairs)))
    users = data.draw(st.sets(st.integers(0, 5)))
    items = data.draw(st.sets(st.integers(0, 7)))
    seen = SeenItems.of_pairs(*np.array(pairs).T, 6, 8)
    ids = Sides(*(np.array(sorted(side), dtype=np.int64) for side in (users, items)))
    forgotten = ForgottenRows(None, ids.user[:0], ids.item[:0], ids, seen)
    if rows:
        columns = Columns.from_array(np.array(rows))
        read = Interactions.from_columns(columns, np.ones(len(rows)), None)
        forgotten = ForgottenRows(read, read.user_ids, read.item_ids, ids, seen)
    left = [
        (user, item)
        for user, item in pairs
        if user not in users and item not in items and (user, item) not in rows
    ]
    assert list(zip(*forgotten.left, strict=True)) == left
    for place, (n, named) in enumerate(((6, users), (8, items))):
        had, has = ({pair[place] for pair in some} for some in (pairs, left))
        kept = [number for number in range(n) if number in has or number not in had]
        assert_array_equal(forgotten.kept[place], sorted(set(kept) - named))
    after = forgotten.seen_after
    assert (after.n_users, after.n_items) == tuple(map(len, forgotten.kept))
    found = after.take(np.arange(len(after)))
    assert_array_equal(forgotten.kept.user[found[0]], forgotten.left[0])
    assert_array_equal(forgotten.kept.item[found[1]], forgotten.left[1])


@pytest.mark.parametrize("dtype", [np.int64])
def test_nothing_left_is_no_pair(dtype):
    seen = SeenItems.of_pairs(np.array([0, 0]), np.array([0, 1]), 1, 2)
    ids = Sides(np.array([0], dtype), np.array([], dtype))
    forgotten = ForgottenRows(None, ids.item, ids.item, ids, seen)
    assert len(forgotten.left[0]) == len(forgotten.seen_after) == 0
