"""RankingScorer: one ranking of a fitted estimator's lists for all metrics."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from numbers import Integral
from typing import Any, Literal, Self

import narwhals.stable.v1 as nw
import numpy as np
import pandas as pd
import sklearn
import sklearn.metrics
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import check_is_fitted

from .._data.containers import object_array
from .._data.messages import shown
from .._data.reading import check_int, read_numbers, read_pairs, read_weights
from .._data.vocabulary import Ids
from .._sklearn import innermost
from ._rankings import (
    METRICS,
    NAMES,
    TIE_SEED,
    Rankings,
    areas_of_lists,
    areas_under_curve,
    check_gains,
    check_threshold,
    gains_of,
    mean_area,
    ranks_of,
    warn_if_undefined,
    weight_of_users,
)

# Items of the lists of all users that are held at a time, where lists are long.
MAX_LISTED = 2**22


@dataclass
class RankingScorer:
    """Scorer of ranked lists, for any `scoring=`, by ranking metrics.

    Called as ``scorer(estimator, X, y)``, it ranks items for the users of the test rows
    `X`, once for all metrics, and evaluates the ranks of the rows that are relevant by
    `y`. Column 0 of `X` is the user, column 1 the item.

    Equal predictions are ordered by a permutation that is random but always the same,
    whatever the order of the rows, that of the catalogue, and `y`. Users without a
    relevant test row have no score and are left out.

    Parameters
    ----------
    metrics : str, list or tuple of str, default="ndcg"
        Metrics among "ndcg", "precision", "recall", "map", "mrr", "hit_rate" and "auc":
        see :func:`ndcg_at_k`, :func:`precision_at_k`, :func:`recall_at_k`,
        :func:`average_precision_at_k`, :func:`reciprocal_rank`, :func:`hit_rate_at_k`
        and :func:`roc_auc`. The last is of whole lists; it has no `k`, and its key is
        "auc". With a name the scorer returns a number; with a list, a
        dict with keys such as "ndcg@10", to pass as ``refit=`` of a search and to find
        after ``mean_test_`` in its `cv_results_`. Within a dict of several scorers,
        scikit-learn takes only scorers that return a number.
    k : int or list of int, default=10
        Length of the lists, for every metric; several lengths are scored at once.
    candidates : {"unseen", "test"}, default="unseen"
        Items to rank for each user.

        - "unseen": all items of the estimator except those in the user's training
          rows; test rows are ranked even if they are training rows too. Test items that
          the estimator does not know count as missed. Calls `recommend` of the
          estimator, or of the last step of a pipeline, whose other steps transform `X`,
          or of the best estimator of a search. See the notes for other estimators.
          "auc" is the share of pairs of a relevant test row and another item of the
          list that are in the right order. It needs lists of all items, and thus an
          estimator with `item_ids_`.
        - "test": the user's own test rows, by `predict` of any regressor; ids are read
          from `X` as it is given. Users with fewer than two test rows are left out.

        A recommender ranks whole catalogues; few candidates can order estimators
        differently [1]_.
    relevance_threshold : float, default=None
        Test rows are relevant (1) where `y` reaches it, and not (0) elsewhere. None
        takes `y` as the gain of "ndcg", and rows with positive `y` as relevant. Without
        `y`, as for choices without ratings, all rows are relevant.

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

    With ``candidates="unseen"`` the estimator needs a method
    ``recommend(users, n_items)``. Its arguments are an array of raw user ids, each
    once, and the length of the lists. It returns a table with columns "user" and
    "item", with the rows of each user best first; or a list of raw item ids for each
    user, such as an array of shape (n_users, n_items). A list may be short, or end in
    missing values. These keywords are passed if `recommend` takes them:

    - `never_exclude`, a DataFrame with columns "user" and "item": the test rows. A
      `recommend` that leaves out items of the training rows is to keep these.
    - `candidates`, an array of raw item ids, if the estimator has an attribute
      `item_ids_`: these, in random order. A `recommend` that gives ties to the first
      candidate thereby breaks them at random.
    - `as_frame`, True.

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

    Another estimator, which recommends the most popular items to everybody:

    >>> import numpy as np
    >>> from sklearn.base import BaseEstimator
    >>> from sklearn.model_selection import cross_val_score
    >>> class BestSellers(BaseEstimator):
    ...     def fit(self, X, y=None):
    ...         self.items_ = X["item"].value_counts().index.to_numpy()
    ...         return self
    ...     def recommend(self, users, n_items):
    ...         return np.tile(self.items_[:n_items], (len(users), 1))
    >>> cross_val_score(BestSellers(), X, scoring=RankingScorer("ndcg"), cv=3).shape
    (3,)
    """

    metrics: str | Sequence[str] = "ndcg"
    _: KW_ONLY
    k: int | Sequence[int] = 10
    candidates: Literal["unseen", "test"] = "unseen"
    relevance_threshold: float | None = None
    _weight_request: bool | str | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        names = self._names()
        if not names or not all(isinstance(n, str) and n in NAMES for n in names):
            raise ValueError(
                "metrics must be a name or a list of at least one name among "
                f"{', '.join(NAMES)}, without k; got {self.metrics!r}."
            )
        if not self._lengths():
            raise ValueError("k must be an int or a list of at least one, got none.")
        for k in self._lengths():
            check_int(k, "k", 1)
        if self.candidates not in ("unseen", "test"):
            raise ValueError(
                f"candidates must be 'unseen' or 'test', got {self.candidates!r}."
            )
        check_threshold(self.relevance_threshold)

    def _lengths(self) -> Sequence[Any]:
        return self.k if isinstance(self.k, list | tuple) else [self.k]

    def _names(self) -> Sequence[Any]:
        return (
            self.metrics if isinstance(self.metrics, list | tuple) else [self.metrics]
        )

    def __call__(
        self,
        estimator: Any,
        X: Any,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float | dict[str, float]:
        """Score a fitted estimator on test rows.

        Parameters
        ----------
        estimator : object
            The fitted estimator.
        X : array-like of shape (n_samples, 2 + n_features)
            Test rows, as the estimator takes them.
        y : array-like of shape (n_samples,), default=None
            Relevance of the rows; with None all are relevant.
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
            Also if `recommend` does not return lists of the requested users.
        TypeError
            If candidates are "unseen" and the estimator has no `recommend`, or one that
            cannot be called as the class says, or lists of another kind of ids.
        NotFittedError
            If the estimator is not fitted.
        """
        unseen = self.candidates == "unseen"
        if unseen:
            estimator, X = _recommender(estimator, X)
        users, items = read_pairs(X, "X")
        n_rows = len(users)
        weight = read_weights(sample_weight, n_rows)
        threshold = None if y is None else self.relevance_threshold
        y = np.ones(n_rows) if y is None else read_numbers(y, "y", n_rows)
        check_gains(y, threshold, self._names(), "y")
        scores = np.zeros(n_rows) if unseen else _predicted(estimator, X, n_rows)
        pairs = TestedPairs.from_rows(users, items, y, scores, weight)

        gains, has_auc = gains_of(pairs.y, threshold), "auc" in self._names()
        if unseen:
            k = _n_items(estimator) if has_auc else max(self._lengths())
            ranks, n_listed = _ranks_in_lists(estimator, pairs, k)
        else:
            ranks = ranks_of(pairs.users, pairs.scores)
            gains[np.bincount(pairs.users)[pairs.users] < 2] = 0
        rankings = Rankings.from_rows(
            pairs.users, ranks, gains, pairs.weight, self._lengths()
        )
        names = [name for name in self._names() if name in METRICS]
        found = {
            f"{name}@{k}": of_k.mean(name)
            for name in names
            for k, of_k in rankings.items()
        }
        if found:
            warn_if_undefined(rankings[self._lengths()[0]])
        if has_auc:
            areas = (
                areas_of_lists(pairs.users, ranks, gains, n_listed)
                if unseen
                else areas_under_curve(
                    pairs.users, pairs.scores, gains, len(pairs.weight)
                )
            )
            found["auc"] = mean_area(areas, pairs.weight)
        if isinstance(self.metrics, str) and isinstance(self.k, Integral):
            (score,) = found.values()
            return score
        return found

    def set_score_request(self, *, sample_weight: bool | str | None) -> Self:
        """Request that a meta-estimator pass sample weights on to the scorer.

        Parameters
        ----------
        sample_weight : bool, str or None
            Whether to pass it; a str is its name in the meta-estimator; with None it is
            an error to give the meta-estimator weights.

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
        """Metadata that the scorer requests.

        Returns
        -------
        request : MetadataRequest
        """
        request = MetadataRequest(owner=self)
        request.score.add_request(param="sample_weight", alias=self._weight_request)
        return request

    def _accept_sample_weight(self) -> bool:
        # Called by searches where metadata routing is off.
        return True


def _predicted(estimator: Any, X: Any, n_rows: int) -> np.ndarray:
    """Predictions of any regressor."""
    if not hasattr(estimator, "predict"):
        raise TypeError(
            "RankingScorer with candidates='test' needs an estimator that has "
            f"`predict`, which {type(estimator).__name__} has not. Use "
            "candidates='unseen', which ranks all items by `recommend`."
        )
    return read_numbers(estimator.predict(X), "predict(X)", n_rows)


def get_scorer(scoring: Any) -> Any:
    """Get a scorer by a name such as "ndcg@10" or "auc", or any of scikit-learn.

    Parameters
    ----------
    scoring : str
        The name of a metric of :class:`RankingScorer` and its `k`, joined by "@", or
        "auc"; else it is left to :func:`sklearn.metrics.get_scorer`.

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
    if isinstance(scoring, str):
        name, _, length = scoring.partition("@")
        if name in METRICS and length.isdecimal():
            return RankingScorer(name, k=int(length))
        if scoring == "auc":
            return RankingScorer("auc")
    try:
        return sklearn.metrics.get_scorer(scoring)
    except ValueError as error:
        raise ValueError(
            f"{scoring!r} names no scorer of scikit-learn, nor is it one of "
            f"{', '.join(METRICS)} with its k, such as 'ndcg@10', or 'auc', which has "
            "no k."
        ) from error


@dataclass(frozen=True)
class TestedPairs:
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
    ) -> TestedPairs:
        """Pairs of the rows that have a weight."""
        kept = np.flatnonzero(weight)
        (user, user_ids), (item, item_ids) = (
            ids.take(kept).numbered() for ids in (users, items)
        )
        y, scores = y[kept], scores[kept]
        pair = user * np.int64(len(item_ids)) + item
        # A whole order, so that sums do not depend on the order of the rows given.
        order = np.lexsort((scores, y, pair))
        starts = np.flatnonzero(np.diff(pair[order], prepend=-1))
        n_rows = np.diff(starts, append=len(pair))
        return cls(
            users=user[order[starts]],
            items=item[order[starts]],
            y=np.add.reduceat(y[order], starts) / n_rows,
            scores=np.add.reduceat(scores[order], starts) / n_rows,
            user_ids=user_ids,
            item_ids=item_ids,
            weight=weight_of_users(user, weight[kept], len(user_ids)),
        )

    def of_users_in_turn(self, n_users: int) -> Iterator[TestedPairs]:
        """The pairs of so many users at a time."""
        for start in range(0, len(self.user_ids), n_users):
            some = slice(start, start + n_users)
            own = slice(*np.searchsorted(self.users, [start, start + n_users]))
            yield replace(
                self,
                users=self.users[own] - start,
                items=self.items[own],
                y=self.y[own],
                scores=self.scores[own],
                user_ids=self.user_ids[some],
                weight=self.weight[some],
            )


def _recommender(estimator: Any, X: Any) -> tuple[Any, Any]:
    """The recommender inside pipelines and searches, and X transformed for it."""
    found, X = innermost(estimator, X)
    if not hasattr(found, "recommend"):
        _check_is_fitted(found)
        raise TypeError(
            f"RankingScorer with candidates='unseen' needs an estimator that has "
            f"`recommend`, which {type(estimator).__name__} has not. Use "
            "candidates='test', which ranks each user's test rows by `predict`."
        )
    return found, X


def _check_is_fitted(estimator: Any) -> None:
    """Raise NotFittedError for what only a fit gives to an estimator."""
    if isinstance(estimator, BaseEstimator):
        check_is_fitted(estimator)


def _n_items(estimator: Any) -> int:
    """Length of lists of all items."""
    if not hasattr(estimator, "item_ids_"):
        _check_is_fitted(estimator)
        raise TypeError(
            "The metric 'auc' with candidates='unseen' needs lists of all items, and "
            f"{type(estimator).__name__} has no `item_ids_` to count them by. Use "
            "another metric, such as 'ndcg'."
        )
    return len(estimator.item_ids_)


def _ranks_in_lists(
    estimator: Any, pairs: TestedPairs, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rank of each pair in the user's list of k, and the length of each list.

    The rank is infinite where the pair is not there. Long lists are asked for and
    ranked for some users at a time.
    """
    n_users = max(1, MAX_LISTED // k)
    parts = [
        _ranks_of_some(estimator, some, k) for some in pairs.of_users_in_turn(n_users)
    ]
    ranks, n_listed = map(np.concatenate, zip(*parts, strict=True))
    return ranks, n_listed


def _ranks_of_some(
    estimator: Any, pairs: TestedPairs, k: int
) -> tuple[np.ndarray, np.ndarray]:
    lists = _lists(estimator, pairs, k)
    name = f"{type(estimator).__name__}.recommend"
    users, items = (
        Ids.from_column(
            lists[side], f"the column of {side}s that {name} returned"
        ).numbered_in(asked, "X holds ids")
        for side, asked in (("user", pairs.user_ids), ("item", pairs.item_ids))
    )
    if (users < 0).any():
        stranger = shown(lists["user"].to_numpy()[users < 0][0])
        raise ValueError(
            f"{name} returned a list of user {stranger}, who was not asked for."
        )
    rank = pd.Series(users).groupby(users).cumcount().to_numpy() + 1.0

    known = items >= 0
    pair = users[known] * np.int64(len(pairs.item_ids)) + items[known]
    ranks = pd.Series(rank[known], index=pair)
    if not ranks.index.is_unique:
        twice = pair[ranks.index.duplicated()][0]
        user, item = divmod(twice, len(pairs.item_ids))
        raise ValueError(
            f"{name} returned item {shown(pairs.item_ids[item])} more than once for "
            f"user {shown(pairs.user_ids[user])}."
        )
    sought = pairs.users * np.int64(len(pairs.item_ids)) + pairs.items
    n_listed = np.bincount(users, minlength=len(pairs.user_ids))
    return ranks.reindex(sought, fill_value=np.inf).to_numpy(), n_listed


def _lists(estimator: Any, pairs: TestedPairs, k: int) -> pd.DataFrame:
    """Users and items of lists, the rows of each user best first."""
    name = f"{type(estimator).__name__}.recommend"
    keywords = {
        "never_exclude": pd.DataFrame(
            {
                "user": pairs.user_ids[pairs.users],
                "item": pairs.item_ids[pairs.items],
            }
        ),
        "as_frame": True,
    }
    if hasattr(estimator, "item_ids_"):
        # Ties go to the candidate that comes first.
        catalogue = np.asarray(estimator.item_ids_)
        order = np.random.RandomState(TIE_SEED).permutation(len(catalogue))
        keywords["candidates"] = catalogue[order]
    signature = inspect.signature(estimator.recommend)
    if all(p.kind != p.VAR_KEYWORD for p in signature.parameters.values()):
        keywords = {n: v for n, v in keywords.items() if n in signature.parameters}
    try:
        signature.bind(pairs.user_ids, n_items=k, **keywords)
    except TypeError as error:
        raise TypeError(
            f"RankingScorer calls recommend(users, n_items=...), which {name}"
            f"{signature} does not take: {error}. Of the keywords never_exclude, "
            "as_frame and, for an estimator with item_ids_, candidates, it passes "
            "those that recommend takes."
        ) from error
    lists = estimator.recommend(pairs.user_ids, n_items=k, **keywords)
    return _as_frame(lists, pairs.user_ids, name)


def _as_frame(lists: Any, users: np.ndarray, name: str) -> pd.DataFrame:
    """Lists in any form as a frame of users and items, without empty places."""
    table = nw.from_native(lists, eager_only=True, pass_through=True)
    if isinstance(table, nw.DataFrame) and {"user", "item"} <= set(table.columns):
        if "rank" in table.columns:
            table = table.sort("rank")
        lists = {side: table[side].to_numpy() for side in ("user", "item")}
    elif isinstance(table, nw.DataFrame):
        raise ValueError(
            f"{name} must return a table with columns 'user' and 'item', but its "
            f"columns are {', '.join(map(repr, table.columns))}."
        )
    else:
        rows = list(lists) if np.iterable(lists) else []
        if len(rows) != len(users) or any(np.ndim(row) != 1 for row in rows):
            raise ValueError(
                f"{name} must return a table with columns 'user' and 'item', or a list "
                f"of items for each of the {len(users)} users asked for, such as an "
                f"array of shape ({len(users)}, n_items); got {type(lists).__name__}"
                f"{f' of shape {np.shape(lists)}' * isinstance(lists, np.ndarray)}."
            )
        lengths = [len(row) for row in rows]
        items = [item for row in rows for item in row]
        lists = {"user": np.repeat(users, lengths), "item": object_array(items)}
    frame = pd.DataFrame(lists)
    return frame[frame["item"].notna()]
