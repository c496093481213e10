"""Described users and items: every solver, cold ids, searches and pipelines."""

from functools import cache

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
from helpers import copied, rmse, unconverged
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.metrics import r2_score, root_mean_squared_error
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline

from skrec import MFRegressor, NCFRegressor
from skrec.datasets import make_ratings
from skrec.metrics import RankingScorer
from skrec.model_selection import ColdStartKFold

N_USERS, N_ITEMS = 150, 60


def world():
    """Ratings that follow from what describes users and items, and some noise."""
    X, _ = make_ratings(N_USERS, N_ITEMS, 3600, random_state=0)
    rng = np.random.default_rng(0)
    users = pd.DataFrame(
        {
            "group": np.array(["north", "south", "west"])[
                rng.integers(3, size=N_USERS)
            ],
            "age": rng.uniform(18, 80, size=N_USERS),
        },
        index=np.arange(N_USERS),
    )
    items = pd.DataFrame(
        {
            "loud": rng.integers(2, size=N_ITEMS),
            "year": rng.integers(1950, 2020, N_ITEMS),
        },
        index=np.arange(N_ITEMS),
    )
    bias = users["group"].map({"north": 0.8, "south": -0.8, "west": 0.0}).to_numpy()
    taste = (users["age"].to_numpy() - 49) / 18
    loud = items["loud"].to_numpy() * 2.0 - 1
    u, i = X["user"].to_numpy(), X["item"].to_numpy()
    y = 3 + bias[u] - 0.7 * taste[u] * loud[i] + 0.4 * rng.normal(size=len(X))
    return X, y, users, items


X, Y, USERS, ITEMS = world()
FEATURES = {"user_features": USERS, "item_features": ITEMS}
COLD = (X["user"] >= 120).to_numpy()
COLD_ITEMS = (X["item"] >= 48).to_numpy()
LEFT_OUT = {
    "nothing": np.zeros(len(X), bool),
    "users": COLD,
    "items": COLD_ITEMS,
    "users and items": COLD | COLD_ITEMS,
}

MODELS = {
    "vb": MFRegressor(4, rank_by="rating"),
    "vb by both": MFRegressor(4),
    "vb without implicit features": MFRegressor(
        4, implicit_features=False, rank_by="rating"
    ),
    "gibbs": MFRegressor(
        4, solver="gibbs", max_iter=30, rank_by="rating", random_state=0
    ),
    "als": MFRegressor(4, solver="als", reg=2.0, rank_by="rating"),
    "adam": MFRegressor(
        4,
        solver="adam",
        max_iter=20,
        batch_size=360,
        reg=0.3,
        rank_by="rating",
        random_state=0,
    ),
    "neumf": NCFRegressor(
        4,
        n_members=2,
        max_iter=20,
        batch_size=360,
        reg=0.3,
        rank_by="rating",
        random_state=0,
    ),
}


# For what does not depend on how far a fit has come.
SHORT = {"max_iter": 3, "tol": 1e9}


@pytest.fixture(params=MODELS.keys())
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return clone(MODELS[name])


@cache
def _told(name, without, n_users, n_items):
    kept, tables = ~LEFT_OUT[without], (USERS[:n_users], ITEMS[:n_items])
    features = dict(zip(FEATURES, tables, strict=True))
    return clone(MODELS[name]).fit(X[kept], Y[kept], **features)


def told(name, n_users=N_USERS, n_items=N_ITEMS, *, without="users"):
    """A fit without the ratings of cold ids, to features of the first ids."""
    return copied(_told(name, without, n_users, n_items))


def error(model, rows, **features):
    return rmse(model, X[rows], Y[rows], **features)


def test_cold_users_and_items_are_predicted_from_their_features(name, model):
    kept = ~LEFT_OUT["users and items"]
    plain = model.fit(X[kept], Y[kept])
    of_features = told(name, without="users and items")
    for cold in (COLD & ~COLD_ITEMS, COLD_ITEMS & ~COLD, COLD & COLD_ITEMS):
        assert error(of_features, cold) < 0.9 * error(plain, cold)


def test_features_of_cold_users_can_be_given_when_they_are_asked_about(name):
    of_all, model = told(name), told(name, 120)
    rows = X[COLD]
    assert_array_equal(
        model.predict(rows, user_features=USERS[120:]), of_all.predict(rows)
    )
    assert_array_equal(
        model.recommend([130, 3], 5, user_features=USERS), of_all.recommend([130, 3], 5)
    )
    assert np.abs(model.predict(rows) - of_all.predict(rows)).max() > 0.1


def test_known_users_stay_what_their_ratings_say(name):
    model = told(name)
    rows = X[~COLD]
    expected = model.predict(rows)
    turned = USERS.assign(age=50.0)
    assert_array_equal(model.predict(rows, user_features=turned), expected)


def test_the_order_of_a_frame_and_its_columns_does_not_matter(model):
    model.set_params(**SHORT).fit(X, Y, **FEATURES)
    other = clone(model).fit(
        X,
        Y,
        user_features=USERS.sample(frac=1, random_state=0),
        item_features=ITEMS.sample(frac=1, random_state=1),
    )
    assert_array_equal(model.predict(X), other.predict(X))


def test_score_is_that_of_predict(name):
    model = told(name, 120)
    rows, weight = X[COLD], np.arange(COLD.sum()) % 3
    expected = r2_score(
        Y[COLD], model.predict(rows, user_features=USERS), sample_weight=weight
    )
    assert model.score(rows, Y[COLD], weight, user_features=USERS) == expected


def test_cold_users_get_what_they_are_predicted_to_like(name):
    model = told(name).set_params(clip=False)
    items, scores = model.recommend([125, 140], N_ITEMS, return_scores=True)
    assert not (items[0] == items[1]).all()
    # Scores of a cold user are of what anybody would give: see the page.
    if model.rank_by == "both":
        assert (np.diff(scores, axis=1) <= 0).all()
    elif model.get_params().get("solver") in ("vb", "als", "gibbs"):
        pairs = pd.DataFrame({"user": 125, "item": items[0]})
        apart = model._model.items.selection_effects(
            np.searchsorted(np.arange(N_ITEMS), items[0])
        )
        assert_allclose(model.predict(pairs) - apart, scores[0], atol=1e-4)
    else:
        pairs = pd.DataFrame({"user": 125, "item": items[0]})
        assert_allclose(model.predict(pairs), scores[0], atol=1e-4)
    old = USERS["age"].idxmax()
    young = USERS["age"].idxmin()
    like = USERS.loc[[old, young]].set_axis([998, 999])
    loud = [
        ITEMS.loc[model.recommend([user], 10, user_features=like)[0], "loud"].mean()
        for user in (998, 999)
    ]
    assert loud[0] < 0.3
    assert loud[1] > 0.7


def test_items_without_ratings_can_be_candidates(name):
    model = told(name, without="items")
    assert model.recommend([3], 48, exclude_seen=False).max() < 48
    candidates = [50, 3, 55, 55, 9]
    items, scores = model.recommend(
        [3, 149], 4, candidates=candidates, exclude_seen=False, return_scores=True
    )
    assert_array_equal(np.sort(items, axis=1), [[3, 9, 50, 55]] * 2)
    assert (np.diff(scores, axis=1) <= 0).all()
    new = pd.DataFrame({"loud": [1, 0], "year": [2000, 1960]}, index=[700, 701])
    found = model.recommend(
        [3], 3, candidates=[700, 701, 5], exclude_seen=False, item_features=new
    )
    assert_array_equal(np.sort(found[0]), [5, 700, 701])
    model.set_params(handle_unknown="error")
    with pytest.raises(ValueError, match=r"unknown candidates in 1 of 2 .*777"):
        model.recommend([3], 1, candidates=[5, 777])


def test_what_is_said_of_ids_without_ratings_needs_no_rating(name):
    """handle_unknown concerns ids of which nothing is known."""
    model = told(name).set_params(handle_unknown="error")
    assert np.isfinite(model.predict(X[COLD])).all()
    with pytest.raises(ValueError, match="unknown users in 1 of 2 rows, such as 999"):
        model.predict(pd.DataFrame({"user": [999, 130], "item": 3}))


def test_index_vectors_of_cold_users_rank_as_recommend_does():
    model = told("vb")
    vectors = model.user_index_vectors([130, 149]) @ model.item_index_vectors().T
    expected = model.recommend([130, 149], 5)
    assert_array_equal(model.item_ids_[np.argsort(-vectors, axis=1)[:, :5]], expected)
    like = USERS.loc[[130]].set_axis([999])
    assert_allclose(
        model.user_index_vectors([999], user_features=like),
        model.user_index_vectors([130]),
    )


@pytest.mark.parametrize("name", ["vb", "gibbs"])
def test_less_is_known_of_a_cold_user_than_of_one_with_ratings(name):
    model = told(name)
    groups = [np.arange(120), np.arange(120, 150), np.arange(900, 930)]
    stds = [
        model.predict(pd.DataFrame({"user": users, "item": 7}), return_std=True)[1]
        for users in groups
    ]
    known, cold, unknown = (std.mean() for std in stds)
    assert known < cold < unknown


def test_intervals_of_cold_users_hold_their_ratings():
    model = told("vb by both")
    mean, std = model.predict(X[COLD], return_std=True)
    share = np.mean(np.abs(Y[COLD] - mean) < 1.645 * std)
    assert 0.85 < share < 0.97


@pytest.mark.parametrize("solver", ["vb", "als"])
def test_a_matrix_by_row_number_says_what_a_frame_does(solver):
    numbers = np.column_stack([USERS["group"] == "north", USERS["group"] == "south"])
    frame = pd.DataFrame(numbers, columns=["north", "south"])
    by_frame = MFRegressor(4, solver=solver).fit(X, Y, user_features=frame)
    for matrix in (numbers.astype(float), sparse.csr_matrix(numbers)):
        by_matrix = MFRegressor(4, solver=solver).fit(X, Y, user_features=matrix)
        assert_array_equal(by_matrix.predict(X), by_frame.predict(X))


def test_constant_and_collinear_features_are_no_error(model):
    users = USERS.assign(constant=3.0, twice=2 * USERS["age"], same="a")
    model.set_params(**SHORT).fit(X, Y, user_features=users, item_features=ITEMS)
    assert np.isfinite(model.predict(X)).all()
    nothing = pd.DataFrame({"constant": 1.5}, index=USERS.index)
    model.fit(X, Y, user_features=nothing)
    assert np.isfinite(model.predict(X)).all()


def test_new_users_of_partial_fit_start_from_their_features(name):
    if name == "gibbs":
        pytest.skip("gibbs has no partial_fit")
    model = told(name, 120)
    first = X[COLD].groupby("user").head(2).index
    rest = X[COLD].index.difference(first)
    plain = copied(model)
    model.partial_fit(X.loc[first], Y[first], user_features=USERS[120:])
    plain.partial_fit(X.loc[first], Y[first])
    errors = [
        root_mean_squared_error(Y[rest], m.predict(X.loc[rest])) for m in (model, plain)
    ]
    assert errors[0] < 0.97 * errors[1]
    # What fit was told is still known.
    like = USERS.loc[[3]].set_axis([999])
    assert model.recommend([999], 3, user_features=like).shape == (1, 3)


def test_a_warm_start_goes_on_with_features(name):
    if name == "gibbs":
        pytest.skip("a chain never ends")
    model = told(name).set_params(warm_start=True)
    expected = model.predict(X[~COLD])
    with unconverged():
        model.set_params(max_iter=1, learning_rate_init=1e-6)
        model.fit(X[~COLD], Y[~COLD], **FEATURES)
    assert root_mean_squared_error(expected, model.predict(X[~COLD])) < 0.1
    more = USERS.assign(height=np.arange(N_USERS) % 7)
    model.set_params(**SHORT).fit(X, Y, user_features=more)
    assert np.isfinite(model.predict(X)).all()


def test_a_pickle_knows_what_was_said(name):
    model = told(name)
    again = copied(model)
    assert_array_equal(again.predict(X), model.predict(X))


def test_frames_go_through_a_search_whole():
    """Also to cold users, by any scoring, since fit is told of all users."""
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            MFRegressor(4).set_fit_request(user_features=True, item_features=True),
            {"n_factors": [0, 4]},
            scoring={
                "rmse": "neg_root_mean_squared_error",
                "ndcg": RankingScorer("ndcg", relevance_threshold=4),
            },
            refit="rmse",
            cv=ColdStartKFold(3, by="user", shuffle=True, random_state=0),
        ).fit(X, Y, **FEATURES)
    assert search.best_params_ == {"n_factors": 4}
    assert search.best_score_ > -0.75
    assert search.predict(X).shape == (len(X),)


def test_frames_reach_score_through_routing():
    with sklearn.config_context(enable_metadata_routing=True):
        model = MFRegressor(4).set_fit_request(item_features=True, user_features=True)
        scores = cross_val_score(
            model.set_score_request(item_features=True, user_features=True),
            X,
            Y,
            cv=ColdStartKFold(3, by="item"),
            params=FEATURES,
        )
    assert scores.min() > 0.3


def test_frames_go_through_a_pipeline():
    rows = X.assign(noise=np.arange(len(X)))
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = make_pipeline(
            make_column_transformer(("passthrough", ["user", "item"])),
            MFRegressor(4)
            .set_fit_request(user_features=True)
            .set_predict_request(user_features=True)
            .set_score_request(user_features=True),
        )
        pipe.fit(rows[~COLD], Y[~COLD], user_features=USERS[:120])
        told = pipe.predict(rows[COLD], user_features=USERS)
        assert pipe.score(rows[COLD], Y[COLD], user_features=USERS) == pytest.approx(
            r2_score(Y[COLD], told)
        )
    expected = MFRegressor(4).fit(X[~COLD], Y[~COLD], user_features=USERS[:120])
    assert_allclose(told, expected.predict(X[COLD], user_features=USERS))


FAILURES = {
    "no id of X is described": (
        lambda m: m.fit(X, Y, user_features=USERS.set_axis(USERS.index + 1000)),
        ValueError,
        r"user_features \(its index\) must have a row for .* lacks 150 of 150: 0, 1,",
    ),
    "a default index beside a column of ids": (
        lambda m: m.fit(X, Y, item_features=ITEMS.assign(code=ITEMS.index[::-1])),
        ValueError,
        r"item_features is ambiguous: its column 'code' holds 60 of the 60 ids of X",
    ),
    "ids of another kind": (
        lambda m: m.fit(X, Y, item_features=ITEMS.set_axis(ITEMS.index.map(str))),
        TypeError,
        r"item_features \(its index\) holds ids of kind 'string'",
    ),
    "features at predict alone": (
        lambda m: m.fit(X, Y).predict(X, user_features=USERS),
        ValueError,
        "user_features were not given to fit",
    ),
    "features at recommend alone": (
        lambda m: m.fit(X, Y).recommend([3], item_features=ITEMS),
        ValueError,
        "item_features were not given to fit",
    ),
    "features at partial_fit alone": (
        lambda m: m.fit(X, Y).partial_fit(X, Y, user_features=USERS),
        ValueError,
        "user_features were not given to fit",
    ),
    "other columns at predict": (
        lambda m: m.fit(X[~COLD], Y[~COLD], user_features=USERS[:120]).predict(
            X, user_features=USERS[["age"]]
        ),
        ValueError,
        "must have the columns that it had in fit; 'group' is missing",
    ),
}


@pytest.mark.parametrize(
    "estimator", [MFRegressor(2, tol=1e9), NCFRegressor(2, max_iter=1)]
)
@pytest.mark.parametrize(
    ("call", "exception", "match"), FAILURES.values(), ids=FAILURES.keys()
)
def test_wrong_descriptions_are_refused_in_words(estimator, call, exception, match):
    with pytest.raises(exception, match=match):
        call(clone(estimator))


READ = {
    "read_csv": lambda items: items.reset_index(names="item"),
    "read_csv, ids last": lambda items: items.assign(item=items.index),
    "set_index": lambda items: items,
    "polars": lambda items: pl.from_pandas(items.reset_index(names="item")),
    "pyarrow": lambda items: pa.Table.from_pandas(items.reset_index(names="item")),
    "a function": lambda items: lambda: items.reset_index(names="item"),
}


@pytest.mark.parametrize("rows", [X, pl.from_pandas(X)], ids=["pandas", "polars"])
def test_the_same_table_has_the_same_effects_however_it_was_read(rows):
    shuffled = ITEMS.sample(frac=1, random_state=0)
    small = MFRegressor(2, **SHORT)
    expected = clone(small).fit(X, Y, item_features=ITEMS)
    for name, read in READ.items():
        model = clone(small).fit(rows, Y, item_features=read(shuffled))
        assert_frame_equal(
            model.feature_effects(), expected.feature_effects(), obj=name
        )


def test_values_that_are_missing_cost_less_than_the_column():
    rng = np.random.default_rng(0)
    users = USERS.mask(rng.random(USERS.shape) < 0.2)
    n_lacking = users.isna().any(axis=1).sum()
    message = rf"user_features has missing values for {n_lacking} of 150 ids: "
    with pytest.warns(UserWarning, match=message):
        model = MFRegressor(2, tol=0.01).fit(
            X, Y, user_features=users, item_features=ITEMS
        )
    effects = model.feature_effects().set_index("feature").effect
    assert effects["group_north"] == pytest.approx(0.8, abs=0.2)
    assert effects["group_south"] == pytest.approx(-0.8, abs=0.2)
    rows = pd.DataFrame({"user": [900, 901], "item": 3})
    new = pd.DataFrame({"group": [None, "north"], "age": [np.nan, 49]}, [900, 901])
    with pytest.warns(
        UserWarning, match="2 ids: 1 in column 'group', 1 in column 'age'"
    ):
        nothing, north = model.predict(rows, user_features=new)
    assert 0.3 < north - nothing < 1.3


def test_ids_without_a_row_are_learned_from_their_ratings():
    with pytest.warns(
        UserWarning, match=r"user_features should .* lacks 10 of 150: 140"
    ):
        model = MFRegressor(4).fit(X, Y, user_features=USERS[:140], item_features=ITEMS)
    expected = MFRegressor(4).fit(X, Y, **FEATURES)
    rows = (X["user"] >= 140).to_numpy()
    assert error(model, rows) < 1.1 * error(expected, rows)
    assert error(model, ~rows) < 1.02 * error(expected, ~rows)


def one_rating_each():
    """Rows of which row i is of user i, so that a table of users is as long as X."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"user": rng.permutation(240), "item": np.arange(240) % 8})
    flags = rng.integers(2, size=(240, 2)).astype(float)
    effect = flags @ [1.5, -1.5]
    return rows, 3 + effect[rows["user"]] + 0.3 * rng.normal(size=240), flags


@pytest.mark.parametrize("read", [np.asarray, pd.DataFrame, sparse.csr_array])
def test_a_function_of_a_table_goes_through_cross_validation_whole(read):
    rows, y, flags = one_rating_each()
    table = read(flags)
    model = MFRegressor(1, implicit_features=False, tol=0.01)
    scores = cross_val_score(
        model, rows, y, cv=KFold(3), params={"user_features": lambda: table}
    )
    assert scores.min() > 0.8
    search = GridSearchCV(model, {"n_factors": [0, 1]}, cv=3)
    search.fit(rows, y, user_features=lambda: table)
    assert search.best_score_ > 0.8
    effects = search.best_estimator_.feature_effects().effect
    assert_allclose(effects, [1.5, -1.5], atol=0.3)


@pytest.mark.parametrize("read", [np.asarray, sparse.csr_array])
def test_a_matrix_that_cross_validation_has_cut_is_refused(read):
    rows, y, flags = one_rating_each()
    with pytest.raises(ValueError, match=r"user_features has as many rows as X, 160\."):
        cross_val_score(
            MFRegressor(1),
            rows,
            y,
            cv=KFold(3),
            params={"user_features": read(flags)},
            error_score="raise",
        )


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_a_frame_that_cross_validation_has_cut_is_refused(frame):
    rows, y, flags = one_rating_each()
    table = frame({"user": np.arange(240), "a": flags[:, 0], "b": flags[:, 1]})
    with pytest.raises(
        ValueError, match=r"user_features lacks .* many rows as X, 160\."
    ):
        cross_val_score(
            MFRegressor(1),
            rows,
            y,
            cv=KFold(3),
            params={"user_features": table},
            error_score="raise",
        )


def test_several_values_in_a_cell_are_flags():
    rng = np.random.default_rng(0)
    flags = rng.integers(2, size=(N_ITEMS, 3))
    y = 3 + (flags @ [1.0, 0.5, -1.0])[X["item"]] + 0.3 * rng.normal(size=len(X))
    genres = [[g for g, has in zip("abc", row, strict=True) if has] for row in flags]
    lists = pd.DataFrame({"genre": genres})
    text = lists["genre"].str.join("|").str.split("|").to_frame()
    as_flags = pd.DataFrame(flags, columns=["genre_a", "genre_b", "genre_c"])
    expected = MFRegressor(2, tol=0.01).fit(X, y, item_features=as_flags)
    for table in (lists, text):
        model = MFRegressor(2, tol=0.01).fit(X, y, item_features=table)
        assert_frame_equal(model.feature_effects(), expected.feature_effects())


def test_a_failed_fit_forgets_no_description():
    model = MFRegressor(2).fit(X[~COLD], Y[~COLD], **FEATURES)
    expected = model.predict(X)
    with pytest.raises(ValueError, match="lacks"):
        model.fit(X, Y, user_features=USERS.set_axis(USERS.index + 1000))
    assert_array_equal(model.predict(X), expected)


INTERPRETED = [name for name in MODELS if name not in ("neumf", "vb by both")]


def effects_of(model):
    effects = model.feature_effects().set_index("feature")
    together = model.feature_interactions()
    together = together.set_index(["user_feature", "item_feature"])
    return effects, together


@pytest.mark.parametrize("name", INTERPRETED)
def test_effects_are_differences_of_predictions(name):
    """Of users without ratings, of an average item."""
    model = told(name, without="nothing").set_params(clip=False)
    effects, together = effects_of(model)
    ages = 40, 40 + USERS["age"].std(ddof=0)
    older = pd.DataFrame({"group": "north", "age": ages}, index=[1000, 1001])
    pairs = pd.DataFrame({"user": np.repeat([1000, 1001], N_ITEMS)})
    pairs["item"] = np.tile(np.arange(N_ITEMS), 2)
    first, second = model.predict(pairs, user_features=older).reshape(2, -1)
    difference = (second - first).mean()
    assert difference == pytest.approx(effects.effect["age"], rel=1e-3)
    items = pd.DataFrame({"loud": [0, 1], "year": [1980, 1980]}, index=[500, 501])
    four = pd.DataFrame({"user": [1000, 1000, 1001, 1001], "item": [500, 501] * 2})
    four = model.predict(four, user_features=older, item_features=items).reshape(2, 2)
    assert four[1, 1] - four[1, 0] - four[0, 1] + four[0, 0] == pytest.approx(
        together.effect["age", "loud"], rel=1e-3
    )


@pytest.mark.parametrize("name", ["vb", "vb without implicit features", "gibbs"])
def test_effects_are_those_that_ratings_follow(name):
    effects, together = effects_of(told(name, without="nothing"))
    assert_allclose(
        effects.effect[["group_north", "group_south", "group_west", "year"]],
        [0.8, -0.8, 0, 0],
        atol=0.1,
    )
    assert together.effect["age", "loud"] == pytest.approx(-1.4, abs=0.1)
    others = together.drop(("age", "loud"))
    assert (others.effect.abs() < 0.1).all()
    assert (effects["std"] > 0).all()
    assert (effects["std"] < 0.1).all()
    assert (together["std"] > 0).all()


def test_the_uncertainty_of_effects_covers_their_error():
    errors = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        flags = pd.DataFrame(rng.integers(2, size=(N_USERS, 5)), columns=[*"abcde"])
        truth = rng.normal(size=5) / 3
        own = 0.5 * rng.normal(size=N_USERS)
        u = X["user"].to_numpy()
        y = (flags.to_numpy() @ truth + own)[u] + rng.normal(size=len(X))
        effects = MFRegressor(2).fit(X, y, user_features=flags).feature_effects()
        errors.append((effects["effect"] - truth) / effects["std"])
    square = np.mean(np.square(errors))
    assert 0.5 < square < 2.5


@pytest.mark.parametrize("name", INTERPRETED)
def test_weights_in_factor_space_are_what_rows_are_expected_to_be(name):
    model = told(name, without="nothing")
    assert model.user_feature_coef_.shape == (4, 5)
    assert model.item_feature_coef_.shape == (2, 5)
    new = pd.DataFrame({"group": ["north", "south"], "age": 40.0}, index=[1000, 1001])
    first, second = model.user_index_vectors([1000, 1001], user_features=new)
    if name != "gibbs":
        expected = model.user_feature_coef_[0] - model.user_feature_coef_[1]
        assert_allclose(first - second, [*expected, 0], atol=1e-5)


def test_points_have_effects_without_uncertainty():
    for name in ("als", "adam"):
        effects, together = effects_of(told(name, without="nothing"))
        assert effects["std"].isna().all()
        assert together["std"].isna().all()


def test_features_that_never_vary_have_no_effect():
    effects = MFRegressor(2).fit(X, Y, user_features=USERS.assign(age=1, group="one"))
    assert (effects.feature_effects()["effect"] == 0).all()


def test_effects_by_column_are_deviations_of_those_by_value():
    tags = [["a"] * (i % 2) + ["b"] * (i % 3 == 0) for i in range(N_ITEMS)]
    items = ITEMS.assign(tags=tags)
    users = USERS.assign(age=USERS["age"].mask(USERS.index % 10 == 0))
    with pytest.warns(UserWarning, match="missing values"):
        model = MFRegressor(2).fit(X, Y, user_features=users, item_features=items)
    values = model.feature_effects().set_index("feature")
    columns = model.feature_effects(by="column")
    assert columns["side"].tolist() == ["user"] * 2 + ["item"] * 3
    columns = columns.set_index("feature")
    assert columns.index.tolist() == ["group", "age", "loud", "year", "tags"]
    for name in ("age", "loud", "year"):
        assert_allclose(
            columns.loc[name, ["effect", "std"]].astype(float),
            values.loc[name, ["effect", "std"]].astype(float),
            rtol=1e-6,
        )
    effect = "group_" + USERS["group"]
    of_users = values["effect"].loc[effect].std(ddof=0)
    assert columns.effect["group"] == pytest.approx(of_users, rel=1e-4)
    of_groups = values.loc[effect.unique(), "std"]
    assert 0 < columns["std"]["group"] < of_groups.max()
    shares = pd.Series({"tags_a": 1 / 2, "tags_b": 1 / 3})
    square = (shares * (1 - shares) * values["effect"].loc[shares.index] ** 2).sum()
    assert columns.effect["tags"] == pytest.approx(np.sqrt(square), rel=1e-4)
    with pytest.raises(ValueError, match="by must be 'value' or 'column', got 'side'"):
        model.feature_effects(by="side")


def test_effects_by_column_of_a_matrix_are_those_of_its_columns():
    flags = np.random.default_rng(0).integers(2, size=(N_USERS, 3))
    model = MFRegressor(2).fit(X, Y, user_features=flags)
    assert_frame_equal(model.feature_effects(by="column"), model.feature_effects())
    same = MFRegressor(2).fit(X, Y, user_features=USERS.assign(age=1, group="one"))
    assert (same.feature_effects(by="column")["effect"] == 0).all()


def test_the_uncertainty_of_effects_by_column_covers_their_error():
    errors = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        group = rng.integers(4, size=N_USERS)
        truth = rng.normal(size=4)
        y = truth[group][X["user"]] + 0.3 * rng.normal(size=N_USERS)[X["user"]]
        y += rng.normal(size=len(X))
        users = pd.DataFrame({"group": np.array([*"abcd"])[group]})
        model = MFRegressor(2).fit(X, y, user_features=users)
        found = model.feature_effects(by="column").iloc[0]
        errors.append((found["effect"] - truth[group].std()) / found["std"])
    assert 0.3 < np.mean(np.square(errors)) < 3


def test_effects_of_what_was_not_said_are_refused_in_words():
    model = MFRegressor(2).fit(X, Y)
    for ask, match in (
        (lambda: model.feature_effects(), "not fitted to ratings with user_features"),
        (lambda: model.feature_interactions(), "not fitted to ratings with user_fea"),
        (lambda: model.user_feature_coef_, "not fitted with user_features"),
    ):
        with pytest.raises(AttributeError, match=match):
            ask()
    model.fit(X, Y, user_features=USERS)
    with pytest.raises(AttributeError, match="both user_features and item_features"):
        model.feature_interactions()
    with pytest.raises(AttributeError, match="not fitted with item_features"):
        _ = model.item_feature_coef_
    assert set(model.feature_effects()["side"]) == {"user"}


@pytest.mark.parametrize("read", [np.asarray, sparse.csr_array, pd.DataFrame])
def test_a_table_as_long_as_x_is_read_where_nobody_cuts_it(read):
    rows, y, flags = one_rating_each()
    one, other = (
        MFRegressor(1).fit(rows, y, user_features=features).feature_effects()
        for features in (read(flags), lambda: read(flags))
    )
    assert_allclose(one.effect, other.effect)


@pytest.mark.parametrize("cell", [[], [None], "nothing"])
@pytest.mark.parametrize(
    "model",
    [
        MFRegressor(2, max_iter=2, tol=1e9),
        MFRegressor(2, solver="gibbs", max_iter=2, random_state=0),
        MFRegressor(2, solver="adam", max_iter=1, random_state=0),
        NCFRegressor(2, (2,), n_members=1, max_iter=1, random_state=0),
    ],
    ids=["vb", "gibbs", "adam", "ncf"],
)
@pytest.mark.filterwarnings("ignore:.* has missing values")
def test_a_table_that_holds_nothing_is_as_none(model, cell):
    X = pd.DataFrame({"user": [1, 2, 3, 1], "item": [1, 1, 2, 2]})
    y = [1.0, 2.0, 3.0, 5.0]
    cells = [cell, cell, ["drama"]]
    if cell == "nothing":
        cells = [None, None, "drama"]
    table = pd.DataFrame({"item": [1, 2, 3], "genre": cells})
    cold = pd.DataFrame({"user": [1, 1], "item": [3, 4]})
    expected = clone(model).fit(X, y).predict(cold)
    with pytest.warns(UserWarning, match="item_features holds no value for any item"):
        model = clone(model).fit(X, y, item_features=table)
    assert not hasattr(model, "item_feature_coef_")
    assert_allclose(model.predict(cold), expected)
    assert_allclose(model.predict(cold, item_features=table), expected)
    assert model.recommend([1], 1, candidates=[3], item_features=table).item() == 3
    if hasattr(model, "partial_fit"):
        model.partial_fit(cold, [1.0, 2.0], item_features=table)
        assert list(model.item_ids_) == [1, 2, 3, 4]


def test_unknown_users_stay_when_described_ones_get_ratings():
    X, y = make_ratings(60, 40, 1500, random_state=0)
    ages = pd.DataFrame({"age": np.arange(60.0)}, index=range(60))
    is_late = X["user"].to_numpy() >= 50
    model = NCFRegressor(2, n_members=2, max_iter=2, random_state=0)
    model.fit(X[~is_late], y[~is_late], user_features=ages)
    further = X["item"].to_numpy()[is_late]
    others = np.setdiff1d(X["item"][~is_late], further[:3])
    pairs = pd.DataFrame({"user": 999, "item": others})
    before = model.predict(pairs)
    model.partial_fit(X[is_late][:3], y[is_late][:3])
    assert len(model.user_ids_) > 50
    assert_allclose(model.predict(pairs), before, rtol=1e-6)


SIDES = [("user", COLD, USERS), ("item", COLD_ITEMS, ITEMS)]


@pytest.mark.parametrize("name", ["vb", "als", "neumf"])
@pytest.mark.parametrize(("side", "cold", "table"), SIDES, ids=["users", "items"])
def test_similar_ones_of_described_ids_have_like_scores(name, side, cold, table):
    model = clone(MODELS[name]).set_params(clip=False)
    features = {f"{side}_features": table}
    model.fit(X[~cold], Y[~cold], **features)
    known = getattr(model, f"{side}_ids_")
    ids = table.index.to_numpy()
    other = "item" if side == "user" else "user"
    others = getattr(model, f"{other}_ids_")
    asked = {side: ids, other: others}
    lists = model.recommend(
        asked["user"], 500, candidates=asked["item"], exclude_seen=False, as_frame=True
    )
    scores = lists.pivot(index=side, columns=other, values="score").to_numpy()
    if name == "neumf":
        scores = scores - scores[np.isin(ids, known)].mean(axis=0)
    else:
        scores = scores - getattr(model, f"{other}_biases_")
    cosines = np.corrcoef(scores)
    np.fill_diagonal(cosines, -np.inf)
    expected = pd.DataFrame(cosines, ids, ids)
    similar = getattr(model, f"similar_{side}s")
    for candidates, left in ((None, known), (ids[::-1], ids)):
        frame = similar(ids, 500, candidates=candidates, as_frame=True)
        found = frame.pivot(index=side, columns=f"similar_{side}", values="score")
        assert_allclose(found.loc[ids, left].fillna(-np.inf), expected[left], atol=2e-3)
        assert_array_equal(found.columns, left)


@pytest.mark.parametrize(("side", "cold", "table"), SIDES, ids=["users", "items"])
def test_features_of_similar_ones_can_be_given_when_they_are_asked_for(
    name, side, cold, table
):
    without = f"{side}s"
    full = told(name, without=without)
    known = getattr(full, f"{side}_ids_")
    model = told(name, **{f"n_{side}s": len(known)}, without=without)
    features = {f"{side}_features": table}
    new = table.index.difference(known)[:3]
    asked, candidates = [*new[:2], known[0]], [*new[1:], *known[:5]]
    found, scores = getattr(model, f"similar_{side}s")(
        asked, 5, candidates=candidates, return_scores=True, **features
    )
    expected, cosines = getattr(full, f"similar_{side}s")(
        asked, 5, candidates=candidates, return_scores=True
    )
    assert_array_equal(found, expected)
    assert_allclose(scores, cosines, atol=1e-5)
    with pytest.raises(ValueError, match=f"{side}s must be known, but 2 of 3 were not"):
        getattr(model, f"similar_{side}s")(asked)
