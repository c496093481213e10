"""Axes to draw on, and the recommender that a display is of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from .._data.containers import as_array
from .._data.reading import read_numbers, read_weights
from .._sklearn import innermost
from .._snapshot import snapshot


def pyplot(display: type) -> Any:
    """matplotlib.pyplot, which this package does not require."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{display.__name__} draws by matplotlib, which is not installed. Install "
            "it by pip install matplotlib, or with the extra 'plots' of skrec-torch."
        ) from error
    return plt


def axes_for(ax: Any, display: object) -> Any:
    """The axes, or those of a new figure."""
    plt = pyplot(type(display))
    return plt.subplots()[1] if ax is None else ax


def recommender(estimator: Any, X: Any = None) -> tuple[Any, Any]:
    """The fitted recommender inside pipelines and searches, and X as it reads it."""
    estimator, X = innermost(estimator, X)
    if hasattr(estimator, "fit"):
        check_is_fitted(estimator)
    # Attributes are read one after another, and are to be of one fit.
    return snapshot(estimator), X


def n_rated(estimator: Any, side: str) -> np.ndarray:
    """Number of rated pairs of each user, or of each item, of the fit."""
    if not hasattr(estimator, "_seen"):
        raise TypeError(
            f"{type(estimator).__name__} does not know which items its users have "
            "rated; pass a fitted estimator of skrec."
        )
    return getattr(estimator._seen.counts, side)


def read_rows(
    sample_weight: ArrayLike | None, **columns: ArrayLike
) -> tuple[list[np.ndarray], np.ndarray]:
    """Columns of numbers of the same rows, at least one, and the weights of these."""
    first, values = next(iter(columns.items()))
    n_rows = len(np.atleast_1d(as_array(values)))
    if not n_rows:
        raise ValueError(f"{first} is empty; the picture needs at least one rating.")
    numbers = [read_numbers(values, name, n_rows) for name, values in columns.items()]
    return numbers, read_weights(sample_weight, n_rows, first)


def name_of(estimator: Any, name: str | None) -> str:
    """Name of a curve in a legend."""
    return type(estimator).__name__ if name is None else name
