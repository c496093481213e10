"""Private names of scikit-learn, its callers, and differences between its versions.

Callbacks are new in scikit-learn 1.9. Where it has none, an estimator has no method
`set_callbacks`, and a fit runs without any.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, MethodType
from typing import Any

import narwhals.stable.v1 as nw
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.base import _fit_context as fit_context
from sklearn.pipeline import Pipeline
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils._pprint import _changed_params as changed_parameters
from sklearn.utils.validation import (
    _check_feature_names_in as check_feature_names_in,
)
from sklearn.utils.validation import _num_samples as num_samples
from sklearn.utils.validation import validate_data

try:
    from sklearn.utils._repr_html.estimator import _VisualBlock as VisualBlock
except ImportError:
    # The module of releases before 1.7.
    from sklearn.utils._estimator_html_repr import _VisualBlock as VisualBlock

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class NoCallbacks:
        """Callback context of a fit and of its iterations without callbacks."""

        def subcontext(self, **task: Any) -> NoCallbacks:
            return self

        def call_on_fit_task_begin(self, **task: Any) -> None:
            pass

        def call_on_fit_task_end(self, **task: Any) -> bool:
            """Whether to stop."""
            return False

    class CallbackSupportMixin:  # type: ignore[no-redef]
        def _init_callback_context(self, **task: Any) -> NoCallbacks:
            return NoCallbacks()

    def with_callbacks(method: Callable) -> Callable:
        return method


def has_callbacks(estimator: BaseEstimator) -> bool:
    """Whether a fit calls back."""
    return bool(getattr(estimator, "_skl_callbacks", ()))


# Modules of scikit-learn that pass arguments on without cutting them.
PASSING_MODULES = (
    "sklearn.base",
    "sklearn.callback",
    "sklearn.compose",
    "sklearn.pipeline",
    "sklearn.utils",
)

__all__ = [
    "AvailableIf",
    "CallbackSupportMixin",
    "Interval",
    "StrOptions",
    "VisualBlock",
    "arguments_may_be_cut",
    "changed_parameters",
    "check_columns",
    "check_feature_names_in",
    "fit_context",
    "has_callbacks",
    "num_samples",
    "with_callbacks",
]


class AvailableIf:
    """A method that is missing, with a reason, where a check raises AttributeError.

    The error of scikit-learn's `available_if` has no reason.
    """

    def __init__(self, check: Callable[[Any], None], method: Callable) -> None:
        self.check = check
        self.method = method
        self.__doc__ = method.__doc__

    def __get__(self, obj: Any, owner: type | None = None) -> Callable:
        if obj is None:
            return self.method
        self.check(obj)
        return MethodType(self.method, obj)


def check_columns(estimator: BaseEstimator, frame: nw.DataFrame, reset: bool) -> None:
    """Compare the number and names of columns with those of `fit`, or store them.

    Before scikit-learn read tables by narwhals, it found the names of those that have
    `__dataframe__`, which polars no longer has.
    """
    table = frame.to_native()
    if not isinstance(table, pd.DataFrame):
        table = pd.DataFrame(columns=frame.columns)
    validate_data(estimator, table, reset=reset, skip_check_array=True)


def arguments_may_be_cut() -> bool:
    """Whether a meta-estimator of scikit-learn that may split rows is calling.

    It cuts arguments as long as X as it cuts X, and gives no other sign of it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("sklearn.") and not module.startswith(PASSING_MODULES):
            return True
        frame = frame.f_back
    return False


def innermost(estimator: Any, X: Any = None) -> tuple[Any, Any]:
    """The recommender inside pipelines and searches, and X transformed for it.

    Without a recommender in them, the last estimator there is.
    """
    while not hasattr(estimator, "recommend"):
        if isinstance(estimator, Pipeline):
            if X is not None and len(estimator) > 1:
                X = estimator[:-1].transform(X)
            estimator = estimator[-1]
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        else:
            break
    return estimator, X
