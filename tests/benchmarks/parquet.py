"""Memory and time of a fit from a Parquet file of many ratings.

    python tests/benchmarks/parquet.py ratings.parquet --ratings 20e6 --threads 2

The file is written where it is not there: ratings of biases and four factors, in the
proportions of the Netflix Prize, whose 480,189 users have 100 million. Pairs are drawn
with repeats. Memory is the highest resident size minus that after the imports.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from _common import options, report, set_threads
from footprint import mebibytes
from pyarrow import parquet

from skrec import MFRegressor
from skrec.datasets import from_arrow

N_ITEMS, RATINGS_PER_USER, PART = 17_770, 208, 2_000_000


def write(path, n_ratings):
    rng = np.random.default_rng(0)
    n_users = max(n_ratings // RATINGS_PER_USER, 1)
    popularity = np.cumsum(np.arange(1, N_ITEMS + 1) ** -0.6)
    sides = [
        (0.4 * rng.normal(size=n), rng.normal(size=(n, 4))) for n in (n_users, N_ITEMS)
    ]
    (user_bias, P), (item_bias, Q) = sides
    writer = None
    for start in range(0, n_ratings, PART):
        n = min(PART, n_ratings - start)
        users = rng.integers(n_users, size=n)
        items = np.searchsorted(popularity / popularity[-1], rng.random(n))
        items = np.minimum(items, N_ITEMS - 1)
        y = 3.5 + user_bias[users] + item_bias[items] + 0.8 * rng.normal(size=n)
        y += 0.3 * (P[users] * Q[items]).sum(1)
        columns = {"user": 7 * users + 3, "item": items, "rating": y.round().clip(1, 5)}
        table = pa.table(columns)
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=PART // 2)
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, parents=[options(2)])
    parser.add_argument("path", type=Path)
    parser.add_argument("--ratings", type=float, default=1e7)
    parser.add_argument("--factors", type=int, default=16)
    parser.add_argument("--sweeps", type=int, default=2)
    args = parser.parse_args()
    set_threads(args.threads)
    if not args.path.exists():
        print("written; start again to measure, in a process of its own")
        write(args.path, int(args.ratings))
        return
    warnings.simplefilter("ignore")
    before, start = mebibytes("VmRSS"), time.perf_counter()
    X, y = from_arrow(args.path)
    read = time.perf_counter()
    rows = [("read", mebibytes("VmHWM") - before, read - start)]
    MFRegressor(args.factors, max_iter=args.sweeps).fit(X, y)
    rows.append(("fit", mebibytes("VmHWM") - before, time.perf_counter() - read))
    cells = [
        [what, len(y), f"{peak:.0f}", f"{peak * 2**20 / len(y):.0f}", f"{seconds:.1f}"]
        for what, peak, seconds in rows
    ]
    header = ["work", "ratings", "peak, MiB", "bytes a rating", "s"]
    report({"": pd.DataFrame(cells, columns=header)}, args)


if __name__ == "__main__":
    main()
