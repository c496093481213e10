"""MovieLens, fetched from GroupLens."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import os
import shutil
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.request import urlopen

import numpy as np
import pandas as pd
from sklearn.datasets import get_data_home
from sklearn.utils import Bunch

from .._data.reading import check_int, check_number

BASE_URL = "https://files.grouplens.org/datasets/movielens/"
_TIMEOUT = 30  # seconds without a byte

# Errors of the disk, on which a further try is no help.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

_RATING = ["user", "item", "rating", "timestamp"]
_USER = ["user", "gender", "age", "occupation", "zip_code"]

# Ratings, users if the release has them, and movies.
_Tables = tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame]

_DESCR = """\
MovieLens {name}: {n_ratings} ratings of {n_items} movies by {n_users} users.

Ids, ratings and timestamps (seconds since 1970, UTC) are as published by GroupLens,
University of Minnesota: https://grouplens.org/datasets/movielens/

The terms of use are in the README inside the archive. They ask to cite the paper
below and forbid commercial use without permission. Unless that README says otherwise,
the data may not be redistributed without permission either.

F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and
Context. ACM Transactions on Interactive Intelligent Systems 5, 4, Article 19.
https://doi.org/10.1145/2827872
"""


def fetch_movielens(
    name: str = "100k",
    *,
    archive: str | os.PathLike | None = None,
    data_home: str | os.PathLike | None = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
    as_frame: bool = True,
    n_retries: int = 3,
    delay: float = 1.0,
) -> Bunch | tuple[pd.DataFrame, pd.Series] | tuple[np.ndarray, np.ndarray]:
    """Load a MovieLens release, downloading it from GroupLens if necessary.

    ============  ==========  =======  ======  ===========
    name             ratings    users  movies  rating
    ============  ==========  =======  ======  ===========
    100k             100,000      943   1,682  1 to 5
    1m             1,000,209    6,040   3,706  1 to 5
    10m           10,000,054   69,878  10,677  0.5 to 5
    20m           20,000,263  138,493  26,744  0.5 to 5
    25m           25,000,095  162,541  59,047  0.5 to 5
    32m           32,000,204  200,948  84,432  0.5 to 5
    latest-small     100,836      610   9,724  0.5 to 5
    ============  ==========  =======  ======  ===========

    The archive is kept in ``data_home/movielens`` as published, verified against its
    SHA-256 at every call, and parsed from there; nothing is unpacked. ``latest-small``
    is a development set that GroupLens may replace: the row above and the checksum
    are those of its edition of September 2018, and another edition that is a sound
    archive is used with a warning.

    Parameters
    ----------
    name : {"100k", "1m", "10m", "20m", "25m", "32m", "latest-small"}, default="100k"
        The release.
    archive : str or path-like, default=None
        Archive of the release that you have already. It is read as it is: nothing is
        verified, downloaded or cached.
    data_home : str or path-like, default=None
        Folder of the cache; by default that of scikit-learn
        (:func:`sklearn.datasets.get_data_home`).
    download_if_missing : bool, default=True
        If False, raise an OSError instead of downloading.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=True
        Whether `data` and `target` are pandas objects rather than arrays.
    n_retries : int, default=3
        How often to try again when a download fails.
    delay : float, default=1.0
        Seconds between two tries.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        With the attributes

        data : DataFrame or ndarray of int64, of shape (n_ratings, 2)
            Columns ``user`` and ``item``, the ids as published.
        target : Series or ndarray of float64, of shape (n_ratings,)
            The ratings, in stars.
        frame : DataFrame of shape (n_ratings, 4) or None
            Columns ``user``, ``item``, ``rating`` and ``timestamp`` (seconds since
            1970); None if ``as_frame=False``.
        users : DataFrame or None
            Gender, age, occupation and zip code, indexed by user id; only the
            releases 100k and 1m have them.
        movies : DataFrame
            Title and one column of 0 and 1 for each genre, indexed by movie id. It
            also holds movies that nobody rated.
        genre_names : list of str
            The genre columns of `movies`; ``movies[genre_names]`` can serve as
            features of the items.
        feature_names, target_names : list of str
            Names of the columns of `data` and `target`.
        DESCR : str
            Description, terms of use and citation.
    (data, target) : tuple, if ``return_X_y=True``

    Raises
    ------
    ValueError
        If there is no such release.
    OSError
        If the archive is missing or damaged and may not be downloaded, if the download
        fails `n_retries` + 1 times, or if the disk is full.

    References
    ----------
    F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and
    Context. ACM Transactions on Interactive Intelligent Systems 5, 4, Article 19.
    :doi:`10.1145/2827872`

    Examples
    --------
    >>> from skrec.datasets import fetch_movielens
    >>> X, y = fetch_movielens("100k", return_X_y=True)  # doctest: +SKIP
    >>> X.shape  # doctest: +SKIP
    (100000, 2)
    """
    if name not in _RELEASES:
        raise ValueError(f"name must be one of {list(_RELEASES)}, got {name!r}.")
    check_int(n_retries, "n_retries", 0)
    check_number(delay, "delay", 0)

    release = _RELEASES[name]
    if archive is None:
        path = Path(get_data_home(data_home)) / "movielens" / f"ml-{name}.zip"
        _ensure_archive(path, release, download_if_missing, n_retries, delay)
    else:
        path = _existing_archive(archive)
    try:
        with zipfile.ZipFile(path) as file:
            frame, users, movies = release.read(file, release.folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise OSError(f"{path} is damaged: {error}.") from error

    feature_names, target_names = ["user", "item"], ["rating"]
    data, target = frame[feature_names], frame["rating"]
    if not as_frame:
        data, target = data.to_numpy(), target.to_numpy()
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        frame=frame if as_frame else None,
        users=users,
        movies=movies,
        genre_names=movies.columns.drop("title").tolist(),
        feature_names=feature_names,
        target_names=target_names,
        DESCR=_DESCR.format(
            name=name,
            n_ratings=len(frame),
            n_items=frame["item"].nunique(),
            n_users=frame["user"].nunique(),
        ),
    )


def _existing_archive(archive: str | os.PathLike) -> Path:
    """Path of an archive of the user, which must be a zip file."""
    path = Path(archive)
    if not zipfile.is_zipfile(path):
        raise OSError(f"archive={str(path)!r} is not a zip file that can be read.")
    return path


def _ensure_archive(
    path: Path,
    release: _Release,
    download_if_missing: bool,
    n_retries: int,
    delay: float,
) -> None:
    """Return once a verified archive is at `path`."""
    if path.exists():
        try:
            return _verify(path, release)
        except OSError as error:
            if not download_if_missing:
                raise OSError(
                    f"{error} Delete it, or pass download_if_missing=True to have it "
                    "replaced."
                ) from None
            warnings.warn(f"{error} Downloading it again.", stacklevel=3)
    elif not download_if_missing:
        raise OSError(f"{path} not found and `download_if_missing` is False.")

    path.parent.mkdir(parents=True, exist_ok=True)
    url = BASE_URL + path.name
    for retries_left in range(n_retries, -1, -1):
        try:
            return _download(url, path, release)
        except (OSError, HTTPException) as error:
            is_full = getattr(error, "errno", None) in FULL_DISK
            if is_full or not retries_left:
                raise OSError(
                    f"Could not download {url}: {str(error).rstrip('.')}. If you can "
                    f"get the file otherwise, put it at {path}."
                ) from None
            warnings.warn(f"Retrying {url}: {error}", stacklevel=3)
            time.sleep(delay)


def _download(url: str, path: Path, release: _Release) -> None:
    """Fetch `url` to `path`, which comes into being verified or not at all."""
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f"{path.name}.part_", delete=False
    ) as file:
        part = Path(file.name)
    try:
        with urlopen(url, timeout=_TIMEOUT) as response, part.open("wb") as file:
            shutil.copyfileobj(response, file)
        _verify(part, release)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _verify(path: Path, release: _Release) -> None:
    """Raise an OSError unless `path` is the archive of `release`."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 == release.sha256:
        return
    if not (release.changes and _is_sound_zip(path)):
        raise OSError(
            f"{path} is damaged: its SHA-256 is {sha256}, expected {release.sha256}."
        )
    warnings.warn(
        f"{path} is another edition of {release.folder} than the one of September "
        "2018; results on the two cannot be compared.",
        stacklevel=4,
    )


def _is_sound_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def _open(archive: zipfile.ZipFile, member: str) -> IO[bytes]:
    # Members are read by name and never unpacked, so that no other member of an archive
    # is written anywhere.
    try:
        return archive.open(member)
    except KeyError:
        raise OSError(f"{archive.filename} has no member {member!r}.") from None


def _read_table(archive: zipfile.ZipFile, member: str, **options: Any) -> pd.DataFrame:
    with _open(archive, member) as file:
        return pd.read_csv(file, **options)


def _read_tab(archive: zipfile.ZipFile, folder: str) -> _Tables:
    """Read the format of 100k: tabs and bars, one file per table."""
    frame = _read_table(
        archive, f"{folder}/u.data", sep="\t", names=_RATING, dtype={"rating": float}
    )
    users = _read_table(
        archive,
        f"{folder}/u.user",
        sep="|",
        names=["user", "age", "gender", "occupation", "zip_code"],
        dtype={"zip_code": str},
    )
    genres = _read_table(
        archive, f"{folder}/u.genre", sep="|", names=["name", "number"]
    )
    items = _read_table(
        archive,
        f"{folder}/u.item",
        sep="|",
        names=["item", "title", "date", "video_date", "url", *genres["name"]],
        encoding="latin-1",
        quoting=csv.QUOTE_NONE,
    )
    items = items.drop(columns=["date", "video_date", "url"])
    return frame, users[_USER].set_index("user"), items.set_index("item")


def _read_dat(archive: zipfile.ZipFile, folder: str, *, has_users: bool) -> _Tables:
    """Read the format of 1m and 10m: fields between double colons."""
    # pandas' fast parser takes one character as separator: with a single colon, every
    # other field is the empty one between the two.
    double_colon: dict[str, Any] = {"sep": ":", "header": None}
    frame = _read_table(
        archive,
        f"{folder}/ratings.dat",
        **double_colon,
        usecols=[0, 2, 4, 6],
        names=_RATING,
        dtype={"rating": float},
    )
    users = None
    if has_users:
        users = _read_table(
            archive,
            f"{folder}/users.dat",
            **double_colon,
            usecols=[0, 2, 4, 6, 8],
            names=_USER,
            dtype={"zip_code": str},
        ).set_index("user")
    # Titles contain colons.
    encoding = "latin-1" if has_users else "utf-8"
    with _open(archive, f"{folder}/movies.dat") as file:
        rows = [
            line.rstrip("\n").split("::") for line in io.TextIOWrapper(file, encoding)
        ]
    movies = pd.DataFrame(rows, columns=["item", "title", "genres"])
    return frame, users, _with_genre_columns(movies.astype({"item": "int64"}))


def _read_csv(archive: zipfile.ZipFile, folder: str) -> _Tables:
    """Read the format of all later releases: csv with a header."""
    frame = _read_table(
        archive,
        f"{folder}/ratings.csv",
        header=0,
        names=_RATING,
        dtype={"rating": float},
    )
    movies = _read_table(
        archive, f"{folder}/movies.csv", header=0, names=["item", "title", "genres"]
    )
    return frame, None, _with_genre_columns(movies)


def _with_genre_columns(movies: pd.DataFrame) -> pd.DataFrame:
    movies = movies.set_index("item")
    return movies[["title"]].join(movies["genres"].str.get_dummies("|"))


@dataclass(frozen=True)
class _Release:
    folder: str
    sha256: str
    read: Callable[[zipfile.ZipFile, str], _Tables]
    changes: bool = False


# Every checksum was found in two or more independent public sources:
# [1] tensorflow/datasets, tensorflow_datasets/url_checksums/movielens.txt
# [2] ISG-Siegen/OmniRec, src/omnirec/data_loaders/movielens_{small,large}.py
# [3] ankane/disco-cli, src/download.rs
# [4] tensorflow/examples, lite/.../data/example_generation_movielens.py
# [5] records of downloads whose MD5 or size is the one that GroupLens publishes
_RELEASES = {
    "100k": _Release(  # [1] [3] [5]
        "ml-100k",
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        _read_tab,
    ),
    "1m": _Release(  # [1] [2] [3] [4] [5]
        "ml-1m",
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        lambda archive, folder: _read_dat(archive, folder, has_users=True),
    ),
    "10m": _Release(  # [2] [5]
        "ml-10M100K",
        "813c411ccb6122564edfe752e7f80c4dcc5aa25fa94c93622f6877a7ba252862",
        lambda archive, folder: _read_dat(archive, folder, has_users=False),
    ),
    "20m": _Release(  # [1] [2] [5]
        "ml-20m",
        "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
        _read_csv,
    ),
    "25m": _Release(  # [1] [2] [3] [5]
        "ml-25m",
        "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
        _read_csv,
    ),
    "32m": _Release(  # [3] [5]
        "ml-32m",
        "e4a68655d7386b8f95f2f2424b2ff975dfdd15ffd59e0d864a14dca43e99d6ee",
        _read_csv,
    ),
    "latest-small": _Release(  # [1] [2] [3]
        "ml-latest-small",
        "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
        _read_csv,
        changes=True,
    ),
}
