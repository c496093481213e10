"""Tables of described ids and the matrices that they become."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skrec._data.feature_table import FeatureTable
from skrec._data.side_features import ColdRows, Encoder

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
    table = FeatureTable.read(features, "user_features")
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
    table = FeatureTable.read(container(values), "item_features")
    assert_array_equal(table.ids.values, [0, 1, 2])
    names, matrix = encoded(container(values))
    assert names == ["0", "1"]
    # Zeros stay zeros, numbers are scaled, flags are not.
    assert_allclose(matrix, values / [1, values[:, 1].std()])


def test_a_matrix_is_left_as_it_was():
    values = sparse.csr_array(np.arange(24.0).reshape(6, 4) % 3)
    before = values.copy()
    encoded(values)
    assert_array_equal(values.toarray(), before.toarray())


def test_ids_that_have_no_ratings_are_kept():
    description, matrix = ColdRows.of(FRAME, np.array(["bob", "dan"]), "x")
    assert_array_equal(np.sort(description.ids), ["ann", "cleo"])
    found, kept = description.rows_of(np.array(["cleo", "eve"]), None, "x")
    assert_array_equal(found, [True, False])
    assert matrix.shape[0] == 2
    assert kept.shape == (1, matrix.shape[1])


def test_what_is_given_now_goes_before_what_was_given_then():
    description, _ = ColdRows.of(FRAME[["age"]], np.array(["bob", "dan"]), "x")
    now = pd.DataFrame({"age": [30.5, 31.0]}, index=["ann", "eve"])
    found, matrix = description.rows_of(np.array(["eve", "cleo", "ann"]), now, "x")
    assert found.all()
    age = np.array([30.0, 31.0])
    expected = (np.array([31.0, 40.0, 30.5]) - age.mean()) / age.std()
    assert_allclose(matrix.toarray()[:, 0], expected)


FAILURES = {
    **{
        name: (FRAME.assign(sex=pd.Series(cells, FRAME.index)), TypeError, match)
        for name, cells, match in (
            ("strings and numbers", ["f", 1, "f", 2], r"x\['sex'\].* type int, str"),
            ("lists and strings", [["f"], "m", [], []], r"x\['sex'\].*several.*'m'"),
            ("lists of both", [["f"], [1], [], []], r"x\['sex'\].*int, str in its ce"),
            ("lists of lists", [[["f"]]] * 4, r"x\['sex'\].* several .* a list"),
            (
                "vectors",
                [np.array([0.5, 1.5])] * 4,
                r"x\['sex'\].*fractional part.*col",
            ),
            ("dicts", [{"f": 1}] * 4, r"x\['sex'\].* type dict"),
            ("objects", [object() for _ in range(4)], r"x\['sex'\].* type object"),
            ("durations", [pd.Timedelta(1)] * 4, r"x\['sex'\] holds dates or times"),
        )
    },
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
    "a number": (3, TypeError, "x must be a frame indexed by raw id, a matrix.*int"),
    "a row": ([1.0, 2.0], TypeError, "x must be a frame indexed by raw id"),
    "strings": ([["a"], ["b"]], ValueError, "x must be numeric"),
    "a matrix with an infinite number": (
        sparse.csr_array(np.array([[1, np.inf]])),
        ValueError,
        "x must hold finite numbers",
    ),
    "a struct of polars": (
        pl.DataFrame({"id": [1, 2], "place": [{"x": 1}, {"x": 2}]}),
        TypeError,
        r"x\['place'\] holds structures",
    ),
}


@pytest.mark.parametrize(
    ("features", "error", "match"), FAILURES.values(), ids=FAILURES.keys()
)
def test_what_describes_nothing_is_refused_in_words(features, error, match):
    with pytest.raises(error, match=match):
        FeatureTable.read(features, "x")


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
    description, _ = ColdRows.of(FRAME, FRAME.index.to_numpy(), "x")
    with pytest.raises(ValueError, match=match):
        description.rows_of(np.array(["eve"]), features, "x")


def test_a_matrix_must_be_as_wide_as_that_of_fit():
    description, _ = ColdRows.of(np.eye(3), np.arange(3), "x")
    with pytest.raises(ValueError, match="must hold numbers in 3 columns, as in fit"):
        description.rows_of(np.array([5]), np.eye(4), "x")


def test_ids_without_a_row_have_the_mean_of_the_others():
    ids = np.array(["ann", "bob", "dan", "eve", "finn"])
    with pytest.warns(UserWarning, match=r"features should .*lacks 2 of 5: 'eve', 'fi"):
        description, matrix = ColdRows.of(FRAME, ids, "user_features")
    assert_allclose(
        matrix.toarray()[3:], [matrix.toarray()[:3].mean(axis=0)] * 2, atol=1e-12
    )
    _, expected = ColdRows.of(FRAME, ids[:3], "user_features")
    assert_allclose(matrix.toarray()[:3], expected.toarray())
    assert description.ids.tolist() == ["cleo"]


def test_a_table_of_other_ids_is_refused():
    ids = np.array(["eve", "finn"])
    with pytest.raises(ValueError, match=r"every id of X, but lacks 2 of 2: 'eve', 'f"):
        ColdRows.of(FRAME, ids, "user_features")


def test_a_matrix_must_reach_as_far_as_the_ids():
    for ids in (np.array([0, 3]), np.array([-1, 2])):
        with pytest.raises(ValueError, match=r"its rows.*every id of X, but lacks 1"):
            ColdRows.of(np.eye(3), ids, "user_features")


def test_ids_of_another_kind_are_named():
    with pytest.raises(TypeError, match=r"user_features \(its index\).*'string'.*'num"):
        ColdRows.of(FRAME, np.arange(3), "user_features")


WITH_IDS = FRAME.reset_index(names="user")
TABLES = {
    "pandas by index": FRAME,
    "pandas by a named index": FRAME.rename_axis("who"),
    "pandas by a column": WITH_IDS,
    "pandas by the last column": WITH_IDS[[*FRAME.columns, "user"]],
    "pandas in another order": WITH_IDS.iloc[[2, 0, 3, 1]],
    "pandas by both": WITH_IDS.set_index("user", drop=False),
    "pandas, nullable": WITH_IDS.convert_dtypes(),
    "pandas, arrow": WITH_IDS.astype({"age": "double[pyarrow]"}),
    "polars": pl.from_pandas(WITH_IDS.astype({"plan": str})),
    "polars by the last column": pl.from_pandas(
        WITH_IDS.astype({"plan": str})[[*FRAME.columns, "user"]]
    ),
    "pyarrow": pa.Table.from_pandas(WITH_IDS),
    "pyarrow in another order": pa.Table.from_pandas(WITH_IDS.iloc[[2, 0, 3, 1]]),
    "pyarrow by the index of pandas": pa.Table.from_pandas(FRAME),
    "a function": lambda: WITH_IDS,
    "records": WITH_IDS.astype({"plan": int}).to_records(index=False),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_ids_are_in_the_column_that_is_named_as_that_of_x(table):
    ids = FRAME.index.to_numpy()
    _, matrix = ColdRows.of(table, ids, "x", id_name="user")
    _, expected = ColdRows.of(FRAME, ids, "x")
    assert_allclose(matrix.toarray()[:, :4], expected.toarray()[:, :4])


SHUFFLED = np.random.default_rng(0).permutation(20)
MOVIES = pd.DataFrame(
    {"movieId": SHUFFLED, "year": 1990.5 + SHUFFLED, "loud": SHUFFLED % 3 > 0}
)
AMBIGUOUS = {
    "a default index": (MOVIES, range(20)),
    "a default index that agrees": (MOVIES.sort_values("movieId"), range(20)),
    "ids from 1": (MOVIES.assign(movieId=SHUFFLED + 1), range(1, 21)),
    "rows left out": (MOVIES[MOVIES["loud"]], MOVIES["movieId"][MOVIES["loud"]]),
    "not all described": (MOVIES[:15], range(20)),
    "ids are strings": (
        MOVIES.astype({"movieId": str}),
        [str(i) for i in range(20)],
    ),
    "polars, in the second column": (
        pl.from_pandas(MOVIES[["year", "movieId", "loud"]]),
        range(20),
    ),
    "pyarrow, after the index": (
        pa.Table.from_pandas(MOVIES.assign(movieId=SHUFFLED + 50).reset_index()),
        range(50, 70),
    ),
}


@pytest.mark.parametrize(("table", "ids"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_a_table_whose_ids_may_be_in_another_column_is_refused(table, ids):
    ids = np.sort(np.array(ids))
    with pytest.raises(ValueError, match=r"x is ambiguous: its column 'movieId' holds"):
        ColdRows.of(table, ids, "x", id_name="item")
    _, matrix = ColdRows.of(table, ids[:1], "x", id_name="movieId")
    assert matrix.shape[0] == 1


def test_an_index_that_counts_ids_needs_no_name():
    flags = pd.DataFrame({"odd": np.arange(20) % 2, "half": np.arange(20) > 9})
    numbers = flags.assign(age=np.arange(20) / 7, n_seen=100 + np.arange(20))
    for table in (flags, numbers, pd.DataFrame({"n": range(20)})):
        _, matrix = ColdRows.of(table, np.arange(20), "x", id_name="item")
        assert matrix.shape == (20, table.shape[1])
    named = MOVIES.rename_axis("item")
    _, matrix = ColdRows.of(named, np.arange(20), "x", id_name="item")
    assert matrix.shape == (20, 3)


HOLES = pd.DataFrame(
    {
        "age": [20.0, np.nan, 40.0, 60.0],
        "sex": ["f", "m", None, "f"],
        "member": [1.0, 0.0, np.nan, 0.0],
        "likes": [["a", "b"], ["b"], [], None],
    },
    index=["ann", "bob", "cleo", "dan"],
)
POLARS_HOLES = pl.DataFrame(
    {
        "id": [*HOLES.index],
        "age": [20.0, None, 40.0, 60.0],
        "sex": ["f", "m", None, "f"],
        "member": [True, False, None, False],
        "likes": [["a", "b"], ["b"], [], None],
    }
)
HOLED = {
    "pandas": HOLES,
    "pandas, sets and tuples": HOLES.assign(
        likes=[{"a", "b"}, ("b", "b"), frozenset(), None]
    ),
    "pandas, arrays and empty strings": HOLES.assign(
        likes=[np.array(["b", "a"]), ["b", ""], [None], None]
    ),
    "pandas, split": HOLES.assign(
        likes=pd.Series(["a|b", "b", "", None], HOLES.index).str.split("|")
    ),
    "pandas, categories": HOLES.astype({"sex": "category"}),
    "pandas, nullable": HOLES.astype({"member": "boolean", "age": "Int64"}),
    "polars": POLARS_HOLES,
    "polars, categories": POLARS_HOLES.with_columns(pl.col("sex").cast(pl.Categorical)),
    "polars, Enum": POLARS_HOLES.with_columns(
        pl.col("sex").cast(pl.Enum(["m", "f", "x"]))
    ),
    "polars, NaN": POLARS_HOLES.with_columns(pl.col("age").fill_null(np.nan)),
    "pyarrow": POLARS_HOLES.to_arrow(),
}


@pytest.mark.parametrize("table", HOLED.values(), ids=HOLED)
def test_where_a_value_is_missing_stands_the_mean_and_a_column_says_so(table):
    with pytest.warns(UserWarning, match=r"4 ids: 1 in column 'age', 1 in .* 'likes'"):
        description, matrix = ColdRows.of(table, HOLES.index.to_numpy(), "x")
    found = pd.DataFrame(matrix.toarray(), columns=description.encoder.names)
    age = np.array([20, 40, 40, 60])
    expected = {
        "age": (age - 40) / age[[0, 2, 3]].std(),
        "age_missing": [0, 1, 0, 0],
        "sex_f": [1, 0, 2 / 3, 1],
        "sex_m": [0, 1, 1 / 3, 0],
        "sex_missing": [0, 0, 1, 0],
        "member": [1, 0, 1 / 3, 0],
        "member_missing": [0, 0, 1, 0],
        "likes_a": [1, 0, 0, 1 / 3],
        "likes_b": [1, 1, 0, 2 / 3],
        "likes_missing": [0, 0, 0, 1],
    }
    assert list(found) == list(expected)
    assert_allclose(found, pd.DataFrame(expected), atol=1e-12)


@pytest.mark.parametrize(
    "container", [np.asarray, sparse.csr_array, np.ma.masked_invalid]
)
def test_a_matrix_may_have_missing_numbers(container):
    values = np.array([[1, 0], [np.nan, 0], [0, 4.0], [1, 2.0]])
    with pytest.warns(UserWarning, match="values for 1 of 4 ids: 1 in all"):
        description, matrix = ColdRows.of(container(values), np.arange(4), "x")
    assert description.encoder.names == ["0", "1", "0_missing"]
    assert_allclose(matrix.toarray()[:, 0], [1, 2 / 3, 0, 1])
    assert_allclose(matrix.toarray()[:, 2], [0, 1, 0, 0])


def test_values_missing_later_have_the_mean_of_the_fit():
    ids = FRAME.index.to_numpy()
    description, matrix = ColdRows.of(FRAME, ids, "x")
    later = FRAME.iloc[:1].set_axis(["eve"]).assign(age=None, sex=None)
    text = pl.DataFrame({"id": ["eve"], **dict.fromkeys(FRAME)}, strict=False)
    text = text.with_columns(pl.col("age").cast(pl.String), member=pl.lit(True))
    for table in (later, text):
        with pytest.warns(
            UserWarning, match=r"1 ids: 1 in column 'age', 1 in .* 'sex'"
        ):
            _, row = description.rows_of(np.array(["eve"]), table, "x")
        expected = matrix.toarray()[:, :3].mean(axis=0)
        assert_allclose(row.toarray()[0, :3], expected, atol=1e-12)


CODES = {
    "pandas": pd.DataFrame({"plan": pd.Categorical([7, 9, 7])}),
    "pandas, in another order": pd.DataFrame(
        {"plan": pd.Categorical([7, 9, 7], categories=[9, 8, 7])}
    ),
    "pandas, strings": pd.DataFrame({"plan": ["7", "9", "7"]}, dtype="category"),
    "pandas, arrow": pd.DataFrame(
        {"plan": pd.arrays.ArrowExtensionArray(pa.array([7, 9, 7]).dictionary_encode())}
    ),
    "pyarrow": pa.table(
        {"id": [0, 1, 2], "plan": pa.array([7, 9, 7]).dictionary_encode()}
    ),
    "polars": pl.DataFrame(
        {"id": [0, 1, 2], "plan": pl.Series(["7", "9", "7"], dtype=pl.Categorical)}
    ),
}


@pytest.mark.parametrize("table", CODES.values(), ids=CODES)
def test_codes_of_categories_are_no_numbers(table):
    names, matrix = encoded(table)
    assert names == ["plan_7", "plan_9"]
    assert_array_equal(matrix, [[1, 0], [0, 1], [1, 0]])


def test_categories_of_another_kind_than_in_fit_are_refused():
    description, _ = ColdRows.of(CODES["pandas"], np.arange(3), "x")
    with pytest.raises(
        ValueError, match=r"x\['plan'\] .* like 7, as in fit, not l.*'7"
    ):
        description.rows_of(np.array([5]), CODES["polars"], "x")


def test_a_table_as_long_as_x_may_have_been_cut():
    ids = np.arange(4)
    with pytest.raises(
        ValueError, match=r"x has as many rows as X, 6\..*x=lambda: tab"
    ):
        ColdRows.of(np.eye(6), ids, "x", n_rows=6)
    description, matrix = ColdRows.of(lambda: np.eye(6), ids, "x", n_rows=6)
    assert_array_equal(matrix.toarray(), np.eye(6)[:4])
    frame = pd.DataFrame({"odd": ids % 2})
    # Whether it was cut or not, it is read by id, and no id lacks a row.
    ColdRows.of(frame, ids, "x", n_rows=4)
    with pytest.raises(ValueError, match=r"x lacks 1 of 4: 3, and it .*cut.*x=lambda:"):
        ColdRows.of(frame[:3], ids, "x", n_rows=3)
    with pytest.warns(UserWarning, match="should have a row for every id of X"):
        ColdRows.of(lambda: frame[:3], ids, "x", n_rows=3)
    with pytest.raises(ValueError, match="x has as many rows as X, 7"):
        description.rows_of(np.array([4]), np.zeros((7, 6)), "x", n_rows=7)
    assert description.rows_of(np.array([4]), np.zeros((7, 6)), "x")[0].all()


@pytest.mark.parametrize("ids", ["name", "index", "other"])
def test_a_table_without_rows_lacks_all_ids(ids):
    table = pd.DataFrame({"item": ["a"], "n": [1.0], "kind": ["x"], "tags": [["y"]]})
    table = table.set_index("item") if ids == "index" else table
    id_name = None if ids == "other" else "item"
    with pytest.raises(ValueError, match="must have a row for every id of X, but lac"):
        ColdRows.of(table[:0], np.array(["a", "b"], dtype=object), "x", id_name=id_name)


def test_ids_with_several_missing_values_count_once():
    table = pd.DataFrame({"v": [1, np.nan, 3, 4], "w": ["a", None, None, "b"]})
    message = "x has missing values for 2 of 4 ids: 1 in column 'v', 2 in column 'w'"
    with pytest.warns(UserWarning, match=message):
        ColdRows.of(table, np.arange(4), "x")
