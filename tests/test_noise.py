"""Penalties of networks that follow the noise of ratings."""

import numpy as np
import pytest
from helpers import rmse
from sklearn.metrics import root_mean_squared_error

from skrec import MFRegressor, NCFRegressor
from skrec._data.interactions import Interactions
from skrec._data.sides import Sides
from skrec._gradient.noise import MAX_MULTIPLE, penalty_multiple


def multiple(X, y, weight=None, context=0):
    ids, numbers = zip(
        *(np.unique(column, return_inverse=True) for column in X.T), strict=True
    )
    weight = np.ones(len(y)) if weight is None else weight
    columns = np.random.default_rng(0).random((len(y), context))
    data = Interactions.from_numbers(
        Sides(*ids), Sides(*numbers), np.asarray(y, float), weight, columns
    )
    return penalty_multiple(data, data.rating)


def drawn(n_users, n_items, n_rows, *, bias=0.0, factors=0.0, seed=0):
    """Ratings with noise of variance 1, by the variance of biases and of products."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(n_users * n_items)[:n_rows]
    u, i = pairs // n_items, pairs % n_items
    of_users, of_items = (
        rng.normal(0, np.sqrt(bias / 2), n) for n in (n_users, n_items)
    )
    p, q = (rng.normal(0, factors**0.25, n) for n in (n_users, n_items))
    y = 3 + of_users[u] + of_items[i] + p[u] * q[i] + rng.normal(size=n_rows)
    return np.column_stack([u, i]), y


@pytest.mark.parametrize("bias", [0.1, 0.3])
def test_it_is_the_root_of_the_noise_over_the_signal_of_biases(bias):
    found = [
        multiple(*drawn(200, 200, 12000, bias=bias, seed=seed)) for seed in range(3)
    ]
    assert np.mean(found) == pytest.approx(np.sqrt(1 / bias), rel=0.25)


@pytest.mark.parametrize("n_rows", [30, 400, 8000])
def test_it_is_large_where_ratings_are_noise(n_rows):
    assert multiple(*drawn(200, 100, n_rows)) > MAX_MULTIPLE / 2


@pytest.mark.parametrize("options", [{"bias": 2.0}, {"factors": 1.0}])
def test_it_is_one_where_there_is_much_to_learn(options):
    assert multiple(*drawn(200, 100, 6000, **options)) == pytest.approx(1)


def test_it_is_one_for_real_ratings(ml_100k):
    X, y = ml_100k
    assert multiple(X.to_numpy(), y) == 1


def test_units_and_copies_of_ratings_do_not_count():
    X, y = drawn(60, 40, 700, bias=0.5)
    expected = multiple(X, y)
    assert expected > 1.1
    weight = np.full(len(y), 7.0)
    assert multiple(X, 1e3 - 20 * y, weight) == pytest.approx(expected)
    found = multiple(
        np.tile(X, (3, 1)), np.tile(y, 3), np.full(3 * len(y), 1 / 3), context=1
    )
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("n_rows", [1, 2, 9])
@pytest.mark.parametrize("value", [0.0, 0.1, -1.0])
def test_equal_ratings_have_no_noise(n_rows, value):
    X, _ = drawn(10, 3, n_rows)
    assert multiple(X, np.full(n_rows, value)) == 1


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (MFRegressor(solver="adam"), "squared_error"),
        (MFRegressor(solver="adam"), "huber"),
        (MFRegressor(solver="adam", n_negatives=0), "log_loss"),
        (MFRegressor(solver="sgd"), "squared_error"),
        (NCFRegressor(n_members=1), "squared_error"),
    ],
)
@pytest.mark.parametrize("data", [(100, 80, 1500), (400, 400, 1100)])
def test_noise_is_predicted_about_as_by_the_mean(model, loss, data):
    X, y = drawn(*data)
    if loss == "log_loss":
        y = (y > 3).astype(float)
    n_train = 3 * len(y) // 4
    model.set_params(loss=loss, random_state=0, rank_by="rating")
    model.fit(X[:n_train], y[:n_train])
    y_test = y[n_train:]
    of_mean = root_mean_squared_error(y_test, np.full(len(y_test), y[:n_train].mean()))
    assert rmse(model, X[n_train:], y_test) < 1.03 * of_mean


def test_new_users_of_noise_are_near_the_mean():
    X, y = drawn(100, 80, 1500)
    new = np.column_stack([np.full(3, 100), np.arange(3)])
    model = MFRegressor(solver="adam", rank_by="rating", random_state=0)
    plain = MFRegressor(solver="adam", rank_by="rating", random_state=0, reg=1.0)
    away = [
        abs(m.fit(X, y).partial_fit(new, [6.0] * 3).predict(new) - 3).max()
        for m in (model, plain)
    ]
    assert away[0] < 0.5 * away[1]


def low_rank(n_users, n_items, noise, share, seed):
    """Pairs drawn from a table of rank two, with whether they are to be held out."""
    rng = np.random.default_rng(seed)
    P, Q = rng.normal(size=(n_users, 2)), rng.normal(size=(n_items, 2))
    pairs = rng.permutation(n_users * n_items)
    pairs = pairs[: int(share * len(pairs))]
    u, i = pairs // n_items, pairs % n_items
    y = (P @ Q.T)[u, i] + noise * rng.normal(size=len(pairs))
    return np.column_stack([u, i]), y, np.arange(len(y)) % 5 == 0


@pytest.mark.parametrize("n_items", [5, 20])
def test_it_is_one_for_small_dense_tables_of_low_rank(n_items):
    found = [multiple(*low_rank(100, n_items, 0.3, 1.0, s)[:2]) for s in range(5)]
    assert np.median(found) == 1


@pytest.mark.parametrize("n_items", [20, 40])
def test_it_is_large_for_small_dense_tables_of_noise(n_items):
    found = [multiple(*drawn(60, n_items, 60 * n_items, seed=s)) for s in range(5)]
    assert np.median(found) > MAX_MULTIPLE / 2


@pytest.mark.parametrize(
    "model",
    [
        NCFRegressor(n_members=2),
        MFRegressor(solver="adam"),
        MFRegressor(solver="sgd"),
        MFRegressor(solver="adam", loss="huber"),
    ],
)
def test_nearly_exact_ratings_of_low_rank_are_predicted(model):
    errors = []
    for seed in range(2):
        X, y, is_test = low_rank(100, 20, 0.1, 0.8, seed)
        model.set_params(rank_by="rating", random_state=0).fit(X[~is_test], y[~is_test])
        errors.append(rmse(model, X[is_test], y[is_test]) / y[is_test].std())
    assert np.mean(errors) < 0.25


def test_rows_of_further_ratings_have_the_penalty_of_the_end():
    X, y, _ = low_rank(100, 20, 0.05, 0.8, 0)
    new = np.column_stack([np.full(3, 100), np.arange(3)])
    model = MFRegressor(solver="adam", rank_by="rating", random_state=0, clip=False)
    of_three = []
    for reg in (None, 1.0):
        fitted = model.set_params(reg=reg).fit(X, y).partial_fit(new, [8.0] * 3)
        of_three.append(fitted.predict(new).mean())
    assert of_three[0] > 1.1 * of_three[1]
