"""FactorMapDisplay: a map of users or items by their factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from .._data.reading import check_int
from .._data.sides import check_side
from ._drawing import axes_for, n_rated, pyplot, recommender

# Ids that are tried for a label, as a multiple of the labels.
TRIES_PER_LABEL = 5


def principal_axes(factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along the two axes of the largest variance, and its shares.

    Signs are such that the largest coordinate of each axis is positive.
    """
    centred = factors.astype(np.float64) - factors.mean(axis=0, dtype=np.float64)
    variance, axes = np.linalg.eigh(centred.T @ centred)
    variance, axes = variance[::-1].clip(0), axes[:, ::-1]
    coordinates = centred @ axes[:, :2]
    largest = np.abs(coordinates).argmax(axis=0)
    coordinates *= np.where(
        np.take_along_axis(coordinates, largest[None], 0) < 0, -1, 1
    )
    share = variance[:2] / variance.sum() if variance.sum() > 0 else variance[:2]
    missing = 2 - coordinates.shape[1]
    return np.pad(coordinates, [(0, 0), (0, missing)]), np.pad(share, (0, missing))


class FactorMapDisplay:
    """Map of items, or of users, by the two main axes of their factors.

    The axes are principal components of the factors, those of the largest variance
    [1]_. The items with the most ratings have labels. Items that the same users like
    are close to each other, as far as two axes can show it: see
    `explained_variance_ratio`.

    Use :meth:`from_estimator`.

    Parameters
    ----------
    coordinates : array-like of shape (n_ids, 2)
        Place of each id.
    ids : array-like of shape (n_ids,)
        Raw ids.
    n_ratings : array-like of shape (n_ids,)
        Numbers of ratings, for the size of points and the choice of labels.
    explained_variance_ratio : array-like of shape (2,)
        Share of each axis in the variance of the factors.
    side : {"item", "user"}, default="item"
        Whose factors.

    Attributes
    ----------
    coordinates, ids, n_ratings, explained_variance_ratio : ndarray
        As the parameters.
    scatter_ : matplotlib PathCollection
        The points.
    texts_ : list of matplotlib Text
        The labels, the id with the most ratings first.
    ax_ : matplotlib Axes
        The axes with the points.
    figure_ : matplotlib Figure
        The figure of the axes.

    References
    ----------
    .. [1] Koren, Bell, Volinsky (2009). Matrix factorization techniques for recommender
       systems. Computer 42(8).

    Examples
    --------
    >>> from skrec import MFRegressor
    >>> from skrec.datasets import make_ratings
    >>> from skrec.inspection import FactorMapDisplay
    >>> X, y = make_ratings(60, 40, 900, random_state=0)
    >>> display = FactorMapDisplay.from_estimator(MFRegressor(4).fit(X, y), n_labels=3)
    >>> display.coordinates.shape, len(display.texts_)
    ((40, 2), 3)
    """

    def __init__(
        self,
        *,
        coordinates: ArrayLike,
        ids: ArrayLike,
        n_ratings: ArrayLike,
        explained_variance_ratio: ArrayLike,
        side: Literal["item", "user"] = "item",
    ) -> None:
        self.coordinates = np.asarray(coordinates, dtype=np.float64)
        self.ids = np.asarray(ids)
        self.n_ratings = np.asarray(n_ratings)
        self.explained_variance_ratio = np.asarray(explained_variance_ratio)
        self.side = side

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        side: Literal["item", "user"] = "item",
        labels: Mapping | pd.Series | None = None,
        n_labels: int = 12,
        ax: Any = None,
        scatter_kwargs: dict[str, Any] | None = None,
        text_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the map of a fitted estimator.

        Parameters
        ----------
        estimator : object
            Fitted estimator of this package, or a pipeline or search with one. The map
            is of the model of ratings, whatever `rank_by`: of the factors of
            :class:`~skrec.MFRegressor`. Networks, and fits of choices without `y`, have
            the vectors whose cosines are the scores of `similar_items` or
            `similar_users`; those of a network are its predictions for some of the
            users or items, centred.
        side : {"item", "user"}, default="item"
            Whose factors.
        labels : dict or Series, default=None
            Text of each raw id, such as titles. An id without one is its own label.
        n_labels : int, default=12
            Number of labels. Those that would cover another one are left out, and the
            next in number of ratings takes their place.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.
        scatter_kwargs : dict, default=None
            Keywords of matplotlib's `scatter`. Lists of them are in the order of
            `item_ids_` or `user_ids_`, such as colours ``c``.
        text_kwargs : dict, default=None
            Keywords of matplotlib's `annotate`.

        Returns
        -------
        display : FactorMapDisplay

        Raises
        ------
        ValueError
            If the estimator has no factors, such as with ``n_factors=0``, and no
            similarities, `side` is none of the two, or `n_labels` is negative.
        TypeError
            If `labels` is no dict or Series.
        ImportError
            If matplotlib is not installed.
        """
        pyplot(cls)
        check_side(side, "side")
        check_int(n_labels, "n_labels", 0)
        estimator, _ = recommender(estimator)
        coordinates, share = principal_axes(_vectors(estimator, side))
        display = cls(
            coordinates=coordinates,
            ids=getattr(estimator, f"{side}_ids_"),
            n_ratings=n_rated(estimator, side),
            explained_variance_ratio=share,
            side=side,
        )
        return display.plot(
            ax,
            labels=labels,
            n_labels=n_labels,
            scatter_kwargs=scatter_kwargs,
            text_kwargs=text_kwargs,
        )

    def plot(
        self,
        ax: Any = None,
        *,
        labels: Mapping | pd.Series | None = None,
        n_labels: int = 12,
        scatter_kwargs: dict[str, Any] | None = None,
        text_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the points, and the labels of those with the most ratings.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.
        labels : dict or Series, default=None
            Text of each raw id. An id without one is its own label.
        n_labels : int, default=12
            Number of labels. Those that would cover another one are left out, and the
            next in number of ratings takes their place.
        scatter_kwargs : dict, default=None
            Keywords of matplotlib's `scatter`.
        text_kwargs : dict, default=None
            Keywords of matplotlib's `annotate`.

        Returns
        -------
        display : FactorMapDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.ax_ = axes_for(ax, self)
        self.figure_ = self.ax_.figure
        most = max(self.n_ratings.max(initial=0), 1)
        keywords = {"s": 3 + 60 * self.n_ratings / most, "alpha": 0.5, "linewidths": 0}
        self.scatter_ = self.ax_.scatter(
            *self.coordinates.T, **keywords | (scatter_kwargs or {})
        )
        self.texts_ = self._annotated(labels, n_labels, text_kwargs or {})
        first, second = self.explained_variance_ratio
        self.ax_.set(
            xlabel=f"First axis ({first:.0%} of the variance)",
            ylabel=f"Second axis ({second:.0%})",
        )
        return self

    def _annotated(
        self,
        labels: Mapping | pd.Series | None,
        n_labels: int,
        text_kwargs: dict[str, Any],
    ) -> list[Any]:
        """Labels of the most rated ids, without those that would cover another."""
        texts: Mapping | pd.Series = {} if labels is None else labels
        if not isinstance(texts, Mapping | pd.Series):
            raise TypeError(
                "labels must be a dict or a Series of the text of each raw id, such as "
                f"pd.Series(titles, index=ids); got {type(labels).__name__}."
            )
        self.ax_.autoscale_view()
        middle = np.median(self.coordinates[:, 0])
        placed: list[Any] = []
        ranked = np.argsort(-self.n_ratings, kind="stable")
        for row in ranked[: n_labels * TRIES_PER_LABEL]:
            # Text points inwards, so that it stays on the axes.
            inwards = -1 if self.coordinates[row, 0] > middle else 1
            keywords = {
                "xytext": (3 * inwards, 3),
                "textcoords": "offset points",
                "ha": "left" if inwards > 0 else "right",
                "fontsize": "small",
            }
            text = self.ax_.annotate(
                str(texts.get(self.ids[row], self.ids[row])),
                self.coordinates[row],
                **keywords | text_kwargs,
            )
            box = text.get_window_extent()
            if any(box.overlaps(other.get_window_extent()) for other in placed):
                text.remove()
            else:
                placed.append(text)
            if len(placed) == n_labels:
                break
        return placed


def _vectors(estimator: Any, side: str) -> np.ndarray:
    """Factors of the model of ratings; without any, vectors with similarities."""
    name = type(estimator).__name__
    try:
        # Of MFRegressor after ratings.
        vectors = getattr(estimator, f"{side}_factors_")
    except AttributeError:
        try:
            profiles, _ = estimator._profiles(side, torch.device("cpu"))
        except (AttributeError, ValueError) as error:
            raise ValueError(
                f"This {name} has no factors to draw, nor similar {side}s by which to "
                "draw them; fit MFRegressor, whose factors are vectors."
            ) from error
        vectors = profiles.numpy()
    if not vectors.shape[1]:
        raise ValueError(
            f"This {name} was fitted with biases alone and has no factors to draw; set "
            "n_factors, such as n_factors=8."
        )
    return vectors
