"""Speed, memory and accuracy of ranking, of fold-in, and of searches by ranking.

What each benchmark times, and what it leaves out, stands in the docstring of its
function, which `BENCHMARK --help` prints. Contestants have the same threads and take
turns on the CPU. Unless a docstring says otherwise, a first turn of each is not
counted, and the figure is the median of the others. Progress goes to stderr, the table
to stdout.
"""

from __future__ import annotations

import argparse
import inspect
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from _common import (
    DATA,
    Outcome,
    Row,
    load_ml_100k,
    load_npz,
    options,
    run_command,
    set_threads,
    x_y,
)
from footprint import mebibytes
from joblib import parallel_config
from scipy import sparse
from sklearn.base import clone
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import GridSearchCV, KFold, train_test_split
from threadpoolctl import ThreadpoolController

from skrec import MFRegressor, NCFRegressor
from skrec.metrics import RankingScorer
from skrec.model_selection import UserHoldout

OURS = "skrec"
BY_ERRORS = "skrec, by errors"
IMPLICIT = "implicit ALS"
SURPRISE = "Surprise SVD"
ONE_CALL, TILED = "product in one call", "product in tiles"
TILE_ROWS = 512
N_FACTORS = 64
LIST_LENGTH = 10

Grid = dict[str, list[float]]
SKREC_GRID: Grid = {"n_factors": [8, 12, 16, 20], "tol": [6e-4, 2e-3, 6e-3]}
SURPRISE_GRID: Grid = {
    "n_factors": [20, 50, 100],
    "lr_all": [0.002, 0.005],
    "reg_all": [0.02, 0.1],
}
# Grids of both by --same-factors.
GRIDS: dict[str | None, tuple[Grid, Grid]] = {
    None: (SKREC_GRID, SURPRISE_GRID),
    "skrec": (
        SKREC_GRID,
        {"n_factors": SKREC_GRID["n_factors"], "reg_all": [0.01, 0.02, 0.1]},
    ),
    "surprise": (
        {"n_factors": SURPRISE_GRID["n_factors"], "tol": [6e-4, 1e-3, 2e-3, 6e-3]},
        SURPRISE_GRID,
    ),
}


class Size(NamedTuple):
    """A catalogue, how many ratings each user has, and what is demanded there."""

    n_users: int
    n_items: int
    per_user: int
    bars: dict[str, tuple[str, str]]

    def scaled(self, scale: float) -> Size:
        """At the same density."""
        numbers = (max(1, round(scale * n)) for n in self[:3])
        return Size(*numbers, self.bars)


PRODUCT_BAR = ("ratio ≤ 1.6", "ratio ≤ 1.25")
SIZES = [
    Size(6040, 3706, 160, {IMPLICIT: ("ratio ≤ 0.5", "ratio ≤ 0.25")}),
    Size(
        20_000,
        50_000,
        50,
        {
            IMPLICIT: ("ratio ≤ 1.0", "ratio ≤ 0.8"),
            ONE_CALL: PRODUCT_BAR,
            TILED: PRODUCT_BAR,
        },
    ),
]
HUGE = Size(1_000_000, 100_000, 2, {})
N_SAMPLED = 20_000
WARM_UP_RATINGS = 2000


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def median_seconds(
    contestants: dict[str, Callable[[], object]], repetitions: int
) -> dict[str, float]:
    """Of contestants that take turns; a first turn is not counted."""
    for run in contestants.values():
        run()
    found = {name: [] for name in contestants}
    for _ in range(repetitions):
        for name, run in contestants.items():
            found[name].append(seconds(run))
            print(f"{name}: {found[name][-1]:.3f} s", file=sys.stderr)
    return {name: statistics.median(times) for name, times in found.items()}


def first_users(ratings: pd.DataFrame, scale: float) -> pd.DataFrame:
    """As many users as have this share of the ratings."""
    return ratings[ratings["user"] <= ratings["user"].quantile(scale)]


def random_ratings(size: Size) -> pd.DataFrame:
    """Ratings of random items, among which every item occurs."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(size.n_users), size.per_user)
    items = rng.integers(size.n_items, size=len(users))
    items[: size.n_items] = rng.permutation(size.n_items)
    rating = rng.normal(size=len(users))
    return pd.DataFrame({"user": users, "item": items, "rating": rating})


def large_model(ratings: pd.DataFrame) -> MFRegressor:
    """One epoch: what the factors are does not change how long it takes to rank."""
    model = MFRegressor(
        N_FACTORS,
        solver="adam",
        max_iter=1,
        rank_by="rating",
        device="cpu",
        random_state=0,
    )
    return model.fit(*x_y(ratings))


def recommend(args: argparse.Namespace) -> list[Row]:
    """The best ten unseen items of all users, on synthetic data.

    In the clock: `MFRegressor.recommend(n_items=10)`, which returns raw ids, and
    implicit's `AlternatingLeastSquares.recommend`, which returns row numbers. Not in
    the clock: the fits (one epoch of random ratings; implicit is given random factors)
    and the sparse matrix of seen items that implicit wants. implicit splits the users
    among threads of its own, and warns that BLAS is to have one thread meanwhile: it
    has, in implicit's turns alone.

    The product of the factors, without looking for the best, is measured both ways that
    suggest themselves: one call that makes a new tensor, and tiles of 512 users written
    into one tensor that is used again.
    """
    sizes = [size.scaled(args.scale) for size in SIZES]
    return [row for size in sizes for row in recommend_rows(size, args)]


def recommend_rows(size: Size, args: argparse.Namespace) -> list[Row]:
    ratings = random_ratings(size)
    model = large_model(ratings)
    rng = np.random.default_rng(0)
    users, items = (
        rng.normal(size=(n, N_FACTORS)).astype(np.float32)
        for n in (size.n_users, size.n_items)
    )
    figures = median_seconds(
        {
            OURS: lambda: model.recommend(n_items=LIST_LENGTH),
            IMPLICIT: implicit_recommend(ratings, users, items, args.threads),
            **products(torch.from_numpy(users), torch.from_numpy(items)),
        },
        args.repetitions,
    )
    name = f"top {LIST_LENGTH} of all, {size.n_users} × {size.n_items}: s"
    return [
        Row(name, figures[OURS], *size.bars.get(peer, ("", "")), peer, theirs)
        for peer, theirs in figures.items()
        if peer != OURS
    ]


def implicit_recommend(
    ratings: pd.DataFrame, users: np.ndarray, items: np.ndarray, threads: int
) -> Callable[[], object]:
    from implicit.cpu.als import AlternatingLeastSquares

    pairs = (ratings["user"], ratings["item"])
    seen = sparse.csr_matrix(
        (np.ones(len(ratings), np.float32), pairs), shape=(len(users), len(items))
    )
    controller = ThreadpoolController()
    with controller.limit(limits=1, user_api="blas"):
        model = AlternatingLeastSquares(factors=N_FACTORS, num_threads=threads)
    model.user_factors, model.item_factors = users, items
    everyone = np.arange(len(users))

    def run():
        with controller.limit(limits=1, user_api="blas"):
            return model.recommend(
                everyone, seen, N=LIST_LENGTH, filter_already_liked_items=True
            )

    return run


def products(
    users: torch.Tensor, items: torch.Tensor
) -> dict[str, Callable[[], object]]:
    space = torch.empty(TILE_ROWS, len(items))

    def tiled():
        for tile in users.split(TILE_ROWS):
            torch.mm(tile, items.T, out=space[: len(tile)])

    return {ONE_CALL: lambda: users @ items.T, TILED: tiled}


def memory(args: argparse.Namespace) -> list[Row]:
    """Peak memory of the best ten of a sample of users of a large model.

    The model has 64 factors of a million users and a hundred thousand items: one epoch
    of two random ratings per user. It is fitted here, saved, and loaded by a fresh
    process, so that memory which the fit has left behind is not used again uncounted.
    Measured is the highest resident size of that process during its calls of
    `recommend`, minus its resident size before them, when skrec, torch, scikit-learn
    and pandas are imported and the model is loaded. Pages of the libraries that only
    `recommend` touches count. Linux only.

    In the clock: a call of `recommend`.
    """
    size = HUGE.scaled(args.scale)
    n_sampled = min(size.n_users, round(N_SAMPLED * args.scale))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model")
        path.write_bytes(pickle.dumps(large_model(random_ratings(size)), protocol=5))
        # A process forked from this one would begin with its memory.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            peak, resident, median = process.submit(
                recommend_of_saved, path, n_sampled, args.threads, args.repetitions
            ).result()
    name = f"top {LIST_LENGTH} of {n_sampled} users, {size.n_users} × {size.n_items}"
    return [
        Row(f"{name}: peak beyond what was resident, MiB", peak, "≤ 1024"),
        Row(f"{name}: resident before, MiB", resident),
        Row(f"{name}: s", median),
    ]


def recommend_of_saved(
    path: Path, n_users: int, threads: int, repetitions: int
) -> tuple[float, float, float]:
    """Peak beyond what was resident before, that, and median seconds."""
    set_threads(threads)
    with path.open("rb") as file:
        model = pickle.load(file)
    users = np.random.default_rng(0).choice(model.user_ids_, n_users, replace=False)
    # Makes the highest resident size the present one.
    Path("/proc/self/clear_refs").write_text("5")
    resident = mebibytes("VmRSS")
    median = median_seconds(
        {OURS: lambda: model.recommend(users, n_items=LIST_LENGTH)}, repetitions
    )[OURS]
    return mebibytes("VmHWM") - resident, resident, median


def ncf(args: argparse.Namespace) -> list[Row]:
    """The best ten unseen items of all users by networks, MovieLens 1M.

    In the clock: `recommend` of `NCFRegressor()`. Not in the clock: its fit, which is
    one epoch, since what the weights are does not change how long it takes to rank.
    """
    ratings = first_users(load_npz(DATA / "ml-1m.npz"), args.scale)
    model = NCFRegressor(max_iter=1, device="cpu", random_state=0).fit(*x_y(ratings))
    figures = median_seconds(
        {OURS: lambda: model.recommend(n_items=LIST_LENGTH)}, args.repetitions
    )
    shape = f"{len(model.user_ids_)} × {len(model.item_ids_)}"
    name = f"NCFRegressor(), ML-1M, top {LIST_LENGTH} of all, {shape}: s"
    return [Row(name, figures[OURS], "≤ 20", "≤ 5")]


def scorer(args: argparse.Namespace) -> list[Row]:
    """A call of `RankingScorer` on the whole catalogue, MovieLens 1M.

    In the clock: four metrics of a random fifth of the ratings, among all items that
    the user has not rated in the rest. Not in the clock: the fit of `MFRegressor()` on
    that rest. Every test rating is relevant, and is the gain of "ndcg".
    """
    ratings = first_users(load_npz(DATA / "ml-1m.npz"), args.scale)
    train, test = train_test_split(ratings, test_size=0.2, random_state=0)
    model = MFRegressor(device="cpu").fit(*x_y(train))
    score = RankingScorer(
        ["ndcg", "precision", "recall", "map"], k=LIST_LENGTH, candidates="unseen"
    )
    figures = median_seconds({OURS: lambda: score(model, *x_y(test))}, args.repetitions)
    name = f"MFRegressor(), ML-1M, {len(test)} test ratings"
    return [
        Row(f"{name}: call of RankingScorer, s", figures[OURS], "≤ 1.5", "≤ 0.5"),
        *(
            Row(f"{name}: {metric}", value)
            for metric, value in score(model, *x_y(test)).items()
        ),
    ]


def fold_in(args: argparse.Namespace) -> list[Row]:
    """Users of whom nothing was known, folded in or fitted anew, MovieLens 100K.

    A tenth of the users is held back from a fit, then half of their ratings are given
    and the other half is predicted. In the clock: `partial_fit` of what is given, or
    `fit` of all that is known, numbering of ids included. Not in the clock: the first
    fit. Each fold is a turn, with a first fit of its own; RMSE is the mean over them,
    seconds are the median.
    """
    ratings = first_users(load_ml_100k(), args.scale)
    splits = UserHoldout(10, given=0.5, random_state=0).split_given(*x_y(ratings))
    splits = [[ratings.iloc[rows] for rows in split] for split in splits]
    return [
        row
        for solver in ("vb", "als", "adam")
        for row in fold_in_rows(solver, splits[: args.folds])
    ]


def fold_in_rows(solver: str, splits: list[list[pd.DataFrame]]) -> list[Row]:
    model = MFRegressor(solver=solver, device="cpu", random_state=0)
    fold_in_and_refit(model, *splits[0])
    outcomes = []
    for split in splits:
        outcomes.append(fold_in_and_refit(model, *split))
        print(solver, *(f"{figure:.4f}" for figure in outcomes[-1]), file=sys.stderr)
    rmses, refit_rmses, times, refit_times = zip(*outcomes, strict=True)
    name = f'partial_fit of "{solver}", ML-100K, {len(splits)} of 10 folds'
    return [
        Row(
            f"{name}: mean RMSE",
            statistics.mean(rmses),
            "ratio ≤ 1.01",
            "ratio ≤ 1.003",
            "refit",
            statistics.mean(refit_rmses),
        ),
        Row(
            f"{name}: median, s",
            statistics.median(times),
            "ratio ≤ 0.1",
            "",
            "refit",
            statistics.median(refit_times),
        ),
    ]


def fold_in_and_refit(
    model: MFRegressor, train: pd.DataFrame, given: pd.DataFrame, test: pd.DataFrame
) -> tuple[float, float, float, float]:
    """RMSE of both, and seconds of both."""
    folded_in, refit = clone(model).fit(*x_y(train)), clone(model)
    known = x_y(pd.concat([train, given]))
    times = [
        seconds(lambda: folded_in.partial_fit(*x_y(given))),
        seconds(lambda: refit.fit(*known)),
    ]
    X, y = x_y(test)
    rmses = [root_mean_squared_error(y, m.predict(X)) for m in (folded_in, refit)]
    return *rmses, *times


def search(args: argparse.Namespace) -> list[Row]:
    """A search among twelve settings by five folds, MovieLens 100K.

    In the clock: the whole search. That of Surprise's GridSearchCV over `SVD` scores
    RMSE and fits nothing again. So does that of scikit-learn's GridSearchCV over
    `MFRegressor` by errors; by lists, it scores NDCG@10 among all unseen items too, and
    fits the best setting again on all ratings. Not in the clock: Surprise's reading of
    the frame, and the start of the worker processes. All share these, one thread each
    and as many as --threads says, and a small search of each has kept them busy before.

    Each library has a grid around its own defaults; with --same-factors both have the
    numbers of factors of one of them. RMSE is the lowest mean over the folds, which are
    as many and as large, but not the same.
    """
    ratings = first_users(load_ml_100k(), args.scale)
    grid, surprise_grid = GRIDS[args.same_factors]
    contestants = {
        OURS: (partial(skrec_search, by_lists=True), grid),
        BY_ERRORS: (skrec_search, grid),
        SURPRISE: (surprise_search, surprise_grid),
    }
    print(f"grid of skrec: {grid}")
    print(f"grid of Surprise: {surprise_grid}")
    outcomes = {name: [] for name in contestants}
    # By the environment, every worker would have all threads.
    with parallel_config(backend="loky", inner_max_num_threads=1):
        few = ratings.sample(WARM_UP_RATINGS, random_state=0)
        for run, full_grid in contestants.values():
            first = {parameter: values[:1] for parameter, values in full_grid.items()}
            run(few, first, args.threads)
        for _ in range(args.repetitions):
            for name, (run, full_grid) in contestants.items():
                outcomes[name].append(run(ratings, full_grid, args.threads))
                print(f"{name}: {outcomes[name][-1].seconds:.1f} s", file=sys.stderr)
    rmse, times = (
        {
            name: statistics.median(getattr(outcome, quantity) for outcome in runs)
            for name, runs in outcomes.items()
        }
        for quantity in Outcome._fields
    )
    name = f"search of 12 settings, 5 folds, ML-100K, {len(ratings)} ratings"
    bar = ("ratio ≤ 0.7", "ratio ≤ 0.4")
    return [
        Row(f"{name}: s", times[OURS], *bar, SURPRISE, times[SURPRISE]),
        Row(f"{name}, by errors: s", times[BY_ERRORS], *bar, SURPRISE, times[SURPRISE]),
        Row(f"{name}: lowest RMSE", rmse[OURS], "", "", SURPRISE, rmse[SURPRISE]),
    ]


def skrec_search(
    ratings: pd.DataFrame, grid: Grid, n_jobs: int, *, by_lists: bool = False
) -> Outcome:
    scoring: dict[str, Any] = {"rmse": "neg_root_mean_squared_error"}
    if by_lists:
        scoring["ndcg@10"] = RankingScorer("ndcg", k=10)
    model = GridSearchCV(
        MFRegressor(device="cpu"),
        grid,
        scoring=scoring,
        refit="ndcg@10" if by_lists else False,
        cv=KFold(5, shuffle=True, random_state=0),
        n_jobs=n_jobs,
    )
    time = seconds(lambda: model.fit(*x_y(ratings)))
    return Outcome(-model.cv_results_["mean_test_rmse"].max(), time)


def surprise_search(ratings: pd.DataFrame, grid: Grid, n_jobs: int) -> Outcome:
    from surprise import SVD, Dataset, Reader
    from surprise.model_selection import GridSearchCV

    rating = ratings["rating"]
    reader = Reader(rating_scale=(rating.min(), rating.max()))
    data = Dataset.load_from_df(ratings, reader)
    model = GridSearchCV(SVD, grid, measures=["rmse"], cv=5, n_jobs=n_jobs, refit=False)
    time = seconds(lambda: model.fit(data))
    return Outcome(model.best_score["rmse"], time)


def parse_args() -> argparse.Namespace:
    common = options(2)
    common.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="share of the users, and of synthetic items and ratings (default: 1)",
    )
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="BENCHMARK")

    def command(name: str, run: Callable, help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            parents=[common],
            help=help,
            description=inspect.getdoc(run),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    def repeated(command: argparse.ArgumentParser, default: int) -> None:
        command.add_argument(
            "--repetitions", type=int, default=default, help=f"default: {default}"
        )

    repeated(command("recommend", recommend, "top ten of all users, synthetic"), 3)
    repeated(command("memory", memory, "peak memory of a large model"), 3)
    repeated(command("ncf", ncf, "top ten of all users by networks, MovieLens 1M"), 3)
    repeated(command("scorer", scorer, "a call of RankingScorer, MovieLens 1M"), 3)
    command(
        "fold-in", fold_in, "partial_fit beside a refit, MovieLens 100K"
    ).add_argument(
        "--folds",
        type=int,
        default=10,
        choices=range(1, 11),
        help="how many of the ten folds to run (default: 10)",
    )
    searched = command(
        "search", search, "GridSearchCV beside Surprise's, MovieLens 100K"
    )
    repeated(searched, 1)
    searched.add_argument(
        "--same-factors",
        choices=[name for name in GRIDS if name],
        help="whose numbers of factors both have (default: each its own)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    run_command(parse_args())
