"""Top-k against a stable sort."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skrec import _topk
from skrec._topk import top_k


def brute_force(scores, k):
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    return np.where(best == -np.inf, -1, order), best


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**16),
    n_rows=st.integers(1, 8),
    n_columns=st.integers(1, 12),
    n_levels=st.integers(1, 20),
    data=st.data(),
)
def test_equals_a_stable_sort_whatever_the_ties(
    seed, n_rows, n_columns, n_levels, data
):
    k = data.draw(st.integers(1, n_columns))
    rng = np.random.default_rng(seed)
    scores = rng.integers(n_levels, size=(n_rows, n_columns)).astype(np.float32)
    excluded = rng.random((n_rows, n_columns)) < 0.3

    columns, best = top_k(
        lambda tile: torch.tensor(scores[tile]),
        n_rows,
        n_columns,
        k,
        lambda tile: np.nonzero(excluded[tile]),
    )

    expected = brute_force(np.where(excluded, -np.inf, scores), k)
    np.testing.assert_array_equal(columns, expected[0])
    np.testing.assert_array_equal(best, expected[1])


@pytest.mark.parametrize("tile_size", [1, 7, 100, 2**23])
def test_does_not_depend_on_the_tile_size(monkeypatch, tile_size):
    scores = np.random.default_rng(0).integers(5, size=(9, 6)).astype(np.float32)
    monkeypatch.setattr(_topk, "TILE_SIZE", tile_size)
    tiles = []

    def score(tile):
        tiles.append(tile)
        return torch.tensor(scores[tile])

    columns, _ = top_k(score, 9, 6, 3)
    np.testing.assert_array_equal(columns, brute_force(scores, 3)[0])
    assert all((tile.stop - tile.start) * 6 <= max(tile_size, 6) for tile in tiles)
