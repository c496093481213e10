"""Datetimes as categories, alone and in pipelines."""

from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from skrec import MFRegressor
from skrec.preprocessing import UNITS, WEEKDAYS, DatetimeBins

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
    "numbers in a list": [[second] for second in SECONDS.tolist()],
    "dates and times": pd.DataFrame({"time": TIMES.to_pydatetime()}, dtype=object),
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
    bins.fit(two.to_numpy())
    assert not hasattr(bins, "feature_names_in_")
    assert bins.get_feature_names_out()[-1] == "x1_hour"
    assert bins.get_feature_names_out(["a", "b"])[0] == "a_month"
    assert clone(bins).get_params() == bins.get_params()


@pytest.mark.parametrize("container", [pd.DataFrame, pl.DataFrame, pa.table])
def test_columns_are_those_of_fit(container):
    made, read = (TIMES.to_pydatetime() + timedelta(days) for days in (0, 400))
    two = {"made": made, "read": read}
    bins = DatetimeBins("year").fit(container(two))
    peer = OrdinalEncoder().fit(pd.DataFrame(two))
    assert bins.feature_names_in_.tolist() == ["made", "read"]
    with pytest.raises(ValueError, match="be in the same order as they were in fit"):
        bins.transform(container({"read": read, "made": made}))
    with pytest.raises(ValueError, match=r"(?s)should match.*unseen at fit.*more"):
        bins.transform(container({"made": made, "more": read}))
    for names in (["a", "b", "c"], ["read", "made"], ["made"]):
        for fitted in (bins, peer):
            with pytest.raises(ValueError, match="input_features"):
                fitted.get_feature_names_out(names)
    by_place = DatetimeBins("year").fit(FRAME.to_numpy())
    with pytest.raises(ValueError, match="2 features, but DatetimeBins is expecting 1"):
        by_place.transform(FRAME.assign(more=TIMES).to_numpy())


@given(st.lists(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 30)), min_size=1))
@example([datetime(1969, 12, 31, 23, 59, 59, 999_999)])
@example([datetime(2023, 12, 31, 23, 59, 59, 999_999)])
def test_numbers_are_the_datetimes_that_they_count(times):
    fitted = DatetimeBins(["weekday", "month", "hour"]).fit(FRAME.to_numpy())
    expected = [
        [WEEKDAYS[t.weekday()], f"{t.month:02d}", f"{t.hour:02d}"] for t in times
    ]
    since = [t - datetime(1970, 1, 1) for t in times]
    for unit, microseconds in {"s": 10**6, "ms": 10**3, "us": 1}.items():
        numbers = [[s // timedelta(microseconds=microseconds)] for s in since]
        bins = fitted.set_params(unit=unit).transform(np.array(numbers))
        assert bins.tolist() == expected


def test_nanoseconds_are_not_rounded():
    last = pd.Timestamp("2023-12-31 23:59:59.999999999").value
    bins = DatetimeBins(["year", "hour"], unit="ns")
    for X in ([[last]], np.array([[last]]), pl.DataFrame({"time": [last]})):
        assert bins.fit_transform(X).tolist() == [["2023", "23"]]


@pytest.mark.parametrize(
    "values",
    [
        ["13/01/1998", "05/02/1998"],
        ["1998-01-13", "05/02/1998"],
        ["1998-01-13", "now"],
        ["1998-01-13", "today"],
        ["1998-01-13", "884649600"],
        ["1998-01-13", b"1998-01-13"],
        [b"1998-01-13"],
        [5, "1998-01-01"],
        [pd.Timestamp("1998-01-01"), "1998-01-02"],
        [5, pd.Timestamp("1998-01-01")],
        [True, False],
        [pd.Period("1998-01")],
        [pd.Timedelta(1, "D")],
        [3.0, np.inf],
    ],
)
def test_values_that_are_no_times_are_refused(values):
    X = pd.DataFrame({"time": pd.Series(values, dtype=object)})
    message = r"column 0 of X \('time'\) (holds text|must hold)"
    for refuses in (DatetimeBins().fit, DatetimeBins().fit(FRAME).transform):
        with pytest.raises(ValueError, match=message):
            refuses(X)


def test_rows_are_read_alone_as_among_others():
    text = ["1998-02-14", "1998-03-02 20:05", "19980401", "1998-05", None]
    bins = DatetimeBins().fit(FRAME)
    X = pd.DataFrame({"time": text})
    alone = [bins.transform(X[row : row + 1])[0] for row in range(len(X))]
    assert_array_equal(bins.transform(X), alone)
    assert [row[0] for row in alone] == ["02", "03", "04", "05", "missing"]
    days = TIMES.strftime("%d/%m/%Y")
    with pytest.raises(ValueError, match="such as '14/02/1998'"):
        bins.transform(FRAME.assign(time=days))
    read = pd.to_datetime(days, format="%d/%m/%Y")
    months = bins.transform(FRAME.assign(time=read))[:, 0]
    assert months.tolist() == EXPECTED["month"]


@pytest.mark.parametrize(
    ("given", "per_second"), [("ms", 10**3), ("us", 10**6), ("ns", 10**9)]
)
def test_numbers_of_a_finer_unit_are_refused_by_its_name(given, per_second):
    X = per_second * (10**9 + np.arange(3)[:, None])
    for table in (X, X.astype(float), X.tolist()):
        with pytest.raises(ValueError, match=f"unit='s', .*Give unit='{given}', in"):
            DatetimeBins().fit(table)
    late = pd.DataFrame({"time": np.array([10**12], dtype="M8[s]")})
    with pytest.raises(ValueError, match=r"beyond the year 9999.*unit='ms'"):
        DatetimeBins().fit(late)


@pytest.mark.parametrize(
    ("X", "unit"),
    [
        ([[10**9], [10**9 + 5]], "ms"),
        ([[1998], [1999]], "s"),
        ([[20240131], [20240201]], "s"),
        ([[10**9], [None]], "ns"),
        (pd.to_datetime(pd.Series([10**9])).to_frame(), "s"),
    ],
)
def test_numbers_of_a_coarser_unit_warn(X, unit):
    with pytest.warns(UserWarning, match="are in 1970, .* Check unit="):
        DatetimeBins(unit=unit).fit(X)


@pytest.mark.parametrize("units", ["decade", [], ["month", 3], 5, None, [["month"]]])
def test_unknown_units_are_refused(units):
    with pytest.raises(ValueError, match=r"units must be some of .* such as \['month'"):
        DatetimeBins(units).fit(FRAME)
    with pytest.raises(ValueError, match="units must be some of"):
        DatetimeBins().fit(FRAME).set_params(units=units).transform(FRAME)


@pytest.mark.parametrize(
    "timezone", ["", "Mars/X", "Europe", "../UTC", "Europe/Paris ", 5, True, ["UTC"]]
)
def test_unknown_zones_are_refused(timezone):
    with pytest.raises(ValueError, match=r"timezone must be None or the.*Europe/P"):
        DatetimeBins(timezone=timezone).fit([[None]])


@pytest.mark.parametrize("zone", ["+02:00", timezone(timedelta(hours=2))])
def test_zones_are_names_offsets_and_objects(zone):
    bins = DatetimeBins("hour", timezone=zone).fit_transform(FRAME)
    assert bins[:, 0].tolist() == ["22", "01", "02"]


def test_wrong_tables_are_refused():
    with pytest.raises(
        ValueError, match=r"X must have columns of datetimes.*shape \(3"
    ):
        DatetimeBins().fit(TIMES.to_numpy())
    with pytest.raises(ValueError, match=r"no column of datetimes, got shape \(3, 0"):
        DatetimeBins().fit(FRAME[[]])
    for unit in ("h", None, ["s"]):
        with pytest.raises(ValueError, match="unit must be 's', 'ms'"):
            DatetimeBins(unit=unit).fit(FRAME)


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
