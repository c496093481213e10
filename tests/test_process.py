"""Settings, threads and forks of the process: they neither break nor change results."""

import multiprocessing
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from helpers import (
    NEEDS_CALLBACKS,
    PATIENCE,
    Callback,
    default_dtype,
    default_threads,
    in_thread,
    saved,
    unconverged,
)
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score

from skrec import MFRegressor, NCFRegressor, load
from skrec.datasets import make_ratings
from skrec.metrics import RankingScorer

X, Y = make_ratings(40, 30, 500, random_state=0)
OF_TASTES = X[(X["user"] + X["item"]) % 2 == 0]
FURTHER = pd.DataFrame({"user": [0, 1, 1000], "item": [3, 5, 7]})
ITEMS = pd.DataFrame({"size": np.arange(30) / 7, "kind": list("abc") * 10})

ESTIMATORS = {
    **{
        solver: MFRegressor(3, solver=solver, max_iter=max_iter, random_state=0)
        for max_iter, solvers in ((4, ("vb", "gibbs", "als")), (2, ("adam", "sgd")))
        for solver in solvers
    },
    "early": MFRegressor(
        3, solver="adam", max_iter=2, early_stopping=True, random_state=0
    ),
    "choices": MFRegressor(3, solver="als", unobserved_weight=0.1, max_iter=4),
    "choices alone": MFRegressor(),
    "ncf": NCFRegressor(3, (4,), n_members=2, max_iter=2, random_state=0),
    "bpr": NCFRegressor(3, (4,), loss="bpr", max_iter=2, dropout=0.2, random_state=0),
}


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


# Settings that a caller has at once. What each changes is in `test_settings`.
SETTINGS = {
    "deterministic": (
        deterministic,
        torch.no_grad,
        lambda: default_dtype(torch.float64),
        lambda: default_device("meta"),
        lambda: sklearn.config_context(transform_output="pandas"),
        lambda: np.errstate(all="raise"),
    ),
    "anomaly": (
        lambda: torch.autograd.set_detect_anomaly(True),
        torch.inference_mode,
        lambda: default_dtype(torch.bfloat16),
        lambda: torch.device("meta"),
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    ),
}


def answers(name):
    """All that a model says, fitted and further fitted here."""
    model = clone(ESTIMATORS[name])
    rows, y, features = X, Y, ITEMS
    if name in ("choices", "choices alone", "bpr"):
        y = None
    if name == "choices alone":
        rows, features = OF_TASTES, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="Anomaly Detection")
        model.fit(rows, y, item_features=features)
        found = [model.predict(X), *model.recommend([0, 1000], return_scores=True)]
        found += model.similar_items([0, 1], return_scores=True)
        if name in ("vb", "gibbs", "ncf"):
            found += model.predict(X, return_std=True)
        if name != "gibbs":
            further = None if y is None else [5.0, 4.0, 1.0]
            found.append(model.partial_fit(FURTHER, further).predict(X))
        found.append(RankingScorer("ndcg", k=5)(model, X, Y))
    return [np.asarray(values) for values in found]


@pytest.fixture(scope="module")
def expected():
    return {name: answers(name) for name in ESTIMATORS}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_settings_change_no_bit(name, settings, expected):
    with ExitStack() as stack:
        for setting in settings:
            stack.enter_context(setting())
        found = answers(name)
    for ours, theirs in zip(found, expected[name], strict=True):
        assert ours.dtype == theirs.dtype
        assert_array_equal(ours, theirs)


@NEEDS_CALLBACKS
def test_settings_are_the_callers_in_callbacks_and_afterwards():
    class Look(Callback):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            seen.append((torch.get_default_dtype(), torch.is_grad_enabled()))
            seen.append(torch.get_num_threads())

    for solver in ("vb", "adam"):
        seen = []
        model = clone(ESTIMATORS[solver]).set_params(tol=0.0, max_iter=2)
        n_threads = torch.get_num_threads()
        with default_dtype(torch.float64), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_callbacks(Look()).fit(X, Y)
            assert torch.get_default_dtype() == torch.float64
        assert len(seen) == 6
        assert set(seen) == {(torch.float64, False), n_threads}


def test_fits_in_several_threads_are_those_of_one():
    names = ["vb", "als", "adam", "ncf"] * 2
    with default_threads(3):
        expected = {name: answers(name)[0] for name in set(names)}
        with warnings.catch_warnings(), ThreadPoolExecutor(len(names)) as pool:
            # Filters of warnings belong to the process.
            warnings.simplefilter("ignore")
            found = list(pool.map(lambda name: answers(name)[0], names))
        for name, values in zip(names, found, strict=True):
            assert_array_equal(values, expected[name])
        assert torch.get_num_threads() == in_thread(torch.get_num_threads) == 3


def test_cross_validation_in_threads_scores_as_in_turn():
    model = MFRegressor(2, tol=1e-3, max_iter=50)
    in_turn = cross_val_score(model, X, Y, cv=3)
    with joblib.parallel_backend("threading", n_jobs=2):
        assert_array_equal(cross_val_score(model, X, Y, cv=3), in_turn)


def alternating_data():
    """Two tables of different users and items, and models of each."""
    small, large = make_ratings(20, 12, 100, random_state=1), (X, Y)
    small[0]["user"] += 5
    return small, large


@pytest.mark.parametrize("name", ["vb", "als", "adam", "ncf"])
def test_readers_meet_one_fit_or_the_other(name):
    """A refit in another thread changes all that is read at once."""
    tables = alternating_data()
    model = clone(ESTIMATORS[name])
    asked = tables[0][0]

    def read(model):
        return (
            tuple(model.predict(asked)),
            tuple(model.recommend([7], n_items=3, exclude_seen=False)[0]),
            tuple(model.similar_items([3], n_items=3)[0]),
            saved(model),
        )

    with unconverged():
        known = []
        for table in tables:
            model.fit(*table)
            known.append(read(model))

        def refit():
            for round_ in range(6):
                model.fit(*tables[round_ % 2])

        with ThreadPoolExecutor(1) as pool:
            writer, n_reads = pool.submit(refit), 0
            while not writer.done() or n_reads < 3:
                for answer, choices in zip(
                    read(model), zip(*known, strict=True), strict=True
                ):
                    assert answer in choices
                n_reads += 1
            writer.result()


@pytest.mark.parametrize("name", ["vb", "ncf"])
def test_readers_meet_a_model_before_or_after_further_rows(name):
    """Ids that come before all others move every row."""
    model = clone(ESTIMATORS[name])
    with unconverged():
        model.fit(X, Y)

        def learn():
            for number in range(1, 9):
                rows = pd.DataFrame({"user": [-number], "item": [-number]})
                model.partial_fit(rows, [3.0])

        before = model.predict(X)
        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(learn)
            while not writer.done():
                # Rounding depends on where a row stands.
                assert_allclose(model.predict(X), before, rtol=1e-12)
                assert (model.recommend([3], n_items=2, exclude_seen=False) >= -8).all()
            writer.result()
    assert len(model.user_ids_) == len(model._seen.offsets) - 1 == 48


@pytest.mark.parametrize("name", ["vb", "gibbs", "ncf"])
def test_predictions_in_tiles_are_those_of_all_rows(name, expected, monkeypatch):
    monkeypatch.setattr("skrec._interfaces.PREDICTION_ROWS", 7)
    for ours, theirs in zip(answers(name), expected[name], strict=True):
        assert_allclose(ours, theirs, rtol=1e-12)


def test_a_refit_on_an_array_forgets_the_names_of_columns():
    model = MFRegressor(2, tol=1e9).fit(X, Y)
    assert hasattr(model, "feature_names_in_")
    assert not hasattr(model.fit(X.to_numpy(), Y), "feature_names_in_")


FORK = """
import os, signal, sys, warnings
import numpy as np, torch
torch.set_num_threads(2)
from skrec import MFRegressor, NCFRegressor, load
from skrec.datasets import make_ratings
warnings.simplefilter("ignore")
X, y = make_ratings(3000, 2000, 60_000, random_state=0)
models = [MFRegressor(4, max_iter=2), MFRegressor(4, max_iter=2, solver="als")]
# Autograd of torch does not work in a fork where there is a GPU.
if not torch.cuda.is_available():
    models.append(
        NCFRegressor(4, (4,), n_members=2, max_iter=1, batch_size=30_000)
    )
def answers(model):
    further = X[:3].assign(user=[0, 1, 10**6])
    found = [model.predict(X), model.recommend(n_items=5)[:, 0]]
    found += [model.similar_items([0], n_items=5)]
    if hasattr(model, "partial_fit"):
        found += [model.partial_fit(further, y[:3]).predict(X)]
    return [*found, model.fit(X, y).predict(X)]
for model in models:
    model.fit(X, y)
    # The threads of OpenMP are there now.
    torch.ones(2**21).mul_(2).sum()
    child = os.fork()
    if not child:
        answers(model)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"{model}: {os.waitstatus_to_exitcode(status)}")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_forked_processes_answer():
    """Their parent has computed with threads that are not in the children."""
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=PATIENCE)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_new_process_answers_and_fits_as_this_one(method, tmp_path):
    """With a model from a pickle or a file, and rows in another order."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("the platform has no fork servers")
    path = tmp_path / "model.skrec"
    with unconverged():
        model = MFRegressor(2, max_iter=3).fit(X, Y)
    model.save(path)
    with multiprocessing.get_context(method).Pool(1) as pool:
        predicted = pool.apply(MFRegressor.predict, (model, X))
        loaded = pool.apply(load, (path,))
        fitted = pool.apply(MFRegressor.fit, (clone(model), X[::-1], Y[::-1]))
    for values in (predicted, loaded.predict(X), fitted.predict(X)):
        assert_array_equal(values, model.predict(X))
