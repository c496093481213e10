"""The range of ratings without outliers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skrec import MFRegressor
from skrec._data.rating_summary import MAX_RATINGS, RatingSummary
from skrec.datasets import make_ratings

COUNTS = st.dictionaries(st.integers(-30, 30), st.integers(1, 40), min_size=1)


def summary_of(rating, weight=None):
    rating = np.asarray(rating, dtype=float)
    weight = np.ones(len(rating)) if weight is None else np.asarray(weight, float)
    return RatingSummary(np.empty(0), np.empty(0)).with_further(rating, weight)


def range_of(rating, weight=None):
    return summary_of(rating, weight).range


def by_loops(rating):
    """Range of ratings, by the definition."""
    rating = sorted(rating)
    middle = lower_median(rating)
    many = max(5, len(rating) / 200)
    bounds = []
    for sign in (-1, 1):
        side = [sign * (r - middle) for r in rating if sign * (r - middle) > 0]
        both = [abs(r - middle) for r in rating if r != middle]
        median = lower_median(side if len(side) >= many else both)
        within = [d for d in side if d <= 3 * 1.4826 * median or side.count(d) >= many]
        bounds.append(middle + sign * max(within, default=0))
    return tuple(bounds)


def lower_median(values):
    return sorted(values)[(len(values) - 1) // 2] if values else 0


@given(counts=COUNTS)
def test_the_range_is_that_of_loops_and_of_weights(counts):
    values, n = list(counts), list(counts.values())
    expected = by_loops(np.repeat(values, n).tolist())
    assert range_of(np.repeat(values, n)) == expected
    assert range_of(values, n) == expected


@pytest.mark.parametrize(
    ("levels", "counts"),
    [
        ([1, 2, 3, 4, 5], [10, 10, 10, 10, 10]),
        ([1, 4, 5], [1, 20, 10_000]),
        ([0, 1], [99, 1]),
        ([0, 1], [100_000, 2]),
        ([0.5, 2, 3, 3.5, 4, 5], [10, 60, 300, 200, 350, 100]),
        # A view, a basket, a purchase.
        ([1, 3, 10], [900, 60, 40]),
        ([7], [30]),
    ],
)
@pytest.mark.parametrize("error", [None, 500, -500])
def test_a_scale_has_all_of_its_levels_and_no_typing_error(levels, counts, error):
    rating = np.repeat(np.array(levels, float), counts)
    if error is not None and len(levels) > 1:
        rating[len(rating) // 2] = error
    assert range_of(rating) == (levels[0], levels[-1])


@given(
    counts=COUNTS, scale=st.sampled_from([1e-3, 0.7, 1e6]), shift=st.floats(-1e3, 1e3)
)
def test_the_range_has_neither_origin_nor_unit(counts, scale, shift):
    values, n = np.array(list(counts)), list(counts.values())
    expected = scale * np.array(range_of(values, n)) + shift
    assert_allclose(range_of(scale * values + shift, n), expected)


def test_three_standard_deviations_of_a_gaussian_and_less_of_its_tail():
    z = np.random.default_rng(0).standard_normal(200_000)
    low, high = range_of(z)
    assert_allclose([-low, high], 3, atol=0.2)
    assert range_of(np.append(z, [1e9, -1e9])) == pytest.approx((low, high), abs=0.2)
    low, high = range_of(np.exp(2 * z))
    assert low == pytest.approx(0, abs=0.05)
    # The median of ratings above 1 is exp(2 Φ⁻¹(3/4)).
    assert high == pytest.approx(1 + 3 * 1.4826 * (np.exp(2 * 0.6745) - 1), rel=0.05)


def test_parts_have_the_range_of_the_whole():
    rng = np.random.default_rng(0)
    stars, z = rng.integers(1, 11, 500), rng.standard_normal(100_000)
    for rating, tolerance in ((stars, 0), (z, 0.2)):
        parts = summary_of(rating[:1])
        for part in np.array_split(rating[1:].astype(float), 37):
            parts = parts.with_further(part, np.ones(len(part)))
        whole = summary_of(rating)
        assert len(parts.values) <= MAX_RATINGS
        assert parts.weight.sum() == pytest.approx(len(rating))
        assert_allclose(parts.range, whole.range, atol=tolerance)


def test_lists_do_not_depend_on_a_typing_error():
    X, y = make_ratings(60, 40, 900, random_state=0)
    y = np.digitize(y, np.quantile(y, [0.2, 0.4, 0.6, 0.8])) + 1.0
    error = y.copy()
    error[np.flatnonzero(y == 5)[0]] = 500
    model = MFRegressor(0).fit(X, y)
    lists, by_choice = (
        model.set_params(rank_by=name).recommend() for name in ("both", "choice")
    )
    model.fit(X, error)
    assert_array_equal(model.recommend(), by_choice)
    found = model.set_params(rank_by="both").recommend()
    # The model of ratings has the error still.
    overlap = [len(set(a) & set(b)) for a, b in zip(lists, found, strict=True)]
    assert np.mean(overlap) > 8


def test_further_ratings_are_part_of_the_range():
    X, y = make_ratings(60, 40, 900, random_state=0)
    y = np.where(np.arange(900) < 600, 3.0, np.where(y > np.median(y), 5.0, 1.0))
    y[-1] = 500
    first = np.arange(900) < 600
    model = MFRegressor(0).fit(X[first], y[first])
    model.partial_fit(X[~first], y[~first])
    assert model._autoencoder.ratings.range == (1, 5)
    assert model.rating_range_ == (1, 500)
