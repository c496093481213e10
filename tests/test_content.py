"""Places of users and items by their choices."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skrec._choice.content import places_by_content
from skrec._data.seen import SeenItems


def seen_of(pairs, shape):
    users, items = np.array(sorted(pairs)).T
    return SeenItems.of_pairs(users, items, *shape)


def some_pairs(rng, n_users, n_items, share):
    """Pairs in which every user and every item occurs."""
    chosen = rng.random((n_users, n_items)) < share
    chosen[np.arange(n_users), rng.integers(n_items, size=n_users)] = True
    chosen[rng.integers(n_users, size=n_items), np.arange(n_items)] = True
    return np.argwhere(chosen)


@given(
    seed=st.integers(0, 10**6),
    n_users=st.integers(1, 30),
    n_items=st.integers(1, 20),
    share=st.sampled_from([0.05, 0.3, 0.9]),
)
def test_places_follow_the_content_and_not_the_numbers(seed, n_users, n_items, share):
    rng = np.random.default_rng(seed)
    pairs, shape = some_pairs(rng, n_users, n_items, share), (n_users, n_items)
    users, items = rng.permutation(n_users), rng.permutation(n_items)
    renamed = np.column_stack([users[pairs[:, 0]], items[pairs[:, 1]]])
    places = places_by_content(seen_of(pairs.tolist(), shape))
    moved = places_by_content(seen_of(renamed.tolist(), shape))
    for side, (place, other, names) in enumerate(
        zip(places, moved, (users, items), strict=True)
    ):
        assert_array_equal(np.sort(place), np.arange(shape[side]))
        counts = np.bincount(pairs[:, side], minlength=shape[side])
        assert (np.diff(counts[np.argsort(place)]) >= 0).all()
        # Rows may change places with those of equal content alone.
        swapped = np.flatnonzero(place != other[names])
        content = [neighbourhood(pairs, side, row) for row in range(shape[side])]
        at = np.argsort(place)
        for row in swapped:
            assert content[row] == content[at[other[names][row]]]


def neighbourhood(pairs, side, row):
    """Numbers of choices of the counterparts of a row, and of theirs, sorted."""
    counts = np.bincount(pairs[:, 1])
    by_user = {
        user: sorted(counts[pairs[pairs[:, 0] == user, 1]].tolist())
        for user in np.unique(pairs[:, 0])
    }
    by_item = {
        item: sorted(by_user[user] for user in pairs[pairs[:, 1] == item, 0])
        for item in np.unique(pairs[:, 1])
    }
    if side:
        return by_item[row]
    return sorted(by_item[item] for item in pairs[pairs[:, 0] == row, 1])
