"""Residuals of a fit: their mean, their kurtosis, and their variance within pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from .._threads import torch_threads
from .column_moments import column_mean
from .conditional import fitted_values
from .layout import Layout
from .problem import Problem
from .scalars import fetched, total
from .state import State

# So many random ratings have nearly the mean residual of all, and so many nearly their
# kurtosis.
MEAN_SIZE, KURTOSIS_SIZE = 2**16, 2**13


@torch_threads(1)
def mean_residual(problem: Problem, state: State) -> float:
    """Mean residual of the ratings, or of many of them, in standard units."""
    places, weight = _sample(problem, MEAN_SIZE)
    weight *= problem.users.weight[places]
    residual = weight * residuals(problem, state, places)
    sums = torch.stack([total(residual), total(weight)])
    of_residual, of_weight = fetched(*problem.users.share.sum(sums))
    return of_residual / of_weight


def square_worth(problem: Problem, state: State) -> float:
    """How many Gaussian squares tell as much as one of these residuals; at most 1."""
    return 2 / max(2.0, kurtosis(problem, state) - 1)


@torch_threads(1)
def kurtosis(problem: Problem, state: State) -> float:
    """Kurtosis of the noise, by residuals in units of their own standard deviations."""
    places, weight = _sample(problem, KURTOSIS_SIZE)
    square = residuals(problem, state, places).square_()
    square *= relative_precisions(problem, state, places)
    powers = weight, weight * square, weight * square.square()
    sums = torch.stack([total(values) for values in powers])
    n_ratings, second, fourth = fetched(*problem.users.share.sum(sums))
    return n_ratings * fourth / second**2 if second else 3.0


@torch_threads(1)
def pair_variance(problem: Problem, state: State) -> float:
    """Variance of ratings of a pair about their mean, beside terms of context."""
    ratings = problem.users
    if ratings.pair is None:
        return 0.0
    residual = residuals(problem, state)
    sums = total(ratings.scatter(residual, ratings.weight)), total(ratings.weight)
    scatter, weight = fetched(*ratings.share.sum(torch.stack(sums)))
    return scatter / weight


def residuals(problem: Problem, state: State, places: Tensor | None = None) -> Tensor:
    """Residuals of all ratings, or of those at some places."""
    ratings, context, target = problem.users, problem.context, problem.target
    if places is None:
        rows = state.users.mean, state.items.mean, problem.layout
        residual = target - fitted_values(ratings, *rows) - context @ state.coef
    else:
        x = state.users.mean.index_select(0, problem.user_index[places])
        z = state.items.mean.index_select(0, ratings.others[places])
        residual = target[places] - predictions(x, z, problem.layout)
        residual -= context[places] @ state.coef
    if state.columns:
        residual -= column_mean(problem.columns, state.columns, places)
    return residual


def relative_precisions(problem: Problem, state: State, places: Tensor) -> Tensor:
    """w α γ of the ratings at some places."""
    ratings = problem.users
    users, items = problem.user_index[places], ratings.others[places]
    precision = ratings.weight[places] * state.users.relative_precision[users]
    return precision.mul_(state.items.relative_precision[items])


def predictions(x: Tensor, z: Tensor, layout: Layout) -> Tensor:
    """Predictions x·z + c of pairs of rows."""
    k = layout.n_factors
    return (x[:, :k] * z[:, :k]).sum(1) + x[:, k:].sum(1) + z[:, k:].sum(1)


def _sample(problem: Problem, size: int) -> tuple[Tensor, Tensor]:
    """Places of all ratings, or of so many random ones, and how many each stands for.

    A process stands for all of its rows.
    """
    target = problem.target
    n_ratings = len(target)
    places = torch.arange(n_ratings)
    if n_ratings > size:
        generator = torch.Generator().manual_seed(0)
        places = torch.randint(n_ratings, (size,), generator=generator)
    worth = target.new_full((len(places),), n_ratings / max(1, len(places)))
    return places.to(target.device), worth
