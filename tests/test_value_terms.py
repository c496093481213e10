"""Fitted terms of context, against loops over pairs."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skrec._alternating.value_terms import (
    FittedColumn,
    FittedEffects,
    FittedFactors,
    FittedLevels,
    FittedPairs,
)
from skrec._data.vocabulary import Growth

N_ROWS, N_VALUES, SIZE = 5, 3, 2


def factors(rng, n, n_draws=1):
    mean = rng.normal(size=(n_draws, n + 1, SIZE))
    mean[:, -1] = 0
    half = rng.normal(size=(n + 1, SIZE, SIZE))
    return FittedFactors(mean, half @ half.swapaxes(1, 2) if n_draws == 1 else None)


def effects(rng, n):
    mean = np.append(rng.normal(size=n), 0)
    return FittedEffects(mean, rng.uniform(0.1, 1, n + 1))


def pairs_of(seed=0, n_draws=1, n_rows=N_ROWS):
    """Pairs, with levels where there is a single draw."""
    rng = np.random.default_rng(seed)
    keys = np.flatnonzero(rng.random(n_rows * N_VALUES) < 0.5)
    pairs = FittedPairs(
        factors(rng, n_rows, n_draws),
        factors(rng, N_VALUES, n_draws),
        keys,
        effects(rng, len(keys)),
    )
    if n_draws > 1:
        return pairs
    # Given its level, the effects of a row are independent.
    variance, along = rng.uniform(0.1, 1, n_rows + 1), rng.normal(size=len(keys))
    covariance = -along * variance[keys // N_VALUES]
    pairs.effects.variance[:-1] -= along * covariance
    levels = FittedLevels(variance, np.append(covariance, 0))
    return replace(pairs, levels=levels)


def drawn_terms(column, u, i, at, random_state):
    """A draw of the terms of ratings, with the levels of their rows."""
    drawn, levels = column.draw(0, random_state)
    assert levels.user[-1] == levels.item[-1] == 0
    return drawn.mean(u, i, at) + levels.user[u] + levels.item[i]


def every_pair(n_rows=N_ROWS):
    rows, values = np.indices((n_rows + 1, N_VALUES + 1)).reshape(2, -1) - 1
    return rows, values


@pytest.mark.parametrize("n_draws", [1, 3])
def test_moments_are_those_of_products_and_effects(n_draws):
    pairs = pairs_of(n_draws=n_draws)
    rows, values = every_pair()
    means, variances = pairs.mean(rows, values), pairs.variance(rows, values)
    for row, value, mean, variance in zip(rows, values, means, variances, strict=True):
        place = np.flatnonzero(pairs.keys == row * N_VALUES + value)
        is_known = min(row, value) >= 0 and len(place)
        place = place[0] if is_known else -1
        products = [
            a[row] @ r[value]
            for a, r in zip(pairs.rows.mean, pairs.values.mean, strict=True)
        ]
        expected = pairs.effects.variance[place]
        if n_draws == 1:
            a, r = pairs.rows.mean[0, row], pairs.values.mean[0, value]
            S, T = pairs.rows.covariance[row], pairs.values.covariance[value]
            expected += r @ S @ r + a @ T @ a + np.sum(S * T)
            expected += pairs.levels.variance[row] + 2 * pairs.levels.covariance[place]
        else:
            expected += np.var(products)
        assert_allclose(mean, np.mean(products) + pairs.effects.mean[place])
        assert_allclose(variance, expected)


def test_what_is_unknown_has_no_effect():
    pairs = pairs_of()
    rows, values = every_pair()
    means = pairs.mean(rows, values)
    assert not means[(rows < 0) | (values < 0)].any()
    assert_array_equal(
        pairs.table(np.arange(3), np.arange(5)).T.ravel(),
        means[(rows >= 0) & (values >= 0)],
    )


def test_rows_that_are_kept_keep_their_terms():
    pairs, kept = pairs_of(), np.array([1, 4])
    rows, values = every_pair(2)
    before = np.append(kept, -1)[rows]
    for name in ("mean", "variance"):
        assert_allclose(
            getattr(pairs.without(kept), name)(rows, values),
            getattr(pairs, name)(before, values),
        )


def test_new_rows_stand_among_the_others_without_terms():
    pairs = pairs_of()
    growth = Growth.of(np.arange(0, 10, 2), np.array([3, 4, 11]), np.array([-1, 2, -1]))
    grown = pairs.grown(growth)
    rows, values = every_pair()
    after = np.where(rows < 0, -1, growth.shifted(rows))
    assert_allclose(grown.mean(after, values), pairs.mean(rows, values))
    assert_allclose(grown.variance(after, values), pairs.variance(rows, values))
    for new in growth.given[growth.is_new]:
        assert not grown.mean(np.full(N_VALUES, new), np.arange(N_VALUES)).any()


def test_draws_have_the_moments_of_the_posterior():
    column = FittedColumn(
        effects(np.random.default_rng(1), N_VALUES),
        pairs_of(2),
        pairs_of(3),
        np.ones(3),
    )
    rng = np.random.RandomState(0)
    at = np.array([0, 1, 4]), np.array([2, 2, 0]), (np.array([0, 1, 2]), np.ones(3))
    drawn = np.stack([drawn_terms(column, *at, rng) for _ in range(1500)])
    assert_allclose(drawn.mean(0), column.mean(*at), atol=0.4)
    assert_allclose(drawn.var(0), column.variance(*at), rtol=0.25)
    # Without a value, the levels of the rows are left.
    unknown = np.full(3, -1), np.ones(3)
    terms = [drawn_terms(column, *at[:2], unknown, rng) for _ in range(1500)]
    expected = column.users.levels.variance[at[0]] + column.items.levels.variance[at[1]]
    assert_allclose(np.var(terms, axis=0), expected, rtol=0.15)
    drawn, _ = column.draw(0, rng)
    assert drawn.mean(*at[:2], unknown).tolist() == [0, 0, 0]


def test_values_of_a_row_share_its_level():
    """Draws of two terms of a row have the covariance that their level makes."""
    pairs = pairs_of(4)
    rows, counts = np.unique(pairs.keys // N_VALUES, return_counts=True)
    row = rows[counts > 1][0]
    places = np.flatnonzero(pairs.keys // N_VALUES == row)[:2]
    certain = replace(
        pairs,
        rows=replace(pairs.rows, covariance=None),
        values=replace(pairs.values, covariance=None),
    )
    rng = np.random.RandomState(0)
    terms = np.empty((4000, 2))
    for n in range(len(terms)):
        drawn, levels = certain.draw(0, rng)
        terms[n] = drawn.effects.mean[places] + levels[row]
    v = pairs.levels.variance[row]
    c = pairs.levels.covariance[places]
    expected = v + c[:, None] + c + np.outer(c, c) / v
    diagonal = pairs.effects.variance[places] + v + 2 * c
    np.fill_diagonal(expected, diagonal)
    assert_allclose(np.cov(terms.T), expected, atol=0.1 * diagonal.max())


def test_terms_are_a_part_of_users_and_a_part_of_items():
    column = FittedColumn(
        effects(np.random.default_rng(1), N_VALUES),
        pairs_of(2),
        pairs_of(3),
        np.ones(3),
    )
    u, i, v = np.array([0, -1, 3]), np.array([4, 2, -3]), np.array([1, 2, 0])
    at = v, np.ones(3)
    table = column.of_items(at, i)
    assert_allclose(column.of_users(u, at) + table.diagonal(), column.mean(u, i, at))


def slopes(seed=0):
    """A column of numbers, with levels that know their slopes."""
    rng, sides = np.random.default_rng(seed), []
    for n in (N_ROWS, N_ROWS):
        mean, half = np.append(rng.normal(size=n), 0), rng.normal(size=(n + 1, 2, 2))
        S = half @ half.swapaxes(1, 2)
        levels = FittedLevels(S[:, 1, 1], S[:, 0, 1])
        for values in (levels.variance, levels.covariance):
            values[-1] = 0
        nothing = (FittedFactors(np.zeros((1, k + 1, 0)), None) for k in (n, 1))
        effects_of = FittedEffects(mean, S[:, 0, 0])
        sides.append(FittedPairs(*nothing, np.arange(n), effects_of, levels))
    no_value = FittedEffects(np.zeros(1), np.zeros(1))
    return FittedColumn(no_value, *sides, np.zeros(0), number=1)


X = np.array([[7.0, 0.0], [7.0, -2.0], [7.0, 1.5], [7.0, 1.5]])


def test_slopes_are_multiplied_by_the_number_of_each_rating():
    column = slopes()
    u, i = np.array([0, 4, -1, 2]), np.array([3, -1, -1, 3])
    at = column.at(X, iter(()))
    slope = column.users.effects.mean[u] + column.items.effects.mean[i]
    assert_allclose(column.mean(u, i, at), X[:, 1] * slope)
    expected = np.zeros(4)
    for pairs, rows in ((column.users, u), (column.items, i)):
        expected += X[:, 1] ** 2 * pairs.effects.variance[rows]
        expected += 2 * X[:, 1] * pairs.levels.covariance[rows]
        expected += pairs.levels.variance[rows]
    assert_allclose(column.variance(u, i, at), expected)
    table = column.of_items(at, i)
    assert_allclose(column.of_users(u, at) + table.diagonal(), column.mean(u, i, at))


def test_draws_of_slopes_know_how_far_they_are_from_the_ratings():
    column = slopes(1)
    u, i = np.array([0, 4, 1, 2]), np.array([3, 2, 0, 3])
    at = column.at(X, iter(()))
    rng = np.random.RandomState(0)
    drawn = np.stack([drawn_terms(column, u, i, at, rng) for _ in range(3000)])
    std = np.sqrt(column.variance(u, i, at))
    assert_allclose(drawn.mean(0), column.mean(u, i, at), atol=0.08 * std.max())
    assert_allclose(drawn.std(0), std, rtol=0.06)


def test_slopes_of_rows_that_are_kept_or_new():
    column, kept = slopes(), np.array([1, 4])
    u = i = np.array([0, 1, -1, 0])
    at = column.at(X, iter(()))
    before = np.append(kept, -1)[u]
    for name in ("mean", "variance"):
        assert_allclose(
            getattr(column.without(kept, kept), name)(u, i, at),
            getattr(column, name)(before, before, at),
        )
    growth = Growth.of(np.arange(0, 10, 2), np.array([3, 11]), np.array([-1, -1]))
    grown = column.grown(growth, growth)
    new = np.resize(growth.given, 4)
    assert not grown.mean(new, new, at).any()
    assert_allclose(
        grown.variance(new, new, at),
        column.variance(np.full(4, -1), np.full(4, -1), at),
    )


def test_effects_are_against_the_mean_of_all_ratings():
    rng = np.random.default_rng(0)
    weight = np.array([1.0, 3.0, 6.0])
    column = FittedColumn(effects(rng, 3), pairs_of(2), pairs_of(3), weight)
    mean, std = column.effects()
    assert_allclose(mean @ weight, 0, atol=1e-12)
    assert_allclose(np.diff(mean), np.diff(column.values.mean[:-1]))
    share = weight / 10
    variance = column.values.variance[:-1]
    assert_allclose(std[0] ** 2, (np.eye(3)[0] - share) ** 2 @ variance)
