"""Warnings that point at the line of the user, however deep they come from."""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path

import joblib
import sklearn

# A user calls this package, or scikit-learn that does.
NOT_OF_USER = (
    *(
        f"{Path(module.__file__).parent}/".replace("\\", "/")
        for module in (sys.modules[__package__], sklearn, joblib)
    ),
    contextlib.__file__,
)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that is of no package between user and cause."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_passed(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _is_passed(filename: str) -> bool:
    return filename.replace("\\", "/").startswith(NOT_OF_USER)
