"""Effects of context on ratings, as tables of `feature_effects`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd

from ._data.context import KnownContext
from ._interfaces import Estimates


def check_by(by: str) -> None:
    """Raise a ValueError for another unit of effects than a value or a column."""
    if by not in ("value", "column"):
        raise ValueError(f"by must be 'value' or 'column', got {by!r}.")


def check_effects(estimator: object, loss: str) -> None:
    """Refuse effects of context of a loss that does not learn them."""
    if loss == "bpr":
        raise no_effects(estimator)


def no_effects(estimator: object) -> AttributeError:
    """Error of a fit that has no effects of context."""
    return AttributeError(
        f"This {type(estimator).__name__} has no effects of context, since choices "
        "without a loss, and loss='bpr', compare items of one context. Fit ratings "
        "y, or choices by loss='log_loss'."
    )


def context_effects(
    known: KnownContext,
    of_values: Iterator[tuple[np.ndarray, Estimates]],
    of_numbers: Iterator[tuple[float, float]],
    by: Literal["value", "column"],
    has_std: bool,
) -> list[pd.DataFrame]:
    """Effects of the columns of context, in their order.

    Parameters
    ----------
    known : KnownContext
    of_values : iterator
        Total weight of the ratings under each value, and estimates of its effect
        against the mean of all ratings, of each column of values.
    of_numbers : iterator
        Effect of each column of numbers, and its standard deviation.
    by : {"value", "column"}
    has_std : bool
        Whether the model has standard deviations, which are NaN otherwise.
    """
    frames: list[pd.DataFrame] = []
    # A column that does not vary has no effect.
    nothing = 0.0, 0.0 if has_std else np.nan
    numbers = dict(zip(known.number_places, of_numbers, strict=True))
    effects = dict(zip(known.value_places, of_values, strict=True))
    for place, (name, values) in enumerate(zip(known.names, known.values, strict=True)):
        if values is None:
            found = numbers.get(place, nothing)
            effect, std = (np.array([number]) for number in found)
            names = [name]
        else:
            n = len(values)
            of_none = np.full(n, nothing[0]), np.full(n, nothing[1])
            weight, (effect, std) = effects.get(place, (np.ones(n), of_none))
            names = [f"{name}_{value}" for value in values]
            if by == "column":
                names, effect, std = [name], *_spread(weight, effect, std)
        frame = {"side": "context", "feature": names, "effect": effect, "std": std}
        frames.append(pd.DataFrame(frame))
    return frames


def _spread(weight: np.ndarray, effect: np.ndarray, std: np.ndarray) -> Estimates:
    """Standard deviation of the effects of values over ratings."""
    share = weight / weight.sum()
    spread = np.sqrt(share @ effect**2)
    # To first order, where the effects are independent.
    slope = share * effect / max(spread, np.finfo(float).tiny)
    return np.array([spread]), np.array([np.sqrt(slope**2 @ std**2)])
