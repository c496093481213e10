"""Values in files: each is read as it was written, and a file is trusted in nothing."""

import ipaddress
import json
import os
import struct
import uuid
import zipfile
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal

from skrec import _storage
from skrec._storage import Archive, Reader, Writer, stored, write


def through_a_file(value):
    file = BytesIO()
    writer = Writer()
    write(file, {"value": writer.tree(value, "A value")}, writer.arrays)
    with Archive(file) as archive:
        return Reader(archive.array).value(archive.header["value"])


def assert_same(ours, theirs):
    """Values of the same types, recursively."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype.newbyteorder("=")
        assert ours.shape == theirs.shape
        if theirs.dtype == object:
            assert_same(ours.tolist(), theirs.tolist())
        else:
            assert_array_equal(ours, theirs)
    elif isinstance(theirs, list | tuple):
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(theirs, dict):
        assert_same(list(ours.items()), list(theirs.items()))
    else:
        assert ours == theirs or (ours != ours and theirs != theirs)


SCALARS = [
    *(None, True, False, 0, -(10**40), 0.1, -0.0, np.inf, -np.inf, np.nan),
    *("", "é\0\ud800\n", b"", b"\0\xff"),
    *(np.float32(0.1), np.int8(-3), np.uint64(2**64 - 1), np.True_),
    *(np.datetime64("2020-02-03", "D"), np.timedelta64(-7, "s")),
    *(Decimal("0.10"), Decimal("-1E+400"), Fraction(-1, 3)),
    *(uuid.UUID(int=5), ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("::1")),
    *(date(1, 1, 1), time(23, 59, 59, 999999), timedelta(-1, 2, 3)),
    *(datetime(2020, 1, 2, 3, 4, 5, 6), datetime(1, 1, 1, tzinfo=UTC)),
    datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    pd.Timestamp("2020-01-01 00:00:00.000000001"),
    pd.Timestamp("2020-01-01", tz="UTC"),
    pd.Timedelta(-1, "ns"),
    pd.Timedelta("1000 days 00:00:00.5"),
    *(pd.Period("2020-03", "M"), pd.Period("1969-12-31", "D")),
]


@pytest.mark.parametrize("value", SCALARS, ids=repr)
def test_scalars_are_read_as_they_were_written(value):
    assert_same(through_a_file(value), value)
    several = np.empty(3, dtype=object)
    several[:] = [value, "between", value]
    assert_same(through_a_file(several), several)


VALUES = st.recursive(
    st.sampled_from(SCALARS)
    | st.floats()
    | st.integers()
    | st.text()
    | hnp.arrays(
        hnp.scalar_dtypes().filter(lambda dtype: dtype.kind in "biufcmMUS"),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
    )
    | hnp.arrays(object, 3, elements=st.sampled_from(SCALARS)),
    lambda values: (
        st.lists(values, max_size=3)
        | st.lists(values, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), values, max_size=3)
    ),
    max_leaves=6,
)


@given(VALUES)
@settings(max_examples=100)
def test_any_value_is_read_as_it_was_written(value):
    assert_same(through_a_file(value), value)


def test_arrays_keep_their_order_and_get_the_byte_order_of_this_machine():
    values = np.arange(6.0).reshape(2, 3)
    found = through_a_file([np.asfortranarray(values), values.astype(">f8")])
    assert found[0].flags.f_contiguous
    assert found[1].dtype.isnative
    for array in found:
        assert_array_equal(array, values)
        assert array.flags.writeable


def test_one_array_is_stored_once():
    array = np.arange(5)
    writer = Writer()
    writer.tree([array, {"again": array}], "A value")
    assert len(writer.arrays) == 1
    one, other = through_a_file([array, array])
    assert one is other


def test_strings_of_numpy_and_states_of_random_numbers():
    random_state = np.random.RandomState(3)
    random_state.randn()
    assert (
        through_a_file(random_state).randn(3).tolist() == random_state.randn(3).tolist()
    )
    strings = np.array(["a", "long" * 50], dtype=np.dtypes.StringDType())
    found = through_a_file(strings)
    assert found.dtype == strings.dtype
    assert found.tolist() == strings.tolist()


def test_objects_of_marked_classes_are_written_by_their_fields(monkeypatch):
    monkeypatch.setattr(_storage, "STORED_CLASSES", {})

    @stored
    @dataclass(frozen=True)
    class Pair:
        first: object
        second: object = 7

    pair = Pair(np.arange(3), {"inner": Pair(1, (2, 3))})
    found = through_a_file(pair)
    assert_same(found.first, pair.first)
    assert found.second == pair.second

    # A field that a later version adds has its default.
    writer = Writer()
    tree = writer.tree(Pair(1), "A value")
    del tree["class"][1]["second"]
    assert Reader(None).value(tree) == Pair(1, 7)

    @dataclass
    class Other:
        first: object

    with pytest.raises(TypeError, match=r"The value\.first cannot be saved.*Other"):
        writer.tree(Pair(Other(1)), "The value")


@pytest.mark.parametrize(
    "value",
    [object(), len, {1, 2}, np.array([[1], None], dtype=object), 1j, pd.Index([1])],
    ids=lambda value: type(value).__name__,
)
def test_values_without_a_place_are_refused_by_name_and_type(value):
    with pytest.raises(TypeError, match="The parameter x cannot be saved"):
        Writer().tree(value, "The parameter x")
    with pytest.raises(TypeError, match="The parameter x cannot be saved"):
        Writer().tree(np.zeros(1, dtype=[("a", int)]), "The parameter x")


def test_the_same_values_make_the_same_file():
    first, second = BytesIO(), BytesIO()
    for file in (first, second):
        write(file, {"a": 1}, [np.arange(3)])
    assert first.getvalue() == second.getvalue()


class TestPaths:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "values"
        path.write_bytes(b"before")
        return path

    def test_a_file_takes_the_place_of_another(self, path):
        write(path, {"a": 1}, [])
        assert [path] == list(path.parent.iterdir())
        with Archive(path) as archive:
            assert archive.header == {"a": 1}

    def test_a_file_has_the_permissions_of_new_files(self, path):
        write(path.with_name("saved"), {}, [])
        path.with_name("plain").write_bytes(b"")
        modes = {p.name: p.stat().st_mode for p in path.parent.iterdir()}
        assert modes["saved"] == modes["plain"]

    def test_a_link_stays_a_link(self, path):
        link = path.with_name("link")
        link.symlink_to(path)
        write(link, {"a": 1}, [])
        assert link.is_symlink()
        with Archive(path) as archive:
            assert archive.header == {"a": 1}

    @pytest.mark.parametrize(
        "error", [OSError(28, "No space left"), KeyboardInterrupt()]
    )
    @pytest.mark.parametrize("place", ["write_array", "fsync"])
    def test_a_write_that_ends_early_leaves_the_old_file(
        self, path, monkeypatch, error, place
    ):
        def fail(*args, **kwargs):
            raise error

        owner = np.lib.format if place == "write_array" else os
        monkeypatch.setattr(owner, place, fail)
        with pytest.raises(type(error)):
            write(path, {"a": 1}, [np.arange(3)])
        assert [path] == list(path.parent.iterdir())
        assert path.read_bytes() == b"before"

    def test_a_folder_that_is_not_there_is_named(self, path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            write(path.parent / "nowhere" / "values", {}, [])


def archive_of(**members):
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def npy(array, **options):
    file = BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def test_an_array_of_pickled_objects_is_refused():
    pickled = npy(np.array([None], dtype=object), allow_pickle=True)
    with (
        Archive(archive_of(**{"header.json": "{}", "0.npy": pickled})) as archive,
        pytest.raises(ValueError, match="allow_pickle=False"),
    ):
        archive.array(0)


@pytest.mark.parametrize(
    "content",
    [
        npy(np.zeros(2, dtype=[("a", int)])),
        npy(np.arange(3)) + b"more",
        npy(np.arange(3))[:-1],
        npy(np.arange(3))[:20],
        b"",
    ],
)
def test_arrays_that_are_not_plain_and_whole_are_refused(content):
    with (
        Archive(archive_of(**{"header.json": "{}", "0.npy": content})) as archive,
        pytest.raises(ValueError, match=r"."),
    ):
        archive.array(0)


def test_a_large_member_that_is_compressed_is_refused():
    """A small file could otherwise ask for any memory."""
    zeros = npy(np.zeros(2**20))
    with (
        Archive(archive_of(**{"header.json": "{}", "0.npy": zeros})) as archive,
        pytest.raises(ValueError, match=r"0\.npy is compressed"),
    ):
        archive.array(0)
    with pytest.raises(ValueError, match="compressed"):
        Archive(archive_of(**{"header.json": json.dumps([0] * 2**20)}))


def test_a_flipped_bit_of_an_array_is_found():
    file = BytesIO()
    write(file, {}, [np.zeros(2**14)])
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo("0.npy")
    content = bytearray(file.getvalue())
    name_size, extra_size = struct.unpack_from("<HH", content, info.header_offset + 26)
    place = info.header_offset + 30 + name_size + extra_size + info.file_size - 1
    content[place] ^= 1
    file = BytesIO(bytes(content))
    with Archive(file) as archive, pytest.raises(zipfile.BadZipFile, match="CRC"):
        archive.array(0)


@pytest.mark.parametrize(
    "tree",
    [
        {"objects": [[2], ["str"], 0, 0, 0]},
        {"objects": [[1], ["none"], 0, 0, 0]},
        {"scalar": ["numpy", "|O 00"]},
        {"scalar": ["int", "x"]},
        {"class": ["BaseRecommender", {}]},
        {"array": "../0"},
        {"array": 9},
        {"random_state": [1]},
        {"unknown": 1},
        {"value": 1},
        {},
    ],
    ids=json.dumps,
)
def test_trees_that_mean_nothing_are_refused(tree):
    members = {"header.json": "{}", "0.npy": npy(np.array([5], dtype=np.uint8))}
    with (
        Archive(archive_of(**members)) as archive,
        pytest.raises(Exception, match=r"."),
    ):
        Reader(archive.array).value(tree)
