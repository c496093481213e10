"""Tests of the columns of context that a model has, and of their order."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import copied
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import root_mean_squared_error

import skrec
from skrec import MFRegressor, NCFRegressor
from skrec._data.context import KnownContext
from skrec._data.interactions import Interactions
from skrec._data.reading import Columns, read_table
from skrec._data.selection import with_selected_context
from skrec.datasets import make_ratings

pytestmark = [
    pytest.mark.usefixtures("short_chains"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

SOLVERS = ("vb", "als", "gibbs", "adam", "sgd", "ncf")


def estimator(solver, **params):
    params = {"max_iter": 2, "random_state": 0, "device": "cpu"} | params
    if solver == "ncf":
        params = {"n_members": 1, "n_factors": 2, "hidden_layer_sizes": ()} | params
        return NCFRegressor(**params)
    return MFRegressor(2, solver=solver, **params)


def rated(n=150, n_again=30, seed=0):
    """Ratings with pairs that are rated again, in other contexts."""
    X, y = make_ratings(20, 15, n, random_state=seed)
    rng = np.random.RandomState(seed)
    rows = np.append(np.arange(n), rng.randint(n, size=n_again))
    X, y = X.iloc[rows].reset_index(drop=True), y[rows]
    X = X.assign(
        hour=rng.normal(size=len(X)),
        season=rng.choice(["dry", "wet"], size=len(X)),
        day=rng.normal(size=len(X)),
        device=rng.choice(["car", "phone", "tv"], size=len(X)),
    )
    return X, y + 0.5 * X["hour"] + (X["season"] == "wet")


def canonical(X, y, weight=None):
    columns = Columns.from_frame(read_table(X, "X"))
    return with_selected_context(
        Interactions.from_columns(columns, np.asarray(y, float), weight)
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_column_that_is_the_same_in_all_rows_changes_nothing(solver):
    X, y = rated()
    weight = np.ones(len(X))
    weight[:5] = 0
    constant = X.assign(source="web", paid=True, year=2024.1)
    # Rows without weight do not count.
    constant.loc[:4, ["source", "paid", "year"]] = ["app", False, 1.0]
    without = estimator(solver).fit(X, y, weight)
    with_constants = estimator(solver).fit(constant, y, weight)
    assert_array_equal(with_constants.predict(constant), without.predict(X))
    asked = {"season": "wet", "source": "web", "year": 2024.1}
    lists = with_constants.recommend(n_items=3, context=asked)
    assert_array_equal(lists, without.recommend(n_items=3, context={"season": "wet"}))


@pytest.mark.parametrize("solver", ["vb", "als", "adam", "ncf"])
def test_predictions_depend_neither_on_the_order_of_columns_nor_on_names(solver):
    X, y = rated()
    order = ["user", "item", "device", "day", "season", "hour"]
    names = {"device": "a", "day": "b", "season": "c", "hour": "d"}
    expected = estimator(solver).fit(X, y)
    moved, renamed = X[order], X.rename(columns=names)
    assert_array_equal(
        estimator(solver).fit(moved, y).predict(moved), expected.predict(X)
    )
    other = estimator(solver).fit(renamed, y)
    assert_array_equal(other.predict(renamed), expected.predict(X))
    asked = {"device": "tv", "hour": 1.0}
    lists = other.recommend(n_items=3, context={names[k]: v for k, v in asked.items()})
    assert_array_equal(lists, expected.recommend(n_items=3, context=asked))


@pytest.mark.parametrize("solver", ["vb", "ncf"])
def test_effects_are_those_of_their_columns(solver):
    X, y = rated()
    X = X.assign(source="web", year=3.0)
    fast = {"learning_rate_init": 0.05} if solver == "ncf" else {}
    model = estimator(solver, max_iter=10, **fast).fit(X, y)
    effects = model.feature_effects().set_index("feature")
    assert list(effects.index) == [
        *("hour", "season_dry", "season_wet", "day"),
        *("device_car", "device_phone", "device_tv", "source_web", "year"),
    ]
    assert effects.loc["season_wet", "effect"] > 0.2
    assert effects.loc["hour", "effect"] > 0.2
    for name in ("day", "device_tv"):
        assert abs(effects.loc[name, "effect"]) < 0.2
    of_constants = effects.loc[["source_web", "year"]]
    assert not of_constants["effect"].any()
    # A single member has no deviations.
    assert_array_equal(of_constants["std"], [np.nan if solver == "ncf" else 0] * 2)
    by_column = model.feature_effects(by="column").set_index("feature")
    assert list(by_column.index) == list(X.columns[2:])
    assert by_column.loc["source", "effect"] == 0
    if solver == "vb":
        assert model.coef_.shape == (3,)
        assert model.coef_[0] > 0.2 > abs(model.coef_[1])
        assert model.coef_[2] == 0


def test_further_rows_may_have_values_that_a_constant_column_had_not():
    X, y = rated()
    constant = X.assign(source="web")
    model = estimator("vb").fit(constant, y)
    without = estimator("vb").fit(X, y).partial_fit(X[:20], y[:20])
    model.partial_fit(constant[:20].assign(source="app"), y[:20])
    assert_array_equal(model.predict(constant), without.predict(X))
    with pytest.raises(ValueError, match="values of 'source'"):
        model.set_params(handle_unknown="error").predict(constant.assign(source="app"))


@pytest.mark.parametrize("solver", ["vb", "als", "gibbs", "adam", "ncf"])
def test_a_warm_start_takes_columns_by_name(solver):
    X, y = rated()
    warm = estimator(solver, max_iter=1, warm_start=True)
    for columns in (
        ["hour", "day", "season"],
        ["day", "hour", "season"],
        ["hour", "device"],
        [],
        ["season", "day"],
    ):
        part = X[["user", "item", *columns]]
        assert np.isfinite(warm.fit(part, y).predict(part)).all()
    # The coefficient goes on from that of the last fit.
    if solver in ("adam", "ncf"):
        first = estimator(solver, max_iter=10, learning_rate_init=0.05)
        first.fit(X[["user", "item", "hour"]], y)
        first.set_params(warm_start=True, max_iter=1, learning_rate_init=1e-9)
        model = first.fit(X[["user", "item", "day", "hour"]], y)
        effects = model.feature_effects().set_index("feature")["effect"]
        assert effects["hour"] > 0.3 > 0.1 > abs(effects["day"])


@pytest.mark.parametrize("seed", range(3))
def test_the_order_follows_from_what_columns_hold(seed):
    X, y = rated(60, 20, seed)
    rng = np.random.RandomState(seed)
    X = X.assign(**{f"flag{j}": rng.rand(len(X)) < 0.5 for j in range(4)})
    X["constant"] = X["zero"] = 0
    data = canonical(X, y)
    further = list(X.columns[2:])
    rng.shuffle(further)
    moved = canonical(X[["user", "item", *further]], y)
    for name in ("users", "items", "rating", "weight", "context"):
        assert_array_equal(getattr(moved, name), getattr(data, name))
    names = data.known_context.number_names + data.known_context.value_names
    assert names == moved.known_context.number_names + moved.known_context.value_names
    assert sorted(names) == sorted({*further} - {"constant", "zero"})
    assert data.n_values == [len(v) for v in data.known_context.vocabularies]
    # Each column of the context holds the column of its name.
    first = np.lexsort((data.context[:, 0], data.items, data.users))
    rows = X.assign(y=y).sort_values(["user", "item", names[0]])
    if not rows.duplicated(["user", "item", names[0]]).any() and len(rows) == len(
        first
    ):
        for place, name in enumerate(data.known_context.number_names):
            assert_allclose(data.context[first, place], rows[name])


def test_columns_that_vary_in_their_order_are_taken_as_they_are():
    X, y = rated()
    columns = Columns.from_frame(read_table(X[["user", "item", "hour"]], "X"))
    data = Interactions.from_columns(columns, np.asarray(y), None)
    assert with_selected_context(data) is data
    assert data.known_context.selection is None


def test_places_of_another_fit_are_those_of_its_model():
    values = np.array(["a", "b"]), np.array(["x", "y", "z"])
    known = KnownContext(("p", "n", "q", "m"), (values[0], None, values[1], None))
    other = replace(known, selection=(1, 3, 2))
    assert other.number_names == ["m"]
    assert other.value_names == ["q", "p"]
    of_values, of_numbers = known.places_in(other)
    assert_array_equal(of_values, [3, 4, 0, 1, 2])
    assert_array_equal(of_numbers, [-1, 0])
    context = np.array([[1.0, 2.0, 0.0, 1.0]])
    assert_array_equal(other.select(context), [[2.0, 1.0, 0.0]])
    assert_array_equal(other.of_all_numbers(np.array([5.0])), [0.0, 5.0])


def test_a_file_has_the_selection(tmp_path):
    X, y = rated()
    X = X.assign(source="web")
    model = estimator("vb").fit(X, y)
    model.save(tmp_path / "model.skrec")
    loaded = skrec.load(tmp_path / "model.skrec")
    assert_array_equal(loaded.predict(X), model.predict(X))
    effects = loaded.feature_effects(), model.feature_effects()
    pd.testing.assert_frame_equal(*effects)


@pytest.mark.parametrize("solver", ["vb", "als", "adam", "ncf"])
def test_values_of_further_rows_alone_stay_unknown(solver):
    """Rows with them update users and items as rows of any unknown value do."""
    X, y = rated()
    model = estimator(solver, max_iter=5, clip=False).fit(X, y)
    other = copied(model)
    effects = model.feature_effects().set_index("feature")
    of_values = [name for name in effects.index if name not in ("hour", "day")]
    ann = pd.DataFrame({"user": 1000, "item": X["item"].unique()[:12]})
    ann = ann.assign(hour=0.0, season="storm", day=0.0, device="tv")
    before = model.predict(ann)
    model.partial_fit(ann, np.full(len(ann), y.max() + 2))
    other.partial_fit(ann.assign(season="flood"), np.full(len(ann), y.max() + 2))
    found = model.feature_effects().set_index("feature").loc[of_values]
    pd.testing.assert_frame_equal(found, effects.loc[of_values])
    after = model.predict(ann)
    assert (after > before + 0.5).all()
    assert_array_equal(other.predict(ann), after)
    assert_array_equal(model.predict(ann.assign(season="hail")), after)
    model.set_params(handle_unknown="error")
    with pytest.raises(ValueError, match="values of 'season'"):
        model.predict(ann)


@pytest.mark.parametrize(("solver", "most"), [("vb", 1.005), ("als", 1.01)])
def test_columns_that_say_nothing_cost_next_to_nothing(solver, most):
    """Values at random, columns of users or items alone, and the same column twice."""
    X, y = make_ratings(200, 80, 6000, noise=0.9, levels=None, random_state=2)
    rng, is_test = np.random.RandomState(2), np.arange(len(X)) % 4 == 0
    noise = rng.randint(5, size=len(X)).astype(str)
    country = rng.randint(6, size=X["user"].max() + 1).astype(str)[X["user"]]
    genre = rng.randint(4, size=X["item"].max() + 1).astype(str)[X["item"]]

    def error(**columns):
        rows = X.assign(**columns)
        model = MFRegressor(4, solver=solver, rank_by="rating")
        model.fit(rows[~is_test], y[~is_test])
        return root_mean_squared_error(y[is_test], model.predict(rows[is_test]))

    without = error()
    for columns in (
        {"noise": noise},
        {"country": country, "genre": genre},
        {"source": np.where(rng.rand(len(X)) < 0.05, "unknown", "web")},
        {"noise": noise, "again": noise},
    ):
        assert error(**columns) <= most * without


def test_bpr_has_no_effects_of_context():
    X, _ = rated()
    model = MFRegressor(2, solver="adam", loss="bpr", max_iter=2, random_state=0)
    with pytest.raises(AttributeError, match="no effects of context, since"):
        model.fit(X).feature_effects()
    users = pd.DataFrame({"age": np.arange(20.0)}, index=np.unique(X["user"]))
    model.fit(X, user_features=users)
    assert model.feature_effects()["feature"].tolist() == ["age"]


def test_slopes_are_in_the_order_of_the_columns_of_x():
    X, y = make_ratings(40, 30, 600, random_state=0)
    rng = np.random.default_rng(0)
    for _ in range(4):
        rows = X.assign(w=rng.normal(size=600), z=rng.normal(size=600))
        frame = MFRegressor(2, max_iter=3, tol=1e9).fit(rows, y).factors_frame("user")
        assert frame.columns[-2:].tolist() == ["slope_w", "slope_z"]
