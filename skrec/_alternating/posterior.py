"""Posterior: the fitted model of MFRegressor, in rating units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np
import torch
from scipy import sparse

from .._data.forgotten import ForgottenRows
from .._data.interactions import Interactions
from .._data.sides import SideName
from .._data.units import Units
from .._data.vocabulary import Growth
from .._interfaces import Model, Objective, StandardisedModel
from .._sparse import ParallelMap
from .._storage import stored
from .._topk import Fill, inner_products_of_tiles
from .in_context import InContext
from .rows import Rows
from .value_terms import FittedColumn, Places

# Share of its prior expectation below which the squared length of a taste profile is
# negligible. Where ratings are noise, all factors shrink to about the same small
# length; other factors are longer by two orders of magnitude.
MIN_SIGNAL = 1e-4

# Pairs whose covariances are held at a time.
TILE_SIZE = 2**13

# Elements of items' covariances that are held at a time for a table of variances, and
# items at most.
TABLE_SIZE, MAX_TABLE_ITEMS = 2**21, 2**11


@stored
@dataclass(frozen=True)
class Posterior(StandardisedModel):
    """Posterior of y = centre + b_u + c_i + p_u·q_i + (x − x̄)·coef + noise.

    Attributes
    ----------
    users, items : Rows
    n_factors : int
        The bias of a row, if there is one, follows its factors.
    centre : float
    coef : ndarray of shape (n_context,)
    coef_covariance : ndarray of shape (n_context, n_context)
        Covariance of the coefficients of standardised context.
    noise_variance : float
        Of the mean rating of a pair of relative weight 1.
    knows_variance : bool
        Whether covariances or draws are those of a posterior. The covariances of point
        estimates are penalties in updates, and no uncertainty.
    units : Units
        Units of the ratings and the context of the fit.
    objective : Objective
    rating_range : tuple of float
    columns : tuple of FittedColumn
        Terms of users and items of columns of context.
    repeat_variance : float
        Of ratings of a pair about their mean.
    shift : float
        Part of `centre` that rows do not know of. It is as uncertain as it is large,
        since rows of little noise have less of it.
    """

    std_has_noise: ClassVar[bool] = True

    users: Rows
    items: Rows
    n_factors: int
    centre: float
    coef: np.ndarray
    coef_covariance: np.ndarray
    noise_variance: float
    knows_variance: bool
    units: Units
    objective: Objective = field(default_factory=Objective)
    rating_range: tuple[float, float] = (-np.inf, np.inf)
    columns: tuple[FittedColumn, ...] = ()
    repeat_variance: float = 0.0
    shift: float = 0.0

    @classmethod
    def average(cls, draws: Sequence[Posterior]) -> Posterior:
        """Posterior whose predictions are the means of those of draws."""
        coefs = np.stack([draw.coef for draw in draws])
        deviations = (coefs - coefs.mean(axis=0)) * np.nan_to_num(
            draws[0].units.feature_scale, posinf=0
        )
        covariances = [draw.coef_covariance for draw in draws]
        return replace(
            draws[0],
            users=Rows.stack([draw.users for draw in draws]),
            items=Rows.stack([draw.items for draw in draws]),
            coef=coefs.mean(axis=0),
            coef_covariance=np.mean(covariances, axis=0)
            + deviations.T @ deviations / len(draws),
            noise_variance=float(np.mean([draw.noise_variance for draw in draws])),
            knows_variance=True,
            columns=tuple(
                FittedColumn.stack(columns)
                for columns in zip(*(draw.columns for draw in draws), strict=True)
            ),
        )

    @property
    def intercept(self) -> float:
        """Prediction at a context of 0, without factors and biases."""
        return self.centre - float(self.coef @ self.units.feature_mean)

    @property
    def centre_of_fit(self) -> float:
        """Centre of the ratings that rows were fitted to."""
        return self.centre - self.shift

    @property
    def rating_noise(self) -> float:
        """Variance of the noise of a single rating."""
        return self.noise_variance + self.repeat_variance

    @property
    def row_size(self) -> int:
        """Length of a row: the number of factors, plus one for a bias."""
        return self.users.mean.shape[2]

    def with_cold_rows(
        self, users: sparse.csr_array | None, items: sparse.csr_array | None
    ) -> Self:
        return replace(
            self,
            users=self.users if users is None else self.users.with_cold_rows(users),
            items=self.items if items is None else self.items.with_cold_rows(items),
        )

    def predict(
        self,
        users: np.ndarray,
        items: np.ndarray,
        context: np.ndarray,
        return_std: bool,
        device: torch.device,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        mean = self.objective.response(self.mean(users, items, context))
        if not return_std:
            return mean, None
        if not self.knows_variance:
            raise ValueError(
                "return_std=True needs a fit with solver='vb' and "
                "store_covariance=True, or with solver='gibbs'; fit anew with one of "
                "them."
            )
        return mean, np.sqrt(self.variance(users, items, context))

    def scorer(
        self, users: np.ndarray, items: np.ndarray, device: torch.device
    ) -> Callable[[slice], Fill]:
        vectors = self.item_vectors(items)
        return inner_products_of_tiles(self.user_vectors, users, vectors, device)

    def score_units(self, users: np.ndarray) -> tuple[float, np.ndarray]:
        means = self.users.means(users)
        bias = [mean[:, self.n_factors :].sum(axis=1) for mean in means]
        return 1.0, self.centre + np.asarray(np.mean(bias, axis=0, dtype=np.float64))

    def draw(
        self, users: np.ndarray, items: np.ndarray, random_state: np.random.RandomState
    ) -> Model:
        if not self.knows_variance:
            return super().draw(users, items, random_state)
        number = random_state.randint(len(self.users.mean))
        users, items = np.unique(users), np.unique(items)
        of_users = self.users.draw(users, number, random_state)
        of_items = self.items.draw(items, number, random_state)
        columns = [column.draw(number, random_state) for column in self.columns]
        if self.row_size > self.n_factors:
            for _, levels in columns:
                of_users = of_users.with_added_biases(levels.user[users.clip(-1)])
                of_items = of_items.with_added_biases(levels.item[items.clip(-1)])
        drawn = replace(
            self,
            users=of_users,
            items=of_items,
            columns=tuple(column for column, _ in columns),
        )
        return NumberedRows(drawn, users, items, self.objective, self.rating_range)

    def in_context(self, users: np.ndarray, context: np.ndarray) -> InContext:
        return self._in_context(self, users, context)

    def _in_context(
        self, model: Model, users: np.ndarray, context: np.ndarray
    ) -> InContext:
        """A model of these rows in a context, where numbers may be NaN."""
        centred = np.nan_to_num(self.units.centred(context), nan=0.0)
        context = context.copy()
        context[:, : centred.shape[1]] = centred + self.units.feature_mean
        return InContext(
            *(model, users, context, centred @ self.coef, self.columns),
            *(tuple(self._at(context)), self.objective, self.rating_range),
        )

    def lower_bound(self) -> Model:
        if not self.knows_variance:
            return super().lower_bound()
        return LowerBound(self, self.objective, self.rating_range)

    def row_shares(
        self, user: int, items: np.ndarray, data: Interactions, numbers: np.ndarray
    ) -> np.ndarray:
        if self.users.covariance is None or self.objective.is_of_choices:
            return super().row_shares(user, items, data, numbers)
        k, alone = self.n_factors, np.array([user])
        places = numbers[data.items]
        precision = data.weight / self.noise_variance
        if self.knows_variance:
            precision *= self.users.relative_precisions(alone)[0]
            precision *= self.items.relative_precisions(places)[0]
        (z,), (others,) = self.items.means(places), self.items.means(items)
        z, others = z.astype(np.float64), others.astype(np.float64)
        bias = z[:, k:].sum(axis=1)
        z[:, k:] = others[:, k:] = 1
        linear = self.units.centred(data.context) @ self.coef
        linear += self.column_means(np.full(len(places), user), places, data.context)
        terms = (data.rating - self.centre_of_fit - linear - bias)[:, None] * z
        if self.knows_variance and z.shape[1] > k:
            # Factors of an item are uncertain together with its bias.
            (S,) = self.items.covariances(places)
            terms[:, :k] -= S[:, :k, k]
        (covariance,) = self.users.covariances(alone)
        shares = others @ covariance[0] @ (precision[:, None] * terms).T
        of_items = np.zeros((len(items), len(numbers) + 1))
        np.add.at(of_items.T, data.items, shares.T)
        context = np.tile(self.units.feature_mean, (len(items), 1))
        total = self.mean(np.full(len(items), user), items, context)
        of_items[:, -1] = total - of_items.sum(axis=1)
        return of_items

    def shifted(self, shift: float) -> Posterior:
        """The same posterior with a shift of all predictions."""
        return replace(self, centre=self.centre + shift, shift=shift)

    def scale_covariances(self, ratio: float) -> Posterior:
        """The same means, with all covariances multiplied by a ratio."""
        return replace(
            self,
            users=self.users.scale_covariances(ratio),
            items=self.items.scale_covariances(ratio),
            coef_covariance=self.coef_covariance * ratio,
        )

    def without_covariance(self) -> Posterior:
        """The same means, without covariances of rows."""
        return replace(
            self,
            users=replace(self.users, covariance=None),
            items=replace(self.items, covariance=None),
            columns=tuple(column.without_covariance() for column in self.columns),
            knows_variance=self.knows_variance and self.users.covariance is None,
        )

    def with_compact_covariances(self, parallel_map: ParallelMap) -> Posterior:
        """The same means, with covariances rounded where that saves much memory."""
        users, items = (
            rows.with_compact_covariance(parallel_map)
            for rows in (self.users, self.items)
        )
        return replace(self, users=users, items=items)

    def take(self, users: np.ndarray, items: np.ndarray) -> Posterior:
        """Posterior means of numbered rows."""
        return replace(self, users=self.users.take(users), items=self.items.take(items))

    def without(self, forgotten: ForgottenRows) -> Posterior:
        users, items = forgotten.kept
        return replace(
            self,
            users=self.users.without(users, items),
            items=self.items.without(items, users),
            columns=tuple(column.without(users, items) for column in self.columns),
        )

    def with_updates(
        self, updated: Posterior, users: Growth, items: Growth
    ) -> Posterior:
        """All rows and new ones, with `updated` for the rows that are given."""
        return replace(
            updated,
            users=self.users.with_updates(updated.users, users, items),
            items=self.items.with_updates(updated.items, items, users),
            columns=tuple(column.grown(users, items) for column in self.columns),
        )

    def mean(self, u: np.ndarray, i: np.ndarray, context: np.ndarray) -> np.ndarray:
        """E[y] of pairs of row numbers, in float64."""
        total = np.zeros(len(u))
        for x, z in zip(self.users.means(u), self.items.means(i), strict=True):
            total += self._product(x, z)
        total /= len(self.users.mean)
        for unknown, rows, numbers in ((u < 0, self.items, i), (i < 0, self.users, u)):
            if unknown.any():
                total[unknown] += rows.selection_effects(numbers[unknown])
        linear = self.units.centred(context) @ self.coef
        return self.centre + linear + total + self.column_means(u, i, context)

    def column_means(
        self, u: np.ndarray, i: np.ndarray, context: np.ndarray
    ) -> np.ndarray | float:
        """Expected terms of columns of context; 0 without any."""
        pairs = zip(self.columns, self._at(context), strict=True)
        return sum((column.mean(u, i, at) for column, at in pairs), 0.0)

    def column_variances(
        self, u: np.ndarray, i: np.ndarray, context: np.ndarray
    ) -> np.ndarray | float:
        """Variances of the terms of columns of context; 0 without any."""
        pairs = zip(self.columns, self._at(context), strict=True)
        return sum((column.variance(u, i, at) for column, at in pairs), 0.0)

    def level_variances(self, u: np.ndarray, i: np.ndarray) -> list[np.ndarray]:
        """Variances of the levels of users, and of items, beside all columns."""
        totals = [np.zeros(len(u)), np.zeros(len(i))]
        for column in self.columns:
            totals[0] += column.users.level_variances(u)
            totals[1] += column.items.level_variances(i)
        return totals

    def _at(self, context: np.ndarray) -> list[Places]:
        """Value and number of each row in each column of context."""
        if not self.columns:
            return []
        numbers = self.units.standard_features(context)
        codes = iter(context[:, numbers.shape[1] :].T.astype(np.int64))
        return [column.at(numbers, codes) for column in self.columns]

    def variance(self, u: np.ndarray, i: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Var[y] of pairs of row numbers, noise included, in float64."""
        noise = self.users.relative_variances(u) * self.items.relative_variances(i)
        variance = self.rating_noise * noise + self.shift**2
        x = self.units.standard_features(context)
        variance += np.einsum("nj,jk,nk->n", x, self.coef_covariance, x)
        variance += self.column_variances(u, i, context)
        for start in range(0, len(u), TILE_SIZE):
            tile = slice(start, start + TILE_SIZE)
            variance[tile] += self._product_variance(u[tile], i[tile])
        return variance

    def variance_table(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Var[b + c + p·q] of each user with each item: within and between draws."""
        k = self.n_factors
        within, mean, between = np.zeros((3, len(users), len(items)))
        draws = zip(
            self.users.means(users),
            self.items.means(items),
            self.users.covariances(users),
            self.items.covariances(items),
            strict=True,
        )
        for n_before, (x, z, S, T) in enumerate(draws):
            x, z = x.astype(np.float64), z.astype(np.float64)
            product = x[:, k:].sum(axis=1)[:, None] + z[:, k:].sum(axis=1)
            product += x[:, :k] @ z[:, :k].T
            change = product - mean
            mean += change / (n_before + 1)
            between += change * (product - mean)
            if S.any() or T.any():
                x[:, k:] = z[:, k:] = 1
                ST = np.zeros_like(T, dtype=np.float64)
                ST[:, :k, :k] = T[:, :k, :k]
                ST += z[:, :, None] * z[:, None]
                within += _flat(S) @ _flat(ST).T
                within += _flat(x[:, :, None] * x[:, None]) @ _flat(T).T
        return (within + between) / len(self.users.mean)

    def rows(self, side: SideName) -> tuple[Rows, Rows]:
        """Rows of a side, and of the other side."""
        users, items = self.users, self.items
        return (users, items) if side == "user" else (items, users)

    def factors(self, side: SideName) -> np.ndarray:
        """Mean factors of all rows."""
        return self.rows(side)[0].mean.mean(axis=0)[:, : self.n_factors]

    def biases(self, side: SideName) -> np.ndarray:
        """Mean biases of all rows; 0 without biases."""
        return self.rows(side)[0].mean.mean(axis=0)[:, self.n_factors :].sum(axis=1)

    def index_vectors(self, side: SideName, rows: np.ndarray) -> np.ndarray:
        """Vectors of rows with inner products E[b + c + p·q], in float32.

        Draws are concatenated. The bias of a row is multiplied by a 1 of the other
        side.
        """
        k = self.n_factors
        parts = []
        for mean in self.rows(side)[0].means(rows):
            ends = [mean[:, k:], np.ones_like(mean[:, k:])]
            parts += [mean[:, :k], *(ends if side == "user" else reversed(ends))]
        vectors = np.hstack(parts) / np.sqrt(len(self.users.mean))
        return vectors.astype(np.float32)

    def item_vectors(self, rows: np.ndarray) -> np.ndarray:
        """Concatenated draws of items, in float32."""
        mean = self.items.mean
        if len(mean) == 1 and np.array_equal(rows, np.arange(mean.shape[1])):
            # No copy of the whole array.
            return mean[0].astype(np.float32, copy=False)
        return np.hstack(list(self.items.means(rows))).astype(np.float32, copy=False)

    def user_vectors(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of users with inner products E[c + p·q] with `item_vectors`."""
        k, parts = self.n_factors, []
        for mean in self.users.means(rows):
            mean[:, k:] = 1
            parts.append(mean)
        return (np.hstack(parts) / len(parts)).astype(np.float32, copy=False)

    def profiles(
        self, side: SideName, n_cold: int, device: torch.device
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors with the inner products of taste profiles, and their lengths.

        The profile of an item is the vector of p_u·q_i over all users u minus its mean:
        two items are similar if the same users like them. Likewise for users. The
        length of a profile that is negligible beside the prior's expectation is inf.
        """
        if self.n_factors == 0:
            raise ValueError(
                "Similarity compares factors, and this model has none: n_factors is 0, "
                'or "auto" found that the ratings support none. Set n_factors, such '
                "as 4, or fit the choices alone, without y."
            )
        rows, others = self.rows(side)
        k, parts, expected = self.n_factors, [], 0.0
        for own, cold, R, S, T in zip(
            rows.mean[..., :k],
            rows.means(-2 - np.arange(n_cold)),
            others.factor_sums.square_roots(),
            rows.prior_covariance[:, -1, :k, :k].astype(np.float64),
            others.prior_covariance[:, -1, :k, :k].astype(np.float64),
            strict=True,
        ):
            if n_cold:
                own = np.concatenate([own, cold[:, :k]])
            parts.append(own @ R.T.astype(own.dtype))
            expected += others.mean.shape[1] * (S * T).sum()
        profiles = np.hstack(parts).astype(np.float32, copy=False)
        # Squares in single precision overflow if ratings are large. A product with ones
        # is faster than a sum over short rows.
        square = np.square(profiles, dtype=np.float64) @ np.ones(profiles.shape[1])
        is_negligible = square <= MIN_SIGNAL * expected
        lengths = np.sqrt(np.where(is_negligible, np.inf, square))
        return profiles, lengths.astype(np.float32)

    def _product(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """b + c + p·q of pairs of rows, in float64."""
        k = self.n_factors
        product = np.einsum("nk,nk->n", x[:, :k], z[:, :k], dtype=np.float64)
        for bias in (x[:, k:], z[:, k:]):
            product += bias.sum(axis=1, dtype=np.float64)
        return product

    def _product_variance(self, u: np.ndarray, i: np.ndarray) -> np.ndarray:
        """Var[b + c + p·q] of pairs of rows: within draws, plus between draws."""
        k = self.n_factors
        uncertain = np.full(len(u), self.users.covariance is not None)
        uncertain |= (u < 0) | (i < 0)
        within, means = np.zeros(len(u)), []
        for x, z, S, T in zip(
            self.users.means(u),
            self.items.means(i),
            self.users.covariances(u[uncertain]),
            self.items.covariances(i[uncertain]),
            strict=True,
        ):
            means.append(self._product(x, z))
            x, z = x[uncertain], z[uncertain]
            x[:, k:] = z[:, k:] = 1
            Sz = np.einsum("njk,nk->nj", S, z)
            Tx = np.einsum("njk,nk->nj", T, x)
            ST = S[:, :k, :k] * T[:, :k, :k]
            within[uncertain] += (z * Sz).sum(axis=1) + (x * Tx).sum(axis=1)
            within[uncertain] += ST.sum(axis=(1, 2))
        return within / len(means) + np.var(means, axis=0)


def _flat(matrices: np.ndarray) -> np.ndarray:
    return matrices.reshape(len(matrices), -1)


@dataclass(frozen=True)
class LowerBound(Model):
    """Expected ratings minus a standard deviation of their means, noise left out.

    Attributes
    ----------
    posterior : Posterior
    """

    posterior: Posterior
    objective: Objective
    rating_range: tuple[float, float]

    def predict(
        self,
        users: np.ndarray,
        items: np.ndarray,
        context: np.ndarray,
        return_std: bool,
        device: torch.device,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        mean = self.posterior.mean(users, items, context)
        variance = self.posterior._product_variance(users, items)
        variance += self.posterior.column_variances(users, items, context)
        return mean - np.sqrt(variance), None

    def scorer(
        self, users: np.ndarray, items: np.ndarray, device: torch.device
    ) -> Callable[[slice], Fill]:
        expected = self.posterior.scorer(users, items, device)
        of_users, of_items = self.posterior.level_variances(users, items)
        size = max(1, self.posterior.row_size**2)
        width = min(MAX_TABLE_ITEMS, max(1, TABLE_SIZE // size))

        def score(tile: slice) -> Fill:
            fill_expected = expected(tile)

            def fill(columns: slice, out: torch.Tensor) -> None:
                fill_expected(columns, out)
                for start in range(columns.start, columns.stop, width):
                    stop = min(start + width, columns.stop)
                    variance = self.posterior.variance_table(
                        users[tile], items[start:stop]
                    )
                    variance += of_users[tile, None] + of_items[start:stop]
                    std = torch.from_numpy(np.sqrt(variance)).to(out)
                    out[:, start - columns.start : stop - columns.start] -= std

            return fill

        return score

    def score_units(self, users: np.ndarray) -> tuple[float, np.ndarray]:
        return self.posterior.score_units(users)


@dataclass(frozen=True)
class NumberedRows(Model):
    """A posterior of some rows, by their numbers in the posterior of all.

    Attributes
    ----------
    posterior : Posterior
    users, items : ndarray of shape (n_users,) and (n_items,)
        Sorted numbers of its rows.
    """

    posterior: Posterior
    users: np.ndarray
    items: np.ndarray
    objective: Objective
    rating_range: tuple[float, float]

    def in_context(self, users: np.ndarray, context: np.ndarray) -> InContext:
        return self.posterior._in_context(self, users, context)

    def predict(
        self,
        users: np.ndarray,
        items: np.ndarray,
        context: np.ndarray,
        return_std: bool,
        device: torch.device,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        own = np.searchsorted(self.users, users), np.searchsorted(self.items, items)
        rows = replace(self.posterior, columns=())
        mean, std = rows.predict(*own, context, return_std, device)
        # Terms of context have the numbers of all rows.
        return mean + self.posterior.column_means(users, items, context), std

    def scorer(
        self, users: np.ndarray, items: np.ndarray, device: torch.device
    ) -> Callable[[slice], Fill]:
        users = np.searchsorted(self.users, users)
        items = np.searchsorted(self.items, items)
        return self.posterior.scorer(users, items, device)

    def score_units(self, users: np.ndarray) -> tuple[float, np.ndarray]:
        return self.posterior.score_units(np.searchsorted(self.users, users))
