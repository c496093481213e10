"""Factors trained elsewhere, as they are given to `MFRegressor.from_factors`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ._data.containers import as_array
from ._data.known_ids import KnownIds
from ._data.messages import quote_first
from ._data.reading import Columns, as_numbers, read_ids, read_numbers
from ._data.seen import SeenItems
from ._data.sides import SideName, Sides


@dataclass(frozen=True)
class GivenRows:
    """Rows of one side in the order of their sorted ids.

    Attributes
    ----------
    known : KnownIds
    rows : ndarray of shape (n_rows, row_size)
        Factors, followed by the bias if there is one.
    """

    known: KnownIds
    rows: np.ndarray

    @classmethod
    def of(cls, side: SideName, factors: Any, ids: Any, biases: Any) -> GivenRows:
        """Validated rows of a side; without `ids` they are numbered from 0."""
        name = f"{side}_factors"
        values = as_array(factors)
        if values.ndim != 2 or 0 in values.shape:
            raise ValueError(
                f"{name} must be of shape (n_{side}s, n_factors), both at least 1, "
                f"such as model.{name} of implicit; got shape {values.shape}."
            )
        rows = as_numbers(values, name, "factor")
        if ids is None:
            numbers = np.arange(len(rows))
        else:
            numbers = read_ids(ids, f"{side}_ids").values
        if len(numbers) != len(rows):
            raise ValueError(
                f"{side}_ids must hold an id for each row of {name}, but there are "
                f"{len(numbers)} ids and {len(rows)} rows."
            )
        order = np.argsort(numbers, kind="stable")
        numbers = numbers[order]
        repeated = np.flatnonzero(numbers[1:] == numbers[:-1])
        if len(repeated):
            raise ValueError(
                f"{side}_ids must be distinct, but {numbers[repeated[0]]!r} occurs "
                "more than once."
            )
        if biases is not None:
            bias = read_numbers(biases, f"{side}_biases", len(rows))
            rows = np.column_stack([rows, bias])
        return cls(KnownIds(side, numbers), rows[order])


def read_factors(
    factors: Sides[Any], ids: Sides[Any], biases: Sides[Any]
) -> Sides[GivenRows]:
    """Rows of both sides, both with a bias if either has one."""
    users = GivenRows.of("user", factors.user, ids.user, biases.user)
    items = GivenRows.of("item", factors.item, ids.item, biases.item)
    n_factors = [as_array(side).shape[1] for side in factors]
    if n_factors[0] != n_factors[1]:
        raise ValueError(
            "user_factors and item_factors must have as many columns, but have "
            f"{n_factors[0]} and {n_factors[1]}."
        )
    if (biases.user is None) != (biases.item is None):
        users, items = (
            replace(side, rows=np.pad(side.rows, ((0, 0), (0, 1))))
            if bias is None
            else side
            for side, bias in zip((users, items), biases, strict=True)
        )
    return Sides(users, items)


def seen_of(columns: Columns | None, known: Sides[KnownIds]) -> SeenItems:
    """Pairs of rows of known users and items; none for None."""
    shape = len(known.user), len(known.item)
    if columns is None:
        nothing = np.empty(0, dtype=np.int64)
        return SeenItems.of_pairs(nothing, nothing, *shape)
    if columns.n_further:
        raise ValueError(
            "X must have two columns, users and items, since factors have no "
            f"coefficients of context; got {2 + columns.n_further} columns."
        )
    numbers = []
    for side, ids in zip(known, (columns.users, columns.items), strict=True):
        rows = ids.numbered_in(side.ids, "these factors are of ids")
        unknown = ids.values[rows < 0]
        if len(unknown):
            raise ValueError(
                f"Each {side.side} of X must have factors, but {quote_first(unknown)} "
                f"has none. Leave such rows out, or give {side.side}_ids."
            )
        numbers.append(rows)
    users, items = numbers
    order = np.lexsort((items, users))
    return SeenItems.of_pairs(users[order], items[order], *shape)


def fix_params(params: dict[str, Any], **fixed: Any) -> None:
    """Set parameters that follow from factors, and refuse other values of them."""
    for name, value in fixed.items():
        if params.setdefault(name, value) != value:
            raise ValueError(
                f"from_factors sets {name}={value!r} for these factors, got "
                f"{name}={params[name]!r}. Leave it out."
            )
