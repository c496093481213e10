"""Every wrong input is refused in words: where it is, what was found, what is asked."""

import datetime
import functools
import re

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from helpers import NEEDS_CALLBACKS, Callback, fitted_state, small, small_ncf
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError

from skrec import MFRegressor, NCFRegressor

N_ROWS, N_USERS, N_ITEMS = 60, 8, 6
_rng = np.random.default_rng(0)
X = np.column_stack(
    [np.arange(N_ROWS) % N_USERS, _rng.permutation(np.arange(N_ROWS) % N_ITEMS)]
)
Y = _rng.integers(1, 6, N_ROWS).astype(float)
FRAME = pd.DataFrame(X, columns=["user", "item"])


def fit(X=X, y=Y, sample_weight=None, **params):
    return small(**params).fit(X, y, sample_weight)


def fit_ncf(X=X, y=Y, sample_weight=None, **params):
    return small_ncf(**params).fit(X, y, sample_weight)


@functools.cache
def fitted(**params):
    return fit(**params)


@functools.cache
def fitted_on(kind):
    return fit({"frame": FRAME, "strings": FRAME.astype(str)}[kind])


def with_id(value, column=0):
    """Rows of Python ints, one id of which is another value."""
    rows = X.astype(object)
    rows[3, column] = value
    return rows


def all_ids(values):
    """A frame whose users are all of an unusual kind."""
    return FRAME.assign(user=pd.Series(values, dtype=object))


def with_feature(values):
    return FRAME.assign(hour=values)


def replaced(value, values=Y, dtype=float):
    values = values.astype(dtype)
    values[3] = value
    return values


SHAPES_OF_X = {
    "one column": (lambda: fit(X[:, :1]), ValueError, r"1 feature\(s\).*minimum of 2"),
    "one column of a frame": (
        lambda: fit(FRAME[["user"]]),
        ValueError,
        r"1 feature\(s\).*minimum of 2.*column of users and a column of items",
    ),
    "three-dimensional": (lambda: fit(X[None]), ValueError, r"dim 3.*<= 2"),
    "one-dimensional": (lambda: fit(X[:, 0]), ValueError, "Expected 2D.*got 1D"),
    "a series": (lambda: fit(FRAME["user"]), ValueError, "2-dimensional.*Series"),
    "a scalar": (lambda: fit(5), ValueError, "Expected 2D array, got scalar"),
    "dict of columns": (
        lambda: fit({"user": [1, 2], "item": [1, 1]}),
        TypeError,
        r"X is a dict of columns.*pandas\.DataFrame\(X\)",
    ),
    "lazy frame": (
        lambda: fit(pl.LazyFrame({"user": [1, 2], "item": [1, 1]})),
        TypeError,
        r"X is a LazyFrame, which holds no rows yet: pass X\.collect\(\)",
    ),
    "index": (
        lambda: fit(pd.MultiIndex.from_tuples([(1, 1), (2, 1)])),
        TypeError,
        r"X is an index.*X\.to_frame\(index=False\)",
    ),
    "sparse matrix": (
        lambda: fit(sparse.csr_matrix(X)),
        TypeError,
        r"Sparse data was passed for X.*ids.*argmax\(axis=1\).*from_matrix",
    ),
    "sparse array": (
        lambda: fit(sparse.coo_array(X)),
        TypeError,
        r"Sparse data was passed for X.*ids.*argmax\(axis=1\).*from_matrix",
    ),
    "no rows": (lambda: fit(X[:0], Y[:0]), ValueError, r"0 sample\(s\).*minimum of 1"),
    "no rows in a frame": (
        lambda: fit(FRAME[:0], Y[:0]),
        ValueError,
        r"0 sample\(s\).*minimum of 1.*X has no rows",
    ),
    "no rows in a polars frame": (
        lambda: fit(pl.DataFrame(FRAME)[:0], Y[:0]),
        ValueError,
        r"0 sample\(s\).*minimum of 1.*X has no rows",
    ),
    "no columns": (lambda: fit(FRAME[[]]), ValueError, r"0 feature\(s\).*minimum of 2"),
    "complex array": (
        lambda: fit(X.astype(complex)),
        ValueError,
        "Complex data not supported",
    ),
    "complex frame": (
        lambda: fit(FRAME.astype(complex)),
        TypeError,
        r"column 0 of X \(users, 'user'\).*complex128, not ids",
    ),
}

USERS = r"column 0 of X \(users"
ITEMS = r"column 1 of X \(items"
MISSING = r".*\) holds 1 missing id \(first rows: 3\).*every row needs an id"

IDS = {
    **{
        f"user {value!r}": (
            functools.partial(lambda value: fit(with_id(value)), value),
            ValueError,
            USERS + MISSING,
        )
        for value in (None, np.nan, pd.NaT, pd.NA, np.datetime64("NaT", "D"))
    },
    "item None": (
        lambda: fit(with_id(None, column=1)),
        ValueError,
        ITEMS + MISSING,
    ),
    "user inf": (
        lambda: fit(with_id(np.inf)),
        ValueError,
        USERS + r"\) holds 1 infinite id \(first rows: 3\)",
    ),
    "user -inf in a float array": (
        lambda: fit(X - np.where(X == 3, np.inf, 0)),
        ValueError,
        USERS + r"\) holds \d+ missing ids .*infinite",
    ),
    "user NaN in a frame": (
        lambda: fit(FRAME.mask(FRAME["user"] == 3)),
        ValueError,
        USERS + r", 'user'\) holds 8 missing ids \(first rows: 3, 11, 19, 27, 35, …\)",
    ),
    "user NA in Int64": (
        lambda: fit(all_ids(replaced(None, X[:, 0], object)).astype("Int64")),
        ValueError,
        USERS + MISSING,
    ),
    "user missing in a category": (
        lambda: fit(all_ids(replaced(None, X[:, 0], object)).astype("category")),
        ValueError,
        USERS + MISSING,
    ),
    "user NaT in datetimes": (
        lambda: fit(
            FRAME.assign(
                user=pd.to_datetime(FRAME["user"], unit="D").where(FRAME.index != 3)
            )
        ),
        ValueError,
        USERS + MISSING,
    ),
    "user null in polars": (
        lambda: fit(
            pl.DataFrame(FRAME).with_columns(
                user=pl.Series(replaced(None, X[:, 0], object).tolist())
            )
        ),
        ValueError,
        USERS + MISSING,
    ),
    "item null in arrow": (
        lambda: fit(
            pa.table(
                {"user": X[:, 0], "item": replaced(None, X[:, 1], object).tolist()}
            )
        ),
        ValueError,
        ITEMS + MISSING,
    ),
    **{
        f"int and {name}": (
            functools.partial(lambda value: fit(with_id(value)), value),
            TypeError,
            USERS + rf"\) mixes ids of types.*{name}.*one sortable kind",
        )
        for name, value in {
            "str": "ann",
            "bytes": b"ann",
            "list": [1],
            "dict": {"id": 1},
            "tuple": (1, 2),
            "complex": 1j,
            "date": datetime.date(2026, 1, 1),
        }.items()
    },
    **{
        f"all {type(value).__name__}": (
            functools.partial(lambda value: fit(all_ids([value] * N_ROWS)), value),
            TypeError,
            USERS + rf".*nested ids of type {type(value).__name__};.* single ",
        )
        for value in ([1], (1, 2), {"id": 1}, {1})
    },
    "polars lists": (
        lambda: fit(
            pl.DataFrame({"user": [[u] for u in X[:, 0].tolist()], "item": X[:, 1]})
        ),
        TypeError,
        USERS + r", 'user'\) holds nested ids",
    ),
    "polars structs": (
        lambda: fit(
            pl.DataFrame(
                {"user": [{"id": u} for u in X[:, 0].tolist()], "item": X[:, 1]}
            )
        ),
        TypeError,
        USERS + r", 'user'\) holds nested ids",
    ),
    "masked": (
        lambda: fit(np.ma.masked_equal(X, 3)),
        ValueError,
        USERS + r"\) holds 8 missing ids \(first rows: 3, 11, 19, 27, 35, …\)",
    ),
    "floats that have merged": (
        lambda: fit(X + 2.0**60),
        ValueError,
        USERS + r"\) holds 60 ids .* of 2\*\*53 or more as float64.*as integers",
    ),
    "datetimes with and without a zone": (
        lambda: fit(
            all_ids(
                [pd.Timestamp(0, tz="UTC" if n else None) for n in range(N_ROWS)],
            )
        ),
        TypeError,
        USERS + r".*mixes datetimes with and without a time zone",
    ),
    "rows of tensors": (
        lambda: fit([list(row) for row in torch.tensor(X)]),
        TypeError,
        USERS + ".*nested ids of type Tensor",
    ),
    "objects without order": (
        lambda: fit(all_ids([object() for _ in range(N_ROWS)])),
        TypeError,
        USERS + r", 'user'\).*object.*sort",
    ),
}

FURTHER_COLUMNS = {
    "strings that are missing": (
        lambda: fit(with_feature(["noon", None] * (N_ROWS // 2))),
        ValueError,
        r"column 2 of X \('hour'\) is missing for .* rows .*fillna\('unknown'\)",
    ),
    "strings and numbers": (
        lambda: fit(with_feature(["noon", 12] * (N_ROWS // 2))),
        ValueError,
        r"column 2 of X \('hour'\) must be numeric.*'mixed-integer'.*'noon'",
    ),
    "datetimes": (
        lambda: fit(with_feature(pd.Timestamp(0))),
        ValueError,
        r"column 2 of X \('hour'\) holds dates: .*'datetime64'.*DatetimeBins.*dt\.days",
    ),
    "datetimes of a zone": (
        lambda: fit(with_feature(pd.Timestamp(0, tz="UTC"))),
        ValueError,
        r"column 2 of X \('hour'\) holds dates: .*'datetime'.*DatetimeBins.*dt\.days",
    ),
    "periods": (
        lambda: fit(with_feature(pd.Period("2026-01-01"))),
        ValueError,
        r"column 2 of X \('hour'\) holds dates: .*DatetimeBins.*to_timestamp\(\)",
    ),
    "durations": (
        lambda: fit(with_feature(pd.Timedelta(1, "h"))),
        ValueError,
        r"column 2 of X \('hour'\) must be numeric.*'timedelta64'.*total_seconds",
    ),
    "complex": (
        lambda: fit(with_feature(1j)),
        ValueError,
        r"column 2 of X \('hour'\) must be numeric.*'complex'",
    ),
    "NaN": (
        lambda: fit(with_feature(replaced(np.nan))),
        ValueError,
        r"column 2 of X \('hour'\) must hold finite.* 1 row \(first rows: 3\).*Leave",
    ),
    "None": (
        lambda: fit(with_feature(replaced(None, dtype=object))),
        ValueError,
        r"column 2 of X \('hour'\) must hold finite.* 1 row \(first rows: 3\).*Leave",
    ),
    "infinite in an array": (
        lambda: fit(np.column_stack([X, replaced(np.inf)])),
        ValueError,
        r"column 2 of X must hold finite.* 1 row \(first rows: 3\).*Leave",
    ),
    "strings for numbers in predict": (
        lambda: fit(with_feature(Y**2)).predict(with_feature(Y.astype(str))),
        ValueError,
        r"column 2 of X \('hour'\) must be numeric, as in fit.* by pd\.to_numeric",
    ),
    "strings for numbers in score": (
        lambda: fit(with_feature(Y**2)).score(with_feature("noon"), Y),
        ValueError,
        r"column 2 of X \('hour'\) must be numeric, as in fit.* by pd\.to_numeric",
    ),
    "dates for numbers in partial_fit": (
        lambda: fit(with_feature(Y**2)).partial_fit(with_feature(pd.Timestamp(0)), Y),
        ValueError,
        r"column 2 of X \('hour'\) must be numeric, as in fit.*datetime64",
    ),
    "NaN asked to predict": (
        lambda: fit(with_feature(Y**2)).predict(with_feature(replaced(np.nan))),
        ValueError,
        r"column 2 of X \('hour'\) must hold finite.* 1 row \(first rows: 3\).*Leave",
    ),
}

RATINGS = {
    "absent": (lambda: fit(y=None), ValueError, "requires y.*y is None"),
    "NaN": (
        lambda: fit(y=replaced(np.nan)),
        ValueError,
        r"y must hold finite.* 1 rating \(first rows: 3\)",
    ),
    "inf": (
        lambda: fit(y=replaced(np.inf)),
        ValueError,
        r"y must hold finite.* 1 rating \(first rows: 3\)",
    ),
    "None": (
        lambda: fit(y=replaced(None, dtype=object)),
        ValueError,
        r"y must hold finite.* 1 rating \(first rows: 3\)",
    ),
    "NA in Float64": (
        lambda: fit(y=pd.Series(Y, dtype="Float64").mask(FRAME.index == 3)),
        ValueError,
        r"y must hold finite.* 1 rating \(first rows: 3\)",
    ),
    "too large": (lambda: fit(y=1e300 * Y), ValueError, "within ±1e.30.*another unit"),
    "too small": (lambda: fit(y=1e-300 * Y), ValueError, "at least 1e-100.*other unit"),
    "strings": (
        lambda: fit(y=Y.astype(str)),
        ValueError,
        r"y must be numeric.*'string'.* by pd\.to_numeric",
    ),
    "a string among numbers": (
        lambda: fit(y=replaced("good", dtype=object)),
        ValueError,
        "y must be numeric.*'good'",
    ),
    "too short": (lambda: fit(y=Y[:-1]), ValueError, r"X has 60 and y has 59"),
    "a scalar": (lambda: fit(y=3.0), TypeError, r"\by\b.*float"),
    "two columns": (
        lambda: fit(y=np.column_stack([Y, Y])),
        ValueError,
        r"y should be a 1d array, got an array of shape \(60, 2\)",
    ),
    "sparse": (
        lambda: fit(y=sparse.csr_array(Y[:, None])),
        TypeError,
        "y is a sparse matrix; it must be a dense array",
    ),
    "complex": (lambda: fit(y=Y * 1j), ValueError, "Complex data not supported"),
    "masked": (
        lambda: fit(y=np.ma.array(Y, mask=FRAME.index == 3)),
        ValueError,
        r"y must hold finite.* 1 rating \(first rows: 3\)",
    ),
    "NaN in a tensor": (
        lambda: fit(y=torch.tensor(replaced(np.nan))),
        ValueError,
        r"y must hold finite.* 1 rating \(first rows: 3\)",
    ),
}

WEIGHTS = {
    "negative": (
        lambda: fit(sample_weight=replaced(-1)),
        ValueError,
        r"Negative values.*`sample_weight`: 1 weight \(first rows: 3\).*at least 0",
    ),
    "all zero": (
        lambda: fit(sample_weight=np.zeros(N_ROWS)),
        ValueError,
        "sample_weight is zero in all rows; at least one must be positive",
    ),
    "NaN": (
        lambda: fit(sample_weight=replaced(np.nan)),
        ValueError,
        r"sample_weight must hold finite.* 1 weight \(first rows: 3\)",
    ),
    "too long": (
        lambda: fit(sample_weight=np.ones(N_ROWS + 1)),
        ValueError,
        r"sample_weight has shape \(61,\), but X has 60 rows.*one weight per row",
    ),
    "two-dimensional": (
        lambda: fit(sample_weight=np.ones((N_ROWS, 1))),
        ValueError,
        r"sample_weight has shape \(60, 1\).*one weight per row",
    ),
    "a word": (
        lambda: fit(sample_weight="balanced"),
        ValueError,
        "sample_weight must be numeric.*'balanced'",
    ),
    "sparse": (
        lambda: fit(sample_weight=sparse.csr_array(np.ones((N_ROWS, 1)))),
        TypeError,
        "sample_weight is a sparse matrix; it must be a dense array",
    ),
}

BEFORE_FIT = {
    f"{name} of {make.__name__}": (
        functools.partial(call, make),
        NotFittedError,
        f"{type(make()).__name__} instance is not fitted yet",
    )
    for make in (small, small_ncf)
    for name, call in {
        "predict": lambda make: make().predict(X),
        "score": lambda make: make().score(X, Y),
        "recommend": lambda make: make().recommend([1]),
        "similar_items": lambda make: make().similar_items([1]),
        "similar_users": lambda make: make().similar_users([1]),
    }.items()
} | {
    "user_factors_": (
        lambda: small().user_factors_,
        AttributeError,
        "user_factors_",
    ),
}

PREDICT = {
    "too wide": (
        lambda: fitted().predict(np.column_stack([X, Y])),
        ValueError,
        "X has 3 features, but MFRegressor is expecting 2",
    ),
    "too narrow": (
        lambda: fitted().predict(X[:, :1]),
        ValueError,
        "X has 1 features, but MFRegressor is expecting 2",
    ),
    "one-dimensional": (lambda: fitted().predict(X[0]), ValueError, "Expected 2D"),
    "no rows": (lambda: fitted().predict(X[:0]), ValueError, r"0 sample\(s\)"),
    "sparse": (
        lambda: fitted().predict(sparse.csr_array(X)),
        TypeError,
        r"Sparse data was passed for X.*ids.*from_matrix",
    ),
    "missing id": (
        lambda: fitted().predict(with_id(None)),
        ValueError,
        USERS + MISSING,
    ),
    "strings for numbers": (
        lambda: fitted().predict(X.astype(str)),
        TypeError,
        USERS + r"\).*'string' \(the first is '0'\).*fitted on.*'number'",
    ),
    "numbers for strings": (
        lambda: fitted_on("strings").predict(FRAME),
        TypeError,
        USERS + r", 'user'\).*'number' \(the first is 0\).*fitted on.*'string'",
    ),
    "item strings for numbers": (
        lambda: fitted().predict([[1, "Heat"]]),
        TypeError,
        ITEMS + r"\).*'string' \(the first is 'Heat'\).*fitted on.*'number'",
    ),
    "other column names": (
        lambda: fitted_on("frame").predict(FRAME.rename(columns={"user": "who"})),
        ValueError,
        r"(?s)feature names should match.*unseen at fit time:\n- who.*missing:\n- user",
    ),
    "columns exchanged": (
        lambda: fitted_on("frame").predict(FRAME[["item", "user"]]),
        ValueError,
        r"(?s)feature names should match.*same order",
    ),
    "polars with other column names": (
        lambda: fitted_on("frame").predict(pl.DataFrame(X, schema=["who", "item"])),
        ValueError,
        r"(?s)feature names should match.*unseen at fit time:\n- who",
    ),
    "return_std of als": (
        lambda: fitted(solver="als").predict(X, return_std=True),
        ValueError,
        "return_std=True needs a fit with solver='vb'.*or with solver='gibbs'",
    ),
    "return_std without covariance": (
        lambda: fitted(store_covariance=False).predict(X, return_std=True),
        ValueError,
        "return_std=True needs a fit with.*store_covariance=True.*fit anew",
    ),
    "return_std of adam": (
        lambda: fitted(solver="adam").predict(X, return_std=True),
        ValueError,
        "return_std=True needs a fit with solver='vb'.*or with solver='gibbs'",
    ),
    "return_std of one network": (
        lambda: fit_ncf(n_members=1).predict(X, return_std=True),
        ValueError,
        "return_std=True.*n_members=1.*n_members of 2 or more",
    ),
    "unknown user and item, to be refused": (
        lambda: fitted(handle_unknown="error").predict([[1, 1], [99, 2], [1, 98]]),
        ValueError,
        r"unknown users in 1 of 3 rows.*99\b.*items in 1 of 3 rows.*98\b.*'error'",
    ),
}

RECOMMEND = {
    **{
        f"n_items={n}": (
            functools.partial(
                lambda n: fitted().recommend([1], n_items=n, exclude_seen=False), n
            ),
            ValueError,
            f"n_items must be at least 1, got {n}",
        )
        for n in (0, -1)
    },
    **{
        f"n_items={n!r}": (
            functools.partial(lambda n: fitted().recommend([1], n_items=n), n),
            TypeError,
            re.escape(f"n_items must be an int, got {n!r}"),
        )
        for n in (2.0, "3", None, True)
    },
    "unknown candidates, to be refused": (
        lambda: fitted(handle_unknown="error").recommend([1], 1, candidates=[0, 99]),
        ValueError,
        r"unknown candidates in 1 of 2 rows, such as 99\b.*handle_unknown='error'",
    ),
    "candidates of another kind": (
        lambda: fitted().recommend([1], 1, candidates=["Heat"]),
        TypeError,
        "candidates holds ids of kind 'string'.*'Heat'.*fitted on.*'number'",
    ),
    "a single candidate": (
        lambda: fitted().recommend([1], 1, candidates=3),
        ValueError,
        r"candidates must be a one-dim.*single value 3",
    ),
    "two-dimensional candidates": (
        lambda: fitted().recommend([1], 1, candidates=np.array([[0], [1]])),
        ValueError,
        r"candidates must be a one-dimensional.*shape \(2, 1\)",
    ),
    "a single user": (
        lambda: fitted_on("strings").recommend("ann"),
        ValueError,
        r"users must be a one-dimensional.*single value 'ann'",
    ),
    "users of another kind": (
        lambda: fitted().recommend(["ann"], 1),
        TypeError,
        "users holds ids of kind 'string'.*'ann'.*fitted on.*'number'",
    ),
    "a missing user": (
        lambda: fitted().recommend([1, None], 1),
        ValueError,
        r"users holds 1 missing id \(first rows: 1\)",
    ),
    "users mixed": (
        lambda: fitted().recommend([1, "ann"], 1),
        TypeError,
        "users mixes ids of types int, str",
    ),
    "users nested": (
        lambda: fitted().recommend([[1, 2]], 1),
        TypeError,
        "users holds nested ids of type list.*single ",
    ),
    "users nested unevenly": (
        lambda: fitted().recommend([[1], [2, 3]], 1),
        TypeError,
        "users holds nested ids of type list.*single ",
    ),
    "users a frame": (
        lambda: fitted().recommend(FRAME),
        ValueError,
        r"users must be a one-dimensional array-like.*shape \(60, 2\)",
    ),
    "unknown user, to be refused": (
        lambda: fitted(handle_unknown="error").recommend([1, 99], 1),
        ValueError,
        r"unknown users in 1 of 2 rows, such as 99\b.*handle_unknown='error'",
    ),
    **{
        f"choices that {make.__name__} has not been fitted to": (
            functools.partial(
                lambda make: make().set_params(rank_by="choice").recommend([1]), make
            ),
            ValueError,
            "rank_by='choice' needs a fit with it.*rank_by='rating'",
        )
        for make in (fit, fit_ncf)
    },
    "vectors of choices that it has not been fitted to": (
        lambda: fit().set_params(rank_by="both").item_index_vectors(),
        ValueError,
        "rank_by='both' needs a fit with it.*rank_by='rating'",
    ),
}

SIMILAR = {
    "unknown item": (
        lambda: fitted().similar_items([0, 99], 1),
        ValueError,
        "items must be known, but 1 of . were not in the training rows, such as 99",
    ),
    "unknown user": (
        lambda: fitted().similar_users([99], 1),
        ValueError,
        "users must be known, but 1 of . were not in the training rows, such as 99",
    ),
    "a single item": (
        lambda: fitted().similar_items(3),
        ValueError,
        r"items must be a one-dimensional.*single value 3",
    ),
    "n_items=0": (
        lambda: fitted().similar_items([1], 0),
        ValueError,
        "n_items must be at least 1, got 0",
    ),
    "n_users=1.5": (
        lambda: fitted().similar_users([1], 1.5),
        TypeError,
        "n_users must be an int, got 1.5",
    ),
    "without factors": (
        lambda: fitted(n_factors=0).similar_items([1], 1),
        ValueError,
        "compares factors.*n_factors is 0.*Set n_factors, such as 4",
    ),
}

DEVICES = {
    name: (
        functools.partial(lambda name: fit(device=name), name),
        ValueError,
        f"device='{name}' is not available here.*'cpu'",
    )
    for name in ("nonsense", "cuda:99", "", "meta")
}

CHOSEN = np.ones(N_ROWS)

TRAINING = {
    "ratings on a scale for log_loss": (
        lambda: fit_ncf(y=replaced(2, CHOSEN), loss="log_loss"),
        ValueError,
        r"loss='log_loss' with n_negatives=4 needs ratings between 0 and 1.*y is "
        r"outside for 1 rating \(first rows: 3\).*choice_threshold=4",
    ),
    "negative ratings beside drawn items": (
        lambda: fit(y=-Y, solver="adam", n_negatives=1),
        ValueError,
        "loss='squared_error' with n_negatives=1 needs ratings between 0 and 1.*or use "
        "loss='squared_error' with n_negatives=0",
    ),
    "bpr without drawn items": (
        lambda: fit_ncf(y=CHOSEN, loss="bpr", n_negatives=0),
        ValueError,
        "loss='bpr' compares.*n_negatives must be at least 1",
    ),
    **{
        f"another loss for {solver}": (
            functools.partial(lambda solver: fit(solver=solver, loss="huber"), solver),
            ValueError,
            f"solver='{solver}' minimises squared.*loss='huber' needs solver='adam' or",
        )
        for solver in ("vb", "gibbs", "als")
    },
    "nothing left to train on": (
        lambda: fit_ncf(X[:2], Y[:2], early_stopping=True, validation_fraction=0.9),
        ValueError,
        r"early_stopping=True holds out 2 of 2 rows.*validation_fraction=0\.9.*none to "
        "train on.*early_stopping=False",
    ),
    "a learning rate that is too high": (
        lambda: fit_ncf(learning_rate_init=1e30, max_iter=3),
        FloatingPointError,
        r"Training diverged at epoch [123].*Lower learning_rate_init.*1e\+30",
    ),
    "nothing to fit": (
        lambda: fit(solver="adam", n_factors=0, biased=False),
        ValueError,
        "n_factors=0 and biased=False leave nothing to fit",
    ),
    **{
        f"hidden_layer_sizes={sizes}": (
            functools.partial(lambda sizes: fit_ncf(hidden_layer_sizes=sizes), sizes),
            ValueError,
            "hidden_layer_sizes",
        )
        for sizes in ((0,), (4, -1), (2.5,), ("a",), (None,), [[3, 2]], [[3], [2, 1]])
    },
}

PARTIAL_FIT = {
    "users of another kind": (
        lambda: fit_ncf().partial_fit(X.astype(str), Y),
        TypeError,
        USERS + r"\).*'string' \(the first is '0'\).*fitted on.*'number'",
    ),
    "items of another kind": (
        lambda: fit_ncf().partial_fit([[1, "Heat"]], [1.0]),
        TypeError,
        ITEMS + r"\).*'string' \(the first is 'Heat'\).*fitted on.*'number'",
    ),
    "too wide": (
        lambda: fit_ncf().partial_fit(np.column_stack([X, Y]), Y),
        ValueError,
        "X has 3 features, but NCFRegressor is expecting 2",
    ),
    "missing rating": (
        lambda: fit_ncf().partial_fit(X, replaced(np.nan)),
        ValueError,
        r"y must hold finite.* 1 rating \(first rows: 3\)",
    ),
    "ratings on a scale for log_loss": (
        lambda: fit_ncf(y=CHOSEN, loss="log_loss").partial_fit(X, Y),
        ValueError,
        "loss='log_loss'.*needs ratings between 0 and 1",
    ),
    "negative weight": (
        lambda: fit_ncf().partial_fit(X, Y, replaced(-1)),
        ValueError,
        "Negative values.*`sample_weight`: 1 weight",
    ),
    "wrong parameter": (
        lambda: fit_ncf().set_params(reg=-1).partial_fit(X, Y),
        ValueError,
        "'reg' parameter of NCFRegressor must be .*Got -1",
    ),
    "other factors": (
        lambda: fit_ncf().set_params(n_factors=3).partial_fit(X, Y),
        ValueError,
        r"last fit.* had another network: n_factors \(was 2, now 3\)",
    ),
    **{
        f"{further} in {make.__name__}": (
            functools.partial(
                lambda make, y, further_y: make(y=y, rank_by="both").partial_fit(
                    X, further_y
                ),
                make,
                *ratings,
            ),
            ValueError,
            r"partial_fit.*\by\b",
        )
        for make in (fit, fit_ncf)
        for further, ratings in {
            "ratings after choices": (None, Y),
            "choices after ratings": (Y, None),
        }.items()
    },
}

WRONG_TRAINING_PARAMETERS = {
    "loss": ("hinge", None),
    "n_negatives": (-1, 2.0, "4", 2**63),
    "learning_rate_init": (0, -1e-3, "0.1", np.inf, np.nan),
    "batch_size": (0, 16.0, "auto"),
    "early_stopping": (None, "yes", 2),
    "validation_fraction": (0, 1, 1.5, None),
    "n_iter_no_change": (0, 2.5, None),
    "handle_unknown": ("raise", None),
    "clip": (None, "yes", (1, 5)),
    "rank_by": ("ratings", None, True),
    "choice_threshold": ("4", np.nan, [4]),
    "warm_start": (None, "no"),
    "device": (None, 0),
    "random_state": ("a", -1, 1.5),
    "verbose": (-1, "a", None),
}

WRONG_PARAMETERS = {
    MFRegressor: WRONG_TRAINING_PARAMETERS
    | {
        "n_factors": (-1, 2.0, "3", None, 2**63),
        "solver": ("lbfgs", None),
        "biased": ("yes", None, 2),
        "reg": (0, -1.0, "1", np.inf, np.nan, 1e-300, 1e39),
        "reg_exponent": (-1.0, "1", np.nan, 200),
        "implicit_features": ("yes", 2),
        "unobserved_weight": (-0.1, "1", None, np.nan, 1e150, 1e300),
        "max_iter": (0, -3, 2.5, "3", 2**63),
        "tol": (-1.0, "1", np.nan),
        "store_covariance": (None, "no"),
    },
    NCFRegressor: WRONG_TRAINING_PARAMETERS
    | {
        "implicit_features": ("yes", 2),
        "n_factors": (0, -1, 2.0, "3", None, 2**63),
        "hidden_layer_sizes": (0, -1, 2.5, None, "relu"),
        "architecture": ("deep", None),
        "activation": ("identity", None),
        "dropout": (-0.1, 1, 1.5, None, np.nan),
        "n_members": (0, 2.0, None, 2**63),
        "solver": ("vb", None),
        "reg": (-1.0, "1", np.inf, np.nan, 1e300),
        "max_iter": (0, -3, 2.5, "3", 2**63),
        "tol": (-1.0, None, "1", np.nan),
    },
}

PARAMETERS = {
    f"{cls.__name__}({name}={value!r})": (
        functools.partial(
            lambda cls, params: cls(**params).fit(X, Y), cls, {name: value}
        ),
        ValueError,
        rf"'{name}' parameter of {cls.__name__} must be .*Got {re.escape(repr(value))}",
    )
    for cls, parameters in WRONG_PARAMETERS.items()
    for name, values in parameters.items()
    for value in values
}

CASES = {
    "X": SHAPES_OF_X,
    "ids": IDS,
    "further column": FURTHER_COLUMNS,
    "y": RATINGS,
    "sample_weight": WEIGHTS,
    "before fit": BEFORE_FIT,
    "predict": PREDICT,
    "recommend": RECOMMEND,
    "similar": SIMILAR,
    "device": DEVICES,
    "training": TRAINING,
    "partial_fit": PARTIAL_FIT,
    "parameter": PARAMETERS,
}


@pytest.mark.filterwarnings("ignore:A fit without y is of choices")
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        pytest.param(*case, id=f"{group}: {name}")
        for group, cases in CASES.items()
        for name, case in cases.items()
    ],
)
def test_wrong_input_is_refused_in_words(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("cls", WRONG_PARAMETERS)
def test_every_parameter_of_the_constructor_is_validated(cls):
    assert WRONG_PARAMETERS[cls].keys() == cls().get_params().keys()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"device='cuda' is not available.*'cpu'"):
        fit(device="cuda")


def test_a_column_of_ratings_is_taken_with_a_warning():
    with pytest.warns(DataConversionWarning, match="column-vector y"):
        model = fit(y=Y[:, None])
    assert_array_equal(model.predict(X), fitted().predict(X))


@pytest.mark.parametrize("make", [fit, fit_ncf])
def test_a_device_of_torch_is_a_device(make):
    model = make(device=torch.device("cpu"), random_state=0)
    expected = make(device="cpu", random_state=0)
    assert_array_equal(model.predict(X), expected.predict(X))
    assert clone(model).device == torch.device("cpu")


SMALL_INTEGERS = {
    "vb": ({"n_factors": 100, "max_iter": 101}, MFRegressor(tol=1e9)),
    "als": (
        {"n_factors": 6, "reg": 100, "reg_exponent": 2, "unobserved_weight": 2},
        MFRegressor(solver="als", tol=1e9),
    ),
    "gibbs": (
        {"n_factors": 6, "max_iter": 4, "random_state": 1},
        MFRegressor(solver="gibbs"),
    ),
    "adam": (
        {"n_factors": 100, "max_iter": 2, "batch_size": 100, "random_state": 1},
        MFRegressor(solver="adam"),
    ),
    "ncf": (
        {
            "n_factors": 100,
            "hidden_layer_sizes": 100,
            "n_members": 2,
            "batch_size": 100,
            "max_iter": 2,
            "reg": 1,
            "random_state": 1,
        },
        NCFRegressor(),
    ),
}


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize(
    ("params", "model"), SMALL_INTEGERS.values(), ids=SMALL_INTEGERS
)
def test_small_integers_of_numpy_are_integers(params, model, dtype):
    expected = clone(model).set_params(**params).fit(X, Y)
    of_numpy = {name: dtype(value) for name, value in params.items()}
    model = clone(model).set_params(**of_numpy).fit(X, Y)
    assert_array_equal(model.predict(X), expected.predict(X))
    assert_array_equal(
        model.recommend([1], dtype(3), exclude_seen=False),
        expected.recommend([1], 3, exclude_seen=False),
    )
    assert_array_equal(
        model.similar_items([1], dtype(3)), expected.similar_items([1], 3)
    )


class Failing(Callback):
    """A callback that raises in one hook."""

    def __init__(self, hook, error=RuntimeError):
        self.hook, self.error = hook, error

    def _maybe(self, hook):
        if hook == self.hook:
            raise self.error(f"in {hook}")

    def setup(self, estimator, context):
        self._maybe("setup")

    def teardown(self, estimator, context):
        self._maybe("teardown")

    def on_fit_task_begin(self, estimator, context):
        self._maybe(f"begin of {context.task_name} {context.task_id}")

    def on_fit_task_end(self, estimator, context):
        self._maybe(f"end of {context.task_name} {context.task_id}")


def two_iterations_or_more(model):
    if isinstance(model, NCFRegressor):
        return model.set_params(max_iter=3)
    return model.set_params(tol=0.01, max_iter=None)


WIDE = FRAME.assign(hour=np.arange(N_ROWS) % 7)
FAILURES = {
    "a missing id": lambda model: model.fit(with_id(None), Y),
    "a missing rating in a wider frame": lambda model: model.fit(WIDE, replaced(None)),
    "an array in place of a frame, weights negative": lambda model: model.fit(
        np.column_stack([X, Y, Y]), Y, -Y
    ),
    "no rows": lambda model: model.fit(WIDE[:0], Y[:0]),
    "a wrong parameter": lambda model: model.set_params(reg=-1).fit(WIDE, Y),
    "a device that is not there": lambda model: model.set_params(device="cuda:99").fit(
        WIDE, Y
    ),
    "warm start with other factors": lambda model: model.set_params(
        warm_start=True, n_factors=3
    ).fit(WIDE, Y),
    "a callback in a warm start": lambda model: (
        two_iterations_or_more(model)
        .set_params(warm_start=True)
        .set_callbacks(Failing("end of iteration 1"))
        .fit(FRAME, 2 * Y)
    ),
    **{
        f"a callback at {hook}": functools.partial(
            lambda hook, model: (
                two_iterations_or_more(model)
                .set_callbacks(Failing(hook))
                .fit(WIDE, 2 * Y)
            ),
            hook,
        )
        for hook in (
            "setup",
            "begin of fit 0",
            "begin of iteration 0",
            "end of iteration 0",
            "begin of iteration 1",
            "end of iteration 1",
            "end of fit 0",
            "teardown",
        )
    },
    "the user's Ctrl-C in a callback": lambda model: model.set_callbacks(
        Failing("end of iteration 0", KeyboardInterrupt)
    ).fit(WIDE, 2 * Y),
}
FAILURES = {
    name: pytest.param(
        fail, id=name, marks=NEEDS_CALLBACKS if "callback" in name else ()
    )
    for name, fail in FAILURES.items()
}
FAIL = pytest.mark.parametrize("fail", FAILURES.values())
ERRORS = (ValueError, RuntimeError, KeyboardInterrupt)


ESTIMATORS = {
    "vb": small(solver="vb", max_iter=2, random_state=0),
    "als": small(solver="als", max_iter=2, random_state=0),
    "adam": small(solver="adam", max_iter=2, random_state=0),
    "ncf": small_ncf(random_state=0),
}
ESTIMATOR = pytest.mark.parametrize(
    "estimator", ESTIMATORS.values(), ids=ESTIMATORS.keys()
)


@FAIL
@ESTIMATOR
def test_a_failed_fit_leaves_the_fitted_state_as_it_was(fail, estimator):
    model = clone(estimator).fit(FRAME, Y)
    params, state = model.get_params(), fitted_state(model)
    predictions = model.predict(FRAME)
    items = model.recommend(n_items=3, exclude_seen=False)
    with pytest.raises(ERRORS):
        fail(model)
    model.set_params(**params)
    assert fitted_state(model) == state
    assert_array_equal(model.predict(FRAME), predictions)
    assert_array_equal(model.recommend(n_items=3, exclude_seen=False), items)
    assert model.n_features_in_ == 2
    assert model.feature_names_in_.tolist() == ["user", "item"]


@pytest.mark.parametrize(
    "fail",
    [fail for name, fail in FAILURES.items() if "warm" not in name],
)
@ESTIMATOR
def test_a_failed_first_fit_leaves_the_estimator_unfitted(fail, estimator):
    model = clone(estimator)
    with pytest.raises(ERRORS):
        fail(model)
    assert not fitted_state(model)
    with pytest.raises(NotFittedError):
        model.predict(FRAME)


def test_warm_start_refuses_another_number_of_factors():
    model = fit(warm_start=True)
    with pytest.raises(
        ValueError,
        match=r"had n_factors=2.*there is n_factors=3.*Set it back.*with warm_start",
    ):
        model.set_params(n_factors=3).fit(X, Y)
