"""What the alternating solvers make of a row's conditional, each by a rule of its own.

`Mode` takes the mode, `Moments` mean and covariance, `Draw` a draw, `Revision` what
further ratings make of what was believed before them, and `Spread` the covariance
alone.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from scipy import stats
from scipy.optimize import brentq
from scipy.special import digamma
from torch import Tensor

from .conditional import Gaussians, Layout, Ratings, Revised, total
from .feature_weights import Block, Weights, draw
from .state import Problem, Side, State
from .symmetric import inverse

# A prior for the covariance of a side's rows, worth one row: a tenth of the variance of
# the ratings in every direction.
PRIOR_ROWS = 1.0
PRIOR_VARIANCE = 0.1

# a, the concentration of the relative precisions: 2 where rows differ so much that
# their variances are barely finite, 1e4 where they are equal in effect.
CONCENTRATION_BOUNDS = (2.0, 1e4)

# How far a row goes beyond the mean of its conditional. The objective is quadratic in a
# mean, so going any share r < 1 too far lowers it still, by 1 − r² of what stopping at
# the mean would, and a half saves a third of the sweeps.
OVER_RELAXATION = 0.5

# A prior for the noise, worth one rating: half of the ratings' variance. With it a
# handful of ratings that a model can reach exactly do not show that there is no noise.
PRIOR_RATINGS, PRIOR_NOISE_VARIANCE = 1.0, 0.5

# The noise keeps at least this share of the ratings' variance, where single precision
# still tells noise from rounding.
MIN_NOISE_VARIANCE = 1e-5

# How much more "als" penalises weights of features than rows. A weight speaks for many
# rows, and what its mode overlooks of their uncertainty adds up.
WEIGHT_PENALTY = 5.0


def noise_variance(weight: float, residual: float) -> float:
    """The noise variance that maximises the bound, given Σ w α γ E[(y − ŷ)²]."""
    variance = PRIOR_RATINGS * PRIOR_NOISE_VARIANCE + residual
    return max(variance / (PRIOR_RATINGS + weight), MIN_NOISE_VARIANCE)


def beyond(new: Tensor, previous: Tensor) -> Tensor:
    """Farther than from `previous` to `new`."""
    return new + OVER_RELAXATION * (new - previous)


class Mode:
    """Rule of "als": the mode of every conditional, under a fixed penalty.

    The objective is Σ w (y − ŷ)² + reg (Σ c (x − Bᵀf)² + Σ w² + WEIGHT_PENALTY Σ B²),
    c a row's count to the power of `exponent` (Rendle et al., 2022; 1 is the weighted-λ
    regularisation of Zhou et al., 2008).
    """

    has_covariance, is_certain, moves_weights = False, True, True
    noise_variance = staticmethod(noise_variance)

    def __init__(self, reg: float, exponent: float = 0.0) -> None:
        self.reg = reg
        self.exponent = exponent

    def companion(self, previous: Tensor) -> Tensor:
        return previous

    def rows(self, belief: Gaussians, previous: Tensor) -> tuple[Tensor, None, float]:
        return beyond(belief.mean(), previous), None, math.nan

    def learn(
        self,
        side: Side,
        ratings: Ratings,
        squares: Tensor,
        layout: Layout,
        noise_precision: float = 1.0,
    ) -> Side:
        return side

    def start(self, side: Side, ratings: Ratings, layout: Layout) -> Side:
        """A side's points under the penalty."""
        precision = self.reg * torch.eye(layout.row_size).to(side.mean)
        weights = tuple(
            Weights(w.mean, WEIGHT_PENALTY * precision) for w in side.weights
        )
        prior_weight = ratings.count**self.exponent if self.exponent else None
        return replace(
            Side.at(side.mean, layout, prior_precision=precision),
            prior_weight=prior_weight,
            weights=weights,
            shift=side.shift,
        )

    def noise_precision(self, weight: float, residual: float) -> float:
        return 1.0

    def coef_precision(self, n_features: int, square: float) -> float:
        return self.reg

    def objective(self, state: State, problem: Problem, residual: float) -> float:
        penalty = total(state.coef.square())
        for side in (state.users, state.items):
            square = side.own.square().sum(1)
            if side.prior_weight is not None:
                square *= side.prior_weight
            penalty += total(square)
            for weights in side.weights:
                penalty += WEIGHT_PENALTY * total(weights.mean.square())
        return residual + self.reg * penalty


class Moments:
    """Rule of "vb": mean and covariance, and the priors that maximise the bound.

    The objective is minus the evidence lower bound.
    """

    has_covariance, is_certain, moves_weights = True, False, True
    noise_variance = staticmethod(noise_variance)

    def companion(self, previous: Tensor) -> Tensor:
        return previous

    def rows(self, belief: Gaussians, previous: Tensor) -> tuple[Tensor, Tensor, float]:
        mean, covariance, log_det = belief.moments()
        return beyond(mean, previous), covariance, log_det

    def learn(
        self,
        side: Side,
        ratings: Ratings,
        squares: Tensor,
        layout: Layout,
        noise_precision: float = 1.0,
    ) -> Side:
        own = side.own
        centre = own.mean(0)
        deviation = own - centre
        scatter = layout.unpack(side.covariance.sum(0, keepdim=True))[0]
        scatter = scatter + deviation.T @ deviation
        for block, w in zip(ratings.features, side.weights, strict=True):
            scatter = scatter + w.own_covariance(total(block.energy))
        shape = side.concentration + ratings.count / 2
        alpha = shape / (side.concentration + squares / 2)
        alpha /= _exchange(alpha, side.concentration, noise_precision)
        return replace(
            side,
            prior_mean=centre,
            prior_precision=_precision(scatter, len(own)),
            relative_precision=alpha,
            relative_shape=shape,
            concentration=_concentration(alpha, shape),
            weights=tuple(
                replace(
                    w,
                    precision=_precision(
                        w.mean.T @ w.mean + len(w.mean) * w.covariance, len(w.mean)
                    ),
                )
                for w in side.weights
            ),
        )

    def noise_precision(self, weight: float, residual: float) -> float:
        return 1 / noise_variance(weight, residual)

    def coef_precision(self, n_features: int, square: float) -> float:
        return (PRIOR_ROWS + n_features) / (PRIOR_ROWS * PRIOR_VARIANCE + square)

    def objective(self, state: State, problem: Problem, residual: float) -> float:
        return -evidence_lower_bound(state, problem, residual)


class Draw:
    """Rule of "gibbs": a draw of everything but a, which vb has found.

    The objective is half the weighted residual sum of squares, times β: minus the log
    likelihood but for its normalisation.
    """

    has_covariance, is_certain, moves_weights = False, True, False
    noise_variance = staticmethod(noise_variance)

    def __init__(self, random_state: np.random.RandomState) -> None:
        self.random_state = random_state

    def companion(self, previous: Tensor) -> Tensor:
        normal = self.random_state.standard_normal(previous.shape)
        return torch.as_tensor(normal).to(previous)

    def rows(self, belief: Gaussians, normal: Tensor) -> tuple[Tensor, None, float]:
        return belief.draw(normal), None, math.nan

    def learn(
        self,
        side: Side,
        ratings: Ratings,
        squares: Tensor,
        layout: Layout,
        noise_precision: float = 1.0,
    ) -> Side:
        # Normal–Wishart posterior, Salakhutdinov and Mnih (2008), equation 14, with
        # prior mean 0 and the scale matrix that PRIOR_VARIANCE asks for.
        n_rows, size = side.mean.shape
        rows = side.own.double().cpu().numpy()
        centre = rows.mean(0)
        strength = PRIOR_ROWS + n_rows
        scatter = (rows - centre).T @ (rows - centre)
        scatter += PRIOR_ROWS * n_rows / strength * np.outer(centre, centre)
        precision = self.precision(scatter, n_rows)
        deviation = np.linalg.solve(
            np.linalg.cholesky(strength * precision).T,
            self.random_state.standard_normal(size),
        )
        shape = (side.concentration + ratings.count / 2).cpu().numpy()
        gamma = torch.as_tensor(self.random_state.standard_gamma(shape)).to(squares)
        side = replace(
            side,
            relative_precision=gamma / (side.concentration + squares / 2),
            relative_shape=None,
            prior_mean=torch.as_tensor(centre * n_rows / strength + deviation).to(
                side.mean
            ),
            prior_precision=torch.as_tensor(precision).to(side.mean),
        )
        return self.with_weights(side, ratings.features)

    def precision(self, scatter: np.ndarray, n_rows: int) -> np.ndarray:
        """Wishart posterior of a precision, by the scatter of rows about their mean."""
        size = len(scatter)
        scatter = torch.from_numpy(scatter + size * PRIOR_VARIANCE * np.eye(size))
        scale = inverse(scatter, floor=size * PRIOR_VARIANCE).numpy()
        wishart = stats.wishart.rvs(
            size + n_rows, scale, random_state=self.random_state
        )
        return wishart.reshape(size, size)

    def with_weights(self, side: Side, features: tuple[Block, ...]) -> Side:
        """Weights drawn block by block, each given the others."""
        if not features:
            return side
        weights = list(side.weights)
        rest = side.own - side.prior_mean
        for place, block in enumerate(features):
            rest += block.times(weights[place].mean)
            drawn = draw(
                block, weights[place], rest, side.prior_precision, self.random_state
            )
            rest -= block.times(drawn.mean)
            scatter = (drawn.mean.T @ drawn.mean).double().cpu().numpy()
            precision = self.precision(scatter, len(drawn.mean))
            weights[place] = replace(
                drawn, precision=torch.as_tensor(precision).to(drawn.mean)
            )
        shift = side.mean - side.prior_mean - rest
        return replace(side, weights=tuple(weights), shift=shift)

    def noise_precision(self, weight: float, residual: float) -> float:
        shape = (PRIOR_RATINGS + weight) / 2
        gamma = self.random_state.standard_gamma(shape) / shape
        return gamma / noise_variance(weight, residual)

    def coef_precision(self, n_features: int, square: float) -> float:
        gamma = self.random_state.standard_gamma((PRIOR_ROWS + n_features) / 2)
        return 2 * gamma / (PRIOR_ROWS * PRIOR_VARIANCE + square)

    def objective(self, state: State, problem: Problem, residual: float) -> float:
        return state.noise_precision * residual / 2


class Revision:
    """Rule of `revise`: what was believed of a row is its prior.

    What is shared by rows stays, but for the noise, which is that of all ratings. The
    objective is as of `Draw`.
    """

    has_covariance, moves_weights = True, False

    def __init__(
        self, *, is_certain: bool, past_weight: float, past_variance: float
    ) -> None:
        self.is_certain = is_certain
        self.past_weight = past_weight
        self.past_variance = past_variance

    def companion(self, previous: Tensor) -> Tensor:
        return previous

    def rows(self, belief: Revised, previous: Tensor) -> tuple[Tensor, Tensor, float]:
        return belief.moments()

    def learn(
        self,
        side: Side,
        ratings: Ratings,
        squares: Tensor,
        layout: Layout,
        noise_precision: float = 1.0,
    ) -> Side:
        if self.is_certain:
            return side
        before = side.before
        shape = before.relative_shape + ratings.count / 2
        rate = before.relative_shape / before.relative_precision + squares / 2
        return replace(side, relative_precision=shape / rate, relative_shape=shape)

    def noise_precision(self, weight: float, residual: float) -> float:
        if self.is_certain:
            return 1 / self.past_variance
        return 1 / self.noise_variance(weight, residual)

    def noise_variance(self, weight: float, residual: float) -> float:
        """That of all ratings, past and further ones."""
        past = self.past_weight * self.past_variance
        return (past + residual) / (self.past_weight + weight)

    def coef_precision(self, n_features: int, square: float) -> float:
        return math.nan

    def objective(self, state: State, problem: Problem, residual: float) -> float:
        return state.noise_precision * residual / 2


class Spread:
    """Rule of `with_covariance`: rows stay, and get the covariance of a Gaussian."""

    has_covariance, is_certain, moves_weights = True, True, False

    def companion(self, previous: Tensor) -> Tensor:
        return previous

    def rows(self, belief: Gaussians, previous: Tensor) -> tuple[Tensor, Tensor, float]:
        return previous, *belief.moments()[1:]

    def learn(
        self,
        side: Side,
        ratings: Ratings,
        squares: Tensor,
        layout: Layout,
        noise_precision: float = 1.0,
    ) -> Side:
        return side

    def coef_precision(self, n_features: int, square: float) -> float:
        return math.nan


Rule = Mode | Moments | Draw | Revision | Spread


def evidence_lower_bound(state: State, problem: Problem, residual: float) -> float:
    """The bound that "vb" raises, for `residual` = Σ w α γ E[(y − ŷ)²].

    E[log p(y, rows, α, γ, w)] + entropy, with the log priors of β, Λ and λ but for
    their normalisation.
    """
    beta = state.noise_precision
    doubled = problem.weight * math.log(beta / (2 * math.pi)) - beta * residual
    doubled += PRIOR_RATINGS * (math.log(beta) - beta * PRIOR_NOISE_VARIANCE)
    for ratings, side in ((problem.users, state.users), (problem.items, state.items)):
        n_rows, size = side.mean.shape
        log_alpha = _expected_log(side.relative_precision, side.relative_shape)
        doubled += total(ratings.count * log_alpha)
        doubled += 2 * _relative_evidence(side, log_alpha)
        log_det = _log_det(side.prior_precision)
        doubled += side.log_det + (PRIOR_ROWS + n_rows) * log_det - PRIOR_ROWS * size
        for w in side.weights:
            n_weights = len(w.mean)
            doubled += n_weights * _log_det(w.covariance) - PRIOR_ROWS * size
            doubled += (PRIOR_ROWS + n_weights) * _log_det(w.precision)
    if state.coef_factor is not None:
        n_features = len(state.coef)
        doubled += 2 * total(state.coef_factor.diagonal().log())
        doubled += (PRIOR_ROWS + n_features) * math.log(state.coef_precision)
        doubled -= PRIOR_ROWS
    return doubled / 2


def _log_det(matrix: Tensor) -> float:
    return float(torch.linalg.slogdet(matrix).logabsdet)


def _precision(scatter: Tensor, n_rows: int) -> Tensor:
    """The precision that maximises the bound, by E of the scatter of rows."""
    strength = PRIOR_ROWS + n_rows
    prior = PRIOR_ROWS * PRIOR_VARIANCE / strength
    identity = torch.eye(len(scatter)).to(scatter)
    return inverse(scatter / strength + prior * identity, floor=prior)


def _concentration(alpha: Tensor, shape: Tensor) -> float:
    """The a that maximises the bound: log a − ψ(a) + 1 = mean(E[α] − E[log α])."""
    gap = total(alpha - _expected_log(alpha, shape)) / len(alpha)

    def slope(a: float) -> float:
        return math.log(a) - digamma(a) + 1 - gap

    low, high = CONCENTRATION_BOUNDS
    if slope(low) <= 0:
        return low
    return high if slope(high) >= 0 else brentq(slope, low, high, rtol=1e-6)


def _exchange(alpha: Tensor, a: float, noise_precision: float) -> float:
    """The c that maximises the bound if every α is divided by it and β times it.

    It solves a Σα / c² − (a n_rows − n / 2) / c = β n v / 2, where the prior of β is
    worth n ratings of variance v; without that prior it is the mean of α. If they are
    not exchanged, β and a creep towards each other.
    """
    weight = a * total(alpha)
    held = noise_precision * PRIOR_RATINGS * PRIOR_NOISE_VARIANCE / 2
    rows = a * len(alpha) - PRIOR_RATINGS / 2
    c = 2 * weight / (rows + math.sqrt(rows**2 + 4 * held * weight))
    return min(c, 1 / (MIN_NOISE_VARIANCE * noise_precision))


def _expected_log(alpha: Tensor, shape: Tensor) -> Tensor:
    """E[log α] under Gamma distributions of mean `alpha` and shape `shape`."""
    return torch.digamma(shape) - shape.log() + alpha.log()


def _relative_evidence(side: Side, log_alpha: Tensor) -> float:
    """E[log p(α)] + entropy of the relative precisions of a side."""
    a, shape, alpha = side.concentration, side.relative_shape, side.relative_precision
    prior = a * math.log(a) - math.lgamma(a) + (a - 1) * log_alpha - a * alpha
    entropy = shape - (shape / alpha).log() + torch.lgamma(shape)
    entropy += (1 - shape) * torch.digamma(shape)
    return total(prior + entropy)
