"""The matrix of choices beyond those expected, against a dense one in float64."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skrec._choice.excess import ITEM_DAMPING, USER_DAMPING, Excess, output_scale
from skrec._choice.gain import Gain
from skrec._data.interactions import Interactions
from skrec._data.reading import Columns
from skrec._share import ALL_ROWS

RNG = np.random.default_rng(0)
RATING = RNG.integers(1, 6, (30, 20)) * (RNG.random((30, 20)) < 0.3).astype(float)
RATING[np.arange(20), np.arange(20)] = 3
CHOSEN = RATING > 0
V = RNG.normal(size=(20, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def data():
    rows = np.argwhere(CHOSEN)
    return Interactions.from_columns(
        Columns.from_array(rows), RATING[CHOSEN], np.ones(len(rows))
    )


@pytest.fixture(scope="module")
def excess(data):
    return Excess.of(data, CHOSEN.sum(0), Gain(1, 5))


def dense(counts):
    """Gains and the expected choices by these numbers of choices, both damped."""
    gain = np.where(CHOSEN, (RATING - 1) / 4 + 0.25, 0)
    gain *= CHOSEN.sum() / gain.sum()
    n_u = CHOSEN.sum(1)[:, None]
    damping = n_u**-USER_DAMPING * CHOSEN.sum(0) ** -ITEM_DAMPING
    return gain * damping, n_u * counts / counts.sum() * damping


def test_items_are_in_memory_once(data, excess):
    assert np.shares_memory(excess.damped.indices, data.seen.items)


def test_products_are_those_of_the_dense_matrix(excess):
    gain, expected = dense(CHOSEN.sum(0))
    R = gain - expected
    U = RNG.normal(size=(30, 3)).astype(np.float32)
    assert_allclose(excess @ V, R @ V, atol=1e-5)
    assert_allclose(excess.projected(U, ALL_ROWS), R.T @ U, atol=1e-5)
    assert_allclose(excess.square(ALL_ROWS), R.T @ R, atol=1e-5)
    assert_allclose(excess.energy(ALL_ROWS), np.square(R).sum(), rtol=1e-5)


def test_users_left_out_have_the_popularity_of_the_others(excess):
    is_out = np.arange(30) % 5 == 0
    others, left_out = excess.without(is_out, ALL_ROWS)
    gain, expected = dense(CHOSEN[~is_out].sum(0))
    assert_allclose(others @ V, (gain - expected)[~is_out] @ V, atol=1e-5)
    assert_allclose(left_out @ V, (gain - expected)[is_out] @ V, atol=1e-5)


def test_what_other_items_explain_leaves_out_each_item_itself(excess):
    gain, expected = dense(CHOSEN.sum(0))
    R = gain - expected
    explained, _, total = excess.explained(V, ALL_ROWS)
    own = np.square(R).sum(0) @ np.square(V)
    assert_allclose(total, np.square(R @ V).sum(0), rtol=1e-5)
    assert_allclose(explained, total - own, atol=1e-4)


def test_outputs_leave_out_the_choice_of_the_item_itself():
    of_item, f = np.full(20, 0.5), np.array([0.1, 0.05, 0.02, 0.01])
    own = np.diag(V * f @ V.T)
    assert_allclose(output_scale(V, f, of_item), 2 / (1 - own), rtol=1e-5)
    # However near an item is to the whole of its own score.
    assert np.isfinite(output_scale(10 * V, f, of_item)).all()
