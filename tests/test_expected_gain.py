"""Lists by the choice of an item times the gain of its expected rating."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skrec import MFRegressor, NCFRegressor
from skrec._choice.expected_gain import ExpectedGain
from skrec._choice.gain import Gain
from skrec.datasets import make_ratings
from skrec.metrics import RankingScorer

X, Y = make_ratings(80, 50, 1200, random_state=0)


@pytest.mark.parametrize("rank_by", ["both", "choice"])
@pytest.mark.parametrize(
    "estimator", [MFRegressor(2), NCFRegressor(2, n_members=1, max_iter=10)]
)
def test_lists_do_not_depend_on_the_units_of_ratings(estimator, rank_by):
    model = estimator.set_params(rank_by=rank_by, random_state=0)
    expected, scores = model.fit(X, Y).recommend(range(20), return_scores=True)
    for scale, shift in ((50, -300), (1e-3, 1e6), (1, 1e9)):
        moved = model.fit(X, scale * Y + shift)
        found, moved = moved.recommend(range(20), return_scores=True)
        assert_allclose(moved, scores, rtol=2e-3)
        assert (found == expected).mean() > 0.95


def test_equal_ratings_rank_as_choices_do():
    expected = MFRegressor().fit(X).recommend(range(30))
    found = MFRegressor(2).fit(X, np.full(len(X), 3.0))
    assert_array_equal(found.recommend(range(30)), expected)
    assert_allclose(found.predict(X), 3)


def test_ratings_alone_need_y_and_spare_the_choices():
    with pytest.raises(ValueError, match="requires y to be passed"):
        MFRegressor(rank_by="rating").fit(X)
    model = MFRegressor(2, rank_by="rating").fit(X, Y)
    items, scores = model.recommend([3], 5, return_scores=True)
    pairs = pd.DataFrame({"user": 3, "item": items[0]})
    assert_allclose(model.set_params(clip=False).predict(pairs), scores[0], rtol=1e-4)
    with pytest.raises(ValueError, match="rank_by='both' needs a fit with it"):
        model.set_params(rank_by="both").recommend([3])


def test_scores_of_both_parts_are_strength_times_gain():
    model = MFRegressor(2).fit(X, Y)
    items, scores = model.recommend([5], 50, return_scores=True, exclude_seen=False)
    pairs = pd.DataFrame({"user": 5, "item": items[0]})
    gain = Gain.of(model._autoencoder.ratings)
    place = (model.predict(pairs).clip(gain.low, gain.high) - gain.low) / gain.span
    gain = place**gain.power + 0.25
    order = pd.Index(items[0])
    by_choice, strength = model.set_params(rank_by="choice").recommend(
        [5], 50, return_scores=True, exclude_seen=False
    )
    strength = pd.Series(strength[0], by_choice[0])[order].to_numpy()
    expected = np.where(strength > 0, strength * gain, strength / gain)
    assert_allclose(scores[0], expected, rtol=1e-3, atol=1e-5)


def test_lists_by_both_parts_are_better_than_by_ratings():
    rows, y = make_ratings(300, 120, 9000, random_state=1)
    test = np.random.default_rng(0).random(len(y)) < 0.2
    scorer = RankingScorer("ndcg", k=10, relevance_threshold=np.quantile(y, 0.6))
    by = {
        rank_by: scorer(
            MFRegressor(rank_by=rank_by).fit(rows[~test], y[~test]), rows[test], y[test]
        )
        for rank_by in ("both", "rating")
    }
    assert by["both"] > by["rating"]


def test_index_vectors_retrieve_by_choice():
    rows, y = make_ratings(300, 120, 9000, random_state=1)
    model = MFRegressor(2).fit(rows, y)
    products = model.user_index_vectors([7]) @ model.item_index_vectors().T
    order = model.item_ids_[np.argsort(-products[0])]
    expected = model.set_params(rank_by="choice").recommend([7], 10, exclude_seen=False)
    assert_array_equal(order[:10], expected[0])


def test_predictions_of_the_product_are_the_scores_of_lists():
    model = MFRegressor(2).fit(X, Y)
    product = ExpectedGain(model._model, model._autoencoder)
    items, scores = model.recommend([5], 20, return_scores=True)
    rows = np.searchsorted(model.item_ids_, items[0])
    users = np.full(20, np.searchsorted(model.user_ids_, 5))
    found, std = product.predict(users, rows, np.empty((20, 0)), False, "cpu")
    assert_allclose(found, scores[0], rtol=1e-4)
    assert std is None
