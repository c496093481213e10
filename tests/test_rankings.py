"""Ranks of rows per user, against loops."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skrec.metrics._rankings import Rankings, gains_of, ranks_of, weight_of_users

ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 3)), min_size=1
).map(lambda rows: np.array(rows).T)


@given(ROWS)
def test_ranks_are_places_in_the_order_of_scores(rows):
    users, scores, _ = rows
    ranks = ranks_of(users, scores)
    for user in np.unique(users):
        own = users == user
        assert sorted(ranks[own]) == list(range(1, own.sum() + 1))
        assert (np.diff(scores[own][np.argsort(ranks[own])]) <= 0).all()


def test_ties_are_in_no_order_of_rows():
    users = np.repeat(np.arange(500), 10)
    ranks = ranks_of(users, np.zeros(5000)).reshape(500, 10)
    assert_allclose(ranks.mean(axis=0), 5.5, atol=0.5)


@given(rows=ROWS)
def test_hits_and_ideal_gains_are_those_of_each_list(rows):
    users, scores, gains = rows[0], rows[1], rows[2].astype(float)
    ranks = ranks_of(users, scores).astype(float)
    by_length = Rankings.from_rows(users, ranks, gains, np.ones(4), [2, 1, np.inf])
    assert list(by_length) == [2, 1, np.inf]
    for (k, rankings), user in product(by_length.items(), range(4)):
        assert rankings.k == k
        own = users == user
        best = np.sort(gains[own])[::-1][: int(min(k, own.sum()))]
        ideal = (best / np.log2(np.arange(len(best)) + 2)).sum()
        assert rankings.ideal[user] == pytest.approx(ideal)
        assert rankings.n_relevant[user] == (gains[own] > 0).sum()
        hits = sorted(
            (rank, gain)
            for rank, gain in zip(ranks[own], gains[own], strict=True)
            if gain > 0 and rank <= k
        )
        where = rankings.users == user
        found = zip(rankings.ranks[where], rankings.gains[where], strict=True)
        assert list(found) == hits
        assert_array_equal(rankings.places[where], np.arange(1, len(hits) + 1))


def test_gains_are_ratings_or_whether_they_reach_a_threshold():
    y = np.array([-1.0, 0, 3, 5])
    assert_array_equal(gains_of(y, None), [0, 0, 3, 5])
    assert_array_equal(gains_of(y, 3), [0, 0, 1, 1])


def test_users_weigh_as_the_mean_of_their_rows():
    weight = weight_of_users(np.array([0, 2, 2]), np.array([4.0, 1, 2]), 4)
    assert_array_equal(weight, [4, 0, 1.5, 0])
