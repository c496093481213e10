"""Ranks of relevant rows per user, and the metrics as functions of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning

from .._data.messages import counted
from .._warn import warn

# Shuffles that people make have small seeds; with one of those, breaking ties could
# undo the shuffle that the rows were given before.
TIE_SEED = 780_291_637


@dataclass(frozen=True)
class Rankings:
    """Where the relevant rows of each user stand.

    Attributes
    ----------
    users, ranks, gains : ndarray of shape (n_hits,)
        The relevant rows within the first k: the user's number, the rank from 1, and
        the relevance. In order of user and rank.
    ideal : ndarray of shape (n_users,)
        Discounted gain of the first k if all relevant rows stood first, best first.
    n_relevant : ndarray of shape (n_users,)
        Relevant rows, within the first k or not.
    weight : ndarray of shape (n_users,)
        What the user counts in means.
    k : float
        Length of the lists, infinite for whole lists.
    """

    users: np.ndarray
    ranks: np.ndarray
    gains: np.ndarray
    ideal: np.ndarray
    n_relevant: np.ndarray
    weight: np.ndarray
    k: float

    @classmethod
    def from_rows(
        cls,
        users: np.ndarray,
        ranks: np.ndarray,
        gains: np.ndarray,
        weight: np.ndarray,
        k: float,
    ) -> Rankings:
        """Rankings of rows at their ranks; a rank is infinite where lists lack the row.

        Rows without gain may be left out.
        """
        n_users = len(weight)
        relevant = np.flatnonzero(gains)
        users, ranks, gains = users[relevant], ranks[relevant], gains[relevant]

        order = np.lexsort((-gains, users))
        places = _places(users[order])
        order, places = order[places <= k], places[places <= k]
        best = _discounted(gains[order], places)
        ideal = np.bincount(users[order], best, minlength=n_users)

        hits = np.flatnonzero(ranks <= k)
        hits = hits[np.lexsort((ranks[hits], users[hits]))]
        n_relevant = np.bincount(users, minlength=n_users)
        return cls(users[hits], ranks[hits], gains[hits], ideal, n_relevant, weight, k)

    @property
    def places(self) -> np.ndarray:
        """How many hits the user has down to each hit."""
        return _places(self.users)

    def values(self, metric: str) -> np.ndarray:
        """The metric of each user, NaN without a relevant row."""
        worth, divisor = METRICS[metric](self)
        total = np.bincount(self.users, worth, minlength=len(self.weight))
        undefined = np.full(len(self.weight), np.nan)
        return np.divide(total, divisor, out=undefined, where=self.n_relevant > 0)

    def mean(self, metric: str) -> float:
        """The metric's mean over the users who have a relevant row."""
        defined = self.n_relevant > 0
        if not defined.any():
            return float("nan")
        values = self.values(metric)
        return float(np.average(values[defined], weights=self.weight[defined]))


# What each hit is worth, and what a user's sum of it is divided by.
METRICS: dict[str, Callable[[Rankings], tuple[np.ndarray, np.ndarray | float]]] = {
    "ndcg": lambda r: (_discounted(r.gains, r.ranks), r.ideal),
    "precision": lambda r: (np.ones(len(r.users)), r.k),
    "recall": lambda r: (np.ones(len(r.users)), r.n_relevant),
    "map": lambda r: (r.places / r.ranks, np.minimum(r.k, r.n_relevant)),
    "mrr": lambda r: ((r.places == 1) / r.ranks, 1),
    "hit_rate": lambda r: (r.places == 1, 1),
}


# Those that say something of the order of a whole list.
OF_WHOLE_LISTS = {"ndcg", "map", "mrr"}


def _discounted(gains: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    return gains / np.log2(ranks + 1)


def _places(users: np.ndarray) -> np.ndarray:
    """Place of each row among its user's, from 1; users are in sorted order."""
    return np.arange(1, len(users) + 1) - np.searchsorted(users, users)


def ranks_of(users: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rank of each row among its user's, highest score first, from 1."""
    lot = np.random.RandomState(TIE_SEED).permutation(len(users))
    order = lot[np.lexsort((-scores[lot], users[lot]))]
    ranks = np.empty(len(users), dtype=np.int64)
    ranks[order] = _places(users[order])
    return ranks


def gains_of(y: np.ndarray, threshold: float | None) -> np.ndarray:
    """Relevance, 0 for rows that are not relevant."""
    return y.clip(0) if threshold is None else (y >= threshold).astype(np.float64)


def weight_of_users(users: np.ndarray, weight: np.ndarray, n_users: int) -> np.ndarray:
    """Mean weight of each user's rows, 0 without a row."""
    n_rows = np.bincount(users, minlength=n_users)
    return np.bincount(users, weight, minlength=n_users) / np.maximum(n_rows, 1)


def warn_if_undefined(rankings: Rankings) -> None:
    if not rankings.n_relevant.any():
        warn(
            "The score is undefined and set to nan: there is no user with a relevant "
            "row to rank (candidates='test' leaves out users with a single test row).",
            UndefinedMetricWarning,
        )


def check_gains(
    y: np.ndarray, threshold: float | None, metrics: Sequence[str], name: str
) -> None:
    if threshold is None and "ndcg" in metrics and (y < 0).any():
        raise ValueError(
            f"{name} must be at least 0 to be the gain of ndcg, but is negative for "
            f"{counted(y < 0, 'row')}; give a relevance_threshold, or shift {name}."
        )


def check_threshold(threshold: Any) -> None:
    if threshold is not None and (
        not isinstance(threshold, Real)
        or isinstance(threshold, bool)
        or not np.isfinite(threshold)
    ):
        raise ValueError(
            f"relevance_threshold must be None or a finite number, got {threshold!r}."
        )
