"""Errors, lists, times and memory of this package and its peers, by one command.

Every model is fitted in a process and an environment of its own, so that peers may need
another PyTorch or NumPy, and the peak of memory is its own. A first fit of a few rows,
which pays for imports and compilers, is not counted. Each peer runs with the settings
that its documentation recommends, and, where it has a grid, with the best of it on a
tenth of the training rows. Test rows choose nothing.

`install` makes the environments, `run` writes docs/results/peers.json, and `report`
writes what the page and the README read from it. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from _common import (
    COLUMNS,
    PROJECT,
    Split,
    first_tenth,
    folds,
    load_ml_100k,
    long_tail,
    ml_1m,
    monti,
    x_y,
)
from sklearn.metrics import root_mean_squared_error

import skrec
from skrec.metrics import RankingScorer

RESULTS = PROJECT / "docs" / "results"
CHILD = Path(__file__).with_name("_peers.py")
TORCH = "torch==2.13.0"
# Packages that an environment is made of. Models of "skrec" run in that of this script.
ENVIRONMENTS = {
    "cmfrec": ["cmfrec", "setuptools", "threadpoolctl"],
    "cornac": ["cornac", TORCH],
    "fastai": ["fastai", TORCH],
    "implicit": ["implicit"],
    "lenskit": ["lenskit", TORCH],
    "lightfm": ["rectools-lightfm"],
    "myfm": ["myfm"],
    "skrecsys": ["skrecsys"],
    "surprise": ["scikit-surprise", "pandas"],
}
LIKED = RankingScorer("ndcg", relevance_threshold=4)
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
TASKS = {"RMSE": "predict", "NDCG@10": "recommend"}
RECOMMENDED, SEARCHED = "recommended", "searched"

Settings = dict[str, Any]


class Model(NamedTuple):
    """A peer of `_peers.py`, its recommended settings, and others to choose from."""

    peer: str
    environment: str
    settings: Settings
    grid: tuple[Settings, ...] = ()
    slow: bool = False


def product(**values: list) -> tuple[Settings, ...]:
    """All combinations of values."""
    found: list[Settings] = [{}]
    for name, choices in values.items():
        found = [{**one, name: choice} for one in found for choice in choices]
    return tuple(found)


OURS = "MFRegressor()"
skrec_model = partial(Model, "Skrec", "skrec")
RATINGS: dict[str, Model] = {
    OURS: skrec_model({"rank_by": "rating"}),
    'MFRegressor(solver="gibbs")': skrec_model(
        {"solver": "gibbs", "random_state": 0, "rank_by": "rating"}, slow=True
    ),
    "NCFRegressor()": skrec_model(
        {"estimator": "NCFRegressor", "random_state": 0, "rank_by": "rating"}, slow=True
    ),
    "Surprise SVD": Model(
        "Surprise",
        "surprise",
        {"algorithm": "SVD"},
        product(n_factors=[20, 100], n_epochs=[20, 40], reg_all=[0.05, 0.1]),
    ),
    "Surprise SVD++": Model("Surprise", "surprise", {"algorithm": "SVDpp"}, slow=True),
    "cmfrec CMF": Model(
        "Cmfrec", "cmfrec", {}, product(k=[10, 20, 50], lambda_=[5.0, 10.0, 20.0])
    ),
    "cornac MF": Model(
        "Cornac",
        "cornac",
        {"model": "MF", "k": 10, "max_iter": 25},
        product(k=[10, 50], max_iter=[25, 50], lambda_reg=[0.05, 0.1]),
    ),
    "LensKit BiasedMF": Model(
        "LensKit",
        "lenskit",
        {},
        product(embedding_size=[10, 50], regularization=[0.1, 0.3], damping=[5.0]),
    ),
    "skrecsys ALS": Model(
        "Skrecsys",
        "skrecsys",
        {"model": "AlternatingLeastSquares"},
        product(n_factors=[8, 32], reg_bias=[1.0, 5.0], reg_factors=[5.0, 10.0]),
    ),
    "fastai collab": Model(
        "Fastai",
        "fastai",
        {"n_factors": 50, "bs": 64, "epochs": 5, "lr": 5e-3, "wd": 0.1},
        slow=True,
    ),
    "fastai collab, use_nn": Model(
        "Fastai",
        "fastai",
        {"use_nn": True, "layers": [100, 50], "bs": 64}
        | {"epochs": 5, "lr": 5e-3, "wd": 0.1},
        slow=True,
    ),
    "myFM": Model("MyFM", "myfm", {"rank": 10, "n_iter": 200}, slow=True),
    "myFM, ordered probit": Model(
        "MyFM", "myfm", {"rank": 10, "n_iter": 200, "ordinal": True}, slow=True
    ),
}
LISTS: dict[str, Model] = {
    OURS: skrec_model({}),
    "MFRegressor().fit(X)": skrec_model({"choices": True}),
    "NCFRegressor()": skrec_model(
        {"estimator": "NCFRegressor", "random_state": 0}, slow=True
    ),
    "most rated items": skrec_model({"estimator": "DummyRecommender"}),
    "implicit ALS": Model(
        "Implicit",
        "implicit",
        {"model": "als"},
        product(factors=[16, 64], regularization=[0.01, 1.0, 10.0], alpha=[1.0, 5.0]),
    ),
    "implicit BPR": Model(
        "Implicit",
        "implicit",
        {"model": "bpr"},
        product(factors=[16, 63], iterations=[100, 300]),
    ),
    "cornac EASE": Model(
        "Cornac", "cornac", {"model": "EASE"}, product(lamb=[100, 1000, 3000])
    ),
    "cornac BPR": Model("Cornac", "cornac", {"model": "BPR", "learning_rate": 0.01}),
    "cornac NeuMF": Model(
        "Cornac", "cornac", {"model": "NeuMF", "backend": "pytorch"}, slow=True
    ),
    "LightFM WARP": Model(
        "LightFM",
        "lightfm",
        {"loss": "warp", "epochs": 30},
        product(no_components=[10, 30, 64], epochs=[10, 30]),
    ),
    "skrecsys EASE": Model("Skrecsys", "skrecsys", {"model": "EASE"}),
}


def ml_100k(n_folds: int) -> Iterator[Split]:
    return islice(folds(load_ml_100k()), n_folds)


class Set(NamedTuple):
    """Splits, and the models that are compared on them."""

    title: str
    models: dict[str, Model]
    splits: Any

    @property
    def measure(self) -> str:
        return "RMSE" if self.models is RATINGS else "NDCG@10"


SETS = {
    "ml-100k": Set("MovieLens 100K", RATINGS, ml_100k),
    "ml-1m": Set("MovieLens 1M", RATINGS, lambda n: [first_tenth(ml_1m())]),
    "flixster": Set("Flixster", RATINGS, lambda n: [monti("flixster")]),
    "douban": Set("Douban", RATINGS, lambda n: [monti("douban")]),
    "yahoo-music": Set("Yahoo Music", RATINGS, lambda n: [monti("yahoo_music")]),
    "long-tail": Set("long tail", RATINGS, lambda n: [first_tenth(long_tail())]),
    "lists-ml-100k": Set("MovieLens 100K, lists", LISTS, ml_100k),
    "lists-ml-1m": Set("MovieLens 1M, lists", LISTS, lambda n: [first_tenth(ml_1m())]),
}


class Runner(NamedTuple):
    """Runs models in their environments, which are folders of `environments`."""

    environments: Path
    threads: int
    timeout: float

    def python(self, environment: str) -> str:
        if environment == "skrec":
            return sys.executable
        return str(self.environments / environment / "bin" / "python")

    def run(self, model: Model, settings: Settings, measure: str, split: Split) -> dict:
        """Figures of one fit, with its error or the quality of its lists."""
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"),
            str(self.threads),
        )
        path = {"PYTHONPATH": str(PROJECT)} if model.environment == "skrec" else {}
        with tempfile.TemporaryDirectory() as folder:
            rows, answers = Path(folder, "rows.npz"), Path(folder, "answers.npz")
            np.savez(
                rows,
                **{
                    f"{part}_{column}": frame[column].to_numpy()
                    for part, frame in split._asdict().items()
                    for column in COLUMNS
                },
            )
            command = [self.python(model.environment), str(CHILD), model.peer]
            command += [json.dumps(settings), TASKS[measure], str(rows), str(answers)]
            done = subprocess.run(
                [*command, str(self.threads)],
                capture_output=True,
                text=True,
                timeout=self.timeout,
                env={**os.environ, **threads, **path},
                check=False,
            )
            if done.returncode:
                raise RuntimeError(done.stderr.strip().splitlines()[-1])
            figures = json.loads(done.stdout.strip().splitlines()[-1])
            with np.load(answers) as arrays:
                return figures | quality(dict(arrays), split.test)


class Lists(NamedTuple):
    """Lists that were made elsewhere, as the scorer asks for them."""

    by_user: dict

    def recommend(self, users: np.ndarray, n_items: int) -> list:
        return [self.by_user.get(user, []) for user in users.tolist()]


def quality(answers: dict[str, np.ndarray], test: pd.DataFrame) -> dict[str, float]:
    X, y = x_y(test)
    if "predicted" in answers:
        return {"RMSE": root_mean_squared_error(y, answers["predicted"])}
    lists = dict(zip(answers["users"].tolist(), answers["lists"], strict=True))
    return {"NDCG@10": LIKED(Lists(lists), X, y)}


def search(model: Model, split: Split, measure: str, runner: Runner) -> Settings:
    """The settings that are best on a tenth of the training rows."""
    inner = first_tenth(split.train.reset_index(drop=True))
    sign = 1 if measure == "RMSE" else -1

    def loss(settings: Settings) -> float:
        return sign * runner.run(model, settings, measure, inner)[measure]

    return min(({**model.settings, **one} for one in ({}, *model.grid)), key=loss)


def records(name: str, args: argparse.Namespace, runner: Runner) -> Iterator[dict]:
    """A record of each model, setting and split of a set; models take turns."""
    one = SETS[name]
    searched: dict[str, Settings] = {}
    for number, split in enumerate(one.splits(args.folds)):
        for title, model in one.models.items():
            if (args.models and title not in args.models) or (number and model.slow):
                continue
            record = {"set": name, "model": title, "split": number}
            try:
                ways = {RECOMMENDED: model.settings}
                if args.search and model.grid:
                    if not number:
                        searched[title] = search(model, split, one.measure, runner)
                    ways[SEARCHED] = searched[title]
                for way, settings in ways.items():
                    figures = runner.run(model, settings, one.measure, split)
                    yield record | {"way": way, "settings": settings} | figures
            except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                reason = str(error).partition("\n")[0][:200]
                yield record | {"way": RECOMMENDED, "failure": reason}


def run(args: argparse.Namespace) -> None:
    """Add records to the results, in place of those of the same set and model."""
    runner = Runner(args.environments, args.threads, args.timeout)
    path = RESULTS / "peers.json"
    results = json.loads(path.read_text()) if path.exists() else {"records": []}
    for name in args.sets or SETS:
        fresh = []
        for record in records(name, args, runner):
            fresh.append(record)
            print(json.dumps(record), file=sys.stderr, flush=True)
        ran = {(record["set"], record["model"]) for record in fresh}
        kept = [r for r in results["records"] if (r["set"], r["model"]) not in ran]
        results = {
            "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
            "threads": args.threads,
            "skrec": skrec.__version__,
            "date": time.strftime("%Y-%m-%d"),
            "records": sorted(
                [*kept, *fresh],
                key=lambda r: (list(SETS).index(r["set"]), r["model"], r["split"]),
            ),
        }
        path.write_text(json.dumps(results, indent=1) + "\n")


def install(args: argparse.Namespace) -> None:
    """Make the environments; one that does not install is reported."""
    for name, packages in ENVIRONMENTS.items():
        folder = args.environments / name
        venv.create(folder, with_pip=True)
        command = [folder / "bin" / "python", "-m", "pip", "install", "-q", *packages]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(f"{name}: {'installed' if not done.returncode else done.stderr[-300:]}")


def line(name: str, title: str, results: list[dict]) -> dict[str, Any]:
    """Means over the splits of a set; times are of the processor, in seconds."""
    measure, model = SETS[name].measure, SETS[name].models[title]
    mine = [r for r in results if (r["set"], r["model"]) == (name, title)]
    done = [r for r in mine if r["way"] == RECOMMENDED and "failure" not in r]
    if not done:
        return {"model": title, "failure": mine[0]["failure"]} if mine else {}
    searched = [r[measure] for r in mine if r["way"] == SEARCHED]
    ours = model.peer == "Skrec"

    def mean(*keys: str, clock: str = "processor") -> float:
        times = [sum(r[key][clock] for key in keys if key in r) for r in done]
        return float(np.mean(times))

    return {
        "model": title if ours else f"{title} ({done[0]['version']})",
        measure: np.mean([r[measure] for r in done]),
        "searched": np.mean(searched) if searched else np.nan,
        # Reading and numbering count as part of a fit in this package alone.
        "fit, s": mean("fit", "prepare") if ours else mean("fit"),
        "answers, s": mean("answers"),
        "one list, ms": 1000 * mean("one list", clock="wall"),
        "memory, MiB": np.mean([r["memory"] for r in done]),
        "splits": len(done),
    }


def table(name: str, results: list[dict]) -> pd.DataFrame:
    """A line of each model of a set, best first, and those that failed."""
    lines = [line(name, title, results) for title in SETS[name].models]
    frame = pd.DataFrame([one for one in lines if one])
    measure = SETS[name].measure
    if measure not in frame:
        return frame
    frame = frame.sort_values(measure, ascending=measure == "RMSE", kind="stable")
    frame.insert(4, "to ours", frame["fit, s"] / line(name, OURS, results)["fit, s"])
    return frame.drop(columns="one list, ms") if measure == "RMSE" else frame


FORMATS = {"RMSE": "{:.4f}", "NDCG@10": "{:.3f}", "memory, MiB": "{:.0f}"}


def written(frame: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The figures of a table as text."""
    formats = {**FORMATS, "searched": FORMATS[measure]}
    text = frame.astype(object).copy()
    for column in frame.columns.difference(["model", "failure", "splits"]):
        form = formats.get(column, "{:.3g}")
        text[column] = [form.format(x) if x == x else "" for x in frame[column]]
    return text.fillna("")


SUMMARIES = {
    "errors": (
        "RMSE",
        OURS,
        "myFM",
        "skrecsys ALS",
        "cornac MF",
        "LensKit BiasedMF",
        "cmfrec CMF",
        "Surprise SVD",
    ),
    "lists": (
        "NDCG@10",
        OURS,
        "MFRegressor().fit(X)",
        "skrecsys EASE",
        "LightFM WARP",
        "implicit ALS",
        "most rated items",
    ),
}


def summary(measure: str, models: tuple[str, ...], results: list[dict]) -> pd.DataFrame:
    """A line of each set and its fit times, and a column of each model, as text."""
    rows = []
    for name, one in SETS.items():
        if one.measure != measure:
            continue
        found = {title: line(name, title, results) for title in models}
        if any(found.values()):
            for key, title in ((measure, one.title), ("fit, s", "fit, seconds")):
                form = FORMATS.get(key, "{:.2g}")
                figures = {m: form.format(f[key]) for m, f in found.items() if key in f}
                rows.append({measure: title} | figures)
    return pd.DataFrame(rows).fillna("")


def report(args: argparse.Namespace) -> None:
    """Write the tables of the page, the first page and the README from the results."""
    results = json.loads((RESULTS / "peers.json").read_text())["records"]
    for name in dict.fromkeys(record["set"] for record in results):
        frame = written(table(name, results), SETS[name].measure)
        frame.to_csv(RESULTS / f"peers_{name}.csv", index=False)
    tables = []
    for name, (measure, *models) in SUMMARIES.items():
        frame = summary(measure, tuple(models), results)
        frame.to_csv(RESULTS / f"summary_{name}.csv", index=False)
        lines = [list(frame), ["---"] * frame.shape[1], *frame.to_numpy().tolist()]
        tables.append("".join(f"| {' | '.join(cells)} |\n" for cells in lines))
    readme = PROJECT / "README.md"
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    readme.write_text("\n".join([before + begin + "\n", *tables]) + "\n" + end + after)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--environments",
        type=Path,
        default=PROJECT / ".venv-peers",
        help="folder of the peers' environments (default: .venv-peers)",
    )
    command = commands.add_parser("install", parents=[common], help=install.__doc__)
    command.set_defaults(run=install)

    command = commands.add_parser("run", parents=[common], help=run.__doc__)
    command.add_argument("--sets", nargs="*", choices=SETS, metavar="SET")
    command.add_argument("--models", nargs="*", metavar="MODEL")
    command.add_argument("--folds", type=int, default=5, help="default: 5")
    command.add_argument("--threads", type=int, default=1, help="default: 1")
    command.add_argument(
        "--search", action="store_true", help="also the best of each grid"
    )
    command.add_argument(
        "--timeout", type=float, default=1800, help="seconds of a model (1800)"
    )
    command.set_defaults(run=run)

    command = commands.add_parser("report", help=report.__doc__)
    command.set_defaults(run=report)
    return parser.parse_args()


if __name__ == "__main__":
    args = parse_args()
    args.run(args)
