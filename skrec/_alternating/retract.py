"""Retraction: a posterior without the share of some ratings.

Given the other side, the natural parameters of a row are those of its prior plus a sum
over its ratings (see `conditional`), so ratings are taken back by a subtraction. With
A' = A − βG, the mean of a row goes from x to

    x' = x + A'⁻¹ β (G x − g).

Both sides take the other one as it is in the model. Its rows may have moved a little
since the ratings were learned, so that G is larger than it was then; A' keeps at least
the precision of the prior.

Everything here is in rating units and double precision: arrays in, arrays out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .._data.forgotten import ForgottenRows
from .._data.vocabulary import Growth
from .._threads import torch_threads
from .conditional import Sums
from .covariances import PackedCovariance
from .layout import Layout
from .moments import SideMoments
from .posterior import Posterior
from .ratings import Ratings
from .rows import Rows

# Elements of the matrices of rows that are held at a time.
TILE_SIZE = 2**21

# Smallest share of the precision of a coefficient, and of the noise variance, that is
# left.
MIN_SHARE = 1e-3

NOBODY = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class OneSide:
    """Rows of one side, some of whose ratings are taken back.

    Attributes
    ----------
    rows : Rows
    layout : Layout
    is_certain : bool
        Whether the other side takes them for their points, as by als.
    """

    rows: Rows
    layout: Layout
    is_certain: bool

    @cached_property
    def precision(self) -> np.ndarray:
        """Relative precision of each row."""
        if self.is_certain:
            return np.ones(len(self))
        return self.rows.relative_precisions(np.arange(len(self)))[0]

    def __len__(self) -> int:
        return self.rows.mean.shape[1]

    def means_and_covariances(
        self, numbers: np.ndarray
    ) -> tuple[Tensor, Tensor | None]:
        """Means of rows, and covariances unless they are certain."""
        mean = torch.from_numpy(self.rows.mean[0, numbers].astype(np.float64))
        if self.is_certain:
            return mean, None
        assert self.rows.covariance is not None
        covariance = self.rows.covariance[0, numbers].astype(np.float64)
        return mean, torch.from_numpy(covariance)

    def moments(self, numbers: np.ndarray) -> SideMoments:
        """Moments of rows for the conditionals of the other side."""
        mean, covariance = self.means_and_covariances(numbers)
        packed = None if covariance is None else self.layout.pack(covariance)
        precision = torch.from_numpy(self.precision[numbers])
        return SideMoments.of(mean, packed, precision, self.layout, map)

    def squares(self, taken: Taken) -> np.ndarray:
        """Σ w E[(y − ŷ)²] over the ratings to take back of each row."""
        squares = taken.sums.residual(*self.means_and_covariances(taken.rows))
        return squares.clamp(min=0).numpy()

    def without(self, taken: Taken, noise_precision: float, exponent: float) -> Rows:
        """All rows, without the share of these ratings."""
        rows, numbers = self.rows, taken.rows
        G, g = taken.sums.G.numpy(), taken.sums.g.numpy()
        count = np.minimum(taken.count, rows.count[numbers])
        left = rows.count[numbers] - count
        share = left / np.maximum(rows.count[numbers], np.finfo(float).tiny)
        mean, covariance = np.empty_like(g), np.empty_like(G)
        step = max(1, TILE_SIZE // mean.shape[1] ** 2)
        for start in range(0, len(numbers), step):
            tile = slice(start, start + step)
            beta = noise_precision * self.precision[numbers[tile]]
            mean[tile], covariance[tile] = _without_share(
                rows,
                numbers[tile],
                beta[:, None, None] * G[tile],
                beta[:, None] * g[tile],
                left[tile] ** exponent,
                exponent,
            )
        relative_variance = rows.relative_variance[numbers]
        if not self.is_certain:
            _, shape = rows.relative_precisions(numbers)
            rate = shape / self.precision[numbers]
            rate -= noise_precision * self.squares(taken) / 2
            # The rate of the prior is a, up to the norm of all relative precisions.
            rate = np.maximum(rate, rows.concentration / 2)
            relative_variance = rate / (shape - count / 2 - 1)
        updated = replace(
            rows,
            mean=mean[None],
            covariance=PackedCovariance.of(covariance),
            count=-count,
            selection=rows.selection[numbers] * (share - 1),
            relative_variance=relative_variance,
        )
        own = Growth(NOBODY, NOBODY, numbers, np.zeros(len(numbers), dtype=bool))
        others = Growth(NOBODY, NOBODY, NOBODY, NOBODY.astype(bool))
        return rows.with_updates(updated, own, others)


@dataclass(frozen=True)
class Taken:
    """Ratings to take back, by the rows of one side.

    Attributes
    ----------
    rows : ndarray of shape (n_rows,)
        Sorted numbers of the rows.
    count : ndarray of shape (n_rows,)
        Number of squares of the noise, or Σ w where weights are not precisions.
    sums : Sums
    """

    rows: np.ndarray
    count: np.ndarray
    sums: Sums

    @classmethod
    def of(
        cls,
        own: np.ndarray,
        others: np.ndarray,
        sides: tuple[OneSide, OneSide],
        ratings: Sequence[np.ndarray],
        gone: np.ndarray = NOBODY,
        weight_of_pair: float = 0.0,
    ) -> Taken:
        """Ratings of rows and others of these sides, by their numbers.

        `ratings` are their weights, counts, targets and variances of these. With others
        that are `gone`, every row has a rating of 0 of each of them to take back.
        """
        side, other_side = sides
        layout, rows, of_pairs = side.layout, np.unique(own), None
        if len(gone):
            rows = np.arange(len(side))
            same = torch.full((len(gone),), weight_of_pair, dtype=torch.float64)
            of_pairs = other_side.moments(gone).total(same, layout)[None]
        met, column = np.unique(others, return_inverse=True)
        order = np.argsort(own, kind="stable")
        place = np.searchsorted(rows, own[order])
        weight, count, target, variance = (
            torch.from_numpy(values[order]).double() for values in ratings
        )
        entries = torch.from_numpy(place), torch.from_numpy(column[order])
        of_rows = replace(
            Ratings.from_sorted(*entries, len(rows), weight, target, count),
            target_variance=variance,
        )
        sums = Sums.over(of_rows, other_side.moments(met), layout, of_pairs)
        of_gone = weight_of_pair * len(gone)
        return cls(rows, of_rows.count.numpy() + of_gone, sums)


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


@torch_threads(1)
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
    is_certain, k = not model.knows_variance, model.n_factors
    layout = Layout(k, model.row_size > k, torch.device("cpu"))
    users, items = (
        OneSide(rows, layout, is_certain) for rows in (model.users, model.items)
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
    by_user, by_item = (u, i, (users, items), ratings), (i, u, (items, users), ratings)
    of_users, of_items = Taken.of(*by_user), Taken.of(*by_item)
    residual = float(users.precision[of_users.rows] @ users.squares(of_users))
    noise_variance = _retracted_noise(model, count.sum(), max(0.0, residual))
    if unobserved_weight:
        gone_users, gone_items = (
            np.setdiff1d(np.arange(len(side)), kept)
            for side, kept in zip((users, items), forgotten.kept, strict=True)
        )
        of_users = Taken.of(*by_user, gone_items, unobserved_weight)
        of_items = Taken.of(*by_item, gone_users, unobserved_weight)
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
