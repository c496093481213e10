"""Rows of a fitted factorisation: link matrices, sums of factors, covariances."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skrec._alternating.rows import FactorSums, FittedLinkMatrix, PackedCovariance
from skrec._data.vocabulary import Growth


def random_covariances(rng, *shape):
    roots = rng.normal(size=(*shape, shape[-1]))
    return roots @ roots.swapaxes(-1, -2)


def random_growth(rng, n_rows, n_given):
    """Growth of n_rows even ids by some of these and some odd ones."""
    further = np.sort(rng.choice(2 * n_rows + 4, n_given, replace=False))
    fitted = 2 * np.arange(n_rows)
    rows = np.where(np.isin(further, fitted), further // 2, -1)
    return Growth.of(fitted, further, rows)


@pytest.fixture
def link():
    rng = np.random.default_rng(0)
    return FittedLinkMatrix(
        mean=rng.normal(size=(2, 4, 3)),
        covariance=random_covariances(rng, 2, 3),
        prior_covariance=np.eye(3),
        effect_covariance=random_covariances(rng, 2, 3),
        column_mean=rng.normal(size=4),
        scale=0.7,
    )


def test_effects_of_a_link_matrix_have_its_moments(link):
    matrix = np.random.default_rng(1).normal(size=(5, 4))
    features = link.scale * matrix - link.column_mean
    mean, covariance = link.effects(sparse.csr_array(matrix))
    assert_allclose(mean, features @ link.mean)
    squares = (features**2).sum(axis=1)
    assert_allclose(covariance, np.einsum("n,djk->dnjk", squares, link.covariance))


def test_contrast_effects_are_differences_of_effects(link):
    matrix = np.random.default_rng(1).normal(size=(2, 4))
    first, second = link.effects(sparse.csr_array(matrix))[0].swapaxes(0, 1)
    contrast = matrix[:1] - matrix[1:]
    mean, covariance = link.contrast_effects(sparse.csr_array(contrast))
    assert_allclose(mean[:, 0], first - second)
    square = np.square(link.scale * contrast).sum()
    assert_allclose(covariance[:, 0], square * link.covariance)


@given(seed=st.integers(0, 2**16))
@settings(max_examples=30)
def test_columns_of_a_link_matrix_stay_with_their_rows(seed):
    rng = np.random.default_rng(seed)
    link = FittedLinkMatrix(*[np.zeros((1, 6, 2))] * 4, np.zeros(6), 1.0)
    growth = random_growth(rng, 6, rng.integers(1, 8))
    grown = link.with_new_others(growth)
    columns = grown.columns_of(np.append(np.arange(len(growth.ids)), -1))
    expected = np.where((growth.ids % 2 == 0) & (growth.ids < 12), growth.ids // 2, -1)
    assert_array_equal(columns, np.append(expected, -1))


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


@given(seed=st.integers(0, 2**16), n_updates=st.integers(1, 4))
@settings(max_examples=40)
def test_packed_covariances_are_those_of_a_whole_copy(seed, n_updates):
    rng = np.random.default_rng(seed)
    stored = random_covariances(rng, 5, 2)
    patched, expected = PackedCovariance.of(stored), dict(enumerate(stored))
    ids = np.arange(5)
    for _ in range(n_updates):
        factor = rng.uniform(0.5, 2)
        patched = patched * factor
        expected = {id_: factor * value for id_, value in expected.items()}
        further = np.unique(rng.choice(12, rng.integers(1, 4)))
        rows = np.where(np.isin(further, ids), np.searchsorted(ids, further), -1)
        growth = Growth.of(ids, further, rows)
        values = random_covariances(rng, len(further), 2)
        patched = patched.with_updates(PackedCovariance.of(values), growth)
        expected |= dict(zip(further, values, strict=True))
        ids = growth.ids
    whole = np.stack([expected[id_] for id_ in ids])
    assert_allclose(patched[0], whole)
    some = rng.choice(len(ids), 3)
    assert_allclose(patched[0, some], whole[some])
    assert_allclose(pickle.loads(pickle.dumps(patched))[0], whole)
