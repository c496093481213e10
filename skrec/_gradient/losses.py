"""Losses of a score and a target, with their slopes and curvatures.

A curvature is that of a parabola that touches the loss at a score and lies above it.
Nonconvex or kinked losses are minimised by steps on such parabolas.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

# Residuals of the absolute error are at least this large in its curvature.
MIN_RESIDUAL = 1e-2


def _huber(score: Tensor, target: Tensor) -> Tensor:
    score, target = torch.broadcast_tensors(score, target)
    return F.huber_loss(score, target, reduction="none")


def _bpr(score: Tensor, target: Tensor) -> Tensor:
    loss = target[:, :1] * F.softplus(score[:, 1:] - score[:, :1])
    return F.pad(loss, (0, 0, 1, 0))


def _logistic_curvature(score: Tensor) -> Tensor:
    return torch.sigmoid(score) * torch.sigmoid(-score)


# (score, target) of shape (n, 1 + n_negatives, n_members or 1) to losses of that shape.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared_error": lambda score, target: (score - target).square(),
    "absolute_error": lambda score, target: (score - target).abs(),
    "huber": _huber,
    "log_loss": lambda score, target: torch.addcmul(
        F.softplus(score), target, score, value=-1
    ),
    "bpr": _bpr,
}

# Largest or typical curvature of a loss, relative to the squared error.
RELATIVE_CURVATURE = {
    "squared_error": 1.0,
    "absolute_error": 0.5,
    "huber": 0.5,
    "log_loss": 0.25,
    "bpr": 0.25,
}

# (score, target) to the derivative by the score, and to the curvature. A comparison of
# "bpr" is a "log_loss" of the difference of two scores.
SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared_error": lambda score, target: 2 * (score - target),
    "absolute_error": lambda score, target: (score - target).sign(),
    "huber": lambda score, target: (score - target).clamp(-1, 1),
    "log_loss": lambda score, target: torch.sigmoid(score) - target,
}
CURVATURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared_error": lambda score, target: torch.full_like(score, 2.0),
    "absolute_error": lambda score, target: (
        1 / (score - target).abs().clamp_min(MIN_RESIDUAL)
    ),
    "huber": lambda score, target: 1 / (score - target).abs().clamp_min(1),
    "log_loss": lambda score, target: _logistic_curvature(score),
}

# Score to the expected curvature when the target is unknown.
EXPECTED_CURVATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "squared_error": lambda score: torch.full_like(score, 2.0),
    "absolute_error": torch.ones_like,
    "huber": torch.ones_like,
    "log_loss": _logistic_curvature,
}


def weighted_slopes(loss: str, score: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Derivatives of Σ weight · loss by the scores, for shapes as in LOSSES."""
    if loss != "bpr":
        return weight * SLOPES[loss](score, target)
    weight = weight[:, 1:] * target[:, :1]
    of_drawn = weight * torch.sigmoid(score[:, 1:] - score[:, :1])
    return torch.cat([-of_drawn.sum(1, keepdim=True), of_drawn], dim=1)
