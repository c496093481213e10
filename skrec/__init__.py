"""Recommenders that are scikit-learn estimators: ratings in, a model out."""

from ._dummy import DummyRecommender
from ._mf import MFRegressor
from ._ncf import NCFRegressor
from ._saving import load

__version__ = "0.1.0"
__all__ = ["DummyRecommender", "MFRegressor", "NCFRegressor", "__version__", "load"]
