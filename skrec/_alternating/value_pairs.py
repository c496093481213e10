"""Ratings grouped by the value of a column of context, and by user or item besides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .._sparse import SparseRows


@dataclass(frozen=True)
class Groups:
    """Groups of ratings; a rating may be in none.

    Attributes
    ----------
    members : SparseRows
        Ratings of each group, by their places in the order of users.
    of_ratings : Tensor of shape (n_ratings,)
        Group of each rating; the number of groups for none.
    """

    members: SparseRows
    of_ratings: Tensor

    @classmethod
    def of(cls, numbers: np.ndarray, n_groups: int, device: torch.device) -> Groups:
        """Groups by the number of each rating's; -1 is none."""
        numbers = np.where(numbers < 0, n_groups, numbers)
        offsets = np.append(0, np.bincount(numbers, minlength=n_groups + 1).cumsum())
        order = np.argsort(numbers, kind="stable")[: offsets[n_groups]]
        index = partial(torch.as_tensor, device=device)
        members = SparseRows(index(offsets[: n_groups + 1]).int(), index(order).int())
        return cls(members, index(numbers))

    def __len__(self) -> int:
        return len(self.members)

    def sums(self, values: Tensor) -> Tensor:
        """Sums of values of ratings, shape (n_ratings, n_columns), by group."""
        return self.members.sum(values, None)

    def spread(self, values: Tensor, places: Tensor | None = None) -> Tensor:
        """Values of groups at their ratings and 0 elsewhere; perhaps at some places."""
        groups = self.of_ratings if places is None else self.of_ratings[places]
        return F.pad(values, (0, 1)).index_select(0, groups)


@dataclass(frozen=True)
class Pairs(Groups):
    """Pairs of a row of one side and a value that have ratings together.

    Attributes
    ----------
    rows, values : Tensor of shape (n_pairs,)
        Row and value of each pair, sorted by both.
    shape : tuple of int
        Number of rows and number of values.
    """

    rows: Tensor
    values: Tensor
    shape: tuple[int, int]

    @classmethod
    def between(
        cls,
        rows: np.ndarray,
        values: np.ndarray,
        shape: tuple[int, int],
        device: torch.device,
    ) -> Pairs:
        """Pairs of the row and the value of each rating; -1 is an unknown value."""
        keys = rows * np.int64(shape[1]) + values
        found, numbers = np.unique(keys[values >= 0], return_inverse=True)
        pairs = np.full(len(keys), -1)
        pairs[values >= 0] = numbers
        groups = Groups.of(pairs, len(found), device)
        row, value = (
            torch.as_tensor(x, device=device)
            for x in np.divmod(found, max(shape[1], 1))
        )
        return cls(groups.members, groups.of_ratings, row, value, shape)

    def at(self, places: Tensor) -> tuple[Pairs, Tensor]:
        """The pairs of the ratings at some places, and their numbers."""
        numbers, of_ratings = torch.unique(self.of_ratings[places], return_inverse=True)
        # The number behind the last is that of none, and sorted behind the others.
        numbers = numbers[numbers < len(self)]
        pairs = replace(
            self,
            of_ratings=of_ratings,
            rows=self.rows[numbers],
            values=self.values[numbers],
        )
        return pairs, numbers

    @cached_property
    def by_row(self) -> SparseRows:
        """Values of the pairs of each row."""
        return _pattern(self.rows, self.values, self.shape[0])

    @cached_property
    def by_row_entries(self) -> SparseRows:
        """The pairs of each row themselves."""
        return replace(
            self.by_row, others=torch.arange(len(self.rows)).to(self.by_row.others)
        )

    @cached_property
    def to_values(self) -> Tensor:
        """Permutation of the pairs to the order of values, then rows."""
        return torch.argsort(self.values, stable=True)

    @cached_property
    def by_value(self) -> SparseRows:
        """Rows of the pairs of each value."""
        order = self.to_values
        return _pattern(self.values[order], self.rows[order], self.shape[1])


def _pattern(rows: Tensor, others: Tensor, n_rows: int) -> SparseRows:
    offsets = torch.zeros(n_rows + 1, dtype=torch.long, device=rows.device)
    torch.cumsum(torch.bincount(rows, minlength=n_rows), 0, out=offsets[1:])
    return SparseRows(offsets.int(), others.int())


@dataclass(frozen=True)
class ValueColumn:
    """Ratings by the values of one column of context.

    Attributes
    ----------
    values : Groups
        Ratings of each value.
    users, items : Pairs
        Ratings of each user, and of each item, under each value.
    """

    values: Groups
    users: Pairs
    items: Pairs

    @classmethod
    def of(
        cls,
        users: np.ndarray,
        items: np.ndarray,
        values: np.ndarray,
        shape: tuple[int, int, int],
        device: torch.device,
    ) -> ValueColumn:
        """By the user, the item and the value of each rating, sorted by user."""
        n_users, n_items, n_values = shape
        return cls(
            Groups.of(values, n_values, device),
            Pairs.between(users, values, (n_users, n_values), device),
            Pairs.between(items, values, (n_items, n_values), device),
        )
