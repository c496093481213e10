"""Networks at the start of a fit: random, or with the weights of the last fit."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor

from .._data.interactions import Interactions
from .._data.sides import Sides
from .._data.units import mean_factors
from .._interfaces import Start
from .fitted import Conversion, NetworkModel
from .network import (
    ALL_TABLES,
    SLOPE_TABLES,
    TABLES,
    VALUE_TABLES,
    NeuMF,
    Shape,
    feature_weights,
    initial_weights,
    is_of_features,
    slope_weights,
)
from .row_features import RowFeatures

# Weights with a column for each number of context.
NUMBER_WEIGHTS = {"coef", "feature_weight", *SLOPE_TABLES.values()}


def random_network(
    shape: Shape, data: Interactions, mean: float, seed: int, has_equal_rows: bool
) -> NeuMF:
    """Network with random weights, whose rows have the product `mean` on average.

    With `has_equal_rows` all rows of a table are zero.
    """
    weights = initial_weights(shape, range(seed, seed + shape.n_members))
    if has_equal_rows:
        for name in weights.keys() & ALL_TABLES:
            weights[name].zero_()
    if mean:
        for side, centre in mean_factors(mean)._asdict().items():
            weights[f"{side}_factors"][..., 0] += centre
    return _network(shape, slope_weights(shape) | weights, data, Sides(None, None))


def continued_network(
    shape: Shape,
    data: Interactions,
    start: Start[NetworkModel],
    conversion: Conversion[NetworkModel],
    seed: int,
) -> NeuMF:
    """Network with the weights of the last fit, and random ones of what is new."""
    # Context that is no more, or is new, changes no size of the network.
    fitted = conversion.shape(start.model)
    n_values, n_context = fitted.n_values, fitted.n_context
    check_shape(replace(shape, n_values=n_values, n_context=n_context), fitted)
    weights = {
        name: torch.tensor(value)
        for name, value in conversion.weights(
            start.model, start.users, start.items
        ).items()
        if not name.endswith("_implicit_mean")
    }
    if start.numbers is not None:
        weights = _with_numbers(weights, start.numbers)
    initial = initial_weights(shape, range(seed, seed + shape.n_members))
    weights = _with_values(weights, initial, start.values)
    return _network(shape, slope_weights(shape) | weights, data, start.columns)


def check_shape(shape: Shape, fitted: Shape) -> None:
    """Raise a ValueError if the last fit had another network."""
    changed = [
        f"{field.name} (was {getattr(fitted, field.name)!r}, now "
        f"{getattr(shape, field.name)!r})"
        for field in fields(shape)
        if field.name not in ("n_users", "n_items")
        and getattr(shape, field.name) != getattr(fitted, field.name)
    ]
    if changed:
        raise ValueError(
            f"The last fit had another network: {', '.join(changed)}. Keep "
            "it, or begin anew by fit with warm_start=False."
        )


def _network(
    shape: Shape,
    weights: dict[str, Tensor],
    data: Interactions,
    columns: Sides,
) -> NeuMF:
    """Network with weights of the side features, from those of numbered columns."""
    of_features = {n: weights.pop(n) for n in list(weights) if is_of_features(n)}
    features = {}
    for side, described, places in zip(
        TABLES, data.side_features, columns, strict=True
    ):
        if described is None:
            continue
        features[side] = RowFeatures(described.matrix)
        added = feature_weights(side, len(described.names), weights)
        for name in added.keys() & of_features.keys():
            known = np.flatnonzero(places >= 0)
            added[name][known] = of_features[name][places[known]]
        weights = weights | added
    return NeuMF(shape, weights, features)


def _with_numbers(weights: dict[str, Tensor], numbers: np.ndarray) -> dict[str, Tensor]:
    """Weights for other columns of numbers, whose places before are given."""
    of_others = weights.copy()
    for name in weights.keys() & NUMBER_WEIGHTS:
        if not len(numbers):
            del of_others[name]
            continue
        # The last column is that of new ones, which have no effect yet.
        padded = torch.cat([weights[name], 0 * weights[name][:, :1]], dim=1)
        of_others[name] = padded[:, torch.as_tensor(numbers)]
    return of_others


def _with_values(
    weights: dict[str, Tensor], initial: dict[str, Tensor], values: np.ndarray
) -> dict[str, Tensor]:
    """Weights with tables of other values, whose numbers before are given."""
    kept = {*initial, *SLOPE_TABLES.values()}
    of_others = {n: v for n, v in weights.items() if n in kept or is_of_features(n)}
    new = np.flatnonzero(values >= 0)
    for name in weights.keys() & initial.keys() & {*VALUE_TABLES}:
        of_others[name] = initial[name]
        of_others[name][new] = weights[name][values[new]]
    return initial | of_others
