"""Rules of the alternating solvers, against brute force in float64."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import (
    VARIANTS,
    make_problem,
    residuals,
    run,
)
from scipy import stats

from skrec._alternating.als import als
from skrec._alternating.conditional import NaturalGaussians
from skrec._alternating.evidence import (
    MIN_NOISE_VARIANCE,
    PRIOR_NOISE_VARIANCE,
    PRIOR_RATINGS,
    PRIOR_ROWS,
)
from skrec._alternating.gibbs import gibbs
from skrec._alternating.rules import WEIGHT_PENALTY, GibbsRule, UpdateRule, VBRule
from skrec._alternating.state import (
    PRIOR_VARIANCE,
    Side,
)
from skrec._alternating.vb import vb


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request):
    return request.param


def test_noise_variance_is_the_mean_square_of_residuals_and_its_prior(variant):
    problem, arrays = make_problem(**variant)
    u, i, _, w, _ = arrays
    state = run(vb, problem, 5)[-1]
    alpha = state.users.relative_precision.numpy()[u]
    alpha = alpha * state.items.relative_precision.numpy()[i]
    squares = (w * alpha * residuals(problem, arrays, state)).sum()
    squares += PRIOR_RATINGS * PRIOR_NOISE_VARIANCE
    expected = squares / (w.sum() + PRIOR_RATINGS)
    assert state.noise_variance == pytest.approx(expected)


def test_als_objective_is_the_penalised_sum_of_squares(variant):
    problem, arrays = make_problem(**variant)
    state = run(als, problem, 3, 0.3)[-1]
    sides = state.users, state.items
    points = [*(side.own - side.prior_mean for side in sides), state.coef]
    for weights in (*state.users.weights, *state.items.weights):
        points.append(WEIGHT_PENALTY**0.5 * weights.mean)
    penalty = sum(float((x**2).sum()) for x in points)
    expected = (arrays[3] * residuals(problem, arrays, state)).sum() + 0.3 * penalty
    assert state.objective * problem.weight == pytest.approx(expected)


@pytest.mark.usefixtures("levels_are_noise")
def test_the_objective_of_a_draw_is_its_minus_log_likelihood():
    """Without the terms that normalise it."""
    problem, arrays = make_problem()
    u, i, _, w, _ = arrays
    state = run(gibbs, problem, 2, np.random.RandomState(0))[-1]
    alpha = state.users.relative_precision.numpy()[u]
    alpha = alpha * state.items.relative_precision.numpy()[i]
    squares = (w * alpha * residuals(problem, arrays, state)).sum()
    expected = state.noise_precision * squares / 2
    assert state.objective * problem.weight == pytest.approx(expected)


def test_gibbs_draws_rows_from_their_gaussian():
    rng = np.random.default_rng(0)
    root = torch.as_tensor(rng.normal(size=(3, 3)))
    expected = root @ root.T
    mean = torch.as_tensor(rng.normal(size=3))
    n = 40_000
    rule = GibbsRule(np.random.RandomState(0))
    A = torch.linalg.inv(expected)
    gaussians = NaturalGaussians(A.expand(n, 3, 3), (A @ mean).expand(n, 3))
    draws, covariance, _ = rule.rows(gaussians, rule.auxiliary(gaussians.h))
    assert covariance is None
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(
        np.cov(draws.numpy().T), expected, atol=0.03 * float(expected.max())
    )


def test_gibbs_draws_the_prior_from_its_normal_wishart():
    rng = np.random.default_rng(0)
    rows = torch.as_tensor(rng.normal(1.0, 2.0, size=(200, 2)))
    problem, _ = make_problem(n_factors=1)
    side = Side.at(rows)
    rule = GibbsRule(np.random.RandomState(0))
    zeros = torch.zeros(200).double()
    given = SimpleNamespace(ratings=replace(problem.users, count=zeros))
    draws = [rule.update_priors(side, zeros, given) for _ in range(4000)]
    means = np.array([draw.prior_mean.numpy() for draw in draws])
    precisions = np.array([draw.prior_precision.numpy() for draw in draws])

    strength, x = PRIOR_ROWS + 200, rows.numpy()
    centre = x.mean(0)
    scatter = (x - centre).T @ (x - centre) + 2 * PRIOR_VARIANCE * np.eye(2)
    scatter += PRIOR_ROWS * 200 / strength * np.outer(centre, centre)
    np.testing.assert_allclose(means.mean(0), centre * 200 / strength, atol=0.02)
    np.testing.assert_allclose(
        precisions.mean(0), 202 * np.linalg.inv(scatter), rtol=0.02, atol=0.003
    )
    expected = scatter / strength / (202 - 3)
    np.testing.assert_allclose(np.cov(means.T), expected, atol=0.1 * expected.max())


def test_gibbs_draws_relative_precisions_from_their_gamma():
    problem, _ = make_problem(n_factors=1)
    n = 40_000
    side = Side.at(torch.ones(n, 2).double())
    count, squares = torch.full((n,), 6.0), torch.full((n,), 4.0).double()
    rule = GibbsRule(np.random.RandomState(0))
    given = SimpleNamespace(ratings=replace(problem.users, count=count))
    alpha = rule.update_priors(side, squares / 2, given).relative_precision
    gamma = stats.gamma(side.concentration + 3, scale=1 / (side.concentration + 2))
    assert float(alpha.mean()) == pytest.approx(gamma.mean(), rel=0.01)
    assert float(alpha.std()) == pytest.approx(gamma.std(), rel=0.02)


def test_gibbs_draws_weights_of_features_and_the_part_of_rows_that_they_explain():
    problem, _ = make_problem(described=True)
    side = run(gibbs, problem, 2, np.random.RandomState(0))[-1].users
    features = problem.users.features
    given, squares = SimpleNamespace(ratings=problem.users), torch.ones(len(side.mean))
    draws = [
        GibbsRule(np.random.RandomState(seed)).update_priors(side, squares, given)
        for seed in (0, 1)
    ]
    for draw in draws:
        explained = sum(
            block.times(weights.mean)
            for block, weights in zip(features, draw.weights, strict=True)
        )
        np.testing.assert_allclose(draw.shift, explained, atol=1e-12)
    first, second = (draw.weights[0].mean.numpy() for draw in draws)
    assert np.abs(first - second).max() > 0.01


def test_there_is_some_noise_where_residuals_vanish():
    assert VBRule().noise_variance(3.0, 0.0) > 0.1
    assert VBRule().noise_variance(1e9, 0.0) == MIN_NOISE_VARIANCE


def test_the_next_noise_precision_is_that_of_the_variance():
    variance = (8.0 + PRIOR_RATINGS * PRIOR_NOISE_VARIANCE) / (30.0 + PRIOR_RATINGS)
    assert VBRule().noise_variance(30.0, 8.0) == pytest.approx(variance)
    assert VBRule().noise_precision(30.0, 8.0) == pytest.approx(1 / variance)
    rule = GibbsRule(np.random.RandomState(0))
    draws = [rule.noise_precision(30.0, 8.0) for _ in range(20_000)]
    gamma = stats.gamma((30 + PRIOR_RATINGS) / 2)
    assert np.mean(draws) == pytest.approx(1 / variance, rel=0.01)
    assert np.std(draws) * variance == pytest.approx(gamma.std() / gamma.mean(), 0.03)


@pytest.mark.parametrize(("n_context", "square"), [(1, 0.05), (4, 3.0)])
def test_the_precision_of_coefficients_is_that_of_a_row_more(n_context, square):
    expected = (n_context + PRIOR_ROWS) / (square + PRIOR_ROWS * PRIOR_VARIANCE)
    assert VBRule().coef_precision(n_context, square, PRIOR_VARIANCE) == pytest.approx(
        expected
    )
    rule = GibbsRule(np.random.RandomState(0))
    draws = [
        rule.coef_precision(n_context, square, PRIOR_VARIANCE) for _ in range(20_000)
    ]
    gamma = stats.gamma((n_context + PRIOR_ROWS) / 2)
    assert np.mean(draws) == pytest.approx(expected, rel=0.03)
    assert np.std(draws) / expected == pytest.approx(gamma.std() / gamma.mean(), 0.05)


@pytest.mark.parametrize("is_certain", [True, False])
def test_the_noise_of_an_update_is_that_of_the_past_and_the_further_ratings(is_certain):
    rule = UpdateRule(is_certain=is_certain, past_weight=30.0, past_variance=0.25)
    variance = (30 * 0.25 + 4) / (30 + 10)
    assert rule.noise_variance(10.0, 4.0) == pytest.approx(variance)
    expected = 0.25 if is_certain else variance
    assert rule.noise_precision(10.0, 4.0) == pytest.approx(1 / expected)
