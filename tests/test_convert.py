"""Conversion between solver state and `Posterior`."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import VARIANTS, make_problem, run
from helpers import residuals as squared_residuals

from skrec._alternating.als import als
from skrec._alternating.convert import in_rating_units
from skrec._alternating.resume import as_state, check_row_size
from skrec._alternating.start import spectral_start
from skrec._alternating.vb import vb
from skrec._data.sides import Sides
from skrec._data.units import Units
from skrec._interfaces import Start


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def problem_and_arrays(request):
    return make_problem(**request.param)


def make_units(n_context):
    return Units(
        centre=3.0,
        scale=2.0,
        feature_mean=np.arange(n_context) + 1.0,
        feature_scale=np.arange(n_context) + 0.5,
    )


def numbers(problem):
    """Row numbers of all users and items, and columns of their features."""
    users, items = np.arange(len(problem.users)), np.arange(len(problem.items))
    return users, items, Sides(np.arange(3), np.arange(3))


def test_a_posterior_has_the_moments_of_the_state_in_rating_units(problem_and_arrays):
    problem, arrays = problem_and_arrays
    u, i, y, _, context = arrays
    units = make_units(problem.context.shape[1])
    state = run(vb, problem, 4)[-1]
    posterior = in_rating_units(state, units, problem, knows_variance=True)
    raw = units.feature_mean + units.feature_scale * context
    rating = units.centre + units.scale * y
    mean, variance = posterior.mean(u, i, raw), posterior.variance(u, i, raw)
    noise = state.users.relative_variance[u] * state.items.relative_variance[i]
    noise = units.scale**2 * state.noise_variance * noise.numpy()
    squares = units.scale**2 * squared_residuals(problem, arrays, state)
    # E[(y − ŷ)²] is the square of the mean residual, plus the variance without noise.
    found = (rating - mean) ** 2 + variance - noise
    np.testing.assert_allclose(found, squares, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("solver", [vb, als])
def test_a_state_comes_back_from_its_posterior(problem_and_arrays, solver):
    problem, _ = problem_and_arrays
    units = make_units(problem.context.shape[1])
    args = (0.3,) if solver is als else ()
    state = run(solver, problem, 4, *args)[-1]
    posterior = in_rating_units(state, units, problem, knows_variance=solver is vb)
    found = as_state(Start(posterior, *numbers(problem)), problem, units)
    close = {"rtol": 2e-4, "atol": 1e-5}
    for side, expected in ((found.users, state.users), (found.items, state.items)):
        names = ["mean", "prior_mean", "prior_precision"]
        names += ["covariance", "relative_variance"] * (solver is vb)
        for name in names:
            values = getattr(side, name), getattr(expected, name)
            np.testing.assert_allclose(*values, err_msg=name, **close)
        for w, before in zip(side.weights, expected.weights, strict=True):
            np.testing.assert_allclose(w.mean, before.mean, **close)
            np.testing.assert_allclose(w.precision, before.precision, **close)
    np.testing.assert_allclose(found.coef, state.coef, **close)
    np.testing.assert_allclose(found.coef_covariance, state.coef_covariance, **close)
    assert found.noise_precision == pytest.approx(1 / state.noise_variance)


def test_new_rows_start_at_their_prior():
    problem, _ = make_problem()
    units = make_units(0)
    state = run(vb, problem, 4)[-1]
    posterior = in_rating_units(state, units, problem, knows_variance=True)
    users, items, _ = numbers(problem)
    users[2:5] = -1
    last = Start(posterior, users, items)
    side = as_state(last, problem, units, exponent=0.5).users
    prior_mean = state.users.prior_mean.expand(3, -1)
    np.testing.assert_allclose(side.mean[2:5], prior_mean, rtol=1e-5, atol=1e-6)
    covariance = torch.linalg.inv(state.users.prior_precision)
    count = problem.users.count[2:5, None, None]
    found = problem.layout.unpack(side.covariance)[2:5]
    np.testing.assert_allclose(
        found * count**0.5, covariance.expand(3, -1, -1), rtol=1e-4
    )


@pytest.mark.parametrize(
    ("n_factors", "biased"), [(3, True), (2, False), (None, False)]
)
def test_a_fit_with_other_factors_or_biases_is_not_continued(n_factors, biased):
    problem, _ = make_problem(n_factors=2)
    state = spectral_start(problem)
    posterior = in_rating_units(state, make_units(0), problem, knows_variance=False)
    check_row_size(posterior, 2, True)
    check_row_size(posterior, None, True)
    with pytest.raises(ValueError, match=r"continued, had .*, but now there is"):
        check_row_size(posterior, n_factors, biased)


def test_a_context_column_that_has_changed_its_unit_starts_anew():
    problem, _ = make_problem(n_context=2)
    units = make_units(2)
    state = run(vb, problem, 4)[-1]
    posterior = in_rating_units(state, units, problem, knows_variance=True)
    grown = replace(units, feature_scale=units.feature_scale * [1, 1e9])
    found = as_state(Start(posterior, *numbers(problem)), problem, grown)
    np.testing.assert_allclose(found.coef, [float(state.coef[0]), 0], rtol=1e-5)
