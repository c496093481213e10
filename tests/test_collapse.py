"""Ratings that a fit reproduces, and those that leave noise."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skrec import MFRegressor


def crossed(n_rows, seed):
    """About so many different pairs of ids, and effects of each id."""
    rng = np.random.default_rng(seed)
    n_ids = max(int(1.25 * n_rows**0.5), n_rows // 20)
    pairs = rng.permutation(n_ids**2)[:n_rows]
    X = np.column_stack([pairs // n_ids, pairs % n_ids])
    of_users, of_items = rng.normal(size=(2, n_ids))
    return X, of_users[X[:, 0]], of_items[X[:, 1]]


def warns_of_collapse(model, X, y, **arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y, **arguments)
    return any("noise has collapsed" in str(w.message) for w in caught)


@pytest.mark.parametrize(
    ("solver", "biased", "n_rows"),
    [
        *(("vb", True, n_rows) for n_rows in (50, 300, 5000)),
        *(("vb", False, 5000), ("gibbs", True, 150)),
    ],
)
def test_ratings_that_are_sums_of_effects_leave_no_noise(solver, biased, n_rows):
    X, of_user, of_item = crossed(n_rows, seed=1)
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"user": [f"u{u}" for u in X[:, 0]], "item": X[:, 1]})
    y = 10 + of_user + of_item
    model = MFRegressor(
        "auto" if biased else 2,
        solver=solver,
        biased=biased,
        rank_by="rating",
        max_iter=200 if solver == "vb" else 30,
        random_state=0,
    )
    weight = rng.integers(1, 4, len(y))
    assert warns_of_collapse(model, X, y, sample_weight=weight)
    assert not warns_of_collapse(model, X, y + rng.normal(size=len(y)) * y.std() / 5)


@given(
    n_rows=st.integers(2, 60),
    n_ids=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    levels=st.sampled_from([2, 5, None]),
    factors=st.sampled_from([("auto", True), (0, True), (8, True), (8, False)]),
    seed=st.integers(0, 100),
)
@settings(max_examples=15)
def test_noise_is_no_collapse_however_few_the_ratings(
    n_rows, n_ids, levels, factors, seed
):
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.integers(0, n, n_rows) for n in n_ids])
    y = rng.integers(levels, size=n_rows) if levels else rng.normal(size=n_rows)
    model = MFRegressor(factors[0], biased=factors[1], rank_by="rating", max_iter=30)
    assert not warns_of_collapse(model, X, y)


@pytest.mark.parametrize("n_rows", [50, 500, 5000])
def test_real_ratings_are_no_collapse(ml_100k, n_rows):
    X, y = (part.sample(n_rows, random_state=0) for part in ml_100k)
    assert not warns_of_collapse(MFRegressor(rank_by="rating"), X, y)


def test_choices_and_equal_ratings_are_no_collapse():
    X, *_ = crossed(200, seed=0)
    choices = MFRegressor(2, unobserved_weight=0.1, tol=1e9)
    assert not warns_of_collapse(choices, X, np.ones(len(X)))
    assert not warns_of_collapse(MFRegressor(2), X, np.ones(len(X)))
