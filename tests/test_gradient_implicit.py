"""Shares of rows from whom they have ratings with, against dense algebra in float64."""

from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import least_count, small_ncf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import root_mean_squared_error
from torch.nn import Parameter

from skrec import NCFRegressor
from skrec._data.interactions import Interactions
from skrec._data.sides import Sides
from skrec._gradient.fold_in import FoldIn
from skrec._gradient.implicit import Counterparts, ImplicitTerm
from skrec._gradient.noise import Selection
from skrec.datasets import make_ratings

SIDES = ("user", "item")
SETTINGS = settings(max_examples=30)


def random_pairs(seed, n_users=6, n_items=5, n_samples=14):
    """Samples with repeated pairs, as users and items; the last of each has none."""
    rng = np.random.default_rng(seed)
    users = rng.integers(n_users - 1, size=n_samples)
    items = rng.integers(n_items - 1, size=n_samples)
    return users, items, (n_users, n_items)


def dense_factors(users, items, shape, left_out=()):
    """1/√n of each pair, or √n / n′ with pairs left out, and the means of 1/√n."""
    pairs = np.zeros(shape)
    pairs[users, items] = 1
    n = pairs.sum(axis=1, keepdims=True)
    mean = (pairs / np.sqrt(np.maximum(n, 1))).mean(axis=0)
    pairs[users[left_out], items[left_out]] = 0
    left = pairs.sum(axis=1, keepdims=True)
    return pairs * np.sqrt(n) / np.maximum(left, 1), mean


def of_side(side, users, items, shape):
    """Rows, their counterparts, and the shape, from a side."""
    return (users, items, shape) if side == "user" else (items, users, shape[::-1])


def counterparts_of(users, items, shape):
    return Counterparts.of(torch.as_tensor(users), torch.as_tensor(items), *shape)


@pytest.mark.parametrize("side", SIDES)
@SETTINGS
@given(st.integers(0, 999), st.integers(0, 14))
def test_shares_are_those_of_the_dense_factors(side, seed, n_left_out):
    users, items, shape = random_pairs(seed)
    counterparts = counterparts_of(users, items, shape)
    left_out = np.random.default_rng(seed).permutation(14)[:n_left_out]
    kept = counterparts.without(torch.as_tensor(left_out))
    factors, mean = dense_factors(*of_side(side, users, items, shape), left_out)
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(factors.shape[1], 3))
    rows = rng.normal(size=(factors.shape[0], 3))
    found = counterparts.terms(side, torch.as_tensor(weights).float(), kept)
    assert_allclose(found, factors @ weights - mean @ weights, atol=1e-5)
    found = counterparts.transposed(side, torch.as_tensor(rows).float(), kept)
    assert_allclose(found, factors.T @ rows, atol=1e-5)
    assert_allclose(counterparts.mean(side), mean, atol=1e-6)
    if not n_left_out:
        of_all = counterparts.terms(side, torch.as_tensor(weights).float())
        assert_allclose(of_all.mean(dim=0), 0, atol=1e-6)


@pytest.mark.parametrize("side", SIDES)
def test_gradients_of_counterparts_are_those_of_the_rows_that_they_add_to(side):
    users, items, shape = random_pairs(3)
    left_out = np.array([2, 5])
    factors, mean = dense_factors(*of_side(side, users, items, shape), left_out)
    factors = torch.as_tensor(factors - mean)
    rng = np.random.default_rng(0)
    n_rows, n_others = factors.shape
    tables = [
        Parameter(torch.as_tensor(rng.normal(size=(n_rows + 1, 2, *size))).float())
        for size in ((3,), ())
    ]
    weights = [
        Parameter(torch.as_tensor(rng.normal(size=(n_others, 2, *size))).float())
        for size in ((3,), ())
    ]
    counterparts = counterparts_of(users, items, shape)
    term = ImplicitTerm(counterparts, side, tables, weights, 0.25, torch.ones(n_rows))
    term.update(counterparts.without(torch.as_tensor(left_out)))
    # Two steps, whose objectives are linear functions of the tables.
    slopes = [[torch.randn_like(table) for table in tables] for _ in range(2)]
    for step in slopes:
        term.accumulate([slope[:-1] for slope in step])
    term.set_gradients(2)
    dense = [w.detach().double().requires_grad_() for w in weights]
    objective = 0.25 * sum(w.square().sum() for w in dense)
    for step in slopes:
        for slope, w in zip(step, dense, strict=True):
            rows = torch.einsum("ro,o...->r...", factors, w)
            objective = objective + (slope[:-1] * rows).sum() / 2
    objective.backward()
    for weight, expected in zip(weights, dense, strict=True):
        assert_allclose(weight.grad, expected.grad, rtol=1e-4, atol=1e-5)


def by_taste(seed=0, n_users=240, n_items=120, n_each=14):
    """Ratings of users of two kinds, who mostly rate items that their kind likes."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n_users) % 2
    is_liked = np.arange(n_items) % 2 == kind[:, None]
    rows = []
    for user in range(n_users):
        chance = np.where(is_liked[user], 9.0, 1.0)
        items = rng.choice(n_items, n_each, replace=False, p=chance / chance.sum())
        rows += [(user, item) for item in items]
    X = pd.DataFrame(rows, columns=["user", "item"])
    y = 3 + np.where(is_liked[X["user"], X["item"]], 1, -1) + rng.normal(0, 1, len(X))
    return X, y, is_liked


X, Y, IS_LIKED = by_taste()


def test_whom_rows_have_ratings_with_is_known_to_be_random_or_not():
    def is_told(*pairs):
        (users, u), (items, i) = (np.unique(x, return_inverse=True) for x in pairs)
        one, nothing = np.ones(len(u)), np.empty((len(u), 0))
        rows = Sides(users, items), Sides(u, i), one, one, nothing
        return Selection(Interactions.from_numbers(*rows)).is_informative

    assert is_told(X["user"], X["item"])
    random, y = make_ratings(random_state=0)
    assert not is_told(random["user"], random["item"])
    # Too few pairs to tell, or a single user.
    assert is_told(np.arange(20), np.arange(20))
    assert is_told(np.zeros(9, dtype=int), np.arange(9))
    assert not small_ncf(max_iter=1).fit(random, y)._model.shape.implicit_features
    assert small_ncf(max_iter=1).fit(X, Y)._model.shape.implicit_features


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_networks_that_know_who_rated_what_are_more_accurate(solver):
    rng = np.random.default_rng(1)
    is_test = rng.random(len(X)) < 0.2
    errors = {}
    for implicit in (True, False):
        ncf = NCFRegressor(
            4,
            8,
            n_members=2,
            solver=solver,
            implicit_features=implicit,
            rank_by="rating",
            random_state=0,
        ).fit(X[~is_test], Y[~is_test])
        errors[implicit] = root_mean_squared_error(Y[is_test], ncf.predict(X[is_test]))
    assert errors[True] < 0.97 * errors[False]


@pytest.fixture(scope="module")
def fitted():
    ncf = NCFRegressor(
        4, 8, n_members=2, implicit_features=True, rank_by="rating", random_state=0
    )
    return ncf.fit(X, Y)


def test_rows_of_new_users_follow_from_their_items_at_once(fitted, monkeypatch):
    # No step of any optimizer.
    monkeypatch.setattr(FoldIn, "sweep", lambda self: (0.0, True))
    monkeypatch.setattr(FoldIn, "_prior", lambda self, side, past: None)
    weights, rated = fitted._model.weights, [1, 3, 5, 9, 11]
    rows = pd.DataFrame({"user": 999, "item": rated})
    visited = pd.DataFrame({"user": [1000], "item": [4000]})
    model = deepcopy(fitted).partial_fit(pd.concat([rows, visited]), [3.0] * 6)
    least = least_count(X["user"])
    for name in ("factors", "embedding", "bias"):
        of_items, unseen = weights[f"user_implicit_{name}"], weights[f"user_{name}"][-1]
        mean = np.tensordot(weights["user_implicit_mean"], of_items, axes=1)
        found = model._model.weights[f"user_{name}"]
        # Fewer items than those of nearly all users tell less.
        told = np.sqrt(5 / least) * (of_items[rated].sum(0) / np.sqrt(5) - mean)
        assert_allclose(found[-3], unseen + told, rtol=1e-4, atol=1e-5)
        # A user of a new item alone has no share in the sum.
        told = -np.sqrt(1 / least) * mean
        assert_allclose(found[-2], unseen + told, rtol=1e-4, atol=1e-5)
    # All rated items are of one kind, so such items are what the user likes.
    unrated = np.setdiff1d(np.arange(120), rated)
    pairs = pd.DataFrame({"user": 999, "item": unrated})
    scores = model.predict(pairs)
    is_odd = unrated % 2 == 1
    assert scores[is_odd].mean() > scores[~is_odd].mean() + 0.5
    lists = fitted.recommend([999], 10, ratings=(rows, [3.0] * 5))
    assert np.mean(lists % 2 == 1) > 0.9


def test_known_users_move_with_further_items(fitted, monkeypatch):
    monkeypatch.setattr(FoldIn, "sweep", lambda self: (0.0, True))
    weights = fitted._model.weights
    user = 7
    seen = X["item"][X["user"] == user].to_numpy()
    further = np.setdiff1d([2, 60, 61], seen)
    model = deepcopy(fitted).partial_fit(
        pd.DataFrame({"user": user, "item": np.append(further, seen[:1])}),
        np.full(len(further) + 1, 4.0),
    )
    for name in ("factors", "embedding", "bias"):
        of_items, own = weights[f"user_implicit_{name}"], weights[f"user_{name}"]
        before = of_items[seen].sum(0) / np.sqrt(len(seen))
        everything = np.append(seen, further)
        after = of_items[everything].sum(0) / np.sqrt(len(everything))
        found = model._model.weights[f"user_{name}"][user]
        assert_allclose(found, own[user] - before + after, rtol=1e-4, atol=1e-5)


def test_counterparts_come_and_go_with_their_ids(fitted):
    model = deepcopy(fitted).forget(items=[3])
    kept = np.setdiff1d(np.arange(120), 3)
    for name in ("user_implicit_factors", "user_implicit_mean"):
        expected = fitted._model.weights[name][kept]
        assert_array_equal(model._model.weights[name], expected)
    grown = model.partial_fit(pd.DataFrame({"user": [5], "item": [3]}), [4.0])
    assert not grown._model.weights["user_implicit_factors"][3].any()
    assert len(grown._model.weights["item_implicit_factors"]) == 240


def test_a_warm_start_keeps_whether_it_knows_who_rated_what(fitted):
    model = deepcopy(fitted).set_params(warm_start=True, implicit_features=None)
    before = fitted.predict(X)
    model.set_params(max_iter=1, learning_rate_init=1e-6).fit(X, Y)
    assert model._model.shape.implicit_features
    assert_allclose(model.predict(X), before, atol=0.2)
    with pytest.raises(ValueError, match=r"implicit_features \(was True, now False\)"):
        model.set_params(implicit_features=False).fit(X, Y)


@pytest.mark.parametrize("loss", ["huber", "log_loss", "bpr"])
def test_other_losses_can_know_who_rated_what(loss):
    is_of_choices = loss != "huber"
    rows, y = (X[Y > 3], None) if is_of_choices else (X, Y)
    by_default = small_ncf(loss=loss, max_iter=1).fit(rows, y)
    assert by_default._model.shape.implicit_features is not is_of_choices
    ncf = small_ncf(
        loss=loss, implicit_features=True, n_factors=4, max_iter=10, rank_by="both"
    )
    lists = ncf.fit(rows, y).recommend(n_items=5)
    hits = IS_LIKED[ncf.user_ids_[:, None], lists]
    assert hits.mean() > 0.8
