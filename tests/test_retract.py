"""Retraction of ratings from a posterior, against loops over the ratings."""

import numpy as np
import pandas as pd
import pytest
from helpers import copied
from numpy.testing import assert_allclose, assert_array_equal

from skrec import MFRegressor
from skrec._alternating import effects, retract
from skrec.datasets import make_ratings

X, Y = make_ratings(50, 30, 900, random_state=0)
X["hour"] = np.random.default_rng(0).normal(size=len(X))
# Rows of some users, of whom none has all of them, and all of user 7.
SOME = ((X["user"] < 12) & (X["item"] % 3 == 0) | (X["user"] == 7)).to_numpy()
WEIGHT = 1.0 + (np.arange(len(Y)) % 3)
pytestmark = pytest.mark.filterwarnings("ignore:No factor is left")

VARIANTS = {
    "vb": {},
    "vb, no biases": {"biased": False},
    "vb, biases alone": {"n_factors": 0},
    "als": {"solver": "als", "reg": 4.0},
    "als, exponent": {"solver": "als", "reg": 1.0, "reg_exponent": 0.5},
    "als, all pairs": {"solver": "als", "unobserved_weight": 0.1},
    "vb, all pairs": {"unobserved_weight": 0.1},
}


def fit(params, **fit_params):
    options = {"n_factors": 2, "tol": 1e-3, "rank_by": "rating", "clip": False}
    return MFRegressor(**options | params).fit(X, Y, **fit_params)


def natural(rows, number):
    """Precision of a row, and precision times mean."""
    A = np.linalg.inv(rows.covariance[0, [number]].astype(float))[0]
    return A, A @ rows.mean[0, number].astype(float)


def moments(model, rows, number, precisions):
    """E[z zᵀ], E[z], E[c z] of a row of the other side, times its precision."""
    k = model.n_factors
    z = np.append(rows.mean[0, number, :k].astype(float), 1.0)[: model.row_size]
    c = rows.mean[0, number, k:].astype(float).sum()
    zz, cz = np.outer(z, z), c * z
    if model.knows_variance:
        S = rows.covariance[0, [number]].astype(float)[0]
        zz[:k, :k] += S[:k, :k]
        cz[:k] += S[:k, k:].sum(axis=1)
    return zz * precisions[number], z * precisions[number], cz * precisions[number]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tile_size", [1, 2**21])
def test_natural_parameters_lose_the_share_of_each_rating(
    variant, tile_size, monkeypatch
):
    monkeypatch.setattr(retract, "TILE_SIZE", tile_size)
    params = VARIANTS[variant]
    model = fit(params, sample_weight=WEIGHT)
    before = model._model
    weight = model._weighting.applied(
        model._read(X[SOME], Y[SOME], WEIGHT[SOME], model._solver(), reset=False)[1]
    )
    after = copied(model).forget(X[SOME], Y[SOME], WEIGHT[SOME])
    assert 7 not in after.user_ids_
    counts = weight.counts if before.knows_variance else None
    counts = weight.weight if counts is None else counts
    one = np.ones(50)
    alpha, gamma = (
        rows.relative_precisions(np.arange(rows.mean.shape[1]))[0]
        if before.knows_variance
        else one
        for rows in (before.users, before.items)
    )
    beta = 1 / before.noise_variance
    # Covariances of als are relative to the noise.
    unit = after._model.noise_variance / before.noise_variance
    unit = 1.0 if before.knows_variance else unit
    scale = model._model.coef
    hour = weight.context[:, 0] - before.units.feature_mean[0]
    target = weight.rating - before.centre - hour * scale[0]
    for side, rows in (("user", weight.users), ("item", weight.items)):
        ids = getattr(weight, f"{side}_ids")
        for slopes in effects.slopes(before, side).values():
            target = target - hour * slopes[ids[rows]]
    alpha0 = params.get("unobserved_weight", 0.0)
    n_exact = 0
    exponent = params.get(
        "reg_exponent", 0.5 if alpha0 and not before.knows_variance else 0
    )
    for side, own, others in (
        ("user", before.users, before.items),
        ("item", before.items, before.users),
    ):
        rated = weight.user_ids[weight.users], weight.item_ids[weight.items]
        if side == "item":
            rated = rated[::-1]
        own_precision, other_precision = (
            (alpha, gamma) if side == "user" else (gamma, alpha)
        )
        left = getattr(after, f"{side}_ids_")
        for place, number in enumerate(left):
            A, h = natural(own, number)
            mine = np.flatnonzero(rated[0] == number)
            taken = counts[mine].sum()
            for row in mine:
                zz, z, cz = moments(before, others, rated[1][row], other_precision)
                share = beta * own_precision[number] * weight.weight[row]
                A -= share * zz
                h -= share * (target[row] * z - cz)
            if side == "item" and alpha0:
                # User 7 is gone, with the pairs that counted as 0.
                zz, z, cz = moments(before, others, 7, other_precision)
                A -= beta * own_precision[number] * alpha0 * zz
                h += beta * own_precision[number] * alpha0 * cz
                taken += alpha0
            if exponent:
                prior = np.linalg.inv(own.residual_covariance[0].astype(float))
                count = own.count[number]
                lost = count**exponent - (count - taken) ** exponent
                A -= lost * prior
                h -= lost * prior @ own.prior_mean[0, -1]
            rows = after._model.users if side == "user" else after._model.items
            assert_allclose(rows.count[place], own.count[number] - taken, rtol=1e-6)
            root = np.linalg.cholesky(own.prior_covariance[0, -1].astype(float))
            least = max((own.count[number] - taken) ** exponent, 1e-3)
            if np.linalg.eigvalsh(root.T @ A @ root).min() < least:
                continue
            n_exact += 1
            found_A, found_h = natural(rows, place)
            size = np.abs(A).max()
            assert_allclose(found_A * unit, A, atol=2e-4 * size)
            assert_allclose(found_h * unit, h, atol=2e-4 * max(size, np.abs(h).max()))
    # The precision of others is that of their prior, nearly.
    assert n_exact > 40


@pytest.mark.parametrize("variant", VARIANTS)
def test_further_rows_that_are_forgotten_leave_the_fit_as_it_was(variant):
    model = fit(VARIANTS[variant])
    seen = set(zip(X["user"], X["item"], strict=True))
    pairs = [(u, i) for u in range(8) for i in range(30) if (u, i) not in seen]
    pairs += [(99, i) for i in range(5)]
    rows = pd.DataFrame(pairs, columns=["user", "item"])
    rows["hour"] = np.random.default_rng(1).normal(size=len(rows))
    rating = np.linspace(1, 5, len(rows))
    before = model.predict(X)
    changed = copied(model).partial_fit(rows, rating)
    moved = np.abs(changed.predict(X) - before).mean()
    changed.forget(rows, rating)
    assert_array_equal(changed.user_ids_, model.user_ids_)
    assert np.abs(changed.predict(X) - before).mean() < 0.3 * moved
    assert_allclose(changed.noise_std_, model.noise_std_, rtol=0.01)
    assert_allclose(changed.coef_, model.coef_, atol=0.01)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "pairs" not in v])
def test_a_forgotten_half_is_about_as_in_a_fit_without_it(variant):
    half = (X["user"] < 15).to_numpy() & (np.arange(len(Y)) % 2 == 0)
    whole = fit(VARIANTS[variant])
    without = MFRegressor(**whole.get_params()).fit(X[~half], Y[~half])
    theirs = X[X["user"] < 15]
    expected = without.predict(theirs)
    found = copied(whole).forget(X[half], Y[half]).predict(theirs)
    off = np.abs(found - expected).mean()
    assert off < 0.5 * np.abs(whole.predict(theirs) - expected).mean()


@pytest.mark.parametrize("variant", VARIANTS)
def test_wrong_ratings_leave_proper_posteriors(variant):
    """Ratings that the model has not learned, and weights that it cannot have had."""
    model = fit(VARIANTS[variant])
    some = X[::3]
    model.forget(some, np.full(len(some), 50.0), np.full(len(some), 30.0))
    assert np.isfinite(model.predict(X)).all()
    assert np.isfinite(model.noise_std_)
    assert model.noise_std_ > 0
    for rows in (model._model.users, model._model.items):
        covariance = rows.covariance[0].astype(float)
        assert (np.linalg.eigvalsh(covariance) > 0).all()
        assert (rows.count >= 0).all()
        assert (rows.relative_variance > 0).all()
