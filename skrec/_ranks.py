"""Ranks: processes that fit one model together, and the rows that each computes.

Each process reads rows of its own. Ids are numbered together, and every user and every
item gets an owner, in ranges that cost about the same. Rows are sent to the owners of
their users, where equal ones are merged, and from there to those of their items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from ._data.context import KnownContext
from ._data.interactions import Interactions, weighed_rows
from ._data.reading import Columns
from ._data.seen import SeenItems
from ._data.sides import Sides
from ._data.vocabulary import Ids
from ._share import Largest, Share, Sum, Value

# A row of a side costs as much as so many ratings.
ROW_COST = 64


class Ranks:
    """The processes of a group, and this one among them.

    Parameters
    ----------
    group : ProcessGroup
    timeout : float
        Seconds that an answer may take, for messages.
    """

    def __init__(self, group: Any, timeout: float) -> None:
        self.group, self.timeout = group, timeout
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.has_started = False

    def start(self, report: Any, error: BaseException | None = None) -> list[Any]:
        """The first reports of all processes, or an error if one has none."""
        self.has_started = True
        described = None if error is None else f"{type(error).__name__}: {error}"
        found = self.objects((described, report))
        for rank, (failure, _) in enumerate(found):
            if failure is not None and error is None:
                raise RuntimeError(f"Process {rank} has no rows to fit. {failure}")
        return [own for _, own in found]

    def sum(self, value: Sum) -> Sum:
        """Sum of a value of each process."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def largest(self, value: Largest) -> Largest:
        """Largest of a value of each process."""
        return self._reduced(value, dist.ReduceOp.MAX)

    def _reduced(self, value: Any, how: Any) -> Any:
        if isinstance(value, Tensor):
            both = value.clone(memory_format=torch.contiguous_format)
        else:
            both = torch.tensor(value)
        if isinstance(value, float):
            both = both.double()
        self.add_up(both, how)
        if isinstance(value, Tensor):
            return both
        return both.numpy() if isinstance(value, np.ndarray) else both.item()

    def add_up(self, value: Tensor, how: Any = dist.ReduceOp.SUM) -> None:
        """Replace a tensor by the sum of those of all processes."""
        with self._answered():
            dist.all_reduce(value, how, group=self.group)

    def objects(self, value: Any) -> list[Any]:
        """A small object of each process."""
        found = [None] * self.size
        with self._answered():
            dist.all_gather_object(found, value, group=self.group)
        return found

    def complete(self, bounds: np.ndarray, *tables: Tensor) -> None:
        """Fill tables of which each process has the rows between two bounds."""
        with self._answered():
            running = [
                dist.broadcast(
                    table[bounds[rank] : bounds[rank + 1]],
                    dist.get_global_rank(self.group, rank),
                    group=self.group,
                    async_op=True,
                )
                for table in tables
                for rank in range(self.size)
            ]
            for work in running:
                work.wait()

    def joined(self, values: np.ndarray) -> np.ndarray:
        """The arrays of all processes, one after the other."""
        bounds = np.append(0, np.cumsum(self.objects(len(values))))
        table = torch.empty(
            (int(bounds[-1]), *values.shape[1:]), dtype=torch.from_numpy(values).dtype
        )
        table[bounds[self.rank] : bounds[self.rank + 1]] = torch.from_numpy(values)
        self.complete(bounds, table)
        return table.numpy()

    @contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise ConnectionError(
                "A process of this fit has ended, or has not answered for "
                f"{self.timeout:g} seconds. See its own error, and start all of them "
                "again; if it was only slow, raise timeout."
            ) from error


@dataclass(frozen=True)
class Route:
    """Entries on their way to their owners.

    Attributes
    ----------
    ranks : Ranks
    order : Tensor of shape (n_entries,)
        Places of the entries, owner by owner.
    n_sent, n_received : list of int
        Number of entries to and from each process.
    """

    ranks: Ranks
    order: Tensor
    n_sent: list[int]
    n_received: list[int]

    @classmethod
    def to(cls, ranks: Ranks, owners: np.ndarray) -> Route:
        """The route of entries to given owners."""
        n_sent = np.bincount(owners, minlength=ranks.size).tolist()
        n_received = [sent[ranks.rank] for sent in ranks.objects(n_sent)]
        order = torch.from_numpy(np.argsort(owners, kind="stable"))
        return cls(ranks, order, n_sent, n_received)

    def sent(self, values: Tensor) -> Tensor:
        """Values of the entries that arrive here, sender by sender."""
        arrived = values.new_empty(sum(self.n_received), *values.shape[1:])
        given = values[self.order.to(values.device)].contiguous()
        with self.ranks._answered():
            dist.all_to_all_single(
                arrived, given, self.n_received, self.n_sent, group=self.ranks.group
            )
        return arrived


@dataclass(frozen=True)
class RankShare(Share):
    """The rows of one side that a process owns.

    Attributes
    ----------
    ranks : Ranks
    bounds : ndarray of shape (n_ranks + 1,)
        Process r owns the rows from bounds[r] to bounds[r + 1].
    route : Route or None
        That of ratings from the owners of users to those of items.
    """

    has_all: ClassVar[bool] = False
    ranks: Ranks
    bounds: np.ndarray
    route: Route | None = None

    @classmethod
    def of(cls, ranks: Ranks, counts: np.ndarray, noun: str) -> RankShare:
        """Ranges of about the same cost, by the number of ratings of each row."""
        n_rows = len(counts)
        if n_rows < ranks.size:
            raise ValueError(
                f"There are {ranks.size} processes for {n_rows} {noun}; each needs one "
                "at least. Start fewer processes."
            )
        cost = np.cumsum(counts + ROW_COST)
        ends = cost[-1] * np.arange(1, ranks.size) / ranks.size
        bounds = np.concatenate([[0], np.searchsorted(cost, ends) + 1, [n_rows]])
        # Nobody is left without a row.
        steps = np.arange(ranks.size + 1)
        bounds = np.maximum.accumulate(bounds - steps) + steps
        return cls(ranks, np.minimum(bounds, n_rows - steps[::-1]))

    def owners(self, rows: np.ndarray) -> np.ndarray:
        """The process that owns each of these rows."""
        return np.searchsorted(self.bounds[1:], rows, side="right")

    def rows(self, n_rows: int) -> slice:
        start, stop = self.bounds[self.ranks.rank : self.ranks.rank + 2].tolist()
        return slice(start, stop)

    def complete(self, *tables: Tensor) -> None:
        self.ranks.complete(self.bounds, *tables)

    def sum(self, value: Sum) -> Sum:
        return self.ranks.sum(value)

    def add_up(self, tensors: list[Tensor]) -> list[Tensor]:
        joined = torch.cat([tensor.flatten() for tensor in tensors])
        self.ranks.add_up(joined)
        parts = joined.split([tensor.numel() for tensor in tensors])
        return [p.view(t.shape) for p, t in zip(parts, tensors, strict=True)]

    def first(self, value: Value) -> Value:
        return self.ranks.objects(value)[0]

    def largest(self, value: Largest) -> Largest:
        return self.ranks.largest(value)

    def n_before(self, n_entries: int) -> int:
        return sum(self.ranks.objects(n_entries)[: self.ranks.rank])

    def sent(self, values: Tensor) -> Tensor:
        assert self.route is not None
        return self.route.sent(values)


@dataclass(frozen=True)
class SharedInteractions(Interactions):
    """Canonical rows of the users that a process owns, with the ids of all."""

    @property
    def ranks(self) -> Ranks:
        """The processes that have the other rows."""
        share = self.shares.user
        assert isinstance(share, RankShare)
        return share.ranks

    @cached_property
    def seen(self) -> SeenItems:
        """The items of each user, of all processes."""
        own, n_items = self.shares.user.rows(len(self.user_ids)), len(self.item_ids)
        here = SeenItems.of_pairs(
            self.users - own.start, self.items, own.stop - own.start, n_items
        )
        lengths = self.ranks.joined(np.diff(here.offsets))
        offsets = np.append(0, np.cumsum(lengths))
        return SeenItems(offsets, self.ranks.joined(here.items), n_items)

    def of_all_pairs(self, values: np.ndarray) -> np.ndarray:
        return self.ranks.joined(values)

    def merged(self) -> tuple[Interactions, float]:
        means, variance = super().merged()
        if means is self:
            return self, variance
        # Rows of items go to their owners, and are fewer now.
        item = self.shares.item
        assert isinstance(item, RankShare)
        route = Route.to(self.ranks, item.owners(means.items))
        shares = Sides(self.shares.user, replace(item, route=route))
        return replace(means, shares=shares), variance

    @property
    def all_items(self) -> np.ndarray:
        """Items of the rows of all processes."""
        if self.ranks.sum(float(len(self.items))) == len(self.seen):
            return self.seen.items
        return self.ranks.joined(self.items)


@dataclass(frozen=True)
class Report:
    """The columns that a process has read, for the others.

    Attributes
    ----------
    ids : list of (str, ndarray)
        Kind and distinct ids of users, of items, and of each column of values.
    n_numbers : int
        Number of columns of numbers.
    known : KnownContext
    n_rows : int
    """

    ids: list[tuple[str, np.ndarray]]
    n_numbers: int
    known: KnownContext
    n_rows: int


def collect(
    ranks: Ranks,
    has_terms: bool,
    columns: Columns,
    rating: np.ndarray,
    weight: np.ndarray,
) -> Interactions:
    """Canonical rows of this process, from rows that any of them has read.

    `has_terms` is whether several processes fit terms of values.
    """
    columns, rating, weight = weighed_rows(columns, rating, weight)
    n_rows, context = len(rating), columns.features
    if columns.values and n_rows and not has_terms:
        raise ValueError(
            f"{columns.values[0].where} holds categories, whose terms several "
            "processes fit by gradients alone: NCFRegressor, and MFRegressor with "
            "solver='adam' or 'sgd'. Take one of these, leave the column out, or fit "
            "in one process."
        )
    own = [columns.users, columns.items, *columns.values]
    numbers, distinct = zip(*(ids.numbered() for ids in own), strict=True)
    kinds = (ids.kind for ids in own)
    ids_here = list(zip(kinds, distinct, strict=True))
    reports = ranks.start(Report(ids_here, context.shape[1], columns.known, n_rows))
    agreed = _agreed(reports)
    wheres = [ids.where for ids in own]
    if not n_rows:
        # Columns of a table without rows may have another dtype.
        context = np.empty((0, agreed.n_numbers))
        wheres, numbers = (
            [of_column] * len(agreed.ids) for of_column in ("X", numbers[0])
        )
    users, items, *values = (
        _numbered_together(ranks, *of_column)
        for of_column in zip(_ids_by_column(reports), wheres, numbers, strict=True)
    )
    context = np.column_stack([context, *(codes for codes, _ in values)])
    known = agreed.known.with_values([vocabulary for _, vocabulary in values])
    return _at_owners(ranks, users, items, rating, weight, context, known)


def _agreed(reports: Sequence[Report]) -> Report:
    """The columns of all processes that have rows, or an error where they differ."""
    # Columns of nothing have no kind.
    filled = [report for report in reports if report.n_rows]
    if not filled:
        raise ValueError("X has no rows of positive weight in any process.")
    widths = sorted({len(report.ids) + report.n_numbers for report in filled})
    if len(widths) > 1:
        raise ValueError(f"X must have as many columns in all processes, got {widths}.")
    contexts = [report.known for report in filled]
    named = {tuple(known.names) for known in contexts if known.has_names}
    if len(named) > 1:
        one, other = sorted(named)[:2]
        raise ValueError(
            "X must have the same columns in all processes, in one order, but after "
            f"users and items has {list(one)} in one and {list(other)} in another. "
            f"Select them, such as by X[['user', 'item', *{list(one)}]]."
        )
    if len({tuple(known.are_values) for known in contexts}) > 1:
        raise TypeError(
            "A further column of X holds numbers in one process and categories in "
            "another. Give it the same dtype in all, such as by astype(str)."
        )
    return filled[0]


def _ids_by_column(
    reports: Sequence[Report],
) -> Iterator[tuple[tuple[str, np.ndarray], ...]]:
    """Kind and distinct ids of each process, column by column."""
    n_columns = len(next(report.ids for report in reports if report.n_rows))
    nothing = [("", np.empty(0))] * n_columns
    by_process = (report.ids if report.n_rows else nothing for report in reports)
    return zip(*by_process, strict=True)


def _at_owners(
    ranks: Ranks,
    users: tuple[np.ndarray, np.ndarray],
    items: tuple[np.ndarray, np.ndarray],
    rating: np.ndarray,
    weight: np.ndarray,
    context: np.ndarray,
    known: KnownContext,
) -> SharedInteractions:
    """Canonical rows of the users that this process owns, sent by those that read them.

    `users` and `items` are numbers of rows, and the ids of all.
    """
    shares = Sides(
        *(
            RankShare.of(ranks, ranks.sum(np.bincount(numbers, minlength=len(ids))), n)
            for (numbers, ids), n in ((users, "users"), (items, "items"))
        )
    )
    route = Route.to(ranks, shares.user.owners(users[0]))
    user_numbers, item_numbers, rating, weight, context = (
        route.sent(torch.from_numpy(np.ascontiguousarray(values))).numpy()
        for values in (users[0], items[0], rating, weight, context)
    )
    data = SharedInteractions.from_numbers(
        Sides(users[1], items[1]),
        Sides(user_numbers, item_numbers),
        rating,
        weight,
        context,
        shares=shares,
        known_context=known,
    )
    to_items = Route.to(ranks, shares.item.owners(data.items))
    return replace(
        data, shares=Sides(shares.user, replace(shares.item, route=to_items))
    )


def _numbered_together(
    ranks: Ranks,
    found: Sequence[tuple[str, np.ndarray]],
    where: str,
    numbers: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers among the ids of all processes, and these, sorted.

    `found` holds the kind and the distinct ids of each process, and `numbers` are those
    among its own.
    """
    kinds = {kind: rank for rank, (kind, ids) in enumerate(found) if len(ids)}
    if len(kinds) > 1:
        described = ", ".join(f"{kind!r} in process {r}" for kind, r in kinds.items())
        raise TypeError(f"{where} must hold ids of one kind, got {described}.")
    (kind,) = kinds
    together, ids = Ids(
        np.concatenate([i for _, i in found if len(i)]), kind, where
    ).numbered()
    start = sum(len(i) for _, i in found[: ranks.rank])
    return together[start : start + len(found[ranks.rank][1])][numbers], ids
