"""Rows of user and item as candidates of each user, for re-ranking."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from helpers import small_ncf
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from skrec import MFRegressor, NCFRegressor, _candidates
from skrec.datasets import make_ratings

X, Y = make_ratings(60, 40, 900, random_state=0)
MODELS = {
    "both": MFRegressor(2),
    "rating": MFRegressor(2, rank_by="rating"),
    "choice": MFRegressor(2, solver="als", rank_by="choice"),
    "gibbs": MFRegressor(2, solver="gibbs", max_iter=3, random_state=0),
    "ncf": NCFRegressor(2, n_members=2, max_iter=2, random_state=0),
}
RNG = np.random.default_rng(0)
# Of known and unknown users and items, in no order, some of them twice.
ROWS = pd.DataFrame(
    {"user": RNG.integers(70, size=600), "item": RNG.integers(45, size=600)}
)


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return clone(MODELS[request.param]).fit(X, Y)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"exclude_seen": False, "exclude": ROWS[::3]},
        {"never_exclude": X[::2]},
        {"n_items": 50},
    ],
)
def test_lists_are_those_of_one_user_at_a_time(model, options, monkeypatch):
    found = []
    for n_candidates in (1, 50, 2**13):
        monkeypatch.setattr(_candidates, "TILE_CANDIDATES", n_candidates)
        found.append(model.recommend(candidates=ROWS, return_scores=True, **options))
    users = np.unique(ROWS["user"])
    assert {len(lists) for lists, _ in found} == {len(users)}
    for row, user in list(enumerate(users))[::3]:
        own = ROWS["item"][ROWS["user"] == user]
        (expected,), (theirs,) = model.recommend(
            [user], candidates=own, return_scores=True, **options
        )
        # Other sizes of products round otherwise.
        bounded = np.maximum(theirs.astype(float), -1e9)
        is_clear = np.abs(np.diff(bounded, prepend=1e9)) > 1e-5
        is_clear &= np.abs(np.diff(bounded, append=-2e9)) > 1e-5
        for lists, scores in found:
            items = lists[row]
            assert_allclose(scores[row], theirs, rtol=1e-5, atol=1e-6)
            assert_array_equal(items[is_clear], expected[is_clear])
            assert set(items[~pd.isna(items)]) <= set(own)


def test_users_may_be_asked_for_in_any_order(model):
    users = [12, 3, 12, 999]
    rows = pd.DataFrame({"user": [3, 12, 3, 5, 12], "item": [1, 2, 3, 4, 777]})
    found = model.recommend(users, 3, candidates=rows, exclude_seen=False)
    assert_array_equal(found[0], found[2])
    assert set(found[0][:2]) == {2, 777}
    assert set(found[1][:2]) == {1, 3}
    assert pd.isna(found[3]).all()
    assert pd.isna(found[:, 2:]).all()
    frame = model.recommend(
        users, 3, candidates=rows, exclude_seen=False, as_frame=True
    )
    assert_array_equal(frame["user"], [12, 12, 3, 3, 12, 12])
    assert_array_equal(frame["item"], found[~pd.isna(found)])


def test_ties_go_to_the_first_row_of_the_user(model):
    rows = [(3, 902), (5, 901), (5, 902), (3, 901), (5, 900), (3, 903)]
    found = model.recommend(candidates=rows, n_items=3)
    assert_array_equal(found, [[902, 901, 903], [901, 902, 900]])


@pytest.mark.parametrize("kind", ["strings", "dates", "floats"])
def test_rows_come_in_any_container(kind):
    to_ids = {
        "strings": lambda ids: ids.astype(str).to_numpy(),
        "floats": lambda ids: ids.to_numpy() / 2,
        "dates": lambda ids: pd.to_datetime(ids, unit="D").to_numpy(),
    }[kind]  # fmt: skip
    known, rows = (
        pd.DataFrame({"user": to_ids(frame["user"]), "item": to_ids(frame["item"])})
        for frame in (X, ROWS)
    )
    model = MFRegressor(2, tol=1e9).fit(known, Y)
    expected = model.recommend(candidates=rows, as_frame=True)
    assert len(expected) > 300
    containers = [
        pl.from_pandas(rows),
        rows.to_numpy(dtype=object),
        list(rows.itertuples(index=False, name=None)),
        rows.to_numpy(dtype=object).tolist(),
        rows.assign(score=0.5),
        rows.to_records(index=False),
        pa.Table.from_pandas(rows),
    ]
    for container in containers:
        found = model.recommend(candidates=container, as_frame=True)
        pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def test_rows_go_with_ratings_draws_and_diversity():
    model = MFRegressor(2).fit(X, Y)
    visit = pd.DataFrame({"user": [77, 77], "item": [1, 2]}), [5.0, 1.0]
    rows = [(77, item) for item in range(1, 12)]
    found = model.recommend(candidates=rows, ratings=visit, n_items=9)
    expected = model.recommend([77], candidates=range(1, 12), ratings=visit, n_items=9)
    assert_array_equal(found, expected)
    explored = {"strategy": "sample", "random_state": 0, "diversity": 0.4}
    found = model.recommend(candidates=rows, n_items=4, **explored)
    expected = model.recommend([77], 4, candidates=range(1, 12), **explored)
    assert_array_equal(found, expected)


@pytest.mark.parametrize("rows", [np.empty((0, 2)), X[:0]])
def test_no_rows_are_no_candidates(rows):
    model = MFRegressor(2, tol=1e9).fit(X, Y)
    assert model.recommend(candidates=rows).shape == (0, 10)
    assert pd.isna(model.recommend([3], candidates=rows)).all()


def test_unknown_ids_in_rows_are_handled_as_asked():
    model = MFRegressor(2, tol=1e9, handle_unknown="error").fit(X, Y)
    with pytest.raises(ValueError, match="unknown candidates in 1 of 2 rows"):
        model.recommend(candidates=[(3, 4), (3, 777)])
    with pytest.raises(ValueError, match="unknown users"):
        model.recommend(candidates=[(3, 4), (777, 4)])
    with pytest.raises(TypeError, match="column 0 of candidates holds ids of kind"):
        model.recommend([3], candidates=[("ann", 4)])
    with pytest.raises(TypeError, match="column 1 of candidates holds ids of kind"):
        model.recommend(candidates=[(3, "Heat")])


@pytest.mark.parametrize("context", [["number"], ["kind"], ["number", "kind"]])
@pytest.mark.parametrize(
    "model",
    [
        MFRegressor(2, solver="als", rank_by="rating"),
        small_ncf(),
        small_ncf(architecture="gmf"),
    ],
)
def test_lists_of_no_candidates_are_empty(model, context):
    told = X.assign(number=RNG.random(len(X)), kind=np.where(X["item"] % 2, "a", "b"))
    told = told[[*X.columns, *context]]
    model.fit(told, Y)
    here = dict(told.iloc[0, 2:])
    for none in ([], X.iloc[:0]):
        for asked in ({}, {"context": here}):
            lists = model.recommend([1, 999], 3, candidates=none, **asked)
            assert lists.shape == (2, 3)
            assert pd.isna(lists).all()


@pytest.mark.parametrize("method", ["recommend", "similar_items", "predict"])
def test_a_mask_in_place_of_ids_is_refused(method):
    X = np.random.default_rng(0).integers((20, 5), size=(80, 2))
    y = np.random.default_rng(1).normal(size=80)
    model = MFRegressor(2).fit(X, y)
    calls = {
        "recommend": lambda: model.recommend([0], 3, candidates=[False, True, True]),
        "similar_items": lambda: model.similar_items(np.array([True, False])),
        "predict": lambda: model.predict(X > 3),
    }
    with pytest.raises(TypeError, match=r"True and False, .*_ids_\[mask\]"):
        calls[method]()
    flags = MFRegressor(2).fit(np.column_stack([X[:, 0] % 2 == 0, X[:, 1] > 2]), y)
    assert flags.recommend([True], 1, exclude_seen=False)[0][0] in (True, False)
    assert (flags.recommend([1], 1) == flags.recommend([True], 1)).all()
