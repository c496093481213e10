"""Warnings that point at the user's line of code."""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path

import joblib
import sklearn

# Users call this package directly or through scikit-learn.
PACKAGE_PATHS = (
    *(
        f"{Path(str(module.__file__)).parent}/".replace("\\", "/")
        for module in (sys.modules[__package__], sklearn, joblib)
    ),
    contextlib.__file__,
)


def warn(message: str | Warning, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line outside this package, scikit-learn and joblib."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_of_package(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _is_of_package(filename: str) -> bool:
    return filename.replace("\\", "/").startswith(PACKAGE_PATHS)
