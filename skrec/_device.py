"""Memory of a device, and work that is halved where it does not fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

# Share of the free memory that the work space of one tile may take.
WORK_SHARE = 0.25

# Work space on devices that do not say how much memory is free.
DEFAULT_WORK_BYTES = 2**32

T = TypeVar("T")


def free_bytes(device: torch.device) -> float:
    """Bytes that are free on a device, or that torch holds there for nothing.

    Infinity where a device does not say.
    """
    try:
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    except (RuntimeError, AssertionError, AttributeError, ValueError):
        return math.inf
    return free + held


def work_bytes(device: torch.device) -> int:
    """Bytes of work space that a tile may take on a device other than the CPU."""
    free = free_bytes(device)
    return DEFAULT_WORK_BYTES if free == math.inf else int(WORK_SHARE * free)


def in_halves(function: Callable[[slice], T], rows: slice) -> Iterator[T]:
    """Values of a function of rows, by halves of them where memory does not suffice.

    The function may be called again for rows that it has been called for.
    """
    try:
        value = function(rows)
    except torch.OutOfMemoryError:
        if rows.stop - rows.start <= 1:
            raise
    else:
        yield value
        return
    # Outside of the except clause, whose traceback keeps tensors alive.
    middle = (rows.start + rows.stop) // 2
    yield from in_halves(function, slice(rows.start, middle))
    yield from in_halves(function, slice(middle, rows.stop))
