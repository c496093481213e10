"""RMSE and fit time of MFRegressor() beside Surprise and cmfrec, in the same run.

Surprise's SVD runs on one thread by nature, whatever --threads says. Its clock starts
after it has numbered the ids; those of MFRegressor and cmfrec start at a DataFrame.
Progress goes to stderr, the table to stdout.
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from _common import (
    DATA,
    Outcome,
    Row,
    Split,
    cmfrec_cmf,
    compare,
    first_tenth,
    folds,
    load_ml_100k,
    load_npz,
    long_tail,
    mf_regressor,
    monti,
    options,
    run_command,
    surprise_svd,
    x_y,
)
from sklearn.metrics import root_mean_squared_error

from skrec import MFRegressor

OURS = "MFRegressor()"
GIBBS = 'solver="gibbs"'
SURPRISE = "Surprise SVD()"

# Lowest published RMSE on the splits of Monti et al. (2017), from IMC-GAE (Shen et al.,
# 2021).
PUBLISHED_MONTI = {"flixster": 0.8838, "douban": 0.7211, "yahoo_music": 18.70}

# A Gaussian has 90 % of its mass within this many standard deviations.
Z_90 = 1.645

Bars = dict[str, tuple[str, str]]


def versus(
    measurement: str, quantity: str, outcomes: dict[str, Outcome], bars: Bars
) -> list[Row]:
    """One row for each peer."""
    figure = getattr(outcomes[OURS], quantity)
    return [
        Row(
            measurement,
            figure,
            *bars.get(peer, ("", "")),
            peer,
            getattr(outcome, quantity),
        )
        for peer, outcome in outcomes.items()
        if peer != OURS
    ]


def ml_100k(args: argparse.Namespace) -> list[Row]:
    cmfrec = "cmfrec k=50 lambda=10"
    splits = list(islice(folds(load_ml_100k()), args.folds))
    gibbs = partial(mf_regressor, solver="gibbs", random_state=0, device=args.device)
    outcomes = compare(
        {
            OURS: partial(mf_regressor, device=args.device),
            SURPRISE: surprise_svd,
            cmfrec: partial(cmfrec_cmf, k=50, lambda_=10.0),
        },
        splits,
    )
    drawn = compare({GIBBS: gibbs}, splits)[GIBBS]
    name = f"ML-100K, {args.folds} of 5 folds"
    rmse_bar = ("≤ .8905", "≤ .8850")
    seconds_bars = {SURPRISE: ("ratio ≤ 1.0", "ratio ≤ 0.5")}
    return [
        *versus(
            f"{name}: mean RMSE",
            "rmse",
            outcomes,
            {SURPRISE: rmse_bar, cmfrec: rmse_bar},
        ),
        *versus(f"{name}: median fit, s", "seconds", outcomes, seconds_bars),
        Row(f"{name}, {GIBBS}: mean RMSE", drawn.rmse, "≤ .8860", "≤ .8830"),
        Row(f"{name}, {GIBBS}: median fit, s", drawn.seconds),
        *official_u1(args.device),
    ]


def official_u1(device: str) -> list[Row]:
    split = Split(load_ml_100k("u1.base"), load_ml_100k("u1.test"))
    X_test, y_test = x_y(split.test)
    vb = MFRegressor(device=device).fit(*x_y(split.train))
    predicted, std = vb.predict(X_test, return_std=True)
    share = np.mean(np.abs(y_test - predicted) < Z_90 * std)
    gibbs = mf_regressor(split, solver="gibbs", random_state=0, device=device)
    return [
        Row(
            "ML-100K u1: RMSE",
            root_mean_squared_error(y_test, predicted),
            "≤ .8970",
            "≤ .8900",
        ),
        Row(f"ML-100K u1, {GIBBS}: RMSE", gibbs.rmse, "≤ .8895", "≤ .8870"),
        Row("ML-100K u1: share in 90 % interval", float(share), ".87 to .93"),
    ]


def ml_1m(args: argparse.Namespace) -> list[Row]:
    cmfrec, sixteen = "cmfrec k=50 lambda=20", "skrec, n_factors=16"
    outcomes = compare(
        {
            OURS: partial(mf_regressor, device=args.device),
            SURPRISE: surprise_svd,
            cmfrec: partial(cmfrec_cmf, k=50, lambda_=20.0),
            sixteen: partial(mf_regressor, n_factors=16, device=args.device),
        },
        [first_tenth(load_npz(DATA / "ml-1m.npz"))] * args.repetitions,
    )
    rmse_bar = ("≤ .8335", "≤ .8315")
    seconds_bars = {
        cmfrec: ("ratio ≤ 1.0", "ratio ≤ 0.5"),
        SURPRISE: ("ratio ≤ 0.25", "ratio ≤ 0.1"),
    }
    return [
        *versus(
            "ML-1M: RMSE", "rmse", outcomes, {SURPRISE: rmse_bar, cmfrec: rmse_bar}
        ),
        *versus(
            f"ML-1M: median fit of {args.repetitions}, s",
            "seconds",
            outcomes,
            seconds_bars,
        ),
    ]


def repeats(args: argparse.Namespace) -> list[Row]:
    """Rows that were logged again, and weights, against the same rows once."""
    split = next(folds(load_ml_100k()))
    X, y = x_y(split.train)
    X_test, y_test = x_y(split.test)
    rng = np.random.RandomState(0)
    n = len(y)

    def again(share: float) -> tuple[pd.DataFrame, np.ndarray]:
        rows = np.append(np.arange(n), rng.permutation(n)[: int(share * n)])
        return X.iloc[rows], np.asarray(y)[rows]

    fits = {
        "once": (X, y),
        **{f"{share:.0%} twice": again(share) for share in (0.1, 0.2, 0.5, 1.0)},
        "weights of 10": (X, y, np.full(n, 10.0)),
        "weights of 1/n": (X, y, np.full(n, 1 / n)),
        "log-normal counts": (X, y, np.ceil(np.exp(rng.standard_normal(n) + 1.5))),
    }
    rows = []
    for solver in ("vb", "gibbs", "als", "adam", "sgd"):
        for name, fit in fits.items():
            model = MFRegressor(solver=solver, random_state=0, device=args.device)
            predicted = model.fit(*fit).predict(X_test)
            rmse = root_mean_squared_error(y_test, predicted)
            bar = "≤ 1.01 × once" if solver == "vb" and name != "once" else ""
            rows.append(Row(f"{solver}, {name}: RMSE", rmse, bar))
            if solver in ("vb", "gibbs"):
                _, std = model.predict(X_test, return_std=True)
                share = np.mean(np.abs(y_test - predicted) < Z_90 * std)
                bar = ".88 to .93" if solver == "vb" else ""
                rows.append(Row(f"{solver}, {name}: 90 % interval", float(share), bar))
    return rows


def rating_sets(args: argparse.Namespace) -> list[Row]:
    sets = {path.stem: load_npz(path) for path in args.paths}
    if args.long_tail:
        sets["long tail"] = long_tail()
    return [row for item in sets.items() for row in rating_set(*item, args.device)]


def rating_set(name: str, ratings: pd.DataFrame, device: str) -> list[Row]:
    outcomes = compare(
        {
            OURS: partial(mf_regressor, device=device),
            SURPRISE: surprise_svd,
            **{
                f"cmfrec k=20 lambda={reg:g}": partial(cmfrec_cmf, k=20, lambda_=reg)
                for reg in (5.0, 10.0, 20.0)
            },
        },
        [first_tenth(ratings)],
    )
    # The best lambda is chosen on the test set: in cmfrec's favour.
    best = min(
        (peer for peer in outcomes if peer.startswith("cmfrec")),
        key=lambda peer: outcomes[peer].rmse,
    )
    shown = {peer: outcomes[peer] for peer in (OURS, SURPRISE, best)}
    rmse_bars = {SURPRISE: ("ratio < 1", ""), best: ("", "ratio < 1")}
    return [
        *versus(f"{name}: RMSE", "rmse", shown, rmse_bars),
        *versus(f"{name}: fit, s", "seconds", shown, {}),
    ]


def monti_splits(args: argparse.Namespace) -> list[Row]:
    """The splits of Monti et al. (2017), which graph networks are compared on."""
    rows = []
    for name, published in PUBLISHED_MONTI.items():
        fit = partial(mf_regressor, device=args.device)
        rmse, seconds = compare({OURS: fit}, [monti(name)])[OURS]
        rows += [
            Row(f"{name}: RMSE", rmse, "", "", "published (IMC-GAE)", published),
            Row(f"{name}: fit, s", seconds),
        ]
    return rows


def parse_args() -> argparse.Namespace:
    common = options()
    common.add_argument(
        "--device",
        default="cpu",
        help="of MFRegressor; the peers know the CPU only (default: cpu)",
    )
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="DATA")

    command = commands.add_parser(
        "ml-100k", parents=[common], help="MovieLens 100K: five folds, and u1"
    )
    command.add_argument(
        "--folds",
        type=int,
        default=5,
        choices=range(1, 6),
        help="how many of the five folds to run (default: 5)",
    )
    command.set_defaults(run=ml_100k)

    command = commands.add_parser(
        "ml-1m", parents=[common], help="MovieLens 1M: one split, repeated"
    )
    command.add_argument("--repetitions", type=int, default=3, help="default: 3")
    command.set_defaults(run=ml_1m)

    command = commands.add_parser(
        "monti", parents=[common], help="Flixster, Douban and Yahoo Music, ids alone"
    )
    command.set_defaults(run=monti_splits)

    command = commands.add_parser(
        "repeats", parents=[common], help="repeated rows and weights of one fold"
    )
    command.set_defaults(run=repeats)

    command = commands.add_parser(
        "sets", parents=[common], help="rating sets of other kinds, once each"
    )
    command.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="NPZ",
        help="file of the arrays user, item and rating",
    )
    command.add_argument(
        "--long-tail",
        action="store_true",
        help="add a synthetic set: 22,000 users, 296,000 items, 830,000 ratings",
    )
    command.set_defaults(run=rating_sets)

    args = parser.parse_args()
    if args.run is rating_sets and not (args.paths or args.long_tail):
        parser.error("sets needs at least one NPZ, or --long-tail")
    return args


if __name__ == "__main__":
    run_command(parse_args())
