"""Posteriors and weights of networks, and their columns of context."""

import numpy as np
import pytest
from helpers import make_problem, run
from numpy.testing import assert_allclose, assert_array_equal

from skrec._alternating.convert import in_rating_units
from skrec._alternating.network_weights import (
    are_of_network,
    as_posterior,
    as_weights,
    fitted_columns,
    network_weights,
)
from skrec._alternating.vb import vb
from skrec._data.units import Units

N_USERS, N_ITEMS, N_VALUES = 5, 4, (3, 2)
UNITS = Units(3.0, 0.5, np.empty(0), np.empty(0))


@pytest.fixture
def weights():
    """Weights of a network whose unknown users and items are no average."""
    rng = np.random.default_rng(0)
    weights = {"value_bias": rng.normal(size=(6, 1))}
    for side, n_rows in (("user", N_USERS), ("item", N_ITEMS)):
        weights[f"{side}_context"] = rng.normal(size=(n_rows + 1, 1, 2))
        weights[f"value_{side}s"] = rng.normal(size=(6, 1, 2))
    for name in ("value_bias", "value_users", "value_items"):
        weights[name][-1] = 0
    return {name: value.astype(np.float32) for name, value in weights.items()}


@pytest.fixture
def columns(weights):
    return fitted_columns(weights, UNITS, [np.arange(1.0, 4), np.ones(2)])


def test_columns_have_the_terms_of_the_network(weights, columns):
    e, r, s, a, d = (
        weights[name][:, 0]
        for name in (
            *("value_bias", "value_users", "value_items"),
            *("user_context", "item_context"),
        )
    )
    u, i = np.array([0, 4, -1, 2]), np.array([3, -1, -1, 0])
    for place, column in enumerate(columns):
        values = np.array([0, 1, 1, -1])
        at = values, np.ones(4)
        rows = np.where(values < 0, -1, values + 3 * place)
        products = (a[u] * r[rows]).sum(1) + (d[i] * s[rows]).sum(1)
        expected = 0.5 * (e[rows] + products)
        assert_allclose(column.mean(u, i, at), expected, atol=1e-6)
        parts = column.of_users(u, at), np.diag(column.of_items(at, i))
        assert_allclose(sum(parts), expected, atol=1e-6)


def test_weights_of_columns_have_the_same_terms(columns):
    users, items = np.array([2, 0, -2]), np.arange(N_ITEMS)
    taken = network_weights(columns, users, items, UNITS)
    assert taken["user_context"].shape == (4, 1, 2)
    # Those that follow the known ones, such as new ones, are unknown.
    assert not taken["user_context"][2:].any()
    again = fitted_columns(taken, UNITS, [column.weight for column in columns])
    u, i, at = (
        np.array([0, 1, 2]),
        np.array([3, 1, -1]),
        (np.array([1, 0, 1]), np.ones(3)),
    )
    for column, other in zip(columns, again, strict=True):
        expected = column.mean(np.array([2, 0, -1]), i, at)
        assert_allclose(other.mean(u, i, at), expected, atol=1e-6)
        assert_array_equal(other.weight, column.weight)


def test_columns_without_pairs_are_those_of_a_network(columns):
    assert are_of_network(columns)
    assert fitted_columns({}, UNITS, []) == ()
    assert network_weights((), np.arange(2), np.arange(2), UNITS) == {}


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("n_context", [0, 2])
def test_weights_of_a_network_have_the_predictions_of_the_means(biased, n_context):
    problem, (u, i, _, _, context) = make_problem(
        biased=biased, n_context=n_context, described=True
    )
    # Ratings are centred where there are biases.
    number = np.arange(n_context)
    units = Units(3.0 if biased else 0.0, 2.0, number + 1.0, number + 0.5)
    state = run(vb, problem, 4)[-1]
    posterior = in_rating_units(state, units, problem, knows_variance=True)
    weights = as_weights(posterior, units)
    again = as_posterior(weights, units)
    raw = units.feature_mean + units.feature_scale * context
    assert_allclose(
        again.mean(u, i, raw), posterior.mean(u, i, raw), rtol=1e-5, atol=1e-5
    )
    assert not again.knows_variance
    found = as_weights(again, units)
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
