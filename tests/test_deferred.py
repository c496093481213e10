"""Parts of a fit that are computed when they are first used."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone

import skrec
from skrec import MFRegressor, NCFRegressor
from skrec._choice.autoencoder import ItemAutoencoder
from skrec._deferred import MAX_CHANGES, Deferred, now

rng = np.random.default_rng(0)
X = rng.integers((30, 20), size=(200, 2))
y = rng.integers(1, 6, size=200).astype(float)


def test_a_value_is_computed_once_for_all_threads():
    n_calls = []
    start = Barrier(8)
    deferred = Deferred(lambda: n_calls.append(1) or object())

    def use(_):
        start.wait()
        return now(deferred)

    with ThreadPoolExecutor(8) as pool:
        values = set(pool.map(use, range(8)))
    assert len(values) == len(n_calls) == 1


def test_an_interrupt_leaves_it_to_the_next_call():
    answers = iter([KeyboardInterrupt, 5])

    def compute():
        answer = next(answers)
        if answer is KeyboardInterrupt:
            raise answer
        return answer

    deferred = Deferred(compute)
    with pytest.raises(KeyboardInterrupt):
        deferred()
    assert deferred() == deferred() == 5


def test_copies_are_of_the_value():
    deferred = Deferred(lambda: [1, 2])
    for value in (
        pickle.loads(pickle.dumps(deferred)),
        copy.deepcopy(deferred),
        copy.copy(deferred),
        now([1, 2]),
        now(deferred),
    ):
        assert value == [1, 2]
    assert now(None) is None


@pytest.fixture
def n_fits(monkeypatch):
    """Fits of the part of choices so far."""
    fits = []
    fit = ItemAutoencoder._fit

    def counted(*args):
        fits.append(1)
        return fit(*args)

    monkeypatch.setattr(ItemAutoencoder, "_fit", counted)
    return lambda: len(fits)


@pytest.mark.parametrize("make", [MFRegressor, lambda: NCFRegressor(max_iter=2)])
def test_predictions_need_no_part_of_choices(make, n_fits):
    model = make().fit(X, y)
    model.predict(X)
    model.score(X, y)
    clone(model)
    assert n_fits() == 0
    lists = model.recommend(n_items=3)
    assert_array_equal(model.recommend(n_items=3), lists)
    assert n_fits() == 1


def test_further_rows_wait_for_the_first_list(n_fits):
    models = [MFRegressor(2).fit(X, y) for _ in range(2)]
    models[1].recommend(n_items=1)
    assert n_fits() == 1
    for user in range(100, 100 + MAX_CHANGES):
        rows, ratings = np.array([[user, 1], [user, 3]]), np.array([5.0, 2.0])
        for model in models:
            model.partial_fit(rows, ratings)
        rows[:], ratings[:] = 0, 0
    assert n_fits() == 1
    assert_array_equal(models[0].recommend(n_items=5), models[1].recommend(n_items=5))
    assert n_fits() == 2


def test_no_more_than_some_changes_wait(n_fits):
    model = MFRegressor(2).fit(X, y)
    for user in range(100, 101 + MAX_CHANGES):
        model.partial_fit([[user, 1]], [5.0])
    assert n_fits() == 1


def test_it_is_that_of_the_rows_of_fit(n_fits):
    frame = pd.DataFrame(X, columns=["user", "item"])
    rating = y.copy()
    model = MFRegressor(2).fit(frame, rating)
    expected = MFRegressor(2).fit(frame, rating)
    assert n_fits() == 0
    before = expected.recommend(n_items=5)
    frame.iloc[:], rating[:] = 0, 0
    assert_array_equal(model.recommend(n_items=5), before)


@pytest.mark.parametrize("through", ["pickle", "save"])
def test_a_file_has_it(through, n_fits, tmp_path):
    model = MFRegressor(2).fit(X, y)
    if through == "pickle":
        loaded = pickle.loads(pickle.dumps(model))
    else:
        model.save(tmp_path / "model.skrec")
        loaded = skrec.load(tmp_path / "model.skrec")
    assert n_fits() == 1
    assert_array_equal(loaded.recommend(n_items=5), model.recommend(n_items=5))
    assert n_fits() == 1


@pytest.mark.parametrize(
    "update",
    [
        lambda model: model.partial_fit([[1, 99], [2, 99]], [5.0, 4.0]),
        lambda model: model.forget(users=[3]),
        lambda model: model.forget(X[:5], y[:5]),
    ],
)
def test_updates_are_the_same_before_and_after_lists(update):
    early, late = MFRegressor(2).fit(X, y), MFRegressor(2).fit(X, y)
    late.recommend(n_items=1)
    for model in (early, late):
        update(model)
    assert_array_equal(early.recommend(n_items=5), late.recommend(n_items=5))
