"""Training of a network by mini-batches: a generator with one record per epoch.

Samples, shuffling and negatives live on the device of the network. Independent of
scikit-learn and of raw ids.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from .._share import ALL_ROWS, Share
from .._threads import torch_threads
from .._warn import warn
from .graphs import MIN_STEPS, WARM_UP_STEPS, GraphedSteps, tensor_cores
from .losses import CURVATURES, LOSSES, weighted_slopes
from .network import ROW_TABLES, TABLES, NeuMF
from .objective import Prior, TrainingOptions, gradient_of
from .samples import Part, Sampler, Samples
from .slopes import Residuals, update_slopes

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, betas=(0.9, 0.99), fused=True),
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True, fused=True),
}

# Share of the steps with a rising learning rate.
WARM_UP = 0.1

# Below this size of a step per thread, threads mostly wait for each other.
MIN_NUMBERS_PER_THREAD = 2**18

# Maximum step of a row by "sgd", in learning rates. A residual of three standard
# deviations gives a step of six.
MAX_GRADIENT = 10.0

# Updates of the rows of counterparts in an epoch.
UPDATES_PER_EPOCH = 5

# Samples of an epoch whose residuals tell the noise; fewer say little.
MIN_NOISE_SAMPLES = 2**10

# Samples scored at once in validation.
TILE_SIZE = 2**14

# Samples with one score for all at once.
CONSTANT_TILE_SIZE = 2**20


class Objectives(NamedTuple):
    """Objective of an epoch, and others to compare it with.

    Attributes
    ----------
    end : float
    alike : float
        That where all rows are alike, with the penalty of the start.
    first : float
        That of the first batch of the training, before the first step.
    """

    end: float
    alike: float
    first: float


@dataclass(frozen=True)
class Epoch:
    """Record of an epoch.

    Attributes
    ----------
    loss : float
        Mean loss of the batches and members, per unit of weight.
    validation_score : float or None
        Negative loss of the mean of the members on the held-out samples.
    seconds : float
        Training time, without validation.
    penalty : float
        Multiple of the penalty by the noise.
    objective : callable
        Returns the `Objectives`, until the next epoch.
    """

    loss: float
    validation_score: float | None
    seconds: float
    penalty: float
    objective: Callable[[], Objectives]


def train(
    network: NeuMF,
    samples: Samples,
    options: TrainingOptions,
    generator: torch.Generator,
    held_out: Part | None = None,
    seen: Tensor | None = None,
    share: Share = ALL_ROWS,
) -> Iterator[Epoch]:
    """Train `network` in place, one epoch at a time.

    Parameters
    ----------
    network : NeuMF
    samples : Samples
        At least one, in all processes together.
    options : TrainingOptions
    generator : Generator
        On the device of the samples.
    held_out : Part
        Samples to score after every epoch.
    seen : Tensor of shape (n_seen,), dtype int64
        Sorted user * n_items + item of the pairs that are no negatives. Required if
        `options.n_negatives` is positive.
    share : Share
        The samples are those of this process, and the network is the same in all.

    Yields
    ------
    Epoch
        `options.n_epochs` times.

    Warns
    -----
    RuntimeWarning
        Once, if a batch did not fit into memory and was split.
    """
    shape = network.shape
    n_negatives = options.n_negatives
    sampler = Sampler(samples, generator, shape.n_items, n_negatives, seen, share)
    trainer = _Trainer(network, sampler, options)
    validation = None if held_out is None else sampler.with_negatives(held_out)
    for _ in range(options.n_epochs):
        start = time.perf_counter()
        with torch_threads(trainer.n_threads):
            loss = trainer.run_epoch()
        seconds = time.perf_counter() - start
        score = None if validation is None else -trainer.loss_of_mean(validation)
        objective = partial(trainer.objective, loss)
        yield Epoch(loss, score, seconds, trainer.prior.multiple, objective)


class _Trainer:
    """State of a training: the optimizer, its step, and the number of batch parts."""

    def __init__(
        self,
        network: NeuMF,
        sampler: Sampler,
        options: TrainingOptions,
    ) -> None:
        self.network, self.sampler, self.options = network, sampler, options
        self.samples, self.share = sampler.samples, sampler.share
        self.generator = sampler.own_generator()
        self.device = self.samples.users.device
        if self.device.type != "cpu":
            network.join_tables()
        self.tables = {side: network.tables(ROW_TABLES[side]) for side in ROW_TABLES}
        self.rows = {side: network.rows(side) for side in ROW_TABLES}
        # Gradients of a user are those of one process.
        self.added = self.rows["item"] + self.rows["value"] + network.shared()
        self.trained = self.rows["user"] + self.added
        self.optimizer = _optimizer(options, self.trained, self.device)
        self.n_batches = math.ceil(sampler.n_all / options.batch_size)
        self.n_steps = options.n_epochs * self.n_batches
        self.step, self.n_parts = 0, 1
        self.graphs = self._graphs()
        weights = self._row_weights()
        total = self.share.sum(self.samples.weight.sum())
        self.prior = Prior(network, weights, (1 + options.n_negatives) * total, options)
        self.first_penalty, self.epoch_weight = self.prior.penalty(), 0.0
        self.first_loss: Tensor | None = None
        implicit = [w for shares in self.prior.implicit for w in shares.weights]
        if implicit:
            self.implicit_optimizer = _optimizer(options, implicit, self.device)

    def _graphs(self) -> GraphedSteps | None:
        """Graphs of steps, on devices that have them and where they are worth it."""
        are_many = self.device.type == "cuda" and self.n_steps >= MIN_STEPS
        if are_many and self.share.has_all:
            return GraphedSteps(self.step_of, self.generator)
        return None

    @property
    def rate(self) -> float:
        """Learning rate of the present step."""
        progress = self.step / (self.n_steps + 1)
        return self.options.learning_rate * _schedule(progress)

    @property
    def n_threads(self) -> int:
        """Number of threads that a step can use well."""
        n_samples = min(self.options.batch_size, len(self.samples))
        n_pairs = n_samples * (1 + self.options.n_negatives)
        shape = self.network.shape
        width = shape.n_factors + shape.n_embedding + sum(shape.hidden_layer_sizes)
        size = n_pairs * shape.n_members * width
        return max(1, min(torch.get_num_threads(), size // MIN_NUMBERS_PER_THREAD))

    def _row_weights(self) -> dict[str, Tensor]:
        """W_r of users, of items and of values; the last row, of the unseen, has 0."""
        samples, n, shape = self.samples, self.options.n_negatives, self.network.shape
        users = torch.zeros(shape.n_users).to(samples.weight)
        users.index_add_(0, samples.users, (1 + n) * samples.weight)
        items = torch.zeros(shape.n_items).to(samples.weight)
        items += n * samples.weight.sum() / shape.n_items
        items.index_add_(0, samples.items, samples.weight)
        weights = {"user": users, "item": items}
        if shape.n_values:
            weights["value"] = values = torch.zeros(shape.n_rows("value")).to(users)
            for rows in self.network.value_rows(samples.context).unbind(-1):
                values.index_add_(0, rows, (1 + n) * samples.weight)
        added = self.share.add_up(list(weights.values()))
        return {
            side: F.pad(weight, (0, 1))
            for side, weight in zip(weights, added, strict=True)
        }

    def run_epoch(self) -> float:
        """Mean loss of one pass over the samples, in random order."""
        device = self.device
        order = self.sampler.order()
        total = torch.zeros(2, device=device)
        with tensor_cores(device):
            for group in self._groups(list(order.tensor_split(self.n_batches))):
                for rows in group:
                    loss_and_weight = self.update(rows)
                    total += loss_and_weight
                    if self.first_loss is None:
                        self.first_loss = loss_and_weight
                self._update_implicit(len(group))
        self.share.complete(*(table.detach() for table in self.rows["user"]))
        if self.options.follows_noise or self.prior.value_penalties.multiples:
            batch = self.sampler.batch(order[-max(len(rows), MIN_NOISE_SAMPLES) :])
            part = batch[: math.ceil(len(batch) / self.n_parts)]
            self.prior.adapt(self.noise(part))
        self.prior.show_shares(None)
        if self.network.has_slopes:
            self.update_slopes()
        for side in self.network.features:
            self.prior.update_feature_weights(side)
        loss, self.epoch_weight = total.tolist()
        return loss / (self.epoch_weight * self.network.shape.n_members)

    def objective(self, loss: float) -> Objectives:
        """Objective by the loss of an epoch, beside those of the start."""
        assert self.first_loss is not None
        first, weight = self.first_loss.tolist()
        return Objectives(
            loss + self.prior.penalty(),
            self.loss_of_constant() + self.first_penalty,
            first / (weight * self.network.shape.n_members) + self.first_penalty,
        )

    @torch.no_grad()
    def loss_of_constant(self) -> float:
        """Mean loss of the pairs of the last epoch, if all had the mean score."""
        samples, n_columns = self.samples, 1 + (self.options.n_negatives > 0)
        sums = torch.zeros(n_columns + 1, device=self.device)
        for start in range(0, len(samples), CONSTANT_TILE_SIZE):
            part = samples[start : start + CONSTANT_TILE_SIZE]
            target = F.pad(part.target[:, None], (0, n_columns - 1))[..., None]
            score = torch.full_like(target, self.options.mean)
            losses = LOSSES[self.options.loss](score, target)[..., 0]
            sums[:-1] += part.weight @ losses
            sums[-1] += part.weight.sum()
        *losses_of_pairs, weight = self.share.sum(sums).tolist()
        # Drawn items that a user has seen do not count.
        counts = weight, self.epoch_weight - weight
        of_pairs = zip(losses_of_pairs, counts, strict=False)
        return sum(x / weight * count for x, count in of_pairs) / self.epoch_weight

    def _groups(self, batches: list[Tensor]) -> Iterator[list[Tensor]]:
        """Groups of batches, with shares of rows that do not know their pairs."""
        counterparts = self.network.counterparts
        if counterparts is None:
            yield batches
            return
        size = math.ceil(len(batches) / UPDATES_PER_EPOCH)
        for start in range(0, len(batches), size):
            group = batches[start : start + size]
            own, _ = self.sampler.own(torch.cat(group))
            self.prior.show_shares(counterparts.without(own))
            yield group

    def _update_implicit(self, n_steps: int) -> None:
        """Step of the rows of counterparts, by the gradients of the last steps."""
        if not self.prior.implicit:
            return
        for shares in self.prior.implicit:
            shares.set_gradients(n_steps)
            if self.options.optimizer == "sgd":
                shares.precondition()
                _clip([gradient_of(weight) for weight in shares.weights])
        _set_rate(self.implicit_optimizer, self.rate)
        self.implicit_optimizer.step()

    def update(self, rows: Tensor) -> Tensor:
        """Step of the optimizer. Returns the sums of losses and of weights."""
        self.step += 1
        _set_rate(self.optimizer, self.rate)
        if self.graphs is not None and self.step > WARM_UP_STEPS and self.n_parts == 1:
            try:
                return self.graphs(rows)
            except RuntimeError:
                # Such as where the memory does not suffice for what a graph keeps.
                self.graphs = None
        return self.step_of(rows, self.accumulate_in_parts)

    def step_of(
        self,
        rows: Tensor,
        accumulate: Callable[[Samples, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """A whole step on numbered samples, without a word to the host."""
        batch = self.sampler.batch(rows)
        # Weights may be too small for single precision.
        weight = self.share.sum(batch.weight.sum())
        weight = weight.clamp_min(torch.finfo(torch.float32).tiny)
        parts = batch.weight / weight
        self.forget_gradients()
        loss = (accumulate or self.accumulate)(batch, parts)
        loss = self.add_penalty(batch, len(rows), parts, loss)
        self.optimizer.step()
        return torch.stack([loss, weight])

    def forget_gradients(self) -> None:
        """As `zero_grad` of the optimizer, whose hooks take longer."""
        for parameter in self.trained:
            parameter.grad = None

    def accumulate_in_parts(self, batch: Samples, parts: Tensor) -> Tensor:
        """As `accumulate`, in more parts where the memory does not suffice."""
        state = self.generator.get_state() if self.options.dropout else None
        while True:
            try:
                return self.accumulate(batch, parts)
            except torch.OutOfMemoryError:
                if self.n_parts >= len(batch):
                    raise
                if self.n_parts == 1:
                    warn(
                        f"A batch of {len(batch)} rows does not fit into the memory of "
                        f"{batch.users.device}; it is split, and gradients are summed. "
                        "A smaller batch_size spares the second attempt.",
                        RuntimeWarning,
                    )
                self.n_parts *= 2
                self.forget_gradients()
                if state is not None:
                    self.generator.set_state(state)

    def accumulate(self, batch: Samples, parts: Tensor) -> Tensor:
        """Add the gradients of a mean loss, tile by tile. Returns the sum of losses.

        `parts` are those of the pairs in the weight of the batch.
        """
        losses = []
        # A process may have no sample of a batch, and its gradients are zero then.
        n_samples = max(len(batch), 1)
        tile_size, name = math.ceil(n_samples / self.n_parts), self.options.loss
        for start in range(0, n_samples, tile_size):
            rows = slice(start, start + tile_size)
            score, target = self.scores(batch[rows]), batch.target[rows, :, None]
            # Closed forms, since a graph of many small operations takes longer.
            with torch.no_grad():
                loss = LOSSES[name](score, target) * batch.weight[rows, :, None]
                slope = weighted_slopes(name, score, target, parts[rows, :, None])
            score.backward(slope)
            losses.append(loss.sum())
        self.network.split_gradients()
        constants = self.network.constants() if self.options.loss == "bpr" else []
        if constants:
            # Differences of scores leave rounding errors, which "adam" would scale up.
            torch._foreach_zero_([gradient_of(parameter) for parameter in constants])
        return reduce(add, losses)

    def add_penalty(
        self, batch: Samples, n_samples: int, parts: Tensor, loss: Tensor
    ) -> Tensor:
        """Add up the gradients of all processes, and add those of the penalty.

        Those of a user are in one process, whose row of the user is the valid one until
        the end of the epoch. Returns the sum of losses of all processes.
        """
        is_scaled = self.options.optimizer == "sgd"
        shares = {}
        if self.options.reg or self.prior.anchors or is_scaled:
            shares = self.shares(batch, parts)
        if not self.share.has_all:
            gradients = [gradient_of(parameter) for parameter in self.added]
            others = [side for side in shares if side != "user"]
            of_others = [shares[side] for side in others]
            loss, *sums = self.share.add_up([loss, *gradients, *of_others])
            for parameter, gradient in zip(self.added, sums, strict=False):
                parameter.grad = gradient
            shares |= zip(others, sums[len(gradients) :], strict=True)
            self.network.split_gradients()
        for shares_of_side in self.prior.implicit:
            rows = self.rows[shares_of_side.side]
            shares_of_side.accumulate([gradient_of(table)[:-1] for table in rows])
        if shares:
            self.prior.add_gradients(shares)
        if is_scaled:
            self.precondition(shares, n_samples)
        return loss

    def scores(self, batch: Samples) -> Tensor:
        """Scores of shape (n, 1 + n_negatives, n_members), with dropout."""
        dropout = self.options.dropout
        return self.network(
            batch.users, batch.items, batch.context, dropout, self.generator
        )

    def shares(self, batch: Samples, parts: Tensor) -> dict[str, Tensor]:
        """Share of each user, item and value in the weight of a batch."""
        sizes = [len(penalties) for penalties in self.prior.penalties.values()]
        total = torch.zeros(sum(sizes), device=self.device, dtype=parts.dtype)
        shares = dict(zip(self.prior.penalties, total.split(sizes), strict=True))
        of_users = parts.sum(1) if parts.shape[1] > 1 else parts[:, 0]
        shares["user"].index_add_(0, batch.users, of_users)
        shares["item"].index_add_(0, batch.items.flatten(), parts.flatten())
        if "value" in shares:
            for rows in self.network.value_rows(batch.context).unbind(-1):
                shares["value"].index_add_(0, rows, of_users)
        return shares

    @torch.no_grad()
    def precondition(self, shares: dict[str, Tensor], n_samples: int) -> None:
        """Divide gradients by approximate curvatures, and clip them.

        The gradient of a row is a sum over its pairs divided by the weight of the
        batch, of which a row has a small share. Divided by that share it is the mean
        over its pairs, and rows learn at the rate of shared weights.
        """
        prior = self.prior
        for side, share in shares.items():
            # A pair with less than the mean weight of a batch moves a row by less.
            share = share.clamp_min(1 / n_samples)
            of_side = share * (prior.curvature + prior.penalties[side])
            for table in self.rows[side]:
                curvature = of_side
                if table in prior.value_penalties.multiples:
                    own = prior.value_penalties.of(table, prior.penalties[side])
                    curvature = share * (prior.curvature + own)
                gradient_of(table).flatten(1).div_(curvature[:, None])
        shared = [gradient_of(parameter) for parameter in prior.shared_penalties]
        if shared:
            penalties = prior.shared_penalties.values()
            torch._foreach_div_(shared, [prior.curvature + p for p in penalties])
        of_rows = (gradient_of(x) for side in shares for x in self.tables[side])
        _clip([*of_rows, *shared])

    def update_slopes(self) -> None:
        """Step of the slopes of rows in numbers of context, by all residuals."""
        prior, penalties = self.prior, {}
        for side in TABLES:
            if side == "item" or self.options.loss != "bpr":
                weight = prior.row_weights[side][:-1].double()
                penalty = prior.penalties[side][:-1] * weight / prior.curvature
                if self.options.loss == "bpr":
                    penalty /= self.mean_target
                is_biased = self.network.shape.biased
                penalties[side] = penalty if is_biased else penalty + torch.inf
        update_slopes(self.network, self.residuals(), penalties, prior.anchors)

    @torch.no_grad()
    def residuals(self) -> Residuals:
        """Residuals of all samples of this process, with negatives."""
        tiles = map(self.residuals_of, self.sampler.tiles(TILE_SIZE))
        return Residuals.joined(tiles, self.share)

    def residuals_of(self, part: Samples) -> tuple[Samples, Tensor, Tensor]:
        """Samples with the weights and the descents of their scores."""
        score = self.network(part.users, part.items, part.context)
        slope = weighted_slopes(
            self.options.loss, score, part.target[..., None], part.weight[..., None]
        ).mean(-1)
        weight, descent = part.weight, slope / (-2 * self.prior.curvature)
        if self.options.loss == "absolute_error":
            # No parabola of one curvature is above this loss near its kink.
            curvature = CURVATURES["absolute_error"](score, part.target[..., None])
            weight = weight * curvature.mean(-1) / (2 * self.prior.curvature)
        if self.options.loss == "bpr":
            # An item is compared with each drawn one, as its target weighs it.
            of_drawn = weight[:, 1:] * part.target[:, :1] / self.mean_target
            weight = torch.cat([of_drawn.sum(1, keepdim=True), of_drawn], dim=1)
            descent = descent / self.mean_target
        return part, weight, descent

    @cached_property
    def mean_target(self) -> float:
        """Mean target of the samples by their weights."""
        samples = self.sampler.samples
        sums = [(samples.weight * samples.target).sum(), samples.weight.sum()]
        sums = self.share.add_up(sums)
        return float(sums[0] / sums[1])

    @torch.no_grad()
    def noise(self, batch: Samples) -> Tensor:
        """Half of the root mean square of the slopes of losses by scores.

        For the squared error it is the deviation of the residuals.
        """
        score = self.network(batch.users, batch.items, batch.context)
        target, one = batch.target[..., None], torch.ones_like(batch.weight)[..., None]
        slope = weighted_slopes(self.options.loss, score, target, one)
        weight = batch.weight[..., None].expand(slope.shape)
        sums = [(weight * slope.square()).sum(), weight.sum()]
        square, total = self.share.add_up(sums)
        return (square / total).sqrt() / 2

    @torch.no_grad()
    def loss_of_mean(self, samples: Samples) -> float:
        """Loss of the mean of the members, per unit of weight."""
        total = 0.0
        for start in range(0, len(samples), TILE_SIZE):
            part = samples[start : start + TILE_SIZE]
            score = self.network(part.users, part.items, part.context)
            score = score.mean(-1, keepdim=True)
            loss = LOSSES[self.options.loss](score, part.target[..., None])
            total += float((loss[..., 0] * part.weight).sum())
        weight = float(samples.weight.sum())
        return self.share.sum(total) / self.share.sum(weight)


def _optimizer(
    options: TrainingOptions, parameters: list[Parameter], device: torch.device
) -> torch.optim.Optimizer:
    if device.type != "cuda":
        return OPTIMIZERS[options.optimizer](parameters)
    # A learning rate that graphs can read.
    capturable = {"capturable": True} if options.optimizer == "adam" else {}
    rate = torch.zeros((), device=device)
    return OPTIMIZERS[options.optimizer](parameters, lr=rate, **capturable)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    (group,) = optimizer.param_groups
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _schedule(progress: float) -> float:
    """Learning rate relative to its maximum, after a share of the steps."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2


def _clip(gradients: list[Tensor]) -> None:
    """Clip the norms of rows to MAX_GRADIENT."""
    vectors = [x if x.dim() > 2 else x[..., None] for x in gradients]
    factors = [x.norm(dim=-1, keepdim=True) for x in vectors]
    torch._foreach_reciprocal_(factors)
    torch._foreach_mul_(factors, MAX_GRADIENT)
    torch._foreach_clamp_max_(factors, 1.0)
    for x, factor in zip(vectors, factors, strict=True):
        x *= factor
