"""FitCurveDisplay: the curves of a fit over its iterations."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from .._data.reading import read_numbers
from ._drawing import axes_for, name_of, pyplot, recommender

# Attribute of an estimator, and label of its axis.
CURVES = {
    "loss": ("loss_curve_", "Objective"),
    "loo": ("loo_curve_", "Estimated RMSE on unseen ratings"),
    "validation": ("validation_scores_", "Score on held-out rows"),
}


def _check_curve(curve: str) -> None:
    if curve not in CURVES:
        raise ValueError(
            f"curve must be one of {', '.join(map(repr, CURVES))}, got {curve!r}."
        )


class FitCurveDisplay:
    """Curve of a fit over its iterations.

    Use :meth:`from_estimator`. Fits are compared by drawing several curves on one `ax`.
    Objectives of different solvers have no common scale; errors that are estimated by
    leave-one-out residuals [1]_ have, and so have scores on held-out rows.

    Parameters
    ----------
    values : array-like of shape (n_iterations,)
        Value after each iteration.
    curve : {"loss", "loo", "validation"}, default="loss"
        Kind of the values, as in :meth:`from_estimator`.
    name : str, default=None
        Name of the fit in the legend. None is no legend.

    Attributes
    ----------
    values : ndarray of shape (n_iterations,)
        As the parameter.
    line_ : matplotlib Line2D
        The curve.
    ax_ : matplotlib Axes
        The axes with the curve.
    figure_ : matplotlib Figure
        The figure of the axes.

    Raises
    ------
    ValueError
        If there are no values, one of them is not finite, or `curve` is unknown.

    References
    ----------
    .. [1] Cook, Weisberg (1982). Residuals and influence in regression. Chapman & Hall.

    Examples
    --------
    >>> from skrec import MFRegressor
    >>> from skrec.datasets import make_ratings
    >>> from skrec.inspection import FitCurveDisplay
    >>> X, y = make_ratings(60, 40, 900, random_state=0)
    >>> model = MFRegressor(2).fit(X, y)
    >>> display = FitCurveDisplay.from_estimator(model, curve="loo")
    >>> len(display.values) == model.n_iter_
    True
    >>> display.ax_.get_ylabel()
    'Estimated RMSE on unseen ratings'
    """

    def __init__(
        self,
        *,
        values: ArrayLike,
        curve: Literal["loss", "loo", "validation"] = "loss",
        name: str | None = None,
    ) -> None:
        _check_curve(curve)
        self.values = read_numbers(values, "values", len(np.atleast_1d(values)))
        if not len(self.values):
            raise ValueError(
                "values is empty: the fit has no iterations to draw, such as that of "
                "MFRegressor.from_factors."
            )
        self.curve = curve
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        curve: Literal["loss", "loo", "validation"] = "loss",
        name: str | None = None,
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw a curve of a fitted estimator.

        Parameters
        ----------
        estimator : object
            Fitted estimator, or a pipeline or search with one.
        curve : {"loss", "loo", "validation"}, default="loss"
            - "loss": the objective, `loss_curve_`.
            - "loo": the estimated error on unseen ratings, `loo_curve_`, which solver
              "vb" has.
            - "validation": the score on held-out rows, `validation_scores_`, with
              `early_stopping`.
        name : str, default=None
            Name in the legend. None is the name of the class.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.
        line_kwargs : dict, default=None
            Keywords of matplotlib's `plot`.

        Returns
        -------
        display : FitCurveDisplay

        Raises
        ------
        ValueError
            If the fit has no such curve, or `curve` is unknown.
        ImportError
            If matplotlib is not installed.
        """
        pyplot(cls)
        _check_curve(curve)
        estimator, _ = recommender(estimator)
        attribute, _ = CURVES[curve]
        values = getattr(estimator, attribute, None)
        if values is None:
            raise ValueError(
                f"This {type(estimator).__name__} has no {attribute}. Draw another "
                "curve, such as curve='loss'."
            )
        display = cls(values=values, curve=curve, name=name_of(estimator, name))
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
        display : FitCurveDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.ax_ = axes_for(ax, self)
        self.figure_ = self.ax_.figure
        iterations = np.arange(1, len(self.values) + 1)
        # A line through one point is not visible.
        marker = "o" if len(self.values) == 1 else ""
        keywords = {"marker": marker, "label": self.name} | (line_kwargs or {})
        (self.line_,) = self.ax_.plot(iterations, self.values, **keywords)
        self.ax_.set(xlabel="Iteration", ylabel=CURVES[self.curve][1])
        self.ax_.xaxis.get_major_locator().set_params(integer=True)
        if self.name is not None:
            self.ax_.legend()
        return self
