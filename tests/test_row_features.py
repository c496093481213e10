"""Features of a table's rows, against dense algebra in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import sparse

from skrec._gradient import row_features as _row_features
from skrec._gradient.row_features import PENALTY, RowFeatures


def random_features(n_rows, n_columns, seed=0, density=0.5):
    """Features of rows, and their matrix, each column less its mean."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(n_rows, n_columns))
    matrix[rng.random(matrix.shape) > density] = 0
    matrix[n_rows // 2] = 0
    return RowFeatures(sparse.csr_array(matrix)), matrix - matrix.mean(axis=0)


def tensor(array):
    return torch.as_tensor(array, dtype=torch.float32)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.integers(0, 99))
def test_products_are_those_of_the_centred_matrix(n_rows, n_columns, size, seed):
    features, matrix = random_features(n_rows, n_columns, seed)
    rng = np.random.default_rng(seed)
    weight, rows = rng.normal(size=(n_columns, size)), rng.normal(size=(n_rows, size))
    assert_allclose(features.times(tensor(weight)), matrix @ weight, atol=1e-5)
    found = features.transposed_times(tensor(rows))
    assert_allclose(found, matrix.T @ rows, atol=1e-5)
    energy = (matrix**2).sum(axis=1).mean()
    assert features.energy == pytest.approx(energy, abs=1e-5)


@pytest.mark.parametrize(("n_rows", "n_columns"), [(40, 1), (40, 6), (30, 60)])
def test_ridge_is_the_closed_form_with_a_free_constant(monkeypatch, n_rows, n_columns):
    monkeypatch.setattr(_row_features, "RIDGE_TOL", 1e-5)
    monkeypatch.setattr(_row_features, "RIDGE_MAX_STEPS", 500)
    features, matrix = random_features(n_rows, n_columns)
    rng = np.random.default_rng(1)
    rows, row_weight = rng.normal(size=(n_rows, 3)), rng.uniform(0, 4, n_rows)
    start = tensor(rng.normal(size=(n_columns, 3)))
    found = features.ridge(tensor(rows), tensor(row_weight), start)
    design = np.hstack([matrix, np.ones((n_rows, 1))])
    energy = (matrix**2).sum(axis=1).mean()
    penalty = PENALTY * energy * row_weight.mean() * np.eye(n_columns + 1)
    penalty[-1, -1] = 0
    expected = np.linalg.solve(
        design.T * row_weight @ design + penalty, design.T * row_weight @ rows
    )
    assert_allclose(found, expected[:-1], atol=1e-4)


@pytest.mark.parametrize("n_columns", [1, 6, 60])
def test_leverages_are_the_diagonal_of_the_matrix_of_a_ridge(monkeypatch, n_columns):
    monkeypatch.setattr(_row_features, "RIDGE_TOL", 1e-4)
    monkeypatch.setattr(_row_features, "RIDGE_MAX_STEPS", 500)
    monkeypatch.setattr(_row_features, "N_PROBES", 2**13)
    features, matrix = random_features(40, n_columns)
    weight = np.random.default_rng(1).uniform(0.1, 4, 40)
    share = weight / weight.sum()
    centred = matrix - share @ matrix
    energy = (matrix**2).sum(axis=1).mean()
    penalty = PENALTY * energy * weight.mean() * np.eye(n_columns)
    inverse = np.linalg.inv(centred.T * weight @ centred + penalty)
    hat = matrix @ inverse @ (centred.T * weight)
    assert_allclose(features.leverages(tensor(weight)), np.diag(hat), atol=0.02)


def test_ridge_is_as_exact_as_its_tolerance_in_few_steps():
    features, matrix = random_features(200, 5)
    truth = np.random.default_rng(2).normal(size=(5, 2))
    found = features.ridge(tensor(matrix @ truth), torch.ones(200), torch.zeros(5, 2))
    assert_allclose(found, truth, rtol=0.15, atol=0.05)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e6])
def test_constant_columns_have_no_effect(value):
    features = RowFeatures(sparse.csr_array(np.full((12, 2), value)))
    found = features.ridge(torch.randn(12, 3), torch.ones(12), torch.ones(2, 3))
    assert not found.any()
    features, _ = random_features(12, 2)
    found = features.ridge(torch.randn(12, 3), torch.zeros(12), torch.ones(2, 3))
    assert not found.any()


def test_features_move_with_a_network_but_are_not_trained():
    features, _ = random_features(8, 5)
    assert not list(features.parameters())
    assert "mean" in features.state_dict()
