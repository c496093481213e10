"""Fits of small, sparse, lopsided and extreme data, none of which may break.

``SKREC_N_FITS=2000 python -m pytest tests/test_robustness.py`` tries more of them.
"""

import os
import warnings
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from skrec import MFRegressor
from skrec._alternating.vb import tempered_vb
from skrec.datasets import make_ratings

# What they run is covered by the tests of its parts.
pytestmark = pytest.mark.no_cover

N_FITS = int(os.environ.get("SKREC_N_FITS", "30"))
MANY = settings(
    max_examples=N_FITS,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

RATINGS = {
    "noise": lambda rng, u, i: rng.randn(len(u)),
    "constant": lambda rng, u, i: np.full(len(u), 3.0),
    "signal": lambda rng, u, i: np.round(
        rng.randn(51)[u] * rng.randn(3001)[i] + rng.randn(51)[u] + rng.randn(3001)[i]
    ),
    "large": lambda rng, u, i: 1e25 * rng.randn(len(u)),
    "small": lambda rng, u, i: 1e-25 * rng.randn(len(u)),
    "rare": lambda rng, u, i: (rng.rand(len(u)) < 0.1).astype(float),
    "conflicting": lambda rng, u, i: rng.choice([1.0, 5.0], len(u)),
}


def collinear(rng, n):
    column = rng.randn(n)
    return pd.DataFrame({"a": column, "b": 2 * column, "c": -column})


FEATURES = {
    "none": lambda rng, n: None,
    "categories": lambda rng, n: pd.DataFrame({"a": rng.choice(list("abcdefgh"), n)}),
    "wide": lambda rng, n: sparse.csr_array(
        (rng.rand(n, 300) < 0.03).astype(float) * rng.randn(300)
    ),
    "constant": lambda rng, n: pd.DataFrame({"a": np.ones(n)}),
    "collinear": collinear,
    "extreme": lambda rng, n: pd.DataFrame(
        {"a": rng.randn(n) * 10.0 ** rng.choice([200, 300, -200, -300])}
    ),
    "subnormal": lambda rng, n: pd.DataFrame({"a": rng.randn(n) * 1e-310}),
    "integers": lambda rng, n: pd.DataFrame(
        {"a": rng.choice(np.iinfo(np.int64).max - np.arange(2) * 2**62, n)}
    ),
}

WEIGHTS = {
    "none": lambda rng, n: None,
    "common": lambda rng, n: np.full(n, 10.0 ** rng.uniform(-12, 12)),
    "various": lambda rng, n: 10.0 ** rng.uniform(-12, 12, n),
}

CONTEXT = {
    "none": lambda rng, n: np.empty((n, 0)),
    "numbers": lambda rng, n: rng.randn(n, 2),
    "constant": lambda rng, n: np.ones((n, 1)),
    "extreme": lambda rng, n: rng.randn(n, 3) * 10.0 ** rng.randint(-200, 200),
    "subnormal": lambda rng, n: rng.randn(n, 1) * 1e-310,
}


@st.composite
def fits(draw):
    """X, y and further arguments of a fit."""
    n_users = draw(st.sampled_from([1, 2, 3, 5, 20, 50]))
    n_items = draw(st.sampled_from([1, 2, 5, 30, 50, 200, 1000, 3000]))
    n = draw(st.sampled_from([1, 2, 3, 5, 10, 40, 50, 200, 1000, 5000]))
    rng = np.random.RandomState(draw(st.integers(0, 2**32 - 1)))
    ids = []
    for size in (n_users, n_items):
        lopsided = draw(st.booleans())
        share = rng.beta(0.5, 3, n) if lopsided else rng.rand(n)
        ids.append((size * share).astype(int))
    y = RATINGS[draw(st.sampled_from(sorted(RATINGS)))](rng, *ids)
    if draw(st.booleans()):
        again = rng.randint(n, size=max(1, n // 2))
        ids = [np.concatenate([one, one[again]]) for one in ids]
        y = np.concatenate(
            [y, y[again] if draw(st.booleans()) else rng.permutation(y)[: len(again)]]
        )
        n = len(y)
    context = CONTEXT[draw(st.sampled_from(sorted(CONTEXT)))](rng, n)
    described = {
        f"{side}_features": FEATURES[draw(st.sampled_from(sorted(FEATURES)))](rng, size)
        for side, size in (("user", n_users), ("item", n_items))
    }
    weight = WEIGHTS[draw(st.sampled_from(sorted(WEIGHTS)))](rng, n)
    X = pd.DataFrame({"user": ids[0], "item": ids[1]})
    X = X.join(
        pd.DataFrame(context, columns=[f"c{j}" for j in range(context.shape[1])])
    )
    return X, y, {"sample_weight": weight, **described}


# Above both numbers of rows too; without biases there is a factor at least.
SIZES = st.sampled_from(
    [(0, True), (1, False), (1, True), (2, True), (8, False), (16, True), (60, True)]
)


def fitted(model, X, y, arguments):
    with warnings.catch_warnings():
        # Of what the data are, or of sweeps that run out.
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        with patch("skrec._alternating.vb.tempered_vb", wraps=tempered_vb) as spy:
            model.fit(X, y, **arguments)
    # The objective of a tempered fit changes with the kurtosis of the noise.
    model.may_rise = spy.called
    return model


def check(model, X):
    assert np.isfinite(model.predict(X)).all()
    for name in ("user_factors_", "item_factors_", "coef_", "intercept_", "noise_std_"):
        assert np.isfinite(getattr(model, name)).all(), name
    if model.solver in ("vb", "gibbs"):
        std = model.predict(X, return_std=True)[1]
        assert np.isfinite(std).all()
        assert (std >= 0).all()
    # Squares that a penalty of 1e-8 holds are beyond rounding.
    falls = model.solver == "als" and model.reg != 1e-8
    if falls or (model.solver == "vb" and not getattr(model, "may_rise", False)):
        curve = np.array(model.loss_curve_)
        rise = np.diff(curve, prepend=np.inf).max()
        assert rise <= 1e-6 * max(1, np.abs(curve).max())


@given(fit=fits(), sizes=SIZES, implicit=st.sampled_from([None, False]))
@MANY
def test_vb_breaks_on_no_data(fit, sizes, implicit):
    X, y, arguments = fit
    n_factors, biased = sizes
    mf = MFRegressor(n_factors, biased=biased, implicit_features=implicit, max_iter=60)
    check(fitted(mf, X, y, arguments), X)


@given(
    fit=fits(),
    sizes=SIZES,
    solver=st.sampled_from(["als", "gibbs"]),
    reg=st.sampled_from([1e-8, 1.0, 1e6]),
)
@MANY
def test_als_and_gibbs_break_on_no_data(fit, sizes, solver, reg):
    X, y, arguments = fit
    n_factors, biased = sizes
    options = {"reg": reg, "max_iter": 50} if solver == "als" else {"max_iter": 5}
    mf = MFRegressor(n_factors, solver=solver, biased=biased, random_state=0, **options)
    check(fitted(mf, X, y, arguments), X)


@given(fit=fits())
@settings(MANY, max_examples=max(5, N_FITS // 8))
def test_many_sweeps_break_nothing(fit):
    X, y, arguments = fit
    check(fitted(MFRegressor(4, tol=0, max_iter=150), X, y, arguments), X)


@given(fit=fits(), solver=st.sampled_from(["vb", "als"]))
@settings(MANY, max_examples=max(5, N_FITS // 4))
def test_a_dozen_warm_starts_break_nothing(fit, solver):
    X, y, arguments = fit
    mf = MFRegressor(4, solver=solver, warm_start=True, max_iter=5)
    for _ in range(12):
        check(fitted(mf, X, y, arguments), X)


@given(fit=fits(), seed=st.integers(0, 2**16))
@settings(MANY, max_examples=max(5, N_FITS // 8))
def test_the_order_of_rows_changes_nothing(fit, seed):
    X, y, arguments = fit
    one = fitted(MFRegressor(4), X, y, arguments).predict(X)
    order = np.random.RandomState(seed).permutation(len(y))
    weight = arguments["sample_weight"]
    if weight is not None:
        arguments = {**arguments, "sample_weight": weight[order]}
    other = fitted(MFRegressor(4), X.iloc[order], y[order], arguments).predict(X)
    np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-6 * np.ptp(y))


@pytest.mark.parametrize("seed", range(5))
def test_fifty_ratings_and_a_category(seed):
    rng = np.random.RandomState(seed)
    X = pd.DataFrame(
        {"user": rng.randint(20, size=50), "item": rng.randint(50, size=50)}
    )
    genre = pd.DataFrame({"genre": rng.choice(list("abcde"), 50)})
    check(MFRegressor().fit(X, rng.randint(1, 6, 50), item_features=genre), X)


@pytest.mark.parametrize("seed", range(5))
def test_forty_ratings_of_two_users(seed):
    rng = np.random.RandomState(seed)
    X = pd.DataFrame(
        {"user": rng.randint(2, size=40), "item": rng.randint(30, size=40)}
    )
    check(MFRegressor().fit(X, rng.randint(1, 6, 40)), X)


def test_a_handful_of_ratings_does_not_show_that_there_is_no_noise():
    X = [["ann", "Heat"], ["bob", "Up"], ["bob", "Heat"]]
    mf = MFRegressor(2, max_iter=500, tol=1e-5).fit(X, [5, 1, 3])
    assert mf.noise_std_ > 0.2


@pytest.mark.usefixtures("short_chain")
@pytest.mark.parametrize("solver", ["vb", "als", "gibbs", "adam"])
@pytest.mark.parametrize(("before", "after"), [(1, 1e200), (1e200, 1e-200), (0, 1)])
def test_a_column_may_change_its_unit_between_warm_starts(solver, before, after):
    X, y = make_ratings(9, 7, 50, random_state=0)
    column = np.random.RandomState(0).randn(50)
    mf = MFRegressor(
        2, solver=solver, max_iter=3, tol=1e-9, warm_start=True, random_state=0
    )
    for scale in (before, after):
        described = X.assign(a=scale * column)
        check(fitted(mf, described, y, {}), described)


def test_the_bound_of_one_rating_never_falls():
    """The priors of noise and of relative precisions are then worth as much as it."""
    mf = MFRegressor(1, biased=False, max_iter=40, tol=0)
    curve = fitted(mf, [[0, 0]], [0.0], {}).loss_curve_
    assert np.diff(curve).max() < 1e-12


def rated_by_kinds(effect, n_users=240, n_items=60):
    """Pairs, ratings by a user's kind, the kinds, and which half is to be fitted."""
    rng = np.random.RandomState(0)
    user, item = np.nonzero(rng.rand(n_users, n_items) < 0.4)
    kind, noise = np.arange(n_users) % 3, rng.randn(len(user))
    quality = 20 * rng.randn(n_items)
    y = effect(kind[user], quality[item], noise) + 6 * rng.randn(n_users)[user]
    return np.c_[user, item], y, kind[user], rng.rand(len(user)) < 0.5


def rmse(y, predicted):
    return float(np.sqrt(np.mean((y - predicted) ** 2)))


@pytest.mark.parametrize("solver", ["vb", "gibbs"])
@pytest.mark.parametrize("side", [0, 1])
def test_rows_whose_ratings_are_all_equal_do_not_silence_the_others(solver, side):
    """The others are predicted no worse than by shrunk means of both sides."""
    X, y, kind, train = rated_by_kinds(
        lambda kind, quality, noise: quality + 15 * noise
    )
    is_constant = kind > 0
    y = np.where(is_constant, 100.0, 60 + y)
    train, test = pd.DataFrame(X[train]).assign(y=y[train]), ~train & ~is_constant
    rest = train["y"] - train["y"].mean()
    of_items = rest.groupby(train[1]).sum() / (train.groupby(1).size() + 5)
    rest -= train[1].map(of_items)
    of_users = rest.groupby(train[0]).sum() / (train.groupby(0).size() + 5)
    baseline = train["y"].mean() + of_users[X[test, 0]].to_numpy()
    baseline = baseline + of_items[X[test, 1]].to_numpy()

    columns = [0, 1] if side == 0 else [1, 0]
    mf = MFRegressor(0, solver=solver, max_iter=30, random_state=0)
    mf.fit(train[columns].to_numpy(), train["y"])
    predicted = mf.predict(X[test][:, columns])
    assert rmse(y[test], predicted) < rmse(y[test], baseline)
    assert mf.noise_std_ > 3


def test_users_with_little_noise_still_count_for_more():
    deviation = np.array([1.0, 8.0, 40.0])
    X, y, kind, train = rated_by_kinds(
        lambda kind, quality, noise: quality + deviation[kind] * noise
    )
    mf = MFRegressor(0).fit(X[train], y[train])
    _, std = mf.predict(X[~train], return_std=True)
    for number, expected in enumerate(deviation):
        found = np.median(std[kind[~train] == number])
        assert 0.8 * expected < found < 1.2 * expected + 3


@pytest.mark.parametrize("solver", ["vb", "gibbs"])
@pytest.mark.parametrize("side", [0, 1])
def test_rows_far_from_the_others_are_not_taken_for_noise(solver, side):
    """A few customers buy far more than the others, all with the same noise."""
    rng = np.random.default_rng(0)
    X = np.concatenate([[(u, i) for i in rng.permutation(100)[:5]] for u in range(300)])
    level, of_item = 0.3 * rng.normal(size=300), 0.5 * rng.normal(size=100)
    y = of_item[X[:, 1]] + rng.normal(size=len(X))
    is_far = X[:, 0] < 3
    columns = [0, 1] if side == 0 else [1, 0]
    for distance in (6, 10, 30):
        level[:3] = distance
        mf = MFRegressor(solver=solver, random_state=0)
        if solver == "gibbs":
            mf.set_params(max_iter=30)
        mf.fit(X[:, columns], y + level[X[:, 0]])
        predicted, std = mf.predict(X[is_far][:, columns], return_std=True)
        assert (predicted - of_item[X[is_far, 1]]).mean() > 0.5 * distance
        assert std.mean() < 2
