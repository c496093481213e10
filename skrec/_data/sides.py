"""Sides: a value of users and a value of items."""

from __future__ import annotations

from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

SideName: TypeAlias = Literal["user", "item"]
Value = TypeVar("Value")


class Sides(NamedTuple, Generic[Value]):
    """A value of users and a value of items."""

    user: Value
    item: Value


def check_side(value: Any, name: str) -> None:
    """Refuse a side that is neither users nor items."""
    if value not in Sides._fields:
        raise ValueError(f"{name} must be 'user' or 'item', got {value!r}.")
