"""The contract between estimators and solvers: objectives, and defaults that refuse."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit

from skrec._interfaces import Iteration, Model, Objective, Solver


@pytest.mark.parametrize(
    ("objective", "counts_unobserved", "is_of_choices"),
    [
        (Objective(), False, False),
        (Objective("huber"), False, False),
        (Objective(n_negatives=2), True, True),
        (Objective(weighs_unobserved=True), True, True),
        (Objective("log_loss"), False, True),
        (Objective("bpr", n_negatives=4), True, True),
    ],
)
def test_an_objective_knows_the_pairs_that_it_counts(
    objective, counts_unobserved, is_of_choices
):
    assert objective.counts_unobserved == counts_unobserved
    assert objective.is_of_choices == is_of_choices


def test_scores_of_a_log_loss_are_logits():
    scores = np.linspace(-4, 4, 9)
    assert_allclose(Objective("log_loss").response(scores), expit(scores))
    for loss in ("squared_error", "bpr"):
        assert Objective(loss).response(scores) is scores


def test_an_iteration_says_its_objective_and_its_progress():
    iteration = Iteration(0.5, "a fall of 0.1", False, lambda: None)
    assert str(iteration) == "objective 0.500000, a fall of 0.1"


class LeastModel(Model):
    """No more than a model must have."""

    def predict(self, users, items, context, return_std, device): ...
    def scorer(self, users, items, device): ...
    def scores_to_ratings(self, scores, users): ...


class LeastSolver(Solver):
    """No more than a solver must have."""

    def iterations(self, data, start, random_state, device): ...


def test_optional_parts_of_a_model_refuse_or_do_nothing():
    model = LeastModel()
    assert model.with_cold_rows(None, None) is model
    with pytest.raises(ValueError, match="inner products"):
        model.index_vectors("user", np.arange(2))
    with pytest.raises(ValueError, match="no vectors to compare"):
        model.profiles("user", 0, "cpu")


def test_optional_parts_of_a_solver_refuse_or_do_nothing():
    solver = LeastSolver()
    solver.check()
    solver.check_ratings(np.array([np.inf]), np.ones(1))
    assert not solver.converges
    with pytest.raises(ValueError, match="cannot update a fitted model; fit anew"):
        solver.check_update(LeastModel())


@pytest.mark.parametrize("interface", [Model, Solver])
def test_the_other_parts_are_required(interface):
    with pytest.raises(TypeError, match="abstract"):
        interface()
