"""ForgottenRows: rows and ids that a fitted model is to be without."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .interactions import Interactions
from .seen import SeenItems, is_in_sorted
from .sides import Sides


@dataclass(frozen=True)
class ForgottenRows:
    """Rows to forget, and ids to forget with all that they have.

    An id that loses its last row is forgotten too. One that had none stays, such as one
    of factors that were trained elsewhere.

    Attributes
    ----------
    data : Interactions or None
        Rows, numbered among ids of their own.
    users, items : ndarray of shape (n_users,) and (n_items,)
        Numbers of these ids in the model.
    ids : Sides of ndarray
        Numbers in the model of the ids to forget.
    seen : SeenItems
        Before.
    """

    data: Interactions | None
    users: np.ndarray
    items: np.ndarray
    ids: Sides[np.ndarray]
    seen: SeenItems

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """User and item of each row, by numbers in the model."""
        assert self.data is not None
        return self.users[self.data.users], self.items[self.data.items]

    @cached_property
    def before(self) -> tuple[np.ndarray, np.ndarray]:
        """Users and items of all pairs, by numbers in the model."""
        return self.seen.take(np.arange(len(self.seen)))

    @cached_property
    def is_left(self) -> np.ndarray:
        """Whether each pair is left."""
        users, items = self.before
        is_left = np.ones(len(users), dtype=bool)
        if self.data is not None:
            of_rows, n_items = self.pairs, self.seen.n_items
            forgotten = np.unique(of_rows[0] * n_items + of_rows[1])
            is_left &= ~is_in_sorted(users * n_items + items, forgotten)
        for numbers, ids in zip((users, items), self.ids, strict=True):
            is_left &= ~np.isin(numbers, ids)
        return is_left

    @property
    def left(self) -> tuple[np.ndarray, np.ndarray]:
        """Users and items of the pairs that are left, by numbers in the model."""
        users, items = self.before
        return users[self.is_left], items[self.is_left]

    @cached_property
    def kept(self) -> Sides[np.ndarray]:
        """Sorted numbers in the model of the ids that are left."""
        n_rows = self.seen.n_users, self.seen.n_items
        kept = []
        for n, had, left, named in zip(
            n_rows, self.before, self.left, self.ids, strict=True
        ):
            is_kept = np.ones(n, dtype=bool)
            is_kept[had] = False
            is_kept[left] = True
            is_kept[named] = False
            kept.append(np.flatnonzero(is_kept))
        return Sides(*kept)

    @cached_property
    def seen_after(self) -> SeenItems:
        """Seen items of the ids that are left, by their new numbers."""
        users, items = (
            np.searchsorted(kept, numbers)
            for kept, numbers in zip(self.kept, self.left, strict=True)
        )
        n_users, n_items = map(len, self.kept)
        return SeenItems.of_pairs(users, items, n_users, n_items)
