"""ErrorByCountDisplay: error against how many ratings a user or an item has."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from .._data.containers import as_array
from .._data.reading import read_pairs
from .._data.sides import check_side
from ._drawing import (
    axes_for,
    n_rated,
    name_of,
    pyplot,
    read_rows,
    recommender,
)


def doubling_edges(most: float) -> np.ndarray:
    """0, 1, 2, 4 and so on, the last above `most`."""
    n_doublings = int(np.log2(most)) + 1 if most >= 1 else 0
    return np.append(0, 2 ** np.arange(n_doublings + 1))


def root_mean_squares(
    error: np.ndarray, weight: np.ndarray, bins: np.ndarray, n_bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """RMSE of each bin, and its standard error; NaN without a row.

    The standard error is that of the mean square, over twice its root.
    """
    total, squares = (
        np.bincount(bins, values, n_bins) for values in (weight, weight * error**2)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = squares / total
        spread = weight * (error**2 - mean[bins])
        of_mean = np.sqrt(np.bincount(bins, spread**2, n_bins)) / total
        rmse = np.sqrt(mean)
        std_error = np.where(rmse > 0, of_mean / (2 * rmse), rmse)
    return rmse, std_error


def _read_edges(edges: ArrayLike) -> np.ndarray:
    """Bounds of bins; the last may be infinite."""
    values = as_array(edges)
    is_numeric = values.dtype.kind in "iuf" and values.ndim == 1 and len(values) > 1
    if not is_numeric or not (np.diff(values) > 0).all():
        raise ValueError(
            "edges must be two numbers or more, in increasing order, such as "
            f"[0, 1, 10, 100]; got {values.tolist()!r}."
        )
    return values


class ErrorByCountDisplay:
    """Root mean squared error, against how many ratings a user or an item has.

    On the left are new users or items, the cold start [1]_.

    Use :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    edges : array-like of shape (n_bins + 1,)
        Bin j has the counts from ``edges[j]`` to below ``edges[j + 1]``.
    error : array-like of shape (n_bins,)
        Root mean squared error of the test rows of each bin, NaN without a row.
    std_error : array-like of shape (n_bins,)
        Standard error of `error`, of independent rows.
    count : array-like of shape (n_bins,)
        Mean number of training ratings of the rows of each bin.
    n_rows : array-like of shape (n_bins,)
        Numbers of test rows.
    by : {"user", "item"}, default="user"
        Whose ratings are counted.
    name : str, default=None
        Name of the curve in the legend. None is no legend.

    Attributes
    ----------
    edges, error, std_error, count, n_rows : ndarray
        As the parameters.
    errorbar_ : matplotlib ErrorbarContainer
        The curve, with bars of one standard error up and down.
    ax_ : matplotlib Axes
        The axes with the curve.
    figure_ : matplotlib Figure
        The figure of the axes.

    Raises
    ------
    ValueError
        If `by` is unknown.

    References
    ----------
    .. [1] Schein, Popescul, Ungar, Pennock (2002). Methods and metrics for cold-start
       recommendations. SIGIR.

    Examples
    --------
    >>> from skrec.inspection import ErrorByCountDisplay
    >>> display = ErrorByCountDisplay.from_predictions(
    ...     [1, 2, 5, 4], [2, 2, 3, 4], counts=[0, 3, 2, 5])
    >>> display.edges.tolist(), display.n_rows.tolist()
    ([0, 1, 2, 4, 8], [1, 0, 2, 1])
    >>> display.error.round(2).tolist()
    [1.0, nan, 1.41, 0.0]
    """

    def __init__(
        self,
        *,
        edges: ArrayLike,
        error: ArrayLike,
        std_error: ArrayLike,
        count: ArrayLike,
        n_rows: ArrayLike,
        by: Literal["user", "item"] = "user",
        name: str | None = None,
    ) -> None:
        check_side(by, "by")
        self.edges = np.asarray(edges)
        self.error = np.asarray(error, dtype=np.float64)
        self.std_error = np.asarray(std_error, dtype=np.float64)
        self.count = np.asarray(count, dtype=np.float64)
        self.n_rows = np.asarray(n_rows)
        self.by = by
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        by: Literal["user", "item"] = "user",
        edges: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the error of an estimator on test rows.

        Counts are those of the rated pairs of the fit. Unknown users and items have
        none.

        Parameters
        ----------
        estimator : object
            Fitted :class:`~skrec.MFRegressor`, :class:`~skrec.NCFRegressor` or
            :class:`~skrec.DummyRecommender`, or a pipeline or search with one.
        X : array-like of shape (n_samples, 2 + n_features)
            Test rows.
        y : array-like of shape (n_samples,)
            Their ratings.
        by : {"user", "item"}, default="user"
            Whose ratings are counted.
        edges : array-like of shape (n_bins + 1,), default=None
            Increasing bounds of the bins. None is 0, 1, 2, 4, 8 and so on.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights.
        name : str, default=None
            Name in the legend. None is the name of the class.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.
        line_kwargs : dict, default=None
            Keywords of matplotlib's `errorbar`.

        Returns
        -------
        display : ErrorByCountDisplay

        Raises
        ------
        ValueError
            If `by` is unknown, or as :meth:`from_predictions`.
        ImportError
            If matplotlib is not installed.
        """
        pyplot(cls)
        check_side(by, "by")
        estimator, X = recommender(estimator, X)
        of_fitted = n_rated(estimator, by)
        ids = read_pairs(X, "X")[by == "item"]
        known = estimator.user_ids_ if by == "user" else estimator.item_ids_
        counts = np.append(of_fitted, 0)[ids.numbered_in(known)]
        return cls.from_predictions(
            y,
            estimator.predict(X),
            counts,
            by=by,
            edges=edges,
            sample_weight=sample_weight,
            name=name_of(estimator, name),
            ax=ax,
            line_kwargs=line_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        counts: ArrayLike,
        *,
        by: Literal["user", "item"] = "user",
        edges: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the error of predictions.

        Parameters
        ----------
        y_true, y_pred : array-like of shape (n_samples,)
            Ratings and their predictions.
        counts : array-like of shape (n_samples,)
            Numbers of training ratings of the user, or the item, of each row.
        by : {"user", "item"}, default="user"
            Whose ratings are counted.
        edges : array-like of shape (n_bins + 1,), default=None
            Increasing bounds of the bins. None is 0, 1, 2, 4, 8 and so on.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights.
        name : str, default=None
            Name in the legend. None is no legend.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.
        line_kwargs : dict, default=None
            Keywords of matplotlib's `errorbar`.

        Returns
        -------
        display : ErrorByCountDisplay

        Raises
        ------
        ValueError
            If there are no rows, lengths differ, a value is missing or infinite, a
            count is negative or in no bin, or edges do not increase.
        ImportError
            If matplotlib is not installed.
        """
        pyplot(cls)
        (y, predicted, count), weight = read_rows(
            sample_weight, y_true=y_true, y_pred=y_pred, counts=counts
        )
        if (count < 0).any():
            raise ValueError("counts holds negative numbers of ratings.")
        edges = doubling_edges(count.max()) if edges is None else _read_edges(edges)
        if not edges[0] <= count.min() <= count.max() < edges[-1]:
            raise ValueError(
                f"edges are from {edges[0]} to {edges[-1]}, but counts are from "
                f"{count.min():g} to {count.max():g}; the last edge must be above all "
                "counts."
            )
        # A row of weight 0 is no row.
        y, predicted, count, weight = (
            values[weight > 0] for values in (y, predicted, count, weight)
        )
        n_bins = len(edges) - 1
        bins = np.searchsorted(edges, count, side="right") - 1
        error, std_error = root_mean_squares(y - predicted, weight, bins, n_bins)
        in_bin = np.bincount(bins, minlength=n_bins)
        mean = np.full(n_bins, np.nan)
        np.divide(np.bincount(bins, count, n_bins), in_bin, out=mean, where=in_bin > 0)
        display = cls(
            edges=edges,
            error=error,
            std_error=std_error,
            count=mean,
            n_rows=in_bin,
            by=by,
            name=name,
        )
        return display.plot(ax, line_kwargs=line_kwargs)

    def plot(
        self, ax: Any = None, *, line_kwargs: dict[str, Any] | None = None
    ) -> Self:
        """Draw the curve, with bins that have no row left out.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.
        line_kwargs : dict, default=None
            Keywords of matplotlib's `errorbar`.

        Returns
        -------
        display : ErrorByCountDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.ax_ = axes_for(ax, self)
        self.figure_ = self.ax_.figure
        filled = np.flatnonzero(self.n_rows)
        keywords = {"marker": "o", "capsize": 3, "label": self.name}
        self.errorbar_ = self.ax_.errorbar(
            self.count[filled],
            self.error[filled],
            self.std_error[filled],
            **keywords | (line_kwargs or {}),
        )
        # Logarithmic from one on, with a place for none.
        self.ax_.set_xscale("symlog", linthresh=1)
        self.ax_.xaxis.set_major_formatter("{x:g}")
        if self.count[filled].min() == 0:
            self.ax_.set_xlim(left=-0.3)
        self.ax_.set(
            xlabel=f"Training ratings of the {self.by}", ylabel="RMSE of test ratings"
        )
        if self.name is not None:
            self.ax_.legend()
        return self
