"""Forgetting of users, items and rows."""

import pickle
import zipfile
from functools import cache

import numpy as np
import pandas as pd
import pytest
from helpers import copied, rmse
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from skrec import DummyRecommender, MFRegressor, NCFRegressor
from skrec.datasets import make_ratings

X, Y = make_ratings(60, 40, 1600, random_state=0)
MODELS = {
    "vb": MFRegressor(3, tol=0.02),
    "als": MFRegressor(3, solver="als", reg=4.0),
    "gibbs": MFRegressor(3, solver="gibbs", max_iter=3, random_state=0),
    "adam": MFRegressor(3, solver="adam", max_iter=2, random_state=0),
    "weighted": MFRegressor(3, solver="als", unobserved_weight=0.1),
    "rating": MFRegressor(3, rank_by="rating", tol=0.02),
    "ncf": NCFRegressor(3, n_members=2, max_iter=2, random_state=0),
    "dummy": DummyRecommender(),
}
FORGETS_ROWS = [name for name in MODELS if name not in ("gibbs", "adam", "ncf")]
USERS, ITEMS = [3, 17, 59], [0, 8]
IS_THEIRS = (X["user"].isin(USERS) | X["item"].isin(ITEMS)).to_numpy()


def rows_of(users, items):
    return pd.DataFrame(
        [(user, item) for user in users for item in items], columns=["user", "item"]
    )


@cache
def fitted_once(name):
    return clone(MODELS[name]).fit(X, Y)


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture
def fitted(name):
    return fitted_once(name)


@pytest.fixture
def model(fitted):
    return copied(fitted)


def test_forgotten_ids_are_unknown_again(model, fitted):
    assert model.forget(users=USERS, items=ITEMS) is model
    assert_array_equal(model.user_ids_, np.setdiff1d(fitted.user_ids_, USERS))
    assert_array_equal(model.item_ids_, np.setdiff1d(fitted.item_ids_, ITEMS))
    everybody = model.recommend(n_items=40, as_frame=True)
    assert not set(everybody["item"]) & set(ITEMS)
    assert not set(everybody["user"]) & set(USERS)
    refusing = copied(model).set_params(handle_unknown="error")
    with pytest.raises(ValueError, match="unknown users in 3 of 3 rows"):
        refusing.predict(rows_of(USERS, [5]))
    # Like anybody else without rows.
    strangers = model.predict(rows_of([3, 999], range(40)))
    assert_array_equal(strangers[:40], strangers[40:])
    lists = model.recommend([3, 999], n_items=40, return_scores=True)
    assert_array_equal(lists[0][0], lists[0][1])
    assert_array_equal(lists[1][0], lists[1][1])


def test_others_stay_as_they_are_if_no_rows_are_given(model, fitted):
    model.forget(users=USERS, items=ITEMS)
    assert_array_equal(model.predict(X[~IS_THEIRS]), fitted.predict(X[~IS_THEIRS]))
    items = model.item_ids_
    users = model.user_ids_[:20]
    found = model.recommend(users, 9, return_scores=True)
    expected = fitted.recommend(users, 9, candidates=items, return_scores=True)
    if getattr(model, "rank_by", "choice") == "rating":
        assert_array_equal(found[0], expected[0])
    else:
        # Choices of forgotten items, or users, no longer count.
        assert (found[0] == expected[0]).mean() > 0.4
    for side, ids in (("user", users), ("item", items[:9])):
        if isinstance(model, DummyRecommender):
            continue
        scores = getattr(model, f"similar_{side}s")(ids, 3, return_scores=True)[1]
        assert np.isfinite(scores).all()


def test_seen_items_and_counts_are_those_of_the_rows_that_are_left(model):
    model.forget(users=USERS, items=ITEMS)
    left = X[~IS_THEIRS]
    unseen = model.recommend(n_items=40, as_frame=True)
    pairs = set(zip(unseen["user"], unseen["item"], strict=True))
    n_pairs = len(model.user_ids_) * len(model.item_ids_)
    assert len(pairs) == n_pairs - len(left.drop_duplicates())
    assert not pairs & set(zip(left["user"], left["item"], strict=True))
    if isinstance(model, DummyRecommender):
        best = left.drop_duplicates()["item"].value_counts()
        top = model.recommend([999], len(best), return_scores=True)
        assert_array_equal(top[1][0], best.to_numpy())


def test_forgotten_ids_can_come_back(name, model):
    if name == "gibbs":
        pytest.skip("gibbs has no partial_fit")
    model.forget(users=USERS, items=ITEMS)
    again = model.partial_fit(X[IS_THEIRS], Y[IS_THEIRS])
    assert_array_equal(again.user_ids_, np.unique(X["user"]))
    assert_array_equal(again.item_ids_, np.unique(X["item"]))
    assert np.isfinite(again.predict(X)).all()
    found = again.recommend(USERS, 9, candidates=ITEMS, exclude_seen=False)
    assert set(found[:, :2].flat) == set(ITEMS)


@pytest.mark.parametrize("name", FORGETS_ROWS)
def test_ids_without_rows_are_forgotten_with_their_rows(model, fitted):
    mine = (X["user"] == 3).to_numpy()
    model.forget(X[mine], Y[mine])
    assert_array_equal(model.user_ids_, np.setdiff1d(fitted.user_ids_, [3]))
    assert_array_equal(model.item_ids_, fitted.item_ids_)
    everything = X[~mine], Y[~mine]
    with pytest.raises(ValueError, match="No users or no items would be left"):
        model.forget(*everything)
    with pytest.raises(ValueError, match="No users or no items would be left"):
        model.forget(users=model.user_ids_)
    assert len(model.user_ids_) == 59


@pytest.mark.parametrize("name", ["vb", "als", "rating"])
def test_a_forgotten_rating_can_be_given_again(model, fitted):
    some = np.arange(len(Y)) % 40 == 0
    model.forget(X[some], Y[some])
    forgotten = model.predict(X[some])
    assert np.abs(forgotten - fitted.predict(X[some])).mean() > 0.02
    assert rmse(model, X[some], Y[some]) > rmse(fitted, X[some], Y[some])
    model.partial_fit(X[some], Y[some])
    assert_allclose(model.predict(X), fitted.predict(X), atol=0.04)
    assert_allclose(model.noise_std_, fitted.noise_std_, rtol=1e-3)
    lists = model.recommend(n_items=3)
    assert (lists == fitted.recommend(n_items=3)).mean() > 0.97


@pytest.mark.parametrize("name", ["vb", "als"])
def test_a_rating_is_replaced_by_forgetting_the_old_one(model, fitted):
    """The two lines of the docs, against a fit that had the new ratings at once."""
    some = np.arange(len(Y)) % 80 == 0
    changed = np.where(some, 6 - Y, Y)
    pairs, old, new = X[some], Y[some], changed[some]
    expected = clone(fitted).fit(X, changed).predict(pairs)
    replaced = model.forget(pairs, old).partial_fit(pairs, new)
    twice = copied(fitted).partial_fit(pairs, new)

    def off(model):
        return np.abs(model.predict(pairs) - expected).mean()

    assert off(replaced) < 0.6 * off(twice)
    assert off(replaced) < 0.3 * off(fitted)


def test_rows_of_a_solver_without_a_posterior_are_refused(name, model):
    if name in FORGETS_ROWS:
        pytest.skip("it can forget rows")
    before = model.predict(X)
    with pytest.raises(ValueError, match="cannot take single rows back"):
        model.forget(X[:1], Y[:1])
    assert_array_equal(model.predict(X), before)


@pytest.mark.parametrize("name", ["vb"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "nothing to forget: pass rows as X, or ids"),
        ({"users": [3, 999]}, ValueError, "users must be known, but 1 of 2"),
        ({"items": ["Heat"]}, TypeError, "items holds ids of kind 'string'"),
        (
            {"X": rows_of([3], [999]), "y": [1]},
            ValueError,
            "not learned, such as user 3 with",
        ),
        (
            {"X": rows_of([999], [3]), "y": [1]},
            ValueError,
            "not learned, such as user 999",
        ),
        ({"X": X[:2]}, ValueError, "requires y to be passed"),
        ({"X": X[:2], "y": [1]}, ValueError, "X has 2 and y has 1"),
    ],
)
def test_what_cannot_be_forgotten_is_refused(model, arguments, error, message):
    with pytest.raises(error, match=message):
        model.forget(**arguments)


def test_a_pair_that_was_not_rated_is_refused():
    model = MFRegressor(2, tol=1e9).fit(X[1:], Y[1:])
    assert X.loc[0, "user"] in model.user_ids_
    with pytest.raises(ValueError, match="1 of 2 rows that the model has not learned"):
        model.forget(X[:2], Y[:2])


def test_rows_need_the_covariances_of_the_fit():
    model = MFRegressor(2, store_covariance=False, tol=1e9).fit(X, Y)
    with pytest.raises(ValueError, match=r"forget with solver='vb' .* covariances"):
        model.forget(X[:2], Y[:2])
    assert 3 not in model.forget(users=[3]).user_ids_


def test_choices_are_forgotten_without_ratings():
    model = MFRegressor().fit(X)
    mine = (X["user"] == 3).to_numpy()
    half = mine & (np.arange(len(X)) % 2 == 0)
    lists = copied(model).forget(X[half]).recommend([3], 40)[0]
    assert set(X["item"][half]) <= set(lists)
    assert not set(X["item"][mine & ~half]) & set(lists)
    # Strengths are sums over the rows that are left.
    fewer = MFRegressor().fit(X)
    fewer.forget(users=[3]).partial_fit(X[mine & ~half])
    rest = X["item"][half]
    found = copied(model).forget(X[half]).predict(rows_of([3], rest))
    assert_allclose(found, fewer.predict(rows_of([3], rest)), rtol=1e-4)


def test_features_of_forgotten_ids_are_forgotten():
    ages = pd.DataFrame({"age": np.arange(62.0)}, index=range(62))
    model = MFRegressor(2, tol=1e9).fit(X, Y, user_features=ages)
    model.partial_fit(rows_of([60, 61], [3]), [5, 1])
    model.forget(users=[60])
    pairs = rows_of([60, 999], range(40))
    found = model.predict(pairs)
    assert_array_equal(found[:40], found[40:])
    described = model.predict(pairs[:40], user_features=ages)
    assert (described != found[:40]).all()


@pytest.mark.parametrize("name", ["vb", "als", "ncf"])
@pytest.mark.parametrize("kind", ["number", "string"])
def test_ids_of_features_alone_are_forgotten(name, kind, tmp_path):
    def named(ids):
        return ids if kind == "number" else [f"id {number:02}" for number in ids]

    ages = pd.DataFrame({"age": np.arange(63.0)}, index=named(range(63)))
    rows = X.assign(user=named(X["user"]))
    model = copied(MODELS[name]).fit(rows, Y, user_features=ages)
    stranger, *cold, seen = named([999, 60, 61, 5])
    pairs = rows_of([stranger, *cold, seen], range(40))
    before = model.predict(pairs).reshape(4, 40)
    with pytest.raises(ValueError, match=r"users must be known, but 1 of 2 .*999"):
        model.forget(users=[cold[0], stranger])
    model.forget(users=[cold[0], seen, cold[0]])
    after = model.predict(pairs).reshape(4, 40)
    assert_array_equal(after[1], after[0])
    assert_array_equal(after[3], after[0])
    assert_array_equal(after[2], before[2])
    assert (before[1] != before[0]).any()
    with pytest.raises(ValueError, match="users must be known"):
        model.forget(users=[cold[0]])
    if kind == "string":
        model.save(tmp_path / "model.skrec")
        with zipfile.ZipFile(tmp_path / "model.skrec") as file:
            content = b"".join(map(file.read, file.namelist()))
        for codec in ("utf-8", "utf-32-le"):
            assert cold[0].encode(codec) not in content
        assert any(cold[1].encode(codec) in content for codec in ("utf-8", "utf-32-le"))


def test_a_fitted_model_does_not_keep_raw_ids():
    named = X.assign(user=X["user"].map("customer {:02}".format))
    model = MFRegressor(2, tol=1e9).fit(named, Y)
    mine = (X["user"] == 3).to_numpy()
    model.forget(named[mine], Y[mine], users=["customer 03"])
    assert b"customer 04" in pickle.dumps(model)
    assert b"customer 03" not in pickle.dumps(model)


def test_a_fit_goes_on_after_all_its_first_items_are_forgotten():
    old, new = [0, 1], [2, 3]
    first, later = ([[u, i] for u in range(6) for i in items] for items in (old, new))
    y = np.arange(12) % 5 + 1.0
    model = MFRegressor(2, implicit_features=True, warm_start=True, tol=0.1)
    model.fit(first, y).partial_fit(later, y[::-1]).forget(items=old)
    assert np.isfinite(model.fit(later, y).predict(later)).all()
    assert_array_equal(model.item_ids_, new)


@settings(max_examples=15)
@given(data=st.data())
@pytest.mark.parametrize("name", ["vb", "als", "weighted", "choices"])
def test_any_sequence_of_updates_leaves_the_ids_and_pairs_of_its_rows(name, data):
    rated = {
        (user, item): 1.0 + (user * item) % 5 for user in range(6) for item in (user, 7)
    }
    short = {"n_factors": 2, "tol": 0.1, "max_iter": 50}
    options = {
        "vb": short,
        "als": short | {"solver": "als"},
        "weighted": short | {"solver": "als", "unobserved_weight": 0.1},
        "choices": {},
    }[name]

    def rows(pairs):
        y = [rated[pair] for pair in pairs]
        frame = pd.DataFrame(pairs, columns=["user", "item"])
        return (frame,) if name == "choices" else (frame, y)

    model = MFRegressor(clip=False, **options).fit(*rows(list(rated)))
    for _ in range(4):
        some = data.draw(st.sets(st.sampled_from(sorted(rated)), max_size=8))
        if data.draw(st.booleans()):
            user = data.draw(st.integers(0, 9))
            new = {(user, item) for item in range(4)} - rated.keys()
            rated |= dict.fromkeys(new, 3.5)
            if new:
                model.partial_fit(*rows(sorted(new)))
        elif some:
            gone = {user for user, _ in some} if data.draw(st.booleans()) else set()
            left = {p for p in rated if p not in some and p[0] not in gone}
            if not left:
                continue
            forgotten = rows(sorted(some))
            model.forget(*forgotten, users=sorted(gone))
            rated = {pair: rated[pair] for pair in rated if pair in left}
        assert_array_equal(model.user_ids_, sorted({user for user, _ in rated}))
        assert_array_equal(model.item_ids_, sorted({item for _, item in rated}))
        lists = model.recommend(n_items=12, as_frame=True)
        unseen = set(zip(lists["user"], lists["item"], strict=True))
        n_pairs = len(model.user_ids_) * len(model.item_ids_)
        assert len(unseen) == n_pairs - len(rated)
        assert not unseen & rated.keys()
        assert np.isfinite(lists["score"]).all()
        everything = rows_of(range(10), range(8))
        assert np.isfinite(model.predict(everything)).all()
    fresh = model.set_params(warm_start=name != "choices").fit(*rows(sorted(rated)))
    assert_array_equal(fresh.user_ids_, sorted({user for user, _ in rated}))


def test_ids_of_given_factors_stay_without_rows():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(6, 2)), rng.normal(size=(5, 2))
    model = MFRegressor.from_factors(*factors, reg=1.0, X=[(0, 1), (0, 2), (1, 2)])
    answers = model.predict([(3, 0), (4, 4)])
    model.partial_fit([(9, 3)], [1.0]).forget(users=[0, 9])
    # 1 and 3 were items of theirs alone.
    assert_array_equal(model.user_ids_, [1, 2, 3, 4, 5])
    assert_array_equal(model.item_ids_, [0, 2, 4])
    assert_allclose(model.predict([(3, 0), (4, 4)]), answers)
