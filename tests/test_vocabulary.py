"""Raw ids of every kind, their row numbers, and their growth by further ids."""

import datetime
import itertools
import re
import string

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal

from skrec._data.reading import read_pairs
from skrec._data.vocabulary import Growth, Ids, inserted, numbered


def union(fitted, ids):
    """Sorted ids of a model that further ids have been put between."""
    further = np.sort(ids)
    return Growth.of(fitted, further, numbered(further, fitted)).ids


INT64 = np.iinfo(np.int64)
SEVERAL = {"min_size": 1, "max_size": 20}


def as_objects(values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def ids_of(values):
    return Ids.from_column(values, "ids")


def arrays(dtype, elements=None):
    return hnp.arrays(dtype, st.integers(1, 20), elements=elements)


def object_arrays(elements):
    return st.lists(elements, **SEVERAL).map(as_objects)


ID_ARRAYS = {
    **{name: arrays(name) for name in ("int8", "int64", "uint64", "bool")},
    "datetime64[ns]": arrays("int64", st.integers(INT64.min + 1, INT64.max)).map(
        lambda nanoseconds: nanoseconds.view("datetime64[ns]")
    ),
    **{
        # Beyond, floats do not tell whole numbers apart.
        name: arrays(name, st.floats(1 - 2**digits, 2**digits - 1, width=bits))
        for name, bits, digits in (("float32", 32, 24), ("float64", 64, 53))
    },
    "fixed-width strings": arrays("<U4", st.text(string.ascii_letters, max_size=4)),
    "strings": object_arrays(st.text(max_size=4)),
    "bytes": object_arrays(st.binary(max_size=4)),
    "dates": object_arrays(st.dates()),
    "datetimes": object_arrays(st.datetimes()),
    "durations": object_arrays(
        st.timedeltas(datetime.timedelta(-9999), datetime.timedelta(9999))
    ),
    "UUIDs": object_arrays(st.uuids()),
    "Decimals": object_arrays(st.decimals(allow_nan=False, allow_infinity=False)),
}
KINDS = pytest.mark.parametrize("kind", ID_ARRAYS)


@KINDS
@given(data=st.data())
@settings(max_examples=40)
def test_ids_round_trip_in_their_own_dtype(kind, data):
    values = data.draw(ID_ARRAYS[kind])
    ids = ids_of(values)
    numbers, unique = ids.numbered()
    assert unique.dtype == values.dtype
    assert_array_equal(unique[numbers], values)
    assert unique.tolist() == sorted(set(values.tolist()))
    assert_array_equal(ids.numbered_in(unique), numbers)


@KINDS
@given(data=st.data())
@settings(max_examples=25)
def test_codes_of_categories_are_the_same_ids(kind, data):
    values = data.draw(ID_ARRAYS[kind])
    # The last category does not occur.
    *categories, _ = order = data.draw(st.permutations(pd.unique(values)))
    assume(categories)
    values = values[
        np.isin(pd.Index(order).get_indexer(values), range(len(categories)))
    ]
    column = pd.Series(pd.Categorical(values, categories=order))
    plain, coded = ids_of(np.asarray(column)), ids_of(column)
    assert (len(coded), coded.kind) == (len(plain), plain.kind)
    assert_array_equal(coded.values, plain.values)
    for found, expected in zip(coded.numbered(), plain.numbered(), strict=True):
        assert_array_equal(found, expected)
    assert coded.numbered()[1].dtype == plain.numbered()[1].dtype
    rows = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1))
    assert_array_equal(coded.take(np.array(rows)).values, plain.values[rows])
    fitted = plain.take(np.array(rows)).numbered()[1]
    assert_array_equal(coded.numbered_in(fitted), plain.numbered_in(fitted))
    assert coded.are_indicators() == plain.are_indicators()
    assert_array_equal(coded.fractions(), plain.fractions())


def test_missing_codes_of_categories_are_counted():
    column = pd.Series(pd.Categorical(["a", None, "b", None]))
    with pytest.raises(ValueError, match=r"2 missing ids .* 1, 3"):
        ids_of(column)
    with pytest.raises(ValueError, match="2 missing ids"):
        ids_of(pd.Series(pd.Categorical([None, None])))
    with pytest.raises(TypeError, match="mixes ids of types int, str"):
        ids_of(pd.Series(pd.Categorical(["a", 1, "a"])))


@KINDS
@given(data=st.data())
@settings(max_examples=25)
def test_an_id_that_was_not_fitted_has_no_number(kind, data):
    values = data.draw(ID_ARRAYS[kind])
    other, fitted = values[:1], values[1:][values[1:] != values[0]]
    assume(len(fitted))
    _, unique = ids_of(fitted).numbered()
    assert ids_of(other).numbered_in(unique).tolist() == [-1]


@given(
    values=st.lists(st.integers(-(2**63), 2**64), unique=True, **SEVERAL).map(
        as_objects
    )
)
@settings(max_examples=100)
def test_distinct_python_ints_are_distinct_ids(values):
    numbers, unique = ids_of(values).numbered()
    assert [unique.tolist()[n] for n in numbers] == values.tolist()


def test_a_whole_float_is_the_int_and_a_fraction_is_unknown():
    fitted = np.array([2, 3])
    asked = np.array([3.0, 2.5, 2.0])
    assert ids_of(asked).numbered_in(fitted).tolist() == [1, -1, 0]


def test_bools_and_the_numbers_0_and_1_are_the_same_ids():
    fitted = np.array([False, True])
    assert ids_of(np.array([1, 0])).numbered_in(fitted).tolist() == [1, 0]


NUMBERS = {
    "int8": np.array([-3, 2, 3], dtype=np.int8),
    "uint8": np.array([2, 3, 255], dtype=np.uint8),
    "int64": np.array([-(2**63), -3, 2, 3, 2**53, 2**53 + 1, 2**63 - 1]),
    "uint64": np.array([2, 3, 255, 2**53 + 1, 2**63, 2**64 - 1], dtype=np.uint64),
    "float32": np.array([-3, 0.5, 2, 3, 255], dtype=np.float32),
    "float64": np.array([-3, 0.5, 2, 3, 2**53 - 1.0]),
    "bool": np.array([False, True]),
    "objects": as_objects([-(2**63), -3, 2, 3, 2**53, 2**53 + 1, 2**64 - 1]),
    "huge objects": as_objects([2, 3, 2**53 + 1, 2**70]),
}
BOTH = pytest.mark.parametrize(
    ("asked", "fitted"), list(itertools.product(NUMBERS, NUMBERS))
)


@BOTH
def test_numbers_of_any_two_dtypes_are_equal_as_python_says(asked, fitted):
    asked, fitted = NUMBERS[asked], NUMBERS[fitted]
    expected = [
        fitted.tolist().index(value) if value in fitted.tolist() else -1
        for value in asked.tolist()
    ]
    assert ids_of(asked).numbered_in(fitted).tolist() == expected


@BOTH
def test_a_union_of_two_dtypes_holds_every_number(asked, fitted):
    asked, fitted = NUMBERS[asked], NUMBERS[fitted]
    expected = sorted({*asked.tolist(), *fitted.tolist()})
    fractions = any(value % 1 for value in expected)
    if fractions and max(map(abs, expected)) >= 2**53:
        with pytest.raises(ValueError, match="fractional part cannot be told from int"):
            union(fitted, asked)
    else:
        together = union(fitted, asked)
        assert together.tolist() == expected
        assert ids_of(fitted).numbered_in(together).min() >= 0


@pytest.mark.parametrize(("dtype", "digits"), [("f2", 11), ("f4", 24), ("f8", 53)])
def test_floats_that_have_merged_are_refused(dtype, digits):
    values = np.array([1, 2**digits - 1, 2**digits, -(2**digits)], dtype=dtype)
    with pytest.raises(ValueError, match=rf"ids holds 2 ids .*2, 3.* 2\*\*{digits} or"):
        ids_of(values)
    with pytest.raises(ValueError, match=rf"2\*\*{digits} or more"):
        ids_of(as_objects(list(values)))
    assert ids_of(values[:2]).values.tolist() == [1, 2**digits - 1]


ZONES = ["UTC", "Europe/Paris", "America/Lima", "Asia/Kolkata"]


@given(
    data=st.lists(
        st.tuples(
            st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1)),
            st.sampled_from(ZONES),
        ),
        **SEVERAL,
    )
)
@settings(max_examples=40)
def test_datetimes_of_a_zone_are_equal_if_they_are_the_same_instant(data):
    instants = [pd.Timestamp(time, tz="UTC") for time, _ in data]
    in_zones = [
        instant.tz_convert(zone)
        for instant, (_, zone) in zip(instants, data, strict=True)
    ]
    python = [value.to_pydatetime() for value in in_zones]
    _, expected = ids_of(as_objects(instants)).numbered()
    assert expected.tolist() == sorted(set(instants))
    one_zone = pd.Series(instants).dt.tz_convert("Asia/Tokyo")
    for column in (
        as_objects(in_zones),
        as_objects(python),
        one_zone,
        one_zone.astype(pd.ArrowDtype(pa.timestamp("us", "Asia/Tokyo"))),
        one_zone.astype("category"),
        pl.Series(one_zone),
        pa.chunked_array([pa.array(one_zone)]),
    ):
        numbers, found = ids_of(column).numbered()
        assert found.tolist() == expected.tolist()
        assert [found[n] for n in numbers] == instants


def test_datetimes_with_and_without_a_zone_are_not_compared():
    naive = pd.Series(pd.date_range("2026-01-01", periods=3))
    aware = naive.dt.tz_localize("UTC")
    for asked, fitted in ((naive, aware), (aware, naive), (naive.tolist(), aware)):
        with pytest.raises(TypeError, match=r"kind 'date.*fitted on .* kind 'date"):
            ids_of(asked).numbered_in(ids_of(fitted).numbered()[1])
    with pytest.raises(TypeError, match="mixes datetimes with and without a time zone"):
        ids_of(as_objects([naive[0], aware[0]]))


@KINDS
@given(data=st.data())
@settings(max_examples=40)
def test_a_search_finds_what_a_hash_table_finds(kind, data):
    """Few ids are searched for among many, and many are looked up."""
    _, fitted = ids_of(data.draw(ID_ARRAYS[kind])).numbered()
    asked = ids_of(data.draw(ID_ARRAYS[kind]))
    found = {}
    for share in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("skrec._data.vocabulary.MIN_IDS_PER_SEARCH", share)
            found[share] = asked.numbered_in(fitted)
    assert_array_equal(found[0], found[10**9])


@pytest.mark.parametrize("fitted", [["a", "bc"], np.array(["a", "bc"])])
def test_a_search_does_not_cut_strings_short(fitted, monkeypatch):
    monkeypatch.setattr("skrec._data.vocabulary.MIN_IDS_PER_SEARCH", 0)
    fitted = np.asarray(fitted)
    for asked in (["bcd", "bc", "", "z"], np.array(["bcd", "bc", "", "z"])):
        assert ids_of(np.asarray(asked)).numbered_in(fitted).tolist() == [-1, 1, -1, -1]
        rows = ids_of(as_objects(asked)).numbered_in(fitted)
        assert rows.tolist() == [-1, 1, -1, -1]


@given(data=st.data())
def test_rows_are_inserted_as_numpy_inserts_them(data):
    array = data.draw(hnp.arrays("int64", hnp.array_shapes(max_dims=2, max_side=9)))
    at = data.draw(st.lists(st.integers(0, len(array)), max_size=9).map(sorted))
    at = np.array(at, dtype=np.int64)
    values = np.arange(len(at) * array[0].size).reshape(len(at), *array.shape[1:])
    expected = np.insert(array, at, values, axis=0)
    for most in (0, 10):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("skrec._data.vocabulary.MAX_PIECES", most)
            assert_array_equal(inserted(array, at, values), expected)


@KINDS
@given(data=st.data())
@settings(max_examples=40)
def test_ids_grow_to_the_sorted_union(kind, data):
    _, fitted = ids_of(data.draw(ID_ARRAYS[kind])).numbered()
    _, further = ids_of(data.draw(ID_ARRAYS[kind])).numbered()
    rows = ids_of(further).numbered_in(fitted)
    grown = Growth.of(fitted, further, rows)
    _, union = ids_of(np.concatenate([fitted, further])).numbered()
    assert_array_equal(grown.ids, union)
    assert_array_equal(grown.ids[grown.given], further)
    assert_array_equal(grown.ids[grown.shifted(np.arange(len(fitted)))], fitted)


DAYS = pd.date_range("2024-01-01", periods=9).to_pydatetime()
TIMES = {
    "datetime": as_objects(DAYS),
    "date": as_objects([day.date() for day in DAYS]),
    "Timestamp": as_objects([pd.Timestamp(day) for day in DAYS]),
    **{f"datetime64[{unit}]": DAYS.astype(f"M8[{unit}]") for unit in ("s", "us", "ns")},
}
DURATIONS = {
    "timedelta": as_objects(list(DAYS - DAYS[0])),
    "Timedelta": as_objects([pd.Timedelta(day) for day in DAYS - DAYS[0]]),
    "timedelta64 objects": as_objects(list((DAYS - DAYS[0]).astype("m8[us]"))),
    **{
        f"timedelta64[{unit}]": (DAYS - DAYS[0]).astype(f"m8[{unit}]")
        for unit in ("s", "ns")
    },
}


@pytest.mark.parametrize("forms", [TIMES, DURATIONS], ids=["dates", "durations"])
def test_times_of_any_type_are_put_between_those_of_another(forms):
    first, second = np.arange(0, 9, 2), np.array([1, 2, 3, 8])
    for fitted, further in itertools.product(forms.values(), repeat=2):
        ids = union(fitted[first], further[second])
        assert len(ids) == 7
        assert len({type(value) for value in ids}) == 1
        assert_array_equal(numbered(fitted[first], ids), [0, 2, 4, 5, 6])
        assert_array_equal(numbered(further[second], ids), [1, 2, 3, 6])


@pytest.mark.parametrize("lone", ["a\ud800", "\udfffb", "\udc80"])
@pytest.mark.parametrize("dtype", [object, str])
def test_ids_with_lone_surrogates_are_named(lone, dtype):
    ids = np.array(["ann", lone, "a😀"], dtype=dtype)
    with pytest.raises(ValueError, match=re.escape(f"users holds {lone!a}, whi")):
        Ids.from_column(ids, "users")
    rows = [[user, "x"] for user in ids]
    with pytest.raises(ValueError, match=r"column 0 of exclude holds .* surrogate"):
        read_pairs(rows, "exclude")
    assert len(Ids.from_column(ids[[0, 2]], "users")) == 2
