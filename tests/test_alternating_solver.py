"""The alternating solvers: their options, defaults, warnings and stopping."""

import weakref

import numpy as np
import pytest
from helpers import small, unconverged
from sklearn.base import clone

from skrec import MFRegressor
from skrec._alternating import solver as solver_module
from skrec._alternating.sweep import Sweep, vb
from skrec.datasets import make_ratings

X, Y = make_ratings(40, 30, 600, random_state=0)
SOLVERS = ("vb", "gibbs", "als")
EVERY = pytest.mark.parametrize("solver", SOLVERS)


def solver_of(solver, **params):
    return MFRegressor(2, solver=solver, **params)._solver()


@EVERY
def test_only_squared_errors_are_minimised(solver):
    for loss in ("huber", "log_loss", "bpr"):
        with pytest.raises(ValueError, match=f"{solver!r} minimises squared errors"):
            solver_of(solver, loss=loss).check()
    solver_of(solver).check()


@EVERY
def test_pairs_that_predict_are_not_predicted(solver):
    options = {"unobserved_weight": 0.1}
    with pytest.raises(ValueError, match=r"implicit_features=True.*unobserved_we"):
        solver_of(solver, implicit_features=True, **options).check()
    solver_of(solver, implicit_features=False, **options).check()
    solver_of(solver, **options).check()


def test_only_draws_go_on_for_ever():
    assert [solver_of(solver).converges for solver in SOLVERS] == [True, False, True]


@pytest.mark.parametrize(
    ("params", "penalty", "exponent"),
    [
        ({}, 12.0, 0.0),
        ({"unobserved_weight": 0.5}, 0.15, 0.5),
        ({"reg": 3, "reg_exponent": 1}, 3.0, 1.0),
        ({"reg": 0.2, "unobserved_weight": 0.5, "reg_exponent": 0}, 0.2, 0.0),
    ],
)
def test_the_penalty_of_als_depends_on_the_pairs_that_count(params, penalty, exponent):
    solver = solver_of("als", **params)
    assert solver.penalty == pytest.approx(penalty)
    assert solver.prior_exponent == exponent


@pytest.mark.filterwarnings("ignore:No factor is left")
@EVERY
def test_pairs_without_ratings_are_in_the_range(solver):
    model = small(solver=solver, max_iter=2, random_state=0)
    assert model.fit(X, Y).rating_range_ == (1, 5)
    chosen = clone(model).set_params(unobserved_weight=0.1).fit(X, Y)
    assert chosen.rating_range_ == (0, 5)


@pytest.mark.parametrize("solver", ["vb", "als"])
def test_a_fit_ends_with_the_first_small_fall(solver):
    with unconverged():
        whole = MFRegressor(2, solver=solver, max_iter=12, tol=0).fit(X, Y)
    falls = -np.diff(whole.loss_curve_)
    n_iter = 1 + np.flatnonzero(falls < falls[5])[0] + 1
    model = MFRegressor(2, solver=solver, max_iter=12, tol=falls[5]).fit(X, Y)
    assert model.loss_curve_ == whole.loss_curve_[:n_iter]


def test_draws_are_counted_without_those_that_are_forgotten():
    model = small(solver="gibbs", max_iter=3, random_state=0).fit(X, Y)
    assert model.n_iter_ == 3
    assert len(model._model.users.mean) == 3


def test_without_covariances_a_fit_predicts_the_same_and_is_not_updated():
    model = small(store_covariance=False).fit(X, Y)
    assert np.array_equal(model.predict(X), small().fit(X, Y).predict(X))
    with pytest.raises(ValueError, match="return_std=True needs a fit"):
        model.predict(X, return_std=True)
    with pytest.raises(ValueError, match="needs its covariances"):
        model.partial_fit(X[:3], Y[:3])


@pytest.mark.parametrize("params", [{}, {"n_factors": 2, "implicit_features": False}])
def test_a_sweep_starts_without_the_covariances_of_the_users_before_it(
    monkeypatch, params
):
    sweep, last, held = Sweep._after, [], []

    def counted(self, state):
        held.append(sum(covariance() is not None for covariance in last))
        state = sweep(self, state)
        last.append(weakref.ref(state.users.covariance))
        return state

    monkeypatch.setattr(Sweep, "_after", counted)
    X, y = make_ratings(30, 20, 300, random_state=0)
    with unconverged():
        MFRegressor(rank_by="rating", max_iter=4, **params).fit(X, y)
    assert held == [0] * 4


@pytest.fixture
def warm_ups(monkeypatch):
    """The numbers of sweeps of the warm-ups of each fit, at most and in fact."""
    found = []

    def counted(problem, start, *, warm_up, least_fall):
        found.append([warm_up, 0])
        count = found[-1]
        for state in vb(problem, start, warm_up=warm_up, least_fall=least_fall):
            count[1] += state.is_warm_up
            yield state

    monkeypatch.setattr(solver_module, "vb", counted)
    return found


# Ratings that support 27 factors.
DENSE, DENSE_Y = make_ratings(130, 120, 13_500, random_state=0)


@pytest.mark.parametrize("n_factors", [21, 24])
def test_fits_warm_up_if_the_ratings_support_their_factors(warm_ups, n_factors):
    model = MFRegressor(n_factors, implicit_features=False, rank_by="rating")
    predicted = model.fit(DENSE, DENSE_Y).predict(DENSE)
    ((most, n_sweeps),) = warm_ups
    if n_factors > 21:
        assert most == n_sweeps == 0
        return
    assert 2 < n_sweeps <= most
    # The last sweeps have full covariances, and lead to nearly the same model.
    assert n_sweeps < model.n_iter_
    X_all, y_all = make_ratings(130, 120, 15_000, random_state=0)
    rmse = np.sqrt(np.mean((model.predict(X_all) - y_all) ** 2))
    _, std = model.predict(DENSE, return_std=True)
    warm_ups.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solver_module, "WARM_UP_FACTORS", 50)
        plain = clone(model).fit(DENSE, DENSE_Y)
    assert warm_ups[0] == [0, 0]
    assert np.sqrt(np.mean((plain.predict(X_all) - y_all) ** 2)) == pytest.approx(
        rmse, rel=2e-3
    )
    assert np.sqrt(np.mean((plain.predict(DENSE) - predicted) ** 2)) < 0.1 * np.std(
        DENSE_Y
    )
    np.testing.assert_allclose(plain.predict(DENSE, return_std=True)[1], std, rtol=0.1)


def test_copies_of_ratings_support_no_more_factors(warm_ups):
    X, y = make_ratings(60, 50, 1200, random_state=0)
    X, y = np.tile(X, (10, 1)), np.tile(y, 10)
    MFRegressor(20, implicit_features=False, rank_by="rating").fit(X, y)
    assert warm_ups == [[0, 0]]


@pytest.mark.parametrize("max_iter", [1, 2, 3])
def test_a_fit_that_is_stopped_early_has_full_covariances(warm_ups, max_iter):
    model = MFRegressor(21, implicit_features=False, max_iter=max_iter)
    with unconverged():
        model.fit(DENSE, DENSE_Y)
    assert warm_ups == [[max_iter // 2, max_iter // 2]]
    _, std = model.predict(DENSE[:20], return_std=True)
    model.partial_fit(DENSE[:50], DENSE_Y[:50])
    assert model.predict(DENSE[:20], return_std=True)[1].mean() < std.mean()


def test_a_fit_that_goes_on_does_not_warm_up_again(warm_ups):
    rng = np.random.default_rng(0)
    P, Q = rng.normal(size=(130, 21)), rng.normal(size=(120, 21))
    y = (P[DENSE["user"]] * Q[DENSE["item"]]).sum(axis=1) + rng.normal(size=len(DENSE))
    model = MFRegressor(21, implicit_features=False, warm_start=True)
    model.fit(DENSE, y).fit(DENSE, y)
    assert warm_ups[0][1] > 0
    assert warm_ups[1] == [0, 0]
