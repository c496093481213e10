"""Real ratings beside the project, and the same random numbers at every run."""

import os
from contextlib import contextmanager
from pathlib import Path

# Before scipy is imported, or scikit-learn skips its check of arrays of other kinds.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
# Before torch is imported. Problems this small are fastest in one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from device_simulation import register, simulated
from hypothesis import HealthCheck, settings
from sklearn.model_selection import KFold

from skrec.datasets import fetch_movielens

DATA = Path(
    os.environ.get(
        "SKREC_DATA", Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    )
)

# Examples are the same at every run, and none fails because the machine is busy.
settings.register_profile(
    "fixed",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "random", settings.get_profile("fixed"), derandomize=False, print_blob=True
)
settings.load_profile("fixed")


def pytest_collection_modifyitems(items):
    """Lines count as covered by tests, which assert more than examples show."""
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker(pytest.mark.no_cover)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Estimators without a seed draw the same at every run, whatever ran before."""
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def ml_100k_archive():
    """Path of MovieLens 100K."""
    path = DATA / "ml-100k.zip"
    if not path.exists():
        pytest.skip("needs ml-100k.zip in ../shared/data or the folder of SKREC_DATA")
    return path


@pytest.fixture(scope="session")
def ml_100k(ml_100k_archive):
    """Ids and ratings of MovieLens 100K, in the order of u.data."""
    return fetch_movielens("100k", archive=ml_100k_archive, return_X_y=True)


@pytest.fixture(scope="session")
def ml_100k_fold(ml_100k):
    """The first fold of KFold(5, shuffle=True, random_state=0) on u.data's order."""
    X, y = ml_100k
    train, test = next(KFold(5, shuffle=True, random_state=0).split(X))
    return X.iloc[train], y.iloc[train], X.iloc[test], y.iloc[test]


@contextmanager
def short_chains_inside():
    """Chains of "gibbs" begin after one sweep, and drop one draw."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("VB_SWEEPS", "MAX_VB_SWEEPS", "BURN_IN"):
            patch.setattr(f"skrec._alternating.gibbs.{name}", 1)
        yield


@pytest.fixture(scope="module")
def short_chains():
    """All chains of a file are short."""
    with short_chains_inside():
        yield


@pytest.fixture
def short_chain():
    """Chains of a test are short."""
    with short_chains_inside():
        yield


@pytest.fixture
def levels_are_noise(monkeypatch):
    """Squares of residuals are those of the bound, however far off a whole row is."""
    name = "skrec._alternating.conditional.MAX_LEVEL_ERROR"
    monkeypatch.setattr(name, 1e6)


@pytest.fixture
def gpu():
    """Name of a GPU, or else of a simulated device."""
    if torch.cuda.is_available():
        yield "cuda"
        return
    if register is None:
        pytest.skip("needs a GPU, or torch 2.10 to simulate a device")
    with simulated():
        yield "simulated"


@pytest.fixture(scope="session")
def callbacks():
    """The callbacks of scikit-learn."""
    return pytest.importorskip(
        "sklearn.callback", reason="callbacks are new in scikit-learn 1.9"
    )
