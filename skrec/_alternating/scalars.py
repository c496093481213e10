"""Sums and checks that stay on the device, and reach the host in one copy.

A number that the host asks for makes it wait until the device has done all work before.
So sums are tensors, and factorisations inside `postponed_checks` leave their checks to
the next `fetched`. On the CPU, where nothing waits, checks are made at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class NotDefinite(Exception):
    """A postponed check has failed: a matrix was not positive definite."""


class _Postponed(threading.local):
    checks: list[Tensor] | None = None


_postponed = _Postponed()


@contextmanager
def postponed_checks(device: torch.device) -> Iterator[None]:
    """Postpone checks of factorisations on the device to the next `fetched`.

    It raises NotDefinite if one has failed. Nothing is postponed on the CPU.
    """
    _postponed.checks = None if device.type == "cpu" else []
    try:
        yield
        if _postponed.checks:
            _copied([])
    finally:
        _postponed.checks = None


def is_any(failed: Tensor) -> bool:
    """Whether any element is true; False where this is a postponed check."""
    if _postponed.checks is None:
        return bool(failed.any())
    _postponed.checks.append(total(failed))
    return False


def total(x: Tensor) -> Tensor:
    """Sum of all elements, in double precision."""
    return x.sum(dtype=torch.float64)


def fetched(*values: Tensor | float) -> list[float]:
    """Scalars as floats, from the device in one copy, with postponed checks."""
    scalars = [v for v in values if isinstance(v, Tensor)]
    if not scalars or scalars[0].device.type == "cpu":
        return [float(value) for value in values]
    numbers = _copied(scalars)
    return [next(numbers) if isinstance(v, Tensor) else float(v) for v in values]


def _copied(scalars: list[Tensor]) -> Iterator[float]:
    """Scalars of the device, after those of the checks."""
    checks, n_checks = _postponed.checks or [], len(_postponed.checks or [])
    numbers = torch.stack([*checks, *scalars]).tolist()
    checks.clear()
    if any(numbers[:n_checks]):
        raise NotDefinite
    return iter(numbers[n_checks:])
