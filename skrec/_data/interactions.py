"""Raw rows to canonical training rows and back: raw id <-> row number.

Canonical rows do not depend on the order of the rows given, nor on how a repeated row
is written: rows without weight are dropped, ids are numbered in sorted order, rows
stand in (user, item) order, and equal rows are one row with their weights summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from scipy import sparse

from .._share import ALL_ROWS, Share
from .context import NO_CONTEXT, KnownContext
from .reading import Columns
from .seen import SeenItems, first_of_pairs
from .sides import Sides
from .vocabulary import Growth


@dataclass(frozen=True)
class SideFeatures:
    """Features of the ids of one side, in columns of numbers.

    Attributes
    ----------
    names : list of str
        Of the columns.
    matrix : csr_array of shape (n_ids, n_columns)
    """

    names: list[str]
    matrix: sparse.csr_array


# Rows whose temporary arrays exist at once, where rows are many.
BLOCK_ROWS = 2**20

# A function that makes canonical rows of columns, ratings and weights.
Collect = Callable[[Columns, np.ndarray, np.ndarray], "Interactions"]

ONE_PROCESS: Sides[Share] = Sides(ALL_ROWS, ALL_ROWS)

NO_FEATURES: Sides[SideFeatures | None] = Sides(None, None)


@dataclass(frozen=True)
class Interactions:
    """Canonical training rows.

    Attributes
    ----------
    user_ids, item_ids : ndarray of shape (n_users,) and (n_items,)
        Sorted raw ids.
    users, items : ndarray of shape (n_rows,), dtype int32
        Row numbers of each rating's user and item.
    rating, weight : ndarray of shape (n_rows,), dtype float64
    context : ndarray of shape (n_rows, n_context), dtype float64
        Further columns of X: numbers, then numbers of values (see `context`).
    side_features : Sides of SideFeatures or None
    shares : Sides of Share
        The users and the items that this process computes. The rows are those of these
        users, and ids are those of all.
    known_context : KnownContext
        Names and raw values of the context.
    precision : float
        How far the weights are relative precisions of the noise (see `Weighting`).
    """

    user_ids: np.ndarray
    item_ids: np.ndarray
    users: np.ndarray
    items: np.ndarray
    rating: np.ndarray
    weight: np.ndarray
    context: np.ndarray
    side_features: Sides[SideFeatures | None] = NO_FEATURES
    shares: Sides[Share] = ONE_PROCESS
    known_context: KnownContext = NO_CONTEXT
    precision: float = 0.0

    @classmethod
    def from_columns(
        cls, columns: Columns, rating: np.ndarray, weight: np.ndarray | None
    ) -> Interactions:
        """Canonical rows of validated columns, ratings and weights."""
        if weight is None:
            weight = np.broadcast_to(1.0, len(rating))
        columns, rating, weight = weighed_rows(columns, rating, weight)
        user_numbers, user_ids = columns.users.numbered()
        item_numbers, item_ids = columns.items.numbered()
        columns = columns.with_own_values()
        return cls.from_numbers(
            Sides(user_ids, item_ids),
            Sides(user_numbers, item_numbers),
            rating,
            weight,
            columns.context,
            known_context=columns.known,
        )

    @classmethod
    def from_numbers(
        cls,
        ids: Sides[np.ndarray],
        numbers: Sides[np.ndarray],
        rating: np.ndarray,
        weight: np.ndarray,
        context: np.ndarray,
        **others: Any,
    ) -> Self:
        """Canonical rows of numbered users and items."""
        user_numbers, item_numbers = numbers
        pair = user_numbers * np.int64(len(ids.item))
        pair += item_numbers
        order = np.arange(len(pair))
        if (pair[1:] < pair[:-1]).any():
            order = sorting_order(item_numbers, len(ids.item))
            order = order[sorting_order(user_numbers[order], len(ids.user))]
        pair = pair[order]
        is_repeat = pair[1:] == pair[:-1]
        if is_repeat.any():
            order, starts = _sorted_repeats(
                order, pair, is_repeat, (*context.T[::-1], rating), weight
            )
            weight = np.add.reduceat(weight[order], starts)
            order = order[starts]
            del starts
        else:
            weight = weight[order]
        del pair, is_repeat
        users, items = (
            own.astype(np.int32, copy=False)[order]
            for own in (user_numbers, item_numbers)
        )
        return cls(
            user_ids=ids.user,
            item_ids=ids.item,
            users=users,
            items=items,
            rating=rating[order],
            weight=weight,
            context=context[order],
            **others,
        )

    def merged(self) -> tuple[Interactions, float]:
        """The rows with one for each pair and context, and what they lose.

        Such rows have one prediction. Their mean has all that they tell about it, with
        the sum of their weights. The variance of ratings about the means is lost.
        """
        rows, share = self, self.shares.user
        first = first_of_pairs(self.users, self.items)
        if not share.largest(float(not first.all())):
            return self, 0.0
        if self.context.shape[1]:
            order, starts = _sorted_repeats(
                np.arange(len(first)),
                self.pairs,
                ~first[1:],
                tuple(self.context.T[::-1]),
                self.weight,
            )
            rows = rows.at(order)
            first = np.zeros(len(order), dtype=bool)
            first[starts] = True
        means = rows.at(first)
        # Most pairs have one row, and are left as they are.
        is_alone = first & np.append(first[1:], True)
        of_several = first[~is_alone]
        starts = np.flatnonzero(of_several)
        number = np.cumsum(of_several) - 1
        weight, rating = rows.weight[~is_alone], rows.rating[~is_alone]
        totals = np.add.reduceat(weight, starts)
        # Exact where ratings are equal.
        deviation = rating - rating[starts][number]
        shift = np.add.reduceat(weight * deviation, starts) / totals
        deviation -= shift[number]
        is_mean = ~is_alone[first]
        means.weight[is_mean] = totals
        means.rating[is_mean] += shift
        squares = float(weight @ deviation**2)
        squares, total = share.sum(np.array([squares, rows.weight.sum()]))
        return means, float(squares / total)

    def at(self, places: np.ndarray | slice) -> Interactions:
        """Rows at some places, by their numbers, a mask or a slice."""
        return replace(
            self,
            users=self.users[places],
            items=self.items[places],
            rating=self.rating[places],
            weight=self.weight[places],
            context=self.context[places],
        )

    @cached_property
    def seen(self) -> SeenItems:
        """The items of each user."""
        return SeenItems.of_pairs(self.users, self.items, *self.shape)

    def of_all_pairs(self, values: np.ndarray) -> np.ndarray:
        """Values of the pairs of all processes, by those of the pairs of this one."""
        return values

    @property
    def all_items(self) -> np.ndarray:
        """Items of the rows of all processes."""
        return self.items

    @property
    def n_rows(self) -> int:
        """Number of the rows of all processes."""
        return int(self.shares.user.sum(float(len(self.rating))))

    @cached_property
    def rating_range(self) -> tuple[float, float]:
        """Smallest and largest rating of all rows."""
        low, high = float(self.rating.min()), float(self.rating.max())
        share = self.shares.user
        return -share.largest(-low), share.largest(high)

    @property
    def n_values(self) -> list[int]:
        """Number of values of each column of context that has values."""
        return [len(values) for values in self.known_context.vocabularies]

    @property
    def numbers(self) -> np.ndarray:
        """Columns of numbers of the context."""
        return self.context[:, : self.context.shape[1] - len(self.n_values)]

    @property
    def codes(self) -> np.ndarray:
        """Numbers of values, shape (n_rows, n_columns), dtype int64."""
        return self.context[:, self.numbers.shape[1] :].astype(np.int64)

    @property
    def value_weights(self) -> list[np.ndarray]:
        """Total weight of the rows of all processes under each value, by column."""
        return [
            self.shares.user.sum(np.bincount(codes, self.weight, n_values))
            for codes, n_values in zip(self.codes.T, self.n_values, strict=True)
        ]

    def without_values(self) -> Interactions:
        """The same rows with the numbers of their context alone."""
        return replace(self, context=self.numbers, known_context=NO_CONTEXT)

    @property
    def pair_starts(self) -> np.ndarray | None:
        """First row of each pair, None if none is repeated."""
        first = first_of_pairs(self.users, self.items)
        return None if first.all() else np.flatnonzero(first)

    @property
    def has_repeats(self) -> bool:
        """Whether a pair of any process has several rows."""
        return bool(self.shares.user.largest(float(self.pair_starts is not None)))

    @property
    def counts(self) -> np.ndarray | None:
        """Number of squares of the noise that each row counts as; None is its weight.

        A pair whose weight is its precision has one square, whatever that is. Where
        weights say nothing of the noise, a square counts as far as its pair does.
        """
        if not self.precision:
            return None
        alone, starts = np.ones(len(self.weight)), self.pair_starts
        if starts is not None:
            lengths = np.diff(starts, append=len(alone))
            of_pairs = np.add.reduceat(self.weight, starts)
            alone = self.weight / np.repeat(of_pairs, lengths)
        return self.precision * alone + (1 - self.precision) * self.weight

    @property
    def pairs(self) -> np.ndarray:
        """user * n_items + item of all rows, which are sorted."""
        return self.users * np.int64(len(self.item_ids)) + self.items

    @property
    def shape(self) -> tuple[int, int]:
        """Number of users and number of items."""
        return len(self.user_ids), len(self.item_ids)


def _sorted_repeats(
    order: np.ndarray,
    pair: np.ndarray,
    is_repeat: np.ndarray,
    values: tuple[np.ndarray, ...],
    weight: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Order of rows by pair, values and weight, and the first rows of equal ones.

    `order` sorts rows by pair, `pair` is in this order, and `is_repeat` holds for each
    row after the first whether its pair is the one before.
    """
    is_one_of_several = np.zeros(len(order), dtype=bool)
    is_one_of_several[1:] = is_repeat
    is_one_of_several[:-1] |= is_repeat
    places = np.flatnonzero(is_one_of_several)
    rows = order[places]
    keys = [weight[rows], *(of_rows[rows] for of_rows in values), pair[places]]
    sorting = np.lexsort(keys)
    order[places] = rows[sorting]
    is_first = np.append(True, ~is_repeat)[: len(order)]
    for key in keys[1:-1]:
        is_first[places[1:]] |= np.diff(key[sorting]) != 0
    return order, np.flatnonzero(is_first)


def sorting_order(numbers: np.ndarray, n_numbers: int) -> np.ndarray:
    """Order that sorts row numbers by counting; equal ones stay in their order."""
    # Entries of a row of a sparse matrix are in the order of their columns.
    places = np.arange(len(numbers))
    matrix = sparse.coo_array(
        (np.ones(len(numbers), dtype=bool), (numbers, places)),
        shape=(n_numbers, len(numbers)),
    )
    return matrix.tocsr().indices.astype(np.intp, copy=False)


def blocks(n_rows: int) -> Iterator[slice]:
    """Slices of so many rows that temporary arrays of a slice take little memory."""
    for start in range(0, n_rows, BLOCK_ROWS):
        yield slice(start, min(start + BLOCK_ROWS, n_rows))


def sums_by(
    numbers: np.ndarray, values: Callable[[slice], np.ndarray], n_sums: int
) -> np.ndarray:
    """Sums of values, given block by block, over the rows of each number."""
    sums = np.zeros(n_sums)
    for block in blocks(len(numbers)):
        sums += np.bincount(numbers[block], values(block), n_sums)
    return sums


def weighed_rows(
    columns: Columns, rating: np.ndarray, weight: np.ndarray
) -> tuple[Columns, np.ndarray, np.ndarray]:
    """The rows with a weight above zero."""
    if weight.all():
        return columns, rating, weight
    kept = np.flatnonzero(weight)
    users, items, *values = (
        ids.take(kept) for ids in (columns.users, columns.items, *columns.values)
    )
    columns = replace(
        columns,
        users=users,
        items=items,
        features=columns.features[kept],
        values=tuple(values),
    )
    return columns, rating[kept], weight[kept]


@dataclass(frozen=True)
class FurtherRows:
    """Rows to update a fitted model with.

    Attributes
    ----------
    data : Interactions
        The rows, numbered among ids of their own.
    users, items : ndarray of shape (n_users,) and (n_items,)
        Numbers of these ids in the model; below 0 are new ones, -2 - j by row j of the
        side features.
    cold : Sides of csr_array or None
        These side features.
    growths : Sides of Growth
    seen : SeenItems
        Before these rows.
    """

    data: Interactions
    users: np.ndarray
    items: np.ndarray
    cold: Sides[sparse.csr_array | None]
    growths: Sides[Growth]
    seen: SeenItems

    @cached_property
    def seen_after(self) -> SeenItems:
        """Seen items with these rows."""
        users, items = self.growths
        return self.seen.grown(
            users, items, users.given[self.data.users], items.given[self.data.items]
        )
