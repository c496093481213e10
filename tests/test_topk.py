"""Top-k against a stable sort."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skrec import _topk
from skrec._topk import inner_products, top_k


def brute_force(scores, k):
    scores = np.pad(scores, ((0, 0), (0, k)), constant_values=-np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    return np.where(best == -np.inf, -1, order), best


def filling(scores, calls=None):
    """What writes given scores."""
    scores = torch.tensor(scores)

    def score(rows):
        def fill(columns, out):
            if calls is not None:
                calls.append((rows, columns))
            out.copy_(scores[rows, columns])

        return fill

    return score


def tied_scores(seed, shape, n_levels):
    """Scores of few levels, signed zeros and the smallest numbers among them."""
    levels = np.random.default_rng(seed).choice(
        [-2.5, -1e-45, -0.0, 0.0, 1e-45, 1.0, 1.5, 3e38, -3e38], n_levels
    )
    return np.random.default_rng(seed + 1).choice(levels, shape).astype(np.float32)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**16),
    n_rows=st.integers(0, 8),
    n_columns=st.integers(0, 300),
    n_levels=st.integers(1, 9),
    tile_bytes=st.sampled_from([1, 3000, 2**26]),
    tile_columns=st.sampled_from([1, 7, 64, 2**17]),
    data=st.data(),
)
def test_equals_a_stable_sort_whatever_the_ties_and_the_tiles(
    seed, n_rows, n_columns, n_levels, tile_bytes, tile_columns, data
):
    k = data.draw(st.integers(0, n_columns + 3))
    scores = tied_scores(seed, (n_rows, n_columns), n_levels)
    excluded = np.random.default_rng(seed).random(scores.shape) < 0.3

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(_topk, "TILE_BYTES", tile_bytes)
        monkeypatch.setattr(_topk, "MAX_TILE_COLUMNS", tile_columns)
        columns, best = top_k(
            filling(scores),
            n_rows,
            n_columns,
            k,
            lambda tile: np.nonzero(excluded[tile]),
        )

    expected = brute_force(np.where(excluded, -np.inf, scores), k)
    np.testing.assert_array_equal(columns, expected[0])
    np.testing.assert_array_equal(best, expected[1])


@pytest.mark.parametrize(("n_rows", "n_columns"), [(300, 2000), (2, 9000), (9000, 2)])
def test_few_scores_are_held_at_a_time(monkeypatch, n_rows, n_columns):
    monkeypatch.setattr(_topk, "TILE_BYTES", 2**18)
    monkeypatch.setattr(_topk, "MAX_TILE_COLUMNS", 3000)
    calls = []
    scores = np.random.default_rng(0).random((n_rows, n_columns), dtype=np.float32)
    columns, _ = top_k(filling(scores, calls), n_rows, n_columns, 2)

    np.testing.assert_array_equal(columns, brute_force(scores, 2)[0])
    sizes = [
        (rows.stop - rows.start) * (columns.stop - columns.start)
        for rows, columns in calls
    ]
    assert 4 * max(sizes) <= 2**18
    assert sum(sizes) == n_rows * n_columns


@pytest.mark.parametrize("n_queries", [1, 2, 3])
def test_inner_products_of_some_columns(n_queries):
    queries, vectors = torch.randn(n_queries, 4), torch.randn(5, 4)
    out = torch.full((n_queries, 6), torch.nan)[:, 1:3]
    inner_products(queries, vectors)(slice(2, 4), out)
    torch.testing.assert_close(out, queries @ vectors[2:4].T)
