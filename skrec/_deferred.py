"""Deferred: a part of a fit that is computed when it is first used."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")
Changed = TypeVar("Changed")

# Changes of a value that wait for it at most, each with what it is made of.
MAX_CHANGES = 10


class Deferred(Generic[Value]):
    """A value that is computed once, when a thread first calls for it.

    Copies and pickles are of the value itself. An error, or an interrupt, leaves it to
    the next call.
    """

    def __init__(self, compute: Callable[[], Value], n_changes: int = 0) -> None:
        self._compute: Callable[[], Value] | None = compute
        self._lock, self._n_changes = Lock(), n_changes

    def __call__(self) -> Value:
        with self._lock:
            if self._compute is not None:
                self._value = self._compute()
                # What it was computed from is no longer needed.
                self._compute = None
            return self._value

    def changed(
        self, change: Callable[[Value], Changed]
    ) -> Changed | Deferred[Changed]:
        """A change of the value, deferred if that is, unless many changes are."""
        if self._compute is None or self._n_changes == MAX_CHANGES:
            return change(self())
        return Deferred(lambda: change(self()), self._n_changes + 1)

    def __reduce__(self) -> tuple[Callable[[Value], Value], tuple[Value]]:
        return _itself, (self(),)


def _itself(value: Value) -> Value:
    return value


def changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """A change of a value, deferred or not; none of None."""
    if isinstance(value, Deferred):
        return value.changed(change)
    return value if value is None else change(value)


def now(value: Any) -> Any:
    """A value, deferred or not."""
    return value() if isinstance(value, Deferred) else value
