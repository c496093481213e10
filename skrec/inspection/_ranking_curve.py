"""RankingCurveDisplay: a ranking metric over the length of lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, cast

import numpy as np
from numpy.typing import ArrayLike

from .._data.reading import check_int
from ..metrics import RankingScorer
from ..metrics._functions import means_at
from ..metrics._rankings import METRICS
from ._drawing import axes_for, name_of, pyplot, recommender


def _lengths(k: int | Sequence[int]) -> list[int]:
    """Lengths of lists, in increasing order; an int is all up to it."""
    if isinstance(k, str) or not np.iterable(k):
        check_int(k, "k", 1)
        return list(range(1, int(k) + 1))
    lengths = list(k)
    for length in lengths:
        check_int(length, "k", 1)
    if not lengths:
        raise ValueError("k must be an int or a list of at least one, got none.")
    return sorted({int(length) for length in lengths})


def _check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(
            f"metric must be one of {', '.join(map(repr, METRICS))}, which depend on "
            f"the length of lists; got {metric!r}."
        )


class RankingCurveDisplay:
    """A ranking metric of lists, against their length.

    The metrics are those of information retrieval [1]_. Use :meth:`from_estimator` or
    :meth:`from_predictions`. Estimators are compared by drawing several curves on one
    `ax`.

    Parameters
    ----------
    k : array-like of shape (n_lengths,)
        Lengths of lists.
    scores : array-like of shape (n_lengths,)
        The metric at each length, as mean over users.
    metric : {"ndcg", "precision", "recall", "map", "mrr", "hit_rate"}, default="ndcg"
        Name of the metric, as in :class:`~skrec.metrics.RankingScorer`.
    name : str, default=None
        Name of the curve in the legend. None is no legend.

    Attributes
    ----------
    k, scores : ndarray of shape (n_lengths,)
        As the parameters.
    line_ : matplotlib Line2D
        The curve.
    ax_ : matplotlib Axes
        The axes with the curve.
    figure_ : matplotlib Figure
        The figure of the axes.

    Raises
    ------
    ValueError
        If the metric is unknown.

    References
    ----------
    .. [1] Manning, Raghavan, Schütze (2008). Introduction to information retrieval,
       chapter 8. Cambridge University Press.

    Examples
    --------
    >>> from skrec.inspection import RankingCurveDisplay
    >>> display = RankingCurveDisplay.from_predictions(
    ...     [1, 0, 1, 0, 1], [0.9, 0.8, 0.7, 0.2, 0.1],
    ...     ["ann", "ann", "ann", "bob", "bob"], metric="hit_rate", k=2)
    >>> display.k.tolist(), display.scores.tolist()
    ([1, 2], [0.5, 1.0])
    """

    def __init__(
        self,
        *,
        k: ArrayLike,
        scores: ArrayLike,
        metric: str = "ndcg",
        name: str | None = None,
    ) -> None:
        _check_metric(metric)
        self.k = np.asarray(k)
        self.scores = np.asarray(scores, dtype=np.float64)
        self.metric = metric
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        metric: str = "ndcg",
        k: int | Sequence[int] = 20,
        candidates: Literal["unseen", "test"] = "unseen",
        relevance_threshold: float | None = None,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the curve of an estimator on test rows, which it ranks once.

        Parameters
        ----------
        estimator : object
            Fitted estimator, as :class:`~skrec.metrics.RankingScorer` takes it.
        X : array-like of shape (n_samples, 2 + n_features)
            Test rows.
        y : array-like of shape (n_samples,), default=None
            Relevance of the rows; with None all are relevant.
        metric : {"ndcg", "precision", "recall", "map", "mrr", "hit_rate"}, \
                default="ndcg"
            Name of the metric.
        k : int or list of int, default=20
            Lengths of lists. An int is all lengths from 1 to it.
        candidates : {"unseen", "test"}, default="unseen"
            Items to rank, as in :class:`~skrec.metrics.RankingScorer`.
        relevance_threshold : float, default=None
            Test rows are relevant where `y` reaches it. None takes `y` as relevance.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows.
        name : str, default=None
            Name in the legend. None is the name of the class.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.
        line_kwargs : dict, default=None
            Keywords of matplotlib's `plot`.

        Returns
        -------
        display : RankingCurveDisplay

        Raises
        ------
        ValueError
            If the metric is unknown or `k` is not positive, or as the scorer.
        TypeError
            If the estimator cannot rank candidates.
        ImportError
            If matplotlib is not installed.
        """
        pyplot(cls)
        _check_metric(metric)
        lengths = _lengths(k)
        scorer = RankingScorer(
            metric,
            k=lengths,
            candidates=candidates,
            relevance_threshold=relevance_threshold,
        )
        # Of several lengths the scorer returns a dict.
        found = cast(dict[str, float], scorer(estimator, X, y, sample_weight))
        display = cls(
            k=lengths,
            scores=[found[f"{metric}@{length}"] for length in lengths],
            metric=metric,
            name=name_of(recommender(estimator)[0], name),
        )
        return display.plot(ax, line_kwargs=line_kwargs)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_score: ArrayLike,
        groups: ArrayLike,
        *,
        metric: str = "ndcg",
        k: int | Sequence[int] = 20,
        relevance_threshold: float | None = None,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the curve of scored rows, which are ranked once for each user.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            Relevance of each row.
        y_score : array-like of shape (n_samples,)
            Scores that rank the rows, highest first.
        groups : array-like of shape (n_samples,)
            The user of each row.
        metric : {"ndcg", "precision", "recall", "map", "mrr", "hit_rate"}, \
                default="ndcg"
            Name of the metric.
        k : int or list of int, default=20
            Lengths of lists. An int is all lengths from 1 to it.
        relevance_threshold : float, default=None
            Rows are relevant where `y_true` reaches it. None takes it as relevance.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows.
        name : str, default=None
            Name in the legend. None is no legend.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.
        line_kwargs : dict, default=None
            Keywords of matplotlib's `plot`.

        Returns
        -------
        display : RankingCurveDisplay

        Raises
        ------
        ValueError
            If the metric is unknown or `k` is not positive, or as the functions of
            :mod:`skrec.metrics`.
        ImportError
            If matplotlib is not installed.
        """
        pyplot(cls)
        _check_metric(metric)
        lengths = _lengths(k)
        rows = y_true, y_score, groups, sample_weight
        scores = means_at(metric, rows, lengths, relevance_threshold)
        display = cls(k=lengths, scores=scores, metric=metric, name=name)
        return display.plot(ax, line_kwargs=line_kwargs)

    def plot(
        self, ax: Any = None, *, line_kwargs: dict[str, Any] | None = None
    ) -> Self:
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.
        line_kwargs : dict, default=None
            Keywords of matplotlib's `plot`.

        Returns
        -------
        display : RankingCurveDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.ax_ = axes_for(ax, self)
        self.figure_ = self.ax_.figure
        keywords = {"marker": ".", "label": self.name} | (line_kwargs or {})
        (self.line_,) = self.ax_.plot(self.k, self.scores, **keywords)
        self.ax_.set(
            xlabel="Length of the list, k", ylabel=f"{METRICS[self.metric].label}@k"
        )
        self.ax_.xaxis.get_major_locator().set_params(integer=True)
        self.ax_.set_ylim(bottom=0)
        if self.name is not None:
            self.ax_.legend()
        return self
