"""What context brings and costs: the time of a rating, and columns of noise.

Day, twelve and noise are values; time, hour and normal are numbers.

Figures of --holdout are of a fifth of the training rows of u1 or u3 of MovieLens 100K,
on which all was chosen. Without it they are of the test rows, which are for one reading
of a finished model. Progress goes to stderr, the table to stdout.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import zipfile

import numpy as np
import pandas as pd
from _common import DATA, Row, run_command
from features import ml_100k_features
from sklearn.metrics import root_mean_squared_error

from skrec import MFRegressor
from skrec.preprocessing import DatetimeBins

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
        first: dict[str, float] = {}
        for context in args.contexts:
            columns = ["user", "item"] + [context] * (context != "none")
            model = MFRegressor(solver=args.solver, rank_by="rating", random_state=0)
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="default: all"
    )
    parser.add_argument("--folds", nargs="*", default=["u1", "u3"])
    parser.add_argument("--contexts", nargs="*", default=CONTEXTS, choices=CONTEXTS)
    parser.add_argument("--solver", default="vb", choices=["vb", "gibbs", "als"])
    parser.add_argument("--described", action="store_true", help="with side features")
    parser.add_argument("--holdout", action="store_true", help="rows of the training")
    parser.set_defaults(run=contexts)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(parse_args())
