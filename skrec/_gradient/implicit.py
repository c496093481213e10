"""Implicit features: terms of rows that follow from whom they have ratings with.

The row of a user is (Koren, 2008)

    x_u = Σ_i y_i / √n − ȳ + x̃_u,

with a learned row y_i of each of the n items that the user has ratings with, the mean ȳ
of the sums over users, and the user's own x̃_u. Likewise rows of items.

Tables hold whole rows, so that scores need no sums. Training sees rows as they are
without the pairs that it is about to predict: those of the next steps are left out, and
the others count for more. Otherwise y_i would learn the rating that it predicts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from .._share import ALL_ROWS, Share
from .._sparse import SparseRows
from .tables import side_by_side, split_like

OTHER = {"user": "item", "item": "user"}

# Penalty of the rows of counterparts, relative to that of the rows that they describe.
PENALTY = 4.0


@dataclass(frozen=True)
class Counterparts:
    """Pairs with ratings, each once, by user and by item.

    Attributes
    ----------
    rows : dict of str to SparseRows
        Items of each "user", and users of each "item".
    order : Tensor of shape (n_pairs,)
        Places of the pairs, which are in the order of users, in that of items.
    pair : Tensor of shape (n_samples,)
        Pair of each sample.
    share : Share
        The pairs are those of this process, and sums over pairs those of all.
    """

    rows: dict[str, SparseRows]
    order: Tensor
    pair: Tensor
    share: Share = ALL_ROWS

    @classmethod
    def of(
        cls,
        users: Tensor,
        items: Tensor,
        n_users: int,
        n_items: int,
        share: Share = ALL_ROWS,
    ) -> Counterparts:
        """Pairs of samples."""
        keys, pair = torch.unique(users * n_items + items, return_inverse=True)
        users, items = keys // n_items, keys % n_items
        order = torch.argsort(items, stable=True)

        def offsets(numbers: Tensor, n_rows: int) -> Tensor:
            bounds = torch.arange(n_rows + 1, device=numbers.device)
            return torch.searchsorted(numbers, bounds)

        rows = {
            "user": SparseRows(offsets(users, n_users), items),
            "item": SparseRows(offsets(items[order], n_items), users[order]),
        }
        return cls(rows, order, pair, share)

    def without(self, samples: Tensor) -> Tensor:
        """1 for pairs that are kept, and 0 for those of numbered samples."""
        kept = torch.ones(len(self.order), device=self.order.device)
        kept[self.pair[samples]] = 0
        return kept

    def scale(self, side: str, kept: Tensor | None = None) -> Tensor:
        """Factor of each row's sum: 1/√n, or √n / n′ where n′ of n pairs are kept."""
        n = self.share.sum(self.rows[side].lengths.float())
        left = n
        if kept is not None:
            left = self._sums(side, kept.new_ones(len(self.rows[OTHER[side]]), 1), kept)
            left = left[:, 0]
        return torch.where(left > 0, n.sqrt() / left, 0)[:, None]

    def terms(self, side: str, weights: Tensor, kept: Tensor | None = None) -> Tensor:
        """Rows of a side without their own parts, shape (n_rows, row_size)."""
        sums = self.scale(side, kept) * self._sums(side, weights, kept)
        return sums - self.mean(side) @ weights

    def transposed(self, side: str, rows: Tensor, kept: Tensor | None = None) -> Tensor:
        """Σ x / √n over the rows x of a side, for each counterpart."""
        return self._sums(OTHER[side], self.scale(side, kept) * rows, kept)

    def mean(self, side: str) -> Tensor:
        """Mean of 1/√n over the rows of a side, for each counterpart."""
        n_rows = len(self.rows[side])
        ones = torch.ones(n_rows, 1, device=self.order.device)
        return self.transposed(side, ones / n_rows)[:, 0]

    def _sums(self, side: str, table: Tensor, kept: Tensor | None) -> Tensor:
        if kept is not None and side == "item":
            kept = kept[self.order]
        return self.share.sum(self.rows[side].sum(table, kept))


class ImplicitTerm:
    """Term of the rows of a side by their counterparts, in training.

    Parameters
    ----------
    counterparts : Counterparts
    side : str
    tables : list of Parameter
    weights : list of Parameter
        Rows of the counterparts, for each table.
    penalty : float
        Of the squares of `weights`.
    curvature : Tensor of shape (n_rows,)
        That of the objective by a row.
    """

    def __init__(
        self,
        counterparts: Counterparts,
        side: str,
        tables: list[Parameter],
        weights: list[Parameter],
        penalty: float,
        curvature: Tensor,
    ) -> None:
        self.counterparts, self.side = counterparts, side
        self.tables, self.weights, self.penalty = tables, weights, penalty
        scale = counterparts.scale(side)
        self.curvature = counterparts.transposed(side, scale * curvature[:, None])
        self.kept: Tensor | None = None
        self.rows = [torch.zeros_like(t[:-1], requires_grad=False) for t in tables]
        self.gradient = torch.zeros_like(side_by_side(self.rows))

    @torch.no_grad()
    def update(self, kept: Tensor | None) -> list[Tensor]:
        """Compute the term by the pairs that are kept; its change, by table."""
        self.kept = kept
        terms = self.counterparts.terms(self.side, side_by_side(self.weights), kept)
        changes = []
        for rows, part in zip(self.rows, split_like(terms, self.rows), strict=True):
            changes.append(part - rows)
            rows.copy_(part)
        return changes

    def accumulate(self, gradients: list[Tensor]) -> None:
        """Add the gradients of the tables, which are those of the term too.

        Tables that have no such term come last.
        """
        joined = gradients[0] if len(gradients) == 1 else side_by_side(gradients)
        self.gradient += joined[:, : self.gradient.shape[1]]

    @torch.no_grad()
    def set_gradients(self, n_steps: int) -> None:
        """Mean gradients of the weights over the last steps, with the penalty's."""
        counterparts, gradient = self.counterparts, self.gradient / n_steps
        if self.side == "user":
            # Gradients of users are those of this process.
            gradient = counterparts.share.sum(gradient)
        joined = counterparts.transposed(self.side, gradient, self.kept)
        joined -= torch.outer(counterparts.mean(self.side), gradient.sum(0))
        for weight, part in zip(
            self.weights, split_like(joined, self.weights), strict=True
        ):
            weight.grad = part + 2 * self.penalty * weight
        self.gradient.zero_()

    @torch.no_grad()
    def precondition(self) -> None:
        """Divide the gradients by the curvature of the objective."""
        for weight in self.weights:
            assert weight.grad is not None
            weight.grad.flatten(1).div_(self.curvature + self.penalty)
