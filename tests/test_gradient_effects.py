"""Effects of users and of items before a training, and networks that begin there."""

import numpy as np
import pytest
from helpers import rmse
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from skrec import NCFRegressor
from skrec._data.interactions import Interactions
from skrec._data.sides import Sides
from skrec._gradient.effects import additive_effects


def drawn(n_users, n_items, n_rows, noise, seed):
    """Distinct pairs with additive ratings, and their ratings without noise."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(n_users * n_items)[:n_rows]
    u, i = pairs // n_items, pairs % n_items
    truth = 3 + rng.normal(size=n_users)[u] + rng.normal(size=n_items)[i]
    return np.column_stack([u, i]), truth + noise * rng.normal(size=n_rows), truth


def effects_of(X, y):
    ids, numbers = zip(
        *(np.unique(column, return_inverse=True) for column in X.T), strict=True
    )
    data = Interactions.from_numbers(
        Sides(*ids), Sides(*numbers), y, np.ones(len(y)), np.empty((len(y), 0))
    )
    return additive_effects(data, data.rating), data


def test_effects_are_a_ridge_regression_by_their_penalties():
    effects, data = effects_of(*drawn(20, 15, 150, 0.5, seed=0)[:2])
    n_users, n_items = data.shape
    columns = np.zeros((len(data.rating), 1 + n_users + n_items))
    rows = np.arange(len(data.rating))
    columns[:, 0] = columns[rows, 1 + data.users] = 1
    columns[rows, 1 + n_users + data.items] = 1
    penalties = np.concatenate(
        [[0], effects.penalties["user"], effects.penalties["item"]]
    )
    exact = np.linalg.solve(
        columns.T @ columns + np.diag(penalties), columns.T @ data.rating
    )
    found = [[effects.level], effects.rows["user"], effects.rows["item"]]
    fitted = columns @ np.concatenate(found)
    assert fitted == pytest.approx(columns @ exact, abs=0.02)


def test_penalties_are_the_variance_of_noise_by_that_of_effects():
    effects, _ = effects_of(*drawn(200, 150, 6000, 0.5, seed=0)[:2])
    for of_side in effects.penalties.values():
        assert of_side == pytest.approx(0.25, rel=0.3)


def test_equal_ratings_have_no_effects():
    X, y, _ = drawn(5, 4, 12, 0.0, seed=0)
    assert effects_of(X, np.full_like(y, 3.3))[0] is None


@pytest.mark.parametrize(
    ("n_users", "n_items", "n_rows", "noise"),
    [(40, 20, 300, 0.3), (17, 24, 60, 0.5), (60, 30, 600, 0.5)],
)
def test_few_additive_ratings_are_predicted_about_as_by_ridge(
    n_users, n_items, n_rows, noise
):
    X, y, truth = drawn(n_users, n_items, n_rows * 4 // 3, noise, seed=1)
    ridge = make_pipeline(
        OneHotEncoder(handle_unknown="ignore"), RidgeCV(np.logspace(-3, 3, 19))
    )
    of_ridge, of_ncf = (
        rmse(model.fit(X[:n_rows], y[:n_rows]), X[n_rows:], truth[n_rows:])
        for model in (ridge, NCFRegressor(random_state=0))
    )
    assert of_ncf < 1.2 * of_ridge
