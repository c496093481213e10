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
        n_users, (members, _, n_out) = len(user_rows), user_weight.shape
        products = user_rows.new_empty(n_users + len(item_rows), members, n_out)
        of_users, of_items = products[:n_users], products[n_users:]
        _dense(user_rows, user_weight, None, of_users)
        _dense(item_rows, item_weight, bias, of_items)
        places = user.place[:, None].expand(items.shape), item.place.view(items.shape)
        pairs = torch.stack([places[0], places[1] + n_users], -1).view(-1, 2)
        ctx.save_for_backward(user_rows, user_weight, item_rows, item_weight)
        ctx.lookups, ctx.pairs = (user, item), items.shape
        return F.embedding_bag(pairs, products.flatten(1), mode="sum")

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        user_rows, user_weight, item_rows, item_weight = ctx.saved_tensors
        user, item = ctx.lookups
        slope = of_users = slope.contiguous()
        if ctx.pairs[1] > 1:
            of_users = slope.view(*ctx.pairs, slope.shape[1]).sum(1)
        user_slopes, item_slopes = user.sums(of_users), item.sums(slope)
        return (
            *user.slopes(user_slopes, user_rows, user_weight),
            *item.slopes(item_slopes, item_rows, item_weight),
            item_slopes.sum(0).view(len(item_weight), 1, -1),
            None,
            None,
        )


class _Lookup:
    """Numbered rows of a table, each once.

    Attributes
    ----------
    numbers : Tensor of shape (n_distinct,)
    place : Tensor of shape (n_lookups,)
        Place of each lookup among `numbers`.
    bags : SparseRows
        Lookups of each distinct row.
    n_rows : int
    """

    def __init__(self, numbers: Tensor, n_rows: int) -> None:
        self.n_rows = n_rows
        order = sorting_order(numbers, n_rows)
        ordered = numbers.numpy()[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        offsets = np.append(starts, len(ordered))
        place = np.empty_like(order)
        place[order] = np.repeat(np.arange(len(starts)), np.diff(offsets))
        self.numbers = torch.from_numpy(ordered[starts])
        self.place = torch.from_numpy(place)
        self.bags = SparseRows(torch.from_numpy(offsets), torch.from_numpy(order))

    def rows_of(self, table: Tensor) -> Tensor:
        """Rows that enter the layer."""
        rows = table.flatten(1).index_select(0, self.numbers)
        return rows.view(len(rows), *table.shape[1:])

    def sums(self, slope: Tensor) -> Tensor:
        """Σ slope over the lookups of each distinct row."""
        return self.bags.sum(slope, None)

    def slopes(
        self, slope: Tensor, rows: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the table and of the weight by those of distinct rows."""
        members, n_in, n_out = weight.shape
        slope = slope.view(len(rows), members, n_out).transpose(0, 1)
        of_weight = torch.bmm(rows.permute(1, 2, 0), slope)
        of_rows = torch.bmm(slope, weight.transpose(1, 2)).transpose(0, 1)
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
