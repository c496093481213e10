"""Alternating solvers, against brute force in float64."""

from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from helpers import (
    VARIANTS,
    as_arrays,
    as_problem,
    brute_force_sums,
    make_problem,
    random_posterior,
    residuals,
    run,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skrec._alternating.rules import (
    WEIGHT_PENALTY,
    GibbsRule,
    VBRule,
    evidence_lower_bound,
)
from skrec._alternating.start import spectral_start
from skrec._alternating.state import Side, State
from skrec._alternating.sweep import (
    als,
    as_map_estimate,
    gibbs,
    sweeps,
    update,
    vb,
    with_covariance,
)

WARMED_UP = {
    name: variant
    for name, variant in VARIANTS.items()
    if "unobserved_weight" not in variant
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request):
    return request.param


@pytest.mark.usefixtures("levels_are_noise")
@pytest.mark.parametrize("seed", range(2))
def test_vb_never_lowers_the_bound(variant, seed):
    problem, _ = make_problem(seed, **variant)
    objective = [state.objective for state in run(vb, problem, 60)]
    assert np.diff(objective).max() < 1e-9


@pytest.mark.parametrize("seed", range(2))
def test_als_never_raises_its_objective(variant, seed):
    problem, _ = make_problem(seed, **variant)
    objective = [state.objective for state in run(als, problem, 60, 0.3)]
    assert np.diff(objective).max() < 1e-9


def test_als_ends_where_no_coordinate_can_be_improved(variant):
    problem, (u, i, y, w, context) = make_problem(**variant)
    # Until a sweep changes nothing more.
    states = islice(als(problem, spectral_start(problem), 0.5), 500)
    state = next(b for a, b in pairwise(states) if a.objective - b.objective < 1e-13)
    sides, k = {"users": state.users, "items": state.items}, problem.layout.n_factors
    y, w, context = map(torch.as_tensor, (y, w, context))
    mean = float(np.average(y, weights=w))
    roots = {"users": abs(mean) ** 0.5, "items": np.sign(mean) * abs(mean) ** 0.5}
    points = {"coef": state.coef}
    for name, side in sides.items():
        points[name] = side.mean
        points |= {(name, place): w.mean for place, w in enumerate(side.weights)}
    for point in points.values():
        point.requires_grad_()
    x, z = points["users"][u], points["items"][i]
    fitted = (x[:, :k] * z[:, :k]).sum(1) + x[:, k:].sum(1) + z[:, k:].sum(1)
    penalty = points["coef"].square().sum()
    for name in sides:
        own = points[name]
        if not problem.layout.biased:
            own = own - roots[name] * torch.eye(k, dtype=own.dtype)[0]
        for place, block in enumerate(getattr(problem, name).features):
            weights = points[name, place]
            own = own - centred(block) @ weights
            penalty = penalty + WEIGHT_PENALTY * weights.square().sum()
        penalty = penalty + own.square().sum()
    rest = y - context @ points["coef"] - fitted
    objective = w @ rest.square() + 0.5 * penalty
    for point, slope in zip(
        points.values(), torch.autograd.grad(objective, points.values()), strict=True
    ):
        assert slope.shape == point.shape
        assert (slope.abs() < 1e-4).all()


def centred(block):
    """The features of a block as a matrix."""
    return block.times(torch.eye(len(block.mean), dtype=torch.float64))


class FixedDraw(GibbsRule):
    """Gibbs with everything but the rows fixed."""

    def update_priors(self, side, rate, given):
        return side

    def noise_precision(self, weight, residual):
        return 2.0


def test_gibbs_draws_rows_of_many_factors_too():
    problem, _ = make_problem(n_factors=50)
    assert problem.layout.is_wide
    rules = [FixedDraw(np.random.RandomState(seed)) for seed in (0, 1)]
    start = replace(spectral_start(problem), noise_precision=2.0)
    first, second = (next(sweeps(problem, start, rule)).users.mean for rule in rules)
    # Few ratings pin down little of 50 factors, whose draws have the prior's variance.
    prior_variance = 1 / float(start.users.prior_precision[0, 0])
    variance = float((first - second).square().mean()) / 2
    assert 0.8 < variance / prior_variance < 1.05


def test_gibbs_draws_have_the_moments_of_the_closed_form():
    problem, (u, i, y, w, _) = make_problem(n_users=4, n_items=3, n_factors=0)
    n_users, n_items = len(problem.users), len(problem.items)
    design = np.hstack([np.eye(n_users)[u], np.eye(n_items)[i]])
    precision = 2 * (design.T * w) @ design + np.eye(n_users + n_items)
    mean = np.linalg.solve(precision, 2 * design.T @ (w * y))

    start = State(
        users=Side.at(torch.zeros(n_users, 1).double()),
        items=Side.at(torch.zeros(n_items, 1).double()),
        coef=torch.zeros(0).double(),
        noise_precision=2.0,
    )
    states = sweeps(problem, start, FixedDraw(np.random.RandomState(0)))
    draws = np.array(
        [
            torch.cat([state.users.mean, state.items.mean])[:, 0].numpy()
            for state in islice(states, 50, 2_050)
        ]
    )
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(np.cov(draws.T), np.linalg.inv(precision), atol=0.06)


@pytest.mark.parametrize("variant", WARMED_UP.values(), ids=WARMED_UP)
def test_the_bound_of_a_warm_up_is_that_of_its_variances(variant):
    problem, arrays = make_problem(**variant)
    start = spectral_start(problem)
    (state,) = islice(vb(problem, start, warm_up=4), 3, 4)
    assert state.is_warm_up
    users, items = (
        side.with_packed_covariance(problem.layout)
        for side in (state.users, state.items)
    )
    assert users.covariance is not None
    packed = replace(state, users=users, items=items)
    u, i, _, w, _ = arrays
    weight = w * (users.relative_precision[u] * items.relative_precision[i]).numpy()
    residual = weight @ residuals(problem, arrays, packed)
    found = VBRule().noise_variance(w.sum(), residual)
    assert found == pytest.approx(state.noise_variance, rel=1e-9)
    scatters = [s.summed_covariance(problem.layout) for s in (users, state.users)]
    np.testing.assert_allclose(*scatters, rtol=1e-9, atol=1e-12)
    bound = evidence_lower_bound(packed, problem, residual) / problem.weight
    assert -bound == pytest.approx(state.objective, rel=1e-9)
    if not problem.users.features:
        # Rows that follow uncertain weights have less entropy than their covariances.
        roots = torch.linalg.slogdet(problem.layout.unpack(users.covariance))
        assert float(roots.logabsdet.sum()) == pytest.approx(float(users.log_det))


@pytest.mark.parametrize("name", ["plain", "context", "implicit features"])
def test_a_warm_up_ends_where_sweeps_without_it_end(name):
    problem, _ = make_problem(1, **WARMED_UP[name])
    start = spectral_start(problem)
    plain, warmed = (list(islice(vb(problem, start, warm_up=n), 150)) for n in (0, 5))
    assert [state.is_warm_up for state in warmed[:7]] == 5 * [True] + 2 * [False]
    # Variances along axes cannot raise the bound above that of full covariances.
    assert warmed[4].objective > warmed[5].objective
    assert np.diff([state.objective for state in warmed[5:]]).max() < 1e-9
    assert warmed[-1].objective == pytest.approx(plain[-1].objective, rel=2e-3)
    products = [s.users.mean @ s.items.mean.T for s in (plain[-1], warmed[-1])]
    assert (products[0] - products[1]).square().mean().sqrt() < 0.05


def test_a_warm_up_is_over_once_the_objective_hardly_falls():
    problem, _ = make_problem()
    states = vb(problem, spectral_start(problem), warm_up=50, least_fall=0.01)
    states = list(islice(states, 60))
    objective = [state.objective for state in states if state.is_warm_up]
    falls = -np.diff(objective)
    assert 2 < len(objective) < 50
    assert falls[-1] < 0.01 <= falls[:-1].min()


def test_gibbs_repeats_itself_under_one_seed():
    problem, _ = make_problem()
    chains = [run(gibbs, problem, 3, np.random.RandomState(7))[-1] for _ in range(2)]
    assert torch.equal(chains[0].users.mean, chains[1].users.mean)


@pytest.mark.parametrize("solver", [vb, gibbs, als])
def test_a_gpu_gives_what_the_cpu_gives(solver, gpu):
    args = {vb: (), gibbs: (np.random.RandomState,), als: (0.3,)}[solver]
    states = []
    for device in ("cpu", gpu):
        problem, _ = make_problem(device=device, n_context=1)
        drawn = [arg(0) if callable(arg) else arg for arg in args]
        states.append(run(solver, problem, 5, *drawn)[-1])
    for side in ("users", "items"):
        means = [getattr(state, side).mean.cpu() for state in states]
        np.testing.assert_allclose(means[0], means[1], rtol=1e-8, atol=1e-10)


def points(side):
    return replace(side, covariance=None)


def gaussian(precision, information):
    """Means and covariances."""
    covariance = np.linalg.inv(precision)
    return np.einsum("njk,nk->nj", covariance, information), covariance


def assert_gaussian(side, layout, expected):
    for found, moment in zip(as_arrays(side, layout), expected, strict=True):
        np.testing.assert_allclose(found, moment, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("is_certain", [True, False])
@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**16),
    n_factors=st.integers(0, 3),
    biased=st.booleans(),
    share=st.sampled_from([0.1, 0.5, 0.9]),
)
def test_further_ratings_leave_users_with_the_posterior_of_all_ratings(
    is_certain, seed, n_factors, biased, share
):
    assume(n_factors or biased)
    problem, (u, i, y, w, context) = make_problem(
        seed, n_factors=n_factors, biased=biased
    )
    layout, n_users = problem.layout, len(problem.users)
    shared = random_posterior(problem, is_certain=is_certain, seed=seed)
    m, precision = (
        shared.users.mean[0].numpy(),
        np.linalg.inv(as_arrays(shared.users, layout)[1][0]),
    )
    alpha = shared.users.relative_precision.numpy()
    gamma = shared.items.relative_precision.numpy()
    items = shared.items
    items = as_arrays(points(items) if is_certain else items, layout)

    def posterior_of(rows):
        G, g = brute_force_sums(
            problem, y[rows], (w * gamma[i])[rows], u[rows], i[rows], n_users, items
        )
        beta = 3 * alpha
        return gaussian(
            beta[:, None, None] * G + precision, beta[:, None] * g + precision @ m
        )

    # Users without past ratings start at the prior that rows share.
    is_new = np.random.default_rng(seed).random(len(y)) < share
    is_new[0] = True
    mean, covariance = map(torch.as_tensor, posterior_of(~is_new))
    further = as_problem(
        u[is_new],
        i[is_new],
        (n_users, len(problem.items)),
        y[is_new],
        w[is_new],
        context[is_new],
        n_factors,
        biased,
    )
    past = replace(shared.users, mean=mean, covariance=layout.pack(covariance))
    state = update(
        further,
        replace(shared, users=past),
        is_certain=is_certain,
        past_weight=w[~is_new].sum(),
        max_sweeps=1,
        tol=0.0,
    )
    assert_gaussian(state.users, layout, posterior_of(np.full(len(y), True)))


@pytest.fixture(params=[True, False], ids=["certain", "uncertain"])
def updated(levels_are_noise, variant, request):
    """A converged update: the problem, its arrays, before, after."""
    problem, arrays = make_problem(**variant)
    start = random_posterior(problem, is_certain=request.param)
    state = update(
        problem,
        start,
        is_certain=request.param,
        past_weight=50.0,
        max_sweeps=80,
        tol=0.0,
    )
    return problem, arrays, start, state, request.param


def test_squared_change_is_that_of_the_predictions():
    problem, (u, i, _, w, _) = make_problem(n_factors=3)
    before, after = (
        update(
            problem,
            random_posterior(problem, is_certain=True),
            is_certain=True,
            past_weight=9.0,
            max_sweeps=n_sweeps,
            tol=0.0,
        )
        for n_sweeps in (1, 2)
    )

    def fitted(users, items):
        x, z = users.mean.numpy()[u], items.mean.numpy()[i]
        return (x[:, :3] * z[:, :3]).sum(1) + x[:, 3] + z[:, 3]

    steps = [
        fitted(before.users, before.items),
        fitted(after.users, before.items),
        fitted(after.users, after.items),
    ]
    by_users, by_items = (w * np.diff(steps, axis=0) ** 2).sum(1)
    assert after.users.squared_change == pytest.approx(by_users)
    assert after.items.squared_change == pytest.approx(by_items)


def test_the_past_posterior_of_rows_is_their_prior(updated):
    problem, (u, i, y, w, context), start, state, is_certain = updated
    target = y - context @ state.coef.numpy()
    alpha = state.users.relative_precision.numpy()
    gamma = state.items.relative_precision.numpy()
    for side, before, own, own_alpha, other, others, other_alpha in (
        (state.users, start.users, u, alpha, state.items, i, gamma),
        (state.items, start.items, i, gamma, state.users, u, alpha),
    ):
        G, g = brute_force_sums(
            problem,
            target,
            w * other_alpha[others],
            own,
            others,
            len(own_alpha),
            as_arrays(points(other) if is_certain else other, problem.layout),
        )
        mean, covariance = as_arrays(before, problem.layout)
        precision = np.linalg.inv(covariance)
        beta = state.noise_precision * own_alpha
        expected = gaussian(
            beta[:, None, None] * G + precision,
            beta[:, None] * g + np.einsum("njk,nk->nj", precision, mean),
        )
        assert_gaussian(side, problem.layout, expected)


def test_the_past_posterior_of_coefficients_is_their_prior():
    problem, (u, i, y, w, context) = make_problem(n_context=2)
    start = random_posterior(problem, is_certain=False)
    state = update(
        problem, start, is_certain=False, past_weight=9.0, max_sweeps=80, tol=0.0
    )
    x, z = state.users.mean.numpy()[u], state.items.mean.numpy()[i]
    fitted = (x[:, :2] * z[:, :2]).sum(1) + x[:, 2] + z[:, 2]
    precision = w * state.users.relative_precision.numpy()[u]
    precision *= state.items.relative_precision.numpy()[i] * state.noise_precision
    before = start.coef_factor.numpy()
    before = np.linalg.inv(before.T @ before)
    A = (context.T * precision) @ context + before
    h = context.T @ (precision * (y - fitted)) + before @ start.coef.numpy()
    np.testing.assert_allclose(state.coef, np.linalg.solve(A, h), rtol=1e-6)
    found = state.coef_factor.numpy()
    np.testing.assert_allclose(found.T @ found, np.linalg.inv(A), rtol=1e-6)


def test_noise_and_relative_precisions_are_those_of_all_ratings(updated):
    problem, arrays, start, state, is_certain = updated
    u, i, _, w, _ = arrays
    seen = state
    if is_certain:
        users, items = points(state.users), points(state.items)
        seen = replace(state, users=users, items=items, coef_factor=None)
    squares = w * residuals(problem, arrays, seen)
    alpha = state.users.relative_precision.numpy()
    gamma = state.items.relative_precision.numpy()
    residual = (squares * alpha[u] * gamma[i]).sum()
    variance = (50 / start.noise_precision + residual) / (50 + w.sum())
    assert state.noise_variance == pytest.approx(variance)
    # The noise that a penalty is relative to stays.
    expected = start.noise_precision if is_certain else 1 / variance
    assert state.noise_precision == pytest.approx(expected)
    if is_certain:
        assert (alpha == 1).all()
        assert (gamma == 1).all()
        return
    for side, before, own, theirs in (
        (state.users, start.users, u, gamma[i]),
        (state.items, start.items, i, alpha[u]),
    ):
        shape = before.relative_shape.numpy()
        rate = shape / before.relative_precision.numpy()
        n_rows = len(shape)
        shape = shape + np.bincount(own, w, n_rows) / 2
        rate = rate + np.bincount(own, squares * theirs, n_rows) / variance / 2
        np.testing.assert_allclose(side.relative_shape, shape, rtol=1e-6)
        np.testing.assert_allclose(side.relative_precision, shape / rate, rtol=1e-6)


def test_an_update_ends_once_the_items_stay():
    problem, _ = make_problem()
    start = random_posterior(problem, is_certain=False)

    def means(**kwargs):
        state = update(problem, start, is_certain=False, past_weight=50.0, **kwargs)
        return state.users.mean

    once = means(max_sweeps=1, tol=0.0)
    assert torch.equal(means(max_sweeps=9, tol=1e9), once)
    assert not torch.equal(means(max_sweeps=9, tol=1e-9), once)
    np.testing.assert_allclose(
        means(max_sweeps=80, tol=1e-9), means(max_sweeps=120, tol=0.0), atol=1e-7
    )


def test_covariances_of_als_are_its_normal_equations_times_the_noise(variant):
    problem, (u, i, y, w, context) = make_problem(**variant)
    sweep = run(als, problem, 5, 0.3)[-1]
    state = with_covariance(problem, as_map_estimate(sweep))
    variance = sweep.noise_variance
    assert 1 / state.noise_precision == pytest.approx(variance)
    for noun, own, others, other in (
        ("users", u, i, sweep.items),
        ("items", i, u, sweep.users),
    ):
        side = getattr(state, noun)
        assert torch.equal(side.mean, getattr(sweep, noun).mean)
        n_rows, d = side.mean.shape
        rows = as_arrays(other, problem.layout)
        G, _ = brute_force_sums(problem, y, w, own, others, n_rows, rows)
        expected = variance * np.linalg.inv(G + 0.3 * np.eye(d))
        found = problem.layout.unpack(side.covariance)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)
        prior = np.linalg.inv(side.prior_precision)
        np.testing.assert_allclose(prior, variance / 0.3 * np.eye(d))
    assert torch.equal(state.coef, sweep.coef)
    if context.shape[1]:
        expected = variance * np.linalg.inv((context.T * w) @ context + 0.3 * np.eye(2))
        found = state.coef_factor.T @ state.coef_factor
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_gibbs_marks_its_warm_up_and_draws_the_same_chain():
    problem, _ = make_problem()
    start = spectral_start(problem)
    warm = list(islice(vb(problem, start), 3))
    draws = list(islice(gibbs(problem, warm[-1], np.random.RandomState(7)), 6))
    seeded = np.random.RandomState(7)
    chain = gibbs(problem, start, seeded, vb_sweeps=3, burn_in=2)
    found = list(islice(chain, 9))
    assert [state.is_warm_up for state in found] == [True] * 5 + [False] * 4
    for state, expected in zip(found, warm + draws, strict=True):
        assert torch.equal(state.users.mean, expected.users.mean)
        assert torch.equal(state.items.mean, expected.items.mean)
        assert state.noise_precision == expected.noise_precision
