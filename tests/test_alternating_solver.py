"""The alternating solvers: their options, defaults, warnings, stopping and memory."""

import weakref

import numpy as np
import pytest
import torch
from helpers import default_threads, small, unconverged
from sklearn.base import clone

from skrec import MFRegressor
from skrec._alternating.problem import standard_problem
from skrec._data.interactions import Interactions
from skrec._data.reading import Columns
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


@EVERY
def test_a_small_fit_takes_one_thread(solver, monkeypatch):
    """The others would wait, and changing their number takes time."""
    columns = Columns.from_array(X.to_numpy())
    data = Interactions.from_columns(columns, Y, np.ones(len(Y)))
    with default_threads(3):
        assert solver_of(solver).n_threads(data) == 1
        monkeypatch.setattr("skrec._alternating.tiles.MIN_POOL_WORK", 0)
        assert solver_of(solver).n_threads(data) == 3


@pytest.mark.filterwarnings("ignore:No factor is left")
@EVERY
def test_rows_are_released_before_the_problem_is_built(solver, monkeypatch):
    held = []

    def observed(*arguments):
        held.append(rows() is not None)
        return standard_problem(*arguments)

    monkeypatch.setattr("skrec._alternating.solver.standard_problem", observed)
    columns = Columns.from_array(X.to_numpy())
    data = Interactions.from_columns(columns, Y, np.linspace(0.5, 1.5, len(Y)))
    rows = weakref.ref(data)
    options = None, np.random.RandomState(0), torch.device("cpu")
    iterations = solver_of(solver).iterations(data, *options)
    del data
    next(iterations)
    # "gibbs" begins with a fit of "vb", which reads the rows that "gibbs" still needs.
    assert held == [True] * (solver == "gibbs") + [False]


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


def test_without_covariances_a_fit_predicts_the_same_and_is_not_updated():
    model = small(store_covariance=False).fit(X, Y)
    assert np.array_equal(model.predict(X), small().fit(X, Y).predict(X))
    with pytest.raises(ValueError, match="return_std=True needs a fit"):
        model.predict(X, return_std=True)
    with pytest.raises(ValueError, match="needs its covariances"):
        model.partial_fit(X[:3], Y[:3])
