"""Context of values in gradient solvers and networks."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import copied, rmse, small_ncf
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import train_test_split
from test_context import SEASONS, seasonal

from skrec import MFRegressor, NCFRegressor
from skrec._data.units import Units
from skrec._gradient.context import ValuePenalties, network_context, noise_edges
from skrec._gradient.network import NeuMF, Shape, initial_weights
from skrec.datasets import make_ratings

SHAPE = Shape(
    n_users=5,
    n_items=4,
    n_context=1,
    n_factors=3,
    n_embedding=2,
    hidden_layer_sizes=(3,),
    activation="tanh",
    n_members=2,
    n_values=(3, 2),
)

X, Y = seasonal()
TRAIN, TEST = slice(0, 6400), slice(6400, None)
IDS = X[["user", "item"]]
PARAMS = {"rank_by": "rating", "clip": False, "random_state": 0}
NETWORK = {"n_members": 2, "hidden_layer_sizes": (4,), **PARAMS}


def model_of(name, **params):
    if name == "ncf":
        return NCFRegressor(**{"reg": 0.2, **NETWORK, **params})
    return MFRegressor(solver=name, **{"reg": 0.2, **PARAMS, **params})


@pytest.fixture(scope="module", params=["adam", "ncf"])
def fitted(request):
    return model_of(request.param).fit(X[TRAIN], Y[TRAIN])


def test_rows_of_values_follow_one_another():
    units = Units(0.0, 1.0, np.array([3.0]), np.array([2.0]))
    context = np.array([[5.0, 2, 0], [3.0, -1, 1], [1.0, 0, -1]])
    expected = [[1, 2, 3], [0, -1, 4], [-1, 0, -1]]
    assert_array_equal(network_context(context, units, (3, 2)), expected)


@pytest.mark.parametrize("options", [{}, {"biased": False}, {"n_factors": 0}])
def test_scores_have_effects_and_products_of_values(options):
    shape = Shape(**{**vars(SHAPE), **options})
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in initial_weights(shape, range(2)).items()
    }
    for name in ("value_users", "value_items", "value_bias"):
        weights[name][-1] = 0
    network = NeuMF(shape, weights).requires_grad_(False)
    users, items = torch.tensor([0, 3, -1]), torch.tensor([[1], [2], [0]])
    users = network.table_rows("user", users)
    rows = np.array([[0, 4], [2, 3], [-1, 3]])
    numbers = torch.tensor([[0.3], [-1], [2]]).double()
    known = network(users, items, torch.hstack([numbers, torch.as_tensor(rows)]))
    unknown = network(users, items, torch.hstack([numbers, torch.full((3, 2), -1)]))
    for n in range(3):
        a, d = weights["user_context"][users[n]], weights["item_context"][items[n, 0]]
        expected = torch.zeros(2).double()
        for row in rows[n][rows[n] >= 0]:
            expected += weights["value_bias"][row]
            expected += (a * weights["value_users"][row]).sum(-1)
            expected += (d * weights["value_items"][row]).sum(-1)
        assert_allclose((known - unknown)[n, 0], expected, atol=1e-12)


@pytest.mark.parametrize("n_rows", [20, 1000])
@pytest.mark.parametrize("n_values", [(2,), (12, 50)])
def test_edges_are_those_of_noise(n_rows, n_values):
    rng = np.random.default_rng(0)
    n = 30_000
    row = (n_rows * rng.random(n) ** 2).astype(int)
    of_rows = np.bincount(row, minlength=n_rows)
    counts, found = [], []
    for size in n_values:
        value = rng.integers(size, size=n)
        counts.append(np.bincount(value, minlength=size))
        noise = np.zeros((n_rows, size))
        np.add.at(noise, (row, value), rng.normal(size=n))
        noise /= np.maximum(of_rows, 1)[:, None] ** 0.25 * counts[-1] ** 0.25
        found += [np.linalg.norm(noise, 2)] * size
    edges = noise_edges(
        torch.as_tensor(of_rows).double(),
        torch.as_tensor(np.concatenate(counts)).double(),
        n_values,
    )
    ratio = edges.numpy() / found
    assert 0.9 < ratio.min() <= ratio.max() < 1.5


def test_penalties_follow_the_noise():
    network = NeuMF(SHAPE, initial_weights(SHAPE, range(2)))
    sizes = {"user": 6, "item": 5, "value": 6}
    weights = {side: torch.ones(size) for side, size in sizes.items()}
    penalties, before = ValuePenalties(network, weights), torch.ones(6)
    first = penalties.of(network.get_parameter("value_items"), before).clone()
    penalties.adapt(torch.tensor(0.5))
    assert_allclose(
        penalties.of(network.get_parameter("value_items"), before), first / 4
    )
    assert penalties.of(network.get_parameter("value_bias"), before) is before
    assert penalties.of(network.get_parameter("item_context"), before) is before


@pytest.mark.parametrize("curvature", [1.0, 0.5, 0.25])
def test_products_within_the_noise_are_nothing(curvature):
    """Where a penalty is the curvature of its loss, as in defaults for ratings."""
    network = NeuMF(SHAPE, initial_weights(SHAPE, range(2)))
    sizes = {"user": 6, "item": 5, "value": 6}
    weights = {side: torch.ones(size).double() for side, size in sizes.items()}
    penalties = ValuePenalties(network, weights, curvature)
    penalties.adapt(torch.tensor(0.7))
    table = network.get_parameter("value_items")
    of_values = penalties.of(table, torch.full((6,), curvature).double())[0]
    edge = 0.7 * noise_edges(weights["item"][:-1], weights["value"][:-1], (3, 2))[0]
    for ratio in (0.97, 1.03):
        # Alternating ridge regressions find the product of the least objective.
        product, row = 1.0, 1.0
        for _ in range(2000):
            value = row * ratio * edge / (row**2 + of_values)
            row = value * ratio * edge / (value**2 + curvature)
            product = row * value
        assert (product < 1e-6) == (ratio < 1)


def test_seasons_of_items_are_learned_by_sgd_too():
    model = model_of("sgd", max_iter=10).fit(X[TRAIN], Y[TRAIN])
    assert rmse(model, X[TEST], Y[TEST]) < 0.45


def test_seasons_of_items_are_learned(fitted):
    bare = copied(fitted).fit(IDS[TRAIN], Y[TRAIN])
    assert rmse(fitted, X[TEST], Y[TEST]) < 0.45
    assert rmse(bare, IDS[TEST], Y[TEST]) > 0.9


@pytest.mark.parametrize("name", ["adam", "ncf"])
def test_noise_costs_almost_nothing(name):
    noise = np.random.RandomState(0).randint(50, size=len(X)).astype(str)
    noisy = X.assign(season=noise)
    model = model_of(name, reg=None)
    bare = copied(model).fit(IDS[TRAIN], Y[TRAIN])
    with_noise = model.fit(noisy[TRAIN], Y[TRAIN])
    error = rmse(with_noise, noisy[TEST], Y[TEST])
    assert error < 1.005 * rmse(bare, IDS[TEST], Y[TEST])


@pytest.fixture(scope="module")
def best():
    return MFRegressor(rank_by="rating").fit(X[TRAIN], Y[TRAIN])


@pytest.mark.parametrize(
    "model",
    [
        MFRegressor(solver="adam"),
        MFRegressor(solver="sgd"),
        NCFRegressor(n_members=2),
    ],
)
def test_seasons_of_items_are_learned_by_default(model, best):
    model.set_params(rank_by="rating", random_state=0).fit(X[TRAIN], Y[TRAIN])
    found, least = (rmse(m, X[TEST], Y[TEST]) for m in (model, best))
    assert found < 1.45 * least


def test_users_have_seasons_too():
    rng = np.random.default_rng(1)
    season = np.searchsorted(SEASONS, X["season"])
    y = rng.normal(size=(150, 4))[X["user"], season] + 0.3 * rng.normal(size=len(X))
    model = model_of("adam").fit(X[TRAIN], y[TRAIN])
    assert rmse(model, X[TEST], y[TEST]) < 0.6


def test_an_unknown_value_has_no_effect(fitted):
    unknown = fitted.predict(X[TEST].assign(season="monsoon"))
    listed = pd.Series(unknown, index=X[TEST].index)
    user = X[TEST]["user"].iloc[0]
    items, scores = fitted.recommend([user], 80, exclude_seen=False, return_scores=True)
    by_item = dict(zip(items[0], scores[0], strict=True))
    own = X[TEST][X[TEST]["user"] == user]
    assert_allclose(listed[own.index], own["item"].map(by_item), atol=1e-5)
    with pytest.raises(ValueError, match=r"unknown values of 'season'.*'monsoon'"):
        copied(fitted).set_params(handle_unknown="error").predict(
            X[TEST].assign(season="monsoon")
        )


def test_scores_of_lists_are_the_predictions_in_the_context(fitted):
    asked = pd.DataFrame({"user": 3, "item": fitted.item_ids_, "season": "winter"})
    for model in (fitted, copied(fitted).fit(IDS.assign(hour=X["item"] % 24 / 24), Y)):
        context = {"season": "winter"}
        if model is not fitted:
            asked, context = asked[["user", "item"]].assign(hour=0.3), {"hour": 0.3}
        items, scores = model.recommend(
            [3], 80, exclude_seen=False, context=context, return_scores=True
        )
        in_order = scores[0][np.argsort(items[0])]
        assert_allclose(in_order, model.predict(asked), atol=1e-5)


def test_further_rows_are_folded_in_given_their_context(fitted):
    is_new = X["user"] == 7
    first = copied(fitted).fit(X[~is_new], Y[~is_new])
    rows, y = X[is_new], Y[is_new]
    half, rest = slice(0, 35), slice(35, None)
    model = copied(first).partial_fit(rows[half], y[half])
    blind = copied(first).partial_fit(rows[half].assign(season="monsoon"), y[half])
    error = rmse(model, rows[rest], y[rest])
    assert error < 0.9 * rmse(blind, rows[rest], y[rest])
    # Terms of others stay, and those of a new item are those of an average one.
    further = X[:30].assign(item=10**6)
    grown = copied(first).partial_fit(further, Y[:30])
    asked = X[~is_new & (X["user"] > 30)][:50]
    differences = [
        m.predict(asked) - m.predict(asked.assign(season="monsoon"))
        for m in (first, grown)
    ]
    assert_allclose(*differences, atol=1e-5)
    less = copied(grown).forget(items=[10**6])
    assert_allclose(less.predict(asked), grown.predict(asked), atol=1e-6)


def test_a_warm_start_knows_the_values_by_name(fitted):
    model = copied(fitted)
    cold = model.loss_curve_[0]
    kept = X[TRAIN][X[TRAIN]["season"] != "spring"].replace("autumn", "zephyr")
    model.set_params(warm_start=True, max_iter=1)
    model.fit(kept, Y[kept.index])
    assert model.loss_curve_[0] < 0.5 * cold
    again = model.fit(IDS[TRAIN], Y[TRAIN])
    assert np.isfinite(again.predict(IDS)).all()
    assert rmse(model.fit(X[TRAIN], Y[TRAIN]), X[TEST], Y[TEST]) < 0.9


def test_values_of_another_solver_stay_in_partial_fit_and_are_learned_anew_in_fit():
    model = MFRegressor(8, **PARAMS).fit(X[TRAIN], Y[TRAIN])
    grown = copied(model).set_params(solver="adam")
    new = X[TEST].assign(user=-1)[:200]
    rating = model.predict(new)
    grown.partial_fit(new, rating + 1)
    terms, expected = grown.feature_effects(), model.feature_effects()
    assert_array_equal(terms["effect"], expected["effect"])
    assert rmse(grown, new, rating + 1) < 0.25
    model.set_params(solver="adam", warm_start=True, reg=0.2).fit(X[TRAIN], Y[TRAIN])
    assert rmse(model, X[TEST], Y[TEST]) < 0.45


def choices_by_season(seed=0):
    """Choices of items that are chosen in one season alone."""
    rng = np.random.default_rng(seed)
    u, s = rng.integers(60, size=3000), rng.integers(4, size=3000)
    return pd.DataFrame(
        {"user": u, "item": 4 * rng.integers(10, size=3000) + s, "season": SEASONS[s]}
    )


@pytest.mark.parametrize("loss", ["bpr", "log_loss"])
@pytest.mark.parametrize("estimator", [MFRegressor, NCFRegressor])
def test_lists_of_choices_are_in_the_context(loss, estimator):
    params = {"solver": "adam"}
    if estimator is NCFRegressor:
        params = {"n_members": 2, "hidden_layer_sizes": (4,)}
    model = estimator(loss=loss, random_state=0, **params).fit(choices_by_season())
    season = np.arange(40) % 4
    lists = model.recommend(
        np.arange(40), 5, exclude_seen=False, context={"season": SEASONS[season]}
    )
    assert (lists.astype(int) % 4 == season[:, None]).mean() > 0.9


@pytest.mark.parametrize("name", ["adam", "ncf"])
def test_effects_of_values_are_those_of_an_average_pair(name):
    free = np.arange(len(X)) % 3 == 0
    y = Y + 0.8 * free
    model = model_of(name).fit(X.assign(free=free)[TRAIN], y[TRAIN])
    effects = model.feature_effects().set_index("feature")
    difference = (
        effects.loc["free_True", "effect"] - effects.loc["free_False", "effect"]
    )
    assert difference == pytest.approx(0.8, abs=0.1)
    assert effects["std"].isna().all() == (name == "adam")
    assert abs(effects.loc[["free_True", "free_False"], "effect"] @ [1, 2]) < 0.01
    assert model.feature_effects(by="column")["feature"].tolist() == ["season", "free"]
    strangers = pd.DataFrame({"user": -1, "item": -1, "season": SEASONS, "free": True})
    by_season = effects.loc[[f"season_{s}" for s in SEASONS], "effect"]
    predicted = model.predict(strangers)
    assert_allclose(np.diff(by_season), np.diff(predicted), atol=1e-5)


@pytest.mark.parametrize("architecture", ["neumf", "gmf", "mlp"])
def test_effects_of_numbers_are_those_of_a_standard_deviation(architecture):
    rows = IDS[:1500].assign(constant=1.0, hour=np.arange(1500) % 24)
    y = 0.1 * Y[:1500] + 0.05 * rows["hour"]
    model = model_of("ncf", architecture=architecture).fit(rows, y)
    effects = model.feature_effects()
    assert effects["feature"].tolist() == ["constant", "hour"]
    assert effects["effect"][0] == 0
    assert effects["effect"][1] == pytest.approx(0.05 * rows["hour"].std(), rel=0.25)
    ends = rows["hour"].mean() + rows["hour"].std(ddof=0) * np.array([-0.5, 0.5])
    strangers = pd.DataFrame({"user": -1, "item": -1, "constant": 1.0, "hour": ends})
    predicted = model.predict(strangers)
    assert effects["effect"][1] == pytest.approx(np.diff(predicted)[0], rel=1e-3)
    alone = model_of("ncf", n_members=1, max_iter=1).fit(rows, y)
    assert alone.feature_effects()["std"].isna().all()


@pytest.mark.filterwarnings("ignore:A fit without y is of choices")
def test_effects_that_a_network_does_not_have_are_errors():
    with pytest.raises(AttributeError, match="without context"):
        small_ncf().fit(IDS[:50], Y[:50]).feature_effects()
    hourly = IDS[:50].assign(hour=np.arange(50) % 24)
    with pytest.warns(UserWarning, match="numbers"):
        choices = small_ncf(rank_by="choice").fit(hourly)
    for model in (small_ncf(loss="bpr").fit(X[:50]), choices):
        with pytest.raises(AttributeError, match="no effects of context, since"):
            model.feature_effects()
    with pytest.raises(ValueError, match="by must be 'value' or 'column'"):
        small_ncf().fit(X[:50], Y[:50]).feature_effects(by="row")


def test_values_of_held_out_rows_alone_have_no_effect():
    rows = X[:60].assign(season=np.arange(60).astype(str))
    model = small_ncf(early_stopping=True, validation_fraction=0.5, max_iter=3)
    predicted = model.fit(rows, Y[:60]).predict(rows)
    blind = model.predict(rows.assign(season="monsoon"))
    assert 30 <= np.isclose(predicted, blind, atol=1e-12).sum() < 60


@pytest.mark.parametrize("n_rows", [1, 2, 50])
@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "bpr"])
def test_few_rows_are_enough(n_rows, loss):
    y = None if loss == "bpr" else Y[:n_rows]
    for model in (model_of("sgd", loss=loss), small_ncf(loss=loss)):
        assert np.isfinite(model.fit(X[:n_rows], y).predict(X)).all()


def test_a_weight_of_two_is_the_row_twice():
    weight = np.arange(400) % 3
    rows = np.repeat(np.arange(400), weight)
    weighted = small_ncf().fit(X[:400], Y[:400], sample_weight=weight)
    repeated = small_ncf().fit(X.iloc[rows], Y.iloc[rows])
    assert_allclose(weighted.predict(X[:400]), repeated.predict(X[:400]), atol=1e-6)


def test_a_pair_is_penalised_once_however_many_its_rows():
    model = MFRegressor(solver="adam", **PARAMS)
    X, y = make_ratings(150, 80, 3000, random_state=1)
    rng = np.random.default_rng(0)
    X["noise"] = rng.random(len(X))
    X, X_test, y, y_test = train_test_split(X, y, random_state=0)
    copies = pd.concat([X] * 6).assign(noise=rng.random(6 * len(X)))
    once = rmse(model.fit(X, y), X_test, y_test)
    assert rmse(model.fit(copies, np.tile(y, 6)), X_test, y_test) < 1.015 * once


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_choices_without_biases_have_nothing_in_common(solver):
    params = {"loss": "bpr", "biased": False, "max_iter": 2, "random_state": 0}
    model = MFRegressor(4, solver=solver, **params).fit(IDS[:300])
    assert model.user_factors_.any()


def test_values_whose_pairs_are_forgotten_are_not_those_of_a_network():
    model = MFRegressor(4, **PARAMS).fit(X[:2000], Y[:2000])
    new = X[2000:2100].assign(user=10**6)
    model.partial_fit(new, Y[2000:2100]).forget(users=X["user"][:2000].unique())
    terms = model.feature_effects()
    model.set_params(solver="adam").partial_fit(new[:20], Y[2000:2020])
    assert_array_equal(model.feature_effects()["effect"], terms["effect"])
