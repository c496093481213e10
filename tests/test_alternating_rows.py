"""Rows of a fitted factorisation: sums of their factors."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skrec._alternating.rows import FactorSums


@given(seed=st.integers(0, 2**16))
@settings(max_examples=30)
def test_factor_sums_have_the_scatter_matrix_after_updates(seed):
    rng = np.random.default_rng(seed)
    n_rows, k = rng.integers(3, 9), rng.integers(1, 4)
    factors = rng.normal(3, size=(2, n_rows, k))
    further = rng.normal(-2, size=(2, 4, k))
    sums = FactorSums.of(factors).add(factors[:, :2], -1).add(further)
    rows = np.concatenate([factors[:, 2:], further], axis=1)
    away = rows - rows.mean(axis=1, keepdims=True)
    R = sums.square_roots()
    assert sums.n_rows == rows.shape[1]
    assert_allclose(R.swapaxes(1, 2) @ R, away.swapaxes(1, 2) @ away, atol=1e-9)
