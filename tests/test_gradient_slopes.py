"""Slopes of numbers of context in gradient solvers and networks."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import copied, rmse
from numpy.testing import assert_allclose, assert_array_equal
from test_slopes import NOISE, TEST, TRAIN, X, Y

from skrec import MFRegressor, NCFRegressor, load
from skrec._gradient.network import NeuMF, Shape, initial_weights, slope_weights
from skrec._gradient.samples import Samples
from skrec._gradient.slopes import Residuals, RowRegressions, update_slopes
from skrec._share import ALL_ROWS

IDS = X[["user", "item"]]
NETWORK = {
    "n_members": 2,
    "hidden_layer_sizes": (4,),
    "rank_by": "rating",
    "clip": False,
    "random_state": 0,
}


def regressions(n_rows=6, seed=0):
    """Rows of numbers, residuals and weights, and their regressions."""
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=(3, 4 + k)) for k in range(n_rows)]
    rows = [(x + k, r, w**2) for k, (x, r, w) in enumerate(rows)]
    moments = [
        torch.tensor([np.sum(w * f(x, r)) for x, r, w in rows])
        for f in (
            lambda x, r: 1 + 0 * x,
            lambda x, r: x,
            lambda x, r: x**2,
            lambda x, r: r,
            lambda x, r: x * r,
        )
    ]
    return rows, moments


@pytest.mark.parametrize("level_penalty", [0.7, np.inf])
def test_slopes_are_those_of_a_ridge_regression(level_penalty):
    rows, moments = regressions()
    bias, slope = torch.full((6,), 0.3).double(), torch.full((6,), -0.2).double()
    if level_penalty == np.inf:
        bias = 0 * bias
    penalty = torch.full((6,), level_penalty).double()
    fitted = RowRegressions.of(moments, penalty, bias, slope)
    found = fitted.slopes(torch.tensor(2.5))
    for k, (x, r, w) in enumerate(rows):
        Z = np.column_stack([np.ones_like(x), x])
        if level_penalty == np.inf:
            Z[:, 0] = 0
        whole = r + Z @ [0.3, -0.2]
        A = Z.T @ (w[:, None] * Z) + np.diag([min(level_penalty, 1.0), 2.5])
        expected = np.linalg.solve(A, Z.T @ (w * whole))
        assert found[k] == pytest.approx(expected[1], rel=1e-7)


def test_the_penalty_is_that_of_the_largest_evidence():
    rng = np.random.default_rng(0)
    for variance in (0.0, 0.01, 0.5):
        slopes = variance**0.5 * rng.normal(size=300)
        x = rng.normal(size=(300, 20))
        r = slopes[:, None] * x + 0.5 * rng.normal(size=x.shape)
        one = np.ones_like(x)
        moments = [torch.tensor(v.sum(1)) for v in (one, x, x**2, r, x * r)]
        zero = torch.zeros(300).double()
        fitted = RowRegressions.of(moments, zero + 1.0, zero, zero)
        found = 0.25 / float(fitted.likeliest_penalty(torch.tensor(0.25).double()))
        if variance:
            assert 0.5 < found / variance < 2
        else:
            assert found < 1e-3


def problem(biased, n_negatives=0):
    """A network with slopes, and residuals of random samples."""
    shape = Shape(8, 6, 2, n_factors=0, biased=biased, n_members=2)
    if not biased:
        shape = Shape(8, 6, 2, n_factors=2, biased=False, n_members=2)
    weights = initial_weights(shape, range(2)) | slope_weights(shape)
    network = NeuMF(shape, weights)
    rng = np.random.default_rng(0)
    users, items = (torch.as_tensor(rng.integers(n, size=200)) for n in (8, 6))
    numbers = torch.as_tensor(rng.normal(size=(200, 2))).float()
    slope = torch.as_tensor(rng.normal(size=8)).float()
    target = slope[users] * numbers[:, 0] + 1
    samples = Samples(users, items[:, None], numbers, target[:, None], None)
    weight = torch.ones(200, 1 + n_negatives)

    def residual():
        return target - network(users, samples.items, numbers)[:, 0].mean(-1)

    return network, samples, weight, residual


@pytest.mark.parametrize("biased", [True, False])
def test_residuals_follow_the_steps_of_slopes(biased):
    network, samples, weight, residual = problem(biased)
    before = residual().detach()
    tiles = [(samples, weight, before[:, None].clone())]
    residuals = Residuals.joined(tiles, ALL_ROWS)
    penalty = 0.1 if biased else np.inf
    penalties = {
        side: torch.full((n,), penalty).double()
        for side, n in (("user", 8), ("item", 6))
    }
    update_slopes(network, residuals, penalties, {})
    after = residual().detach()
    assert_allclose(residuals.descent[:, 0], after, atol=1e-5)
    assert after.square().sum() < before.square().sum()
    # The mean of the slopes is a part of the linear term, and unknown rows have none.
    for side in ("user", "item"):
        slopes = network.get_parameter(f"{side}_slopes")
        assert not slopes[-1].any()
        assert abs(slopes[:-1, 0].mean()) < 1e-6


@pytest.mark.parametrize(
    "model",
    [NCFRegressor(reg=0.2, **NETWORK), NCFRegressor(reg=0.2, solver="sgd", **NETWORK)],
    ids=["adam", "sgd"],
)
def test_networks_learn_the_slopes_of_users(model):
    with_price = copied(model).fit(X[TRAIN], Y[TRAIN])
    without = copied(model).fit(IDS[TRAIN], Y[TRAIN])
    assert rmse(with_price, X[TEST], Y[TEST]) < 1.2 * NOISE
    assert rmse(without, IDS[TEST], Y[TEST]) > 2 * NOISE


@pytest.fixture(scope="module")
def fitted():
    return NCFRegressor(reg=0.1, max_iter=5, **NETWORK).fit(X[TRAIN], Y[TRAIN])


def test_lists_are_at_the_numbers_that_are_given(fitted):
    asked = pd.DataFrame({"user": 3, "item": fitted.item_ids_, "price": 50.0})
    items, scores = fitted.recommend(
        [3], 60, exclude_seen=False, context={"price": 50.0}, return_scores=True
    )
    assert_allclose(scores[0][np.argsort(items[0])], fitted.predict(asked), atol=1e-5)
    assert not np.allclose(fitted.predict(asked), fitted.predict(asked.assign(price=9)))


def test_slopes_stay_in_further_rows_and_are_forgotten_with_ids(fitted):
    known = X[TEST][:40]
    further = X[:30].assign(user=10**6)
    grown = copied(fitted).partial_fit(further, Y[:30])
    ends = [known.assign(price=price) for price in (10.0, 60.0)]

    def differences(model):
        return np.subtract(*(model.predict(rows) for rows in ends))

    slopes = fitted._model.weights["user_slopes"]
    assert_allclose(grown._model.weights["user_slopes"][:N_KNOWN], slopes[:N_KNOWN])
    assert not grown._model.weights["user_slopes"][N_KNOWN:].any()
    less = copied(grown).forget(users=[10**6])
    assert_array_equal(less._model.weights["user_slopes"], slopes)
    described = copied(fitted).fit(
        X[:500], Y[:500], user_features=pd.DataFrame({"age": range(130)})
    )
    assert np.isfinite(described.predict(X.assign(user=125))).all()
    assert np.isfinite(differences(less)).all()


N_KNOWN = 120


def test_a_network_can_be_saved_and_gone_on_with(fitted):
    file = io.BytesIO()
    fitted.save(file)
    loaded = load(file)
    assert_array_equal(loaded.predict(X), fitted.predict(X))
    first = fitted.loss_curve_[0]
    loaded.set_params(warm_start=True, max_iter=1).fit(X[TRAIN], Y[TRAIN])
    assert loaded.loss_curve_[0] < 0.5 * first


def test_slopes_of_another_solver_are_a_start():
    model = MFRegressor(0, rank_by="rating").fit(X[TRAIN], Y[TRAIN])
    slopes = model.factors_frame("user")["slope_price"]
    model.set_params(solver="adam", warm_start=True, max_iter=1, random_state=0)
    found = model.fit(X[TRAIN], Y[TRAIN]).factors_frame("user")["slope_price"]
    assert_allclose(found, slopes, atol=0.25 * slopes.std())


@pytest.mark.parametrize("loss", ["bpr", "log_loss"])
def test_choices_depend_on_a_number_as_much_as_items_do(loss):
    rng = np.random.default_rng(0)
    hour, user = rng.uniform(-1, 1, 4000), rng.integers(80, size=4000)
    # Half of the items are chosen early, and half of them late.
    late = rng.random(4000) < 1 / (1 + np.exp(-4 * hour))
    item = 2 * rng.integers(15, size=4000) + late
    rows = pd.DataFrame({"user": user, "item": item, "hour": hour})
    model = MFRegressor(2, solver="adam", loss=loss, random_state=0).fit(rows)
    for at, parity in ((-0.9, 0), (0.9, 1)):
        lists = model.recommend(
            range(40), 5, exclude_seen=False, context={"hour": at}
        ).astype(int)
        assert (lists % 2 == parity).mean() > 0.95
    of_users = model.factors_frame("user")["slope_hour"]
    of_items = model.factors_frame("item")["slope_hour"]
    assert of_users.std() < 0.05 * of_items.std()


@pytest.mark.parametrize(
    "model",
    [MFRegressor(solver="adam", reg=1.0), NCFRegressor(n_members=2, reg=0.7)],
)
def test_noise_costs_nothing(model):
    rng = np.random.default_rng(0)
    noisy = IDS.assign(normal=rng.normal(size=len(X)))
    model.set_params(rank_by="rating", clip=False, random_state=0)
    bare = rmse(copied(model).fit(IDS[TRAIN], Y[TRAIN]), IDS[TEST], Y[TEST])
    assert rmse(model.fit(noisy[TRAIN], Y[TRAIN]), noisy[TEST], Y[TEST]) < 1.002 * bare


def test_noise_costs_nothing_where_many_absolute_errors_are_none():
    rng = np.random.default_rng(0)
    y = np.where(rng.random(len(X)) < 0.7, 5.0, rng.integers(1, 6, len(X)))
    noisy = IDS.assign(normal=rng.normal(size=len(X)))
    model = NCFRegressor(loss="absolute_error", **NETWORK)
    bare, error = (
        np.abs(copied(model).fit(rows[TRAIN], y[TRAIN]).predict(rows[TEST]) - y[TEST])
        for rows in (IDS, noisy)
    )
    assert error.mean() < 1.02 * bare.mean()


def test_a_warm_start_keeps_slopes_beside_columns_of_values():
    rows = X.assign(season=np.resize(["summer", "winter"], len(X)))
    model = NCFRegressor(reg=0.1, warm_start=True, **NETWORK).fit(rows, Y)
    before = model._model.weights["user_slopes"]
    model.set_params(max_iter=1).fit(rows, Y)
    after = model._model.weights["user_slopes"]
    assert_allclose(after, before, atol=0.2 * before.std())


def test_slopes_with_bpr_have_the_weights_of_its_targets():
    rng = np.random.default_rng(0)
    hour = rng.uniform(-1, 1, 2000)
    late = rng.random(2000) < 1 / (1 + np.exp(-4 * hour))
    item = 2 * rng.integers(15, size=2000) + late
    rows = pd.DataFrame({"user": rng.integers(60, size=2000), "item": item})
    # A loss of a tenth with a tenth of the penalty.
    deviations = [
        NCFRegressor(architecture="gmf", loss="bpr", reg=0.1 * y, **NETWORK)
        .fit(rows.assign(hour=hour), np.full(2000, y))
        ._model.weights["item_slopes"]
        .std()
        for y in (1.0, 0.1)
    ]
    assert_allclose(*deviations, rtol=0.1)


@pytest.mark.parametrize("n_rows", [1, 2, 50])
@pytest.mark.parametrize("loss", ["squared_error", "huber", "bpr"])
def test_few_rows_are_enough(n_rows, loss):
    y = None if loss == "bpr" else Y[:n_rows]
    rows = X[:n_rows].assign(constant=3.0)
    model = MFRegressor(2, solver="adam", loss=loss, max_iter=2, random_state=0)
    assert np.isfinite(model.fit(rows, y).predict(rows.assign(price=1e9))).all()
    network = NCFRegressor(loss=loss, max_iter=2, **NETWORK)
    assert np.isfinite(network.fit(rows, y).predict(rows)).all()


def test_a_weight_of_two_is_the_row_twice():
    weight = np.arange(300) % 3
    rows = np.repeat(np.arange(300), weight)
    model = MFRegressor(2, solver="adam", batch_size=1000, max_iter=3, random_state=0)
    weighted = copied(model).fit(X[:300], Y[:300], sample_weight=weight)
    repeated = copied(model).fit(X.iloc[rows], Y[rows])
    assert_allclose(weighted.predict(X[:300]), repeated.predict(X[:300]), atol=1e-5)
