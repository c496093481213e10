"""ALSSolver: its objective, its optimum, its covariances and its penalty."""

import numpy as np
import pytest
import torch
from helpers import (
    VARIANTS,
    as_arrays,
    brute_force_sums,
    make_problem,
    residuals,
    run,
)

from skrec import MFRegressor
from skrec._alternating.als import als, as_map_estimate, with_covariance
from skrec._alternating.rules import WEIGHT_PENALTY
from skrec._alternating.state import Side, State


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request):
    return request.param


@pytest.mark.parametrize("seed", range(3))
def test_als_never_raises_its_objective(variant, seed):
    problem, _ = make_problem(seed, **variant)
    objective = [state.objective for state in run(als, problem, 60, 0.3)]
    assert np.diff(objective).max() < 1e-9


def test_als_ends_where_no_coordinate_can_be_improved(variant):
    problem, arrays = make_problem(**variant)
    state = run(als, problem, 500, 0.5)[-1]
    sides = {"users": state.users, "items": state.items}
    mean = np.average(arrays[2], weights=arrays[3])
    roots = {"users": abs(mean) ** 0.5, "items": np.sign(mean) * abs(mean) ** 0.5}

    def objective(points):
        penalty = float((points["coef"] ** 2).sum())
        moved = {}
        for name in sides:
            ratings, mean = getattr(problem, name), points[name]
            own = mean.clone()
            if not problem.layout.biased:
                own[:, 0] -= roots[name]
            for place, block in enumerate(ratings.features):
                weights = points[name, place]
                own -= block.times(weights)
                penalty += WEIGHT_PENALTY * float((weights**2).sum())
            penalty += float((own**2).sum())
            moved[name] = Side.at(mean)
        moved = State(**moved, coef=points["coef"])
        return (arrays[3] * residuals(problem, arrays, moved)).sum() + 0.5 * penalty

    points = {"coef": state.coef}
    for name, side in sides.items():
        points[name] = side.mean
        points |= {(name, place): w.mean for place, w in enumerate(side.weights)}
    for which, point in points.items():
        for index in np.ndindex(*point.shape):
            step = torch.zeros_like(point)
            step[index] = 1e-5
            ends = [
                objective(points | {which: point + sign * step}) for sign in (1, -1)
            ]
            assert abs(ends[0] - ends[1]) / 2e-5 < 1e-4


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
