"""Columns of context that a model has: those that vary, in an order of their own.

A column that is the same in all rows says nothing. The order of the others follows from
what they hold, so that a fit does not depend on their order in X, or on their names.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .._share import ALL_ROWS
from .interactions import Interactions
from .sides import Sides
from .units import number_units

# Frequencies of a wave over users, items and ratings. Their ratios are irrational, so
# that columns that differ have products with it that differ.
FREQUENCIES = np.sqrt([2.0, 3.0, 5.0])


def with_selected_context(data: Interactions) -> Interactions:
    """The rows of a fit with the columns of context that its model has."""
    n_columns = data.context.shape[1]
    if not n_columns:
        return data
    mean, scale = number_units(data)
    varies = [*np.isfinite(scale), *(n_values > 1 for n_values in data.n_values)]
    selection = [place for place in range(n_columns) if varies[place]]
    n_numbers = len(scale)
    if len(selection) > 1:
        keys = _keys(data, mean, scale)
        selection.sort(key=lambda place: (place >= n_numbers, keys[place]))
    if selection == list(range(n_columns)):
        return data
    known = replace(data.known_context, selection=tuple(selection))
    if data.shares.user is not ALL_ROWS:
        # Routes between processes are of these rows.
        return replace(data, context=data.context[:, selection], known_context=known)
    # Rows of a pair are in the order of their context.
    return type(data).from_numbers(
        Sides(data.user_ids, data.item_ids),
        Sides(data.users, data.items),
        data.rating,
        data.weight,
        data.context[:, selection],
        shares=data.shares,
        known_context=known,
    )


def _keys(data: Interactions, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A number for each column, by which columns that differ are sorted."""
    low, high = data.rating_range
    rating = (data.rating - low) / (high - low if high > low else 1.0)
    of_rows = np.stack([data.users, data.items, rating], axis=1) @ FREQUENCIES
    of_rows = data.weight * np.sin(of_rows)
    numbers = (data.numbers - mean) / scale
    standard = np.hstack([numbers, data.context[:, len(scale) :]])
    return data.shares.user.sum(of_rows @ standard)
