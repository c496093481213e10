"""AlternatingSolver: the options and steps that "als", "vb" and "gibbs" share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, Self, TypeVar

import numpy as np
import torch

from .._data.context import KnownContext
from .._data.forgotten import ForgottenRows
from .._data.interactions import FurtherRows, Interactions
from .._data.messages import shown
from .._data.units import Units
from .._interfaces import Iteration, Objective, Solver, Start
from .._threads import torch_threads
from .collapse import RatingSample
from .convert import array, in_rating_units
from .layout import Layout
from .posterior import Posterior
from .problem import Problem, RatingArrays, standard_problem
from .residuals import pair_variance
from .resume import as_state, check_row_size
from .retract import retracted
from .start import goes_on
from .state import State
from .structure import MAX_FACTORS, suitable_n_factors
from .tiles import parallel_map, useful_threads
from .update import updated

# Share of the factors that would be taken now with which a last fit is continued.
LEAST_CONTINUED = 0.75

# A mean residual of fewer standard deviations of the ratings is taken for none.
LEAST_SHIFT = 0.02

# Number of factors of solvers that are not Bayesian, or do not fit ratings.
DEFAULT_N_FACTORS = 16

Value = TypeVar("Value")


@dataclass(frozen=True)
class FitRatings:
    """The ratings of a fit in standard units.

    Attributes
    ----------
    problem : Problem
        They and the side features; while sweeps run, with the structure of the solver.
    units : Units
    rating_range : tuple of float
        With 0 where pairs without ratings count.
    repeat_variance : float
        Of ratings of a pair about their mean, which stands for them.
    sample : RatingSample
        Some of them in their own units.
    n_supported : float
        Number of factors that they can support; 0 if unknown.
    """

    problem: Problem
    units: Units
    rating_range: tuple[float, float]
    repeat_variance: float
    sample: RatingSample
    n_supported: float = 0.0


class OfState(Generic[Value]):
    """Value of a function at a state, which is held until it is released.

    Covariances take most of the memory of a fit, so that the next sweep starts without
    those of the state before it, whoever keeps the report of that state.
    """

    def __init__(self, function: Callable[[State], Value], state: State) -> None:
        self.function, self.state = function, state

    def __call__(self) -> Value:
        return self.function(self.state)

    def release(self) -> None:
        del self.state


@dataclass(frozen=True)
class AlternatingSolver(Solver[Posterior]):
    """Solver that updates users given items, and items given users, in sweeps.

    Attributes
    ----------
    objective : Objective
    n_factors : int or None
        None is the number that suits the data.
    biased : bool
    max_iter : int
    tol : float or None
        Decrease of the objective below which sweeps end.
    implicit_features : bool or None
        None is whether they help, or are likely to.
    unobserved_weight : float
    store_covariance : bool
    """

    objective: Objective
    n_factors: int | None
    biased: bool
    max_iter: int
    tol: float | None = None
    implicit_features: bool | None = None
    unobserved_weight: float = 0.0
    store_covariance: bool = True

    name: ClassVar[str]
    default_tol: ClassVar[float] = 0.0
    # Whether noise and priors are learned.
    is_bayesian: ClassVar[bool] = True
    warms_up: ClassVar[bool] = False
    # Whether covariances are those of a posterior.
    knows_variance: ClassVar[bool] = False

    @property
    def learns_noise(self) -> bool:
        """Whether ratings have a noise that is learned."""
        return self.is_bayesian and not self.unobserved_weight

    @property
    def tolerance(self) -> float:
        """Fall of the objective below which sweeps end."""
        return self.default_tol if self.tol is None else self.tol

    @property
    def prior_exponent(self) -> float:
        """Exponent of a row's weight in the precision of its prior."""
        return 0.0

    @property
    def rating_work(self) -> float:
        # Squares of rows and columns; few fits take more sweeps.
        n_factors = MAX_FACTORS if self.n_factors is None else self.n_factors
        return 2.0 * min(self.max_iter, 20) * (n_factors + 2) ** 2

    def check(self) -> None:
        if self.objective.loss != "squared_error":
            raise ValueError(
                f"solver={self.name!r} minimises squared errors; "
                f"loss={self.objective.loss!r} needs solver='adam' or 'sgd'."
            )
        if self.unobserved_weight and self.implicit_features:
            raise ValueError(
                "implicit_features=True uses the pairs that have ratings as features, "
                f"and unobserved_weight={self.unobserved_weight} as targets. Leave one "
                "of them out."
            )

    def check_context(self, known: KnownContext) -> None:
        if self.unobserved_weight:
            name = shown(known.first_value_name)
            raise ValueError(
                f"Columns of X with categories, such as {name}, are context of "
                "ratings, and pairs without ratings have none. Leave them out, or "
                f"unobserved_weight={self.unobserved_weight}, or draw items in the "
                "context of each choice: solver='adam' with loss='log_loss'."
            )

    def check_update(self, model: Posterior) -> None:
        self._check_continued(model, "partial_fit")

    def check_retraction(self, model: Posterior) -> None:
        self._check_continued(model, "forget")

    def _check_continued(self, model: Posterior, method: str) -> None:
        fitted = model.objective.weighs_unobserved
        if self.objective.weighs_unobserved != fitted:
            raise ValueError(
                f"{method} continues a fit {'with' if fitted else 'without'} "
                "unobserved_weight, but now it is "
                f"{self.unobserved_weight}. Set it back, or fit anew."
            )
        if model.users.covariance is None:
            raise ValueError(
                f"{method} with solver={self.name!r} updates the posterior of the "
                "last fit, and needs its covariances: fit with solver='vb' or 'als' "
                "and store_covariance=True, or give reg to from_factors."
            )

    def n_threads(self, data: Interactions) -> int:
        n_factors = self._with_structure(data, None).n_factors or 0
        layout = Layout(n_factors, self.biased, torch.device("cpu"))
        return useful_threads(data.n_rows, sum(data.shape), layout)

    def iterations(
        self,
        data: Interactions,
        start: Start[Posterior] | None,
        random_state: np.random.RandomState,
        device: torch.device,
    ) -> Iterator[Iteration]:
        fit = self._with_structure(data, start)
        ratings_on = fit._read(data)
        # Its rows take twice the memory of the arrays that they are in now.
        del data
        ratings = ratings_on(device)
        del ratings_on
        yield from fit._iterations(ratings, start, random_state)

    def _with_structure(
        self, data: Interactions, start: Start[Posterior] | None
    ) -> Self:
        """The same solver with the structure that is likely to be best.

        A fit that goes on keeps its number of factors where it is not far from that.
        """
        n_factors, implicit_features = self.n_factors, self.implicit_features
        if start is not None:
            check_row_size(start.model, n_factors, self.biased)
        if n_factors is None:
            last = None if start is None else start.model.n_factors
            n_factors = DEFAULT_N_FACTORS if last is None else last
            if self.learns_noise:
                suitable = suitable_n_factors(data, self.warms_up)
                if last is None or last <= LEAST_CONTINUED * suitable:
                    n_factors = suitable
        if implicit_features is None:
            implicit_features = self.learns_noise
        return replace(self, n_factors=n_factors, implicit_features=implicit_features)

    def _read(self, data: Interactions) -> Callable[[torch.device], FitRatings]:
        """The ratings of a fit on a device, in units of their own.

        They do not hold the rows.
        """
        rating_range = self._rating_range(data.rating_range)
        sample = RatingSample.of(data)
        has_zeros, repeat_variance = bool(self.unobserved_weight), 0.0
        if self.learns_noise:
            data, repeat_variance = data.merged()
        centred = self.biased and not has_zeros
        units = Units.of(data, centred=centred, about_mean=self.learns_noise)
        # Pairs without ratings have no numbers.
        arrays = RatingArrays.of(
            data, units, has_slopes=not has_zeros, counts_squares=self.is_bayesian
        )
        others = units, rating_range, repeat_variance, sample
        return lambda device: FitRatings(standard_problem(arrays, device), *others)

    def _iterations(
        self,
        ratings: FitRatings,
        start: Start[Posterior] | None,
        random_state: np.random.RandomState,
    ) -> Iterator[Iteration]:
        """Iterations with the structure that is set."""
        problem = ratings.problem
        if self.learns_noise:
            problem = problem.with_ties().with_pairs()
        layout = Layout(self.n_factors or 0, self.biased, problem.layout.device)
        problem = replace(problem, layout=layout)
        if self.implicit_features:
            problem = problem.with_implicit_features()
        if self.unobserved_weight:
            problem = problem.with_all_pairs(self.unobserved_weight)
        last = self._last_state(problem, ratings.units, start)
        return self._sweeps(replace(ratings, problem=problem), last, random_state)

    def _last_state(
        self, problem: Problem, units: Units, start: Start[Posterior] | None
    ) -> State | None:
        """The end of the last fit, if there is one and it can go on."""
        if start is None or start.model.n_factors != self.n_factors:
            return None
        last = as_state(start, problem, units, with_covariance=self.is_bayesian)
        if not self.learns_noise:
            return last
        counts = (
            (model.count[numbers], array(ratings.count))
            for model, numbers, ratings in (
                (start.model.users, start.users, problem.users),
                (start.model.items, start.items, problem.items),
            )
        )
        has_new = any(not np.allclose(before, now) for before, now in counts)
        return None if has_new and not goes_on(problem, last) else last

    @abstractmethod
    def _sweeps(
        self,
        ratings: FitRatings,
        last: State | None,
        random_state: np.random.RandomState,
    ) -> Iterator[Iteration]:
        """Endless iterations from the end of the last fit, or from another start."""

    def _reports(
        self,
        ratings: FitRatings,
        states: Iterator[State],
        model: Callable[[State], Posterior],
    ) -> Iterator[tuple[State, Iteration]]:
        """States, each with the report of a fit that ends there with this model."""
        against = f" against tol={self.tolerance}" if self.converges else ""
        may_collapse = self.learns_noise and np.ptp(ratings.rating_range) > 0
        warning = ratings.sample.warning if may_collapse else None
        previous = np.inf
        for state in states:
            fall, previous = previous - state.objective, state.objective
            # The objective of a tempered fit changes, and may rise.
            change = abs(fall) if state.users.square_worth < 1 else fall
            of_state = OfState(model, state)
            yield (
                state,
                Iteration(
                    state.objective,
                    f"a fall of {fall:.2g}{against}",
                    self.converges and not state.is_warm_up and change < self.tolerance,
                    of_state,
                    warning,
                    is_warm_up=state.is_warm_up,
                ),
            )
            of_state.release()
            del state

    def _posterior(self, ratings: FitRatings, state: State) -> Posterior:
        """Posterior of a state, in rating units."""
        problem = ratings.problem
        posterior = in_rating_units(
            state,
            ratings.units,
            problem,
            knows_variance=self.knows_variance,
            learns_prior=self.is_bayesian,
        )
        repeat_variance = ratings.repeat_variance
        if self.is_bayesian:
            repeat_variance += ratings.units.scale**2 * pair_variance(problem, state)
        posterior = self._stored(posterior, ratings.rating_range, repeat_variance)
        with parallel_map(problem) as tile_map:
            return posterior.with_compact_covariances(tile_map)

    def _with_mean(
        self, posterior: Posterior, ratings: FitRatings, residual: float
    ) -> Posterior:
        """The posterior with the mean of the ratings, by the mean residual.

        Rows of ratings that differ little count more, and where these are low ones, as
        of rare events, predictions are too low.
        """
        if not self.biased or self.unobserved_weight or abs(residual) <= LEAST_SHIFT:
            return posterior
        return posterior.shifted(ratings.units.scale * residual)

    def update(
        self,
        model: Posterior,
        further: FurtherRows,
        random_state: np.random.RandomState,
        device: torch.device,
        report: Callable[[float], None],
    ) -> Posterior:
        model.units.check_further(further.data.rating)
        check_row_size(model, self.n_factors, self.biased)
        data, layout = further.data, Layout(model.n_factors, self.biased, device)
        with torch_threads(useful_threads(data.n_rows, sum(data.shape), layout)):
            after = updated(
                model,
                further,
                device,
                unobserved_weight=self.unobserved_weight,
                exponent=self.prior_exponent,
                max_sweeps=self.max_iter,
            )
        low, high = self._rating_range(further.data.rating_range)
        rating_range = min(low, model.rating_range[0]), max(high, model.rating_range[1])
        return self._stored(after, rating_range, model.repeat_variance)

    def retract(self, model: Posterior, forgotten: ForgottenRows) -> Posterior:
        return retracted(
            model,
            forgotten,
            unobserved_weight=self.unobserved_weight,
            exponent=self.prior_exponent,
        )

    def _stored(
        self,
        posterior: Posterior,
        rating_range: tuple[float, float],
        repeat_variance: float,
    ) -> Posterior:
        if not self.store_covariance:
            posterior = posterior.without_covariance()
        return replace(
            posterior,
            objective=self.objective,
            rating_range=rating_range,
            repeat_variance=repeat_variance,
        )

    def _rating_range(self, of_rows: tuple[float, float]) -> tuple[float, float]:
        low, high = of_rows
        return (
            (min(low, 0.0), max(high, 0.0)) if self.unobserved_weight else (low, high)
        )
