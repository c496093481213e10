"""Inner products of the rows of pairs, without a copy of the rows for each pair.

The pairs of a batch are the entries of a sparse matrix of users by items. Their scores
are these elements of P Qᵀ, for tables P and Q. With the matrix G of the gradients of
scores, those of the tables are G Q and Gᵀ P. Copies of rows would take ten times as
long where members and factors are many, since a processor waits for memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .._sparse import SparseRows, has_sampled_products

# Rows of the tables for each pair above which copies are faster.
ROWS_PER_PAIR = 8


@dataclass(frozen=True)
class PairRows:
    """Rows of two tables that pairs take.

    Attributes
    ----------
    users, items : Tensor of shape (n_pairs,)
    n_users, n_items : int
        Rows of the tables.
    """

    users: Tensor
    items: Tensor
    n_users: int
    n_items: int

    @classmethod
    def of_members(
        cls, users: Tensor, items: Tensor, n_users: int, n_items: int, n_members: int
    ) -> PairRows:
        """Pairs of each member, whose rows are parts of the rows of tables.

        `users` of shape (n,) meet `items` of shape (n, n_candidates), and a pair is a
        place of a tensor of shape (n, n_candidates, n_members).
        """
        members = torch.arange(n_members, device=users.device)
        of_users = (users * n_members)[:, None, None] + members
        of_items = (items * n_members)[..., None] + members
        return cls(
            of_users.expand(of_items.shape).flatten(),
            of_items.flatten(),
            n_users * n_members,
            n_items * n_members,
        )

    @property
    def are_products_fast(self) -> bool:
        device, n_pairs = self.users.device, len(self.users)
        # Products read the offsets of all rows of the tables.
        are_many = ROWS_PER_PAIR * n_pairs >= self.n_users + self.n_items
        are_many &= n_pairs <= self.n_users * self.n_items
        # The host sorts pairs, for which a device would wait.
        return are_many and device.type == "cpu" and has_sampled_products(device)

    @cached_property
    def by_user(self) -> tuple[Tensor, SparseRows]:
        """Numbers of the pairs by user, and the items of each user."""
        return _sorted(self.users, self.n_users, self.items)

    @cached_property
    def by_item(self) -> tuple[Tensor, SparseRows]:
        return _sorted(self.items, self.n_items, self.users)

    def products(self, of_users: Tensor, of_items: Tensor) -> Tensor:
        """Inner product of the rows of each pair, of tables of two axes."""
        order, rows = self.by_user
        products = rows.inner_products(of_users, of_items)
        return torch.empty_like(products).index_copy_(0, order, products)

    def gradients(
        self, gradient: Tensor, of_users: Tensor, of_items: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the tables by those of the products of pairs."""
        of_pairs = (self.by_user, of_items), (self.by_item, of_users)
        user, item = (
            rows.sum(table, gradient.index_select(0, order))
            for (order, rows), table in of_pairs
        )
        return user, item


class PairProducts(torch.autograd.Function):
    """Inner products of pairs, as a function of both tables."""

    @staticmethod
    def forward(
        ctx: Any, of_users: Tensor, of_items: Tensor, pairs: PairRows
    ) -> Tensor:
        ctx.save_for_backward(of_users, of_items)
        ctx.pairs = pairs
        return pairs.products(of_users, of_items)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        return *ctx.pairs.gradients(gradient, *ctx.saved_tensors), None


def _sorted(rows: Tensor, n_rows: int, others: Tensor) -> tuple[Tensor, SparseRows]:
    order = torch.from_numpy(sorting_order(rows, n_rows))
    lengths = torch.bincount(rows, minlength=n_rows)
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    return order, SparseRows(offsets, others.index_select(0, order))


def sorting_order(numbers: Tensor, n: int) -> np.ndarray:
    """Stable order of numbers below n, by NumPy, which is fast for two bytes."""
    digits = numbers.numpy().astype(np.uint32)
    order = np.argsort(digits.astype(np.uint16), kind="stable")
    if n > 2**16:
        upper = (digits >> 16).astype(np.uint16)[order]
        order = order[np.argsort(upper, kind="stable")]
    return order
