"""VBSolver: its bound, and its warm-ups."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from helpers import (
    VARIANTS,
    make_problem,
    residuals,
    run,
    unconverged,
)
from sklearn.base import clone

from skrec import MFRegressor
from skrec._alternating import vb as vb_module
from skrec._alternating.rules import (
    VBRule,
    evidence_lower_bound,
)
from skrec._alternating.start import spectral_start
from skrec._alternating.vb import vb
from skrec.datasets import make_ratings

WARMED_UP = {
    name: variant
    for name, variant in VARIANTS.items()
    if "unobserved_weight" not in variant
}


@pytest.mark.usefixtures("levels_are_noise")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_vb_never_lowers_the_bound(variant, seed):
    problem, _ = make_problem(seed, **variant)
    objective = [state.objective for state in run(vb, problem, 60)]
    assert np.diff(objective).max() < 1e-9


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


@pytest.fixture
def warm_ups(monkeypatch):
    """The numbers of sweeps of the warm-ups of each fit, at most and in fact."""
    found = []

    def counted(problem, start, *, warm_up, least_fall):
        found.append([warm_up, 0])
        count = found[-1]
        for state in vb(problem, start, warm_up=warm_up, least_fall=least_fall):
            count[1] += state.is_warm_up
            yield state

    monkeypatch.setattr(vb_module, "vb", counted)
    return found


# Ratings that support 27 factors.
DENSE, DENSE_Y = make_ratings(130, 120, 13_500, random_state=0)


@pytest.mark.parametrize("n_factors", [21, 30, 44])
def test_fits_warm_up_if_the_ratings_support_their_factors(warm_ups, n_factors):
    model = MFRegressor(n_factors, implicit_features=False, rank_by="rating")
    predicted = model.fit(DENSE, DENSE_Y).predict(DENSE)
    ((most, n_sweeps),) = warm_ups
    if n_factors > 1.6 * 27:
        assert most == n_sweeps == 0
        return
    assert 2 < n_sweeps <= most
    # The last sweeps have full covariances, and lead to nearly the same model.
    assert n_sweeps < model.n_iter_
    X_all, y_all = make_ratings(130, 120, 15_000, random_state=0)
    rmse = np.sqrt(np.mean((model.predict(X_all) - y_all) ** 2))
    _, std = model.predict(DENSE, return_std=True)
    warm_ups.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vb_module, "WARM_UP_FACTORS", 50)
        plain = clone(model).fit(DENSE, DENSE_Y)
    assert warm_ups[0] == [0, 0]
    assert np.sqrt(np.mean((plain.predict(X_all) - y_all) ** 2)) == pytest.approx(
        rmse, rel=2e-3
    )
    assert np.sqrt(np.mean((plain.predict(DENSE) - predicted) ** 2)) < 0.1 * np.std(
        DENSE_Y
    )
    np.testing.assert_allclose(plain.predict(DENSE, return_std=True)[1], std, rtol=0.1)


def test_more_factors_than_supported_shorten_the_warm_up(warm_ups, monkeypatch):
    model = MFRegressor(40, implicit_features=False, rank_by="rating")
    model.fit(DENSE, DENSE_Y)
    monkeypatch.setattr(vb_module, "MAX_SUPPORT", 1.6)
    model.fit(DENSE, DENSE_Y)
    (_, shortened), (_, whole) = warm_ups
    assert 0 < shortened < whole


def test_no_fit_warms_up_where_ratings_support_few_factors(warm_ups):
    # They support 15.
    X, y = make_ratings(130, 120, 7_500, random_state=0)
    MFRegressor(21, implicit_features=False, rank_by="rating").fit(X, y)
    assert warm_ups == [[0, 0]]


def test_copies_of_ratings_support_no_more_factors(warm_ups):
    X, y = make_ratings(60, 50, 1200, random_state=0)
    X, y = np.tile(X, (10, 1)), np.tile(y, 10)
    MFRegressor(20, implicit_features=False, rank_by="rating").fit(X, y)
    assert warm_ups == [[0, 0]]


@pytest.mark.parametrize("max_iter", [1, 2, 3])
def test_a_fit_that_is_stopped_early_has_full_covariances(warm_ups, max_iter):
    model = MFRegressor(21, implicit_features=False, max_iter=max_iter)
    with unconverged():
        model.fit(DENSE, DENSE_Y)
    assert warm_ups == [[max_iter // 2, max_iter // 2]]
    _, std = model.predict(DENSE[:20], return_std=True)
    model.partial_fit(DENSE[:50], DENSE_Y[:50])
    assert model.predict(DENSE[:20], return_std=True)[1].mean() < std.mean()


def test_a_fit_that_goes_on_does_not_warm_up_again(warm_ups):
    rng = np.random.default_rng(0)
    P, Q = rng.normal(size=(130, 21)), rng.normal(size=(120, 21))
    y = (P[DENSE["user"]] * Q[DENSE["item"]]).sum(axis=1) + rng.normal(size=len(DENSE))
    model = MFRegressor(21, implicit_features=False, warm_start=True)
    model.fit(DENSE, y).fit(DENSE, y)
    assert warm_ups[0][1] > 0
    assert warm_ups[1] == [0, 0]
