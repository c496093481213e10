"""An interrupt at any line of a solver leaves the old model and all settings."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import default_threads, in_thread
from numpy.testing import assert_array_equal
from sklearn.base import clone

import skrec
from skrec import DummyRecommender, MFRegressor, NCFRegressor
from skrec.datasets import make_ratings

PACKAGE = str(Path(skrec.__file__).parent)
# Modules that restore settings, where an interrupt is beyond Python, and modules that
# look at the frames of callers, of which there may be any number.
LEFT_OUT = ("_settings.py", "_threads.py", "_sparse.py", "_sklearn.py", "_warn.py")

X, Y = make_ratings(12, 9, 60, random_state=0)
ITEMS = np.arange(18).reshape(9, 2) % 5 / 2.0
SMALL = {"n_factors": 2, "max_iter": 2, "random_state": 0}
ESTIMATORS = {
    "vb": MFRegressor(**SMALL),
    "als": MFRegressor(solver="als", **SMALL),
    "als of choices": MFRegressor(solver="als", unobserved_weight=0.1, **SMALL),
    "gibbs": MFRegressor(solver="gibbs", **SMALL),
    "adam": MFRegressor(solver="adam", batch_size=30, **SMALL),
    "network": NCFRegressor(hidden_layer_sizes=(2,), batch_size=30, **SMALL),
    "dummy": DummyRecommender(),
}
N_PLACES = 3


class Interrupter:
    """Raise an interrupt at a line of the package, counted from the first that runs."""

    def __init__(self, place=None):
        self.place, self.n_lines = place, 0

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.enter)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)

    def enter(self, frame, event, arg):
        path = frame.f_code.co_filename
        is_own = path.startswith(PACKAGE) and not path.endswith(LEFT_OUT)
        return self.step if is_own else None

    def step(self, frame, event, arg):
        if event == "line":
            self.n_lines += 1
            if self.n_lines == self.place:
                raise KeyboardInterrupt
        return self.step


def settings_of_process():
    return (
        *(torch.get_num_threads(), in_thread(torch.get_num_threads)),
        *(torch.is_grad_enabled(), torch.get_default_dtype()),
        *np.geterr().items(),
    )


def places(call):
    """Lines of a call at equal distances, up to the one that publishes its result."""
    with Interrupter() as counter:
        call()
    return np.unique(np.linspace(1, counter.n_lines - 1, N_PLACES).astype(int))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_interrupt_leaves_the_old_model_and_all_settings(name, method):
    model = clone(ESTIMATORS[name])
    if not hasattr(model, method):
        return
    features = {"item_features": ITEMS} if method == "fit" else {}

    def call(model):
        getattr(model, method)(X[:20], Y[:20], **features)

    with warnings.catch_warnings(), default_threads(2):
        warnings.simplefilter("ignore")
        model.fit(X, Y)
        predicted, lists = model.predict(X), model.recommend(n_items=3)
        before, settings = vars(model).copy(), settings_of_process()
        other = clone(model).fit(X, Y)
        # Its part of choices is fitted with the first list.
        other.recommend(n_items=3)
        for place in places(lambda: call(other)):
            with pytest.raises(KeyboardInterrupt), Interrupter(place):
                call(model)
            assert vars(model).keys() == before.keys()
            assert all(vars(model)[name] is value for name, value in before.items())
            assert settings_of_process() == settings
        assert_array_equal(model.predict(X), predicted)
        assert_array_equal(model.recommend(n_items=3), lists)
        # The next call is as if there had been no interrupt.
        call(model)
        call(fresh := clone(model).fit(X, Y))
        assert_array_equal(model.predict(X), fresh.predict(X))


@pytest.mark.parametrize("method", ["predict", "recommend", "similar_items"])
def test_an_interrupt_of_a_question_leaves_all_settings(method):
    model = MFRegressor(2).fit(X, Y)
    asked = {"predict": X, "recommend": [0, 1], "similar_items": [0, 1]}[method]
    settings = settings_of_process()
    getattr(model, method)(asked)
    for place in places(lambda: getattr(model, method)(asked)):
        with pytest.raises(KeyboardInterrupt), Interrupter(place):
            getattr(model, method)(asked)
        assert settings_of_process() == settings
