"""Metrics of ranked lists, and the scorer that asks an estimator for the lists.

Every ranking metric is a function of one thing, `Rankings`: at which ranks the relevant
rows of each user stand. Flat arrays and fitted estimators are two ways to it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import sklearn
import sklearn.metrics
from numpy.typing import ArrayLike
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import check_is_fitted

from ._interactions import (
    Ids,
    as_numbers,
    counted,
    id_columns,
    numbered,
    object_array,
)

__all__ = [
    "RankingScorer",
    "average_precision_at_k",
    "catalogue_coverage",
    "get_scorer",
    "hit_rate_at_k",
    "ndcg_at_k",
    "novelty",
    "precision_at_k",
    "recall_at_k",
    "reciprocal_rank",
]

# Shuffles that people make have small seeds; with one of those, breaking ties could
# undo the shuffle that the rows were given before.
TIE_SEED = 780_291_637


def precision_at_k(
    y_true: ArrayLike,
    y_score: ArrayLike,
    groups: ArrayLike,
    *,
    k: int = 10,
    relevance_threshold: float | None = None,
    sample_weight: ArrayLike | None = None,
    average: bool = True,
) -> float | np.ndarray:
    r"""Share of the first `k` places that hold a relevant row.

    With :math:`r_{uj}` telling whether the row that user :math:`u` has at rank
    :math:`j` is relevant,

    .. math:: P@k(u) = \frac{1}{k} \sum_{j=1}^{k} r_{uj}.

    The divisor is `k` for a user with fewer rows, too.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Relevance of each row: a row is relevant where it is positive.
    y_score : array-like of shape (n_samples,)
        Scores that rank the rows, highest first. Ties are broken by a permutation of
        the rows that is random but the same at every call.
    groups : array-like of shape (n_samples,)
        The user of each row, as raw ids of any sortable kind.
    k : int, default=10
        Length of the lists.
    relevance_threshold : float, default=None
        Rows are relevant where `y_true` reaches it, instead of where it is positive.
    sample_weight : array-like of shape (n_samples,), default=None
        Non-negative weights. A row of weight 0 is no row; in the mean, a user has the
        mean weight of their other rows.
    average : bool, default=True
        Return the mean over users rather than one value for each.

    Returns
    -------
    precision : float or ndarray of shape (n_users,)
        The mean over all users who have a relevant row, or with `average=False` the
        value of every user, in sorted order of the ids, NaN without a relevant row.

    Raises
    ------
    ValueError
        If a value is missing or infinite, lengths differ, a weight is negative, all
        weights are zero, or `k` is not an int of at least 1.

    Warns
    -----
    UndefinedMetricWarning
        If no user has a relevant row; the mean is NaN then.

    References
    ----------
    Manning, Raghavan and Schütze, Introduction to Information Retrieval, Cambridge
    University Press, 2008, chapter 8, doi:10.1017/CBO9780511809071.

    Examples
    --------
    >>> from skrec.metrics import precision_at_k
    >>> users = ["ann", "ann", "ann", "bob", "bob"]
    >>> precision_at_k([1, 0, 1, 0, 1], [0.9, 0.8, 0.7, 0.2, 0.1], users, k=2)
    0.5
    """
    return _from_arrays(
        "precision",
        y_true,
        y_score,
        groups,
        k,
        relevance_threshold,
        sample_weight,
        average,
    )


def recall_at_k(
    y_true: ArrayLike,
    y_score: ArrayLike,
    groups: ArrayLike,
    *,
    k: int = 10,
    relevance_threshold: float | None = None,
    sample_weight: ArrayLike | None = None,
    average: bool = True,
) -> float | np.ndarray:
    r"""Share of a user's relevant rows that stand in the first `k` places.

    With :math:`r_{uj}` telling whether the row that user :math:`u` has at rank
    :math:`j` is relevant,

    .. math:: R@k(u) = \frac{\sum_{j \le k} r_{uj}}{\sum_j r_{uj}}.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Relevance of each row: a row is relevant where it is positive.
    y_score : array-like of shape (n_samples,)
        Scores that rank the rows, highest first. Ties are broken by a permutation of
        the rows that is random but the same at every call.
    groups : array-like of shape (n_samples,)
        The user of each row, as raw ids of any sortable kind.
    k : int, default=10
        Length of the lists.
    relevance_threshold : float, default=None
        Rows are relevant where `y_true` reaches it, instead of where it is positive.
    sample_weight : array-like of shape (n_samples,), default=None
        Non-negative weights. A row of weight 0 is no row; in the mean, a user has the
        mean weight of their other rows.
    average : bool, default=True
        Return the mean over users rather than one value for each.

    Returns
    -------
    recall : float or ndarray of shape (n_users,)
        The mean over all users who have a relevant row, or with `average=False` the
        value of every user, in sorted order of the ids, NaN without a relevant row.

    Raises
    ------
    ValueError
        If a value is missing or infinite, lengths differ, a weight is negative, all
        weights are zero, or `k` is not an int of at least 1.

    Warns
    -----
    UndefinedMetricWarning
        If no user has a relevant row; the mean is NaN then.

    References
    ----------
    Manning, Raghavan and Schütze, Introduction to Information Retrieval, Cambridge
    University Press, 2008, chapter 8, doi:10.1017/CBO9780511809071.

    Examples
    --------
    >>> from skrec.metrics import recall_at_k
    >>> users = ["ann", "ann", "ann", "bob", "bob"]
    >>> recall_at_k([1, 0, 1, 0, 1], [0.9, 0.8, 0.7, 0.2, 0.1], users, k=2)
    0.75
    """
    return _from_arrays(
        "recall",
        y_true,
        y_score,
        groups,
        k,
        relevance_threshold,
        sample_weight,
        average,
    )


def ndcg_at_k(
    y_true: ArrayLike,
    y_score: ArrayLike,
    groups: ArrayLike,
    *,
    k: int | None = 10,
    relevance_threshold: float | None = None,
    sample_weight: ArrayLike | None = None,
    average: bool = True,
) -> float | np.ndarray:
    r"""Normalised discounted cumulative gain of the first `k` places.

    With :math:`g_{uj}` the relevance of the row that user :math:`u` has at rank
    :math:`j`, and :math:`g^*_{uj}` those of the same rows from the largest down,

    .. math:: NDCG@k(u) = \frac{\sum_{j \le k} g_{uj} / \log_2(j + 1)}
                               {\sum_{j \le k} g^*_{uj} / \log_2(j + 1)}.

    The gain is linear in the relevance, as in :func:`sklearn.metrics.ndcg_score`.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Relevance of each row, at least 0, such as a rating.
    y_score : array-like of shape (n_samples,)
        Scores that rank the rows, highest first. Ties are broken by a permutation of
        the rows that is random but the same at every call.
    groups : array-like of shape (n_samples,)
        The user of each row, as raw ids of any sortable kind.
    k : int, default=10
        Length of the lists; None is all rows of a user.
    relevance_threshold : float, default=None
        If given, relevance is 1 where `y_true` reaches it, and 0 elsewhere.
    sample_weight : array-like of shape (n_samples,), default=None
        Non-negative weights. A row of weight 0 is no row; in the mean, a user has the
        mean weight of their other rows.
    average : bool, default=True
        Return the mean over users rather than one value for each.

    Returns
    -------
    ndcg : float or ndarray of shape (n_users,)
        The mean over all users who have a relevant row, or with `average=False` the
        value of every user, in sorted order of the ids, NaN without a relevant row.

    Raises
    ------
    ValueError
        If a value is missing or infinite, a relevance is negative and there is no
        threshold, lengths differ, a weight is negative, all weights are zero, or `k` is
        not an int of at least 1.

    Warns
    -----
    UndefinedMetricWarning
        If no user has a relevant row; the mean is NaN then.

    References
    ----------
    Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, ACM
    Transactions on Information Systems 20(4), 2002, doi:10.1145/582415.582418.

    Examples
    --------
    >>> from skrec.metrics import ndcg_at_k
    >>> users = ["ann", "ann", "ann", "bob", "bob"]
    >>> round(ndcg_at_k([5, 1, 3, 0, 4], [0.9, 0.8, 0.7, 0.2, 0.1], users, k=2), 3)
    0.724
    """
    return _from_arrays(
        "ndcg", y_true, y_score, groups, k, relevance_threshold, sample_weight, average
    )


def average_precision_at_k(
    y_true: ArrayLike,
    y_score: ArrayLike,
    groups: ArrayLike,
    *,
    k: int | None = 10,
    relevance_threshold: float | None = None,
    sample_weight: ArrayLike | None = None,
    average: bool = True,
) -> float | np.ndarray:
    r"""Average precision of the first `k` places; its mean over users is the MAP.

    With :math:`r_{uj}` telling whether the row that user :math:`u` has at rank
    :math:`j` is relevant, and :math:`n_u` the number of their relevant rows,

    .. math:: AP@k(u) = \frac{1}{\min(k, n_u)} \sum_{j \le k} r_{uj}\, P@j(u),
              \qquad P@j(u) = \frac{1}{j} \sum_{i \le j} r_{ui}.

    The divisor makes the best possible list worth 1, whatever `k`.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Relevance of each row: a row is relevant where it is positive.
    y_score : array-like of shape (n_samples,)
        Scores that rank the rows, highest first. Ties are broken by a permutation of
        the rows that is random but the same at every call.
    groups : array-like of shape (n_samples,)
        The user of each row, as raw ids of any sortable kind.
    k : int, default=10
        Length of the lists; None is all rows of a user.
    relevance_threshold : float, default=None
        Rows are relevant where `y_true` reaches it, instead of where it is positive.
    sample_weight : array-like of shape (n_samples,), default=None
        Non-negative weights. A row of weight 0 is no row; in the mean, a user has the
        mean weight of their other rows.
    average : bool, default=True
        Return the mean over users rather than one value for each.

    Returns
    -------
    average_precision : float or ndarray of shape (n_users,)
        The mean over all users who have a relevant row, or with `average=False` the
        value of every user, in sorted order of the ids, NaN without a relevant row.

    Raises
    ------
    ValueError
        If a value is missing or infinite, lengths differ, a weight is negative, all
        weights are zero, or `k` is not an int of at least 1.

    Warns
    -----
    UndefinedMetricWarning
        If no user has a relevant row; the mean is NaN then.

    References
    ----------
    Manning, Raghavan and Schütze, Introduction to Information Retrieval, Cambridge
    University Press, 2008, chapter 8, doi:10.1017/CBO9780511809071.

    Examples
    --------
    >>> from skrec.metrics import average_precision_at_k
    >>> users = ["ann", "ann", "ann", "bob", "bob"]
    >>> average_precision_at_k([1, 0, 1, 0, 1], [0.9, 0.8, 0.7, 0.2, 0.1], users, k=2)
    0.5
    """
    return _from_arrays(
        "map", y_true, y_score, groups, k, relevance_threshold, sample_weight, average
    )


def reciprocal_rank(
    y_true: ArrayLike,
    y_score: ArrayLike,
    groups: ArrayLike,
    *,
    k: int | None = None,
    relevance_threshold: float | None = None,
    sample_weight: ArrayLike | None = None,
    average: bool = True,
) -> float | np.ndarray:
    r"""One over the rank of the first relevant row; its mean over users is the MRR.

    .. math:: RR(u) = \frac{1}{\min \{j : r_{uj} = 1\}},

    where :math:`r_{uj}` tells whether the row that user :math:`u` has at rank
    :math:`j` is relevant; 0 if none is within the first `k`.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Relevance of each row: a row is relevant where it is positive.
    y_score : array-like of shape (n_samples,)
        Scores that rank the rows, highest first. Ties are broken by a permutation of
        the rows that is random but the same at every call.
    groups : array-like of shape (n_samples,)
        The user of each row, as raw ids of any sortable kind.
    k : int, default=None
        Length of the lists; None is all rows of a user.
    relevance_threshold : float, default=None
        Rows are relevant where `y_true` reaches it, instead of where it is positive.
    sample_weight : array-like of shape (n_samples,), default=None
        Non-negative weights. A row of weight 0 is no row; in the mean, a user has the
        mean weight of their other rows.
    average : bool, default=True
        Return the mean over users rather than one value for each.

    Returns
    -------
    reciprocal_rank : float or ndarray of shape (n_users,)
        The mean over all users who have a relevant row, or with `average=False` the
        value of every user, in sorted order of the ids, NaN without a relevant row.

    Raises
    ------
    ValueError
        If a value is missing or infinite, lengths differ, a weight is negative, all
        weights are zero, or `k` is not an int of at least 1.

    Warns
    -----
    UndefinedMetricWarning
        If no user has a relevant row; the mean is NaN then.

    References
    ----------
    Voorhees, The TREC-8 question answering track report, Proceedings of the 8th Text
    REtrieval Conference, 1999, pages 77-82.

    Examples
    --------
    >>> from skrec.metrics import reciprocal_rank
    >>> users = ["ann", "ann", "ann", "bob", "bob"]
    >>> reciprocal_rank([1, 0, 1, 0, 1], [0.9, 0.8, 0.7, 0.2, 0.1], users)
    0.75
    """
    return _from_arrays(
        "mrr", y_true, y_score, groups, k, relevance_threshold, sample_weight, average
    )


def hit_rate_at_k(
    y_true: ArrayLike,
    y_score: ArrayLike,
    groups: ArrayLike,
    *,
    k: int = 10,
    relevance_threshold: float | None = None,
    sample_weight: ArrayLike | None = None,
    average: bool = True,
) -> float | np.ndarray:
    r"""Share of users with a relevant row in the first `k` places.

    .. math:: HR@k(u) = \max_{j \le k} r_{uj},

    where :math:`r_{uj}` tells whether the row that user :math:`u` has at rank
    :math:`j` is relevant.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Relevance of each row: a row is relevant where it is positive.
    y_score : array-like of shape (n_samples,)
        Scores that rank the rows, highest first. Ties are broken by a permutation of
        the rows that is random but the same at every call.
    groups : array-like of shape (n_samples,)
        The user of each row, as raw ids of any sortable kind.
    k : int, default=10
        Length of the lists.
    relevance_threshold : float, default=None
        Rows are relevant where `y_true` reaches it, instead of where it is positive.
    sample_weight : array-like of shape (n_samples,), default=None
        Non-negative weights. A row of weight 0 is no row; in the mean, a user has the
        mean weight of their other rows.
    average : bool, default=True
        Return the mean over users rather than one value for each.

    Returns
    -------
    hit_rate : float or ndarray of shape (n_users,)
        The mean over all users who have a relevant row, or with `average=False` the
        value of every user, in sorted order of the ids, NaN without a relevant row.

    Raises
    ------
    ValueError
        If a value is missing or infinite, lengths differ, a weight is negative, all
        weights are zero, or `k` is not an int of at least 1.

    Warns
    -----
    UndefinedMetricWarning
        If no user has a relevant row; the mean is NaN then.

    References
    ----------
    Deshpande and Karypis, Item-based top-N recommendation algorithms, ACM Transactions
    on Information Systems 22(1), 2004, doi:10.1145/963770.963776.

    Examples
    --------
    >>> from skrec.metrics import hit_rate_at_k
    >>> users = ["ann", "ann", "ann", "bob", "bob"]
    >>> hit_rate_at_k([1, 0, 1, 0, 1], [0.9, 0.8, 0.7, 0.2, 0.1], users, k=1)
    0.5
    """
    return _from_arrays(
        "hit_rate",
        y_true,
        y_score,
        groups,
        k,
        relevance_threshold,
        sample_weight,
        average,
    )


def catalogue_coverage(recommended: ArrayLike, catalogue: ArrayLike) -> float:
    """Share of the catalogue that occurs in any list.

    Parameters
    ----------
    recommended : array-like of shape (n_users, n_items) or (n_recommendations,)
        Raw ids of the recommended items, in any order. An id that is not in the
        catalogue does not count.
    catalogue : array-like of shape (n_catalogue,)
        Raw ids of all items, such as `item_ids_`.

    Returns
    -------
    coverage : float

    Raises
    ------
    ValueError
        If an id is missing, or if there is no recommended item or no catalogue.
    TypeError
        If the ids of the two are of different kinds.

    References
    ----------
    Ge, Delgado-Battenfeld and Jannach, Beyond accuracy: evaluating recommender systems
    by coverage and serendipity, RecSys 2010, doi:10.1145/1864708.1864761.

    Examples
    --------
    >>> from skrec.metrics import catalogue_coverage
    >>> catalogue_coverage([["tea", "milk"], ["milk", "tea"]], ["milk", "rum", "tea"])
    0.6666666666666666
    """
    _, ids = _read_ids(catalogue, "catalogue").numbered()
    items = _read_ids(recommended, "recommended").numbered_in(ids)
    return float((np.bincount(items[items >= 0], minlength=len(ids)) > 0).mean())


def novelty(recommended: ArrayLike, X_train: Any) -> float:
    r"""Mean self-information of recommended items, in bits.

    .. math:: \frac{1}{|L|} \sum_{i \in L} \log_2 \frac{n}{n_i},

    where :math:`L` holds all places of all lists, :math:`n` is the number of users and
    :math:`n_i` the number of those who have item :math:`i`. An item that everybody has
    is worth 0; one that nobody has counts as if one user had it.

    Parameters
    ----------
    recommended : array-like of shape (n_users, n_items) or (n_recommendations,)
        Raw ids of the recommended items.
    X_train : array-like of shape (n_samples, 2 + n_features)
        Training rows: column 0 holds the user, column 1 the item. A user who has an
        item several times counts once.

    Returns
    -------
    novelty : float

    Raises
    ------
    ValueError
        If an id is missing, or if there is no recommended item or no training row.
    TypeError
        If the ids of the two are of different kinds.

    References
    ----------
    Zhou et al., Solving the apparent diversity-accuracy dilemma of recommender systems,
    PNAS 107(10), 2010, doi:10.1073/pnas.1000488107.

    Examples
    --------
    >>> from skrec.metrics import novelty
    >>> X_train = [["ann", "tea"], ["bob", "tea"], ["bob", "rum"]]
    >>> novelty(["tea", "rum", "rum", "rum"], X_train)
    0.75
    """
    (users, user_ids), (items, item_ids) = (
        ids.numbered() for ids in _read_rows(X_train, "X_train")
    )
    pair = np.sort(items * np.int64(len(user_ids)) + users)
    pair = pair[np.diff(pair, prepend=-1) > 0]
    n_users_of_item = np.bincount(pair // len(user_ids))
    found = _read_ids(recommended, "recommended").numbered_in(item_ids)
    n_users = np.where(found < 0, 1, n_users_of_item[found])
    return float(np.log2(len(user_ids) / n_users).mean())


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


def _ranks(users: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rank of each row among its user's, highest score first, from 1."""
    lot = np.random.RandomState(TIE_SEED).permutation(len(users))
    order = lot[np.lexsort((-scores[lot], users[lot]))]
    ranks = np.empty(len(users), dtype=np.int64)
    ranks[order] = _places(users[order])
    return ranks


def _gains(y: np.ndarray, threshold: float | None) -> np.ndarray:
    """Relevance, 0 for rows that are not relevant."""
    return y.clip(0) if threshold is None else (y >= threshold).astype(np.float64)


def _check_gains(
    y: np.ndarray, threshold: float | None, metrics: Sequence[str], name: str
) -> None:
    if threshold is None and "ndcg" in metrics and (y < 0).any():
        raise ValueError(
            f"{name} must be at least 0 to be the gain of ndcg, but is negative for "
            f"{counted(y < 0, 'row')}; give a relevance_threshold, or shift {name}."
        )


def _from_arrays(
    metric: str,
    y_true: ArrayLike,
    y_score: ArrayLike,
    groups: ArrayLike,
    k: int | None,
    relevance_threshold: float | None,
    sample_weight: ArrayLike | None,
    average: bool,
) -> float | np.ndarray:
    """A metric of flat arrays."""
    if k is not None or metric not in OF_WHOLE_LISTS:
        _check_k(k)
    _check_threshold(relevance_threshold)
    users, user_ids = _read_ids(groups, "groups").numbered()
    y = _read_numbers(y_true, "y_true", len(users))
    scores = _read_numbers(y_score, "y_score", len(users))
    weight = _read_weights(sample_weight, len(users))
    _check_gains(y, relevance_threshold, [metric], "y_true")

    kept = np.flatnonzero(weight)
    users, scores = users[kept], scores[kept]
    rankings = Rankings.from_rows(
        users,
        _ranks(users, scores),
        _gains(y[kept], relevance_threshold),
        _weight_of_users(users, weight[kept], len(user_ids)),
        np.inf if k is None else k,
    )
    if not average:
        return rankings.values(metric)
    _warn_if_undefined(rankings, stacklevel=4)
    return rankings.mean(metric)


def _warn_if_undefined(rankings: Rankings, stacklevel: int) -> None:
    if not rankings.n_relevant.any():
        warnings.warn(
            "The score is undefined and set to nan: there is no user with a relevant "
            "row to rank (candidates='test' leaves out users with a single test row).",
            UndefinedMetricWarning,
            stacklevel=stacklevel,
        )


def _weight_of_users(users: np.ndarray, weight: np.ndarray, n_users: int) -> np.ndarray:
    """Mean weight of each user's rows, 0 without a row."""
    n_rows = np.bincount(users, minlength=n_users)
    return np.bincount(users, weight, minlength=n_users) / np.maximum(n_rows, 1)


@dataclass
class RankingScorer:
    """Scorer of ranked lists: what any `scoring=` takes, by ranking metrics.

    Called as ``scorer(estimator, X, y)``, it ranks items for the users of the test rows
    `X`, once for all metrics, and looks where the rows stand of which `y` says that
    they are relevant. Column 0 of `X` is the user, column 1 the item.

    Equal predictions are ordered by a permutation that is random but always the same:
    neither the order of the rows, nor that of the catalogue, nor `y` says who wins.
    Users without a relevant test row have no score and are left out.

    Parameters
    ----------
    metrics : str, list or tuple of str, default="ndcg"
        Metrics among "ndcg", "precision", "recall", "map", "mrr" and "hit_rate": see
        :func:`ndcg_at_k`, :func:`precision_at_k`, :func:`recall_at_k`,
        :func:`average_precision_at_k`, :func:`reciprocal_rank` and
        :func:`hit_rate_at_k`. With a name the scorer returns a number; with a list, a
        dict whose keys are such as "ndcg@10", which are also what ``refit=`` of a
        search takes and what follows ``mean_test_`` in its `cv_results_`. Within a dict
        of several scorers, scikit-learn takes only scorers that return a number.
    k : int, default=10
        Length of the lists, for every metric.
    candidates : {"unseen", "test"}, default="unseen"
        What is ranked for each user.

        - "unseen": all items that the estimator knows but those the user has in the
          training rows; test rows are ranked even if they are training rows too. Test
          items that the estimator does not know count as missed. Asks `recommend` of
          the estimator, or of the last step of a pipeline, whose other steps transform
          `X`, or of the best estimator of a search.
        - "test": the user's own test rows, by `predict` of any regressor; ids are read
          from `X` as it is given. Users with fewer than two test rows, which leave
          nothing to rank, are left out.

        Ranking whole catalogues is what a recommender is for; few candidates can order
        estimators differently [1]_.
    relevance_threshold : float, default=None
        Test rows are relevant (1) where `y` reaches it, and not (0) elsewhere. None
        takes `y` as the gain of "ndcg", and rows with positive `y` as relevant.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Notes
    -----
    Several test rows of one pair of user and item are one row, with the mean of their
    `y` and of their predictions.

    A test row of weight 0 is no row; in the mean over users, a user has the mean weight
    of their other rows.

    References
    ----------
    .. [1] Krichene and Rendle, On sampled metrics for item recommendation, KDD 2020,
       doi:10.1145/3394486.3403226.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV, KFold
    >>> from skrec import MFRegressor
    >>> from skrec.datasets import make_ratings
    >>> from skrec.metrics import RankingScorer
    >>> X, y = make_ratings(200, 50, 4000, random_state=0)
    >>> search = GridSearchCV(
    ...     MFRegressor(),
    ...     {"n_factors": [2, 8]},
    ...     scoring=RankingScorer(["ndcg", "recall"], relevance_threshold=4),
    ...     refit="ndcg@10",
    ...     cv=KFold(3, shuffle=True, random_state=0),
    ... ).fit(X, y)
    >>> bool(search.best_score_ == search.cv_results_["mean_test_ndcg@10"].max())
    True
    """

    metrics: str | Sequence[str] = "ndcg"
    _: KW_ONLY
    k: int = 10
    candidates: Literal["unseen", "test"] = "unseen"
    relevance_threshold: float | None = None
    _weight_request: bool | str | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        names = self._names()
        if not names or not all(isinstance(n, str) and n in METRICS for n in names):
            raise ValueError(
                "metrics must be a name or a list of at least one name among "
                f"{', '.join(METRICS)}, without k; got {self.metrics!r}."
            )
        _check_k(self.k)
        if self.candidates not in ("unseen", "test"):
            raise ValueError(
                f"candidates must be 'unseen' or 'test', got {self.candidates!r}."
            )
        _check_threshold(self.relevance_threshold)

    def _names(self) -> Sequence[str]:
        return (
            self.metrics if isinstance(self.metrics, list | tuple) else [self.metrics]
        )

    def __call__(
        self,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> float | dict[str, float]:
        """Score a fitted estimator on test rows.

        Parameters
        ----------
        estimator : object
            The fitted estimator.
        X : array-like of shape (n_samples, 2 + n_features)
            Test rows, as the estimator takes them.
        y : array-like of shape (n_samples,)
            Relevance of the rows.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows.

        Returns
        -------
        score : float or dict of str to float
            The metric, or all of them; NaN if no user has a relevant row.

        Raises
        ------
        ValueError
            If a value of `y` or a weight is missing or infinite, a weight is negative,
            all weights are zero, lengths differ, or `y` is negative, "ndcg" is among
            the metrics, and there is no threshold.
        TypeError
            If candidates are "unseen" and the estimator has no `recommend`.
        NotFittedError
            If the estimator is not fitted.
        """
        unseen = self.candidates == "unseen"
        if unseen:
            estimator, X = _recommender(estimator, X)
        users, items = _read_rows(X, "X")
        n_rows = len(users.values)
        weight = _read_weights(sample_weight, n_rows)
        y = _read_numbers(y, "y", n_rows)
        _check_gains(y, self.relevance_threshold, self._names(), "y")
        scores = np.zeros(n_rows)
        if not unseen:
            scores = _read_numbers(estimator.predict(X), "predict(X)", n_rows)
        pairs = Pairs.from_rows(users, items, y, scores, weight)

        gains = _gains(pairs.y, self.relevance_threshold)
        if unseen:
            ranks = _ranks_in_catalogue(estimator, pairs, self.k)
        else:
            ranks = _ranks(pairs.users, pairs.scores)
            gains[np.bincount(pairs.users)[pairs.users] < 2] = 0
        rankings = Rankings.from_rows(pairs.users, ranks, gains, pairs.weight, self.k)
        _warn_if_undefined(rankings, stacklevel=3)
        if isinstance(self.metrics, str):
            return rankings.mean(self.metrics)
        return {f"{name}@{self.k}": rankings.mean(name) for name in self._names()}

    def set_score_request(self, *, sample_weight: bool | str | None) -> Self:
        """Say whether a meta-estimator is to pass sample weights on to the scorer.

        Parameters
        ----------
        sample_weight : bool, str or None
            Whether to pass it; a str is the name that the meta-estimator knows it by;
            None makes it an error to give the meta-estimator weights.

        Returns
        -------
        self : RankingScorer

        Raises
        ------
        RuntimeError
            If metadata routing is off.
        """
        if not sklearn.get_config()["enable_metadata_routing"]:
            raise RuntimeError(
                "set_score_request needs metadata routing, which is off; turn it on by "
                "sklearn.set_config(enable_metadata_routing=True)."
            )
        self._weight_request = sample_weight
        return self

    def get_metadata_routing(self) -> MetadataRequest:
        """What metadata the scorer asks for.

        Returns
        -------
        request : MetadataRequest
        """
        request = MetadataRequest(owner=self)
        request.score.add_request(param="sample_weight", alias=self._weight_request)
        return request

    def _accept_sample_weight(self) -> bool:
        # Searches ask, where metadata routing is off.
        return True


def get_scorer(scoring: Any) -> Any:
    """Get a scorer by name: "ndcg@10" and its like, or any that scikit-learn knows.

    Parameters
    ----------
    scoring : str
        The name of a metric of :class:`RankingScorer` and its `k`, joined by "@"; else
        it is left to :func:`sklearn.metrics.get_scorer`.

    Returns
    -------
    scorer : callable

    Raises
    ------
    ValueError
        If there is no such scorer.

    Examples
    --------
    >>> from skrec.metrics import get_scorer
    >>> get_scorer("ndcg@5")
    RankingScorer(metrics='ndcg', k=5, candidates='unseen', relevance_threshold=None)
    >>> get_scorer("r2")
    make_scorer(r2_score, response_method='predict')
    """
    ranking = isinstance(scoring, str) and re.fullmatch(r"(\w+)@(\d+)", scoring)
    if ranking:
        return RankingScorer(ranking[1], k=int(ranking[2]))
    try:
        return sklearn.metrics.get_scorer(scoring)
    except ValueError as error:
        raise ValueError(
            f"{scoring!r} names no scorer of scikit-learn, nor is it one of "
            f"{', '.join(METRICS)} with its k, such as 'ndcg@10'."
        ) from error


@dataclass(frozen=True)
class Pairs:
    """The distinct pairs among test rows, in sorted order.

    Attributes
    ----------
    users, items : ndarray of shape (n_pairs,)
        Row numbers.
    y, scores : ndarray of shape (n_pairs,)
        Means over the rows of the pair.
    user_ids, item_ids : ndarray of shape (n_users,) and (n_items,)
        Sorted raw ids.
    weight : ndarray of shape (n_users,)
        Mean weight of the user's rows.
    """

    users: np.ndarray
    items: np.ndarray
    y: np.ndarray
    scores: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray
    weight: np.ndarray

    @classmethod
    def from_rows(
        cls,
        users: Ids,
        items: Ids,
        y: np.ndarray,
        scores: np.ndarray,
        weight: np.ndarray,
    ) -> Pairs:
        """Pairs of the rows that have a weight."""
        kept = np.flatnonzero(weight)
        (users, user_ids), (items, item_ids) = (
            replace(ids, values=ids.values[kept]).numbered() for ids in (users, items)
        )
        y, scores = y[kept], scores[kept]
        pair = users * np.int64(len(item_ids)) + items
        # A whole order, so that sums do not depend on the order of the rows given.
        order = np.lexsort((scores, y, pair))
        starts = np.flatnonzero(np.diff(pair[order], prepend=-1))
        n_rows = np.diff(starts, append=len(pair))
        return cls(
            users=users[order[starts]],
            items=items[order[starts]],
            y=np.add.reduceat(y[order], starts) / n_rows,
            scores=np.add.reduceat(scores[order], starts) / n_rows,
            user_ids=user_ids,
            item_ids=item_ids,
            weight=_weight_of_users(users, weight[kept], len(user_ids)),
        )


def _recommender(estimator: Any, X: Any) -> tuple[Any, Any]:
    """The recommender inside pipelines and searches, and X as it reaches it."""
    outer = estimator
    while not hasattr(estimator, "recommend"):
        if isinstance(estimator, Pipeline):
            if len(estimator) > 1:
                X = estimator[:-1].transform(X)
            estimator = estimator[-1]
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        else:
            raise TypeError(
                f"RankingScorer with candidates='unseen' needs an estimator that has "
                f"`recommend`, which {type(outer).__name__} has not. Use "
                "candidates='test', which ranks each user's test rows by `predict`."
            )
    check_is_fitted(estimator, "item_ids_")
    return estimator, X


def _ranks_in_catalogue(estimator: Any, pairs: Pairs, k: int) -> np.ndarray:
    """Rank of each pair in the user's list of k, infinite where it is not there."""
    catalogue = estimator.item_ids_
    # Ties go to the candidate that comes first.
    lot = np.random.RandomState(TIE_SEED).permutation(len(catalogue))
    lists = estimator.recommend(
        pairs.user_ids,
        n_items=min(k, len(catalogue)),
        candidates=catalogue[lot],
        never_exclude=pd.DataFrame(
            {
                "user": pairs.user_ids[pairs.users],
                "item": pairs.item_ids[pairs.items],
            }
        ),
        as_frame=True,
    )
    users = numbered(lists["user"].to_numpy(), pairs.user_ids)
    items = numbered(lists["item"].to_numpy(), catalogue)
    ranks = pd.Series(
        lists["rank"].to_numpy(np.float64), index=users * len(catalogue) + items
    )

    items = numbered(pairs.item_ids, catalogue, "column 1 of X")[pairs.items]
    asked = np.where(items < 0, -1, pairs.users * len(catalogue) + items)
    return ranks.reindex(asked, fill_value=np.inf).to_numpy()


def _check_k(k: Any) -> None:
    if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k must be an int of at least 1, got {k!r}.")


def _check_threshold(threshold: Any) -> None:
    if threshold is not None and (
        not isinstance(threshold, Real)
        or isinstance(threshold, bool)
        or not np.isfinite(threshold)
    ):
        raise ValueError(
            f"relevance_threshold must be None or a finite number, got {threshold!r}."
        )


def _read_rows(X: Any, name: str) -> tuple[Ids, Ids]:
    """Users and items of at least one row."""
    users, items = id_columns(X, name)
    if not len(users.values):
        raise ValueError(f"{name} has no rows; at least one is required.")
    return users, items


def _read_ids(values: Any, name: str) -> Ids:
    """Ids of any container and shape, at least one."""
    if isinstance(values, list | tuple):
        values = object_array(values)
    values = np.asarray(values).ravel()
    if not len(values):
        raise ValueError(f"{name} holds no ids; at least one is required.")
    return Ids.from_column(values, name)


def _read_numbers(values: Any, name: str, n_rows: int) -> np.ndarray:
    """One finite number per row."""
    values = np.asarray(values)
    if values.ndim != 1 and values.shape != (n_rows, 1):
        raise ValueError(f"{name} must be one-dimensional, got shape {values.shape}.")
    values = as_numbers(values.ravel(), name, "row")
    if len(values) != n_rows:
        raise ValueError(
            f"{name} must hold one number per row, but there are {n_rows} rows and "
            f"{name} holds {len(values)}."
        )
    return values


def _read_weights(sample_weight: Any, n_rows: int) -> np.ndarray:
    """One weight per row, some of them positive."""
    if sample_weight is None:
        return np.ones(n_rows)
    weight = _read_numbers(sample_weight, "sample_weight", n_rows)
    if (weight < 0).any():
        raise ValueError(
            f"sample_weight holds negative values: {counted(weight < 0, 'weight')}; "
            "weights must be at least 0."
        )
    if not weight.any():
        raise ValueError(
            "sample_weight is zero in all rows; at least one must be positive."
        )
    return weight
