"""IntervalCalibrationDisplay: ratings inside the intervals of predictions."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from .._data.containers import as_array
from .._data.reading import read_numbers
from ._drawing import axes_for, name_of, pyplot, read_rows, recommender


def calibration(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    y_std: np.ndarray,
    weight: np.ndarray,
    nominal: np.ndarray,
) -> np.ndarray:
    """Share of the ratings within each nominal interval of a Gaussian."""
    error = np.abs(y_true - y_pred)
    # A prediction without error lies in every interval, also in one of width zero.
    deviation = np.full(len(error), np.inf)
    np.divide(error, y_std, out=deviation, where=y_std > 0)
    deviation[error == 0] = 0
    smallest = 2 * ndtr(deviation) - 1  # the smallest interval that holds the rating
    order = np.argsort(smallest)
    cumulated = np.append(0, np.cumsum(weight[order]))
    inside = cumulated[np.searchsorted(smallest[order], nominal, side="right")]
    return inside / cumulated[-1]


class IntervalCalibrationDisplay:
    """Share of test ratings within prediction intervals, against their nominal share.

    The interval of a share p is the predicted rating plus and minus z standard
    deviations, with z the quantile of a standard Gaussian at (1 + p) / 2. The curve of
    calibrated intervals is the diagonal [1]_; below it intervals are too narrow, above
    it too wide.

    Use :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    nominal : array-like of shape (n_levels,)
        Nominal shares.
    observed : array-like of shape (n_levels,)
        Shares of the ratings within the intervals.
    name : str, default=None
        Name of the curve in the legend.

    Attributes
    ----------
    nominal, observed : ndarray of shape (n_levels,)
        As the parameters.
    line_ : matplotlib Line2D
        The curve.
    ax_ : matplotlib Axes
        The axes with the curve.
    figure_ : matplotlib Figure
        The figure of the axes.

    References
    ----------
    .. [1] Kuleshov, Fenner, Ermon (2018). Accurate uncertainties for deep learning
       using calibrated regression. ICML.

    Examples
    --------
    >>> from skrec.inspection import IntervalCalibrationDisplay
    >>> display = IntervalCalibrationDisplay.from_predictions(
    ...     [1, 2, 5, 4], [1.5, 2.0, 4.0, 3.0], [1.0, 1.0, 0.5, 1.0],
    ...     levels=[0.5, 0.9])
    >>> display.observed
    array([0.5 , 0.75])
    """

    def __init__(
        self, *, nominal: ArrayLike, observed: ArrayLike, name: str | None = None
    ) -> None:
        self.nominal = np.asarray(nominal, dtype=np.float64)
        self.observed = np.asarray(observed, dtype=np.float64)
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        levels: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the calibration of an estimator on test rows.

        Parameters
        ----------
        estimator : object
            Fitted regressor with ``predict(X, return_std=True)``, or a pipeline or
            search with one. The standard deviations must be those of new ratings, noise
            included, as after the solvers "vb" and "gibbs"; those of
            :class:`~skrec.NCFRegressor` are of its members alone, and too small.
        X : array-like of shape (n_samples, 2 + n_features)
            Test rows.
        y : array-like of shape (n_samples,)
            Their ratings.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights.
        levels : array-like of shape (n_levels,), default=None
            Nominal shares, from 0 to 1. None is 0.05, 0.1 and so on to 0.95.
        name : str, default=None
            Name in the legend. None is the name of the class.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.
        line_kwargs : dict, default=None
            Keywords of matplotlib's `plot`.

        Returns
        -------
        display : IntervalCalibrationDisplay

        Raises
        ------
        ValueError
            If the fit has no standard deviations, or as :meth:`from_predictions`.
        ImportError
            If matplotlib is not installed.
        """
        pyplot(cls)
        estimator, X = recommender(estimator, X)
        y_pred, y_std = estimator.predict(X, return_std=True)
        return cls.from_predictions(
            y,
            y_pred,
            y_std,
            sample_weight=sample_weight,
            levels=levels,
            name=name_of(estimator, name),
            ax=ax,
            line_kwargs=line_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        y_std: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        levels: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the calibration of predictions.

        Parameters
        ----------
        y_true, y_pred, y_std : array-like of shape (n_samples,)
            Ratings, their predictions, and standard deviations of new ratings about the
            predictions.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights.
        levels : array-like of shape (n_levels,), default=None
            Nominal shares, from 0 to 1. None is 0.05, 0.1 and so on to 0.95.
        name : str, default=None
            Name in the legend. None is no legend.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.
        line_kwargs : dict, default=None
            Keywords of matplotlib's `plot`.

        Returns
        -------
        display : IntervalCalibrationDisplay

        Raises
        ------
        ValueError
            If there are no rows, lengths differ, a value is missing or infinite, a
            standard deviation is negative, a level is not from 0 to 1, or weights are
            not as in scikit-learn.
        ImportError
            If matplotlib is not installed.
        """
        pyplot(cls)
        (y, predicted, std), weight = read_rows(
            sample_weight, y_true=y_true, y_pred=y_pred, y_std=y_std
        )
        if (std < 0).any():
            raise ValueError("y_std holds negative standard deviations.")
        nominal = np.linspace(0.05, 0.95, 19) if levels is None else as_array(levels)
        nominal = read_numbers(nominal, "levels", nominal.size)
        if ((nominal < 0) | (nominal > 1)).any():
            raise ValueError(
                "levels must be from 0 to 1, such as [0.5, 0.9] for intervals of 50 % "
                f"and 90 %, got {nominal.min():g} to {nominal.max():g}."
            )
        observed = calibration(y, predicted, std, weight, nominal)
        display = cls(nominal=nominal, observed=observed, name=name)
        return display.plot(ax, line_kwargs=line_kwargs)

    def plot(
        self, ax: Any = None, *, line_kwargs: dict[str, Any] | None = None
    ) -> Self:
        """Draw the curve and the diagonal.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.
        line_kwargs : dict, default=None
            Keywords of matplotlib's `plot`.

        Returns
        -------
        display : IntervalCalibrationDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.ax_ = axes_for(ax, self)
        self.figure_ = self.ax_.figure
        # One diagonal serves all curves of the axes.
        diagonal = "calibrated"
        if diagonal not in self.ax_.get_legend_handles_labels()[1]:
            self.ax_.plot([0, 1], [0, 1], "--", color="gray", label=diagonal)
        keywords = {"marker": ".", "label": self.name} | (line_kwargs or {})
        (self.line_,) = self.ax_.plot(self.nominal, self.observed, **keywords)
        self.ax_.set(
            xlabel="Nominal share of the interval",
            ylabel="Share of ratings within it",
            aspect="equal",
        )
        self.ax_.legend(loc="upper left")
        return self
