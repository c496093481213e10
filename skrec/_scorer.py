"""RankingScorer: asks a fitted estimator for lists, and ranks once for all metrics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import sklearn
import sklearn.metrics
from numpy.typing import ArrayLike
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import check_is_fitted

from ._interactions import Ids, numbered
from ._rankings import (
    METRICS,
    TIE_SEED,
    Rankings,
    check_gains,
    check_k,
    check_threshold,
    gains_of,
    ranks_of,
    read_numbers,
    read_rows,
    read_weights,
    warn_if_undefined,
    weight_of_users,
)


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
        check_k(self.k)
        if self.candidates not in ("unseen", "test"):
            raise ValueError(
                f"candidates must be 'unseen' or 'test', got {self.candidates!r}."
            )
        check_threshold(self.relevance_threshold)

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
        users, items = read_rows(X, "X")
        n_rows = len(users.values)
        weight = read_weights(sample_weight, n_rows)
        y = read_numbers(y, "y", n_rows)
        check_gains(y, self.relevance_threshold, self._names(), "y")
        scores = np.zeros(n_rows)
        if not unseen:
            scores = read_numbers(estimator.predict(X), "predict(X)", n_rows)
        pairs = Pairs.from_rows(users, items, y, scores, weight)

        gains = gains_of(pairs.y, self.relevance_threshold)
        if unseen:
            ranks = _ranks_in_catalogue(estimator, pairs, self.k)
        else:
            ranks = ranks_of(pairs.users, pairs.scores)
            gains[np.bincount(pairs.users)[pairs.users] < 2] = 0
        rankings = Rankings.from_rows(pairs.users, ranks, gains, pairs.weight, self.k)
        warn_if_undefined(rankings, stacklevel=3)
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
            weight=weight_of_users(users, weight[kept], len(user_ids)),
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
