"""scikit-learn's own checks, all of them, and none fails but by its own fault."""

from functools import partial
from unittest import SkipTest

import pytest
import sklearn
from helpers import small, small_ncf
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.fixes import parse_version

from skrec import MFRegressor, NCFRegressor

# What they run is covered by the tests of its parts.
pytestmark = pytest.mark.no_cover

# As many as the releases of scikit-learn have at least; 1.9 has 59.
N_CHECKS = 58

EXPECTED_FAILURES = {}
if parse_version(sklearn.__version__) < parse_version("1.7"):
    EXPECTED_FAILURES["check_positive_only_tag_during_fit"] = (
        "the check itself subtracts a float from categories in place"
    )


class Continuous:
    """An estimator of continuous ids: other checks take its X for numbers."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = False
        return tags


class ContinuousMF(Continuous, MFRegressor):
    pass


class ContinuousNCF(Continuous, NCFRegressor):
    pass


ESTIMATORS = [
    small(),
    small_ncf(),
    ContinuousMF(2, tol=1e9),
    ContinuousNCF(**small_ncf().get_params()),
]
# Behind the same reading of X, of which most checks are.
OTHER_SOLVERS = [
    small(solver="gibbs", max_iter=2),
    small(solver="als"),
    small(solver="adam", max_iter=2),
]


def expected_failures(estimator):
    """Those of the release of scikit-learn, which meet categories alone."""
    is_categorical = estimator.__sklearn_tags__().input_tags.categorical
    return EXPECTED_FAILURES if is_categorical else {}


def checks(estimator):
    expected = expected_failures(estimator)
    return list(
        estimator_checks_generator(
            estimator, mark="xfail", expected_failed_checks=expected
        )
    )


def cases():
    """All checks of each estimator, and each of one of the other solvers by turns."""
    for estimator in ESTIMATORS:
        yield from checks(estimator)
    for turn, same in enumerate(zip(*map(checks, OTHER_SOLVERS), strict=True)):
        yield same[turn % len(same)]


def case_id(value):
    return value.func.__name__ if isinstance(value, partial) else repr(value)


@pytest.mark.usefixtures("short_chains")
# Continuous ids look like a scaled column in their place.
@pytest.mark.filterwarnings("ignore:A fit without y is of choices")
@pytest.mark.filterwarnings("ignore:column . of X .* with a fractional part")
@pytest.mark.parametrize(("estimator", "check"), list(cases()), ids=case_id)
def test_a_check_of_scikit_learn_passes(estimator, check):
    try:
        check(estimator)
    except SkipTest as skipped:
        pytest.fail(f"skipped: {skipped}")


@pytest.mark.parametrize("estimator", [*ESTIMATORS, *OTHER_SOLVERS], ids=repr)
def test_all_checks_of_scikit_learn_are_made(estimator):
    assert len(checks(estimator)) >= N_CHECKS
