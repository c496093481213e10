"""Copies of an estimator that later fits leave alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from sklearn.utils.validation import check_is_fitted

from ._settings import own_settings

Estimator = TypeVar("Estimator")


def snapshot(estimator: Estimator) -> Estimator:
    """A copy that shares all attributes, until either is given new ones."""
    copy = object.__new__(type(estimator))
    copy.__dict__ = vars(estimator).copy()
    return copy


def reads_one_fit(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method read one fit, whatever another thread publishes meanwhile.

    Before the first fit it raises NotFittedError.
    """

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        last = snapshot(self)
        check_is_fitted(last)
        with own_settings():
            return method(last, *args, **kwargs)

    return wrapper


def fitted_attribute(read: Callable[[Any], Any]) -> property:
    """A property that reads one fit, and is missing before the first."""

    @functools.wraps(read)
    def attribute(self: Any) -> Any:
        if "_model" not in vars(self):
            raise AttributeError(
                f"This {type(self).__name__} has no attribute {read.__name__!r} "
                "before fit."
            )
        try:
            return read(snapshot(self))
        except AttributeError as error:
            # Only Python itself names the object, so other errors are in words.
            if error.obj is None:
                raise
            raise AttributeError(
                f"This {type(self).__name__} has no attribute {read.__name__!r} after "
                "a fit of choices without y."
            ) from error

    return property(attribute)
