"""Time of fits by several processes against one, and how far their results differ.

    python tests/benchmarks/processes.py ml-1m.npz --processes 2 --result processes

The file has the arrays user, item and rating. Each process
has one thread and a random part of the rows in memory. The time is that of the slowest
process, of its wall clock and of its processor, from the call to the fitted estimator.
"""

import argparse
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _common import options, report
from sklearn.base import clone

from skrec import MFRegressor, NCFRegressor, distributed

FITS = {
    "vb": MFRegressor(rank_by="rating"),
    "vb, 16 factors": MFRegressor(16, rank_by="rating", implicit_features=True),
    "als": MFRegressor(solver="als", rank_by="rating"),
    "vb with lists by both": MFRegressor(),
    "als of choices": MFRegressor(solver="als", unobserved_weight=0.1),
    "adam": MFRegressor(16, solver="adam", rank_by="rating", random_state=0),
    "network": NCFRegressor(max_iter=2, rank_by="rating", random_state=0),
}


def read(path):
    arrays = np.load(path)
    names = [n for n in ("user", "users", "item", "items") if n in arrays]
    X = pd.DataFrame({name.rstrip("s"): arrays[name] for name in names})
    (rating,) = (arrays[n] for n in ("rating", "ratings", "y") if n in arrays)
    return X[["user", "item"]], rating.astype(float)


def worker(path, name, repeats, out):
    warnings.simplefilter("ignore")
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    X, y = read(path)
    own = np.random.default_rng(0).integers(size, size=len(y)) == rank
    rows, ratings = X[own].reset_index(drop=True), y[own]
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        model = clone(FITS[name])
        if size == 1:
            model.fit(rows, ratings)
        else:
            distributed.fit(model, rows, ratings)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    sample = X.sample(20_000, random_state=0)
    result = min(times), min(t[1] for t in times), model.n_iter_, model.predict(sample)
    Path(out, f"{rank}.pickle").write_bytes(pickle.dumps(result))


def measured(path, name, size, repeats):
    with socket.socket() as found, tempfile.TemporaryDirectory() as out:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
        found.close()
        common = os.environ | {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(size),
        }
        command = [sys.executable, __file__, str(path), "--fit", name, "--out", out]
        command += ["--repeats", str(repeats)]
        running = [
            subprocess.Popen(command, env=common | {"RANK": str(rank)})
            for rank in range(size)
        ]
        for process in running:
            assert process.wait() == 0
        return [
            pickle.loads(Path(out, f"{rank}.pickle").read_bytes())
            for rank in range(size)
        ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, parents=[options(None)])
    parser.add_argument("ratings")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fits", nargs="*", default=list(FITS))
    parser.add_argument("--fit")
    parser.add_argument("--out")
    args = parser.parse_args()
    if args.fit:
        worker(args.ratings, args.fit, args.repeats, args.out)
        return
    rows = []
    for name in args.fits:
        (one,) = measured(args.ratings, name, 1, args.repeats)
        many = measured(args.ratings, name, args.processes, args.repeats)
        wall, cpu = max(m[0][0] for m in many), max(m[1] for m in many)
        gap = max(np.abs(m[3] - one[3]).max() for m in many)
        rows.append(
            {
                "fit": name,
                "one process, s": f"{one[0][0]:.2f}",
                f"{args.processes} processes, s": f"{wall:.2f}",
                "ratio": f"{wall / one[0][0]:.2f}",
                "of the processor": f"{cpu / one[1]:.2f}",
                "iterations": f"{one[2]}, {many[0][2]}",
                "predictions differ by": f"{gap:.1e}",
            }
        )
        print(rows[-1], file=sys.stderr)
    report({"": pd.DataFrame(rows)}, args)


if __name__ == "__main__":
    main()
