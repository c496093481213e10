"""Effects on ratings, of features and of numbers of context, by a posterior."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from .._data.sides import SideName
from .links import DESCRIBED
from .posterior import Posterior


def of_features(
    posterior: Posterior, side: SideName, contrasts: sparse.csr_array
) -> tuple[np.ndarray, np.ndarray]:
    """Effects of features of a side on ratings with an average row of the other.

    Mean and standard deviation, each of shape (n_contrasts,).
    """
    rows, others = posterior.rows(side)
    average = others.mean.mean(axis=1)
    average[:, posterior.n_factors :] = 1
    B, C = rows.links[DESCRIBED].contrast_effects(contrasts)
    within = np.einsum("dj,dnjk,dk->dn", average, C, average)
    return _over_draws(posterior, np.einsum("dnk,dk->dn", B, average), within)


def of_numbers(posterior: Posterior) -> tuple[np.ndarray, np.ndarray]:
    """Effects of a standard deviation of each number of context, and deviations."""
    varies = np.isfinite(posterior.units.feature_scale)
    std = np.full(len(varies), np.nan)
    if posterior.knows_variance:
        std = varies * np.sqrt(posterior.coef_covariance.diagonal())
    return posterior.coef * np.where(varies, posterior.units.feature_scale, 0), std


def slopes(posterior: Posterior, side: SideName) -> dict[int, np.ndarray]:
    """Slopes of rows per unit of numbers, by the places of these."""
    rows = np.arange(posterior.rows(side)[0].mean.shape[1])
    found = {}
    for column in posterior.columns:
        if column.number is not None:
            terms = column.users if side == "user" else column.items
            scale = posterior.units.feature_scale[column.number]
            found[column.number] = terms.mean(rows, 0 * rows) / scale
    return found


def interactions(
    posterior: Posterior, of_users: sparse.csr_array, of_items: sparse.csr_array
) -> tuple[np.ndarray, np.ndarray]:
    """Interactions of features of users and features of items in ratings.

    Mean and standard deviation, each of shape (n_contrasts, n_contrasts).
    """
    k = posterior.n_factors
    (B, S), (C, T) = (
        (mean[..., :k], covariance[..., :k, :k])
        for mean, covariance in (
            posterior.users.links[DESCRIBED].contrast_effects(of_users),
            posterior.items.links[DESCRIBED].contrast_effects(of_items),
        )
    )
    within = np.einsum("dnj,dmjk,dnk->dnm", B, T, B)
    within += np.einsum("dmj,dnjk,dmk->dnm", C, S, C)
    within += np.einsum("dnjk,dmjk->dnm", S, T)
    return _over_draws(posterior, np.einsum("dnk,dmk->dnm", B, C), within)


def _over_draws(
    posterior: Posterior, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of all draws, which are along axis 0."""
    std = np.sqrt(variance.mean(axis=0) + mean.var(axis=0))
    if not posterior.knows_variance:
        std = np.full_like(std, np.nan)
    return mean.mean(axis=0), std
