"""First layer of the perceptron, from rows of tables, with a gradient of its own.

The layer is a sum of two products, of the rows of users and of items. A row enters its
product once, however many pairs have it, and the gradients of its pairs are added up
before they enter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
        user = _Lookup(users, len(user_table))
        item = _Lookup(items.flatten(), len(item_table))
        user_rows, item_rows = user.rows_of(user_table), item.rows_of(item_table)
        of_users = user.at_lookups(_product(user_rows, user_weight))
        of_items = item.at_lookups(_product(item_rows, item_weight, bias))
        # Not a view, so that an activation can work in place.
        hidden = torch.empty_like(of_items)
        of_items = of_items.view(*items.shape, hidden.shape[1])
        torch.add(of_items, of_users[:, None], out=hidden.view(of_items.shape))
        ctx.save_for_backward(user_rows, user_weight, item_rows, item_weight)
        ctx.lookups, ctx.pairs = (user, item), items.shape
        return hidden

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        user_rows, user_weight, item_rows, item_weight = ctx.saved_tensors
        user, item = ctx.lookups
        slope = of_users = slope.contiguous()
        if ctx.pairs[1] > 1:
            of_users = slope.view(*ctx.pairs, slope.shape[1]).sum(1)
        return (
            *user.slopes(of_users, user_rows, user_weight),
            *item.slopes(slope, item_rows, item_weight),
            of_users.sum(0).view(len(user_weight), 1, -1),
            None,
            None,
        )


class _Lookup:
    """Numbered rows of a table, each once where there are many lookups."""

    def __init__(self, numbers: Tensor, n_rows: int) -> None:
        self.numbers, self.n_rows = numbers, n_rows
        self.place: Tensor | None = None
        if len(numbers) > MIN_LOOKUPS * n_rows:
            occurs = torch.zeros(n_rows, dtype=torch.bool)
            occurs[numbers] = True
            self.place = occurs.cumsum(0).sub_(1).index_select(0, numbers)
            self.numbers = occurs.nonzero()[:, 0]

    def rows_of(self, table: Tensor) -> Tensor:
        """Rows that enter the layer."""
        rows = table.flatten(1).index_select(0, self.numbers)
        return rows.view(len(rows), *table.shape[1:])

    def at_lookups(self, hidden: Tensor) -> Tensor:
        return hidden if self.place is None else hidden.index_select(0, self.place)

    def slopes(
        self, slope: Tensor, rows: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the table and of the weight by those of the lookups."""
        members, n_in, n_out = weight.shape
        if self.place is not None:
            of_rows = slope.new_zeros(len(self.numbers), slope.shape[1])
            slope = of_rows.index_add_(0, self.place, slope)
        slope = slope.view(len(rows), members, n_out).transpose(0, 1)
        of_weight = torch.bmm(rows.permute(1, 2, 0), slope)
        of_rows = torch.bmm(slope, weight.transpose(1, 2)).transpose(0, 1)
        table = rows.new_zeros(self.n_rows, members * n_in)
        table.index_add_(0, self.numbers, of_rows.flatten(1))
        return table.view(-1, members, n_in), of_weight


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Each member's rows @ weight + bias, of shape (n_rows, n_members * n_out)."""
    rows = rows.transpose(0, 1)
    product = torch.bmm(rows, weight)
    if bias is not None:
        product += bias
    return product.transpose(0, 1).flatten(1)
