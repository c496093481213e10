"""Fits of one model by several processes, which torchrun starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TypeVar

import torch
from torch import distributed as dist

from ._alternating.als import ALSSolver
from ._alternating.vb import VBSolver
from ._base import BaseRecommender
from ._data.containers import ArrayLike, TableLike
from ._data.interactions import Collect, Interactions
from ._data.reading import check_number
from ._data.sides import Sides
from ._gradient.solver import GradientSolver
from ._interfaces import Solver
from ._ranks import Ranks, collect

__all__ = ["fit"]

Estimator = TypeVar("Estimator", bound=BaseRecommender)


def fit(
    estimator: Estimator,
    X: ArrayLike,
    y: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    *,
    user_features: TableLike | None = None,
    item_features: TableLike | None = None,
    timeout: float = 60.0,
) -> Estimator:
    """Fit an estimator to the rows of several processes.

    Each process calls it with the same parameters and with rows of its own, such as a
    file of its own, in any partition. All get the same fitted estimator, that of one
    process with all rows up to rounding. It is an ordinary one, and keeps nothing of
    the processes.

    With solver="vb" and "als", each process computes the factors of some users and some
    items, from all of their ratings, and hands them to the others. With "adam" and
    "sgd", and for networks, each computes the gradients of the ratings of some users in
    every batch, and these are added up. The time of sweeps and steps falls with the
    number of processes. Every process holds all factors, their covariances and the
    items that each user has seen. Ratings and weights are held by the owners of their
    users and of their items.

    Parameters
    ----------
    estimator : MFRegressor or NCFRegressor
        With any solver except "gibbs", and without `warm_start`.
    X, y, sample_weight : array-like
        Rows of this process, as in :meth:`~skrec.MFRegressor.fit`. Those of a process
        may be none, or have no weight.
    user_features, item_features : DataFrame, matrix or callable, default=None
        As in :meth:`~skrec.MFRegressor.fit`, the same whole table in each process.
    timeout : float, default=60.0
        Seconds to wait for another process. If one has ended or takes longer, all
        others raise an error.

    Returns
    -------
    estimator : MFRegressor or NCFRegressor
        The same estimator, fitted.

    Raises
    ------
    ConnectionError
        If another process has ended, or has not answered in time.
    RuntimeError
        If no processes were started, such as by torchrun, or if another process cannot
        read its rows.
    ValueError
        As :meth:`~skrec.MFRegressor.fit`, for another solver, for columns of values
        with "vb" and "als", and if there are more processes than users or items.

    Notes
    -----
    Processes talk by gloo on CPUs and by nccl on GPUs, of which each takes the one of
    its local rank. All processes of torch.distributed take part. If it is not
    initialised, it is by gloo and the environment that torchrun sets.

    Examples
    --------
    A file that ``torchrun --nproc-per-node 4 train.py`` starts::

        import os
        from skrec import MFRegressor, distributed
        from skrec.datasets import from_arrow

        rank = int(os.environ["RANK"])
        X, y = from_arrow(f"ratings/part-{rank}.parquet")
        model = distributed.fit(MFRegressor(), X, y)
    """
    check_number(timeout, "timeout", 0.0)
    features = Sides(user_features, item_features)
    with _processes(estimator, timeout) as ranks:
        rows: Collect = Interactions.from_columns
        try:
            solver = _checked_solver(estimator, y)
            if ranks.size > 1:
                rows = partial(collect, ranks, isinstance(solver, GradientSolver))
            fitted = estimator._fit(X, y, sample_weight, features, rows)
        except Exception as error:
            if ranks.size > 1 and not ranks.has_started:
                ranks.start(None, error)
            raise
    estimator._publish(fitted)
    return estimator


def _checked_solver(estimator: BaseRecommender, y: ArrayLike | None) -> Solver:
    """The solver, unless it is one that several processes cannot fit by."""
    estimator._validate_params()
    solver: Solver = estimator._solver_for(y)
    name = type(estimator).__name__
    if not isinstance(solver, ALSSolver | VBSolver | GradientSolver):
        raise ValueError(
            "Several processes fit MFRegressor and NCFRegressor to ratings y, or to "
            "choices by a loss or an unobserved_weight, with any solver except "
            f"'gibbs'; got {name} with {type(solver).__name__}. Fit it in one process, "
            "by its own fit."
        )
    if estimator.warm_start:
        raise ValueError(
            f"Several processes do not start from the last fit; set {name}("
            "warm_start=False)."
        )
    return solver


@contextmanager
def _processes(estimator: BaseRecommender, timeout: float) -> Iterator[Ranks]:
    """The processes of torch.distributed, in a group that waits no longer."""
    is_first = not dist.is_initialized()
    if is_first and "RANK" not in os.environ:
        raise RuntimeError(
            "No processes were started for this fit: run the file by torchrun, such as "
            "'torchrun --nproc-per-node 2 train.py', or initialise torch.distributed."
        )
    backend = "gloo"
    if str(getattr(estimator, "device", "cpu")) != "cpu" and torch.cuda.is_available():
        n_devices = torch.cuda.device_count()
        local = {name: int(os.environ.get(f"LOCAL_{name}", 0)) for name in _LOCAL}
        torch.cuda.set_device(local["RANK"] % n_devices)
        # nccl refuses two processes on one device.
        of_gpus = "nccl" if local["WORLD_SIZE"] <= n_devices else "gloo"
        backend = f"cpu:gloo,cuda:{of_gpus}"
    limit = timedelta(seconds=timeout)
    if is_first:
        dist.init_process_group("gloo", timeout=limit)
    group = dist.new_group(backend=backend, timeout=limit)
    try:
        yield Ranks(group, timeout)
    finally:
        # Of the default group the processes may make others later.
        dist.destroy_process_group(group)


_LOCAL = ("RANK", "WORLD_SIZE")
