"""Fits report each iteration: progress, scores, stopping, words, warnings."""

import numpy as np
import pytest
import torch
from helpers import NEEDS_CALLBACKS, Recording, default_threads, unconverged
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skrec import MFRegressor, NCFRegressor, _threads
from skrec._threads import set_own_threads
from skrec.datasets import make_ratings

X, Y = make_ratings(40, 30, 900, noise=0.1, levels=None, random_state=0)
SOLVERS = pytest.mark.parametrize("solver", ["vb", "gibbs", "als"])
ALL = pytest.mark.parametrize("solver", ["vb", "gibbs", "als", "adam", "ncf"])


def small(solver="vb", **params):
    """Five iterations, or as many as `max_iter` says, and no complaint about it."""
    params = {"n_factors": 2, "max_iter": 5, "tol": 0.0, "random_state": 0, **params}
    if solver == "ncf":
        network = {"hidden_layer_sizes": (3,), "n_members": 2, "batch_size": 200}
        return NCFRegressor(**network, **params)
    return MFRegressor(solver=solver, **params)


def quietly_fitted(model):
    with unconverged():
        return model.fit(X, Y)


@NEEDS_CALLBACKS
def test_a_callback_is_given_the_training_rows_and_weights():
    record, weight = Recording(), np.ones(len(Y))
    model = MFRegressor(2, tol=1e9).set_callbacks(record)
    model.fit(X, Y, sample_weight=weight)
    for rows, ratings, metadata in record.known:
        assert rows is X
        assert ratings is Y
        assert metadata["sample_weight"] is weight


@NEEDS_CALLBACKS
def test_a_callback_has_the_threads_of_the_caller():
    found = []
    record = Recording()
    record.on_fit_task_end = lambda *args, **kwargs: found.append(
        torch.get_num_threads()
    )
    with default_threads(3):
        quietly_fitted(small().set_callbacks(record))
    assert found == [3] * 6


def test_a_small_fit_without_callbacks_sets_its_threads_once(monkeypatch):
    """It takes half a millisecond each time."""
    set_to = []

    def counted(n_threads):
        set_to.append(n_threads)
        return set_own_threads(n_threads)

    monkeypatch.setattr(_threads, "set_own_threads", counted)
    with default_threads(3):
        quietly_fitted(small())
        assert torch.get_num_threads() == 3
    assert set_to == [1]


# The learning rate of the others depends on how many iterations are to come.
@NEEDS_CALLBACKS
@SOLVERS
def test_the_estimator_given_to_a_callback_is_a_fit_that_ended_there(solver):
    record = Recording()
    quietly_fitted(small(solver=solver).set_callbacks(record))
    *iterations, whole = record.fitted
    assert len(iterations) == 5
    for n, found in enumerate([*iterations, whole], start=1):
        expected = quietly_fitted(small(solver=solver, max_iter=min(n, 5)))
        assert_array_equal(found.predict(X), expected.predict(X))
        assert_array_equal(
            found.recommend(n_items=2, exclude_seen=False),
            expected.recommend(n_items=2, exclude_seen=False),
        )
        assert_array_equal(found.user_factors_, expected.user_factors_)
        assert found.noise_std_ == expected.noise_std_
        assert found.n_iter_ == expected.n_iter_
        assert found.loss_curve_ == expected.loss_curve_


@NEEDS_CALLBACKS
@pytest.mark.parametrize("solver", ["vb", "ncf"])
def test_a_callback_stops_the_fits_of_a_search(solver):
    search = GridSearchCV(
        small(solver).set_callbacks(Recording(stop_after=3)),
        {"n_factors": [1, 2]},
        scoring={"n_iter": lambda model, X, y: model.n_iter_},
        refit="n_iter",
        cv=2,
    ).fit(X, Y)
    assert search.cv_results_["mean_test_n_iter"].tolist() == [3, 3]
    assert search.best_estimator_.n_iter_ == 3


@ALL
def test_a_scoring_monitor_logs_each_iteration_and_the_fit_gets_better(
    solver, callbacks
):
    monitor = callbacks.ScoringMonitor(scoring=["r2", "neg_root_mean_squared_error"])
    model = quietly_fitted(small(solver=solver, reg=0.1).set_callbacks(monitor))
    log = monitor.get_logs().data_as_pandas
    log = log[log["task_name"] == "iteration"]
    assert len(log) == model.n_iter_ == 5
    for score in ("r2", "neg_root_mean_squared_error"):
        assert log[score].iloc[-1] > log[score].iloc[0]
    assert log["r2"].iloc[-1] == model.score(X, Y)


def test_training_scores_of_als_never_fall(callbacks):
    monitor = callbacks.ScoringMonitor(scoring="r2")
    model = small(solver="als", reg=1e-3, max_iter=10).set_callbacks(monitor)
    quietly_fitted(model)
    log = monitor.get_logs().data_as_pandas
    log = log[log["task_name"] == "iteration"]
    assert (np.diff(log["r2"]) > 0).all()


@pytest.mark.parametrize(
    "model", [MFRegressor(2, tol=1e9), small("ncf")], ids=["mf", "ncf"]
)
def test_a_scoring_monitor_sees_the_fits_of_a_search(model, callbacks):
    monitor = callbacks.ScoringMonitor(scoring="r2")
    search = GridSearchCV(
        clone(model).set_callbacks(monitor), {"n_factors": [1, 2]}, cv=2
    ).fit(X, Y)
    log = monitor.get_logs().data_as_pandas
    per_fit = log[log["task_name"] == "iteration"].groupby("parent_task_id_path").size()
    assert per_fit.tolist() == [search.best_estimator_.n_iter_] * 5


@pytest.mark.parametrize("searched", [False, True])
def test_a_scoring_monitor_within_a_pipeline_logs_its_fits(searched, callbacks):
    monitor = callbacks.ScoringMonitor(scoring="r2")
    inner = MFRegressor(2, tol=1e9).set_callbacks(monitor)
    model, n_fits = make_pipeline("passthrough", inner), 1
    if searched:
        model = GridSearchCV(model, {"mfregressor__n_factors": [1, 2]}, cv=2)
        n_fits = 5
    model.fit(X, Y)
    log = monitor.get_logs().data_as_pandas
    log = log[log["task_name"] == "iteration"]
    assert log["parent_task_id_path"].nunique() == n_fits
    assert log["r2"].notna().all()


@NEEDS_CALLBACKS
@pytest.mark.parametrize("searched", [False, True])
def test_only_callbacks_that_say_so_are_passed_on(searched):
    """As scikit-learn has it: by an attribute `max_propagation_depth`."""

    class PassedOn(Recording):
        max_propagation_depth = None

    for record in (Recording(), PassedOn()):
        model = make_pipeline("passthrough", small())
        if searched:
            model = GridSearchCV(small(), {"n_factors": [1, 2]}, cv=2)
        with unconverged():
            model.set_callbacks(record).fit(X, Y)
        heard = any(name == "iteration" for name, _ in record.ended)
        assert heard == isinstance(record, PassedOn)


@pytest.mark.parametrize("searched", [False, True], ids=["alone", "in a search"])
@pytest.mark.parametrize(
    "model", [MFRegressor(2, tol=1e9), small("ncf")], ids=["mf", "ncf"]
)
def test_a_progress_bar_reaches_the_end(model, searched, capsys, callbacks):
    model, name = clone(model), type(model).__name__
    if searched:
        model = GridSearchCV(model, {"n_factors": [1, 2]}, cv=2)
    model.set_callbacks(callbacks.ProgressBar()).fit(X, Y)
    printed = capsys.readouterr().out
    assert f"{name} - fit" in printed
    lines = [line for line in printed.splitlines() if "%" in line]
    assert lines
    assert all("100%" in line for line in lines)


@pytest.mark.parametrize("solver", ["vb", "als"])
def test_too_few_iterations_are_warned_of(solver):
    with pytest.warns(
        ConvergenceWarning,
        match=r"MFRegressor has not converged after max_iter=2 .*tol=1e-06\. Raise",
    ):
        small(solver=solver, max_iter=2, tol=1e-6).fit(X, Y)


@pytest.mark.parametrize("solver", ["vb", "als"])
def test_a_fit_ends_when_the_objective_falls_by_less_than_tol(solver):
    model = small(solver=solver, max_iter=None, tol=1e-2).fit(X, Y)
    falls = -np.diff(model.loss_curve_)
    assert len(falls) == model.n_iter_ - 1 > 1
    assert (falls[:-1] >= 1e-2).all()
    assert falls[-1] < 1e-2


def test_a_chain_is_as_long_as_asked_and_does_not_warn():
    assert small(solver="gibbs", max_iter=4).fit(X, Y).n_iter_ == 4


@pytest.mark.parametrize("solver", ["vb", "als"])
def test_the_default_settings_converge_on_ratings(solver):
    assert 1 < MFRegressor(2, solver=solver).fit(X, Y).n_iter_ < 50


def test_a_chain_keeps_200_draws_by_default():
    assert MFRegressor(2, solver="gibbs").fit(X, Y).n_iter_ == 200
