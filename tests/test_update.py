"""Update of a posterior by further ratings, against brute force in float64."""

from dataclasses import replace

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
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skrec._alternating.convert import in_rating_units
from skrec._alternating.update import update, with_unobserved_pairs
from skrec._data.units import Units
from skrec._interfaces import Start


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request):
    return request.param


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


@pytest.mark.parametrize("knows_variance", [True, False])
def test_unobserved_pairs_of_further_ratings_reach_absent_rows(knows_variance):
    problem, _ = make_problem()
    units = Units(3.0, 2.0, np.empty(0), np.empty(0))
    state = random_posterior(problem, is_certain=False)
    posterior = in_rating_units(state, units, problem, knows_variance=knows_variance)
    # Further ratings meet a new user, and all items except the last two.
    users, items = np.arange(len(problem.users)), np.arange(len(problem.items))
    users[0] = -1
    further = with_unobserved_pairs(
        problem, 0.5, Start(posterior, users, items + 2), units
    )
    pairs = further.users.unobserved
    assert pairs.n_background == 2
    np.testing.assert_array_equal(pairs.is_new, users < 0)
    assert not pairs.is_new_other.any()
    n_new = len(problem.items) + 2
    expected = problem.users.count + 0.5 * n_new * pairs.is_new
    np.testing.assert_allclose(further.users.count, expected)
