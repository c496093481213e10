"""Share: the rows of a table that a process computes, and its questions to others.

A fit in one process has all rows and asks nobody. In a fit of several processes each
computes some rows of a side, from all ratings of these, and hands them to the others,
so that all have the same tables. Code that runs in both asks its share.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

import numpy as np
from torch import Tensor

Sum = TypeVar("Sum", float, np.ndarray, Tensor)
Largest = TypeVar("Largest", float, np.ndarray)
Value = TypeVar("Value")


class Share:
    """All rows, in one process."""

    has_all: ClassVar[bool] = True

    def rows(self, n_rows: int) -> slice:
        """The rows that this process computes, of a table of so many."""
        return slice(0, n_rows)

    def complete(self, *tables: Tensor) -> None:
        """Fill the rows of other processes into tables of all rows."""

    def sum(self, value: Sum) -> Sum:
        """Sum of a value over all processes."""
        return value

    def add_up(self, tensors: list[Tensor]) -> list[Tensor]:
        """Sums of tensors over all processes, sent as one."""
        return tensors

    def first(self, value: Value) -> Value:
        """A small value of the first process."""
        return value

    def largest(self, value: Largest) -> Largest:
        """Largest of a value over all processes, element by element."""
        return value

    def n_before(self, n_entries: int) -> int:
        """Number of entries of the processes before this one, by its own number."""
        return 0

    def sent(self, values: Tensor) -> Tensor:
        """Values of entries by the owners of users, sent to those of items.

        In the order of all entries.
        """
        return values


ALL_ROWS = Share()
