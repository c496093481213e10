"""The number of factors and implicit features that a fit chooses."""

from itertools import islice

import numpy as np
import pytest
from helpers import rmse, unconverged
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from skrec import MFRegressor
from skrec._alternating.evidence import CONCENTRATION_BOUNDS
from skrec._alternating.structure import (
    Alternative,
    best_fit,
    least_error,
    suitable_n_factors,
)
from skrec._alternating.vb import tempered_vb
from skrec._data.interactions import ONE_PROCESS, Interactions
from skrec._interfaces import Iteration
from skrec.datasets import make_ratings


def fit_of(name, error, n_iter=3):
    """Endless iterations that converge with the `n_iter`-th."""
    for number in range(1, 100):
        yield Iteration(
            objective=1 / number,
            progress="",
            converged=number == n_iter,
            model=lambda: name,
            curves={"loo_curve_": [error] * number},
            error=lambda: error,
        )


def interactions(X, y, weight, context=None):
    """Canonical rows of pairs that are in order."""
    ids = [np.arange(n) for n in X.max(axis=0) + 1]
    if context is None:
        context = np.empty((len(X), 0))
    return Interactions(*ids, *X.T, y, weight, context)


def best(first, *others, max_iter=10):
    """Model and objectives of the best fit, and names of the fits that were tried."""
    tried = []

    def alternative(name, error, is_probe=False, n_iter=2):
        def fit():
            tried.append(name)
            return fit_of(name, error, n_iter)

        return Alternative(name, fit, is_probe)

    alternatives = [alternative(*other) for other in others]
    *_, last = best_fit(fit_of("first", first), alternatives, max_iter)
    return last.model(), last.curves.get("loss_curve_"), tried


@pytest.mark.parametrize(
    ("others", "model", "tried"),
    [
        ([("a", 2.0), ("b", 0.1)], "first", ["a"]),
        ([("a", 0.9), ("b", 0.8)], "b", ["a", "b"]),
        ([("a", 0.9), ("b", 0.95)], "a", ["a", "b"]),
        ([("a", 0.9, True), ("b", 0.95)], "b", ["a", "b"]),
        ([("a", 0.9, True), ("b", 1.1)], "first", ["a", "b"]),
        ([("a", 0.9), ("b", 1.1), ("c", 0.8)], "c", ["a", "b", "c"]),
        ([("a", 0.9), ("b", 0.8), ("c", 0.7)], "b", ["a", "b"]),
        ([("a", 1.0), ("b", 0.5)], "first", ["a"]),
    ],
)
def test_the_lowest_error_wins_if_the_first_alternative_is_better(others, model, tried):
    found, curve, were_tried = best(1.0, *others)
    assert (found, were_tried) == (model, tried)
    assert curve == (None if model == "first" else [1, 1 / 2])


def test_nothing_is_tried_that_cannot_be_better():
    tried = []
    other = Alternative("other", lambda: tried.append("other") or fit_of("other", 0.5))
    for bound, expected in ((2.0, []), (0.9, ["other"])):
        list(best_fit(fit_of("first", 1.0), [other], 10, bound))
        assert tried == expected


def test_the_bound_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    X = np.unique(rng.integers(0, (30, 20), (300, 2)), axis=0)
    y, weight = rng.normal(size=len(X)), rng.uniform(0.5, 2, len(X))
    design = np.hstack([np.eye(30)[X[:, 0]], np.eye(20)[X[:, 1]]])
    root = np.sqrt(weight)
    beta = np.linalg.lstsq(design * root[:, None], y * root)[0]
    expected = np.sqrt(np.average((y - design @ beta) ** 2, weights=weight))
    found = least_error(interactions(X, y, weight))
    assert expected <= found < 1.02 * expected
    context = interactions(X, y, weight, context=rng.normal(size=(len(X), 1)))
    assert least_error(context) == 0


@pytest.mark.parametrize("max_iter", [1, 2, 3, 4])
def test_no_fit_has_more_iterations_than_allowed(max_iter):
    other = Alternative("other", lambda: fit_of("other", 0.5, n_iter=100))
    iterations = islice(best_fit(fit_of("first", 1.0), [other], max_iter), max_iter)
    *_, last = iterations
    if max_iter < 3:
        assert (last.model(), last.converged) == ("first", False)
    else:
        assert (last.model(), last.converged) == ("other", True)
        assert len(last.curves["loss_curve_"]) == max_iter


def test_factors_are_as_many_as_the_pairs_support(ml_100k):
    X, _ = ml_100k
    assert MFRegressor(max_iter=1)._solver().n_factors is None

    def number(X):
        with unconverged():
            fit = MFRegressor(rank_by="rating", solver="gibbs", max_iter=1)
            return fit.fit(X, np.arange(len(X)) % 5).n_factors_

    assert number(X) == 20
    assert number(X[:3000]) == 2
    # Ratings of one pair support no more than one rating does.
    twice = np.vstack([X[:3000], X[:3000]])
    assert number(twice) == number(X[:3000])


@pytest.mark.parametrize("n_users", [1, 2, 20, 140, 160, 164, 178, 182, 400])
def test_the_number_of_factors_is_within_its_bounds(n_users):
    class Data:
        users, items = np.divmod(np.arange(200 * n_users), 200)
        shape = n_users, 200
        shares = ONE_PROCESS

    supported = 100 * n_users / (n_users + 200)
    # More than 32 are four fifths of what ratings support.
    most = np.clip(np.floor(0.8 * supported), 32, 36)
    suitable = np.ceil(supported)
    assert suitable_n_factors(Data, warms_up=True) == np.clip(suitable, 2, most)
    assert suitable_n_factors(Data, warms_up=False) == np.clip(suitable, 2, 32)


@pytest.mark.parametrize("seed", range(3))
def test_ratings_without_taste_have_biases_alone(seed):
    rng = np.random.default_rng(seed)
    X = np.c_[rng.integers(0, 200, 2000), rng.integers(0, 100, 2000)]
    y = rng.normal(size=200)[X[:, 0]] + rng.normal(size=100)[X[:, 1]]
    y = y + rng.normal(size=2000)
    X, X_test, y, y_test = train_test_split(X, y, random_state=0)
    model, biases = (MFRegressor(**p).fit(X, y) for p in ({}, {"n_factors": 0}))
    assert model.n_factors_ == 0
    assert model.user_factors_.shape == (len(model.user_ids_), 0)
    assert rmse(model, X_test, y_test) == rmse(biases, X_test, y_test)


def test_ratings_of_taste_have_factors():
    X, y = make_ratings(300, 200, 20000, n_factors=4, random_state=0)
    model = MFRegressor(rank_by="rating").fit(X, y)
    assert model.n_factors_ == 20
    assert "implicit" in model._model.users.links


@pytest.mark.parametrize("implicit_features", [True, False])
def test_a_structure_that_is_set_stays(implicit_features):
    rng = np.random.default_rng(0)
    X = np.c_[rng.integers(0, 200, 2000), rng.integers(0, 100, 2000)]
    model = MFRegressor(3, implicit_features=implicit_features)
    model.fit(X, rng.normal(size=2000))
    assert model.n_factors_ == 3
    assert ("implicit" in model._model.users.links) == implicit_features


@pytest.mark.parametrize("solver", ["vb", "als", "adam"])
def test_a_fit_goes_on_with_the_factors_that_it_has(solver):
    X, y = make_ratings(60, 40, 800, random_state=0)
    model = MFRegressor(solver=solver, random_state=0, warm_start=True)
    with unconverged():
        n_factors = model.set_params(max_iter=3).fit(X, y).n_factors_
        assert n_factors == (4 if solver == "vb" else 16)
        # A few more ratings support more factors, but the fit has these.
        more, more_y = make_ratings(60, 40, 1000, random_state=1)
        assert model.fit(more, more_y).n_factors_ == n_factors
        # Only vb has another number for twice the ratings.
        more, more_y = make_ratings(60, 40, 1600, random_state=1)
        n_factors = model.fit(more, more_y).n_factors_
        assert n_factors == (8 if solver == "vb" else 16)
    assert model.partial_fit(X[:20], y[:20]).n_factors_ == n_factors


@pytest.mark.filterwarnings("ignore:The noise has collapsed")
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_factors_of_ratings_almost_without_noise_are_kept(noise):
    rng = np.random.default_rng(0)
    # Many ids have few ratings.
    popularity = np.outer(1 / (4 + np.arange(60)), 1 / (2 + np.arange(50))).ravel()
    popularity /= popularity.sum()
    places = rng.choice(60 * 50, 1700, replace=False, p=popularity)
    users, items = np.divmod(places, 50)
    P, Q = rng.normal(size=(60, 4)), rng.normal(size=(50, 4))
    P[:, 3], y = 1, noise * rng.normal(size=len(users))
    y += (P[users] * Q[items]).sum(1)
    X = np.column_stack([users, items])
    model = MFRegressor(rank_by="rating").fit(X[:1400], y[:1400])
    assert model.n_factors_ >= 3
    assert rmse(model, X[1400:], y[1400:]) < 0.04 * y.std()


@pytest.mark.parametrize(("rate", "seed"), [(0.005, 0), (0.005, 1), (0.02, 2)])
def test_rare_events_that_factors_reproduce_are_fitted_by_biases(rate, seed):
    rng = np.random.default_rng(seed)
    places = rng.permutation(400 * 200)[:16000]
    X = np.column_stack(np.divmod(places, 200))
    P, Q = rng.normal(size=(400, 3)), rng.normal(size=(200, 3))
    scores = np.exp((P[X[:, 0]] * Q[X[:, 1]]).sum(1))
    y = (rng.random(16000) < rate * scores / scores.mean()).astype(float)
    (X, X_test), (y, y_test) = np.split(X, 2), np.split(y, 2)
    model, biases = (MFRegressor(k, rank_by="rating").fit(X, y) for k in ("auto", 0))
    assert rmse(model, X_test, y_test) < 1.01 * rmse(biases, X_test, y_test)


def rare_events(seed, n_rows, shape, rate):
    """Whether an event is in each of some pairs, by a logit of biases."""
    rng = np.random.default_rng(seed)
    X = np.column_stack(np.divmod(rng.permutation(np.prod(shape))[:n_rows], shape[1]))
    logit = rng.normal(0, 2, shape[0])[X[:, 0]] + rng.normal(0, 1.5, shape[1])[X[:, 1]]
    logit += rng.logistic(size=n_rows)
    return X, (logit > np.quantile(logit, 1 - rate)).astype(float)


@pytest.mark.parametrize(
    ("solver", "rate", "seed"),
    [("vb", 0.05, 10), ("vb", 0.05, 11), ("vb", 0.1, 12), ("gibbs", 0.05, 10)],
)
def test_errors_on_rare_events_are_about_those_of_a_ridge_regression(
    solver, rate, seed
):
    """Though many rows are without an event, and so seem to be without noise."""
    X, y = rare_events(seed, 3000, (120, 100), rate)
    (X, X_test), (y, y_test) = np.split(X, [2400]), np.split(y, [2400])
    one_hot = OneHotEncoder(handle_unknown="ignore")
    ridge = make_pipeline(one_hot, Ridge(10.0)).fit(X, y)
    model = MFRegressor(solver=solver, rank_by="rating", random_state=0)
    if solver == "gibbs":
        model.set_params(max_iter=40)
    model.fit(X, y)
    constant = np.sqrt(np.mean((y_test - y.mean()) ** 2))
    error = rmse(model, X_test, y_test)
    assert error < min(0.98 * constant, 1.01 * rmse(ridge, X_test, y_test))


def test_a_fit_is_tempered_where_the_kurtosis_of_its_noise_is_high(monkeypatch):
    tried = []

    def tempered(problem, start):
        tried.append(problem)
        return tempered_vb(problem, start)

    monkeypatch.setattr("skrec._alternating.vb.tempered_vb", tempered)
    X, y = make_ratings(100, 60, 3000, random_state=0)
    MFRegressor(rank_by="rating").fit(X, y)
    assert not tried
    X, y = rare_events(10, 3000, (120, 100), 0.05)
    model = MFRegressor(0, implicit_features=False, rank_by="rating").fit(X, y)
    assert len(tried) == 1
    # The relative precisions of rows with and without events are nearly equal.
    concentration = model._model.users.concentration
    assert concentration > 5 * CONCENTRATION_BOUNDS[0]
    assert len(model.loss_curve_) == len(model.loo_curve_) == model.n_iter_
    model.partial_fit(X[:20], y[:20])
    assert model._model.users.concentration == concentration
    model.forget(users=[X[0, 0]])
    assert model._model.users.concentration == concentration
