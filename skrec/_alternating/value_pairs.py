"""Ratings grouped by the value of a column of context, and by user or item besides.

A column of numbers is one value, which ratings have to a degree: the effect of a pair
is multiplied by the number of each rating, which is 1 in a column of values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .._data.sides import Sides
from .._share import ALL_ROWS, Share
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
    share : Share
        The ratings that are here, where other processes have others of these groups.
    """

    members: SparseRows
    of_ratings: Tensor
    share: Share = field(default=ALL_ROWS, kw_only=True)

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

    def sums(self, *values: Tensor) -> list[Tensor]:
        """Sums by group of values of ratings, shape (n_ratings,) each."""
        # One by one, since a table of all of them takes longer than its sums.
        sums = [self.members.sum(v[:, None], None)[:, 0] for v in values]
        return list(self.share.sum(torch.stack(sums)))

    def spread(self, values: Tensor, places: Tensor | None = None) -> Tensor:
        """Values of groups at their ratings and 0 elsewhere; perhaps at some places."""
        groups = self.of_ratings if places is None else self.of_ratings[places]
        return F.pad(values, (0, 1)).index_select(0, groups)


@dataclass(frozen=True)
class PairSums:
    """Sums over the ratings of pairs, for x the number of a rating and r its residual.

    Attributes
    ----------
    weight : sequence of Tensor of shape (n_pairs,)
        Σ w, Σ w x and Σ w x².
    residual : sequence of Tensor of shape (n_pairs,)
        Σ w r and Σ w x r.
    """

    weight: Sequence[Tensor]
    residual: Sequence[Tensor]

    def plus(self, level: Tensor, effect: Tensor) -> PairSums:
        """The sums with `level` + x · `effect` of each pair added to its residuals."""
        W, T = self.weight, self.residual
        return PairSums(
            W, [T[j] + W[j] * level + W[j + 1] * effect for j in range(len(T))]
        )


@dataclass(frozen=True)
class ValuePairs(Groups):
    """Pairs of a row of one side and a value that have ratings together.

    Attributes
    ----------
    rows, values : Tensor of shape (n_pairs,)
        Row and value of each pair, sorted by both.
    shape : tuple of int
        Number of rows and number of values.
    numbers : Tensor of shape (n_ratings,) or None
        Number of each rating, by which the effect of its pair is multiplied; None is 1.
    """

    rows: Tensor
    values: Tensor
    shape: tuple[int, int]
    numbers: Tensor | None = field(default=None, kw_only=True)

    @classmethod
    def between(
        cls,
        rows: np.ndarray,
        values: np.ndarray,
        shape: tuple[int, int],
        device: torch.device,
    ) -> ValuePairs:
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

    @classmethod
    def of_rows(
        cls, rows: np.ndarray, n_rows: int, numbers: Tensor, share: Share
    ) -> ValuePairs:
        """Pairs of all rows and the one value of a column of numbers."""
        groups = Groups.of(rows, n_rows, numbers.device)
        every = torch.arange(n_rows, device=numbers.device)
        return cls(
            *(groups.members, groups.of_ratings, every, torch.zeros_like(every)),
            (n_rows, 1),
            numbers=numbers,
            share=share,
        )

    def sums_over(self, weight: Tensor, residual: Tensor) -> PairSums:
        """Sums over the ratings of each pair."""
        if self.numbers is None:
            W, T = self.sums(weight, weight * residual)
            return PairSums((W, W, W), (T, T))
        weighted = weight * self.numbers
        weights = weight, weighted, weighted * self.numbers
        sums = self.sums(*weights, weight * residual, weighted * residual)
        return PairSums(sums[:3], sums[3:])

    def terms(
        self, constant: Tensor, *factors: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """constant + x · factor + x² · factor … at the ratings of pairs, 0 elsewhere.

        x is the number of a rating. All ratings, or those at some places.
        """
        if self.numbers is None:
            return self.spread(sum(factors, constant), places)
        numbers = self.numbers if places is None else self.numbers[places]
        total = self.spread(factors[-1], places)
        for factor in (*factors[-2::-1], constant):
            total = torch.addcmul(self.spread(factor, places), total, numbers)
        return total

    def at(self, places: Tensor) -> tuple[ValuePairs, Tensor]:
        """The pairs with values of the ratings at some places, and their numbers."""
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
        return SparseRows.of_entries(self.rows, self.values, self.shape[0])

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
        return SparseRows.of_entries(
            self.values[order], self.rows[order], self.shape[1]
        )


@dataclass(frozen=True)
class ValueColumn:
    """Ratings by the values of one column of context, or with its numbers.

    Attributes
    ----------
    values : Groups
        Ratings of each value; no groups for numbers, whose coefficient is elsewhere.
    users, items : ValuePairs
        Ratings of each user, and of each item, under each value.
    number : int or None
        Place of a column of numbers among these; None is a column of values.
    """

    values: Groups
    users: ValuePairs
    items: ValuePairs
    number: int | None = None

    @property
    def pairs(self) -> tuple[ValuePairs, ValuePairs]:
        """Pairs of users, and of items."""
        return self.users, self.items

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
            ValuePairs.between(users, values, (n_users, n_values), device),
            ValuePairs.between(items, values, (n_items, n_values), device),
        )

    @classmethod
    def of_numbers(
        cls,
        users: np.ndarray,
        items: np.ndarray,
        context: Tensor,
        place: int,
        shape: tuple[int, int],
        shares: Sides[Share],
    ) -> ValueColumn:
        """By the user and the item of each rating, with its number at a place."""
        numbers = context[:, place].contiguous()
        of_users, of_items = (
            ValuePairs.of_rows(rows, n_rows, numbers, share)
            for rows, n_rows, share in zip((users, items), shape, shares, strict=True)
        )
        none = Groups.of(np.full(len(users), -1), 0, numbers.device)
        return cls(none, of_users, of_items, place)
