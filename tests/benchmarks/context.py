"""What context brings and costs: the time of a rating, and columns of noise.

Day, twelve and noise are values; time, hour and normal are numbers.

--seasons is for made ratings, with an effect of the season that differs by item.
Figures of --holdout are of a fifth of the training rows of u1 or u3 of MovieLens 100K,
on which all was chosen. Without it they are of the test rows, which are for one reading
of a finished model. Progress goes to stderr, the table to stdout.
"""

from __future__ import annotations

import argparse
import sys
import time
import zipfile

import numpy as np
import pandas as pd
from _common import DATA, Row, options, run_command
from features import ml_100k_features
from sklearn.metrics import root_mean_squared_error

from skrec import MFRegressor, NCFRegressor
from skrec.datasets import make_ratings
from skrec.preprocessing import DatetimeBins

# Users, items, ratings and seasons of made sets; deviations of effects and of noise.
MADE = ((500, 200, 20_000, 4), (1000, 300, 60_000, 4), (300, 100, 20_000, 12))
SEASON_STD, NOISE_STD = 1.05, 0.3

SOLVERS = ("vb", "gibbs", "als", "adam", "sgd", "ncf")
CONTEXTS = ("none", "day", "twelve", "noise", "time", "hour", "normal")
NUMBERS = ("time", "hour", "normal")


def rated(member: str) -> pd.DataFrame:
    """Ratings of a member of the archive, with columns of context."""
    with (
        zipfile.ZipFile(DATA / "ml-100k.zip") as archive,
        archive.open(f"ml-100k/{member}") as file,
    ):
        rows = pd.read_csv(
            file, sep="\t", names=["user", "item", "rating", "timestamp"]
        )
    rng = np.random.RandomState(1)
    (day,) = DatetimeBins("day").fit_transform(rows[["timestamp"]]).T
    return rows.assign(
        day=day,
        twelve=rng.randint(12, size=len(rows)).astype(str),
        noise=rng.randint(50, size=len(rows)).astype(str),
        time=rows["timestamp"],
        hour=rows["timestamp"] // 3600 % 24,
        normal=rng.normal(size=len(rows)),
    )


def estimator(args: argparse.Namespace) -> MFRegressor | NCFRegressor:
    params = {"rank_by": "rating", "random_state": 0}
    if args.reg is not None:
        params["reg"] = args.reg
    if args.solver == "ncf":
        return NCFRegressor(**params)
    return MFRegressor(solver=args.solver, **params)


def seasons(args: argparse.Namespace) -> list[Row]:
    """Errors with the season, and of ratings whose effect of the season is known."""
    rows = []
    for n_users, n_items, n_ratings, n_seasons in MADE:
        X, y = make_ratings(
            *(n_users, n_items, n_ratings),
            n_factors=4,
            noise=NOISE_STD,
            levels=None,
            random_state=0,
        )
        rng = np.random.default_rng(1)
        season = rng.integers(n_seasons, size=len(X))
        effects = SEASON_STD * rng.normal(size=(n_items, n_seasons))
        liked = y + effects[X["item"], season]
        seasonal = X.assign(season=season.astype(str))
        is_test = rng.random(len(X)) < 0.2
        name = f"{args.solver}, {len(X)} ratings, {n_seasons} seasons: RMSE"
        for what, rated, target, bars in (
            ("season of an item", seasonal, liked, ("≤ .35", "≤ .32")),
            ("the same, effect known", X, y, ()),
        ):
            model = estimator(args).fit(rated[~is_test], target[~is_test])
            predicted = model.predict(rated[is_test])
            rmse = root_mean_squared_error(target[is_test], predicted)
            rows.append(Row(f"{what}, {name}", rmse, *bars))
    return rows


def contexts(args: argparse.Namespace) -> list[Row]:
    features = ml_100k_features() if args.described else {}
    rows = []
    for name in args.folds:
        train = rated(f"{name}.base")
        if args.holdout:
            is_test = np.random.RandomState(0).rand(len(train)) < 0.2
            train, test = train[~is_test], train[is_test]
        else:
            test = rated(f"{name}.test")
        # The first fit of a process takes longer.
        estimator(args).fit(train[["user", "item"]][:2000], train["rating"][:2000])
        first: dict[str, float] = {}
        for context in args.contexts:
            columns = ["user", "item"] + [context] * (context != "none")
            model = estimator(args)
            start = time.process_time()
            model.fit(train[columns], train["rating"], **features)
            seconds = time.process_time() - start
            predicted = model.predict(test[columns])
            rmse = root_mean_squared_error(test["rating"], predicted)
            print(f"{name}, {context}: {rmse:.4f}, {seconds:.2f} s", file=sys.stderr)
            what = f"ML-100K {name}, {args.solver}, context {context}"
            rows.append(Row(f"{what}: RMSE", rmse))
            rows.append(Row(f"{what}: fit, s of processor", seconds))
            if context == "none":
                first = {"rmse": rmse, "seconds": seconds}
            elif first:
                bars = ["≤ 1.0005"], ["≤ 1.5"]
                if context not in NUMBERS:
                    bars = ["≤ 1.002"], ["≤ 2", "≤ 1.5"]
                ratio = rmse / first["rmse"]
                rows.append(Row(f"{what}: RMSE against none", ratio, *bars[0]))
                ratio = seconds / first["seconds"]
                rows.append(Row(f"{what}: time against none", ratio, *bars[1]))
    return rows


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, parents=[options()])
    parser.add_argument("--folds", nargs="*", default=["u1", "u3"])
    parser.add_argument("--contexts", nargs="*", default=CONTEXTS, choices=CONTEXTS)
    parser.add_argument("--solver", default="vb", choices=SOLVERS)
    parser.add_argument("--reg", type=float, help="default: that of the solver")
    parser.add_argument("--seasons", action="store_true", help="made ratings")
    parser.add_argument("--described", action="store_true", help="with side features")
    parser.add_argument("--holdout", action="store_true", help="rows of the training")
    args = parser.parse_args()
    args.run = seasons if args.seasons else contexts
    return args


if __name__ == "__main__":
    run_command(parse_args())
