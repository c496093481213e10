"""The lower bound that "vb" raises, and the priors that maximise it.

Scalars of the bound may be on the device; the priors of sides are computed on the host.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import digamma
from torch import Tensor

from .feature_weights import own_covariance
from .problem import Problem
from .scalars import fetched, total
from .state import PRIOR_VARIANCE, ColumnState, Side, State
from .symmetric import identity, inverse

# Rows that the prior for the covariance of a side's rows is worth.
PRIOR_ROWS = 1.0

# a, the concentration of the relative precisions: 2 where rows differ so much that
# their variances are barely finite, 1e4 where they are equal in effect.
CONCENTRATION_BOUNDS = (2.0, 1e4)

# A prior for the noise, worth one rating: half of the ratings' variance. With it a
# handful of ratings that a model can reach exactly do not show that there is no noise.
PRIOR_RATINGS, PRIOR_NOISE_VARIANCE = 1.0, 0.5

# The noise keeps at least this share of the ratings' variance, where single precision
# still tells noise from rounding.
MIN_NOISE_VARIANCE = 1e-5


def evidence_lower_bound(state: State, problem: Problem, residual: float) -> float:
    """The bound that "vb" raises, for `residual` = Σ w α γ E[(y − ŷ)²].

    E[log p(y, rows, α, γ, w)] + entropy, with the log priors of β, Λ and λ up to a
    constant.
    """
    beta = state.noise_precision
    doubled = problem.weight * math.log(beta / (2 * math.pi)) - beta * residual
    doubled += PRIOR_RATINGS * (math.log(beta) - beta * PRIOR_NOISE_VARIANCE)
    terms: list[Term] = [(1.0, state.users.evidence), (1.0, state.items.evidence)]
    if state.coef_factor is not None:
        terms.append((2.0, total(state.coef_factor.diagonal().log())))
        doubled += (PRIOR_ROWS + len(state.coef)) * math.log(state.coef_precision)
        doubled -= PRIOR_ROWS
    terms += columns_evidence(state.columns)
    factors, values = zip(*terms, strict=True)
    return (doubled + math.fsum(map(operator.mul, factors, fetched(*values)))) / 2


# A factor and the scalar that it multiplies, which may be on the device.
Term = tuple[float, Tensor | float]


def columns_evidence(columns: Sequence[ColumnState]) -> list[Term]:
    """Share of the terms of context in twice the bound."""
    terms: list[Term] = []
    all_pairs = [pairs for column in columns for pairs in column.pairs]
    of_values = [column.values for column in columns]
    for effects in (*of_values, *(pairs.effects for pairs in all_pairs)):
        n_draws = PRIOR_ROWS + len(effects.mean)
        terms.append((1.0, effects.log_det))
        terms.append((n_draws, math.log(effects.precision)))
        terms.append((1.0, -PRIOR_ROWS))
    for pairs in all_pairs:
        effects, levels = pairs.effects, pairs.levels
        n_levels = len(levels.mean)
        if not levels.precision:
            terms.append((n_levels, math.log(effects.precision)))
            continue
        assert levels.variance is not None
        square = total(levels.mean.square() + levels.variance)
        terms.append((n_levels, 1 + math.log(levels.precision)))
        terms.append((-levels.precision, square))
    for side in (side for pairs in all_pairs for side in (pairs.rows, pairs.values)):
        n_rows, size = side.mean.shape
        log_det = torch.linalg.slogdet(side.prior_precision).logabsdet.double()
        terms.append((1.0, side.log_det))
        terms.append((PRIOR_ROWS + n_rows, log_det))
        terms.append((1.0, -PRIOR_ROWS * size))
    return terms


def precision_evidence(n: int, precision: float, prior_variance: float) -> float:
    """Share of the precision of n scalars in twice the bound, up to a constant."""
    prior = PRIOR_ROWS * prior_variance * precision
    return (PRIOR_ROWS + n) * math.log(precision) - prior


def host_priors(side: Side, matrices: Sequence[np.ndarray]) -> tuple[Tensor, float]:
    """Λ and each Ω of a side, and twice the share of all matrices in the bound.

    `matrices` are those of `PriorSums`.
    """
    assert side.sums is not None
    scatter, dtype = matrices[0] + matrices[1], side.mean.dtype
    precisions, evidence = [], 0.0
    of_blocks = (matrices[2:][start::3] for start in range(3))
    parts = zip(side.weights, side.sums.squares, *of_blocks, strict=True)
    for weights, square, points, C, response in parts:
        scatter = scatter + own_covariance(square, response, C)
        n = len(weights.mean)
        precisions.append(
            likeliest_precision(torch.from_numpy(points + n * C).to(dtype), n)
        )
        evidence += n * _log_det(C) + _evidence_of(precisions[-1], n)
    n_rows = len(side.mean)
    precision = likeliest_precision(torch.from_numpy(scatter).to(dtype), n_rows)
    evidence += _evidence_of(precision, n_rows)
    return torch.stack([precision, *precisions]), evidence


def _evidence_of(precision: Tensor, n_rows: int) -> float:
    """Twice the share in the bound of a matrix by the scatter of so many rows."""
    strength = PRIOR_ROWS + n_rows
    return strength * _log_det(precision.numpy()) - PRIOR_ROWS * len(precision)


def _log_det(matrix: np.ndarray) -> float:
    return float(np.linalg.slogdet(matrix.astype(np.float64))[1])


def likeliest_precision(scatter: Tensor, n_rows: int) -> Tensor:
    """The precision that maximises the bound, by E of the scatter of so many rows."""
    strength = PRIOR_ROWS + n_rows
    prior = PRIOR_ROWS * PRIOR_VARIANCE / strength
    mean = scatter / strength + prior * identity(len(scatter), scatter)
    return inverse(mean, floor=prior)


def likeliest_concentration(gap: float) -> float:
    """The a that maximises the bound: log a − ψ(a) + 1 = `gap`.

    `gap` is the mean of E[α] − E[log α].
    """

    def slope(a: float) -> float:
        return math.log(a) - digamma(a) + 1 - gap

    low, high = CONCENTRATION_BOUNDS
    if slope(low) <= 0:
        return low
    return high if slope(high) >= 0 else brentq(slope, low, high, rtol=1e-6)


def exchange(weight: float, strength: float, noise_precision: float) -> float:
    """The c that maximises the bound if every α is divided by it and β times it.

    It solves W / c² − (S − n / 2) / c = β n v / 2, where `weight` is W = Σ (a + t) α
    and `strength` S = Σ (a + t), with the ties t, and the prior of β is worth n ratings
    of variance v; without that prior it is a mean of α. If they are not exchanged, β
    and a creep towards each other.
    """
    held = noise_precision * PRIOR_RATINGS * PRIOR_NOISE_VARIANCE / 2
    rows = strength - PRIOR_RATINGS / 2
    c = 2 * weight / (rows + math.sqrt(rows**2 + 4 * held * weight))
    return min(c, 1 / (MIN_NOISE_VARIANCE * noise_precision))
