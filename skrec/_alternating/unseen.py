"""Estimates for ratings that a fit has not seen, from the ratings that it has.

The error is estimated by leave-one-out residuals. Of Gaussian linear models these
follow from the fit to all rows: a residual r with leverage h is r / (1 − h) without its
row (Cook and Weisberg, 1982). Here a rating acts on its prediction x·z + c through the
row x of its user, with the leverage h = β w zᵀA⁻¹z where A⁻¹ is the covariance of x,
and likewise through the row of its item. Both together, to first order, leave

    r (1 + h_u / (1 − h_u) + h_i / (1 − h_i)).

It costs one product of a covariance and a vector for each side and rating, so a sample
of the ratings is enough. Hyperparameters and weights of features are not left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .conditional import Layout
from .problem import Problem
from .scalars import fetched, total
from .state import Side, State

# Ratings that estimate the error, after a fit and after each sweep.
SAMPLE_SIZE, SWEEP_SAMPLE_SIZE = 2**14, 2**11

# Pairs that show how far predictions move.
N_PAIRS = 2**12

# A leverage is below one; rounding may reach it.
MAX_LEVERAGE = 1 - 1e-6


@dataclass(frozen=True)
class UnseenSample:
    """Ratings and pairs of a problem that stand for those it has not seen.

    Attributes
    ----------
    ratings : tuple of Tensor of shape (n_sample,)
        Users, items, weights and targets of some ratings, in random order.
    context : Tensor of shape (n_sample, n_context)
        Context of these.
    pairs : tuple of Tensor of shape (n_pairs,)
        Users and items that are as frequent as among the ratings, paired at random.
    layout : Layout
    """

    ratings: tuple[Tensor, Tensor, Tensor, Tensor]
    context: Tensor
    pairs: tuple[Tensor, Tensor]
    layout: Layout

    @classmethod
    def of(cls, problem: Problem) -> UnseenSample:
        """A sample that is the same for every fit of these ratings."""
        generator = torch.Generator().manual_seed(0)
        n_own, device = len(problem.target), problem.target.device
        n_ratings = int(problem.users.share.sum(float(n_own)))

        def places(size: int) -> Tensor:
            if n_ratings <= size:
                drawn = torch.randperm(n_ratings, generator=generator)
            else:
                drawn = torch.randint(n_ratings, (size,), generator=generator)
            return drawn.to(device)

        numbers = problem.user_index, problem.users.others
        users, items = (problem.at(places(N_PAIRS), rows) for rows in numbers)
        sample = places(SAMPLE_SIZE)
        of_sample = (*numbers, problem.users.weight, problem.target)
        u, i, weight, target = (problem.at(sample, values) for values in of_sample)
        context = problem.at(sample, problem.context)
        pairs = users, items
        return cls((u, i, weight, target), context, pairs, problem.layout)

    def predictions(self, state: State) -> Tensor:
        """Standardised predictions of the pairs, without their context."""
        users, items = self.pairs
        return _predictions(
            state.users.mean[users], state.items.mean[items], self.layout
        )

    def error(self, state: State, size: int = SAMPLE_SIZE) -> float:
        """Root mean squared leave-one-out residual of `size` standardised ratings."""
        users, items, weight, target = (values[:size] for values in self.ratings)
        layout = self.layout
        x, z = state.users.mean[users], state.items.mean[items]
        residual = target - _predictions(x, z, layout)
        residual -= self.context[:size] @ state.coef
        beta = (
            state.noise_precision
            * weight
            * state.users.relative_precision[users]
            * state.items.relative_precision[items]
        )
        factor = torch.ones_like(residual)
        for side, rows, others in (
            (state.users, users, z),
            (state.items, items, x),
        ):
            leverage = beta * _variance(side, rows, others, layout)
            leverage.clamp_(max=MAX_LEVERAGE)
            factor += leverage / (1 - leverage)
        squares = weight * (factor * residual).square()
        (mean_square,) = fetched(total(squares) / total(weight))
        return mean_square**0.5


def _predictions(x: Tensor, z: Tensor, layout: Layout) -> Tensor:
    """Predictions x·z + c of pairs of rows."""
    k = layout.n_factors
    return (x[:, :k] * z[:, :k]).sum(1) + x[:, k:].sum(1) + z[:, k:].sum(1)


def _variance(side: Side, rows: Tensor, others: Tensor, layout: Layout) -> Tensor:
    """zᵀA⁻¹z of rows, by the other side's rows that they meet."""
    assert side.covariance is not None
    z = others.clone()
    z[:, layout.n_factors :] = 1
    # A row of the packed lower triangle at a time, without the square matrices.
    variance, start = z.new_zeros(len(z)), 0
    for j in range(layout.row_size):
        entries = side.covariance[rows, start : start + j + 1]
        doubled = 2 * (entries[:, :j] * z[:, :j]).sum(1) + entries[:, j] * z[:, j]
        variance += doubled * z[:, j]
        start += j + 1
    return variance
