"""Estimates on unseen ratings: leave-one-out residuals, and predictions of pairs."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from helpers import as_problem, rmse, unconverged
from sklearn.model_selection import train_test_split

from skrec import MFRegressor
from skrec._alternating.start import spectral_start
from skrec._alternating.unseen import UnseenSample
from skrec._alternating.vb import vb
from skrec.datasets import make_ratings


def one_sided_problem(rng, n_ratings, n_factors, biased):
    """A user with the posterior of a ridge regression on certain items."""
    row_size = n_factors + biased
    y, weight = rng.normal(size=n_ratings), rng.uniform(0.5, 2, n_ratings)
    users, items = np.zeros(n_ratings, dtype=int), np.arange(n_ratings)
    shape = 1, n_ratings
    problem = as_problem(
        users, items, shape, y, weight, n_factors=n_factors, biased=biased
    )
    others = rng.normal(size=(n_ratings, row_size))
    Z = others.copy()
    offset = np.zeros(n_ratings)
    if biased:
        offset, Z[:, -1] = others[:, -1], 1
    return problem, others, Z, offset, y, weight


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_errors_are_those_of_fits_without_the_rating(seed, biased):
    rng = np.random.default_rng(seed)
    n, beta = rng.integers(3, 12), rng.uniform(0.5, 3)
    problem, others, Z, offset, y, weight = one_sided_problem(rng, n, 2, biased)
    prior = 2.0 * np.eye(Z.shape[1])

    def row(kept):
        A = beta * (Z[kept].T * weight[kept]) @ Z[kept] + prior
        return np.linalg.solve(A, beta * Z[kept].T @ (weight * (y - offset))[kept]), A

    mean, A = row(np.arange(n))
    left_out = np.array(
        [y[j] - offset[j] - Z[j] @ row(np.arange(n) != j)[0] for j in range(n)]
    )
    state = spectral_start(problem)
    lower = np.tril_indices(len(A))
    zero = torch.zeros(n, len(lower[0]), dtype=torch.float64)
    state = replace(
        state,
        users=replace(
            state.users,
            mean=torch.tensor(mean[None]),
            covariance=torch.tensor(np.linalg.inv(A)[lower][None]),
        ),
        items=replace(state.items, mean=torch.tensor(others), covariance=zero),
        noise_precision=beta,
    )
    expected = np.sqrt(np.average(left_out**2, weights=weight))
    assert UnseenSample.of(problem).error(state) == pytest.approx(expected, rel=1e-9)


def test_the_context_is_part_of_the_prediction():
    rng = np.random.default_rng(0)
    users, items = (index.ravel() for index in np.indices((20, 15)))
    context = rng.normal(size=(300, 1))
    target = 2 * context[:, 0] + 0.1 * rng.normal(size=300)
    with_context, without = (
        as_problem(users, items, (20, 15), target, np.ones(300), columns, n_factors=1)
        for columns in (context, None)
    )
    error, error_without = (
        UnseenSample.of(problem).error(
            next(islice(vb(problem, spectral_start(problem)), 9, None))
        )
        for problem in (with_context, without)
    )
    assert error == pytest.approx(0.1, rel=0.1)
    assert error_without > 1


@pytest.mark.parametrize("n_ratings", [1500, 6000, 30000])
@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_the_curve_ends_near_the_error_on_test_rows(n_ratings, noise):
    X, y = make_ratings(300, 200, n_ratings, noise=noise, random_state=0)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.2, random_state=0)
    model = MFRegressor(4, rank_by="rating").fit(X, y)
    assert len(model.loo_curve_) == model.n_iter_ == len(model.loss_curve_)
    assert model.loo_curve_[-1] == pytest.approx(rmse(model, X_test, y_test), rel=0.12)


@pytest.mark.filterwarnings("ignore:No factor is left")
def test_the_curve_is_that_of_vb_alone():
    X, y = make_ratings(30, 20, 300, random_state=0)
    model = MFRegressor(2).fit(X, y)
    assert model.partial_fit(X[:1], y[:1]).loo_curve_ is None
    for params in ({"solver": "als"}, {"unobserved_weight": 1.0}):
        with unconverged():
            model = MFRegressor(2, max_iter=2, **params).fit(X, y)
        assert model.loo_curve_ is None


def test_pairs_are_as_frequent_as_ratings():
    rng = np.random.default_rng(0)
    users = np.sort(np.minimum(rng.integers(0, 20, 5000), 9))
    items = rng.integers(0, 8, 5000)
    problem = as_problem(users, items, (10, 8), np.zeros(5000), np.ones(5000))
    drawn, _ = UnseenSample.of(problem).pairs
    share = float((drawn == 9).double().mean())
    assert share == pytest.approx(np.mean(users == 9), abs=0.04)
