"""Implicit features: shares of rows that follow from whom they have ratings with.

The row of a user is (Koren, 2008)

    x_u = Σ_i y_i / √n − ȳ + x̃_u,

with a learned row y_i of each of the n items that the user has ratings with, the mean ȳ
of the sums over users, and the user's own x̃_u. Likewise rows of items.

Tables hold whole rows, so that scores need no sums. Training sees rows as they are
without the pairs that it is about to predict: those of the next steps are left out, and
the others count for more. Otherwise y_i would learn the rating that it predicts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import Parameter

from .._data.interactions import FurtherRows, Interactions
from .._share import ALL_ROWS, Share
from .._sparse import SparseRows

OTHER = {"user": "item", "item": "user"}

# Penalty of the rows of counterparts, relative to that of the rows that they describe.
PENALTY = 4.0

# Multiplications with a matrix of pairs; the ratio of largest singular values below
# which pairs are as random as shuffled ones; and the value of shuffled pairs up to
# which this can be told.
N_MULTIPLICATIONS, LEAST_RATIO, MAX_RANDOM = 20, 1.05, 0.3


def is_informative(data: Interactions) -> bool:
    """Whether it is not at random whom rows have ratings with.

    Pairs less their expected number, with rows and columns of about length one, have a
    largest singular value that is above that of shuffled pairs if rows have
    counterparts in common. The value of shuffled pairs falls with the number of pairs
    of a row; where it is large, pairs are too few to tell, and may be.
    """
    given, random = _of_given_and_shuffled(data)
    return random > MAX_RANDOM or given >= LEAST_RATIO * random


def is_clearly_informative(data: Interactions) -> bool:
    """As `is_informative`, of pairs that are enough to tell."""
    given, random = _of_given_and_shuffled(data)
    return random <= MAX_RANDOM and given >= LEAST_RATIO * random


def _of_given_and_shuffled(data: Interactions) -> tuple[float, float]:
    """Largest singular values of the pairs, and of shuffled ones."""
    share, (n_users, n_items) = data.shares.user, data.shape
    own, n_own = share.rows(n_users), len(data.items)
    n_before = share.n_before(n_own)
    shuffled = np.random.RandomState(0).permutation(data.all_items)
    shuffled = shuffled[n_before : n_before + n_own]
    rows, shape = data.users - own.start, (own.stop - own.start, n_items)
    given, random = (
        _largest_singular_value(rows, items, shape, share)
        for items in (data.items, shuffled)
    )
    return given, random


def _largest_singular_value(
    users: np.ndarray, items: np.ndarray, shape: tuple[int, int], share: Share
) -> float:
    """About the largest singular value of the pairs less their expected number.

    The rows are those of a share.
    """
    matrix = sparse.csr_array((np.ones(len(users)), (users, items)), shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    of_users, of_items = matrix.sum(axis=1), share.sum(matrix.sum(axis=0))
    n_pairs = of_items.sum()
    # The means keep rows of few pairs from having large values by themselves.
    left = 1 / np.sqrt(of_users + n_pairs / share.sum(float(shape[0])))
    right = 1 / np.sqrt(of_items + of_items.mean())
    scaled = sparse.diags_array(left) @ matrix @ sparse.diags_array(right)
    matrix, transposed = sparse.csr_array(scaled), sparse.csr_array(scaled.T)
    p, q = left * of_users / n_pairs, right * of_items
    vector, value = np.random.RandomState(0).standard_normal(len(q)), 0.0
    for _ in range(N_MULTIPLICATIONS):
        vector /= max(np.linalg.norm(vector), np.finfo(np.float64).tiny)
        product = matrix @ vector - p * (q @ vector)
        value = math.sqrt(share.sum(float(product @ product)))
        vector = share.sum(transposed @ product) - q * share.sum(float(p @ product))
    return value


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

    def shares(self, side: str, weights: Tensor, kept: Tensor | None = None) -> Tensor:
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


class ImplicitShares:
    """Shares of the rows of a side from their counterparts, in training.

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
        self.gradient = torch.zeros_like(_joined(self.rows))

    @torch.no_grad()
    def show(self, kept: Tensor | None) -> list[Tensor]:
        """Compute the shares by the pairs that are kept; their change, by table."""
        self.kept = kept
        shares = self.counterparts.shares(self.side, _joined(self.weights), kept)
        changes = []
        for rows, part in zip(self.rows, self._split(shares), strict=True):
            changes.append(part.view_as(rows) - rows)
            rows.copy_(part.view_as(rows))
        return changes

    def accumulate(self, gradients: list[Tensor]) -> None:
        """Add the gradients of the tables, which are those of the shares too.

        Tables that have no shares come last.
        """
        joined = gradients[0] if len(gradients) == 1 else _joined(gradients)
        self.gradient += joined[:, : self.gradient.shape[1]]

    @torch.no_grad()
    def set_gradients(self, n_steps: int) -> None:
        """Mean gradients of the weights over the last steps, with the penalty's."""
        counterparts, gradient = self.counterparts, self.gradient / n_steps
        if self.side == "user":
            # Gradients of users are those of this process.
            gradient = counterparts.share.sum(gradient)
        slope = counterparts.transposed(self.side, gradient, self.kept)
        slope -= torch.outer(counterparts.mean(self.side), gradient.sum(0))
        for weight, part in zip(self.weights, self._split(slope), strict=True):
            weight.grad = part.reshape(weight.shape) + 2 * self.penalty * weight
        self.gradient.zero_()

    @torch.no_grad()
    def precondition(self) -> None:
        """Divide the gradients by the curvature of the objective."""
        for weight in self.weights:
            assert weight.grad is not None
            weight.grad.flatten(1).div_(self.curvature + self.penalty)

    def _split(self, joined: Tensor) -> list[Tensor]:
        return list(joined.split([table[0].numel() for table in self.tables], dim=1))


def factor_changes(side: str, further: FurtherRows) -> sparse.csr_array:
    """Changes by further rows of the factors 1/√n of each row's counterparts.

    Shape (n_given, n_known), for the users, or the items, of the further rows and known
    counterparts.
    """
    data, seen = further.data, further.seen
    given, others = further.users, further.items
    rows, met, n_known = data.users, others[data.items], seen.n_items
    if side == "item":
        given, others, n_known = others, given, seen.n_users
        rows, met = data.items, others[data.users]
    known = np.flatnonzero(given >= 0)
    of_known = seen.of_users if side == "user" else seen.of_items
    place, *pairs = of_known(given[known])
    before = known[place], pairs[side == "user"]
    # New counterparts follow the known ones; they have no factor yet, but count.
    new = n_known + np.arange(len(others))
    met = np.where(met < 0, new[data.items if side == "user" else data.users], met)
    shape = len(given), n_known + len(others)
    old, all_pairs = (
        sparse.csr_array((np.ones(len(row)), (row, column)), shape)
        for row, column in (
            before,
            [np.concatenate(part) for part in zip(before, (rows, met), strict=True)],
        )
    )
    return sparse.csr_array((_factors(all_pairs) - _factors(old))[:, :n_known])


def _factors(pairs: sparse.csr_array) -> sparse.csr_array:
    """1/√n for each of the n places of a row that are not zero."""
    pairs.sum_duplicates()
    counts = np.diff(pairs.indptr)
    pairs.data = np.repeat(1 / np.sqrt(np.maximum(counts, 1)), counts)
    return pairs


def _joined(tables: list[Tensor] | list[Parameter]) -> Tensor:
    """Rows of tables side by side, of shape (n_rows, row_size)."""
    return torch.cat([table.flatten(1) for table in tables], dim=1)
