"""Slopes of numbers of context: of users and items, learned, and pruned."""

import io
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import copied, rmse, small, unconverged
from numpy.testing import assert_allclose, assert_array_equal

from skrec import MFRegressor, load
from skrec.datasets import make_ratings

N_USERS, N_ITEMS, N_RATINGS = 120, 60, 4500
SD_BIAS, SD_SLOPE, NOISE, COMMON = 0.5, 0.5, 0.3, -0.3
SOLVERS = ["vb", "gibbs", "als", "adam"]


def priced(seed=0):
    """Ratings that depend on a price as much as each user minds it."""
    rng = np.random.default_rng(seed)
    u, i = (rng.integers(n, size=N_RATINGS) for n in (N_USERS, N_ITEMS))
    price = rng.lognormal(3, 0.5, N_RATINGS)
    x = (price - price.mean()) / price.std()
    bias = SD_BIAS * rng.normal(size=N_USERS)[u] + SD_BIAS * rng.normal(size=N_ITEMS)[i]
    slope = SD_SLOPE * rng.normal(size=N_USERS)
    y = 3 + bias + (COMMON + slope[u]) * x + NOISE * rng.normal(size=N_RATINGS)
    return pd.DataFrame({"user": u, "item": i, "price": price}), y, x


X, Y, STANDARD = priced()
TRAIN, TEST = slice(0, 3600), slice(3600, None)
MF = {"n_factors": 0, "rank_by": "rating", "clip": False, "random_state": 0}


@pytest.fixture(scope="module", params=SOLVERS)
def fitted(request):
    # A penalty of its noise over the variance of biases, as the oracle has; that of
    # "adam" grows with the root of a row's ratings.
    penalty = (NOISE / SD_BIAS) ** 2
    reg = {"als": penalty, "adam": penalty / 40**0.5}.get(request.param)
    params = {"max_iter": 30} if request.param == "gibbs" else {"reg": reg}
    return MFRegressor(**MF, solver=request.param, **params).fit(X[TRAIN], Y[TRAIN])


@pytest.fixture(scope="module")
def oracle():
    """The Gaussian posterior of a fit that is told all variances: mean and precision.

    Of the constant, the coefficient, biases of users and of items, slopes of users.
    """
    of_users, of_items = np.eye(N_USERS)[X["user"]], np.eye(N_ITEMS)[X["item"]]
    one, x = np.ones((N_RATINGS, 1)), STANDARD[:, None]
    Z = np.hstack([one, x, of_users, of_items, of_users * x])
    sds = np.repeat([SD_BIAS, SD_SLOPE], [N_USERS + N_ITEMS, N_USERS])
    prior = np.append([1e-6, 1e-6], sds**-2.0)
    A = Z[TRAIN].T @ Z[TRAIN] / NOISE**2 + np.diag(prior)
    return Z, np.linalg.solve(A, Z[TRAIN].T @ Y[TRAIN] / NOISE**2), A


def test_predictions_are_as_good_as_those_of_an_oracle(fitted, oracle):
    Z, mean, _ = oracle
    best = np.sqrt(np.mean((Z[TEST] @ mean - Y[TEST]) ** 2))
    assert rmse(fitted, X[TEST], Y[TEST]) < 1.01 * best
    ids = X[["user", "item"]]
    bare = MFRegressor(**MF).fit(ids[TRAIN], Y[TRAIN])
    assert rmse(bare, ids[TEST], Y[TEST]) > 1.8 * best


def test_slopes_are_those_of_the_oracle(fitted, oracle):
    _, mean, _ = oracle
    price = fitted.factors_frame("user", np.arange(N_USERS))["slope_price"]
    of_users = fitted.coef_[0] + price
    expected = (mean[1] + mean[-N_USERS:]) / X["price"].std(ddof=0)
    assert_allclose(of_users, expected, atol=0.12 * expected.std())
    # Items do not differ, and their prior has been learned.
    of_items = fitted.factors_frame("item")["slope_price"]
    assert of_items.std() < 0.05 * price.std()
    # The coefficient is that of the average user.
    assert abs(price.mean()) < 0.05 * price.std()


@pytest.mark.parametrize("far", [0.0, 4.0])
def test_standard_deviations_are_those_of_the_oracle(oracle, far):
    model = MFRegressor(**MF).fit(X[TRAIN], Y[TRAIN])
    Z, _, A = oracle
    asked = X[TEST].assign(price=X["price"].mean() + far * X["price"].std(ddof=0))
    _, std = model.predict(asked, return_std=True)
    z = Z[TEST].copy()
    z[:, 1] = far
    z[:, -N_USERS:] = far * z[:, 2 : 2 + N_USERS]
    expected = np.sqrt(NOISE**2 + np.einsum("nj,nj->n", z, np.linalg.solve(A, z.T).T))
    # Levels, and slopes of items that are nothing, are uncertain too.
    assert_allclose(std.mean(), expected.mean(), rtol=0.12 if far else 0.08)
    # At the mean, users hardly differ.
    assert not far or np.corrcoef(std, expected)[0, 1] > 0.6


def test_a_user_with_one_price_is_uncertain_at_others():
    same = X.assign(price=X["price"].where(X["user"] != 3, 20.0))
    model = MFRegressor(**MF).fit(same, Y)
    asked = pd.DataFrame({"user": 3, "item": 5, "price": [20.0, 60.0]})
    others = asked.assign(user=4)
    (near, far), (_, known) = (
        model.predict(rows, return_std=True)[1] for rows in (asked, others)
    )
    assert far > 1.5 * near
    assert far > 1.3 * known
    # An unknown user has the slopes of the prior.
    _, (near, far) = model.predict(asked.assign(user=-1), return_std=True)
    assert far > 1.1 * near


def test_slopes_of_items_are_learned_too():
    slope = 0.5 * np.random.default_rng(1).normal(size=N_ITEMS)
    y = 3 + slope[X["item"]] * STANDARD
    y += 0.3 * np.random.default_rng(2).normal(size=N_RATINGS)
    model = MFRegressor(**MF).fit(X[TRAIN], y[TRAIN])
    assert rmse(model, X[TEST], y[TEST]) < 0.32
    found = model.factors_frame("item")["slope_price"]
    assert np.corrcoef(found, slope)[0, 1] > 0.98


@pytest.mark.parametrize("solver", ["vb", "als"])
def test_noise_costs_nothing(solver):
    ids, y = make_ratings(200, 120, 12_000, random_state=0)
    rng = np.random.default_rng(0)
    noisy = ids.assign(normal=rng.normal(size=len(y)))
    train, test = slice(0, 9000), slice(9000, None)
    model = MFRegressor(6, solver=solver, rank_by="rating")
    expected = rmse(copied(model).fit(ids[train], y[train]), ids[test], y[test])
    found = rmse(model.fit(noisy[train], y[train]), noisy[test], y[test])
    assert found < 1.0005 * expected


@pytest.fixture(scope="module")
def real(ml_100k_archive):
    """Training rows of a fold, with the hour and noise, cut once more."""
    with (
        zipfile.ZipFile(ml_100k_archive) as archive,
        archive.open("ml-100k/u1.base") as file,
    ):
        names = ["user", "item", "rating", "time"]
        rows = pd.read_csv(file, sep="\t", names=names)
    rng = np.random.RandomState(0)
    rows["noise"] = rng.normal(size=len(rows))
    is_test = rng.rand(len(rows)) < 0.2
    return rows[~is_test], rows[is_test]


def test_times_help_and_noise_costs_nothing_on_real_ratings(real):
    train, test = real
    errors = {}
    for further in ([], ["time"], ["noise"]):
        columns = ["user", "item", *further]
        model = MFRegressor(rank_by="rating").fit(train[columns], train["rating"])
        errors["".join(further)] = rmse(model, test[columns], test["rating"])
    assert errors["time"] < 0.9995 * errors[""]
    assert errors["noise"] < 1.0005 * errors[""]


@pytest.mark.usefixtures("short_chain")
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_unit_of_numbers_and_ratings_does_not_matter(solver):
    params = {**MF, "n_factors": 1, "solver": solver, "max_iter": 5}
    if solver == "als":
        params["tol"] = 0.0
    with unconverged():
        expected = MFRegressor(**params).fit(X[:200], Y[:200]).predict(X)
        stamps = X.assign(price=1.7e9 + 1000 * X["price"])
        found = MFRegressor(**params).fit(stamps[:200], Y[:200]).predict(stamps)
        assert_allclose(found, expected, rtol=1e-5)
        scaled = MFRegressor(**params).fit(X[:200], 1e6 * Y[:200]).predict(X)
    assert_allclose(scaled / 1e6, expected, rtol=1e-5)


@pytest.mark.usefixtures("short_chain")
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "rows",
    [X[:50], X[:2], X[:1], X[:300].assign(user="ann"), X[:300].assign(item="Heat")],
    ids=["fifty rows", "two rows", "one row", "one user", "one item"],
)
def test_few_rows_are_enough(solver, rows):
    model = MFRegressor(solver=solver, max_iter=5, random_state=0, rank_by="rating")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(rows, Y[: len(rows)])
    assert np.isfinite(model.predict(rows.assign(price=1e9))).all()
    assert np.isfinite(model.factors_frame("user").to_numpy()).all()


def test_constant_numbers_have_no_slopes():
    ids = X[["user", "item"]]
    expected = small().fit(ids, Y)
    model = small().fit(ids.assign(version=7.0), Y)
    assert list(model.factors_frame("user")) == list(expected.factors_frame("user"))
    assert_allclose(model.predict(ids.assign(version=9.0)), expected.predict(ids))
    mixed = small().fit(X.assign(version=7.0)[["user", "item", "version", "price"]], Y)
    assert "slope_price" in mixed.factors_frame("user")


def test_weights_are_repeated_rows():
    weight = np.arange(200) % 3
    rows = np.repeat(np.arange(200), weight)
    weighted = small(max_iter=3).fit(X[:200], Y[:200], sample_weight=weight)
    repeated = small(max_iter=3).fit(X.iloc[rows], Y[rows])
    assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-10)


@pytest.mark.parametrize("solver", ["vb", "als", "adam"])
def test_further_rows_are_folded_in_given_their_slopes(solver):
    is_new = X["user"] == 7
    first = MFRegressor(**MF).fit(X[~is_new], Y[~is_new])
    if solver == "als":
        first = MFRegressor(**MF, solver="als", reg=1.0).fit(X[~is_new], Y[~is_new])
    slopes = first.factors_frame("user")["slope_price"]
    first.set_params(solver=solver)
    rows = pd.concat([X[is_new], X[:40]])
    grown = copied(first).partial_fit(rows, Y[rows.index])
    after = grown.factors_frame("user")["slope_price"]
    assert after[7] == 0
    assert_array_equal(after[slopes.index], slopes)
    # A rating that is as predicted moves nothing, at any price.
    known = X[~is_new][:60]
    same = copied(first).partial_fit(known, first.predict(known))
    assert_allclose(same.predict(known), first.predict(known), atol=0.02)


def test_rows_that_are_forgotten_are_taken_back_at_their_numbers():
    model = MFRegressor(**MF).fit(X[TRAIN], Y[TRAIN])
    new, y = X[TEST][:30].assign(user=10**6), Y[TEST][:30]
    shrunk = copied(model).partial_fit(new, y).forget(new, y, users=[10**6])
    assert_allclose(shrunk.predict(X[TEST]), model.predict(X[TEST]), atol=0.05)
    less = copied(model).forget(users=[0, 5], items=[3])
    kept = X[TEST][~X[TEST]["user"].isin([0, 5]) & (X[TEST]["item"] != 3)]
    assert_allclose(less.predict(kept), model.predict(kept), atol=1e-6)


def test_a_fit_can_be_saved_and_gone_on_with(fitted):
    file = io.BytesIO()
    fitted.save(file)
    loaded = load(file)
    for model in (loaded, copied(fitted)):
        assert_array_equal(model.predict(X), fitted.predict(X))
        assert_array_equal(
            model.recommend([3], 5, context={"price": 50.0}),
            fitted.recommend([3], 5, context={"price": 50.0}),
        )
    warm = loaded.set_params(warm_start=True).fit(X[TRAIN], Y[TRAIN])
    assert rmse(warm, X[TEST], Y[TEST]) < 0.35


def test_effects_of_numbers_are_in_feature_effects(fitted):
    seasonal = X.assign(late=np.arange(N_RATINGS) % 2 == 0)
    effects = fitted.feature_effects()
    (row,) = effects.to_dict("records")
    assert (row["side"], row["feature"]) == ("context", "price")
    scale = X["price"][TRAIN].std(ddof=0)
    assert row["effect"] == pytest.approx(fitted.coef_[0] * scale, rel=0.01)
    assert np.isnan(row["std"]) == (fitted.solver not in ("vb", "gibbs"))
    model = small().fit(seasonal[["user", "item", "late", "price"]], Y)
    found = model.feature_effects()["feature"].tolist()
    assert found == ["late_False", "late_True", "price"]


def test_pairs_without_ratings_have_no_slopes():
    model = MFRegressor(2, solver="als", unobserved_weight=0.1, tol=1.0).fit(X, Y)
    assert "slope_price" not in model.factors_frame("user")


def test_a_draw_of_some_rows_predicts_with_the_slopes_of_these():
    posterior = MFRegressor(**MF).fit(X, Y)._model
    users, items = np.arange(20, 60), np.arange(40) % 9 + 3
    context = np.linspace(1, 4, 40)[:, None]
    draw = posterior.draw(users, items, np.random.RandomState(0))
    predicted, _ = draw.predict(users, items, context, False, torch.device("cpu"))
    asking = draw.in_context(users, context)
    scale, offset = asking.score_units(np.arange(40))
    listed = torch.empty(40, 40)
    asking.scorer(np.arange(40), items, torch.device("cpu"))(slice(None))(
        slice(None), listed
    )
    expected = scale * listed.diagonal().numpy() + offset
    assert_allclose(predicted, expected, rtol=1e-4)
