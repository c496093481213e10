"""Training of a network by mini-batches: a generator with one record per epoch.

Samples, shuffling and negatives live on the device of the network. Independent of
scikit-learn and of raw ids.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from .._share import ALL_ROWS, Share
from .._threads import torch_threads
from .._warn import warn
from .graphs import MIN_STEPS, WARM_UP_STEPS, GraphedSteps, tensor_cores
from .losses import LOSSES, weighted_derivatives
from .measures import loss_of_constant, loss_of_mean, noise
from .network import NeuMF
from .objective import Prior, TrainingOptions, gradient_of, weights_of_rows
from .samples import Part, Sampler, Samples
from .slopes import SlopeStep

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
        score = None
        if validation is not None:
            score = -loss_of_mean(network, validation, options.loss, share)
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
        weights = weights_of_rows(
            network, self.samples, options.n_negatives, self.share
        )
        total = self.share.sum(self.samples.weight.sum())
        self.prior = Prior(network, weights, (1 + options.n_negatives) * total, options)
        self.slope_step = SlopeStep(network, sampler, options.loss, self.prior)
        rows = self.prior.rows
        # Gradients of a user are those of one process.
        self.added = rows["item"] + rows["value"] + network.shared()
        self.trained = rows["user"] + self.added
        self.optimizer = _optimizer(options, self.trained, self.device)
        self.n_batches = math.ceil(sampler.n_all / options.batch_size)
        self.n_steps = options.n_epochs * self.n_batches
        self.step, self.n_parts = 0, 1
        self.graphs = self._graphs()
        self.first_penalty, self.epoch_weight = self.prior.penalty(), 0.0
        self.first_loss: Tensor | None = None
        implicit = [w for term in self.prior.implicit for w in term.weights]
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
        self.share.complete(*(table.detach() for table in self.prior.rows["user"]))
        if self.options.follows_noise or self.prior.value_penalties.multiples:
            batch = self.sampler.batch(order[-max(len(rows), MIN_NOISE_SAMPLES) :])
            part = batch[: math.ceil(len(batch) / self.n_parts)]
            self.prior.adapt(noise(self.network, part, self.options.loss, self.share))
        self.prior.update_implicit(None)
        if self.network.has_slopes:
            self.slope_step()
        for side in self.network.features:
            self.prior.update_feature_weights(side)
        loss, self.epoch_weight = total.tolist()
        return loss / (self.epoch_weight * self.network.shape.n_members)

    def objective(self, loss: float) -> Objectives:
        """Objective by the loss of an epoch, beside those of the start."""
        assert self.first_loss is not None
        first, weight = self.first_loss.tolist()
        alike = loss_of_constant(
            self.samples, self.options, self.epoch_weight, self.share
        )
        return Objectives(
            loss + self.prior.penalty(),
            alike + self.first_penalty,
            first / (weight * self.network.shape.n_members) + self.first_penalty,
        )

    def _groups(self, batches: list[Tensor]) -> Iterator[list[Tensor]]:
        """Groups of batches, whose rows do not know their pairs."""
        counterparts = self.network.counterparts
        if counterparts is None:
            yield batches
            return
        size = math.ceil(len(batches) / UPDATES_PER_EPOCH)
        for start in range(0, len(batches), size):
            group = batches[start : start + size]
            own, _ = self.sampler.own(torch.cat(group))
            self.prior.update_implicit(counterparts.without(own))
            yield group

    def _update_implicit(self, n_steps: int) -> None:
        """Step of the rows of counterparts, by the gradients of the last steps."""
        if not self.prior.implicit:
            return
        for term in self.prior.implicit:
            term.set_gradients(n_steps)
            if self.options.optimizer == "sgd":
                term.precondition()
                _clip([gradient_of(weight) for weight in term.weights])
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
        tile_size = math.ceil(n_samples / self.n_parts)
        name, dropout = self.options.loss, self.options.dropout
        for start in range(0, n_samples, tile_size):
            rows = slice(start, start + tile_size)
            part, target = batch[rows], batch.target[rows, :, None]
            score = self.network(
                part.users, part.items, part.context, dropout, self.generator
            )
            # Closed forms, since a graph of many small operations takes longer.
            with torch.no_grad():
                loss = LOSSES[name].value(score, target) * batch.weight[rows, :, None]
                gradient = weighted_derivatives(
                    name, score, target, parts[rows, :, None]
                )
            score.backward(gradient)
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
        weights = {}
        if self.options.reg or self.prior.anchors or is_scaled:
            weights = self.weights_in_batch(batch, parts)
        if not self.share.has_all:
            gradients = [gradient_of(parameter) for parameter in self.added]
            others = [side for side in weights if side != "user"]
            of_others = [weights[side] for side in others]
            loss, *sums = self.share.add_up([loss, *gradients, *of_others])
            for parameter, gradient in zip(self.added, sums, strict=False):
                parameter.grad = gradient
            weights |= zip(others, sums[len(gradients) :], strict=True)
            self.network.split_gradients()
        for term in self.prior.implicit:
            rows = self.prior.rows[term.side]
            term.accumulate([gradient_of(table)[:-1] for table in rows])
        if weights:
            self.prior.add_gradients(weights)
        if is_scaled:
            self.precondition(weights, n_samples)
        return loss

    def weights_in_batch(self, batch: Samples, parts: Tensor) -> dict[str, Tensor]:
        """Weight of each user, item and value in a batch whose pairs add up to one."""
        sizes = [len(penalties) for penalties in self.prior.penalties.values()]
        total = torch.zeros(sum(sizes), device=self.device, dtype=parts.dtype)
        weights = dict(zip(self.prior.penalties, total.split(sizes), strict=True))
        of_users = parts.sum(1) if parts.shape[1] > 1 else parts[:, 0]
        weights["user"].index_add_(0, batch.users, of_users)
        weights["item"].index_add_(0, batch.items.flatten(), parts.flatten())
        if "value" in weights:
            for rows in self.network.value_rows(batch.context).unbind(-1):
                weights["value"].index_add_(0, rows, of_users)
        return weights

    @torch.no_grad()
    def precondition(self, weights: dict[str, Tensor], n_samples: int) -> None:
        """Divide gradients by approximate curvatures, and clip them.

        The gradient of a row is a sum over its pairs divided by the weight of the
        batch, of which a row has a small share. Divided by that share it is the mean
        over its pairs, and rows learn at the rate of shared weights.
        """
        prior = self.prior
        for side, weight in weights.items():
            # A pair with less than the mean weight of a batch moves a row by less.
            weight = weight.clamp_min(1 / n_samples)
            of_side = weight * (prior.curvature + prior.penalties[side])
            for table in self.prior.rows[side]:
                curvature = of_side
                if table in prior.value_penalties.multiples:
                    own = prior.value_penalties.of(table, prior.penalties[side])
                    curvature = weight * (prior.curvature + own)
                gradient_of(table).flatten(1).div_(curvature[:, None])
        shared = [gradient_of(parameter) for parameter in prior.shared_penalties]
        if shared:
            penalties = prior.shared_penalties.values()
            torch._foreach_div_(shared, [prior.curvature + p for p in penalties])
        of_rows = (gradient_of(x) for side in weights for x in prior.tables[side])
        _clip([*of_rows, *shared])


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
