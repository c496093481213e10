"""Standard units of ratings and features, against weighted moments."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skrec._data.interactions import Interactions
from skrec._data.units import Units


def interactions(rating, context=None, weight=None):
    n = len(rating)
    return Interactions(
        user_ids=np.arange(n),
        item_ids=np.zeros(1),
        users=np.arange(n),
        items=np.zeros(n, dtype=int),
        rating=np.asarray(rating, dtype=float),
        weight=np.ones(n) if weight is None else np.asarray(weight, dtype=float),
        context=np.zeros((n, 0)) if context is None else np.asarray(context),
    )


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_ratings_have_the_mean_and_mean_square_that_are_asked_for(centred, scaled):
    rng = np.random.default_rng(0)
    y, weight = rng.normal(3, 2, 50), rng.uniform(0.1, 3, 50)
    units = Units.of(interactions(y, weight=weight), centred=centred, scaled=scaled)
    mean = np.average(y, weights=weight) if centred else 0
    scale = np.sqrt(np.average((y - mean) ** 2, weights=weight)) if scaled else 1
    assert units.centre == pytest.approx(mean)
    assert units.scale == pytest.approx(scale)
    assert units.mean_weight == pytest.approx(weight.mean())
    assert_allclose(units.standard_ratings(y), (y - mean) / scale)


@pytest.mark.parametrize("n_rows", [1, 3])
def test_the_mean_weight_is_that_of_pairs_of_several_rows(n_rows):
    X = np.repeat([[0, 1], [0, 2], [1, 1], [2, 0]], n_rows, axis=0)
    weight = np.repeat([1.0, 2.0, 3.0, 6.0], n_rows) / n_rows
    data = interactions(np.arange(4 * n_rows), weight=weight)
    data = replace(data, users=X[:, 0], items=X[:, 1])
    assert Units.of(data, centred=True).mean_weight == pytest.approx(3)


@pytest.mark.parametrize("value", [0.1, 3.5, -7e200, 0.0])
def test_equal_ratings_are_their_own_centre(value):
    units = Units.of(interactions(np.full(30, value)), centred=True)
    assert units.centre == value
    assert units.scale == (abs(value) or 1)
    assert_array_equal(units.standard_ratings(np.full(3, value)), 0)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_features_are_standardised_unless_they_are_constant(scale):
    rng = np.random.default_rng(1)
    varies, weight = rng.normal(2, 3, 40), rng.uniform(0.1, 3, 40)
    context = scale * np.column_stack([varies, np.full(40, 0.1)])
    units = Units.of(interactions(np.arange(40), context, weight), centred=True)
    standard = units.standard_features(context)
    assert_allclose(weight @ standard[:, 0], 0, atol=1e-9)
    assert_allclose(np.average(standard[:, 0] ** 2, weights=weight), 1)
    assert_array_equal(standard[:, 1], 0)


@pytest.mark.parametrize("origin", [1e10, -1e12, 1e15])
def test_numbers_far_from_zero_vary_as_double_precision_holds_them(origin):
    y = origin + np.arange(40) % 8
    context = np.column_stack([y, np.full(40, origin / 3)])
    units = Units.of(interactions(y, context, np.linspace(0.1, 3, 40)), centred=True)
    deviation = np.std(y - origin)
    assert units.scale == pytest.approx(deviation, rel=0.1)
    assert units.feature_scale[0] == pytest.approx(deviation, rel=0.1)
    assert np.isinf(units.feature_scale[1])


@pytest.mark.parametrize(("scale", "dtype"), [(4.0, "f4"), (1e12, "f8"), (1e-12, "f8")])
def test_a_product_of_rows_and_a_bias_are_in_rating_units(scale, dtype):
    units = Units(0.0, scale, np.zeros(0), np.zeros(0))
    row = units.row_scale(2, 3)
    assert row.dtype == dtype
    assert_allclose(row[:2] ** 2, scale, rtol=1e-6)
    assert row[2] == pytest.approx(scale)
