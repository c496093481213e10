"""scikit-learn's own checks, all of them, and none fails but by its own fault."""

import json
import os
import subprocess
import sys

import pytest
import sklearn
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.fixes import parse_version

from skrec import MFRegressor, NCFRegressor

# As many as the releases of scikit-learn have at least; 1.9 has 59.
N_CHECKS = 58

EXPECTED_FAILURES = {}
if parse_version(sklearn.__version__) < parse_version("1.7"):
    EXPECTED_FAILURES["check_positive_only_tag_during_fit"] = (
        "the check itself subtracts a float from categories in place"
    )

# scikit-learn skips a check unless SCIPY_ARRAY_API was set before scipy was imported,
# hence a process of its own. Its one thread is fastest on problems this small.
ALL_CHECKS = """
import json

from sklearn.utils.estimator_checks import check_estimator

from skrec import MFRegressor, NCFRegressor


class Continuous:
    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = False
        return tags


class ContinuousMF(Continuous, MFRegressor):
    pass


class ContinuousNCF(Continuous, NCFRegressor):
    pass


small = {
    "n_factors": 2,
    "hidden_layer_sizes": (4,),
    "n_members": 2,
    "batch_size": 100,
    "max_iter": 2,
}
estimators = {
    "vb": MFRegressor(2, solver="vb", tol=1e9),
    "gibbs": MFRegressor(2, solver="gibbs", max_iter=2),
    "als": MFRegressor(2, solver="als", tol=1e9),
    "adam": MFRegressor(2, solver="adam", max_iter=2),
    "ncf": NCFRegressor(**small),
    "vb on continuous ids": ContinuousMF(2, solver="vb", tol=1e9),
    "ncf on continuous ids": ContinuousNCF(**small),
}
results = {
    name: [
        [result["check_name"], result["status"], repr(result["exception"])]
        for result in check_estimator(estimator, on_skip=None, on_fail=None)
    ]
    for name, estimator in estimators.items()
}
print(json.dumps(results))
"""


@parametrize_with_checks(
    [
        MFRegressor(2, solver="vb", tol=1e9),
        MFRegressor(2, solver="gibbs", max_iter=2),
        MFRegressor(2, solver="als", tol=1e9),
        MFRegressor(2, solver="adam", max_iter=2),
        NCFRegressor(2, (4,), n_members=2, batch_size=100, max_iter=2),
    ],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
)
def test_a_check_of_scikit_learn_passes(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def results():
    environment = {
        "SCIPY_ARRAY_API": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALL_CHECKS],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize(
    "estimator",
    [
        "vb",
        "gibbs",
        "als",
        "adam",
        "ncf",
        "vb on continuous ids",
        "ncf on continuous ids",
    ],
)
def test_no_check_of_scikit_learn_is_skipped(estimator, results):
    failed = [check for check in results[estimator] if check[1] != "passed"]
    assert {check[0] for check in failed} <= EXPECTED_FAILURES.keys(), failed
    assert len(results[estimator]) >= N_CHECKS
