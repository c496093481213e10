"""What a fitted matrix factorisation believes, in rating units, as NumPy arrays.

Points, a Gaussian posterior and draws are one thing here: draws, each with a mean and
perhaps a covariance. A row number of -1 is a row of which nothing is known; what is
believed of it is the prior that the solver has learned from the others. -2, -3 and so
on are rows of which nothing but features is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from scipy import sparse

# Blocks of features: what the user of the package says of rows, and whom they have
# ratings with.
DESCRIBED, COUNTERPARTS = "described", "counterparts"

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
    """

    mean: np.ndarray
    covariance: np.ndarray
    prior_covariance: np.ndarray
    spread: np.ndarray
    column_mean: np.ndarray
    scale: float

    @classmethod
    def stack(cls, draws: Sequence[FeatureWeights], *, keep_all: bool) -> Self:
        """Many draws as one; all means are kept, or the last."""
        kept = draws if keep_all else draws[-1:]
        return replace(
            draws[-1],
            mean=np.concatenate([draw.mean for draw in kept]),
            covariance=np.concatenate([draw.covariance for draw in draws]),
            spread=np.concatenate([draw.spread for draw in draws]),
        )

    def placed(self, places: np.ndarray, n_columns: int) -> FeatureWeights:
        """The same weights at their places among more columns; others say nothing."""
        mean = np.zeros((len(self.mean), n_columns, self.mean.shape[2]), np.float32)
        column_mean = np.zeros(n_columns, dtype=self.column_mean.dtype)
        mean[:, places], column_mean[places] = self.mean, self.column_mean
        return replace(self, mean=mean, column_mean=column_mean)

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
    weights : dict of str to FeatureWeights
        Of each block of features.
    """

    mean: np.ndarray
    covariance: np.ndarray | None
    prior_mean: np.ndarray
    prior_covariance: np.ndarray
    own_covariance: np.ndarray
    count: np.ndarray
    dispersion: np.ndarray
    concentration: float
    affinity: np.ndarray
    weights: dict[str, FeatureWeights] = field(default_factory=dict)

    @classmethod
    def stack(cls, draws: Sequence[Rows]) -> Rows:
        """Many draws as one."""
        return cls(
            mean=np.concatenate([draw.mean for draw in draws]),
            covariance=draws[0].covariance if len(draws) == 1 else None,
            prior_mean=np.concatenate([draw.prior_mean for draw in draws]),
            prior_covariance=np.concatenate([draw.prior_covariance for draw in draws]),
            own_covariance=np.concatenate([draw.own_covariance for draw in draws]),
            count=draws[0].count,
            dispersion=np.mean([draw.dispersion for draw in draws], axis=0),
            concentration=draws[0].concentration,
            affinity=np.mean([draw.affinity for draw in draws], axis=0),
            weights={
                name: FeatureWeights.stack(
                    [draw.weights[name] for draw in draws], keep_all=name == DESCRIBED
                )
                for name in draws[0].weights
            },
        )

    def describing(self, matrix: sparse.csr_array) -> Rows:
        """These rows, and row -2 - j for what row j of features says of it."""
        weights = self.weights[DESCRIBED]
        shift, covariance = weights.said_of(matrix[::-1])
        mean, rest = self.prior_mean[:, -1:], self.prior_covariance[:, -1:]
        covariance = rest - weights.spread[:, None] + covariance
        return replace(
            self,
            prior_mean=np.concatenate([mean + shift, mean], axis=1),
            prior_covariance=np.concatenate([covariance, rest], axis=1),
        )

    def means(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Means of rows, draw by draw."""
        unknown, known = rows < 0, np.maximum(rows, 0)
        for mean, prior_mean in zip(self.mean, self.prior_mean, strict=True):
            taken = mean[known]
            taken[unknown] = prior_mean[rows[unknown]]
            yield taken

    def covariances(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Covariances of rows, draw by draw."""
        unknown, known = rows < 0, np.maximum(rows, 0)
        size = self.mean.shape[2]
        for draw, prior_covariance in enumerate(self.prior_covariance):
            if self.covariance is None:
                taken = np.zeros((len(rows), size, size), dtype=self.mean.dtype)
            else:
                taken = self.covariance[draw][known]
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
        return np.where(rows < 0, 0, (self.affinity / (self.count + 1))[known])

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

    def merged(
        self,
        revised: Rows,
        places: np.ndarray,
        revised_places: np.ndarray,
        n_rows: int,
        others_places: np.ndarray,
        n_others: int,
    ) -> Rows:
        """These rows at their places among `n_rows`, some of them revised.

        `others_places` are those of the rows of the other side among `n_others`.
        """

        def table(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
            merged = np.empty((n_rows, *ours.shape[1:]), dtype=ours.dtype)
            merged[places] = ours
            merged[revised_places] = theirs
            return merged

        def total(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
            merged = np.zeros(n_rows)
            merged[places] = ours
            merged[revised_places] += theirs
            return merged

        return replace(
            self,
            mean=table(self.mean.mean(axis=0), revised.mean[0])[None],
            covariance=None
            if revised.covariance is None
            else table(self.covariance[0], revised.covariance[0])[None],
            prior_mean=self.prior_mean[:, -1:],
            prior_covariance=self.prior_covariance[:, -1:],
            count=total(self.count, revised.count),
            affinity=total(self.affinity, revised.affinity),
            dispersion=table(self.dispersion, revised.dispersion),
            weights={
                name: w.placed(others_places, n_others) if name == COUNTERPARTS else w
                for name, w in self.weights.items()
            },
        )


@dataclass(frozen=True)
class Posterior:
    """Belief of y = centre + b_u + c_i + p_u·q_i + (f − feature_mean)·coef + noise.

    Attributes
    ----------
    users, items : Rows
    n_factors : int
        A bias, if there is one, stands behind the factors of a row.
    centre : float
    feature_mean : ndarray of shape (n_features,)
    coef : ndarray of shape (n_features,)
    coef_covariance : ndarray of shape (n_features, n_features)
    noise_variance : float
    knows_variance : bool
        Whether the covariances or the draws are those of a posterior; around points
        they only say how firmly a row is held.
    """

    users: Rows
    items: Rows
    n_factors: int
    centre: float
    feature_mean: np.ndarray
    coef: np.ndarray
    coef_covariance: np.ndarray
    noise_variance: float
    knows_variance: bool

    @classmethod
    def average(cls, draws: Sequence[Posterior]) -> Posterior:
        """The belief that predicts the mean of what draws predict."""
        coefs = np.stack([draw.coef for draw in draws])
        deviations = coefs - coefs.mean(axis=0)
        covariances = [draw.coef_covariance for draw in draws]
        return cls(
            users=Rows.stack([draw.users for draw in draws]),
            items=Rows.stack([draw.items for draw in draws]),
            n_factors=draws[0].n_factors,
            centre=draws[0].centre,
            feature_mean=draws[0].feature_mean,
            coef=coefs.mean(axis=0),
            coef_covariance=np.mean(covariances, axis=0)
            + deviations.T @ deviations / len(draws),
            noise_variance=float(np.mean([draw.noise_variance for draw in draws])),
            knows_variance=True,
        )

    @property
    def intercept(self) -> float:
        """The prediction but for rows, at features of 0."""
        return self.centre - float(self.coef @ self.feature_mean)

    @property
    def row_size(self) -> int:
        """Length of a row: the number of factors, plus one for a bias."""
        return self.users.mean.shape[2]

    def describing(self, **matrices: sparse.csr_array | None) -> Posterior:
        """The same belief, with `Rows.describing` of the sides that have features."""
        given = {side: m for side, m in matrices.items() if m is not None}
        return replace(
            self,
            **{side: getattr(self, side).describing(given[side]) for side in given},
        )

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
        """The same belief of numbered rows alone."""
        return replace(
            self,
            users=self.users.taking(users),
            items=self.items.taking(items),
        )

    def merged(
        self,
        revised: Posterior,
        user_places: Sequence[np.ndarray],
        item_places: Sequence[np.ndarray],
    ) -> Posterior:
        """The same belief but for what is `revised`, given the places of both."""
        n_users, n_items = (
            1 + max(places.max() for places in both)
            for both in (user_places, item_places)
        )
        return replace(
            revised,
            users=self.users.merged(
                revised.users, *user_places, n_users, item_places[0], n_items
            ),
            items=self.items.merged(
                revised.items, *item_places, n_items, user_places[0], n_users
            ),
        )

    def mean(self, u: np.ndarray, i: np.ndarray, features: np.ndarray) -> np.ndarray:
        """E[y] of pairs of row numbers, in float64."""
        total = np.zeros(len(u))
        for x, z in zip(self.users.means(u), self.items.means(i), strict=True):
            total += self._product(x, z)
        total /= len(self.users.mean)
        total += np.where(u < 0, self.items.affinities(i), 0)
        total += np.where(i < 0, self.users.affinities(u), 0)
        linear = (features - self.feature_mean) @ self.coef
        return self.centre + linear + total

    def variance(
        self, u: np.ndarray, i: np.ndarray, features: np.ndarray
    ) -> np.ndarray:
        """Var[y] of pairs of row numbers, noise included, in float64."""
        noise = self.users.dispersions(u) * self.items.dispersions(i)
        variance = self.noise_variance * noise
        f = features - self.feature_mean
        variance += np.einsum("nj,jk,nk->n", f, self.coef_covariance, f)
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

    def vectors(self, side: str, rows: np.ndarray) -> np.ndarray:
        """Vectors of rows whose inner products are E[b + c + p·q], in float32.

        All draws stand side by side. A bias meets a 1 of the other side.
        """
        k = self.n_factors
        parts = []
        for mean in getattr(self, f"{side}s").means(rows):
            ends = [mean[:, k:], np.ones_like(mean[:, k:])]
            parts += [mean[:, :k], *(ends if side == "user" else reversed(ends))]
        return np.hstack(parts) / np.float32(np.sqrt(len(self.users.mean)))

    def profiles(self, side: str) -> np.ndarray:
        """Vectors of rows whose inner products are those of their taste profiles.

        An item's profile is the vector of p_u·q_i over all users u, about its mean: two
        items are alike where the same users like them. Likewise for a user's.
        """
        rows, others = self.users.mean, self.items.mean
        if side == "item":
            rows, others = others, rows
        k = self.n_factors
        parts = []
        for own, other in zip(rows[..., :k], others[..., :k], strict=True):
            root = np.linalg.qr(other - other.mean(axis=0), mode="r")
            parts.append(own @ root.T)
        return np.hstack(parts)

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
