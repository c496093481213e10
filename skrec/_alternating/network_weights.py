"""Conversion between a `Posterior` and the weights of a network.

A network has a row of factors for each value of context, which meet the context factors
of users and of items. An unknown user or item has their mean; in a `Posterior` it has
none, so that effects of values hold the share of the mean. A column of numbers has
slopes in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .._data.units import Units
from .links import DESCRIBED, FittedLinkMatrix
from .posterior import Posterior
from .rows import FactorSums, Rows
from .state import INITIAL_CONCENTRATION
from .value_terms import FittedColumn, FittedEffects, FittedFactors, FittedPairs

Weights = dict[str, np.ndarray]

# A small multiple of the identity keeps covariances of rows and weights invertible.
MIN_VARIANCE = 1e-6


def as_posterior(weights: Weights, units: Units) -> Posterior:
    """Points in rating units from a network's weights.

    The last row of a table of weights stands for unknown rows.
    """
    biased, n_context = "intercept" in weights, len(units.feature_mean)
    intercept = float(weights["intercept"][0]) if biased else 0.0
    coef = weights["coef"][0] if n_context else np.zeros(0)
    users, items = (_network_rows(weights, units, side) for side in ("user", "item"))
    return Posterior(
        users=users,
        items=items,
        n_factors=users.mean.shape[2] - biased,
        centre=units.centre + units.scale * intercept,
        units=units,
        coef=coef.astype(np.float64) * units.scale / units.feature_scale,
        coef_covariance=np.zeros((n_context, n_context)),
        noise_variance=np.nan,
        knows_variance=False,
    )


def _network_rows(weights: Weights, units: Units, side: str) -> Rows:
    """One side's rows from a network's weights."""
    mean = _stacked(weights, f"{side}_factors", f"{side}_bias")
    row_size = mean.shape[1]
    n_factors = row_size - ("intercept" in weights)
    floor = MIN_VARIANCE * np.eye(row_size)
    spread = np.cov(mean[:-1].T, bias=True).reshape(row_size, row_size) + floor
    scale = units.row_scale(n_factors, row_size)
    mean = (mean * scale)[None]
    spread = (spread * np.outer(scale, scale))[None]
    described = {}
    if f"{side}_feature_mean" in weights:
        B = _stacked(weights, f"{side}_feature_factors", f"{side}_feature_bias") * scale
        described[DESCRIBED] = FittedLinkMatrix(
            mean=B[None],
            covariance=np.zeros_like(spread),
            prior_covariance=B.T @ B / len(B) + floor,
            effect_covariance=np.zeros_like(spread),
            column_mean=weights[f"{side}_feature_mean"],
            scale=1.0,
        )
    n_rows = mean.shape[1] - 1
    return Rows(
        mean=mean[:, :-1],
        covariance=None,
        prior_mean=mean[:, -1:],
        prior_covariance=spread[None],
        cold_offset=np.zeros_like(mean[:, -1]),
        residual_covariance=spread,
        count=np.zeros(n_rows),
        relative_variance=np.ones(n_rows),
        concentration=INITIAL_CONCENTRATION,
        selection=np.zeros(n_rows),
        factor_sums=FactorSums.of(mean[:, :-1, :n_factors]),
        links=described,
    )


def _stacked(weights: Weights, *names: str) -> np.ndarray:
    """Tables of weights side by side, those that there are."""
    tables = [weights[name] for name in names if name in weights]
    return np.hstack([table.reshape(len(table), -1) for table in tables])


def as_weights(posterior: Posterior, units: Units) -> Weights:
    """Weights of the network with the same predictions as the posterior's means."""
    k, row_size = posterior.n_factors, posterior.row_size
    scale = units.row_scale(k, row_size)
    weights: Weights = {}
    for side, rows in (("user", posterior.users), ("item", posterior.items)):
        unseen = rows.prior_mean + rows.cold_offset[:, None]
        table = np.vstack([rows.mean.mean(axis=0), unseen.mean(axis=0)]) / scale
        weights |= _split(table, k, f"{side}_factors", f"{side}_bias")
        if DESCRIBED in rows.links:
            known = rows.links[DESCRIBED]
            B = known.scale * known.mean.mean(axis=0) / scale
            weights |= _split(B, k, f"{side}_feature_factors", f"{side}_feature_bias")
            weights[f"{side}_feature_mean"] = known.feature_mean
    if len(units.feature_mean):
        feature_scale = np.nan_to_num(units.feature_scale, posinf=0)
        weights["coef"] = (posterior.coef * feature_scale / units.scale)[None]
    if row_size > k:
        weights["intercept"] = np.array([posterior.centre - units.centre]) / units.scale
    return {name: value.astype(np.float32) for name, value in weights.items()}


def _split(table: np.ndarray, k: int, factors: str, bias: str) -> Weights:
    """A table of rows as named factors and bias, those that there are."""
    parts = {}
    if k:
        parts[factors] = table[:, None, :k]
    if table.shape[1] > k:
        parts[bias] = table[:, k:]
    return parts


def fitted_columns(
    weights: Weights, units: Units, value_weights: Sequence[np.ndarray]
) -> tuple[FittedColumn, ...]:
    """Columns of context in rating units from a network's weights.

    `value_weights` are the total weights of the ratings under each value, by column.
    The last row of a table is that of unknown users, items or values.
    """
    of_values = _value_columns(weights, units, value_weights) if value_weights else ()
    return *of_values, *_number_columns(weights, units)


def _value_columns(
    weights: Weights, units: Units, value_weights: Sequence[np.ndarray]
) -> Iterator[FittedColumn]:
    scale = units.row_scale(0, 1)[0]
    effects = weights["value_bias"][:, 0] * scale
    rows, factors = {}, {}
    for side in ("user", "item"):
        table = weights[f"{side}_context"][:, 0]
        factors[side] = weights[f"value_{side}s"][:, 0] * scale
        effects = effects + factors[side] @ table[-1]
        rows[side] = FittedFactors((table - table[-1])[None], None)
    starts = np.cumsum([0, *map(len, value_weights)])
    for start, weight in zip(starts, value_weights, strict=False):
        kept = np.append(np.arange(start, start + len(weight)), -1)
        users, items = (
            FittedPairs(
                rows[side],
                FittedFactors(factors[side][kept][None], None),
                np.empty(0, dtype=np.int64),
                _effects(np.zeros(1, effects.dtype)),
            )
            for side in ("user", "item")
        )
        yield FittedColumn(_effects(effects[kept]), users, items, weight)


def _number_columns(weights: Weights, units: Units) -> Iterator[FittedColumn]:
    if "user_slopes" not in weights:
        return
    nothing = np.zeros(1, dtype=np.float32)
    for number in np.flatnonzero(np.isfinite(units.feature_scale)).tolist():
        users, items = (
            FittedPairs(
                _no_factors(len(slopes)),
                _no_factors(2),
                np.arange(len(slopes) - 1),
                _effects(slopes * units.row_scale(0, 1)[0]),
            )
            for slopes in (
                weights[f"{side}_slopes"][:, number] for side in ("user", "item")
            )
        )
        yield FittedColumn(_effects(nothing), users, items, nothing[:0], number)


def _no_factors(n_rows: int) -> FittedFactors:
    return FittedFactors(np.zeros((1, n_rows, 0), dtype=np.float32), None)


def _effects(mean: np.ndarray) -> FittedEffects:
    return FittedEffects(mean, np.zeros_like(mean))


def are_of_network(columns: tuple[FittedColumn, ...]) -> bool:
    """Whether a network can have these columns: it knows no effects of pairs."""
    return not any(
        len(column.users.keys) + len(column.items.keys)
        for column in columns
        if column.number is None
    )


def network_weights(
    columns: tuple[FittedColumn, ...],
    users: np.ndarray,
    items: np.ndarray,
    units: Units,
) -> Weights:
    """Weights of a network for columns of context, and for rows of these numbers.

    Columns of another solver have no such weights.
    """
    if not (columns and are_of_network(columns)):
        return {}
    of_values = [column for column in columns if column.number is None]
    weights = _value_weights(of_values, users, items, units) if of_values else {}
    of_numbers = [column for column in columns if column.number is not None]
    for side, numbers in (("user", users), ("item", items)) if of_numbers else ():
        rows = np.append(np.maximum(numbers, -1), -1)
        table = np.zeros((len(rows), len(units.feature_mean)))
        for column in of_numbers:
            slopes = getattr(column, f"{side}s").mean(rows, 0 * rows)
            table[:, column.number] = slopes / units.scale
        weights[f"{side}_slopes"] = table
    return {name: value.astype(np.float32) for name, value in weights.items()}


def _value_weights(
    columns: list[FittedColumn], users: np.ndarray, items: np.ndarray, units: Units
) -> Weights:
    scale = units.row_scale(0, 1)[0]
    weights = {"value_bias": _joined([c.values.mean for c in columns])[:, None] / scale}
    for side, numbers in (("user", users), ("item", items)):
        pairs = [getattr(column, f"{side}s") for column in columns]
        table = pairs[0].rows.take(np.maximum(numbers, -1)).mean[0]
        weights[f"{side}_context"] = table[:, None]
        values = _joined([of_column.values.mean[0] for of_column in pairs])
        weights[f"value_{side}s"] = values[:, None] / scale
    return weights


def _joined(tables: list[np.ndarray]) -> np.ndarray:
    """Rows of all values, then that of unknown ones."""
    return np.concatenate([*(table[:-1] for table in tables), tables[-1][-1:]])
