"""Effects of users, of items and of values alone, by a linear mixed model.

The penalty of an effect is the variance of the noise relative to that of the effects.
Both variances are learned by variational Bayes, before a training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .._data.interactions import Interactions
from .._data.units import ROUNDING
from .._share import Share

MAX_ROUNDS = 30

# Relative change of the noise at which the rounds end.
TOL = 1e-3

# Least variances relative to that of the ratings, so that penalties are in range.
LEAST_NOISE, LEAST_VARIANCE = 1e-10, 1e-4


@dataclass(frozen=True)
class Effects:
    """Effects in the units of the ratings.

    Attributes
    ----------
    level : float
    rows : dict of str to ndarray of shape (n_rows,)
        Effects of each "user", "item" and "value"; 0 for those without ratings.
    penalties : dict of str to ndarray of shape (n_rows,)
        Variance of the noise by that of the effects of the same kind.
    """

    level: float
    rows: dict[str, np.ndarray]
    penalties: dict[str, np.ndarray]

    @property
    def of_sides(self) -> tuple[float, float]:
        """Penalty of every effect of users, and of every one of items."""
        return float(self.penalties["user"][0]), float(self.penalties["item"][0])


def additive_effects(data: Interactions, rating: np.ndarray) -> Effects | None:
    """Effects that are likeliest for ratings, or None where these are equal.

    Parameters
    ----------
    data : Interactions
    rating : ndarray of shape (n_rows,)
        To use in place of those of `data`.
    """
    share, weight = data.shares.user, data.weight
    total, of_rating = share.sum(np.array([weight.sum(), weight @ rating]))
    level = of_rating / total
    residual = rating - level
    variance = share.sum(float(weight @ residual**2)) / total
    if variance <= (ROUNDING * level) ** 2:
        return None
    kinds = [
        _Kind(numbers, n_rows, weight, variance, share)
        for numbers, n_rows in (
            (data.users, data.shape[0]),
            (data.items, data.shape[1]),
            *zip(data.codes.T, data.n_values, strict=True),
        )
    ]
    noise = variance
    for _ in range(MAX_ROUNDS):
        before = noise
        for kind in kinds:
            residual = kind.update(residual, noise, LEAST_VARIANCE * variance)
        shift = share.sum(float(weight @ residual)) / total
        level, residual = level + shift, residual - shift
        squares = share.sum(float(weight @ residual**2))
        squares += sum(float(kind.weight @ kind.spread) for kind in kinds)
        noise = max(squares / total, LEAST_NOISE * variance)
        if abs(noise - before) < TOL * before:
            break
    users, items, *values = kinds
    groups = {"user": [users], "item": [items]} | ({"value": values} if values else {})

    def by_side(values: Callable[[_Kind], np.ndarray]) -> dict[str, np.ndarray]:
        return {side: np.concatenate([*map(values, of)]) for side, of in groups.items()}

    return Effects(
        level,
        by_side(lambda kind: kind.effect),
        by_side(lambda kind: np.full_like(kind.effect, noise / kind.variance)),
    )


class _Kind:
    """Effects of one kind, their posterior variances and their variance."""

    def __init__(
        self,
        numbers: np.ndarray,
        n_rows: int,
        weight: np.ndarray,
        variance: float,
        share: Share,
    ) -> None:
        # Rows without a value share one behind the last, which has no effect.
        self.numbers = np.where(numbers < 0, n_rows, numbers)
        self.n_rows, self.share, self.of_pairs = n_rows, share, weight
        self.weight = self._sums(np.ones_like(weight))
        self.known = self.weight > 0
        self.effect, self.spread = np.zeros(n_rows), np.zeros(n_rows)
        self.variance = variance

    def update(self, residual: np.ndarray, noise: float, least: float) -> np.ndarray:
        """Update effects and their variance; the residuals that they leave."""
        sums = self._sums(residual) + self.weight * self.effect
        precision = self.weight / noise + 1 / self.variance
        change = sums / (noise * precision) - self.effect
        self.effect, self.spread = self.effect + change, 1 / precision
        squares = self.effect**2 + self.spread
        self.variance = max(float(squares[self.known].mean()), least)
        return residual - np.append(change, 0)[self.numbers]

    def _sums(self, values: np.ndarray) -> np.ndarray:
        weighted = self.of_pairs * values
        return self.share.sum(
            np.bincount(self.numbers, weighted, self.n_rows + 1)[: self.n_rows]
        )
