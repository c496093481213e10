"""What the benchmarks share: ratings, splits, contestants, tables and results."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.base import RegressorMixin
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits

import skrec
from skrec import MFRegressor
from skrec.datasets import make_ratings

PROJECT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SKREC_DATA", PROJECT.parent / "shared" / "data"))
COLUMNS = ["user", "item", "rating"]
WARM_UP_ROWS = 100_000

RESULTS = PROJECT / "docs" / "results"
# Requirements of the project, which its pages do not show.
REQUIREMENTS = ["bar", "beyond"]
PACKAGES = ["torch", "scikit-learn", "pandas"]
# Distributions of the peers, and what they import as.
PEERS = {
    "scikit-surprise": "surprise",
    "cmfrec": "cmfrec",
    "fastai": "fastai",
    "implicit": "implicit",
}


class Split(NamedTuple):
    """Training and test ratings, frames of the columns user, item and rating."""

    train: pd.DataFrame
    test: pd.DataFrame


class Outcome(NamedTuple):
    """What one contestant reached on one split, or on several."""

    rmse: float
    seconds: float


Contestant = Callable[[Split], Outcome]


class Row(NamedTuple):
    """A line of the printed table; `bar` and `beyond` say what they limit."""

    measurement: str
    figure: float
    bar: str = ""
    beyond: str = ""
    peer: str = ""
    peer_figure: float | None = None

    def cells(self) -> list[str]:
        theirs = ratio = ""
        if self.peer_figure is not None:
            theirs = decimals(self.peer_figure)
            ratio = f"{self.figure / self.peer_figure:.3f}"
        ours = decimals(self.figure)
        return [self.measurement, self.bar, self.beyond, ours, self.peer, theirs, ratio]


def decimals(figure: float) -> str:
    n_decimals = 4 if figure < 10 else 2 if figure < 100 else 1
    return f"{figure:.{n_decimals}f}"


def table_of(rows: Sequence[Row]) -> pd.DataFrame:
    header = ["measured", *REQUIREMENTS, "skrec", "peer", "peer's", "ratio"]
    return pd.DataFrame([row.cells() for row in rows], columns=header)


def print_table(table: pd.DataFrame) -> None:
    """Print a table of text, its columns flush left."""
    lines = [list(table), *table.to_numpy().tolist()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for cells in lines:
        print("  ".join(map(str.ljust, cells, widths)).rstrip())
    print()


def options(threads: int | None = os.cpu_count()) -> argparse.ArgumentParser:
    """Options of every script, as a parent of its parsers.

    A script without a choice of threads passes None.
    """
    parser = argparse.ArgumentParser(add_help=False)
    if threads is not None:
        parser.add_argument(
            "--threads",
            type=int,
            default=threads,
            help="of each contestant (default: %(default)s)",
        )
    parser.add_argument(
        "--result", metavar="NAME", help="keep the tables as docs/results/NAME*.csv"
    )
    return parser


def report(found: Sequence[Row] | dict[str, pd.DataFrame], args: argparse.Namespace):
    """Print one table of rows, or several by their names, and keep them."""
    tables = found if isinstance(found, dict) else {"": table_of(found)}
    tables = {name: table.astype(str) for name, table in tables.items()}
    versions = {name: package_version(name) or "none" for name in [*PACKAGES, *PEERS]}
    print(", ".join(map(" ".join, [("skrec", skrec.__version__), *versions.items()])))
    print(machine(), end="\n\n")
    for table in tables.values():
        print_table(table)
    if args.result:
        keep(args.result, tables)


def keep(name: str, tables: dict[str, pd.DataFrame]) -> None:
    """Write tables for the pages, and the run that they are of to runs.csv."""
    for part, table in tables.items():
        shown = table.drop(columns=REQUIREMENTS, errors="ignore")
        shown = shown.loc[:, (shown != "").any()]
        file = "_".join(filter(None, [name, part])) + ".csv"
        shown.to_csv(RESULTS / file, index=False)
    imported = [peer for peer, module in PEERS.items() if module in sys.modules]
    versions = [f"{name} {package_version(name)}" for name in ["torch", *imported]]
    script = Path(sys.argv[0]).name
    run = {
        "result": name,
        "command": shlex.join(["python", f"tests/benchmarks/{script}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "skrec": skrec.__version__,
        "with": ", ".join(versions),
        "machine": machine(),
    }
    path = RESULTS / "runs.csv"
    runs = pd.DataFrame([run])
    if path.exists():
        kept = pd.read_csv(path, dtype=str, keep_default_na=False)
        runs = pd.concat([kept[kept["result"] != name], runs])
    runs.sort_values("result").to_csv(path, index=False)


def package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine() -> str:
    """The processor, its cores, and the GPU where one is in use."""
    information = Path("/proc/cpuinfo")
    found = re.search(
        r"^model name\s*: (.+)$",
        information.read_text() if information.exists() else "",
        re.M,
    )
    parts = [found[1] if found else platform.machine(), f"{os.cpu_count()} cores"]
    if torch.cuda.is_initialized():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"Python {platform.python_version()}"])


def run_command(args: argparse.Namespace) -> None:
    """Report the measurement `args.run`."""
    set_threads(args.threads)
    report(args.run(args), args)


def set_threads(n: int) -> None:
    """Give every contestant `n` threads, in libraries loaded now and later."""
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(n)
    threadpool_limits(n)
    torch.set_num_threads(n)


def load_ml_100k(member: str = "u.data") -> pd.DataFrame:
    """Ratings of a member of the archive, in its own order."""
    with (
        zipfile.ZipFile(DATA / "ml-100k.zip") as archive,
        archive.open(f"ml-100k/{member}") as file,
    ):
        return pd.read_csv(file, sep="\t", names=COLUMNS, usecols=range(3))


def load_npz(path: Path) -> pd.DataFrame:
    """Ratings of the arrays user, item and rating."""
    with np.load(path, allow_pickle=False) as arrays:
        return pd.DataFrame({name: arrays[name] for name in COLUMNS})


def ml_1m() -> pd.DataFrame:
    return load_npz(DATA / "ml-1m.npz")


def monti(name: str) -> Split:
    """A split of Monti et al. (2017)."""
    with np.load(DATA / "monti.npz", allow_pickle=False) as arrays:
        parts = (
            {column: arrays[f"{name}_{part}_{column}"] for column in COLUMNS}
            for part in ("train", "test")
        )
        return Split(*map(pd.DataFrame, parts))


def long_tail() -> pd.DataFrame:
    """A trust network's shape: four items in five have three ratings at most."""
    X, y = make_ratings(22_000, 296_000, 830_000, random_state=0)
    return X.assign(rating=y)


def folds(ratings: pd.DataFrame) -> Iterator[Split]:
    for train, test in KFold(5, shuffle=True, random_state=0).split(ratings):
        yield Split(ratings.iloc[train], ratings.iloc[test])


def first_tenth(ratings: pd.DataFrame) -> Split:
    """The test set is the first tenth of a fixed permutation."""
    order = np.random.RandomState(0).permutation(len(ratings))
    cut = len(ratings) // 10
    return Split(ratings.iloc[order[cut:]], ratings.iloc[order[:cut]])


def x_y(ratings: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    return ratings[["user", "item"]], ratings["rating"]


def regressor(split: Split, model: RegressorMixin) -> Outcome:
    """Time the whole `fit(X, y)`, ids and validation included."""
    (X, y), (X_test, y_test) = map(x_y, split)
    start = time.perf_counter()
    model.fit(X, y)
    seconds = time.perf_counter() - start
    return Outcome(root_mean_squared_error(y_test, model.predict(X_test)), seconds)


def mf_regressor(split: Split, **params) -> Outcome:
    """A fit, and the error of its predictions."""
    return regressor(split, MFRegressor(**params))


def synchronise() -> None:
    """Wait for what a CUDA device still has to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


class Clock:
    """A callback that keeps the seconds of every iteration."""

    def setup(self, estimator, context):
        self.seconds: list[float] = []

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        synchronise()
        self.start = time.perf_counter()

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "iteration":
            synchronise()
            self.seconds.append(time.perf_counter() - self.start)


def iteration_seconds(
    model: RegressorMixin, X: pd.DataFrame, y: pd.Series | np.ndarray | None = None
) -> list[float]:
    """Seconds of every iteration of a fit."""
    clock = Clock()
    model.set_callbacks(clock).fit(X, y)
    return clock.seconds


# The peers are imported where they are used, so that other measurements neither need
# them nor carry their memory.


def surprise_svd(split: Split) -> Outcome:
    """Time the fit alone, on one thread whatever is set.

    The Trainset, where Surprise numbers the ids, is built before the clock starts.
    """
    from surprise import SVD, Dataset, Reader

    rating = split.train["rating"]
    reader = Reader(rating_scale=(rating.min(), rating.max()))
    trainset = Dataset.load_from_df(split.train, reader).build_full_trainset()
    start = time.perf_counter()
    model = SVD(random_state=0).fit(trainset)
    seconds = time.perf_counter() - start
    predictions = model.test(split.test.itertuples(index=False, name=None))
    predicted = [prediction.est for prediction in predictions]
    return Outcome(root_mean_squared_error(split.test["rating"], predicted), seconds)


def cmfrec_cmf(split: Split, *, k: int, lambda_: float) -> Outcome:
    """Time the fit of a frame, and clip predictions as the other contestants do."""
    from cmfrec import CMF

    train = split.train.set_axis(["UserId", "ItemId", "Rating"], axis=1)
    train = train.astype({"Rating": float})
    threads = torch.get_num_threads()
    model = CMF(k=k, lambda_=lambda_, random_state=1, nthreads=threads, verbose=False)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(train)
    seconds = time.perf_counter() - start
    predicted = model.predict(split.test["user"], split.test["item"])
    # Where both ids are unknown, cmfrec has no answer.
    predicted = np.where(np.isnan(predicted), train["Rating"].mean(), predicted)
    predicted = predicted.clip(train["Rating"].min(), train["Rating"].max())
    return Outcome(root_mean_squared_error(split.test["rating"], predicted), seconds)


def compare(
    contestants: dict[str, Contestant], splits: Sequence[Split]
) -> dict[str, Outcome]:
    """Mean RMSE and median fit time of contestants that take turns on each split.

    Taking turns spreads a busy spell of the machine over all of them. A first fit of
    each, which pays for imports and thread pools, is not counted.
    """
    first = splits[0]
    for run in contestants.values():
        run(Split(first.train[:WARM_UP_ROWS], first.test[:WARM_UP_ROWS]))
    outcomes = {name: [] for name in contestants}
    for split in splits:
        for name, run in contestants.items():
            outcome = run(split)
            outcomes[name].append(outcome)
            print(
                f"{name}: RMSE {outcome.rmse:.4f}, fit {outcome.seconds:.2f} s",
                file=sys.stderr,
            )
    return {
        name: Outcome(
            rmse=float(np.mean([outcome.rmse for outcome in runs])),
            seconds=float(np.median([outcome.seconds for outcome in runs])),
        )
        for name, runs in outcomes.items()
    }
