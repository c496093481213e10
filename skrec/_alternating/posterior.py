"""What a fitted matrix factorisation believes, in rating units, as NumPy arrays.

Points, a Gaussian posterior and draws are one thing here: draws, each with a mean and
perhaps a covariance. A row number of -1 is a row of which nothing is known; what is
believed of it is the prior that the solver has learned from the others. -2, -3 and so
on are rows of which nothing but features is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
import torch
from scipy import sparse

from .._data.units import Units
from .._data.vocabulary import Growth
from .._interfaces import Objective, StandardisedModel
from .._topk import Fill, inner_products

# Blocks of features: what the user of the package says of rows, and whom they have
# ratings with.
DESCRIBED, IMPLICIT = "described", "implicit"

# Rows are revised beside the table they are stored in until they number a share of it.
MIN_PATCH, MAX_PATCH = 2**8, 1 / 64
# Share of the squared length that the prior expects of a taste profile below which the
# profile is nothing. Where ratings are noise, factors shrink towards zero and what is
# left of them is about as small in every row; real ones are above by two orders.
MIN_SIGNAL = 1e-4

# Pairs whose covariances are held at a time.
TILE_SIZE = 2**13


@dataclass(frozen=True)
class FeatureWeights:
    """What a block of features says of rows: Bᵀf for f = scale × matrix − column_mean.

    Attributes
    ----------
    mean : ndarray of shape (n_draws or 1, n_columns, row_size)
        B; of the last draw alone where 1.
    covariance : ndarray of shape (n_draws, row_size, row_size)
        Of each row of B.
    prior_covariance : ndarray of shape (row_size, row_size)
        Ω⁻¹, of the last draw.
    spread : ndarray of shape (n_draws, row_size, row_size)
        Covariance of Bᵀf where f is that of any row.
    column_mean : ndarray of shape (n_columns,)
    scale : float
    places : ndarray of shape (n_counterparts,) or None
        Column of each counterpart, -1 of those that came later; None is its own number.
    """

    mean: np.ndarray
    covariance: np.ndarray
    prior_covariance: np.ndarray
    spread: np.ndarray
    column_mean: np.ndarray
    scale: float
    places: np.ndarray | None = None

    @classmethod
    def stack(
        cls, draws: Sequence[FeatureWeights], *, keep_all: bool
    ) -> FeatureWeights:
        """Many draws as one; all means are kept, or the last."""
        kept = draws if keep_all else draws[-1:]
        return replace(
            draws[-1],
            mean=np.concatenate([draw.mean for draw in kept]),
            covariance=np.concatenate([draw.covariance for draw in draws]),
            spread=np.concatenate([draw.spread for draw in draws]),
        )

    def grown(self, counterparts: Growth) -> FeatureWeights:
        """The same weights among new counterparts, which say nothing."""
        places = self.places
        if places is None:
            places = np.arange(len(self.column_mean))
        return replace(self, places=counterparts.inserted(places, -1))

    def columns_of(self, counterparts: np.ndarray) -> np.ndarray:
        """Columns of numbered counterparts, -1 of those that have none."""
        if self.places is None:
            return counterparts
        return np.where(counterparts < 0, -1, self.places[counterparts])

    def contrasted(self, contrasts: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
        """Means and covariances of contrasts of what columns add to a row.

        Of shape (n_draws, n_contrasts, row_size) and (n_draws, n_contrasts, row_size,
        row_size).
        """
        mean = self.scale * np.stack([contrasts @ B for B in self.mean])
        square = self.scale**2 * contrasts.multiply(contrasts).sum(axis=1)
        return mean, square[:, None, None] * self.covariance[:, None]

    @property
    def mean_features(self) -> np.ndarray:
        """Mean of each column of the matrix."""
        return self.column_mean / (self.scale or 1.0)

    def said_of(self, matrix: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of Bᵀf for rows of features, draw by draw.

        Of shape (n_draws, n_rows, row_size) and (n_draws, n_rows, row_size, row_size).
        """
        mean = np.stack(
            [self.scale * (matrix @ B) - self.column_mean @ B for B in self.mean]
        )
        square = self.scale**2 * matrix.multiply(matrix).sum(axis=1)
        energy = square - 2 * self.scale * (matrix @ self.column_mean)
        energy = np.maximum(energy + self.column_mean @ self.column_mean, 0)
        return mean, energy[:, None, None] * self.covariance[:, None]


@dataclass(frozen=True)
class FactorSums:
    """Sums over rows of factors less a reference, and of their outer products.

    They follow a revision of some rows without a look at the others. In float64, so
    that rounding does not add up.

    Attributes
    ----------
    n_rows : int
    reference : ndarray of shape (n_draws, n_factors)
    total : ndarray of shape (n_draws, n_factors)
    square : ndarray of shape (n_draws, n_factors, n_factors)
    """

    n_rows: int
    reference: np.ndarray
    total: np.ndarray
    square: np.ndarray

    @classmethod
    def of(cls, factors: np.ndarray) -> FactorSums:
        """Sums over factors of shape (n_draws, n_rows, n_factors)."""
        reference = factors.mean(axis=1, dtype=np.float64)
        n_draws, _, k = factors.shape
        nothing = cls(0, reference, np.zeros((n_draws, k)), np.zeros((n_draws, k, k)))
        return nothing.plus(factors, 1)

    @classmethod
    def stack(cls, draws: Sequence[FactorSums]) -> Self:
        return cls(
            draws[0].n_rows,
            *(
                np.concatenate([getattr(draw, name) for draw in draws])
                for name in ("reference", "total", "square")
            ),
        )

    def plus(self, factors: np.ndarray, sign: int) -> FactorSums:
        """With some rows more, or with a sign of -1 less."""
        away = factors - self.reference[:, None]
        return replace(
            self,
            n_rows=self.n_rows + sign * factors.shape[1],
            total=self.total + sign * away.sum(axis=1),
            square=self.square + sign * (away.swapaxes(1, 2) @ away),
        )

    def roots(self) -> np.ndarray:
        """R of every draw, where RᵀR is the sum of squares about the mean."""
        outer = self.total[:, :, None] * self.total[:, None] / max(self.n_rows, 1)
        values, vectors = np.linalg.eigh(self.square - outer)
        # Rounding leaves no more than this of a direction in which rows are alike.
        floor = values[:, -1:] * np.finfo(np.float32).eps ** 2
        values = np.where(values > floor, values, 0)
        return np.sqrt(values)[:, :, None] * vectors.swapaxes(1, 2)


@dataclass(frozen=True)
class Patched:
    """Covariances of rows, some of which have been revised since they were stored.

    They are too large to be copied for a few rows. It is indexed as an array of shape
    (1, n_rows, row_size, row_size).

    Attributes
    ----------
    stored : ndarray of shape (n_stored, row_size, row_size)
    revised : ndarray of shape (n_revised, row_size, row_size)
    where : ndarray of shape (n_rows,)
        Row of `stored`, or behind its last that of `revised`.
    factor : float
        Of all of them.
    """

    stored: np.ndarray
    revised: np.ndarray
    where: np.ndarray
    factor: float = 1.0

    @classmethod
    def of(cls, stored: np.ndarray, factor: float = 1.0) -> Self:
        return cls(stored, stored[:0], np.arange(len(stored)), factor)

    def _unpatched(self) -> Patched:
        return Patched.of(self._before_factor(slice(None)), self.factor)

    def __getitem__(self, key: int | tuple) -> np.ndarray:
        _, rows = key if isinstance(key, tuple) else (key, slice(None))
        return self._before_factor(rows) * self.factor

    def _before_factor(self, rows: np.ndarray | slice) -> np.ndarray:
        where = self.where[rows]
        flat = np.ravel(where)
        n_stored = len(self.stored)
        taken = self.stored[np.minimum(flat, n_stored - 1)]
        revised = flat >= n_stored
        taken[revised] = self.revised[flat[revised] - n_stored]
        return taken.reshape(*np.shape(where), *taken.shape[1:])

    def __reduce__(self) -> tuple:
        # What is written needs no patch.
        unpatched = self._unpatched()
        return Patched.of, (unpatched.stored, unpatched.factor)

    def __mul__(self, factor: float) -> Patched:
        return replace(self, factor=self.factor * factor)

    def merged(self, theirs: np.ndarray, own: Growth) -> Patched:
        """Among new rows, with `theirs` for those that are given."""
        where = own.inserted(self.where)
        where[own.given] = len(self.stored) + len(self.revised) + np.arange(len(theirs))
        theirs = (theirs / self.factor).astype(self.stored.dtype)
        revised = np.concatenate([self.revised, theirs])
        merged = replace(self, revised=revised, where=where)
        if len(revised) > max(MIN_PATCH, len(where) * MAX_PATCH):
            return merged._unpatched()
        return merged


@dataclass(frozen=True)
class Rows:
    """One side's rows: factors, then the bias if there is one.

    Attributes
    ----------
    mean : ndarray of shape (n_draws, n_rows, row_size)
    covariance : ndarray of shape (n_draws, n_rows, row_size, row_size) or None
        None for draws, and where it was not to be stored.
    prior_mean : ndarray of shape (n_draws, n_priors, row_size)
        The last is that of a row of which nothing is known; before it are those of
        rows -2, -3 and so on, in reverse.
    prior_covariance : ndarray of shape (n_draws, n_priors, row_size, row_size)
    typical : ndarray of shape (n_draws, row_size)
        What to add to a prior mean to predict with it: where the prior is not learned,
        the mean of all rows less it.
    own_covariance : ndarray of shape (n_draws, row_size, row_size)
        Λ⁻¹, of what a row is besides what features say of it.
    count : ndarray of shape (n_rows,)
        Weight of the ratings that each row was learned from.
    dispersion : ndarray of shape (n_rows,)
        Factor of the noise variance of each row's ratings.
    concentration : float
        How alike the dispersions are: a of their Gamma prior.
    affinity : ndarray of shape (n_rows,)
        Sum over a row's ratings of what sets the counterpart apart from any other, but
        for what describes it: its share in the predicted rating.
    factor_sums : FactorSums
    weights : dict of str to FeatureWeights
        Of each block of features.
    """

    mean: np.ndarray
    covariance: np.ndarray | Patched | None
    prior_mean: np.ndarray
    prior_covariance: np.ndarray
    typical: np.ndarray
    own_covariance: np.ndarray
    count: np.ndarray
    dispersion: np.ndarray
    concentration: float
    affinity: np.ndarray
    factor_sums: FactorSums
    weights: dict[str, FeatureWeights] = field(default_factory=dict)

    @classmethod
    def stack(cls, draws: Sequence[Rows]) -> Rows:
        """Many draws as one."""
        return cls(
            mean=np.concatenate([draw.mean for draw in draws]),
            covariance=draws[0].covariance if len(draws) == 1 else None,
            prior_mean=np.concatenate([draw.prior_mean for draw in draws]),
            prior_covariance=np.concatenate([draw.prior_covariance for draw in draws]),
            typical=np.concatenate([draw.typical for draw in draws]),
            own_covariance=np.concatenate([draw.own_covariance for draw in draws]),
            count=draws[0].count,
            dispersion=np.mean([draw.dispersion for draw in draws], axis=0),
            concentration=draws[0].concentration,
            affinity=np.mean([draw.affinity for draw in draws], axis=0),
            factor_sums=FactorSums.stack([draw.factor_sums for draw in draws]),
            weights={
                name: FeatureWeights.stack(
                    [draw.weights[name] for draw in draws], keep_all=name == DESCRIBED
                )
                for name in draws[0].weights
            },
        )

    def with_cold_rows(self, matrix: sparse.csr_array) -> Rows:
        """These rows, and row -2 - j by row j of side features."""
        weights = self.weights[DESCRIBED]
        shift, covariance = weights.said_of(matrix[::-1])
        mean, rest = self.prior_mean[:, -1:], self.prior_covariance[:, -1:]
        # Not the prior less the spread of these weights, which rounding may leave
        # without positive variances.
        others = (w.spread for name, w in self.weights.items() if name != DESCRIBED)
        covariance = covariance + sum(others, self.own_covariance)[:, None]
        return replace(
            self,
            prior_mean=np.concatenate([mean + shift, mean], axis=1),
            prior_covariance=np.concatenate([covariance, rest], axis=1),
        )

    def means(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Means of rows to predict with, draw by draw."""
        unknown, known = rows < 0, np.maximum(rows, 0)
        for mean, prior_mean, typical in zip(
            self.mean, self.prior_mean, self.typical, strict=True
        ):
            taken = mean[known]
            taken[unknown] = prior_mean[rows[unknown]] + typical
            yield taken

    def covariances(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Covariances of rows, draw by draw."""
        unknown, known = rows < 0, np.maximum(rows, 0)
        size = self.mean.shape[2]
        for draw, prior_covariance in enumerate(self.prior_covariance):
            if self.covariance is None:
                taken = np.zeros((len(rows), size, size), dtype=self.mean.dtype)
            else:
                taken = self.covariance[draw, known]
            taken[unknown] = prior_covariance[rows[unknown]]
            yield taken

    def dispersions(self, rows: np.ndarray) -> np.ndarray:
        """Dispersions of rows; a row never seen has the mean one."""
        known = self.dispersion[np.maximum(rows, 0)]
        return np.where(rows < 0, self.dispersion.mean(), known)

    def relative_precisions(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and shapes of the Gamma distributions behind the dispersions of rows.

        A dispersion is E[1 / α]. A row never seen has the prior.
        """
        a, known = self.concentration, np.maximum(rows, 0)
        shape = a + np.where(rows < 0, 0, self.count[known]) / 2
        dispersion = np.where(rows < 0, a / (a - 1), self.dispersion[known])
        return shape / ((shape - 1) * dispersion), shape

    def affinities(self, rows: np.ndarray) -> np.ndarray:
        """What an unknown counterpart brings to a rating because it has one.

        It is taken for one of those that have ratings with the row: users rate what
        they expect to like. As if one counterpart like any other were among them.
        """
        known = np.maximum(rows, 0)
        mean = self.affinity[known] / (self.count[known] + 1)
        return np.where(rows < 0, 0, mean)

    def scaled(self, ratio: float) -> Rows:
        """The same rows with covariances times a ratio."""
        return replace(
            self,
            covariance=None if self.covariance is None else self.covariance * ratio,
            prior_covariance=self.prior_covariance * ratio,
            own_covariance=self.own_covariance * ratio,
        )

    def taking(self, rows: np.ndarray) -> Rows:
        """The means of numbered rows; -1 is one of which nothing is known."""
        return replace(
            self,
            mean=np.stack(list(self.means(rows))),
            covariance=None,
            prior_mean=self.prior_mean[:, -1:],
        )

    def merged(self, revised: Rows, own: Growth, others: Growth) -> Rows:
        """These rows among new ones, some of them revised.

        `others` is how the rows of the other side have grown. Time follows the revised
        rows, but for copies of what is small.
        """

        def table(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
            merged = own.inserted(ours)
            merged[own.given] = theirs
            return merged

        def total(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
            merged = own.inserted(ours)
            merged[own.given] += theirs
            return merged

        covariance = self.covariance
        if isinstance(covariance, np.ndarray):
            covariance = Patched.of(covariance[0])
        if revised.covariance is None:
            covariance = None
        elif covariance is not None:
            covariance = covariance.merged(revised.covariance[0], own)
        k = self.factor_sums.total.shape[1]
        # The mean of one draw would be a copy more.
        mean = self.mean[0] if len(self.mean) == 1 else self.mean.mean(axis=0)
        mean = own.inserted(mean)
        past = mean[None, own.given[~own.is_new], :k]
        factor_sums = self.factor_sums.plus(past, -1).plus(revised.mean[..., :k], 1)
        mean[own.given] = revised.mean[0]
        return replace(
            self,
            mean=mean[None],
            factor_sums=factor_sums,
            covariance=covariance,
            prior_mean=self.prior_mean[:, -1:],
            prior_covariance=self.prior_covariance[:, -1:],
            count=total(self.count, revised.count),
            affinity=total(self.affinity, revised.affinity),
            dispersion=table(self.dispersion, revised.dispersion),
            weights={
                name: w.grown(others) if name == IMPLICIT and len(others.at) else w
                for name, w in self.weights.items()
            },
        )


@dataclass(frozen=True)
class Posterior(StandardisedModel):
    """Posterior of y = centre + b_u + c_i + p_u·q_i + (x − x̄)·coef + noise.

    Attributes
    ----------
    users, items : Rows
    n_factors : int
        A bias, if there is one, stands behind the factors of a row.
    centre : float
    coef : ndarray of shape (n_context,)
    coef_covariance : ndarray of shape (n_context, n_context)
        Of the coefficients of context in units of its scale.
    noise_variance : float
    knows_variance : bool
        Whether the covariances or the draws are those of a posterior; around points
        they only say how firmly a row is held.
    units : Units
        Of the ratings and the context of the fit.
    objective : Objective
    rating_range : tuple of float
    """

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

    @classmethod
    def average(cls, draws: Sequence[Posterior]) -> Posterior:
        """The posterior whose predictions are the mean of those of draws."""
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
        )

    @property
    def intercept(self) -> float:
        """Prediction without rows, at a context of 0."""
        return self.centre - float(self.coef @ self.units.feature_mean)

    @property
    def row_size(self) -> int:
        """Length of a row: the number of factors, plus one for a bias."""
        return self.users.mean.shape[2]

    def with_cold_rows(
        self, users: sparse.csr_array | None, items: sparse.csr_array | None
    ) -> Self:
        given = {"users": users, "items": items}
        return replace(
            self,
            **{
                side: getattr(self, side).with_cold_rows(matrix)
                for side, matrix in given.items()
                if matrix is not None
            },
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
                "store_covariance=True, or with solver='gibbs', which the last one was "
                "not."
            )
        return mean, np.sqrt(self.variance(users, items, context))

    def scorer(
        self, users: np.ndarray, items: np.ndarray, device: torch.device
    ) -> Callable[[slice], Fill]:
        writeable = np.require(self.item_rows(items), requirements="W")
        vectors = torch.from_numpy(writeable).to(device)

        def score(tile: slice) -> Fill:
            queries = torch.from_numpy(self.user_rows(users[tile]))
            return inner_products(queries.to(device), vectors)

        return score

    def scores_to_ratings(self, scores: np.ndarray, users: np.ndarray) -> np.ndarray:
        bias = self.bias("user", users)[:, None]
        return self.objective.response(scores + bias + self.centre)

    def scaled(self, ratio: float) -> Posterior:
        """The same points, held by a penalty relative to other noise."""
        return replace(
            self,
            users=self.users.scaled(ratio),
            items=self.items.scaled(ratio),
            coef_covariance=self.coef_covariance * ratio,
        )

    def without_covariance(self) -> Posterior:
        """The same means, in less memory."""
        return replace(
            self,
            users=replace(self.users, covariance=None),
            items=replace(self.items, covariance=None),
            knows_variance=self.knows_variance and self.users.covariance is None,
        )

    def taking(self, users: np.ndarray, items: np.ndarray) -> Posterior:
        """The posterior of numbered rows alone."""
        return replace(
            self,
            users=self.users.taking(users),
            items=self.items.taking(items),
        )

    def merged(
        self,
        updated: Posterior,
        users: Growth,
        items: Growth,
    ) -> Posterior:
        """A posterior with `updated` for the rows that were given."""
        return replace(
            updated,
            users=self.users.merged(updated.users, users, items),
            items=self.items.merged(updated.items, items, users),
        )

    def mean(self, u: np.ndarray, i: np.ndarray, context: np.ndarray) -> np.ndarray:
        """E[y] of pairs of row numbers, in float64."""
        total = np.zeros(len(u))
        for x, z in zip(self.users.means(u), self.items.means(i), strict=True):
            total += self._product(x, z)
        total /= len(self.users.mean)
        for unknown, rows, met in (
            (u < 0, self.items, i),
            (i < 0, self.users, u),
        ):
            if unknown.any():
                total[unknown] += rows.affinities(met[unknown])
        linear = (context - self.units.feature_mean) @ self.coef
        return self.centre + linear + total

    def variance(self, u: np.ndarray, i: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Var[y] of pairs of row numbers, noise included, in float64."""
        noise = self.users.dispersions(u) * self.items.dispersions(i)
        variance = self.noise_variance * noise
        x = self.units.standard_features(context)
        variance += np.einsum("nj,jk,nk->n", x, self.coef_covariance, x)
        for start in range(0, len(u), TILE_SIZE):
            tile = slice(start, start + TILE_SIZE)
            variance[tile] += self._product_variance(u[tile], i[tile])
        return variance

    def effects(
        self, side: str, contrasts: sparse.csr_array
    ) -> tuple[np.ndarray, np.ndarray]:
        """What features of a side add to a rating with an average row of the other.

        Mean and standard deviation, each of shape (n_contrasts,).
        """
        rows, others = self.users, self.items
        if side == "item":
            rows, others = others, rows
        met = others.mean.mean(axis=1)
        met[:, self.n_factors :] = 1
        B, C = rows.weights[DESCRIBED].contrasted(contrasts)
        within = np.einsum("dj,dnjk,dk->dn", met, C, met)
        return self._over_draws(np.einsum("dnk,dk->dn", B, met), within)

    def interactions(
        self, of_users: sparse.csr_array, of_items: sparse.csr_array
    ) -> tuple[np.ndarray, np.ndarray]:
        """What features of both add to a rating besides their effects.

        Mean and standard deviation, each of shape (n_contrasts, n_contrasts).
        """
        k = self.n_factors
        (B, S), (C, T) = (
            (mean[..., :k], spread[..., :k, :k])
            for mean, spread in (
                self.users.weights[DESCRIBED].contrasted(of_users),
                self.items.weights[DESCRIBED].contrasted(of_items),
            )
        )
        within = np.einsum("dnj,dmjk,dnk->dnm", B, T, B)
        within += np.einsum("dmj,dnjk,dmk->dnm", C, S, C)
        within += np.einsum("dnjk,dmjk->dnm", S, T)
        return self._over_draws(np.einsum("dnk,dmk->dnm", B, C), within)

    def _over_draws(
        self, mean: np.ndarray, variance: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation by those of draws, which are along axis 0."""
        std = np.sqrt(variance.mean(axis=0) + mean.var(axis=0))
        return mean.mean(axis=0), std if self.knows_variance else np.full_like(
            std, np.nan
        )

    def factors(self, side: Literal["users", "items"]) -> np.ndarray:
        """Mean factors of all rows."""
        return getattr(self, side).mean.mean(axis=0)[:, : self.n_factors]

    def biases(self, side: Literal["users", "items"]) -> np.ndarray:
        """Mean biases of all rows; 0 without biases."""
        return getattr(self, side).mean.mean(axis=0)[:, self.n_factors :].sum(axis=1)

    def index_vectors(
        self, side: Literal["user", "item"], rows: np.ndarray
    ) -> np.ndarray:
        """Vectors of rows whose inner products are E[b + c + p·q], in float32.

        All draws stand side by side. A bias meets a 1 of the other side.
        """
        k = self.n_factors
        parts = []
        for mean in getattr(self, f"{side}s").means(rows):
            ends = [mean[:, k:], np.ones_like(mean[:, k:])]
            parts += [mean[:, :k], *(ends if side == "user" else reversed(ends))]
        vectors = np.hstack(parts) / np.sqrt(len(self.users.mean))
        return vectors.astype(np.float32)

    def item_rows(self, rows: np.ndarray) -> np.ndarray:
        """What `user_rows` meet: all draws side by side."""
        mean = self.items.mean
        if len(mean) == 1 and np.array_equal(rows, np.arange(mean.shape[1])):
            # All of them, as they are.
            return mean[0].astype(np.float32, copy=False)
        return np.hstack(list(self.items.means(rows))).astype(np.float32, copy=False)

    def user_rows(self, rows: np.ndarray) -> np.ndarray:
        """Vectors whose products with `item_rows` are E[c + p·q]."""
        k, parts = self.n_factors, []
        for mean in self.users.means(rows):
            mean[:, k:] = 1
            parts.append(mean)
        return (np.hstack(parts) / len(parts)).astype(np.float32, copy=False)

    def bias(self, side: str, rows: np.ndarray) -> np.ndarray:
        """E[b] of rows."""
        means = getattr(self, f"{side}s").means(rows)
        bias = [mean[:, self.n_factors :].sum(axis=1) for mean in means]
        return np.mean(bias, axis=0)

    def profiles(
        self, side: Literal["user", "item"], device: torch.device
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of rows whose inner products are those of their taste profiles.

        An item's profile is the vector of p_u·q_i over all users u, about its mean: two
        items are alike where the same users like them. Likewise for a user's. Lengths
        come with them, inf where a profile is negligible beside those that the prior
        expects.
        """
        if self.n_factors == 0:
            raise ValueError(
                "Similarity compares factors, but this model has n_factors=0."
            )
        rows, others = self.users, self.items
        if side == "item":
            rows, others = others, rows
        k, parts, expected = self.n_factors, [], 0.0
        for own, R, S, T in zip(
            rows.mean[..., :k],
            others.factor_sums.roots(),
            rows.prior_covariance[:, -1, :k, :k].astype(np.float64),
            others.prior_covariance[:, -1, :k, :k].astype(np.float64),
            strict=True,
        ):
            parts.append(own @ R.T.astype(own.dtype))
            expected += others.mean.shape[1] * (S * T).sum()
        profiles = np.hstack(parts).astype(np.float32, copy=False)
        # Squares of single precision overflow where ratings are large. A product sums
        # short rows faster than a sum does.
        square = np.square(profiles, dtype=np.float64) @ np.ones(profiles.shape[1])
        is_nothing = square <= MIN_SIGNAL * expected
        lengths = np.sqrt(np.where(is_nothing, np.inf, square))
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
        spread = np.full(len(u), self.users.covariance is not None)
        spread |= (u < 0) | (i < 0)
        within, means = np.zeros(len(u)), []
        for x, z, S, T in zip(
            self.users.means(u),
            self.items.means(i),
            self.users.covariances(u[spread]),
            self.items.covariances(i[spread]),
            strict=True,
        ):
            means.append(self._product(x, z))
            x, z = x[spread], z[spread]
            x[:, k:] = z[:, k:] = 1
            Sz = np.einsum("njk,nk->nj", S, z)
            Tx = np.einsum("njk,nk->nj", T, x)
            ST = S[:, :k, :k] * T[:, :k, :k]
            within[spread] += (z * Sz).sum(axis=1) + (x * Tx).sum(axis=1)
            within[spread] += ST.sum(axis=(1, 2))
        return within / len(means) + np.var(means, axis=0)
