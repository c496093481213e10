"""What features of users and items bring, and what whom a row has ratings with brings.

The features are those that the data sets come with: of users age, gender and
occupation, of items genres and the year in the title. Nothing is chosen on test data:
how many factors suit MovieLens 1M is asked of its training set (--holdout).
Progress goes to stderr, the table to stdout.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import zipfile
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _common import (
    DATA,
    Outcome,
    Row,
    Split,
    first_tenth,
    load_ml_100k,
    load_npz,
    options,
    run_command,
    x_y,
)
from sklearn.base import RegressorMixin
from sklearn.metrics import root_mean_squared_error

from skrec import MFRegressor
from skrec._alternating.layout import Layout
from skrec._alternating.problem import Problem, RatingArrays
from skrec._alternating.start import spectral_start
from skrec._alternating.vb import vb
from skrec.datasets import make_ratings
from skrec.model_selection import ColdStartKFold

GENRES_100K = 19


def with_years(items: pd.DataFrame, titles: pd.Series) -> pd.DataFrame:
    """Items with the year in their title; the mean where there is none."""
    year = titles.str.extract(r"\((\d{4})\)", expand=False).astype(float)
    return items.assign(year=year.fillna(year.mean()))


def ml_100k_features() -> dict[str, pd.DataFrame]:
    with zipfile.ZipFile(DATA / "ml-100k.zip") as archive:
        read = partial(pd.read_csv, sep="|", header=None, index_col=0)
        with archive.open("ml-100k/u.user") as file:
            users = read(file).iloc[:, :3].set_axis(["age", "gender", "job"], axis=1)
        with archive.open("ml-100k/u.item") as file:
            items = read(file, encoding="latin-1")
    genres = items.iloc[:, -GENRES_100K:].add_prefix("genre ")
    return {"user_features": users, "item_features": with_years(genres, items[1])}


def ml_1m_features() -> dict[str, pd.DataFrame]:
    """Ages are brackets there, and so are decades here besides years."""
    with zipfile.ZipFile(DATA / "ml-1m-side.zip") as archive:
        users, items = (
            pd.read_csv(
                archive.open(name),
                sep="::",
                engine="python",
                header=None,
                index_col=0,
                encoding="latin-1",
            )
            for name in ("users.dat", "movies.dat")
        )
    users = users.iloc[:, :3].set_axis(["gender", "age", "job"], axis=1).astype(str)
    genres = with_years(items[2].str.get_dummies("|"), items[1])
    genres["decade"] = (genres["year"] // 10).astype(int).astype(str)
    return {"user_features": users, "item_features": genres}


def described(split: Split, model: RegressorMixin, **features) -> Outcome:
    (X, y), (X_test, y_test) = map(x_y, split)
    start = time.perf_counter()
    model.fit(X, y, **features)
    seconds = time.perf_counter() - start
    rmse = root_mean_squared_error(y_test, model.predict(X_test))
    print(f"{model}: RMSE {rmse:.4f}, fit {seconds:.1f} s", file=sys.stderr)
    return Outcome(rmse, seconds)


def table_line(names: dict[str, object], outcome: Outcome, bar: str) -> dict[str, str]:
    """A line of a table of errors and times."""
    figures = {"bar": bar, "RMSE": f"{outcome.rmse:.4f}"}
    return names | figures | {"fit, s": f"{outcome.seconds:.2f}"}


def ml_100k(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    features = ml_100k_features()
    bars = {
        ("u1", "vb", False): "≤ .8970, .8900",
        ("u1", "gibbs", False): "≤ .8895, .8870",
        ("u1", "vb", True): "≤ .8930, .8880",
        ("u1", "gibbs", True): "≤ .8860, .8830",
        ("u3", "gibbs", True): "≤ .8750, .8700",
    }
    rows = []
    for name in ("u1", "u3"):
        split = Split(load_ml_100k(f"{name}.base"), load_ml_100k(f"{name}.test"))
        for solver in ("vb", "gibbs"):
            for given in (False, True):
                model = MFRegressor(solver=solver, random_state=0, device=args.device)
                outcome = described(split, model, **(features if given else {}))
                with_what = "features" if given else "ids"
                names = {"split": name, "solver": solver, "with": with_what}
                bar = bars.get((name, solver, given), "")
                rows.append(table_line(names, outcome, bar))
    return {"": pd.DataFrame(rows)}


def ml_1m(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    split = first_tenth(load_npz(DATA / "ml-1m.npz"))
    if args.holdout:
        split = first_tenth(split.train.reset_index(drop=True))
    rows = []
    for given in (False, True):
        for n_factors in (16, *args.n_factors) if given else (16,):
            model = MFRegressor(
                n_factors, solver=args.solver, random_state=0, device=args.device
            )
            outcome = described(split, model, **(ml_1m_features() if given else {}))
            with_what = "features" if given else "ids"
            names = {"solver": args.solver, "with": with_what, "n_factors": n_factors}
            bar = "≤ .8180, .8130" if given and n_factors > 16 else ""
            rows.append(table_line(names, outcome, bar))
    return {"": pd.DataFrame(rows)}


def cold(args: argparse.Namespace) -> list[Row]:
    """Users without ratings, by features and by the biases of items alone."""
    features, ratings = ml_100k_features(), load_ml_100k()
    cv = ColdStartKFold(5, by="user", shuffle=True, random_state=0)
    rows = []
    for fold, parts in enumerate(cv.split(ratings[["user", "item"]]), start=1):
        split = Split(*(ratings.iloc[part] for part in parts))
        ours = described(split, MFRegressor(device=args.device), **features)
        bias = described(split, MFRegressor(0, implicit_features=False))
        rows.append(
            Row(
                f"ML-100K, users of fold {fold} unknown: RMSE",
                ours.rmse,
                "ratio < 1",
                "ratio ≤ .985",
                "item bias",
                bias.rmse,
            )
        )
    return rows


def implicit(args: argparse.Namespace) -> list[Row]:
    """Implicit features or none, on a tenth held out of each training set."""
    X, y = make_ratings(random_state=0)
    sets = {
        "ML-100K u1.base": load_ml_100k("u1.base"),
        "ML-1M": first_tenth(load_npz(DATA / "ml-1m.npz")).train,
        "make_ratings()": first_tenth(X.assign(rating=y)).train,
        **{path.stem: first_tenth(load_npz(path)).train for path in args.paths},
    }
    rows = []
    for name, ratings in sets.items():
        split = first_tenth(ratings.reset_index(drop=True))
        for solver in ("vb", "gibbs"):
            found, without = (
                described(
                    split,
                    MFRegressor(
                        solver=solver,
                        implicit_features=has,
                        max_iter=args.max_iter if solver == "gibbs" else None,
                        random_state=0,
                        device=args.device,
                    ),
                ).rmse
                for has in (True, False)
            )
            what = f"{name}, {solver}: RMSE"
            rows.append(Row(what, found, "ratio < 1", "", "without", without))
    return rows


def long_tail(args: argparse.Namespace) -> list[Row]:
    """A sweep of vb, and the sums over ratings that it cannot do without."""
    X, y = make_ratings(22_000, 296_000, 830_000, random_state=0)
    users, user_index = np.unique(X["user"], return_inverse=True)
    items, item_index = np.unique(X["item"], return_inverse=True)
    order = np.lexsort((item_index, user_index))
    rows = []
    for implicit_features in (False, True):
        arrays = RatingArrays(
            user_index[order],
            item_index[order],
            (len(users), len(items)),
            ((y - y.mean()) / y.std())[order],
            np.ones(len(y)),
            np.empty((len(y), 0)),
        )
        layout = Layout(20, True, torch.device(args.device))
        problem = Problem.from_arrays(arrays, layout, torch.float32)
        if implicit_features:
            problem = problem.with_implicit_features()
        tables = [
            torch.randn(len(side), problem.layout.n_packed, device=args.device)
            for side in (problem.users, problem.items)
        ]
        sweeps = vb(problem, spectral_start(problem))
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(1 + args.repetitions):
            start = time.perf_counter()
            next(sweeps)
            middle = time.perf_counter()
            problem.users.sum(tables[1], problem.users.weight)
            problem.items.sum(tables[0], problem.items.weight)
            times[0].append(middle - start)
            times[1].append(time.perf_counter() - middle)
        sweep, sums = (statistics.median(islice(part, 1, None)) for part in times)
        what = "with" if implicit_features else "without"
        rows.append(
            Row(
                f"long tail, a sweep {what} implicit features: s",
                sweep,
                "ratio ≤ 6",
                "ratio ≤ 3",
                "its sums",
                sums,
            )
        )
    return rows


def parse_args() -> argparse.Namespace:
    common = options()
    common.add_argument("--device", default="cpu", help="default: cpu")
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="WHAT")

    def command(name: str, run, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[common], help=help)
        added.set_defaults(run=run)
        return added

    command("ml-100k", ml_100k, "MovieLens 100K: u1 and u3")
    command("cold", cold, "MovieLens 100K: users without ratings")
    large = command("ml-1m", ml_1m, "MovieLens 1M: one split")
    large.add_argument("--solver", default="vb", choices=["vb", "gibbs"])
    large.add_argument("--n-factors", type=int, nargs="*", default=[48, 64])
    large.add_argument(
        "--holdout", action="store_true", help="a tenth of the training set instead"
    )
    sets = command("implicit", implicit, "who rated what, on several sets")
    sets.add_argument("paths", nargs="*", type=Path, metavar="NPZ")
    sets.add_argument("--max-iter", type=int, default=50, help="draws (default: 50)")
    tail = command("long-tail", long_tail, "seconds of a sweep over 318,000 rows")
    tail.add_argument("--repetitions", type=int, default=5, help="default: 5")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(parse_args())
