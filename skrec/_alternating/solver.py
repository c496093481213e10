"""VBSolver, GibbsSolver and ALSSolver: the alternating solvers of an estimator."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial, wraps
from itertools import islice
from operator import itemgetter
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from .._data.context import NO_CONTEXT, KnownContext
from .._data.forgotten import ForgottenRows
from .._data.interactions import FurtherRows, Interactions
from .._data.messages import shown
from .._data.sides import Sides
from .._data.units import Units
from .._interfaces import Iteration, Objective, Solver, Start
from .._sparse import fixed_order
from .collapse import RatingSample
from .conditional import Layout
from .convert import (
    array,
    as_state,
    check_row_size,
    in_rating_units,
    with_unobserved_pairs,
)
from .posterior import Posterior
from .problem import Problem, RatingArrays
from .residuals import mean_residual, pair_variance, square_worth
from .retract import retracted
from .rows import IMPLICIT
from .start import decomposed_start, goes_on, spectral_start
from .state import State
from .structure import (
    MAX_FACTORS,
    MAX_SUPPORT,
    MAX_WARM_SUPPORT,
    Alternative,
    best_fit,
    end_of,
    least_error,
    suitable_n_factors,
    supported_n_factors,
)
from .sweep import (
    als,
    as_map_estimate,
    gibbs,
    tempered_vb,
    update,
    vb,
    with_covariance,
)
from .tiles import parallel_map
from .unseen import UnseenSample

# Up to this number of ratings the time of sweeps in double precision is negligible, and
# residuals of small data can be far smaller than the ratings.
MAX_DOUBLE_ROWS = 2**15

# Minimum share of the variance of scores that differs between users.
LEAST_TASTE_RATIO = 1e-3
NO_FACTORS = (
    "No factor is left: there are too few choices for this solver to distinguish "
    "users, and all get nearly the same list. Use solver='als', or a loss that draws "
    "items."
)

# Sweeps of vb at most before a chain starts, those where no fit can go on as it is, and
# the number of first draws that are dropped.
MAX_VB_SWEEPS, VB_SWEEPS = 200, 10
BURN_IN = 10

# Share of the factors that would be taken now with which a last fit is continued.
LEAST_CONTINUED = 0.75

# A mean residual of fewer standard deviations of the ratings is taken for none.
LEAST_SHIFT = 0.02

# Number of factors of solvers that are not Bayesian, or do not fit ratings.
DEFAULT_N_FACTORS = 16

DEFAULT_REG = 12.0

# If all pairs count, the penalty of a row grows with the root of its weight, as in the
# gradient solvers. It is smaller for larger weights of pairs without ratings, which
# shrink rows themselves.
DEFAULT_REG_UNOBSERVED, UNOBSERVED_EXPONENT = 0.3, 0.5

# vb has converged too once a sweep changes predictions by less than this many times
# `tol`: root mean square, in standard deviations of the ratings. Where ratings are few,
# the priors of factors that are not used up creep for many sweeps more.
CHANGE_PER_TOL = 2.0

# The first sweeps of vb do with variances along axes, which takes a fraction of the
# time: from so many factors on, in a share of all sweeps at most, until one lowers the
# objective by less than this.
WARM_UP_FACTORS, WARM_UP_SHARE, WARM_UP_FALL = 20, 0.5, 2e-3

# There is a tempered fit too where squares of residuals are worth no more than this:
# from a kurtosis of 4 on. Stars have less, and would pay for a fit that is no better.
MAX_TEMPERED_WORTH = 2 / 3

# Share of what the fit to a rating takes off its squared error that is added to the
# estimate by which fits are compared, where noise is far from Gaussian.
OPTIMISM = 0.25

# Change of predictions by the items in the last sweep over further ratings: root mean
# square, in standard deviations of the ratings.
UPDATE_TOL = 0.06

Value = TypeVar("Value")


@dataclass(frozen=True)
class FitRatings:
    """The ratings of a fit in standard units.

    Attributes
    ----------
    problem : Problem
        They and the side features, without a structure.
    units : Units
    rating_range : tuple of float
        With 0 where pairs without ratings count.
    repeat_variance : float
        Of ratings of a pair about their mean, which stands for them.
    sample : RatingSample
        Some of them in their own units.
    """

    problem: Problem
    units: Units
    rating_range: tuple[float, float]
    repeat_variance: float
    sample: RatingSample


@dataclass(frozen=True)
class Run:
    """One fit of a solver.

    Attributes
    ----------
    problem : Problem
        The ratings with the structure of the solver.
    ratings : FitRatings
    is_continued : bool
        Whether it starts from the end of the last fit.
    random_state : RandomState
    """

    problem: Problem
    ratings: FitRatings
    is_continued: bool
    random_state: np.random.RandomState


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


def standard_problem(
    data: Interactions,
    units: Units,
    device: torch.device,
    *,
    has_slopes: bool = False,
    counts_squares: bool = False,
) -> Problem:
    """Canonical rows in these units, with side features but without a structure.

    Perhaps with slopes of numbers. With `counts_squares` the noise is learned, by as
    many squares as the rows count.
    """
    counts = data.counts if counts_squares else None
    is_small = data.n_rows <= MAX_DOUBLE_ROWS
    dtype = np.float64 if is_small else np.float32
    varies = np.flatnonzero(np.isfinite(units.feature_scale))
    arrays = RatingArrays(
        data.users,
        data.items,
        data.shape,
        units.standard_ratings(data.rating).astype(dtype, copy=False),
        data.weight.astype(dtype, copy=False),
        units.standard_features(data.context).astype(dtype, copy=False),
        data.shares,
        data.codes,
        data.n_values,
        varies.tolist() if has_slopes else (),
        None if counts is None else counts.astype(dtype, copy=False),
        Sides(*(side and side.matrix for side in data.side_features)),
    )
    return Problem.from_arrays(
        arrays, Layout(0, True, device), torch.float64 if is_small else torch.float32
    )


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
    def prior_exponent(self) -> float:
        """Exponent of a row's weight in the precision of its prior."""
        return 0.0

    @property
    def rating_work(self) -> float:
        # Squares of rows and columns; few fits take more sweeps.
        n_factors = MAX_FACTORS if self.n_factors is None else self.n_factors
        return 2.0 * min(self.max_iter, 20) * (n_factors + 2) ** 2

    def _start(self, problem: Problem) -> State:
        """State that sweeps start from."""
        return spectral_start(problem)

    @abstractmethod
    def _states(self, run: Run, start: State) -> Iterator[State]:
        """Endless states, one after each iteration."""

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

    def iterations(
        self,
        data: Interactions,
        start: Start[Posterior] | None,
        random_state: np.random.RandomState,
        device: torch.device,
    ) -> Iterator[Iteration]:
        fit = self._with_structure(data, start)
        ratings = fit._ratings(data, device)
        # Its rows are in the problem now, and take as much memory.
        del data
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
            if self.learns_noise:
                n_factors = suitable_n_factors(data, self.warms_up)
                if (
                    start is not None
                    and start.model.n_factors > LEAST_CONTINUED * n_factors
                ):
                    n_factors = start.model.n_factors
            elif start is not None:
                n_factors = start.model.n_factors
            else:
                n_factors = DEFAULT_N_FACTORS
        if implicit_features is None:
            implicit_features = self.learns_noise
        return replace(self, n_factors=n_factors, implicit_features=implicit_features)

    def _ratings(self, data: Interactions, device: torch.device) -> FitRatings:
        """The ratings of a fit, in units of their own."""
        rating_range = self._rating_range(data.rating_range)
        sample = RatingSample.of(data)
        has_zeros, repeat_variance = bool(self.unobserved_weight), 0.0
        if self.learns_noise:
            data, repeat_variance = data.merged()
        centred = self.biased and not has_zeros
        units = Units.of(data, centred=centred, about_mean=self.learns_noise)
        # Pairs without ratings have no numbers.
        problem = standard_problem(
            data,
            units,
            device,
            has_slopes=not has_zeros,
            counts_squares=self.is_bayesian,
        )
        return FitRatings(problem, units, rating_range, repeat_variance, sample)

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
        problem = replace(problem, layout=self._layout(problem.layout.device))
        if self.implicit_features:
            problem = problem.with_implicit_features()
        if self.unobserved_weight:
            problem = problem.with_all_pairs(self.unobserved_weight)
        last = self._last_state(problem, ratings.units, start)
        run = Run(problem, ratings, last is not None, random_state)
        states = self._states(run, last or self._start(problem))
        return map(itemgetter(1), self._reports(run, states))

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

    @property
    def tolerance(self) -> float:
        """Fall of the objective below which sweeps end."""
        return self.default_tol if self.tol is None else self.tol

    def _reports(
        self, run: Run, states: Iterator[State]
    ) -> Iterator[tuple[State, Iteration]]:
        against = f" against tol={self.tolerance}" if self.converges else ""
        previous = np.inf
        for state, model in self._models(run, states):
            fall, previous = previous - state.objective, state.objective
            # The objective of a tempered fit changes, and may rise.
            change = abs(fall) if state.users.square_worth < 1 else fall
            yield (
                state,
                Iteration(
                    state.objective,
                    f"a fall of {fall:.2g}{against}",
                    self.converges and not state.is_warm_up and change < self.tolerance,
                    model,
                    self._warning(run, state),
                    is_warm_up=state.is_warm_up,
                ),
            )
            del state, model

    def _models(
        self, run: Run, states: Iterator[State]
    ) -> Iterator[tuple[State, Callable[[], Posterior]]]:
        """Each state, and the model of a fit that ends there."""
        for state in states:
            model = OfState(partial(self._posterior, run), state)
            yield state, model
            model.release()
            del state

    def _warning(self, run: Run, state: State) -> Callable[[Posterior], str] | None:
        """Warning of the model of a fit that ends in this state."""
        may_collapse = self.learns_noise and np.ptp(run.ratings.rating_range) > 0
        return run.ratings.sample.warning if may_collapse else None

    def _posterior(self, run: Run, state: State) -> Posterior:
        """Model of a state, in rating units."""
        ratings = run.ratings
        posterior = in_rating_units(
            state,
            ratings.units,
            run.problem,
            knows_variance=self.knows_variance,
            learns_prior=self.is_bayesian,
        )
        repeat_variance = ratings.repeat_variance
        if self.is_bayesian:
            of_pairs = pair_variance(run.problem, state)
            repeat_variance += ratings.units.scale**2 * of_pairs
        posterior = self._stored(posterior, ratings.rating_range, repeat_variance)
        with parallel_map(run.problem) as tile_map:
            return posterior.with_compact_covariances(tile_map)

    def _with_mean(self, posterior: Posterior, run: Run, residual: float) -> Posterior:
        """The posterior with the mean of the ratings, by the mean residual.

        Rows of ratings that differ little count more, and where these are low ones, as
        of rare events, predictions are too low.
        """
        if not self.biased or self.unobserved_weight or abs(residual) <= LEAST_SHIFT:
            return posterior
        return posterior.shifted(run.ratings.units.scale * residual)

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

    def _layout(self, device: torch.device) -> Layout:
        return Layout(self.n_factors or 0, self.biased, device)

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

    def check_retraction(self, model: Posterior) -> None:
        self._check_continued(model, "forget")

    def retract(self, model: Posterior, forgotten: ForgottenRows) -> Posterior:
        return retracted(
            model,
            forgotten,
            unobserved_weight=self.unobserved_weight,
            exponent=self.prior_exponent,
        )

    def update(
        self,
        model: Posterior,
        further: FurtherRows,
        random_state: np.random.RandomState,
        device: torch.device,
        report: Callable[[float], None],
    ) -> Posterior:
        if self.n_factors is None:
            fit = replace(self, n_factors=model.n_factors)
            return fit.update(model, further, random_state, device, report)
        data, units = further.data, model.units
        units.check_further(data.rating)
        check_row_size(model, self.n_factors, self.biased)
        known = model.with_cold_rows(*further.cold)
        problem = _further_problem(known, further, device)
        problem = replace(problem, layout=self._layout(device))
        last = Start(known, further.users, further.items)
        if self.unobserved_weight:
            problem = with_unobserved_pairs(
                problem, self.unobserved_weight, last, units
            )
        start = as_state(last, problem, units, exponent=self.prior_exponent)
        try:
            state = update(
                problem,
                start,
                is_certain=not known.knows_variance,
                past_weight=max(known.users.count.sum(), known.items.count.sum()),
                max_sweeps=self.max_iter,
                tol=UPDATE_TOL,
            )
        except torch.linalg.LinAlgError as error:
            raise FloatingPointError(
                "Further ratings, features or weights are too far from those of the "
                "fit for single precision; look for a wrong unit, or fit anew."
            ) from error
        updated = model.with_updates(
            in_rating_units(
                state, units, problem, knows_variance=known.knows_variance, last=known
            ),
            *further.growths,
        ).shifted(model.shift)
        if not known.knows_variance:
            updated = updated.scale_covariances(
                float(updated.noise_variance / known.noise_variance)
            )
        low, high = self._rating_range(data.rating_range)
        rating_range = min(low, model.rating_range[0]), max(high, model.rating_range[1])
        return self._stored(updated, rating_range, model.repeat_variance)


def _further_problem(
    known: Posterior, further: FurtherRows, device: torch.device
) -> Problem:
    """Problem of further rows, without the terms of rows of context, which stay."""
    data, units, learns = further.data, known.units, known.knows_variance
    # The noise of the fit is that of means of pairs.
    variance = np.full(len(data.rating), -known.repeat_variance)
    if known.columns:
        where = further.users[data.users], further.items[data.items], data.context
        data = replace(
            data,
            rating=data.rating - known.column_means(*where),
            context=data.numbers,
            known_context=NO_CONTEXT,
        )
        if learns:
            variance += known.column_variances(*where)
    problem = standard_problem(data, units, device, counts_squares=learns)
    nothing = torch.zeros_like(problem.target)
    of_target = torch.as_tensor(variance / units.scale**2).to(nothing)
    return problem.without(nothing, of_target if variance.any() else None)


@dataclass(frozen=True)
class VBSolver(AlternatingSolver):
    """Variational Bayes.

    Attributes
    ----------
    n_supported : float
        Number of factors that the ratings can support; 0 if unknown.
    """

    n_supported: float = 0.0

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
        if not self.unobserved_weight:
            likely = replace(likely, n_supported=supported_n_factors(data))
        is_set = self.unobserved_weight or not self.biased
        others = [] if is_set else self._alternatives(likely)
        bound = least_error(data) if others else 0.0
        arguments = likely._ratings(data, device), start, random_state
        del data
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

    def _states(self, run: Run, start: State) -> Iterator[State]:
        layout, warm_up, least_fall = run.problem.layout, 0, WARM_UP_FALL
        # Short rows are far from Gaussians along axes.
        warms_up = self.n_supported >= WARM_UP_FACTORS
        most = MAX_WARM_SUPPORT * self.n_supported
        warms_up &= WARM_UP_FACTORS <= layout.n_factors <= most
        if warms_up and not run.is_continued:
            warm_up = int(WARM_UP_SHARE * self.max_iter)
            excess = layout.n_factors / (MAX_SUPPORT * self.n_supported)
            least_fall *= max(1.0, excess)
        least_fall = max(least_fall, self.tolerance)
        return vb(run.problem, start, warm_up=warm_up, least_fall=least_fall)

    def _posterior(self, run: Run, state: State) -> Posterior:
        users, items = (
            side.with_packed_covariance(run.problem.layout)
            for side in (state.users, state.items)
        )
        posterior = super()._posterior(run, replace(state, users=users, items=items))
        return self._with_mean(posterior, run, mean_residual(run.problem, state))

    def _reports(
        self, run: Run, states: Iterator[State]
    ) -> Iterator[tuple[State, Iteration]]:
        if self.unobserved_weight:
            yield from super()._reports(run, states)
            return
        for state, report in self._with_errors(run, states):
            if report.converged:
                report = self._perhaps_tempered(run, state, report)
            yield state, report
            del state, report

    def _perhaps_tempered(self, run: Run, state: State, report: Iteration) -> Iteration:
        """The end of a fit, or that of a tempered one if it errs less.

        Rows that happen to be without a rare event seem to be without noise, and a fit
        is too near to them. A tempered one is not, but where the noise of rows does
        differ, it follows the noisy ones too far. So the estimated errors decide.
        """
        if square_worth(run.problem, state) > MAX_TEMPERED_WORTH:
            return report

        def tempered() -> Iterator[Iteration]:
            states = tempered_vb(run.problem, self._start(run.problem))
            return map(itemgetter(1), self._with_errors(run, states))

        alternative = Alternative("tempered", tempered)
        *_, best = best_fit(iter([report]), [alternative], self.max_iter)
        return best

    def _with_errors(
        self, run: Run, states: Iterator[State]
    ) -> Iterator[tuple[State, Iteration]]:
        """Reports with estimates of the error, that end where predictions do."""
        ratings = run.ratings
        sample = UnseenSample.of(
            run.problem, ratings.units.scale, ratings.repeat_variance
        )
        errors: list[float] = []
        previous: Tensor | None = None
        for state, report in super()._reports(run, states):
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

    def _warning(self, run: Run, state: State) -> Callable[[Posterior], str] | None:
        n_factors = self.n_factors if self.unobserved_weight else None
        if n_factors and state.taste_ratio(n_factors) < LEAST_TASTE_RATIO:
            return lambda model: NO_FACTORS
        return super()._warning(run, state)


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
        reports = super(GibbsSolver, chain).iterations(
            data, start, random_state, device
        )
        # They need the memory of the rows and of the start.
        del data, start
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
        sweeps = VBSolver(**options).iterations(data, None, random_state, device)
        last = end_of(islice(sweeps, MAX_VB_SWEEPS)).model()
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

    def _states(self, run: Run, start: State) -> Iterator[State]:
        arguments = run.problem, start, run.random_state
        # Terms of context begin anew.
        is_new = not run.is_continued or bool(run.problem.columns)
        if not is_new and not self.is_begun:
            return gibbs(*arguments)
        vb_sweeps = VB_SWEEPS if is_new else 0
        states = gibbs(*arguments, vb_sweeps=vb_sweeps, burn_in=BURN_IN)
        return (state for state in states if not state.is_warm_up)

    def _models(
        self, run: Run, states: Iterator[State]
    ) -> Iterator[tuple[State, Callable[[], Posterior]]]:
        draws: list[Posterior] = []
        residuals: list[float] = []

        def model() -> Posterior:
            average = Posterior.average(draws)
            return self._with_mean(average, run, float(np.mean(residuals)))

        for state in states:
            draws.append(self._posterior(run, state))
            residuals.append(mean_residual(run.problem, state))
            yield state, model


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

    def _start(self, problem: Problem) -> State:
        if self.unobserved_weight and problem.layout.is_wide:
            return decomposed_start(problem)
        return spectral_start(problem)

    def _states(self, run: Run, start: State) -> Iterator[State]:
        return als(run.problem, start, self.penalty, self.prior_exponent)

    def _posterior(self, run: Run, state: State) -> Posterior:
        state = as_map_estimate(state)
        if self.store_covariance:
            state = with_covariance(run.problem, state)
        return super()._posterior(run, state)
