"""Products of pairs: values and gradients are those of gathered rows."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skrec._gradient.products import PairProducts, PairRows


def made(n, n_candidates, n_members, n_factors, n_users=8, n_items=7, seed=0):
    """Two tables, and pairs whose rows occur any number of times."""
    rng = np.random.default_rng(seed)
    p, q = (
        torch.from_numpy(rng.normal(size=(rows, n_members, n_factors)))
        for rows in (n_users, n_items)
    )
    users = torch.from_numpy(rng.integers(n_users, size=n))
    items = torch.from_numpy(rng.integers(n_items, size=(n, n_candidates)))
    return p, q, users, items


def gathered(p, q, users, items):
    return (p[users][:, None] * q[items]).sum(-1)


def products(p, q, users, items):
    pairs = PairRows.of_members(users, items, len(p), len(q), p.shape[1])
    flat = PairProducts.apply(p.flatten(0, 1), q.flatten(0, 1), pairs)
    return flat.view(*items.shape, p.shape[1])


sizes = st.integers(1, 4)


@given(st.integers(0, 7), sizes, sizes, sizes, st.integers(0, 99))
def test_products_and_gradients_are_those_of_gathered_rows(n, c, m, k, seed):
    p, q, users, items = made(n, c, m, k, seed=seed)
    slope = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, c, m)))
    found = []
    for function in (products, gathered):
        tables = [table.clone().requires_grad_() for table in (p, q)]
        values = function(*tables, users, items)
        values.backward(slope)
        found.append([values.detach(), *(table.grad for table in tables)])
    torch.testing.assert_close(*found)


def test_numbers_may_exceed_two_bytes():
    p, q, users, items = made(500, 2, 2, 3, n_users=50_000, n_items=70_000)
    torch.testing.assert_close(
        products(p, q, users, items), gathered(p, q, users, items)
    )
    pairs = PairRows.of_members(users, items, len(p), len(q), 2)
    assert (pairs.items[pairs.by_item[0]].diff() >= 0).all()


@pytest.mark.parametrize("n", [56, 57])
def test_more_pairs_than_places_are_left_to_other_ways(n):
    _, _, users, items = made(n, 1, 1, 2)
    assert PairRows.of_members(users, items, 8, 7, 1).are_products_fast == (n == 56)


@pytest.mark.parametrize("n_users", [792, 793])
def test_few_pairs_of_large_tables_are_gathered(n_users):
    _, _, users, items = made(100, 1, 1, 2)
    pairs = PairRows.of_members(users, items, n_users, 8, 1)
    assert pairs.are_products_fast == (n_users == 792)
