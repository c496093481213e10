"""Copies of an estimator, and attributes of a fit that is read as a whole."""

import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from skrec._snapshot import fitted_attribute, reads_one_fit, snapshot


class Estimator(BaseEstimator):
    def fit(self):
        """Estimators have it."""

    def __sklearn_is_fitted__(self):
        return hasattr(self, "_model")

    @reads_one_fit
    def values(self, publish):
        """The attribute before and after another fit is published."""
        before = self._model
        publish()
        return before, self._model, torch.is_grad_enabled()

    @fitted_attribute
    def doubled_(self):
        """Twice the model."""
        return 2 * self._model


def test_a_snapshot_shares_attributes_until_either_has_others():
    estimator = Estimator()
    estimator._model = [1]
    copy = snapshot(estimator)
    assert type(copy) is Estimator
    assert copy._model is estimator._model
    estimator._model = [2]
    copy.other = 3
    assert copy._model == [1]
    assert not hasattr(estimator, "other")


def test_a_method_reads_one_fit_with_the_settings_of_the_package():
    estimator = Estimator()
    with pytest.raises(NotFittedError, match="This Estimator instance is not fitted"):
        estimator.values(lambda: None)
    estimator._model = 1
    with torch.no_grad():
        found = estimator.values(lambda: setattr(estimator, "_model", 2))
    assert found == (1, 1, True)
    assert estimator._model == 2


def test_an_attribute_of_a_fit_is_missing_before_it():
    estimator = Estimator()
    assert not hasattr(estimator, "doubled_")
    with pytest.raises(AttributeError, match="This Estimator has no attribute 'doub"):
        _ = estimator.doubled_
    estimator._model = 4
    assert estimator.doubled_ == 8
    assert Estimator.doubled_.__doc__ == "Twice the model."
