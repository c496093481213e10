"""Gains of ratings."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skrec import MFRegressor
from skrec._choice.gain import LEAST_GAIN, Gain
from skrec._data.rating_summary import RatingSummary
from skrec.metrics import RankingScorer


def summary_of(rating, weight=None):
    weight = np.ones(len(rating)) if weight is None else weight
    return RatingSummary(np.empty(0), np.empty(0)).with_further(rating, weight)


def test_gains_of_one_to_five_are_in_proportion():
    rating = np.arange(1, 6.0)
    assert_allclose(Gain(1, 5)(rating), rating / 4)
    assert_allclose(Gain.of(summary_of(rating))(rating), rating / 4)


@given(
    rating=st.lists(st.integers(-20, 20), min_size=2),
    scale=st.floats(0.01, 100),
    shift=st.floats(-100, 100),
)
def test_gains_have_neither_origin_nor_unit(rating, scale, shift):
    rating = np.array(rating, dtype=float)
    moved = scale * rating + shift
    expected = Gain(rating.min(), rating.max(), 0.5)(rating)
    assert_allclose(Gain(moved.min(), moved.max(), 0.5)(moved), expected, atol=1e-6)
    assert (expected > 0).all()


def test_a_rating_beyond_the_range_gains_no_more():
    assert_allclose(Gain(1, 5)(np.array([0.0, 9.0])), [0.25, 1.25])
    places = torch.tensor([-0.25, 0.25, 2.0])
    assert_allclose(Gain(1, 5, 0.5).at_places_(places), [0.25, 0.75, 1.25])


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=40), st.integers(0, 99))
def test_the_mean_is_no_lower_than_in_the_middle_of_gains(rating, seed):
    rating = np.array(rating, dtype=float)
    weight = np.random.default_rng(seed).uniform(0.1, 2, len(rating))
    gain = Gain.of(summary_of(rating, weight))
    place = np.average(gain.places(rating), weights=weight)
    if 0 < place < 0.5:
        assert place**gain.power == pytest.approx(0.5)
    else:
        assert gain.power == 1
    found = gain(np.sort(rating))
    assert (np.diff(found) >= 0).all()
    assert found.min() >= LEAST_GAIN


def log_of_plays(seed):
    """Plays of users who differ in tastes and in activity."""
    rng = np.random.default_rng(seed)
    n_users, n_items, n = 1000, 250, 4000
    taste, kind = rng.integers(5, size=n_users), rng.integers(5, size=n_items)
    activity, popularity = (
        rng.pareto(1.5, n_users) + 0.3,
        rng.pareto(1.2, n_items) + 0.2,
    )
    user = rng.choice(n_users, n, p=activity / activity.sum())
    weight = popularity * np.where(kind == taste[user, None], 15, 1)
    item = (weight.cumsum(1) > rng.random((n, 1)) * weight.sum(1)[:, None]).argmax(1)
    plays = np.exp(2.5 + 1.3 * rng.standard_normal(n)).clip(1, 10_000).round()
    rows = pd.DataFrame({"user": user, "item": item, "plays": plays})
    rows = rows.drop_duplicates(["user", "item"])
    return rows, rng.random(len(rows)) < 0.25


def test_lists_by_counts_are_about_as_good_as_lists_by_choices():
    """With gains in proportion to counts they are 7 % worse."""
    scorer, ratios = RankingScorer("ndcg", k=10), []
    for seed in range(6):
        rows, is_test = log_of_plays(seed)
        X, y = rows[["user", "item"]], rows["plays"]
        by_counts, by_choices = (
            scorer(model, X[is_test], np.ones(is_test.sum()))
            for model in (
                MFRegressor().fit(X[~is_test], y[~is_test]),
                MFRegressor().fit(X[~is_test]),
            )
        )
        ratios.append(by_counts / by_choices)
    assert np.mean(ratios) > 0.96
