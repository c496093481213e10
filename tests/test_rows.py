"""Columns of X as estimators read them, and warnings of likely slips."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import small
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.base import BaseEstimator

from skrec._rows import read_columns

N_ROWS, N_USERS, N_ITEMS = 60, 8, 6
_rng = np.random.default_rng(0)
X = np.column_stack(
    [np.arange(N_ROWS) % N_USERS, _rng.permutation(np.arange(N_ROWS) % N_ITEMS)]
)
Y = _rng.integers(1, 6, N_ROWS).astype(float)
FRAME = pd.DataFrame(X, columns=["user", "item"])


def fit(X=X, y=Y):
    return small().fit(X, y)


def with_feature(values):
    return FRAME.assign(hour=values)


@pytest.mark.parametrize("container", [pd.DataFrame, pl.DataFrame])
def test_columns_of_a_frame_are_read_and_its_names_kept(container):
    estimator = BaseEstimator()
    columns = read_columns(estimator, container(with_feature(Y)), reset=True)
    assert_array_equal(columns.users.values, X[:, 0])
    assert_array_equal(columns.items.values, X[:, 1])
    assert_array_equal(columns.features, Y[:, None])
    assert estimator.n_features_in_ == 3
    assert estimator.feature_names_in_.tolist() == ["user", "item", "hour"]
    renamed = with_feature(Y).rename(columns={"hour": "night"})
    with pytest.raises(ValueError, match="Feature names unseen at fit time:\n- night"):
        read_columns(estimator, container(renamed), reset=False)


@pytest.mark.parametrize("container", [np.asarray, np.ndarray.tolist])
def test_columns_of_an_array_have_no_names(container):
    estimator = BaseEstimator()
    rows = np.column_stack([X, Y])
    columns = read_columns(estimator, container(rows), reset=True)
    assert_array_equal(columns.users.values, X[:, 0])
    assert_array_equal(columns.features, Y[:, None])
    assert not hasattr(estimator, "feature_names_in_")
    with pytest.raises(ValueError, match="X has 2 features, but BaseEstimator is exp"):
        read_columns(estimator, container(X), reset=False)


@pytest.mark.parametrize("container", [np.asarray, pd.DataFrame])
def test_rows_and_columns_that_are_lacking_are_counted(container):
    with pytest.raises(ValueError, match=r"0 sample\(s\).*minimum of 1 is required by"):
        read_columns(BaseEstimator(), container(X[:0]), reset=True)
    with pytest.raises(ValueError, match=r"1 feature\(s\).*a minimum of 2"):
        read_columns(BaseEstimator(), container(X[:, :1]), reset=True)


def test_a_sparse_matrix_is_refused():
    with pytest.raises(TypeError, match="X"):
        read_columns(BaseEstimator(), sparse.csr_array(X), reset=True)


SCALED = (X[:, 0] - X[:, 0].mean()) / X[:, 0].std()
MISPLACED = {
    "a scaled column first": (np.column_stack([SCALED, X]), "0 of X.*the users"),
    "a scaled column second": (
        np.column_stack([X[:, 0], SCALED, X[:, 1]]),
        "1 of X.*the items",
    ),
    "names": (FRAME.assign(user=SCALED, hour=0.5), r"0 of X \(users, 'user'\)"),
    "polars": (pl.DataFrame({"a": SCALED, "u": X[:, 0], "i": X[:, 1]}), "users, 'a'"),
    "objects": (
        np.column_stack([SCALED.astype(object), X[:, 0].astype(str), X[:, 1]]),
        "0 of X.*the users",
    ),
    "a scaled column for the item": (np.column_stack([X[:, 0], SCALED]), "the items"),
}


@pytest.mark.parametrize(("rows", "match"), MISPLACED.values(), ids=MISPLACED)
def test_a_scaled_column_in_the_place_of_ids_is_named(rows, match):
    with pytest.warns(UserWarning, match=match):
        fit(rows)


def test_fractional_ids_that_fit_did_not_see_are_named():
    with pytest.warns(UserWarning, match="column 0 of X .* 60 ids .*fractional part"):
        fit().predict(np.column_stack([SCALED, X[:, 1]]))


def test_whole_floats_are_the_ids_that_wrappers_made_floats_of():
    expected = fit().predict(X)
    assert_array_equal(fit().predict(X.astype(float)), expected)
    assert_array_equal(fit(X.astype(np.float32)).predict(X), expected)


@pytest.mark.parametrize("container", [np.asarray, pd.DataFrame])
def test_indicators_in_the_place_of_ids_are_named(container):
    indicators = [np.eye(N_USERS)[X[:, 0]], np.eye(N_ITEMS)[X[:, 1]]]
    with pytest.warns(UserWarning, match="indicators of users and items.*OneHotEnc"):
        fit(container(np.column_stack(indicators)))


TARGETS = {
    "ratings": Y,
    "other units": 7 - 2 * Y,
    "single precision": Y.astype(np.float32),
    "ints": Y.astype(int),
}


@pytest.mark.parametrize("values", TARGETS.values(), ids=TARGETS)
def test_a_column_that_holds_the_ratings_is_named(values):
    with pytest.warns(UserWarning, match=r"column 2 of X \('hour'\)"):
        fit(with_feature(values))
    with pytest.warns(UserWarning, match="column 3 of X"):
        fit(np.column_stack([X, X[:, 0], values]))


def test_columns_that_go_with_the_ratings_are_features():
    for values in (Y + _rng.normal(size=N_ROWS) / 100, Y**2, np.ones(N_ROWS)):
        assert fit(with_feature(values)).coef_.shape == (1,)
    with pytest.warns(UserWarning, match="ratings in y are 3, "):
        assert fit(with_feature(Y), np.full(N_ROWS, 3.0)).coef_.shape == (1,)
