"""Constraints of the parameters that the estimators share.

Bounds keep products of penalties and of weights in single precision, and sizes of
tables in the integers of a machine.
"""

from __future__ import annotations

from numbers import Integral, Real

from ._gradient.losses import LOSSES
from ._sklearn import Interval, StrOptions

MIN_WEIGHT, MAX_WEIGHT = 1e-20, 1e20
MAX_EXPONENT = 4
MAX_COUNT = 2**20

GRADIENT_CONSTRAINTS: dict = {
    "loss": [StrOptions(set(LOSSES))],
    "n_negatives": [Interval(Integral, 0, MAX_COUNT, closed="both"), None],
    "batch_size": [Interval(Integral, 1, None, closed="left"), None],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither"), None],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
}
