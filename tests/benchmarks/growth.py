"""Time and memory of a fit as ratings, factors, users and items grow.

Ratings are drawn by `make_ratings`. Every fit runs in a process of its own, so that its
peak of memory is its own: the highest resident size minus the one before the fit. The
number of sweeps is fixed, so that seconds compare; the first sweep is not counted in
those of a sweep. The last columns are shares of the machine's ceilings, as measured by
a copy and by a matrix product in single precision: numbers that a sweep has to move or
multiply at least, over its time.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import time
import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from _common import iteration_seconds, options, report, set_threads
from footprint import mebibytes

from skrec import MFRegressor
from skrec.datasets import make_ratings

SWEEPS = 5


class Size(NamedTuple):
    n_users: int
    n_items: int
    n_ratings: int
    n_factors: int


def of_mean_rows(n_ratings: int, n_factors: int) -> Size:
    """Ratings of which a user has 40 and an item 200."""
    return Size(n_ratings // 40, n_ratings // 200, n_ratings, n_factors)


SERIES = {
    "ratings": [of_mean_rows(int(n), 16) for n in (1e5, 3e5, 1e6, 3e6, 1e7, 2e7)],
    "factors": [of_mean_rows(1_000_000, k) for k in (4, 8, 16, 32, 64, 128)],
    "ids": [
        Size(n_users, n_users // 10, 5_000_000, 16)
        for n_users in (10_000, 30_000, 100_000, 300_000, 1_000_000)
    ],
}


def measure(size: Size) -> dict[str, float]:
    """Time and memory of one fit, and the ceilings of the machine beside it."""
    X, y = make_ratings(*size[:3], as_frame=False, random_state=0)
    before = mebibytes("VmRSS")
    model = MFRegressor(
        size.n_factors,
        rank_by="rating",
        implicit_features=False,
        max_iter=SWEEPS,
        tol=0,
        device="cpu",
    )
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sweeps = iteration_seconds(model, X, y)
    fit = time.perf_counter() - start
    sweep = float(np.median(sweeps[1:]))
    # A row x is of size d, and its outer product with a constant beside it is packed.
    d, n_rows = size.n_factors + 1, size.n_users + size.n_items
    packed = (d + 1) * (d + 2) // 2
    bytes_of_sums = 2 * 4 * size.n_ratings * packed
    products = 2 * 2 * size.n_ratings * packed + 2 * n_rows * d**3
    return {
        **size._asdict(),
        "fit, s": fit,
        "sweep, s": sweep,
        "rest, s": fit - sum(sweeps),
        "ns per rating": 1e9 * sweep / size.n_ratings,
        "peak, MiB": mebibytes("VmHWM") - before,
        "model, MiB": len(pickle.dumps(model, 5)) / 2**20,
        "of bandwidth": bytes_of_sums / sweep / bandwidth(),
        "of products": products / sweep / product_rate(),
    }


def best_seconds(run, repetitions: int = 5) -> float:
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def bandwidth() -> float:
    """Bytes read and written a second by a copy that no cache holds."""
    x = torch.zeros(2**26)
    y = torch.empty_like(x)
    return 2 * x.nbytes / best_seconds(lambda: y.copy_(x))


def product_rate() -> float:
    """Floating point operations a second of a matrix product in single precision."""
    A = torch.rand(2048, 2048)
    return 2 * 2048**3 / best_seconds(lambda: A @ A)


def in_a_process(size: Size, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "one", *map(str, size)]
    command += ["--threads", str(threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, parents=[options(2)])
    parser.add_argument("series", choices=[*SERIES, "all", "one"])
    parser.add_argument("size", nargs="*", type=int, help="of the one fit")
    parser.add_argument("--most", type=int, default=10**8, help="ratings at most")
    args = parser.parse_args()
    set_threads(args.threads)
    if args.series == "one":
        print(json.dumps(measure(Size(*args.size))))
        return
    tables = {}
    for name in SERIES if args.series == "all" else [args.series]:
        sizes = [size for size in SERIES[name] if size.n_ratings <= args.most]
        results = pd.DataFrame([in_a_process(size, args.threads) for size in sizes])
        results = results.map(lambda value: float(f"{value:.3g}"))
        tables[name] = results.astype(dict.fromkeys(Size._fields, int))
    report(tables, args)


if __name__ == "__main__":
    main()
