"""Groups of ratings by values of context, against loops over ratings."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skrec._alternating.value_pairs import Groups, ValuePairs
from skrec._share import ALL_ROWS

CPU = torch.device("cpu")


def drawn(seed, n=25):
    rng = np.random.default_rng(seed)
    rows, values = rng.integers(4, size=n), rng.integers(-1, 3, size=n)
    return rows, values, torch.as_tensor(rng.normal(size=n))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**16))
def test_sums_of_groups_leave_unknown_values_out(seed):
    _, values, x = drawn(seed)
    groups = Groups.of(values, 3, CPU)
    (sums,) = groups.sums(x)
    expected = [x[values == v].sum() for v in range(3)]
    np.testing.assert_allclose(sums, expected, atol=1e-12)
    spread = groups.spread(sums)
    np.testing.assert_array_equal(spread, np.append(sums, 0)[values])
    some = torch.tensor([3, 1, 3])
    np.testing.assert_array_equal(groups.spread(sums, some), spread[some])


@settings(max_examples=25)
@given(seed=st.integers(0, 2**16))
def test_pairs_are_the_rows_and_values_that_have_ratings_together(seed):
    rows, values, x = drawn(seed)
    pairs = ValuePairs.between(rows, values, (4, 3), CPU)
    known = {(r, v) for r, v in zip(rows, values, strict=True) if v >= 0}
    found = list(zip(pairs.rows.tolist(), pairs.values.tolist(), strict=True))
    assert found == sorted(known)
    (sums,) = pairs.sums(x)
    for (row, value), total in zip(found, sums, strict=True):
        here = (rows == row) & (values == value)
        np.testing.assert_allclose(total, x[here].sum(), atol=1e-12)
    table = np.zeros((4, 3))
    table[pairs.rows, pairs.values] = sums
    ones = torch.ones(3, 1).double(), torch.ones(4, 1).double()
    np.testing.assert_allclose(
        pairs.by_row.sum(ones[0], sums)[:, 0], table.sum(1), atol=1e-12
    )
    by_value = pairs.by_value.sum(ones[1], sums[pairs.to_values])
    np.testing.assert_allclose(by_value[:, 0], table.sum(0), atol=1e-12)
    own = pairs.by_row_entries.sum(sums[:, None], None)[:, 0]
    np.testing.assert_allclose(own, table.sum(1), atol=1e-12)
    places = torch.tensor([0, 7, 7, 2])
    here, numbers = pairs.at(places)
    np.testing.assert_array_equal(
        here.spread(sums[numbers]), pairs.spread(sums)[places]
    )
    np.testing.assert_array_equal(here.rows, pairs.rows[numbers])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), has_numbers=st.booleans())
def test_sums_and_terms_of_pairs_are_those_of_a_design_matrix(seed, has_numbers):
    rng = np.random.default_rng(seed)
    rows, values, residual = drawn(seed)
    weight = torch.as_tensor(rng.uniform(size=len(rows)))
    x = torch.as_tensor(rng.normal(size=len(rows)))
    if has_numbers:
        # A row without ratings is a pair too.
        pairs = ValuePairs.of_rows(rows, 5, x, ALL_ROWS)
    else:
        pairs, x = ValuePairs.between(rows, values, (4, 3), CPU), torch.ones(len(rows))
    Z = np.eye(len(pairs) + 1)[pairs.of_ratings][:, :-1]
    sums = pairs.sums_over(weight, residual)
    for j, total in enumerate(sums.weight):
        np.testing.assert_allclose(total, Z.T @ (weight * x**j).numpy(), atol=1e-12)
    for j, total in enumerate(sums.residual):
        np.testing.assert_allclose(
            total, Z.T @ (weight * x**j * residual).numpy(), atol=1e-12
        )
    a, b, c = torch.as_tensor(rng.normal(size=(3, len(pairs))))
    # The number of a rating that is in no pair does not matter.
    x = np.asarray(x)
    np.testing.assert_allclose(
        pairs.terms(a, b, c),
        Z @ a.numpy() + x * (Z @ b.numpy()) + x**2 * (Z @ c.numpy()),
    )
    some = torch.tensor([3, 1, 3])
    np.testing.assert_allclose(pairs.terms(a, b, places=some), pairs.terms(a, b)[some])
    more = pairs.sums_over(weight, residual + pairs.terms(a, b))
    for found, expected in zip(sums.plus(a, b).residual, more.residual, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)
