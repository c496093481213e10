"""Recommenders that are scikit-learn estimators: ratings in, a model out."""

from ._mf import MFRegressor

__version__ = "0.1.0"
__all__ = ["MFRegressor", "__version__"]
