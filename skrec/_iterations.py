"""The iterations of a solver, with callbacks, progress and warnings at their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning

from ._interfaces import CURVES, Iteration, Model, Solver
from ._settings import own_settings
from ._threads import torch_threads
from ._warn import warn


@dataclass(frozen=True)
class BegunFit:
    """A fit that has read its rows.

    Attributes
    ----------
    read : dict
        Fitted attributes that come from the rows alone.
    iterations : iterator of Iteration
        It owns the rows.
    n_threads : int
        Number of threads of torch that iterations and models are computed by.
    of_model : callable
        Returns the fitted attributes that come from a model.
    """

    read: dict[str, Any]
    iterations: Iterator[Iteration]
    n_threads: int
    of_model: Callable[[Model], dict[str, Any]]


def run(
    estimator: BaseEstimator,
    solver: Solver,
    begun: BegunFit,
    context: Any,
    task: dict[str, Any],
) -> dict[str, Any]:
    """Iterate until convergence, `max_iter`, or a stop by a callback.

    Returns the fitted attributes.
    """

    def fitted() -> dict[str, Any]:
        with own_settings(), torch_threads(begun.n_threads):
            curves = {"loss_curve_": losses.copy()} | iteration.curves
            n_iter = len(curves["loss_curve_"])
            model = begun.of_model(iteration.model())
            return begun.read | CURVES | curves | model | {"n_iter_": n_iter}

    name = type(estimator).__name__
    losses: list[float] = []
    converged = stopped = False
    while not (converged or stopped or len(losses) == solver.max_iter):
        step = context.subcontext(task_name="iteration")
        step.call_on_fit_task_begin(**task)
        # Callbacks run between iterations, with the settings of the caller.
        with own_settings(), torch_threads(begun.n_threads):
            iteration = next(begun.iterations)
        losses.append(iteration.objective)
        if not np.isfinite(iteration.objective):
            raise FloatingPointError(
                f"{name} diverged: its objective is "
                f"{iteration.objective} after iteration {len(losses)}."
            )
        print_progress(estimator, len(losses), solver.max_iter, str(iteration))
        stopped = step.call_on_fit_task_end(**task, reconstruction_attributes=fitted)
        converged = iteration.converged
    end = fitted()
    if iteration.warning and (warning := iteration.warning(end["_model"])):
        warn(warning)
    if solver.converges and not (converged or stopped):
        warn(
            f"{name} has not converged after max_iter="
            f"{solver.max_iter} iterations; in the last one, {iteration}. Raise "
            "max_iter or tol.",
            ConvergenceWarning,
        )
    return end


def print_progress(
    estimator: BaseEstimator, number: int, most: int, progress: str
) -> None:
    if estimator.verbose:
        name = type(estimator).__name__
        print(f"[{name}] iteration {number} of at most {most}: {progress}")
