"""Terms of the fold-in objective: losses of pairs, grouped by the row they update.

Rows are those that new pairs meet. Terms come from the new pairs, from the past pairs
of known rows, and from items that are drawn as negatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .._data.seen import SeenItems

# Minimum number of draws for a new row and for a known one. Known items get twice the
# expected number of draws, within these bounds.
MIN_DRAWS, MIN_DRAWS_KNOWN = 256, 32

# Maximum number of past pairs in the curvature of a row.
MAX_PAST = 128


@dataclass(frozen=True)
class Pairs:
    """Ratings of user and item numbers, as arrays.

    Attributes
    ----------
    users, items : ndarray of shape (n,), dtype int64
        Row numbers; new rows follow the known ones.
    target, weight : ndarray of shape (n,)
    context : ndarray of shape (n, n_context)
    """

    users: np.ndarray
    items: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    context: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> Pairs:
        return Pairs(*(column[rows] for column in vars(self).values()))

    def append(self, other: Pairs) -> Pairs:
        columns = zip(vars(self).values(), vars(other).values(), strict=True)
        return Pairs(*(np.concatenate(column) for column in columns))

    def scaled(self, factor: np.ndarray | float) -> Pairs:
        return replace(self, weight=self.weight * factor)

    def as_negatives(self, items: np.ndarray) -> Pairs:
        """Pairs of the same users with other items, which have target 0."""
        return replace(self, items=items, target=np.zeros(len(self)))


@dataclass(frozen=True)
class SideRows:
    """Rows of one side that new pairs meet.

    Attributes
    ----------
    numbers : ndarray of shape (n_rows,)
        Sorted.
    is_new : ndarray of shape (n_rows,), dtype bool
    row_of_new : ndarray of shape (n_new_pairs,)
        Positions in `numbers`.
    past : Pairs
        All seen pairs of the known rows.
    row_of_past : ndarray of shape (n_past_pairs,)
        Positions in `numbers`.
    """

    numbers: np.ndarray
    is_new: np.ndarray
    row_of_new: np.ndarray
    past: Pairs
    row_of_past: np.ndarray


@dataclass(frozen=True)
class FoldInProblem:
    """Objective of the rows that new pairs meet.

    Attributes
    ----------
    loss : str
        A key of LOSSES.
    n_negatives : int
        Items drawn for each pair.
    reg : float
        Penalty in the objective of `TrainingOptions`.
    seen : SeenItems
    new_pairs : Pairs
    n_new_items : int
        Number of items that follow the known ones.
    n_columns : int
        Number of the columns of context that have values, which are the last.
    bias_penalties : tuple of float or None
        Those of users and of items, in place of reg √W_r; None for those.
    """

    loss: str
    n_negatives: int
    reg: float
    seen: SeenItems
    new_pairs: Pairs
    n_new_items: int
    n_columns: int = 0
    bias_penalties: tuple[float, float] | None = None

    @property
    def is_pairwise(self) -> bool:
        """Whether a loss compares the scores of two items."""
        return self.loss == "bpr"

    @property
    def n_items(self) -> int:
        return self.seen.n_items + self.n_new_items

    def rows(self, side: str) -> SideRows:
        """Rows of a side that new pairs meet, with their past."""
        if side == "user":
            met, n_known = self.new_pairs.users, self.seen.n_users
            seen_of = self.seen.of_users
        else:
            met, n_known = self.new_pairs.items, self.seen.n_items
            seen_of = self.seen.of_items
        numbers, row_of_new = np.unique(met, return_inverse=True)
        is_new = numbers >= n_known
        known = np.flatnonzero(~is_new)
        position, users, items = seen_of(numbers[known])
        past = self.past_pairs(users, items)
        return SideRows(numbers, is_new, row_of_new, past, known[position])

    def past_pairs(self, users: np.ndarray, items: np.ndarray) -> Pairs:
        """Seen pairs; their ratings are not kept, so all count alike.

        Neither is their context: numbers are at their mean, and values have no effect.
        """
        ones = np.ones(len(users))
        context = np.zeros((len(users), self.new_pairs.context.shape[1]))
        context[:, context.shape[1] - self.n_columns :] = -1
        return Pairs(users, items, ones, ones, context)

    def numbered_pairs(self, numbers: np.ndarray) -> Pairs:
        """Pairs by number; the new pairs follow the seen ones."""
        is_past = numbers < len(self.seen)
        past = self.past_pairs(*self.seen.take(numbers[is_past]))
        new = self.new_pairs.take(numbers[~is_past] - len(self.seen))
        order = np.concatenate([np.flatnonzero(is_past), np.flatnonzero(~is_past)])
        return past.append(new).take(np.argsort(order))

    def expected_draws(self, weight: float) -> float:
        """Expected weight of the draws of one item, for pairs of a total weight."""
        return self.n_negatives * weight / self.n_items

    def pair_weights(self, side: str, rows: SideRows) -> tuple[np.ndarray, np.ndarray]:
        """Weights of past and of new pairs by row, with the expected draws."""
        past = np.bincount(rows.row_of_past, minlength=len(rows.numbers)).astype(float)
        new = np.bincount(rows.row_of_new, self.new_pairs.weight)
        if side == "user":
            return (1 + self.n_negatives) * past, (1 + self.n_negatives) * new
        draws_past = self.expected_draws(len(self.seen))
        draws_new = self.expected_draws(self.new_pairs.weight.sum())
        # A new item might have been drawn for every past pair, but never was.
        past += ~rows.is_new * draws_past
        return past, new + draws_new + rows.is_new * draws_past


@dataclass(frozen=True)
class Terms:
    """Losses that depend on rows of one side.

    The score of a term is that of a user and an item, or `sign` times the difference
    between the scores of a first and a second item.

    Attributes
    ----------
    row : Tensor of shape (n,), dtype int64
        Positions among the rows of the side.
    users : Tensor of shape (n,), dtype int64
    items : Tensor of shape (n, 1 or 2), dtype int64
    sign, target, weight : Tensor of shape (n,)
    context : Tensor of shape (n, n_context)
    """

    row: Tensor
    users: Tensor
    items: Tensor
    sign: Tensor
    target: Tensor
    weight: Tensor
    context: Tensor

    @classmethod
    def of_pairs(
        cls,
        row: np.ndarray,
        pairs: Pairs,
        others: np.ndarray | None = None,
        sign: float = 1.0,
    ) -> Terms:
        """Terms of pairs, or of their comparisons with other items.

        Comparisons are weighted by the targets of the pairs.
        """
        items, target, weight = pairs.items[:, None], pairs.target, pairs.weight
        if others is not None:
            items = np.column_stack([pairs.items, others])
            target, weight = np.zeros(len(pairs)), weight * target
        # Copies, since arrays of callers may be read-only.
        numbers = (torch.tensor(column) for column in (row, pairs.users, items))
        values = (np.full(len(pairs), sign), target, weight, pairs.context)
        return cls(*numbers, *(torch.tensor(v, dtype=torch.float32) for v in values))

    @classmethod
    def joined(cls, parts: list[Terms]) -> Terms:
        """Terms of positive weight, sorted by row."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        terms = cls(*map(torch.cat, columns))
        kept = (terms.weight > 0).nonzero()[:, 0]
        return terms.take(kept[terms.row[kept].argsort(stable=True)])

    def __len__(self) -> int:
        return len(self.row)

    def take(self, where: Tensor) -> Terms:
        return Terms(*(column[where] for column in vars(self).values()))

    def of_rows(self, is_chosen: Tensor) -> Terms:
        return self.take(is_chosen[self.row].nonzero()[:, 0])

    def renumbered(self, users: Tensor, items: Tensor, device: torch.device) -> Terms:
        """Terms whose users and items are positions in sorted numbers."""
        users = torch.searchsorted(users, self.users)
        items = torch.searchsorted(items, self.items)
        columns = vars(replace(self, users=users, items=items)).values()
        return Terms(*(column.to(device) for column in columns))

    def tiles(self, size: int) -> Iterator[Terms]:
        if len(self):
            parts = (column.split(size) for column in vars(self).values())
            yield from map(Terms, *parts)


class TermSampler:
    """Terms of new and of past pairs, and of items drawn for them."""

    def __init__(
        self,
        problem: FoldInProblem,
        rows: dict[str, SideRows],
        rng: np.random.RandomState,
    ) -> None:
        self.problem, self.rows, self.rng = problem, rows, rng
        pairs = problem.new_pairs
        self.new_keys = np.unique(pairs.users * problem.n_items + pairs.items)

    def new_terms(self, side: str) -> Terms:
        """Terms of new pairs; new items are also drawn for past pairs."""
        problem, rows = self.problem, self.rows[side]
        n_draws = np.maximum(
            np.where(rows.is_new, MIN_DRAWS, MIN_DRAWS_KNOWN),
            problem.n_negatives * np.bincount(rows.row_of_new),
        )
        parts = self._pair_terms(side, rows.row_of_new, problem.new_pairs, n_draws)
        if side == "item":
            expected = problem.expected_draws(problem.new_pairs.weight.sum())
            n_known = int(np.clip(2 * expected, MIN_DRAWS_KNOWN, MIN_DRAWS))
            n_past, n_pairs = len(problem.seen), len(problem.new_pairs)
            parts += self._drawn_item_terms(~rows.is_new, n_past, n_pairs, n_known)
            parts += self._drawn_item_terms(rows.is_new, 0, n_past + n_pairs, MIN_DRAWS)
        return Terms.joined(parts)

    def past_terms(self, side: str) -> Terms:
        """Terms of the past pairs of known rows, which stand for those of training."""
        rows = self.rows[side]
        row, pairs = self._subsample(rows.row_of_past, rows.past)
        n_draws = np.full(len(rows.numbers), MIN_DRAWS_KNOWN)
        parts = self._pair_terms(side, row, pairs, n_draws)
        if side == "item":
            n_past = len(self.problem.seen)
            parts += self._drawn_item_terms(~rows.is_new, 0, n_past, MIN_DRAWS_KNOWN)
        return Terms.joined(parts)

    def _pair_terms(
        self, side: str, row: np.ndarray, pairs: Pairs, n_draws: np.ndarray
    ) -> list[Terms]:
        """Terms of pairs, and of the items drawn for users or compared."""
        if self.problem.is_pairwise:
            row, pairs, drawn = self._draw_items(row, pairs, n_draws)
            return [Terms.of_pairs(row, pairs, drawn, sign=-1.0)]
        parts = [Terms.of_pairs(row, pairs)]
        if side == "user" and self.problem.n_negatives:
            row, pairs, drawn = self._draw_items(row, pairs, n_draws)
            parts.append(Terms.of_pairs(row, pairs.as_negatives(drawn)))
        return parts

    def _drawn_item_terms(
        self, is_drawn: np.ndarray, first: int, n_pairs: int, n_draws: int
    ) -> list[Terms]:
        """Terms of items as negatives of a sample of consecutive numbered pairs."""
        problem, row = self.problem, np.flatnonzero(is_drawn)
        if not (problem.n_negatives and len(row) and n_pairs):
            return []
        # Evenly spaced pairs, which are sorted by user, from a random one on.
        spaced = np.arange(n_draws) + self.rng.random_sample((len(row), 1))
        numbers = (spaced * (n_pairs / n_draws)).astype(np.int64).ravel() % n_pairs
        pairs = problem.numbered_pairs(first + numbers)
        row = np.repeat(row, n_draws)
        items = self.rows["item"].numbers[row]
        share = problem.n_negatives * n_pairs / (problem.n_items * n_draws)
        pairs = pairs.scaled(share * self._is_unseen(pairs.users, items))
        if problem.is_pairwise:
            return [Terms.of_pairs(row, replace(pairs, items=items), pairs.items)]
        return [Terms.of_pairs(row, pairs.as_negatives(items))]

    def _draw_items(
        self, row: np.ndarray, pairs: Pairs, n_draws: np.ndarray
    ) -> tuple[np.ndarray, Pairs, np.ndarray]:
        """Repeated pairs with an item drawn for each, at least `n_draws` a row."""
        counts = np.bincount(row)[row]
        times = -(-n_draws[row] // counts)
        repeated = np.repeat(np.arange(len(row)), times)
        pairs = pairs.scaled(self.problem.n_negatives / times).take(repeated)
        row = row[repeated]
        # Consecutive items of a random order: those of a row differ, if they can.
        order = self.rng.permutation(self.problem.n_items)
        starts = self.rng.randint(len(order), size=len(n_draws))
        ranks = _ranks_in_row(row, np.argsort(row, kind="stable"))
        drawn = order[(starts[row] + ranks) % len(order)]
        return row, pairs.scaled(self._is_unseen(pairs.users, drawn)), drawn

    def _is_unseen(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        keys = users * self.problem.n_items + items
        place = np.searchsorted(self.new_keys, keys).clip(max=len(self.new_keys) - 1)
        is_new = self.new_keys[place] == keys
        return ~is_new & ~self.problem.seen.contain(users, items)

    def _subsample(self, row: np.ndarray, pairs: Pairs) -> tuple[np.ndarray, Pairs]:
        """At most MAX_PAST random pairs of a row, weighted to stand for all."""
        counts = np.bincount(row)
        if not len(row) or counts.max() <= MAX_PAST:
            return row, pairs
        order = np.lexsort((self.rng.random_sample(len(row)), row))
        kept = order[_ranks_in_row(row, order)[order] < MAX_PAST]
        row = row[kept]
        return row, pairs.take(kept).scaled(np.maximum(counts / MAX_PAST, 1)[row])


def _ranks_in_row(row: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Rank of each entry among those of its row, in an order that sorts the rows."""
    ranks = np.empty(len(row), dtype=np.int64)
    sorted_row = row[order]
    ranks[order] = np.arange(len(row)) - np.searchsorted(sorted_row, sorted_row)
    return ranks
