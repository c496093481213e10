"""partial_fit of every solver and loss: small calls add up to one call."""

import pickle

import numpy as np
import pandas as pd
import pytest
from helpers import copied, rmse
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from sklearn.base import clone

from skrec import MFRegressor, NCFRegressor
from skrec._conversion import PosteriorConversion
from skrec.datasets import make_ratings
from skrec.metrics import RankingScorer

MF = {
    **{f"{solver}": MFRegressor(solver=solver) for solver in ("vb", "als")},
    "als choices": MFRegressor(solver="als", unobserved_weight=0.1),
    **{
        f"{solver} {loss}": MFRegressor(solver=solver, loss=loss)
        for solver, losses in (
            ("adam", ("squared_error", "absolute_error", "huber", "log_loss", "bpr")),
            ("sgd", ("squared_error", "log_loss", "bpr")),
        )
        for loss in losses
    },
    "adam drawn": MFRegressor(solver="adam", n_negatives=4),
}
NCF = {
    f"{architecture} {loss}": NCFRegressor(
        architecture=architecture, loss=loss, n_members=1
    )
    for architecture, loss in (
        ("neumf", "squared_error"),
        ("neumf", "log_loss"),
        ("neumf", "bpr"),
        ("mlp", "squared_error"),
        ("mlp", "log_loss"),
    )
}
MODELS = {**MF, **NCF, "neumf drawn": NCFRegressor(n_negatives=4, n_members=2)}
OF_RATINGS = {
    name: model
    for name, model in MODELS.items()
    if model.loss not in ("log_loss", "bpr")
    and "drawn" not in name
    and "choices" not in name
}


@pytest.fixture(scope="module")
def real(ml_100k):
    """300 users of MovieLens 100K: rows, ratings, new and held-out rows."""
    rows, ratings = ml_100k
    rows = pd.DataFrame(np.asarray(rows)[:, :2], columns=["user", "item"])
    kept = (rows["user"] <= 300).to_numpy()
    rows, ratings = rows[kept].reset_index(drop=True), np.asarray(ratings, float)[kept]
    rng = np.random.default_rng(0)
    new = np.isin(rows["user"], rng.choice(np.arange(1, 301), 40, replace=False))
    held_out = rng.random(len(rows)) < np.where(new, 0.5, 0.2)
    return rows, ratings, new, held_out


def error(model, rows, y, name):
    """RMSE, or 1 - NDCG."""
    if name in OF_RATINGS:
        return rmse(model, rows, y)
    return 1 - RankingScorer("ndcg", k=10)(model, rows, y)


# What whole fits run is covered by the other tests.
@pytest.mark.no_cover
@pytest.mark.parametrize("name", MODELS)
def test_many_calls_of_one_new_user_are_like_one_call(real, name):
    rows, ratings, new, held_out = real
    y = ratings if name in OF_RATINGS else np.ones(len(ratings))
    model = clone(MODELS[name])
    if not (name == "vb" or name.startswith("als")):
        model.set_params(random_state=0)
    before = model.fit(rows[~new & ~held_out], y[~new & ~held_out])
    given = new & ~held_out
    at_once = copied(before).partial_fit(rows[given], y[given])
    piecewise = copied(before)
    for user in rows["user"][given].unique():
        own = given & (rows["user"] == user)
        piecewise.partial_fit(rows[own], y[own])

    def errors(test):
        return [
            error(model, rows[test], y[test], name)
            for model in (before, at_once, piecewise)
        ]

    # A fit of choices by "sgd" is so far from its minimum that its items move.
    unfinished = name in ("sgd log_loss", "sgd bpr")
    was, once, many = errors(~new & held_out)
    assert many < 1.015 * once
    assert many < 1.01 * was or unfinished
    was, once, many = errors(new & held_out)
    assert many - once < (0.5 if unfinished else 0.15) * (was - once)
    assert once < 0.985 * was or unfinished


@pytest.mark.no_cover
@pytest.mark.parametrize("name", OF_RATINGS)
def test_batches_of_a_stream_are_no_worse_than_one_or_none(real, name):
    rows, ratings, _, _ = real
    order = np.random.default_rng(0).permutation(len(ratings))
    first, further, test = np.split(order, [len(order) // 2, len(order) * 4 // 5])
    model = clone(OF_RATINGS[name])
    if name not in ("vb", "als"):
        model.set_params(random_state=0)
    before = model.fit(rows.iloc[first], ratings[first])
    at_once = copied(before).partial_fit(rows.iloc[further], ratings[further])
    streamed = copied(before)
    for part in np.array_split(further, 15):
        streamed.partial_fit(rows.iloc[part], ratings[part])
    was, once, many = (
        error(model, rows.iloc[test], ratings[test], name)
        for model in (before, at_once, streamed)
    )
    assert many < was
    assert many < 1.01 * once


@pytest.mark.parametrize("name", OF_RATINGS)
def test_no_single_rating_goes_astray(name):
    X, y = make_ratings(60, 40, 1600, random_state=0)
    model = clone(OF_RATINGS[name]).set_params(clip=False)
    if name not in ("vb", "als"):
        model.set_params(random_state=0)
    model.fit(X, y)
    before = model.predict(X)
    rng = np.random.default_rng(0)
    for _ in range(10):
        user, item = rng.integers(65), rng.integers(45)
        row = pd.DataFrame({"user": [user], "item": [item]})
        after = copied(model).partial_fit(row, [rng.choice([1.0, 5.0])])
        moved = np.abs(after.predict(X) - before)
        assert moved.max() < 1.5
        others = ((X["user"] != user) & (X["item"] != item)).to_numpy()
        assert moved[others].max() < 1e-5


def test_a_known_row_moves_as_far_as_its_past_lets_it():
    X, y = make_ratings(60, 40, 1600, random_state=0)
    model = MFRegressor(2, solver="adam", random_state=0, clip=False).fit(X, y)
    row = X[:1]
    few = copied(model).partial_fit(row, [5.0]).predict(row)
    many = copied(model).partial_fit(row, [5.0], [50.0]).predict(row)
    was = model.predict(row)
    assert 0 < few - was < 0.3 * (many - was)


@pytest.mark.parametrize(
    "loss", ["squared_error", "huber", "log_loss", "absolute_error"]
)
def test_a_new_user_is_where_the_objective_is_lowest(loss):
    X, y = make_ratings(60, 40, 1600, random_state=0)
    y = y if loss != "log_loss" else (y > 3).astype(float)
    model = MFRegressor(
        2,
        solver="adam",
        loss=loss,
        n_negatives=0,
        reg=0.5,
        max_iter=5,
        clip=False,
        random_state=0,
    ).fit(X, y)
    rated = np.arange(0, 40, 4)
    ratings = np.resize([5.0, 1.0, 4.0, 2.0], 10)
    if loss == "log_loss":
        ratings = np.resize([1.0, 0.0, 1.0], 10)
    # Weights of this size leave the items where they are.
    small = 1e-4
    before = PosteriorConversion().weights(model._model, np.array([-1]), rated)
    prior = np.append(before["user_factors"][0, 0], before["user_bias"][0, 0])
    q, c = before["item_factors"][:-1, 0], before["item_bias"][:-1, 0]
    target = model._model.units.standard_ratings(ratings)

    def objective(p):
        score = q @ p[:2] + p[2] + c + before["intercept"][0]
        error = np.abs(score - target)
        losses = {
            "squared_error": error**2,
            "absolute_error": error,
            "huber": np.where(error < 1, error**2 / 2, error - 0.5),
            "log_loss": np.logaddexp(0, score) - target * score,
        }
        pull = 0.5 * np.sqrt(small * 10) * ((p - prior) ** 2).sum()
        return small * losses[loss].sum() + pull

    best = minimize(objective, prior, method="Nelder-Mead", tol=1e-12).x
    model.partial_fit(
        pd.DataFrame({"user": 99, "item": rated}), ratings, np.full(10, small)
    )
    found = PosteriorConversion().weights(model._model, np.array([60]), rated)
    found = np.append(found["user_factors"][0, 0], found["user_bias"][0, 0])
    assert_allclose(found, best, atol=2e-3)


@pytest.mark.parametrize(("deviation", "noise"), [(0.3, 1.0), (3.0, 0.3)])
@pytest.mark.parametrize(
    "model",
    [MFRegressor(solver="adam", random_state=0), NCFRegressor(random_state=0)],
    ids=["adam", "neumf"],
)
def test_one_rating_of_a_new_user_tells_what_it_tells_a_fit(model, deviation, noise):
    rng = np.random.default_rng(0)
    of_user = deviation * rng.normal(size=150)
    of_item = 0.5 * rng.normal(size=60)

    def rows(users, n_each):
        u = users.repeat(n_each)
        i = np.concatenate([rng.choice(60, n_each, replace=False) for _ in users])
        truth = of_user[u] + of_item[i]
        return np.column_stack([u, i]), truth + noise * rng.normal(size=len(u)), truth

    known, new = np.arange(100), np.arange(100, 150)
    X, y, _ = rows(known, 20)
    X_new, y_new, _ = rows(new, 1)
    X_test, _, truth = rows(new, 10)
    updated = clone(model).fit(X, y).partial_fit(X_new, y_new)
    anew = clone(model).fit(np.vstack([X, X_new]), np.append(y, y_new))
    assert rmse(updated, X_test, truth) < 1.05 * rmse(anew, X_test, truth)


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "model", [MFRegressor(), NCFRegressor(random_state=0)], ids=["vb", "neumf"]
)
def test_items_of_a_short_row_tell_no_more_than_they_can(real, model):
    rows, ratings, new, _ = real
    new_rows = rows[new].sample(frac=1, random_state=0)
    place = new_rows.groupby("user").cumcount()
    first, later = new_rows.index[place < 2], new_rows.index[place >= 2]

    def error(implicit_features):
        fitted = clone(model).set_params(implicit_features=implicit_features)
        fitted.fit(rows[~new], ratings[~new]).partial_fit(
            rows.loc[first], ratings[first]
        )
        return rmse(fitted, rows.loc[later], ratings[later])

    assert error(True) < 1.006 * error(False)


def test_ratings_of_another_world_are_refused_in_words():
    X, y = make_ratings(60, 40, 1600, random_state=0)
    for model in (MFRegressor(2, solver="adam"), NCFRegressor(2, n_members=2)):
        model.fit(X, y)
        before = pickle.dumps(vars(model))
        with pytest.raises(ValueError, match="Give ratings in the unit of fit"):
            model.partial_fit(X[:5], np.full(5, 1e25))
        assert pickle.dumps(vars(model)) == before


@pytest.mark.filterwarnings("ignore:The last fit was of")
@pytest.mark.parametrize("side", [0, 1])
def test_many_described_new_ids_are_learned_at_once_as_one_by_one(side):
    X, y = make_ratings(30, 30, 500, random_state=0)
    name = ("user", "item")[side]
    table = {f"{name}_features": pd.DataFrame({"age": np.arange(30) % 7})}
    known = (X[name] < 5).to_numpy()
    network = NCFRegressor(2, n_members=1, max_iter=2, random_state=0)
    network.set_params(implicit_features=True)
    alone = network.fit(X[known], y[known], **table)
    together = copied(alone).partial_fit(X[~known], y[~known])
    new = (X[name] == 9).to_numpy()
    alone.partial_fit(X[new], y[new])
    assert_allclose(together.predict(X[new]), alone.predict(X[new]), atol=0.8)
