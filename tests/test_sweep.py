"""Sweeps: the same on every device, and no more memory than they need."""

import weakref

import numpy as np
import pytest
from helpers import (
    make_problem,
    run,
    unconverged,
)

from skrec import MFRegressor
from skrec._alternating.als import als
from skrec._alternating.gibbs import gibbs
from skrec._alternating.sweep import Sweep
from skrec._alternating.vb import vb
from skrec.datasets import make_ratings


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


@pytest.mark.parametrize("params", [{}, {"n_factors": 2, "implicit_features": False}])
def test_a_sweep_starts_without_the_covariances_of_the_users_before_it(
    monkeypatch, params
):
    sweep, last, held = Sweep._after, [], []

    def counted(self, state):
        held.append(sum(covariance() is not None for covariance in last))
        state = sweep(self, state)
        last.append(weakref.ref(state.users.covariance))
        return state

    monkeypatch.setattr(Sweep, "_after", counted)
    X, y = make_ratings(30, 20, 300, random_state=0)
    with unconverged():
        MFRegressor(rank_by="rating", max_iter=4, **params).fit(X, y)
    assert held == [0] * 4
