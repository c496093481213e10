"""Sums and checks that stay on the device, and reach the host in one copy.

A number that the host asks for makes it wait until the device has done all work before.
So sums are tensors, and factorisations inside `postponed_checks` leave their checks to
the next `fetched`. On the CPU, where nothing waits, checks are made at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from torch import Tensor


class NotDefinite(Exception):
    """A postponed check has failed: a matrix was not positive definite."""


# Small tensors, and a condition that their numbers have to fulfil.
Check = tuple[Callable[..., bool], tuple[Tensor, ...]]


class _Postponed(threading.local):
    checks: list[Check] | None = None


_postponed = _Postponed()


@contextmanager
def postponed_checks(device: torch.device) -> Iterator[None]:
    """Postpone checks of factorisations on the device to the next `fetched`.

    It raises NotDefinite if one has failed, or if a number is not one. Nothing is
    postponed on the CPU.
    """
    _postponed.checks = None if device.type == "cpu" else []
    try:
        yield
        if _postponed.checks:
            fetched_arrays()
    finally:
        _postponed.checks = None


def is_any(failed: Tensor) -> bool:
    """Whether any element is true; False where this is a postponed check."""
    if not is_postponing() or failed.device.type == "cpu":
        return bool(failed.any())
    return not holds(lambda n_failed: n_failed == 0, total(failed))


def holds(condition: Callable[..., bool], *tensors: Tensor) -> bool:
    """Whether arrays fulfil a condition; True where this is a postponed check."""
    if _postponed.checks is None or tensors[0].device.type == "cpu":
        return condition(*fetched_arrays(*tensors))
    _postponed.checks.append((condition, tensors))
    return True


def is_postponing() -> bool:
    """Whether checks are left to the next `fetched`."""
    return _postponed.checks is not None


def total(x: Tensor) -> Tensor:
    """Sum of all elements, in double precision."""
    return x.sum(dtype=torch.float64)


def fetched(*values: Tensor | float) -> list[float]:
    """Scalars as floats, from the device in one copy, with postponed checks."""
    scalars = [v for v in values if isinstance(v, Tensor)]
    if not scalars or scalars[0].device.type == "cpu":
        return [float(value) for value in values]
    numbers = iter(fetched_arrays(*scalars))
    return [float(next(numbers) if isinstance(v, Tensor) else v) for v in values]


def fetched_arrays(*tensors: Tensor) -> list[np.ndarray]:
    """Small tensors in double precision, likewise in one copy."""
    if tensors and tensors[0].device.type == "cpu":
        return [tensor.double().numpy() for tensor in tensors]
    checks = _postponed.checks or []
    copied = [*tensors, *(x for _, operands in checks for x in operands)]
    numbers = torch.cat([x.flatten() for x in copied]).cpu().numpy().astype(np.float64)
    parts = np.split(numbers, np.cumsum([x.numel() for x in copied])[:-1])
    arrays = [part.reshape(x.shape) for part, x in zip(parts, copied, strict=True)]
    found, operands = arrays[: len(tensors)], iter(arrays[len(tensors) :])
    fulfilled = [condition(*islice(operands, len(x))) for condition, x in checks]
    # What follows from a matrix that is not finite is not a number.
    if is_postponing() and not (all(fulfilled) and not np.isnan(numbers).any()):
        checks.clear()
        raise NotDefinite
    checks.clear()
    return found
