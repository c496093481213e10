"""Estimates of time and memory before a fit, over those of the fit.

    python tests/benchmarks/resources.py --processor-time --result resources

The fit and the estimate of `estimate_resources` each run in a new process. The memory
of the fit is the highest resident size minus the one with the input. "estimating" is
the time of the estimate, without the start of its process, over that of the fit. With
`--processor-time`, which other work on the machine changes less, time is that of the
processor; it is of use at one thread.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
from _common import DATA, load_npz, options, report, set_threads, x_y
from footprint import mebibytes

from skrec import MFRegressor, NCFRegressor
from skrec._data.sides import Sides
from skrec.datasets import fetch_movielens, make_ratings
from skrec.inspection import _resources


def movielens_100k():
    return fetch_movielens("100k", archive=DATA / "ml-100k.zip", return_X_y=True)


def drawn(n_users: int, n_items: int, n_ratings: int) -> Callable:
    return lambda: make_ratings(n_users, n_items, n_ratings, random_state=0)


ROWS = {
    "ML-100K": movielens_100k,
    "ML-1M": lambda: x_y(load_npz(DATA / "ml-1m.npz")),
    "long tail": drawn(22_000, 296_000, 830_000),
    "many users": drawn(200_000, 500, 1_000_000),
    "few users": drawn(500, 100_000, 500_000),
    "dense": drawn(3_000, 1_000, 1_000_000),
    "3 million": drawn(75_000, 15_000, 3_000_000),
}
MODELS = {
    "MFRegressor()": lambda: MFRegressor(),
    "MFRegressor(16)": lambda: MFRegressor(16, rank_by="rating"),
    "als": lambda: MFRegressor(solver="als"),
    "gibbs": lambda: MFRegressor(solver="gibbs", random_state=0),
    "adam": lambda: MFRegressor(solver="adam", random_state=0),
    "NCFRegressor()": lambda: NCFRegressor(random_state=0),
}


def fit(rows: str, model: str, clock: Callable[[], float]) -> dict[str, float]:
    X, y = ROWS[rows]()
    before = _resources._reset_peak() / 2**20
    start = clock()
    fitted = MODELS[model]().fit(X, y)
    seconds = clock() - start
    return {
        "seconds": seconds,
        "iterations": fitted.n_iter_,
        "peak, MiB": mebibytes("VmHWM") - before,
        "model, MiB": len(pickle.dumps(fitted, 5)) / 2**20,
    }


def estimate(rows: str, model: str, clock: Callable[[], float]) -> dict[str, float]:
    X, y = ROWS[rows]()
    start = clock()
    found = _resources.measured(MODELS[model](), X, y, None, Sides(None, None), clock)
    return {
        "seconds": found["seconds"],
        "iterations": found["n_iter"],
        "peak, MiB": found["peak_bytes"] / 2**20,
        "model, MiB": found["model_bytes"] / 2**20,
        "estimating": clock() - start,
    }


def in_a_process(job: str, rows: str, model: str, chosen: list[str]) -> dict:
    command = [sys.executable, __file__, "--job", job, "--rows", rows]
    command += ["--models", model, *chosen]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def compared(rows: str, model: str, chosen: list[str]) -> dict[str, object]:
    fitted = in_a_process("fit", rows, model, chosen)
    found = in_a_process("estimate", rows, model, chosen)
    result: dict[str, object] = {"rows": rows, "model": model}
    for name, value in fitted.items():
        result[name] = float(f"{value:.3g}")
        result["estimated" if name == "iterations" else f"ratio of {name}"] = (
            found[name] if name == "iterations" else round(found[name] / value, 2)
        )
    result["estimating"] = round(found["estimating"] / fitted["seconds"], 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[options(1)],
    )
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=ROWS)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--job", choices=["fit", "estimate"], help=argparse.SUPPRESS)
    parser.add_argument("--processor-time", action="store_true")
    args = parser.parse_args()
    set_threads(args.threads)
    if args.job:
        warnings.simplefilter("ignore")
        clock = time.process_time if args.processor_time else time.perf_counter
        job = fit if args.job == "fit" else estimate
        print(json.dumps(job(args.rows[0], args.models[0], clock)))
        return
    chosen = ["--threads", str(args.threads)]
    chosen += ["--processor-time"] * args.processor_time
    results = []
    for rows in args.rows:
        for model in args.models:
            results.append(compared(rows, model, chosen))
            print(results[-1], file=sys.stderr)
    report({"": pd.DataFrame(results).replace({np.nan: ""})}, args)


if __name__ == "__main__":
    main()
