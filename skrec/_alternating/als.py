"""ALSSolver: alternating least squares with a penalty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import ClassVar

import numpy as np

from .._interfaces import Iteration
from .._threads import torch_threads
from .posterior import Posterior
from .problem import Problem
from .rules import ALSRule, CovarianceRule
from .solver import AlternatingSolver, FitRatings
from .start import decomposed_start, spectral_start, with_centres
from .state import Side, State
from .sweep import Sweep, sweeps
from .tiles import parallel_map

DEFAULT_REG = 12.0

# If all pairs count, the penalty of a row grows with the root of its weight, as in the
# gradient solvers. It is smaller for larger weights of pairs without ratings, which
# shrink rows themselves.
DEFAULT_REG_UNOBSERVED, UNOBSERVED_EXPONENT = 0.3, 0.5


@dataclass(frozen=True)
class ALSSolver(AlternatingSolver):
    """Alternating least squares with a penalty.

    Attributes
    ----------
    reg, reg_exponent : float or None
        None is the default, which depends on `unobserved_weight`.
    """

    reg: float | None = None
    reg_exponent: float | None = None

    name: ClassVar[str] = "als"
    converges: ClassVar[bool] = True
    default_tol: ClassVar[float] = 1e-3
    is_bayesian: ClassVar[bool] = False

    @property
    def penalty(self) -> float:
        if self.reg is not None:
            return float(self.reg)
        if self.unobserved_weight:
            return DEFAULT_REG_UNOBSERVED / (1 + 2 * self.unobserved_weight)
        return DEFAULT_REG

    @property
    def prior_exponent(self) -> float:
        if self.reg_exponent is not None:
            return float(self.reg_exponent)
        return UNOBSERVED_EXPONENT if self.unobserved_weight else 0.0

    def _sweeps(
        self,
        ratings: FitRatings,
        last: State | None,
        random_state: np.random.RandomState,
    ) -> Iterator[Iteration]:
        problem = ratings.problem
        start = last or self._start(problem)
        states = als(problem, start, self.penalty, self.prior_exponent)
        reports = self._reports(ratings, states, partial(self._model, ratings))
        return map(itemgetter(1), reports)

    def _start(self, problem: Problem) -> State:
        if self.unobserved_weight and problem.layout.is_wide:
            return decomposed_start(problem)
        return spectral_start(problem)

    def _model(self, ratings: FitRatings, state: State) -> Posterior:
        state = as_map_estimate(state)
        if self.store_covariance:
            state = with_covariance(ratings.problem, state)
        return self._posterior(ratings, state)


def als(
    problem: Problem, start: State, reg: float, exponent: float = 0.0
) -> Iterator[State]:
    """Alternating least squares: endless sweeps from `start`.

    The penalty of a row is `reg` times its count to the power of `exponent`.
    """
    rule, start = ALSRule(reg, exponent), with_centres(problem, start)
    start = replace(
        start,
        users=rule.start(start.users, problem.users),
        items=rule.start(start.items, problem.items),
        coef_factor=None,
        coef_precision=reg,
        noise_precision=1.0,
    )
    return sweeps(problem, start, rule)


def as_map_estimate(state: State) -> State:
    """State of als as the maximum a posteriori estimate of a Gaussian model.

    The penalised sum of squares is that of noise of the residuals' variance σ², and of
    rows and coefficients of precision reg / σ².
    """
    variance = state.noise_variance

    def scaled(side: Side) -> Side:
        weights = tuple(
            replace(w, precision=w.precision / variance) for w in side.weights
        )
        prior_precision = side.prior_precision / variance
        return replace(side, prior_precision=prior_precision, weights=weights)

    return replace(
        state,
        users=scaled(state.users),
        items=scaled(state.items),
        coef_precision=state.coef_precision / variance,
        noise_precision=1 / variance,
    )


def with_covariance(problem: Problem, state: State) -> State:
    """The same points, with the covariance of each given all others."""
    with parallel_map(problem) as tile_map, torch_threads(1):
        sweep = Sweep(problem, CovarianceRule(), tile_map)
        return sweep.update_apart(sweep.update_context(state))
