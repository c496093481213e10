"""Rows of many factors, against exact solutions of few."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import (
    VARIANTS,
    all_scores,
    copied,
    default_threads,
    make_problem,
    run,
    unconverged,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skrec import MFRegressor
from skrec._alternating import along_axes
from skrec._alternating import layout as layout_module
from skrec._alternating.along_axes import AxisConditional, update_along_axes
from skrec._alternating.als import als, as_map_estimate, with_covariance
from skrec._alternating.axes import Axes, AxisVariances
from skrec._alternating.ratings import total
from skrec._alternating.rules import ALSRule, UpdateRule, VBRule
from skrec._alternating.start import decomposed_start, spectral_start
from skrec._alternating.state import Side
from skrec._alternating.sweep import sweeps
from skrec._alternating.update import update
from skrec.datasets import make_ratings

VARIANTS = {
    **VARIANTS,
    "unobserved, plain": {"unobserved_weight": 0.3, "biased": False},
}
# An exponent weighs the penalty of each row.
EXPONENTS = [0.0, 0.5]


@pytest.fixture
def wide(monkeypatch):
    """All rows are taken for rows of many factors."""
    monkeypatch.setattr(layout_module, "WIDE_SIZE", 1)


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request):
    return request.param


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(("seed", "exponent"), list(enumerate(EXPONENTS)))
def test_no_sweep_raises_the_objective(variant, seed, exponent):
    problem, _ = make_problem(seed, **variant)
    objective = [state.objective for state in run(als, problem, 40, 0.3, exponent)]
    assert np.diff(objective).max() < 1e-9


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_sweeps_end_where_exact_ones_end(variant, exponent, monkeypatch):
    ends = []
    for size in (48, 1):
        monkeypatch.setattr(layout_module, "WIDE_SIZE", size)
        problem, _ = make_problem(1, **variant)
        ends.append(run(als, problem, 100, 0.5, exponent)[-1])
    exact, found = ends
    assert found.objective == pytest.approx(exact.objective, rel=1e-9)
    products = [s.users.mean @ s.items.mean.T for s in ends]
    if not problem.layout.biased:
        assert_allclose(products[1], products[0], atol=1e-7)
    assert found.noise_variance == pytest.approx(exact.noise_variance, rel=1e-7)


@pytest.mark.usefixtures("wide")
@settings(max_examples=30)
@given(
    seed=st.integers(0, 100),
    n_factors=st.integers(1, 15),
    biased=st.booleans(),
    unobserved_weight=st.sampled_from([0.0, 0.01, 1.0, 10.0]),
    exponent=st.sampled_from(EXPONENTS),
    reg=st.sampled_from([1e-3, 1.0, 100.0]),
)
def test_the_end_of_the_steps_is_the_mean(
    seed, n_factors, biased, unobserved_weight, exponent, reg
):
    problem, _ = make_problem(
        seed, n_factors=n_factors, biased=biased, unobserved_weight=unobserved_weight
    )
    rng = np.random.default_rng(seed)
    users, items = (
        Side.at(torch.as_tensor(rng.normal(size=(len(r), problem.layout.row_size))))
        for r in (problem.users, problem.items)
    )
    users = ALSRule(reg, exponent).start(users, problem.users)
    points = AxisConditional.given(
        problem.users, users, items, 1.0, problem.layout, map
    )
    side, squares = update_along_axes(points, ToTheEnd(reg, exponent))
    for row in range(len(users.mean)):
        mean, square = solved(problem, users, items, row, unobserved_weight)
        assert_allclose(side.mean[row], mean, rtol=1e-5, atol=1e-6)
        assert_allclose(squares[row], square, rtol=1e-6, atol=1e-6)


class ToTheEnd(ALSRule):
    """als with steps to the end, and no further."""

    relaxation, max_steps, least_share = 0.0, 20, 0.0


def solved(problem, users, items, row, unobserved_weight):
    """Mean of a row and its sum of squares, by a regression on the other side."""
    ratings, k = problem.users, problem.layout.n_factors
    span = slice(*ratings.offsets[row : row + 2])
    others = np.append(ratings.others[span], np.arange(len(items.mean)))
    z, c = items.mean.numpy()[others], np.zeros(len(others))
    if problem.layout.biased:
        c, z[:, k] = z[:, k].copy(), 1
    zeros = np.zeros(len(items.mean))
    y = np.append(ratings.target[span], zeros)
    w = np.append(ratings.weight[span], zeros + unobserved_weight)
    penalty = users.prior_precision.numpy()
    if users.prior_weight is not None:
        penalty = penalty * float(users.prior_weight[row])
    mean = np.linalg.solve((z.T * w) @ z + penalty, z.T @ (w * (y - c)))
    return mean, w @ (y - c - z @ mean) ** 2


def test_ratings_that_repeat_more_often_than_there_are_items():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {"user": 0, "item": np.arange(40) % 2, "hour": rng.normal(size=40)}
    )
    y = 3.0 * X["item"] + X["hour"]
    with unconverged():
        model = MFRegressor(64, solver="als", reg=0.01, rank_by="rating").fit(X, y)
    assert_allclose(model.predict(X), y, atol=0.1)


class ToTheMean(VBRule):
    """vb along axes with steps to the end, and no further."""

    relaxation, max_steps, least_share = 0.0, 20, 0.0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100), n_factors=st.integers(1, 6), biased=st.booleans())
def test_the_end_of_the_steps_is_the_mean_given_uncertain_rows(seed, n_factors, biased):
    problem, (u, i, y, w, _) = make_problem(seed, n_factors=n_factors, biased=biased)
    rng = np.random.default_rng(seed)
    layout, d, k = problem.layout, problem.layout.row_size, n_factors
    users, items = (
        replace(
            Side.at(torch.as_tensor(rng.normal(size=(len(r), d)))),
            relative_precision=torch.as_tensor(rng.uniform(0.5, 2, len(r))),
        )
        for r in (problem.users, problem.items)
    )
    root = rng.normal(size=(d, d))
    prior = torch.as_tensor(root @ root.T + np.eye(d))
    users = replace(
        users, prior_precision=prior, prior_mean=torch.as_tensor(rng.normal(size=d))
    )
    basis = torch.as_tensor(rng.normal(size=(d, d)))
    variance = torch.as_tensor(rng.uniform(0.1, 1, (len(items.mean), d)))
    along = AxisVariances(Axes(basis, torch.linalg.inv(basis)), variance)
    items = replace(items, axes=along)
    noisy = rng.uniform(0, 1, len(y))
    ratings = replace(problem.users, target_variance=torch.as_tensor(noisy))
    given = AxisConditional.given(ratings, users, items, 3.0, layout, map)
    side, squares = update_along_axes(given, ToTheMean(along_axes=True))

    covariance = along.covariances(slice(None)).numpy()
    packed = side.with_packed_covariance(layout).covariance
    spread = layout.unpack(packed).numpy()
    for row in range(len(users.mean)):
        mine = u == row
        z, S = items.mean.numpy()[i[mine]], covariance[i[mine]].copy()
        c, along_c, var_c = np.zeros(len(z)), np.zeros_like(z), np.zeros(len(z))
        if biased:
            c, along_c, var_c = z[:, k].copy(), S[:, k].copy(), S[:, k, k].copy()
            z = np.hstack([z[:, :k], np.ones((len(z), 1))])
            S[:, k], S[:, :, k], along_c[:, k] = 0, 0, 0
        weight = w[mine] * items.relative_precision.numpy()[i[mine]]
        beta = 3 * float(users.relative_precision[row])
        moments = z[:, :, None] * z[:, None] + S
        A = beta * np.einsum("n,njk->jk", weight, moments) + prior.numpy()
        right = weight @ (z * (y[mine] - c)[:, None] - along_c)
        mean = np.linalg.solve(A, beta * right + (prior @ users.prior_mean).numpy())
        assert_allclose(side.mean[row], mean, rtol=1e-6, atol=1e-7)
        B = side.axes.axes.basis.numpy()
        assert_allclose(side.axes.variance[row], 1 / (B.T @ A @ B).diagonal())
        own = np.outer(mean, mean) + spread[row]
        expected = (y[mine] - c) ** 2 + var_c + noisy[mine] + 2 * along_c @ mean
        expected += np.einsum("njk,jk->n", moments, own) - 2 * (y[mine] - c) * (
            z @ mean
        )
        assert_allclose(squares[row], weight @ expected, rtol=1e-7)


@pytest.mark.usefixtures("wide")
def test_a_few_steps_get_nearly_all_of_the_fall():
    problem, _ = make_problem(
        n_users=80, n_items=60, n_factors=20, unobserved_weight=1.0
    )
    start = spectral_start(problem)
    falls = []
    for rule in (ALSRule(1.0), ToTheEnd(1.0)):
        users = rule.start(start.users, problem.users)
        points = AxisConditional.given(
            problem.users, users, start.items, 1.0, problem.layout, map
        )
        side, squares = update_along_axes(points, replace_relaxation(rule))
        falls.append(total(squares) + total(side.mean.square()))
    assert falls[1] <= falls[0] < falls[1] * 1.01


def replace_relaxation(rule):
    """The same rule without relaxation."""
    return type("Unrelaxed", (type(rule),), {"relaxation": 0.0})(rule.reg)


@pytest.mark.usefixtures("wide")
def test_variances_are_over_the_diagonal_of_the_precision():
    problem, _ = make_problem(n_factors=4, unobserved_weight=0.3)
    state = as_map_estimate(run(als, problem, 20, 0.5, 0.5)[-1])
    found = with_covariance(problem, state)
    assert_allclose(found.users.mean, state.users.mean)
    for row in range(len(state.users.mean)):
        z = state.items.mean.numpy().copy()
        z[:, -1] = 1
        weight = np.full(len(z), 0.3)
        span = slice(*problem.users.offsets[row : row + 2])
        np.add.at(weight, problem.users.others[span], problem.users.weight[span])
        precision = state.noise_precision * (z.T * weight) @ z
        precision += (
            float(state.users.prior_weight[row]) * state.users.prior_precision.numpy()
        )
        axes = found.users.axes
        diagonal = axes.axes.form_matrix(torch.as_tensor(precision)).diagonal()
        assert_allclose(axes.variance[row], 1 / diagonal, rtol=1e-8)


@pytest.mark.usefixtures("wide")
def test_an_update_ends_at_the_exact_posterior_of_diagonal_priors(monkeypatch):
    problem, _ = make_problem(n_factors=4)
    state = as_map_estimate(run(als, problem, 20, 0.5)[-1])
    start = with_covariance(problem, state)
    options = {"is_certain": True, "past_weight": 10.0, "max_sweeps": 3, "tol": 0.0}
    found = update(problem, start, **options)
    monkeypatch.setattr(layout_module, "WIDE_SIZE", 48)
    problem, _ = make_problem(n_factors=4)

    def dense(side):
        B = side.axes.axes.basis
        covariance = (B * side.axes.variance[:, None, :]) @ B.mT
        return replace(side, covariance=problem.layout.pack(covariance), axes=None)

    start = replace(start, users=dense(start.users), items=dense(start.items))
    exact = update(problem, start, **options)
    assert UpdateRule.least_share < 1e-3
    for side in ("users", "items"):
        means = [getattr(s, side).mean for s in (found, exact)]
        assert_allclose(*means, rtol=1e-3, atol=1e-4)
        changes = [getattr(s, side).squared_change for s in (found, exact)]
        assert float(changes[0]) == pytest.approx(float(changes[1]), rel=1e-2, abs=1e-6)


class UntilRowsAreGood(ALSRule):
    """als with as many steps as each row needs."""

    max_steps, least_share = 20, 0.1


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(
    "rule",
    [ALSRule(0.3), UntilRowsAreGood(0.3), VBRule(along_axes=True)],
    ids=lambda rule: type(rule).__name__,
)
def test_a_row_does_not_depend_on_its_tile(rule, monkeypatch):
    problem, _ = make_problem(n_users=60, n_items=40, n_factors=12)
    start = spectral_start(problem)
    if isinstance(rule, ALSRule):
        users, items = start.users, start.items
        start = replace(
            start,
            users=rule.start(users, problem.users),
            items=rule.start(items, problem.items),
        )
    found = []
    for size in (60, 7):
        monkeypatch.setattr(along_axes, "MIN_TILE_ROWS", size)
        monkeypatch.setattr(along_axes, "MIN_TILES", 60)
        found.append([s.users.mean for s in islice(sweeps(problem, start, rule), 6)])
    for at_once, by_tiles in zip(*found, strict=True):
        assert_allclose(by_tiles, at_once, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("wide")
def test_one_thread_or_two_make_no_difference(monkeypatch):
    problem, _ = make_problem(n_users=60, n_items=40, n_factors=5)
    monkeypatch.setattr("skrec._alternating.along_axes.MIN_TILE_ROWS", 8)
    found = []
    for n_threads in (1, 2):
        with default_threads(n_threads):
            found.append(run(als, problem, 5, 0.3)[-1].users.mean)
    assert torch.equal(*found)


def test_a_start_of_choices_is_their_best_approximation():
    problem, (u, i, *_) = make_problem(n_factors=3, biased=False)
    n_users, n_items = len(problem.users), len(problem.items)
    weighted = np.zeros((n_users, n_items))
    np.add.at(weighted, (u, i), problem.users.weight * problem.users.target)
    U, s, V = np.linalg.svd(weighted)
    state = decomposed_start(problem)
    best = (U[:, :3] * s[:3]) @ V[:3]
    assert_allclose(state.users.mean @ state.items.mean.T, best, atol=1e-2)


def some_choices(n_users=200, n_items=80, n_ratings=3000):
    X, _ = make_ratings(n_users, n_items, n_ratings, random_state=0)
    return X[["user", "item"]]


CHOICES = {"solver": "als", "unobserved_weight": 0.1}


@pytest.mark.parametrize(
    "X",
    [
        pd.DataFrame({"user": range(50), "item": np.arange(50) % 7}),
        pd.DataFrame({"user": 0, "item": range(30)}),
        pd.DataFrame({"user": range(30), "item": 0}),
        pd.DataFrame({"user": [0], "item": [0]}),
        some_choices(),
    ],
    ids=["50 rows", "one user", "one item", "one row", "choices"],
)
@pytest.mark.parametrize("biased", [True, False])
def test_more_factors_than_rows_or_items(X, biased):
    with unconverged():
        model = MFRegressor(128, **CHOICES, biased=biased, max_iter=10).fit(X)
        y = np.random.default_rng(0).normal(size=len(X))
        ratings = MFRegressor(128, solver="als", biased=biased, max_iter=10)
        ratings.fit(X, y)
    assert np.isfinite(all_scores(model, model.user_ids_)).all()
    assert np.isfinite(all_scores(ratings, model.user_ids_)).all()
    assert (np.diff(model.loss_curve_) < 1e-6).all()


def test_scores_are_those_of_the_exact_solution(monkeypatch):
    X = some_choices()
    scores = []
    for size in (48, 1000):
        monkeypatch.setattr(layout_module, "WIDE_SIZE", size)
        model = MFRegressor(64, **CHOICES, tol=1e-7, max_iter=500).fit(X)
        scores.append(all_scores(model, model.user_ids_))
    assert_allclose(*scores, atol=2e-3)


def test_weights_are_repetitions():
    X = some_choices(n_users=60, n_ratings=900)
    weight = np.random.default_rng(0).integers(1, 4, len(X)).astype(float)
    once = MFRegressor(60, **CHOICES, tol=1e-6, max_iter=300)
    often = MFRegressor(60, **CHOICES, tol=1e-6, max_iter=300)
    with unconverged():
        once.fit(X, sample_weight=weight)
        often.fit(X.loc[X.index.repeat(weight)])
    assert_allclose(*(all_scores(m, m.user_ids_) for m in (once, often)), atol=1e-4)


def test_side_features_predict_cold_users():
    X, y = make_ratings(200, 80, 6000, random_state=0)
    group = pd.DataFrame({"group": np.arange(200) % 2 * 1.0})
    y = y + 2 * group["group"].to_numpy()[X["user"]]
    known = X["user"] < 180
    with unconverged():
        model = MFRegressor(64, solver="als", max_iter=20)
        model.fit(X[known], y[known], user_features=group)
    cold = model.predict(X[~known])
    odd = (X["user"][~known] % 2 == 1).to_numpy()
    assert cold[odd].mean() - cold[~odd].mean() > 1


@pytest.mark.parametrize(
    "params", [CHOICES, {"solver": "als"}], ids=["choices", "ratings"]
)
def test_a_new_user_has_the_factors_of_a_fit_with_that_user(params):
    X, y = make_ratings(300, 60, 6000, random_state=0)
    if params is CHOICES:
        y = np.ones(len(y))
    known = X["user"] < 290
    model = MFRegressor(64, **params, rank_by="rating").fit(X[known], y[known])
    before = copied(model)
    model.partial_fit(X[~known], y[~known])
    whole = MFRegressor(64, **params, rank_by="rating").fit(X, y)
    new = np.setdiff1d(whole.user_ids_, before.user_ids_)
    correlation = np.corrcoef(
        all_scores(model, new).ravel(), all_scores(whole, new).ravel()
    )
    assert correlation[0, 1] > 0.98
    assert_allclose(
        all_scores(model, before.user_ids_[:5]),
        all_scores(before, before.user_ids_[:5]),
        atol=0.2,
    )


def test_what_is_stored_grows_with_the_factors_and_not_with_their_square():
    X = some_choices()
    with unconverged():
        model = MFRegressor(256, **CHOICES, max_iter=2).fit(X)
    stored = model._model.users.covariance
    assert stored.variance.shape == (200, 257)
    assert stored.basis.shape == (257, 257)
    with unconverged():
        again = copied(model).set_params(warm_start=True).fit(X)
    assert again.loss_curve_[0] <= model.loss_curve_[-1]


def test_a_forgotten_user_leaves_the_others_nearly_as_they_are():
    X, y = make_ratings(100, 60, 3000, random_state=0)
    model = MFRegressor(64, solver="als", rank_by="rating").fit(X, y)
    rest = MFRegressor(64, solver="als", rank_by="rating").fit(
        X[X["user"] != 3], y[X["user"] != 3]
    )
    model.forget(users=[3])
    assert_allclose(
        all_scores(model, rest.user_ids_), all_scores(rest, rest.user_ids_), atol=0.1
    )


def test_partial_fit_without_what_is_stored_asks_for_it():
    X = some_choices()
    model = MFRegressor(64, **CHOICES, store_covariance=False).fit(X)
    assert model._model.users.covariance is None
    with pytest.raises(ValueError, match="store_covariance=True"):
        model.partial_fit(X)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("variant", ["biased", "all features", "unobserved pairs"])
def test_a_gpu_gives_the_same(variant, gpu):
    found = []
    for device in ("cpu", gpu):
        problem, _ = make_problem(device=device, **VARIANTS[variant])
        state = run(als, problem, 5, 0.3)[-1]
        found.append(state.users.mean.cpu())
    assert_allclose(*found, rtol=1e-6, atol=1e-8)
