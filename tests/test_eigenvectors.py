"""Leading eigenvectors of few and of many items, against numpy's of all."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skrec._choice.eigenvectors import MAX_FEW_ITEMS, eigenvectors
from skrec._choice.excess import Excess
from skrec._choice.gain import Gain
from skrec._data.interactions import Interactions
from skrec._data.reading import Columns
from skrec._share import ALL_ROWS


def excess_of_kinds(n_items):
    """Choices of users who each prefer one of four kinds of items."""
    rng = np.random.default_rng(0)
    kind = np.arange(400)[:, None] % 4 == np.arange(n_items) % 4
    chosen = rng.random(kind.shape) < np.where(kind, 0.3, 0.05)
    chosen[np.arange(n_items) % 400, np.arange(n_items)] = True
    rows, ones = np.argwhere(chosen), np.ones(chosen.sum())
    data = Interactions.from_columns(Columns.from_array(rows), ones, ones)
    return Excess.of(data, chosen.sum(0), Gain(0, 1))


@pytest.mark.parametrize("n_items", [60, MAX_FEW_ITEMS + 100])
def test_eigenvectors_are_those_of_the_dense_square(n_items):
    excess = excess_of_kinds(n_items)
    V = np.random.RandomState(0).standard_normal((n_items, 40)).astype(np.float32)
    # Passes from a basis come nearer each time.
    for _ in range(4):
        found, V = eigenvectors(excess, V, ALL_ROWS)
    expected, W = np.linalg.eigh(excess.square(ALL_ROWS).astype(float))
    # Those of the kinds, which are far from the rest.
    assert expected[-4] < 0.5 * expected[-3]
    assert_allclose(found[:3], expected[:-4:-1], rtol=1e-4)
    assert_allclose(V.T @ V, np.eye(V.shape[1]), atol=1e-4)
    of_kinds = W[:, -3:]
    assert_allclose(V[:, :3] @ V[:, :3].T, of_kinds @ of_kinds.T, atol=1e-3)


def test_dependent_columns_of_a_start_are_one():
    excess = excess_of_kinds(MAX_FEW_ITEMS + 100)
    start = np.random.RandomState(0).standard_normal((MAX_FEW_ITEMS + 100, 5))
    start = np.repeat(start, 2, axis=1).astype(np.float32)
    values, V = eigenvectors(excess, start, ALL_ROWS)
    assert V.shape[1] == len(values) == 5
    assert_allclose(V.T @ V, np.eye(5), atol=1e-4)
