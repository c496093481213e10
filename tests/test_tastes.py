"""What left-out users tell of tastes, by closed forms and brute force."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skrec._choice.content import hashed
from skrec._choice.excess import ITEM_DAMPING, Excess
from skrec._choice.gain import Gain
from skrec._choice.tastes import (
    TASTE_WEIGHTS,
    gains_of_hidden,
    shrinkage_of,
    weight_of,
)
from skrec._data.interactions import Interactions
from skrec._data.reading import Columns
from skrec._data.sides import Sides
from skrec._share import ALL_ROWS


def random_choices(n_users, n_items):
    """Pairs of all users and items, each with a chance of a third."""
    rng = np.random.default_rng(0)
    return np.argwhere(rng.random((n_users, n_items)) < 1 / 3)


def test_the_rest_of_the_energy_explains_what_tastes_leave():
    """Pairs of correlation ρ have no shrinkage but that of their least squares."""
    rho, n = 0.6, 50
    own = np.ones(2 * n)
    total = np.repeat([1 + rho, 1 - rho], n)
    sums = np.stack([total - own, np.zeros(2 * n), total])
    # All of the first half and none of the second, of which there is one group.
    f = shrinkage_of(sums[:, :n], total.sum())
    coefficient = f[0] / 2 / (1 - f[0] / 2)
    assert_allclose(f, f[0])
    assert_allclose(coefficient, rho, rtol=1e-6)


def test_what_all_eigenvectors_explain_alike_is_no_taste():
    """Of few items, along whose last eigenvector the excess sums up to zero."""
    total = np.append(np.linspace(2, 1, 10), 1e-12)
    explained = 0.1 * total
    explained[-1] = -explained[:-1].sum()
    sums = np.stack([explained, np.zeros(11), total])
    assert_allclose(shrinkage_of(sums, total.sum()), 0, atol=1e-6)


@given(
    shares=st.lists(st.floats(-1, 1), min_size=1, max_size=40),
    seed=st.integers(0, 5),
)
def test_factors_fall_with_the_rank(shares, seed):
    rng = np.random.default_rng(seed)
    total = rng.uniform(0.1, 10, len(shares))
    sums = np.stack([shares * total, np.zeros(len(shares)), total])
    f = shrinkage_of(sums, 2 * total.sum())
    assert (np.diff(f) <= 0).all()
    assert f.min() >= 0
    assert f.max() <= 1


def test_eigenvectors_tell_together_what_none_tells_alone():
    """All explain less than the error of one, as they do by few users."""
    rng = np.random.default_rng(0)
    n, share, error = 40, 0.3, 0.4
    total, variance = np.ones(n), np.full(n, error**2)
    found = []
    for _ in range(200):
        explained = share + error * rng.standard_normal(n)
        found.append(shrinkage_of(np.stack([explained, variance, total]), 2 * n).mean())
    # As much energy is left, which explains as much less than nothing.
    expected = 2 * share / (1 + share)
    assert 0.65 * expected < np.mean(found) < expected


def test_the_taste_weight_is_that_of_the_highest_gain():
    rng = np.random.default_rng(0)
    gains = rng.random((500, 1)) + rng.normal(0, 0.1, (500, len(TASTE_WEIGHTS)))
    # By chance alone none is higher.
    assert weight_of(np.zeros((0, len(TASTE_WEIGHTS))), ALL_ROWS) == 1
    assert weight_of(gains[:, :1] + np.zeros(len(TASTE_WEIGHTS)), ALL_ROWS) == 1
    gains[:, 7] += 0.1
    assert weight_of(gains, ALL_ROWS) == TASTE_WEIGHTS[7]


def test_hidden_choices_gain_by_their_ranks_among_the_others():
    rows = random_choices(30, 20)
    data = Interactions.from_columns(
        Columns.from_array(rows), np.ones(len(rows)), np.ones(len(rows))
    )
    seen = data.seen
    n_choices = np.bincount(seen.items, minlength=seen.n_items)
    excess = Excess.of(data, n_choices, Gain(0, 1))
    rng = np.random.default_rng(0)
    V = np.linalg.qr(rng.normal(size=(seen.n_items, 6)))[0]
    f = rng.random(6)
    keys = Sides(*(hashed(np.arange(n)) for n in data.shape))
    found = gains_of_hidden(excess, V, f, keys, seen.n_items)
    damping, share = n_choices**-ITEM_DAMPING, n_choices / len(seen)
    B = V * f @ V.T
    expected = []
    for user in range(seen.n_users):
        chosen = seen.items[seen.offsets[user] : seen.offsets[user + 1]]
        gains = []
        for item in chosen if len(chosen) > 1 else ():
            x = -(len(chosen) - 1) * share
            x[np.setdiff1d(chosen, item)] += 1
            tastes = x * damping @ B / damping / (1 - np.diag(B))
            scores = TASTE_WEIGHTS[:, None] * tastes + len(chosen) * share
            rest = np.delete(scores, chosen, axis=1)
            gains.append(1 / np.log2(2 + (rest > scores[:, [item]]).sum(1)))
        if gains:
            expected.append(np.mean(gains, axis=0))
    assert_allclose(found, expected, rtol=1e-6)
