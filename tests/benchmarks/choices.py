"""Implicit feedback by als or by default, and the time of a sweep beside implicit's.

Parameters were chosen on training rows held out (--holdout), never on test rows.
Progress goes to stderr, the table to stdout.
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
from _common import (
    Row,
    Split,
    iteration_seconds,
    load_ml_100k,
    options,
    run_command,
    x_y,
)
from _leave_one_out import found, leave_one_out_task
from scipy import sparse
from threadpoolctl import threadpool_limits

from skrec import MFRegressor
from skrec.datasets import make_ratings
from skrec.metrics import RankingScorer

# "als" with a fixed number of sweeps.
ALS: dict = {"solver": "als", "max_iter": 12, "tol": 0, "clip": False}
LEAVE_ONE_OUT: dict = {
    **ALS,
    "max_iter": 8,
    "n_factors": 112,
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
    "biased": False,
    "unobserved_weight": 1.0,
    "reg": 0.01,
    "reg_exponent": 0,
    "store_covariance": False,
}
CG = "implicit, use_cg=True"
SWEEP_BARS = {
    (CG, 64): ("ratio ≤ 1.2", "ratio ≤ 0.8"),
    (CG, 256): ("ratio ≤ 1.0", "ratio ≤ 0.5"),
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
    sets = {"ML-1M": leave_one_out_task().train, "sparse": sparse_choices()}
    rows = []
    peers = {f"implicit, use_cg={use_cg}": use_cg for use_cg in args.use_cg}
    for (name, X), k in product(sets.items(), args.factors):
        times: dict[str, list[float]] = {}
        objectives = {}
        for _ in range(args.repetitions):
            runs = {"skrec": partial(our_sweeps, device=args.device)}
            runs |= {p: partial(implicit_sweeps, use_cg=peers[p]) for p in peers}
            for who, run in runs.items():
                seconds, objectives[who] = run(X, k)
                times.setdefault(who, []).extend(seconds[1:])
        medians = {who: statistics.median(seconds) for who, seconds in times.items()}
        for peer in peers:
            end = objectives[peer][-1]
            n = 1 + next(i for i, o in enumerate(objectives["skrec"]) if o <= end)
            figures = {
                "s a sweep": SWEEP_BARS.get((peer, k), ("", "")),
                f"s of {n} sweeps, against {SWEEP['max_iter']} to as low": ("", ""),
            }
            for (what, bars), ours, theirs in zip(
                figures.items(), (1, n), (1, SWEEP["max_iter"]), strict=True
            ):
                rows.append(
                    Row(
                        f"{name}, {k} factors: {what}",
                        ours * medians["skrec"],
                        *bars,
                        peer,
                        theirs * medians[peer],
                    )
                )
    return rows


def sparse_choices() -> pd.DataFrame:
    """Choices of many users among many items, 13 of each user."""
    X, _ = make_ratings(60_000, 20_000, 800_000, random_state=0)
    return X[["user", "item"]]


def our_sweeps(X: pd.DataFrame, k: int, *, device: str) -> tuple[list[float], list]:
    """Seconds of every sweep, and the objective after it."""
    model = MFRegressor(k, **SWEEP, device=device)
    seconds = iteration_seconds(model, X)
    return seconds, model.loss_curve_


def implicit_sweeps(
    X: pd.DataFrame, k: int, *, use_cg: bool
) -> tuple[list[float], list]:
    """Seconds of every sweep, and the objective of skrec after it.

    A choice of confidence 2 has the curvature that the pair and a rating of weight 1
    have in skrec, and twice the slope: predictions are twice as large. A penalty is
    twice as large then, too.
    """
    from implicit.cpu.als import AlternatingLeastSquares

    seconds: list[float] = []
    objectives: list[float] = []
    model = AlternatingLeastSquares(
        factors=k,
        regularization=2 * SWEEP["reg"],
        use_cg=use_cg,
        iterations=SWEEP["max_iter"],
        random_state=0,
    )
    users, items = (np.unique(X[name], return_inverse=True)[1] for name in X)
    pairs = sparse.csr_matrix((np.full(len(X), 2.0), (users, items)), dtype="float32")

    def keep(iteration: int, elapsed: float, *_: float) -> None:
        seconds.append(elapsed)
        P, Q = (f / np.sqrt(2) for f in (model.user_factors, model.item_factors))
        objectives.append(objective(P, Q, users, items))

    # It has threads of its own, with which those of BLAS collide.
    with threadpool_limits(1, "blas"):
        model.fit(pairs, show_progress=False, callback=keep)
    return seconds, objectives


def objective(P: np.ndarray, Q: np.ndarray, users: np.ndarray, items: np.ndarray):
    """Penalised sum of squares over all pairs and the choices, per unit of weight."""
    fitted = [
        np.einsum("nk,nk->n", P[u], Q[i])
        for u, i in zip(*(np.array_split(n, 50) for n in (users, items)), strict=True)
    ]
    squares = np.square(1 - np.concatenate(fitted), dtype=float).sum()
    everywhere = ((P.T @ P).astype(float) * (Q.T @ Q)).sum()
    penalty = SWEEP["reg"] * (np.square(P).sum() + np.square(Q).sum())
    return (squares + everywhere + penalty) / (len(users) + len(P) * len(Q))


def parse_args() -> argparse.Namespace:
    common = options()
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
            command.add_argument("--factors", type=int, nargs="+", default=[64, 256])
            command.add_argument(
                "--use-cg",
                type=json.loads,
                nargs="+",
                default=[True],
                help="of implicit: true, false or both (default: true)",
            )
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
