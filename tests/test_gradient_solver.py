"""The solver by gradients: its objective, its batches, and fits that diverge."""

import warnings

import numpy as np
import pytest
from helpers import fitted_state, small_ncf
from numpy.testing import assert_array_equal
from sklearn.base import clone

from skrec import MFRegressor
from skrec._gradient.solver import GradientSolver
from skrec._interfaces import Objective
from skrec._parameters import objective_of
from skrec.datasets import make_ratings

X, Y = make_ratings(40, 30, 600, random_state=0)
ESTIMATORS = {
    "mf": MFRegressor(2, solver="adam", batch_size=64, max_iter=8, random_state=0),
    "ncf": small_ncf(batch_size=64, max_iter=8),
}


@pytest.fixture(params=ESTIMATORS)
def estimator(request):
    return clone(ESTIMATORS[request.param])


@pytest.mark.parametrize(
    ("loss", "n_negatives", "n_drawn"),
    [
        ("squared_error", None, 0),
        ("huber", None, 0),
        ("log_loss", None, 4),
        ("bpr", None, 4),
        ("log_loss", 0, 0),
        ("squared_error", 2, 2),
        ("bpr", np.int64(1), 1),
    ],
)
def test_losses_of_choices_draw_items_by_default(loss, n_negatives, n_drawn):
    assert objective_of(loss, n_negatives) == Objective(loss, n_drawn)


@pytest.mark.parametrize(("loss", "n_negatives"), [("log_loss", 0), ("huber", 2)])
def test_choices_are_between_0_and_1(estimator, loss, n_negatives):
    solver = estimator.set_params(loss=loss, n_negatives=n_negatives)._solver()
    solver.check()
    solver.check_ratings(np.array([0.0, 0.3, 1.0]), np.ones(3))
    with pytest.raises(ValueError, match=r"needs ratings between 0 and 1.* 2 ratings"):
        solver.check_ratings(np.array([0.0, 5.0, -1.0]), np.ones(3))


def test_a_comparison_needs_an_item_to_compare_with(estimator):
    solver = estimator.set_params(loss="bpr", n_negatives=0)._solver()
    with pytest.raises(ValueError, match="n_negatives must be at least 1"):
        solver.check()


@pytest.mark.parametrize(("fraction", "n_left"), [(0.1, 540), (0.995, 3)])
def test_a_share_of_the_rows_is_held_out(estimator, fraction, n_left, monkeypatch):
    sizes = []

    training_options = GradientSolver._training_options

    def options(self, n_samples, *others):
        sizes.append(n_samples)
        return training_options(self, n_samples, *others)

    monkeypatch.setattr(GradientSolver, "_training_options", options)
    estimator.set_params(early_stopping=True, validation_fraction=fraction, max_iter=2)
    assert len(estimator.fit(X, Y).validation_scores_) == 2
    assert sizes == [n_left]
    estimator.set_params(validation_fraction=0.995)
    with pytest.raises(ValueError, match=r"holds out 2 of 2 rows .*which leaves none"):
        estimator.fit(X[:2], [1.0, 2.0])
    assert estimator.set_params(early_stopping=False).fit(X, Y) is estimator
    assert estimator.validation_scores_ is None


def test_an_epoch_of_default_batches_is_about_forty_steps(estimator, monkeypatch):
    sizes = []

    training_options = GradientSolver._training_options

    def options(*args):
        options = training_options(*args)
        sizes.append(options.batch_size)
        return options

    monkeypatch.setattr(GradientSolver, "_training_options", options)
    model = estimator.set_params(batch_size=None, max_iter=1)
    rows, y = make_ratings(100, 100, 4000, random_state=0)
    model.fit(rows, y)
    model.fit(rows[:50], y[:50])
    assert sizes == [100, 4]


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("warm_start", [False, True])
def test_a_fit_that_diverges_says_so_and_leaves_the_last(
    estimator, warm_start, early_stopping
):
    model = estimator.set_params(
        warm_start=warm_start, early_stopping=early_stopping
    ).fit(X, Y)
    state, predictions = fitted_state(model), model.predict(X)
    model.set_params(learning_rate_init=1e30)
    with pytest.raises(
        FloatingPointError, match=r"diverged.* at epoch \d.*learning_rate_init"
    ):
        model.fit(X, Y)
    assert fitted_state(model) == state
    assert_array_equal(model.predict(X), predictions)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_fit_that_diverges_in_its_last_step_says_so(estimator, early_stopping):
    model = estimator.set_params(
        learning_rate_init=1e30, max_iter=1, early_stopping=early_stopping
    )
    with pytest.raises(FloatingPointError, match="learning_rate_init"):
        model.fit(X[:10], Y[:10])


def outcome(estimator, X, y, **metadata):
    """Warnings of a failed training in a fit."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(X, y, **metadata)
    return [str(w.message) for w in caught if "Training has failed" in str(w.message)]


FAILED = {
    # Even the loss is above that of the mean.
    "adam": MFRegressor(solver="adam", learning_rate_init=3.0),
    "sgd": MFRegressor(solver="sgd", learning_rate_init=1.0, max_iter=8),
    "ncf": small_ncf(learning_rate_init=5.0, max_iter=8),
    "stopped early": MFRegressor(
        solver="sgd", learning_rate_init=1.0, early_stopping=True, max_iter=2
    ),
    "log_loss": MFRegressor(
        solver="sgd",
        loss="log_loss",
        learning_rate_init=5.0,
        choice_threshold=3,
        max_iter=4,
    ),
    # The loss alone is below it, by rows that are far too long.
    "long rows": MFRegressor(solver="adam", learning_rate_init=0.5),
}


@pytest.mark.parametrize("name", FAILED)
def test_a_training_that_ends_worse_than_it_began_says_so(name):
    estimator = clone(FAILED[name]).set_params(rank_by="rating", random_state=0)
    X, y = make_ratings(100, 60, 2500, random_state=0)
    (message,) = outcome(estimator, X, y)
    rate = estimator.learning_rate_init
    assert message.endswith(f"Lower learning_rate_init, which was {rate}.")
    if name == "long rows":
        assert estimator.loss_curve_[-1] < 1
    assert not outcome(estimator.set_params(learning_rate_init=None), X, y)
    # A continued fit begins with rows that are good, or far from new ratings.
    estimator.set_params(warm_start=True)
    assert not outcome(estimator, X, y.max() + y.min() - y)
    assert not outcome(estimator, X, y)
    (message,) = outcome(estimator.set_params(learning_rate_init=rate), X, y)
    assert "Lower learning_rate_init" in message


@pytest.mark.parametrize("params", [{}, {"max_iter": 1}, {"early_stopping": True}])
@pytest.mark.parametrize("kind", ["adam", "sgd", "plain", "ncf"])
def test_no_training_by_default_steps_has_failed(kind, params):
    estimator = {
        "adam": MFRegressor(4, solver="adam"),
        "sgd": MFRegressor(4, solver="sgd", max_iter=6),
        "plain": MFRegressor(4, solver="adam", biased=False),
        "ncf": small_ncf(),
    }[kind].set_params(rank_by="rating", random_state=0, batch_size=64, **params)
    rng = np.random.default_rng(0)
    noise, heavy = rng.normal(size=len(Y)), rng.lognormal(0, 3, len(Y))
    assert not outcome(estimator, X, np.full(len(Y), 3.3), sample_weight=heavy)
    assert not outcome(estimator, X[:3], Y[:3])
    context = X.assign(hour=rng.integers(0, 9, len(Y)).astype(str), depth=heavy)
    assert not outcome(estimator, context, noise)
    # A last fit to opposite ratings is no reason for shorter steps.
    assert not outcome(estimator, X, -Y)
    assert not outcome(estimator.set_params(warm_start=True, max_iter=1), X, Y)
    assert not outcome(estimator, X[:2], Y[:2])
