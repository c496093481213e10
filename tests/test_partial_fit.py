"""partial_fit of the solvers "vb" and "als": further ratings without the old ones."""

import datetime
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from helpers import copied, fitted_state, rmse
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import KFold, learning_curve

from skrec import MFRegressor
from skrec._alternating.covariances import PackedCovariance
from skrec._alternating.rows import FactorSums
from skrec._data.seen import SeenItems
from skrec.datasets import make_ratings

X, Y = make_ratings(60, 40, 1600, random_state=0)
SOLVERS = ("vb", "als")

# Further ratings: all those of users from 50 on and of items from 34 on, who are new,
# and half of those that users from 40 on gave to items from 24 on.
_new = ((X["user"] >= 50) | (X["item"] >= 34)).to_numpy()
_touched = ((X["user"] >= 40) & (X["item"] >= 24)).to_numpy()
NEW = _touched & (_new | (np.arange(len(Y)) % 2 == 0))
OLD = ~_new & ~NEW


@pytest.fixture(params=SOLVERS)
def solver(request):
    return request.param


def fit(solver, rows=OLD, X=X, sample_weight=None, **params):
    defaults = {"n_factors": 3, "solver": solver, "reg": 4.0, "clip": False}
    model = MFRegressor(**defaults | params)
    return model.fit(X[rows], Y[rows], sample_weight)


def grown(solver, X=X, **params):
    """A fit to the old rows, and the same after partial_fit of the new ones."""
    before = fit(solver, X=X, **params)
    return before, copied(before).partial_fit(X[NEW], Y[NEW])


def pairs(users, items):
    """Rows of users and items, of which there may be one that goes with all."""
    users, items = np.broadcast_arrays(users, items)
    return pd.DataFrame({"user": users, "item": items})


def error(model, rows, X=X):
    return rmse(model, X[rows], Y[rows])


def test_new_users_and_items_take_their_sorted_places(solver):
    # Numbered backwards, so that new ids come before known ones.
    backwards = X.assign(user=59 - X["user"], item=39 - X["item"])
    before, after = grown(solver, X=backwards)
    for side, n_known, n_rows in (("user", 50, 60), ("item", 34, 40)):
        known = getattr(before, f"{side}_ids_")
        assert_array_equal(known, np.arange(n_rows - n_known, n_rows))
        assert_array_equal(getattr(after, f"{side}_ids_"), np.arange(n_rows))
        assert getattr(after, f"{side}_factors_").shape == (n_rows, 3)
        assert getattr(after, f"{side}_biases_").shape == (n_rows,)
    assert error(after, NEW, backwards) < error(before, NEW, backwards) - 0.05


def test_rows_that_no_further_rating_meets_stay_to_the_byte(solver):
    before, after = grown(solver)
    for side, n_untouched in (("user", 40), ("item", 24)):
        for name in (f"{side}_factors_", f"{side}_biases_"):
            old, new = getattr(before, name), getattr(after, name)
            assert_array_equal(new[:n_untouched], old[:n_untouched])
            assert (new[n_untouched : len(old)] != old[n_untouched:]).any()
    untouched = X[(X["user"] < 40) & (X["item"] < 24)]
    assert_array_equal(after.predict(untouched), before.predict(untouched))


def test_what_all_rows_share_stays(solver):
    before, after = grown(solver)
    nobody = pairs([-1], -1)
    assert_array_equal(after.predict(nobody), before.predict(nobody))
    assert after.intercept_ == before.intercept_


KINDS = {
    "strings": "u{:03d}".format,
    "floats": lambda n: n + 0.5,
    "dates": lambda n: datetime.date(2020, 1, 1) + datetime.timedelta(int(n)),
    "timestamps": lambda n: pd.Timestamp("2020-01-01") + pd.Timedelta(n, "h"),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_ids_of_any_kind_are_told_apart(solver, kind):
    mixed = X.assign(user=X["user"] * 7 % 61, item=X["item"] * 5 % 41)
    _, expected = grown(solver, X=mixed)
    named = mixed.assign(user=mixed["user"].map(kind), item=mixed["item"].map(kind))
    _, found = grown(solver, X=named)
    assert list(found.user_ids_) == list(map(kind, expected.user_ids_))
    assert_array_equal(found.predict(named), expected.predict(mixed))
    assert_array_equal(
        found.recommend(candidates=named["item"][OLD], n_items=2, exclude_seen=False),
        np.vectorize(kind, otypes=[object])(
            expected.recommend(
                candidates=mixed["item"][OLD], n_items=2, exclude_seen=False
            )
        ),
    )


def test_a_new_user_gets_recommendations_at_once(solver):
    model = fit(solver)
    everybody = model.recommend([99], n_items=34)[0]
    loved, hated = everybody[[-1, 0]]
    model.partial_fit(pairs(99, [loved, hated] * 5), [5.0, 1.0] * 5)
    own = model.recommend([99], n_items=32)[0]
    assert set(own) == set(everybody) - {loved, hated}
    assert list(own) != [item for item in everybody if item in own]


def spreads(model, side):
    """Covariances of rows whose ids were known before."""
    covariance = getattr(model._model, f"{side}s").covariance[0]
    return covariance.astype(np.float64) / noise_of_penalty(model)


def noise_of_penalty(model):
    """What covariances are relative to where they say how a penalty holds rows."""
    posterior = model._model
    return 1.0 if posterior.knows_variance else posterior.noise_variance


def test_ratings_take_away_uncertainty(solver):
    before, after = grown(solver, implicit_features=False)
    for side, n_known, n_untouched in (("user", 50, 40), ("item", 34, 24)):
        old, new = spreads(before, side), spreads(after, side)
        prior = getattr(before._model, f"{side}s").prior_covariance[0, -1]
        prior = prior / noise_of_penalty(before)
        assert_allclose(new[:n_untouched], old[:n_untouched], rtol=1e-6)
        was = np.concatenate(
            [
                old[n_untouched:],
                np.broadcast_to(prior, (len(new) - n_known, *prior.shape)),
            ]
        )
        eigenvalues = np.linalg.eigvalsh(was - new[n_untouched:])
        assert eigenvalues.min() > -1e-6 * np.abs(was).max()
        assert eigenvalues.max(axis=1).min() > 0


def test_a_folded_in_user_is_less_uncertain():
    before, after = grown("vb")
    rows = np.stack(np.meshgrid(np.arange(50, 60), np.arange(24)), axis=-1)
    rows = rows.reshape(-1, 2)
    stds = [
        model.predict(pd.DataFrame(rows, columns=X.columns), return_std=True)[1]
        for model in (before, after)
    ]
    was, is_now = (std.reshape(24, 10).mean(axis=0) for std in stds)
    assert (is_now < was).all()


def test_als_knows_no_std_after_partial_fit_either():
    for model in grown("als"):
        with pytest.raises(ValueError, match="return_std=True needs a fit with"):
            model.predict(X[:2], return_std=True)


def test_covariances_of_als_change_no_fit():
    kept, left = (fit("als", store_covariance=stored) for stored in (True, False))
    assert_array_equal(kept.predict(X), left.predict(X))
    assert kept.noise_std_ == left.noise_std_
    assert kept.n_iter_ == left.n_iter_


def conditional(model, solver, user, items, ratings):
    """Mean and covariance of a user given a fit, by numpy in float64.

    A sweep that is also the last one sees the items as they are before it.
    """
    p = model._model
    k = p.n_factors
    row = np.flatnonzero(model.user_ids_ == user)
    row = np.append(row, -1)[:1]
    (mean,), (covariance,) = next(p.users.means(row)), next(p.users.covariances(row))
    if row[0] < 0:
        # A new row starts at its prior, which for als is zero.
        mean = p.users.prior_mean[0, -1]
    alpha = gamma = np.ones(len(items))
    spread = p.items.covariance[0][items].astype(np.float64)
    if solver == "vb":
        alpha = p.users.relative_precisions(row)[0]
        gamma = p.items.relative_precisions(items)[0]
    else:
        spread *= 0
    precision = np.linalg.inv(covariance.astype(np.float64))
    information = precision @ mean
    beta = alpha * gamma / p.noise_variance
    for n, item in enumerate(items):
        z, S = p.items.mean[0][item].astype(np.float64), spread[n]
        offset = p.centre + z[k]
        z[k] = 1
        along = np.append(S[:k, k], 0)
        S[k], S[:, k] = 0, 0
        precision = precision + beta[n] * (np.outer(z, z) + S)
        information = information + beta[n] * (z * (ratings[n] - offset) - along)
    return np.linalg.solve(precision, information), np.linalg.inv(precision)


@cache
def converged(solver):
    return fit(solver, implicit_features=False, max_iter=900, tol=1e-6)


@pytest.mark.parametrize("user", [3, 99], ids=["known user", "new user"])
def test_a_user_is_revised_by_the_conditional(solver, user):
    model = copied(converged(solver)).set_params(max_iter=1)
    items, ratings = np.array([0, 4, 5, 20, 33]), np.array([5.0, 1, 4, 2, 2])
    mean, covariance = conditional(model, solver, user, items, ratings)
    covariance /= noise_of_penalty(model)
    model.partial_fit(pairs(user, items), ratings)
    row = np.flatnonzero(model.user_ids_ == user)[0]
    users = model._model.users
    assert_allclose(users.mean[0, row], mean, rtol=1e-3, atol=1e-4)
    scale = np.abs(covariance).max()
    found = users.covariance[0, row] / noise_of_penalty(model)
    assert_allclose(found, covariance, rtol=1e-3, atol=1e-4 * scale)


def test_als_makes_of_all_ratings_what_its_penalty_asks():
    # A fit that has converged, so that the row and its covariance belong together.
    model = fit("als", max_iter=5000, tol=0).set_params(max_iter=1)
    p, scale = model._model, np.std(Y[OLD])
    z = np.hstack([p.items.mean[0][:, :3] * scale**-0.5, np.ones((34, 1))])
    target = (Y - p.centre - model.item_biases_[X["item"].clip(upper=33)]) / scale
    of_user = OLD & (X["user"] == 3).to_numpy()
    items = np.append(X["item"][of_user], [0, 4, 5])
    further = np.array([5.0, 1.0, 4.0])
    offset = p.centre + model.item_biases_[[0, 4, 5]]
    target = np.append(target[of_user], (further - offset) / scale)
    z = z[items]
    expected = np.linalg.solve(z.T @ z + 4 * np.eye(4), z.T @ target)
    model.partial_fit(pairs(3, [0, 4, 5]), further)
    found = np.append(
        model.user_factors_[3] * scale**-0.5, model.user_biases_[3] / scale
    )
    assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_noise_is_that_of_all_ratings_fit_or_folded_in():
    weight = np.ones(len(Y))
    model = fit("als").set_params(max_iter=1)
    past = weight[OLD].sum()
    for rows in (NEW & (X["user"] < 50), NEW & (X["user"] >= 50)):
        squares = past * model.noise_std_**2
        model.partial_fit(X[rows], Y[rows], weight[rows])
        residual = Y[rows] - model.predict(X[rows])
        past += weight[rows].sum()
        squares += weight[rows] @ residual**2
        assert model.noise_std_**2 == pytest.approx(squares / past, rel=1e-5)


def test_new_rows_start_at_the_prior_of_their_side(solver):
    before = fit(solver, implicit_features=False)
    after = copied(before).partial_fit(pairs([99], 99), [1.0], [1e-9])
    for side in ("users", "items"):
        old, new = (getattr(model._model, side) for model in (before, after))
        assert_allclose(new.mean[0, -1], old.prior_mean[0, -1], rtol=1e-5, atol=1e-6)
        prior = old.prior_covariance[0, -1]
        scale = np.abs(prior).max()
        assert_allclose(new.covariance[0, -1], prior, rtol=1e-4, atol=1e-5 * scale)


def test_an_update_in_single_precision_is_that_in_double_precision(solver, monkeypatch):
    X, y = make_ratings(300, 200, 9000, noise=0.01, random_state=0)
    model = MFRegressor(4, solver=solver).fit(X[:4500], y[:4500])
    found = []
    for most in (0, len(y)):
        monkeypatch.setattr("skrec._alternating.update.MAX_DOUBLE_ROWS", most)
        found.append(copied(model).partial_fit(X[4500:], y[4500:]).predict(X))
    assert_allclose(*found, atol=1e-4)
    assert not np.array_equal(*found)


def test_several_batches_are_close_to_one(solver):
    before, at_once = grown(solver)
    piecewise = copied(before)
    for part in np.array_split(np.flatnonzero(NEW), 4):
        piecewise.partial_fit(X.iloc[part], Y[part])
    moved, apart = (
        root_mean_squared_error(at_once.predict(X[NEW]), model.predict(X[NEW]))
        for model in (before, piecewise)
    )
    assert apart < moved / 6
    assert_array_equal(piecewise.user_ids_, at_once.user_ids_)
    assert_array_equal(
        piecewise.recommend(n_items=40, as_frame=True).groupby("user").size(),
        at_once.recommend(n_items=40, as_frame=True).groupby("user").size(),
    )


def test_a_rating_that_was_given_before_counts_again(solver):
    model = fit(solver)
    row, y = X[OLD][:1], [10.0]
    predictions = [model.predict(row)[0]]
    predictions += [model.partial_fit(row, y).predict(row)[0] for _ in range(3)]
    assert (np.diff(predictions) > 0).all()
    assert len(model.user_ids_) == 50


def test_effects_of_features_are_learned_further(solver):
    hour = np.random.default_rng(0).uniform(0, 24, len(Y))
    rows, y = X.assign(hour=hour), Y + 0.1 * hour
    few = OLD & (np.arange(len(Y)) % 4 == 0)

    def fit_to(part):
        model = MFRegressor(3, solver=solver, reg=4.0)
        return model.fit(rows[part], y[part])

    before, refit = fit_to(few), fit_to(np.full(len(Y), True))
    with pytest.warns(UserWarning, match="fit all rows anew"):
        after = copied(before).partial_fit(rows[~few], y[~few])
    apart = abs(after.coef_[0] - refit.coef_[0])
    assert apart < abs(before.coef_[0] - refit.coef_[0]) / 2
    assert abs(after.coef_[0] - 0.1) < 0.01
    assert after._model.coef_covariance < before._model.coef_covariance / 2


def test_attributes_make_up_the_predictions(solver):
    rows = X.assign(hour=np.arange(len(Y)) % 24)
    _, model = grown(solver, X=rows)
    u, i = X["user"], X["item"]
    product = (model.user_factors_[u] * model.item_factors_[i]).sum(axis=1)
    expected = (
        model.intercept_ + product + model.user_biases_[u] + model.item_biases_[i]
    )
    expected = expected + rows[["hour"]].to_numpy() @ model.coef_
    away = rows["hour"] - model._model.units.feature_mean[0]
    for side in ("user", "item") if solver in ("vb", "als") else ():
        slopes = model.factors_frame(side)["slope_hour"]
        expected = expected + away * slopes.loc[rows[side]].to_numpy()
    assert_allclose(model.predict(rows), expected, rtol=1e-5)


def test_a_feature_that_was_constant_has_no_effect(solver):
    hour = np.arange(len(Y)) % 24
    _, expected = grown(solver, X=X.assign(hour=hour))
    constant = X.assign(hour=hour, version=1.0)
    before = fit(solver, X=constant)
    constant["version"] = np.arange(len(Y)) % 5
    after = copied(before).partial_fit(constant[NEW], Y[NEW])
    assert after.coef_[1] == 0
    assert_allclose(after.coef_[0], expected.coef_[0], rtol=1e-3, atol=1e-4)
    found = after.predict(constant)
    assert_allclose(found, expected.predict(X.assign(hour=hour)), rtol=1e-3)


@pytest.mark.parametrize(
    "params",
    [{"biased": False, "reg": 0.3}, {"n_factors": 0}],
    ids=["plain", "biases alone"],
)
def test_smaller_models_learn_further(solver, params):
    before, after = grown(solver, **params)
    assert error(after, NEW) < error(before, NEW) - 0.05
    assert len(after.user_biases_) == len(after.user_factors_) == 60
    assert after.user_biases_.any() != ("biased" in params)
    assert after.intercept_ == before.intercept_


def test_device_is_a_string(solver):
    _, expected = grown(solver, device="cpu")
    _, found = grown(solver, device="auto")
    assert_allclose(found.predict(X), expected.predict(X), rtol=1e-4)


def test_a_warm_start_continues_a_grown_model(solver):
    _, model = grown(solver, tol=1e-5)
    cold = fit(solver, rows=OLD | NEW, tol=1e-5)
    model.set_params(warm_start=True).fit(X[OLD | NEW], Y[OLD | NEW])
    assert_array_equal(model.user_ids_, cold.user_ids_)
    apart = root_mean_squared_error(model.predict(X), cold.predict(X))
    assert apart < 0.1 * np.std(cold.predict(X))


def test_predictions_are_clipped_to_all_ratings(solver):
    model = fit(solver, clip=True)
    assert model.rating_range_ == (Y[OLD].min(), Y[OLD].max())
    model.partial_fit(pairs([99] * 200, 0), [20.0] * 200)
    assert model.rating_range_ == (Y[OLD].min(), 20)
    assert 10 < model.predict(pairs([99], 0))[0] <= 20


def test_covariances_that_are_no_longer_wanted_go(solver):
    model = fit(solver).set_params(store_covariance=False)
    model.partial_fit(X[NEW], Y[NEW])
    with pytest.raises(ValueError, match="needs its covariances"):
        model.partial_fit(X[NEW], Y[NEW])


ROWS, RATINGS = X[NEW], Y[NEW]


def replaced(value):
    values = np.ones(len(RATINGS))
    values[3] = value
    return values


FAILURES = {
    "another number of columns": (
        {},
        {},
        (ROWS.assign(hour=1.0), RATINGS),
        ValueError,
        "Feature names unseen at fit time:\n- hour",
    ),
    "users of another kind": (
        {},
        {},
        (ROWS.astype(str), RATINGS),
        TypeError,
        r"column 0 of X \(users, 'user'\) holds ids of kind 'string'.*fitted on.*"
        "'number'",
    ),
    "items of another kind": (
        {},
        {},
        (ROWS.assign(item="Heat"), RATINGS),
        TypeError,
        r"column 1 of X \(items, 'item'\).*'string' \(the first is 'Heat'\).*'number'",
    ),
    "missing id": (
        {},
        {},
        (ROWS.astype(float).assign(user=replaced(np.nan)), RATINGS),
        ValueError,
        r"users.*holds 1 missing id \(first rows: 3\)",
    ),
    "missing rating": (
        {},
        {},
        (ROWS, replaced(np.nan)),
        ValueError,
        r"y must hold finite numbers.*1 rating \(first rows: 3\)",
    ),
    "negative weight": (
        {},
        {},
        (ROWS, RATINGS, replaced(-1)),
        ValueError,
        r"Negative values.*`sample_weight`: 1 weight \(first rows: 3\)",
    ),
    "no weight": (
        {},
        {},
        (ROWS, RATINGS, np.zeros(len(RATINGS))),
        ValueError,
        "sample_weight is zero in all rows",
    ),
    "other factors": (
        {},
        {"n_factors": 4},
        (ROWS, RATINGS),
        ValueError,
        "had n_factors=3, but now there is n_factors=4",
    ),
    "no biases": (
        {},
        {"biased": False},
        (ROWS, RATINGS),
        ValueError,
        "had biased=True, but now there is biased=False",
    ),
    "as long a row of other parts": (
        {},
        {"n_factors": 4, "biased": False},
        (ROWS, RATINGS),
        ValueError,
        "n_factors=3 and biased=True, but now there is n_factors=4 and biased=False",
    ),
    "other factors after choices": (
        {"unobserved_weight": 0.1, "solver": "als"},
        {"n_factors": 4},
        (ROWS, RATINGS),
        ValueError,
        "had n_factors=3, but now there is n_factors=4",
    ),
    "another loss": (
        {},
        {"loss": "huber"},
        (ROWS, RATINGS),
        ValueError,
        "minimises squared errors; loss='huber' needs solver='adam' or 'sgd'",
    ),
    "wrong parameter": (
        {},
        {"reg": -1},
        (ROWS, RATINGS),
        ValueError,
        "'reg' parameter of MFRegressor must be .*Got -1",
    ),
    "a device that is not there": (
        {},
        {"device": "cuda:99"},
        (ROWS, RATINGS),
        ValueError,
        "device='cuda:99' is not available here",
    ),
    "no covariances": (
        {"store_covariance": False},
        {},
        (ROWS, RATINGS),
        ValueError,
        "updates the posterior of the last fit, and needs its covariances: fit with "
        "solver='vb' or 'als' and store_covariance=True",
    ),
    **{
        f"a fit by {solver}": (
            {"solver": solver, "max_iter": 2, "random_state": 0},
            {},
            (ROWS, RATINGS),
            ValueError,
            "partial_fit with solver='(vb|als)'.*needs its covariances: fit with "
            "solver='vb' or 'als'",
        )
        for solver in ("gibbs", "adam")
    },
}


@pytest.mark.parametrize(
    ("fitted", "changed", "rows", "exception", "match"),
    FAILURES.values(),
    ids=FAILURES.keys(),
)
def test_a_failure_says_why_and_changes_nothing(
    solver, fitted, changed, rows, exception, match
):
    model = fit(**{"solver": solver, **fitted}).set_params(solver=solver, **changed)
    state = fitted_state(model)
    with pytest.raises(exception, match=match):
        model.partial_fit(*rows)
    assert fitted_state(model) == state
    assert model.user_ids_[-1] == 49


def test_an_interruption_changes_nothing(solver, monkeypatch):
    model = fit(solver)
    state = fitted_state(model)

    def interrupted(*args):
        raise KeyboardInterrupt

    # The last step, when all else has been stored.
    monkeypatch.setattr(SeenItems, "grown", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(X[NEW], Y[NEW])
    assert fitted_state(model) == state


def test_draws_have_no_partial_fit_after_a_fit_of_vb():
    model = fit("vb").set_params(solver="gibbs")
    state = fitted_state(model)
    assert not hasattr(model, "partial_fit")
    with pytest.raises(AttributeError, match="no attribute 'partial_fit'"):
        model.partial_fit(X[NEW], Y[NEW])
    assert fitted_state(model) == state


def test_partial_fit_of_parts_is_a_learning_curve():
    folds = KFold(2)
    sizes, _, scores = learning_curve(
        MFRegressor(3),
        X,
        Y,
        cv=folds,
        train_sizes=[0.5, 1.0],
        exploit_incremental_learning=True,
    )
    for fold, (train, test) in enumerate(folds.split(X)):
        model = MFRegressor(3)
        for n, part in enumerate(np.split(train, sizes)[:-1]):
            model.partial_fit(X.iloc[part], Y[part])
            expected = model.score(X.iloc[test], Y[test])
            assert scores[n, fold] == pytest.approx(expected)


def test_ratings_in_a_wrong_unit_break_nothing(solver):
    model = MFRegressor(3, solver=solver).fit(X, Y)
    with pytest.raises(ValueError, match="Give ratings in the unit of fit"):
        model.partial_fit(X[:5], np.full(5, 1e25))
    model.partial_fit(X[:5], np.full(5, 1e12))
    assert np.isfinite(model.predict(X)).all()


@pytest.fixture(scope="module")
def real(ml_100k):
    rows, ratings = ml_100k
    return rows.reset_index(drop=True), np.asarray(ratings, dtype=float)


def errors(solver, real, first, further, test):
    """Of the first fit, after partial_fit, and of a fit to all at once."""
    rows, ratings = real
    model = MFRegressor(solver=solver, random_state=0)
    refitted = clone(model).fit(rows[first | further], ratings[first | further])
    model = model.fit(rows[first], ratings[first])

    def rmse(model):
        return root_mean_squared_error(ratings[test], model.predict(rows[test]))

    return (
        rmse(model),
        rmse(model.partial_fit(rows[further], ratings[further])),
        rmse(refitted),
    )


def held_back(ids, n, rng):
    return np.isin(ids, rng.choice(np.unique(ids), n, replace=False))


@pytest.mark.parametrize("solver", ["vb", "als", "adam"])
def test_users_folded_in_are_predicted_as_well_as_by_a_refit(real, solver):
    rng = np.random.default_rng(0)
    users = real[0].iloc[:, 0]
    new, half = held_back(users, 94, rng), rng.random(len(users)) < 0.5
    before, after, refit = errors(solver, real, ~new, new & half, new & ~half)
    assert after < 1.01 * refit
    assert before > 1.05 * refit


def test_items_folded_in_are_predicted_as_well_as_by_a_refit(real, solver):
    rng = np.random.default_rng(0)
    items = real[0].iloc[:, 1]
    new = held_back(items, items.nunique() // 2, rng)
    test = new & (rng.random(len(items)) < 0.2)
    before, after, refit = errors(solver, real, ~new, new & ~test, test)
    assert before - after > 0.95 * (before - refit)
    assert before > 1.05 * refit


@pytest.mark.filterwarnings("ignore:All .* ratings in y are")
def test_ratings_that_are_all_alike_can_be_followed_by_others(solver):
    rows = pd.DataFrame(np.indices((5, 4)).reshape(2, -1).T, columns=["user", "item"])
    model = MFRegressor(2, solver=solver, clip=False).fit(rows, np.full(20, 3.0))
    model.partial_fit(pairs(9, [1]), [3.0])
    assert model.noise_std_ > 0
    assert_allclose(model.predict(pairs(9, [1, 2])), 3, atol=1e-3)


@pytest.mark.parametrize("most", [0.0, 1.0])
def test_covariances_are_those_of_a_table_however_often_they_are_revised(
    most, monkeypatch
):
    """Beside the stored table, or in a new one as soon as any row is revised."""
    monkeypatch.setattr("skrec._alternating.covariances.MIN_PATCH", 0)
    monkeypatch.setattr("skrec._alternating.covariances.MAX_PATCH", most * 100)
    model, expected = fit("vb"), {"user": {}, "item": {}}
    for number in range(6):
        rows = pd.DataFrame({"user": [3, 7, 1000 - number], "item": [5, 6 - number, 5]})
        single = copied(model).partial_fit(rows, [3.0, 4.0, 5.0])
        model.partial_fit(rows, [3.0, 4.0, 5.0])
        for side, known in expected.items():
            found = getattr(single._model, f"{side}s").covariance[0]
            ids = getattr(single, f"{side}_ids_")
            for id_, row in known.items():
                if id_ not in rows[side].to_numpy():
                    assert_array_equal(found[list(ids).index(id_)], row)
            known |= dict(zip(ids, found, strict=True))
            ours = getattr(model._model, f"{side}s").covariance
            assert_array_equal(ours[0], found)
            assert_array_equal(ours[0, [3, 1]], found[[3, 1]])
    for side in expected:
        covariance = getattr(model._model, f"{side}s").covariance
        assert isinstance(covariance, PackedCovariance)
        n_revised = len(covariance.updated)
        assert n_revised == ({"user": 18, "item": 11}[side] if most else 0)


def test_seen_items_after_further_rows_are_those_of_one_fit(solver):
    _, model = grown(solver)
    whole = fit(solver, rows=OLD | NEW)
    assert_array_equal(model._seen.items, whole._seen.items)
    assert_array_equal(model._seen.offsets, whole._seen.offsets)
    again = model.partial_fit(X[NEW], Y[NEW])
    assert_array_equal(again._seen.items, whole._seen.items)


def test_sums_of_factors_follow_further_rows(solver):
    """What similarity compares is that of all rows, as if summed anew."""
    _, model = grown(solver)
    for side in ("user", "item"):
        rows = getattr(model._model, f"{side}s")
        factors = rows.mean[..., :3]
        anew = FactorSums.of(factors)
        for sums in (rows.factor_sums, anew):
            R = sums.square_roots()[0]
            away = factors[0] - factors[0].mean(axis=0, dtype=np.float64)
            assert_allclose(R.T @ R, away.T @ away, rtol=1e-5, atol=1e-9)


def test_similarity_after_further_rows_is_the_cosine_of_profiles(solver):
    _, model = grown(solver)
    profiles = (model.item_factors_ @ model.user_factors_.T).astype(np.float64)
    profiles -= profiles.mean(axis=1, keepdims=True)
    profiles /= np.linalg.norm(profiles, axis=1, keepdims=True)
    similar, scores = model.similar_items(model.item_ids_, 3, return_scores=True)
    cosines = profiles @ profiles.T
    np.fill_diagonal(cosines, -np.inf)
    assert_allclose(scores, -np.sort(-cosines)[:, :3], atol=1e-4)
    assert_array_equal(similar[:, 0], model.item_ids_[cosines.argmax(axis=1)])


@pytest.mark.parametrize("with_y", [True, False])
def test_a_model_that_has_outgrown_its_fit_says_so_at_each_doubling(with_y):
    X, y = make_ratings(60, 40, 800, random_state=1)
    model, said = MFRegressor(), []
    for n_parts in range(1, 17):
        rows = slice(50 * (n_parts - 1), 50 * n_parts)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.partial_fit(X[rows], y[rows] if with_y else None)
        if any("fit all rows anew" in str(w.message) for w in caught):
            said.append(n_parts)
    assert said == [4, 8, 16]
    # A fit is of all its rows.
    model.fit(X, y if with_y else None).partial_fit(X[:50], y[:50] if with_y else None)
