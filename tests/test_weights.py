"""Repeated rows and weights: relative weights, and the fits that rest on them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import unconverged
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.model_selection import KFold

from skrec import MFRegressor
from skrec._data.interactions import Interactions
from skrec._data.reading import Columns
from skrec._data.weights import MIN_SHARE, Weighting
from skrec.datasets import make_ratings

Z_90 = 1.645


def interactions(users, items, rating, weight):
    columns = Columns.from_array(np.column_stack([users, items]))
    return Interactions.from_columns(
        columns, np.asarray(rating, float), np.asarray(weight, float)
    )


def random_pairs(rng, n_users=80, n_items=60, n=2500):
    """Pairs once each, and what biases say of them."""
    users, items = np.divmod(rng.choice(n_users * n_items, n, replace=False), n_items)
    return users, items, rng.randn(n_users)[users] + rng.randn(n_items)[items]


def counts(rng, n):
    return np.ceil(np.exp(rng.randn(n) + 1))


@pytest.mark.parametrize(("a", "b"), [(1, 0), (0.3, 3), (0, 4)])
def test_the_share_that_repeats_average_out_is_learned(a, b):
    rng = np.random.RandomState(0)
    users, items, mean = random_pairs(rng)
    W = counts(rng, len(mean))
    y = mean + rng.randn(len(mean)) * np.sqrt(a + b / W)
    true = b / W.mean() / (a + b / W.mean())
    found = Weighting.of_ratings(interactions(users, items, y, W)).share
    assert found == pytest.approx(true, abs=0.12)


def test_relative_weights_are_inverse_to_the_noise_they_stand_for():
    rng = np.random.RandomState(1)
    users, items, mean = random_pairs(rng)
    W = counts(rng, len(mean))
    variance = 0.3 + 3 / W
    y = mean + rng.randn(len(mean)) * np.sqrt(variance)
    data = interactions(users, items, y, W)
    relative = Weighting.of_ratings(data).applied(data).weight
    order = np.lexsort((items, users))
    assert np.corrcoef(relative, 1 / variance[order])[0, 1] > 0.98
    assert relative.sum() == pytest.approx(len(y), rel=0.1)


@given(
    exponent=st.floats(-12, 12),
    choices=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25)
def test_a_common_factor_of_weights_cancels(exponent, choices, seed):
    rng = np.random.RandomState(seed)
    users, items, y = random_pairs(rng, 9, 7, 40)
    W = counts(rng, len(y))
    learn = Weighting.of_choices if choices else Weighting.of_ratings
    alike = []
    for factor in (1.0, 10.0**exponent):
        data = interactions(users, items, y, factor * W)
        alike.append(learn(data).applied(data).weight)
    np.testing.assert_allclose(*alike, rtol=1e-6)


@given(seed=st.integers(0, 2**16), spread=st.floats(0, 12))
@settings(max_examples=50)
def test_relative_weights_are_finite_positive_and_add_up_to_no_more_than_pairs(
    seed, spread
):
    rng = np.random.RandomState(seed)
    n = rng.randint(1, 60)
    users, items, y = rng.randint(5, size=n), rng.randint(6, size=n), rng.randn(n)
    data = interactions(users, items, y, 10 ** rng.uniform(-spread, spread, n))
    relative = Weighting.of_ratings(data).applied(data).weight
    n_pairs = len(np.unique(data.pairs))
    assert np.isfinite(relative).all()
    assert (relative > 0).all()
    assert relative.sum() <= n_pairs * (1 + 1e-6)


def test_equal_weights_are_ones():
    rng = np.random.RandomState(0)
    users, items, y = random_pairs(rng, 9, 7, 40)
    data = interactions(users, items, y, np.full(40, 0.3))
    np.testing.assert_allclose(Weighting.of_ratings(data).applied(data).weight, 1)


def test_rows_of_a_pair_share_its_weight_in_proportion():
    users, items = [0, 0, 0, 1], [0, 0, 1, 0]
    data = interactions(users, items, [1.0, 5.0, 3.0, 3.0], [1, 3, 4, 4])
    weight = Weighting.of_ratings(data).applied(data).weight
    np.testing.assert_allclose(weight, [0.25, 0.75, 1, 1])


def test_weights_of_choices_count_in_full():
    data = interactions([0, 0, 1], [0, 1, 0], np.ones(3), [1, 2, 6])
    weight = Weighting.of_choices(data).applied(data).weight
    np.testing.assert_allclose(weight, np.array([1, 2, 6]) / 3)


def repeated_rows(X, y, share, seed=0):
    rows = np.random.RandomState(seed).permutation(len(y))[: int(share * len(y))]
    return pd.concat([X, X.iloc[rows]]), np.concatenate([y, y[rows]])


def test_rows_with_next_to_no_weight_come_near_to_being_left_out():
    X, y = make_ratings(100, 60, 3000, random_state=0)
    rng = np.random.RandomState(0)
    wrong = rng.rand(len(y)) < 0.5
    spoilt = np.where(wrong, rng.permutation(y), y)
    mf = MFRegressor(4).fit(X, spoilt, sample_weight=np.where(wrong, 1e-7, 1.0))
    without = MFRegressor(4).fit(X[~wrong], y[~wrong])
    difference = mf.predict(X) - without.predict(X)
    assert np.sqrt(np.mean(difference**2)) < 0.05


@pytest.mark.parametrize("smallest", [1e-100, 1e-309, 1e-320])
@pytest.mark.parametrize(
    "model",
    [
        MFRegressor(),
        MFRegressor(2, solver="als"),
        MFRegressor(2, solver="als", unobserved_weight=0.1),
        MFRegressor(2, solver="adam", max_iter=3, random_state=0),
    ],
    ids=["vb", "als", "unobserved", "adam"],
)
def test_weights_may_fall_to_the_smallest_numbers(model, smallest):
    X, y = make_ratings(40, 30, 500, random_state=0)
    weight = np.geomspace(1, 1e-300, len(y))
    weight[-1] = smallest
    with unconverged():
        model = clone(model).fit(X, y, sample_weight=weight)
    assert np.isfinite(model.predict(X)).all()
    if model.solver == "vb":
        model.partial_fit(X[-1:], y[-1:], sample_weight=weight[-1:])
        assert np.isfinite(model.predict(X)).all()
        with pytest.warns(UserWarning, match="each pair counts once"):
            choices = MFRegressor().fit(X, sample_weight=weight)
        assert np.isfinite(choices.recommend(as_frame=True)["score"]).all()


def test_weights_whose_sum_is_infinite_are_refused():
    X, y = make_ratings(40, 30, 500, random_state=0)
    with pytest.raises(ValueError, match=r"infinity.*sample_weight\.max\(\)"):
        MFRegressor().fit(X, y, sample_weight=np.full(len(y), 1e308))


def test_partial_fit_reads_weights_as_fit_has():
    X, y = make_ratings(60, 40, 900, random_state=0)
    later = pd.DataFrame({"user": [900, 900, 3], "item": [1, 2, 5]})
    plain = MFRegressor(4).fit(X, y).partial_fit(later, [5, 1, 3])
    tens = MFRegressor(4).fit(X, y, sample_weight=np.full(900, 10.0))
    tens.partial_fit(later, [5, 1, 3], sample_weight=[10, 10, 10])
    np.testing.assert_allclose(tens.predict(later), plain.predict(later), atol=1e-5)


def test_repeats_weights_and_counts_of_movielens_cost_nothing(ml_100k):
    X, y = ml_100k
    X, y = X.iloc[:, :2], np.asarray(y)
    train, test = next(KFold(5, shuffle=True, random_state=0).split(X))
    X, X_test, y, y_test = X.iloc[train], X.iloc[test], y[train], y[test]

    def error(X, y, weight=None):
        mf = MFRegressor().fit(X, y, sample_weight=weight)
        predicted, std = mf.predict(X_test, return_std=True)
        covered = np.mean(np.abs(predicted - y_test) < Z_90 * std)
        assert 0.88 < covered < 0.93
        return np.sqrt(np.mean((predicted - y_test) ** 2))

    once = error(X, y)
    n = len(y)
    counts = np.ceil(np.exp(np.random.RandomState(0).randn(n) + 1))
    assert error(*repeated_rows(X, y, 0.5)) < 1.01 * once
    assert error(X, y, np.full(n, 1 / n)) < 1.01 * once
    assert error(X, y, counts) < 1.01 * once


def test_the_least_share_is_what_copies_of_rows_show():
    X, y = make_ratings(100, 60, 3000, random_state=0)
    X, y = repeated_rows(X, y, 0.5)
    mf = MFRegressor(4).fit(X, y)
    assert mf._weighting.share < 10 * MIN_SHARE


@pytest.mark.parametrize(
    ("solver", "n_context"),
    [("vb", 0), ("vb", 1), ("gibbs", 0), ("gibbs", 1), ("als", 0)],
)
def test_repeated_ratings_are_worth_their_mean(solver, n_context):
    rng = np.random.default_rng(0)
    pairs = np.column_stack(np.divmod(rng.permutation(40 * 30), 30))
    context = rng.integers(2, size=(1200, n_context))
    taste = rng.normal(size=40)[pairs[:, 0]] + rng.normal(size=30)[pairs[:, 1]]
    pairs = np.column_stack([pairs, context])
    pairs, others = pairs[:500], pairs[500:]
    number = np.repeat(np.arange(500), rng.integers(1, 6, size=500))
    y = taste[number] + rng.normal(size=len(number))
    counts = np.bincount(number)
    means = np.bincount(number, y) / counts
    n_iter = {"max_iter": 20} if solver == "gibbs" else {}
    model = MFRegressor(3, solver=solver, random_state=0, rank_by="rating", **n_iter)
    apart, together = clone(model), clone(model)
    order = rng.permutation(len(number))
    apart.fit(pairs[number][order], y[order])
    together.fit(pairs, means, sample_weight=counts)
    # Their least and largest ratings differ, so that predictions are not clipped alike,
    # and means do not show that a pair may differ from its prediction.
    expected = together.predict(others)
    clipped = np.clip(apart.predict(others), means.min(), means.max())
    assert_allclose(clipped, expected, atol=2e-3)
    # The noise is that of a rating.
    if solver == "vb":
        assert apart.noise_std_ == pytest.approx(1, abs=0.1)
        assert together.noise_std_ < 0.8
        std = apart.predict(pairs, return_std=True)[1]
        assert np.sqrt(np.mean(std**2)) == pytest.approx(1.05, abs=0.1)


@pytest.mark.parametrize("kind", ["number", "value"])
def test_repeated_ratings_in_other_contexts_are_nearly_worth_their_mean(kind):
    rng = np.random.default_rng(0)
    places = rng.permutation(50 * 40)[:900]
    pairs = np.column_stack(np.divmod(places, 40))
    P, Q = rng.normal(size=(50, 3)), rng.normal(size=(40, 3))
    P[:, 2] = 1
    taste = (P[pairs[:, 0]] * Q[pairs[:, 1]]).sum(1)
    number = np.repeat(np.arange(700), 8)
    y = taste[number] + 1.5 * rng.normal(size=len(number))
    means = np.bincount(number, y) / 8
    context = rng.normal(size=len(number)) if kind == "number" else number % 5 > 2
    X = pd.DataFrame(pairs, columns=["user", "item"])
    apart = MFRegressor(rank_by="rating", clip=False).fit(
        X.iloc[number].assign(context=context), y
    )
    together = MFRegressor(rank_by="rating", clip=False).fit(X[:700], means)
    new, expected = X[700:], taste[700:]
    errors = [
        np.sqrt(np.mean((found - expected) ** 2))
        for found in (
            apart.predict(new.assign(context=context[: len(new)])),
            together.predict(new),
        )
    ]
    assert errors[0] < 1.15 * errors[1]
    assert errors[1] < 0.6 * expected.std()
    assert apart.noise_std_ == pytest.approx(1.5, abs=0.15)


@pytest.fixture(scope="module")
def noisy():
    """A drawing of ratings of some pairs, each several times, with noise of 2."""
    rng = np.random.default_rng(0)
    biases = rng.normal(size=60), rng.normal(size=40)

    def drawn(n_pairs, n_times):
        places = np.repeat(rng.permutation(60 * 40)[:n_pairs], n_times)
        users, items = np.divmod(places, 40)
        y = biases[0][users] + biases[1][items] + 2 * rng.normal(size=len(users))
        return np.column_stack([users, items]), y

    return drawn


@pytest.mark.parametrize("n_times", [(1, 5), (5, 1)])
def test_intervals_hold_after_updates_that_repeat_otherwise(noisy, n_times):
    model = MFRegressor(2, rank_by="rating", clip=False).fit(*noisy(900, n_times[0]))
    for _ in range(3):
        model.partial_fit(*noisy(200, n_times[1]))
    X, y = noisy(1000, 1)
    predicted, std = model.predict(X, return_std=True)
    assert 0.92 < (np.abs(y - predicted) < 1.96 * std).mean() < 0.98


def test_intervals_hold_after_repeated_ratings_are_forgotten(noisy):
    X, y = noisy(900, 5)
    model = MFRegressor(2, rank_by="rating", clip=False).fit(X, y)
    some = np.random.default_rng(0).random(len(y)) < 0.3
    model.forget(X[some], y[some])
    X, y = noisy(1000, 1)
    predicted, std = model.predict(X, return_std=True)
    assert 0.92 < (np.abs(y - predicted) < 1.96 * std).mean() < 0.98


@pytest.mark.parametrize("solver", ["vb", "gibbs"])
def test_the_noise_of_rows_is_that_of_ratings_however_often_these_repeat(solver):
    """A mean of many ratings is one square of the noise, and no evidence of less."""
    rng = np.random.default_rng(0)
    n, n_users, n_items = 7500, 70, 100
    shares = [1 / np.arange(1, size + 1) for size in (n_users, n_items)]
    users, items = (rng.choice(len(s), n, p=s / s.sum()) for s in shares)
    y = 0.5 * rng.normal(size=n_users)[users] + 0.5 * rng.normal(size=n_items)[items]
    y += rng.normal(size=n)
    X = np.column_stack([users, items])
    model = MFRegressor(solver=solver, rank_by="rating", random_state=0, clip=False)
    model.fit(X[:2500], y[:2500])
    predicted, std = model.predict(X[2500:], return_std=True)
    is_often = np.isin(
        users * n_items + items, often(users[:2500] * n_items + items[:2500])
    )
    is_often = is_often[2500:]
    assert 300 < is_often.sum() < 3000
    for rows in (is_often, ~is_often):
        assert np.mean(std[rows]) == pytest.approx(1.03, abs=0.1)
        covered = np.abs(y[2500:] - predicted)[rows] < 1.96 * std[rows]
        assert covered.mean() > 0.91


def often(values, n_times=10):
    """Values that come so many times."""
    found, counts = np.unique(values, return_counts=True)
    return found[counts >= n_times]


def test_weights_of_users_are_no_noise_of_theirs():
    """Ratings of two kinds of users, with the precisions of these as weights."""
    rng = np.random.default_rng(0)
    users, items, y = random_pairs(np.random.RandomState(0))
    weight = np.where(np.arange(80) < 40, 20.0, 1.0)[users]
    y += rng.normal(size=len(y)) / np.sqrt(weight)
    model = MFRegressor(2, rank_by="rating")
    model.fit(np.column_stack([users, items]), y, sample_weight=weight)
    variances = model._model.users.relative_variances(np.arange(80))
    assert variances.min() > 0.5
    assert variances.max() < 2


@pytest.mark.parametrize("precision", [1.0, 0.5, 0.0])
def test_rows_of_a_pair_count_as_one_where_weights_are_precisions(precision):
    data = interactions([0, 0, 0, 1], [0, 0, 1, 1], [1, 2, 1, 1], [3, 1, 2, 2])
    assert_allclose(data.weight, [3, 1, 2, 2])
    counts = replace(data, precision=precision).counts
    if not precision:
        assert counts is None
    else:
        expected = precision * np.array([0.75, 0.25, 1, 1])
        assert_allclose(counts, expected + (1 - precision) * data.weight)
