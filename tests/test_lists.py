"""recommend, similar and index vectors, the same promises for both estimators."""

import copy
import datetime
import itertools
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import voyager
from helpers import all_scores
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import spearmanr
from sklearn.base import clone

from skrec import MFRegressor, NCFRegressor
from skrec.datasets import make_ratings
from skrec.metrics import catalogue_coverage, novelty

N_USERS, N_ITEMS = 60, 90
X, Y = make_ratings(N_USERS, N_ITEMS, 1500, random_state=0)
SMALL = {"n_factors": 4, "rank_by": "rating", "random_state": 0}
MODELS = {
    "vb": MFRegressor(**SMALL),
    "gibbs": MFRegressor(**SMALL, solver="gibbs", max_iter=5),
    "unbiased": MFRegressor(**SMALL, biased=False),
    "bpr": MFRegressor(**SMALL, solver="adam", loss="bpr"),
    "gmf": NCFRegressor(**SMALL, n_members=2, max_iter=3, architecture="gmf"),
    "neumf": NCFRegressor(**SMALL, n_members=2, max_iter=3),
    "choice": MFRegressor(**SMALL | {"rank_by": "choice"}),
    "vb, both": MFRegressor(**SMALL | {"rank_by": "both"}),
    "neumf, both": NCFRegressor(**SMALL | {"rank_by": "both"}, n_members=2, max_iter=3),
}
INNER_PRODUCTS = [
    name for name in MODELS if name != "neumf" and not name.endswith("both")
]


@pytest.fixture(scope="module", params=MODELS)
def fitted(request):
    model = MODELS[request.param]
    return model.fit(X, Y > 3 if "loss" in str(model) else Y)


@pytest.fixture(scope="module")
def with_ties():
    """A model whose parts score in small integers: many are equal and all exact."""
    model = MFRegressor(n_factors=2, solver="als", clip=False).fit(X, Y)
    posterior, choice = model._model, model._autoencoder
    model._model = replace(
        posterior,
        users=replace(posterior.users, mean=np.round(2 * posterior.users.mean)),
        items=replace(posterior.items, mean=np.round(2 * posterior.items.mean)),
    )
    model._choice = replace(
        choice,
        item_vectors=np.round(2 * choice.item_vectors),
        input_scale=np.ones_like(choice.input_scale),
        shrinkage=np.ones_like(choice.shrinkage),
        mean_input=np.zeros_like(choice.mean_input),
    )
    return model


def scores_by_definition(model, rank_by):
    """Scores of all pairs, a row per user."""
    rating = all_scores(model, model.user_ids_)
    if rank_by == "rating":
        return rating
    choice = model._autoencoder.user_vectors(np.arange(N_USERS)) @ (
        model._autoencoder.item_vectors.T
    )
    if rank_by == "choice":
        return choice
    # Numbers of 32 bits, as lists are made of, so that equal scores are equal.
    low, high = model._autoencoder.ratings.range
    gain = (rating.astype(np.float32).clip(low, high) - low) / (high - low) + 0.25
    return np.where(choice > 0, choice * gain, choice / gain).astype(np.float32)


# More than the rows of any tile but the largest.
N_ASKED = 15


def brute_force(model, scores, candidates, kept):
    """Lists of all that is left, by the definition, one user at a time."""
    seen = set(zip(X["user"], X["item"], strict=True)) - set(kept)
    lists = []
    for user, of_user in zip(model.user_ids_[:N_ASKED], scores, strict=False):
        left = [item for item in candidates if (user, item) not in seen]
        places = np.searchsorted(model.item_ids_, left)
        order = np.argsort(-of_user[places], kind="stable")
        lists.append([left[place] for place in order])
    return lists


@pytest.fixture(scope="module", params=["rating", "choice", "both"])
def expected_lists(request, with_ties):
    """A model, and the lists of candidates and rows that are never excluded."""
    model = copy.copy(with_ties).set_params(rank_by=request.param)
    scores = scores_by_definition(model, request.param)
    assert len(np.unique(scores)) < scores.size / 5
    ids = model.item_ids_
    shuffled = np.random.default_rng(0).permutation(ids)[:70]
    kept = X.iloc[::3]
    pairs = list(zip(kept["user"], kept["item"], strict=True))
    return model, [
        (None, None, brute_force(model, scores, ids, [])),
        (shuffled, None, brute_force(model, scores, shuffled, [])),
        (shuffled, kept, brute_force(model, scores, shuffled, pairs)),
    ]


@pytest.mark.parametrize("tile_bytes", [1, 20_000, 2**26])
@pytest.mark.parametrize("tile_columns", [5, 2**17])
@pytest.mark.parametrize("n_items", [1, 10, 40])
def test_ties_go_to_the_candidate_that_comes_first(
    expected_lists, monkeypatch, tile_bytes, tile_columns, n_items
):
    monkeypatch.setattr("skrec._topk.TILE_BYTES", tile_bytes)
    monkeypatch.setattr("skrec._topk.MAX_TILE_COLUMNS", tile_columns)
    monkeypatch.setattr("skrec._choice.expected_gain.MAX_COLUMNS", 4)
    model, cases = expected_lists
    for candidates, never_exclude, expected in cases:
        found = model.recommend(
            model.user_ids_[:N_ASKED],
            n_items=n_items,
            candidates=candidates,
            never_exclude=never_exclude,
            as_frame=True,
        )
        lists = found.groupby("user")["item"].agg(list)
        assert lists.tolist() == [whole[:n_items] for whole in expected]


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
    assert fitted.user_index_vectors([]).shape == (0, vectors[1].shape[1])
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
    # Threads that insert at the same time leave a graph that differs from run to run.
    index.add_items(items, num_threads=1)
    users = fitted.user_index_vectors()
    found, _ = index.query(users, k=10, num_threads=1, query_ef=len(items))
    expected = fitted.recommend(n_items=10, exclude_seen=False)
    expected = np.searchsorted(fitted.item_ids_, expected)
    # By scores, since items of equal ones can change places.
    scores = users @ items.T
    ours, theirs = (np.take_along_axis(scores, of, 1) for of in (expected, found))
    assert np.isclose(ours, theirs, rtol=1e-4).mean() > 0.99


def test_a_perceptron_has_no_index_vectors():
    model = MODELS["neumf"].fit(X, Y)
    for vectors in (model.item_index_vectors, model.user_index_vectors):
        with pytest.raises(ValueError, match="index vectors need a fit with archit"):
            vectors()


# Users of numbers 0 to 11 and items of numbers 0 to 7; others are unknown.
PAIRS = np.array([(u, i) for u in range(12) for i in range(8) if (u + i) % 3])
KINDS = {
    "strings": lambda n: np.array([f"id {i:+04}" for i in n], dtype=object),
    "ints": lambda n: np.array(n, dtype=np.int64) * 5,
    "floats": lambda n: np.array(n, dtype=float) / 2,
    "dates": lambda n: (
        np.datetime64("2024-06-01", "ns") + np.array(n, dtype="m8[D]").astype("m8[ns]")
    ),
}
CONTAINERS = {
    "list": list,
    "array": np.asarray,
    "series": pd.Series,
    "polars": lambda ids: pl.Series(ids.tolist() if ids.dtype == object else ids),
}
QUERIES = {
    "none": [],
    "one": [3],
    "unknown": [-1],
    "twice": [3, 5, 3],
    "mixed": [-2, 3, -1, 3, -2],
}
SWEPT = {
    "vb": MFRegressor(2, tol=1e9, clip=False),
    "als": MFRegressor(2, solver="als", tol=1e9, clip=False),
    "gibbs": MFRegressor(2, solver="gibbs", max_iter=2, random_state=0, clip=False),
    "adam": MFRegressor(2, solver="adam", max_iter=1, random_state=0, clip=False),
    "bpr": MFRegressor(2, solver="adam", loss="bpr", max_iter=1, random_state=0),
    "neumf": NCFRegressor(2, (3,), max_iter=1, random_state=0, clip=False),
    "rating": MFRegressor(2, tol=1e9, clip=False, rank_by="rating"),
    "choice": MFRegressor(2, tol=1e9, rank_by="choice"),
}


def rows_of(kind, pairs=PAIRS):
    return pd.DataFrame({"u": KINDS[kind](pairs[:, 0]), "i": KINDS[kind](pairs[:, 1])})


def check_lists(items, scores, frame, queries, n, dtype):
    """The three forms of an answer are one, and of the shape asked for."""
    assert items.shape == scores.shape == (len(queries), n)
    assert scores.dtype == np.float32
    empty = pd.isna(items)
    assert_array_equal(empty, np.isneginf(scores))
    assert (np.diff(empty.astype(int), axis=1) >= 0).all()
    assert items.dtype == (object if empty.any() and dtype.kind == "i" else dtype)
    assert frame.iloc[:, 1].to_numpy().dtype == dtype
    assert_array_equal(frame.iloc[:, 1], items[~empty])
    assert_array_equal(frame["score"], scores[~empty])
    assert_array_equal(frame.iloc[:, 0], np.repeat(queries, (~empty).sum(axis=1)))
    assert_array_equal(frame["rank"], np.nonzero(~empty)[1] + 1)


@pytest.mark.parametrize(
    ("name", "kind", "containers"),
    [("vb", kind, list(CONTAINERS)) for kind in KINDS]
    # No solver sees a container.
    + [
        (name, "strings", ["list", container])
        for name, container in zip(
            [name for name in SWEPT if name != "vb"],
            itertools.cycle(["polars", "series", "array"]),
            strict=False,
        )
    ]
    + [("neumf", "dates", ["list", "array"])],
)
def test_every_call_answers_any_number_of_ids_in_any_container(name, kind, containers):
    model, X = clone(SWEPT[name]), rows_of(kind)
    model.fit(X, np.arange(len(X)) % 2)
    dtype = model.item_ids_.dtype
    for query, numbers in QUERIES.items():
        ids, everything = KINDS[kind](numbers), []
        known = KINDS[kind]([n for n in numbers if n >= 0])
        for container in map(CONTAINERS.get, containers):
            asked = container(ids)
            answers = []
            for n in (2, 11):
                for users, candidates in ((asked, None), (None, asked), (asked, asked)):
                    call = {"users": users, "n_items": n, "candidates": candidates}
                    items, scores = model.recommend(**call, return_scores=True)
                    frame = model.recommend(**call, as_frame=True)
                    queries = model.user_ids_ if users is None else ids
                    check_lists(items, scores, frame, queries, n, dtype)
                    answers += [items, scores]
                for similar in (model.similar_items, model.similar_users):
                    found = similar(container(known), n, return_scores=True)
                    frame = similar(container(known), n, as_frame=True)
                    check_lists(*found, frame, known, n, dtype)
                    answers += found
            if name != "neumf":
                vectors = model.user_index_vectors(asked)
                assert vectors.shape == (len(ids), model.item_index_vectors().shape[1])
                answers.append(vectors)
            if len(ids):
                pairs = pd.DataFrame({"u": ids, "i": ids[::-1]})
                pairs = pl.from_pandas(pairs) if container is pl.Series else pairs
                answers.append(model.predict(pairs))
                assert answers[-1].shape == (len(ids),)
            if len(known) < len(ids):
                for similar in (model.similar_items, model.similar_users):
                    with pytest.raises(ValueError, match="must be known"):
                        similar(asked)
            everything.append(answers)
        for answers in everything[1:]:
            for found, expected in zip(answers, everything[0], strict=True):
                assert_array_equal(found, expected, err_msg=query)


@pytest.mark.parametrize("kind", KINDS)
def test_lists_end_where_a_user_has_nothing_left(kind):
    X = rows_of(kind, np.vstack([PAIRS, [(0, 0), (0, 3)]]))
    model = MFRegressor(2, tol=1e9).fit(X, np.arange(len(X)) % 5)
    full = model.recommend(n_items=1)
    assert full.dtype == model.item_ids_.dtype
    lists, scores = model.recommend(n_items=3, return_scores=True)
    assert lists.shape == scores.shape == (len(model.user_ids_), 3)
    assert_array_equal(lists[:, 0], full[:, 0])
    assert_array_equal(pd.isna(lists[0]), [False, True, True])
    missing = {"floats": np.nan, "dates": np.datetime64("NaT", "ns")}.get(kind)
    assert str(lists[0, 1]) == str(missing)
    assert_array_equal(lists[1:2], model.recommend(model.user_ids_[1:2], 3))
    # What is made of lists does without the empty places.
    filled = lists[~pd.isna(lists)]
    assert catalogue_coverage(lists, model.item_ids_) == catalogue_coverage(
        filled, model.item_ids_
    )
    assert novelty(lists, X) == novelty(filled, X)


@pytest.mark.parametrize(
    "never_exclude", [[], (), range(0), np.empty((0, 2)), X[:0], pl.Series()]
)
def test_no_rows_at_all_may_be_kept(fitted, never_exclude):
    assert_array_equal(
        fitted.recommend([3], never_exclude=never_exclude), fitted.recommend([3])
    )


def test_ids_come_back_as_fit_has_seen_them():
    days = [datetime.date(2024, 1, day) for day in (1, 2, 3)]
    rows = pd.DataFrame({"user": [1, 2, 3], "item": days}, dtype=object)
    model = MFRegressor(1, tol=1e9).fit(rows, [1, 2, 3])
    asked = [pd.Timestamp("2024-01-02"), datetime.datetime(2024, 1, 3)]
    frame = model.recommend([2.0, 7.0], candidates=asked, as_frame=True)
    assert frame["user"].tolist() == [2, 7, 7]
    assert frame["user"].dtype == model.user_ids_.dtype
    assert set(map(type, frame["item"])) == {datetime.date}
    halves = model.recommend([2.5], 1, as_frame=True)
    assert halves["user"].tolist() == [2.5]
    large = model.recommend([2**70], 1, as_frame=True)
    assert large["user"].tolist() == [2**70]


def test_unknown_candidates_are_warned_of_or_refused(with_ties):
    asked = {"users": [3], "n_items": 1, "candidates": [-1, 3, -2]}
    with pytest.warns(UserWarning, match="unknown candidates in 2 of 3 rows") as record:
        clone(with_ties).set_params(handle_unknown="warn").fit(X, Y).recommend(**asked)
    assert record[0].filename == __file__
    refusing = clone(with_ties).set_params(handle_unknown="error").fit(X, Y)
    with pytest.raises(ValueError, match=r"unknown candidates in 2 of 3 rows, .* -1;"):
        refusing.recommend(**asked)


UNKNOWN = {
    **{
        f"{solver}, {options}": (solver, options)
        for solver in ("vb", "gibbs", "als", "adam", "sgd")
        for options in ("biased", "plain", "choices")
    },
    **{f"ncf, {a}": ("ncf", a) for a in ("gmf", "mlp", "neumf")},
}


def fitted_for_strangers(solver, options):
    if solver == "ncf":
        model = NCFRegressor(
            4, architecture=options, max_iter=4, rank_by="rating", random_state=0
        )
        return model.fit(X, Y)
    params = {"n_factors": 4, "solver": solver, "random_state": 0, "tol": 0.02}
    params["rank_by"] = "rating"
    if options == "plain":
        params["biased"] = False
    if options == "choices" and solver in ("adam", "sgd"):
        params["loss"] = "bpr"
    elif options == "choices":
        params |= {"unobserved_weight": 0.2, "biased": False}
    if solver == "gibbs":
        params["max_iter"] = 10
    if solver == "als":
        params["reg"] = 1.0
    model = MFRegressor(**params)
    return model.fit(X) if options == "choices" else model.fit(X, Y)


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unknown_user_gets_the_list_for_everybody(case):
    """Scores of an unknown user are about the means of those of all users."""
    solver, options = UNKNOWN[case]
    model = fitted_for_strangers(solver, options)
    items, scores = model.recommend(
        [*model.user_ids_, -1], len(model.item_ids_), exclude_seen=False,
        return_scores=True,
    )  # fmt: skip
    scores = np.take_along_axis(scores, np.argsort(items, axis=1), axis=1)
    mean, stranger = scores[:-1].mean(axis=0), scores[-1]
    assert np.ptp(stranger) > 0.1 * np.ptp(mean)
    assert spearmanr(mean, stranger).statistic > 0.9
    if options not in ("mlp", "neumf") and solver in ("als", "adam", "sgd", "ncf"):
        assert_allclose(stranger, mean, atol=1e-4 * np.abs(mean).max())


@pytest.mark.parametrize("biased", [True, False])
def test_als_predicts_strangers_on_the_scale_of_the_ratings(biased):
    known = (X["user"] < 50) & (X["item"] < 75)
    model = MFRegressor(4, solver="als", biased=biased, reg=3.0).fit(X[known], Y[known])
    error = model.predict(X[~known]) - Y[~known]
    assert np.sqrt(np.mean(error**2)) < 1.5 * np.std(Y)
    # A row that is learned from next to nothing is where the penalty has it: at zero,
    # or at the mean rating, which is a product of two rows where there are no biases.
    model.partial_fit(pd.DataFrame({"user": [999], "item": 3}), [4.0], [1e-9])
    first, *others = model.user_factors_[-1]
    assert np.abs(others).max() < 1e-6
    assert first == pytest.approx(0 if biased else np.sqrt(Y[known].mean()), abs=0.01)


@pytest.mark.parametrize("side", ["item", "user"])
def test_similarities_are_cosines(fitted, side):
    similar = getattr(fitted, f"similar_{side}s")
    ids = getattr(fitted, f"{side}_ids_")
    found, scores = similar(ids, len(ids) + 3, return_scores=True)
    assert pd.isna(found[:, -4:]).all()
    assert not pd.isna(found[:, :-4]).any()
    assert (np.abs(scores[:, :-4]) <= 1).all()


def test_no_similarity_is_above_one_where_all_are_alike():
    model = MFRegressor(1, tol=1e9).fit(X, Y)
    _, scores = model.similar_items(model.item_ids_, 89, return_scores=True)
    assert (np.abs(scores) <= 1).all()
    # An item on which nobody differs is like no other.
    assert_allclose(np.abs(scores[scores != 0]), 1, rtol=1e-6)
    assert (scores != 0).mean() > 0.8


@pytest.mark.parametrize(
    "params", [{}, {"implicit_features": False}, {"solver": "als"}]
)
@pytest.mark.parametrize("shape", [(300, 30, 20), (2000, 300, 200)])
def test_nothing_is_alike_in_noise(params, shape):
    rng = np.random.default_rng(0)
    n_rows, *sizes = shape
    noise = rng.integers(0, sizes, (n_rows, 2)), rng.normal(size=n_rows)
    model = MFRegressor(8, **params).fit(*noise)
    for similar in (model.similar_items, model.similar_users):
        _, scores = similar([3, 7], 9, return_scores=True)
        assert_array_equal(scores, 0)


@pytest.mark.parametrize("architecture", ["gmf", "mlp", "neumf"])
def test_nothing_is_alike_in_a_network_of_biases_alone(architecture):
    model = NCFRegressor(4, architecture=architecture, max_iter=2, random_state=0)
    model.fit(X, Y)
    assert (model.similar_items([3], 30, return_scores=True)[1] != 0).all()
    for name, weight in model._model.weights.items():
        if not name.endswith("bias"):
            weight[:] = 0
    for similar in (model.similar_items, model.similar_users):
        assert_array_equal(similar([3, 7], 30, return_scores=True)[1], 0)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_similarities_do_not_depend_on_the_scale_of_the_ratings(scale):
    expected, scaled = (
        MFRegressor(2, tol=1e9).fit(X, c * Y).similar_items([3], 5, return_scores=True)
        for c in (1, scale)
    )
    assert_array_equal(scaled[0], expected[0])
    assert_allclose(scaled[1], expected[1], atol=1e-4)


@pytest.mark.parametrize("model", SWEPT.values(), ids=SWEPT)
@pytest.mark.parametrize("pairs", [[(0, 0)], [(0, 0), (0, 1)], [(0, 0), (1, 0)]])
def test_one_user_or_one_item_is_a_model_too(model, pairs):
    with warnings.catch_warnings():
        # A member has no spread over one row.
        warnings.simplefilter("ignore", RuntimeWarning)
        model = clone(model).fit(np.array(pairs), np.arange(len(pairs)))
    for side in ("user", "item"):
        ids = getattr(model, f"{side}_ids_")
        similar = getattr(model, f"similar_{side}s")
        found, scores = similar(ids, 2, return_scores=True)
        others = len(ids) - 1
        assert found.shape == (len(ids), 2)
        assert not pd.isna(found[:, :others]).any()
        assert pd.isna(found[:, others:]).all()
        assert (np.abs(scores[:, :others]) <= 1).all()
        assert len(similar(ids, 2, as_frame=True)) == len(ids) * others
    everything = model.recommend(n_items=9, exclude_seen=False, as_frame=True)
    assert len(everything) == len(model.user_ids_) * len(model.item_ids_)
    assert len(model.recommend(n_items=9, as_frame=True)) == len(everything) - len(
        pairs
    )
    assert model.recommend([5, 0]).shape == (2, 10)


@pytest.mark.parametrize("side", ["item", "user"])
@pytest.mark.parametrize("n", [1, 5, 200])
def test_similar_ones_among_candidates_are_those_of_the_whole_list(fitted, side, n):
    similar = getattr(fitted, f"similar_{side}s")
    ids = getattr(fitted, f"{side}_ids_")
    candidates = np.random.default_rng(0).permutation(ids)[:20]
    column = f"similar_{side}"
    whole = similar(ids, len(ids), as_frame=True)
    whole = whole[whole[column].isin(candidates)]
    expected = whole.groupby(side).head(n)
    given = [-5, *candidates, candidates[0], 10**6]
    found = similar(ids, n, candidates=given, as_frame=True)
    assert_array_equal(found[side], expected[side])
    assert_allclose(found["score"], expected["score"], atol=1e-5)
    scores = whole.set_index([side, column])["score"]
    own = scores.loc[pd.MultiIndex.from_frame(found[[side, column]])]
    assert_allclose(found["score"], own, atol=1e-5)
    assert_array_equal(found["rank"], found.groupby(side).cumcount() + 1)


def test_unknown_candidates_of_similar_ones_are_handled_as_asked():
    model = MFRegressor(**SMALL).fit(X, Y)
    expected = model.similar_items([3], 4, candidates=[1, 2, 3])
    assert_array_equal(expected[0, 2:], [None, None])
    model.set_params(handle_unknown="warn")
    with pytest.warns(UserWarning, match="unknown candidates in 1 of 4.*left out"):
        found = model.similar_items([3], 4, candidates=[1, -1, 2, 3])
    assert_array_equal(found, expected)
    assert (pd.isna(model.similar_users([3], 2, candidates=[]))).all()
    model.set_params(handle_unknown="error")
    with pytest.raises(ValueError, match="Found unknown candidates in 1 of 4 rows"):
        model.similar_items([3], 4, candidates=[1, -1, 2, 3])


def test_arrays_of_missing_values_alone_are_refused_and_frames_have_none():
    model = MFRegressor(2, tol=1, rank_by="rating").fit(X, Y)
    n, some = 10**9, model.item_ids_[:3]
    calls = {
        "n_items .* 1 lists of 1000000000 .*n_items=.*as_frame": lambda **how: (
            model.recommend([0], n, candidates=some, exclude_seen=False, **how)
        ),
        "n_users .* 3 lists of 1000000000 .*n_users=.*as_frame": lambda **how: (
            model.recommend_users(some, n, **how)
        ),
        "n_items .* 2 lists of 1000000000 .*n_items=.*as_frame": lambda **how: (
            model.similar_items(some[:2], n, **how)
        ),
        "n_users .* 1 lists of 1000000000 .*n_users=.*as_frame": lambda **how: (
            model.similar_users([0], n, **how)
        ),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
        assert not call(as_frame=True).isna().any(axis=None)
    assert model.recommend([0], 2000).shape == (1, 2000)
