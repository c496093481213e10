"""Penalties of rows by closed forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from skrec._gradient.network import NeuMF, Shape, initial_weights
from skrec._gradient.objective import (
    LARGE_NOISE,
    LEAST_MULTIPLE,
    Prior,
    TrainingOptions,
)

SHAPE = Shape(4, 3, 0, 2, n_embedding=2, hidden_layer_sizes=(3,), n_members=2)
REG, TOTAL = 0.3, 10.0
WEIGHTS = {"user": [1.0, 4, 0, 5, 0], "item": [2.0, 0, 8, 0]}


def prior_of(network, mean, **changes):
    options = TrainingOptions("squared_error", 0, "adam", 0.1, 5, 1, REG, mean=mean)
    options = replace(options, **changes)
    weights = {side: torch.tensor(weight) for side, weight in WEIGHTS.items()}
    return Prior(network, weights, torch.tensor(TOTAL), options)


@pytest.mark.parametrize("mean", [0.0, 2.25])
@pytest.mark.parametrize("biased", [False, True])
def test_penalty_and_its_gradient_are_those_of_distances_from_anchors(mean, biased):
    shape = replace(SHAPE, biased=biased)
    network = NeuMF(shape, initial_weights(shape, range(2)))
    prior = prior_of(network, mean)
    network.zero_grad()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    prior.add_gradients({s: w / TOTAL for s, w in prior.row_weights.items()})

    away = {name: p.detach().clone() for name, p in network.named_parameters()}
    for side in WEIGHTS:
        away[f"{side}_factors"][..., 0] -= mean**0.5
    penalty = 0.0
    for name, parameter in network.named_parameters():
        side = name.partition("_")[0]
        weight = torch.tensor(TOTAL)
        if name.endswith(("factors", "embedding", "bias")) and side in WEIGHTS:
            weight = torch.tensor(WEIGHTS[side])
            weight = weight.view(-1, *[1] * (parameter.dim() - 1))
        factor = REG * weight.sqrt() / TOTAL
        if ("bias" in name and side not in WEIGHTS) or name == "intercept":
            factor = 0.0
        np.testing.assert_allclose(
            parameter.grad, 2 * factor * away[name], rtol=1e-4, atol=1e-6
        )
        penalty += float((factor * away[name].square()).sum())
    assert prior.penalty() == pytest.approx(penalty / shape.n_members, rel=1e-4)


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
@pytest.mark.parametrize(
    ("noise", "multiple"),
    [(0.5, 0.5), (0.1, 0.1), (0.0, LEAST_MULTIPLE), (1.7, 1.0)],
)
def test_penalties_are_in_proportion_to_the_variance_of_small_noise(
    loss, noise, multiple
):
    network = NeuMF(SHAPE, initial_weights(SHAPE, range(2)))
    prior = prior_of(network, 0.0, loss=loss, follows_noise=True)
    shares = {s: w / TOTAL for s, w in prior.row_weights.items()}

    def gradients():
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        prior.add_gradients(shares)
        return [parameter.grad.clone() for parameter in network.parameters()]

    penalty, expected = prior.penalty(), gradients()
    # The last noise counts, whatever the one before.
    for value in (0.3, noise):
        prior.adapt(torch.tensor(value * LARGE_NOISE * prior.curvature))
    assert prior.multiple == pytest.approx(multiple)
    assert prior.penalty() == pytest.approx(multiple * penalty, rel=1e-5)
    for found, of_all in zip(gradients(), expected, strict=True):
        np.testing.assert_allclose(found, multiple * of_all, rtol=1e-5, atol=1e-9)


def test_a_given_penalty_does_not_follow_the_noise():
    network = NeuMF(SHAPE, initial_weights(SHAPE, range(2)))
    prior = prior_of(network, 0.0)
    before = prior.penalty()
    prior.adapt(torch.tensor(0.1))
    assert prior.penalty() == before
