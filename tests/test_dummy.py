"""The baseline of lists: counts, and the checks of scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from skrec import DummyRecommender, MFRegressor
from skrec.datasets import make_ratings
from skrec.metrics import RankingScorer

X, Y = make_ratings(50, 30, 700, random_state=0)


def by_count(X):
    """Items by their number of users, then by id."""
    counts = X.drop_duplicates().groupby("item").size()
    return counts.sort_index().sort_values(ascending=False, kind="stable")


@parametrize_with_checks([DummyRecommender()])
def test_checks_of_sklearn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("y", [Y, None])
def test_lists_are_the_best_sellers_without_what_was_seen(y):
    rows = pd.concat([X, X[:100]])
    model = DummyRecommender().fit(rows, None if y is None else np.append(y, y[:100]))
    best = by_count(rows)
    items, scores = model.recommend([7, 999], 5, return_scores=True)
    seen = set(X["item"][X["user"] == 7])
    left = best[~best.index.isin(seen)]
    assert items[0].tolist() == left.index[:5].tolist()
    assert_array_equal(scores[0], left[:5])
    assert items[1].tolist() == best.index[:5].tolist()


def test_predictions_are_the_weighted_mean():
    assert_allclose(DummyRecommender().fit(X, Y).predict(X[:3]), Y.mean())
    weight = np.random.default_rng(0).integers(0, 3, len(Y))
    model = DummyRecommender().fit(X, Y, weight)
    kept = weight > 0
    assert_allclose(model.predict(X[:3]), np.average(Y[kept]), atol=0.5)
    assert model.score(X, Y) == pytest.approx(0, abs=0.05)
    with pytest.raises(ValueError, match="no standard deviations"):
        model.predict(X, return_std=True)


def test_an_unknown_item_has_no_users():
    model = DummyRecommender().fit(X)
    items, scores = model.recommend(
        [999], 3, candidates=[999, 1, 2], return_scores=True
    )
    assert items[0, 2] == 999
    assert scores[0, 2] == 0


def test_further_rows_count():
    half = len(X) // 2
    model = DummyRecommender().fit(X[:half], Y[:half]).partial_fit(X[half:], Y[half:])
    whole = DummyRecommender().fit(X, Y)
    assert_array_equal(model.recommend(), whole.recommend())
    assert_allclose(model.predict(X[:2]), whole.predict(X[:2]), rtol=1e-2)
    assert model.rating_range_ == whole.rating_range_


def test_it_stands_in_a_comparison():
    scorer = RankingScorer("ndcg", k=5)
    found = [
        cross_val_score(model, X, Y, scoring=scorer, cv=3).mean()
        for model in (DummyRecommender(), MFRegressor(2))
    ]
    assert min(found) > 0


def test_reasons_are_refused_by_the_names_of_estimators_that_have_them():
    model = DummyRecommender().fit(X, Y)
    with pytest.raises(ValueError, match="this DummyRecommender has none"):
        model.explain(7, [1])
