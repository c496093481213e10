"""Gains of ratings."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skrec._choice.gain import gain_of


def test_gains_of_one_to_five_are_in_proportion():
    rating = np.arange(1, 6.0)
    assert_allclose(gain_of(rating, 1, 5), rating / 4)


@given(
    rating=st.lists(st.integers(-20, 20), min_size=2),
    scale=st.floats(0.01, 100),
    shift=st.floats(-100, 100),
)
def test_gains_have_neither_origin_nor_unit(rating, scale, shift):
    rating = np.array(rating, dtype=float)
    moved = scale * rating + shift
    expected = gain_of(rating, rating.min(), rating.max())
    assert_allclose(gain_of(moved, moved.min(), moved.max()), expected, atol=1e-6)
    assert (expected > 0).all()


def test_a_rating_beyond_the_range_gains_no_more():
    assert_allclose(gain_of(np.array([0.0, 9.0]), 1, 5), [0.25, 1.25])
