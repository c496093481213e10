"""Fits of choices without ratings: what they warn of, and refuse."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from skrec import MFRegressor, NCFRegressor
from skrec.datasets import make_ratings

X, Y = make_ratings(80, 50, 1200, random_state=0)


def test_side_features_of_choices_alone_are_warned_of():
    ages = pd.DataFrame({"age": range(80)})
    with pytest.warns(
        UserWarning, match=r"does not use side features. Set unobserved_weight"
    ):
        model = MFRegressor().fit(X, user_features=ages)
    with pytest.raises(AttributeError, match="not fitted to ratings with"):
        model.feature_effects()
    with pytest.raises(AttributeError, match="coef_' after a fit of choices without y"):
        model.coef_  # noqa: B018
    new = pd.DataFrame({"age": [30]}, index=[999])
    with pytest.raises(ValueError, match="no profile of users without rows"):
        model.similar_users([999], user_features=new)


@pytest.mark.parametrize(
    "vain",
    [
        {"choice_threshold": 4.0},
        {"max_iter": 500},
        {"tol": 1e-9},
        {"warm_start": True},
        {"max_iter": 2, "n_factors": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [MFRegressor, NCFRegressor])
def test_choices_alone_warn_of_every_parameter_without_effect(kind, vain):
    names = ", ".join(f"{name}={value!r}" for name, value in vain.items())
    with pytest.warns(UserWarning, match=f"nothing has come of {names}") as caught:
        kind(**vain, device="cpu", random_state=0).fit(X)
    assert len(caught) == 1


@pytest.mark.parametrize("model", [MFRegressor(), NCFRegressor()])
def test_numbers_tell_nothing_about_choices_alone(model):
    rows = X.assign(amount=np.arange(len(X)) % 7)
    message = r"Columns of numbers in X \('amount'\) tell nothing about choices"
    with pytest.warns(UserWarning, match=message):
        found = model.fit(rows).predict(rows)
    assert_array_equal(found, model.fit(X).predict(X))


def test_parts_that_do_not_match_are_refused_in_words():
    model = MFRegressor(2).fit(X, Y)
    with pytest.raises(ValueError, match="as the last fit had them, but y is None"):
        model.partial_fit(X[:3])
