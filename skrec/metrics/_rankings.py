"""Ranks of relevant rows per user, and the metrics as functions of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning

from .._data.messages import counted
from .._warn import warn

# Users shuffle rows by small seeds; with the same seed, breaking ties could undo their
# shuffle.
TIE_SEED = 780_291_637


@dataclass(frozen=True)
class Rankings:
    """Ranks of the relevant rows of each user.

    Attributes
    ----------
    users, ranks, gains : ndarray of shape (n_hits,)
        The relevant rows within the first k: the user's number, the rank from 1, and
        the relevance. In order of user and rank.
    ideal : ndarray of shape (n_users,)
        Discounted gain of the first k places of the best possible list.
    n_relevant : ndarray of shape (n_users,)
        Number of relevant rows, within the first k or not.
    weight : ndarray of shape (n_users,)
        Weight of the user in means.
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
        lengths: Iterable[float],
    ) -> dict[float, Rankings]:
        """Rankings at each length, of rows by their ranks.

        Ranks are infinite for rows that lists lack. Rows without gain may be left out.
        """
        n_users = len(weight)
        relevant = np.flatnonzero(gains)
        users, ranks, gains = users[relevant], ranks[relevant], gains[relevant]
        n_relevant = np.bincount(users, minlength=n_users)

        order = np.lexsort((-gains, users))
        best_users = users[order]
        places = _places(best_users)
        best = _discounted(gains[order], places)

        order = np.lexsort((ranks, users))
        users, ranks, gains = users[order], ranks[order], gains[order]
        rankings = {}
        for k in lengths:
            hits, fits = ranks <= k, places <= k
            ideal = np.bincount(best_users[fits], best[fits], minlength=n_users)
            rankings[k] = cls(
                users[hits], ranks[hits], gains[hits], ideal, n_relevant, weight, k
            )
        return rankings

    @property
    def places(self) -> np.ndarray:
        """Number of hits of the user down to each hit."""
        return _places(self.users)

    def values(self, metric: str) -> np.ndarray:
        """The metric of each user, NaN without a relevant row."""
        worth, divisor = METRICS[metric].terms(self)
        total = np.bincount(self.users, worth, minlength=len(self.weight))
        undefined = np.full(len(self.weight), np.nan)
        return np.divide(total, divisor, out=undefined, where=self.n_relevant > 0)

    def mean(self, metric: str) -> float:
        """The metric's mean over the users who have a relevant row."""
        return mean_over_users(self.values(metric), self.weight)


@dataclass(frozen=True)
class Metric:
    """A metric of ranked lists.

    Attributes
    ----------
    label : str
        Its name on axes.
    terms : callable
        The worth of each hit of `Rankings`, and the divisor of a user's sum of worths.
    is_of_whole_lists : bool
        Whether it depends on the order of a whole list, and needs no length.
    """

    label: str
    terms: Callable[[Rankings], tuple[np.ndarray, np.ndarray | float]]
    is_of_whole_lists: bool = False


METRICS = {
    "ndcg": Metric("NDCG", lambda r: (_discounted(r.gains, r.ranks), r.ideal), True),
    "precision": Metric("Precision", lambda r: (np.ones(len(r.users)), r.k)),
    "recall": Metric("Recall", lambda r: (np.ones(len(r.users)), r.n_relevant)),
    "map": Metric(
        "Average precision",
        lambda r: (r.places / r.ranks, np.minimum(r.k, r.n_relevant)),
        True,
    ),
    "mrr": Metric("Reciprocal rank", lambda r: ((r.places == 1) / r.ranks, 1), True),
    "hit_rate": Metric("Hit rate", lambda r: (r.places == 1, 1)),
}

# All names of metrics.
NAMES = (*METRICS, "auc")


def _discounted(gains: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    return gains / np.log2(ranks + 1)


def _places(users: np.ndarray) -> np.ndarray:
    """Place of each row among its user's, from 1; users are in sorted order."""
    return np.arange(1, len(users) + 1) - np.searchsorted(users, users)


def ranks_of(users: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rank of each row among its user's, highest score first, from 1."""
    shuffled = np.random.RandomState(TIE_SEED).permutation(len(users))
    order = shuffled[np.lexsort((-scores[shuffled], users[shuffled]))]
    ranks = np.empty(len(users), dtype=np.int64)
    ranks[order] = _places(users[order])
    return ranks


def areas_under_curve(
    users: np.ndarray, scores: np.ndarray, gains: np.ndarray, n_users: int
) -> np.ndarray:
    """Area under the ROC curve of each user, NaN without rows of both kinds."""
    order = np.lexsort((scores, users))
    users, scores, relevant = users[order], scores[order], gains[order] > 0
    irrelevant = np.cumsum(~relevant)
    # Rows of equal scores count half, so bounds of ties are averaged.
    differs = (np.diff(users) != 0) | (np.diff(scores) != 0)
    first = np.flatnonzero(np.concatenate([[True], differs]))
    tie = np.repeat(np.arange(len(first)), np.diff(first, append=len(users)))
    last = np.append(first[1:], len(users)) - 1
    below = np.concatenate([[0], irrelevant])[first]
    twice = (below + irrelevant[last])[tie]
    n_relevant = np.bincount(users, relevant, minlength=n_users)
    n_irrelevant = np.bincount(users, ~relevant, minlength=n_users)
    before = np.cumsum(n_irrelevant) - n_irrelevant
    wins = np.bincount(users, relevant * (twice / 2 - before[users]), n_users)
    n_pairs = n_relevant * n_irrelevant
    return np.divide(wins, n_pairs, out=np.full(n_users, np.nan), where=n_pairs > 0)


def areas_of_lists(
    users: np.ndarray, ranks: np.ndarray, gains: np.ndarray, n_listed: np.ndarray
) -> np.ndarray:
    """Area under the ROC curve of each user's whole list, by ranks of relevant rows.

    Rows that a list lacks have an infinite rank and come after all that is listed. NaN
    for users without a relevant row or another item.
    """
    n_users, relevant = len(n_listed), gains > 0
    n_relevant = np.bincount(users, relevant, minlength=n_users)
    hits = np.flatnonzero(relevant & np.isfinite(ranks))
    hits = hits[np.lexsort((ranks[hits], users[hits]))]
    users, ranks = users[hits], ranks[hits]
    n_others = n_listed - np.bincount(users, minlength=n_users)
    above = ranks - _places(users)
    wins = np.bincount(users, n_others[users] - above, minlength=n_users)
    n_pairs = n_relevant * n_others
    return np.divide(wins, n_pairs, out=np.full(n_users, np.nan), where=n_pairs > 0)


def mean_over_users(values: np.ndarray, weight: np.ndarray) -> float:
    """Weighted mean of the values that are defined, NaN if none is."""
    defined = ~np.isnan(values)
    if not defined.any():
        return float("nan")
    return float(np.average(values[defined], weights=weight[defined]))


def gains_of(y: np.ndarray, threshold: float | None) -> np.ndarray:
    """Relevance, 0 for rows that are not relevant."""
    return y.clip(0) if threshold is None else (y >= threshold).astype(np.float64)


def weight_of_users(users: np.ndarray, weight: np.ndarray, n_users: int) -> np.ndarray:
    """Mean weight of each user's rows, 0 without a row."""
    n_rows = np.bincount(users, minlength=n_users)
    return np.bincount(users, weight, minlength=n_users) / np.maximum(n_rows, 1)


def warn_if_undefined(rankings: Rankings) -> None:
    """Warn where no user has a relevant row."""
    if not rankings.n_relevant.any():
        warn(
            "The score is undefined and set to nan: there is no user with a relevant "
            "row to rank (candidates='test' leaves out users with a single test row).",
            UndefinedMetricWarning,
        )


def mean_area(areas: np.ndarray, weight: np.ndarray) -> float:
    """Mean area under the ROC curve; warns where it is undefined."""
    if np.isnan(areas).all():
        warn(
            "The area under the ROC curve is undefined and set to nan: there is no "
            "user with both a relevant row and another; see relevance_threshold.",
            UndefinedMetricWarning,
        )
    return mean_over_users(areas, weight)


def check_gains(
    y: np.ndarray, threshold: float | None, metrics: Sequence[str], name: str
) -> None:
    """Refuse negative relevance as the gain of ndcg."""
    if threshold is None and "ndcg" in metrics and (y < 0).any():
        raise ValueError(
            f"{name} must be at least 0 to be the gain of ndcg, but is negative for "
            f"{counted(y < 0, 'row')}; give a relevance_threshold, or shift {name}."
        )


def check_threshold(threshold: Any) -> None:
    """Refuse a relevance threshold that is no finite number."""
    if threshold is not None and (
        not isinstance(threshold, Real)
        or isinstance(threshold, bool)
        or not np.isfinite(float(threshold))
    ):
        raise ValueError(
            f"relevance_threshold must be None or a finite number, got {threshold!r}."
        )
