"""Time of single requests to a large model: predict, recommend, similar, partial_fit.

A model of 20,000 items is asked one thing at a time, with string ids, and takes in
three further ratings at a time: one of a new user, and two of known ones. Bars are
those of the median of the default estimator. Another model has a tenth of the users.
Time is that of the process on one thread, so that others on the machine do not count,
and requests to both models take turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
from _common import options, run_command
from sklearn.base import RegressorMixin, clone

from skrec import MFRegressor, NCFRegressor

SIZES = (10_000, 100_000)
N_ITEMS, RATINGS_OF_A_USER, N_TASTES = 20_000, 20, 4

MODELS = {
    "vb": MFRegressor(16, max_iter=5, tol=1e9, device="cpu"),
    "als": MFRegressor(16, solver="als", max_iter=5, tol=1e9, device="cpu"),
    "adam": MFRegressor(16, solver="adam", max_iter=1, device="cpu"),
    "ncf": NCFRegressor(16, max_iter=1, device="cpu"),
}

# Milliseconds at most, at the median.
BARS = {"predict": 0.5, "recommend": 2.0, "similar": 2.0, "partial_fit": 20.0}


def ratings(n_users: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Ratings that factors explain, of which every item has one at least."""
    rng = np.random.default_rng(0)
    n = n_users * RATINGS_OF_A_USER
    users = np.repeat(np.arange(n_users), RATINGS_OF_A_USER)
    items = np.append(np.arange(N_ITEMS), rng.integers(0, N_ITEMS, n - N_ITEMS))
    P, Q = (rng.normal(size=(m, N_TASTES)) for m in (n_users, N_ITEMS))
    y = 3 + (P[users] * Q[items]).sum(axis=1) / 2 + rng.normal(0, 0.5, n)
    X = pd.DataFrame(
        {
            "user": [f"user {user:07d}" for user in users],
            "item": [f"item {item:06d}" for item in items],
        }
    )
    return X, y


def requests(model: RegressorMixin) -> dict[str, Callable[[int], Callable]]:
    """Takes the number of a request to what asks it."""
    users, items = model.user_ids_, model.item_ids_
    random = np.random.default_rng(1)

    def rows(*asked: str) -> pd.DataFrame:
        return pd.DataFrame({"user": asked, "item": random.choice(items, len(asked))})

    def some(ids: np.ndarray) -> str:
        return ids[random.integers(len(ids))]

    return {
        "predict": lambda _: partial(model.predict, rows(some(users))),
        "recommend": lambda _: partial(model.recommend, [some(users)]),
        "similar": lambda _: partial(model.similar_items, [some(items)]),
        "partial_fit": lambda number: partial(
            model.partial_fit,
            rows(some(users), some(users), f"user {number:05d}x"),
            [4.0, 2.0, 3.0],
        ),
    }


def measured(name: str, repetitions: int) -> list[dict[str, str]]:
    asked = [requests(clone(MODELS[name]).fit(*ratings(n))) for n in SIZES]
    table = []
    for request, bar in BARS.items():
        seconds = {n: [] for n in SIZES}
        for number in range(repetitions + 1):
            for n, of_size in zip(SIZES, asked, strict=True):
                ask = of_size[request](number)
                start = time.process_time()
                ask()
                seconds[n].append(time.process_time() - start)
        row = {
            "model": name,
            "request": request,
            "bar": f"≤ {bar}" if name == "vb" else "",
        }
        for n, share in product(reversed(SIZES), (50, 99)):
            figure = np.percentile(1e3 * np.array(seconds[n][1:]), share)
            row[f"{n:,} users, p{share}, ms"] = f"{figure:.2f}"
        table.append(row)
    return table


def requested(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    rows = [row for name in args.models for row in measured(name, args.repetitions)]
    return {"": pd.DataFrame(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[options(1)],
    )
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=list(MODELS), help="of these"
    )
    parser.add_argument(
        "--repetitions", type=int, default=100, help="of each request (default: 100)"
    )
    parser.set_defaults(run=requested)
    run_command(parser.parse_args())


if __name__ == "__main__":
    main()
