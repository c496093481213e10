"""Shares of a user's rows in choices and in expected ratings."""

import numpy as np
import pandas as pd
import pytest
from helpers import copied
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from skrec import MFRegressor, NCFRegressor
from skrec.datasets import make_ratings

X, Y = make_ratings(50, 30, 900, random_state=0)
X["hour"] = np.random.default_rng(0).normal(size=len(X))
MINE = (X["user"] == 3).to_numpy()
ROWS = X[MINE], Y[MINE]
MODELS = {
    "vb": MFRegressor(2, clip=False),
    "als": MFRegressor(2, solver="als", reg=4.0, tol=1e-9, max_iter=500, clip=False),
    "no biases": MFRegressor(2, biased=False, clip=False),
    "biases alone": MFRegressor(0, clip=False),
    "rating": MFRegressor(2, rank_by="rating", clip=False),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return clone(MODELS[request.param]).fit(X, Y)


def at_mean_context(user, items):
    hour = X["hour"].mean()
    return pd.DataFrame({"user": user, "item": items, "hour": hour})


def test_shares_of_ratings_sum_to_the_expected_rating(model):
    items = [5, 1, 17]
    reasons = model.explain(3, items, part="rating", ratings=ROWS)
    assert list(reasons.columns) == ["item", "because", "contribution"]
    n_reasons = MINE.sum() + 1
    assert_array_equal(reasons["item"], np.repeat(items, n_reasons))
    sums = reasons.groupby("item", sort=False)["contribution"].sum()
    assert_allclose(sums, model.predict(at_mean_context(3, items)), rtol=1e-6)
    for _, of_item in reasons.groupby("item"):
        assert (np.diff(of_item["contribution"]) <= 0).all()
        assert of_item["because"].isna().sum() == 1
        assert set(of_item["because"].dropna()) == set(X["item"][MINE])


def test_all_else_is_the_mean_and_the_bias_of_the_item_for_a_penalty():
    """The prior mean of a user is 0 by als, so that its rows explain all the rest."""
    model = clone(MODELS["als"]).fit(X, Y)
    items = model.item_ids_
    reasons = model.explain(3, items, part="rating", ratings=ROWS)
    rest = reasons[reasons["because"].isna()]["contribution"]
    mean_context = model.intercept_ + model.coef_[0] * X["hour"].mean()
    assert_allclose(rest, mean_context + model.item_biases_, atol=2e-3)


def test_shares_are_those_of_a_ridge_regression():
    model = clone(MODELS["als"]).fit(X, Y)
    reasons = model.explain(3, [5], part="rating", ratings=ROWS)
    scale = np.std(Y)
    Q = model.item_factors_[X["item"][MINE]] / np.sqrt(scale)
    Z = np.column_stack([Q, np.ones(len(Q))])
    linear = model.intercept_ + model.coef_[0] * X["hour"][MINE]
    target = (Y[MINE] - linear - model.item_biases_[X["item"][MINE]]) / scale
    z = np.append(model.item_factors_[5] / np.sqrt(scale), 1)
    A = Z.T @ Z + 4.0 * np.eye(3)
    expected = scale * (Z @ np.linalg.solve(A, z)) * target
    expected = expected.groupby(X["item"][MINE]).sum()
    found = reasons.dropna().set_index("because")["contribution"]
    assert_allclose(found[expected.index].astype(float), expected, atol=2e-3)


@pytest.mark.parametrize("solver", ["vb", "als"])
def test_a_share_is_linear_in_its_residual(solver):
    """Another rating of one row changes its own share alone."""
    model = clone(MODELS[solver]).fit(X, Y)
    changed = Y[MINE].copy()
    changed[4] += 1
    item = X["item"][MINE].iloc[4]
    first, second, third = (
        model.explain(3, [5], part="rating", ratings=(X[MINE], y))
        .dropna()
        .set_index("because")["contribution"]
        .sort_index()
        for y in (Y[MINE], changed, 2 * changed - Y[MINE])
    )
    is_changed = first.index == item
    assert_allclose(second[~is_changed], first[~is_changed])
    assert_allclose((third - second)[is_changed], (second - first)[is_changed])
    assert (second[is_changed] > first[is_changed]).all()


@pytest.mark.parametrize("part", ["choice", "rating"])
@pytest.mark.parametrize("user", [99, 3])
def test_new_rows_count_in_this_call_alone(part, user):
    model = clone(MODELS["vb"]).fit(X, Y)
    new = pd.DataFrame({"user": user, "item": [2, 7, 11], "hour": 0.0})
    seen = set(X["item"][X["user"] == user])
    new = new[~new["item"].isin(seen)]
    rating = np.linspace(1, 5, len(new))
    before = model.predict(X)
    known = ROWS[0] if user == 3 else new[:0]
    rows = pd.concat([known, new]), np.append(ROWS[1][: len(known)], rating)
    found = model.explain(user, [5, 1], part=part, ratings=rows)
    grown = copied(model).partial_fit(new, rating)
    expected = grown.explain(user, [5, 1], part=part, ratings=rows)
    pd.testing.assert_frame_equal(found, expected)
    assert set(new["item"]) <= set(found["because"].dropna())
    assert_array_equal(model.predict(X), before)
    assert 99 not in model.user_ids_


def test_choices_of_a_visitor_are_explained_without_ratings():
    pairs = X[["user", "item"]]
    model = MFRegressor().fit(pairs)
    visit = pd.DataFrame({"user": [99, 99], "item": [2, 7]})
    reasons = model.explain(99, [5], ratings=visit)
    assert set(reasons["because"].dropna()) == {2, 7}
    grown = copied(model).partial_fit(visit)
    assert_allclose(
        reasons["contribution"].sum(),
        grown.predict(pd.DataFrame({"user": [99], "item": [5]})),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"part": "both"}, "part must be 'choice' or 'rating', .* got 'both'"),
        ({"part": "rating"}, r"pass ratings=\(X, y\)"),
        ({"part": "rating", "ratings": X[MINE]}, r"pass ratings=\(X, y\)"),
        ({"ratings": (X[:9], Y[:9])}, "rows of user 3 alone, but . of 9 are of others"),
        ({"user": 99}, "users must be known"),
        ({"items": [777]}, "items must be known"),
    ],
)
def test_what_cannot_be_explained_is_refused(arguments, message):
    model = clone(MODELS["vb"]).fit(X, Y)
    with pytest.raises(ValueError, match=message):
        model.explain(**{"user": 3, "items": [5]} | arguments)


@pytest.mark.parametrize(
    "model",
    [
        MFRegressor(2, solver="gibbs", max_iter=2, random_state=0),
        MFRegressor(2, store_covariance=False),
        MFRegressor(2, solver="als", unobserved_weight=0.1),
        MFRegressor(2, solver="adam", max_iter=1, random_state=0),
        NCFRegressor(2, n_members=2, max_iter=1, random_state=0),
    ],
)
def test_ratings_of_other_models_have_no_shares(model):
    model = clone(model).fit(X, Y)
    with pytest.raises(ValueError, match="part='rating' needs the posterior"):
        model.explain(3, [5], part="rating", ratings=ROWS)
