"""Derivatives of losses, against automatic ones and closed forms."""

import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import expit

from skrec._gradient.losses import LOSSES, weighted_derivatives


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "bpr"])
def test_slopes_are_derivatives_and_curvatures_positive(loss):
    score = torch.linspace(-4, 4, 81, dtype=torch.float64, requires_grad=True)
    for target in (-1.0, 0.0, 0.37, 1.0):
        at = torch.full_like(score, target)
        value = LOSSES[loss].value(score, at)
        (slope,) = torch.autograd.grad(value.sum(), score)
        assert_allclose(LOSSES[loss].derivative(score.detach(), at), slope, atol=1e-12)
        curvature = LOSSES[loss].curvature(score.detach(), at)
        assert (curvature >= 0).all()
        if loss == "log_loss":
            p = expit(score.detach().numpy())
            assert_allclose(curvature, p * (1 - p))


@pytest.mark.parametrize("loss", LOSSES)
def test_weighted_derivatives_are_derivatives_of_weighted_losses(loss):
    generator = torch.Generator().manual_seed(0)
    score, target, weight = (
        torch.rand(size, generator=generator, dtype=torch.float64)
        for size in ((5, 4, 3), (5, 4, 1), (5, 4, 1))
    )
    target[:, 1:], weight[::2, 2] = 0, 0
    score.requires_grad_()
    value = (weight * LOSSES[loss].value(score, target)).sum()
    (expected,) = torch.autograd.grad(value, score)
    found = weighted_derivatives(loss, score.detach(), target, weight)
    assert_allclose(found, expected, atol=1e-12)
