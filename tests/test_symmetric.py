"""Inverses and roots of matrices that rounding has left asymmetric or indefinite."""

import numpy as np
import pytest
import torch
from device_simulation import simulated
from helpers import NEEDS_SIMULATION

from skrec._alternating.symmetric import (
    MAX_ELIMINATED_SIZE,
    MIN_ELIMINATED,
    cholesky,
    covariance_and_log_det,
    inverse,
    inverse_root,
    symmetrised,
    times,
    with_fixed_signs,
)


def positive_definite(size, seed, spread=1.0):
    rng = np.random.RandomState(seed)
    Q = np.linalg.qr(rng.standard_normal((size, size)))[0]
    return torch.from_numpy((Q * 10 ** rng.uniform(-spread, spread, size)) @ Q.T)


@pytest.mark.parametrize("size", [1, 2, 17, 65])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverse_is_that_of_numpy_and_symmetric_to_the_bit(size, dtype):
    A = positive_definite(size, size).to(dtype)
    found = inverse(A)
    assert found.dtype == dtype
    assert torch.equal(found, found.mT)
    rtol = 1e-4 if dtype == torch.float32 else 1e-9
    np.testing.assert_allclose(found, np.linalg.inv(A.double()), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("exponent", [-150, -30, 30, 150])
def test_inverse_of_any_scale(exponent):
    scale = torch.tensor([10.0**exponent, 1.0], dtype=torch.float64)
    A = positive_definite(2, 0)
    found = scale[:, None] * inverse(scale[:, None] * A * scale) * scale
    np.testing.assert_allclose(found, np.linalg.inv(A), rtol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_inverse_of_what_rounding_left_indefinite_is_positive_definite(seed):
    rng = np.random.RandomState(seed)
    B = rng.standard_normal((12, 3))
    A = B @ B.T + 1e-9 * rng.standard_normal((12, 12))
    found = inverse(torch.from_numpy(A).float())
    assert torch.equal(found, found.mT)
    assert torch.linalg.eigvalsh(found.double()).min() > 0
    assert torch.linalg.cholesky_ex(found.double()).info == 0


def test_inverse_keeps_eigenvalues_at_the_floor():
    A = torch.diag(torch.tensor([-1e-3, 1e-5, 2.0]))
    np.testing.assert_allclose(inverse(A, floor=0.1).diagonal(), [10, 10, 0.5])


def test_an_asymmetry_does_not_grow_when_inverted_again_and_again():
    A = positive_definite(17, 1, 2.0)
    B = A.clone()
    B[0, 1] += 1e-6
    for _ in range(100):
        B = inverse(inverse(B))
    np.testing.assert_allclose(B, symmetrised(B))
    np.testing.assert_allclose(B, A, atol=1e-5)


def test_cholesky_is_that_of_torch_where_there_is_one():
    A = torch.stack([positive_definite(5, seed) for seed in range(4)])
    assert torch.equal(cholesky(A), torch.linalg.cholesky(A))


def test_cholesky_adds_little_to_matrices_that_have_none():
    A = torch.stack([positive_definite(5, seed) for seed in range(4)]).float()
    v = torch.arange(5.0)
    A[1] = torch.outer(v, v)
    A[1].diagonal().add_(1e-7)
    A[1, 0, 0] = 1e-7
    A[3] = torch.ones(5, 5) - 1e-6 * torch.eye(5)
    roots = cholesky(A)
    np.testing.assert_allclose(roots @ roots.mT, A, rtol=1e-3, atol=1e-4)
    whole = torch.linalg.cholesky(A[[0, 2]])
    assert torch.equal(roots[[0, 2]], whole)


def test_cholesky_refuses_what_is_not_finite():
    A = torch.eye(3).repeat(2, 1, 1)
    A[1, 0, 0] = torch.nan
    with pytest.raises(torch.linalg.LinAlgError, match="not finite"):
        cholesky(A)


def random_precisions(size, n=4):
    root = np.random.default_rng(0).normal(size=(n, size, size))
    return torch.as_tensor(root @ root.transpose(0, 2, 1) / size) + torch.eye(size)


@pytest.mark.parametrize("size", [1, 5, 24, 25, 49, 65, 130])
def test_inverse_root_is_that_of_the_cholesky_factor(size):
    A = random_precisions(size)
    root = inverse_root(A)
    np.testing.assert_allclose(root.mT @ root, torch.linalg.inv(A), atol=1e-10)
    assert (root.triu(1) == 0).all()


@pytest.mark.parametrize("size", [1, 5, 24, 25, 49])
def test_covariances_and_log_dets_are_those_of_numpy(size):
    A = random_precisions(size)
    covariance, log_det = covariance_and_log_det(A)
    np.testing.assert_allclose(covariance, np.linalg.inv(A), atol=1e-10)
    assert log_det == pytest.approx(-np.linalg.slogdet(A)[1].sum())


@pytest.mark.parametrize("size", [1, 2, MAX_ELIMINATED_SIZE, MAX_ELIMINATED_SIZE + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_covariances_of_many_small_matrices_are_those_of_numpy(size, dtype):
    A = random_precisions(size, n=MIN_ELIMINATED).to(dtype)
    A *= torch.logspace(-6, 6, len(A))[:, None, None]
    before = A.clone()
    covariance, log_det = covariance_and_log_det(A)
    exact = A.double().numpy()
    inverses = np.linalg.inv(exact)
    scale = np.abs(inverses).max(axis=(1, 2), keepdims=True)
    atol = 1e-5 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(covariance.numpy() / scale, inverses / scale, atol=atol)
    assert log_det == pytest.approx(-np.linalg.slogdet(exact)[1].sum(), abs=1e-3)
    assert torch.equal(A, before)
    if size <= MAX_ELIMINATED_SIZE:
        assert torch.equal(covariance, covariance.mT)


def test_small_matrices_that_rounding_left_indefinite_have_covariances():
    v = torch.arange(1.0, 4.0)
    A = torch.outer(v, v).repeat(MIN_ELIMINATED, 1, 1)
    A[1:] += torch.eye(3)
    covariance, log_det = covariance_and_log_det(A)
    np.testing.assert_allclose(covariance[1:], torch.linalg.inv(A[1:]), atol=1e-5)
    assert np.isfinite(float(log_det))
    assert (torch.linalg.eigvalsh(covariance[0].double()) > -1e-3).all()
    A[5, 0, 0] = torch.nan
    with pytest.raises(torch.linalg.LinAlgError, match="not finite"):
        covariance_and_log_det(A)


def test_times_is_the_product_of_each_matrix_and_its_vector():
    A, x = random_precisions(5), torch.arange(20.0).double().view(4, 5)
    lying_last = A.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    product = torch.einsum("njk,nk->nj", A, x)
    for matrices in (A, lying_last):
        out = torch.empty_like(x)
        np.testing.assert_allclose(times(matrices, x), product)
        assert times(matrices, x, out=out) is out
        np.testing.assert_allclose(out, product)


def test_signs_are_those_of_the_largest_entries():
    vectors = torch.linalg.eigh(random_precisions(5)[0]).eigenvectors
    flip = torch.tensor([1.0, -1, 1, -1, -1])
    found = with_fixed_signs(vectors)
    assert torch.equal(found, with_fixed_signs(vectors * flip))
    np.testing.assert_array_equal(found.abs(), vectors.abs())
    assert (found.max(0).values == vectors.abs().max(0).values).all()


@NEEDS_SIMULATION
@pytest.mark.parametrize("floor", [0.0, 0.01])
@pytest.mark.parametrize("smallest", [0.5, -1e-3])
def test_inverses_of_a_device_are_those_of_the_cpu(smallest, floor):
    rng = np.random.default_rng(0)
    Q, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    values = np.append(rng.uniform(1, 9, 4), smallest)
    matrix = torch.from_numpy((Q * values) @ Q.T)
    expected = inverse(matrix, floor=floor)
    with simulated():
        found = inverse(matrix.to("simulated"), floor=floor).cpu()
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert torch.equal(found, found.T)
