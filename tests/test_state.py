"""States of alternating solvers, against their definitions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import make_problem, random_posterior, run
from scipy import stats

from skrec._alternating.state import Side
from skrec._alternating.vb import vb


def test_shifts_are_those_of_the_features():
    problem, _ = make_problem(described=True, implicit_features=True)
    side = run(vb, problem, 3)[-1].items
    shift = sum(
        block.times(w.mean)
        for block, w in zip(problem.items.features, side.weights, strict=True)
    )
    rows = slice(2, 5)
    np.testing.assert_allclose(side.shift, shift, atol=1e-12)
    np.testing.assert_allclose(side.own, side.mean - shift, atol=1e-12)
    np.testing.assert_allclose(side.prior_means(rows), side.prior_mean + shift[rows])
    again = replace(side, shift=None).with_weights(problem.items, side.weights)
    np.testing.assert_allclose(again.shift, shift, atol=1e-12)
    bare = side.with_weights(problem.items, [])
    assert bare.own is bare.mean
    assert bare.prior_means(rows) is bare.prior_mean


def test_relative_variance_is_the_mean_of_one_over_alpha():
    side = Side.at(torch.zeros(2, 1).double())
    np.testing.assert_allclose(side.relative_variance, 1)
    alpha, shape = torch.tensor([0.5, 2.0]).double(), torch.tensor([3.0, 8.0]).double()
    side = replace(side, relative_precision=alpha, relative_shape=shape)
    expected = [
        stats.gamma(float(s), scale=float(a / s)).expect(lambda x: 1 / x)
        for a, s in zip(alpha, shape, strict=True)
    ]
    np.testing.assert_allclose(side.relative_variance, expected, rtol=1e-6)


def test_covariance_of_coefficients():
    problem, _ = make_problem(n_context=2)
    state = random_posterior(problem, is_certain=False)
    R = state.coef_factor.numpy()
    np.testing.assert_allclose(state.coef_covariance, R.T @ R)
    assert not replace(state, coef_factor=None).coef_covariance.any()


@pytest.mark.parametrize("biased", [True, False])
def test_taste_ratio_is_that_of_the_variances_of_scores(biased):
    problem, _ = make_problem(n_factors=2, biased=biased)
    state = random_posterior(problem, is_certain=True)
    P, Q = state.users.mean.numpy(), state.items.mean.numpy()
    scores = P[:, :2] @ Q[:, :2].T
    away = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    shared = scores.mean(0) + Q[:, 2:].sum(1)
    assert state.taste_ratio(2) == pytest.approx((away**2).mean() / shared.var())
