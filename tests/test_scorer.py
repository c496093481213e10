"""RankingScorer: what it ranks, the traps it must not fall into, who takes it."""

import copy
import functools
import math
import pickle

import helpers
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
import sklearn.metrics
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyRegressor
from sklearn.exceptions import (
    NotFittedError,
    UndefinedMetricWarning,
    UnsetMetadataPassedError,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    validation_curve,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from sklearn.utils.fixes import parse_version

from skrec import MFRegressor, NCFRegressor
from skrec.datasets import make_ratings
from skrec.metrics import (
    RankingScorer,
    _scorer,
    average_precision_at_k,
    get_scorer,
    hit_rate_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
    reciprocal_rank,
    roc_auc,
)

FUNCTIONS = {
    "ndcg": ndcg_at_k,
    "precision": precision_at_k,
    "recall": recall_at_k,
    "map": average_precision_at_k,
    "mrr": reciprocal_rank,
    "hit_rate": hit_rate_at_k,
}
ALL = list(FUNCTIONS)

FRAME, Y = make_ratings(30, 40, 400, random_state=0)
Y = np.asarray(Y, dtype=float)
X = FRAME.to_numpy()
FOLDS = KFold(3, shuffle=True, random_state=0)
TRAIN, TEST = next(FOLDS.split(X))


small = functools.partial(helpers.small, clip=False)


@pytest.fixture(scope="module")
def fitted():
    return small().fit(X[TRAIN], Y[TRAIN])


def scores_of(model, user):
    """Predictions of all items; those of an unknown user are of what anybody gives."""
    if user in model.user_ids_:
        return model.predict([(user, item) for item in model.item_ids_])
    items, scores = model.recommend(
        [user], len(model.item_ids_), exclude_seen=False, return_scores=True
    )
    return scores[0, np.argsort(items[0])]


def in_whole_catalogue(model, seen, X, y, threshold=None, k=10):
    """Metrics of the test rows, user by user, each ranked among the catalogue."""
    seen = {tuple(pair) for pair in np.asarray(seen).tolist()}
    asked = dict(zip(map(tuple, np.asarray(X).tolist()), y, strict=True))
    y_true, y_score, groups = [], [], []
    for user in sorted({user for user, _ in asked}):
        known = model.item_ids_.tolist()
        kept = [i for i in known if (user, i) in asked or (user, i) not in seen]
        missed = [i for u, i in asked if u == user and i not in known]
        scores = scores_of(model, user)[np.searchsorted(known, kept)]
        y_true += [asked.get((user, i), 0) for i in kept + missed]
        # An item that the model does not know stands behind all that it does.
        y_score += [*scores, *(-1e9 - np.arange(len(missed)))]
        groups += [user] * len(kept + missed)
    return {
        f"{name}@{k}": f(y_true, y_score, groups, k=k, relevance_threshold=threshold)
        for name, f in FUNCTIONS.items()
    }


@pytest.mark.parametrize("threshold", [None, 4])
@pytest.mark.parametrize("k", [1, 5, 100])
def test_unseen_ranks_the_catalogue_without_the_training_rows(fitted, threshold, k):
    scorer = RankingScorer(ALL, k=k, relevance_threshold=threshold)
    assert scorer(fitted, X[TEST], Y[TEST]) == pytest.approx(
        in_whole_catalogue(fitted, X[TRAIN], X[TEST], Y[TEST], threshold, k)
    )


def test_training_items_are_left_out(fitted):
    liked = Y[TEST] >= 4
    seen = RankingScorer("recall", k=5)(fitted, X[TEST][liked], Y[TEST][liked])
    assert (
        seen
        > in_whole_catalogue(fitted, [], X[TEST][liked], Y[TEST][liked], k=5)[
            "recall@5"
        ]
    )


def test_rows_being_scored_are_ranked_although_they_were_seen(fitted):
    score = RankingScorer(ALL, relevance_threshold=4)(fitted, X[TRAIN], Y[TRAIN])
    assert score == pytest.approx(
        in_whole_catalogue(fitted, X[TRAIN], X[TRAIN], Y[TRAIN], 4)
    )
    assert score["recall@10"] > 0.2


def test_training_scores_are_of_use():
    scorer = RankingScorer("recall", k=40)
    scores = cross_validate(
        small(), X, Y, scoring=scorer, cv=FOLDS, return_train_score=True
    )
    assert_array_equal(scores["train_score"], 1)


def test_items_that_the_model_does_not_know_are_missed(fitted):
    user = fitted.user_ids_[0]
    best = fitted.recommend([user], 1)[0, 0]
    rows = np.array([[user, best], [user, 10_000]])
    assert RankingScorer(["recall", "ndcg"], k=2)(fitted, rows, [1, 1]) == {
        "recall@2": 0.5,
        "ndcg@2": pytest.approx(1 / (1 + 1 / math.log2(3))),
    }
    assert RankingScorer("recall")(fitted, rows[1:], [1]) == 0


def test_nothing_left_to_recommend_is_a_score_of_zero():
    rows = np.array([[1, 10], [1, 11], [2, 10]])
    model = small().fit(rows, [1, 2, 3])
    assert RankingScorer("recall")(model, [[1, 99]], [1]) == 0


def test_users_that_the_model_does_not_know_are_scored(fitted):
    rows = np.array([[10_000, item] for item in fitted.item_ids_[:20]])
    y = np.arange(20.0)
    assert RankingScorer(ALL)(fitted, rows, y) == pytest.approx(
        in_whole_catalogue(fitted, X[TRAIN], rows, y)
    )


def test_a_list_is_ranked_once():
    calls = []

    class Counting(MFRegressor):
        def recommend(self, *args, **params):
            calls.append(args)
            return super().recommend(*args, **params)

    RankingScorer(ALL)(Counting(2, tol=1e9).fit(X, Y), X[TEST], Y[TEST])
    assert len(calls) == 1


class Popular(BaseEstimator):
    """A list of what most have chosen, by the least that the scorer asks for."""

    def fit(self, X, y=None):
        self.items = pd.Series(np.asarray(X)[:, 1]).value_counts().index.to_numpy()
        return self

    def recommend(self, users, n_items):
        return np.tile(self.items[:n_items], (len(users), 1))


def popular_answer(form):
    """A `Popular` whose lists have another form."""

    class Other(Popular):
        def recommend(self, users, n_items):
            return form(users, super().recommend(users, n_items))

    return Other


def as_table(users, lists, order=slice(None)):
    table = pd.DataFrame(
        {
            "item": lists.ravel(),
            "rank": np.tile(np.arange(lists.shape[1]) + 1, len(lists)),
            "user": np.repeat(users, lists.shape[1]),
        }
    )
    return table.iloc[order]


FORMS = {
    "array": lambda users, lists: lists,
    "lists": lambda users, lists: lists.tolist(),
    "longer": lambda users, lists: np.hstack([lists, 10_000 + lists]),
    "short": lambda users, lists: [list(row) + [None] * 3 for row in lists],
    "missing": lambda users, lists: np.hstack([lists, np.full(lists.shape, np.nan)]),
    "table": as_table,
    "no rank": lambda users, lists: as_table(users, lists)[["user", "item"]],
    "unordered": lambda users, lists: as_table(users, lists, slice(None, None, -1)),
    "polars": lambda users, lists: pl.from_pandas(as_table(users, lists)),
    "pyarrow": lambda users, lists: pa.Table.from_pandas(as_table(users, lists)),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_estimator_of_one_s_own_answers_in_any_form(form):
    model = popular_answer(FORMS[form])().fit(X[TRAIN])
    scorer = RankingScorer(ALL, relevance_threshold=4)
    lists = model.items[:10]
    ranks = {item: rank for rank, item in enumerate(lists, 1)}
    users = X[TEST, 0]
    relevant = Y[TEST] >= 4
    recall = [
        np.isin(X[TEST][relevant & (users == user), 1], lists).mean()
        for user in np.unique(users[relevant])
    ]
    first = [
        max(1 / ranks.get(i, np.inf) for i in X[TEST][relevant & (users == user), 1])
        for user in np.unique(users[relevant])
    ]
    score = scorer(model, X[TEST], Y[TEST])
    assert score["recall@10"] == pytest.approx(np.mean(recall))
    assert score["mrr@10"] == pytest.approx(np.mean(first))


def test_an_estimator_of_one_s_own_stands_in_searches_and_pipelines():
    scorer = RankingScorer()
    expected = [
        scorer(Popular().fit(X[train]), X[test], Y[test])
        for train, test in FOLDS.split(X)
    ]
    pipe = make_pipeline("passthrough", Popular())
    for model in (Popular(), pipe):
        found = cross_val_score(
            model, X, Y, scoring=scorer, cv=FOLDS, error_score="raise"
        )
        assert_array_equal(found, expected)
    assert min(expected) > 0


def test_an_estimator_is_passed_the_keywords_that_it_takes():
    class Asked(Popular):
        def recommend(self, users, n_items, **keywords):
            asked.append((users, n_items, keywords))
            return super().recommend(users, n_items)

    class Catalogued(Asked):
        def recommend(self, users, n_items, *, candidates):
            return super().recommend(users, n_items, candidates=candidates)

    asked, rows = [], X[TEST]
    RankingScorer(k=7)(Asked().fit(X), rows, Y[TEST])
    model = Catalogued().fit(X)
    model.item_ids_ = np.unique(X[:, 1]).tolist()
    RankingScorer(k=7)(model, rows, Y[TEST])
    (users, n_items, keywords), (_, _, of_catalogue) = asked
    assert_array_equal(users, np.unique(rows[:, 0]))
    assert n_items == 7
    assert sorted(keywords) == ["as_frame", "never_exclude"]
    kept = keywords["never_exclude"]
    assert set(map(tuple, kept.to_numpy())) == set(map(tuple, rows))
    assert list(of_catalogue) == ["candidates"]
    assert sorted(of_catalogue["candidates"]) == model.item_ids_
    assert list(of_catalogue["candidates"]) != model.item_ids_


@pytest.mark.parametrize(
    ("form", "error", "message"),
    [
        (lambda u, r: None, ValueError, "'user' and 'item', or a list .*got NoneType"),
        (lambda u, r: r[0], ValueError, r"30 users .* \(30, n_items\); .* \(10,\)"),
        (lambda u, r: r[1:], ValueError, r"30 users .*got ndarray of shape \(29, 10\)"),
        (lambda u, r: pd.DataFrame(r), ValueError, "but its columns are 0, 1, 2"),
        (
            lambda u, r: as_table(u, r).rename(columns={"item": "film"}),
            ValueError,
            "Other.recommend must return .*'film', 'rank', 'user'",
        ),
        (lambda u, r: as_table(u + 999, r), ValueError, "user 999, who was not asked"),
        (lambda u, r: r.astype(str), TypeError, "items that Other.*'string'.*'number'"),
        (
            lambda u, r: as_table(u.astype(str), r),
            TypeError,
            "users that Other.recommend returned holds ids of kind 'string'",
        ),
        (lambda u, r: np.hstack([r, r]), ValueError, r"item \d+ more than once for u"),
    ],
)
def test_what_is_no_lists_is_named(form, error, message):
    model = popular_answer(form)().fit(X)
    with pytest.raises(error, match=message):
        RankingScorer()(model, X, Y)


def test_a_recommend_that_cannot_be_asked_is_named():
    class WithoutLength(Popular):
        def recommend(self, users):
            raise AssertionError

    class WantsMore(Popular):
        def recommend(self, users, n_items, catalogue):
            raise AssertionError

    for model, missing in ((WithoutLength(), "n_items"), (WantsMore(), "catalogue")):
        message = rf"calls recommend\(users, n_items=...\), which .*{missing}"
        with pytest.raises(TypeError, match=message):
            RankingScorer()(model.fit(X), X, Y)


def test_without_y_every_test_row_is_relevant(fitted):
    for threshold in (None, 4):
        for candidates in ("unseen", "test"):
            scorer = RankingScorer(
                ALL, candidates=candidates, relevance_threshold=threshold
            )
            of_ones = RankingScorer(ALL, candidates=candidates)
            expected = of_ones(fitted, X[TEST], np.ones(len(TEST)))
            assert scorer(fitted, X[TEST]) == scorer(fitted, X[TEST], None) == expected


CHOICES = MFRegressor(2, solver="als", unobserved_weight=0.2, reg=1.0, tol=1e9)


@pytest.mark.parametrize("routing", [False, True])
@pytest.mark.parametrize("model", [CHOICES, make_pipeline("passthrough", CHOICES)])
def test_searches_and_validation_do_without_y(model, routing):
    common = {"scoring": RankingScorer(), "cv": FOLDS}
    name = "n_factors" if model is CHOICES else "mfregressor__n_factors"
    grid = {name: [1, 3]}
    ones = np.ones(len(X))
    with config_context(enable_metadata_routing=routing):
        expected = cross_val_score(model, X, ones, **common)
        assert_array_equal(cross_val_score(model, X, **common), expected)
        many = cross_validate(model, X, scoring={"a": RankingScorer()}, cv=FOLDS)
        assert_array_equal(many["test_a"], expected)
        for search in (
            GridSearchCV(model, grid, **common),
            RandomizedSearchCV(model, grid, n_iter=2, random_state=0, **common),
            HalvingGridSearchCV(
                model, grid, min_resources=len(X) // 2, random_state=0, **common
            ),
        ):
            with_ones, without = clone(search).fit(X, ones), search.fit(X)
            assert without.best_score_ == with_ones.best_score_ > 0
            assert without.score(X) == with_ones.score(X, ones)


def test_r2_without_y_says_what_to_do():
    model = clone(CHOICES).fit(X)
    for scored in (model, make_pipeline(clone(CHOICES)).fit(X)):
        with pytest.raises(ValueError, match=r"y is None.*RankingScorer\('ndcg'\)"):
            scored.score(X)


class Indifferent(RegressorMixin, BaseEstimator):
    """All items are alike: the list is the candidates as given."""

    def fit(self, X, y):
        self.item_ids_ = np.unique(np.asarray(X)[:, 1])
        return self

    def predict(self, X):
        return np.zeros(len(X))

    def recommend(self, users, n_items, *, candidates, never_exclude, as_frame):
        return pd.DataFrame(
            {
                "user": np.repeat(users, n_items),
                "item": np.tile(candidates[:n_items], len(users)),
                "rank": np.tile(np.arange(n_items) + 1, len(users)),
            }
        )


@pytest.mark.parametrize("relevant", [slice(0, 50), slice(150, 200)])
def test_a_model_of_ties_is_chance_among_the_catalogue(relevant):
    items = np.arange(200)
    model = Indifferent().fit(np.column_stack([items, items]), items)
    rows = np.array([(0, item) for item in items[relevant]])
    # The standard deviation is 0.05.
    score = RankingScorer("precision", k=50)(model, rows, np.ones(50))
    assert score == pytest.approx(0.25, abs=0.2)


@pytest.mark.filterwarnings("ignore:All .* ratings in y are")
def test_ties_of_a_fitted_model_do_not_go_by_the_catalogue():
    rows = np.array([(user, item) for user in range(20) for item in range(60)])
    model = small(solver="als").fit(rows, np.ones(len(rows)))
    _, scores = model.recommend(n_items=60, exclude_seen=False, return_scores=True)
    assert np.ptp(scores) == 0
    first = rows[:, 1] < 10
    for liked in (first, first[::-1]):
        assert 0 < RankingScorer("precision")(model, rows, liked) < 0.5


@pytest.mark.parametrize("worst_first", [False, True])
def test_a_constant_model_is_chance_among_test_rows(worst_first):
    users, liked = np.repeat(np.arange(500), 20), np.tile(np.arange(20) < 5, 500)
    if worst_first:
        liked = liked[::-1]
    # Items in the order of relevance, as if the catalogue were sorted by it.
    rows = np.column_stack([users, np.tile(np.arange(20), 500)])
    model = DummyRegressor().fit(rows, liked)
    scorer = RankingScorer("precision", k=5, candidates="test")
    assert scorer(model, rows, liked) == pytest.approx(0.25, abs=0.035)


@pytest.mark.parametrize("candidates", ["unseen", "test"])
def test_shuffling_the_rows_changes_nothing(candidates):
    model = Indifferent().fit(X, Y)
    scorer = RankingScorer(ALL, k=3, candidates=candidates)
    weight = np.random.default_rng(1).integers(0, 3, len(X))
    order = np.random.default_rng(0).permutation(len(X))
    assert scorer(model, X[order], Y[order]) == scorer(model, X, Y)
    assert scorer(model, X[order], Y[order], weight[order]) == scorer(
        model, X, Y, weight
    )


def test_test_rows_are_ranked_by_predict(fitted):
    kept = np.bincount(X[TEST][:, 0])[X[TEST][:, 0]] >= 2
    rows, y = X[TEST][kept], Y[TEST][kept]
    assert not kept.all()
    expected = {
        f"{name}@3": f(y, fitted.predict(rows), rows[:, 0], k=3, relevance_threshold=4)
        for name, f in FUNCTIONS.items()
    }
    scorer = RankingScorer(ALL, k=3, candidates="test", relevance_threshold=4)
    assert scorer(fitted, X[TEST], Y[TEST]) == pytest.approx(expected)


def test_one_test_row_per_user_is_nothing_to_rank():
    model = DummyRegressor().fit(X, Y)
    alone, repeated = [["ann", 1], ["bob", 2]], [["ann", 1], ["ann", 1]]
    for rows in (alone, repeated):
        with pytest.warns(UndefinedMetricWarning, match="score is undefined") as record:
            assert math.isnan(RankingScorer(candidates="test")(model, rows, [5, 4]))
        assert record[0].filename == __file__
    rows, y = [["ann", 1], ["bob", 1], ["bob", 2]], [1, 0, 1]
    score = RankingScorer("hit_rate", k=1, candidates="test")
    good = FunctionOfItem().fit(rows, y)
    assert score(good, rows, y) == 1
    assert score(good, rows, [1, 1, 0]) == 0


class FunctionOfItem(RegressorMixin, BaseEstimator):
    """Predicts the item's id; keeps nothing of X."""

    def fit(self, X, y):
        self.fitted_ = True
        return self

    def predict(self, X):
        return np.asarray(X, dtype=object)[:, 1].astype(float)


def test_rows_of_one_pair_are_one_row_of_their_mean():
    rows, y = [["ann", 1], ["ann", 2], ["ann", 3]], [4, 2, 1]
    repeated = [*rows, ["ann", 1], ["ann", 1]]
    scorer = RankingScorer(ALL, k=2, candidates="test")
    model = FunctionOfItem().fit(rows, y)
    expected = scorer(model, rows, y)
    assert scorer(model, repeated, [*y, 4, 4]) == expected
    assert scorer(model, repeated, [9, 2, 1, 3, 0]) == expected

    recommender = small().fit([*rows, ["bob", 4]], [4, 2, 1, 2])
    scorer = RankingScorer(ALL, k=2)
    assert scorer(recommender, repeated, [*y, 4, 4]) == scorer(recommender, rows, y)


CONTAINERS = {
    "array of objects": lambda users, items: np.array([users, items], object).T,
    "list of rows": lambda users, items: list(zip(users, items, strict=True)),
    "pandas": lambda users, items: pd.DataFrame({"u": users, "i": items}),
    "pandas, equal names": lambda users, items: pd.DataFrame(
        {"u": users, "i": items}
    ).set_axis(["id", "id"], axis=1),
    "polars": lambda users, items: pl.DataFrame({"u": users, "i": items}),
    "pyarrow": lambda users, items: pa.table({"u": users, "i": items}),
}


@pytest.mark.parametrize("candidates", ["unseen", "test"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_users_are_grouped_by_raw_id_in_any_container(container, candidates):
    def rows(index, container):
        return CONTAINERS[container]([f"u{u:03}" for u in X[index, 0]], X[index, 1])

    scorer = RankingScorer(ALL, k=3, candidates=candidates, relevance_threshold=4)
    expected = scorer(small().fit(X[TRAIN], Y[TRAIN]), X[TEST], Y[TEST])
    model = small().fit(rows(TRAIN, container), Y[TRAIN])
    assert scorer(model, rows(TEST, container), Y[TEST]) == pytest.approx(expected)


@pytest.mark.parametrize("candidates", ["unseen", "test"])
def test_further_columns_are_no_ids(candidates):
    hours = np.random.default_rng(0).uniform(size=len(X))
    wide = FRAME.assign(hour=hours)
    model = small().fit(wide.iloc[TRAIN], Y[TRAIN])
    score = RankingScorer(candidates=candidates)(model, wide.iloc[TEST], Y[TEST])
    assert 0 < score < 1


def renamed(X):
    """Ids that no one but the estimator behind this transformer knows."""
    return pd.DataFrame(np.asarray(X)[:, :2].astype(int) + 1000)


def test_a_pipeline_transforms_what_its_last_step_is_asked(fitted):
    timed = FRAME.assign(when="yesterday")
    pipe = make_pipeline(FunctionTransformer(renamed), small())
    pipe.fit(timed.iloc[TRAIN], Y[TRAIN])
    score = RankingScorer(ALL)(pipe, timed.iloc[TEST], Y[TEST])
    assert score == pytest.approx(RankingScorer(ALL)(fitted, X[TEST], Y[TEST]))


def test_a_pipeline_of_one_step_and_one_within_another_are_asked(fitted):
    expected = RankingScorer(ALL)(fitted, X[TEST], Y[TEST])
    one = make_pipeline(small()).fit(X[TRAIN], Y[TRAIN])
    two = make_pipeline("passthrough", make_pipeline(small())).fit(X[TRAIN], Y[TRAIN])
    assert RankingScorer(ALL)(one, X[TEST], Y[TEST]) == expected
    assert RankingScorer(ALL)(two, X[TEST], Y[TEST]) == expected


def test_any_regressor_ranks_test_rows():
    encoder = OneHotEncoder(handle_unknown="ignore")
    ridge = make_pipeline(ColumnTransformer([("ids", encoder, [0, 1])]), Ridge())
    scorer = RankingScorer(candidates="test")
    scores, constant = (
        cross_val_score(model, X, Y, scoring=scorer, cv=FOLDS)
        for model in (ridge, DummyRegressor())
    )
    assert scores.mean() > constant.mean()
    fitted = ridge.fit(X[TRAIN], Y[TRAIN])
    kept = np.bincount(X[TEST][:, 0])[X[TEST][:, 0]] >= 2
    rows = X[TEST][kept]
    assert scores[0] == pytest.approx(
        ndcg_at_k(Y[TEST][kept], fitted.predict(rows), rows[:, 0])
    )


def test_an_estimator_that_cannot_recommend_is_told_the_way_out():
    ridge = make_pipeline(OneHotEncoder(), Ridge()).fit(X, Y)
    search = GridSearchCV(Ridge(), {"alpha": [1]}, cv=2).fit(X, Y)
    for model in (ridge, search, DummyRegressor().fit(X, Y)):
        name = type(model).__name__
        with pytest.raises(TypeError, match=rf"{name} has not.* candidates='test'"):
            RankingScorer()(model, X, Y)


@pytest.mark.parametrize("candidates", ["unseen", "test"])
def test_rows_without_weight_are_no_rows(fitted, candidates):
    weight = np.random.default_rng(0).integers(0, 2, len(TEST))
    kept = TEST[weight > 0]
    scorer = RankingScorer(ALL, candidates=candidates, relevance_threshold=4)
    assert scorer(fitted, X[TEST], Y[TEST], weight) == scorer(fitted, X[kept], Y[kept])


def test_a_row_without_weight_is_not_asked_of_the_estimator():
    model = small(handle_unknown="error").fit(X, Y)
    rows, weight = np.vstack([X[:20], [10_000, X[0, 1]]]), [*[1] * 20, 0]
    assert RankingScorer()(model, rows, Y[:21], weight) == RankingScorer()(
        model, X[:20], Y[:20]
    )


@pytest.mark.parametrize("candidates", ["unseen", "test"])
def test_users_count_by_their_mean_weight(fitted, candidates):
    scorer = RankingScorer(k=5, candidates=candidates)
    weight = np.random.default_rng(0).integers(1, 4, len(TEST))
    users, scores, weights = X[TEST, 0], [], []
    for user in np.unique(users):
        rows = TEST[users == user]
        if candidates == "unseen" or len(rows) > 1:
            scores.append(scorer(fitted, X[rows], Y[rows]))
            weights.append(weight[users == user].mean())
    expected = np.average(scores, weights=weights)
    assert scorer(fitted, X[TEST], Y[TEST], weight) == pytest.approx(expected)
    assert scorer(fitted, X[TEST], Y[TEST]) == pytest.approx(np.mean(scores))


def test_no_relevant_row_warns_and_is_nan(fitted):
    with pytest.warns(UndefinedMetricWarning, match="score is undefined") as record:
        assert math.isnan(RankingScorer("mrr")(fitted, X[TEST], 0 * Y[TEST]))
    assert record[0].filename == __file__


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"metrics": "f1"}, "mrr, hit_rate, auc, without k; got 'f1'"),
        ({"metrics": ["ndcg", "f1"]}, r"without k; got \['ndcg', 'f1'\]"),
        ({"metrics": []}, r"at least one name .*; got \[\]"),
        ({"metrics": None}, "got None"),
        ({"metrics": [["ndcg"]]}, "at least one name"),
        ({"k": 0}, "k must be an int of at least 1, got 0"),
        ({"k": None}, "k must be an int of at least 1, got None"),
        ({"k": 2.5}, "k must be an int of at least 1, got 2.5"),
        ({"candidates": "all"}, "candidates must be 'unseen' or 'test', got 'all'"),
        ({"relevance_threshold": "4"}, "relevance_threshold .* number, got '4'"),
    ],
)
def test_bad_parameters_are_refused_at_once(params, message):
    with pytest.raises(ValueError, match=message):
        RankingScorer(**params)


@pytest.mark.parametrize("candidates", ["unseen", "test"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": [1, math.nan]}, "y must hold finite numbers.* 1 row .*rows: 1"),
        ({"y": [1]}, "there are 2 rows and y holds 1"),
        ({"y": [1, -2]}, r"y must be at least 0 .*rows: 1.*relevance_threshold"),
        ({"y": 1}, r"y must be one-dimensional, got shape \(\)"),
        ({"X": X[:0]}, "X has no rows"),
        ({"X": X[:2, :1]}, "X needs a column of users and a column of items"),
        ({"X": [[1, None], [2, 3]]}, "1 missing id"),
        ({"sample_weight": [1, -1]}, "Negative values .*`sample_weight`: .*rows: 1"),
        ({"sample_weight": [0, 0]}, "sample_weight is zero in all rows"),
        (
            {"sample_weight": [1, 1, 1]},
            r"sample_weight has shape \(3,\), but X has 2 rows",
        ),
    ],
)
def test_bad_rows_are_refused(fitted, candidates, changes, message):
    rows = {"X": X[:2], "y": [1, 2]}
    with pytest.raises(ValueError, match=message):
        RankingScorer(candidates=candidates)(fitted, **{**rows, **changes})


@pytest.mark.parametrize("candidates", ["unseen", "test"])
def test_y_may_be_a_column(fitted, candidates):
    scorer = RankingScorer(candidates=candidates)
    column = pd.DataFrame({"rating": Y[TEST]})
    assert scorer(fitted, X[TEST], column) == scorer(fitted, X[TEST], Y[TEST])


@pytest.mark.parametrize("candidates", ["unseen", "test"])
def test_an_unfitted_estimator_and_ids_of_another_kind_are_refused(fitted, candidates):
    scorer = RankingScorer(candidates=candidates)
    for model in (
        small(),
        make_pipeline(small()),
        make_pipeline("passthrough", small()),
        GridSearchCV(small(), {"n_factors": [1]}),
    ):
        with pytest.raises(NotFittedError):
            scorer(model, X, Y)
    with pytest.raises(NotFittedError):
        RankingScorer("auc", candidates=candidates)(small(), X, Y)
    for column in (0, 1):
        rows = X[TEST].astype(object)
        rows[:, column] = [f"id {i}" for i in rows[:, column]]
        with pytest.raises(TypeError, match="ids of kind 'string'"):
            scorer(fitted, rows, Y[TEST])


def test_a_predict_that_is_not_finite_is_named():
    class Broken(DummyRegressor):
        def predict(self, X):
            return np.full(len(X), math.nan)

    with pytest.raises(ValueError, match=r"predict\(X\) must hold finite numbers"):
        RankingScorer(candidates="test")(Broken().fit(X, Y), X, Y)


def by_hand(scorer, estimator, cv=FOLDS):
    return [
        scorer(clone(estimator).fit(X[train], Y[train]), X[test], Y[test])
        for train, test in cv.split(X)
    ]


SCORERS = {
    "unseen": RankingScorer(["ndcg", "recall"], k=5),
    "test": RankingScorer(["ndcg", "recall"], k=5, candidates="test"),
}


@pytest.mark.parametrize("routing", [False, True])
@pytest.mark.parametrize("candidates", SCORERS)
def test_cross_validate_takes_one_metric_several_and_a_dict(candidates, routing):
    many = SCORERS[candidates]
    one = RankingScorer("ndcg", k=5, candidates=candidates)
    expected = by_hand(many, small())
    with config_context(enable_metadata_routing=routing):
        of_one = cross_val_score(small(), X, Y, scoring=one, cv=FOLDS)
        of_many = cross_validate(small(), X, Y, scoring=many, cv=FOLDS)
        scoring = {"rmse": "neg_root_mean_squared_error", "ndcg": one}
        of_dict = cross_validate(small(), X, Y, scoring=scoring, cv=FOLDS)
    ndcg = [score["ndcg@5"] for score in expected]
    assert_array_equal(of_one, ndcg)
    assert_array_equal(of_dict["test_ndcg"], ndcg)
    assert (of_dict["test_rmse"] < 0).all()
    assert_array_equal(of_many["test_ndcg@5"], ndcg)
    assert_array_equal(of_many["test_recall@5"], [s["recall@5"] for s in expected])


@pytest.mark.parametrize("routing", [False, True])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_grid_search_refits_by_a_metric_of_the_list(n_jobs, routing):
    grid = {"n_factors": [1, 3]}
    with config_context(enable_metadata_routing=routing):
        search = GridSearchCV(
            small(),
            grid,
            scoring=SCORERS["unseen"],
            refit="ndcg@5",
            cv=FOLDS,
            n_jobs=n_jobs,
        ).fit(X, Y)
        score = search.score(X, Y)
    for row, n_factors in enumerate(grid["n_factors"]):
        scores = by_hand(SCORERS["unseen"], small(n_factors=n_factors))
        for name in ("ndcg@5", "recall@5"):
            assert_allclose(
                search.cv_results_[f"mean_test_{name}"][row],
                np.mean([score[name] for score in scores]),
                rtol=1e-6,
            )
    assert search.best_score_ == search.cv_results_["mean_test_ndcg@5"].max()
    assert score == SCORERS["unseen"](search.best_estimator_, X, Y)["ndcg@5"]


@pytest.mark.parametrize("candidates", ["unseen", "test"])
def test_every_search_and_curve_takes_it(candidates):
    scorer = RankingScorer(k=5, candidates=candidates)
    common = {"scoring": scorer, "cv": FOLDS}
    grid = {"n_factors": [1, 2]}
    plain = GridSearchCV(small(), grid, **common).fit(X, Y)
    random = RandomizedSearchCV(small(), grid, n_iter=2, random_state=0, **common)
    assert random.fit(X, Y).best_score_ == plain.best_score_
    halving = HalvingGridSearchCV(
        small(), grid, min_resources=len(X) // 2, random_state=0, **common
    )
    assert 0 < halving.fit(X, Y).best_score_ < 1
    _, scores = validation_curve(
        small(), X, Y, param_name="n_factors", param_range=[1, 2], **common
    )
    assert scores.mean(axis=1).max() == pytest.approx(plain.best_score_)
    _, _, scores = learning_curve(small(), X, Y, train_sizes=[0.5, 1.0], **common)
    assert scores[-1][0] == by_hand(scorer, small())[0]
    score, permuted, _ = permutation_test_score(
        small(), X, Y, n_permutations=2, random_state=0, **common
    )
    assert score == pytest.approx(np.mean(by_hand(scorer, small())))
    assert ((permuted > 0) & (permuted < 1)).all()


def test_a_search_is_scored_by_its_best_estimator():
    search = GridSearchCV(small(), {"n_factors": [1, 2]}, cv=2)
    scorer = RankingScorer(k=5)
    scores = cross_val_score(search, X, Y, scoring=scorer, cv=FOLDS)
    search.fit(X[TRAIN], Y[TRAIN])
    assert scores[0] == scorer(search.best_estimator_, X[TEST], Y[TEST])


def test_it_scores_networks_too():
    network = NCFRegressor(
        2, (3,), n_members=2, batch_size=100, max_iter=2, random_state=0
    )
    scores = cross_val_score(network, X, Y, scoring=RankingScorer(), cv=FOLDS)
    assert ((scores > 0) & (scores < 1)).all()


def test_a_monitor_follows_it_through_a_fit(callbacks):
    monitor = callbacks.ScoringMonitor(scoring=RankingScorer(["ndcg", "recall"]))
    model = small().set_callbacks(monitor).fit(X, Y)
    log = monitor.get_logs().data_as_pandas
    log = log[log["task_name"] == "iteration"]
    assert len(log) == model.n_iter_
    assert log["ndcg@10"].iloc[-1] == RankingScorer()(model, X, Y)


SCORED_WITH_WEIGHTS = pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.8"),
    reason="a search passes weights to scorers from 1.8 on",
)


@SCORED_WITH_WEIGHTS
def test_weights_reach_the_scorer_without_routing():
    weight = np.random.default_rng(0).integers(1, 9, len(X)).astype(float)
    search = GridSearchCV(
        small(), {"n_factors": [2]}, scoring=RankingScorer(), cv=FOLDS
    )
    search.fit(X, Y, sample_weight=weight)
    train, test = TRAIN, TEST
    model = small().fit(X[train], Y[train], sample_weight=weight[train])
    expected = RankingScorer()(model, X[test], Y[test], weight[test])
    assert search.cv_results_["split0_test_score"][0] == expected
    assert expected != RankingScorer()(model, X[test], Y[test])


@pytest.mark.parametrize("in_dict", [False, True])
@pytest.mark.parametrize("alias", [True, "importance"])
def test_weights_are_routed_as_requested(alias, in_dict):
    weight = np.random.default_rng(0).integers(1, 9, len(X)).astype(float)
    with config_context(enable_metadata_routing=True):
        scorer = RankingScorer().set_score_request(sample_weight=alias)
        scores = cross_validate(
            small().set_fit_request(sample_weight=False),
            X,
            Y,
            scoring={"score": scorer} if in_dict else scorer,
            cv=FOLDS,
            params={"sample_weight" if alias is True else alias: weight},
        )
    model = small().fit(X[TRAIN], Y[TRAIN])
    expected = scorer(model, X[TEST], Y[TEST], weight[TEST])
    assert scores["test_score"][0] == expected
    assert expected != scorer(model, X[TEST], Y[TEST])


def test_weights_that_nobody_spoke_of_are_refused_by_routing():
    model = small()
    with config_context(enable_metadata_routing=True):
        model.set_fit_request(sample_weight=True)
        params = {"params": {"sample_weight": np.ones(len(X))}, "cv": FOLDS}
        with pytest.raises(
            UnsetMetadataPassedError, match="explicitly set as requested"
        ):
            cross_validate(model, X, Y, scoring=RankingScorer(), **params)
        ignoring = RankingScorer().set_score_request(sample_weight=False)
        scores = cross_validate(model, X, Y, scoring=ignoring, **params)
    assert_array_equal(scores["test_score"], by_hand(RankingScorer(), small()))


def test_requests_are_only_set_where_metadata_are_routed():
    with pytest.raises(RuntimeError, match="enable_metadata_routing=True"):
        RankingScorer().set_score_request(sample_weight=True)
    with (
        config_context(enable_metadata_routing=True),
        pytest.raises(TypeError, match="groups"),
    ):
        RankingScorer().set_score_request(groups=True)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda scorer: pickle.loads(pickle.dumps(scorer))]
)
def test_copies_score_and_request_alike(fitted, copied):
    with config_context(enable_metadata_routing=True):
        scorer = RankingScorer(ALL, k=3, candidates="test", relevance_threshold=4)
        copied = copied(scorer.set_score_request(sample_weight="importance"))
        request = copied.get_metadata_routing().score.requests
    assert request == {"sample_weight": "importance"}
    assert repr(copied) == repr(scorer)
    assert copied(fitted, X, Y) == scorer(fitted, X, Y)
    search = clone(GridSearchCV(small(), {}, scoring=scorer))
    assert search.scoring is not scorer
    assert repr(search.scoring) == repr(scorer)


def test_repr_is_how_it_was_made():
    scorer = RankingScorer(["ndcg"], k=3, candidates="test", relevance_threshold=4)
    assert repr(eval(repr(scorer))) == repr(scorer)
    assert "candidates='test'" in repr(scorer)


def test_names_give_scorers():
    assert repr(get_scorer("hit_rate@20")) == repr(RankingScorer("hit_rate", k=20))
    assert repr(get_scorer("r2")) == repr(sklearn.metrics.get_scorer("r2"))
    assert get_scorer(len) is len
    # A bare name is scikit-learn's, which has a precision of its own.
    assert repr(get_scorer("precision")) == repr(
        sklearn.metrics.get_scorer("precision")
    )


@pytest.mark.parametrize(
    "name",
    ["mrr", "f1@10", "ndcg@", "ndcg@x", "ndcg@1.0", "NDCG@10", "ndcg @5", "auc@5"],
)
def test_names_without_a_scorer_are_refused(name):
    with pytest.raises(ValueError, match=rf"'{name}' names no.*ndcg, precision.*no k"):
        get_scorer(name)
    with pytest.raises(ValueError, match="k must be an int of at least 1, got 0"):
        get_scorer("ndcg@0")


def test_an_estimator_without_predict_is_named():
    class Bestsellers:
        def recommend(self, users, n_items=10):
            return np.ones((len(users), n_items))

    with pytest.raises(TypeError, match="`predict`, which Bestsellers has not"):
        RankingScorer("ndcg", candidates="test")(Bestsellers(), [[1, 2]], [1.0])


def test_several_lengths_are_scored_as_one_by_one():
    X, y = make_ratings(60, 30, 900, random_state=0)
    model = MFRegressor(2).fit(X[:600], y[:600])
    rows = X[600:], y[600:]
    scorer = RankingScorer(["ndcg", "recall"], k=[3, 10], relevance_threshold=3)
    found = scorer(model, *rows)
    assert set(found) == {"ndcg@3", "ndcg@10", "recall@3", "recall@10"}
    for name, k in (("ndcg", 3), ("recall", 10)):
        single = RankingScorer(name, k=k, relevance_threshold=3)(model, *rows)
        assert found[f"{name}@{k}"] == single
    assert RankingScorer("ndcg", k=(3,))(model, *rows).keys() == {"ndcg@3"}
    with pytest.raises(ValueError, match="k must be"):
        RankingScorer("ndcg", k=[])


def test_the_area_under_the_curve_stands_beside_metrics_of_lists(fitted):
    rows, y = X[TEST], Y[TEST]
    options = {"candidates": "test", "relevance_threshold": 4}
    expected = roc_auc(y, fitted.predict(rows), rows[:, 0], relevance_threshold=4)
    assert RankingScorer("auc", **options)(fitted, rows, y) == pytest.approx(expected)
    found = RankingScorer(["auc", "ndcg"], k=[3, 5], **options)(fitted, rows, y)
    assert found.keys() == {"auc", "ndcg@3", "ndcg@5"}
    assert found["auc"] == pytest.approx(expected)
    ndcg = RankingScorer("ndcg", k=3, **options)(fitted, rows, y)
    assert found["ndcg@3"] == ndcg
    with pytest.warns(UndefinedMetricWarning, match="area under the ROC curve is und"):
        assert math.isnan(RankingScorer("auc", candidates="test")(fitted, rows))


@pytest.mark.parametrize("max_listed", [1, 200, 2**22])
@pytest.mark.parametrize("threshold", [None, 4])
def test_the_area_over_unseen_items_is_that_of_whole_lists(
    threshold, max_listed, monkeypatch
):
    monkeypatch.setattr(_scorer, "MAX_LISTED", max_listed)
    X, y = make_ratings(40, 30, 700, random_state=0)
    model = MFRegressor(2).fit(X[:500], y[:500])
    # Of known and unknown users, and of an item that the model does not know.
    test = pd.concat([X[500:], pd.DataFrame({"user": [3, 999], "item": [777, 5]})])
    relevance = np.append(y[500:], [5.0, 5.0])
    seen = set(zip(X["user"][:500], X["item"][:500], strict=True))
    areas = []
    for user, rows in test.assign(y=relevance).groupby("user"):
        liked = rows["item"][rows["y"] >= (threshold or 1e-9)]
        unseen = [
            item
            for item in model.item_ids_
            if (user, item) not in seen or item in set(rows["item"])
        ]
        lists, scores = model.recommend(
            [user], 30, exclude_seen=False, return_scores=True
        )
        score = dict(zip(lists[0], scores[0], strict=True))
        own = [*unseen, *np.setdiff1d(liked, model.item_ids_)]
        is_liked = np.isin(own, liked)
        if 0 < is_liked.sum() < len(own):
            worst = [score.get(item, -np.inf) for item in own]
            areas.append(roc_auc(is_liked, np.nan_to_num(worst), [user] * len(own)))
    scorer = RankingScorer("auc", relevance_threshold=threshold)
    assert scorer(model, test, relevance) == pytest.approx(np.mean(areas))
    both = RankingScorer(["auc", "ndcg"], k=[3, 5], relevance_threshold=threshold)
    found = both(model, test, relevance)
    assert found["auc"] == pytest.approx(np.mean(areas))
    ndcg = RankingScorer("ndcg", k=5, relevance_threshold=threshold)
    assert found["ndcg@5"] == ndcg(model, test, relevance)


def test_the_area_needs_to_know_the_number_of_items():
    class Bestsellers:
        def recommend(self, users, n_items):
            return np.ones((len(users), n_items))

    with pytest.raises(TypeError, match="Bestsellers has no `item_ids_` to count"):
        RankingScorer("auc")(Bestsellers(), [[1, 2]], [1.0])


def test_the_area_has_a_name():
    assert get_scorer("auc") == RankingScorer("auc")
    with pytest.raises(ValueError, match="'ndcg@10', or 'auc'"):
        get_scorer("area")


def test_every_pair_counts_where_the_first_user_has_not_the_first_item():
    X = [["ann", "Up"], ["ann", "Zama"], ["bob", "Heat"], ["bob", "Up"]]

    class Given(BaseEstimator):
        def predict(self, X):
            return np.array([2.0, 1.0, 2.0, 1.0])

    scorer = RankingScorer("hit_rate", k=1, candidates="test")
    assert scorer(Given(), X, [1, 0, 0, 1]) == 0.5
