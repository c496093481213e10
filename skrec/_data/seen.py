"""SeenItems: the items that each user has rated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._storage import stored
from .sides import Sides
from .vocabulary import Growth, inserted

# Share in all pairs of the rows with the fewest.
SHORT_SHARE = 0.05


@stored
@dataclass(frozen=True)
class SeenItems:
    """Items by user, each once, as the rows of a sparse matrix.

    Attributes
    ----------
    offsets : ndarray of shape (n_users + 1,)
    items : ndarray of shape (n_pairs,), dtype int32
        Sorted items of each user, user by user.
    n_items : int
    """

    offsets: np.ndarray
    items: np.ndarray
    n_items: int

    @classmethod
    def of_pairs(
        cls, users: np.ndarray, items: np.ndarray, n_users: int, n_items: int
    ) -> SeenItems:
        """Items of pairs that are sorted, by user and then by item."""
        first = first_of_pairs(users, items)
        counts = np.zeros(n_users + 1, dtype=np.int64)
        counts[1:] = np.bincount(users[first], minlength=n_users)
        return cls(
            np.cumsum(counts), items[first].astype(np.int32, copy=False), n_items
        )

    def __len__(self) -> int:
        return len(self.items)

    @property
    def n_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Sides[np.ndarray]:
        """Number of pairs of each user and of each item."""
        of_items = np.bincount(self.items, minlength=self.n_items)
        return Sides(np.diff(self.offsets), of_items)

    def least_count(self, side: str) -> float:
        """Number of pairs such that rows of a side with fewer have few of all pairs."""
        counts = np.diff(self.offsets)
        if side == "item":
            counts = np.bincount(self.items)
        counts = np.sort(counts[counts > 0])
        place = np.searchsorted(counts.cumsum(), SHORT_SHARE * len(self))
        return float(counts[place])

    def of_users(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All pairs of users, of whom those below 0 have none, as `of_items`."""
        known = np.maximum(rows, 0)
        starts = self.offsets[known]
        counts = np.where(rows < 0, 0, self.offsets[known + 1] - starts)
        position = np.repeat(np.arange(len(rows)), counts)
        shift = np.repeat(starts - np.cumsum(counts) + counts, counts)
        items = self.items[shift + np.arange(len(shift))].astype(np.int64)
        return position, rows[position], items

    def of_items(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All pairs of known items: positions in `rows`, users and items."""
        position_of = np.full(self.n_items, -1)
        position_of[rows] = np.arange(len(rows))
        position = position_of[self.items]
        numbers = np.flatnonzero(position >= 0)
        position = position[numbers]
        return position, self._users_of(numbers), rows[position]

    def take(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Users and items of numbered pairs."""
        return self._users_of(numbers), self.items[numbers].astype(np.int64)

    def contain(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Whether pairs, of known rows or of new ones, are among these."""
        return self.places(users, items) >= 0

    def places(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Number of each pair, of known rows or not, among these; -1 if it is none."""
        # A binary search in the items of each user.
        is_known = (users >= 0) & (users < self.n_users)
        users = np.where(is_known, users, 0)
        low, high = self.offsets[users], self.offsets[users + 1]
        end = high
        while (is_open := low < high).any():
            middle = (low + high) // 2
            is_before = is_open & (self.items[np.where(is_open, middle, 0)] < items)
            low = np.where(is_before, middle + 1, low)
            high = np.where(is_open & ~is_before, middle, high)
        found = is_known & (low < end)
        found &= self.items[np.where(found, low, 0)] == items
        return np.where(found, low, -1)

    def grown(
        self,
        users: Growth,
        items: Growth,
        further_users: np.ndarray,
        further_items: np.ndarray,
    ) -> SeenItems:
        """With further pairs, numbered among all ids; time follows these."""
        offsets, seen = self.offsets, self.items
        if len(items.at):
            numbers = items.shifted(np.arange(self.n_items))
            seen = numbers.astype(np.int32)[seen]
        offsets = users.inserted(offsets, offsets[users.at])
        n_items = len(items.ids)
        among = SeenItems(offsets, seen, n_items)
        position, _, known = among.of_users(users.given)
        known += position * n_items
        further = np.searchsorted(users.given, further_users) * n_items + further_items
        further = np.unique(further)
        further = further[~is_in_sorted(further, known)]
        which, new = np.divmod(further, n_items)
        starts = np.searchsorted(position, which)
        at = offsets[users.given[which]] + np.searchsorted(known, further) - starts
        counts = np.zeros(len(offsets), dtype=np.int64)
        np.add.at(counts, users.given[which] + 1, 1)
        np.cumsum(counts, out=counts)
        counts += offsets
        return SeenItems(counts, inserted(seen, at, new.astype(np.int32)), n_items)

    def _users_of(self, numbers: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.offsets, numbers, side="right") - 1


def first_of_pairs(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Mask of the first row of each pair, of rows in which equal pairs follow."""
    first = np.ones(len(users), dtype=bool)
    first[1:] = users[1:] != users[:-1]
    first[1:] |= items[1:] != items[:-1]
    return first


def is_in_sorted(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Whether each value occurs among sorted non-negative ones."""
    where = np.searchsorted(among, values)
    return np.append(among, -1)[where] == values
