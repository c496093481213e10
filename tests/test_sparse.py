"""Sums over sparse rows: bags, pieces of bags and sparse products are the same."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from device_simulation import simulated
from helpers import NEEDS_SIMULATION
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from skrec import _sparse
from skrec._sparse import SparseRows, has_sparse_products


def make_rows(seed, lengths, n_others=7):
    rng = np.random.default_rng(seed)
    offsets = np.append(0, np.cumsum(lengths))
    others = rng.integers(n_others, size=offsets[-1])
    weight, table = rng.normal(size=offsets[-1]), rng.normal(size=(n_others, 3))
    matrix = sparse.csr_array((weight, others, offsets), (len(lengths), n_others))
    index = partial(torch.as_tensor, dtype=torch.int32)
    rows = SparseRows(index(offsets), index(others))
    return rows, torch.as_tensor(weight), torch.as_tensor(table), matrix @ table


@given(
    rows=st.lists(st.integers(0, 4), max_size=20).map(sorted), n_rows=st.integers(5, 7)
)
def test_the_pattern_of_sorted_entries_has_their_rows(rows, n_rows):
    others = torch.arange(len(rows))
    pattern = SparseRows.of_entries(torch.tensor(rows).long(), others, n_rows)
    assert pattern.lengths.tolist() == [rows.count(row) for row in range(n_rows)]
    assert pattern.others.tolist() == others.tolist()


LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=6)


@NEEDS_SIMULATION
@settings(max_examples=30)
@given(seed=st.integers(0, 99), lengths=LENGTHS, most=st.sampled_from([2, 3, 16]))
def test_sums_on_a_device_are_of_short_bags(seed, lengths, most):
    rows, weight, table, expected = make_rows(seed, lengths)
    with pytest.MonkeyPatch.context() as monkeypatch, simulated() as device:
        monkeypatch.setattr(_sparse, "MAX_BAG", most)
        rows = SparseRows(rows.offsets.to("simulated"), rows.others.to("simulated"))
        weight, table = weight.to("simulated"), table.to("simulated")
        for _ in range(2):
            np.testing.assert_allclose(rows.sum(table, weight).cpu(), expected)
        sums = rows.sum_values(weight).cpu()
        assert device.longest_bag <= most
    row = np.repeat(np.arange(len(lengths)), lengths)
    np.testing.assert_allclose(sums, np.bincount(row, weight.held, len(lengths)))


@pytest.mark.parametrize("width", [16, 17, 24, 37, 171])
@pytest.mark.parametrize("is_shared", [True, False])
def test_sums_of_rows_that_are_aligned_are_those_as_they_are(width, is_shared):
    rows, weight, _, _ = make_rows(0, np.full(_sparse.N_PARTS, 7 * _sparse.MIN_READS))
    table = torch.from_numpy(np.random.default_rng(1).normal(size=(7, width))).float()
    assert rows._gains_by_alignment(table) == (width in (17, 37, 171))
    assert not rows._gains_by_alignment(table.double())
    with ThreadPoolExecutor(2) as pool:
        tile_map = pool.map if is_shared else map
        found = rows.sum(table, weight.float(), tile_map)
    assert torch.equal(found, _sparse._bags(rows, table, weight.float()))


@pytest.mark.parametrize("repeats", [1, 11, 32])
def test_a_sparse_product_is_a_sum_of_bags(repeats):
    rows, weight, table, expected = make_rows(0, [3, 0, 9, 1])
    table, expected = table.repeat(1, repeats), np.tile(expected, repeats)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = _sparse._product(rows, table, weight)
        except RuntimeError as error:
            pytest.skip(f"sparse products of the CPU need MKL: {error}")
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(rows.sum(table, weight), expected)


@NEEDS_SIMULATION
def test_a_device_without_sparse_products_is_seen_not_to_have_them():
    with simulated():
        assert not has_sparse_products(torch.device("simulated", 0))


@pytest.mark.parametrize("is_sampled", [True, False])
@pytest.mark.parametrize("n_others", [50, 2])
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 99), lengths=LENGTHS)
def test_inner_products_are_those_of_gathered_rows(n_others, is_sampled, seed, lengths):
    # Of two others there are more entries than places, which libraries refuse.
    pattern, _, table, _ = make_rows(seed, lengths, n_others)
    rows = torch.as_tensor(np.random.default_rng(seed).normal(size=(len(lengths), 3)))
    with pytest.MonkeyPatch.context() as monkeypatch:
        if not is_sampled:
            monkeypatch.setattr(_sparse, "has_sampled_products", lambda device: False)
            monkeypatch.setattr(_sparse, "GATHERED_SIZE", 10)
        found = pattern.inner_products(rows, table)
    left = rows.repeat_interleave(torch.as_tensor(lengths), dim=0)
    expected = (left * table[pattern.others.long()]).sum(1)
    np.testing.assert_allclose(found, expected, atol=1e-12)
