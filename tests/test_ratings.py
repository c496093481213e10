"""Sparse rows and ratings, against loops over ratings."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skrec._alternating import ratings as _ratings
from skrec._alternating.ratings import (
    LEAST_TIED,
    TIED_SHARE,
    TIED_SQUARES,
    Ratings,
    UnobservedPairs,
)

N_ROWS, N_OTHERS = 7, 5


def make_ratings(seed, share=0.6):
    """Ratings, and their rows, others, weights and targets."""
    rng = np.random.default_rng(seed)
    rows, others = np.nonzero(rng.random((N_ROWS, N_OTHERS)) < share)
    rows, others = rows[rows != 3], others[rows != 3]
    w, y = rng.uniform(0.5, 2, len(rows)), rng.normal(size=len(rows))
    w[rng.random(len(w)) < 0.3] = 1
    index = map(torch.as_tensor, (rows, others))
    values = map(torch.as_tensor, (w, y))
    return Ratings.from_sorted(*index, N_ROWS, *values), (rows, others, w, y)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**16), share=st.sampled_from([0.1, 0.6, 1.0]))
def test_sums_are_those_of_a_loop_over_ratings(seed, share):
    ratings, (rows, others, w, _) = make_ratings(seed, share)
    table = np.random.default_rng(seed).normal(size=(N_OTHERS, 3))
    sums, values = np.zeros((N_ROWS, 3)), np.zeros(N_ROWS)
    for row, other, weight in zip(rows, others, w, strict=True):
        sums[row] += weight * table[other]
        values[row] += weight
    found = ratings.sum(torch.as_tensor(table), ratings.weight)
    np.testing.assert_allclose(found, sums, atol=1e-12)
    np.testing.assert_allclose(ratings.sum_values(ratings.weight), values, atol=1e-12)
    np.testing.assert_array_equal(ratings.lengths, np.bincount(rows, minlength=N_ROWS))
    assert ratings.total_weight == pytest.approx(w.sum())


@pytest.mark.parametrize("block_ratings", [1, 4, 2**13])
@pytest.mark.parametrize("unit_weights", [False, True])
def test_sums_of_squares_are_those_of_a_loop_over_ratings(
    monkeypatch, block_ratings, unit_weights
):
    monkeypatch.setattr(_ratings, "BLOCK_RATINGS", block_ratings)
    ratings, (rows, others, w, _) = make_ratings(0)
    if unit_weights:
        w[:] = 1
        ratings.weight[:] = 1
    points = np.random.default_rng(0).normal(size=(N_OTHERS + 1, 3))
    points[-1] = 0
    expected = np.zeros((N_ROWS, 3, 3))
    for row, other, weight in zip(rows, others, w, strict=True):
        expected[row] += weight * np.outer(points[other], points[other])
    found = ratings.sum_of_squares(torch.as_tensor(points))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_tiles_are_the_whole_in_parts():
    ratings, _ = make_ratings(0)
    table = torch.as_tensor(np.random.default_rng(0).normal(size=(N_OTHERS, 4)))
    whole = ratings.sum(table, ratings.weight)
    for size in (1, 2, 3, N_ROWS, N_ROWS + 1):
        parts = [tile.sum(table, tile.weight) for _, tile in ratings.tiles(size)]
        spans = [rows for rows, _ in ratings.tiles(size)]
        assert spans[0].start == 0
        assert spans[-1].stop == N_ROWS
        np.testing.assert_array_equal(torch.cat(parts), whole)
        count = torch.cat([tile.count for _, tile in ratings.tiles(size)])
        np.testing.assert_array_equal(count, ratings.count)


def test_counts_are_sums_of_weights():
    ratings, (rows, _, w, _) = make_ratings(0)
    expected = np.bincount(rows, w, minlength=N_ROWS)
    np.testing.assert_allclose(ratings.count, expected)


def test_unobserved_pairs_count_where_one_of_both_is_new():
    is_new = torch.tensor([1.0, 0.0, 1.0])
    is_new_other = torch.tensor([0.0, 0, 0, 0, 1, 1])
    pairs = UnobservedPairs(0.5, is_new, is_new_other, torch.zeros(1), 3)
    np.testing.assert_allclose(pairs.count, [0.5 * 9, 0.5 * 2, 0.5 * 9])


def tied_ratings(share_tied, seed=0, n_rows=40, n_others=12):
    """Ratings of effects of others, and of rows that always rate 1."""
    rng = np.random.default_rng(seed)
    rows, others = np.nonzero(rng.random((n_rows, n_others)) < 0.8)
    y = rng.normal(size=n_others)[others] + 0.5 * rng.normal(size=len(rows))
    is_tied = rows < share_tied * n_rows
    w = rng.integers(1, 3, len(rows)).astype(float)
    values = [torch.as_tensor(x) for x in (w, np.where(is_tied, 1.0, y))]
    index = map(torch.as_tensor, (rows, others))
    return Ratings.from_sorted(*index, n_rows, *values), rows, others


def test_ties_are_those_of_a_loop_over_pairs_of_rows():
    ratings, rows, others = tied_ratings(0.25)
    w, y = ratings.weight.numpy(), ratings.target.numpy()
    n = np.bincount(rows, w)
    rest = y - (np.bincount(rows, w * y) / n)[rows]
    product = pairs = 0.0
    for other in range(others.max() + 1):
        mine = np.flatnonzero(others == other)
        for a in mine:
            for b in mine[mine != a]:
                product += w[a] * rest[a] * w[b] * rest[b]
                pairs += w[a] * w[b]
    V = product / pairs
    squares = np.bincount(rows, w * rest**2) + TIED_SQUARES * V
    ratio = np.minimum(squares / ((n - 1) * V), 1)
    tied = (n * (1 - ratio)).sum() / n.sum()
    expected = n / 2 * (1 / ratio - 1 + TIED_SHARE * tied / (1 - tied))
    assert tied * n.sum() > (LEAST_TIED + 1) * len(n)
    np.testing.assert_allclose(ratings.with_ties().ties, expected)


def test_few_ratings_that_are_equal_are_no_ties():
    assert tied_ratings(0.025)[0].with_ties().ties is None
    ratings, *_ = tied_ratings(0.25)
    constant = replace(ratings, target=torch.ones_like(ratings.target))
    assert constant.with_ties().ties is None
