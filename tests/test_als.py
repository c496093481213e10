"""ALSSolver: its objective, its optimum, its covariances and its penalty."""

from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from helpers import (
    VARIANTS,
    as_arrays,
    brute_force_sums,
    make_problem,
    run,
)

from skrec import MFRegressor
from skrec._alternating.als import als, as_map_estimate, with_covariance
from skrec._alternating.rules import WEIGHT_PENALTY
from skrec._alternating.start import spectral_start


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request):
    return request.param


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


@pytest.mark.parametrize(
    ("params", "penalty", "exponent"),
    [
        ({}, 12.0, 0.0),
        ({"unobserved_weight": 0.5}, 0.15, 0.5),
        ({"reg": 3, "reg_exponent": 1}, 3.0, 1.0),
        ({"reg": 0.2, "unobserved_weight": 0.5, "reg_exponent": 0}, 0.2, 0.0),
    ],
)
def test_the_penalty_of_als_depends_on_the_pairs_that_count(params, penalty, exponent):
    solver = MFRegressor(2, solver="als", **params)._solver()
    assert solver.penalty == pytest.approx(penalty)
    assert solver.prior_exponent == exponent
