"""Constraints of the parameters of gradient solvers, which the estimators share."""

from __future__ import annotations

from numbers import Integral, Real

from ._gradient.loop import LOSSES
from ._sklearn import Interval, StrOptions

GRADIENT_CONSTRAINTS: dict = {
    "loss": [StrOptions(set(LOSSES))],
    "n_negatives": [Interval(Integral, 0, None, closed="left"), None],
    "batch_size": [Interval(Integral, 1, None, closed="left"), None],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither"), None],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
}
