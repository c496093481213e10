"""Every container of ids gives one model, and every meta-estimator takes it."""

import functools

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
import torch
from helpers import small, small_ncf
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import BaggingRegressor, VotingRegressor
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    validation_curve,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.fixes import parse_version

from skrec.datasets import make_ratings

N_USERS, N_ITEMS, N_ROWS = 30, 40, 300
FRAME, Y = make_ratings(N_USERS, N_ITEMS, N_ROWS, random_state=0)
Y = np.asarray(Y, dtype=float)
X = FRAME.to_numpy()
FOLDS = KFold(3, shuffle=True, random_state=0)


@pytest.fixture(scope="module")
def baseline():
    return small().fit(X, Y)


@pytest.fixture(scope="module")
def ncf_baseline():
    return small_ncf().fit(X, Y)


@pytest.fixture(scope="module")
def ncf_updated():
    return small_ncf().fit(X, Y).partial_fit(X[:20], Y[:20])


def names(ids, prefix="id"):
    """Strings in the order of the numbers."""
    return [f"{prefix}{i:03}" for i in ids]


def objects(users, items):
    rows = np.empty((N_ROWS, 2), dtype=object)
    rows[:, 0], rows[:, 1] = list(users), list(items)
    return rows


def dates(ids):
    return pd.Timestamp("2026-01-01") + pd.to_timedelta(ids, unit="D")


USERS, ITEMS = X.T
PARIS = pd.DatetimeIndex(dates([2, 1])).tz_localize("Europe/Paris")
CONTAINERS = {
    "int32": X.astype(np.int32),
    "uint64": X.astype(np.uint64),
    "float64": X - 0.5,
    "float32": X.astype(np.float32),
    "big-endian": X.astype(">i4"),
    "big-endian strings": np.column_stack([names(USERS), names(ITEMS)]).astype(">U6"),
    "torch": torch.tensor(X),
    "torch with a gradient": torch.tensor(X, dtype=torch.float32, requires_grad=True),
    "masked array, nothing masked": np.ma.array(X),
    "structured array": FRAME.to_records(index=False),
    "ids beyond int64": X.astype(np.uint64) + np.uint64(2**63),
    "Fortran order": np.asfortranarray(X),
    "fixed-width strings": np.column_stack([names(USERS), names(ITEMS)]),
    "objects of ints": X.astype(object),
    "objects of strings and ints": objects(names(USERS), ITEMS.tolist()),
    "lists of ints": X.tolist(),
    "lists of a string and an int": [
        list(row) for row in zip(names(USERS), ITEMS.tolist(), strict=True)
    ],
    "tuples of a string and an int": list(
        zip(names(USERS), ITEMS.tolist(), strict=True)
    ),
    "tuple of tuples": tuple(map(tuple, X.tolist())),
    "pandas ints": FRAME,
    "pandas strings": FRAME.assign(user=names(USERS)),
    "pandas objects": FRAME.assign(user=pd.Series(names(USERS), dtype=object)),
    "pandas categories": FRAME.assign(user=names(USERS)).astype("category"),
    "pandas categories in another order": FRAME.assign(
        item=pd.Categorical(ITEMS, categories=range(N_ITEMS)[::-1])
    ),
    "pandas Int64": FRAME.astype("Int64"),
    "pandas arrow strings": FRAME.assign(user=names(USERS)).astype(
        {"user": "string[pyarrow]"}
    ),
    "pandas datetimes": FRAME.assign(user=dates(USERS)),
    "pandas datetimes with a zone": FRAME.assign(
        user=pd.Series(dates(USERS)).dt.tz_localize("Europe/Paris")
    ),
    "pandas with a shuffled index": FRAME.set_index(
        np.random.default_rng(0).permutation(N_ROWS)
    ),
    "pandas with one name for both columns": FRAME.set_axis(["id", "id"], axis=1),
    "polars ints": pl.DataFrame(FRAME),
    "polars strings": pl.DataFrame({"user": names(USERS), "item": ITEMS}),
    "polars categories": pl.DataFrame(
        {"user": pl.Series(names(USERS), dtype=pl.Categorical), "item": ITEMS}
    ),
    "polars dates": pl.DataFrame(
        {"user": dates(USERS).date.tolist(), "item": ITEMS},
    ),
    "arrow ints": pa.table({"user": USERS, "item": ITEMS}),
    "arrow with the index of pandas": pa.Table.from_pandas(FRAME.set_axis(USERS + 7)),
    "arrow strings": pa.table({"user": names(USERS), "item": ITEMS}),
    "arrow dictionaries": pa.table(
        {"user": pa.array(names(USERS)).dictionary_encode(), "item": ITEMS}
    ),
}
CONTAINER = pytest.mark.parametrize("name", CONTAINERS)


@functools.cache
def fitted(name):
    return small().fit(CONTAINERS[name], Y)


@CONTAINER
def test_a_container_gives_the_predictions_of_the_int_array(name, baseline):
    model = fitted(name)
    assert_array_equal(model.predict(CONTAINERS[name]), baseline.predict(X))
    assert_array_equal(model.item_factors_, baseline.item_factors_)


@CONTAINER
def test_a_network_does_not_see_the_container(name, ncf_baseline, ncf_updated):
    container = CONTAINERS[name]
    model = small_ncf().fit(container, Y)
    assert_array_equal(model.predict(container), ncf_baseline.predict(X))
    model.partial_fit(container[:20], Y[:20])
    assert_array_equal(model.predict(container), ncf_updated.predict(X))
    assert model.user_ids_.dtype == fitted(name).user_ids_.dtype


@CONTAINER
def test_recommendations_are_the_ids_of_the_container(name, baseline):
    model = fitted(name)
    numbers = baseline.recommend(n_items=3)
    found = model.recommend(n_items=3)
    position = np.searchsorted(baseline.item_ids_, numbers)
    assert_array_equal(found, model.item_ids_[position])


def test_bool_ids_give_the_predictions_of_zero_and_one():
    halves = USERS % 2
    numbers = small().fit(np.column_stack([halves, ITEMS]), Y)
    frame = FRAME.assign(user=halves.astype(bool))
    model = small().fit(frame, Y)
    assert model.user_ids_.dtype == bool
    assert_array_equal(
        model.predict(frame), numbers.predict(np.column_stack([halves, ITEMS]))
    )


def test_each_column_of_a_list_keeps_its_kind():
    rows = CONTAINERS["tuples of a string and an int"]
    model = small().fit(rows, Y)
    assert model.user_ids_.tolist() == sorted(set(names(USERS)))
    assert model.item_ids_.tolist() == sorted(set(ITEMS.tolist()))


@pytest.mark.parametrize(
    ("container", "users"),
    [
        ("pandas datetimes", [pd.Timestamp("2026-01-03"), pd.Timestamp("2026-01-02")]),
        ("pandas datetimes", pd.Series(dates([2, 1]))),
        ("polars dates", dates([2, 1]).date.tolist()),
        ("polars dates", pl.Series(dates([2, 1]).date.tolist())),
        ("pandas categories", pd.Series(names([2, 1]), dtype="category")),
        ("pandas strings", names([2, 1])),
        ("pandas Int64", pd.Series([2, 1], dtype="Int64")),
        ("polars strings", pl.Series(names([2, 1]))),
        ("arrow strings", pa.chunked_array([names([2, 1])])),
        ("int32", range(2, 0, -1)),
        ("int32", np.array([2, 1], dtype=">i8")),
        ("int32", torch.tensor([2, 1])),
        ("torch", [2, 1]),
        ("ids beyond int64", [2**63 + 2, 2**63 + 1]),
        ("pandas datetimes with a zone", list(PARIS[:2])),
        ("pandas datetimes with a zone", [t.to_pydatetime() for t in PARIS[:2]]),
        ("pandas datetimes with a zone", PARIS[:2].tz_convert("Asia/Tokyo")),
        ("pandas datetimes with a zone", pl.Series(PARIS[:2])),
        ("float64", (1.5, 0.5)),
    ],
)
def test_users_can_be_asked_for_in_any_container(container, users, baseline):
    model = fitted(container)
    _, expected = baseline.recommend([2, 1], 3, return_scores=True)
    _, scores = model.recommend(users, 3, return_scores=True)
    assert_array_equal(scores, expected)


@pytest.mark.parametrize(
    "y",
    [
        Y.tolist(),
        Y.astype(np.float32),
        Y.astype(int),
        pd.Series(Y, index=range(N_ROWS, 0, -1)),
        pd.Series(Y, dtype="Int64"),
        pd.Series(Y, dtype=object),
        pl.Series(Y),
        pa.chunked_array([Y]),
        Y.astype(">f8"),
        np.ma.array(Y),
        torch.tensor(Y),
        torch.tensor(Y, dtype=torch.bfloat16, requires_grad=True),
    ],
    ids=lambda y: f"{type(y).__module__}.{type(y).__name__}",
)
def test_ratings_come_in_any_container(y, baseline):
    assert_array_equal(small().fit(X, y).predict(X), baseline.predict(X))


def test_a_frame_fit_predicts_for_the_frame_of_another_library(baseline):
    model = small().fit(FRAME, Y)
    assert_array_equal(model.predict(pl.DataFrame(FRAME)), baseline.predict(X))
    assert_array_equal(
        model.predict(pa.Table.from_pandas(FRAME, preserve_index=False)),
        baseline.predict(X),
    )


def test_further_columns_may_be_of_any_numeric_kind():
    hour = np.arange(N_ROWS) % 24
    expected = small().fit(np.column_stack([X, hour]), Y)
    for values in (hour.astype(np.int8), pd.array(hour, "Int64"), hour.astype(object)):
        frame = FRAME.assign(user=names(USERS), hour=values)
        model = small().fit(frame, Y)
        assert_allclose(
            model.predict(frame), expected.predict(np.column_stack([X, hour]))
        )
        assert_allclose(model.coef_, expected.coef_)


def test_a_pipeline_predicts_as_its_last_step(baseline):
    frame = FRAME.assign(noise="not to be seen")
    for select in (
        FunctionTransformer(lambda table: table[["user", "item"]]),
        ColumnTransformer([("ids", "passthrough", ["user", "item"])]),
    ):
        pipe = make_pipeline(select, small()).fit(frame, Y)
        assert_array_equal(pipe.predict(frame), baseline.predict(X))


@pytest.mark.parametrize("output", ["default", "pandas", "polars"])
def test_the_output_container_of_a_transformer_does_not_matter(output, baseline):
    select = ColumnTransformer(
        [("ids", "passthrough", ["user", "item"])], verbose_feature_names_out=False
    )
    pipe = make_pipeline(select, small()).set_output(transform=output).fit(FRAME, Y)
    predictions = pipe.predict(FRAME)
    assert isinstance(predictions, np.ndarray)
    assert_array_equal(predictions, baseline.predict(X))


SEARCHES = {
    "grid": lambda model, **kw: GridSearchCV(model, {"n_factors": [0, 2]}, **kw),
    "random": lambda model, **kw: RandomizedSearchCV(
        model, {"n_factors": [0, 2]}, n_iter=2, random_state=0, **kw
    ),
    "halving": lambda model, **kw: HalvingGridSearchCV(
        model, {"n_factors": [0, 2]}, random_state=0, min_resources=100, **kw
    ),
}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES.keys())
def test_a_search_ends_with_a_fit_of_the_best_parameters(search):
    found = search(small(), cv=FOLDS).fit(FRAME, Y)
    assert np.isfinite(found.cv_results_["mean_test_score"]).all()
    best = small(**found.best_params_).fit(FRAME, Y)
    assert_array_equal(found.predict(FRAME), best.predict(FRAME))


def test_a_search_in_two_processes_is_the_search_in_one():
    in_one, in_two = (
        SEARCHES["grid"](small(), cv=FOLDS, n_jobs=n_jobs).fit(FRAME, Y)
        for n_jobs in (1, 2)
    )
    assert_allclose(
        in_two.cv_results_["mean_test_score"],
        in_one.cv_results_["mean_test_score"],
        rtol=1e-6,
    )
    assert in_two.best_params_ == in_one.best_params_


def test_cross_validation_scores_the_held_out_rows():
    scores = cross_val_score(small(), FRAME, Y, cv=FOLDS)
    expected = [
        small().fit(X[train], Y[train]).score(X[test], Y[test])
        for train, test in FOLDS.split(X)
    ]
    assert_allclose(scores, expected)
    results = cross_validate(
        small(), FRAME, Y, cv=FOLDS, scoring=["r2", "neg_root_mean_squared_error"]
    )
    assert_allclose(results["test_r2"], expected)


def test_cross_val_predict_predicts_each_row_from_the_others():
    predictions = cross_val_predict(small(), FRAME, Y, cv=FOLDS)
    for train, test in FOLDS.split(X):
        model = small().fit(X[train], Y[train])
        assert_allclose(predictions[test], model.predict(X[test]))


def test_bagging_averages_fits_of_resampled_rows():
    bag = BaggingRegressor(small(), n_estimators=3, random_state=0).fit(X, Y)
    members = [
        small().fit(X[rows], Y[rows]).predict(X) for rows in bag.estimators_samples_
    ]
    assert_allclose(bag.predict(X), np.mean(members, axis=0), rtol=1e-5)


def test_voting_averages_with_another_estimator(baseline):
    vote = VotingRegressor([("mf", small()), ("mean", DummyRegressor())]).fit(X, Y)
    assert_allclose(vote.predict(X), (baseline.predict(X) + Y.mean()) / 2)


def test_a_transformed_target_is_transformed_back(baseline):
    model = TransformedTargetRegressor(
        small(), func=np.negative, inverse_func=np.negative
    )
    assert_allclose(model.fit(X, Y).predict(X), baseline.predict(X), rtol=1e-4)


def test_two_targets_are_two_fits(baseline):
    model = MultiOutputRegressor(small()).fit(X, np.column_stack([Y, Y[::-1]]))
    expected = [baseline.predict(X), small().fit(X, Y[::-1]).predict(X)]
    assert_array_equal(model.predict(X), np.transpose(expected))


def test_a_learning_curve_ends_with_the_whole_training_part():
    sizes, train, test = learning_curve(
        small(), FRAME, Y, cv=FOLDS, train_sizes=[0.5, 1.0]
    )
    assert sizes.tolist() == [100, 200]
    assert_allclose(test[1], cross_val_score(small(), FRAME, Y, cv=FOLDS))
    assert np.isfinite(train).all()


def test_a_validation_curve_reaches_every_value():
    _, test = validation_curve(
        small(), FRAME, Y, cv=FOLDS, param_name="n_factors", param_range=[0, 2]
    )
    for scores, n_factors in zip(test, (0, 2), strict=True):
        expected = cross_val_score(small(n_factors=n_factors), FRAME, Y, cv=FOLDS)
        assert_allclose(scores, expected)


def test_ratings_predict_better_than_permuted_ratings():
    score, permuted, p_value = permutation_test_score(
        small(), FRAME, Y, cv=FOLDS, n_permutations=9, random_state=0
    )
    assert score > permuted.max()
    assert p_value == pytest.approx(0.1)


@pytest.mark.parametrize(
    "pipeline",
    [
        pytest.param(False, id="alone"),
        pytest.param(
            True,
            id="in a pipeline",
            marks=pytest.mark.skipif(
                parse_version(sklearn.__version__) < parse_version("1.8"),
                reason="a search routes weights to the score of a pipeline from 1.8 on",
            ),
        ),
    ],
)
def test_weights_are_routed_through_a_search(pipeline):
    weight = np.random.default_rng(0).integers(0, 3, N_ROWS)
    with config_context(enable_metadata_routing=True):
        model = small().set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        name = "n_factors"
        if pipeline:
            model = make_pipeline(FunctionTransformer(), model)
            name = "mfregressor__n_factors"
        search = GridSearchCV(model, {name: [2]}, cv=FOLDS)
        search.fit(X, Y, sample_weight=weight)
    expected = [
        small()
        .fit(X[train], Y[train], weight[train])
        .score(X[test], Y[test], weight[test])
        for train, test in FOLDS.split(X)
    ]
    scores = [search.cv_results_[f"split{fold}_test_score"][0] for fold in range(3)]
    assert_allclose(scores, expected)
    assert_array_equal(search.predict(X), small().fit(X, Y, weight).predict(X))


@pytest.mark.skipif(
    parse_version(pd.__version__) < parse_version("3"),
    reason="tables of strings of pandas before 3 end at a NUL",
)
@pytest.mark.parametrize(
    "container",
    [
        lambda ids: ids,
        lambda ids: ids.astype("string"),
        lambda ids: ids.astype("category"),
        pl.from_pandas,
        lambda ids: pl.from_pandas(ids).with_columns(pl.all().cast(pl.Categorical)),
        lambda ids: pa.Table.from_pandas(ids, preserve_index=False),
        lambda ids: ids.to_numpy(dtype=object),
        lambda ids: ids.to_numpy(dtype=object).tolist(),
    ],
    ids=[
        "str",
        "string",
        "category",
        "polars",
        "polars category",
        "arrow",
        "object",
        "list",
    ],
)
def test_ids_keep_nuls_at_their_ends(container):
    """Which NumPy's strings of a fixed width lose."""
    users, items = ["a", "a\0", "a\0\0", "b"], ["x\0", "y", "y\0"]
    ids = pd.DataFrame([(u, i) for u in users for i in items], columns=["user", "item"])
    model = small(handle_unknown="error").fit(container(ids), np.arange(12.0) % 5)
    assert model.user_ids_.tolist() == users
    assert model.item_ids_.tolist() == items
    assert model.predict(container(ids)).shape == (12,)
    listed = model.recommend(["a\0"], n_items=3, exclude_seen=False)
    assert sorted(listed[0]) == items
