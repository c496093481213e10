"""GibbsSolver: the moments of its draws, and the chain that they make."""

from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from helpers import (
    make_problem,
    run,
    small,
)

from skrec._alternating.gibbs import gibbs
from skrec._alternating.rules import (
    GibbsRule,
)
from skrec._alternating.start import spectral_start
from skrec._alternating.state import Side, State
from skrec._alternating.sweep import sweeps
from skrec._alternating.vb import vb
from skrec.datasets import make_ratings


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


def test_gibbs_repeats_itself_under_one_seed():
    problem, _ = make_problem()
    chains = [run(gibbs, problem, 3, np.random.RandomState(7))[-1] for _ in range(2)]
    assert torch.equal(chains[0].users.mean, chains[1].users.mean)


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


def test_draws_are_counted_without_those_that_are_forgotten():
    X, y = make_ratings(40, 30, 600, random_state=0)
    model = small(solver="gibbs", max_iter=3, random_state=0).fit(X, y)
    assert model.n_iter_ == 3
    assert len(model._model.users.mean) == 3
