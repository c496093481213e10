"""Moments of the rows of one side, as the conditionals of the other side need them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from .._sparse import ParallelMap
from .layout import Layout
from .ratings import Ratings, UnobservedPairs

# Bytes of a table of packed moments beyond which only parts of its columns are held, if
# the sums over its rows take less memory.
MAX_TABLE_BYTES = 3 * 2**26


@dataclass(frozen=True)
class SideMoments:
    """Moments of one side's extended rows, as the other side's conditional needs them.

    Attributes
    ----------
    mean : Tensor of shape (n_rows, size of e)
        E[e] times the relative precision.
    precision : Tensor of shape (n_rows,)
        The relative precision.
    tables : tuple of Tensor of shape (n_rows, n_columns)
        E[e eᵀ] times the relative precision, packed: parts of the columns. Empty for
        points that are wide.
    roots : Tensor of shape (n_rows + 1, size of e) or None
        For points that are wide, e times the root of the relative precision, and a row
        of zeros.
    summed : Tensor of shape (n_others, n_packed) or None
        In place of tables that take more memory, their sums for each other row.
    """

    mean: Tensor
    precision: Tensor
    tables: tuple[Tensor, ...] = ()
    roots: Tensor | None = None
    summed: Tensor | None = None

    @classmethod
    def of(
        cls,
        rows: Tensor,
        covariance: Tensor | None,
        precision: Tensor,
        layout: Layout,
        parallel_map: ParallelMap,
        ratings: Ratings | None = None,
    ) -> SideMoments:
        """Moments of rows with packed covariances, or of points.

        If they need not be known but for their sums over `ratings`, these may be taken.
        """
        extended = layout.extend(rows)
        mean = extended * precision[:, None]
        if covariance is None and layout.is_wide:
            roots = F.pad(extended * precision.sqrt()[:, None], (0, 0, 0, 1))
            return cls(mean, precision, roots=roots)
        if covariance is not None and ratings is not None:
            table_bytes = rows.element_size() * len(rows) * layout.n_packed
            is_large = table_bytes > MAX_TABLE_BYTES and len(rows) > 2 * len(ratings)
            if is_large and layout.device.type == "cpu":
                moments = cls(mean, precision)
                summed = moments._summed_by(
                    ratings, rows, covariance, layout, parallel_map
                )
                return replace(moments, summed=summed)
        parts = layout.column_parts
        tables = tuple(
            rows.new_empty(len(rows), part.stop - part.start) for part in parts
        )

        def write(tile: slice) -> None:
            outer = mean[tile, :, None] * extended[tile, None, :]
            whole = tables[0][tile] if len(tables) == 1 else None
            packed = layout.pack_extended(outer, out=whole)
            if covariance is not None:
                layout.add_covariance(packed, covariance[tile], precision[tile])
            if whole is None:
                for table, part in zip(tables, parts, strict=True):
                    table[tile] = packed[:, part]

        layout.map_tiles(write, slice(0, len(rows)), parallel_map)
        return cls(mean, precision, tables)

    def at(self, rows: slice) -> SideMoments:
        """The same moments, with the sums of some rows of the other side."""
        if self.summed is None:
            return self
        return replace(self, summed=self.summed[rows])

    def summed_over(self, ratings: Ratings) -> SideMoments:
        """The same moments, with the sums over `ratings` for each row of these."""
        return replace(self, summed=self.sums(ratings))

    def _summed_by(
        self,
        ratings: Ratings,
        rows: Tensor,
        covariance: Tensor,
        layout: Layout,
        parallel_map: ParallelMap,
    ) -> Tensor:
        """Packed sums over the ratings of each row, a few columns at a time."""
        n_rows, n_columns = len(rows), layout.n_packed
        summed = rows.new_empty(len(ratings), n_columns)

        def write(tile: slice, columns: Tensor, table: Tensor) -> None:
            place = layout.covariance_places[columns]
            left, right = layout.triangle[:, columns]
            torch.index_select(self.mean[tile], 1, left, out=table[tile])
            table[tile] *= layout.extend(rows[tile]).index_select(1, right)
            own = covariance[tile].index_select(1, place.clamp(min=0))
            own *= place >= 0
            table[tile].addcmul_(own, self.precision[tile, None])

        def add_up(tile: slice, part: slice, table: Tensor) -> None:
            own = ratings.tile(tile)
            summed[tile, part] = own.sum(table, own.weight)

        n_bytes = n_rows * n_columns * rows.element_size()
        n_parts = min(-(-n_bytes // MAX_TABLE_BYTES), n_columns)
        size = -(-n_columns // n_parts)
        space = rows.new_empty(n_rows * size)
        for start in range(0, n_columns, size):
            part = slice(start, min(start + size, n_columns))
            table = space[: n_rows * (part.stop - start)].view(n_rows, -1)
            columns = torch.arange(start, part.stop)
            layout.map_tiles(
                partial(write, columns=columns, table=table),
                slice(0, n_rows),
                parallel_map,
            )
            layout.map_tiles(
                partial(add_up, part=part, table=table),
                ratings.share.rows(len(ratings)),
                parallel_map,
            )
        return summed

    def sums(self, ratings: Ratings) -> Tensor:
        """Σ weight · E[e eᵀ] over the ratings of each row, packed unless of roots."""
        if self.summed is not None:
            return self.summed
        if self.roots is not None:
            return ratings.sum_of_squares(self.roots)
        sums = [ratings.sum(table, ratings.weight) for table in self.tables]
        return sums[0] if len(sums) == 1 else torch.cat(sums, dim=1)

    def total(self, share: Tensor, layout: Layout) -> Tensor:
        """Σ share · E[e eᵀ] over the rows, times the relative precision, packed."""
        if self.roots is None:
            return torch.cat([share @ table for table in self.tables])
        e = self.roots[:-1]
        return layout.pack_extended(((e * share[:, None]).T @ e)[None])[0]


def unobserved_totals(
    pairs: UnobservedPairs | None, moments: SideMoments, layout: Layout
) -> list[tuple[Tensor | None, Tensor]]:
    """Factors of rows and packed Σ E[e eᵀ] over unobserved pairs, to be added up.

    A factor of None is 1 for all rows.
    """
    if pairs is None:
        return []
    new = pairs.weight * moments.total(pairs.is_new_other, layout)
    if bool(pairs.is_new_other.all()) and pairs.n_background == 0:
        return [(None, new)]
    known = moments.total(1 - pairs.is_new_other, layout) + pairs.background
    known *= pairs.weight
    return [(None, new), (pairs.is_new[:, None], known)]


def unobserved_moments(
    pairs: UnobservedPairs | None, moments: SideMoments, layout: Layout
) -> Callable[[slice], Tensor | None]:
    """Function from rows to their sums over unobserved pairs.

    It returns packed Σ E[e eᵀ] of each row, or one for all rows if they are alike; None
    if there are no pairs.
    """
    totals = unobserved_totals(pairs, moments, layout)
    if not totals:
        return lambda rows: None
    (_, new), *rest = totals
    if not rest:
        return lambda rows: new[None]
    ((is_new, known),) = rest
    assert is_new is not None
    return lambda rows: new + is_new[rows] * known
