"""Link matrices of blocks of features: effects, and columns."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skrec._alternating.links import FittedLinkMatrix
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
