"""estimate_resources: time and memory of a fit, from its beginning.

A process of its own begins the fit: memory that the caller has freed would hide what a
fit takes, and a process that runs out of memory takes nothing with it.
"""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import Bunch

from .._data.containers import TableLike
from .._data.interactions import Collect, Interactions
from .._data.reading import Columns, as_rows
from .._data.sides import Sides
from .._settings import own_settings, torch_device
from .._sklearn import num_samples
from .._snapshot import snapshot

# Iterations of the beginning: a state before an iteration, and one after it, are there
# from the third on.
N_CONVERGING, N_COUNTED = 3, 2

# Rows of the sample that is fitted to the end, at least, and their share of all rows.
SAMPLE_ROWS, SAMPLE_SHARE = 2**16, 1 / 8

# Share of the comparisons of other structures on a sample that count. All rows need
# none or as many, and rather none, since they support more factors.
COMPARISONS = 0.5

# Bytes at the peak for each byte that a model grows by, as measured: draws hold more
# numbers than they add to the model, and are put together in the end.
COPIES_OF_GROWTH = 5.5

# Memory of this process, and the largest so far, where the system tells them.
PROCESS, FIELDS = Path("/proc/self"), ("VmRSS", "VmHWM")

CHILD = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from skrec.inspection._resources import _answer; _answer()"
)


def estimate_resources(
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    *,
    user_features: TableLike | None = None,
    item_features: TableLike | None = None,
) -> Bunch:
    """Estimate time and memory of a fit, by its first iterations.

    The fit is begun in a process of its own and given up after three sweeps that are no
    warm-up, or two epochs or draws. Measured on all rows are reading, the first
    iterations, the conversion of the model, and the memory of all that. The rest is
    extrapolated: a further iteration takes as long as the last ones did. Draws and
    epochs are counted by `max_iter`, which is a bound with `early_stopping`.

    Sweeps until convergence are not known before a fit. Their number is that of a fit
    to some of the users, or of the items if these are more, with an eighth of the rows
    and 65,536 at least. Half as much time as there counts for the fits of other
    structure that "vb" compares, since all rows may not need them. A fit to fewer rows
    runs to its end.

    Parameters
    ----------
    estimator : object
        An estimator of skrec, fitted or not. The fit that is begun is a first one, with
        its parameters.
    X : array-like of shape (n_samples, 2 + n_features)
        As in `fit`. To estimate by sizes alone, draw ratings of these sizes by
        :func:`~skrec.datasets.make_ratings`.
    y, sample_weight : array-like of shape (n_samples,), default=None
        As in `fit`.
    user_features, item_features : DataFrame, matrix or callable, default=None
        As in `fit`.

    Returns
    -------
    resources : Bunch
        With these attributes:

        seconds : float
            Time of the fit.
        n_iter : int
            Number of iterations that `seconds` counts.
        seconds_per_iter : float
            Time of an iteration after the first.
        peak_bytes : float
            Largest memory that the fit has beyond `X`, `y` and what is imported; NaN
            on Windows, and without the memory of a GPU.
        model_bytes : int
            Size of the pickled estimator.

    Raises
    ------
    TypeError
        If `estimator` is none of skrec, such as a pipeline, or if it cannot be pickled.
    MemoryError
        If the beginning of the fit has not enough memory.
    ValueError
        As `fit`.

    Notes
    -----
    Estimates of time were within 12 % of fits where `max_iter` counts the iterations,
    and within 20 % in 14 of 17 fits that end by convergence; the others were 23 % to
    50 % too long. Most uncertain are the number of sweeps of many factors on few
    ratings, and whether "vb" compares other structures: set `n_factors` and
    `implicit_features` to leave comparisons out. Estimates of the peak were mostly
    within 20 %, by which the peak of one fit differs between runs. The page on growth
    has the figures.

    See Also
    --------
    sklearn.model_selection.learning_curve : Times of complete fits to samples.

    Examples
    --------
    >>> from skrec import MFRegressor
    >>> from skrec.datasets import make_ratings
    >>> from skrec.inspection import estimate_resources
    >>> X, y = make_ratings(300, 200, 5000, random_state=0)
    >>> model = MFRegressor(8, solver="gibbs")
    >>> resources = estimate_resources(model, X, y)
    >>> resources.n_iter
    200
    >>> resources.seconds > 190 * resources.seconds_per_iter
    True
    """
    if not hasattr(estimator, "_begin"):
        raise TypeError(
            "estimate_resources begins a fit of an estimator of skrec, such as "
            f"MFRegressor(), got {type(estimator).__name__}. Of a pipeline pass the "
            "last step, and X transformed by the others: "
            "estimate_resources(pipe[-1], pipe[:-1].fit_transform(X), y)."
        )
    features = Sides(user_features, item_features)
    features = Sides(*(side() if callable(side) else side for side in features))
    fresh = type(estimator)(**estimator.get_params(deep=False))
    # Errors of parameters and of rows are those of `fit`, and the first are known now.
    fresh._validate_params()
    fresh._solver_for(y)
    torch_device(fresh.device, work=0)
    return Bunch(**_in_a_process(fresh, X, y, sample_weight, features))


def _in_a_process(*arguments: Any) -> dict[str, Any]:
    """The answer of a new process to the arguments of `measured`."""
    try:
        task = pickle.dumps((torch.get_num_threads(), arguments), 5)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            "estimate_resources passes the estimator and the rows to another process, "
            f"and they cannot be pickled: {error}."
        ) from error
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=pickle.dumps(sys.path, 5) + task,
        capture_output=True,
        check=False,
    )
    if not done.stdout:
        if done.returncode < 0:
            raise MemoryError(
                f"The process that began the fit was ended by signal "
                f"{-done.returncode}, probably since the fit takes more memory than "
                "there is. Estimate the resources for a part of the rows, or for fewer "
                "factors; solver='als' and store_covariance=False take less memory."
            )
        raise RuntimeError(
            "The process that began the fit has ended without an answer: "
            f"{done.stderr.decode(errors='replace')[-1000:]}"
        )
    answer = pickle.loads(done.stdout)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _answer() -> None:
    """Read a task from the input of this process, and write its answer."""
    output, sys.stdout = sys.stdout.buffer, sys.stderr
    answer: Any
    try:
        n_threads, arguments = pickle.load(sys.stdin.buffer)
        torch.set_num_threads(n_threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = measured(*arguments)
    except (AttributeError, ImportError) as error:
        answer = TypeError(
            "estimate_resources begins the fit in another process, which needs classes "
            f"and functions from modules that it can import: {error}."
        )
    except Exception as error:
        answer = error
    output.write(pickle.dumps(answer, 5))


@dataclass(frozen=True)
class Trial:
    """The beginning of a fit, or all of it.

    Attributes
    ----------
    reading, completing : float
        Seconds before the first iteration and after the last.
    steps : list of float
        Seconds of the iterations.
    n_warm : int
        Number of those that belong to a warm-up, which take less time.
    converged : bool
    sizes : list of int
        Bytes of the model after the last iterations.
    peak : float
        Largest memory of the process so far, in bytes.
    """

    reading: float
    steps: list[float]
    n_warm: int
    completing: float
    converged: bool
    sizes: list[int]
    peak: float

    @property
    def per_step(self) -> float:
        """Seconds of an iteration after the first ones, without the comparisons."""
        later = self.steps[max(1, self.n_warm) : -1 if self.converged else None]
        return float(np.mean(later or self.steps[-1:]))

    @property
    def compared(self) -> float:
        """Seconds of comparisons at the end, in those of the other iterations."""
        if not self.converged or len(self.steps) < 3:
            return 0.0
        longer = max(0.0, self.steps[-1] - self.per_step)
        return longer / (len(self.steps) * self.per_step)


def measured(
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike | None,
    sample_weight: ArrayLike | None,
    features: Sides[Any],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Resources of a fit, which is begun in this process."""
    solver = estimator._solver_for(y)
    rows = X, y, sample_weight, features
    n_rows, n_iter = num_samples(as_rows(X, "X")), solver.max_iter
    n_begun = min(n_iter, N_CONVERGING if solver.converges else N_COUNTED)
    if solver.converges and n_rows <= SAMPLE_ROWS:
        n_begun = n_iter
    before = _reset_peak()
    trial = _begun(estimator, rows, clock, n_begun)
    peak = trial.peak - before
    iterating, n_done = sum(trial.steps), len(trial.steps)
    if trial.converged or n_done == n_iter:
        n_iter = n_done
    elif solver.converges:
        share = max(SAMPLE_SHARE, SAMPLE_ROWS / n_rows)
        sample = _begun(estimator, rows, clock, n_iter, _sample_of_ids(share))
        n_iter = max(len(sample.steps), n_done)
        compared = COMPARISONS * sample.compared
        iterating += compared * n_iter * trial.per_step
    n_left = n_iter - n_done
    growth = max(0, trial.sizes[-1] - trial.sizes[0]) * n_left
    return {
        "seconds": trial.reading
        + iterating
        + n_left * trial.per_step
        + trial.completing,
        "n_iter": n_iter,
        "seconds_per_iter": trial.per_step,
        "peak_bytes": peak + COPIES_OF_GROWTH * growth,
        "model_bytes": trial.sizes[-1] + growth,
    }


def _begun(
    estimator: Any,
    rows: tuple[Any, ...],
    clock: Callable[[], float],
    n_iter: int,
    collect: Collect = Interactions.from_columns,
) -> Trial:
    """A fit of at most so many iterations after a warm-up.

    `rows` are X, y, their weights and side features.
    """
    solver = estimator._solver_for(rows[1])
    n_warm, steps = 0, list[float]()
    sizes: list[int] = []
    with own_settings():
        start = clock()
        begun = snapshot(estimator)._begin(*rows, solver, collect)
        reading = clock() - start
        is_last = False
        while not is_last:
            start = clock()
            iteration = next(begun.iterations)
            steps.append(clock() - start)
            n_warm += iteration.is_warm_up
            is_last = iteration.converged or len(steps) == min(
                n_warm + n_iter, solver.max_iter
            )
            # A model that grows has another size than the one before.
            if is_last or not (solver.converges or len(steps) + 1 < n_iter):
                start = clock()
                fitted = begun.read | begun.of_model(iteration.model())
                completing = clock() - start
                peak = _memory()[1]
                sizes.append(_pickled_bytes(fitted))
                del fitted
    return Trial(reading, steps, n_warm, completing, iteration.converged, sizes, peak)


def _sample_of_ids(share: float) -> Collect:
    """A function that makes canonical rows of a share of the users, or of the items.

    Of the side that has more ids, since those of the other would have few rows left.
    """

    def collect(
        columns: Columns, rating: np.ndarray, weight: np.ndarray | None
    ) -> Interactions:
        sides = (columns.users.numbered(), columns.items.numbered())
        numbers, ids = max(sides, key=lambda side: len(side[1]))
        n_taken = max(1, round(share * len(ids)))
        is_taken = np.zeros(len(ids))
        is_taken[np.random.RandomState(0).permutation(len(ids))[:n_taken]] = 1
        weight = is_taken[numbers] * (1.0 if weight is None else weight)
        # Rows without weight are no rows.
        return Interactions.from_columns(columns, rating, weight)

    return collect


def _pickled_bytes(value: Any) -> int:
    buffers: list[pickle.PickleBuffer] = []
    # Arrays stay where they are, since copies would count in the peak.
    rest = pickle.dumps(value, 5, buffer_callback=buffers.append)
    return len(rest) + sum(buffer.raw().nbytes for buffer in buffers)


def _memory() -> tuple[float, float]:
    """Bytes of memory that this process has, and the largest number so far."""
    try:
        status = (PROCESS / "status").read_text()
    except OSError:
        return _largest_memory(), _largest_memory()
    now, most = (re.search(rf"{name}:\s+(\d+) kB", status) for name in FIELDS)
    if now is None or most is None:
        return _largest_memory(), _largest_memory()
    return 1024.0 * int(now[1]), 1024.0 * int(most[1])


def _largest_memory() -> float:
    """The largest memory so far of a process of a Unix, NaN on other systems."""
    try:
        import resource
    except ImportError:
        return np.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _reset_peak() -> float:
    """Bytes of memory before a fit, from which its peak is counted."""
    try:
        # What reading the task took for a while is over.
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return _memory()[1]
    return _memory()[0]
