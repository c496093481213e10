"""Settings of torch, NumPy and scikit-learn inside the package.

A caller may have turned gradients off, chosen another default dtype or device, entered
autocast, let NumPy raise or asked transformers for frames; results do not depend on it.
Settings of a thread are changed for the calling thread. The default dtype of torch
belongs to the process: the first call that enters sets it, the last one that leaves
restores it, and nothing happens where it is float32 already.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from sklearn import config_context, get_config

from ._device import free_bytes, memory_errors
from ._threads import avoid_lost_threads
from ._warn import warn

CPU = torch.device("cpu")

# Multiplications from which "auto" takes a GPU that is in use, and one that has to be
# started, which takes a CPU about as long.
MIN_WORK, MIN_WORK_TO_START = 1e10, 4e10

# Free memory that "auto" asks of a GPU.
MIN_FREE_BYTES = 2**30

AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def own_settings() -> Iterator[None]:
    """Use the settings that results rely on, and restore those of the caller.

    Errors for want of memory leave it with advice.
    A generator must not yield inside, since the caller would run with these settings.
    """
    avoid_lost_threads()
    with ExitStack() as stack:
        stack.enter_context(memory_errors())
        stack.enter_context(_default_dtype)
        stack.enter_context(
            np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")
        )
        config = get_config()
        if config["transform_output"] != "default" or config["array_api_dispatch"]:
            stack.enter_context(
                config_context(transform_output="default", array_api_dispatch=False)
            )
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def torch_device(name: str | torch.device, work: float = math.inf) -> torch.device:
    """The named device, if it is there.

    "auto" is CUDA if there is a device that can be used, and if a computation of so
    many multiplications is worth it; else the CPU.
    """
    if str(name) == "auto":
        return _auto_device(work)
    if str(name) == "cpu":
        return CPU
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device={str(name)!r} is not available here: {_reason(error)}. Use "
            "'auto', 'cpu', or a device of this machine such as 'cuda' or 'cuda:1'."
        ) from error
    return torch.device(name)


def _auto_device(work: float) -> torch.device:
    is_started = torch.cuda.is_initialized()
    if work < (MIN_WORK if is_started else MIN_WORK_TO_START):
        return CPU
    if not torch.cuda.is_available():
        return CPU
    try:
        torch.zeros(1, device="cuda").item()
        free = free_bytes(torch.device("cuda"))
        reason = f"{free / 2**20:.0f} MiB are free" if free < MIN_FREE_BYTES else ""
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = _reason(error)
        if "forked" in reason:
            # Where the parent uses CUDA, a forked process cannot.
            return CPU
    if not reason:
        return torch.device("cuda")
    warn(
        f"The GPU is not used: {reason}. Free it, or set device='cpu' to use the CPU "
        "without this warning.",
        RuntimeWarning,
    )
    return CPU


def _reason(error: Exception) -> str:
    """The first line of an error, since CUDA adds advice to developers."""
    return str(error).partition("\n")[0]


class _DefaultDtype:
    """Default dtype float32 as long as any thread is inside."""

    def __init__(self) -> None:
        self.lock, self.n_inside, self.before = threading.Lock(), 0, torch.float32

    def __enter__(self) -> None:
        with self.lock:
            if not self.n_inside:
                self.before = torch.get_default_dtype()
                if self.before != torch.float32:
                    torch.set_default_dtype(torch.float32)
            self.n_inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.n_inside -= 1
            if not self.n_inside and self.before != torch.float32:
                torch.set_default_dtype(self.before)


_default_dtype = _DefaultDtype()


def _after_fork() -> None:
    # A fork copies the calling thread alone: another may have held the lock, and those
    # inside never leave.
    global _default_dtype
    inside = _default_dtype
    _default_dtype = _DefaultDtype()
    if inside.n_inside and inside.before != torch.float32:
        torch.set_default_dtype(inside.before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
