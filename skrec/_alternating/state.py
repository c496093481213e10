"""The state of an alternating solver: the distributions of both sides' rows.

Everything here is arrays in, arrays out: no raw ids, no estimator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .axes import AxisVariances
from .feature_weights import LinkMatrix, shift_of
from .layout import Layout
from .ratings import Ratings

# A prior for the covariance of a side's rows, worth one row: a tenth of the variance of
# the ratings in every direction.
PRIOR_VARIANCE = 0.1

# Concentration of the relative precisions before any ratings.
INITIAL_CONCENTRATION = 10.0


@dataclass(frozen=True)
class PriorSums:
    """Sums over the rows of a side by which "vb" updates its priors.

    Attributes
    ----------
    shape : Tensor of shape ()
        Sum of the shapes of the relative precisions α.
    alpha, log_alpha : Tensor of shape ()
        Sums of E[α] and of E[log α].
    rest : Tensor of shape ()
        Sum of log Γ(shape) − shape log rate.
    log_det : Tensor of shape ()
        Sum of the log determinants of the covariances of rows.
    matrices : sequence of Tensor of shape (row_size, row_size)
        Scatter of the points of rows, and the sum of their covariances; and for each
        block of features BᵀB, C and the response.
    squares : sequence of float
        Σ ‖f‖² of each block.
    noise_precision : float
        β.
    tied : Tensor of shape (2,) or None
        Sums of the ties of rows, and of E[α] times these.
    """

    shape: Tensor
    alpha: Tensor
    log_alpha: Tensor
    rest: Tensor
    log_det: Tensor
    matrices: Sequence[Tensor]
    squares: Sequence[float]
    noise_precision: float
    tied: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, scalars first, to be fetched at once."""
        scalars = [self.shape, self.alpha, self.log_alpha, self.rest, self.log_det]
        tied = [] if self.tied is None else [self.tied]
        return [*scalars, *self.matrices, *tied]


@dataclass(frozen=True)
class Side:
    """Rows of one side, and the priors that they share.

    Attributes
    ----------
    mean : Tensor of shape (n_rows, row_size)
        Posterior means, or points.
    prior_mean, prior_precision : Tensor
        m and Λ, which rows share.
    centre : Tensor of shape (row_size,) or None
        Mean of the prior of m; None is 0.
    relative_precision : Tensor of shape (n_rows,)
        α (users) or γ (items).
    relative_shape : Tensor of shape (n_rows,) or None
        Shape of the Gamma posterior with mean `relative_precision`; None for points.
    concentration : float
        a.
    square_worth : float
        How many squares of Gaussian noise tell as much of α as one of a residual. "vb"
        counts the divergence of the α from their prior 1 / `square_worth` times.
    covariance : Tensor of shape (n_rows, row_size (row_size + 1) / 2) or None
        Packed posterior covariances; None where the rule has none.
    axes : AxisVariances or None
        Variances along axes that all rows share, in place of covariances: for points
        of many factors, and in a warm-up of vb.
    log_det : Tensor of shape () or float
        Sum of the log determinants of the covariances.
    prior_weight : Tensor of shape (n_rows,) or None
        Factor of Λ for each row; None is 1.
    row_priors : Side or None
        A prior of each row, in place of the shared one: the posterior before further
        ratings.
    squared_change : Tensor of shape () or float
        Weighted sum over the ratings of the squared change of their predictions by the
        last update of these rows, where there are `row_priors`.
    weights : tuple of LinkMatrix
        One for each block of features.
    shift : Tensor of shape (n_rows, row_size) or None
        Bᵀf of each row, summed over blocks; None without features.
    evidence : float
        Twice the share of the rows and of their priors in the lower bound of "vb".
    sums : PriorSums or None
        Sums over the rows, by which the host is to update the priors.
    priors : Tensor of shape (1 + n_blocks, row_size, row_size) or None
        Λ, and Ω of the weights, where the host has computed the next ones.
    """

    mean: Tensor
    prior_mean: Tensor
    prior_precision: Tensor
    relative_precision: Tensor
    relative_shape: Tensor | None = None
    concentration: float = INITIAL_CONCENTRATION
    square_worth: float = 1.0
    covariance: Tensor | None = None
    axes: AxisVariances | None = None
    log_det: Tensor | float = 0.0
    prior_weight: Tensor | None = None
    row_priors: Side | None = None
    squared_change: Tensor | float = 0.0
    weights: tuple[LinkMatrix, ...] = ()
    shift: Tensor | None = None
    evidence: float = math.nan
    sums: PriorSums | None = None
    priors: Tensor | None = None
    centre: Tensor | None = None

    @classmethod
    def at(cls, mean: Tensor) -> Side:
        """Points under a standard normal prior, with equal relative precisions."""
        n_rows, row_size = mean.shape
        return cls(
            mean=mean,
            prior_mean=mean.new_zeros(row_size),
            prior_precision=torch.eye(row_size).to(mean),
            relative_precision=mean.new_ones(n_rows),
        )

    def with_weights(self, ratings: Ratings, weights: Sequence[LinkMatrix]) -> Side:
        """The same rows, with weights for the features of `ratings`."""
        shift = shift_of(ratings.features, weights) if weights else None
        return replace(self, weights=tuple(weights), shift=shift)

    @property
    def own(self) -> Tensor:
        """Rows minus their shift: x − Bᵀf."""
        return self.mean if self.shift is None else self.mean - self.shift

    def summed_covariance(self, layout: Layout) -> Tensor:
        """Sum of the covariances of the rows."""
        if self.axes is not None:
            return self.axes.summed
        assert self.covariance is not None
        return layout.unpack(self.covariance.sum(0, keepdim=True))[0]

    def with_packed_covariance(self, layout: Layout) -> Side:
        """The same rows, with packed covariances where they are along axes."""
        axes = self.axes
        if axes is None:
            return self
        packed = self.mean.new_empty(len(self.mean), layout.n_packed_row)

        def pack(rows: slice) -> None:
            packed[rows] = layout.pack(axes.covariances(rows))

        layout.map_tiles(pack, slice(0, len(packed)), map)
        return replace(self, covariance=packed, axes=None)

    def prior_means(self, rows: slice) -> Tensor:
        """m + Bᵀf of rows, or m without features."""
        if self.shift is None:
            return self.prior_mean
        return self.prior_mean + self.shift[rows]

    @property
    def relative_variance(self) -> Tensor:
        """E[1 / α] of each row."""
        if self.relative_shape is None:
            return 1 / self.relative_precision
        shape = self.relative_shape
        return shape / (shape - 1) / self.relative_precision


@dataclass(frozen=True)
class Effects:
    """Effects of groups of ratings, under a prior of mean zero that they share.

    Attributes
    ----------
    mean : Tensor of shape (n_groups,)
        Posterior means, or points.
    variance : Tensor of shape (n_groups,) or None
        None for points.
    precision : float
        That of the prior.
    log_det : Tensor of shape () or float
        Log determinant of the covariance of all.
    prior_variance : float
        Variance of an effect by the prior of the precision, which is worth one row.
    """

    mean: Tensor
    variance: Tensor | None = None
    precision: float = 1.0
    log_det: Tensor | float = 0.0
    prior_variance: float = PRIOR_VARIANCE


@dataclass(frozen=True)
class PairState:
    """Terms of a row of one side under a value: l + x (a·r + δ), with x a number.

    Attributes
    ----------
    rows, values : Side
        a and r, under priors of mean zero.
    effects : Effects
        δ of each pair that has ratings. The log determinant is that of all δ and l.
    levels : Effects
        l of each row, a part of its bias that is learned together with its δ. Its
        precision is 0 where it is that of a mean of δ.
    products : Tensor of shape (n_pairs,)
        Means of a·r.
    covariance : Tensor of shape (n_pairs,) or None
        Covariance of each δ with the l of its row; None for points.
    """

    rows: Side
    values: Side
    effects: Effects
    levels: Effects
    products: Tensor
    covariance: Tensor | None = None


@dataclass(frozen=True)
class ColumnState:
    """Terms of one column of context.

    Attributes
    ----------
    values : Effects
        Effect of each value.
    users, items : PairState
    """

    values: Effects
    users: PairState
    items: PairState

    @property
    def pairs(self) -> tuple[PairState, PairState]:
        """Terms of users, and of items."""
        return self.users, self.items


@dataclass(frozen=True)
class State:
    """State of a solver after a sweep.

    Attributes
    ----------
    users, items : Side
    coef : Tensor of shape (n_context,)
        Posterior mean of w, or its point.
    coef_factor : Tensor of shape (n_context, n_context) or None
        R, where RᵀR is the posterior covariance of w; None for a point.
    coef_precision : float
        λ.
    coef_prior : tuple of Tensor of shape (n_context,) and (n_context, n_context)
        Mean and precision of w before further ratings; None is 0 and λ I.
    noise_precision : float
        β.
    noise_variance : float
        Mean squared residual, weighted by all precisions except β.
    objective : float
        The objective that the solver lowers, per unit of weight (see the rules).
    is_warm_up : bool
        Whether the sweep belongs to a warm-up, which does not converge, and whose draws
        are not to be kept.
    columns : tuple of ColumnState
        Terms of users and items of columns of context.
    """

    users: Side
    items: Side
    coef: Tensor
    coef_factor: Tensor | None = None
    coef_precision: float = 1.0
    coef_prior: tuple[Tensor, Tensor] | None = None
    noise_precision: float = 1.0
    noise_variance: float = 1.0
    objective: float = math.nan
    is_warm_up: bool = False
    columns: tuple[ColumnState, ...] = ()

    @property
    def coef_covariance(self) -> Tensor:
        """Posterior covariance of w, zero for a point."""
        if self.coef_factor is None:
            return self.coef.new_zeros(len(self.coef), len(self.coef))
        return self.coef_factor.T @ self.coef_factor

    def with_square_worth(self, worth: float) -> State:
        """The same state, where squares of residuals tell more or less of the noise."""
        return replace(
            self,
            users=replace(self.users, square_worth=worth),
            items=replace(self.items, square_worth=worth),
        )

    def taste_ratio(self, n_factors: int) -> float:
        """Variance of scores within items between users, over that between items.

        The former is Var[(p_u − p̄)·(q_i − q̄)], and the latter Var[p̄·q_i + c_i].
        """
        P, Q = self.users.mean.double(), self.items.mean.double()
        mean_user = P[:, :n_factors].mean(0)
        away = P[:, :n_factors] - mean_user
        spread = Q[:, :n_factors] - Q[:, :n_factors].mean(0)
        own = float(((away.T @ away) * (spread.T @ spread)).sum()) / (len(P) * len(Q))
        shared = Q[:, :n_factors] @ mean_user + Q[:, n_factors:].sum(1)
        return own / max(float(shared.var(correction=0)), 1e-300)
