"""Rows of a fitted matrix factorisation in rating units, as NumPy arrays.

Point estimates, a Gaussian posterior and draws have one form: draws, each with a mean
and perhaps a covariance. Row number -1 is an unknown row, whose distribution is the
prior that the solver has learned. -2, -3 and so on are cold rows: those with features
and no ratings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import sparse

from .._data.vocabulary import Growth
from .._sparse import ParallelMap
from .._storage import stored
from .covariances import AxisCovariance, PackedCovariance
from .links import DESCRIBED, IMPLICIT, FittedLinkMatrix

# Elements of the covariances that are decomposed at a time.
DRAW_SIZE = 2**21


@stored
@dataclass(frozen=True)
class FactorSums:
    """Sums over rows of factors minus a reference, and of their outer products.

    An update of some rows needs no pass over the others. In float64, since rounding
    errors add up.

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
        empty = cls(0, reference, np.zeros((n_draws, k)), np.zeros((n_draws, k, k)))
        return empty.add(factors)

    @classmethod
    def stack(cls, draws: Sequence[FactorSums]) -> FactorSums:
        """Draws as one object."""
        return cls(
            draws[0].n_rows,
            *(
                np.concatenate([getattr(draw, name) for draw in draws])
                for name in ("reference", "total", "square")
            ),
        )

    def add(self, factors: np.ndarray, sign: int = 1) -> FactorSums:
        """Sums with further rows, or with a sign of -1 without some."""
        deviations = factors - self.reference[:, None]
        return replace(
            self,
            n_rows=self.n_rows + sign * factors.shape[1],
            total=self.total + sign * deviations.sum(axis=1),
            square=self.square + sign * (deviations.swapaxes(1, 2) @ deviations),
        )

    def square_roots(self) -> np.ndarray:
        """R of every draw, where RᵀR is the scatter matrix about the mean."""
        outer = self.total[:, :, None] * self.total[:, None] / max(self.n_rows, 1)
        values, vectors = np.linalg.eigh(self.square - outer)
        # Eigenvalues below this are rounding errors.
        floor = values[:, -1:] * np.finfo(np.float32).eps ** 2
        values = np.where(values > floor, values, 0)
        return np.sqrt(values)[:, :, None] * vectors.swapaxes(1, 2)


@stored
@dataclass(frozen=True)
class Rows:
    """Rows of one side: factors, followed by the bias if there is one.

    Attributes
    ----------
    mean : ndarray of shape (n_draws, n_rows, row_size)
    covariance : PackedCovariance, AxisCovariance or None
        None for draws, and if covariances were not to be stored.
    prior_mean : ndarray of shape (n_draws, n_priors, row_size)
        The last one is that of unknown rows. Those of cold rows -2, -3 and so on stand
        before it in reverse order.
    prior_covariance : ndarray of shape (n_draws, n_priors, row_size, row_size)
    cold_offset : ndarray of shape (n_draws, row_size)
        Added to prior means in predictions: the mean of all rows minus the prior mean
        if the prior is not learned, else 0.
    residual_covariance : ndarray of shape (n_draws, row_size, row_size)
        Λ⁻¹, the covariance of rows about their prior means Bᵀf + m.
    count : ndarray of shape (n_rows,)
        Squares of the noise that the ratings of each row hold.
    relative_variance : ndarray of shape (n_rows,)
        E[1 / α], the factor of the noise variance of a row's ratings.
    concentration : float
        Shape a of the Gamma prior of the relative precisions α.
    selection : ndarray of shape (n_rows,)
        Sum over a row's ratings of the share of the other rows' deviations from their
        features' prediction in the predicted rating.
    selection_ratio : float
        Ratio of the variance of these shares between rows to that within.
    factor_sums : FactorSums
    links : dict of str to FittedLinkMatrix
        Link matrix of each block of features.
    """

    mean: np.ndarray
    covariance: PackedCovariance | AxisCovariance | None
    prior_mean: np.ndarray
    prior_covariance: np.ndarray
    cold_offset: np.ndarray
    residual_covariance: np.ndarray
    count: np.ndarray
    relative_variance: np.ndarray
    concentration: float
    selection: np.ndarray
    factor_sums: FactorSums
    links: dict[str, FittedLinkMatrix] = field(default_factory=dict)
    selection_ratio: float = 1.0

    @classmethod
    def stack(cls, draws: Sequence[Rows]) -> Rows:
        """Draws as one object."""

        def all_of(name: str) -> np.ndarray:
            return np.concatenate([getattr(draw, name) for draw in draws])

        def mean_of(name: str) -> np.ndarray:
            return np.mean([getattr(draw, name) for draw in draws], axis=0)

        return replace(
            draws[0],
            mean=all_of("mean"),
            covariance=draws[0].covariance if len(draws) == 1 else None,
            prior_mean=all_of("prior_mean"),
            prior_covariance=all_of("prior_covariance"),
            cold_offset=all_of("cold_offset"),
            residual_covariance=all_of("residual_covariance"),
            relative_variance=mean_of("relative_variance"),
            selection=mean_of("selection"),
            selection_ratio=float(mean_of("selection_ratio")),
            factor_sums=FactorSums.stack([draw.factor_sums for draw in draws]),
            links={
                name: FittedLinkMatrix.stack(
                    [draw.links[name] for draw in draws], keep_all=name == DESCRIBED
                )
                for name in draws[0].links
            },
        )

    def with_cold_rows(self, matrix: sparse.csr_array) -> Rows:
        """Rows with cold row -2 - j for row j of side features."""
        effect, covariance = self.links[DESCRIBED].effects(matrix[::-1])
        mean, rest = self.prior_mean[:, -1:], self.prior_covariance[:, -1:]
        # A sum, since rounding may leave differences from the prior covariance without
        # positive variances.
        others = (
            link.effect_covariance
            for name, link in self.links.items()
            if name != DESCRIBED
        )
        covariance = covariance + sum(others, self.residual_covariance)[:, None]
        return replace(
            self,
            prior_mean=np.concatenate([mean + effect, mean], axis=1),
            prior_covariance=np.concatenate([covariance, rest], axis=1),
        )

    def means(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Means of rows in predictions, draw by draw."""
        unknown, known = rows < 0, np.maximum(rows, 0)
        for mean, prior_mean, offset in zip(
            self.mean, self.prior_mean, self.cold_offset, strict=True
        ):
            taken = mean[known]
            taken[unknown] = prior_mean[rows[unknown]] + offset
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

    def draw(
        self, rows: np.ndarray, number: int, random_state: np.random.RandomState
    ) -> Rows:
        """A draw of numbered rows from their Gaussians in one of the stored draws."""
        one = slice(number, number + 1)
        stored = replace(
            self,
            mean=self.mean[one],
            prior_mean=self.prior_mean[one],
            prior_covariance=self.prior_covariance[one],
            cold_offset=self.cold_offset[one],
        )
        (drawn,) = stored.means(rows)
        normal = random_state.standard_normal(drawn.shape)
        uncertain = np.flatnonzero((rows < 0) | (self.covariance is not None))
        height = max(1, DRAW_SIZE // max(1, drawn.shape[1] ** 2))
        for start in range(0, len(uncertain), height):
            tile = uncertain[start : start + height]
            (covariance,) = stored.covariances(rows[tile])
            root = _root(covariance.astype(np.float64))
            drawn[tile] += np.einsum("njk,nk->nj", root, normal[tile])
        return replace(stored, mean=drawn[None], covariance=None)

    def with_added_biases(self, biases: np.ndarray) -> Rows:
        """Rows of one draw, with a number added to each bias."""
        mean = self.mean.copy()
        mean[0, :, -1] += biases
        return replace(self, mean=mean)

    def with_compact_covariance(self, parallel_map: ParallelMap) -> Rows:
        """The same rows, with covariances rounded if that saves much memory."""
        if not isinstance(self.covariance, PackedCovariance):
            return self
        return replace(self, covariance=self.covariance.compact(parallel_map))

    def relative_variances(self, rows: np.ndarray) -> np.ndarray:
        """Relative variances of rows; an unknown row has the mean of all."""
        known = self.relative_variance[np.maximum(rows, 0)]
        return np.where(rows < 0, self.relative_variance.mean(), known)

    def relative_precisions(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and shapes of the Gamma distributions of the relative precisions.

        An unknown row has the prior.
        """
        a, known = self.concentration, np.maximum(rows, 0)
        shape = a + np.where(rows < 0, 0, self.count[known]) / 2
        variance = np.where(rows < 0, a / (a - 1), self.relative_variance[known])
        return shape / ((shape - 1) * variance), shape

    def selection_effects(self, rows: np.ndarray) -> np.ndarray:
        """Expected share of an unknown counterpart in a rating that exists.

        Users rate items that they expect to like, so the counterpart is taken for one
        of those that have ratings with the row: their mean, shrunk as far as such means
        vary no more than by chance.
        """
        known, ratio = np.maximum(rows, 0), self.selection_ratio
        mean = ratio * self.selection[known] / (1 + ratio * self.count[known])
        return np.where(rows < 0, 0, mean)

    def scale_covariances(self, ratio: float) -> Rows:
        """The same rows, with all covariances multiplied by a ratio."""
        return replace(
            self,
            covariance=None if self.covariance is None else self.covariance * ratio,
            prior_covariance=self.prior_covariance * ratio,
            residual_covariance=self.residual_covariance * ratio,
        )

    def take(self, rows: np.ndarray) -> Rows:
        """Means of numbered rows, without their covariances."""
        return replace(
            self,
            mean=np.stack(list(self.means(rows))),
            covariance=None,
            prior_mean=self.prior_mean[:, -1:],
        )

    def without(self, kept: np.ndarray, others: np.ndarray) -> Rows:
        """The rows that are kept, among such ones of the other side."""
        k = self.factor_sums.total.shape[1]
        dropped = np.setdiff1d(np.arange(self.mean.shape[1]), kept)
        covariance = self.covariance
        if covariance is not None and len(dropped):
            covariance = covariance.take(kept)
        return replace(
            self,
            mean=self.mean[:, kept],
            covariance=covariance,
            count=self.count[kept],
            relative_variance=self.relative_variance[kept],
            selection=self.selection[kept],
            factor_sums=self.factor_sums.add(self.mean[:, dropped, :k], -1),
            links={
                name: link.without_others(others) if name == IMPLICIT else link
                for name, link in self.links.items()
            },
        )

    def with_updates(self, updated: Rows, own: Growth, others: Growth) -> Rows:
        """These rows among new ones, with `updated` for the rows that are given.

        `others` is the growth of the other side. Besides copies of small arrays, the
        cost is proportional to the updated rows.
        """
        covariance = None
        if self.covariance is not None and updated.covariance is not None:
            covariance = self.covariance.with_updates(updated.covariance, own)
        k = self.factor_sums.total.shape[1]
        # The mean of one draw would be a further copy.
        mean = self.mean[0] if len(self.mean) == 1 else self.mean.mean(axis=0)
        mean = own.inserted(mean)
        past = mean[None, own.given[~own.is_new], :k]
        mean[own.given] = updated.mean[0]
        count, selection = own.inserted(self.count), own.inserted(self.selection)
        count[own.given] += updated.count
        selection[own.given] += updated.selection
        relative_variance = own.inserted(self.relative_variance)
        relative_variance[own.given] = updated.relative_variance
        return replace(
            self,
            mean=mean[None],
            factor_sums=self.factor_sums.add(past, -1).add(updated.mean[..., :k]),
            covariance=covariance,
            prior_mean=self.prior_mean[:, -1:],
            prior_covariance=self.prior_covariance[:, -1:],
            count=count,
            selection=selection,
            relative_variance=relative_variance,
            links={
                name: link.with_new_others(others)
                if name == IMPLICIT and len(others.at)
                else link
                for name, link in self.links.items()
            },
        )


def _root(covariance: np.ndarray) -> np.ndarray:
    """L of each covariance, where LLᵀ is the covariance."""
    diagonal = np.einsum("njj->nj", covariance)
    # Rounding may leave a covariance without positive variances. Biases and factors
    # have different units.
    diagonal *= 1 + diagonal.shape[1] * np.finfo(np.float32).eps
    np.maximum(diagonal, np.finfo(np.float64).tiny, out=diagonal)
    return np.linalg.cholesky(covariance)
