"""The posterior of a factorisation against its moments, pair by pair."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skrec import MFRegressor
from skrec._alternating.posterior import Posterior
from skrec.datasets import make_ratings

X, Y = make_ratings(30, 20, 300, random_state=0)
HOUR = np.random.default_rng(0).uniform(0, 24, len(Y))
USERS, ITEMS = X["user"].to_numpy(), X["item"].to_numpy()


def fit(**params):
    model = MFRegressor(2, clip=False, max_iter=20, tol=0.05, **params)
    return model.fit(X.assign(hour=HOUR), Y + 0.1 * HOUR)._model


def predict(posterior, users=USERS, items=ITEMS, return_std=False, context=HOUR):
    return posterior.predict(users, items, context[:, None], return_std, "cpu")


def moments(posterior, draw=0):
    """E[b + c + p·q] of pairs, and its variance, in float64."""
    found = np.empty((2, len(USERS)))
    for n, (u, i) in enumerate(zip(USERS, ITEMS, strict=True)):
        (x, S), (z, T) = (
            (
                rows.mean[draw, row].astype(float),
                np.zeros((3, 3))
                if rows.covariance is None
                else rows.covariance[0, row],
            )
            for rows, row in ((posterior.users, u), (posterior.items, i))
        )
        mean = x[:2] @ z[:2] + x[2] + z[2]
        x[2] = z[2] = 1
        found[:, n] = mean, z @ S @ z + x @ T @ x + (S[:2, :2] * T[:2, :2]).sum()
    return found


def slope_moments(posterior, away):
    """Mean and variance of the terms of the slopes of pairs."""
    (column,) = posterior.columns
    x, found = away / posterior.units.feature_scale[0], np.zeros((2, len(away)))
    for pairs, rows in ((column.users, USERS), (column.items, ITEMS)):
        found[0] += x * pairs.effects.mean[rows]
        found[1] += x**2 * pairs.effects.variance[rows]
        if pairs.levels is not None:
            found[1] += 2 * x * pairs.levels.covariance[rows]
            found[1] += pairs.levels.variance[rows]
    return found


def noise(posterior):
    """Variances of pairs, where rows and coefficients are certain."""
    certain = {
        side: replace(
            rows,
            mean=np.repeat(rows.mean[:1], len(rows.mean), axis=0),
            covariance=None,
        )
        for side, rows in (("users", posterior.users), ("items", posterior.items))
    }
    posterior = replace(
        posterior,
        coef_covariance=0 * posterior.coef_covariance,
        columns=(),
        **certain,
    )
    return predict(posterior, return_std=True)[1] ** 2


def test_mean_and_variance_are_those_of_a_product_of_gaussians():
    posterior = fit()
    mean, variance = moments(posterior)
    away = HOUR - posterior.units.feature_mean[0]
    slope, of_slope = slope_moments(posterior, away)
    mean = posterior.centre + mean + away * posterior.coef[0] + slope
    standard = away / posterior.units.feature_scale[0]
    variance += of_slope
    variance += standard**2 * posterior.coef_covariance[0, 0] + noise(posterior)
    found, std = predict(posterior, return_std=True)
    assert np.mean(noise(posterior)) == pytest.approx(posterior.noise_variance, rel=0.5)
    assert_allclose(found, mean, rtol=1e-6)
    assert_allclose(std, np.sqrt(variance), rtol=1e-5)


def test_draws_are_averaged_and_their_spread_is_uncertainty():
    posterior = fit(solver="gibbs", random_state=0)
    assert len(posterior.users.mean) == 20
    means = np.array([moments(posterior, draw)[0] for draw in range(20)])
    away = HOUR - posterior.units.feature_mean[0]
    standard = away / posterior.units.feature_scale[0]
    variance = means.var(axis=0) + standard**2 * posterior.coef_covariance[0, 0]
    found, std = predict(posterior, return_std=True)
    slope, of_slope = slope_moments(posterior, away)
    variance += of_slope
    expected = posterior.centre + means.mean(axis=0) + away * posterior.coef[0] + slope
    assert_allclose(found, expected, rtol=1e-6)
    assert_allclose(std, np.sqrt(variance + noise(posterior)), rtol=1e-5)


def test_the_average_of_posteriors_predicts_the_mean_of_their_predictions():
    draws = [fit(solver="als", reg=reg) for reg in (1.0, 5.0, 25.0)]
    # As of the draws of a chain, their units and centre are the same.
    averaged = Posterior.average(draws)
    expected = np.mean([predict(draw)[0] for draw in draws], axis=0)
    assert_allclose(predict(averaged)[0], expected, rtol=1e-6)
    assert averaged.knows_variance
    assert_array_equal(predict(Posterior.average(draws[:1]))[0], predict(draws[0])[0])


@pytest.mark.parametrize("solver", ["vb", "gibbs"])
def test_tiles_of_covariances_do_not_matter(solver, monkeypatch):
    posterior = fit(solver=solver, random_state=0)
    users = np.where(np.arange(len(USERS)) % 5, USERS, -1)
    expected = predict(posterior, users, return_std=True)
    monkeypatch.setattr("skrec._alternating.posterior.TILE_SIZE", 7)
    found = predict(posterior, users, return_std=True)
    assert_allclose(found, expected, rtol=1e-12)


def test_points_have_no_deviation():
    posterior = fit(solver="als")
    assert predict(posterior)[1] is None
    with pytest.raises(ValueError, match="return_std=True needs a fit"):
        predict(posterior, return_std=True)


def test_the_intercept_is_the_prediction_at_a_context_of_zero():
    posterior = fit()
    assert posterior.row_size == 3
    zeros = predict(posterior, context=np.zeros(len(USERS)))[0]
    away = 0 * HOUR - posterior.units.feature_mean[0]
    slope, _ = slope_moments(posterior, away)
    expected = posterior.intercept + moments(posterior)[0] + slope
    assert_allclose(zeros, expected, rtol=1e-6)


def test_scores_are_ratings_at_the_mean_context():
    posterior = fit()
    users, items = np.array([4, 0, -1]), np.arange(20)
    fill = posterior.scorer(users, items, "cpu")(slice(None))
    scores = torch.empty(3, 20)
    fill(slice(None), scores)
    found = posterior.scores_to_ratings(scores.numpy(), users)
    mean = np.repeat(posterior.units.feature_mean, 20)
    for user, row in zip(users[:2], found, strict=False):
        expected = predict(posterior, np.full(20, user), items, context=mean)[0]
        assert_allclose(row, expected, rtol=1e-5)
    assert np.isfinite(found).all()


def test_a_log_loss_is_a_response_of_scores():
    posterior = fit()
    objective = replace(posterior.objective, loss="log_loss")
    found = predict(replace(posterior, objective=objective))[0]
    assert_allclose(found, 1 / (1 + np.exp(-predict(posterior)[0])))
