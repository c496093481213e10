"""Samples of a training: ratings as tensors, their order, and drawn negatives.

In a fit of several processes each has samples of its own. All draw the same order of
all samples and the same negatives, of which each takes those of its samples, so that
batches are those of one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from .._share import ALL_ROWS, Share

# Above the keys of all pairs.
LAST_KEY = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Samples:
    """Ratings as tensors on one device, optionally with negatives for their users.

    Attributes
    ----------
    users : Tensor of shape (n,), dtype int64
    items : Tensor of shape (n,) or (n, 1 + n_negatives), dtype int64
        The rated item first.
    context : Tensor of shape (n, n_context)
    target, weight : Tensor of the shape of `items`
        A negative has target 0, and weight 0 if its user has seen it.
    """

    users: Tensor
    items: Tensor
    context: Tensor
    target: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, rows: slice) -> Samples:
        return Samples(*(tensor[rows] for tensor in self._columns))

    @property
    def _columns(self) -> list[Tensor]:
        return [getattr(self, column.name) for column in fields(Samples)]

    def take(self, rows: Tensor) -> Samples:
        """Samples by number; index_select is several times as fast as indexing."""
        return Samples(*(tensor.index_select(0, rows) for tensor in self._columns))

    def joined(self) -> JoinedSamples:
        """The same samples, without negatives, as two tables."""
        values = [self.context, self.target[:, None], self.weight[:, None]]
        numbers = torch.stack([self.users, self.items], dim=1)
        return JoinedSamples.of(numbers, torch.cat(values, dim=1))


@dataclass(frozen=True)
class JoinedSamples(Samples):
    """Samples as columns of two tables, which a device gathers by two kernels.

    Attributes
    ----------
    numbers : Tensor of shape (n, 2), dtype int64
        Users and items.
    values : Tensor of shape (n, n_context + 2)
        Context, targets and weights.
    """

    numbers: Tensor
    values: Tensor

    @classmethod
    def of(cls, numbers: Tensor, values: Tensor) -> JoinedSamples:
        users, items = numbers.unbind(1)
        context, target, weight = values[:, :-2], values[:, -2], values[:, -1]
        return cls(users, items, context, target, weight, numbers, values)

    def take(self, rows: Tensor) -> JoinedSamples:
        tables = self.numbers, self.values
        return JoinedSamples.of(*(table.index_select(0, rows) for table in tables))


@dataclass(frozen=True)
class Part:
    """The samples of this process among `n_all` of all processes, in an order.

    Attributes
    ----------
    samples : Samples
    places : Tensor of shape (n,) or None
        Their places in the order; None for all.
    n_all : int
        Number of samples of all processes.
    """

    samples: Samples
    places: Tensor | None
    n_all: int


class Sampler:
    """Batches of the samples of all processes, as those that this process has.

    Parameters
    ----------
    samples : Samples
        Of this process.
    generator : Generator
        In the same state in all processes.
    n_items, n_negatives : int
        Items are drawn from so many, and so many for each sample.
    seen : Tensor of shape (n_seen,), dtype int64
        Sorted user * n_items + item of the pairs that are no negatives. Required if
        `n_negatives` is positive.
    share : Share
        The rows of this process.
    """

    def __init__(
        self,
        samples: Samples,
        generator: torch.Generator,
        n_items: int,
        n_negatives: int = 0,
        seen: Tensor | None = None,
        share: Share = ALL_ROWS,
    ) -> None:
        self.samples, self.generator = samples, generator
        self.n_items, self.n_negatives = n_items, n_negatives
        self.seen = seen
        if seen is not None:
            # A key behind all, so that a search ends at one.
            self.seen = torch.cat([seen, seen.new_full((1,), LAST_KEY)])
        self.share = share
        self.n_before = share.n_before(len(samples))
        self.n_all = int(share.sum(float(len(samples))))

    def own_generator(self) -> torch.Generator:
        """Source of randomness for the samples of this process alone."""
        if self.share.has_all:
            return self.generator
        seed = self.generator.initial_seed() + 1 + self.share.n_before(1)
        return torch.Generator(self.generator.device).manual_seed(seed)

    def order(self) -> Tensor:
        """Numbers of all samples, in random order."""
        device = self.samples.users.device
        return torch.randperm(self.n_all, generator=self.generator, device=device)

    def own(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Numbered samples that this process has: its numbers, and places in `rows`."""
        if self.share.has_all:
            return rows, None
        return numbers_of_range(rows, self.n_before, len(self.samples))

    def batch(self, rows: Tensor) -> Samples:
        """Own ones of numbered samples, with negatives."""
        own, places = self.own(rows)
        return self.with_negatives(Part(self.samples.take(own), places, len(rows)))

    def tiles(self, size: int) -> Iterator[Samples]:
        """Own samples in their order, with negatives, of at most `size` at a time."""
        device = self.samples.users.device
        for start in range(0, self.n_all, size):
            stop = min(start + size, self.n_all)
            yield self.batch(torch.arange(start, stop, device=device))

    def with_negatives(self, part: Part) -> Samples:
        """Samples with negatives drawn beside their items."""
        samples, n = part.samples, self.n_negatives
        items, target = samples.items[:, None], samples.target[:, None]
        weight = samples.weight[:, None]
        if n:
            assert self.seen is not None
            drawn = torch.randint(
                self.n_items,
                (part.n_all, n),
                generator=self.generator,
                device=items.device,
            )
            if part.places is not None:
                drawn = drawn[part.places]
            keys = torch.add(drawn, samples.users[:, None], alpha=self.n_items)
            is_unseen = self.seen[torch.searchsorted(self.seen, keys)] != keys
            items = torch.cat([items, drawn], dim=1)
            target = F.pad(target, (0, n))
            weight = torch.cat([weight, weight * is_unseen], dim=1)
        return Samples(samples.users, items, samples.context, target, weight)


def numbers_of_range(rows: Tensor, start: int, length: int) -> tuple[Tensor, Tensor]:
    """Numbers in a range, from its start on, and their places."""
    places = ((rows >= start) & (rows < start + length)).nonzero()[:, 0]
    return rows[places] - start, places
