"""Tiles of rows, which are independent given the other side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from .._sparse import ParallelMap
from .._threads import set_own_threads
from .conditional import (
    Conditional,
    Layout,
    SideMoments,
    Sums,
    UpdatedRows,
    slices,
)
from .problem import Problem
from .ratings import Ratings
from .state import Side

# Work of a sweep from which a pool of threads pays: numbers in packed moments, as many
# as all ratings add up, where a row takes as long as so many ratings. In less work,
# threads mostly wait for each other.
MIN_POOL_WORK, RATINGS_PER_ROW = 2**25, 40

T = TypeVar("T")


def in_turn(function: Callable[..., T], *values: Iterable[Any]) -> Iterator[T]:
    """The map of one thread, over the tiles that several would share."""
    return map(function, *values)


@contextmanager
def parallel_map(problem: Problem) -> Iterator[ParallelMap]:
    """A map over tiles of rows.

    A thread for each tile beats all threads for one tile after another, because torch
    solves small systems one by one. The fit does not depend on the number of threads.
    """
    n_threads = torch.get_num_threads() if problem.target.device.type == "cpu" else 1
    n_rows = len(problem.users) + len(problem.items)
    work = len(problem.target) + RATINGS_PER_ROW * n_rows
    if work * problem.layout.n_packed < MIN_POOL_WORK:
        yield map
        return
    if n_threads == 1:
        yield in_turn
        return
    with ThreadPoolExecutor(
        n_threads, initializer=set_own_threads, initargs=(1,)
    ) as pool:
        yield pool.map


class Given(Protocol):
    """What priors of rows are updated by, besides the rows."""

    @property
    def ratings(self) -> Ratings: ...

    @property
    def noise_precision(self) -> float: ...

    @property
    def layout(self) -> Layout: ...


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

    def map_tiles(self, function: Callable[[slice, Any], T]) -> list[T]:
        """Values of a function of the rows of each tile and their conditional.

        Tiles are of the rows that this process computes.
        """
        layout, own = self.layout, self.ratings.share.rows(len(self.ratings))
        n_rows, parallel_map = own.stop - own.start, self.parallel_map
        size = layout.block_rows(n_rows, parallel_map)
        if size <= layout.tile_rows(n_rows, parallel_map):
            return layout.map_tiles(
                lambda rows: function(rows, self._of(rows, self.others.at(rows))),
                own,
                parallel_map,
            )

        def of_block(block: slice) -> list[T]:
            others = self.others.at(block).summed_over(self.ratings.tile(block))
            n_rows = block.stop - block.start
            tiles = slices(block, layout.tile_rows(n_rows, parallel_map))
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
