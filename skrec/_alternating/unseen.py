"""Estimates for ratings that a fit has not seen, from the ratings that it has.

The error is estimated by leave-one-out residuals. Of Gaussian linear models these
follow from the fit to all rows: a residual r with leverage h is r / (1 − h) without its
row (Cook and Weisberg, 1982). Here a rating acts on its prediction x·z + c through the
row x of its user, with the leverage h = β w zᵀA⁻¹z where A⁻¹ is the covariance of x,
and likewise through the row of its item. Both together, to first order, leave

    r (1 + h_u / (1 − h_u) + h_i / (1 − h_i)).

Variances along axes that all rows share, as in a warm-up of "vb", do not know a single
rating: with them, r (1 + h_u + h_i) is left.

It costs one product of a covariance and a vector for each side and rating, so a sample
of the ratings is enough. Hyperparameters and weights of features are not left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._threads import torch_threads
from .conditional import Layout, fitted_values
from .context import column_moments
from .problem import Problem
from .scalars import fetched, total
from .state import Side, State

# Ratings that estimate the error of a fit, and so many at once. One block is enough for
# the curve.
SAMPLE_SIZE, BLOCK_SIZE = 2**13, 2**10

# So many random ratings have nearly the mean residual of all.
MEAN_SIZE = 2**16

# Pairs that show how far predictions move.
N_PAIRS = 2**11

# A leverage is below one. Near it the estimate multiplies what rows that have not
# converged leave, so that a fit almost without noise would seem useless.
MAX_LEVERAGE = 0.999


@dataclass(frozen=True)
class UnseenSample:
    """Ratings and pairs of a problem that stand for those it has not seen.

    Attributes
    ----------
    problem : Problem
    scale : float
        Rating units per standard unit.
    repeat_variance : float
        Of a rating about the mean of its pair, which the problem has.
    ratings : Tensor of shape (n_own,)
        Places of some ratings, in random order; those that this process has.
    n_first : int
        How many of them are in the first block of all.
    pairs : tuple of Tensor of shape (n_pairs,)
        Users and items that are as frequent as among the ratings, paired at random.
    """

    problem: Problem
    scale: float
    repeat_variance: float
    ratings: Tensor
    n_first: int
    pairs: tuple[Tensor, Tensor]

    @classmethod
    @torch_threads(1)
    def of(
        cls, problem: Problem, scale: float = 1.0, repeat_variance: float = 0.0
    ) -> UnseenSample:
        """A sample that is the same for every fit of these ratings."""
        generator = torch.Generator().manual_seed(0)
        n_own, share = len(problem.target), problem.users.share
        n_ratings, first = int(share.sum(float(n_own))), share.n_before(n_own)
        device = problem.target.device

        def places(size: int) -> tuple[Tensor, Tensor]:
            if n_ratings <= size:
                drawn = torch.randperm(n_ratings, generator=generator)
            else:
                drawn = torch.randint(n_ratings, (size,), generator=generator)
            is_own = (drawn >= first) & (drawn < first + n_own)
            return (drawn[is_own] - first).to(device), is_own

        def of_pairs(values: Tensor) -> Tensor:
            rows, is_own = places(N_PAIRS)
            found = values.new_zeros(len(is_own))
            found[is_own.to(device)] = values[rows]
            return share.sum(found)

        pairs = of_pairs(problem.user_index), of_pairs(problem.users.others)
        rows, is_own = places(SAMPLE_SIZE)
        n_first = int(is_own[:BLOCK_SIZE].sum())
        return cls(problem, scale, repeat_variance, rows, n_first, pairs)

    @torch_threads(1)
    def after_sweep(self, state: State) -> tuple[float, Tensor]:
        """An estimate of the error by few ratings, and predictions of the pairs."""
        users, items = self.pairs
        x = state.users.mean.index_select(0, users)
        z = state.items.mean.index_select(0, items)
        predictions = _predictions(x, z, self.problem.layout)
        if state.columns:
            of_columns = self.problem.columns, state.columns
            mean, _ = column_moments(*of_columns, self.ratings[: self.n_first])
            predictions = torch.cat([predictions, mean])
        return self._error(state, self.ratings[: self.n_first]), predictions

    def change(self, before: Tensor, after: Tensor) -> float:
        """Root mean squared change of predictions, those of all processes."""
        square, n_pairs = (after - before).square(), len(self.pairs[0])
        own = square[n_pairs:]
        # Terms of context are at ratings of this process, and pairs are those of all.
        sums = self.problem.users.share.sum(
            torch.stack([total(own), total(torch.ones_like(own))])
        )
        squares, n_own, of_pairs = fetched(*sums, total(square[:n_pairs]))
        return ((squares + of_pairs) / (n_own + n_pairs)) ** 0.5

    @torch_threads(1)
    def error(self, state: State) -> float:
        """Root mean squared leave-one-out residual, in rating units."""
        return self._error(state, self.ratings)

    def _error(self, state: State, places: Tensor) -> float:
        parts = [self._squares(state, block) for block in places.split(BLOCK_SIZE)]
        sums = self.problem.users.share.sum(torch.stack(parts).sum(0))
        squares, weight = fetched(*sums)
        return (self.scale**2 * squares / weight + self.repeat_variance) ** 0.5

    def _squares(self, state: State, places: Tensor) -> Tensor:
        """Weighted sum of squared residuals at some places, and sum of the weights."""
        problem, layout = self.problem, self.problem.layout
        users, items = problem.user_index[places], problem.users.others[places]
        x = state.users.mean.index_select(0, users)
        z = state.items.mean.index_select(0, items)
        weight = problem.users.weight[places]
        residual = _residual(problem, state, places)
        beta = state.noise_precision * weight
        beta = beta * state.users.relative_precision[users]
        beta *= state.items.relative_precision[items]
        factor = torch.ones_like(residual)
        if state.columns:
            mean, variance = column_moments(problem.columns, state.columns, places)
            residual -= mean
            assert variance is not None
            leverage = (beta * variance).clamp_(max=MAX_LEVERAGE)
            factor += leverage / (1 - leverage)
        sides = (state.users, users, z), (state.items, items, x)
        for side, rows, others in sides:
            leverage = beta * _variance(side, rows, others, layout)
            if side.axes is None:
                leverage.clamp_(max=MAX_LEVERAGE)
                leverage = leverage / (1 - leverage)
            # Variances along axes do not know a single rating, so that the ratio is
            # theirs.
            factor += leverage
        squares = weight * (factor * residual).square()
        return torch.stack([total(squares), total(weight)])


@torch_threads(1)
def mean_residual(problem: Problem, state: State) -> float:
    """Mean residual of the ratings, or of many of them, in standard units."""
    n_ratings, device = len(problem.target), problem.target.device
    places = torch.arange(n_ratings)
    if n_ratings > MEAN_SIZE:
        generator = torch.Generator().manual_seed(0)
        places = torch.randint(n_ratings, (MEAN_SIZE,), generator=generator)
    places = places.to(device)
    # A process stands for all of its rows.
    weight = problem.users.weight[places] * (n_ratings / max(1, len(places)))
    residual = _residual(problem, state, places)
    if state.columns:
        residual -= column_moments(problem.columns, state.columns, places)[0]
    residual *= weight
    sums = problem.users.share.sum(torch.stack([total(residual), total(weight)]))
    of_residual, of_weight = fetched(*sums)
    return of_residual / of_weight


@torch_threads(1)
def pair_variance(problem: Problem, state: State) -> float:
    """Variance of ratings of a pair about their mean, beside terms of context."""
    ratings = problem.users
    if ratings.pair is None:
        return 0.0
    residual = _residuals(problem, state)
    sums = total(ratings.scatter(residual, ratings.weight)), total(ratings.weight)
    scatter, weight = fetched(*ratings.share.sum(torch.stack(sums)))
    return scatter / weight


def _residuals(problem: Problem, state: State) -> Tensor:
    """Residuals of all ratings."""
    rows = state.users.mean, state.items.mean, problem.layout
    residual = problem.target - fitted_values(problem.users, *rows)
    residual -= problem.context @ state.coef
    if state.columns:
        residual -= column_moments(problem.columns, state.columns)[0]
    return residual


def _residual(problem: Problem, state: State, places: Tensor) -> Tensor:
    """Residuals of the ratings at some places, beside terms of columns."""
    users, items = problem.user_index[places], problem.users.others[places]
    x = state.users.mean.index_select(0, users)
    z = state.items.mean.index_select(0, items)
    residual = problem.target[places] - _predictions(x, z, problem.layout)
    return residual - problem.context[places] @ state.coef


def _predictions(x: Tensor, z: Tensor, layout: Layout) -> Tensor:
    """Predictions x·z + c of pairs of rows."""
    k = layout.n_factors
    return (x[:, :k] * z[:, :k]).sum(1) + x[:, k:].sum(1) + z[:, k:].sum(1)


def _variance(side: Side, rows: Tensor, others: Tensor, layout: Layout) -> Tensor:
    """zᵀA⁻¹z of rows, by the other side's rows that they meet."""
    z = others.clone()
    z[:, layout.n_factors :] = 1
    if side.axes is not None:
        along = side.axes.axes.forms(z)
        return (along.square() * side.axes.variance[rows]).sum(1)
    assert side.covariance is not None
    return layout.quadratic_forms(side.covariance.index_select(0, rows), z)
