"""The mini-batch loop: a generator, one record per epoch.

Rows, shuffling and drawn items live on the device of the network. Knows neither
scikit-learn nor raw ids.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from .._threads import torch_threads
from .._warn import warn
from .network import ITEM_TABLES, TABLES, USER_TABLES, NeuMF

OPTIMIZERS = {
    "adam": partial(torch.optim.Adam, betas=(0.9, 0.99), fused=True),
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True, fused=True),
}

# Share of the steps in which the learning rate rises.
WARM_UP = 0.1

# Where a step has fewer numbers than this, threads mostly wait for each other.
MIN_NUMBERS_PER_THREAD = 2**18

# Longest step of a row by "sgd", in learning rates. That of a rating three standard
# deviations off is six.
MAX_GRADIENT = 10.0

# Rows scored at a time outside of training.
TILE_SIZE = 2**14


@dataclass(frozen=True)
class Samples:
    """Rows as tensors on one device, perhaps beside items drawn for their users.

    Attributes
    ----------
    users : Tensor of shape (n,), dtype int64
    items : Tensor of shape (n,) or (n, 1 + n_negatives), dtype int64
        The item of the row first.
    features : Tensor of shape (n, n_features)
    target, weight : Tensor of the shape of `items`
        A drawn item has target 0, and no weight if its user has seen it.
    """

    users: Tensor
    items: Tensor
    features: Tensor
    target: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, rows: slice) -> Samples:
        return Samples(*(getattr(self, field.name)[rows] for field in fields(self)))

    def take(self, rows: Tensor) -> Samples:
        """Numbered rows; index_select is several times as fast as indexing."""
        tensors = (getattr(self, field.name) for field in fields(self))
        return Samples(*(tensor.index_select(0, rows) for tensor in tensors))


@dataclass(frozen=True)
class Plan:
    """How to descend.

    The objective, with W = Σ w of all pairs and W_r of those of row or weight r, is as
    follows. Drawn items enter W_r as expected, be they seen or not::

        (1 / W) (Σ w loss(score, target) + reg Σ_r √W_r ‖r‖²)

    Rows that many pairs touch are held less tightly than a penalty of each pair would,
    and more than a penalty of each row. Weights of layers, which all pairs touch, are
    penalised alike; biases of layers are not.

    Of a side that has features, r is how far a row is from what they say. After every
    epoch their weights are those of a ridge regression of the rows, and rows follow
    them as far as the penalty weighs against their pairs.

    Attributes
    ----------
    loss : str
        A key of LOSSES.
    n_negatives : int
        Items drawn for each sample.
    optimizer : str
        A key of OPTIMIZERS.
    learning_rate : float
        The highest: it rises linearly for a tenth of the steps, then falls as a cosine.
    batch_size : int
        Samples of a step, not counting what is drawn for them.
    n_epochs : int
    reg : float
    dropout : float
    """

    loss: str
    n_negatives: int
    optimizer: str
    learning_rate: float
    batch_size: int
    n_epochs: int
    reg: float
    dropout: float = 0.0


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch.

    Attributes
    ----------
    loss : float
        Mean loss of the epoch's batches, of all members, per unit of weight.
    validation_score : float or None
        Minus the loss of the held out rows, scored by the mean of the members.
    seconds : float
        Without the time of the validation.
    """

    loss: float
    validation_score: float | None
    seconds: float


def _bpr(score: Tensor, target: Tensor) -> Tensor:
    loss = target[:, :1] * F.softplus(score[:, 1:] - score[:, :1])
    return F.pad(loss, (0, 0, 1, 0))


# (score, target) of shape (n, 1 + n_negatives, n_members or 1) to losses of that shape.
LOSSES = {
    "squared_error": lambda score, target: (score - target).square(),
    "absolute_error": lambda score, target: (score - target).abs(),
    "huber": lambda score, target: F.huber_loss(
        *torch.broadcast_tensors(score, target), reduction="none"
    ),
    "log_loss": lambda score, target: F.softplus(score) - target * score,
    "bpr": _bpr,
}

# How far they bend, at most or about, in units of the squared error's.
CURVATURE = {
    "squared_error": 1.0,
    "absolute_error": 0.5,
    "huber": 0.5,
    "log_loss": 0.25,
    "bpr": 0.25,
}


def descend(
    network: NeuMF,
    samples: Samples,
    plan: Plan,
    generator: torch.Generator,
    held_out: Samples | None = None,
    seen: Tensor | None = None,
) -> Iterator[Epoch]:
    """Train `network` in place, an epoch at a time.

    Parameters
    ----------
    network : NeuMF
    samples : Samples
        At least one.
    plan : Plan
    generator : Generator
        On the device of the samples.
    held_out : Samples
        What to score after every epoch.
    seen : Tensor of shape (n_seen,), dtype int64
        Sorted user * n_items + item of what is never drawn, if the plan draws.

    Yields
    ------
    Epoch
        `plan.n_epochs` times.

    Warns
    -----
    RuntimeWarning
        Once, if a batch did not fit into the memory and was split.
    """
    descent = _Descent(network, samples, plan, generator, seen)
    validation = None if held_out is None else descent.draw(held_out)
    for _ in range(plan.n_epochs):
        start = time.perf_counter()
        with torch_threads(descent.n_threads):
            loss = descent.epoch()
        seconds = time.perf_counter() - start
        score = None if validation is None else -descent.loss_of_mean(validation)
        yield Epoch(loss, score, seconds)


class _Descent:
    """State of the loop: the optimizer, its step, and how small batches must be."""

    def __init__(
        self,
        network: NeuMF,
        samples: Samples,
        plan: Plan,
        generator: torch.Generator,
        seen: Tensor | None,
    ) -> None:
        self.network, self.samples, self.plan = network, samples, plan
        self.generator, self.seen = generator, seen
        self.tables = network.tables(USER_TABLES), network.tables(ITEM_TABLES)
        rows = [table for tables in self.tables for table in tables]
        shared = network.shared()
        self.anchors: dict[Tensor, Tensor] = {}
        self.optimizer = OPTIMIZERS[plan.optimizer](rows + shared)
        self.n_batches = math.ceil(len(samples) / plan.batch_size)
        self.n_steps = plan.n_epochs * self.n_batches
        self.step = 0
        self.n_parts = 1

        # A pair of weight w brings w / √W_r of the penalty of row r.
        weight = samples.weight
        row_weights = self.row_weights(samples.users, samples.items, weight)
        self.curvature = CURVATURE[plan.loss]
        self.penalty = [plan.reg * _inverse_root(w) for w in row_weights]
        total = (1 + plan.n_negatives) * weight.sum()
        dense_penalty = float(plan.reg * _inverse_root(total))
        self.shared = dict.fromkeys(shared, 0.0)
        self.shared |= dict.fromkeys(network.dense(), dense_penalty)

        self.row_weight = {
            side: w[:-1] for side, w in zip(TABLES, row_weights, strict=True)
        }
        # How firmly the penalty of a row holds it, among penalty and pairs.
        self.held = {
            side: torch.where(w[:-1] > 0, p / (self.curvature + p), 1)[:, None]
            for side, w, p in zip(
                TABLES, row_weights, (p[:-1] for p in self.penalty), strict=True
            )
        }
        for side in network.features:
            for table, weights in network.described_tables(side):
                said = self.expected(side, weights)
                self.anchors[table] = F.pad(said, (0, 0) * (said.dim() - 1) + (0, 1))

    @property
    def n_threads(self) -> int:
        """Threads that speed a step up."""
        rows = min(self.plan.batch_size, len(self.samples))
        pairs = rows * (1 + self.plan.n_negatives)
        shape = self.network.shape
        width = shape.n_factors + shape.n_embedding + sum(shape.hidden_layer_sizes)
        numbers = pairs * shape.n_members * width
        return max(1, min(torch.get_num_threads(), numbers // MIN_NUMBERS_PER_THREAD))

    def row_weights(self, users: Tensor, items: Tensor, weight: Tensor) -> list[Tensor]:
        """W_r of users and of items; the row behind the last, of the unseen, has 0."""
        n, shape = self.plan.n_negatives, self.network.shape
        drawn = n * weight.sum() / shape.n_items
        user_weight = torch.zeros(shape.n_users).to(weight)
        user_weight.index_add_(0, users, (1 + n) * weight)
        item_weight = torch.zeros(shape.n_items).to(weight) + drawn
        item_weight.index_add_(0, items, weight)
        return [F.pad(user_weight, (0, 1)), F.pad(item_weight, (0, 1))]

    def epoch(self) -> float:
        """Mean loss of one pass over the samples, in random order."""
        device = self.samples.users.device
        order = torch.randperm(
            len(self.samples), generator=self.generator, device=device
        )
        total = torch.zeros(2, device=device)
        for rows in order.tensor_split(self.n_batches):
            total += self.update(self.draw(self.samples.take(rows)))
        for side in self.network.features:
            self.follow(side)
        loss, weight = total.tolist()
        return loss / (weight * self.network.shape.n_members)

    @torch.no_grad()
    def follow(self, side: str) -> None:
        """Weights of features by the rows, and rows after them."""
        described = self.network.described_tables(side)
        found = self.network.features[side].ridge(
            torch.cat([table[:-1].flatten(1) for table, _ in described], dim=1),
            self.row_weight[side].sqrt(),
            torch.cat([weights.flatten(1) for _, weights in described], dim=1),
        )
        sizes = [weights[0].numel() for _, weights in described]
        for (table, weights), part in zip(
            described, found.split(sizes, dim=1), strict=True
        ):
            weights.copy_(part.view(weights.shape))
            said = self.expected(side, weights)
            change = said - self.anchors[table][:-1]
            table[:-1].flatten(1).addcmul_(self.held[side], change.flatten(1))
            self.anchors[table][:-1] = said

    @torch.no_grad()
    def expected(self, side: str, weights: Tensor) -> Tensor:
        """What features say of a table's rows.

        It is zero on average, as what is expected of rows without features.
        """
        share = self.row_weight[side].sqrt()
        share = (share / share.sum())[:, None]
        said = self.network.features[side].times(weights.flatten(1))
        said -= (share * said).sum(0)
        return said.view(-1, *weights.shape[1:])

    def draw(self, samples: Samples) -> Samples:
        """Rows with items drawn beside them."""
        n, n_items = self.plan.n_negatives, self.network.shape.n_items
        items, target = samples.items[:, None], samples.target[:, None]
        weight = samples.weight[:, None]
        if n:
            drawn = torch.randint(
                n_items,
                (len(samples), n),
                generator=self.generator,
                device=items.device,
            )
            key = samples.users[:, None] * n_items + drawn
            where = torch.searchsorted(self.seen, key).clamp_(max=len(self.seen) - 1)
            unseen = self.seen[where] != key
            items = torch.cat([items, drawn], dim=1)
            target = F.pad(target, (0, n))
            weight = torch.cat([weight, weight * unseen], dim=1)
        return Samples(samples.users, items, samples.features, target, weight)

    def update(self, pairs: Samples) -> Tensor:
        """One step. Returns the sums of losses over members, and of weights."""
        self.optimizer.param_groups[0]["lr"] = self.plan.learning_rate * _schedule(
            (self.step + 1) / (self.n_steps + 1)
        )
        state = self.generator.get_state() if self.plan.dropout else None
        while True:
            try:
                sums = self.accumulate(pairs)
                break
            except torch.OutOfMemoryError:
                if self.n_parts >= len(pairs):
                    raise
                if self.n_parts == 1:
                    warn(
                        f"A batch of {len(pairs)} rows does not fit into the memory of "
                        f"{pairs.users.device}; it is split, and gradients are summed. "
                        "A smaller batch_size spares the second attempt.",
                        RuntimeWarning,
                    )
                self.n_parts *= 2
                if state is not None:
                    self.generator.set_state(state)
        self.optimizer.step()
        self.step += 1
        return sums

    def accumulate(self, pairs: Samples) -> Tensor:
        """Gradients of the objective on a batch, part by part."""
        self.optimizer.zero_grad()
        # Weights may be too small for single precision.
        weight = pairs.weight.sum().clamp_min(torch.finfo(torch.float32).tiny)
        loss = torch.zeros_like(weight)
        part_size = math.ceil(len(pairs) / self.n_parts)
        for start in range(0, len(pairs), part_size):
            part = pairs[start : start + part_size]
            part_loss = self.losses(part).sum() / weight
            part_loss.backward()
            loss += part_loss.detach()
        is_scaled = self.plan.optimizer == "sgd"
        if self.plan.reg or self.anchors or is_scaled:
            shares = self.shares(pairs, weight)
            self.penalise(shares)
            if is_scaled:
                self.precondition(shares, len(pairs))
        return torch.stack([loss * weight, weight])

    def losses(self, pairs: Samples) -> Tensor:
        """Weighted losses of shape (n, 1 + n_negatives, n_members)."""
        score = self.network(
            pairs.users, pairs.items, pairs.features, self.plan.dropout, self.generator
        )
        loss = LOSSES[self.plan.loss](score, pairs.target[..., None])
        return loss * pairs.weight[..., None]

    def shares(self, pairs: Samples, weight: Tensor) -> list[Tensor]:
        """Share of a batch's weight that meets each user, and each item."""
        shares = []
        for penalty, rows, row_weight in zip(
            self.penalty,
            (pairs.users, pairs.items),
            (pairs.weight.sum(1), pairs.weight),
            strict=True,
        ):
            touched = torch.zeros_like(penalty)
            touched.index_add_(0, rows.flatten(), row_weight.flatten())
            shares.append(touched / weight)
        return shares

    @torch.no_grad()
    def penalise(self, shares: list[Tensor]) -> None:
        """Add the gradient of the penalty of all that a batch touches."""
        for tables, penalty, share in zip(
            self.tables, self.penalty, shares, strict=True
        ):
            slope = 2 * share * penalty
            for table in tables:
                anchor = self.anchors.get(table)
                away = table if anchor is None else table - anchor
                table.grad.flatten(1).addcmul_(slope[:, None], away.flatten(1))
        for parameter, penalty in self.shared.items():
            parameter.grad.add_(parameter, alpha=2 * penalty)

    @torch.no_grad()
    def precondition(self, shares: list[Tensor], n_samples: int) -> None:
        """Divide gradients by about how far they bend, and bound them.

        The gradient of a row is a sum over its pairs divided by the weight of the
        batch, of which a row has a small share. Divided by that share it is the mean
        over its pairs, and rows learn at the rate of weights that all pairs meet.
        """
        for tables, penalty, share in zip(
            self.tables, self.penalty, shares, strict=True
        ):
            # A pair of less than the mean weight of a batch moves a row by less.
            bend = share.clamp_min(1 / n_samples) * (self.curvature + penalty)
            for table in tables:
                table.grad.flatten(1).div_(bend[:, None])
                _clip(table.grad)
        for parameter, penalty in self.shared.items():
            parameter.grad.div_(self.curvature + penalty)
            _clip(parameter.grad)

    @torch.no_grad()
    def loss_of_mean(self, pairs: Samples) -> float:
        """Loss per unit of weight of the mean of the members."""
        total = 0.0
        for start in range(0, len(pairs), TILE_SIZE):
            part = pairs[start : start + TILE_SIZE]
            score = self.network(part.users, part.items, part.features)
            loss = LOSSES[self.plan.loss](
                score.mean(-1, keepdim=True), part.target[..., None]
            )
            total += float((loss[..., 0] * part.weight).sum())
        return total / float(pairs.weight.sum())


def _schedule(progress: float) -> float:
    """Share of the highest learning rate after a share of the steps."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2


def _clip(gradient: Tensor) -> None:
    """Shorten vectors that are longer than MAX_GRADIENT."""
    vectors = gradient if gradient.dim() > 2 else gradient[..., None]
    norm = vectors.norm(dim=-1, keepdim=True)
    vectors.mul_((MAX_GRADIENT / norm).clamp_max(1))


def _inverse_root(weight: Tensor) -> Tensor:
    return torch.where(weight > 0, weight.rsqrt(), 0)
