"""Parameters that the estimators share: constraints, and gradient solvers of them.

Bounds keep products of penalties and of weights in single precision, and sizes of
tables in the integers of a machine.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from ._gradient.fitted import Conversion
from ._gradient.losses import LOSSES
from ._gradient.network import Shape
from ._gradient.solver import GradientSolver
from ._interfaces import CHOICE_LOSSES, Objective
from ._sklearn import Interval, StrOptions

MIN_WEIGHT, MAX_WEIGHT = 1e-20, 1e20
MAX_EXPONENT = 4
MAX_COUNT = 2**20

# Defaults of gradient solvers.
LEARNING_RATE, TOL, N_NEGATIVES = 0.02, 1e-4, 4
REG_OF_CHOICES, REG_OF_LABELS = 0.1, 0.3

GRADIENT_CONSTRAINTS: dict = {
    "loss": [StrOptions(set(LOSSES))],
    "n_negatives": [Interval(Integral, 0, MAX_COUNT, closed="both"), None],
    "batch_size": [Interval(Integral, 1, None, closed="left"), None],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither"), None],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
}


def objective_of(loss: str, n_negatives: int | None) -> Objective:
    """Objective of a loss, with its default number of drawn items for None."""
    if n_negatives is None:
        n_negatives = N_NEGATIVES if loss in CHOICE_LOSSES else 0
    return Objective(loss, int(n_negatives))


def _default_reg(objective: Objective, of_ratings: float) -> float:
    """Penalty of choices, or that of ratings in proportion to the loss's curvature.

    Labels have one of their own, since log odds are not standardised.
    """
    if objective.counts_unobserved:
        return REG_OF_CHOICES
    if objective.loss == "log_loss":
        return REG_OF_LABELS
    return of_ratings * LOSSES[objective.loss].relative_curvature


def gradient_solver(
    estimator: Any,
    objective: Objective,
    sizes: Shape,
    conversion: Conversion,
    reg: float,
    noise_share: float,
    **options: Any,
) -> GradientSolver:
    """Solver with the parameters of an estimator, and further options.

    Where its `reg` is None, it is `reg` for ratings, and follows the noise by
    `noise_share`.
    """
    is_default = estimator.reg is None
    rate, tol = estimator.learning_rate_init, estimator.tol
    return GradientSolver(
        objective,
        sizes,
        conversion,
        estimator.solver,
        reg=float(_default_reg(objective, reg) if is_default else estimator.reg),
        noise_share=noise_share if is_default else 0.0,
        learning_rate=LEARNING_RATE if rate is None else float(rate),
        batch_size=estimator.batch_size,
        tol=TOL if tol is None else tol,
        early_stopping=estimator.early_stopping,
        validation_fraction=estimator.validation_fraction,
        n_iter_no_change=estimator.n_iter_no_change,
        **options,
    )
