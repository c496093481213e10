"""Recommenders that are scikit-learn estimators: ratings in, a model out."""

from ._mf import MFRegressor
from ._ncf import NCFRegressor

__version__ = "0.1.0"
__all__ = ["MFRegressor", "NCFRegressor", "__version__"]
