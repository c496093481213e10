"""Warnings point at the line of the user."""

import inspect
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from skrec import MFRegressor, NCFRegressor
from skrec.metrics import RankingScorer, ndcg_at_k
from skrec.model_selection import TemporalSplit

_rng = np.random.default_rng(0)
X = pd.DataFrame({"user": _rng.integers(0, 9, 80), "item": _rng.integers(0, 7, 80)})
Y = _rng.normal(size=80).round(2)
TABLE = pd.DataFrame({"item": range(7), "size": [1.0, np.nan, 3, 4, 5, 6, 7]})
UNKNOWN = pd.DataFrame({"user": [99], "item": [1]})
MODEL = MFRegressor(2, tol=1e9, handle_unknown="warn").fit(X, Y)
FEW = {"n_factors": 2, "max_iter": 2}
OF_CHOICES = MFRegressor(2, solver="als", unobserved_weight=0.1, max_iter=2, tol=0)

CALLS = {
    "gaps": lambda: MFRegressor(2, tol=1e9).fit(X, Y, item_features=TABLE),
    "gaps from a function": lambda: MFRegressor(2, tol=1e9).fit(
        X, Y, item_features=lambda: TABLE
    ),
    "equal ratings": lambda: MFRegressor(2, tol=1e9, rank_by="rating").fit(
        X, np.ones(80)
    ),
    "target": lambda: MFRegressor(2, tol=1e9).fit(X.assign(y=Y), Y),
    "fractions": lambda: MFRegressor(2, tol=1e9).fit(X.assign(user=X.user / 7), Y),
    "not converged": lambda: MFRegressor(**FEW).fit(X, Y),
    "not converged, first partial_fit": lambda: MFRegressor(**FEW).partial_fit(X, Y),
    "not converged, choices": lambda: OF_CHOICES.fit(X),
    "predict": lambda: MODEL.predict(UNKNOWN),
    "score": lambda: MODEL.score(pd.concat([UNKNOWN, X]), [1.0, *Y]),
    "recommend": lambda: MODEL.recommend([99]),
    "candidates": lambda: MODEL.recommend([1], candidates=[1, 99]),
    "vectors": lambda: MODEL.user_index_vectors([99]),
    "pipeline": lambda: make_pipeline("passthrough", MODEL).predict(UNKNOWN),
    "cross-validation": lambda: cross_val_score(MFRegressor(**FEW), X, Y, cv=2),
    "search": lambda: GridSearchCV(
        MFRegressor(**FEW), {"biased": [True, False]}, cv=2
    ).fit(X, Y),
    "splitter": lambda: list(
        TemporalSplit(2, time="row_order").split(X, Y, groups=[0] * 80)
    ),
    "metric": lambda: ndcg_at_k([0.0, 0.0], [1.0, 2.0], [1, 1]),
    "scorer": lambda: RankingScorer("ndcg", relevance_threshold=9)(MODEL, X, Y),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_warning_points_at_the_line_that_called(name):
    call = CALLS[name]
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        call()
    lines, start = inspect.getsourcelines(call)
    assert record
    for warned in record:
        assert warned.filename == __file__
        assert start <= warned.lineno < start + len(lines)


def test_networks_warn_of_unknown_ids_at_the_line_that_called():
    model = NCFRegressor(2, (3,), n_members=1, max_iter=1, handle_unknown="warn")
    model.fit(X, Y)
    with pytest.warns(UserWarning, match="unknown users in 1 of 1") as record:
        model.predict(UNKNOWN)
    assert record[0].filename == __file__
