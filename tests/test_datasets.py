"""The generator, the fetcher and the converter."""

import datetime
import errno
import hashlib
import io
import shutil
import socket
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal, assert_index_equal
from scipy import sparse

from skrec.datasets import _movielens, fetch_movielens, from_matrix, make_ratings
from skrec.datasets._synthetic import _draw_pairs


def rmse(error):
    return np.sqrt(np.mean(np.square(error)))


# make_ratings


def test_ratings_have_the_documented_shapes_and_values():
    X, y, expected = make_ratings(50, 30, 400, return_expected=True, random_state=0)
    assert X.columns.tolist() == ["user", "item"]
    assert X.shape == (400, 2)
    assert y.shape == expected.shape == (400,)
    assert X["user"].between(0, 49).all()
    assert X["item"].between(0, 29).all()
    assert set(y) <= {1, 2, 3, 4, 5}
    array, _ = make_ratings(50, 30, 400, as_frame=False, random_state=0)
    assert array.dtype == np.int64
    assert_array_equal(array, X)


def test_the_draw_is_determined_by_random_state():
    first, again, other = (
        make_ratings(40, 30, 300, return_expected=True, random_state=seed)
        for seed in (3, np.random.RandomState(3), 4)
    )
    assert_frame_equal(first[0], again[0])
    assert_array_equal(first[1], again[1])
    assert_array_equal(first[2], again[2])
    assert not first[0].equals(other[0])


@settings(max_examples=60)
@given(st.data())
def test_no_pair_twice_and_everyone_appears_where_possible(data):
    n_users = data.draw(st.integers(1, 60))
    n_items = data.draw(st.integers(1, 60))
    n_ratings = data.draw(st.integers(1, n_users * n_items))
    X, y = make_ratings(
        n_users,
        n_items,
        n_ratings,
        n_factors=data.draw(st.integers(0, 3)),
        popularity=data.draw(st.floats(0, 5)),
        activity=data.draw(st.floats(0, 5)),
        random_state=0,
    )
    assert len(X) == len(y) == n_ratings
    assert not X.duplicated().any()
    assert X["user"].between(0, n_users - 1).all()
    assert X["item"].between(0, n_items - 1).all()
    if n_ratings >= n_users:
        assert X["user"].nunique() == n_users
    if n_ratings >= n_items:
        assert X["item"].nunique() == n_items


def test_popularity_and_activity_are_power_laws():
    X, _ = make_ratings(
        5000, 1000, 100_000, popularity=0.7, activity=0.5, random_state=0
    )
    for column, n, exponent in (("user", 5000, 0.5), ("item", 1000, 0.7)):
        count = X[column].value_counts().to_numpy()
        rank = np.arange(1, n + 1)
        head = slice(n // 50, n // 4)
        slope = np.polyfit(np.log(rank[head]), np.log(count[head]), 1)[0]
        assert -slope == pytest.approx(exponent, abs=0.1)
    # Ids must not tell how popular an item is.
    count = X["item"].value_counts().sort_index()
    assert abs(np.corrcoef(np.arange(1000), count)[0, 1]) < 0.1


@pytest.mark.parametrize("n_ratings", [200, 2000])
def test_zero_exponents_spread_ratings_evenly(n_ratings):
    X, _ = make_ratings(100, 40, n_ratings, popularity=0, activity=0, random_state=0)
    assert set(X["user"].value_counts()) == {n_ratings // 100}


def test_draws_follow_the_weights_on_both_paths():
    # Of three items, all are drawn by the race. Two drawn one after the other are
    # {0, 1} with probability w0 w1 / (1 - w0) + w1 w0 / (1 - w1).
    weight = np.array([0.5, 0.3, 0.2])
    rng = np.random.RandomState(0)
    pairs = _draw_pairs(np.full(20_000, 2), weight, rng)
    drawn = np.bincount(pairs % 3, minlength=3) / 20_000
    w0, w1, w2 = weight
    left_out = [
        w1 * w2 / (1 - w1) + w2 * w1 / (1 - w2),
        w0 * w2 / (1 - w0) + w2 * w0 / (1 - w2),
        w0 * w1 / (1 - w0) + w1 * w0 / (1 - w1),
    ]
    assert_allclose(drawn, 1 - np.array(left_out), atol=0.015)

    # Of 120 items, a user's first twelve come by rejection, all others by the race.
    weight = np.repeat([3.0, 1.0], 60)
    few = _draw_pairs(np.full(5000, 12), weight, rng) % 120 < 60
    many = _draw_pairs(np.full(5000, 14), weight, rng) % 120 < 60
    assert few.mean() == pytest.approx(many.mean(), abs=0.01)


@pytest.mark.parametrize("levels", [(1, 2, 3, 4, 5), (0, 1), np.arange(0.5, 5.1, 0.5)])
def test_expected_is_the_mean_rating(levels):
    _, y, expected = make_ratings(
        3, 2, 6, levels=levels, return_expected=True, random_state=5
    )
    # The same seed gives the same biases and factors.
    _, latent = make_ratings(3, 2, 6, levels=None, noise=0, random_state=5)
    levels = np.asarray(levels, dtype=float)
    unit = (levels[-1] - levels[0]) / 4
    mean = levels[0] + unit * (latent - 1)
    noise = np.linspace(-8, 8, 200_001)
    density = np.exp(-(noise**2) / 2)
    for m, e in zip(mean, expected, strict=True):
        value = m + unit * 0.82 * noise
        nearest = levels[np.abs(value[:, None] - levels).argmin(axis=1)]
        assert e == pytest.approx(np.average(nearest, weights=density), abs=1e-4)
    assert set(y) <= set(levels)


def test_expected_has_no_bias_against_the_ratings():
    _, y, expected = make_ratings(return_expected=True, random_state=0)
    assert np.mean(y - expected) == pytest.approx(0, abs=0.02)
    slope = np.polyfit(expected, y, 1)[0]
    assert slope == pytest.approx(1, abs=0.03)


def test_continuous_ratings_scatter_by_the_noise():
    _, y, expected = make_ratings(
        levels=None, noise=0.5, return_expected=True, random_state=0
    )
    assert rmse(y - expected) == pytest.approx(0.5, rel=0.02)
    assert len(np.unique(y)) == len(y)


@pytest.mark.parametrize("levels", [None, (1, 2, 3, 4, 5)])
def test_without_noise_ratings_are_expected(levels):
    _, y, expected = make_ratings(
        levels=levels, noise=0, return_expected=True, random_state=0
    )
    assert_array_equal(y, expected)


def test_defaults_leave_a_model_something_to_find():
    X, y, expected = make_ratings(
        n_ratings=100_000, return_expected=True, random_state=0
    )
    user, item = X["user"].to_numpy(), X["item"].to_numpy()
    residual = y - y.mean()
    for _ in range(20):
        for ids in (user, item):
            residual = residual - (np.bincount(ids, residual) / np.bincount(ids))[ids]
    assert y.std() == pytest.approx(1.1, abs=0.05)
    assert rmse(residual) == pytest.approx(0.94, abs=0.03)
    assert rmse(y - expected) == pytest.approx(0.80, abs=0.02)


def test_a_long_tail_is_drawn_without_a_full_matrix():
    # 10**12 cells.
    X, _ = make_ratings(1_000_000, 1_000_000, 10_000, n_factors=1, random_state=0)
    assert len(X) == 10_000
    X, _ = make_ratings(2000, 27_000, 75_000, random_state=0)
    assert X["item"].nunique() == 27_000
    assert X["item"].value_counts().median() in (2, 3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_users": 0}, "n_users must be an int of at least 1, got 0"),
        ({"n_items": 2.5}, "n_items must be an int of at least 1, got 2.5"),
        ({"n_factors": -1}, "n_factors must be an int of at least 0, got -1"),
        ({"noise": -1}, "noise must be a number from 0 to 100, got -1"),
        ({"popularity": np.nan}, "popularity must be a number from 0 to 5, got nan"),
        ({"activity": "high"}, "activity must be a number from 0 to 5, got 'high'"),
        ({"levels": [3, 2]}, "levels must be None or at least two ratings in increas"),
        ({"levels": [1, np.inf]}, "levels must be None or at least two ratings"),
        ({"levels": "12"}, r"levels must be .*such as \[1, 2, 3\], got '12'"),
        ({"levels": 5}, r"levels must be .*got 5"),
        ({"levels": [3]}, "levels must be None or at least two ratings in increas"),
        (
            {"n_users": 3, "n_items": 4, "n_ratings": 13},
            "n_ratings must be at most n_users \\* n_items = 12, .* got 13",
        ),
    ],
)
def test_make_ratings_names_what_is_wrong(params, message):
    with pytest.raises(ValueError, match=message):
        make_ratings(**params)


# fetch_movielens

CSV = {
    "ratings.csv": (
        "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n7,1029,3.0,1260759179\n"
    ),
    "movies.csv": (
        "movieId,title,genres\n"
        '31,"Tricky, Title (1995)",Drama|Comedy\n'
        "1029,Dumbo (1941),(no genres listed)\n"
    ),
}
DAT = {
    "ratings.dat": "1::1193::5::978300760\n2::661::3::978302109\n",
    "movies.dat": (
        "661::Star Wars: Episode IV (1977)::Action|Children's\n"
        "1193::Misérables, Les (1995)::Drama\n"
    ),
    "users.dat": "1::F::1::10::48067\n2::M::56::16::02139-1234\n",
}


def pack(folder, members, encoding="utf-8"):
    """Return the bytes of a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(f"{folder}/{name}", text.encode(encoding))
    return buffer.getvalue()


class Site:
    """A loopback server: file names to bodies, and what to do wrong, one per call."""

    def __init__(self):
        self.bodies, self.faults, self.requested = {}, [], []
        self.is_over = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.lstrip("/")
                site.requested.append(name)
                fault = site.faults.pop(0) if site.faults else None
                body = site.bodies.get(name)
                if body is None or fault == "404":
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if fault == "cut":
                    self.wfile.write(body[: len(body) // 2])
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                elif fault == "garbage":
                    self.wfile.write(b"x" * len(body))
                elif fault == "stall":
                    self.wfile.write(body[:1])
                    self.wfile.flush()
                    site.is_over.wait()
                else:
                    self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def site(monkeypatch):
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(_movielens, "BASE_URL", site.url)
    yield site
    site.is_over.set()
    site.server.shutdown()
    site.server.server_close()
    thread.join()


@pytest.fixture
def publish(site, monkeypatch):
    """Return a function that puts an archive on the site, with its checksum."""

    def publish(name, body):
        site.bodies[f"ml-{name}.zip"] = body
        release = replace(
            _movielens._RELEASES[name], sha256=hashlib.sha256(body).hexdigest()
        )
        monkeypatch.setitem(_movielens._RELEASES, name, release)

    return publish


def cached(folder):
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    )


def test_movielens_100k(publish, tmp_path, ml_100k_archive):
    publish("100k", ml_100k_archive.read_bytes())
    ml = fetch_movielens(data_home=tmp_path)
    assert ml.data.shape == (100_000, 2)
    assert ml.data["user"].nunique() == 943
    assert ml.data["item"].nunique() == 1682
    assert ml.target.mean() == pytest.approx(3.52986)
    assert ml.frame.iloc[0].tolist() == [196, 242, 3, 881250949]
    assert ml.frame["timestamp"].dtype.kind == "i"
    assert ml.users.loc[1].tolist() == ["M", 24, "technician", "85711"]
    assert ml.movies.loc[1, "title"] == "Toy Story (1995)"
    assert len(ml.genre_names) == 19
    assert ml.movies[ml.genre_names].loc[1].loc[
        lambda flag: flag == 1
    ].index.tolist() == [
        "Animation",
        "Children's",
        "Comedy",
    ]
    assert ml.movies.loc[543, "title"] == "Misérables, Les (1995)"
    assert "100000 ratings of 1682 movies by 943 users" in ml.DESCR
    assert "Harper and Joseph A. Konstan" in ml.DESCR


@pytest.mark.parametrize(
    ("name", "folder", "encoding"),
    [("1m", "ml-1m", "latin-1"), ("10m", "ml-10M100K", "utf-8")],
)
def test_releases_with_double_colons(publish, tmp_path, name, folder, encoding):
    publish(name, pack(folder, DAT, encoding))
    ml = fetch_movielens(name, data_home=tmp_path)
    assert ml.data.to_numpy().tolist() == [[1, 1193], [2, 661]]
    assert ml.target.tolist() == [5.0, 3.0]
    assert ml.frame["timestamp"].tolist() == [978300760, 978302109]
    assert ml.movies["title"].to_dict() == {
        661: "Star Wars: Episode IV (1977)",
        1193: "Misérables, Les (1995)",
    }
    assert ml.genre_names == ["Action", "Children's", "Drama"]
    assert ml.movies[ml.genre_names].to_numpy().tolist() == [[1, 1, 0], [0, 0, 1]]
    if name == "1m":
        assert ml.users.loc[2].tolist() == ["M", 56, 16, "02139-1234"]
    else:
        assert ml.users is None


@pytest.mark.parametrize("name", ["20m", "25m", "32m", "latest-small"])
def test_releases_in_csv(publish, tmp_path, name):
    publish(name, pack(f"ml-{name}", CSV))
    ml = fetch_movielens(name, data_home=tmp_path)
    assert ml.data.to_numpy().tolist() == [[1, 31], [7, 1029]]
    assert ml.target.tolist() == [2.5, 3.0]
    assert ml.movies.loc[31, "title"] == "Tricky, Title (1995)"
    assert ml.genre_names == ["(no genres listed)", "Comedy", "Drama"]
    assert ml.users is None


def test_the_forms_of_the_result_agree(publish, tmp_path):
    publish("20m", pack("ml-20m", CSV))
    ml = fetch_movielens("20m", data_home=tmp_path)
    X, y = fetch_movielens("20m", data_home=tmp_path, return_X_y=True)
    assert_frame_equal(X, ml.data)
    assert_array_equal(y, ml.target)
    arrays = fetch_movielens("20m", data_home=tmp_path, as_frame=False)
    assert isinstance(arrays.data, np.ndarray)
    assert arrays.data.dtype == np.int64
    assert isinstance(arrays.target, np.ndarray)
    assert arrays.frame is None
    assert_array_equal(arrays.data, X)
    assert_array_equal(ml.frame[ml.feature_names + ml.target_names], X.assign(y=y))


def test_an_archive_is_downloaded_once(publish, site, tmp_path):
    publish("20m", pack("ml-20m", CSV))
    with pytest.raises(
        OSError, match=r"ml-20m\.zip not found and `download_if_missing`"
    ):
        fetch_movielens("20m", data_home=tmp_path, download_if_missing=False)
    assert site.requested == []
    fetch_movielens("20m", data_home=tmp_path)
    fetch_movielens("20m", data_home=tmp_path, download_if_missing=False)
    fetch_movielens("20m", data_home=tmp_path)
    assert site.requested == ["ml-20m.zip"]
    assert cached(tmp_path) == ["movielens/ml-20m.zip"]


@pytest.mark.parametrize("fault", ["cut", "garbage", "404", "stall"])
@pytest.mark.parametrize("name", ["20m", "latest-small"])
def test_a_broken_download_leaves_nothing_behind(
    publish, site, tmp_path, monkeypatch, name, fault
):
    publish(name, pack(f"ml-{name}", CSV))
    site.faults = [fault]
    with monkeypatch.context() as patch:
        if fault == "stall":
            # The site never goes on. Sound answers have the time they need.
            patch.setattr(_movielens, "_TIMEOUT", 0.2)
        with pytest.raises(OSError, match=f"Could not download {site.url}ml-{name}"):
            fetch_movielens(name, data_home=tmp_path, n_retries=0)
    assert cached(tmp_path) == []
    assert len(fetch_movielens(name, data_home=tmp_path, n_retries=0).data) == 2
    assert cached(tmp_path) == [f"movielens/ml-{name}.zip"]


def test_a_download_is_tried_again(publish, site, tmp_path):
    publish("20m", pack("ml-20m", CSV))
    site.faults = ["cut", "404", "garbage"]
    with pytest.warns(UserWarning, match="Retrying") as warned:
        fetch_movielens("20m", data_home=tmp_path, n_retries=3, delay=0)
    assert len(warned) == 3
    assert len(site.requested) == 4


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (KeyboardInterrupt("stopped"), "stopped"),
    ],
)
def test_a_full_disk_and_an_interrupt_end_a_download(
    publish, site, tmp_path, monkeypatch, error, message
):
    """Another try would not help; the archive that was there stays."""
    publish("20m", pack("ml-20m", CSV))
    fetch_movielens("20m", data_home=tmp_path)
    before = pack("ml-20m", CSV | {"more.csv": ""})
    (tmp_path / "movielens" / "ml-20m.zip").write_bytes(before)

    def copy(source, target):
        target.write(source.read(20))
        raise error

    monkeypatch.setattr(_movielens.shutil, "copyfileobj", copy)
    with (
        pytest.warns(UserWarning, match="Downloading it again"),
        pytest.raises(type(error), match=message),
    ):
        fetch_movielens("20m", data_home=tmp_path)
    assert len(site.requested) == 2
    assert cached(tmp_path) == ["movielens/ml-20m.zip"]
    assert (tmp_path / "movielens" / "ml-20m.zip").read_bytes() == before


def test_two_downloads_at_once_leave_one_archive(publish, site, tmp_path, monkeypatch):
    """Neither reads a part of the other's, as two processes that start together."""
    publish("20m", pack("ml-20m", CSV))
    both = threading.Barrier(2, timeout=30)
    copyfileobj = shutil.copyfileobj

    def copy(source, target):
        both.wait()
        copyfileobj(source, target)

    monkeypatch.setattr(_movielens.shutil, "copyfileobj", copy)
    with ThreadPoolExecutor(2) as pool:
        found = [
            pool.submit(fetch_movielens, "20m", data_home=tmp_path) for _ in range(2)
        ]
        assert [len(future.result().data) for future in found] == [2, 2]
    assert len(site.requested) == 2
    assert cached(tmp_path) == ["movielens/ml-20m.zip"]


def test_retries_end(site, tmp_path):
    with (
        pytest.warns(UserWarning, match="Retrying"),
        pytest.raises(OSError, match=r"HTTP Error 404.*put it at"),
    ):
        fetch_movielens("1m", data_home=tmp_path, n_retries=2, delay=0)
    assert len(site.requested) == 3


def test_a_damaged_cache_is_noticed_and_replaced(publish, tmp_path):
    publish("20m", pack("ml-20m", CSV))
    fetch_movielens("20m", data_home=tmp_path)
    path = tmp_path / "movielens" / "ml-20m.zip"
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + b"x")
    with pytest.raises(
        OSError, match=r"ml-20m\.zip is damaged: its SHA-256 is .*Delete"
    ):
        fetch_movielens("20m", data_home=tmp_path, download_if_missing=False)
    with pytest.warns(UserWarning, match="Downloading it again"):
        fetch_movielens("20m", data_home=tmp_path)
    assert path.read_bytes() == sound


def test_only_latest_small_may_change(site, tmp_path):
    other = pack("ml-latest-small", CSV)
    site.bodies["ml-latest-small.zip"] = other
    with pytest.warns(UserWarning, match="another edition of ml-latest-small"):
        ml = fetch_movielens("latest-small", data_home=tmp_path, n_retries=0)
    assert len(ml.data) == 2
    # Another edition must still be sound: here one byte contradicts its check sum.
    site.bodies["ml-latest-small.zip"] = other.replace(b"Tricky", b"Trixky")
    with pytest.raises(OSError, match="SHA-256"):
        fetch_movielens("latest-small", data_home=tmp_path / "new", n_retries=0)
    site.bodies["ml-25m.zip"] = pack("ml-25m", CSV)
    with pytest.raises(OSError, match="SHA-256"):
        fetch_movielens("25m", data_home=tmp_path, n_retries=0)


def test_members_of_an_archive_stay_inside_it(publish, tmp_path):
    home = tmp_path / "a" / "home"
    hostile = {"../../evil.csv": "x", "/evil.csv": "x", "../ratings.csv": "x"}
    publish("20m", pack("ml-20m", CSV | hostile))
    assert len(fetch_movielens("20m", data_home=home).data) == 2
    assert cached(tmp_path) == ["a/home/movielens/ml-20m.zip"]


def test_an_archive_of_ones_own_is_read_as_it_is(site, tmp_path):
    path = tmp_path / "mine.zip"
    path.write_bytes(pack("ml-20m", CSV))
    home = tmp_path / "home"
    assert len(fetch_movielens("20m", archive=path, data_home=home).data) == 2
    assert site.requested == []
    assert cached(tmp_path) == ["mine.zip"]
    with pytest.raises(OSError, match=r"archive='.*absent\.zip' is not a zip file"):
        fetch_movielens("20m", archive=tmp_path / "absent.zip")


def test_a_damaged_archive_of_ones_own_is_named(tmp_path):
    path = tmp_path / "mine.zip"
    sound = pack("ml-20m", CSV)
    path.write_bytes(sound.replace(b"Tricky", b"Trixky"))
    with pytest.raises(OSError, match=r"mine\.zip is damaged: Bad CRC-32"):
        fetch_movielens("20m", archive=path)
    path.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(OSError, match="not a zip file"):
        fetch_movielens("20m", archive=path)


def test_a_missing_member_is_named(publish, tmp_path):
    publish("20m", pack("ml-20m", {"ratings.csv": CSV["ratings.csv"]}))
    with pytest.raises(
        OSError, match=r"ml-20m\.zip has no member 'ml-20m/movies\.csv'"
    ):
        fetch_movielens("20m", data_home=tmp_path)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"name": "2m"}, "name must be one of .*'100k'.*, got '2m'"),
        ({"n_retries": -1}, "n_retries must be an int of at least 0, got -1"),
        ({"delay": -0.5}, "delay must be a number of at least 0, got -0.5"),
    ],
)
def test_fetch_movielens_names_what_is_wrong(tmp_path, params, message):
    with pytest.raises(ValueError, match=message):
        fetch_movielens(data_home=tmp_path, **params)


# from_matrix


def test_dict_of_dicts():
    X, y = from_matrix({"bob": {"Up": 4}, "ann": {"Heat": 5, "Up": None}, "eve": {}})
    assert X.to_numpy().tolist() == [["bob", "Up"], ["ann", "Heat"]]
    assert_array_equal(y, [4.0, 5.0])
    assert y.dtype == np.float64


@pytest.mark.parametrize(
    "kind", ["csr_array", "csc_array", "coo_array", "dok_array", "csr_matrix"]
)
def test_sparse_entries_are_ratings_even_zeros(kind):
    matrix = sparse.coo_array(([3, 0, 5], ([2, 0, 2], [0, 1, 3])), shape=(4, 4))
    X, y = from_matrix(getattr(sparse, kind)(matrix))
    assert X.to_numpy().tolist() == [[0, 1], [2, 0], [2, 3]]
    assert_array_equal(y, [0, 3, 5])
    _, y = from_matrix(matrix, missing=0)
    assert_array_equal(y, [3, 5])


@pytest.mark.parametrize(
    ("users", "items"),
    [
        (["u", "v"], ["a", "b", "c"]),
        ([7, 3], [30, 10, 20]),
        (pd.to_datetime(["2024-01-02", "2024-01-01"]), [1.5, 2.5, 3.5]),
        ([datetime.date(2024, 1, 2), datetime.date(2024, 1, 1)], ["a", "b", "c"]),
    ],
)
def test_a_wide_frame_keeps_the_dtypes_of_its_ids(users, items):
    wide = pd.DataFrame(
        [[np.nan, 2, 3], [4, np.nan, np.nan]], index=users, columns=items
    )
    X, y = from_matrix(wide)
    assert_index_equal(pd.Index(X["user"]).rename(None), wide.index.take([0, 0, 1]))
    assert_index_equal(pd.Index(X["item"]).rename(None), wide.columns.take([1, 2, 0]))
    assert_array_equal(y, [2, 3, 4])


def test_nullable_columns_and_a_missing_value():
    wide = pd.DataFrame({"a": [1, None], "b": [0, 2]}, index=["u", "v"], dtype="Int64")
    X, y = from_matrix(wide)
    assert_array_equal(y, [1, 0, 2])
    X, y = from_matrix(wide, missing=0)
    assert X.to_numpy().tolist() == [["u", "a"], ["v", "b"]]


@pytest.mark.parametrize("missing", ["0", "nan", [0], np.zeros(2), 1j])
def test_missing_must_be_a_number(missing):
    with pytest.raises(TypeError, match="missing must be a number, such as 0"):
        from_matrix(np.eye(3), missing=missing)


@pytest.mark.parametrize(
    ("matrix", "missing", "expected"),
    [
        (np.array([[0.1, 0.2], [0.2, 0.1]], dtype=np.float32), 0.1, [0.2, 0.2]),
        (np.eye(2, dtype=bool), False, [1, 1]),
        (np.eye(2, dtype=np.int8), 300, [1, 0, 0, 1]),
        (np.eye(2), np.int64(0), [1, 1]),
        (np.eye(2), None, [1, 0, 0, 1]),
        ({"ann": {"Up": Decimal("0.5"), "Heat": Decimal(2)}}, Decimal(2), [0.5]),
    ],
)
def test_missing_is_compared_as_the_entries_are(matrix, missing, expected):
    assert_allclose(from_matrix(matrix, missing=missing)[1], expected)


@pytest.mark.parametrize("convert", [lambda frame: frame, pl.DataFrame.to_arrow])
def test_frames_without_an_index_name_users_in_their_first_column(convert):
    wide = pl.DataFrame({"who": ["u", "v"], "a": [1, None], "b": [None, 2.5]})
    X, y = from_matrix(convert(wide))
    assert X.to_numpy().tolist() == [["u", "a"], ["v", "b"]]
    assert_array_equal(y, [1, 2.5])


LONG, RATED = make_ratings(50, 40, 800, random_state=0)
LONG = LONG.assign(rating=RATED)
WIDE = LONG.pivot_table(index="user", columns="item", values="rating")
LONG_TABLES = {
    "names": LONG,
    "a time": LONG.assign(timestamp=range(800)),
    "filtered": LONG[LONG["rating"] > 2],
    "names of a data set": LONG.set_axis(["userId", "movieId", "score"], axis=1),
    "names that say nothing": LONG.set_axis([*"abc"], axis=1),
    "ids that outgrow ratings": LONG.assign(user=LONG["user"] + 1000).to_numpy(),
    "an array": LONG.to_numpy(),
    "users in the index": LONG.set_index("user"),
    "users and items as text": LONG.astype({"user": str, "item": str}).set_axis(
        [*"abc"], axis=1
    ),
    "users as text": LONG.astype({"user": str}).set_axis([*"abc"], axis=1),
    "polars": pl.from_pandas(LONG),
    "pyarrow that says nothing": pa.Table.from_pandas(LONG.set_axis([*"abc"], axis=1)),
}


@pytest.mark.parametrize("table", LONG_TABLES.values(), ids=LONG_TABLES)
def test_a_table_with_a_row_for_each_rating_is_not_taken_for_a_wide_one(table):
    with pytest.raises(ValueError, match=r"row for each rating|seems to have users in"):
        from_matrix(table)


USER_COLUMNS = {
    "named": WIDE.reset_index(),
    "named otherwise": WIDE.reset_index(names="who").rename_axis(columns=None),
    "text": WIDE.reset_index(names="who").astype({"who": str}),
    "last": WIDE.rename_axis(index=None).assign(who=WIDE.index + 1000),
    "of few": pd.DataFrame({"id": [101, 102], "Heat": [5, 3], "Up": [4, None]}),
}


@pytest.mark.parametrize("table", USER_COLUMNS.values(), ids=USER_COLUMNS)
def test_users_in_a_column_of_a_wide_frame_are_no_ratings(table):
    with pytest.raises(ValueError, match=r"seems to have users in its column .*set_in"):
        from_matrix(table)


def test_tables_of_users_by_items_are_taken():
    rng = np.random.default_rng(0)
    expected = (~WIDE.isna()).to_numpy().sum()
    plays = rng.poisson(np.exp(rng.normal(1, 2, (30, 1)) + rng.normal(0, 1, (1, 20))))
    for table, n_ratings in (
        (WIDE, expected),
        (WIDE.set_axis(range(len(WIDE))), expected),
        (WIDE.to_numpy(), expected),
        (WIDE.reset_index(names="who").set_index("who"), expected),
        (pl.from_pandas(WIDE.reset_index().rename(columns=str)), expected),
        (pd.DataFrame({"Heat": [5, 3, 4], "Up": [3, 4, None], "Alien": 1}), 8),
        (pd.DataFrame({"a": range(20), "b": 1}).rename_axis("user"), 40),
        (plays, plays.size),
    ):
        X, _ = from_matrix(table)
        assert len(X) == n_ratings


@given(st.integers(1, 30), st.integers(5, 30), st.sampled_from([1, 5, 10]), st.data())
@settings(max_examples=50)
def test_dense_ratings_are_not_taken_for_ids(n_users, n_items, levels, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    dense = rng.integers(1, levels + 1, (n_users, n_items)).astype(float)
    dense[rng.random(dense.shape) < data.draw(st.sampled_from([0, 0.3, 0.8]))] = np.nan
    dense[0, 0] = 1
    X, y = from_matrix(pd.DataFrame(dense).add_prefix("film "))
    assert len(X) == len(y) == (~np.isnan(dense)).sum()


def test_array():
    X, y = from_matrix(np.array([[np.nan, 1], [2, 0]]))
    assert X.to_numpy().tolist() == [[0, 1], [1, 0], [1, 1]]
    assert X.dtypes.tolist() == [np.int64, np.int64]
    assert_array_equal(y, [1, 2, 0])


def test_rows_rebuild_the_matrix():
    rng = np.random.default_rng(0)
    dense = rng.integers(1, 6, (20, 15)).astype(float)
    dense[rng.random(dense.shape) < 0.6] = np.nan
    X, y = from_matrix(dense)
    again = X.assign(rating=y).pivot(index="user", columns="item", values="rating")
    assert_array_equal(again.reindex(index=range(20), columns=range(15)), dense)


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        ({"ann": 3}, TypeError, r"matrix\['ann'\] must be a mapping .* got int"),
        ({"ann": {"Up": "good"}}, ValueError, r"must be numbers \(.*'good'"),
        ({"ann": {"Up": [1, 2]}}, ValueError, r"must be numbers \(.*sequence"),
        ({}, ValueError, "no rating among its 0 entries"),
        (np.full((2, 3), np.nan), ValueError, "no rating among its 0 entries"),
        (np.zeros(3), TypeError, r"got ndarray of shape \(3,\)"),
        ([[1, 2]], TypeError, "got list"),
        (
            np.zeros((2, 2), dtype="datetime64[s]"),
            ValueError,
            "must be numbers, got datetime64",
        ),
        (
            sparse.coo_array(([3, 4], ([1, 1], [0, 0]))),
            ValueError,
            "two ratings of user 1 for item 0",
        ),
        (
            pd.DataFrame([[1, 2]], index=["u"], columns=["a", "a"]),
            ValueError,
            "two ratings of user 'u' for item 'a'",
        ),
        (sparse.coo_array(np.ones(3)), TypeError, "2 dimensions, got 1"),
    ],
)
def test_from_matrix_names_what_is_wrong(matrix, error, message):
    with pytest.raises(error, match=message):
        from_matrix(matrix)
