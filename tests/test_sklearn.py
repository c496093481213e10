"""Private names of scikit-learn, and differences between its versions."""

import narwhals.stable.v1 as nw
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from skrec._sklearn import arguments_may_be_cut, check_columns

FRAME = pd.DataFrame({"user": [1, 2], "item": [3, 4]})


@pytest.mark.parametrize("container", [pd.DataFrame, pa.Table.from_pandas])
def test_names_of_columns_are_kept_and_compared(container):
    def as_frame(frame):
        return nw.from_native(container(frame), eager_only=True)

    estimator = BaseEstimator()
    check_columns(estimator, as_frame(FRAME), True)
    assert estimator.n_features_in_ == 2
    assert estimator.feature_names_in_.tolist() == ["user", "item"]
    check_columns(estimator, as_frame(FRAME), False)
    with pytest.raises(ValueError, match="feature names should match"):
        check_columns(estimator, as_frame(FRAME[["item", "user"]]), False)
    with pytest.raises(ValueError, match="Feature names seen at fit time, yet now"):
        check_columns(estimator, as_frame(FRAME[["user"]]), False)


class Asking(BaseEstimator):
    """Keeps whether the arguments of each fit may have been cut."""

    answers = []

    def __init__(self, option=0):
        self.option = option

    def fit(self, X, y=None):
        self.answers.append(arguments_may_be_cut())
        self.is_fitted_ = True
        return self

    def score(self, X, y=None):
        return 0.0


@pytest.mark.parametrize(
    ("call", "may_be_cut"),
    [
        (lambda model, X: model.fit(X), False),
        (lambda model, X: make_pipeline("passthrough", model).fit(X), False),
        (lambda model, X: cross_val_score(model, X, cv=2), True),
        (lambda model, X: GridSearchCV(model, {"option": [1]}, cv=2).fit(X), True),
        (
            lambda model, X: cross_val_score(
                make_pipeline("passthrough", model), X, cv=2
            ),
            True,
        ),
    ],
    ids=["alone", "pipeline", "cross-validation", "search", "both"],
)
def test_arguments_may_be_cut_where_rows_are_split(call, may_be_cut):
    Asking.answers.clear()
    call(Asking(), np.zeros((8, 2)))
    assert set(Asking.answers) == {may_be_cut}
