"""Resources of a fit before it, and pictures of it as scikit-learn's displays."""

from ._calibration import IntervalCalibrationDisplay
from ._error_by_count import ErrorByCountDisplay
from ._factor_map import FactorMapDisplay
from ._fit_curve import FitCurveDisplay
from ._ranking_curve import RankingCurveDisplay
from ._resources import estimate_resources

__all__ = [
    "ErrorByCountDisplay",
    "FactorMapDisplay",
    "FitCurveDisplay",
    "IntervalCalibrationDisplay",
    "RankingCurveDisplay",
    "estimate_resources",
]
