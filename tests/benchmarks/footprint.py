"""Peak memory of the ML-1M fit, and the time that `import skrec` takes.

Memory is that of this process, which has imported skrec, torch, scikit-learn and pandas
but no peer: the highest resident size up to the end of the fit, minus the resident size
before the ratings were loaded ("with the input") or after it ("beyond the input").
Pages of the libraries that only the fit touches count as the fit's. Linux only.

Import time is taken inside fresh interpreters, their own start excluded. The two take
turns; a first turn of each, which fills the disk cache, is not counted.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
from pathlib import Path

from _common import DATA, Row, load_npz, options, run_command

from skrec import MFRegressor

IMPORTS = ("skrec", "torch, sklearn, pandas")


def mebibytes(field: str) -> float:
    """A field of this process's status: VmRSS is resident now, VmHWM at most so far.

    VmHWM is what getrusage calls ru_maxrss, without what the latter inherits from a
    parent process that was larger.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024


def peak_memory() -> list[Row]:
    imported = mebibytes("VmRSS")
    ratings = load_npz(DATA / "ml-1m.npz")
    X, y = ratings[["user", "item"]], ratings["rating"]
    loaded = mebibytes("VmRSS")
    MFRegressor(device="cpu").fit(X, y)
    peak = mebibytes("VmHWM")
    return [
        Row("peak of the ML-1M fit with the input, MiB", peak - imported, "≤ 600"),
        Row("peak of the ML-1M fit beyond the input, MiB", peak - loaded),
    ]


def import_time(repetitions: int) -> list[Row]:
    seconds = {names: [] for names in IMPORTS}
    for _ in range(repetitions + 1):
        for names in IMPORTS:
            seconds[names].append(seconds_to_import(names))
    ours, theirs = (statistics.median(seconds[names][1:]) for names in IMPORTS)
    measurement = f"import skrec, median of {repetitions}, s"
    return [Row(measurement, ours, "ratio ≤ 1.15", "", f"import {IMPORTS[1]}", theirs)]


def seconds_to_import(names: str) -> float:
    code = (
        "from time import perf_counter; start = perf_counter(); "
        f"import {names}; print(perf_counter() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def footprint(args: argparse.Namespace) -> list[Row]:
    # Memory first: nothing else has run in this process yet.
    return [*peak_memory(), *import_time(args.repetitions)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[options()],
    )
    parser.add_argument(
        "--repetitions", type=int, default=9, help="of each import (default: 9)"
    )
    parser.set_defaults(run=footprint)
    run_command(parser.parse_args())


if __name__ == "__main__":
    main()
