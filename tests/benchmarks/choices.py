"""Implicit feedback by als or by default, and the time of a sweep beside implicit's.

Parameters were chosen on training rows held out (--holdout), never on test rows.
Progress goes to stderr, the table to stdout.
"""

from __future__ import annotations

import argparse
import os
import statistics
from itertools import islice

import pandas as pd
from _common import (
    Row,
    Split,
    iteration_seconds,
    load_ml_100k,
    run_command,
    x_y,
)
from _leave_one_out import found, leave_one_out_task
from scipy import sparse

from skrec import MFRegressor
from skrec.metrics import RankingScorer

# "als" with a fixed number of sweeps.
ALS: dict = {"solver": "als", "max_iter": 12, "tol": 0, "clip": False}
LEAVE_ONE_OUT: dict = {
    **ALS,
    "n_factors": 128,
    "unobserved_weight": 0.3,
    "reg": 0.005,
    "reg_exponent": 1.0,
}
WHOLE_CATALOGUE: dict = {
    **ALS,
    "n_factors": 48,
    "unobserved_weight": 0.5,
    "reg": 0.01,
    "reg_exponent": 1.0,
}
SWEEP: dict = {
    **ALS,
    "n_factors": 64,
    "biased": False,
    "unobserved_weight": 1.0,
    "reg": 0.01,
    "store_covariance": False,
}
N_VALIDATION = 10


def leave_one_out(args: argparse.Namespace) -> list[Row]:
    if args.default:
        params, bars = {}, [("≥ .7200", "≥ .7300"), ("≥ .4450", "≥ .4550")]
    else:
        params = {**LEAVE_ONE_OUT, "solver": args.solver}
        bars = [("≥ .7270", "≥ .7310"), ("≥ .4500", "≥ .4540")]
    print(f"parameters: {params}")
    return found(
        MFRegressor(**params, device=args.device),
        holdout=args.holdout,
        hit_rate_bar=bars[0],
        ndcg_bar=bars[1],
        minutes_bar=("", ""),
    )


def whole_catalogue(args: argparse.Namespace) -> list[Row]:
    """MovieLens 100K's ua: ten test ratings of each user, among all items not seen."""
    split, name = Split(load_ml_100k("ua.base"), load_ml_100k("ua.test")), "ML-100K ua"
    if args.holdout:
        shuffled = split.train.sample(frac=1, random_state=0)
        test = shuffled.groupby("user").head(N_VALIDATION)
        split, name = Split(split.train.drop(test.index), test), "ML-100K ua.base"
    params = {} if args.default else WHOLE_CATALOGUE
    bars = ("≥ .3000", "≥ .3250") if args.default else ("≥ .2800", "≥ .3050")
    print(f"parameters: {params}")
    model = MFRegressor(**params, device=args.device)
    X, _ = x_y(split.train)
    model.fit(X)
    X_test, y_test = x_y(split.test)
    gains = {"rating": None, "1 for any rating": 1, "1 for 4 and 5": 4}
    return [
        Row(
            f"{name}: NDCG@10, gain {gain}",
            RankingScorer("ndcg", k=10, relevance_threshold=threshold)(
                model, X_test, y_test
            ),
            *bars,
        )
        for gain, threshold in gains.items()
    ]


def sweep(args: argparse.Namespace) -> list[Row]:
    """Medians of sweeps that take turns, the first of each left out."""
    X = leave_one_out_task().train
    solved = ("ratio ≤ 1.0", "ratio ≤ 0.7")
    approximated = ("ratio ≤ 2.5", "ratio ≤ 1.5")
    ours, exact, conjugate = [], [], []
    for _ in range(args.repetitions):
        model = MFRegressor(**SWEEP, device=args.device)
        ours += islice(iteration_seconds(model, X), 1, None)
        exact += islice(implicit_seconds(X, use_cg=False), 1, None)
        conjugate += islice(implicit_seconds(X, use_cg=True), 1, None)
    figure = statistics.median(ours)
    what = "a sweep of als, 64 factors, ML-1M: s"
    return [
        Row(what, figure, *bar, peer, statistics.median(theirs))
        for bar, peer, theirs in (
            (solved, "implicit, use_cg=False", exact),
            (approximated, "implicit, use_cg=True", conjugate),
        )
    ]


def implicit_seconds(X: pd.DataFrame, *, use_cg: bool) -> list[float]:
    from implicit.cpu.als import AlternatingLeastSquares

    seconds: list[float] = []
    model = AlternatingLeastSquares(
        factors=SWEEP["n_factors"],
        regularization=SWEEP["reg"],
        use_cg=use_cg,
        iterations=SWEEP["max_iter"],
        random_state=0,
    )
    ones = [1.0] * len(X)
    pairs = sparse.csr_matrix((ones, (X["user"], X["item"])), dtype="float32")
    model.fit(
        pairs,
        show_progress=False,
        callback=lambda iteration, elapsed, *_: seconds.append(elapsed),
    )
    return seconds


def parse_args() -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="default: all"
    )
    common.add_argument("--device", default="cpu", help="of skrec (default: cpu)")
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    for name, run, help in (
        ("leave-one-out", leave_one_out, "MovieLens 1M: the last item of each user"),
        ("ua", whole_catalogue, "MovieLens 100K ua: among all items"),
        ("sweep", sweep, "seconds of a sweep beside implicit's"),
    ):
        command = commands.add_parser(name, parents=[common], help=help)
        command.set_defaults(run=run)
        if run is sweep:
            command.add_argument("--repetitions", type=int, default=3)
        else:
            command.add_argument(
                "--holdout", action="store_true", help="on held out training rows"
            )
            command.add_argument(
                "--default", action="store_true", help="MFRegressor() instead of als"
            )
        if run is leave_one_out:
            command.add_argument("--solver", default="als", choices=["als", "vb"])
    return parser.parse_args()


if __name__ == "__main__":
    run_command(parse_args())
