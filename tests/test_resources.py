"""Estimates of time and memory of a fit."""

import pickle
import re

import numpy as np
import pytest
from helpers import unconverged
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from skrec import DummyRecommender, MFRegressor, NCFRegressor
from skrec._data.sides import Sides
from skrec.datasets import make_ratings
from skrec.inspection import _resources, estimate_resources
from skrec.inspection._resources import measured
from skrec.preprocessing import DatetimeBins

X, Y = make_ratings(300, 120, 2000, random_state=0)
NO_FEATURES = Sides(None, None)


class Clock:
    """Seconds of a fit whose parts take set times."""

    def __init__(self, *seconds):
        self.seconds, self.now, self.is_start = iter(seconds), 0.0, False

    def __call__(self):
        self.is_start = not self.is_start
        if not self.is_start:
            self.now += next(self.seconds)
        return self.now


def resources(model, *seconds, rows=(X, Y, None)):
    return measured(model, *rows, NO_FEATURES, Clock(*seconds))


@pytest.fixture
def any_sample(monkeypatch):
    """Fits that run to their end have no more than 500 rows."""
    monkeypatch.setattr(_resources, "SAMPLE_ROWS", 500)


def test_a_small_fit_is_run_to_its_end():
    model = MFRegressor(2, rank_by="rating", tol=0.01)
    with unconverged():
        n_iter = model.fit(X, Y).n_iter_
    assert n_iter > 4
    found = resources(model, 5.0, 3.0, *[2.0] * (n_iter - 2), 4.0, 1.0)
    assert found["n_iter"] == n_iter
    assert found["seconds"] == 5 + 3 + 2 * (n_iter - 2) + 4 + 1
    assert found["seconds_per_iter"] == 2


def test_draws_and_epochs_are_counted_by_max_iter():
    for model in (
        MFRegressor(2, solver="gibbs", max_iter=70, random_state=0),
        NCFRegressor(2, (2,), max_iter=70, random_state=0),
    ):
        # Reading, the first iteration, a model, the second, and its model.
        found = resources(model, 5.0, 30.0, 0.0, 2.0, 1.0)
        assert found["n_iter"] == 70
        assert found["seconds"] == 5 + 30 + 69 * 2 + 1


def test_sweeps_are_counted_on_a_sample(any_sample):
    model = MFRegressor(2, solver="als", tol=1e-4)
    # Three sweeps of all rows, then a sample with as many as it takes.
    found = resources(model, 5.0, 3.0, 2.0, 2.0, 1.0, *[0.1] * 99)
    n_iter = found["n_iter"]
    assert 3 < n_iter < 50
    assert found["seconds"] == pytest.approx(5 + 3 + (n_iter - 1) * 2 + 1)
    capped = resources(
        MFRegressor(2, solver="als", tol=1e-4, max_iter=4),
        *(5.0, 3.0, 2.0, 2.0, 1.0, *[0.1] * 99),
    )
    assert capped["n_iter"] == 4


def test_the_sample_is_of_ids_of_the_larger_side():
    model = MFRegressor(2, solver="als")
    for rows, kept in ((X, "item"), (X[["item", "user"]], "user")):
        seen = {}

        def collect(*arguments, seen=seen):
            seen["data"] = _resources._sample_of_ids(0.2)(*arguments)
            return seen["data"]

        weight = np.where(np.arange(len(Y)) < 50, 0.0, 2.0)
        arguments = rows, Y, weight, NO_FEATURES
        _resources._begun(model, arguments, Clock(*[1.0] * 9), 1, collect)
        data = seen["data"]
        n_users, n_items = data.shape if kept == "item" else data.shape[::-1]
        assert n_users == pytest.approx(60, abs=2)
        assert n_items > 90
        # Rows without weight stay out, and the others keep theirs.
        assert set(data.weight) == {2.0}
        # Each id that was taken has all its rows.
        ids = data.user_ids if kept == "item" else data.item_ids
        of_ids = X["user"].isin(ids) & (weight > 0)
        assert len(data.rating) == of_ids.sum()


@pytest.mark.parametrize(
    "model",
    [
        MFRegressor(3, implicit_features=False),
        MFRegressor(3, solver="als"),
        MFRegressor(3, solver="gibbs", max_iter=30, random_state=0),
        NCFRegressor(3, (4,), max_iter=3, random_state=0),
        DummyRecommender(),
    ],
    ids=lambda model: f"{type(model).__name__}-{getattr(model, 'solver', '')}",
)
def test_the_size_of_the_model_is_that_of_its_pickle(model):
    found = resources(model, *[1.0] * 300)
    with unconverged():
        model.fit(X, Y)
    assert found["model_bytes"] == pytest.approx(len(pickle.dumps(model, 5)), rel=0.05)
    assert found["n_iter"] == model.n_iter_


def test_the_estimate_is_made_in_a_process_of_its_own():
    dates = np.datetime64("2026-01-01") + np.arange(len(Y))
    rows = X.assign(user=X["user"].astype(str), day=np.arange(len(Y)) % 7 / 7.0)
    model = MFRegressor(2)
    sizes = X[["item"]].drop_duplicates().assign(size=lambda items: items["item"] % 7)
    found = estimate_resources(model, rows, Y, item_features=lambda: sizes)
    assert not hasattr(model, "n_iter_")
    assert found.keys() == {
        *("seconds", "n_iter", "seconds_per_iter", "peak_bytes", "model_bytes")
    }
    assert 0 < found.seconds_per_iter < found.seconds
    # The arrays of the fit, and pages of libraries that it is the first to touch.
    assert 2**20 < found.peak_bytes < 2**28
    # Errors are those of the fit.
    with pytest.raises(ValueError, match="missing id"):
        estimate_resources(model, [[None, 1]], [3.0])
    pipe = make_pipeline(DatetimeBins(), model)
    with pytest.raises(TypeError, match=re.escape("pipe[-1]")):
        estimate_resources(pipe, X.assign(date=dates), Y)


@pytest.mark.parametrize(
    "model",
    [
        MFRegressor(-1),
        MFRegressor(max_iter=0),
        MFRegressor(solver="no"),
        MFRegressor(0, biased=False),
        MFRegressor(device="nowhere"),
        MFRegressor(solver="adam", loss="log_loss", unobserved_weight=1.0),
        NCFRegressor(hidden_layer_sizes=(0,)),
    ],
)
def test_errors_of_parameters_are_those_of_fit_and_need_no_process(model, monkeypatch):
    monkeypatch.setattr(_resources, "CHILD", "import no_such_module")
    with pytest.raises(ValueError, match=r"must be|leave|device|Use") as expected:
        clone(model).fit(X, Y)
    with pytest.raises(expected.type, match=re.escape(str(expected.value))):
        estimate_resources(model, X, Y)


def test_an_estimate_of_what_cannot_be_pickled_says_so():
    class Local(MFRegressor):
        pass

    with pytest.raises(TypeError, match="cannot be pickled"):
        estimate_resources(Local(2), X, Y)


def test_a_process_without_memory_is_a_memory_error(monkeypatch):
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(_resources, "CHILD", kill)
    with pytest.raises(MemoryError, match=r"signal 9.*fewer factors"):
        estimate_resources(MFRegressor(2), X, Y)
    monkeypatch.setattr(_resources, "CHILD", "import no_such_module")
    with pytest.raises(RuntimeError, match="no_such_module"):
        estimate_resources(MFRegressor(2), X, Y)


@pytest.mark.parametrize("system", ["without status", "without resource"])
def test_memory_is_read_on_other_systems(system, monkeypatch, tmp_path):
    monkeypatch.setattr(_resources, "PROCESS", tmp_path / "none")
    if system == "without resource":
        monkeypatch.setitem(__import__("sys").modules, "resource", None)
        assert np.isnan(_resources._reset_peak())
        return
    first = _resources._reset_peak()
    assert 2**24 < first == _resources._memory()[0]
