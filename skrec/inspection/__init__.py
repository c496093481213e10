"""Pictures of fits and of predictions, as scikit-learn's displays. matplotlib draws."""

from ._calibration import IntervalCalibrationDisplay
from ._error_by_count import ErrorByCountDisplay
from ._factor_map import FactorMapDisplay
from ._fit_curve import FitCurveDisplay
from ._ranking_curve import RankingCurveDisplay

__all__ = [
    "ErrorByCountDisplay",
    "FactorMapDisplay",
    "FitCurveDisplay",
    "IntervalCalibrationDisplay",
    "RankingCurveDisplay",
]
