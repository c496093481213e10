"""The Gaussian conditional of one side's rows given the other side.

One side of a matrix factorisation is a table of rows x = (p, b): factors and bias. The
other side meets a row as the extended row e = (p, 1, b). With the other side's
e = (q, 1, c) cut into the part z = (q, 1) that x meets and the offset c, the prediction
is x·z + c, and the posterior of a row depends on its ratings through the sums

    G = Σ w E[z zᵀ]     g = Σ w (E[y z] − E[c z])     s = Σ w E[(y − c)²]

alone. It is N(A⁻¹h, A⁻¹) where

    A = β G + Λ         h = β g + Λ m.

m may differ from row to row (see `feature_weights`). With unobserved pairs that count
as ratings of 0, of weight α, G, g and s also have the sums over all of the other side's
rows: α Σ E[z zᵀ], −α Σ E[c z] and α Σ E[c²], the same for every row.

The expected residual sum of squares of the row is s − 2 E[x]·g + ⟨E[x xᵀ], G⟩. Without
biases e is q, and there is no offset.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from .layout import Layout
from .moments import SideMoments
from .ratings import Ratings
from .symmetric import (
    cholesky,
    covariance_and_log_det,
    eliminates,
    log_det_of_product,
    times,
)

# Standard errors up to which the mean residual of a row is noise.
MAX_LEVEL_ERROR = 2.0

# Means, covariances if there are any, and the sum of the log determinants of these.
Moments = tuple[Tensor, Tensor | None, Tensor | float]


@dataclass(frozen=True)
class Sums:
    """Sums G, g and s over the ratings of each row.

    Attributes
    ----------
    packed_G : Tensor of shape (n_rows, n_packed_row)
        Or matrices where the other side's rows are points that are wide.
    g : Tensor of shape (n_rows, row_size)
    s : Tensor of shape (n_rows,)
    layout : Layout
    """

    packed_G: Tensor
    g: Tensor
    s: Tensor
    layout: Layout

    @classmethod
    def over(
        cls,
        ratings: Ratings,
        others: SideMoments,
        layout: Layout,
        unobserved: Tensor | None = None,
    ) -> Sums:
        """Sums over the ratings of each row, plus those over its unobserved pairs."""
        d = layout.row_size
        first, second = ratings.weighted_targets
        products = ratings.sum(others.mean, first)
        squares = ratings.sum(others.precision[:, None], second).squeeze(1)
        moments = others.sums(ratings)
        if others.roots is not None:
            if unobserved is not None:
                moments += layout.unpack_extended(unobserved)
            G, along = moments[:, :d, :d], moments[:, -1, :d]
            square = moments[:, -1, -1]
        else:
            if unobserved is not None:
                moments += unobserved
            G = moments[:, : layout.n_packed_row]
            along, square = moments[:, -d - 1 : -1], moments[:, -1]
        if not layout.biased:
            return cls(G, products, squares, layout)
        products, offset = products[:, :-1] - along, products[:, -1]
        squares = torch.sub(squares, offset, alpha=2) + square
        return cls(G, products, squares, layout)

    @cached_property
    def G(self) -> Tensor:
        """G of each row, shape (n_rows, row_size, row_size)."""
        is_packed = self.packed_G.ndim == 2
        return self.layout.unpack(self.packed_G) if is_packed else self.packed_G

    def precision(self, noise_precision: Tensor, prior_precision: Tensor) -> Tensor:
        """A = βG + Λ of each row."""
        if self.packed_G.ndim == 2:
            prior = self.layout.pack(prior_precision[None])
            A = torch.addcmul(prior, noise_precision[:, None], self.packed_G)
            if eliminates(len(A), self.layout.row_size, A.device):
                return self.layout.unpack_last(A)
            return self.layout.unpack(A)
        return torch.addcmul(
            prior_precision, noise_precision[:, None, None], self.packed_G
        )

    @property
    def G_of_bias(self) -> Tensor:
        """Σ w E[z] of each row, the last row of its G; shape (n_rows, row_size)."""
        is_packed = self.packed_G.ndim == 2
        d = self.layout.row_size
        return self.packed_G[:, -d:] if is_packed else self.packed_G[:, -1]

    def squares_of(self, rows: Tensor) -> Tensor:
        """Σ w E[(x·z)²] of each row x."""
        return (rows * times(self.G, rows)).sum(1)

    def residual(self, rows: Tensor, covariance: Tensor | None) -> Tensor:
        """Expected residual sum of squares of rows: points, or with a covariance."""
        residual = self.s - 2 * (rows * self.g).sum(1) + self.squares_of(rows)
        if covariance is not None:
            residual += (covariance * self.G).sum((1, 2))
        return residual


def squares_of_level(
    g_of_bias: Tensor, G_of_bias: Tensor, rows: Tensor, noise_precision: float
) -> Tensor:
    """Part of the residual sum of squares of each row that is no noise.

    Σ w r², with the residuals r of a row, has the part (Σ w r)² / Σ w of their mean.
    That of a row whose prior holds it far from its ratings says nothing of their noise,
    however large it is: only as much counts as noise may bring.
    """
    first = torch.baddbmm(
        g_of_bias[:, None, None], G_of_bias[:, None], rows[:, :, None], alpha=-1
    )
    weight = G_of_bias[:, -1].clamp(min=torch.finfo(rows.dtype).tiny)
    level = first.flatten().square_().div_(weight)
    return F.softshrink(level, MAX_LEVEL_ERROR**2 / noise_precision)


class Gaussians(ABC):
    """A Gaussian distribution of each row."""

    @abstractmethod
    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Means, covariances, and the sum of the log determinants of these."""

    def mean(self) -> Tensor:
        """Mean of each row."""
        return self.moments()[0]

    def draw(self, normal: Tensor) -> Tensor:
        """A draw of each row, by a standard normal one."""
        mean, covariance, _ = self.moments()
        return mean + times(cholesky(covariance), normal)


@dataclass(frozen=True)
class NaturalGaussians(Gaussians):
    """N(A⁻¹h, A⁻¹) of each row, by natural parameters.

    Attributes
    ----------
    A : Tensor of shape (n_rows, size, size)
    h : Tensor of shape (n_rows, size)
    """

    A: Tensor
    h: Tensor

    def mean(self) -> Tensor:
        root = cholesky(self.A)
        return torch.cholesky_solve(self.h[:, :, None], root).squeeze(2)

    def draw(self, normal: Tensor) -> Tensor:
        root = cholesky(self.A)
        half = torch.linalg.solve_triangular(root, self.h[:, :, None], upper=False)
        half += normal[:, :, None]
        return torch.linalg.solve_triangular(root.mT, half, upper=True).squeeze(2)

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        covariance, log_det = covariance_and_log_det(self.A)
        return times(covariance, self.h), covariance, log_det


@dataclass(frozen=True)
class Conditional(NaturalGaussians):
    """Posterior of each row given the other side, where rows share Λ.

    Attributes
    ----------
    sums : Sums
        Sums over the ratings of each row.
    noise_precision : Tensor of shape (n_rows,)
        β of each row.
    prior_precision : Tensor of shape (row_size, row_size)
        Λ.
    """

    sums: Sums
    noise_precision: Tensor
    prior_precision: Tensor

    @classmethod
    def given(
        cls,
        sums: Sums,
        noise_precision: Tensor,
        prior_mean: Tensor,
        prior_precision: Tensor,
    ) -> Conditional:
        """Posterior by a prior mean that rows share, or by one for each row."""
        A = sums.precision(noise_precision, prior_precision)
        # Rounding can make a sum of moments indefinite by a few ulps of its size.
        size = len(prior_precision)
        A.diagonal(dim1=1, dim2=2).mul_(1 + 4 * size * torch.finfo(A.dtype).eps)
        of_prior = prior_mean @ prior_precision
        h = torch.addcmul(of_prior, noise_precision[:, None], sums.g)
        return cls(A, h, sums, noise_precision, prior_precision)

    def residual(self, rows: Tensor, covariance: Tensor | None) -> Tensor:
        """Expected residual sum of squares of rows.

        They are points, or have the covariance of `moments`.
        """
        # βG = A − Λ, and A times its inverse has the trace of the identity.
        Lambda, sums = self.prior_precision, self.sums
        image = torch.addmm(times(self.A, rows), rows, Lambda, alpha=-1)
        square = (rows * image).sum(1)
        if covariance is not None:
            square.addmv_(covariance.flatten(1), Lambda.flatten(), alpha=-1)
            square += len(Lambda)
        squares = torch.sub(sums.s, (rows * sums.g).sum(1), alpha=2)
        return squares.addcdiv_(square, self.noise_precision)


@dataclass(frozen=True)
class UpdatedRows(Gaussians):
    """Posterior of each row after further ratings, where each has its own prior.

    With the prior covariance LLᵀ and CCᵀ = I + β LᵀGL, the posterior covariance is RᵀR
    for R = C⁻¹Lᵀ, and no covariance has to be inverted.

    Attributes
    ----------
    sums : Sums
        Sums over the further ratings of each row.
    noise_precision : Tensor of shape (n_rows,)
        β of each row.
    prior_mean : Tensor of shape (n_rows, row_size)
    prior_covariance : Tensor of shape (n_rows, row_size, row_size)
    """

    sums: Sums
    noise_precision: Tensor
    prior_mean: Tensor
    prior_covariance: Tensor

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        L, G = cholesky(self.prior_covariance), self.sums.G
        K = L.mT @ G @ L
        K *= self.noise_precision[:, None, None]
        K.diagonal(dim1=1, dim2=2).add_(1)
        C = cholesky(K)
        R = torch.linalg.solve_triangular(C, L.mT, upper=False)
        covariance = R.mT @ R
        h = self.sums.g - times(G, self.prior_mean)
        h *= self.noise_precision[:, None]
        log_det = log_det_of_product(L) - log_det_of_product(C)
        return self.prior_mean + times(covariance, h), covariance, log_det

    def residual(self, rows: Tensor, covariance: Tensor | None) -> Tensor:
        """Expected residual sum of squares of rows: points, or with a covariance."""
        return self.sums.residual(rows, covariance)


def fitted_values(
    ratings: Ratings, rows: Tensor, others: Tensor, layout: Layout
) -> Tensor:
    """Predictions x·z + c of every rating, for points, in the order of `ratings`."""
    if layout.biased:
        one = rows.new_ones(len(rows), 1)
        rows = torch.cat([rows, one], dim=1)
        others = layout.extend(others)
    return ratings.inner_products(rows, others)
