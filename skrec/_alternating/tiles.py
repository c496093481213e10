"""Rows by their exact conditionals, tile by tile.

Rows are independent given the other side, so that tiles of them are updated in turn, or
by several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain
from operator import add
from typing import Any, TypeVar

import torch
from torch import Tensor

from .._sparse import ParallelMap
from .._threads import set_own_threads
from .conditional import Conditional, Sums, UpdatedRows, squares_of_level
from .feature_weights import RowsGivenWeights, step_weights
from .layout import Layout, slices
from .moments import SideMoments, unobserved_moments
from .problem import Problem
from .ratings import Ratings
from .rules import OVER_RELAXATION, Rule
from .scalars import total
from .state import Side
from .symmetric import times

# Work of a sweep from which a pool of threads pays: numbers in packed moments, as many
# as all ratings add up, where a row takes as long as so many ratings. In less work,
# threads mostly wait for each other.
MIN_POOL_WORK, RATINGS_PER_ROW = 2**26, 40

T = TypeVar("T")


def in_turn(function: Callable[..., T], *values: Iterable[Any]) -> Iterator[T]:
    """The map of one thread, over the tiles that several would share."""
    return map(function, *values)


def needs_pool(n_ratings: int, n_rows: int, layout: Layout) -> bool:
    """Whether a sweep over the rows of both sides has work for several threads."""
    return (n_ratings + RATINGS_PER_ROW * n_rows) * layout.n_packed >= MIN_POOL_WORK


def useful_threads(n_ratings: int, n_rows: int, layout: Layout) -> int:
    """Number of threads that a sweep can use well."""
    return torch.get_num_threads() if needs_pool(n_ratings, n_rows, layout) else 1


@contextmanager
def parallel_map(problem: Problem) -> Iterator[ParallelMap]:
    """A map over tiles of rows.

    A thread for each tile beats all threads for one tile after another, because torch
    solves small systems one by one. The fit does not depend on the number of threads.
    """
    n_threads = torch.get_num_threads() if problem.target.device.type == "cpu" else 1
    n_rows = len(problem.users) + len(problem.items)
    if not needs_pool(len(problem.target), n_rows, problem.layout):
        yield map
        return
    if n_threads == 1:
        yield in_turn
        return
    with ThreadPoolExecutor(
        n_threads, initializer=set_own_threads, initargs=(1,)
    ) as pool:
        yield pool.map


@dataclass(frozen=True)
class SideConditional:
    """Conditional of one side's rows given the other side, tile by tile.

    Attributes
    ----------
    ratings : Ratings
    side : Side
        The rows as they are, with their priors.
    others : SideMoments
        Moments of the other side.
    unobserved : callable
        Function from rows to their sums over unobserved pairs.
    noise_precision : float
        β.
    layout : Layout
    parallel_map : callable
    """

    ratings: Ratings
    side: Side
    others: SideMoments
    unobserved: Callable[[slice], Tensor | None]
    noise_precision: float
    layout: Layout
    parallel_map: ParallelMap

    @classmethod
    def given(
        cls,
        ratings: Ratings,
        side: Side,
        other: Side,
        noise_precision: float,
        layout: Layout,
        parallel_map: ParallelMap,
    ) -> SideConditional:
        """The conditional given the other side's rows: points, or Gaussians."""
        others = SideMoments.of(
            other.mean,
            other.covariance,
            other.relative_precision,
            layout,
            parallel_map,
            None if ratings.unobserved else ratings,
        )
        unobserved = unobserved_moments(ratings.unobserved, others, layout)
        return cls(
            ratings, side, others, unobserved, noise_precision, layout, parallel_map
        )

    def has_levels(self, rule: Rule) -> bool:
        """Whether squares of the noise are those without the levels of rows."""
        are_free = self.layout.biased and self.ratings.unobserved is None
        return are_free and rule.learns_noise_of_rows()

    def map_tiles(self, function: Callable[[slice, Any], T]) -> list[T]:
        """Values of a function of the rows of each tile and their conditional.

        Tiles are of the rows that this process computes.
        """
        layout, own = self.layout, self.ratings.share.rows(len(self.ratings))
        parallel_map, itemsize = self.parallel_map, self.side.mean.element_size()
        sizes = own.stop - own.start, parallel_map, itemsize
        size, tile_size = layout.block_rows(*sizes), layout.tile_rows(*sizes)
        if size <= tile_size:
            return layout.map_tiles(
                lambda rows: function(rows, self._of(rows, self.others.at(rows))),
                own,
                parallel_map,
                tile_size,
            )

        def of_block(block: slice) -> list[T]:
            others = self.others.at(block).summed_over(self.ratings.tile(block))
            n_rows = block.stop - block.start
            tiles = slices(block, layout.tile_rows(n_rows, parallel_map, itemsize))
            return [
                function(rows, self._of(rows, others.at(_within(rows, block))))
                for rows in tiles
            ]

        blocks = layout.map_tiles(of_block, own, parallel_map, size)
        return list(chain.from_iterable(blocks))

    def _of(self, rows: slice, others: SideMoments) -> Conditional | UpdatedRows:
        side, layout, ratings = self.side, self.layout, self.ratings.tile(rows)
        unobserved = self.unobserved(rows)
        sums = Sums.over(ratings, others, layout, unobserved)
        beta = self.noise_precision * side.relative_precision[rows]
        if side.prior_weight is not None:
            # A prior twice as firm has the effect of noise twice as large, except on
            # the covariance.
            beta /= side.prior_weight[rows]
        prior = side.row_priors
        if prior is not None and prior.covariance is not None:
            covariance = layout.unpack(prior.covariance[rows])
            return UpdatedRows(sums, beta, prior.mean[rows], covariance)
        mean = side.prior_means(rows)
        return Conditional.given(sums, beta, mean, side.prior_precision)


def _within(rows: slice, block: slice) -> slice:
    """Rows of a block, by their places in it."""
    return slice(rows.start - block.start, rows.stop - block.start)


def update_rows(given: SideConditional, rule: Rule) -> tuple[Side, Tensor]:
    """Rows by the rule, and the expected residual sum of squares of each.

    Perhaps with a step of the weights of features that rows follow.
    """
    if given.side.weights and rule.steps_weights:
        return _update_rows_and_weights(given, rule)
    side, layout, has_levels = given.side, given.layout, given.has_levels(rule)
    auxiliary = rule.auxiliary(side.mean)
    mean = torch.empty_like(side.mean)
    squares = torch.empty_like(side.relative_precision)
    covariance = None
    if rule.has_covariance:
        covariance = mean.new_empty(len(mean), layout.n_packed_row)

    def update_tile(rows: slice, conditional: Any) -> tuple[Tensor | float, ...]:
        mean[rows], spread, log_det = rule.rows(conditional, auxiliary[rows])
        if covariance is not None and spread is not None:
            layout.pack(spread, out=covariance[rows])
            if side.prior_weight is not None:
                covariance[rows] /= side.prior_weight[rows, None]
        known = None if rule.is_certain else spread
        squares[rows] = conditional.residual(mean[rows], known)
        if has_levels:
            sums = conditional.sums
            squares[rows] -= squares_of_level(
                sums.g[:, -1], sums.G_of_bias, mean[rows], given.noise_precision
            )
        squared_change: Tensor | float = 0.0
        if side.row_priors is not None:
            change = mean[rows] - side.mean[rows]
            squared_change = total(conditional.sums.squares_of(change))
        return log_det, squared_change

    parts = zip(*given.map_tiles(update_tile), strict=True)
    share = given.ratings.share
    log_det, squared_change = (share.sum(reduce(add, values)) for values in parts)
    side = _completed(given, mean, squares, covariance, log_det)
    return replace(side, squared_change=squared_change), squares


def _update_rows_and_weights(given: SideConditional, rule: Rule) -> tuple[Side, Tensor]:
    """As `update_rows`, with a step of the weights that rows follow."""
    side = given.side
    assert side.shift is not None
    # The gradient for the weights is that at the means, however far rows are relaxed.
    rows = _Pass.over(given)
    step = step_weights(
        given.ratings.features,
        side.weights,
        RowsGivenWeights(
            rows.mean - (side.prior_mean + side.shift),
            rows.covariance,
            side.prior_precision,
            side.prior_weight,
            given.ratings.share,
        ),
        given.layout,
        given.parallel_map,
        with_covariance=rule.has_covariance,
    )
    mean = torch.addcmul(rows.mean, step.length, step.row_direction)
    shift = torch.addcmul(side.shift, step.length, step.shift_direction)
    deviation = mean - (side.prior_mean + shift)
    squares = rows.residual(mean, deviation, side.prior_precision)
    if step.trace is not None:
        squares.addcdiv_(step.trace, rows.noise_precision)
    mean += rows.ahead
    if given.has_levels(rule):
        squares -= squares_of_level(
            rows.g[:, -1], rows.G_of_bias, mean, given.noise_precision
        )
    covariance = rows.covariance if rule.has_covariance else None
    log_det = given.ratings.share.sum(rows.log_det)
    side = _completed(given, mean, squares, covariance, log_det)
    return replace(side, weights=step.weights, shift=shift), squares


def _completed(
    given: SideConditional,
    mean: Tensor,
    squares: Tensor,
    covariance: Tensor | None,
    log_det: Tensor | float,
) -> Side:
    """The side with these rows, of which other processes have computed theirs."""
    tables = [mean, squares, *([] if covariance is None else [covariance])]
    given.ratings.share.complete(*tables)
    return replace(
        given.side, mean=mean, covariance=covariance, axes=None, log_det=log_det
    )


@dataclass(frozen=True)
class _Pass:
    """Moments of rows given the weights, and parts of their residuals.

    Of the rows that this process computes, in tables of all rows.

    Attributes
    ----------
    mean, covariance : Tensor
        Moments; covariances are packed.
    log_det : Tensor of shape ()
        Sum of the log determinants of the covariances.
    ahead : Tensor of shape (n_rows, row_size)
        How far over-relaxation goes beyond the mean.
    g, G_of_bias : Tensor of shape (n_rows, row_size)
        g of each row, and the last row of its G.
    noise_precision : Tensor of shape (n_rows,)
        β of each row.
    squares : Tensor of shape (n_rows,)
        s + aᵀAa / β for `ahead` a.
    """

    mean: Tensor
    covariance: Tensor
    log_det: Tensor
    ahead: Tensor
    g: Tensor
    G_of_bias: Tensor
    noise_precision: Tensor
    squares: Tensor

    @classmethod
    def over(cls, given: SideConditional) -> _Pass:
        """A pass over the tiles of a side."""
        side, layout = given.side, given.layout
        mean, ahead, g, G_of_bias = (torch.empty_like(side.mean) for _ in range(4))
        beta, squares = (torch.empty_like(side.relative_precision) for _ in range(2))
        covariance = mean.new_empty(len(mean), layout.n_packed_row)

        def keep(rows: slice, conditional: Conditional) -> Tensor:
            x, spread, log_det = conditional.moments()
            layout.pack(spread, out=covariance[rows])
            sums, mean[rows] = conditional.sums, x
            beta[rows], g[rows] = conditional.noise_precision, sums.g
            G_of_bias[rows] = sums.G_of_bias
            further = torch.sub(x, side.mean[rows], out=ahead[rows])
            further *= OVER_RELAXATION
            further = (further * times(conditional.A, further)).sum(1)
            torch.addcdiv(sums.s, further, beta[rows], out=squares[rows])
            return log_det

        log_det = reduce(add, given.map_tiles(keep))
        return cls(mean, covariance, log_det, ahead, g, G_of_bias, beta, squares)

    def residual(
        self, mean: Tensor, deviation: Tensor, prior_precision: Tensor
    ) -> Tensor:
        """Residual sum of squares of the points `mean` + `ahead`.

        `mean` is that of the conditional for some weights, and `deviation` its
        difference from the prior mean.
        """
        # G is not formed again: at the mean of a conditional βGx = βg − Λ(x − m), and
        # beyond it βG = A − Λ.
        gradient = deviation @ prior_precision
        of_prior = gradient * mean
        gradient = torch.addmm(gradient, self.ahead, prior_precision, beta=2)
        of_prior = of_prior.addcmul_(gradient, self.ahead).sum(1)
        squares = self.squares - (self.g * mean).sum(1)
        return squares.addcdiv_(of_prior, self.noise_precision, value=-1)
