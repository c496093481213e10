"""Sides: a value of users and a value of items."""

from __future__ import annotations

from typing import Generic, Literal, NamedTuple, TypeAlias, TypeVar

SideName: TypeAlias = Literal["user", "item"]
Value = TypeVar("Value")


class Sides(NamedTuple, Generic[Value]):
    """A value of users and a value of items."""

    user: Value
    item: Value
