"""Deferred: a part of a fit that is computed when it is first used."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Deferred(Generic[Value]):
    """A value that is computed once, when a thread first calls for it.

    Copies and pickles are of the value itself. An error, or an interrupt, leaves it to
    the next call.
    """

    def __init__(self, compute: Callable[[], Value]) -> None:
        self._compute: Callable[[], Value] | None = compute
        self._lock = Lock()

    def __call__(self) -> Value:
        with self._lock:
            if self._compute is not None:
                self._value = self._compute()
                # What it was computed from is no longer needed.
                self._compute = None
            return self._value

    def __reduce__(self) -> tuple[Callable[[Value], Value], tuple[Value]]:
        return _itself, (self(),)


def _itself(value: Value) -> Value:
    return value


def now(value: Any) -> Any:
    """A value, deferred or not."""
    return value() if isinstance(value, Deferred) else value
