"""Residuals of a fit, and the kurtosis of its noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import as_problem, make_problem, run
from scipy import stats

from skrec._alternating.residuals import (
    KURTOSIS_SIZE,
    kurtosis,
    mean_residual,
    residuals,
    square_worth,
)
from skrec._alternating.start import spectral_start
from skrec._alternating.vb import vb


@pytest.mark.parametrize("biased", [True, False])
def test_residuals_at_places_are_those_of_all(biased):
    problem, (u, i, y, *_, context) = make_problem(biased=biased, n_context=2)
    state = run(vb, problem, 3)[-1]
    x, z, k = state.users.mean.numpy(), state.items.mean.numpy(), 2
    expected = y - (x[u, :k] * z[i, :k]).sum(1) - context @ state.coef.numpy()
    expected -= x[u, k:].sum(1) + z[i, k:].sum(1)
    places = torch.tensor([5, 0, 5, len(y) - 1])
    np.testing.assert_allclose(residuals(problem, state), expected, atol=1e-12)
    found = residuals(problem, state, places)
    np.testing.assert_allclose(found, expected[places], atol=1e-12)


def test_the_mean_residual_is_weighted_as_ratings_are():
    problem, arrays = make_problem(n_context=1)
    state = run(vb, problem, 3)[-1]
    expected = np.average(residuals(problem, state), weights=arrays[3])
    assert mean_residual(problem, state) == pytest.approx(expected)


def test_the_kurtosis_is_that_of_standardised_residuals():
    problem, arrays = make_problem()
    u, i, _, w, _ = arrays
    state = run(vb, problem, 3)[-1]
    alpha, gamma = (s.relative_precision.numpy() for s in (state.users, state.items))
    standardised = np.sqrt(w * alpha[u] * gamma[i]) * residuals(problem, state).numpy()
    expected = np.mean(standardised**4) / np.mean(standardised**2) ** 2
    assert kurtosis(problem, state) == pytest.approx(expected)


def noise(draws, n):
    """A problem whose ratings are so many draws, and a state that predicts 0."""
    shape = n // 100, 100
    u, i = (index.ravel() for index in np.indices(shape))
    problem = as_problem(u, i, shape, draws, np.ones(n), n_factors=0)
    state = spectral_start(problem)
    zero = replace(state.items, mean=torch.zeros_like(state.items.mean))
    return problem, replace(state, items=zero)


@pytest.mark.parametrize(
    "n", [KURTOSIS_SIZE // 100 * 100, 40 * KURTOSIS_SIZE // 100 * 100]
)
@pytest.mark.parametrize(
    ("distribution", "rel"),
    [(stats.norm, 0.1), (stats.laplace, 0.3), (stats.bernoulli(0.02), 0.2)],
)
def test_a_mean_of_squares_varies_as_that_of_fewer_gaussian_ones(distribution, rel, n):
    """So many that the variances of both means are equal."""
    rng = np.random.default_rng(0)
    draws = distribution.rvs(size=n, random_state=rng) - distribution.mean()
    squares = distribution.rvs(size=(4000, 50), random_state=rng) - distribution.mean()
    means = (squares**2).mean(1) / distribution.var()
    expected = min(1.0, 2 / 50 / means.var())
    assert square_worth(*noise(draws, n)) == pytest.approx(expected, rel=rel)


def test_signs_are_worth_no_more_than_gaussian_noise():
    signs = np.resize([1.0, -1.0], 400)
    assert kurtosis(*noise(signs, 400)) == pytest.approx(1)
    assert square_worth(*noise(signs, 400)) == 1
    assert square_worth(*noise(0 * signs, 400)) == 1
