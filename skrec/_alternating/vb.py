"""VBSolver: variational Bayes, which chooses the structure of a fit by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, starmap
from operator import itemgetter
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .._data.interactions import Interactions
from .._interfaces import Iteration, Start
from .posterior import Posterior
from .problem import Problem
from .residuals import mean_residual, square_worth
from .rules import VBRule
from .solver import AlternatingSolver, FitRatings, OfState
from .start import spectral_start
from .state import State
from .structure import (
    MAX_SUPPORT,
    MAX_WARM_SUPPORT,
    Alternative,
    best_fit,
    least_error,
    supported_n_factors,
)
from .sweep import sweeps
from .unseen import UnseenSample

# Minimum share of the variance of scores that differs between users.
LEAST_TASTE_RATIO = 1e-3
NO_FACTORS = (
    "No factor is left: there are too few choices for this solver to distinguish "
    "users, and all get nearly the same list. Use solver='als', or a loss that draws "
    "items."
)

# A fit has converged too once a sweep changes predictions by less than this many times
# `tol`: root mean square, in standard deviations of the ratings. Where ratings are few,
# the priors of factors that are not used up creep for many sweeps more.
CHANGE_PER_TOL = 2.0

# The first sweeps do with variances along axes, which takes a fraction of the time:
# from so many factors on, in a share of all sweeps at most, until one lowers the
# objective by less than this.
WARM_UP_FACTORS, WARM_UP_SHARE, WARM_UP_FALL = 20, 0.5, 3e-3

# There is a tempered fit too where squares of residuals are worth no more than this:
# from a kurtosis of 4 on. Stars have less, and would pay for a fit that is no better.
MAX_TEMPERED_WORTH = 2 / 3

# Sweeps before the first tempered one, by which relative precisions find the
# differences between rows.
SETTLING_SWEEPS = 5

# Share of what the fit to a rating takes off its squared error that is added to the
# estimate by which fits are compared, where noise is far from Gaussian.
OPTIMISM = 0.25


@dataclass(frozen=True)
class VBSolver(AlternatingSolver):
    """Variational Bayes."""

    name: ClassVar[str] = "vb"
    warms_up: ClassVar[bool] = True
    converges: ClassVar[bool] = True
    default_tol: ClassVar[float] = 2e-3
    knows_variance: ClassVar[bool] = True

    def iterations(
        self,
        data: Interactions,
        start: Start[Posterior] | None,
        random_state: np.random.RandomState,
        device: torch.device,
    ) -> Iterator[Iteration]:
        likely = self._with_structure(data, start)
        is_set = self.unobserved_weight or not self.biased
        others = [] if is_set else self._alternatives(likely)
        bound = least_error(data) if others else 0.0
        n_supported = 0.0 if self.unobserved_weight else supported_n_factors(data)
        ratings_on = self._read(data)
        # Its rows take twice the memory of the arrays that they are in now.
        del data
        ratings = replace(ratings_on(device), n_supported=n_supported)
        del ratings_on
        arguments = ratings, start, random_state
        first = likely._iterations(*arguments)
        if not others:
            yield from first
            return
        alternatives = [
            Alternative(
                f"n_factors={solver.n_factors}, "
                f"implicit_features={solver.implicit_features}",
                partial(solver._iterations, *arguments),
                is_probe=self.n_factors not in (None, solver.n_factors),
            )
            for solver in others
        ]
        yield from best_fit(first, alternatives, self.max_iter, bound)

    def _alternatives(self, likely: VBSolver) -> list[VBSolver]:
        """Solvers with another structure worth a try, the fastest first."""
        structures: list[tuple[int | None, bool | None]] = []
        if self.implicit_features is None:
            # Without factors the fit takes a fraction of the time, and if even that is
            # better, factors or implicit features are at fault.
            structures = [(0, False), (likely.n_factors, False)]
            if self.n_factors is None:
                structures.insert(1, (0, True))
        elif self.n_factors is None:
            structures = [(0, likely.implicit_features)]
        likely_structure = likely.n_factors, likely.implicit_features
        structures = [s for s in dict.fromkeys(structures) if s != likely_structure]
        return [
            replace(likely, n_factors=n_factors, implicit_features=implicit_features)
            for n_factors, implicit_features in structures
        ]

    def _sweeps(
        self,
        ratings: FitRatings,
        last: State | None,
        random_state: np.random.RandomState,
    ) -> Iterator[Iteration]:
        problem = ratings.problem
        warm_up, least_fall = (0, 0.0) if last else self._warm_up(ratings)
        start = last or spectral_start(problem)
        states = vb(problem, start, warm_up=warm_up, least_fall=least_fall)
        reports = self._reports(ratings, states, partial(self._model, ratings))
        if self.unobserved_weight:
            return starmap(self._with_taste_warning, reports)
        reports = self._with_errors(ratings, reports)
        return starmap(partial(self._perhaps_tempered, ratings), reports)

    def _warm_up(self, ratings: FitRatings) -> tuple[int, float]:
        """Number of sweeps of a warm-up at most, and the fall that ends it."""
        n_factors, n_supported = self.n_factors or 0, ratings.n_supported
        # Short rows are far from Gaussians along axes.
        if min(n_factors, n_supported) < WARM_UP_FACTORS:
            return 0, 0.0
        if n_factors > MAX_WARM_SUPPORT * n_supported:
            return 0, 0.0
        least_fall = WARM_UP_FALL * max(1.0, n_factors / (MAX_SUPPORT * n_supported))
        return int(WARM_UP_SHARE * self.max_iter), max(least_fall, self.tolerance)

    def _model(self, ratings: FitRatings, state: State) -> Posterior:
        problem = ratings.problem
        users, items = (
            side.with_packed_covariance(problem.layout)
            for side in (state.users, state.items)
        )
        posterior = self._posterior(ratings, replace(state, users=users, items=items))
        return self._with_mean(posterior, ratings, mean_residual(problem, state))

    def _with_taste_warning(self, state: State, report: Iteration) -> Iteration:
        """The report of a fit of choices, with a warning if no factor is left."""
        if self.n_factors and state.taste_ratio(self.n_factors) < LEAST_TASTE_RATIO:
            return replace(report, warning=lambda model: NO_FACTORS)
        return report

    def _with_errors(
        self, ratings: FitRatings, reports: Iterator[tuple[State, Iteration]]
    ) -> Iterator[tuple[State, Iteration]]:
        """Reports with estimates of the error, that end where predictions do."""
        sample = UnseenSample.of(
            ratings.problem, ratings.units.scale, ratings.repeat_variance
        )
        errors: list[float] = []
        previous: Tensor | None = None
        for state, report in reports:
            error, predictions = sample.after_sweep(state)
            errors.append(error)
            change = np.inf
            if previous is not None:
                change = sample.change(previous, predictions)
            previous = predictions
            stands_still = change < CHANGE_PER_TOL * self.tolerance
            stands_still &= not state.is_warm_up
            final_error = OfState(partial(sample.error, optimism=OPTIMISM), state)
            yield (
                state,
                replace(
                    report,
                    converged=report.converged or stands_still,
                    curves={"loo_curve_": errors.copy()},
                    error=final_error,
                ),
            )
            final_error.release()
            del state, report

    def _perhaps_tempered(
        self, ratings: FitRatings, state: State, report: Iteration
    ) -> Iteration:
        """The report; at the end of a fit that of a tempered one, if it errs less.

        Rows that happen to be without a rare event seem to be without noise, and a fit
        is too near to them. A tempered one is not, but where the noise of rows does
        differ, it follows the noisy ones too far. So the estimated errors decide.
        """
        problem = ratings.problem
        if not report.converged or square_worth(problem, state) > MAX_TEMPERED_WORTH:
            return report

        def tempered() -> Iterator[Iteration]:
            states = tempered_vb(problem, spectral_start(problem))
            reports = self._reports(ratings, states, partial(self._model, ratings))
            return map(itemgetter(1), self._with_errors(ratings, reports))

        alternative = Alternative("tempered", tempered)
        *_, best = best_fit(iter([report]), [alternative], self.max_iter)
        return best


def vb(
    problem: Problem, start: State, *, warm_up: int = 0, least_fall: float = 0.0
) -> Iterator[State]:
    """Variational Bayes: endless sweeps from `start`.

    No update lowers the evidence lower bound (Lim and Teh, 2007, with full covariances;
    relative precisions as in Lakshminarayanan, Bouchard and Archambeau, 2011), unless
    rows are far from the others (see `squares_of_level`).

    Up to `warm_up` sweeps come first in which covariances are diagonal along axes of
    all rows, until one lowers the objective by less than `least_fall`. They are marked
    as warm-up.
    """
    fall, previous = math.inf, math.inf
    for state in islice(sweeps(problem, start, VBRule(along_axes=True)), warm_up):
        fall, previous = previous - state.objective, state.objective
        start = state
        yield replace(state, is_warm_up=True)
        del state
        if fall < least_fall:
            break
    start = replace(
        start,
        users=replace(start.users, axes=None),
        items=start.items.with_packed_covariance(problem.layout),
    )
    states = sweeps(problem, start, VBRule())
    # A sweep needs the memory of the start.
    del start
    yield from states


def tempered_vb(problem: Problem, start: State) -> Iterator[State]:
    """Variational Bayes for noise that is not Gaussian: endless sweeps from `start`.

    A square of a residual counts by the kurtosis of the noise (see `VBRule`),
    which every sweep measures anew after some of `vb`, marked as warm-up: differences
    between rows that these find are not taken for kurtosis.
    """
    for state in islice(vb(problem, start), SETTLING_SWEEPS):
        start = state
        yield replace(state, is_warm_up=True)
        del state
    start = start.with_square_worth(square_worth(problem, start))
    yield from sweeps(problem, start, VBRule(is_tempered=True))
