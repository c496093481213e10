"""Times in text, by ISO 8601 alone."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .messages import shown

# Text that pandas reads as the time of the call.
OF_THE_CALL = ["now", "today"]


def read_times(values: np.ndarray, where: str) -> pd.DatetimeIndex:
    """Times in UTC of a column of text; NaT where there is none.

    Other text, such as 03/04/2026, may be read in several ways, and which one depends
    on the other rows. Its alphabetical order is not that of time.
    """
    try:
        if not pd.Series(values).isin(OF_THE_CALL).any():
            return pd.to_datetime(values, format="ISO8601", utc=True)
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"{where} holds text that is not in the form 2026-01-31 or "
        f"2026-01-31T12:00:00, such as {shown(_first_other(values))}. It may be read "
        "in several ways: turn it into datetimes, such as by "
        "pandas.to_datetime(column, format='%d/%m/%Y'), or into numbers by astype(int)."
    )


def _first_other(values: np.ndarray) -> object:
    """The first text that is not of ISO 8601."""
    times = pd.to_datetime(values, format="ISO8601", utc=True, errors="coerce")
    is_other = times.isna() | pd.Series(values).isin(OF_THE_CALL)
    others = pd.unique(pd.Series(values[is_other], dtype=object))
    # Missing values, and text for them such as "NaT", are among these.
    return next((value for value in others if not _is_time(value)), others[0])


def _is_time(value: object) -> bool:
    try:
        pd.to_datetime([value], format="ISO8601", utc=True)
    except (TypeError, ValueError):
        return False
    return value not in OF_THE_CALL
