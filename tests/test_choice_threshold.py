"""choice_threshold: ratings from which on a row is a choice, in fits of choices."""

import numpy as np
import pandas as pd
import pytest
from helpers import copied
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold

from skrec import MFRegressor, NCFRegressor
from skrec.datasets import make_ratings
from skrec.metrics import RankingScorer

X, Y = make_ratings(60, 40, 1200, random_state=0)
LIKED = Y >= 4
MODELS = {
    "als": MFRegressor(2, solver="als", unobserved_weight=0.1, reg=1.0),
    "bpr": MFRegressor(2, solver="adam", loss="bpr", random_state=0),
    "log_loss": MFRegressor(2, solver="adam", loss="log_loss", random_state=0),
    "drawn": NCFRegressor(2, n_negatives=2, n_members=2, max_iter=3, random_state=0),
}


@pytest.fixture(params=MODELS)
def model(request):
    return clone(MODELS[request.param]).set_params(choice_threshold=4)


def test_ratings_become_choices(model):
    model.fit(X, Y)
    assert model.rating_range_ in [(0, 1), (-np.inf, np.inf)]
    assert_array_equal(model.user_ids_, np.unique(X["user"]))
    # Any ratings with the same order about the threshold are the same choices.
    others = np.where(LIKED, 10.0 * Y, Y - 7)
    assert_array_equal(clone(model).fit(X, others).predict(X), model.predict(X))


def test_rows_below_it_stay_seen(model):
    lists = model.fit(X, Y).recommend(n_items=40, as_frame=True)
    listed = set(zip(lists["user"], lists["item"], strict=True))
    assert not listed & set(zip(X["user"], X["item"], strict=True))


def test_als_learns_nothing_from_rows_below_it():
    model = clone(MODELS["als"])
    everybody = clone(model).set_params(choice_threshold=4, tol=1e-9, max_iter=200)
    everybody.fit(X, Y)
    liked = clone(model).set_params(tol=1e-9, max_iter=200).fit(X[LIKED])
    known = X[X["user"].isin(liked.user_ids_) & X["item"].isin(liked.item_ids_)]
    assert_allclose(everybody.predict(known), liked.predict(known), atol=1e-3)


def test_weights_of_choices_are_relative_to_those_of_choices():
    weight = np.where(LIKED, 1.0, 1e-7)
    given = clone(MODELS["als"]).fit(X, LIKED.astype(float), weight)
    expected = clone(MODELS["als"]).set_params(choice_threshold=4).fit(X, Y)
    assert_allclose(given.predict(X), expected.predict(X))


def test_further_rows_have_the_same_threshold(model):
    model.fit(X, Y)
    rows = pd.DataFrame({"user": 99, "item": range(12)})
    rating = np.where(np.arange(12) < 6, 5.0, 1.0)
    grown = copied(model).partial_fit(rows, rating)
    lists = grown.recommend([99], 40)[0]
    assert not set(rows["item"]) & set(lists[~pd.isna(lists)])
    chosen = copied(model).partial_fit(rows[:6], rating[:6])
    off = np.abs(grown.predict(rows) - chosen.predict(rows)).max()
    assert off < 0.4 * np.ptp(chosen.predict(rows))
    visit = model.recommend([99], 5, ratings=(rows, rating))
    assert_array_equal(visit, grown.recommend([99], 5))


def test_fits_of_ratings_do_not_use_it():
    plain, other = (
        MFRegressor(2, choice_threshold=threshold).fit(X, Y) for threshold in (None, 4)
    )
    assert_array_equal(plain.predict(X), other.predict(X))
    assert_array_equal(plain.recommend(), other.recommend())


def test_without_ratings_all_rows_are_choices():
    als = clone(MODELS["als"])
    expected = clone(als).fit(X[LIKED]).predict(X)
    found = als.set_params(choice_threshold=4).fit(X[LIKED]).predict(X)
    assert_array_equal(found, expected)


def test_labels_are_rows_of_zero_and_one():
    labels = MFRegressor(2, solver="adam", loss="log_loss", n_negatives=0)
    labels.set_params(random_state=0)
    expected = clone(labels).fit(X, LIKED.astype(float)).predict(X)
    found = labels.set_params(choice_threshold=4).fit(X, Y).predict(X)
    assert_array_equal(found, expected)


@pytest.mark.parametrize("threshold", ["4", [4]])
def test_it_is_a_number(threshold):
    with pytest.raises(ValueError, match="'choice_threshold' parameter"):
        MFRegressor(choice_threshold=threshold).fit(X, Y)


def test_it_must_leave_choices(model):
    with pytest.raises(ValueError, match=r"=9 leaves no choices, .* y is 5\. Lower"):
        model.set_params(choice_threshold=9).fit(X, Y)


def test_models_of_ratings_and_of_choices_stand_in_one_search():
    search = GridSearchCV(
        MFRegressor(2, choice_threshold=4, random_state=0),
        [
            {"rank_by": ["rating", "both"]},
            {"solver": ["als"], "unobserved_weight": [0.1]},
            {"solver": ["adam"], "loss": ["bpr"]},
        ],
        scoring=RankingScorer("ndcg", relevance_threshold=4),
        cv=KFold(2, shuffle=True, random_state=0),
        error_score="raise",
    ).fit(X, Y)
    assert (search.cv_results_["mean_test_score"] > 0).all()
    assert search.best_estimator_.recommend([3], 4).shape == (1, 4)
