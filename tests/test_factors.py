"""Factors trained elsewhere, against ridge regressions and products by NumPy."""

import numpy as np
import pandas as pd
import pytest
from helpers import copied

from skrec import MFRegressor
from skrec.metrics import RankingScorer

N_USERS, N_ITEMS, K = 40, 30, 4


@pytest.fixture(scope="module")
def factors():
    """Factors and biases of shuffled ids, and rows that they were trained on."""
    rng = np.random.default_rng(0)
    users = rng.permutation([f"u{number:02d}" for number in range(N_USERS)])
    items = rng.permutation(N_ITEMS) + 100
    pairs = [(u, i) for u in users for i in rng.choice(items, 6, replace=False)]
    return {
        "P": rng.normal(size=(N_USERS, K)),
        "Q": rng.normal(size=(N_ITEMS, K)),
        "b": rng.normal(size=N_USERS),
        "c": rng.normal(size=N_ITEMS),
        "users": users,
        "items": items,
        "X": pd.DataFrame(pairs, columns=["user", "item"]),
    }


def implicit_like(factors, **params):
    return MFRegressor.from_factors(
        factors["P"],
        factors["Q"],
        user_ids=factors["users"],
        item_ids=factors["items"],
        X=factors["X"],
        **params,
    )


def with_biases(factors, **params):
    return implicit_like(
        factors,
        user_biases=factors["b"],
        item_biases=factors["c"],
        intercept=3.0,
        **params,
    )


def places(ids, among):
    return pd.Index(among).get_indexer(ids)


def test_predictions_are_inner_products(factors):
    X = factors["X"]
    u, i = places(X["user"], factors["users"]), places(X["item"], factors["items"])
    product = (factors["P"][u] * factors["Q"][i]).sum(1)
    assert implicit_like(factors).predict(X) == pytest.approx(product, abs=1e-5)
    biased = 3 + factors["b"][u] + factors["c"][i] + product
    assert with_biases(factors).predict(X) == pytest.approx(biased, abs=1e-5)


def test_unknown_ids_have_the_mean_of_all(factors):
    model = with_biases(factors, rating_range=(1, 5))
    x, z = factors["P"].mean(0), factors["Q"][0]
    expected = 3 + factors["b"].mean() + factors["c"][0] + x @ z
    predicted = model.predict(
        pd.DataFrame({"user": ["new"], "item": factors["items"][:1]})
    )
    assert predicted == pytest.approx([np.clip(expected, 1, 5)], abs=1e-5)


def test_lists_are_the_best_that_are_not_seen(factors):
    model = implicit_like(factors)
    lists = model.recommend(factors["users"], n_items=5)
    scores = factors["P"] @ factors["Q"].T
    for row, user in enumerate(factors["users"]):
        seen = factors["X"]["item"][factors["X"]["user"] == user]
        scores[row, places(seen, factors["items"])] = -np.inf
    assert (lists == factors["items"][np.argsort(-scores)[:, :5]]).all()


def test_similar_items_are_those_that_the_same_users_like(factors):
    model = implicit_like(factors, reg=0.01)
    found = model.similar_items(factors["items"], n_items=3)
    profiles = factors["Q"] @ (factors["P"] - factors["P"].mean(0)).T
    cosines = np.corrcoef(profiles)
    np.fill_diagonal(cosines, -1)
    assert (found == factors["items"][np.argsort(-cosines)[:, :3]]).all()


def test_lists_are_scored(factors):
    model = implicit_like(factors)
    lists = model.recommend(factors["users"], n_items=1)
    best = pd.DataFrame({"user": factors["users"], "item": lists[:, 0]})
    assert RankingScorer("hit_rate", k=1)(model, best, np.ones(N_USERS)) == 1


def test_many_factors_are_folded_in():
    rng = np.random.default_rng(0)
    Q = rng.normal(size=(80, 60)) / 8
    model = MFRegressor.from_factors(Q[:50], Q, reg=0.3)
    before = model.item_factors_
    y = rng.normal(size=20)
    model.partial_fit([[99, item] for item in range(20)], y)
    x = np.linalg.solve(Q[:20].T @ Q[:20] + 0.3 * np.eye(60), Q[:20].T @ y)
    assert model.user_factors_[-1] == pytest.approx(x, abs=1e-2)
    assert model.item_factors_ == pytest.approx(before, abs=1e-5)


@pytest.mark.parametrize("exponent", [0, 1])
def test_new_user_is_a_ridge_regression_on_items(factors, exponent):
    model = with_biases(factors, reg=0.3, reg_exponent=exponent)
    rated, y = factors["items"][:5], np.array([5.0, 3.0, 4.0, 1.0, 2.0])
    w = np.array([1.0, 2.0, 0.5, 1.0, 3.0])
    X = pd.DataFrame({"user": "new", "item": rated})
    before = model.factors_frame("item")
    model.partial_fit(X, y, w)
    Z = np.column_stack([factors["Q"][:5], np.ones(5)])
    A = (Z.T * w) @ Z + 0.3 * w.sum() ** exponent * np.eye(K + 1)
    x = np.linalg.solve(A, Z.T @ (w * (y - 3 - factors["c"][:5])))
    row = model.factors_frame("user", ["new"]).to_numpy()[0]
    assert row == pytest.approx(x, abs=1e-4)
    # Known rows stay.
    assert model.factors_frame("item").to_numpy() == pytest.approx(before, abs=1e-5)


def test_new_user_of_choices_is_one_of_implicit(factors):
    # implicit minimises Σ c (1 − x·q)² over choices of confidence c, Σ (x·q)² over
    # other items, and reg ‖x‖². A rating of c / (c − 1) and weight c − 1 does too.
    model = implicit_like(factors, reg=0.1, reg_exponent=0, unobserved_weight=1.0)
    confidence, Q = np.array([3.0, 2.0, 5.0]), factors["Q"]
    A = Q.T @ Q + (Q[:3].T * (confidence - 1)) @ Q[:3] + 0.1 * np.eye(K)
    x = np.linalg.solve(A, Q[:3].T @ confidence)
    X = pd.DataFrame({"user": "new", "item": factors["items"][:3]})
    y = confidence / (confidence - 1)
    model.partial_fit(X, y, sample_weight=confidence - 1)
    row = model.factors_frame("user", ["new"])
    assert row[[f"factor_{j}" for j in range(K)]].to_numpy()[0] == pytest.approx(
        x, abs=1e-4
    )


def test_copies_are_alike_and_small(factors):
    model = with_biases(factors, reg=0.3)
    X = factors["X"]
    assert (copied(model).predict(X) == model.predict(X)).all()
    further = pd.DataFrame({"user": ["new"], "item": factors["items"][:1]})
    copy = copied(model).partial_fit(further, [4.0])
    model.partial_fit(further, [4.0])
    assert (copied(copy).predict(X) == model.predict(X)).all()
    assert len(model._model.users.covariance.stored) == 1


def test_ids_are_numbers_of_rows_by_default(factors):
    model = MFRegressor.from_factors(factors["P"], factors["Q"])
    assert model.predict([[3, 7]]) == pytest.approx(
        [factors["P"][3] @ factors["Q"][7]], abs=1e-5
    )
    assert model.recommend([0], n_items=N_ITEMS).shape == (1, N_ITEMS)


def test_without_penalty_nothing_is_folded_in(factors):
    with pytest.raises(ValueError, match="give reg to from_factors"):
        implicit_like(factors).partial_fit(factors["X"][:1], [1.0])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"item_factors": np.ones((3, 2))}, "as many columns"),
        ({"user_factors": np.ones(3)}, "must be of shape"),
        ({"user_factors": np.full((2, 3), np.nan)}, "finite"),
        ({"user_ids": ["a"]}, "an id for each row"),
        ({"user_ids": ["a", "a"]}, "distinct, but 'a'"),
        ({"item_biases": [1.0]}, "item_biases"),
        ({"X": [[5, 0]]}, "Each user of X must have factors"),
        ({"X": [[0, 0, 1]]}, "two columns"),
        ({"n_factors": 7}, "sets n_factors=3 .* got n_factors=7"),
        ({"solver": "vb"}, "got solver='vb'"),
        ({"unobserved_weight": 1.0, "intercept": 2.0}, "no intercept"),
    ],
)
def test_contradictions_are_refused(change, match):
    given = {"user_factors": np.ones((2, 3)), "item_factors": np.ones((4, 3))} | change
    with pytest.raises(ValueError, match=match):
        MFRegressor.from_factors(**given)
