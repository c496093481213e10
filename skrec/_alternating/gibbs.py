"""GibbsSolver: Gibbs sampling from the end of "vb"."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import wraps
from itertools import filterfalse, islice
from operator import attrgetter, itemgetter
from typing import Any, ClassVar, Self

import numpy as np
import torch

from .._data.interactions import Interactions
from .._data.sides import Sides
from .._interfaces import Iteration, Solver, Start
from .._sparse import fixed_order
from .links import IMPLICIT
from .posterior import Posterior
from .problem import Problem
from .residuals import mean_residual
from .rules import GibbsRule
from .solver import AlternatingSolver, FitRatings
from .start import spectral_start, with_centres
from .state import State
from .structure import end_of
from .sweep import sweeps
from .vb import VBSolver, vb

# Sweeps of vb at most before a chain starts, those where no fit can go on as it is, and
# the number of first draws that are dropped.
MAX_VB_SWEEPS, VB_SWEEPS = 200, 10
BURN_IN = 10


def in_fixed_order(
    iterations: Callable[..., Iterator[Iteration]],
) -> Callable[..., Iterator[Iteration]]:
    """Iterations whose sums are in one order, also beside fits that are not."""

    @wraps(iterations)
    def ordered(*arguments: Any) -> Iterator[Iteration]:
        reports = iterations(*arguments)
        del arguments
        while True:
            with fixed_order():
                report = next(reports)
            yield report

    return ordered


@dataclass(frozen=True)
class GibbsSolver(AlternatingSolver):
    """Gibbs sampling from the end of "vb". The model averages the draws.

    Attributes
    ----------
    is_begun : bool
        Whether the chain begins where a fit of "vb" has ended, with its structure.
    """

    is_begun: bool = False

    name: ClassVar[str] = "gibbs"

    def check_retraction(self, model: Posterior) -> None:
        Solver.check_retraction(self, model)

    # Chains of one seed part where a sum is rounded in another way.
    @in_fixed_order
    def iterations(
        self,
        data: Interactions,
        start: Start[Posterior] | None,
        random_state: np.random.RandomState,
        device: torch.device,
    ) -> Iterator[Iteration]:
        chain = self
        if start is None:
            chain, start = self._begun(data, random_state, device)
        chain = chain._with_structure(data, start)
        ratings_on = chain._read(data)
        # The problem and the chain need the memory of the rows and of the start.
        del data
        reports = chain._iterations(ratings_on(device), start, random_state)
        del start, ratings_on
        yield from reports

    def _begun(
        self,
        data: Interactions,
        random_state: np.random.RandomState,
        device: torch.device,
    ) -> tuple[Self, Start[Posterior]]:
        """The solver with the structure of a fit of "vb", and the end of that fit."""
        options = {f.name: getattr(self, f.name) for f in fields(AlternatingSolver)}
        options |= {"max_iter": MAX_VB_SWEEPS, "tol": None, "store_covariance": True}
        iterations = VBSolver(**options).iterations(data, None, random_state, device)
        last = end_of(islice(iterations, MAX_VB_SWEEPS)).model()
        assert isinstance(last, Posterior)
        begun = replace(
            self,
            n_factors=last.n_factors,
            implicit_features=IMPLICIT in last.users.links,
            is_begun=True,
        )
        users, items = map(np.arange, data.shape)
        n_columns = (0 if f is None else len(f.names) for f in data.side_features)
        columns = Sides(*map(np.arange, n_columns))
        return begun, Start(last, users, items, columns)

    def _sweeps(
        self,
        ratings: FitRatings,
        last: State | None,
        random_state: np.random.RandomState,
    ) -> Iterator[Iteration]:
        problem = ratings.problem
        # Terms of context begin anew.
        is_new = last is None or bool(problem.columns)
        states = gibbs(
            problem,
            last or spectral_start(problem),
            random_state,
            vb_sweeps=VB_SWEEPS if is_new else 0,
            burn_in=BURN_IN if is_new or self.is_begun else 0,
        )
        draws: list[Posterior] = []
        mean_residuals: list[float] = []

        def keep(state: State) -> State:
            draws.append(self._posterior(ratings, state))
            mean_residuals.append(mean_residual(problem, state))
            return state

        def model(state: State) -> Posterior:
            average = Posterior.average(draws)
            return self._with_mean(average, ratings, float(np.mean(mean_residuals)))

        kept = map(keep, filterfalse(attrgetter("is_warm_up"), states))
        return map(itemgetter(1), self._reports(ratings, kept, model))


def gibbs(
    problem: Problem,
    start: State,
    random_state: np.random.RandomState,
    *,
    vb_sweeps: int = 0,
    burn_in: int = 0,
) -> Iterator[State]:
    """Gibbs sampling (Salakhutdinov and Mnih, 2008): endless draws from `start`.

    The chain begins where so many sweeps of `vb` lead. These and the first draws,
    `burn_in` of them, are marked as warm-up.
    """
    start = with_centres(problem, start)
    for state in islice(vb(problem, start), vb_sweeps):
        start = state
        yield replace(state, is_warm_up=True)
    draws = sweeps(problem, start, GibbsRule(random_state))
    for state in islice(draws, burn_in):
        yield replace(state, is_warm_up=True)
    yield from draws
