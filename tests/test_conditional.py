"""The Gaussian conditional against dense normal equations in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from skrec import _sparse
from skrec._alternating import layout as layout_module
from skrec._alternating import ratings as _ratings
from skrec._alternating import symmetric as _symmetric
from skrec._alternating.conditional import (
    MAX_LEVEL_ERROR,
    Conditional,
    Sums,
    UpdatedRows,
    fitted_values,
    squares_of_level,
)
from skrec._alternating.layout import Layout
from skrec._alternating.moments import SideMoments, unobserved_moments
from skrec._alternating.ratings import Ratings, UnobservedPairs
from skrec._alternating.symmetric import is_last

N_ROWS, N_OTHERS, N_FACTORS = 7, 5, 3


def random_covariance(rng, n, size):
    root = rng.normal(size=(n, size, size))
    return root @ root.transpose(0, 2, 1) / size


@pytest.fixture(params=[True, False], ids=["biased", "plain"])
def biased(request):
    return request.param


@pytest.fixture
def case(biased):
    """A side's ratings, the other side's moments, and all of it as NumPy arrays."""
    rng = np.random.default_rng(0)
    size = N_FACTORS + biased
    rows, others = np.nonzero(rng.random((N_ROWS, N_OTHERS)) < 0.6)
    rows, others = rows[rows != 3], others[rows != 3]
    case = {
        "rows": rows,
        "others": others,
        "y": rng.normal(size=len(rows)),
        "w": rng.uniform(0.5, 2, size=len(rows)),
        "mean": rng.normal(size=(N_OTHERS, size)),
        "covariance": random_covariance(rng, N_OTHERS, size),
        "precision": rng.uniform(0.5, 2, size=N_OTHERS),
        "m": rng.normal(size=size),
        "Lambda": random_covariance(rng, 1, size)[0] + np.eye(size),
        "beta": rng.uniform(0.5, 2, size=N_ROWS),
    }
    layout = Layout(N_FACTORS, biased, torch.device("cpu"))
    tensors = {name: torch.as_tensor(value) for name, value in case.items()}
    ratings = Ratings.from_sorted(
        tensors["rows"], tensors["others"], N_ROWS, tensors["w"], tensors["y"]
    )
    packed = layout.pack(tensors["covariance"])
    moments = SideMoments.of(tensors["mean"], packed, tensors["precision"], layout, map)
    sums = Sums.over(ratings, moments, layout)
    return case, tensors, layout, ratings, sums


def design(case, rating, biased):
    """E[z], Cov[z], E[c] and Cov[z, c] of the other side's row of a rating."""
    other = case["others"][rating]
    mean, covariance = case["mean"][other], case["covariance"][other]
    k = N_FACTORS
    z, S = mean[:k], covariance[:k, :k]
    if not biased:
        return z, S, 0.0, np.zeros(k), 0.0
    z = np.append(z, 1)
    S = np.pad(S, ((0, 1), (0, 1)))
    return z, S, mean[k], np.append(covariance[:k, k], 0), covariance[k, k]


def brute_force_posterior(case, row, biased):
    A = case["Lambda"].copy()
    h = case["Lambda"] @ case["m"]
    for rating in np.flatnonzero(case["rows"] == row):
        z, S, c, zc, _ = design(case, rating, biased)
        weight = case["beta"][row] * case["w"][rating]
        weight *= case["precision"][case["others"][rating]]
        A += weight * (np.outer(z, z) + S)
        h += weight * (z * (case["y"][rating] - c) - zc)
    return np.linalg.solve(A, h), np.linalg.inv(A)


def given(case, sums=None):
    _, tensors, _, _, all_sums = case
    prior = tensors["m"], tensors["Lambda"]
    return Conditional.given(sums or all_sums, tensors["beta"], *prior)


@pytest.mark.parametrize("max_lapack_size", [1, 24])
def test_posterior_is_that_of_the_dense_normal_equations(
    case, biased, monkeypatch, max_lapack_size
):
    monkeypatch.setattr(_symmetric, "MAX_LAPACK_SIZE", max_lapack_size)
    mean, covariance, log_det = given(case).moments()
    expected_log_det = 0.0
    for row in range(N_ROWS):
        expected_mean, expected = brute_force_posterior(case[0], row, biased)
        np.testing.assert_allclose(mean[row], expected_mean, rtol=1e-9)
        np.testing.assert_allclose(covariance[row], expected, rtol=1e-9, atol=1e-12)
        expected_log_det += np.linalg.slogdet(expected).logabsdet
    assert log_det == pytest.approx(expected_log_det)
    np.testing.assert_allclose(given(case).mean(), mean, rtol=1e-9)


def updated_rows(case):
    """Rows after further ratings, where each has a prior of its own."""
    _, tensors, _, _, sums = case
    rng = np.random.default_rng(1)
    size = len(tensors["m"])
    mean = torch.as_tensor(rng.normal(size=(N_ROWS, size)))
    covariance = torch.as_tensor(random_covariance(rng, N_ROWS, size))
    return UpdatedRows(sums, tensors["beta"], mean, covariance)


@pytest.mark.parametrize("distribution", [given, updated_rows])
def test_means_are_those_of_the_moments(case, distribution):
    gaussians = distribution(case)
    np.testing.assert_allclose(gaussians.mean(), gaussians.moments()[0], rtol=1e-9)


@pytest.mark.parametrize("distribution", [given, updated_rows])
def test_draws_are_linear_in_the_normal_ones_they_are_made_of(
    case, biased, distribution
):
    conditional = distribution(case)
    mean, covariance, _ = conditional.moments()
    ways = []
    for one in torch.eye(N_FACTORS + biased).double():
        ways.append(conditional.draw(one.expand_as(mean)) - mean)
    root = torch.stack(ways, dim=2)
    np.testing.assert_allclose(root @ root.mT, covariance, rtol=1e-9, atol=1e-12)


def test_a_prior_of_each_row_makes_of_parts_what_one_prior_makes_of_the_whole(case):
    _, tensors, layout, ratings, _ = case
    packed, one = layout.pack(tensors["covariance"]), torch.ones(N_OTHERS).double()
    moments = SideMoments.of(tensors["mean"], packed, one, layout, map)

    def sums_of(share):
        part = replace(ratings, weight=ratings.weight * share)
        return Sums.over(part, moments, layout)

    mean, first, _ = given(case, sums_of(0.3)).moments()
    found = UpdatedRows(sums_of(0.7), tensors["beta"], mean, first).moments()
    for part, whole in zip(found, given(case, sums_of(1)).moments(), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-9, atol=1e-12)


def test_a_row_without_ratings_is_the_prior(case):
    arrays = case[0]
    mean, covariance, _ = given(case).moments()
    np.testing.assert_allclose(mean[3], arrays["m"], rtol=1e-9)
    np.testing.assert_allclose(
        torch.linalg.inv(covariance[3]), arrays["Lambda"], rtol=1e-9
    )


def brute_force_residual(arrays, biased, x, T):
    """Mean over draws of both sides, for rows of mean x and covariance T."""
    expected = np.zeros(N_ROWS)
    for rating, row in enumerate(arrays["rows"]):
        z, S, c, zc, cc = design(arrays, rating, biased)
        weight = arrays["w"][rating] * arrays["precision"][arrays["others"][rating]]
        error = arrays["y"][rating] - x[row] @ z - c
        spread = x[row] @ S @ x[row] + z @ T[row] @ z + np.trace(S @ T[row])
        expected[row] += weight * (error**2 + spread + 2 * x[row] @ zc + cc)
    return expected


def test_residual_is_the_mean_over_draws_of_both_sides(case, biased):
    arrays, tensors, _, _, sums = case
    rng = np.random.default_rng(1)
    size = N_FACTORS + biased
    x = torch.as_tensor(rng.normal(size=(N_ROWS, size)))
    T = torch.as_tensor(random_covariance(rng, N_ROWS, size))
    updated = UpdatedRows(sums, tensors["beta"], 0 * x, 0 * T)
    conditional = given(case)
    own = conditional.moments()[1]
    for part, spread in (
        (updated, T),
        (updated, None),
        (conditional, own),
        (conditional, None),
    ):
        zero_or = torch.zeros_like(T) if spread is None else spread
        np.testing.assert_allclose(
            part.residual(x, spread),
            brute_force_residual(arrays, biased, x.numpy(), zero_or.numpy()),
            rtol=1e-9,
            atol=1e-10,
        )


@pytest.mark.parametrize("biased", [True], indirect=True)
def test_a_level_has_the_squares_of_the_mean_residual_beyond_its_noise(case):
    arrays, _, _, _, sums = case
    x = np.random.default_rng(1).normal(size=(N_ROWS, N_FACTORS + 1))
    residual, weight = np.zeros(N_ROWS), np.zeros(N_ROWS)
    for rating, row in enumerate(arrays["rows"]):
        z, _, c, _, _ = design(arrays, rating, True)
        w = arrays["w"][rating] * arrays["precision"][arrays["others"][rating]]
        residual[row] += w * (arrays["y"][rating] - x[row] @ z - c)
        weight[row] += w
    level = residual**2 / np.maximum(weight, 1e-300)
    # Among the noise of some rows, and beyond that of others.
    beta = MAX_LEVEL_ERROR**2 / np.median(level)
    rows = torch.as_tensor(x)
    found = squares_of_level(sums.g[:, -1], sums.G_of_bias, rows, beta)
    expected = np.maximum(level - np.median(level), 0)
    assert (expected > 0).any()
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_pack_and_unpack_are_inverse(case):
    _, tensors, layout, _, _ = case
    packed = layout.pack(tensors["covariance"])
    assert packed.shape == (N_OTHERS, layout.n_packed_row)
    np.testing.assert_array_equal(layout.unpack(packed), tensors["covariance"])
    lying_last = layout.unpack_last(packed)
    assert is_last(lying_last)
    np.testing.assert_array_equal(lying_last, tensors["covariance"])
    out = torch.empty_like(packed)
    assert layout.pack(lying_last, out=out) is out
    assert torch.equal(out, packed)
    assert torch.equal(layout.pack(lying_last), packed)


@pytest.mark.parametrize("has_sampled_products", [True, False])
def test_fitted_values_are_predictions(case, biased, has_sampled_products, monkeypatch):
    if not has_sampled_products:
        monkeypatch.setattr(_sparse, "has_sampled_products", lambda device: False)
    arrays, tensors, layout, ratings, _ = case
    x = np.random.default_rng(2).normal(size=(N_ROWS, N_FACTORS + biased))
    fitted = fitted_values(ratings, torch.as_tensor(x), tensors["mean"], layout)
    k = N_FACTORS
    x, q = x[arrays["rows"]], arrays["mean"][arrays["others"]]
    expected = (x[:, :k] * q[:, :k]).sum(1) + x[:, k:].sum(1) + q[:, k:].sum(1)
    np.testing.assert_allclose(fitted, expected)


@pytest.mark.parametrize("unobserved", [False, True])
def test_wide_points_have_the_sums_of_narrow_ones(monkeypatch, biased, unobserved):
    rng = np.random.default_rng(3)
    rows, others = np.nonzero(rng.random((40, 30)) < 0.2)
    kept = ~np.isin(rows, (7, 39))
    rows, others = rows[kept], others[kept]
    layout = Layout(4, biased, torch.device("cpu"))
    y, w = rng.normal(size=len(rows)), rng.uniform(0.5, 2, size=len(rows))
    mean = torch.as_tensor(rng.normal(size=(30, layout.row_size)))
    precision = torch.as_tensor(rng.uniform(0.5, 2, size=30))
    tensors = map(torch.as_tensor, (rows, others))
    ratings = Ratings.from_sorted(*tensors, 40, *map(torch.as_tensor, (w, y)))
    one, none = torch.ones(40).double(), torch.zeros(layout.n_packed).double()
    pairs = UnobservedPairs(0.3, one, torch.ones(30).double(), none, 0)

    def sums():
        moments = SideMoments.of(mean, None, precision, layout, map)
        everywhere = (
            unobserved_moments(pairs, moments, layout)(slice(None))
            if unobserved
            else None
        )
        return moments, Sums.over(ratings, moments, layout, everywhere)

    share = torch.as_tensor(rng.uniform(0.5, 2, size=30))
    moments, narrow = sums()
    total = moments.total(share, layout)
    assert moments.roots is None
    monkeypatch.setattr(layout_module, "WIDE_SIZE", 0)
    monkeypatch.setattr(_ratings, "BLOCK_RATINGS", 20)
    moments, wide = sums()
    assert moments.roots is not None
    np.testing.assert_allclose(moments.total(share, layout), total)
    for name in ("G", "g", "s"):
        np.testing.assert_allclose(
            getattr(wide, name), getattr(narrow, name), atol=1e-10, err_msg=name
        )


def test_parts_of_columns_have_the_sums_of_the_whole(biased, monkeypatch):
    rng = np.random.default_rng(5)
    layout = Layout(3, biased, torch.device("cpu"))
    mean = torch.as_tensor(rng.normal(size=(7, layout.row_size)))
    covariance = torch.as_tensor(random_covariance(rng, 7, layout.row_size))
    rows = torch.as_tensor(np.sort(rng.integers(0, 5, 40)))
    others = torch.as_tensor(rng.integers(0, 7, 40))
    weight, y = torch.as_tensor(rng.uniform(0.5, 2, size=(2, 40)))
    ratings = Ratings.from_sorted(rows, others, 5, weight, y)

    def sums():
        parts = Layout(3, biased, torch.device("cpu"))
        packed = parts.pack(covariance)
        moments = SideMoments.of(mean, packed, torch.ones(7).double(), parts, map)
        found = Sums.over(ratings, moments, parts)
        return len(moments.tables), found, moments.total(weight[:7], parts)

    n_whole, whole, whole_total = sums()
    monkeypatch.setattr(layout_module, "MAX_COLUMNS", 2)
    n_parts, parts, parts_total = sums()
    assert (n_whole, n_parts) == (1, -(-layout.n_packed // 2))
    for name in ("G", "g", "s"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name))
    np.testing.assert_allclose(parts_total, whole_total)


@pytest.mark.parametrize(("first_new", "n_here"), [(4, 6), (4, 9), (0, 6), (0, 9)])
def test_pairs_that_count_as_zero_are_ratings_of_zero(biased, first_new, n_here):
    """New rows have them with all others, known rows with new ones only."""
    rng = np.random.default_rng(4)
    layout = Layout(2, biased, torch.device("cpu"))
    mean = torch.as_tensor(rng.normal(size=(9, layout.row_size)))
    covariance = torch.as_tensor(random_covariance(rng, 9, layout.row_size))
    packed, one = layout.pack(covariance), torch.ones(9).double()
    # The last others have no further ratings; of the first ones, some are new.
    here, away = slice(0, n_here), slice(n_here, 9)
    is_new = torch.as_tensor([1.0, 0.0, 1.0]).double()
    is_new_other = (torch.arange(n_here) >= first_new).double()
    absent = SideMoments.of(mean[away], packed[away], one[away], layout, map)
    pairs = UnobservedPairs(
        0.3, is_new, is_new_other, absent.total(one[away], layout), 9 - n_here
    )
    n_new = n_here - first_new
    np.testing.assert_allclose(pairs.count, [0.3 * 9, 0.3 * n_new, 0.3 * 9])

    empty = torch.zeros(0).double(), torch.zeros(0).double()
    none = torch.zeros(0, dtype=torch.long)
    ratings = Ratings.from_sorted(none, none, 3, *empty)
    moments = SideMoments.of(mean[here], packed[here], one[here], layout, map)
    found = Sums.over(
        ratings,
        moments,
        layout,
        unobserved_moments(pairs, moments, layout)(slice(0, 3)),
    )

    rows, others = np.indices((3, 9)).reshape(2, -1)
    new_others = (others >= first_new) & (others < n_here)
    counted = (is_new[rows] == 1) | torch.as_tensor(new_others)
    rows, others = torch.as_tensor(rows)[counted], torch.as_tensor(others)[counted]
    weight = torch.full((len(rows),), 0.3).double()
    ratings = Ratings.from_sorted(rows, others, 3, weight, 0 * weight)
    expected = Sums.over(
        ratings, SideMoments.of(mean, packed, one, layout, map), layout
    )
    for name in ("G", "g", "s"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), atol=1e-12, err_msg=name
        )
