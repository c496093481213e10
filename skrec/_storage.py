"""Files of values without pickle: arrays and a header of JSON in a zip archive.

A value is None, a number, a string, an array, a `RandomState`, a list, tuple or dict of
values, or an object of a class that is marked `stored`, which is written and read by
its fields. Reading makes objects of these types alone, and
reads members by their number, so that a file can neither run code nor name a path.

Elements of an object array have a kind and a text each, such as "date" and
"2026-03-01"; a string is its own text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import itertools
import json
import os
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

import numpy as np
import pandas as pd

HEADER = "header.json"

# Members of fewer bytes are compressed. Larger ones are not, mostly since floats do not
# get smaller; besides, a small file cannot then ask for much memory.
MAX_COMPRESSED = 2**16

# Dtypes of arrays without objects.
PLAIN_KINDS = "biufcmMUS"

# The same values make the same file, so members have no time of their own.
TIMESTAMP = (1980, 1, 1, 0, 0, 0)

PathOrFile: TypeAlias = str | os.PathLike | IO[bytes]
AnyClass = TypeVar("AnyClass", bound=type)

STORED_CLASSES: dict[str, type] = {}


def stored(cls: AnyClass) -> AnyClass:
    """Mark a class whose objects are in files by the name of the class and of fields.

    A file must stay readable: a field that is added needs a default, and one that is
    renamed or that changes its meaning, a new `FORMAT_VERSION`.
    """
    assert cls.__name__ not in STORED_CLASSES
    STORED_CLASSES[cls.__name__] = cls
    return cls


def is_stored(cls: type) -> bool:
    """Whether a class is marked `stored`."""
    return STORED_CLASSES.get(cls.__name__) is cls


def _numpy_scalar(text: str) -> np.generic:
    dtype, _, value = text.partition(" ")
    return _native(np.frombuffer(bytes.fromhex(value), _plain(np.dtype(dtype))))[0]


# Class, text of a value, and value of a text. A value is of the first class in its
# method resolution order, so that a Timestamp is no datetime.
SCALARS: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "none": (type(None), lambda value: "", lambda text: None),
    "bool": (bool, str, {"True": True, "False": False}.__getitem__),
    "int": (int, int.__repr__, int),
    "float": (float, float.__repr__, float),
    "str": (str, str.__str__, str),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "numpy": (
        np.generic,
        lambda value: f"{value.dtype.str} {value.tobytes().hex()}",
        _numpy_scalar,
    ),
    "decimal": (Decimal, str, Decimal),
    "fraction": (Fraction, str, Fraction),
    "uuid": (uuid.UUID, str, uuid.UUID),
    "ipv4": (ipaddress.IPv4Address, str, ipaddress.IPv4Address),
    "ipv6": (ipaddress.IPv6Address, str, ipaddress.IPv6Address),
    "date": (date, date.isoformat, date.fromisoformat),
    "time": (time, time.isoformat, time.fromisoformat),
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "timedelta": (
        timedelta,
        lambda value: f"{value.days} {value.seconds} {value.microseconds}",
        lambda text: timedelta(*map(int, text.split())),
    ),
    "pandas.Timestamp": (pd.Timestamp, pd.Timestamp.isoformat, pd.Timestamp),
    "pandas.Timedelta": (pd.Timedelta, pd.Timedelta.isoformat, pd.Timedelta),
    "pandas.Period": (
        pd.Period,
        lambda value: f"{value.ordinal} {value.freqstr}",
        lambda text: pd.Period(
            ordinal=int(text.partition(" ")[0]), freq=text.partition(" ")[2]
        ),
    ),
}
KIND_OF_CLASS = {cls: kind for kind, (cls, _, _) in SCALARS.items()}


def _as_text(value: Any, where: str) -> tuple[str, str]:
    """Kind and text of a scalar."""
    for cls in type(value).__mro__:
        if kind := KIND_OF_CLASS.get(cls):
            return kind, SCALARS[kind][1](value)
    name = type(value).__module__, type(value).__qualname__
    raise TypeError(
        f"{where} cannot be saved, since it is or holds {value!r} of type "
        f"{'.'.join(name)}. Numbers, strings, dates and arrays can be saved, and so "
        "can ids of these kinds, such as str(id)."
    )


def _plain(dtype: np.dtype) -> np.dtype:
    if dtype.kind not in PLAIN_KINDS:
        raise ValueError(f"an array has the dtype {dtype}")
    return dtype


def _native(array: np.ndarray) -> np.ndarray:
    """An array in the byte order of this machine."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


class Writer:
    """Values as a tree of JSON, and the arrays that it numbers.

    Attributes
    ----------
    arrays : list of ndarray
    """

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self._numbers: dict[int, int] = {}

    def tree(self, value: Any, where: str) -> Any:
        """Tree of a value; `where` names it in messages."""
        cls: Any = type(value)
        if value is None or cls in (bool, int, str):
            return value
        if cls is float and np.isfinite(value):
            return value
        if cls is list:
            return self._trees(value, where)
        if cls is tuple:
            return {"tuple": self._trees(value, where)}
        if cls is dict:
            return {"dict": [self._trees(pair, where) for pair in value.items()]}
        if cls is np.ndarray:
            return self._array(value, where)
        if is_stored(cls):
            names = [field.name for field in dataclasses.fields(cls)]
            fields = {
                name: self.tree(getattr(value, name), f"{where}.{name}")
                for name in names
            }
            return {"class": [cls.__name__, fields]}
        if cls is np.random.RandomState:
            return {"random_state": self.tree(value.get_state(), where)}
        return {"scalar": _as_text(value, where)}

    def _trees(self, values: Iterable[Any], where: str) -> list[Any]:
        return [self.tree(value, where) for value in values]

    def _array(self, array: np.ndarray, where: str) -> dict[str, Any]:
        if array.dtype.kind in PLAIN_KINDS:
            return {"array": self._number(array)}
        if array.dtype.kind == "T":
            return {"strings": self._array(array.astype(object), where)}
        if array.dtype.kind != "O":
            raise TypeError(f"{where} cannot be saved: its dtype is {array.dtype}.")
        kinds, texts = [], []
        for value in array.ravel():
            kind, text = _as_text(value, where)
            kinds.append(kind)
            texts.append(text.encode("utf-8", "surrogatepass"))
        names = sorted(set(kinds))
        codes = np.array([names.index(kind) for kind in kinds], dtype=np.uint8)
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        parts: list[Any] = [
            codes,
            lengths,
            np.frombuffer(b"".join(texts), dtype=np.uint8),
        ]
        numbers = [self._number(part) for part in parts]
        return {"objects": [list(array.shape), names, *numbers]}

    def _number(self, array: np.ndarray) -> int:
        """Number of an array, the same one for the same array."""
        if id(array) not in self._numbers:
            self._numbers[id(array)] = len(self.arrays)
            self.arrays.append(array)
        return self._numbers[id(array)]


class Reader:
    """Values of a tree, by its arrays."""

    def __init__(self, array: Callable[[int], np.ndarray]) -> None:
        self._array = array
        self._arrays: dict[int, np.ndarray] = {}

    def value(self, tree: Any) -> Any:
        """The value that was written."""
        if not isinstance(tree, dict):
            return list(map(self.value, tree)) if isinstance(tree, list) else tree
        ((kind, part),) = tree.items()
        return getattr(self, f"_{kind}_of")(part)

    def _class_of(self, tree: list) -> Any:
        name, fields = tree
        values = {name: self.value(part) for name, part in fields.items()}
        return STORED_CLASSES[name](**values)

    def _array_of(self, number: int) -> np.ndarray:
        if number not in self._arrays:
            self._arrays[number] = self._array(number)
        return self._arrays[number]

    def _tuple_of(self, trees: list) -> tuple:
        return tuple(self.value(trees))

    def _dict_of(self, trees: list) -> dict:
        return {self.value(key): self.value(value) for key, value in trees}

    def _scalar_of(self, tree: list) -> Any:
        kind, text = tree
        return SCALARS[kind][2](text)

    def _random_state_of(self, tree: Any) -> np.random.RandomState:
        random_state = np.random.RandomState()
        random_state.set_state(self.value(tree))
        return random_state

    def _strings_of(self, tree: Any) -> np.ndarray:
        return self.value(tree).astype(np.dtypes.StringDType())

    def _objects_of(self, tree: list) -> np.ndarray:
        shape, kinds, *numbers = tree
        codes, lengths, texts = map(self._array_of, numbers)
        text = texts.tobytes()
        if lengths.min(initial=0) < 0 or lengths.sum() != len(text):
            raise ValueError("texts do not have the lengths that they should have")
        values = np.empty(len(codes), dtype=object)
        readers = [SCALARS[kind][2] for kind in kinds]
        bounds = itertools.pairwise([0, *np.cumsum(lengths).tolist()])
        for row, (code, (start, stop)) in enumerate(zip(codes, bounds, strict=True)):
            values[row] = readers[code](
                text[start:stop].decode("utf-8", "surrogatepass")
            )
        return values.reshape(shape)


def write(target: PathOrFile, header: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Write an archive, to a path as a whole or not at all."""
    with _opened(target) as file, zipfile.ZipFile(file, "w") as archive:
        text = json.dumps(header, allow_nan=False, indent=1).encode()
        with _member(archive, HEADER, len(text)) as member:
            member.write(text)
        for number, array in enumerate(arrays):
            with _member(archive, f"{number}.npy", array.nbytes) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _member(archive: zipfile.ZipFile, name: str, size: int) -> IO[bytes]:
    info = zipfile.ZipInfo(name, TIMESTAMP)
    if size < MAX_COMPRESSED:
        info.compress_type = zipfile.ZIP_DEFLATED
    return archive.open(info, "w", force_zip64=size >= 2**31)


@contextlib.contextmanager
def _opened(target: PathOrFile) -> Iterator[IO[bytes]]:
    """A file to write to; one at a path takes its place at the end."""
    if not isinstance(target, str | os.PathLike):
        yield target
        return
    # A link stays one.
    path = Path(os.path.realpath(target))
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(path.parent)!r} for the file {path.name!r}; make "
            "it first."
        )
    part = path.with_name(f"{path.name}.part_{uuid.uuid4().hex}")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


class Archive(contextlib.AbstractContextManager):
    """An archive to read, none of whose members is trusted.

    Attributes
    ----------
    header : dict
    """

    def __init__(self, source: PathOrFile) -> None:
        self._zip = zipfile.ZipFile(source)
        with self._open(HEADER) as member:
            self.header = json.loads(member.read())

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def array(self, number: int) -> np.ndarray:
        """The array of a number."""
        with self._open(f"{int(number)}.npy") as member:
            array = np.lib.format.read_array(member, allow_pickle=False)
            # The checksum is compared at the end of a member.
            if member.read(1):
                raise ValueError("an array is longer than its header says")
        _plain(array.dtype)
        return _native(array)

    def _open(self, name: str) -> IO[bytes]:
        info = self._zip.getinfo(name)
        is_compressed = info.compress_type != zipfile.ZIP_STORED
        if is_compressed and info.file_size > 2 * MAX_COMPRESSED:
            raise ValueError(f"{name} is compressed, which only small members are")
        return self._zip.open(info)
