"""The solver by gradients: its objective, its batches, and fits that diverge."""

import numpy as np
import pytest
from helpers import fitted_state, small_ncf
from numpy.testing import assert_array_equal
from sklearn.base import clone

from skrec import MFRegressor
from skrec._gradient.solver import GradientSolver, objective_of
from skrec._interfaces import Objective
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

    def options(self, n_samples, options=GradientSolver._training_options):
        sizes.append(n_samples)
        return options(self, n_samples)

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

    def options(self, n_samples, options=GradientSolver._training_options):
        sizes.append(options(self, n_samples).batch_size)
        return options(self, n_samples)

    monkeypatch.setattr(GradientSolver, "_training_options", options)
    model = estimator.set_params(batch_size=None, max_iter=1)
    rows, y = make_ratings(100, 100, 4000, random_state=0)
    model.fit(rows, y)
    model.fit(rows[:50], y[:50])
    assert sizes == [100, 16]


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
