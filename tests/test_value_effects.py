"""Effects of values of context, against the exact posterior of a Gaussian model."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest
from helpers import rmse
from numpy.testing import assert_allclose
from test_context import problem_with_context

from skrec import MFRegressor
from skrec._alternating.als import als
from skrec._alternating.start import spectral_start
from skrec._alternating.vb import vb

N_USERS, N_ITEMS, NOISE, SD_BIAS = 40, 30, 0.5, 0.5
MF = {"n_factors": 0, "rank_by": "rating", "clip": False, "random_state": 0}
SOLVERS = {"vb": {}, "als": {"reg": 1.0}, "gibbs": {"max_iter": 40}}

# Shares of the values of each column, and deviations of the effects on users and items.
CASES = {
    "two values": ([[0.5, 0.5]], 0.0, 0.0),
    "a rare value": ([[0.9, 0.1]], 0.0, 0.4),
    "users and items": ([[0.5, 0.3, 0.2]], 0.4, 0.3),
    "two columns": ([[0.6, 0.4], [0.25] * 4], 0.0, 0.3),
}


class Ratings:
    """Ratings by a Gaussian model, and the exact posterior of the effects of values."""

    def __init__(self, shares, sd_user, sd_item, n=2000, seed=0):
        rng = np.random.default_rng(seed)
        u, i = rng.integers(N_USERS, size=n), rng.integers(N_ITEMS, size=n)
        self.X = pd.DataFrame({"user": u, "item": i})
        blocks = [(np.eye(N_USERS)[u], SD_BIAS), (np.eye(N_ITEMS)[i], SD_BIAS)]
        y, places, self.shares = 3 + NOISE * rng.normal(size=n), [], []
        for column, share in enumerate(shares):
            values = rng.choice(len(share), n, p=share)
            self.X[f"c{column}"] = np.array(list("abcd"))[values]
            self.shares.append(np.bincount(values) / n)
            one_hot = np.eye(len(share))[values]
            # Effects of -1 to 1, which no prior draws to 0.
            y += one_hot @ np.linspace(-1, 1, len(share))
            places.append(np.arange(len(share)) + sum(Z.shape[1] for Z, _ in blocks))
            blocks.append((one_hot, 100.0))
            for rows, n_rows, sd in ((u, N_USERS, sd_user), (i, N_ITEMS, sd_item)):
                pairs = np.eye(n_rows * len(share))[rows * len(share) + values]
                blocks += [(pairs, sd)] if sd else []
        for Z, sd in blocks:
            y += sd * (sd < 1) * Z @ rng.normal(size=Z.shape[1])
        self.y = y
        Z = np.hstack([*(Z for Z, _ in blocks), np.ones((n, 1))])
        sds = np.repeat([sd for _, sd in blocks], [Z.shape[1] for Z, _ in blocks])
        A = Z.T @ Z / NOISE**2 + np.diag(np.append(sds, 100.0) ** -2.0)
        covariance = np.linalg.inv(A)
        mean = covariance @ (Z.T @ y) / NOISE**2
        effects, stds = [], []
        for place, share in zip(places, self.shares, strict=True):
            contrast = np.eye(len(share)) - share
            effects.append(contrast @ mean[place])
            within = contrast @ covariance[np.ix_(place, place)] @ contrast.T
            stds.append(np.sqrt(within.diagonal()))
        self.effects, self.stds = np.concatenate(effects), np.concatenate(stds)

    def unknown(self):
        """An unknown user and item under each value of the first column."""
        values = np.array(list("abcd"))[: len(self.shares[0])]
        rows = pd.DataFrame({"user": -1, "item": -1, "c0": values})
        return rows.assign(c1="a") if "c1" in self.X else rows


@pytest.fixture(scope="module", params=CASES)
def ratings(request):
    return Ratings(*CASES[request.param])


@pytest.fixture(scope="module", params=SOLVERS)
def fitted(request, ratings):
    model = MFRegressor(**MF, solver=request.param, **SOLVERS[request.param])
    return model.fit(ratings.X, ratings.y)


def test_effects_are_those_of_the_exact_posterior(fitted, ratings):
    effects = fitted.feature_effects()["effect"]
    assert_allclose(effects, ratings.effects, atol=0.02 + 0.5 * ratings.stds.max())


def test_unknown_users_and_items_have_the_effects(fitted, ratings):
    unknown = fitted.predict(ratings.unknown())
    effects = fitted.feature_effects()["effect"][: len(unknown)]
    assert_allclose(np.diff(unknown), np.diff(effects), atol=1e-5)


def test_factors_do_not_take_a_share_of_the_effects():
    """Products of users and values have a mean of their own."""
    ratings = Ratings([[0.5, 0.5]], 0.0, 0.0, n=10_000)
    model = MFRegressor(rank_by="rating").fit(ratings.X, ratings.y)
    effects = model.feature_effects()["effect"]
    assert_allclose(effects, ratings.effects, atol=0.03)
    assert rmse(model, ratings.X, ratings.y) < 1.02 * NOISE


@pytest.mark.parametrize("solver", [vb, als])
def test_no_common_part_is_left_in_the_terms_of_pairs(solver):
    problem, _ = problem_with_context(n_values=(3, 2))
    start = spectral_start(problem)
    states = solver(problem, start, 2.0) if solver is als else solver(problem, start)
    *_, state = islice(states, 80)
    for column, terms in zip(problem.columns, state.columns, strict=True):
        common = terms.values
        for side in ("users", "items"):
            pairs, effects = getattr(column, side), getattr(terms, side).effects
            sums = np.bincount(pairs.values, effects.mean)
            # The gradient of both priors along e + m and δ − m, per pair.
            slope = sums * effects.precision - common.mean.numpy() * common.precision
            assert_allclose(slope / len(pairs) / effects.precision, 0, atol=1e-4)
