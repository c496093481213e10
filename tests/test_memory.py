"""Fits and lists without enough memory, in a process with a limit."""

import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("resource", reason="limits of memory are of Unix")

# A limit counts what is there already, so that it is set anew for each call.
LIMITED = """
import re, sys, warnings
import numpy as np, resource, torch
from skrec import MFRegressor, NCFRegressor
from skrec.datasets import make_ratings

warnings.simplefilter("ignore")
torch.set_num_threads(2)
HARD = resource.getrlimit(resource.RLIMIT_DATA)[1]

def limited(mebibytes, call):
    status = open("/proc/self/status").read()
    now = 1024 * int(re.search(r"VmData:\\s+(\\d+)", status)[1])
    limit = now + mebibytes * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, HARD))
    try:
        return call()
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (HARD, HARD))
"""

FAILING_CALLS = """
Xs, ys = make_ratings(200, 100, 1000, random_state=0)
X, y = make_ratings(12_000, 6_000, 60_000, random_state=0)
MANY = np.arange(100_000) % 200
options = {"max_iter": 2, "random_state": 0}
models = {
    "vb": MFRegressor(16, **options),
    "als": MFRegressor(48, solver="als", **options),
    "gibbs": MFRegressor(16, solver="gibbs", **options),
    "adam": MFRegressor(solver="adam", batch_size=50_000, **options),
    "network": NCFRegressor(batch_size=50_000, **options),
    "choices": MFRegressor(),
}
# A fit fails while ids are read, or later. A call that finds enough memory among that
# which was freed before may succeed.
LIMITS = {"fit": (1, 8), "partial_fit": (1,), "recommend": (1,)}
for name, model in models.items():
    of_choices = name == "choices"
    model.fit(Xs, None if of_choices else ys)
    predicted, lists = model.predict(Xs), model.recommend(n_items=3)
    calls = {
        "fit": lambda: model.fit(X, None if of_choices else y),
        "partial_fit": lambda: model.partial_fit(X, None if of_choices else y),
        "recommend": lambda: model.recommend(MANY, n_items=90),
    }
    n_failed = 0
    for call, limits in LIMITS.items():
        if call == "partial_fit" and not hasattr(model, call):
            continue
        for mebibytes in limits:
            before = vars(model).copy()
            try:
                limited(mebibytes, calls[call])
            except MemoryError as error:
                assert "n_factors" in str(error) and "users at a time" in str(error)
                assert str(error).count("not enough memory") == 1
                n_failed += 1
                assert vars(model).keys() == before.keys()
                assert all(vars(model)[key] is before[key] for key in before)
            model.__dict__ = before
            assert torch.get_num_threads() == 2
    assert n_failed, name
    np.testing.assert_array_equal(model.predict(Xs), predicted)
    np.testing.assert_array_equal(model.recommend(n_items=3), lists)
"""

# Scores of all pairs would take 160 MB, and those of a tile 64 MiB.
LISTS = """
torch.set_num_threads(1)
X, y = make_ratings(8_000, 5_000, 20_000, random_state=0)
model = MFRegressor(2, max_iter=2, rank_by="rating").fit(X, y)
lists = limited(100, model.recommend)
assert lists.shape == (8_000, 10)
np.testing.assert_array_equal(lists[:9], model.recommend(model.user_ids_[:9]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the status of Linux")
@pytest.mark.parametrize("code", [FAILING_CALLS, LISTS], ids=["failing", "lists"])
def test_a_limit_of_memory(code):
    code = textwrap.dedent(LIMITED) + textwrap.dedent(code)
    # Arrays that are freed go back to the system, and do not serve the next call.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
