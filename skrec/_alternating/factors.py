"""Posterior of factors that were trained elsewhere.

Only points are known of them. If the penalty of their squares is known too, a new row
has the posterior of a penalised least squares fit to the other side, and known rows
stay: what they have learned from, and so how firm they are, is not known.
"""

from __future__ import annotations

import numpy as np
import torch

from .._data.sides import Sides
from .._data.units import Units
from .covariances import AxisCovariance, PackedCovariance
from .layout import Layout
from .posterior import Posterior
from .rows import FactorSums, Rows
from .state import INITIAL_CONCENTRATION
from .triangles import packed

# Variance of known rows, as a share of that of their prior: updates do not move them.
HELD = 1e-12


def posterior_of_factors(
    rows: Sides[np.ndarray],
    n_factors: int,
    units: Units,
    counts: Sides[np.ndarray],
    reg: float | None,
) -> Posterior:
    """Posterior of rows of shape (n_rows, row_size): factors, and perhaps a bias.

    `counts` are the numbers of ratings of each row. The noise variance is the one at
    which a penalty of `reg` is a prior with the variance of the rows; without a penalty
    it is not known.
    """
    square = np.concatenate(
        [np.square(side, dtype=np.float64).ravel() for side in rows]
    )
    variance = float(square.mean()) or 1.0
    users, items = (
        _rows(side, n_factors, count, variance, is_held=reg is not None)
        for side, count in zip(rows, counts, strict=True)
    )
    return Posterior(
        users=users,
        items=items,
        n_factors=n_factors,
        centre=units.centre,
        units=units,
        coef=np.zeros(0),
        coef_covariance=np.zeros((0, 0)),
        noise_variance=np.nan if reg is None else reg * variance,
        knows_variance=False,
    )


def _rows(
    rows: np.ndarray,
    n_factors: int,
    count: np.ndarray,
    variance: float,
    *,
    is_held: bool,
) -> Rows:
    """One side's rows, under a prior of mean zero."""
    n_rows, row_size = rows.shape
    mean = rows.astype(np.float32)[None]
    prior = (variance * np.eye(row_size, dtype=np.float32))[None]
    covariance: PackedCovariance | AxisCovariance | None = None
    if is_held:
        covariance = _held(n_rows, prior, n_factors)
    return Rows(
        mean=mean,
        covariance=covariance,
        prior_mean=np.zeros_like(mean[:, :1]),
        prior_covariance=prior[None],
        cold_offset=mean.mean(axis=1),
        residual_covariance=prior,
        count=count.astype(np.float64),
        relative_variance=np.ones(n_rows),
        concentration=INITIAL_CONCENTRATION,
        selection=np.zeros(n_rows),
        factor_sums=FactorSums.of(mean[..., :n_factors]),
    )


def _held(
    n_rows: int, prior: np.ndarray, n_factors: int
) -> PackedCovariance | AxisCovariance:
    """Covariances of rows that updates do not move, in the form that these need."""
    row_size = prior.shape[-1]
    layout = Layout(n_factors, row_size > n_factors, torch.device("cpu"))
    if layout.is_wide:
        variance = np.full((n_rows, row_size), HELD, prior.dtype)
        return AxisCovariance(np.sqrt(prior[0]), variance)
    # One matrix, which all of them share.
    everywhere = np.zeros(n_rows, dtype=np.int64)
    held = packed(HELD * prior)
    return PackedCovariance(held, held[:0], everywhere)
