"""MFRegressor: what a user relies on, on ratings of known make and on real ones."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import KFold
from torch.utils._python_dispatch import TorchDispatchMode

from skrec import MFRegressor
from skrec.datasets import fetch_movielens, make_ratings
from skrec.metrics import RankingScorer
from skrec.model_selection import ColdStartKFold

SOLVERS = ["vb", "gibbs", "als"]
ALL = [*SOLVERS, "adam"]


@pytest.fixture(scope="module")
def ratings():
    return make_ratings(80, 60, 2400, random_state=0)


@pytest.fixture(scope="module", params=ALL)
def fitted(request, ratings):
    model = MFRegressor(4, solver=request.param, clip=False, random_state=0)
    return model.fit(*ratings)


@pytest.fixture(scope="module")
def score_matrix(fitted):
    """Predictions of all pairs, as a matrix of users and items."""
    users, items = fitted.user_ids_, fitted.item_ids_
    pairs = {"user": np.repeat(users, len(items)), "item": np.tile(items, len(users))}
    return fitted.predict(pd.DataFrame(pairs)).reshape(len(users), len(items))


@pytest.fixture(scope="module")
def seen(fitted, ratings):
    seen = np.zeros((len(fitted.user_ids_), len(fitted.item_ids_)), dtype=bool)
    users = np.searchsorted(fitted.user_ids_, ratings[0]["user"])
    seen[users, np.searchsorted(fitted.item_ids_, ratings[0]["item"])] = True
    return seen


def by_attributes(model, X):
    """The model's equation, written with its public attributes."""
    u = np.searchsorted(model.user_ids_, X["user"])
    i = np.searchsorted(model.item_ids_, X["item"])
    product = (model.user_factors_[u] * model.item_factors_[i]).sum(axis=1)
    return model.intercept_ + model.user_biases_[u] + model.item_biases_[i] + product


@pytest.mark.parametrize("solver", ["vb", "als", "adam", "sgd"])
def test_public_attributes_are_arrays_that_predict(ratings, solver):
    model = MFRegressor(4, solver=solver).fit(*ratings)
    assert type(model.user_factors_) is np.ndarray
    assert model.user_factors_.dtype == np.float32
    assert model.item_factors_.shape == (60, 4)
    expected = by_attributes(model, ratings[0])
    assert_allclose(model.predict(ratings[0]), expected.clip(1, 5), rtol=1e-5)


@pytest.mark.parametrize(("solver", "reg"), [("vb", None), ("adam", 0.1)])
def test_plain_model_is_the_dot_product(ratings, solver, reg):
    model = MFRegressor(
        3, solver=solver, biased=False, reg=reg, clip=False, random_state=0
    ).fit(*ratings)
    assert model.intercept_ == 0
    assert not model.user_biases_.any()
    assert_allclose(
        model.predict(ratings[0]), by_attributes(model, ratings[0]), rtol=1e-5
    )
    error = root_mean_squared_error(ratings[1], model.predict(ratings[0]))
    assert error < ratings[1].std()


def test_recommend_is_the_order_of_predict_without_what_was_rated(
    fitted, score_matrix, seen
):
    frame = fitted.recommend(n_items=5, as_frame=True)
    allowed = np.where(seen, -np.inf, score_matrix)
    best = -np.sort(-allowed, axis=1)[:, :5]
    assert_allclose(frame["score"], best[best > -np.inf], rtol=1e-5)
    users = np.searchsorted(fitted.user_ids_, frame["user"])
    items = np.searchsorted(fitted.item_ids_, frame["item"])
    assert_allclose(frame["score"], allowed[users, items], rtol=1e-5)


def test_recommend_chooses_among_candidates(fitted, score_matrix):
    candidates = fitted.item_ids_[[50, 3, 17, 8]]
    found = fitted.recommend(
        [5, 2], 4, candidates=candidates, exclude_seen=False, return_scores=False
    )
    for user, row in zip([5, 2], found, strict=True):
        scores = score_matrix[np.searchsorted(fitted.user_ids_, user)]
        columns = np.searchsorted(fitted.item_ids_, candidates)
        expected = candidates[np.argsort(-scores[columns])]
        assert_array_equal(row, expected)


def test_recommend_as_frame_holds_the_arrays(fitted):
    users = fitted.user_ids_[[4, 1]]
    items, scores = fitted.recommend(users, 3, return_scores=True)
    frame = fitted.recommend(users, 3, as_frame=True)
    assert frame.columns.tolist() == ["user", "item", "rank", "score"]
    assert_array_equal(frame["user"], np.repeat(users, 3))
    assert_array_equal(frame["item"], items.ravel())
    assert_array_equal(frame["rank"], [1, 2, 3, 1, 2, 3])
    assert_array_equal(frame["score"], scores.ravel())


def test_recommend_as_frame_gives_what_is_left(fitted, seen):
    frame = fitted.recommend(n_items=len(fitted.item_ids_), as_frame=True)
    assert len(frame) == (~seen).sum()


def test_an_unknown_user_gets_the_items_by_their_merit(fitted):
    posterior, k = fitted._model, fitted._model.n_factors
    mean = posterior.users.prior_mean[:, -1] + posterior.users.cold_offset
    merit = np.einsum("dik,dk->i", posterior.items.mean[..., :k], mean[:, :k])
    merit = merit / len(mean) + fitted.item_biases_
    order = np.argsort(-merit, kind="stable")
    found = fitted.recommend([-1], len(fitted.item_ids_))[0]
    assert_array_equal(found, fitted.item_ids_[order])


def test_similar_items_compares_taste_profiles(ratings):
    model = MFRegressor(4).fit(*ratings)
    taste = model.user_factors_ @ model.item_factors_.T
    cosines = np.corrcoef(taste, rowvar=False)
    np.fill_diagonal(cosines, -np.inf)
    found, scores = model.similar_items(model.item_ids_, 3, return_scores=True)
    assert_allclose(scores, -np.sort(-cosines, axis=1)[:, :3], atol=1e-4)
    assert not (found == model.item_ids_[:, None]).any()


def test_similar_users_compares_taste_profiles(ratings):
    model = MFRegressor(4).fit(*ratings)
    cosines = np.corrcoef(model.user_factors_ @ model.item_factors_.T)
    np.fill_diagonal(cosines, -np.inf)
    _, scores = model.similar_users(model.user_ids_, 3, return_scores=True)
    assert_allclose(scores, -np.sort(-cosines, axis=1)[:, :3], atol=1e-4)


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize(("low", "high"), [(-10, 10), (0, 100), (1e-6, 5e-6)])
def test_the_scale_of_the_ratings_needs_no_setting(ratings, solver, low, high):
    X, y = ratings
    model = MFRegressor(3, solver=solver, random_state=0).fit(X, y)
    scaled = clone(model).fit(X, low + (high - low) * (y - 1) / 4)
    expected = low + (high - low) * (model.predict(X) - 1) / 4
    assert_allclose(scaled.predict(X), expected, atol=1e-4 * (high - low))


@pytest.mark.parametrize("solver", ALL)
def test_further_columns_are_linear_terms(ratings, solver):
    X, y = ratings
    rng = np.random.default_rng(0)
    hour, weight = rng.uniform(0, 24, len(y)), rng.normal(50, 10, len(y))
    X = X.assign(hour=hour, weight=weight, constant=7.0)
    model = MFRegressor(2, solver=solver, clip=False, random_state=0)
    model.fit(X, y + 0.3 * hour - 0.1 * weight)
    atol = 0.02 if solver == "adam" else 0.01
    assert_allclose(model.coef_[:2], [0.3, -0.1], atol=atol)
    assert abs(model.coef_[2]) < 1e-6
    later = model.predict(X.assign(hour=hour + 1))
    assert_allclose(later - model.predict(X), model.coef_[0], rtol=1e-4)


def test_standard_deviations_cover_new_ratings():
    X, y = make_ratings(300, 200, 20_000, levels=None, random_state=0)
    train, test = next(KFold(5, shuffle=True, random_state=0).split(X))
    for solver in ("vb", "gibbs"):
        model = MFRegressor(8, solver=solver, max_iter=50, random_state=0)
        model.fit(X.iloc[train], y[train])
        mean, std = model.predict(X.iloc[test], return_std=True)
        assert std.dtype == np.float64
        for share, width in ((0.5, 0.674), (0.9, 1.645)):
            inside = np.mean(np.abs(y[test] - mean) < width * std)
            assert inside == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("solver", ["vb", "gibbs"])
def test_less_is_known_of_who_was_never_seen(ratings, solver):
    model = MFRegressor(4, solver=solver, random_state=0).fit(*ratings)
    X = pd.DataFrame({"user": model.user_ids_, "item": model.item_ids_[0]})
    _, known = model.predict(X, return_std=True)
    _, unknown = model.predict(X.assign(user=-1), return_std=True)
    assert known.mean() < unknown.mean()


def test_noisy_users_are_known_as_such():
    X, _, expected = make_ratings(
        60, 80, 3600, levels=None, random_state=0, return_expected=True
    )
    rng = np.random.default_rng(0)
    noisy = X["user"] % 2 == 0
    y = expected + rng.normal(size=len(X)) * np.where(noisy, 1.5, 0.3)
    _, std = MFRegressor(8).fit(X, y).predict(X, return_std=True)
    assert std[noisy].mean() == pytest.approx(1.5, rel=0.2)
    assert std[~noisy].mean() < 0.7


@pytest.mark.parametrize("solver", ALL)
def test_weight_two_is_the_row_twice(ratings, solver):
    X, y = ratings
    twice = np.arange(len(y)) % 3 == 0
    model = MFRegressor(3, solver=solver, random_state=0)
    weighted = clone(model).fit(X, y, sample_weight=1 + twice).predict(X)
    repeated = clone(model).fit(pd.concat([X, X[twice]]), np.append(y, y[twice]))
    assert_allclose(weighted, repeated.predict(X), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:All .* ratings in y are")
@pytest.mark.parametrize("solver", ALL)
def test_a_constant_rating_is_predicted(solver):
    X, _ = make_ratings(10, 8, 40, random_state=0)
    model = MFRegressor(2, solver=solver, max_iter=50, random_state=0)
    assert_allclose(model.fit(X, np.full(40, 3.5)).predict(X), 3.5)


@pytest.mark.parametrize("solver", ALL)
def test_one_rating_is_enough(solver):
    model = MFRegressor(solver=solver, max_iter=50, random_state=0)
    model.fit([["ann", "Heat"]], [4.0])
    assert_allclose(model.predict([["ann", "Heat"], ["bob", "Alien"]]), 4.0)


def test_ratings_without_noise_are_learned():
    rng = np.random.default_rng(0)
    X, _ = make_ratings(60, 50, 2000, random_state=0)
    P, Q = rng.normal(size=(60, 2)), rng.normal(size=(50, 2))
    users, items = (np.unique(X[name], return_inverse=True)[1] for name in X)
    y = (P[users] * Q[items]).sum(axis=1)
    train = np.arange(len(y)) % 10 > 0
    with pytest.warns(UserWarning, match="noise has collapsed"):
        model = MFRegressor(2, tol=1e-3).fit(X[train], y[train])
    assert root_mean_squared_error(y[~train], model.predict(X[~train])) < 0.1


def test_vb_and_als_repeat_themselves_without_a_seed(ratings):
    for solver in ("vb", "als"):
        fits = [MFRegressor(3, solver=solver).fit(*ratings) for _ in range(2)]
        assert_array_equal(*[model.predict(ratings[0]) for model in fits])


@pytest.mark.parametrize("solver", ["gibbs", "adam", "sgd"])
def test_what_is_random_repeats_itself_under_a_seed(ratings, solver):
    model = MFRegressor(3, solver=solver, max_iter=5)
    first, again, other = (
        clone(model).set_params(random_state=seed).fit(*ratings).predict(ratings[0])
        for seed in (1, 1, 2)
    )
    assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("solver", ["vb", "als"])
def test_warm_start_goes_on_where_the_last_fit_ended(ratings, solver):
    cold = MFRegressor(3, solver=solver, tol=1e-6, max_iter=900).fit(*ratings)
    warm = clone(cold).set_params(warm_start=True).fit(*ratings)
    assert warm.fit(*ratings).n_iter_ < cold.n_iter_ / 3
    assert_allclose(warm.predict(ratings[0]), cold.predict(ratings[0]), atol=0.02)


@pytest.mark.parametrize("solver", SOLVERS)
def test_warm_start_knows_rows_by_their_ids(ratings, solver):
    X, y = ratings
    model = MFRegressor(3, solver=solver, warm_start=True, random_state=0)
    late = X["user"] % 5 == 0
    model.fit(X[~late], y[~late])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.set_params(max_iter=30).fit(X, y)
    cold = clone(model).set_params(max_iter=None).fit(X, y)
    assert model.user_ids_.tolist() == cold.user_ids_.tolist()
    error = root_mean_squared_error(cold.predict(X), model.predict(X))
    assert error < 0.3 * np.std(cold.predict(X))


def test_more_factors_than_rows_is_no_error():
    X, y = make_ratings(5, 4, 15, random_state=0)
    assert np.isfinite(MFRegressor(30).fit(X, y).predict(X)).all()


class RecordOperators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("solver", ALL)
def test_no_sparse_product_is_needed_of_torch(ratings, solver):
    with RecordOperators() as record:
        max_iter = 2 if solver == "adam" else 20
        model = MFRegressor(2, solver=solver, max_iter=max_iter, random_state=0)
        model.fit(*ratings)
        model.recommend(as_frame=True)
    assert "mm" in record.names
    assert not [name for name in record.names if "sparse" in name or "mkl" in name]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("solver", SOLVERS)
def test_cuda_fits_what_the_cpu_fits(ratings, solver):
    models = [
        MFRegressor(4, solver=solver, device=device, random_state=0).fit(*ratings)
        for device in ("cpu", "cuda")
    ]
    assert_allclose(*[model.predict(ratings[0]) for model in models], atol=1e-3)
    assert_array_equal(*[model.recommend(n_items=3)[:, 0] for model in models])


@pytest.fixture(scope="module")
def real_split(ml_100k):
    """The first fold of KFold(5, shuffle=True, random_state=0) on u.data's order."""
    X, y = ml_100k
    train, test = next(KFold(5, shuffle=True, random_state=0).split(X))
    return X.iloc[train], y.iloc[train], X.iloc[test], y.iloc[test]


@pytest.fixture(scope="module")
def real_model(real_split):
    return MFRegressor().fit(*real_split[:2])


class TestMovieLens100K:
    def test_error_is_that_of_the_measured_figures(self, real_model, real_split):
        assert (
            root_mean_squared_error(real_split[3], real_model.predict(real_split[2]))
            < 0.88
        )

    def test_intervals_cover(self, real_model, real_split):
        mean, std = real_model.predict(real_split[2], return_std=True)
        inside = np.mean(np.abs(real_split[3] - mean) < 1.645 * std)
        assert 0.87 < inside < 0.93

    def test_the_order_of_rows_does_not_matter(self, real_model, real_split):
        order = np.random.default_rng(0).permutation(len(real_split[0]))
        again = MFRegressor().fit(real_split[0].iloc[order], real_split[1].iloc[order])
        assert_array_equal(
            again.predict(real_split[2]), real_model.predict(real_split[2])
        )

    def test_sequels_are_alike(self, real_model):
        star_wars, empire, jedi = 50, 172, 181
        similar = real_model.similar_items([star_wars], n_items=5)[0]
        assert {empire, jedi} <= set(similar)

    def test_recommendations_are_new_to_the_user(self, real_model, real_split):
        frame = real_model.recommend(n_items=10, as_frame=True)
        assert len(frame) == 10 * len(real_model.user_ids_)
        assert frame.merge(real_split[0], on=["user", "item"]).empty

    def test_features_tell_of_users_without_ratings(self, ml_100k_archive):
        release = fetch_movielens("100k", archive=ml_100k_archive)
        X, y = release.data, release.target
        cv = ColdStartKFold(5, by="user", shuffle=True, random_state=0)
        train, test = next(cv.split(X))
        model = MFRegressor().fit(
            X.iloc[train],
            y.iloc[train],
            user_features=release.users[["age", "gender", "occupation"]],
            item_features=release.movies[release.genre_names],
        )
        biases = MFRegressor(0, implicit_features=False)
        biases.fit(X.iloc[train], y.iloc[train])
        found, by_biases = (
            root_mean_squared_error(y.iloc[test], m.predict(X.iloc[test]))
            for m in (model, biases)
        )
        assert found < 0.998 * by_biases

    def test_choices_make_better_lists_than_counts(self, real_split):
        X, _, X_test, y_test = real_split
        model = MFRegressor(
            32, solver="als", unobserved_weight=0.3, reg=0.01, reg_exponent=1, tol=1e-4
        ).fit(X)
        ndcg = RankingScorer("ndcg", k=10, relevance_threshold=4)
        counts = X["item"].value_counts()
        popular = MFRegressor(0, solver="als", reg=1e-6, tol=1e-5)
        popular.fit(X, X["item"].map(counts).to_numpy(dtype=float))
        found, by_counts = (ndcg(m, X_test, y_test) for m in (model, popular))
        assert found > 1.6 * by_counts
