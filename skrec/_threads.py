"""Number of threads that torch uses in the calling thread.

torch keeps a number for each thread that has computed, and a default for new threads.
Setting the former sets the latter too, so that two threads which set and restore their
numbers at once may leave a wrong default behind. Here the default is kept.
"""

from __future__ import annotations

import os
import threading
from _thread import allocate_lock, start_new_thread
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Seconds within which a new thread runs, unless it finds no memory.
PATIENCE = 10

_lock = threading.Lock()
_is_forked = False


@contextmanager
def torch_threads(n_threads: int) -> Iterator[None]:
    """Use `n_threads` threads inside, and restore their number."""
    with _lock:
        # The first call gives a thread its number, so the default must not change.
        before = torch.get_num_threads()
    if n_threads == before:
        yield
        return
    default = None
    try:
        # An interrupt of this call, too, is followed by the number of before.
        default = set_own_threads(n_threads)
        yield
    finally:
        if before == default:
            with _lock:
                torch.set_num_threads(before)
        else:
            _restore(before)


def _restore(n_threads: int) -> None:
    try:
        set_own_threads(n_threads)
    except RuntimeError:
        # No memory for a thread that keeps the default, which is likely this number.
        with _lock:
            torch.set_num_threads(n_threads)


def set_own_threads(n_threads: int) -> int:
    """Set the number of the calling thread; return the default of new threads."""
    # `Thread.start` would wait for ever for a thread that finds no memory.
    read, is_set, is_kept = locks = [allocate_lock() for _ in range(3)]
    for lock in locks:
        lock.acquire()
    default, is_running = n_threads, False

    def keep() -> None:
        nonlocal default
        default = torch.get_num_threads()
        read.release()
        is_set.acquire()
        torch.set_num_threads(default)
        is_kept.release()

    with _lock:
        # Its first look would set the number of a thread to the default, also later.
        torch.get_num_threads()
        # A new thread starts with the default.
        start_new_thread(keep, ())
        try:
            is_running = read.acquire(timeout=PATIENCE)
            if not is_running:
                raise RuntimeError("can't start new thread")
            torch.set_num_threads(n_threads)
        finally:
            is_set.release()
            if is_running:
                is_kept.acquire(timeout=PATIENCE)
    return default


def avoid_lost_threads() -> None:
    """Use one thread in a forked process, where OpenMP would wait for lost ones."""
    if _is_forked and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def _after_fork() -> None:
    global _lock, _is_forked
    _lock, _is_forked = threading.Lock(), True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
