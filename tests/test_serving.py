"""Requests of a shop or a site: baskets, visitors, users for an item, reasons."""

import joblib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from skrec import MFRegressor, NCFRegressor
from skrec.datasets import make_ratings

X, Y = make_ratings(60, 40, 900, random_state=0)
MODELS = {
    "both": MFRegressor(2),
    "rating": MFRegressor(2, rank_by="rating"),
    "choice": MFRegressor(2, solver="als", rank_by="choice"),
    "choices": MFRegressor(2, solver="als", unobserved_weight=0.1, max_iter=5, tol=9),
    "adam": MFRegressor(2, solver="adam", max_iter=2, random_state=0),
    "ncf": NCFRegressor(2, n_members=2, max_iter=2, random_state=0),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return clone(MODELS[request.param]).fit(X, Y)


def test_excluded_rows_are_left_out_of_the_lists_of_their_users(model):
    items = model.recommend([1, 2, 1], n_items=6)
    exclude = [(1, items[0, 0]), (2, items[1, 3]), (7, items[0, 1])]
    found = model.recommend([1, 2, 1], n_items=5, exclude=exclude)
    assert_array_equal(found[0], items[0, 1:])
    assert_array_equal(found[1], np.delete(items[1], 3))
    assert_array_equal(found[2], found[0])


def test_unknown_users_can_exclude_items(model):
    items = model.recommend([999], n_items=6)
    found = model.recommend([999], n_items=5, exclude=[(999, items[0, 0])])
    assert_array_equal(found[0], items[0, 1:])


def test_exclusion_goes_with_candidates_and_with_seen_items(model):
    found = model.recommend(
        [3], 4, candidates=[5, 6, 7, 777], exclude=[(3, 6)], exclude_seen=False
    )
    assert set(found[0][:3].astype(int)) == {5, 7, 777}
    assert pd.isna(found[0, 3])


def test_an_empty_exclusion_is_none(model):
    expected = model.recommend([3])
    assert_array_equal(model.recommend([3], exclude=np.empty((0, 2))), expected)


def test_excluded_ids_of_another_kind_are_refused(model):
    with pytest.raises(TypeError, match="exclude"):
        model.recommend([3], exclude=[("ann", 5)])


def test_ratings_of_a_visitor_count_in_one_call_alone(model):
    rows = pd.DataFrame({"user": [77, 77, 77, 5], "item": [1, 2, 3, 9]})
    rating = [5.0, 4.0, 1.0, 3.0]
    before = model.recommend([5], return_scores=True)
    found, scores = model.recommend(ratings=(rows, rating), return_scores=True)
    updated = MFRegressor.__new__(type(model))
    updated.__dict__ = vars(model).copy()
    updated.partial_fit(rows, rating)
    expected, theirs = updated.recommend([5, 77], return_scores=True)
    assert_array_equal(found, expected)
    assert_allclose(scores, theirs)
    assert not {1, 2, 3} & set(found[1])
    assert 77 not in model.user_ids_
    assert_array_equal(model.recommend([5], return_scores=True), before)


def test_a_model_of_arrays_that_are_mapped_from_a_file_answers_alike(model, tmp_path):
    joblib.dump(model, tmp_path / "model.joblib")
    mapped = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    assert_array_equal(mapped.predict(X), model.predict(X))
    assert_array_equal(mapped.recommend([5]), model.recommend([5]))
    assert_array_equal(mapped.similar_items([5]), model.similar_items([5]))
    visitor = X[:3].assign(user=777), [5.0, 4.0, 1.0]
    assert_array_equal(
        mapped.recommend(ratings=visitor), model.recommend(ratings=visitor)
    )
    assert 777 in mapped.partial_fit(*visitor).user_ids_


def test_choices_of_a_visitor_need_no_ratings():
    model = MFRegressor().fit(X)
    rows = pd.DataFrame({"user": "visitor", "item": [1, 2, 3]})
    as_strings = MFRegressor().fit(X.astype({"user": str}))
    found = as_strings.recommend(ratings=rows, n_items=5)
    assert found.shape == (1, 5)
    assert not {1, 2, 3} & set(found[0])
    assert len(model.user_ids_) == 60


@pytest.mark.parametrize(
    "rows",
    [
        [[77, 1], [77, 2]],
        [(77, 1), (77, 2)],
        np.array([[77, 1], [77, 2]]),
        pd.DataFrame({"user": [77, 77], "item": [1, 2]}),
    ],
)
def test_a_pair_may_be_a_list_and_a_list_of_rows_is_none(rows):
    rating, known = [5.0, 1.0], X if isinstance(rows, pd.DataFrame) else X.to_numpy()
    model, choices = MFRegressor(2).fit(known, Y), MFRegressor().fit(known)
    of_tuple = model.recommend(ratings=(rows, rating))
    assert_array_equal(model.recommend(ratings=[rows, rating]), of_tuple)
    reasons = model.explain(77, [5], part="rating", ratings=[rows, rating])
    assert set(reasons["because"].dropna()) == {1, 2}
    expected = choices.recommend(ratings=(rows, None))
    assert_array_equal(choices.recommend(ratings=rows), expected)


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ([[999, 1]], r"ratings must be a tuple of X and y, .*; got a list without"),
        (([[999, 1]], None), "ratings must be a tuple of X and y, .* a tuple without"),
        (([[999, 1]],), "ratings must be a tuple of X and y, .* a tuple of length 1"),
        ([[[999, 1]]], "ratings must be a tuple of X and y, .* a list of length 1"),
        ([X[:2], Y[:2], Y[:2]], "ratings must be a tuple .* a list of length 3"),
        ([], "ratings holds no rows. Leave it out"),
        ((X[:0], Y[:0]), "ratings holds no rows. Leave it out"),
    ],
)
@pytest.mark.parametrize("rank_by", ["both", "rating"])
def test_further_ratings_are_named_where_they_are_refused(rank_by, ratings, message):
    model = MFRegressor(2, rank_by=rank_by, tol=1).fit(X, Y)
    with pytest.raises(ValueError, match=message):
        model.recommend([999], ratings=ratings)
    if rank_by == "both":
        with pytest.raises(ValueError, match=message):
            model.explain(999, [1], ratings=ratings)


def test_users_for_items_are_the_columns_of_all_scores(model):
    items, scores = model.recommend(n_items=40, exclude_seen=False, return_scores=True)
    table = np.empty((60, 40))
    for row in range(60):
        table[row, np.searchsorted(model.item_ids_, items[row])] = scores[row]
    users, found = model.recommend_users([4, 9, 4], n_users=60, return_scores=True)
    for item, ours, theirs in zip([4, 9, 4], users, found, strict=True):
        column = table[:, np.searchsorted(model.item_ids_, item)]
        left = ~np.isin(model.user_ids_, X["user"][X["item"] == item])
        n_left = left.sum()
        assert_allclose(theirs[:n_left], np.sort(column[left])[::-1], rtol=1e-4)
        assert set(ours[:n_left]) == set(model.user_ids_[left])
        assert (theirs[n_left:] == -np.inf).all()
    everybody = model.recommend_users([4], n_users=60, exclude_seen=False)
    assert set(everybody[0]) == set(model.user_ids_)


def test_users_for_items_as_a_frame_and_for_unknown_items(model):
    frame = model.recommend_users([4, 777], n_users=3, as_frame=True)
    assert list(frame.columns) == ["item", "user", "rank", "score"]
    assert frame["rank"].tolist() == [1, 2, 3] * 2
    assert np.isfinite(frame["score"]).all()
    with pytest.raises(ValueError, match="unknown items in 1 of 2 rows"):
        clone(model).set_params(handle_unknown="error").fit(X, Y).recommend_users(
            [4, 777]
        )


def test_cold_items_are_offered_to_those_who_like_their_features():
    rng = np.random.default_rng(0)
    likes_loud = np.arange(60) % 2
    loud = pd.DataFrame({"loud": [0, 1] * 20 + [1]}, index=[*range(40), 777])
    y = 3 + 2 * (likes_loud[X["user"]] == X["item"] % 2) + rng.normal(0, 0.2, len(X))
    model = MFRegressor(2, rank_by="rating").fit(X, y, item_features=loud)
    users = model.recommend_users([777], n_users=20)
    assert (users[0].astype(int) % 2 == 1).mean() > 0.9


def test_reasons_sum_to_the_strength_of_a_choice():
    model = MFRegressor(2, rank_by="choice").fit(X, Y)
    items, scores = model.recommend([8], 5, return_scores=True)
    reasons = model.explain(8, items[0])
    assert reasons["item"].drop_duplicates().tolist() == items[0].tolist()
    total = reasons.groupby("item")["contribution"].sum()[items[0]]
    assert_allclose(total, scores[0], rtol=1e-3, atol=1e-6)
    own = set(X["item"][X["user"] == 8])
    assert set(reasons["because"].dropna()) == own
    assert (reasons.groupby("item")["contribution"].diff().dropna() <= 0).all()


def test_reasons_need_choices_and_known_ids():
    with pytest.raises(ValueError, match="explain needs the part of choices"):
        MFRegressor(2, rank_by="rating").fit(X, Y).explain(8, [1])
    with pytest.raises(ValueError, match="users must be known"):
        MFRegressor().fit(X).explain(999, [1])
