"""FittedLinkMatrix: effects of a block of features on the prior means of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from .._data.vocabulary import Growth
from .._storage import stored

# Blocks of features: side features, and the rows that a row has ratings with.
DESCRIBED, IMPLICIT = "described", "implicit"


@stored
@dataclass(frozen=True)
class FittedLinkMatrix:
    """Link matrix B of a block of features f = scale × matrix − column_mean.

    It adds Bᵀf to the prior mean of a row.

    Attributes
    ----------
    mean : ndarray of shape (n_draws or 1, n_columns, row_size)
        Means of B; of the last draw alone where 1.
    covariance : ndarray of shape (n_draws, row_size, row_size)
        Covariance of each row of B.
    prior_covariance : ndarray of shape (row_size, row_size)
        Ω⁻¹, of the last draw.
    effect_covariance : ndarray of shape (n_draws, row_size, row_size)
        Covariance of Bᵀf over the rows of the fit.
    column_mean : ndarray of shape (n_columns,)
    scale : float
    column_of : ndarray of shape (n_others,) or None
        Column of each row of the other side in an implicit block, -1 for rows added
        after the fit. None if each row has the column of its number.
    """

    mean: np.ndarray
    covariance: np.ndarray
    prior_covariance: np.ndarray
    effect_covariance: np.ndarray
    column_mean: np.ndarray
    scale: float
    column_of: np.ndarray | None = None

    @classmethod
    def stack(
        cls, draws: Sequence[FittedLinkMatrix], *, keep_all: bool
    ) -> FittedLinkMatrix:
        """Draws as one object, with all means or only the last."""
        kept = draws if keep_all else draws[-1:]
        return replace(
            draws[-1],
            mean=np.concatenate([draw.mean for draw in kept]),
            covariance=np.concatenate([draw.covariance for draw in draws]),
            effect_covariance=np.concatenate(
                [draw.effect_covariance for draw in draws]
            ),
        )

    def with_new_others(self, others: Growth) -> FittedLinkMatrix:
        """The same link among new rows of the other side, which have no column."""
        column_of = self.column_of
        if column_of is None:
            column_of = np.arange(len(self.column_mean))
        return replace(self, column_of=others.inserted(column_of, -1))

    def without_others(self, kept: np.ndarray) -> FittedLinkMatrix:
        """The same link among rows of the other side that are kept, by new numbers."""
        columns = self.columns_of(kept)
        has_column = columns >= 0
        among = columns[has_column]
        column_of = np.where(has_column, has_column.cumsum() - 1, -1)
        return replace(
            self,
            mean=self.mean[:, among],
            column_mean=self.column_mean[among],
            column_of=column_of,
        )

    def columns_of(self, others: np.ndarray) -> np.ndarray:
        """Columns of numbered rows of the other side, -1 for those without one."""
        if self.column_of is None:
            return others
        return np.where(others < 0, -1, self.column_of[others])

    @property
    def feature_mean(self) -> np.ndarray:
        """Mean of each column of the matrix."""
        return self.column_mean / (self.scale or 1.0)

    def effects(self, matrix: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of Bᵀf for rows of a matrix, draw by draw.

        Of shape (n_draws, n_rows, row_size) and (n_draws, n_rows, row_size, row_size).
        """
        covariance = self.energies(matrix)[:, None, None] * self.covariance[:, None]
        return self.effect_means(matrix), covariance

    def effect_means(self, matrix: sparse.csr_array) -> np.ndarray:
        """Mean of Bᵀf for rows of a matrix, shape (n_draws, n_rows, row_size)."""
        return np.stack(
            [self.scale * (matrix @ B) - self.column_mean @ B for B in self.mean]
        )

    def energies(self, matrix: sparse.csr_array) -> np.ndarray:
        """‖f‖² for rows of a matrix, shape (n_rows,)."""
        energy = self._energy(matrix) - 2 * self.scale * (matrix @ self.column_mean)
        return np.maximum(energy + self.column_mean @ self.column_mean, 0)

    def contrast_effects(
        self, contrasts: sparse.csr_array
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of differences of effects, in which the mean cancels.

        Of shape (n_draws, n_contrasts, row_size) and (n_draws, n_contrasts, row_size,
        row_size).
        """
        mean = self.scale * np.stack([contrasts @ B for B in self.mean])
        return mean, self._energy(contrasts)[:, None, None] * self.covariance[:, None]

    def _energy(self, matrix: sparse.csr_array) -> np.ndarray:
        """Squared norms of scaled rows."""
        return self.scale**2 * matrix.multiply(matrix).sum(axis=1)
