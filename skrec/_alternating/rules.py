"""Rules of the alternating solvers: their use of a row's conditional.

`ALSRule` takes the mode, `VBRule` mean and covariance, and `GibbsRule` a draw.
`UpdateRule` takes mean and covariance under priors of single rows, `ConditionalRule`
under those of "vb", and `CovarianceRule` the covariance alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from .conditional import Gaussians, Moments
from .evidence import (
    MIN_NOISE_VARIANCE,
    PRIOR_NOISE_VARIANCE,
    PRIOR_RATINGS,
    PRIOR_ROWS,
    evidence_lower_bound,
    exchange,
    host_priors,
    likeliest_concentration,
    likeliest_precision,
)
from .feature_weights import Block, LinkMatrix, draw_weights
from .layout import Layout
from .problem import Problem
from .ratings import Ratings
from .scalars import fetched, fetched_arrays, total
from .state import PRIOR_VARIANCE, PriorSums, Side, State
from .symmetric import identity, inverse

# How far a row goes beyond the mean of its conditional, as a share of its step. The
# objective is quadratic in a mean, so a share r < 1 still lowers it, by 1 − r² of the
# fall at the mean, and a half saves a third of the sweeps.
OVER_RELAXATION = 0.5

# Penalty of weights of features in "als", over that of rows. A weight acts on many
# rows, and their uncertainty, which its mode neglects, adds up.
WEIGHT_PENALTY = 5.0


def over_relax(new: Tensor, previous: Tensor) -> Tensor:
    """A point beyond `new`, seen from `previous`."""
    return torch.lerp(previous, new, 1 + OVER_RELAXATION)


class Given(Protocol):
    """What priors of rows are updated by, besides the rows."""

    @property
    def ratings(self) -> Ratings: ...

    @property
    def noise_precision(self) -> float: ...

    @property
    def layout(self) -> Layout: ...


class Rule:
    """Update of rows from their conditional, and of the priors from the rows.

    This one takes mean and covariance of a row, and leaves priors as they are.

    Attributes
    ----------
    has_covariance : bool
        Whether rows have covariances.
    is_certain : bool
        Whether the other side is taken for its points.
    steps_weights : bool
        Whether rows move together with the weights of features.
    moves_rows : bool
        Whether rows move at all.
    relaxation : float
        How far rows go beyond the mean of their conditional, as a share of their step.
    max_steps : int
        Steps of an iterative solution at most.
    least_share : float
        Share in the fall of a row's objective below which its steps end.
    keeps_precision : bool
        Whether effects of context keep the precision that they start with.
    is_tempered : bool
        Whether squares of residuals count by their kurtosis.
    """

    has_covariance: bool = False
    is_certain: bool = True
    steps_weights: bool = False
    moves_rows: bool = True
    relaxation: float = 0.0
    max_steps: int = 20
    least_share: float = 1e-6
    keeps_precision: bool = False
    is_tempered: bool = False

    def is_along_axes(self, layout: Layout) -> bool:
        """Whether rows are those of a `AxisConditional`."""
        return False

    def learns_noise_of_rows(self) -> bool:
        """Whether each row has a relative precision of its own."""
        return False

    def auxiliary(self, previous: Tensor) -> Tensor:
        """Tensor that `rows` takes besides the conditional: the previous rows."""
        return previous

    def rows(self, conditional: Gaussians, auxiliary: Tensor) -> Moments:
        """Rows, their covariances, and the sum of the log determinants of these."""
        return conditional.moments()

    def update_priors(self, side: Side, rate: Tensor, given: Given) -> Side:
        """A side with updated priors, relative precisions and, perhaps, weights.

        `side` has the rows after the update that was `given`, and `rate` is the rate
        that the Gamma of each gains by it: β / 2 times its expected residual sum of
        squares.
        """
        return side

    def centred_prior(self, side: Side, layout: Layout) -> Side:
        """A side with an updated Λ, where the prior mean is zero for good."""
        return side

    def finish(self, side: Side, residual: Tensor) -> tuple[Side, Tensor | float]:
        """A side with all that the host computes, and its residual sum of squares.

        The one place where a rule may wait for the device after `update_priors`.
        """
        return side, residual

    def with_priors(self, *sides: Side) -> tuple[Side, ...]:
        """Sides with the matrices of priors that `finish` has left on the host."""
        return sides

    def noise_variance(self, weight: float, residual: Tensor | float) -> float:
        """Noise variance that maximises the bound, by Σ w and Σ w α γ E[(y − ŷ)²]."""
        (residual,) = fetched(residual)
        variance = PRIOR_RATINGS * PRIOR_NOISE_VARIANCE + residual
        return max(variance / (PRIOR_RATINGS + weight), MIN_NOISE_VARIANCE)

    def noise_precision(self, weight: float, residual: Tensor | float) -> float:
        """β of the next update."""
        return 1 / self.noise_variance(weight, residual)

    def coef_precision(self, n: int, square: float, prior_variance: float) -> float:
        """λ by E[‖w‖²] of n coefficients, and the variance of one by its prior."""
        return math.nan

    def objective(self, state: State, problem: Problem, residual: float) -> float:
        """Half the weighted residual sum of squares, times β.

        It is minus the log likelihood, without its normalisation.
        """
        return state.noise_precision * residual / 2


@dataclass(frozen=True)
class ALSRule(Rule):
    """Rule of "als": the mode of every conditional, under a fixed penalty.

    The objective is
    Σ w (y − ŷ)² + reg (Σ c (x − m − Bᵀf)² + Σ w² + WEIGHT_PENALTY Σ B²), m the centre
    of a side and c a row's count to the power of `exponent` (Rendle et al., 2022; 1 is
    the weighted-λ regularisation of Zhou et al., 2008). Effects of values of context,
    and of their pairs, have penalties of their own. There are no products beside them,
    which would fit noise under `reg`.
    """

    steps_weights = True
    relaxation = OVER_RELAXATION
    # The next sweep goes on where this one ends.
    max_steps = 2
    keeps_precision = True

    reg: float
    exponent: float = 0.0

    def is_along_axes(self, layout: Layout) -> bool:
        return layout.is_wide

    def start(self, side: Side, ratings: Ratings) -> Side:
        """The points of a side, under the penalty."""
        points = Side.at(side.mean)
        precision = self.reg * points.prior_precision
        return replace(
            points,
            prior_mean=points.prior_mean if side.centre is None else side.centre,
            prior_precision=precision,
            prior_weight=ratings.count**self.exponent if self.exponent else None,
            weights=tuple(
                LinkMatrix.at(w.mean, WEIGHT_PENALTY * precision) for w in side.weights
            ),
            shift=side.shift,
        )

    def rows(self, conditional: Gaussians, auxiliary: Tensor) -> Moments:
        return over_relax(conditional.mean(), auxiliary), None, math.nan

    def noise_precision(self, weight: float, residual: Tensor | float) -> float:
        return 1.0

    def coef_precision(self, n: int, square: float, prior_variance: float) -> float:
        return self.reg

    def centred_prior(self, side: Side, layout: Layout) -> Side:
        precision = self.reg * identity(layout.row_size, side.mean)
        return replace(side, prior_precision=precision)

    def objective(self, state: State, problem: Problem, residual: float) -> float:
        penalties = [total(state.coef.square())]
        own = [
            effects.precision * total(effects.mean.square())
            for column in state.columns
            for effects in (column.values, *(pairs.effects for pairs in column.pairs))
        ]
        for side in (state.users, state.items):
            square = (side.own - side.prior_mean).square().sum(1)
            if side.prior_weight is not None:
                square *= side.prior_weight
            penalties.append(total(square))
            for weights in side.weights:
                penalties.append(WEIGHT_PENALTY * total(weights.mean.square()))
        squares = fetched(*own) if own else []
        return residual + self.reg * sum(fetched(*penalties)) + sum(squares)


@dataclass(frozen=True)
class VBRule(Rule):
    """Rule of "vb": mean and covariance, and the priors that maximise the bound.

    The objective is minus the evidence lower bound.

    Attributes
    ----------
    along_axes : bool
        Whether covariances of rows are diagonal along axes of all rows, and means come
        from a few steps of conjugate gradients.
    is_tempered : bool
        Whether the noise is not Gaussian. The mean of n squares of kurtosis κ varies as
        that of 2n / (κ − 1) Gaussian ones.
    """

    has_covariance, is_certain, steps_weights = True, False, True
    relaxation = OVER_RELAXATION
    # The next sweep goes on where this one ends.
    max_steps = 2

    along_axes: bool = False
    is_tempered: bool = False

    def is_along_axes(self, layout: Layout) -> bool:
        return self.along_axes

    def learns_noise_of_rows(self) -> bool:
        return True

    def rows(self, conditional: Gaussians, auxiliary: Tensor) -> Moments:
        mean, covariance, log_det = conditional.moments()
        return over_relax(mean, auxiliary), covariance, log_det

    def update_priors(self, side: Side, rate: Tensor, given: Given) -> Side:
        own = side.own
        centre = own.mean(0)
        deviation = own - centre
        matrices = [deviation.T @ deviation, side.summed_covariance(given.layout)]
        for w in side.weights:
            matrices += [w.mean.T @ w.mean, w.covariance, w.response]
        ties, prior = given.ratings.ties, _prior_shape(side, given.ratings)
        shape, rate = prior + given.ratings.half_count, prior + rate
        if side.square_worth < 1:
            shape, rate = side.square_worth * shape, side.square_worth * rate
        alpha, log_rate = shape / rate, rate.log()
        sums = PriorSums(
            total(shape),
            total(alpha),
            total(torch.digamma(shape) - log_rate),
            total(torch.addcmul(torch.lgamma(shape), shape, log_rate, value=-1)),
            torch.as_tensor(side.log_det),
            matrices,
            [block.total_square for block in given.ratings.features],
            given.noise_precision,
            None if ties is None else torch.stack([total(ties), total(ties * alpha)]),
        )
        return replace(
            side,
            prior_mean=centre,
            relative_precision=alpha,
            # A fitted model knows it by the count.
            relative_shape=side.concentration + given.ratings.half_count,
            sums=sums,
        )

    def centred_prior(self, side: Side, layout: Layout) -> Side:
        scatter = side.summed_covariance(layout) + side.mean.T @ side.mean
        return replace(
            side, prior_precision=likeliest_precision(scatter, len(side.mean))
        )

    def finish(self, side: Side, residual: Tensor) -> tuple[Side, Tensor | float]:
        sums, n_rows, worth = side.sums, len(side.mean), side.square_worth
        assert sums is not None
        found = fetched_arrays(residual, *sums.tensors)
        *numbers, log_det = map(float, found[:6])
        residual_of_alpha, shape, alpha, log_alpha, rest = numbers
        ties, tied_alpha = (0.0, 0.0) if sums.tied is None else map(float, found.pop())
        before = side.concentration
        c = exchange(
            before * alpha + tied_alpha, before * n_rows + ties, sums.noise_precision
        )
        alpha, log_alpha = alpha / c, log_alpha - n_rows * math.log(c)
        a = likeliest_concentration((alpha - log_alpha) / n_rows)
        # Twice the share of all α in the bound. The terms of a rating that are linear
        # in log α are those of the shape beyond a.
        evidence = 2 * n_rows * (a * math.log(a) - math.lgamma(a))
        evidence += 2 * (a * (log_alpha - alpha) - worth * before * log_alpha)
        evidence += 2 * (rest + shape - shape * math.log(c) - worth * tied_alpha / c)
        priors, of_priors = host_priors(side, found[6:])
        side = replace(
            side,
            concentration=a / worth,
            relative_precision=side.relative_precision / c,
            log_det=log_det,
            priors=priors,
            evidence=evidence / worth + of_priors + log_det,
            sums=None,
        )
        return side, residual_of_alpha / c

    def with_priors(self, *sides: Side) -> tuple[Side, ...]:
        priors = [side.priors for side in sides if side.priors is not None]
        found = iter(torch.cat(priors).to(sides[0].mean).unbind())
        return tuple(
            replace(
                side,
                prior_precision=next(found),
                weights=tuple(replace(w, precision=next(found)) for w in side.weights),
                priors=None,
            )
            for side in sides
        )

    def coef_precision(self, n: int, square: float, prior_variance: float) -> float:
        return (PRIOR_ROWS + n) / (PRIOR_ROWS * prior_variance + square)

    def objective(self, state: State, problem: Problem, residual: float) -> float:
        return -evidence_lower_bound(state, problem, residual)


class ConditionalRule(Rule):
    """Rule of "vb" with all of its priors and weights held."""

    has_covariance, is_certain = True, False


@dataclass(frozen=True)
class GibbsRule(Rule):
    """Rule of "gibbs": a draw of everything except a, which is that of vb."""

    random_state: np.random.RandomState

    def learns_noise_of_rows(self) -> bool:
        return True

    def auxiliary(self, previous: Tensor) -> Tensor:
        """Standard normal draws."""
        normal = self.random_state.standard_normal(previous.shape)
        return torch.as_tensor(normal).to(previous)

    def rows(self, conditional: Gaussians, auxiliary: Tensor) -> Moments:
        return conditional.draw(auxiliary), None, math.nan

    def update_priors(self, side: Side, rate: Tensor, given: Given) -> Side:
        # Normal–Wishart posterior, Salakhutdinov and Mnih (2008), equation 14, with the
        # centre as prior mean and a scale matrix by PRIOR_VARIANCE.
        n_rows, size = side.mean.shape
        own = side.own if side.centre is None else side.own - side.centre
        rows = own.double().cpu().numpy()
        centre = rows.mean(0)
        strength = PRIOR_ROWS + n_rows
        scatter = (rows - centre).T @ (rows - centre)
        scatter += PRIOR_ROWS * n_rows / strength * np.outer(centre, centre)
        precision = self._precision(scatter, n_rows)
        deviation = np.linalg.solve(
            np.linalg.cholesky(strength * precision).T,
            self.random_state.standard_normal(size),
        )
        prior = _prior_shape(side, given.ratings)
        shape = (prior + given.ratings.half_count).cpu().numpy()
        gamma = torch.as_tensor(self.random_state.standard_gamma(shape)).to(rate)
        prior_mean = torch.as_tensor(centre * n_rows / strength + deviation)
        prior_mean = prior_mean.to(side.mean)
        if side.centre is not None:
            prior_mean += side.centre
        side = replace(
            side,
            relative_precision=gamma / (prior + rate),
            relative_shape=None,
            prior_mean=prior_mean,
            prior_precision=torch.as_tensor(precision).to(side.mean),
        )
        return self._with_weights(side, given.ratings.features)

    def centred_prior(self, side: Side, layout: Layout) -> Side:
        rows = side.mean.double().cpu().numpy()
        precision = self._precision(rows.T @ rows, len(rows))
        return replace(side, prior_precision=torch.as_tensor(precision).to(side.mean))

    def _precision(self, scatter: np.ndarray, n_rows: int) -> np.ndarray:
        """Wishart posterior of a precision, by the scatter of rows about their mean."""
        size = len(scatter)
        whole = torch.from_numpy(scatter + size * PRIOR_VARIANCE * np.eye(size))
        scale = inverse(whole, floor=size * PRIOR_VARIANCE).numpy()
        wishart = stats.wishart.rvs(
            size + n_rows, scale, random_state=self.random_state
        )
        return wishart.reshape(size, size)

    def _with_weights(self, side: Side, features: tuple[Block, ...]) -> Side:
        """Weights drawn block by block, each given the others."""
        if not features:
            return side
        weights = list(side.weights)
        rest = side.own - side.prior_mean
        for place, block in enumerate(features):
            rest += block.times(weights[place].mean)
            drawn = draw_weights(
                block, weights[place], rest, side.prior_precision, self.random_state
            )
            rest -= block.times(drawn.mean)
            scatter = (drawn.mean.T @ drawn.mean).double().cpu().numpy()
            precision = self._precision(scatter, len(drawn.mean))
            weights[place] = replace(
                drawn, precision=torch.as_tensor(precision).to(drawn.mean)
            )
        shift = side.mean - side.prior_mean - rest
        return replace(side, weights=tuple(weights), shift=shift)

    def noise_precision(self, weight: float, residual: Tensor | float) -> float:
        shape = (PRIOR_RATINGS + weight) / 2
        gamma = self.random_state.standard_gamma(shape) / shape
        return gamma / self.noise_variance(weight, residual)

    def coef_precision(self, n: int, square: float, prior_variance: float) -> float:
        gamma = self.random_state.standard_gamma((PRIOR_ROWS + n) / 2)
        return 2 * gamma / (PRIOR_ROWS * prior_variance + square)


@dataclass(frozen=True)
class UpdateRule(Rule):
    """Rule of `update`: the posterior before further ratings is the prior of each row.

    Priors that rows share stay, and the noise is that of all ratings, past and further
    ones, by the weight and the variance of the past ones.
    """

    has_covariance = True

    is_certain: bool = field()
    past_weight: float
    past_variance: float

    def is_along_axes(self, layout: Layout) -> bool:
        return self.is_certain and layout.is_wide

    def learns_noise_of_rows(self) -> bool:
        return not self.is_certain

    def update_priors(self, side: Side, rate: Tensor, given: Given) -> Side:
        if self.is_certain:
            return side
        prior = side.row_priors
        assert prior is not None
        assert prior.relative_shape is not None
        shape = prior.relative_shape + given.ratings.half_count
        rate = rate + prior.relative_shape / prior.relative_precision
        return replace(side, relative_precision=shape / rate, relative_shape=shape)

    def noise_variance(self, weight: float, residual: Tensor | float) -> float:
        (residual,) = fetched(residual)
        past = self.past_weight * self.past_variance
        return (past + residual) / (self.past_weight + weight)

    def noise_precision(self, weight: float, residual: Tensor | float) -> float:
        if self.is_certain:
            return 1 / self.past_variance
        return super().noise_precision(weight, residual)


class CovarianceRule(Rule):
    """Rule of `with_covariance`: rows stay, and get the covariance of a Gaussian."""

    has_covariance, moves_rows = True, False

    def is_along_axes(self, layout: Layout) -> bool:
        return layout.is_wide

    def rows(self, conditional: Gaussians, auxiliary: Tensor) -> Moments:
        _, covariance, log_det = conditional.moments()
        return auxiliary, covariance, log_det


def _prior_shape(side: Side, ratings: Ratings) -> Tensor | float:
    """Shape and rate of the Gamma of each α before its own ratings."""
    a, ties = side.concentration, ratings.ties
    return a if ties is None else a + ties
