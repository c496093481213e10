"""Losses of a network on samples, without gradients, and the noise that is left."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .._share import Share
from .losses import LOSSES, weighted_derivatives
from .network import NeuMF
from .objective import TrainingOptions
from .samples import Samples

# Samples scored at once.
TILE_SIZE = 2**14

# Samples with one score for all at once.
CONSTANT_TILE_SIZE = 2**20


@torch.no_grad()
def loss_of_mean(network: NeuMF, samples: Samples, loss: str, share: Share) -> float:
    """Loss of the mean of the members, per unit of weight."""
    total = 0.0
    for start in range(0, len(samples), TILE_SIZE):
        part = samples[start : start + TILE_SIZE]
        score = network(part.users, part.items, part.context)
        losses = LOSSES[loss].value(
            score.mean(-1, keepdim=True), part.target[..., None]
        )
        total += float((losses[..., 0] * part.weight).sum())
    weight = float(samples.weight.sum())
    return share.sum(total) / share.sum(weight)


@torch.no_grad()
def loss_of_constant(
    samples: Samples, options: TrainingOptions, total_weight: float, share: Share
) -> float:
    """Mean loss of all pairs, of a total weight with negatives, at the mean score."""
    n_columns = 1 + (options.n_negatives > 0)
    sums = torch.zeros(n_columns + 1, device=samples.weight.device)
    for start in range(0, len(samples), CONSTANT_TILE_SIZE):
        part = samples[start : start + CONSTANT_TILE_SIZE]
        target = F.pad(part.target[:, None], (0, n_columns - 1))[..., None]
        score = torch.full_like(target, options.mean)
        losses = LOSSES[options.loss].value(score, target)[..., 0]
        sums[:-1] += part.weight @ losses
        sums[-1] += part.weight.sum()
    *losses_of_pairs, weight = share.sum(sums).tolist()
    # Drawn items that a user has seen do not count.
    counts = weight, total_weight - weight
    of_pairs = zip(losses_of_pairs, counts, strict=False)
    return sum(x / weight * count for x, count in of_pairs) / total_weight


@torch.no_grad()
def noise(network: NeuMF, samples: Samples, loss: str, share: Share) -> Tensor:
    """Half of the root mean square of the derivatives of losses by scores.

    For the squared error it is the deviation of the residuals.
    """
    score = network(samples.users, samples.items, samples.context)
    target, one = samples.target[..., None], torch.ones_like(samples.weight)[..., None]
    derivative = weighted_derivatives(loss, score, target, one)
    weight = samples.weight[..., None].expand(derivative.shape)
    sums = [(weight * derivative.square()).sum(), weight.sum()]
    square, total = share.add_up(sums)
    return (square / total).sqrt() / 2
