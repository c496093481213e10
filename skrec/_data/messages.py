"""Values and rows as error messages show them."""

from __future__ import annotations

from typing import Any

import numpy as np

N_ROWS_SHOWN = 5


def shown(value: Any) -> str:
    """A value as its user would write it."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def counted(mask: np.ndarray, noun: str) -> str:
    """The count of a mask and its first rows, in words."""
    rows = np.flatnonzero(mask)
    plural = noun if len(rows) == 1 else f"{noun}s"
    first = ", ".join(map(str, rows[:N_ROWS_SHOWN]))
    more = ", …" if len(rows) > N_ROWS_SHOWN else ""
    return f"{len(rows)} {plural} (first rows: {first}{more})"
