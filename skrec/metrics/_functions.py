"""Metrics of ranked lists as functions of flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, TypeAlias

import narwhals.stable.v1 as nw
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .._data.containers import as_array, as_frame, object_array
from .._data.reading import check_int, read_numbers, read_pairs, read_weights
from .._data.vocabulary import Ids
from ._rankings import (
    METRICS,
    Rankings,
    areas_under_curve,
    check_gains,
    check_threshold,
    gains_of,
    mean_area,
    ranks_of,
    warn_if_undefined,
    weight_of_users,
)

# Relevance, scores, users and weights.
Rows: TypeAlias = tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike | None]


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

    With :math:`r_{uj}` indicating whether the row that user :math:`u` has at rank
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
    rows = y_true, y_score, groups, sample_weight
    return _evaluate("precision", rows, k, relevance_threshold, average)


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

    With :math:`r_{uj}` indicating whether the row that user :math:`u` has at rank
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
    rows = y_true, y_score, groups, sample_weight
    return _evaluate("recall", rows, k, relevance_threshold, average)


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
    rows = y_true, y_score, groups, sample_weight
    return _evaluate("ndcg", rows, k, relevance_threshold, average)


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

    With :math:`r_{uj}` indicating whether the row that user :math:`u` has at rank
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
    rows = y_true, y_score, groups, sample_weight
    return _evaluate("map", rows, k, relevance_threshold, average)


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

    where :math:`r_{uj}` indicates whether the row that user :math:`u` has at rank
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
    rows = y_true, y_score, groups, sample_weight
    return _evaluate("mrr", rows, k, relevance_threshold, average)


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

    where :math:`r_{uj}` indicates whether the row that user :math:`u` has at rank
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
    rows = y_true, y_score, groups, sample_weight
    return _evaluate("hit_rate", rows, k, relevance_threshold, average)


def roc_auc(
    y_true: ArrayLike,
    y_score: ArrayLike,
    groups: ArrayLike,
    *,
    relevance_threshold: float | None = None,
    sample_weight: ArrayLike | None = None,
    average: bool = True,
) -> float | np.ndarray:
    r"""Area under the ROC curve of each user.

    With :math:`R_u` the relevant rows of user :math:`u`, :math:`N_u` the others and
    :math:`s` the scores,

    .. math:: AUC(u) = \frac{1}{|R_u| |N_u|} \sum_{i \in R_u} \sum_{j \in N_u}
                       \left([s_i > s_j] + \tfrac{1}{2} [s_i = s_j]\right).

    It is that of :func:`sklearn.metrics.roc_auc_score` for the rows of the user, and
    1/2 for random scores. All places of a list count alike.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Relevance of each row: a row is relevant where it is positive.
    y_score : array-like of shape (n_samples,)
        Scores that rank the rows, highest first.
    groups : array-like of shape (n_samples,)
        The user of each row, as raw ids of any sortable kind.
    relevance_threshold : float, default=None
        Rows are relevant where `y_true` reaches it, instead of where it is positive.
    sample_weight : array-like of shape (n_samples,), default=None
        Non-negative weights. A row of weight 0 is no row; in the mean, a user has the
        mean weight of their other rows.
    average : bool, default=True
        Return the mean over users rather than one value for each.

    Returns
    -------
    auc : float or ndarray of shape (n_users,)
        The mean over all users who have a relevant row and another, or with
        `average=False` the value of every user, in sorted order of the ids, NaN for
        other users.

    Raises
    ------
    ValueError
        If a value is missing or infinite, lengths differ, a weight is negative, or all
        weights are zero.

    Warns
    -----
    UndefinedMetricWarning
        If no user has both a relevant row and another; the mean is NaN then.

    References
    ----------
    Rendle et al., BPR: Bayesian personalized ranking from implicit feedback, UAI 2009,
    section 4.1.1.

    Examples
    --------
    >>> from skrec.metrics import roc_auc
    >>> users = ["ann", "ann", "ann", "bob", "bob"]
    >>> roc_auc([1, 0, 1, 0, 1], [0.9, 0.8, 0.7, 0.2, 0.2], users)
    0.5
    """
    rows = y_true, y_score, groups, sample_weight
    users, scores, gains, weight = _read_rows("auc", rows, relevance_threshold)
    areas = areas_under_curve(users, scores, gains, len(weight))
    return mean_area(areas, weight) if average else areas


def catalogue_coverage(recommended: ArrayLike, catalogue: ArrayLike) -> float:
    """Share of the catalogue that occurs in any list.

    Parameters
    ----------
    recommended : array-like of shape (n_users, n_items) or (n_recommendations,)
        Raw ids of the recommended items, in any order. Also a list of ids for each
        user, of any lengths, or a table with a column "item", as of
        ``recommend(as_frame=True)``. An id that is not in the catalogue does not count;
        nor do missing values, in which short lists end.
    catalogue : array-like of shape (n_catalogue,)
        Raw ids of all items, such as `item_ids_`.

    Returns
    -------
    coverage : float

    Raises
    ------
    ValueError
        If there is no recommended item, or no catalogue or an id missing in it.
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
    items = _read_lists(recommended).numbered_in(ids, "the catalogue holds ids")
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
        Raw ids of the recommended items. Also a list of ids for each user, of any
        lengths, or a table with a column "item", as of ``recommend(as_frame=True)``.
        Missing values, in which short lists end, do not count.
    X_train : array-like of shape (n_samples, 2 + n_features)
        Training rows: column 0 holds the user, column 1 the item. A user who has an
        item several times counts once.

    Returns
    -------
    novelty : float

    Raises
    ------
    ValueError
        If there is no recommended item, or no training row or an id missing in one.
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
        ids.numbered() for ids in read_pairs(X_train, "X_train")
    )
    pair = np.sort(items * np.int64(len(user_ids)) + users)
    pair = pair[np.diff(pair, prepend=-1) > 0]
    n_users_of_item = np.bincount(pair // len(user_ids))
    found = _read_lists(recommended).numbered_in(item_ids, "X_train holds items")
    n_users = np.where(found < 0, 1, n_users_of_item[found])
    return float(np.log2(len(user_ids) / n_users).mean())


def _evaluate(
    metric: str,
    rows: Rows,
    k: int | None,
    relevance_threshold: float | None,
    average: bool,
) -> float | np.ndarray:
    """A metric of rows, given as relevance, scores, users and weights."""
    if k is not None or not METRICS[metric].is_of_whole_lists:
        check_int(k, "k", 1)
    length = np.inf if k is None else k
    rankings = _ranked(metric, rows, [length], relevance_threshold)[length]
    if not average:
        return rankings.values(metric)
    warn_if_undefined(rankings)
    return rankings.mean(metric)


def means_at(
    metric: str, rows: Rows, lengths: Sequence[int], relevance_threshold: float | None
) -> list[float]:
    """A metric at each length of lists, of rows that are ranked once."""
    rankings = _ranked(metric, rows, lengths, relevance_threshold)
    warn_if_undefined(rankings[lengths[0]])
    return [rankings[length].mean(metric) for length in lengths]


def _ranked(
    metric: str,
    rows: Rows,
    lengths: Sequence[float],
    relevance_threshold: float | None,
) -> dict[float, Rankings]:
    users, scores, gains, weight = _read_rows(metric, rows, relevance_threshold)
    ranks = ranks_of(users, scores)
    return Rankings.from_rows(users, ranks, gains, weight, lengths)


def _read_rows(
    metric: str,
    rows: Rows,
    relevance_threshold: float | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """User number, score and relevance of rows with a weight; weights of all users."""
    y_true, y_score, groups, sample_weight = rows
    check_threshold(relevance_threshold)
    users, user_ids = _read_ids(groups, "groups").numbered()
    y = read_numbers(y_true, "y_true", len(users))
    scores = read_numbers(y_score, "y_score", len(users))
    weight = read_weights(sample_weight, len(users), "groups")
    check_gains(y, relevance_threshold, [metric], "y_true")

    kept = np.flatnonzero(weight)
    users, scores = users[kept], scores[kept]
    gains = gains_of(y[kept], relevance_threshold)
    return users, scores, gains, weight_of_users(users, weight[kept], len(user_ids))


def _read_ids(values: Any, name: str) -> Ids:
    """Ids of any container and shape, at least one."""
    values = object_array(values) if isinstance(values, list | tuple) else values
    values = as_array(values).ravel()
    if not len(values):
        raise ValueError(f"{name} holds no ids; at least one is required.")
    return Ids.from_column(values, name)


def _read_lists(recommended: Any) -> Ids:
    """Items of lists, without the places that short lists leave empty."""
    table = as_frame(recommended)
    if isinstance(table, nw.DataFrame) and "item" in table.columns:
        recommended = table["item"]
    elif isinstance(recommended, list | tuple):
        recommended = object_array(recommended)
    items = as_array(recommended).ravel()
    if items.dtype == object and any(map(_is_list, items)):
        # Lists of unequal lengths.
        rows = [row if _is_list(row) else [row] for row in items]
        items = object_array(list(chain.from_iterable(rows)))
    return _read_ids(items[~pd.isna(items)], "recommended")


def _is_list(row: Any) -> bool:
    return np.iterable(row) and not isinstance(row, str | bytes)
