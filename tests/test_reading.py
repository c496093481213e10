"""Arguments of any container become the same arrays, or errors that name them."""

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from scipy import sparse
from sklearn.exceptions import DataConversionWarning

from skrec import MFRegressor
from skrec._data.containers import as_array
from skrec._data.reading import (
    as_numbers,
    check_int,
    check_number,
    read_numbers,
    read_pairs,
    read_ratings,
    read_weights,
)
from skrec._data.vocabulary import Ids
from skrec.metrics import RankingScorer, novelty
from skrec.model_selection import LeaveLastOut, UserHoldout

ARRAYS = {
    "big-endian": np.array([3, 1, 2], dtype=">i4"),
    "big-endian floats": np.array([3, 1, 2], dtype=">f4"),
    "torch": torch.tensor([3, 1, 2]),
    "torch bfloat16": torch.tensor([3, 1, 2], dtype=torch.bfloat16),
    "torch with a gradient": torch.tensor([3.0, 1, 2], requires_grad=True),
    "masked, but nothing is": np.ma.array([3, 1, 2]),
    "masked ints, but nothing is": np.ma.array([3, 1, 2], mask=False),
    "polars": pl.Series([3, 1, 2]),
    "pyarrow": pa.chunked_array([[3, 1], [2]]),
    "Int64": pd.Series([3, 1, 2], dtype="Int64"),
    "sparse": pd.Series(pd.arrays.SparseArray([3, 1, 2])),
}


@pytest.mark.parametrize("values", ARRAYS.values(), ids=ARRAYS)
def test_every_container_becomes_an_array_of_its_values(values):
    array = as_array(values)
    assert array.dtype.isnative
    assert array.tolist() == [3, 1, 2]
    assert as_numbers(values, "y", "rating").tolist() == [3, 1, 2]
    assert Ids.from_column(values, "ids").numbered()[0].tolist() == [2, 0, 1]


@pytest.mark.parametrize("dtype", ["f8", "i8", "i1", "O"])
def test_what_is_masked_is_missing(dtype):
    values = np.ma.array([3, 1, 2], mask=[False, True, False], dtype=dtype)
    with pytest.raises(ValueError, match=r"y must hold.* 1 rating \(first rows: 1\)"):
        as_numbers(values, "y", "rating")
    with pytest.raises(ValueError, match=r"holds 1 missing id \(first rows: 1\)"):
        Ids.from_column(values, "ids")
    assert values.data.tolist() == [3, 1, 2]


PAIRS = [("ann", 7), ("bob", 3), ("ann", 3)]
FRAME = pd.DataFrame(PAIRS, columns=["user", "item"])
TABLES = {
    "tuples": PAIRS,
    "objects": np.array(PAIRS, dtype=object),
    "structured": np.array(PAIRS, dtype=[("user", "U3"), ("item", "i8")]),
    "pandas": FRAME.assign(shop="city"),
    "equal names": FRAME.set_axis(["id", "id"], axis=1),
    "polars": pl.DataFrame(FRAME),
    "pyarrow": pa.Table.from_pandas(FRAME.set_axis([5, 6, 7])),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_pairs_of_every_container_are_the_same(table):
    users, items = read_pairs(table, "X")
    assert users.values.tolist() == ["ann", "bob", "ann"]
    assert items.values.tolist() == [7, 3, 3]
    assert (users.kind, items.kind) == ("string", "number")


NO_TABLES = {
    "dict": ({"user": [1, 2], "item": [1, 1]}, r"pass pandas\.DataFrame\({}\)"),
    "lazy": (pl.LazyFrame({"user": [1, 2], "item": [1, 1]}), r"pass {}\.collect\(\)"),
    "index": (pd.MultiIndex.from_tuples([(1, 1), (2, 1)]), r"{}\.to_frame\(index=F"),
    "path": (Path("ratings.csv"), r"read first.*pandas\.read_csv a file"),
    "rows by and by": ((row for row in [(1, 1)]), r"read first: list\({}\) reads rows"),
    "keys": ({(1, 1): 5.0}.keys(), r"read first: list\({}\) reads rows"),
    "sparse": (sparse.csr_array(np.eye(3)), "Sparse data was passed for {}"),
}


def readers_of_rows():
    """Public functions that read rows of user and item, by the name of the argument."""
    X, y = [[1, 1], [2, 1], [2, 2]], [1.0, 2.0, 3.0]
    model = MFRegressor(1).fit(X, y)
    return [
        ("X", lambda rows: MFRegressor(1).fit(rows, y)),
        ("X", lambda rows: MFRegressor(1).fit(X, y).partial_fit(rows, y)),
        ("X", lambda rows: model.predict(rows)),
        ("X", lambda rows: MFRegressor(1).fit(X, y).forget(rows, y)),
        ("X", lambda rows: RankingScorer()(model, rows, y)),
        ("X", lambda rows: next(UserHoldout(random_state=0).split(rows, y))),
        ("X", lambda rows: next(LeaveLastOut(time="row_order").split(rows, y))),
        ("X_train", lambda rows: novelty([1], rows)),
        ("never_exclude", lambda rows: model.recommend([1], never_exclude=rows)),
        ("exclude", lambda rows: model.recommend([1], exclude=rows)),
        ("candidates", lambda rows: model.recommend([1], candidates=rows)),
        ("ratings", lambda rows: model.explain(1, [1], ratings=(rows, y))),
    ]


@pytest.mark.parametrize(("rows", "help"), NO_TABLES.values(), ids=NO_TABLES)
def test_every_reader_of_rows_says_how_to_pass_them(rows, help):
    for name, read in readers_of_rows():
        if name == "candidates" and not isinstance(rows, dict | pl.LazyFrame):
            continue  # Others may be ids.
        with pytest.raises(TypeError, match=help.format(name)):
            read(rows)


def test_messages_name_the_table_and_the_column():
    table = FRAME.assign(item=[1, None, 2])
    for X in (table, table.to_numpy()):
        with pytest.raises(ValueError, match="column 1 of seen holds 1 missing id"):
            read_pairs(X, "seen")


def test_weights_are_one_for_all_or_one_per_row():
    assert read_weights(None, 3).tolist() == [1, 1, 1]
    assert read_weights(2, 3).tolist() == [2, 2, 2]
    assert read_weights(pl.Series([0.0, 1, 2.5]), 3).tolist() == [0, 1, 2.5]
    for weight in ([1, 2], [[1], [2], [3]]):
        with pytest.raises(ValueError, match="but groups has 3 rows; it must hold one"):
            read_weights(weight, 3, "groups")


def test_numbers_and_ratings_are_one_per_row():
    column = pd.DataFrame({"rating": [1.0, 2, 3]})
    assert read_numbers(column, "y", 3).tolist() == [1, 2, 3]
    with pytest.warns(DataConversionWarning, match="column-vector y"):
        assert read_ratings(column, 3).tolist() == [1, 2, 3]
    for values in ([1, 2], np.ones(4)):
        with pytest.raises(ValueError, match=f"3 rows and y holds {len(values)}"):
            read_numbers(values, "y", 3)
        with pytest.raises(ValueError, match=f"X has 3 and y has {len(values)}"):
            read_ratings(values, 3)
    for read in (lambda y: read_numbers(y, "y", 3), lambda y: read_ratings(y, 3)):
        with pytest.raises(TypeError, match="y is a sparse matrix"):
            read(sparse.csr_array(np.ones((3, 1))))


@pytest.mark.parametrize("value", [0, 1.0, True, "1", None])
def test_an_int_has_a_least_value(value):
    with pytest.raises(ValueError, match=r"k must be an int of at least 1, got "):
        check_int(value, "k", 1)
    check_int(np.int8(1), "k", 1)


@pytest.mark.parametrize("value", [-1, 6, np.nan, "1", None, 1j])
def test_a_number_has_limits(value):
    with pytest.raises(ValueError, match="noise must be a number from 0 to 5, got "):
        check_number(value, "noise", 0, 5)
    for value in (0, np.float32(5)):
        check_number(value, "noise", 0, 5)
    check_number(np.inf, "delay", 0)
    with pytest.raises(ValueError, match="delay must be a number of at least 0"):
        check_number(np.nan, "delay", 0)


@pytest.mark.parametrize(
    ("table", "advice"),
    [
        ({"y": [1.0, np.nan]}, "Leave these rows out."),
        (
            {"weight": [1.0, np.nan]},
            "Leave these rows out, or give them a weight of 0.",
        ),
        ({"hour": [1.0, np.nan]}, "Leave these rows out, or fill in numbers"),
    ],
)
def test_advice_for_missing_numbers_fits_the_column(table, advice):
    X = pd.DataFrame({"user": [1, 2], "item": [3, 4], "hour": [5.0, 6.0]})
    given = {"y": [1.0, 2.0], "weight": [1.0, 1.0]} | table
    X["hour"] = table.get("hour", X["hour"])
    with pytest.raises(ValueError, match="must hold finite numbers") as error:
        MFRegressor().fit(X, given["y"], given["weight"])
    assert advice in str(error.value)
    assert ("median" in str(error.value)) == ("hour" in table)
