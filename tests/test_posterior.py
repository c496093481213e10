"""Posterior: predictions, vectors and effects against brute force over draws."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import sparse

from skrec._alternating import effects
from skrec._alternating.links import DESCRIBED, FittedLinkMatrix
from skrec._alternating.posterior import Posterior
from skrec._alternating.rows import FactorSums, Rows
from skrec._data.units import Units

K, N_DRAWS, N_CONTEXT = 2, 3, 2
UNITS = Units(
    centre=3.0,
    scale=1.5,
    mean_weight=1.0,
    feature_mean=np.array([0.5, -1.0]),
    feature_scale=np.array([2.0, 0.3]),
)
CPU = torch.device("cpu")


def random_covariances(rng, *shape):
    roots = rng.normal(size=(*shape, shape[-1]))
    return 0.1 * roots @ roots.swapaxes(-1, -2)


def random_rows(rng, n_rows, n_draws):
    size = K + 1
    mean = rng.normal(size=(n_draws, n_rows, size))
    link = FittedLinkMatrix(
        mean=rng.normal(size=(n_draws, 4, size)),
        covariance=random_covariances(rng, n_draws, size),
        prior_covariance=np.eye(size),
        effect_covariance=random_covariances(rng, n_draws, size),
        column_mean=rng.normal(size=4),
        scale=0.8,
    )
    return Rows(
        mean=mean,
        covariance=random_covariances(rng, 1, n_rows, size) if n_draws == 1 else None,
        prior_mean=rng.normal(size=(n_draws, 1, size)),
        prior_covariance=random_covariances(rng, n_draws, 1, size),
        cold_offset=rng.normal(size=(n_draws, size)),
        residual_covariance=random_covariances(rng, n_draws, size),
        count=rng.uniform(1, 5, n_rows),
        relative_variance=rng.uniform(0.5, 2, n_rows),
        concentration=3.0,
        selection=np.zeros(n_rows),
        factor_sums=FactorSums.of(mean[..., :K]),
        links={DESCRIBED: link},
    )


@pytest.fixture(params=[1, N_DRAWS])
def posterior(request):
    rng = np.random.default_rng(request.param)
    return Posterior(
        users=random_rows(rng, 7, request.param),
        items=random_rows(rng, 5, request.param),
        n_factors=K,
        centre=3.0,
        coef=rng.normal(size=N_CONTEXT),
        coef_covariance=random_covariances(rng, N_CONTEXT),
        noise_variance=0.4,
        knows_variance=True,
        units=UNITS,
    )


def pairs_of(posterior):
    """All pairs of known rows, and an unknown user and item."""
    u, i = np.meshgrid(np.r_[-1, :7], np.r_[-1, :5], indexing="ij")
    u, i = u.ravel(), i.ravel()
    context = np.random.default_rng(0).normal(size=(len(u), N_CONTEXT))
    return u, i, context


def draws_of(rows, numbers):
    return np.where(
        (numbers < 0)[:, None],
        (rows.prior_mean[:, -1] + rows.cold_offset)[:, None],
        rows.mean[:, np.maximum(numbers, 0)],
    )


def scores(posterior, u, i):
    x, z = draws_of(posterior.users, u), draws_of(posterior.items, i)
    return (x[..., :K] * z[..., :K]).sum(-1) + x[..., K] + z[..., K]


def test_predictions_are_the_mean_over_draws(posterior):
    u, i, context = pairs_of(posterior)
    expected = scores(posterior, u, i).mean(axis=0) + posterior.centre
    expected += (context - UNITS.feature_mean) @ posterior.coef
    found, none = posterior.predict(u, i, context, False, CPU)
    assert none is None
    assert_allclose(found, expected)


def test_variances_are_those_of_samples(posterior):
    rng = np.random.default_rng(0)
    u, i = np.array([-1, 0, 3, 6]), np.array([2, 4, -1, 1])
    context = rng.normal(size=(4, N_CONTEXT))
    n = 200_000
    x, z = draws_of(posterior.users, u), draws_of(posterior.items, i)
    S = np.stack(list(posterior.users.covariances(u)))
    T = np.stack(list(posterior.items.covariances(i)))
    draw = rng.integers(len(x), size=n)
    found = posterior.variance(u, i, context)
    for j in range(4):
        noise = posterior.noise_variance
        noise *= posterior.users.relative_variances(u)[j]
        noise *= posterior.items.relative_variances(i)[j]
        v = UNITS.standard_features(context)[j]
        a, b = np.empty((n, K + 1)), np.empty((n, K + 1))
        for d in range(len(x)):
            size = (draw == d).sum()
            a[draw == d] = rng.multivariate_normal(x[d, j], S[d, j], size)
            b[draw == d] = rng.multivariate_normal(z[d, j], T[d, j], size)
        sampled = (a[:, :K] * b[:, :K]).sum(1) + a[:, K] + b[:, K]
        expected = sampled.var() + noise + v @ posterior.coef_covariance @ v
        assert found[j] == pytest.approx(expected, rel=0.03)


def test_index_vectors_have_the_scores_as_inner_products(posterior):
    users, items = np.array([-1, 2, 5]), np.array([0, -1, 3])
    U = posterior.index_vectors("user", users)
    V = posterior.index_vectors("item", items)
    u, i = np.repeat(users, 3), np.tile(items, 3)
    expected = scores(posterior, u, i).mean(axis=0).reshape(3, 3)
    assert_allclose(U @ V.T, expected, rtol=1e-5, atol=1e-5)


def test_scores_of_a_tile_lead_to_predictions(posterior):
    users, items = np.array([-1, 2, 5, 6]), np.array([0, 1, 4])
    out = torch.empty(2, 3)
    posterior.scorer(users, items, CPU)(slice(1, 3))(slice(None), out)
    found = posterior.scores_to_ratings(out.numpy(), users[1:3])
    u, i = np.repeat(users[1:3], 3), np.tile(items, 2)
    expected = posterior.mean(u, i, np.tile(UNITS.feature_mean, (6, 1)))
    assert_allclose(found.ravel(), expected, rtol=1e-5)


@pytest.mark.parametrize("side", ["user", "item"])
def test_effects_are_differences_of_predictions_of_cold_rows(posterior, side):
    """A contrast of features moves ratings with an average row of the other side."""
    matrix = np.random.default_rng(0).normal(size=(2, 4))
    cold = sparse.csr_array(matrix)
    described = posterior.with_cold_rows(
        *((cold, None)[:: 1 if side == "user" else -1])
    )
    n_others = 5 if side == "user" else 7
    ratings = []
    for row in (-2, -3):
        pair = np.full(n_others, row), np.arange(n_others)
        u, i = pair if side == "user" else pair[::-1]
        ratings.append(described.mean(u, i, np.zeros((n_others, N_CONTEXT))).mean())
    effect, _ = effects.of_features(
        posterior, side, sparse.csr_array(matrix[:1] - matrix[1:])
    )
    assert effect[0] == pytest.approx(ratings[0] - ratings[1])


def test_an_average_has_the_mean_and_the_variance_of_its_draws():
    rng = np.random.default_rng(0)
    fixed = {"n_factors": K, "centre": 3.0, "units": UNITS, "knows_variance": False}
    draws = [
        Posterior(
            users=random_rows(rng, 7, 1).take(np.arange(7)),
            items=random_rows(rng, 5, 1).take(np.arange(5)),
            coef=rng.normal(size=N_CONTEXT),
            coef_covariance=random_covariances(rng, N_CONTEXT),
            noise_variance=rng.uniform(0.2, 0.5),
            **fixed,
        )
        for _ in range(4)
    ]
    average = Posterior.average(draws)
    u, i = np.arange(5), np.arange(5)
    context = rng.normal(size=(5, N_CONTEXT))
    expected = np.mean([draw.mean(u, i, context) for draw in draws], axis=0)
    assert_allclose(average.mean(u, i, context), expected)
    spread = np.var([scores(draw, u, i)[0] for draw in draws], axis=0)
    assert_allclose(average._product_variance(u, i), spread)
