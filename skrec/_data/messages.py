"""Values and rows in the words of error messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

N_SHOWN = 5


def shown(value: Any) -> str:
    """A value in Python's notation, without the types of NumPy."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def quote_first(values: Sequence | np.ndarray) -> str:
    """The first of some values, in words."""
    first = ", ".join(shown(value) for value in values[:N_SHOWN])
    return first + (", …" if len(values) > N_SHOWN else "")


def counted(mask: np.ndarray, noun: str) -> str:
    """The number of rows in a mask, and the first of them."""
    rows = np.flatnonzero(mask)
    plural = noun if len(rows) == 1 else f"{noun}s"
    first = ", ".join(map(str, rows[:N_SHOWN]))
    more = ", …" if len(rows) > N_SHOWN else ""
    return f"{len(rows)} {plural} (first rows: {first}{more})"
