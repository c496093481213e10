"""recommend and index vectors, the same promises for both estimators."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import voyager
from numpy.testing import assert_allclose, assert_array_equal

from skrec import MFRegressor, NCFRegressor
from skrec.datasets import make_ratings

N_USERS, N_ITEMS = 60, 90
X, Y = make_ratings(N_USERS, N_ITEMS, 1500, random_state=0)
SMALL = {"n_factors": 4, "random_state": 0}
MODELS = {
    "vb": MFRegressor(**SMALL),
    "gibbs": MFRegressor(**SMALL, solver="gibbs", max_iter=5),
    "unbiased": MFRegressor(**SMALL, biased=False),
    "bpr": MFRegressor(**SMALL, solver="adam", loss="bpr"),
    "gmf": NCFRegressor(**SMALL, n_members=2, max_iter=3, architecture="gmf"),
    "neumf": NCFRegressor(**SMALL, n_members=2, max_iter=3),
}
INNER_PRODUCTS = [name for name in MODELS if name != "neumf"]


@pytest.fixture(scope="module", params=MODELS)
def fitted(request):
    model = MODELS[request.param]
    return model.fit(X, Y > 3 if "loss" in str(model) else Y)


@pytest.fixture(scope="module")
def with_ties():
    """A model whose scores are small integers, so that many are equal and all exact."""
    model = MFRegressor(n_factors=2, solver="als").fit(X, Y)
    posterior = model._posterior
    model._posterior = replace(
        posterior,
        users=replace(posterior.users, mean=np.round(2 * posterior.users.mean)),
        items=replace(posterior.items, mean=np.round(2 * posterior.items.mean)),
    )
    return model


def brute_force(model, users, candidates, kept, n_items):
    """Lists by the definition, one user at a time."""
    seen = set(zip(X["user"], X["item"], strict=True)) - set(kept)
    lists = []
    for user in users:
        left = [item for item in candidates if (user, item) not in seen]
        pairs = pd.DataFrame({"user": user, "item": left})
        order = np.argsort(-model.predict(pairs), kind="stable")[:n_items]
        lists.append([left[place] for place in order])
    return lists


@pytest.mark.parametrize("tile_bytes", [1, 20_000, 2**26])
@pytest.mark.parametrize("tile_columns", [5, 2**17])
@pytest.mark.parametrize("n_items", [1, 10, 40])
def test_ties_go_to_the_candidate_that_comes_first(
    with_ties, monkeypatch, tile_bytes, tile_columns, n_items
):
    monkeypatch.setattr("skrec._topk.TILE_BYTES", tile_bytes)
    monkeypatch.setattr("skrec._topk.MAX_TILE_COLUMNS", tile_columns)
    model = with_ties.set_params(clip=False)
    ids = model.item_ids_
    shuffled = np.random.default_rng(0).permutation(ids)[:70]
    kept = X.iloc[::3]
    pairs = list(zip(kept["user"], kept["item"], strict=True))
    for given, candidates, never_exclude in (
        (None, ids, None),
        (shuffled, shuffled, None),
        (shuffled, shuffled, kept),
    ):
        found = model.recommend(
            n_items=n_items,
            candidates=given,
            never_exclude=never_exclude,
            as_frame=True,
        )
        expected = brute_force(
            model,
            model.user_ids_,
            candidates,
            [] if never_exclude is None else pairs,
            n_items,
        )
        lists = found.groupby("user")["item"].agg(list)
        assert lists.tolist() == expected


def test_rows_that_are_never_excluded_may_be_recommended_again(fitted):
    rows = X.iloc[:400]
    unknown = pd.DataFrame({"user": [-1, 0], "item": [0, -1]})
    frame = fitted.recommend(
        n_items=N_ITEMS, never_exclude=pd.concat([unknown, rows]), as_frame=True
    )
    found = pd.MultiIndex.from_frame(frame[["user", "item"]])
    assert pd.MultiIndex.from_frame(rows).isin(found).all()
    assert not pd.MultiIndex.from_frame(X.iloc[400:]).isin(found).any()


def test_containers_of_rows_never_to_be_excluded_are_alike(fitted):
    rows = X.iloc[:400]
    for container in (rows.to_numpy(), rows.to_numpy().tolist(), rows.assign(hour="x")):
        assert_array_equal(
            fitted.recommend(n_items=3, never_exclude=container),
            fitted.recommend(n_items=3, never_exclude=rows),
        )


@pytest.mark.parametrize(
    ("never_exclude", "error", "message"),
    [
        (
            [1, 2],
            ValueError,
            "never_exclude needs a column of users and a column of it",
        ),
        (X[["user"]], ValueError, r"a column of items, got shape \(1500, 1\)"),
        ([["ann", 3]], TypeError, "column 0 of never_exclude holds ids of kind 'str"),
        ([[None, 3]], ValueError, "column 0 of never_exclude holds 1 missing id"),
    ],
)
def test_bad_rows_never_to_be_excluded(with_ties, never_exclude, error, message):
    with pytest.raises(error, match=message):
        with_ties.recommend(never_exclude=never_exclude)


@pytest.mark.parametrize("fitted", INNER_PRODUCTS, indirect=True)
def test_inner_products_of_index_vectors_are_scores_but_for_a_constant(fitted):
    users, n_items = [3, 17, -1], len(fitted.item_ids_)
    vectors = fitted.user_index_vectors(users), fitted.item_index_vectors()
    assert [part.dtype for part in vectors] == [np.float32] * 2
    products = vectors[0].astype(np.float64) @ vectors[1].T
    items, scores = fitted.recommend(
        users, n_items, exclude_seen=False, return_scores=True
    )
    scores = np.take_along_axis(scores, np.argsort(items, axis=1), axis=1).ravel()
    ratio = np.ptp(scores) / np.ptp(products)
    shift = scores.mean() - ratio * products.mean()
    assert_allclose(ratio * products.ravel() + shift, scores, atol=2e-5)


@pytest.mark.parametrize("fitted", INNER_PRODUCTS, indirect=True)
def test_an_approximate_index_of_the_vectors_recommends_as_the_model_does(fitted):
    items = fitted.item_index_vectors()
    index = voyager.Index(voyager.Space.InnerProduct, items.shape[1], random_seed=0)
    index.add_items(items)
    found, _ = index.query(fitted.user_index_vectors(), k=10, query_ef=100)
    expected = fitted.recommend(n_items=10, exclude_seen=False)
    hits = [
        np.isin(fitted.item_ids_[row], best)
        for row, best in zip(found, expected, strict=True)
    ]
    assert np.mean(hits) > 0.99


def test_a_perceptron_has_no_index_vectors():
    model = MODELS["neumf"].fit(X, Y)
    for vectors in (model.item_index_vectors, model.user_index_vectors):
        with pytest.raises(ValueError, match="index vectors need a fit with archit"):
            vectors()
