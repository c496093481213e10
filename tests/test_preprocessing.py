"""Datetimes as categories, alone and in pipelines."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skrec import MFRegressor
from skrec.preprocessing import UNITS, DatetimeBins

TIMES = pd.to_datetime(["1998-02-14 20:05", "1998-12-31 23:30", "1999-01-01 00:00"])
EXPECTED = {
    "year": ["1998", "1998", "1999"],
    "quarter": ["Q1", "Q4", "Q1"],
    "month": ["02", "12", "01"],
    "week": ["1998-W07", "1998-W53", "1998-W53"],
    "day": ["1998-02-14", "1998-12-31", "1999-01-01"],
    "weekday": ["Sat", "Thu", "Fri"],
    "hour": ["20", "23", "00"],
}
FRAME = pd.DataFrame({"time": TIMES})
SECONDS = (TIMES - pd.Timestamp(0)) // pd.Timedelta("1s")
TABLES = {
    "pandas": FRAME,
    "polars": pl.DataFrame(FRAME),
    "pyarrow": pa.Table.from_pandas(FRAME),
    "array": FRAME.to_numpy(),
    "strings": FRAME.astype(str),
    "objects": FRAME.astype(object),
    "seconds": pd.DataFrame({"time": SECONDS}),
    "floats": pd.DataFrame({"time": SECONDS.astype(float)}),
    "of a zone": FRAME.apply(lambda column: column.dt.tz_localize("UTC")),
}


def test_every_unit_is_expected():
    assert EXPECTED.keys() == UNITS.keys()


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_bins_of_every_container_are_the_same(table):
    bins = DatetimeBins(list(EXPECTED)).fit_transform(table)
    assert bins.dtype == object
    assert_array_equal(bins.T, list(EXPECTED.values()))


def test_milliseconds_and_zones():
    in_paris = DatetimeBins("hour", timezone="Europe/Paris")
    assert in_paris.fit_transform(FRAME)[:, 0].tolist() == ["21", "00", "01"]
    aware = FRAME.apply(lambda c: c.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"))
    assert_array_equal(in_paris.transform(aware), in_paris.transform(FRAME))
    counted = DatetimeBins("day", unit="ms").fit_transform(
        1000 * SECONDS.to_numpy()[:, None]
    )
    assert counted[:, 0].tolist() == EXPECTED["day"]


def test_missing_times_are_a_category():
    table = FRAME.assign(time=[TIMES[0], pd.NaT, TIMES[2]])
    assert DatetimeBins("month").fit_transform(table)[:, 0].tolist() == [
        "02",
        "missing",
        "01",
    ]


def test_names_are_those_of_columns_and_units():
    two = FRAME.assign(asked=TIMES)
    bins = DatetimeBins(["month", "hour"]).set_output(transform="pandas").fit(two)
    names = ["time_month", "time_hour", "asked_month", "asked_hour"]
    assert bins.transform(two).columns.tolist() == names
    assert bins.feature_names_in_.tolist() == ["time", "asked"]
    assert bins.get_feature_names_out(["a", "b"])[0] == "a_month"
    bins.fit(two.to_numpy())
    assert bins.get_feature_names_out()[-1] == "x1_hour"
    assert clone(bins).get_params() == bins.get_params()


@pytest.mark.parametrize("units", ["decade", [], ["month", 3]])
def test_unknown_units_are_refused(units):
    with pytest.raises(ValueError, match=r"units must be some of .* such as \['month'"):
        DatetimeBins(units).fit(FRAME)


def test_wrong_tables_are_refused():
    with pytest.raises(
        ValueError, match=r"X must have columns of datetimes.*shape \(3"
    ):
        DatetimeBins().fit(TIMES.to_numpy())
    with pytest.raises(ValueError, match="column 'time' must hold datetimes"):
        DatetimeBins().fit(FRAME.assign(time="noon or so"))
    with pytest.raises(ValueError, match="unit must be 's', 'ms'"):
        DatetimeBins(unit="h").fit(FRAME)
    with pytest.raises(ValueError, match="2 columns, but DatetimeBins was fitted to 1"):
        DatetimeBins().fit(FRAME).transform(FRAME.assign(more=TIMES))


@pytest.mark.parametrize("output", ["default", "pandas", "polars"])
def test_a_pipeline_learns_from_times(output):
    rng = np.random.default_rng(0)
    n = 1500
    times = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(730, size=n), "D")
    X = pd.DataFrame(
        {
            "user": rng.integers(20, size=n),
            "item": rng.integers(9, size=n),
            "time": times,
        }
    )
    y = rng.normal(size=(9, 12))[X["item"], times.month - 1] + rng.normal(size=n) / 5
    bins = ColumnTransformer(
        [
            ("ids", "passthrough", ["user", "item"]),
            ("time", DatetimeBins("month"), ["time"]),
        ],
        verbose_feature_names_out=False,
    ).set_output(transform=output)
    pipe = make_pipeline(bins, MFRegressor(2, rank_by="rating"))
    assert pipe.fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > 0.8
    names = pipe[-1].feature_effects()["feature"]
    assert len(names) == 12
    if output == "pandas":
        assert names[0] == "time_month_01"


def test_a_search_finds_the_unit():
    rng = np.random.default_rng(0)
    times = pd.Timestamp("2020-01-01") + pd.to_timedelta(
        rng.integers(9000, size=300), "h"
    )
    X = pd.DataFrame({"user": rng.integers(9, size=300), "item": 0, "time": times})
    y = 1.0 * (times.hour < 8) + rng.normal(size=300) / 5
    columns = make_column_transformer(
        ("passthrough", ["user", "item"]), (DatetimeBins(), ["time"])
    )
    search = GridSearchCV(
        make_pipeline(columns, MFRegressor(0, rank_by="rating")),
        {"columntransformer__datetimebins__units": ["weekday", "hour"]},
        cv=2,
    )
    found = search.fit(X, y).best_params_
    assert found == {"columntransformer__datetimebins__units": "hour"}
