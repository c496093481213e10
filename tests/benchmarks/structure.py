"""Number of factors and implicit features: chosen by the fit, and by held-out rows.

Every set is a training set whose random tenth is held out, so that nothing is chosen
on test rows. Long tails are MovieLens 1M with the ratings of each film dealt to several
items, and of each user to several users, so that rows are short but share a taste.
Progress goes to stderr, the table to stdout.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from _common import (
    DATA,
    Split,
    cmfrec_cmf,
    first_tenth,
    folds,
    load_ml_100k,
    load_npz,
    monti,
    options,
    run_command,
    x_y,
)
from sklearn.metrics import root_mean_squared_error

from skrec import MFRegressor

GRID = (0, 4, 8, 16, 32, 64)

# Numbers in the covariances of a fit at most; numbers of factors that need more are
# left out.
MOST_COVARIANCES = 2**26


class Fit(NamedTuple):
    """Outcome of one fit: `loo` is its own estimate of `rmse`."""

    n_factors: int
    rmse: float
    loo: float
    seconds: float


def dealt(ids: pd.Series, n_rows: float, rng: np.random.RandomState) -> np.ndarray:
    """Numbers of the ids that rows are dealt to, each with `n_rows` rows on average."""
    number, start = np.empty(len(ids), dtype=np.int64), 0
    for rows in ids.groupby(ids.to_numpy()).indices.values():
        n_ids = max(1, round(len(rows) / n_rows))
        share = 1 / np.arange(1, n_ids + 1) ** 0.7
        number[rows] = start + rng.choice(n_ids, len(rows), p=share / share.sum())
        start += n_ids
    return number


def long_tail(n_ratings: int, user_rows: float, item_rows: float) -> pd.DataFrame:
    rng = np.random.RandomState(0)
    ratings = ml_1m().sample(n_ratings, random_state=rng).reset_index(drop=True)
    return ratings.assign(
        user=dealt(ratings["user"], user_rows, rng),
        item=dealt(ratings["item"], item_rows, rng),
    )


def ml_1m() -> pd.DataFrame:
    return first_tenth(load_npz(DATA / "ml-1m.npz")).train


def ml_100k(n_ratings: int | None = None) -> pd.DataFrame:
    train = next(folds(load_ml_100k())).train
    return train if n_ratings is None else train.sample(n_ratings, random_state=0)


SETS: dict[str, Callable[[], pd.DataFrame]] = {
    "ML-100K": ml_100k,
    "20,000 of ML-100K": partial(ml_100k, 20_000),
    "5,000 of ML-100K": partial(ml_100k, 5_000),
    "1,000 of ML-100K": partial(ml_100k, 1_000),
    "Flixster": lambda: monti("flixster").train,
    "Douban": lambda: monti("douban").train,
    "Yahoo Music": lambda: monti("yahoo_music").train,
    "short items": partial(long_tail, 56_000, 160, 4),
    "short users": partial(long_tail, 200_000, 3, 30),
    "long tail": partial(long_tail, 830_000, 38, 2.2),
    "ML-1M": ml_1m,
}


def fits(split: Split) -> Iterator[Fit]:
    """The default fit, and one for each number of factors."""
    (X, y), (X_test, y_test) = map(x_y, split)
    n_rows = X.nunique().sum()
    grid = [k for k in GRID if n_rows * k**2 / 2 <= MOST_COVARIANCES]
    for n_factors in ("auto", *grid):
        model = MFRegressor(n_factors, rank_by="rating")
        start = time.perf_counter()
        model.fit(X, y)
        seconds = time.perf_counter() - start
        rmse = root_mean_squared_error(y_test, model.predict(X_test))
        fit = Fit(model.n_factors_, rmse, model.loo_curve_[-1], seconds)
        print(n_factors, fit, file=sys.stderr)
        yield fit


def ordered_share(fits: list[Fit], least: float = 0.002) -> float:
    """Share of pairs of fits that the estimates put in the order of the errors.

    Pairs count whose errors differ by more than `least` of themselves.
    """
    pairs = [
        (a.rmse < b.rmse) == (a.loo < b.loo)
        for a, b in combinations(fits, 2)
        if abs(a.rmse - b.rmse) > least * a.rmse
    ]
    return float(np.mean(pairs)) if pairs else np.nan


def cells(name: str, ratings: pd.DataFrame, peer: bool) -> list[str]:
    split = first_tenth(ratings.reset_index(drop=True))
    auto, *grid = fits(split)
    biases, best = grid[0], min(grid, key=lambda fit: fit.rmse)
    of_16 = next(fit for fit in grid if fit.n_factors == 16)
    n_rows = len(split.train) / (
        split.train["user"].nunique() + split.train["item"].nunique()
    )
    seconds = cmfrec_cmf(split, k=20, lambda_=10).seconds if peer else np.nan
    texts = [
        name,
        f"{n_rows:.1f}",
        f"{auto.n_factors}",
        f"{auto.rmse:.4f}",
        f"{biases.rmse:.4f}",
        f"{best.rmse:.4f} ({best.n_factors})",
        f"{auto.loo / auto.rmse - 1:+.1%}",
        f"{ordered_share(grid):.2f}",
        f"{auto.seconds:.2f}",
        f"{auto.seconds / of_16.seconds:.2f}",
        f"{auto.seconds / seconds:.2f}",
    ]
    return ["" if text == "nan" else text for text in texts]


HEADER = [
    "training set",
    "per row",
    "auto",
    "RMSE",
    "biases",
    "best (factors)",
    "estimate",
    "order",
    "fit, s",
    "to 16",
    "to cmfrec",
]


def compared(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    MFRegressor().fit([[0, 0], [0, 1], [1, 0]], [1, 2, 3])
    rows = [cells(name, SETS[name](), args.peer) for name in args.sets]
    return {"": pd.DataFrame(rows, columns=HEADER)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, parents=[options(2)])
    parser.add_argument("sets", nargs="*", default=list(SETS), help=", ".join(SETS))
    parser.add_argument("--peer", action="store_true", help="time cmfrec too")
    parser.set_defaults(run=compared)
    run_command(parser.parse_args())


if __name__ == "__main__":
    main()
