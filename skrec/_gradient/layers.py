"""First layer of the perceptron, from rows of tables, with a gradient of its own.

The layer is a sum of two products, of the rows of users and of items. A row enters its
product once, however many pairs have it, and the gradients of its pairs are added up
before they enter. Sums over pairs are sums of bags, which copy no rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .._sparse import SparseRows
from .products import sorting_order

# Lookups per row of a table from which on it is worth it to find the distinct ones.
MIN_LOOKUPS = 0.5


class FirstLayer(torch.autograd.Function):
    """Hidden units before the activation, shape (n * n_candidates, M * n_out).

    A function of the tables of shape (n_rows, M, n_in) and the weights of shape
    (M, n_in, n_out) of both sides, and of the bias of shape (M, 1, n_out), for `users`
    of shape (n,) and `items` of shape (n, n_candidates).
    """

    @staticmethod
    def forward(
        ctx: Any,
        user_table: Tensor,
        user_weight: Tensor,
        item_table: Tensor,
        item_weight: Tensor,
        bias: Tensor,
        users: Tensor,
        items: Tensor,
    ) -> Tensor:
        user = _Lookup(users, user_table.shape[0])
        item = _Lookup(items.flatten(), item_table.shape[0])
        user_rows, item_rows = user.rows_of(user_table), item.rows_of(item_table)
        ctx.save_for_backward(user_rows, user_weight, item_rows, item_weight)
        ctx.lookups, ctx.pairs = (user, item), items.shape
        n_users, (members, _, n_out) = user_rows.shape[0], user_weight.shape
        if user.bags is None and item.bags is None and items.shape[1] == 1:
            # Not a view, so that an activation can work in place.
            hidden = user_rows.new_empty(n_users, members * n_out)
            out = hidden.view(n_users, members, n_out)
            _dense(item_rows, item_weight, bias, out)
            _dense(user_rows, user_weight, out.transpose(0, 1), out)
            return hidden
        products = user_rows.new_empty(n_users + item_rows.shape[0], members, n_out)
        _dense(user_rows, user_weight, None, products[:n_users])
        _dense(item_rows, item_weight, bias, products[n_users:])
        of_users, of_items = user.places()[:, None], item.places() + n_users
        of_items = of_items.view(items.shape)
        pairs = torch.stack([of_users.expand(items.shape), of_items], -1)
        return F.embedding_bag(pairs.view(-1, 2), products.flatten(1), mode="sum")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        user_rows, user_weight, item_rows, item_weight = ctx.saved_tensors
        user, item = ctx.lookups
        gradient = of_users = gradient.contiguous()
        if ctx.pairs[1] > 1:
            of_users = gradient.view(*ctx.pairs, gradient.shape[1]).sum(1)
        of_users, of_items = user.sums(of_users), item.sums(gradient)
        return (
            *user.gradients(of_users, user_rows, user_weight),
            *item.gradients(of_items, item_rows, item_weight),
            of_items.sum(0).view(len(item_weight), 1, -1),
            None,
            None,
        )


class _Lookup:
    """Numbered rows of a table, each once where there are many lookups.

    Attributes
    ----------
    lookups : Tensor of shape (n_lookups,)
    numbers : Tensor of shape (n_distinct,)
        Sorted if there are bags, else those of all lookups.
    n_rows : int
    bags : SparseRows or None
        Lookups of each distinct row; None for those of all lookups.
    """

    def __init__(self, numbers: Tensor, n_rows: int) -> None:
        self.lookups = self.numbers = numbers
        self.n_rows = n_rows
        self.bags: SparseRows | None = None
        if numbers.shape[0] > MIN_LOOKUPS * n_rows:
            order = sorting_order(numbers, n_rows)
            ordered = numbers.numpy()[order]
            starts = np.flatnonzero(np.diff(ordered, prepend=-1))
            self.numbers = torch.from_numpy(ordered[starts])
            offsets = torch.from_numpy(np.append(starts, len(ordered)))
            self.bags = SparseRows(offsets, torch.from_numpy(order))

    def places(self) -> Tensor:
        """Place of each lookup among the rows."""
        rows = torch.arange(self.numbers.shape[0])
        if self.bags is None:
            return rows
        place_of_row = rows.new_empty(self.n_rows).index_copy_(0, self.numbers, rows)
        return place_of_row.index_select(0, self.lookups)

    def rows_of(self, table: Tensor) -> Tensor:
        """Rows that enter the layer."""
        rows = table.flatten(1).index_select(0, self.numbers)
        return rows.view(-1, *table.shape[1:])

    def sums(self, gradient: Tensor) -> Tensor:
        """Σ gradient over the lookups of each row."""
        return gradient if self.bags is None else self.bags.sum(gradient, None)

    def gradients(
        self, gradient: Tensor, rows: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the table and of the weight by those of distinct rows."""
        members, n_in, n_out = weight.shape
        gradient = gradient.view(-1, members, n_out).transpose(0, 1)
        of_weight = torch.bmm(rows.permute(1, 2, 0), gradient)
        of_rows = torch.bmm(gradient, weight.transpose(1, 2)).transpose(0, 1)
        table = rows.new_zeros(self.n_rows, members * n_in)
        table.index_add_(0, self.numbers, of_rows.flatten(1))
        return table.view(-1, members, n_in), of_weight


def _dense(rows: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Each member's rows @ weight + bias, written to `out`."""
    rows, out = rows.transpose(0, 1), out.transpose(0, 1)
    if bias is None:
        torch.bmm(rows, weight, out=out)
    else:
        torch.baddbmm(bias, rows, weight, out=out)
