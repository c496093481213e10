"""The lower bound of "vb", and the priors that maximise it."""

import math
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import (
    VARIANTS,
    as_arrays,
    make_problem,
    random_posterior,
    residuals,
    run,
)
from scipy import linalg, optimize, special, stats

from skrec._alternating.evidence import (
    CONCENTRATION_BOUNDS,
    MIN_NOISE_VARIANCE,
    PRIOR_NOISE_VARIANCE,
    PRIOR_RATINGS,
    PRIOR_ROWS,
    columns_evidence,
    exchange,
    likeliest_concentration,
    precision_evidence,
)
from skrec._alternating.rules import VBRule
from skrec._alternating.start import spectral_start
from skrec._alternating.state import (
    PRIOR_VARIANCE,
    ColumnState,
    Effects,
    PairState,
    Side,
)
from skrec._alternating.sweep import sweeps
from skrec._alternating.vb import vb


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request):
    return request.param


class Recording(VBRule):
    """The rule of "vb", and each side as it was before anything was learned."""

    def __init__(self):
        self.sides = []

    def update_priors(self, side, rate, given):
        self.sides = [*self.sides[-1:], side]
        return super().update_priors(side, rate, given)


def recorded(problem, n_sweeps, worth=1.0):
    """The state after some sweeps of "vb", and its users and items before `learn`."""
    rule, start = Recording(), spectral_start(problem).with_square_worth(worth)
    state = list(islice(sweeps(problem, start, rule), n_sweeps))[-1]
    return state, rule.sides


def joint(side, ratings, layout):
    """Covariances of rows given the weights, and those of x − Bᵀf, from those of rows.

    A row has S = V + VQV with Q = Λ Cov[Bᵀf] Λ, and follows the weights by K = VΛ.
    """
    S = layout.unpack(side.covariance).numpy()
    if not side.weights:
        return S, S
    Lambda = side.prior_precision.numpy()
    V, own = np.empty_like(S), np.empty_like(S)
    for row in range(len(S)):
        C = sum(
            float(block.square[row]) * w.covariance.numpy()
            for block, w in zip(ratings.features, side.weights, strict=True)
        )
        root = linalg.sqrtm(Lambda @ C @ Lambda)
        inner = linalg.sqrtm(np.eye(len(C)) / 4 + root @ S[row] @ root)
        V[row] = np.linalg.solve(root, inner - np.eye(len(C)) / 2) @ np.linalg.inv(root)
        away = V[row] @ Lambda - np.eye(len(C))
        own[row] = V[row] + away @ C @ away.T
    return V, own


def brute_force_bound(problem, arrays, state, before):
    u, i, _, w, _ = arrays
    bound = 0.0
    log_precision = np.log(state.noise_precision)
    precision = state.noise_precision
    for side, was, ratings, rows in (
        (state.users, before[0], problem.users, u),
        (state.items, before[1], problem.items, i),
    ):
        mean = side.own.numpy()
        given, own = joint(was, ratings, problem.layout)
        m = side.prior_mean.numpy()
        prior_covariance = np.linalg.inv(side.prior_precision.numpy())
        for x, V, S in zip(mean, given, own, strict=True):
            bound += stats.multivariate_normal(m, prior_covariance).logpdf(x)
            bound -= np.trace(side.prior_precision.numpy() @ S) / 2
            bound += stats.multivariate_normal(cov=V).entropy()
        for weights in side.weights:
            Omega, C = weights.precision.numpy(), weights.covariance.numpy()
            for B in weights.mean.numpy():
                bound += stats.multivariate_normal(cov=np.linalg.inv(Omega)).logpdf(B)
                bound -= np.trace(Omega @ C) / 2
                bound += stats.multivariate_normal(cov=C).entropy()
            log_det = np.linalg.slogdet(Omega)[1]
            bound += PRIOR_ROWS / 2 * (log_det - PRIOR_VARIANCE * np.trace(Omega))
        # The priors' own priors, which are not normalised.
        log_det = np.linalg.slogdet(side.prior_precision.numpy())[1]
        trace = np.trace(side.prior_precision.numpy())
        bound += PRIOR_ROWS / 2 * (log_det - PRIOR_VARIANCE * trace)

        # The divergence of α from its prior counts 1 / worth times.
        worth = side.square_worth
        a, shape = worth * side.concentration, side.relative_shape.numpy()
        ties = np.zeros(len(mean)) if ratings.ties is None else ratings.ties.numpy()
        shape = worth * (shape + ties)
        scale = side.relative_precision.numpy() / shape
        expected_log = np.zeros(len(mean))
        for row in range(len(mean)):
            q = stats.gamma(shape[row], scale=scale[row])
            log_alpha = expected_log[row] = q.expect(np.log)
            prior = a * np.log(a) - special.gammaln(a)
            prior += (a - 1) * log_alpha - a * q.mean()
            bound += (prior + q.entropy()) / worth
            bound += ties[row] * (log_alpha - q.mean())
        log_precision = log_precision + expected_log[rows]
        precision = precision * side.relative_precision.numpy()[rows]
    if state.coef_factor is not None:
        factor, lam = state.coef_factor.numpy(), state.coef_precision
        coef, n = state.coef.numpy(), len(state.coef)
        S = factor.T @ factor
        bound += stats.norm(scale=lam**-0.5).logpdf(coef).sum() - lam * np.trace(S) / 2
        bound += stats.multivariate_normal(cov=S).entropy()
        bound += PRIOR_ROWS / 2 * (np.log(lam) - PRIOR_VARIANCE * lam)
        assert n == 2
    likelihood = log_precision - np.log(2 * np.pi)
    likelihood = likelihood - precision * residuals(problem, arrays, state)
    beta = state.noise_precision
    bound += PRIOR_RATINGS / 2 * (np.log(beta) - beta * PRIOR_NOISE_VARIANCE)
    return bound + (w * likelihood).sum() / 2


@pytest.mark.parametrize("n_sweeps", [1, 4])
def test_vb_bound_is_the_brute_force_one(variant, n_sweeps):
    problem, arrays = make_problem(n_users=5, n_items=4, **variant)
    state, before = recorded(problem, n_sweeps)
    expected = brute_force_bound(problem, arrays, state, before)
    assert -state.objective * problem.weight == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("worth", [1.0, 0.2])
def test_the_bound_with_ties_is_the_brute_force_one_and_never_falls(worth):
    problem, arrays = make_problem(n_users=5, n_items=4)
    ties = torch.tensor([0.0, 0.5, 40.0, 3.0, 7.0]).double()
    users, items = (
        replace(ratings, ties=ties[: len(ratings)])
        for ratings in (problem.users, problem.items)
    )
    problem = replace(problem, users=users, items=items)
    state, before = recorded(problem, 4, worth)
    expected = brute_force_bound(problem, arrays, state, before)
    assert -state.objective * problem.weight == pytest.approx(expected, rel=1e-6)
    start = spectral_start(problem).with_square_worth(worth)
    curve = [state.objective for state in islice(vb(problem, start), 30)]
    assert np.diff(curve).max() < 1e-12


@pytest.mark.parametrize(("biased", "worth"), [(True, 1.0), (False, 1.0), (True, 0.3)])
def test_the_priors_of_vb_are_those_of_the_moments_of_rows(biased, worth):
    problem, _ = make_problem(biased=biased)
    state = random_posterior(problem, is_certain=False).with_square_worth(worth)
    side, n = state.users, len(problem.users)
    x, S = as_arrays(side, problem.layout)
    squares = torch.as_tensor(np.random.default_rng(0).uniform(1, 9, n))
    given = SimpleNamespace(
        ratings=problem.users, layout=problem.layout, noise_precision=3.0
    )
    sums = VBRule().update_priors(side, squares / 2, given)
    residual = (sums.relative_precision * squares).sum()
    finished, found_residual = VBRule().finish(sums, residual)
    (found,) = VBRule().with_priors(finished)
    centred = VBRule().centred_prior(side, problem.layout)

    prior = PRIOR_ROWS * PRIOR_VARIANCE * np.eye(x.shape[1])
    deviation = x - x.mean(0)
    np.testing.assert_allclose(found.prior_mean, x.mean(0))
    for points, precision in (
        (deviation, found.prior_precision),
        (x, centred.prior_precision),
    ):
        scatter = S.sum(0) + points.T @ points + prior
        expected = (PRIOR_ROWS + n) * np.linalg.inv(scatter)
        np.testing.assert_allclose(precision, expected, rtol=1e-6, atol=1e-9)

    a, shape = side.concentration, side.concentration + problem.users.count / 2
    alpha = shape / (a + squares / 2)
    alpha = alpha / exchange(a * float(alpha.sum()), a * n, 3.0)
    assert found_residual == pytest.approx(float((alpha * squares).sum()))
    np.testing.assert_allclose(found.relative_shape, shape)
    np.testing.assert_allclose(found.relative_precision, alpha)
    log_alpha = torch.digamma(worth * shape) - (worth * shape / alpha).log()
    gap = float((alpha - log_alpha).mean())
    assert found.concentration == pytest.approx(likeliest_concentration(gap) / worth)


def test_the_concentration_maximises_the_bound():
    """Σ E[log Gamma(α | a, a)] over the rows of a side."""
    problem, _ = make_problem(n_users=40, n_items=25)
    state = run(vb, problem, 4)[-1]
    for side in (state.users, state.items):
        alpha, shape = (
            values.numpy() for values in (side.relative_precision, side.relative_shape)
        )
        log_alpha = special.digamma(shape) - np.log(shape / alpha)

        def cost(a, alpha=alpha, log_alpha=log_alpha):
            terms = a * (np.log(a) + log_alpha - alpha) - special.gammaln(a)
            return -terms.mean()

        best = optimize.minimize_scalar(
            cost, bounds=CONCENTRATION_BOUNDS, method="bounded", options={"xatol": 1e-6}
        ).x
        assert cost(side.concentration) <= cost(best) + 1e-9


@pytest.mark.parametrize("a", [2.5, 40.0, 3e3])
def test_the_concentration_is_that_of_the_gap(a):
    assert likeliest_concentration(
        math.log(a) - special.digamma(a) + 1
    ) == pytest.approx(a)
    assert (
        likeliest_concentration(9.0),
        likeliest_concentration(1.0),
    ) == CONCENTRATION_BOUNDS


@pytest.mark.parametrize(("n", "square"), [(1, 0.05), (20, 3.0)])
def test_the_precision_of_scalars_maximises_its_evidence(n, square):
    best = optimize.minimize_scalar(
        lambda precision: precision * square - precision_evidence(n, precision, 0.1),
        bounds=(1e-3, 1e3),
        method="bounded",
        options={"xatol": 1e-9},
    ).x
    assert VBRule().coef_precision(n, square, 0.1) == pytest.approx(best, rel=1e-5)


def test_the_evidence_of_columns_is_that_of_their_terms():
    """E of the log densities of terms, and entropies, under the best priors."""
    rng, rule = np.random.default_rng(0), VBRule()
    expected = 0.0

    def effects(n, n_levels=0, level_precision=0.0):
        """Effects under their best precision, and levels under it or a fixed one."""
        nonlocal expected
        n_all = n + n_levels
        mean, variance = rng.normal(size=n_all), rng.uniform(0.1, 1, n_all)
        squares = mean**2 + variance
        n_best = n if level_precision else n_all
        precision = float(
            rule.coef_precision(n_best, squares[:n_best].sum(), PRIOR_VARIANCE)
        )
        precisions = np.full(n_all, precision)
        precisions[n_best:] = level_precision
        # A level and the effects of its row have one determinant.
        log_det = float(np.log(variance).sum())
        expected += (np.log(precisions) - precisions * squares + 1).sum() + log_det
        expected += PRIOR_ROWS * (np.log(precision) - PRIOR_VARIANCE * precision)
        moments = [torch.as_tensor(values) for values in (mean, variance)]
        of_effects = [values[:n] for values in moments]
        of_levels = [values[n:] for values in moments]
        return (
            Effects(*of_effects, precision, log_det),
            Effects(*of_levels, level_precision),
        )

    def factors(n, size=2):
        nonlocal expected
        mean, root = rng.normal(size=(n, size)), rng.normal(size=(n, size, 4))
        covariance = root @ root.mT
        prior = PRIOR_ROWS * PRIOR_VARIANCE * np.eye(size)
        scatter = mean.T @ mean + covariance.sum(0)
        Lambda = (PRIOR_ROWS + n) * np.linalg.inv(scatter + prior)
        log_det = np.linalg.slogdet(covariance)[1].sum()
        expected += (PRIOR_ROWS + n) * np.linalg.slogdet(Lambda)[1] + log_det
        expected += n * size - np.trace(Lambda @ (scatter + prior))
        side = Side.at(torch.as_tensor(mean))
        return replace(
            side, prior_precision=torch.as_tensor(Lambda), log_det=float(log_det)
        )

    def pairs(n_rows, n_values, level_precision):
        return PairState(
            factors(n_rows),
            factors(n_values),
            *effects(7, n_rows, level_precision),
            torch.zeros(7),
        )

    columns = [
        ColumnState(effects(3)[0], *(pairs(n, 3, level_precision) for n in (5, 4)))
        for level_precision in (0.0, 3.0)
    ]
    found = sum(factor * float(value) for factor, value in columns_evidence(columns))
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("a", "beta"), [(3.0, 0.7), (50.0, 20.0)])
def test_the_exchange_of_precisions_maximises_the_bound(a, beta):
    """Its terms in c, where every α is divided by it and β times it."""
    alpha = torch.as_tensor(np.random.default_rng(0).uniform(0.2, 4, 30))
    prior = PRIOR_RATINGS / 2

    def loss(c):
        rows = len(alpha) * a * np.log(c) + a * float(alpha.sum()) / c
        noise = -prior * np.log(c) + beta * c * prior * PRIOR_NOISE_VARIANCE
        return rows + noise

    best = optimize.minimize_scalar(loss, bounds=(0.01, 10), method="bounded").x
    found = exchange(a * float(alpha.sum()), a * len(alpha), beta)
    assert found == pytest.approx(best, rel=1e-4)


def test_the_exchange_keeps_the_least_noise():
    c = exchange(9e9, 9.0, 2.0)
    assert c * 2.0 == pytest.approx(1 / MIN_NOISE_VARIANCE)
