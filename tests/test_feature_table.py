"""Tables of features by raw id: matrices of numbers, and labels."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy import sparse

from skrec._data.feature_table import FeatureTable, Labels

FRAME = pd.DataFrame(
    {"age": [20.0, np.nan, 40.0], "sex": ["f", "m", None]}, index=["ann", "bob", "cy"]
)


def cells_of(values):
    cells = np.empty(len(values), dtype=object)
    cells[:] = values
    return cells


@given(
    rows=st.lists(
        st.none() | st.lists(st.sampled_from("abc"), max_size=4), min_size=1
    ).filter(lambda rows: any(row is not None for row in rows))
)
def test_labels_are_indicators_of_those_in_a_cell(rows):
    missing = np.array([row is None for row in rows])
    labels = Labels.from_cells(cells_of(rows), missing, "x")
    expected = sorted({label for row in rows for label in row or ()})
    assert labels.several
    assert labels.labels.tolist() == expected
    assert_array_equal(
        labels.matrix.toarray(),
        np.array(
            [[label in (row or ()) for label in expected] for row in rows], dtype=float
        ).reshape(len(rows), -1),
    )
    some = labels[np.array([len(rows) - 1, 0])]
    assert_array_equal(some.missing, missing[[-1, 0]])
    assert_array_equal(some.matrix.toarray(), labels.matrix.toarray()[[-1, 0]])


@given(st.lists(st.none() | st.sampled_from("abc"), min_size=1))
def test_a_category_is_one_label(values):
    missing = np.array([value is None for value in values])
    labels = Labels.from_cells(cells_of(values), missing, "x")
    assert not labels.several
    dummies = pd.get_dummies(pd.Series(values, dtype=object))
    assert labels.labels.tolist() == list(dummies)
    assert_array_equal(labels.matrix.toarray(), dummies.to_numpy(dtype=float))


def test_a_frame_has_its_ids_in_its_index_or_first_column():
    first = FRAME.reset_index(names="who")
    tables = [
        FeatureTable.read(FRAME, "x"),
        FeatureTable.read(pl.from_pandas(first), "x"),
        FeatureTable.read(first[["age", "sex", "who"]], "x", id_name="who"),
        FeatureTable.read(lambda: FRAME, "x", n_rows=3),
    ]
    for table in tables:
        assert table.ids.values.tolist() == ["ann", "bob", "cy"]
        assert [*table.columns] == ["age", "sex"]
        assert_array_equal(table.columns["age"].toarray()[:, 0], FRAME["age"])
        assert {name: len(found) for name, found in table.missing().items()} == {
            "age": 1,
            "sex": 1,
        }
        assert not table.is_matrix
        assert not table.may_be_cut
    assert FeatureTable.read(FRAME, "x", n_rows=3).may_be_cut


@pytest.mark.parametrize("seed", range(3))
def test_a_column_of_ids_beside_the_index_is_found_in_any_order(seed):
    names = [*"abc", *(f"x{number}" for number in range(500))]
    names = np.random.default_rng(seed).permutation(names)
    frame = pd.DataFrame({"name": names, "age": np.arange(503.0)})
    message = "its column 'name' holds 3 of the 3 ids of X and its index 0"
    with pytest.raises(ValueError, match=message):
        FeatureTable.read(frame, "x", ids=np.array([*"abc"], dtype=object))


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array, sparse.coo_array])
def test_row_i_of_a_matrix_is_the_id_i(container):
    matrix = np.array([[0.0, 1], [2, 0], [0, np.nan]])
    table = FeatureTable.read(container(matrix), "x")
    assert table.is_matrix
    assert table.ids.values.tolist() == [0, 1, 2]
    (column,) = table.columns.values()
    assert_array_equal(column.toarray(), matrix)
    assert sum(map(len, table.missing().values())) == 1
    with pytest.raises(ValueError, match=r"x has as many rows as X, 3\. .*lambda: tab"):
        FeatureTable.read(container(matrix), "x", n_rows=3)
