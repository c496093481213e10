"""Retraction: a posterior without the share of some ratings.

Given the other side, the natural parameters of a row are those of its prior plus a sum
over its ratings (see `conditional`), so ratings are taken back by a subtraction. With
A' = A − βG, the mean of a row goes from x to

    x' = x + A'⁻¹ β (G x − g).

Both sides take the other one as it is in the model. Its rows may have moved a little
since the ratings were learned, so that G is larger than it was then; A' keeps at least
the precision of the prior.

Everything here is in rating units: arrays in, arrays out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .._data.forgotten import ForgottenRows
from .._data.vocabulary import Growth
from .posterior import Posterior
from .rows import PackedCovariance, Rows

# Elements of outer products, or of the matrices of rows, that are held at a time.
TILE_SIZE = 2**21

# Smallest share of the precision of a coefficient, and of the noise variance, that is
# left.
MIN_SHARE = 1e-3


@dataclass(frozen=True)
class OtherSide:
    """Rows of one side as the other side's conditional has them.

    Attributes
    ----------
    rows : Rows
    n_factors : int
    is_certain : bool
        Whether they are taken for their points, as by als.
    """

    rows: Rows
    n_factors: int
    is_certain: bool

    @cached_property
    def precision(self) -> np.ndarray:
        """Relative precision of each row."""
        if self.is_certain:
            return np.ones(len(self))
        return self.rows.relative_precisions(np.arange(len(self)))[0]

    def __len__(self) -> int:
        return self.rows.mean.shape[1]

    def moments(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """E[z zᵀ], E[z], E[c z], E[c] and E[c²] of rows."""
        k = self.n_factors
        z = self.rows.mean[0, rows].astype(np.float64)
        c = z[:, k:].sum(axis=1)
        z[:, k:] = 1
        zz, cz, cc = z[:, :, None] * z[:, None], c[:, None] * z, c**2
        if not self.is_certain:
            assert self.rows.covariance is not None
            S = self.rows.covariance[0, rows].astype(np.float64)
            zz[:, :k, :k] += S[:, :k, :k]
            if S.shape[1] > k:
                cz[:, :k] += S[:, :k, k]
                cc += S[:, k, k]
        return zz, z, cz, c, cc

    def squares(self, sums: RowSums) -> np.ndarray:
        """Σ w E[(y − ŷ)²] over the ratings to take back of each row."""
        mean = self.rows.mean[0, sums.rows].astype(np.float64)
        Gx = np.einsum("njk,nk->nj", sums.G, mean)
        squares = sums.s - 2 * (mean * sums.g).sum(axis=1) + (mean * Gx).sum(axis=1)
        if not self.is_certain:
            assert self.rows.covariance is not None
            covariance = self.rows.covariance[0, sums.rows]
            squares += np.einsum("njk,njk->n", sums.G, covariance)
        return np.maximum(squares, 0)

    def without(self, sums: RowSums, noise_precision: float, exponent: float) -> Rows:
        """All rows, without the share of the sums."""
        rows, numbers = self.rows, sums.rows
        assert rows.covariance is not None
        taken = np.minimum(sums.count, rows.count[numbers])
        left = rows.count[numbers] - taken
        share = left / np.maximum(rows.count[numbers], np.finfo(float).tiny)
        mean = np.empty((len(numbers), rows.mean.shape[2]))
        covariance = np.empty_like(sums.G)
        step = max(1, TILE_SIZE // mean.shape[1] ** 2)
        for start in range(0, len(numbers), step):
            tile = slice(start, start + step)
            beta = noise_precision * self.precision[numbers[tile]]
            mean[tile], covariance[tile] = _without_share(
                rows,
                numbers[tile],
                beta[:, None, None] * sums.G[tile],
                beta[:, None] * sums.g[tile],
                left[tile] ** exponent,
                exponent,
            )
        relative_variance = rows.relative_variance[numbers]
        if not self.is_certain:
            _, shape = rows.relative_precisions(numbers)
            rate = shape / self.precision[numbers]
            rate -= noise_precision * self.squares(sums) / 2
            # The rate of the prior is a, up to the norm of all relative precisions.
            rate = np.maximum(rate, rows.concentration / 2)
            relative_variance = rate / (shape - taken / 2 - 1)
        updated = replace(
            rows,
            mean=mean[None],
            covariance=PackedCovariance.of(covariance),
            count=-taken,
            selection=rows.selection[numbers] * (share - 1),
            relative_variance=relative_variance,
        )
        nobody = np.empty(0, dtype=np.int64)
        own = Growth(nobody, nobody, numbers, np.zeros(len(numbers), dtype=bool))
        others = Growth(nobody, nobody, nobody, nobody.astype(bool))
        return rows.with_updates(updated, own, others)


def _without_share(
    rows: Rows,
    numbers: np.ndarray,
    G: np.ndarray,
    g: np.ndarray,
    prior_share: np.ndarray,
    exponent: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Means and covariances of rows without βG and βg, and the prior of these."""
    assert rows.covariance is not None
    mean = rows.mean[0, numbers].astype(np.float64)
    A = np.linalg.inv(rows.covariance[0, numbers].astype(np.float64)) - G
    gradient = np.einsum("njk,nk->nj", G, mean) - g
    if exponent:
        lost = rows.count[numbers] ** exponent - prior_share
        precision = np.linalg.inv(rows.residual_covariance[0].astype(np.float64))
        A -= lost[:, None, None] * precision
        gradient += lost[:, None] * ((mean - rows.prior_mean[0, -1]) @ precision)
    root = np.linalg.cholesky(rows.prior_covariance[0, -1].astype(np.float64))
    values, vectors = np.linalg.eigh(root.T @ A @ root)
    least = np.maximum(prior_share, MIN_SHARE)
    half = root @ vectors / np.sqrt(np.maximum(values, least[:, None]))[:, None]
    covariance = half @ half.swapaxes(1, 2)
    return mean + np.einsum("njk,nk->nj", covariance, gradient), covariance


@dataclass(frozen=True)
class RowSums:
    """Sums over the ratings to take back, of the rows that they meet.

    Attributes
    ----------
    rows : ndarray of shape (n_rows,)
        Sorted numbers of the rows.
    count : ndarray of shape (n_rows,)
        Number of squares of the noise, or Σ w where weights are not precisions.
    G, g, s : ndarray
        As in `conditional`, of shape (n_rows, row_size, row_size), (n_rows, row_size)
        and (n_rows,).
    """

    rows: np.ndarray
    count: np.ndarray
    G: np.ndarray
    g: np.ndarray
    s: np.ndarray

    @classmethod
    def over(
        cls,
        own: np.ndarray,
        others: np.ndarray,
        of_others: OtherSide,
        weight: np.ndarray,
        count: np.ndarray,
        target: np.ndarray,
        target_variance: np.ndarray,
    ) -> RowSums:
        """Sums over ratings of numbered rows."""
        order = np.argsort(own, kind="stable")
        rows, place = np.unique(own[order], return_inverse=True)
        others, weight = others[order], weight[order]
        target, target_variance = target[order], target_variance[order]
        n_rows, size = len(rows), of_others.rows.mean.shape[2]
        total = np.bincount(place, count[order], n_rows)
        G, g, s = (
            np.zeros((n_rows, size, size)),
            np.zeros((n_rows, size)),
            np.zeros(n_rows),
        )
        weight = weight * of_others.precision[others]
        step = max(1, TILE_SIZE // size**2)
        for start in range(0, len(place), step):
            tile = slice(start, start + step)
            w, t = weight[tile], target[tile]
            zz, z, cz, c, cc = of_others.moments(others[tile])
            zz *= w[:, None, None]
            square = t**2 + target_variance[tile] - 2 * t * c + cc
            at, starts = np.unique(place[tile], return_index=True)
            G[at] += np.add.reduceat(zz, starts)
            g[at] += np.add.reduceat(w[:, None] * (t[:, None] * z - cz), starts)
            s[at] += np.add.reduceat(w * square, starts)
        return cls(rows, total, G, g, s)

    def with_zeros(
        self, n_rows: int, of_others: OtherSide, kept: np.ndarray, weight: float
    ) -> RowSums:
        """With a pair of every row and each other that is not kept, as a rating of 0.

        All these pairs have the same weight.
        """
        others = np.setdiff1d(np.arange(len(of_others)), kept)
        if not len(others):
            return self
        nothing, same = np.zeros(len(others)), np.full(len(others), weight)
        one = np.zeros(len(others), dtype=np.int64)
        of_all = RowSums.over(one, others, of_others, same, same, nothing, nothing)
        names = "count", "G", "g", "s"
        sums = {n: np.repeat(getattr(of_all, n), n_rows, axis=0) for n in names}
        for name in names:
            sums[name][self.rows] += getattr(self, name)
        return RowSums(np.arange(n_rows), **sums)


def retracted(
    model: Posterior,
    forgotten: ForgottenRows,
    *,
    unobserved_weight: float = 0.0,
    exponent: float = 0.0,
) -> Posterior:
    """The model without the share of the rows, with users and items as before.

    With `unobserved_weight`, the pairs without ratings of the ids to forget are taken
    back too. The precision of the prior of a row grows with its weight to the power of
    `exponent`.
    """
    is_certain = not model.knows_variance
    users, items = (
        OtherSide(rows, model.n_factors, is_certain)
        for rows in (model.users, model.items)
    )
    data, (u, i) = forgotten.data, forgotten.pairs
    assert data is not None
    x = model.units.standard_features(data.context)
    coef = model.coef * np.nan_to_num(model.units.feature_scale, posinf=0)
    target = data.rating - model.centre_of_fit - x @ coef
    target -= model.column_means(u, i, data.context)
    variance = np.einsum("nj,jk,nk->n", x, model.coef_covariance, x)
    variance += model.column_variances(u, i, data.context)
    # The noise is that of means of pairs.
    variance = variance * (not is_certain) - model.repeat_variance
    counts = None if is_certain else data.counts
    count = data.weight if counts is None else counts
    ratings = data.weight, count, target, variance
    of_users = RowSums.over(u, i, items, *ratings)
    of_items = RowSums.over(i, u, users, *ratings)
    residual = float(users.precision[of_users.rows] @ users.squares(of_users))
    noise_variance = _retracted_noise(model, count.sum(), max(0.0, residual))
    if unobserved_weight:
        kept = forgotten.kept
        of_users = of_users.with_zeros(len(users), items, kept.item, unobserved_weight)
        of_items = of_items.with_zeros(len(items), users, kept.user, unobserved_weight)
    beta = 1 / model.noise_variance
    coef_step, coef_covariance = _retracted_coef(
        model.coef_covariance,
        x,
        beta * data.weight * users.precision[u] * items.precision[i],
        data.rating - model.mean(u, i, data.context),
    )
    updated = replace(
        model,
        users=users.without(of_users, beta, exponent),
        items=items.without(of_items, beta, exponent),
        coef=model.coef + coef_step / model.units.feature_scale,
        coef_covariance=coef_covariance,
        noise_variance=noise_variance,
    )
    if is_certain:
        # Covariances of penalties are relative to the noise.
        return updated.scale_covariances(noise_variance / model.noise_variance)
    return updated


def _retracted_noise(model: Posterior, count: float, residual: float) -> float:
    """Noise variance of the ratings that are left."""
    past = max(model.users.count.sum(), model.items.count.sum())
    left = max(past - count, MIN_SHARE * past)
    squares = past * model.noise_variance
    return float(max(squares - residual, MIN_SHARE * squares) / left)


def _retracted_coef(
    covariance: np.ndarray, x: np.ndarray, precision: np.ndarray, error: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Step of the coefficients of standardised context, and their covariance."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    along = x @ root
    left = np.eye(len(covariance)) - (along.T * precision) @ along
    values, vectors = np.linalg.eigh(left)
    half = root @ (vectors / np.sqrt(np.maximum(values, MIN_SHARE)))
    covariance = half @ half.T
    return -covariance @ (x.T @ (precision * error)), covariance
