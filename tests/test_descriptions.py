"""Tables of described ids and the matrices that they become."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skrec._descriptions import Description, Encoder, Table

FRAME = pd.DataFrame(
    {
        "age": [20.0, 30.0, 40.0, 31.0],
        "sex": ["f", "m", "f", "m"],
        "member": [True, False, False, True],
        "plan": pd.Categorical([1, 2, 1, 1]),
    },
    index=["ann", "bob", "cleo", "dan"],
)


def encoded(features, rows=None):
    table = Table.read(features, "user_features")
    rows = np.arange(len(table.ids.values)) if rows is None else rows
    encoder = Encoder.fitted(table, rows)
    return encoder.names, encoder.encoded(table).toarray()


def test_numbers_are_standardised_flags_stay_and_categories_become_columns():
    names, matrix = encoded(FRAME)
    assert names == ["age", "sex_f", "sex_m", "member", "plan_1", "plan_2"]
    age = FRAME["age"].to_numpy()
    assert_allclose(matrix[:, 0], (age - age.mean()) / age.std())
    assert_array_equal(matrix[:, 1], [1, 0, 1, 0])
    assert_array_equal(matrix[:, 2], [0, 1, 0, 1])
    assert_array_equal(matrix[:, 3], [1, 0, 0, 1])
    assert_array_equal(matrix[:, 4], [1, 0, 1, 1])


def test_scales_and_categories_are_those_of_the_rows_of_a_fit():
    names, matrix = encoded(FRAME, rows=np.array([0, 2]))
    assert names == ["age", "sex_f", "member", "plan_1"]
    assert_allclose(matrix[:, 0], [-1, 0, 1, 0.1])
    # What was not there says nothing.
    assert_array_equal(matrix[[1, 3], 1], 0)


def test_a_constant_column_is_no_error():
    names, matrix = encoded(FRAME.assign(age=7.1))
    assert "age" in names
    assert np.isfinite(matrix).all()


CONTAINERS = {
    "polars": lambda f: pl.from_pandas(f.reset_index(names="id")),
    "pyarrow": lambda f: pa.Table.from_pandas(
        f.reset_index(names="id"), preserve_index=False
    ),
    "nullable": lambda f: f.convert_dtypes(),
    "objects": lambda f: f.astype(object),
}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_a_table_of_any_library_is_read_alike(container):
    frame = FRAME[["age", "sex"]]
    expected_names, expected = encoded(frame)
    names, matrix = encoded(container(frame))
    assert names == expected_names
    assert_allclose(matrix, expected)


def test_a_series_is_one_column():
    names, matrix = encoded(FRAME["sex"])
    assert names == ["sex_f", "sex_m"]
    assert_array_equal(matrix.sum(axis=1), 1)


@pytest.mark.parametrize("container", [np.asarray, sparse.csc_matrix, sparse.coo_array])
def test_row_i_of_a_matrix_is_the_id_i(container):
    values = np.array([[0, 2.0], [1, 0], [0, 4.0]])
    table = Table.read(container(values), "item_features")
    assert_array_equal(table.ids.values, [0, 1, 2])
    names, matrix = encoded(container(values))
    assert names == ["0", "1"]
    # Zeros stay zeros, numbers are scaled, flags are not.
    assert_allclose(matrix, values / [1, values[:, 1].std()])


def test_a_matrix_is_left_as_it_was():
    values = sparse.random_array((6, 4), density=0.5, rng=0, format="csr")
    before = values.copy()
    encoded(values)
    assert_array_equal(values.toarray(), before.toarray())


def test_ids_that_have_no_ratings_are_kept():
    description, matrix = Description.of(FRAME, np.array(["bob", "dan"]), "x")
    assert_array_equal(np.sort(description.ids), ["ann", "cleo"])
    found, kept = description.rows_of(np.array(["cleo", "eve"]), None, "x")
    assert_array_equal(found, [True, False])
    assert matrix.shape[0] == 2
    assert kept.shape == (1, matrix.shape[1])


def test_what_is_given_now_goes_before_what_was_given_then():
    description, _ = Description.of(FRAME[["age"]], np.array(["bob", "dan"]), "x")
    now = pd.DataFrame({"age": [30.5, 31.0]}, index=["ann", "eve"])
    found, matrix = description.rows_of(np.array(["eve", "cleo", "ann"]), now, "x")
    assert found.all()
    age = np.array([30.0, 31.0])
    expected = (np.array([31.0, 40.0, 30.5]) - age.mean()) / age.std()
    assert_allclose(matrix.toarray()[:, 0], expected)


FAILURES = {
    "a missing number": (
        FRAME.assign(age=[1, np.nan, 3, np.nan]),
        ValueError,
        r"x\['age'\] is missing for 'bob', 'dan' \(2 of 4 ids\)",
    ),
    "a missing category": (
        FRAME.assign(sex=["f", None, "f", "m"]),
        ValueError,
        r"x\['sex'\] is missing for 'bob'",
    ),
    "an infinite number": (
        FRAME.assign(age=[1, np.inf, 3, 4]),
        ValueError,
        r"x\['age'\] must hold finite numbers.* 1 value \(first rows: 1\)",
    ),
    "a date": (
        FRAME.assign(age=pd.Timestamp("2024-01-01")),
        TypeError,
        r"x\['age'\] holds dates or times",
    ),
    "an id twice": (
        FRAME.set_axis(["ann", "bob", "ann", "dan"]),
        ValueError,
        "x has several rows for 'ann'",
    ),
    "a missing id": (
        FRAME.set_axis(["ann", None, "cleo", "dan"]),
        ValueError,
        r"x \(its index\) holds 1 missing id",
    ),
    "ids of two levels": (
        FRAME.set_index("sex", append=True),
        TypeError,
        "x has an index of 2 levels",
    ),
    "a column twice": (
        pd.concat([FRAME, FRAME["age"]], axis=1),
        ValueError,
        "x has several columns named 'age'",
    ),
    "no column": (FRAME[[]], ValueError, "x has no columns"),
    "a number": (3, TypeError, "x must be a frame indexed by raw id, or a matrix.*int"),
    "a row": ([1.0, 2.0], TypeError, "x must be a frame indexed by raw id"),
    "strings": ([["a"], ["b"]], ValueError, "x must be numeric"),
    "a matrix with a missing number": (
        sparse.csr_array(np.array([[1, np.nan]])),
        ValueError,
        "x must hold finite numbers",
    ),
}


@pytest.mark.parametrize(
    ("features", "error", "match"), FAILURES.values(), ids=FAILURES.keys()
)
def test_what_describes_nothing_is_refused_in_words(features, error, match):
    with pytest.raises(error, match=match):
        Table.read(features, "x")


LATER = {
    "a column less": (FRAME[["age"]], "must have the columns .*'sex'.* is missing"),
    "a column more": (FRAME.assign(zip=1), "must have the columns .*'zip' was not"),
    "numbers for categories": (
        FRAME.assign(sex=[1, 2, 1, 2]),
        r"x\['sex'\] must hold categories, as in fit, not numbers",
    ),
    "categories for numbers": (
        FRAME.assign(age=list("abcd")),
        r"x\['age'\] must hold numbers in 1 column, as in fit",
    ),
}


@pytest.mark.parametrize(("features", "match"), LATER.values(), ids=LATER.keys())
def test_a_table_must_be_like_that_of_fit(features, match):
    description, _ = Description.of(FRAME, FRAME.index.to_numpy(), "x")
    with pytest.raises(ValueError, match=match):
        description.rows_of(np.array(["eve"]), features, "x")


def test_a_matrix_must_be_as_wide_as_that_of_fit():
    description, _ = Description.of(np.eye(3), np.arange(3), "x")
    with pytest.raises(ValueError, match="must hold numbers in 3 columns, as in fit"):
        description.rows_of(np.array([5]), np.eye(4), "x")


def test_every_id_with_ratings_must_be_described():
    ids = np.array(["ann", "eve", "finn"])
    with pytest.raises(ValueError, match=r"lacks 2 of 3: 'eve', 'finn'\."):
        Description.of(FRAME, ids, "user_features")


def test_ids_of_another_kind_are_named():
    with pytest.raises(TypeError, match=r"user_features \(its index\).*'string'.*'num"):
        Description.of(FRAME, np.arange(3), "user_features")
