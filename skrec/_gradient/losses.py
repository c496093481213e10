"""Losses of a score and a target, with their derivatives and curvatures.

A curvature is that of a parabola that touches the loss at a score and lies above it.
Nonconvex or kinked losses are minimised by steps on such parabolas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Loss:
    """A loss of a score and a target.

    Attributes
    ----------
    value : callable
        (score, target) of shape (n, 1 + n_negatives, n_members or 1) to losses of that
        shape.
    derivative, curvature : callable
        (score, target) to those by the score. A comparison of "bpr" is a "log_loss" of
        the difference of two scores.
    expected_curvature : callable
        Score to the expected curvature when the target is unknown.
    relative_curvature : float
        Largest or typical curvature, relative to the squared error.
    is_robust : bool
        Whether it takes gross outliers, so that the units must not depend on them.
    measures_noise : bool
        Whether derivatives grow with residuals, so that a penalty can follow the noise.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    derivative: Callable[[Tensor, Tensor], Tensor]
    curvature: Callable[[Tensor, Tensor], Tensor]
    expected_curvature: Callable[[Tensor], Tensor]
    relative_curvature: float
    is_robust: bool = False
    measures_noise: bool = False


LOSSES = {
    "squared_error": Loss(
        value=lambda score, target: (score - target).square(),
        derivative=lambda score, target: 2 * (score - target),
        curvature=lambda score, target: torch.full_like(score, 2.0),
        expected_curvature=lambda score: torch.full_like(score, 2.0),
        relative_curvature=1.0,
        measures_noise=True,
    ),
    "absolute_error": Loss(
        value=lambda score, target: (score - target).abs(),
        derivative=lambda score, target: (score - target).sign(),
        curvature=lambda score, target: (
            1 / (score - target).abs().clamp_min(MIN_RESIDUAL)
        ),
        expected_curvature=torch.ones_like,
        relative_curvature=0.5,
        is_robust=True,
    ),
    "huber": Loss(
        value=_huber,
        derivative=lambda score, target: (score - target).clamp(-1, 1),
        curvature=lambda score, target: 1 / (score - target).abs().clamp_min(1),
        expected_curvature=torch.ones_like,
        relative_curvature=0.5,
        is_robust=True,
        measures_noise=True,
    ),
    "log_loss": Loss(
        value=lambda score, target: torch.addcmul(
            F.softplus(score), target, score, value=-1
        ),
        derivative=lambda score, target: torch.sigmoid(score) - target,
        curvature=lambda score, target: _logistic_curvature(score),
        expected_curvature=_logistic_curvature,
        relative_curvature=0.25,
    ),
}
LOSSES["bpr"] = replace(LOSSES["log_loss"], value=_bpr)


def weighted_derivatives(
    loss: str, score: Tensor, target: Tensor, weight: Tensor
) -> Tensor:
    """Derivatives of Σ weight · loss by the scores, for shapes as in `Loss`."""
    if loss != "bpr":
        return weight * LOSSES[loss].derivative(score, target)
    weight = weight[:, 1:] * target[:, :1]
    of_drawn = weight * torch.sigmoid(score[:, 1:] - score[:, :1])
    return torch.cat([-of_drawn.sum(1, keepdim=True), of_drawn], dim=1)
