"""Terms of the fold-in objective, against counts over all pairs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skrec._data.seen import SeenItems
from skrec._gradient.terms import (
    MAX_PAST,
    MIN_DRAWS,
    MIN_DRAWS_KNOWN,
    FoldInProblem,
    Pairs,
    Terms,
    TermSampler,
)

N_USERS, N_ITEMS, N_NEW_ITEMS = 8, 30, 2
_rng = np.random.default_rng(0)
SEEN = np.argwhere(_rng.random((N_USERS, N_ITEMS)) < 0.3)
# A known user and two new ones, with known and with new items.
NEW = np.array([(3, 0), (3, 30), (8, 0), (8, 5), (8, 31), (9, 5)])
NEW = NEW[[tuple(pair) not in set(map(tuple, SEEN)) for pair in NEW]]
WEIGHT = 1.0 + np.arange(len(NEW))


def make_problem(loss="log_loss", n_negatives=3):
    pairs = Pairs(*NEW.T, np.ones(len(NEW)), WEIGHT, np.zeros((len(NEW), 0)))
    seen = SeenItems.of_pairs(*SEEN.T, N_USERS, N_ITEMS)
    return FoldInProblem(loss, n_negatives, 0.1, seen, pairs, N_NEW_ITEMS)


def make_sampler(**params):
    problem = make_problem(**params)
    rows = {side: problem.rows(side) for side in ("user", "item")}
    return TermSampler(problem, rows, np.random.RandomState(0))


@pytest.mark.parametrize("side", ["user", "item"])
def test_rows_of_a_side_are_those_that_new_pairs_meet_with_their_past(side):
    rows, column = make_problem().rows(side), ["user", "item"].index(side)
    n_known = (N_USERS, N_ITEMS)[column]
    assert_array_equal(rows.numbers, np.unique(NEW[:, column]))
    assert_array_equal(rows.is_new, rows.numbers >= n_known)
    assert_array_equal(rows.numbers[rows.row_of_new], NEW[:, column])
    past = np.column_stack([rows.past.users, rows.past.items])
    expected = SEEN[np.isin(SEEN[:, column], rows.numbers)]
    assert_array_equal(np.unique(past, axis=0), expected)
    assert len(past) == len(expected)
    assert_array_equal(rows.numbers[rows.row_of_past], past[:, column])


def test_numbered_pairs_are_the_seen_ones_and_then_the_new():
    every = np.vstack([SEEN, NEW])
    numbers = np.random.default_rng(1).permutation(len(every))
    pairs = make_problem().numbered_pairs(numbers)
    assert_array_equal(np.column_stack([pairs.users, pairs.items]), every[numbers])
    weight = np.append(np.ones(len(SEEN)), WEIGHT)
    assert_array_equal(pairs.weight, weight[numbers])


def test_weights_of_rows_count_the_draws_that_are_expected():
    problem, n_all = make_problem(), N_ITEMS + N_NEW_ITEMS
    rows = problem.rows("user")
    past, new = problem.pair_weights("user", rows)
    for n, user in enumerate(rows.numbers):
        assert past[n] == 4 * (SEEN[:, 0] == user).sum()
        assert new[n] == 4 * WEIGHT[NEW[:, 0] == user].sum()
    rows = problem.rows("item")
    past, new = problem.pair_weights("item", rows)
    for n, item in enumerate(rows.numbers):
        drawn = 3 * len(SEEN) / n_all
        own = WEIGHT[NEW[:, 1] == item].sum() + 3 * WEIGHT.sum() / n_all
        is_new = item >= N_ITEMS
        assert past[n] == pytest.approx(
            0 if is_new else (SEEN[:, 1] == item).sum() + drawn
        )
        assert new[n] == pytest.approx(own + is_new * drawn)


@pytest.mark.parametrize("loss", ["log_loss", "bpr"])
@pytest.mark.parametrize("side", ["user", "item"])
def test_drawn_items_are_unseen(loss, side):
    sampler = make_sampler(loss=loss)
    seen = set(map(tuple, SEEN)) | set(map(tuple, NEW))
    for terms in (sampler.new_terms(side), sampler.past_terms(side)):
        assert (terms.weight > 0).all()
        assert (terms.row.diff() >= 0).all()
        numbers = sampler.rows[side].numbers[terms.row]
        for n, (user, items) in enumerate(
            zip(terms.users.tolist(), terms.items.tolist(), strict=True)
        ):
            is_seen = [(user, item) in seen for item in items]
            # A comparison is of a chosen item and one that was not.
            chosen = sorted(is_seen) == [False, True]
            assert chosen if loss == "bpr" else is_seen == [bool(terms.target[n])]
            assert numbers[n] in ((user,) if side == "user" else items)


@pytest.mark.parametrize("loss", ["log_loss", "bpr"])
def test_users_have_as_many_draws_as_their_pairs_are_worth(loss):
    sampler = make_sampler(loss=loss)
    terms, rows = sampler.new_terms("user"), sampler.rows["user"]
    pairs = SeenItems.of_pairs(*SEEN.T, N_USERS, N_ITEMS)
    for row, number in enumerate(rows.numbers):
        own = terms.row == row
        drawn = own if loss == "bpr" else own & (terms.target == 0)
        least = MIN_DRAWS if rows.is_new[row] else MIN_DRAWS_KNOWN
        known = set(NEW[NEW[:, 0] == number, 1])
        if number < N_USERS:
            known |= set(pairs.of_users(np.array([number]))[2])
        share = 1 - len(known) / (N_ITEMS + N_NEW_ITEMS)
        weight = 3 * WEIGHT[NEW[:, 0] == number].sum() * share
        assert drawn.sum() >= 0.5 * least * share
        assert terms.weight[drawn].sum().item() == pytest.approx(weight, rel=0.15)


def test_ratings_without_draws_are_their_own_terms():
    sampler = make_sampler(loss="squared_error", n_negatives=0)
    terms = sampler.new_terms("user")
    assert_array_equal(np.column_stack([terms.users, terms.items[:, 0]]), NEW)
    assert_array_equal(terms.weight, WEIGHT)


def test_a_sample_of_the_past_stands_for_all_of_it(monkeypatch):
    monkeypatch.setattr("skrec._gradient.terms.MAX_PAST", 2)
    assert MAX_PAST > 2
    sampler = make_sampler(loss="squared_error", n_negatives=0)
    rows = sampler.rows["user"]
    counts = np.bincount(rows.row_of_past, minlength=len(rows.numbers))
    terms = sampler.past_terms("user")
    kept = np.bincount(terms.row, minlength=len(counts))
    assert_array_equal(kept, np.minimum(counts, 2))
    weight = np.bincount(terms.row, terms.weight, minlength=len(counts))
    assert_allclose(weight, counts, rtol=1e-6)


@given(st.lists(st.integers(0, 5), min_size=1), st.integers(1, 7))
def test_terms_are_joined_in_order_of_rows_and_split_into_tiles(row, size):
    row, n = np.array(row), len(row)
    pairs = Pairs(np.arange(n), row + 3, row / 2, row % 3.0, np.ones((n, 1)))
    terms = Terms.joined([Terms.of_pairs(row, pairs), Terms.of_pairs(row, pairs)])
    assert len(terms) == 2 * (pairs.weight > 0).sum()
    assert (terms.row.diff() >= 0).all()
    assert_array_equal(terms.items[:, 0], row[terms.users] + 3)
    tiles = list(terms.tiles(size))
    assert all(len(tile) <= size for tile in tiles)
    assert sum(map(len, tiles)) == len(terms)
    for name in vars(terms):
        parts = [getattr(tile, name) for tile in tiles]
        assert not parts or torch.equal(torch.cat(parts), getattr(terms, name))
    some = terms.of_rows(torch.arange(6) % 2 == 0)
    assert_array_equal(some.row, terms.row[terms.row % 2 == 0])
