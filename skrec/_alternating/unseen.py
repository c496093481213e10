"""Estimates for ratings that a fit has not seen, from the ratings that it has.

The error is estimated by leave-one-out residuals. Of Gaussian linear models these
follow from the fit to all rows: a residual r with leverage h is r / (1 − h) without its
row (Cook and Weisberg, 1982). Here a rating acts on its prediction x·z + c through the
row x of its user, with the leverage h = β w zᵀA⁻¹z where A⁻¹ is the covariance of x,
and likewise through the row of its item. Both together leave

    r (1 + h_u / (1 − h_u) / (1 − s_u h_i) + h_i / (1 − h_i) / (1 − s_i h_u)).

Rows that know nothing but their prior, beside the rating, err apart from each other:
their s is 0, and the sum of both ratios is exact. A share s of its prior variance is
what a row has learned from other ratings. The rows that these belong to are uncertain
too, about as much as the other row of the rating, so that a precision learned from them
counts 1 − h of what it seems.

Variances along axes that all rows share, as in a warm-up of "vb", do not know a
single rating: with them, h is in place of h / (1 − h).

It costs one product of a covariance and a vector for each side and rating, so a sample
of the ratings is enough. Hyperparameters are not left out.

The rows of a sweep are a step behind each other. That is of no account unless leverages
are near one, where residuals are small because rows follow their ratings: r / (1 − h)
then takes both from one fit. So if there are such leverages, and the error is to decide
which fit is best, rows come from their conditionals given the other side as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .._threads import torch_threads
from .column_moments import column_mean, column_variance
from .feature_weights import Block
from .layout import Layout
from .problem import Problem
from .residuals import predictions, relative_precisions, residuals, square_worth
from .rules import ConditionalRule
from .scalars import fetched, total
from .state import Side, State
from .sweep import Sweep
from .symmetric import inverse, times
from .tiles import parallel_map

# Ratings that estimate the error of a fit, and so many at once. One block is enough for
# the curve.
SAMPLE_SIZE, BLOCK_SIZE = 2**13, 2**10

# Pairs that show how far predictions move.
N_PAIRS = 2**11

# A leverage is below one. Rounding may reach it, and rows that are a step behind each
# other may pass it. From the second one on the estimate is not theirs alone.
MAX_LEVERAGE, MAX_SETTLED_LEVERAGE = 0.999, 0.9


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
        (users, items), places = self.pairs, self.ratings[: self.n_first]
        x = state.users.mean.index_select(0, users)
        z = state.items.mean.index_select(0, items)
        of_pairs = predictions(x, z, self.problem.layout)
        if state.columns:
            of_columns = self.problem.columns, state.columns
            of_pairs = torch.cat([of_pairs, column_mean(*of_columns, places)])
        first = self._sampled(state, places)
        left_out, _ = self._mean_squares(state, first)
        return self._of_ratings(left_out), of_pairs

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
    def error(self, state: State, optimism: float = 0.0) -> float:
        """Root mean squared leave-one-out residual, in rating units.

        Factors that follow ratings far from the rest do so by many rows at once, and
        the leverages of a rating's own rows do not show all of it. So the error has a
        share of what the fit to a rating takes off its square added: `optimism`, where
        the noise is as far from Gaussian as it can be.
        """
        sampled = self._sampled(state, self.ratings)
        is_behind = self._follows_ratings(state, sampled)
        known = _given_others(self.problem, state) if is_behind else None
        left_out, fitted = self._mean_squares(state, sampled, known)
        if optimism:
            share = optimism * (1 - square_worth(self.problem, state))
            left_out += share * max(0.0, left_out - fitted)
        return self._of_ratings(left_out)

    def _of_ratings(self, mean_square: float) -> float:
        """Root mean square of single ratings in their units."""
        return (self.scale**2 * mean_square + self.repeat_variance) ** 0.5

    def _follows_ratings(self, state: State, sampled: Sequence[_Sampled]) -> bool:
        """Whether there are leverages near one, of single rows."""
        if state.users.axes is not None or state.items.axes is not None:
            return False
        n_near_one = torch.stack(
            [
                (rows.leverage > MAX_SETTLED_LEVERAGE).sum()
                for block in sampled
                for rows in (block.users, block.items)
            ]
        )
        (n_all,) = fetched(self.problem.users.share.sum(n_near_one.sum()))
        return n_all > 0

    def _mean_squares(
        self, state: State, sampled: Sequence[_Sampled], known: State | None = None
    ) -> tuple[float, float]:
        """Weighted means of squared left-out residuals and of squared residuals."""
        parts = [self._squares(state, block, known) for block in sampled]
        sums = self.problem.users.share.sum(torch.stack(parts).sum(0))
        left_out, fitted, weight = fetched(*sums)
        return left_out / weight, fitted / weight

    def _squares(self, state: State, block: _Sampled, known: State | None) -> Tensor:
        """Weighted sums of squares of some ratings, and sum of the weights.

        The squares are of left-out residuals, and of residuals.
        `known` has both sides' rows given the other side of `state`.
        """
        problem, (places, of_users, of_items) = self.problem, block
        weight = problem.users.weight[places]
        residual = left_out = residuals(problem, state, places)
        if state.columns:
            variance = column_variance(problem.columns, state.columns, places)
            assert variance is not None
            leverage = self._precision(state, places) * variance
            left_out = residual / (1 - leverage.clamp_(max=MAX_LEVERAGE))
        if known is None:
            user, item = of_users.effect(residual), of_items.effect(residual)
        else:
            blocks = problem.users.features, problem.items.features
            user = of_users.effect_by(known.users, blocks[0], residual)
            item = of_items.effect_by(known.items, blocks[1], residual)
        left_out = left_out + user.change / (1 - user.learned * item.leverage)
        left_out += item.change / (1 - item.learned * user.leverage)
        sums = weight * left_out.square(), weight * residual.square(), weight
        return torch.stack([total(values) for values in sums])

    def _precision(self, state: State, places: Tensor) -> Tensor:
        """β of ratings at some places."""
        return state.noise_precision * relative_precisions(self.problem, state, places)

    def _sampled(self, state: State, places: Tensor) -> list[_Sampled]:
        """Blocks of ratings at some places, with the rows of users and of items."""
        problem, layout = self.problem, self.problem.layout
        of_user, of_item = (
            inverse(side.prior_precision) for side in (state.users, state.items)
        )
        sampled = []
        for block in places.split(BLOCK_SIZE):
            beta = self._precision(state, block)
            users, items = problem.user_index[block], problem.users.others[block]
            x, z = (
                layout.extend(rows)[:, : layout.row_size]
                for rows in (state.users.mean[users], state.items.mean[items])
            )
            of_users = _SampledRows(state.users, of_user, users, z, beta, layout)
            of_items = _SampledRows(state.items, of_item, items, x, beta, layout)
            sampled.append(_Sampled(block, of_users, of_items))
        return sampled


class _Sampled(NamedTuple):
    """Ratings at some places, and the rows of users and of items there."""

    places: Tensor
    users: _SampledRows
    items: _SampledRows


class _Effect(NamedTuple):
    """Effect of a rating through the rows of one side.

    Attributes
    ----------
    change : Tensor of shape (n_sampled,)
        Change of its residual if these rows do without it.
    leverage : Tensor of shape (n_sampled,)
    learned : Tensor of shape (n_sampled,)
        Share of the variance of their prior that other ratings take.
    """

    change: Tensor
    leverage: Tensor
    learned: Tensor


@dataclass(frozen=True)
class _SampledRows:
    """Rows of one side that sampled ratings belong to.

    Attributes
    ----------
    side : Side
    prior_covariance : Tensor of shape (row_size, row_size)
    rows : Tensor of shape (n_sampled,)
    others : Tensor of shape (n_sampled, row_size)
        z, what they meet of the other side.
    precision : Tensor of shape (n_sampled,)
        β of the ratings.
    layout : Layout
    """

    side: Side
    prior_covariance: Tensor
    rows: Tensor
    others: Tensor
    precision: Tensor
    layout: Layout

    @cached_property
    def leverage(self) -> Tensor:
        """h = β zᵀA⁻¹z."""
        if self.side.axes is not None:
            along = self.side.axes.axes.forms(self.others).square()
            return self.precision * (along * self.side.axes.variance[self.rows]).sum(1)
        assert self.side.covariance is not None
        packed = self.side.covariance.index_select(0, self.rows)
        return self.precision * self.layout.quadratic_forms(packed, self.others)

    def effect(self, residual: Tensor) -> _Effect:
        h = self.leverage.clamp(max=MAX_LEVERAGE)
        # Variances along axes do not know a single rating, so that the ratio is theirs.
        ratio = h / (1 - h) if self.side.axes is None else self.leverage
        return _Effect(ratio * residual, h, self._learned(ratio))

    def effect_by(
        self, known: Side, blocks: Sequence[Block], residual: Tensor
    ) -> _Effect:
        """The effect by the conditionals of rows, whose moments `known` has.

        A rating also acts through weights of features. Their leverage is
        β vᵀΛ (Σ ‖f‖²C) Λv / (1 − h), v = A⁻¹z, among rows without the rating.
        """
        assert known.covariance is not None
        covariance = self.layout.unpack(known.covariance.index_select(0, self.rows))
        v = times(covariance, self.others)
        moved = known.mean.index_select(0, self.rows)
        moved -= self.side.mean.index_select(0, self.rows)
        free = 1 - self.precision * (v * self.others).sum(1)
        free.clamp_(min=100 * torch.finfo(v.dtype).eps)
        pulled, of_weights = v @ known.prior_precision, torch.zeros_like(free)
        for block, weights in zip(blocks, known.weights, strict=True):
            form = (pulled @ weights.covariance * pulled).sum(1)
            of_weights.addcmul_(block.square[self.rows], form)
        of_weights *= self.precision / free
        free *= 1 - of_weights.clamp_(max=MAX_LEVERAGE)
        left_out = (residual - (moved * self.others).sum(1)) / free
        return _Effect(left_out - residual, 1 - free, self._learned((1 - free) / free))

    def _learned(self, ratio: Tensor) -> Tensor:
        """Shares of rows' knowledge, by h / (1 − h) for each.

        That ratio is β times the variance without the rating.
        """
        prior = (self.others @ self.prior_covariance * self.others).sum(1)
        prior *= self.precision
        prior.clamp_(min=torch.finfo(prior.dtype).tiny)
        return (1 - ratio / prior).clamp_(min=0)


def _given_others(problem: Problem, state: State) -> State:
    """Rows of "vb" with the moments of their conditionals, given all others as is."""
    with parallel_map(problem) as tile_map, torch_threads(1):
        return Sweep(problem, ConditionalRule(), tile_map).update_apart(state)
