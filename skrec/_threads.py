"""How many threads torch uses: in the calling thread, for a while.

torch keeps a number for each thread that has computed, and one that threads to come
start with. Setting the former sets the latter too, so that code which sets and restores
a number leaves the wrong one behind when two threads do it at once. Here the latter is
left as it is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_is_forked = False


@contextmanager
def torch_threads(n_threads: int) -> Iterator[None]:
    """That many threads inside, as many as before outside."""
    with _lock:
        # The first look gives a thread its number, so no other may be set meanwhile.
        before = torch.get_num_threads()
    if n_threads == before:
        yield
        return
    to_come = set_own_threads(n_threads)
    try:
        yield
    finally:
        if before == to_come:
            with _lock:
                torch.set_num_threads(before)
        else:
            set_own_threads(before)


def set_own_threads(n_threads: int) -> int:
    """Set the number of the calling thread alone; returns that of threads to come."""
    read, is_set = threading.Event(), threading.Event()
    to_come = n_threads

    def keep() -> None:
        nonlocal to_come
        to_come = torch.get_num_threads()
        read.set()
        is_set.wait()
        torch.set_num_threads(to_come)

    with _lock:
        # A new thread has the number of those to come.
        keeper = threading.Thread(target=keep, daemon=True)
        keeper.start()
        try:
            read.wait()
            torch.set_num_threads(n_threads)
        finally:
            is_set.set()
            keeper.join()
    return to_come


def avoid_lost_threads() -> None:
    """Use one thread in a forked process, where those of its parent are not.

    OpenMP would wait for them for ever.
    """
    if _is_forked and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def _after_fork() -> None:
    global _lock, _is_forked
    _lock, _is_forked = threading.Lock(), True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
