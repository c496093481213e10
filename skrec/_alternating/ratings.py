"""Ratings as the sparse rows of users or of items, and pairs without ratings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .._share import ALL_ROWS, Share
from .._sparse import SparseRows
from .scalars import fetched, total

# The variance of a row's ratings has so many squares besides its own. The others' is
# known if products of ratings by two rows have this share in the squares of weights.
TIED_SQUARES, LEAST_PAIRS = 2.0, 1e-9

# Ties of rows that are not tied, relative to those that are; the least share of these
# rows; and the weight of tied ratings per row up to which there are no ties. They all
# count from one more on.
TIED_SHARE, MIN_UNTIED, LEAST_TIED = 2.0, 0.1, 1.0

# Ratings of a block of rows of similar length, whose squares are summed at once.
BLOCK_RATINGS = 2**13


@dataclass(frozen=True)
class UnobservedPairs:
    """Pairs of one side's rows and the other's that count as ratings of 0.

    Known rows are those of an earlier fit, which has counted their pairs with known
    others; new rows have no pair that has counted before.

    Attributes
    ----------
    weight : float
        Weight of each pair, added to that of its rating if there is one.
    is_new : Tensor of shape (n_rows,)
        1 for new rows, 0 for known ones.
    is_new_other : Tensor of shape (n_others,)
        The same for the rows of the other side.
    background : Tensor of shape (n_packed,)
        Σ E[e eᵀ] · precision over known others that are not among these.
    n_background : int
        Number of those others.
    """

    weight: float
    is_new: Tensor
    is_new_other: Tensor
    background: Tensor
    n_background: int

    @property
    def count(self) -> Tensor:
        """Weight of the pairs of each row."""
        n_new = self.is_new_other.sum()
        n_known = len(self.is_new_other) - n_new + self.n_background
        return self.weight * (n_new + self.is_new * n_known)


@dataclass(frozen=True)
class Ratings(SparseRows):
    """Ratings in the order of the rows of one side.

    Attributes
    ----------
    weight, target : Tensor of shape (n_ratings,)
        Weight of each rating, and E[y].
    count : Tensor of shape (n_rows,)
        Number of squares of the noise that each row has, or the sum of its weights
        where weights are not precisions, including its unobserved pairs.
    features : tuple of Block
        Features of the rows.
    unobserved : UnobservedPairs or None
        Pairs that count as ratings of 0, if any.
    target_variance : Tensor of shape (n_ratings,) or None
        Var[y]; None is 0.
    ties : Tensor of shape (n_rows,) or None
        Half of the weight of ratings of average noise that the relative precision of a
        row counts besides its own (see `with_ties`); None is 0.
    pair : Tensor of shape (n_ratings,) or None
        Number of the pair of each rating, whose noise is that of its mean; None if
        each rating has noise of its own.
    """

    weight: Tensor
    target: Tensor
    count: Tensor
    features: tuple[Any, ...] = ()
    unobserved: UnobservedPairs | None = None
    target_variance: Tensor | None = None
    ties: Tensor | None = None
    pair: Tensor | None = None

    @property
    def weighted_targets(self) -> tuple[Tensor, Tensor]:
        """w E[y] and w E[y²] of each rating."""
        first = self.weight * self.target
        second = first * self.target
        if self.target_variance is not None:
            second.addcmul_(self.weight, self.target_variance)
        return first, second

    @cached_property
    def half_count(self) -> Tensor:
        """Half of the count of each row, the shape that a Gamma gains by it."""
        return self.count / 2

    @cached_property
    def total_weight(self) -> float:
        """Sum of the weights of all rows."""
        (weight,) = fetched(total(self.count))
        return weight

    @classmethod
    def from_sorted(
        cls,
        rows: Tensor,
        others: Tensor,
        n_rows: int,
        weight: Tensor,
        target: Tensor,
        count: Tensor | None = None,
        share: Share = ALL_ROWS,
    ) -> Ratings:
        """Ratings given in the order of `rows`, those of a share of all rows.

        `count` is that of each rating, by default its weight.
        """
        pattern = SparseRows.of_entries(rows, others, n_rows)
        counts = weight if count is None else count
        count = pattern.sum_values(counts.double()).to(weight.dtype)
        share.complete(count)
        return cls(
            offsets=pattern.offsets,
            others=pattern.others,
            weight=weight,
            target=target,
            count=count,
            share=share,
        )

    def with_pairs(self) -> Ratings:
        """The same ratings, where the noise of a pair is that of its mean."""
        places = torch.arange(len(self), device=self.others.device)
        row = places.repeat_interleave(self.lengths, output_size=len(self.others))
        is_first = torch.ones_like(self.others, dtype=torch.bool)
        is_first[1:] = row[1:] != row[:-1]
        is_first[1:] |= self.others[1:] != self.others[:-1]
        if bool(is_first.all()):
            return self
        return replace(self, pair=is_first.cumsum(0) - 1)

    def scatter(self, values: Tensor, weight: Tensor) -> Tensor:
        """Σ weight · (value − mean of its pair)² over the ratings of every row."""
        if self.pair is None:
            return values.new_zeros(len(self))
        sums = values.new_zeros(2, int(self.pair[-1]) + 1)
        sums.index_add_(1, self.pair, torch.stack([weight * values, weight]))
        deviation = values - (sums[0] / sums[1]).index_select(0, self.pair)
        return self.sum_values(weight * deviation.square())

    def with_ties(self) -> Ratings:
        """The same ratings, with the ties of rows whose ratings are nearly all equal.

        Such rows do not follow the other side. A fit without differences in the other
        side fits them exactly, so that without ties they would show that there is no
        noise, and that they alone count. Where the other side has the variance V, and
        w ratings of a row the variance v < V, the row has ties of the weight
        w (V / v − 1); a few ratings may be equal by chance, so that v has TIED_SQUARES
        squares V besides its own. That is the share 1 − v / V of its ratings. With the
        share S of all, every row has further ties, w TIED_SHARE S / (1 − S), so that
        rows without ties cannot all be taken for noise.

        Few ties cannot outweigh the priors of the relative precisions, and are left
        out.
        """
        share, lengths, others = self.share, self.lengths, self.others
        w, y = self.weight.double(), self.target.double()
        count = self.sum_values(w)
        mean = self.sum_values(w * y) / count.where(count > 0, 1)
        # In place, since these are large where ratings are many.
        deviation = mean.repeat_interleave(lengths)
        torch.sub(y, deviation, out=deviation)
        del y
        weighted = w * deviation
        scatter = self.sum_values(deviation.mul_(weighted))
        del deviation
        last = float(others.max()) if len(others) else 0.0
        n_others = int(share.largest(last)) + 1
        sums = torch.stack([torch.bincount(others, x, n_others) for x in (weighted, w)])
        own = torch.stack([total(weighted.square()), total(w.square())])
        # Products of two ratings of the same other.
        between, pairs = share.sum(sums).square().sum(1) - share.sum(own)
        V = torch.where(pairs > LEAST_PAIRS * own[1], between / pairs, 0).clamp(min=0)
        expected = (count - 1) * V
        ratio = (scatter + TIED_SQUARES * V) / expected.where(expected > 0, 1)
        ratio = ratio.clamp(max=1).where(expected > 0, 1)
        mine = share.rows(len(self))
        sums_of_weight = total((count * (1 - ratio))[mine]), total(w)
        tied, weight = fetched(*share.sum(torch.stack(sums_of_weight)))
        part = min(max(tied / len(self) - LEAST_TIED, 0.0), 1.0)
        if not part:
            return self
        of_all = TIED_SHARE * tied / max(weight - tied, MIN_UNTIED * weight)
        ties = (part / 2 * count * (1 / ratio - 1 + of_all)).to(self.count)
        share.complete(ties)
        return replace(self, ties=ties)

    def sum_of_squares(self, points: Tensor) -> Tensor:
        """Σ weight · point pointᵀ over the ratings of every row.

        Equals `sum` of a table of all such squares, and is faster where these are
        large. The last point has to be zero.
        """
        size = points.shape[1]
        sums = points.new_empty(len(self), size, size)
        lengths, order = self.lengths.sort(descending=True)
        longest, start = lengths.tolist(), 0
        last = max(len(self.others) - 1, 0)
        root = None if bool((self.weight == 1).all()) else self.weight.sqrt()
        while start < len(order):
            length = max(1, longest[start])
            rows = order[start : start + max(1, BLOCK_RATINGS // length)]
            within = torch.arange(length, device=order.device)
            is_rating = (within < self.lengths[rows, None]).flatten()
            places = (self.offsets[rows, None] + within).clamp_(max=last).flatten()
            # Short rows of a block are filled up with the point that is zero.
            others = self.others[places].where(is_rating, len(points) - 1)
            block = points.index_select(0, others)
            if root is not None:
                block *= root[places][:, None]
            block = block.view(len(rows), length, size)
            sums[rows] = block.mT @ block
            start += len(rows)
        return sums

    def tile(self, rows: slice) -> Ratings:
        """The ratings of consecutive rows."""
        if rows == slice(0, len(self)):
            return self
        key = rows.start, rows.stop
        if key not in self.parts:
            offsets = self.offsets[rows.start : rows.stop + 1]
            start, stop = offsets[:: len(offsets) - 1].tolist()
            self.parts[key] = slice(start, stop), offsets - start, {}
        entries, offsets, parts = self.parts[key]
        variance = self.target_variance
        return Ratings(
            offsets,
            self.others[entries],
            self.weight[entries],
            self.target[entries],
            self.count[rows],
            target_variance=None if variance is None else variance[entries],
            parts=parts,
        )

    def tiles(self, size: int) -> Iterator[tuple[slice, Ratings]]:
        """The ratings of the rows that have them here, `size` rows at a time."""
        own = self.share.rows(len(self))
        for start in range(own.start, own.stop, size):
            rows = slice(start, min(start + size, own.stop))
            yield rows, self.tile(rows)
