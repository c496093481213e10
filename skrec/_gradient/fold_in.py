"""Further pairs without the old ones: rows of a network by damped Newton steps.

Given the other side and all that rows share, each row has a small problem of its own.
Its past is a Gaussian around where the row was (Laplace's approximation), as firm as
the curvature of the losses that it was learned from. Nothing here draws a learning
rate, and no row ends up where its own objective is higher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Self

import numpy as np
import torch
from torch import Tensor

from .._threads import torch_threads
from .loop import LOSSES
from .network import TABLES, NeuMF, Shape

# Draws for a new row and for a known one, at least. Draws for known items are twice
# their weight, as far as it is between the two.
MIN_DRAWS, MIN_DRAWS_KNOWN = 256, 32

# Epochs over drawn items end before rows reach the minimum of their objective. Rows
# that do reach it are as good with so many times the penalty.
FIRMNESS_AMONG_DRAWN = 2.0

# Past pairs of a row that its curvature is made of, at most.
MAX_PAST = 128

# Sweeps end when one lowers the objective by less than this per unit of weight.
TOL = 3e-3

# How often a step that raises the objective of a row is halved before the row stays.
MAX_HALVINGS = 6

# Smallest residual that an absolute error is taken to have.
MIN_RESIDUAL = 1e-2

# Small multiple of the mean curvature, which keeps it invertible.
MIN_CURVATURE = 1e-5

# Numbers of a tile of outer products.
TILE_SIZE = 2**22


def _logistic_curvature(score: Tensor) -> Tensor:
    return torch.sigmoid(score) * torch.sigmoid(-score)


# (score, target) to the slope of a loss, and to the curvature of a parabola through it
# with the same slope. That of "bpr" is "log_loss" of a difference of scores.
SLOPES = {
    "squared_error": lambda score, target: 2 * (score - target),
    "absolute_error": lambda score, target: (score - target).sign(),
    "huber": lambda score, target: (score - target).clamp(-1, 1),
    "log_loss": lambda score, target: torch.sigmoid(score) - target,
}
CURVATURES = {
    "squared_error": lambda score, target: torch.full_like(score, 2.0),
    "absolute_error": lambda score, target: (
        1 / (score - target).abs().clamp_min(MIN_RESIDUAL)
    ),
    "huber": lambda score, target: 1 / (score - target).abs().clamp_min(1),
    "log_loss": lambda score, target: _logistic_curvature(score),
}

# The curvature to expect at a score when its target is not known.
PAST_CURVATURES = {
    "squared_error": lambda score: torch.full_like(score, 2.0),
    "absolute_error": torch.ones_like,
    "huber": torch.ones_like,
    "log_loss": _logistic_curvature,
}


@dataclass(frozen=True)
class Pairs:
    """Pairs of users and items, as arrays.

    Attributes
    ----------
    users, items : ndarray of shape (n,), dtype int64
        Row numbers; those of new rows follow those of known ones.
    target, weight : ndarray of shape (n,)
    features : ndarray of shape (n, n_features)
    """

    users: np.ndarray
    items: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    features: np.ndarray

    @classmethod
    def of_past(cls, users: np.ndarray, items: np.ndarray, n_features: int) -> Self:
        """Pairs of which nothing else is known."""
        one = np.ones(len(users))
        return cls(users, items, one, one, np.zeros((len(users), n_features)))

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> Pairs:
        return Pairs(*(getattr(self, field.name)[rows] for field in fields(self)))

    def scaled(self, factor: np.ndarray | float) -> Pairs:
        return replace(self, weight=self.weight * factor)


@dataclass(frozen=True)
class Seen:
    """The pairs that known rows were learned from.

    Attributes
    ----------
    offsets : ndarray of shape (n_users + 1,)
    items : ndarray of shape (n_pairs,)
        Sorted items of each user, user by user.
    n_items : int
    """

    offsets: np.ndarray
    items: np.ndarray
    n_items: int

    @property
    def n_users(self) -> int:
        return len(self.offsets) - 1

    def of_users(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(position in `users`, item) of all pairs of known users."""
        starts, ends = self.offsets[users], self.offsets[users + 1]
        counts = ends - starts
        shift = np.repeat(starts - np.cumsum(counts) + counts, counts)
        position = np.repeat(np.arange(len(users)), counts)
        return position, self.items[shift + np.arange(len(shift))].astype(np.int64)

    def of_items(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(position in `items`, user) of all pairs of known items."""
        position = np.full(self.n_items, -1)
        position[items] = np.arange(len(items))
        wanted = np.zeros(self.n_items, dtype=bool)
        wanted[items] = True
        where = np.flatnonzero(wanted[self.items])
        return position[self.items[where]], self._users_at(where)

    def at(self, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Users and items of numbered pairs."""
        return self._users_at(where), self.items[where].astype(np.int64)

    def holds(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Whether pairs are among these; rows may be new."""
        known = users < self.n_users
        users = np.where(known, users, 0)
        low, high = self.offsets[users], self.offsets[users + 1]
        end = high
        while (open_ := low < high).any():
            middle = (low + high) // 2
            before = open_ & (self.items[np.where(open_, middle, 0)] < items)
            low = np.where(before, middle + 1, low)
            high = np.where(open_ & ~before, middle, high)
        found = known & (low < end)
        return found & (self.items[np.where(found, low, 0)] == items)

    def _users_at(self, where: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.offsets, where, side="right") - 1


@dataclass(frozen=True)
class Terms:
    """Losses that rows of one side have a part in, sorted by row.

    The score of a term is that of a user and an item, or `sign` times what it is more
    than that of the user and a second item.

    Attributes
    ----------
    row : Tensor of shape (n,), dtype int64
        Which of the revised rows.
    users : Tensor of shape (n,), dtype int64
    items : Tensor of shape (n, 1 or 2), dtype int64
    sign, target, weight : Tensor of shape (n,)
    features : Tensor of shape (n, n_features)
    """

    row: Tensor
    users: Tensor
    items: Tensor
    sign: Tensor
    target: Tensor
    weight: Tensor
    features: Tensor

    def __len__(self) -> int:
        return len(self.row)

    def of_rows(self, chosen: Tensor) -> Terms:
        """Terms of the rows that are chosen."""
        where = chosen[self.row].nonzero()[:, 0]
        return Terms(*(getattr(self, f.name)[where] for f in fields(self)))

    def tiles(self, size: int) -> Iterator[Terms]:
        names = [field.name for field in fields(self)] if len(self) else []
        for parts in zip(*(getattr(self, n).split(size) for n in names), strict=True):
            yield Terms(*parts)


@dataclass(frozen=True)
class Problem:
    """What is minimised over rows.

    Attributes
    ----------
    loss : str
        A key of LOSSES.
    n_negatives : int
        Items drawn for each pair.
    reg : float
        Of the objective of `Plan`.
    seen : Seen
    further : Pairs
    new_users, new_items : int
        How many rows follow the known ones.
    """

    loss: str
    n_negatives: int
    reg: float
    seen: Seen
    further: Pairs
    new_users: int
    new_items: int

    @property
    def compares(self) -> bool:
        """Whether a loss is of the scores of two items."""
        return self.loss == "bpr"

    @property
    def n_items(self) -> int:
        return self.seen.n_items + self.new_items

    def past(self, users: np.ndarray, items: np.ndarray) -> Pairs:
        return Pairs.of_past(users, items, self.further.features.shape[1])


class _Builder:
    """Makes terms of pairs, and of what is drawn for them."""

    def __init__(self, problem: Problem, rng: np.random.RandomState) -> None:
        self.problem, self.rng = problem, rng
        further = problem.further
        self.keys = np.unique(further.users * problem.n_items + further.items)

    def unseen(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        key = users * self.problem.n_items + items
        where = np.searchsorted(self.keys, key).clip(max=len(self.keys) - 1)
        return (self.keys[where] != key) & ~self.problem.seen.holds(users, items)

    def of_users(self, row: np.ndarray, pairs: Pairs, at_least: np.ndarray):
        """Terms of pairs by user, and of the items drawn for them."""
        blocks = [] if self.problem.compares else [(row, pairs, None, 1.0)]
        if self.problem.n_negatives:
            row, pairs, drawn = self.drawn_beside(row, pairs, at_least)
            if self.problem.compares:
                blocks.append((row, replace(pairs, items=drawn), pairs.items, 1.0))
            else:
                blocks.append((row, self.not_chosen(pairs, items=drawn), None, 1.0))
        return blocks

    def of_items(self, row: np.ndarray, pairs: Pairs, at_least: np.ndarray):
        """Terms of pairs by item."""
        if not self.problem.compares:
            return [(row, pairs, None, 1.0)]
        row, pairs, drawn = self.drawn_beside(row, pairs, at_least)
        return [(row, pairs, drawn, -1.0)]

    def of_drawn_items(
        self, row: np.ndarray, items: np.ndarray, n: int, sample: Callable, n_draws: int
    ) -> list[tuple]:
        """Terms of items that are drawn for `n` pairs, some of which are sampled."""
        if not (self.problem.n_negatives and len(row) and n):
            return []
        # Evenly spaced pairs, which are sorted by user, from a random one on.
        spaced = np.arange(n_draws) + self.rng.random_sample((len(row), 1))
        pairs = sample((spaced * (n / n_draws)).astype(np.int64).ravel() % n)
        row, items = np.repeat(row, n_draws), np.repeat(items, n_draws)
        share = self.problem.n_negatives * n / (self.problem.n_items * n_draws)
        pairs = pairs.scaled(share * self.unseen(pairs.users, items))
        if self.problem.compares:
            return [(row, replace(pairs, items=items), pairs.items, 1.0)]
        return [(row, self.not_chosen(pairs, items=items), None, 1.0)]

    def drawn_beside(
        self, row: np.ndarray, pairs: Pairs, at_least: np.ndarray
    ) -> tuple[np.ndarray, Pairs, np.ndarray]:
        """Pairs many times, with an item drawn for each."""
        n = self.problem.n_negatives
        counts = np.bincount(row)[row]
        times = -(-at_least[row] // counts)
        many = np.repeat(np.arange(len(row)), times)
        pairs = pairs.scaled(n / times).take(many)
        # Consecutive items of a random order: those of a row differ, if they can.
        order = self.rng.permutation(self.problem.n_items)
        starts = self.rng.randint(len(order), size=len(at_least))
        rank = np.empty(len(many), dtype=np.int64)
        by_row = np.argsort(row[many], kind="stable")
        sorted_row = row[many][by_row]
        rank[by_row] = np.arange(len(many)) - np.searchsorted(sorted_row, sorted_row)
        drawn = order[(starts[row[many]] + rank) % len(order)]
        pairs = pairs.scaled(self.unseen(pairs.users, drawn))
        return row[many], pairs, drawn

    def not_chosen(self, pairs: Pairs, **changes) -> Pairs:
        return replace(pairs, target=np.zeros(len(pairs)), **changes)

    def some(self, row: np.ndarray, pairs: Pairs) -> tuple[np.ndarray, Pairs]:
        """No more pairs of a row than MAX_PAST, which stand for all."""
        counts = np.bincount(row)
        if not len(row) or counts.max() <= MAX_PAST:
            return row, pairs
        order = np.lexsort((self.rng.random_sample(len(row)), row))
        rank = np.arange(len(row)) - (np.cumsum(counts) - counts)[row[order]]
        kept = order[rank < MAX_PAST]
        factor = np.maximum(counts / MAX_PAST, 1)[row[kept]]
        return row[kept], pairs.take(kept).scaled(factor)

    def terms(self, blocks: list[tuple]) -> tuple:
        """Columns of `Terms` as arrays, which still hold row numbers of the fit."""
        compares = self.problem.compares
        rows, pairs, others, signs = zip(*blocks, strict=True)
        row = np.concatenate(rows)
        weight = np.concatenate([p.weight for p in pairs])
        if compares:
            # bpr weighs a comparison by what was chosen.
            weight = weight * np.concatenate([p.target for p in pairs])
        kept = np.flatnonzero(weight > 0)
        order = kept[np.argsort(row[kept], kind="stable")]
        items = np.concatenate([p.items for p in pairs])[:, None]
        if compares:
            items = np.hstack([items, np.concatenate(others)[:, None]])
        target = np.concatenate([p.target for p in pairs])
        columns = (
            row,
            np.concatenate([p.users for p in pairs]),
            items,
            np.repeat(signs, [len(p) for p in pairs]),
            np.zeros_like(target) if compares else target,
            weight,
            np.concatenate([p.features for p in pairs]),
        )
        return tuple(column[order] for column in columns)


class FoldIn:
    """Rows of users and of items that further pairs meet, and steps to better ones.

    Parameters
    ----------
    shape : Shape
        Of the network.
    gather : callable
        Takes row numbers of users and of items to weights, with a row of the unseen
        behind those of each table.
    problem : Problem
    rng : RandomState
    device : torch.device
    described : tuple of str
        Sides whose known rows have a prior of their own each, which is taken to be
        where they are. That of others is the row of the unseen.
    """

    def __init__(
        self,
        shape: Shape,
        gather: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]],
        problem: Problem,
        rng: np.random.RandomState,
        device: torch.device,
        described: tuple[str, ...] = (),
    ) -> None:
        self.shape, self.problem, self.device = shape, problem, device
        self.loss = "log_loss" if problem.compares else problem.loss
        further, seen = problem.further, problem.seen
        builder = _Builder(problem, rng)
        n_known = {"user": seen.n_users, "item": seen.n_items}
        self.rows, number = {}, {}
        for side, met in (("user", further.users), ("item", further.items)):
            self.rows[side], number[side] = np.unique(met, return_inverse=True)
        new = {side: self.rows[side] >= n_known[side] for side in TABLES}

        ours, past, past_counts = {}, {}, {}
        n = problem.n_negatives
        drawn_past, drawn_further = (
            n * weight / problem.n_items
            for weight in (len(seen.items), further.weight.sum())
        )
        n_draws = int(np.clip(2 * drawn_further, MIN_DRAWS_KNOWN, MIN_DRAWS))
        draws = {
            side: np.maximum(
                np.where(new[side], MIN_DRAWS, MIN_DRAWS_KNOWN),
                n * np.bincount(number[side]),
            )
            for side in TABLES
        }
        known = np.flatnonzero(~new["item"]), self.rows["item"][~new["item"]]
        added = np.flatnonzero(new["item"]), self.rows["item"][new["item"]]
        n_past = len(seen.items)
        ours["user"] = builder.terms(
            builder.of_users(number["user"], further, draws["user"])
        )
        ours["item"] = builder.terms(
            [
                *builder.of_items(number["item"], further, draws["item"]),
                *builder.of_drawn_items(*known, len(further), further.take, n_draws),
                *builder.of_drawn_items(
                    *added, n_past + len(further), self._any_pair, MIN_DRAWS
                ),
            ]
        )
        for side, of_rows in (("user", seen.of_users), ("item", seen.of_items)):
            old = np.flatnonzero(~new[side])
            position, others = of_rows(self.rows[side][old])
            row = old[position]
            past_counts[side] = np.bincount(row, minlength=len(new[side]))
            pairs = self.rows[side][row], others
            pairs = problem.past(*(pairs if side == "user" else reversed(pairs)))
            row, pairs = builder.some(row, pairs)
            few = np.full(len(new[side]), MIN_DRAWS_KNOWN)
            if side == "user":
                blocks = builder.of_users(row, pairs, few)
            else:
                blocks = builder.of_items(row, pairs, few) + builder.of_drawn_items(
                    *known, n_past, self._past_pairs, MIN_DRAWS_KNOWN
                )
            past[side] = builder.terms(blocks)

        # Rows that any of the terms meets, and their numbers among these.
        met, local = {}, {}
        for place, side in ((1, "user"), (2, "item")):
            columns = [terms[s][place] for terms in (ours, past) for s in TABLES]
            met[side], inverse = np.unique(
                np.concatenate([self.rows[side], *(c.ravel() for c in columns)]),
                return_inverse=True,
            )
            ends = np.cumsum([len(self.rows[side]), *(c.size for c in columns)])
            own, *parts = np.split(inverse, ends[:-1])
            local[side] = (
                own,
                [
                    part.reshape(column.shape)
                    for part, column in zip(parts, columns, strict=True)
                ],
            )
        tensor = partial(torch.as_tensor, device=device)
        self.values = {
            name: tensor(value)
            for name, value in gather(met["user"], met["item"]).items()
        }
        self.own = {side: tensor(local[side][0]) for side in TABLES}

        def as_terms(columns: tuple, place: int) -> Terms:
            row, _, _, sign, target, weight, features = columns
            return Terms(
                tensor(row),
                tensor(local["user"][1][place]),
                tensor(local["item"][1][place]),
                *(tensor(v).float() for v in (sign, target, weight, features)),
            )

        self.terms = {s: as_terms(ours[s], n) for n, s in enumerate(TABLES)}
        self.total = float(self.terms["user"].weight.sum()) or 1.0

        # What holds rows: the curvature of their past, and the penalty of the fit,
        # which grows with the weight of their pairs.
        reg = problem.reg * (FIRMNESS_AMONG_DRAWN if n else 1)
        self.start, self.prior, self.hold, self.pull = {}, {}, {}, {}
        for place, side in enumerate(TABLES):
            start = self.read(side)
            weight = np.bincount(number[side], further.weight)
            before = past_counts[side].astype(float)
            if side == "user":
                weight, before = (1 + n) * weight, (1 + n) * before
            else:
                weight = weight + drawn_further + new[side] * drawn_past
                before = before + ~new[side] * drawn_past
            firm = reg * np.sqrt(before)
            more = reg * np.sqrt(before + weight) - firm
            prior = start.clone()
            if side not in described:
                unseen = self.flat(side, slice(-1, None))
                known = tensor(~new[side])[:, None, None]
                prior = torch.where(known, unseen, prior)
            terms = as_terms(past[side], 2 + place)
            with torch_threads(1):
                _, _, hold = self.expand(side, terms, PAST_CURVATURES[self.loss])
            hold /= 2
            diagonal = hold.diagonal(dim1=-2, dim2=-1)
            diagonal += tensor(firm).float()[:, None, None]
            self.start[side], self.prior[side], self.hold[side] = start, prior, hold
            self.pull[side] = tensor(more).float()[:, None]

    def _past_pairs(self, where: np.ndarray) -> Pairs:
        return self.problem.past(*self.problem.seen.at(where))

    def _any_pair(self, where: np.ndarray) -> Pairs:
        """Numbered pairs of the past, and behind them further ones."""
        n_past, further = len(self.problem.seen.items), self.problem.further
        is_past = where < n_past
        past = self._past_pairs(np.where(is_past, where, 0))
        ours = further.take(np.where(is_past, 0, where - n_past))
        return Pairs(
            *(
                np.where(is_past if a.ndim == 1 else is_past[:, None], a, b)
                for a, b in (
                    (getattr(past, f.name), getattr(ours, f.name))
                    for f in fields(Pairs)
                )
            )
        )

    def tables(self, side: str) -> list[str]:
        return [name for name in TABLES[side] if name in self.values]

    def flat(self, side: str, rows) -> Tensor:
        """Rows of all tables of a side side by side: (n, n_members, row_size)."""
        taken = [self.values[name][rows] for name in self.tables(side)]
        return _side_by_side(taken)

    def read(self, side: str) -> Tensor:
        return self.flat(side, self.own[side])

    def write(self, side: str, rows: Tensor) -> None:
        start = 0
        for name in self.tables(side):
            table = self.values[name]
            size = table[0, 0].numel()
            part = rows[..., start : start + size]
            table[self.own[side]] = part.reshape(len(part), *table.shape[1:])
            start += size

    def revised(self, side: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Tables of numbered rows, which are among those that were revised."""
        place = np.searchsorted(self.rows[side], rows)
        return {
            name: self.values[name][self.own[side]].cpu().numpy()[place]
            for name in self.tables(side)
        }

    def network(self, terms: Terms) -> NeuMF:
        """A network whose tables have a row for each user and each item of a term."""
        weights = {
            name: value
            for name, value in self.values.items()
            if name not in TABLES["user"] + TABLES["item"]
        }
        for name in self.tables("user"):
            weights[name] = self.values[name][terms.users]
        for name in self.tables("item"):
            weights[name] = self.values[name][terms.items.flatten()]
        n_users, n_items = len(terms), terms.items.numel()
        return NeuMF(replace(self.shape, n_users=n_users, n_items=n_items), weights)

    def scores(self, network: NeuMF, terms: Terms) -> Tensor:
        """Scores of terms, of shape (n, n_members)."""
        items = torch.arange(terms.items.numel(), device=self.device)
        items = items.view(terms.items.shape)
        scores = network(items[:, 0] // items.shape[1], items, terms.features)
        if not self.problem.compares:
            return scores[:, 0]
        return terms.sign[:, None] * (scores[:, 0] - scores[:, 1])

    def sums(self, side: str, terms: Terms, values: Tensor) -> Tensor:
        """Sums of values of terms by row."""
        total = values.new_zeros(len(self.own[side]), *values.shape[1:])
        return total.index_add_(0, terms.row, values)

    @torch.no_grad()
    def losses(self, side: str, terms: Terms) -> Tensor:
        """Sum of the losses of each row and member."""
        members = self.shape.n_members
        total = torch.zeros(len(self.own[side]), members, device=self.device)
        for tile in terms.tiles(max(1, TILE_SIZE // (16 * members))):
            score = self.scores(self.network(tile), tile)
            loss = LOSSES[self.loss](score, tile.target[:, None])
            total += self.sums(side, tile, tile.weight[:, None] * loss)
        return total

    @torch.no_grad()
    def penalty(self, side: str, rows: Tensor) -> Tensor:
        away = rows - self.start[side]
        held = torch.einsum("tmi,tmij,tmj->tm", away, self.hold[side], away)
        pulled = (rows - self.prior[side]).square().sum(-1)
        return held + self.pull[side] * pulled

    def expand(
        self, side: str, terms: Terms, curvature_of: Callable | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of rows, and their gradients and curvatures."""
        n, m = len(self.own[side]), self.shape.n_members
        size = sum(self.values[name][0, 0].numel() for name in self.tables(side))
        loss = torch.zeros(n, m, device=self.device)
        gradient = torch.zeros(n, m, size, device=self.device)
        curvature = torch.zeros(n, m, size, size, device=self.device)
        for tile in terms.tiles(max(1, TILE_SIZE // (m * size))):
            network = self.network(tile)
            with torch.enable_grad():
                score = self.scores(network, tile)
                jacobian = torch.autograd.grad(
                    score.sum(), network.tables(TABLES[side])
                )
            n_each = 1 if side == "user" else tile.items.shape[1]
            J = _side_by_side([j[::n_each] for j in jacobian])
            score, target = score.detach(), tile.target[:, None]
            weight = tile.weight[:, None]
            if curvature_of is None:
                loss += self.sums(side, tile, weight * LOSSES[self.loss](score, target))
                slope = weight * SLOPES[self.loss](score, target)
                gradient += self.sums(side, tile, slope[..., None] * J)
                bend = CURVATURES[self.loss](score, target)
            else:
                bend = curvature_of(score)
            _add_squares(curvature, tile.row, (weight * bend).sqrt()[..., None] * J)
        return loss, gradient, curvature

    def step(self, side: str) -> tuple[float, float]:
        """Revise one side's rows. Returns their mean loss, and the fall."""
        rows = self.read(side)
        loss, gradient, curvature = self.expand(side, self.terms[side])
        pull, hold = self.pull[side], self.hold[side]
        away = rows - self.start[side]
        gradient += 2 * torch.einsum("tmij,tmj->tmi", hold, away)
        gradient += 2 * pull[..., None] * (rows - self.prior[side])
        curvature += 2 * hold
        diagonal = curvature.diagonal(dim1=-2, dim2=-1)
        diagonal += 2 * pull[..., None]
        diagonal += MIN_CURVATURE * diagonal.mean(-1, keepdim=True)
        factor = torch.linalg.cholesky_ex(curvature).L
        move = torch.cholesky_solve(-gradient[..., None], factor)[..., 0]

        # A step that raises the objective of a row is halved, and in the end left out.
        before = loss + self.penalty(side, rows)
        after, length = before.clone(), torch.ones_like(before)
        terms, worse = self.terms[side], torch.ones_like(before, dtype=torch.bool)
        for _ in range(MAX_HALVINGS):
            there = rows + length[..., None] * move
            self.write(side, there)
            found = self.losses(side, terms) + self.penalty(side, there)
            better = worse & (found <= before)
            after = torch.where(better, found, after)
            worse &= ~better
            if not worse.any():
                break
            length = torch.where(worse, length / 2, length)
            terms = terms.of_rows(worse.any(1))
        there = torch.where(worse[..., None], rows, there)
        self.write(side, there)
        weight = self.shape.n_members * self.total
        loss = float((after - self.penalty(side, there)).sum()) / weight
        return loss, float((before - after).sum()) / weight

    def sweep(self) -> tuple[float, bool]:
        """Revise users, then items. Returns the mean loss, and whether to stop."""
        # A step is many small operations, in which threads wait for each other.
        with torch_threads(1):
            loss, fall = self.step("user")
            _, more = self.step("item")
        return loss, fall + more < TOL


def _side_by_side(tables: list[Tensor]) -> Tensor:
    """Tables of factors and of biases as one."""
    return torch.cat([t if t.ndim == 3 else t[..., None] for t in tables], dim=-1)


def _add_squares(total: Tensor, row: Tensor, values: Tensor) -> None:
    """Add the sum of z zᵀ over the values z of each row; rows are sorted.

    Rows of about as many values are padded to as many, since matrix products are far
    faster than outer products.
    """
    rows, counts = torch.unique_consecutive(row, return_counts=True)
    starts = counts.cumsum(0) - counts
    sizes = 2 ** (counts.double().log2().ceil().long())
    for size in sizes.unique().tolist():
        alike = (sizes == size).nonzero()[:, 0]
        place = torch.arange(size, device=row.device)
        inside = place < counts[alike, None]
        place = torch.where(inside, starts[alike, None] + place, 0)
        padded = values[place] * inside[..., None, None]
        # (row, member, part, value)
        padded = padded.permute(0, 2, 3, 1)
        total.index_add_(0, rows[alike], padded @ padded.transpose(-1, -2))
