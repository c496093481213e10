"""Memory and traffic of fits by many processes, by formula, checked on small data.

    python tests/benchmarks/scale.py --result scale

Three tables: `scale_check.csv` compares the formulas of today's layout with what 1, 2
and 4 processes of `skrec.distributed` hold and receive; `scale_gather.csv` compares the
number of rows that a process has to gather with a count on drawn ratings; and
`scale_plan.csv` has the formulas at 10⁹ users, 10⁷ items and 10¹¹ ratings.
"""

import argparse
import gc
import json
import os
import socket
import subprocess
import sys
import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from _common import options, report

from skrec import MFRegressor, _iterations, _ranks, distributed
from skrec.datasets import make_ratings

# Bytes of a rating in the order of users and in that of items: other row, target and
# weight, and its own row or its place; and the places that it is sent from.
BY_USER, BY_ITEM, ROUTE = 16, 16, 8
SEEN = 4
# Steps of conjugate gradients for the rows of a side.
STEPS = 3
BANDWIDTH, FLOPS = 25e9, 30e12


class Size(NamedTuple):
    n_users: int
    n_items: int
    n_ratings: int
    n_factors: int

    @property
    def row(self):
        """Numbers of a row: factors and a bias."""
        return self.n_factors + 1

    @property
    def packed(self):
        """Numbers of a symmetric matrix of a row."""
        return self.row * (self.row + 1) // 2


SMALL = Size(40_000, 4_000, 800_000, 16)
LARGE = [Size(10**9, 10**7, 10**11, k) for k in (16, 64, 128)]


def gathered(n_rows, mean_length, n_processes):
    """Rows of a side that a process needs, if owners of the other side are random."""
    return n_rows * (1 - (1 - 1 / n_processes) ** mean_length)


def replicated(size, n_processes, *, numbers):
    """Bytes held, and received in a sweep, where all processes have all rows.

    This is the layout of skrec.distributed; `numbers` of a row are its moments.
    """
    ratings = (BY_USER + BY_ITEM + ROUTE * (n_processes > 1)) / n_processes + SEEN
    n_rows = size.n_users + size.n_items
    # Offsets of ratings in both orders, and of the seen items.
    offsets = 4 * n_rows + 8 * size.n_users
    # Each row has a count, a relative precision and a residual sum of squares beside.
    tables = 4 * n_rows * (numbers + 2)
    received = 4 * n_rows * (numbers + 1) * (1 - 1 / n_processes)
    return ratings * size.n_ratings + offsets + tables, received


def sharded(size, n_processes, *, numbers):
    """The same where rows have owners, who send those that ratings need (ALX)."""
    n_rows, per = size.n_users + size.n_items, 1 / n_processes
    users = gathered(size.n_users, size.n_ratings / size.n_users, n_processes)
    items = gathered(size.n_items, size.n_ratings / size.n_items, n_processes)
    ratings = (BY_USER + BY_ITEM) * size.n_ratings * per
    received = 4 * numbers * (users + items) * (1 - per)
    # The side that is gathered comes in parts, so that no table of it is held.
    return ratings + 4 * n_rows * (2 * numbers + 2) * per, received


def users_sharded(size, n_processes, *, numbers):
    """The same where users have owners, and steps of items are reduced sums."""
    per = 1 / n_processes
    ratings = BY_USER * size.n_ratings * per
    tables = 4 * (size.n_users * 2 * numbers * per + size.n_items * 4 * numbers)
    # A direction goes to all, and its product with the matrices comes back in sums.
    received = (STEPS + 1) * 2 * 4 * size.n_items * numbers * (1 - per)
    return ratings + tables, received


def plan():
    """The layouts at a size that no machine here holds."""
    rows = []
    for size in LARGE:
        moments, points = size.row + size.packed, size.row
        layouts = {
            "all rows everywhere, vb": (replicated, moments),
            "all rows everywhere, als": (replicated, points),
            "all rows sharded, vb": (sharded, moments),
            "all rows sharded, als": (sharded, points),
            "users sharded, items everywhere, als by CG": (users_sharded, points),
        }
        for name, (layout, numbers) in layouts.items():
            for n_processes in (256, 1024):
                held, received = layout(size, n_processes, numbers=numbers)
                per_rating = 8 * STEPS * size.row if "CG" in name else 4 * size.packed
                products = per_rating * size.n_ratings
                if "CG" not in name:
                    products += size.row**3 / 3 * (size.n_users + size.n_items)
                rows.append(
                    {
                        "layout": name,
                        "factors": size.n_factors,
                        "processes": n_processes,
                        "held, GiB": held / 2**30,
                        "received, GiB": received / 2**30,
                        "network, s": received / BANDWIDTH,
                        "products, s": products / n_processes / FLOPS,
                    }
                )
    return pd.DataFrame(rows)


def gathers():
    """Rows that a process needs, counted on drawn ratings: means over processes."""
    X, _ = make_ratings(*SMALL[:3], as_frame=False, random_state=0)
    rng = np.random.default_rng(0)
    rows = []
    for n_processes in (2, 4, 16, 64):
        for side, noun in enumerate(("users", "items")):
            owner = rng.integers(n_processes, size=SMALL[1 - side])
            needed = np.unique(X[:, side] * n_processes + owner[X[:, 1 - side]])
            lengths = np.bincount(X[:, side], minlength=SMALL[side])
            formula = (1 - (1 - 1 / n_processes) ** lengths).sum()
            rows.append(
                {
                    "processes": n_processes,
                    "rows": noun,
                    "counted": len(needed) / n_processes,
                    "by the lengths of rows": formula,
                    "by their mean": gathered(SMALL[side], lengths.mean(), n_processes),
                }
            )
    return pd.DataFrame(rows)


def live_bytes():
    """Bytes of all arrays of torch."""
    gc.collect()
    tensors = {
        x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
        for x in gc.get_objects()
        if type(x) is torch.Tensor
    }
    return sum(tensors.values())


RECEIVED = [0]


def worker(solver):
    warnings.simplefilter("ignore")
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    X, y = make_ratings(*SMALL[:3], as_frame=False, random_state=0)
    own = np.random.default_rng(0).integers(size, size=len(y)) == rank
    noted = []  # Bytes held and received after each sweep.
    _iterations.print_progress = lambda *progress: noted.append(
        (live_bytes(), RECEIVED[0])
    )
    model = MFRegressor(
        SMALL.n_factors,
        solver=solver,
        implicit_features=False,
        rank_by="rating",
        max_iter=3,
        tol=0,
    )
    broadcast = _ranks.dist.broadcast

    def counted(tensor, src, **options):
        RECEIVED[0] += tensor.nbytes * (src != rank)
        return broadcast(tensor, src, **options)

    _ranks.dist.broadcast = counted
    before = live_bytes()
    X, y = X[own], y[own]
    distributed.fit(model, X, y) if size > 1 else model.fit(X, y)
    (_, first), (held, second), *_ = noted
    # Seen items that came from several processes are in an array of torch.
    seen = model._seen.offsets.nbytes + model._seen.items.nbytes * (size == 1)
    print(json.dumps([held - before + seen, second - first]))


def measured(solver, n_processes):
    """Means over the processes of bytes held, and received in a sweep."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    common = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(n_processes),
    }
    command = [sys.executable, __file__, "--worker", solver]
    running = [
        subprocess.Popen(
            command, env=common | {"RANK": str(rank)}, stdout=subprocess.PIPE
        )
        for rank in range(n_processes)
    ]
    return np.mean([json.loads(p.communicate()[0]) for p in running], axis=0)


def check():
    rows = []
    for solver in ("vb", "als"):
        numbers = SMALL.row + (SMALL.packed if solver == "vb" else 0)
        for n_processes in (1, 2, 4):
            held, received = measured(solver, n_processes)
            formula = replicated(SMALL, n_processes, numbers=numbers)
            rows.append(
                {
                    "solver": solver,
                    "processes": n_processes,
                    "held, MiB": held / 2**20,
                    "by formula": formula[0] / 2**20,
                    "received, MiB": received / 2**20,
                    "by formula ": formula[1] / 2**20,
                }
            )
    return pd.DataFrame(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, parents=[options(None)])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker)
        return
    tables = {"check": check(), "gather": gathers(), "plan": plan()}
    for results in tables.values():
        numbers = results.select_dtypes("float").columns
        results[numbers] = results[numbers].map(lambda value: float(f"{value:.3g}"))
    report(tables, args)


if __name__ == "__main__":
    main()
