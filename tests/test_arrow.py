"""Rows from Parquet files and batches of Arrow, against the same rows in memory."""

import datetime
import decimal
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from helpers import small, unconverged
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from pandas.testing import assert_frame_equal
from pyarrow import dataset, parquet
from sklearn.model_selection import GridSearchCV

import skrec
from skrec import MFRegressor
from skrec.datasets import from_arrow, make_ratings

UTC = datetime.UTC
DAYS = [datetime.datetime(2024, 1, day) for day in (3, 1, 2)]
IDS = {
    "strings": pa.array(["bob", "ann", "çem"]),
    "large strings": pa.array(["bob", "ann", "çem"], pa.large_string()),
    "bytes": pa.array([b"b", b"a", b"c"]),
    "integers": pa.array([7, -2, 2**62]),
    "small integers": pa.array([7, 3, 200], pa.uint8()),
    "whole floats": pa.array([7.0, 3.0, 5.0]),
    "booleans": pa.array([True, False, True]),
    "dates": pa.array([day.date() for day in DAYS]),
    "datetimes": pa.array(DAYS, pa.timestamp("us")),
    "instants": pa.array(
        [d.replace(tzinfo=UTC) for d in DAYS], pa.timestamp("us", "UTC")
    ),
    "decimals": pa.array([decimal.Decimal(3), decimal.Decimal(1), decimal.Decimal(2)]),
    "categories": pa.array(["bob", "ann", "çem"]).dictionary_encode(),
}


def log(users=IDS["strings"], n_rows=40):
    """A table with repeated pairs, of three users and of items that are numbers."""
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "rating": rng.integers(1, 6, n_rows).astype(float),
            "user": users.take(pa.array(rng.integers(3, size=n_rows))),
            "item": rng.integers(10, 16, n_rows),
            "hour": rng.integers(24, size=n_rows),
            "weight": rng.random(n_rows),
        }
    )


def in_memory(table, names=("user", "item")):
    return table.select(list(names)), table.column("rating")


@pytest.mark.parametrize("kind", IDS)
def test_fits_are_those_of_the_same_rows_in_memory(kind):
    table = log(IDS[kind])
    X, y = from_arrow(table.to_batches(max_chunksize=7))
    with unconverged():
        found = MFRegressor(2, max_iter=3).fit(X, y)
        expected = MFRegressor(2, max_iter=3).fit(*in_memory(table))
    assert_array_equal(found.user_ids_, expected.user_ids_)
    assert found.user_ids_.dtype.kind == expected.user_ids_.dtype.kind
    assert_array_equal(found.item_ids_, expected.item_ids_)
    predicted = expected.predict(in_memory(table)[0])
    assert_array_equal(found.predict(X), predicted)
    assert_array_equal(found.predict(in_memory(table)[0]), predicted)
    assert_array_equal(found.recommend(n_items=2), expected.recommend(n_items=2))


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.text(max_size=2), st.integers(-3, 3), st.floats(-9, 9)), min_size=1
    ),
    st.integers(1, 5),
)
def test_rows_are_those_of_the_batches_in_their_order(rows, size):
    users, items, ratings = (list(column) for column in zip(*rows, strict=True))
    table = pa.table({"user": users, "item": items, "rating": ratings})
    X, y = from_arrow(table.to_batches(max_chunksize=size))
    assert X["user"].tolist() == users
    assert X["item"].tolist() == items
    assert_array_equal(y, np.array(ratings))
    for name in ("user", "item"):
        assert isinstance(X[name].dtype, pd.CategoricalDtype)
        assert X[name].cat.categories.is_monotonic_increasing


def test_all_sources_are_the_same_rows(tmp_path):
    table, folder = log(), tmp_path / "parts"
    file = tmp_path / "ratings.parquet"
    parquet.write_table(table, file, row_group_size=9)
    folder.mkdir()
    parquet.write_table(table[:15], folder / "part-0.parquet")
    parquet.write_table(table[15:], folder / "part-1.parquet")
    sources = [
        str(file),
        file,
        folder,
        dataset.dataset(file),
        parquet.ParquetFile(file),
        table,
        table.combine_chunks().to_batches()[0],
        [table[:11], table[11:11], table[11:]],
        tuple(table.to_batches()),
        lambda: (part for part in table.to_batches(max_chunksize=3)),
        lambda: table.to_reader(max_chunksize=3),
    ]
    expected = from_arrow(table.to_batches())
    for source in sources:
        X, y = from_arrow(source)
        assert_frame_equal(X, expected[0])
        assert_array_equal(y, expected[1])


def test_folders_are_named_by_values_of_columns(tmp_path):
    table = log()
    parquet.write_to_dataset(table, tmp_path / "log", partition_cols=["item"])
    X, y = from_arrow(tmp_path / "log", context=["hour"])
    names = ["user", "item", "hour"]
    expected, rating = from_arrow(table, context=["hour"])
    assert_frame_equal(
        X.assign(y=y).sort_values([*names, "y"], ignore_index=True),
        expected.assign(y=rating).sort_values([*names, "y"], ignore_index=True),
        check_categorical=False,
        check_dtype=False,
    )


def test_columns_are_chosen_by_name():
    table = log().rename_columns(["stars", "customer", "product", "hour", "n"])
    X, y, weight = from_arrow(
        table,
        user="customer",
        item="product",
        rating="stars",
        context=["hour"],
        sample_weight="n",
    )
    assert list(X) == ["customer", "product", "hour"]
    assert_array_equal(X["hour"], table.column("hour"))
    assert_array_equal(weight, table.column("n"))
    with unconverged():
        found = MFRegressor(2, max_iter=3).fit(X, y, weight)
        expected = MFRegressor(2, max_iter=3).fit(
            table.select(["customer", "product", "hour"]),
            table.column("stars"),
            table.column("n"),
        )
    assert_array_equal(found.predict(X), expected.predict(X))
    assert list(found.feature_names_in_) == ["customer", "product", "hour"]
    choices, nothing = from_arrow(table, user="customer", item="product", rating=None)
    assert nothing is None
    assert MFRegressor().fit(choices).recommend(n_items=1).shape == (3, 1)


def test_context_has_the_values_that_fit_reads_in_a_table():
    kinds = {
        "text": pa.array(["b", "a", "ç"]),
        "large": pa.array(["b", "a", "ç"], pa.large_string()),
        "coded": pa.array(["b", "a", "ç"]).dictionary_encode(),
        "grades": pa.array([3, 10, 9]).dictionary_encode(),
        "bools": pa.array([True, False, True]),
        "numbers": pa.array([0.5, 0.25, 4.0]),
    }
    table, rng = log(), np.random.default_rng(1)
    for name, values in kinds.items():
        rows = values.take(pa.array(rng.integers(3, size=len(table))))
        table = table.append_column(name, rows)
    X, y = from_arrow(table.to_batches(7), context=list(kinds))
    names = {name: str(dtype) for name, dtype in X.dtypes.items()}
    assert [name for name in kinds if names[name] == "category"] == list(kinds)[:4]
    assert names["bools"] == "bool"
    together = table.select(["user", "item", *kinds])
    for rows in (together, together.to_pandas()):
        model = MFRegressor(2, max_iter=40, tol=1).fit(rows, y)
        found = MFRegressor(2, max_iter=40, tol=1).fit(X, y)
        assert_array_equal(found.predict(X), model.predict(rows))
        assert_array_equal(found.predict(rows), model.predict(X))
        assert_frame_equal(found.feature_effects(), model.feature_effects())


def test_a_row_takes_twelve_bytes_or_less():
    X, y = from_arrow(log())
    assert X.dtypes.map(lambda dtype: dtype.name).tolist() == ["category"] * 2
    assert y.dtype == np.float32
    # Tenths have no exact single precision.
    tenths = log().set_column(0, "rating", pa.array(np.arange(40) / 10))
    assert_array_equal(from_arrow(tenths)[1], np.arange(40) / 10)
    for n_ids, size in ((100, 1), (30_000, 2), (40_000, 4)):
        ids = np.arange(n_ids)
        many, _ = from_arrow(pa.table({"user": ids, "item": ids, "rating": ids}))
        assert many["user"].cat.codes.dtype.itemsize == size


def test_few_batches_exist_at_once():
    made, most = [], 0

    def batches():
        nonlocal most
        for _ in range(20):
            batch = log().combine_chunks().to_batches()[0]
            made.append(weakref.ref(batch))
            most = max(most, sum(ref() is not None for ref in made))
            yield batch

    X, _ = from_arrow(batches)
    assert len(X) == 800
    assert len(made) == 40
    assert most <= 3


def test_searches_take_the_rows():
    X, y = make_ratings(60, 40, 900, random_state=0)
    table = pa.Table.from_pandas(X.assign(rating=y))
    best = [
        GridSearchCV(small(), {"n_factors": [0, 2]}, cv=3).fit(*rows)
        for rows in ((X, y), from_arrow(table))
    ]
    assert_array_equal(*(search.cv_results_["mean_test_score"] for search in best))


def test_bad_sources_are_refused(tmp_path):
    table = log()
    batches = table.to_batches(max_chunksize=10)
    with pytest.raises(ValueError, match="no column 'stars'; its columns are"):
        from_arrow(table, rating="stars")
    twice = pa.table([table["user"]] * 2, names=["user", "user"])
    with pytest.raises(ValueError, match="several columns 'user'"):
        from_arrow(twice)
    with pytest.raises(TypeError, match="read twice, got generator"):
        from_arrow(batch for batch in batches)
    with pytest.raises(TypeError, match="got RecordBatchReader"):
        from_arrow(table.to_reader())
    for source in (None, 3, {"user": [1]}):
        with pytest.raises(TypeError, match="source must be the path"):
            from_arrow(source)
    frame = table.to_pandas()
    for held, source in {
        "list holds a DataFrame": [frame],
        "DataFrame holds a str": frame,
        "DataFrame holds a Series": pl.DataFrame(table),
        "list holds a str": ["a.parquet", "b.parquet"],
    }.items():
        with pytest.raises(TypeError, match=f"{held}.* X = frame.*dataset"):
            from_arrow(source)
    with pytest.raises(FileNotFoundError):
        from_arrow(tmp_path / "absent.parquet")
    with pytest.raises(ValueError, match="no rows"):
        from_arrow(table[:0])
    with pytest.raises(ValueError, match="no rows"):
        from_arrow([])
    other = batches[2].set_column(1, "user", pa.array(np.arange(10)))
    with pytest.raises(TypeError, match=r"'user' .* type string .* int64 in batch 2"):
        from_arrow([*batches[:2], other])
    left = iter([batches, batches[:2]])
    with pytest.raises(ValueError, match="40 rows at the first reading"):
        from_arrow(lambda: next(left))
    left = iter([batches[:2], batches])
    with pytest.raises(ValueError, match="20 rows at the first reading"):
        from_arrow(lambda: next(left))
    left = iter([[log(IDS["strings"])], [log(pa.array(["x", "y", "z"]))]])
    with pytest.raises(ValueError, match="other ones at the second"):
        from_arrow(lambda: next(left))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"user": "item"}, "user and item both are the column 'item'"),
        ({"item": "rating"}, "item and rating both are the column 'rating'"),
        ({"context": ["hour", "user"]}, r"user and context\[1\] both are"),
        ({"context": ["rating"]}, r"rating and context\[0\] both are"),
        ({"context": ["hour", "hour"]}, r"context\[0\] and context\[1\] both are"),
        ({"sample_weight": "item"}, "item and sample_weight both are"),
        ({"context": "hour"}, r"context must be a list.*'hour'\], got 'hour'"),
        ({"context": None}, r"context must be a list.*got None"),
        ({"context": [3]}, r"context\[0\] must be the name of a column.*got 3"),
        ({"user": None}, "user must be the name of a column.*got None"),
        ({"rating": ""}, "source has no column ''"),
        ({"sample_weight": ""}, "source has no column ''"),
    ],
)
def test_a_column_has_one_place(names, message):
    with pytest.raises((TypeError, ValueError), match=message):
        from_arrow(log(), **names)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "user",
            ["a", None, "b"],
            "'user' of source, from row 3 on, holds 1 missing id",
        ),
        ("item", [1.0, np.nan, 2.0], "'item' of source, .* holds 1 missing id"),
        ("item", [[1], [2], [3]], "nested"),
        ("rating", [1.0, None, 2.0], r"finite numbers, .* 1 row.*Leave [\w ]+\.$"),
        ("rating", [1.0, np.inf, 2.0], "finite numbers, .* 1 row"),
        ("rating", ["1", "2", "good"], r"must be numeric, .* by pd.to_numeric"),
        ("hour", ["a", None, "b"], "'hour' of source, .* is missing for 1 row .*fill_"),
        (
            "hour",
            pa.DictionaryArray.from_arrays([0, 1, 0], ["a", None]),
            "'hour' of source, .* is missing for 1 row .*fill_",
        ),
        (
            "hour",
            pa.DictionaryArray.from_arrays([0, 1, 0], [1.0, np.nan]),
            "'hour' of source, .* is missing for 1 row",
        ),
        ("hour", [True, None, True], "'hour' of source, .* is missing for 1 row"),
        ("hour", DAYS, "'hour' of source, .* holds dates: .*DatetimeBins"),
        ("hour", [1.5, None, 2.0], "'hour' of source, .* 1 row .* the median"),
    ],
)
def test_bad_values_are_refused_with_their_place(name, values, message):
    columns = {"user": ["a", "b", "c"], "item": [1, 2, 3], "rating": [1.0, 2.0, 3.0]}
    columns["hour"] = [1, 2, 3]
    bad = pa.table(columns | {name: values})
    good = pa.table(
        columns | {name: pa.array([values[0]] * 3, bad.schema.field(name).type)}
    )
    with pytest.raises((TypeError, ValueError), match=message):
        from_arrow([good, bad], context=["hour"])


def test_without_pyarrow_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        from_arrow("ratings.parquet")


def test_estimators_refuse_files_and_batches_with_the_way_to_read_them(tmp_path):
    parquet.write_table(log(), tmp_path / "ratings.parquet")
    for X in (
        "ratings.parquet",
        tmp_path / "ratings.parquet",
        dataset.dataset(tmp_path / "ratings.parquet"),
        parquet.ParquetFile(tmp_path / "ratings.parquet"),
        (batch for batch in log().to_batches()),
        log().to_batches(),
    ):
        with pytest.raises(TypeError, match="from_arrow"):
            MFRegressor().fit(X, [1.0] * 40)


def test_sweeps_do_not_hold_the_rows_that_were_read(monkeypatch):
    from skrec._data.interactions import Interactions

    X, y = make_ratings(200, 100, 10_000, random_state=0)
    found = []

    def watch(*progress):
        gc.collect()
        read = (o for o in gc.get_objects() if type(o) is Interactions)
        found.append([type(o) for o in read if o.n_rows == len(y)])

    monkeypatch.setattr("skrec._iterations.print_progress", watch)
    with unconverged():
        MFRegressor(2, max_iter=2).fit(X, y)
    assert found == [[], []]


PEAK = """
import sys, warnings
import numpy as np
from skrec import MFRegressor
from skrec.datasets import from_arrow

def mebibytes(name):
    with open("/proc/self/status") as lines:
        return next(int(l.split()[1]) for l in lines if l.startswith(name)) / 1024

warnings.simplefilter("ignore")
few, many = sys.argv[1:]
model = MFRegressor(16, max_iter=1).fit(*from_arrow(few))
before = mebibytes("VmRSS")
X, y = from_arrow(many)
model.fit(X, y)
print((mebibytes("VmHWM") - before) * 2**20 / len(y))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_peak_of_memory_is_about_a_hundred_bytes_a_rating(tmp_path):
    files = [str(tmp_path / name) for name in ("few.parquet", "many.parquet")]
    X, y = make_ratings(4000, 500, 600_000, random_state=0)
    table = pa.Table.from_pandas(X.assign(rating=y))
    for file, n_rows in zip(files, (40_000, 600_000), strict=True):
        parquet.write_table(table[:n_rows], file)
    root = str(Path(skrec.__file__).parents[1])
    found = subprocess.run(
        [sys.executable, "-c", PEAK, *files],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root},
        check=True,
        capture_output=True,
    )
    # 82 where ratings are many; the rest are blocks of rows. It was 280 in double
    # precision with all rows held twice.
    assert float(found.stdout) < 170, found.stdout
