"""Time of sweeps, of training steps and of lists on a device, and its agreement.

The same measurements run on the CPU with ``--device cpu --scale 0.001``, which shows
that the script works and no more.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import pandas as pd
import torch
from _common import Row, first_tenth, ml_1m, options, report, synchronise, table_of, x_y
from sklearn.base import clone
from sklearn.metrics import root_mean_squared_error

from skrec import MFRegressor, NCFRegressor
from skrec._alternating.als import als
from skrec._alternating.layout import Layout
from skrec._alternating.problem import Problem, RatingArrays
from skrec._alternating.start import spectral_start
from skrec._alternating.state import State
from skrec._alternating.vb import vb
from skrec._gradient.loop import train
from skrec._gradient.network import NeuMF, Shape, initial_weights
from skrec._gradient.objective import TrainingOptions
from skrec._gradient.samples import Samples
from skrec._topk import inner_products_of_tiles, top_k

# Users and items of MovieLens 20M and of the Netflix prize.
ML_20M, NETFLIX = (138_493, 26_744), (480_189, 17_770)

# Forms of the names of kernels, of the libraries and on the CPU.
KERNELS = {
    "sparse products": "csrmm|cusparse|embedding_bag",
    "products of matrices": "gemm|gemv|gemx|::b?mm$|addbmm|baddbmm",
    "Cholesky factors and solutions": "potrf|trsm|trsv|syrk|chol|solve",
    "copies, sums and functions of numbers": "native|aten",
}


class Bench:
    """Measurements on a device, at a share of the full size."""

    def __init__(self, device: str, scale: float) -> None:
        self.device, self.scale = torch.device(device), scale
        self.rng = np.random.default_rng(0)
        self.rows: list[Row] = []

    def record(self, name: str, figure: float, bar: str = "", beyond: str = "") -> None:
        self.rows.append(Row(name, figure, bar, beyond))
        print(f"{name}: {figure:.5g}", flush=True)

    def seconds(self, function: Callable[[], object]) -> float:
        """Seconds of a call, until the device has done its work."""
        synchronise()
        start = time.perf_counter()
        function()
        synchronise()
        return time.perf_counter() - start

    def shape(self, *full: int) -> tuple[int, ...]:
        """Numbers of rows whose product is in proportion to the scale."""
        return tuple(max(50, round(n * self.scale**0.5)) for n in full)

    def ratings(self, shape: tuple[int, int], n: int) -> RatingArrays:
        """Ratings by factors and noise, of users and items of unequal popularity."""

        def drawn(n_rows: int, spread: int) -> np.ndarray:
            share = 1 / (np.arange(n_rows) + spread)
            below = np.cumsum(share) / share.sum()
            uniform = self.rng.random(n + n // 3)
            return np.searchsorted(below, uniform).clip(max=n_rows - 1)

        pairs = drawn(shape[0], 2000) * shape[1] + drawn(shape[1], 60)
        pairs.sort()
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
        beyond = self.rng.choice(len(pairs), len(pairs) - n, replace=False)
        pairs = np.delete(pairs, beyond)
        users, items = np.divmod(pairs, shape[1])
        P, Q = (self.rng.normal(size=(rows, 4)).astype(np.float32) for rows in shape)
        y = self.rng.normal(size=n)
        for p, q in zip(P.T, Q.T, strict=True):
            y += p[users] * q[items] / 2
        return RatingArrays(users, items, shape, y, np.ones(n), np.empty((n, 0)))

    def started(
        self, arrays: RatingArrays, n_factors: int, *, implicit: bool
    ) -> tuple[Problem, State]:
        layout = Layout(n_factors, True, self.device)
        problem = Problem.from_arrays(arrays, layout, torch.float32)
        if implicit:
            problem = problem.with_implicit_features()
        return problem, spectral_start(problem)

    def sweep_seconds(self, states: Iterator[State], n: int = 5) -> float:
        """Median of a few sweeps, after two that allocate."""
        list(islice(states, 2))
        return statistics.median(self.seconds(lambda: next(states)) for _ in range(n))


def sweeps(bench: Bench) -> None:
    arrays = bench.ratings(bench.shape(*ML_20M), round(20e6 * bench.scale))
    for k, implicit in ((16, True), (64, False), (64, True)):
        started = None

        def start(k=k, implicit=implicit):
            nonlocal started
            started = bench.started(arrays, k, implicit=implicit)

        name = f"20 M ratings, k={k}{', implicit features' if implicit else ''}"
        bench.record(f"{name}: upload and start, s", bench.seconds(start))
        is_bar = k == 64 and not implicit
        bars = ("≤ 0.33", "≤ 0.10") if is_bar else ("", "")
        seconds = bench.sweep_seconds(vb(*started))
        bench.record(f"{name}: sweep of vb, s", seconds, *bars)
        if not implicit:
            seconds = bench.sweep_seconds(als(*started, 12.0))
            bench.record(f"{name}: sweep of als, s", seconds)
    del started
    name = "20 M ratings, k=256: sweep of als, s"
    states = als(*bench.started(arrays, 256, implicit=False), 12.0)
    bench.record(name, bench.sweep_seconds(states))


def large(bench: Bench) -> None:
    """100 M ratings, from canonical arrays and from raw ids."""
    arrays = bench.ratings(bench.shape(*NETFLIX), round(100e6 * bench.scale))

    def ten_sweeps() -> None:
        started = bench.started(arrays, 32, implicit=False)
        list(islice(vb(*started), 10))

    name = "100 M ratings, k=32, ten sweeps of vb"
    seconds = bench.seconds(ten_sweeps)
    bench.record(f"{name}, from sorted arrays, s", seconds, "≤ 30", "≤ 10")
    X, y = np.column_stack([arrays.users, arrays.items]), arrays.target
    model = MFRegressor(
        32,
        max_iter=10,
        tol=1e-9,
        implicit_features=False,
        rank_by="rating",
        store_covariance=False,
        device=str(bench.device),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds = bench.seconds(lambda: model.fit(X, y))
    bench.record(f"{name}, fit of X and y, s", seconds, "≤ 30", "≤ 10")


def networks(bench: Bench) -> None:
    """Samples a second, negatives among them, of NVIDIA's network for ML-20M."""
    n_users, n_items = bench.shape(*ML_20M)
    n = round(20e6 * bench.scale)
    shape = Shape(n_users, n_items, 0, 64, 128, (256, 256, 128, 64))
    index = [bench.rng.integers(rows, size=n) for rows in (n_users, n_items)]
    users, items = (torch.as_tensor(x, device=bench.device) for x in index)
    one = torch.ones(n, device=bench.device)
    samples = Samples(users, items, one.new_empty(n, 0), one, one)
    seen = (users * n_items + items).sort().values
    for batch_size, bars in ((1_048_576, ("≥ 34", "≥ 60")), (81_920, ("", ""))):
        per_batch = min(n, batch_size // 5)
        network = NeuMF(shape, initial_weights(shape, [0])).to(bench.device)
        options = TrainingOptions("log_loss", 4, "adam", 0.0045, per_batch, 4, 0.0)
        generator = torch.Generator(bench.device).manual_seed(0)
        epochs = train(network, samples, options, generator, seen=seen)
        next(epochs)
        seconds = bench.seconds(lambda epochs=epochs: next(epochs))
        name = f"NCF, million samples a second, batch {batch_size}"
        bench.record(name, 5 * n / seconds / 1e6, *bars)


def lists(bench: Bench) -> None:
    n_users, n_items = bench.shape(1_000_000, 100_000)
    users = bench.rng.standard_normal((n_users, 64), dtype=np.float32)
    items = bench.rng.standard_normal((n_items, 64), dtype=np.float32)

    def search(n: int) -> None:
        score = inner_products_of_tiles(
            lambda rows: users[rows], np.arange(n), items, bench.device
        )
        top_k(score, n, n_items, 10, device=bench.device)

    search(min(n_users, 5000))
    name = "top 10 of 1 M users over 100 k items, 64 factors, s"
    bench.record(name, bench.seconds(lambda: search(n_users)), "≤ 10", "≤ 2")


def kernels(bench: Bench) -> pd.DataFrame:
    """Kernels of a sweep of vb with k=64 by their share of the time."""
    arrays = bench.ratings(bench.shape(*ML_20M), round(20e6 * bench.scale))
    states = vb(*bench.started(arrays, 64, implicit=False))
    list(islice(states, 2))
    with torch.profiler.profile() as profiler:
        bench.seconds(lambda: next(states))
    averages = profiler.key_averages()
    for name in ("cudaLaunchKernel", "cudaStreamSynchronize"):
        count = sum(event.count for event in averages if event.key == name)
        bench.record(f"20 M ratings, k=64: {name} of a sweep", count)
    of_device = "self_device_time_total" if bench.device.type == "cuda" else None
    times = dict.fromkeys([*KERNELS, "others"], 0.0)
    for event in averages:
        if of_device is None or event.device_type.name == "CUDA":
            names = (
                kind for kind, form in KERNELS.items() if re.search(form, event.key)
            )
            seconds = getattr(event, of_device or "self_cpu_time_total")
            times[next(names, "others")] += seconds
    shares = pd.Series(times) / sum(times.values())
    return pd.DataFrame({"kernels": shares.index, "share": shares.map("{:.2f}".format)})


def agreement(bench: Bench) -> pd.DataFrame:
    """Fits of MovieLens 1M on the CPU, and twice on the device."""
    split = first_tenth(ml_1m().sample(frac=min(1, 10 * bench.scale), random_state=0))
    (X, y), (X_test, y_test) = map(x_y, split)
    models = [
        MFRegressor(),
        MFRegressor(solver="als"),
        MFRegressor(128, solver="als"),
        MFRegressor(max_iter=50, solver="gibbs"),
        MFRegressor(solver="adam"),
        MFRegressor(solver="sgd"),
        NCFRegressor(),
    ]
    rows = []
    for model in models:
        found, seconds = [], []
        for device in ("cpu", str(bench.device), str(bench.device)):
            fitted = clone(model).set_params(device=device, random_state=0)
            seconds.append(bench.seconds(lambda fitted=fitted: fitted.fit(X, y)))
            found.append(fitted.predict(X_test))
        cpu, first, second = found
        rows.append(
            {
                "fit": repr(model),
                "RMSE, CPU": f"{root_mean_squared_error(y_test, cpu):.4f}",
                "RMSE, device": f"{root_mean_squared_error(y_test, second):.4f}",
                "largest difference": f"{np.abs(cpu - second).max():.1e}",
                "of two fits": f"{np.abs(first - second).max():.1e}",
                "seconds, CPU": f"{seconds[0]:.2f}",
                "seconds, device": f"{seconds[2]:.2f}",
            }
        )
        print(*rows[-1].values(), flush=True)
    return pd.DataFrame(rows)


MEASUREMENTS = {
    "sweeps": sweeps,
    "networks": networks,
    "lists": lists,
    "large": large,
}
TABLES = {"agreement": agreement, "kernels": kernels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, parents=[options(None)])
    parser.add_argument("measurements", nargs="*", default=[*MEASUREMENTS, *TABLES])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", type=float, default=1.0)
    args = parser.parse_args()
    bench, tables = Bench(args.device, args.scale), {}
    for name in args.measurements:
        if name in TABLES:
            tables[name] = TABLES[name](bench)
        else:
            MEASUREMENTS[name](bench)
    if bench.rows:
        tables[""] = table_of(bench.rows)
    report(tables, args)


if __name__ == "__main__":
    main()
