"""Regret of explored lists in a simulated week, of the page on exploration.

Every day a model is fitted to all ratings so far, each user gets a list and rates its
items, and the day's regret is the mean true rating of the best list minus that of the
list shown.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import pandas as pd
from _common import options, report

from skrec import MFRegressor

N_USERS, LENGTH, NOISE = 150, 3, 0.7

LISTS: dict[str, dict[str, object]] = {
    "mean": {},
    "mean, diversity=0.3": {"diversity": 0.3},
    "lower_bound": {"strategy": "lower_bound"},
    "sample": {"strategy": "sample"},
}


def daily_regret(
    solver: str, n_items: int, days: int, seed: int, **options: object
) -> np.ndarray:
    """Regret of each day, ndarray of shape (days,)."""
    rng = np.random.default_rng(seed)
    tastes, kinds = (rng.normal(size=(n, 3)) for n in (N_USERS, n_items))
    liking = 3 + 0.5 * tastes @ kinds.T + 0.4 * rng.normal(size=n_items)
    best = np.sort(liking, axis=1)[:, -LENGTH:].mean()
    shown = pd.DataFrame(
        {
            "user": np.repeat(np.arange(N_USERS), 2),
            "item": rng.integers(n_items, size=2 * N_USERS),
        }
    )
    X, y, regret = shown[:0], np.empty(0), []
    for day in range(days + 1):
        true = liking[shown["user"], shown["item"]]
        regret.append(best - true.mean())
        X = pd.concat([X, shown], ignore_index=True)
        y = np.append(y, true + NOISE * rng.normal(size=len(shown)))
        model = MFRegressor(
            4, solver=solver, max_iter=60, rank_by="rating", random_state=day
        )
        shown = model.fit(X, y).recommend(
            range(N_USERS),
            LENGTH,
            candidates=range(n_items),
            exclude_seen=False,
            random_state=day,
            as_frame=True,
            **options,
        )[["user", "item"]]
    # The first ratings are of items drawn at random.
    return np.array(regret[1:])


def main() -> None:
    """Report the mean regret of days and of all, and the worst of the last day."""
    parser = argparse.ArgumentParser(description=__doc__, parents=[options(None)])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--items", type=int, nargs="+", default=[60, 300])
    parser.add_argument("--solvers", nargs="+", default=["vb", "gibbs"])
    args = parser.parse_args()
    middle = (args.days + 1) // 2
    rows = []
    for n_items in args.items:
        for solver in args.solvers:
            for name, parameters in LISTS.items():
                regrets = np.array(
                    [
                        daily_regret(solver, n_items, args.days, seed, **parameters)
                        for seed in range(args.seeds)
                    ]
                )
                mean, error = regrets.mean(axis=0), regrets.mean(axis=1).std(ddof=1)
                rows.append(
                    {
                        "solver": solver,
                        "items": n_items,
                        "lists": name,
                        **{
                            f"day {day}": f"{mean[day - 1]:.2f}"
                            for day in (1, middle, args.days)
                        },
                        "all": f"{mean.mean():.2f} ± {error / args.seeds**0.5:.2f}",
                        f"worst, day {args.days}": f"{regrets[:, -1].max():.2f}",
                    }
                )
                print(rows[-1], file=sys.stderr)
    report({"": pd.DataFrame(rows)}, args)


if __name__ == "__main__":
    main()
