"""Fitted terms of users and items of columns of context, in rating units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .._data.sides import Sides
from .._data.vocabulary import Growth
from .._storage import stored

# Value and number of each rating in a column of context; -1 is an unknown value, and
# the number of one that is known is 1.
Places = tuple[np.ndarray, np.ndarray]

# Pairs whose covariances are held at a time.
TILE_SIZE = 2**14


@stored
@dataclass(frozen=True)
class FittedEffects:
    """Effects and their variances; the last is that of what `fit` has not seen.

    Attributes
    ----------
    mean, variance : ndarray of shape (n_effects + 1,)
    """

    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def stack(cls, draws: Sequence[FittedEffects]) -> FittedEffects:
        """Mean and variance of draws, and of their variances."""
        means = np.stack([draw.mean for draw in draws])
        within = np.mean([draw.variance for draw in draws], axis=0)
        return cls(means.mean(axis=0), within + means.var(axis=0))

    def draw(self, random_state: np.random.RandomState) -> FittedEffects:
        """A draw, which is certain."""
        normal = random_state.standard_normal(self.mean.shape)
        drawn = self.mean + np.sqrt(self.variance) * normal
        # What is unknown keeps an effect of zero, which is the same for all of it.
        drawn[-1] = 0
        return FittedEffects(drawn.astype(self.mean.dtype), np.zeros_like(self.mean))

    def take(self, places: np.ndarray) -> FittedEffects:
        """Some effects, and that of what is not known."""
        kept = np.append(places, -1)
        return FittedEffects(self.mean[kept], self.variance[kept])


@stored
@dataclass(frozen=True)
class FittedFactors:
    """Factors of the rows of a side, or of values; the last row is an unknown one.

    Attributes
    ----------
    mean : ndarray of shape (n_draws, n_rows + 1, n_factors)
    covariance : ndarray of shape (n_rows + 1, n_factors, n_factors) or None
        None for draws, and if it is not known.
    """

    mean: np.ndarray
    covariance: np.ndarray | None

    def moments(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and covariances of rows of a single draw."""
        mean = self.mean[0, rows].astype(np.float64)
        size = mean.shape[1]
        if self.covariance is None:
            return mean, np.zeros((len(rows), size, size))
        return mean, self.covariance[rows].astype(np.float64)

    def draw(self, number: int, random_state: np.random.RandomState) -> FittedFactors:
        """A draw, which is certain."""
        mean = self.mean[number]
        if self.covariance is None:
            return FittedFactors(mean[None], None)
        normal = random_state.standard_normal(mean.shape)
        covariance = self.covariance.astype(np.float64)
        diagonal = np.einsum("njj->nj", covariance)
        diagonal += 1e-6 * diagonal.max(axis=1, keepdims=True) + 1e-30
        mean = mean + np.einsum("njk,nk->nj", np.linalg.cholesky(covariance), normal)
        mean[-1] = 0
        return FittedFactors(mean[None].astype(self.mean.dtype), None)

    def take(self, rows: np.ndarray) -> FittedFactors:
        """Some rows, and the unknown one."""
        kept = np.append(rows, -1)
        covariance = None if self.covariance is None else self.covariance[kept]
        return FittedFactors(self.mean[:, kept], covariance)

    def grown(self, own: Growth) -> FittedFactors:
        """With rows of new ids, which are as unknown ones are."""
        # New ids stand before the fitted one at this place; the unknown row stays last.
        mean = np.insert(self.mean, own.at, self.mean[:, -1:], axis=1)
        covariance = self.covariance
        if covariance is not None:
            covariance = np.insert(covariance, own.at, covariance[-1], axis=0)
        return FittedFactors(mean, covariance)


@stored
@dataclass(frozen=True)
class FittedLevels:
    """Levels of rows, which are uncertain together with the effects of their pairs.

    Their means are in the biases.

    Attributes
    ----------
    variance : ndarray of shape (n_rows + 1,)
        The last is that of an unknown row.
    covariance : ndarray of shape (n_effects + 1,)
        Of each effect and the level of its row; the last is 0.
    """

    variance: np.ndarray
    covariance: np.ndarray

    def draw(self, random_state: np.random.RandomState) -> np.ndarray:
        """Draws of all levels minus their means; an unknown row has 0."""
        normal = random_state.standard_normal(len(self.variance))
        normal[-1] = 0
        return np.sqrt(self.variance) * normal

    def effects_given(
        self, effects: FittedEffects, levels: np.ndarray, rows: np.ndarray
    ) -> FittedEffects:
        """Effects of pairs of these rows, given the levels.

        Given its level, the effects of a row are independent.
        """
        rows = np.append(rows, -1)
        tiny = np.finfo(self.variance.dtype).tiny
        slope = self.covariance / np.maximum(self.variance[rows], tiny)
        left = np.maximum(effects.variance - slope * self.covariance, 0)
        return FittedEffects(effects.mean + slope * levels[rows], left)

    def take(self, rows: np.ndarray, places: np.ndarray) -> FittedLevels:
        """Levels of some rows, with the effects at these places."""
        kept = np.append(rows, -1), np.append(places, -1)
        return FittedLevels(self.variance[kept[0]], self.covariance[kept[1]])

    def grown(self, own: Growth) -> FittedLevels:
        """With new rows, which are as unknown ones are."""
        variance = np.insert(self.variance, own.at, self.variance[-1])
        return replace(self, variance=variance)


@stored
@dataclass(frozen=True)
class FittedPairs:
    """Terms l + x (a·r + δ) of rows of one side under values, with numbers x.

    Attributes
    ----------
    rows, values : FittedFactors
        a and r.
    keys : ndarray of shape (n_pairs,)
        row * n_values + value of the pairs with ratings, sorted.
    effects : FittedEffects
        δ of these pairs.
    levels : FittedLevels or None
        l of the rows; None of points and draws, which have none beside their biases.
    """

    rows: FittedFactors
    values: FittedFactors
    keys: np.ndarray
    effects: FittedEffects
    levels: FittedLevels | None = None

    @classmethod
    def stack(cls, draws: Sequence[FittedPairs]) -> FittedPairs:
        """Draws as one object."""
        rows, values = (
            FittedFactors(np.concatenate([side.mean for side in sides]), None)
            for sides in (
                [draw.rows for draw in draws],
                [draw.values for draw in draws],
            )
        )
        effects = FittedEffects.stack([draw.effects for draw in draws])
        return FittedPairs(rows, values, draws[0].keys, effects)

    @property
    def n_values(self) -> int:
        return self.values.mean.shape[1] - 1

    def draw(
        self, number: int, random_state: np.random.RandomState
    ) -> tuple[FittedPairs, np.ndarray]:
        """A draw, which is certain, and what the levels of rows add to their biases."""
        rows = self.rows.draw(number, random_state)
        values = self.values.draw(number, random_state)
        effects, levels = self.effects, np.zeros(self.rows.mean.shape[1])
        if self.levels is not None:
            levels = self.levels.draw(random_state)
            of_pairs = self.keys // max(self.n_values, 1)
            effects = self.levels.effects_given(effects, levels, of_pairs)
        drawn = FittedPairs(rows, values, self.keys, effects.draw(random_state))
        return drawn, levels

    def places(self, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Place of each pair among the effects; -1 is one that has no ratings."""
        if not len(self.keys):
            return np.full(len(rows), -1)
        key = rows * np.int64(self.n_values) + values
        place = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        is_known = (self.keys[place] == key) & (rows >= 0) & (values >= 0)
        return np.where(is_known, place, -1)

    def mean(
        self, rows: np.ndarray, values: np.ndarray, numbers: np.ndarray | float = 1.0
    ) -> np.ndarray:
        """Expected terms of pairs; -1 is an unknown row or value."""
        known, places = (rows >= 0) & (values >= 0), self.places(rows, values)
        total = self.effects.mean[places].astype(np.float64)
        for a, r in zip(self.rows.mean, self.values.mean, strict=True):
            product = np.einsum("nk,nk->n", a[rows], r[values], dtype=np.float64)
            total += known * product / len(self.rows.mean)
        return total * numbers

    def variance(
        self, rows: np.ndarray, values: np.ndarray, numbers: np.ndarray | float = 1.0
    ) -> np.ndarray:
        """Variances of the terms of pairs."""
        total = self._variance(rows, values) * np.square(numbers)
        if self.levels is None:
            return total
        covariance = self.levels.covariance[self.places(rows, values)]
        return total + 2 * covariance * numbers + self.level_variances(rows)

    def level_variances(self, rows: np.ndarray) -> np.ndarray:
        """Variances of the levels of rows; those below 0 are unknown."""
        if self.levels is None:
            return np.zeros(len(rows))
        return self.levels.variance[np.maximum(rows, -1)].astype(np.float64)

    def _variance(self, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Variances of the terms a·r + δ of pairs."""
        total = self.effects.variance[self.places(rows, values)].astype(np.float64)
        if len(self.rows.mean) > 1:
            products = [
                np.einsum("nk,nk->n", a[rows], r[values])
                for a, r in zip(self.rows.mean, self.values.mean, strict=True)
            ]
            return total + np.var(products, axis=0)
        for start in range(0, len(rows), TILE_SIZE):
            tile = slice(start, start + TILE_SIZE)
            a, S = self.rows.moments(rows[tile])
            r, T = self.values.moments(values[tile])
            total[tile] += np.einsum("nj,njk,nk->n", r, S, r)
            total[tile] += np.einsum("nj,njk,nk->n", a, T, a) + (S * T).sum((1, 2))
        return total

    def table(
        self, values: np.ndarray, rows: np.ndarray, numbers: np.ndarray | None = None
    ) -> np.ndarray:
        """Expected terms of each value with each row, shape (n_values, n_rows)."""
        found, place = np.unique(values, return_inverse=True)
        shape = len(found), len(rows)
        of_rows, of_values = np.tile(rows, shape[0]), np.repeat(found, shape[1])
        table = self.mean(of_rows, of_values).reshape(shape)[place]
        return table if numbers is None else table * numbers[:, None]

    def without(self, kept: np.ndarray) -> FittedPairs:
        """The terms of the rows that are kept, by their new numbers."""
        rows, values = np.divmod(self.keys, max(self.n_values, 1))
        place = np.searchsorted(kept, rows)
        found = kept[np.minimum(place, len(kept) - 1)] == rows
        return replace(
            self,
            rows=self.rows.take(kept),
            keys=(place * np.int64(self.n_values) + values)[found],
            effects=self.effects.take(np.flatnonzero(found)),
            levels=self.levels and self.levels.take(kept, np.flatnonzero(found)),
        )

    def grown(self, own: Growth) -> FittedPairs:
        """The terms among rows of new ids, which have none."""
        rows, values = np.divmod(self.keys, max(self.n_values, 1))
        keys = own.shifted(rows) * np.int64(self.n_values) + values
        levels = self.levels and self.levels.grown(own)
        return replace(self, rows=self.rows.grown(own), keys=keys, levels=levels)


@stored
@dataclass(frozen=True)
class FittedColumn:
    """Terms of one column of context.

    Attributes
    ----------
    values : FittedEffects
        Effect of each value; none in a column of numbers.
    users, items : FittedPairs
    weight : ndarray of shape (n_values,)
        Total weight of the ratings under each value.
    number : int or None
        Place of a column of numbers among these; None is a column of values.
    """

    values: FittedEffects
    users: FittedPairs
    items: FittedPairs
    weight: np.ndarray
    number: int | None = None

    @classmethod
    def stack(cls, draws: Sequence[FittedColumn]) -> FittedColumn:
        """Draws as one object."""
        return FittedColumn(
            FittedEffects.stack([draw.values for draw in draws]),
            FittedPairs.stack([draw.users for draw in draws]),
            FittedPairs.stack([draw.items for draw in draws]),
            draws[0].weight,
            draws[0].number,
        )

    @property
    def n_draws(self) -> int:
        return len(self.users.rows.mean)

    def draw(
        self, number: int, random_state: np.random.RandomState
    ) -> tuple[FittedColumn, Sides[np.ndarray]]:
        """A draw, which is certain, and what it adds to the biases of rows."""
        values = self.values.draw(random_state)
        users, of_users = self.users.draw(number, random_state)
        items, of_items = self.items.draw(number, random_state)
        drawn = replace(self, values=values, users=users, items=items)
        return drawn, Sides(of_users, of_items)

    def at(self, numbers: np.ndarray, codes: Iterator[np.ndarray]) -> Places:
        """Value and number of each row, by standardised numbers and next codes.

        Without a code the value is unknown.
        """
        n_rows = len(numbers)
        if self.number is None:
            return next(codes, np.full(n_rows, -1)), np.ones(n_rows)
        return np.zeros(n_rows, dtype=np.int64), numbers[:, self.number]

    def mean(self, u: np.ndarray, i: np.ndarray, at: Places) -> np.ndarray:
        """Expected terms of ratings; users, items and values below 0 are unknown."""
        u, i, values = (np.maximum(numbers, -1) for numbers in (u, i, at[0]))
        total = self.values.mean[values].astype(np.float64)
        for pairs, rows in ((self.users, u), (self.items, i)):
            total += pairs.mean(rows, values, at[1])
        return total

    def variance(self, u: np.ndarray, i: np.ndarray, at: Places) -> np.ndarray:
        """Variances of the terms of ratings."""
        u, i, values = (np.maximum(numbers, -1) for numbers in (u, i, at[0]))
        total = self.values.variance[values].astype(np.float64)
        for pairs, rows in ((self.users, u), (self.items, i)):
            total += pairs.variance(rows, values, at[1])
        return total

    def of_users(self, u: np.ndarray, at: Places) -> np.ndarray:
        """The part of the terms that is the same for all items."""
        u, values = np.maximum(u, -1), np.maximum(at[0], -1)
        return self.values.mean[values] + self.users.mean(u, values, at[1])

    def of_items(self, at: Places, i: np.ndarray) -> np.ndarray:
        """The part that differs by item, of each place with each item."""
        return self.items.table(np.maximum(at[0], -1), np.maximum(i, -1), at[1])

    def effects(self) -> tuple[np.ndarray, np.ndarray]:
        """Effects of values against the mean of all ratings, and their deviations."""
        share = self.weight / max(self.weight.sum(), np.finfo(float).tiny)
        contrast = np.eye(len(share)) - share
        mean = contrast @ self.values.mean[:-1].astype(np.float64)
        variance = contrast**2 @ self.values.variance[:-1].astype(np.float64)
        return mean, np.sqrt(variance)

    def without_covariance(self) -> FittedColumn:
        """The same means alone."""

        def points(pairs: FittedPairs) -> FittedPairs:
            rows, values = (
                replace(side, covariance=None) for side in (pairs.rows, pairs.values)
            )
            return replace(pairs, rows=rows, values=values, levels=None)

        return replace(self, users=points(self.users), items=points(self.items))

    def without(self, users: np.ndarray, items: np.ndarray) -> FittedColumn:
        """The terms of the users and items that are kept."""
        return replace(
            self, users=self.users.without(users), items=self.items.without(items)
        )

    def grown(self, users: Growth, items: Growth) -> FittedColumn:
        """The terms among new users and items, which have none."""
        return replace(
            self, users=self.users.grown(users), items=self.items.grown(items)
        )
