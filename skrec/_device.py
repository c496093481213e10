"""Memory of a device, work that is halved where it does not fit, and advice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

# Share of the free memory that the work space of one tile may take.
WORK_SHARE = 0.25

# Work space on devices that do not say how much memory is free.
DEFAULT_WORK_BYTES = 2**32

# A thread that cannot start has no memory for its stack.
NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "backend out of memory",
    "can't start new thread",
)
ADVICE = (
    "The last fit is as it was. A fit takes less memory with a smaller n_factors, with "
    "solver='als', store_covariance=False or rank_by='rating', and "
    "skrec.inspection.estimate_resources estimates it; predictions and lists take less "
    "for fewer rows or users at a time."
)

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


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise a MemoryError with advice where memory does not suffice.

    torch raises a RuntimeError for the CPU, and its own error for other devices, which
    keeps its type.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        reason, _, advice = str(error).partition("\n")
        of_device = isinstance(error, torch.OutOfMemoryError)
        is_known = of_device or isinstance(error, MemoryError | BrokenExecutor)
        is_known |= any(words in reason for words in NO_MEMORY)
        if advice == ADVICE or not is_known:
            raise
        kind = torch.OutOfMemoryError if of_device else MemoryError
        raise kind(f"There is not enough memory. {reason}\n{ADVICE}") from error
