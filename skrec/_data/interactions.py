"""Raw rows to canonical training rows and back: raw id <-> row number.

Canonical rows do not depend on the order of the rows given, nor on how a repeated row
is written: rows without weight are dropped, ids are numbered in sorted order, rows
stand in (user, item) order, and equal rows are one row with their weights summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from .reading import Columns
from .seen import SeenItems
from .sides import Sides
from .vocabulary import Growth, Ids


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


NO_FEATURES: Sides[SideFeatures | None] = Sides(None, None)


@dataclass(frozen=True)
class Interactions:
    """Canonical training rows.

    Attributes
    ----------
    user_ids, item_ids : ndarray of shape (n_users,) and (n_items,)
        Sorted raw ids.
    users, items : ndarray of shape (n_rows,), dtype int64
        Row numbers of each rating's user and item.
    rating, weight : ndarray of shape (n_rows,), dtype float64
    context : ndarray of shape (n_rows, n_context), dtype float64
        Further columns of X.
    side_features : Sides of SideFeatures or None
    """

    user_ids: np.ndarray
    item_ids: np.ndarray
    users: np.ndarray
    items: np.ndarray
    rating: np.ndarray
    weight: np.ndarray
    context: np.ndarray
    side_features: Sides[SideFeatures | None] = NO_FEATURES

    @classmethod
    def from_columns(
        cls, columns: Columns, rating: np.ndarray, weight: np.ndarray | None
    ) -> Interactions:
        """Canonical rows of validated columns, ratings and weights."""
        users, items, context = columns.users, columns.items, columns.features
        if weight is None:
            weight = np.ones(len(rating))
        elif not weight.all():
            kept = np.flatnonzero(weight)
            users, items = (
                Ids(ids.values[kept], ids.kind, ids.where) for ids in (users, items)
            )
            rating, weight, context = rating[kept], weight[kept], context[kept]
        user_numbers, user_ids = users.numbered()
        item_numbers, item_ids = items.numbered()

        pair = user_numbers * np.int64(len(item_ids)) + item_numbers
        order = np.argsort(pair)
        sorted_pair = pair[order]
        if (sorted_pair[1:] == sorted_pair[:-1]).any():
            columns_of_row = (*context.T[::-1], rating, pair)
            order = np.lexsort((weight, *columns_of_row))
            changes = np.zeros(len(order), dtype=bool)
            changes[:1] = True
            for values in columns_of_row:
                changes[1:] |= np.diff(values[order]) != 0
            starts = np.flatnonzero(changes)
            weight = np.add.reduceat(weight[order], starts)
            order = order[starts]
        else:
            weight = weight[order]
        return cls(
            user_ids=user_ids,
            item_ids=item_ids,
            users=user_numbers[order],
            items=item_numbers[order],
            rating=rating[order],
            weight=weight,
            context=context[order],
        )

    @cached_property
    def seen(self) -> SeenItems:
        """The items of each user."""
        return SeenItems.of_pairs(self.users, self.items, *self.shape)

    @property
    def pairs(self) -> np.ndarray:
        """user * n_items + item of all rows, which are sorted."""
        return self.users * len(self.item_ids) + self.items

    @property
    def shape(self) -> tuple[int, int]:
        """Number of users and number of items."""
        return len(self.user_ids), len(self.item_ids)


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
