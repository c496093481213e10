"""MFRegressor: what a user relies on, on ratings of known make and on real ones."""

import numpy as np
import pandas as pd
import pytest
from helpers import rmse, unconverged
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
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
    model = MFRegressor(
        4, solver=request.param, clip=False, rank_by="rating", random_state=0
    )
    return model.fit(*ratings)


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


def test_factors_and_biases_are_found_by_raw_id(fitted):
    for side in ("user", "item"):
        ids = getattr(fitted, f"{side}_ids_")
        factors = getattr(fitted, f"{side}_factors_")
        frame = fitted.factors_frame(side)
        assert_array_equal(frame.index, ids)
        assert frame.index.name == side
        assert frame.columns.tolist() == [*(f"factor_{j}" for j in range(4)), "bias"]
        assert_array_equal(frame.iloc[:, :4], factors)
        assert_array_equal(frame["bias"], getattr(fitted, f"{side}_biases_"))
        some = fitted.factors_frame(side, ids[[5, 2, 5]])
        pd.testing.assert_frame_equal(some, frame.iloc[[5, 2, 5]])


def test_factors_that_are_not_there_are_refused(ratings, fitted):
    with pytest.raises(ValueError, match=r"users must be known.* such as -1"):
        fitted.factors_frame("user", [3, -1])
    with pytest.raises(ValueError, match="side must be 'user' or 'item', got 'users'"):
        fitted.factors_frame("users")
    with pytest.raises(AttributeError, match="no factors after a fit of choices"):
        MFRegressor().fit(ratings[0]).factors_frame("user")


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


@pytest.mark.usefixtures("short_chain")
@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("n_factors", [1, 8])
@pytest.mark.parametrize("shape", [(30, 1), (1, 30), (1, 1), (3, 1), (15, 2)])
def test_plain_model_of_few_ratings_predicts_about_their_mean(solver, n_factors, shape):
    rng = np.random.default_rng(0)
    users, items = (n.ravel() for n in np.indices(shape))
    X, y = np.column_stack([users, items]), rng.uniform(3.5, 5, len(users))
    model = MFRegressor(
        n_factors, solver=solver, biased=False, clip=False, random_state=0
    )
    if solver == "gibbs":
        model.set_params(max_iter=15)
    for sign in (1, -1):
        model.fit(X, sign * y)
        assert model.intercept_ == 0
        assert abs(model.predict(X) - sign * y.mean()).max() < 1.2


@pytest.mark.parametrize("solver", ["vb", "als", "adam", "sgd"])
def test_plain_model_is_better_than_the_mean(solver):
    X, y = make_ratings(200, 100, 4000, random_state=0)
    train = np.arange(len(y)) % 5 > 0
    model = MFRegressor(8, solver=solver, biased=False, random_state=0)
    model.fit(X[train], y[train])
    assert rmse(model, X[~train], y[~train]) < 0.95 * y[~train].std()


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


@pytest.mark.usefixtures("short_chain")
@pytest.mark.parametrize("solver", ALL)
def test_further_columns_are_linear_terms(ratings, solver):
    X, y = ratings
    rng = np.random.default_rng(0)
    hour, weight = rng.uniform(0, 24, len(y)), rng.normal(50, 10, len(y))
    X = X.assign(hour=hour, weight=weight, constant=7.0)
    model = MFRegressor(2, solver=solver, clip=False, random_state=0)
    if solver == "gibbs":
        model.set_params(max_iter=50)
    if solver == "als":
        model.set_params(tol=1e-4)
    model.fit(X, y + 0.3 * hour - 0.1 * weight)
    atol = 0.02 if solver == "adam" else 0.01
    assert_allclose(model.coef_[:2], [0.3, -0.1], atol=atol)
    assert abs(model.coef_[2]) < 1e-6
    later = model.predict(X.assign(hour=hour + 1)) - model.predict(X)
    # No user and no item differs from the others.
    assert_allclose(later, model.coef_[0], rtol=1e-4, atol=0.05)


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


def test_intervals_cover_ratings_of_users_with_few_and_with_many():
    X, y = make_ratings(1000, 200, 40_000, levels=None, random_state=0)
    rng = np.random.default_rng(0)
    # Users of a tenth to all of their ratings, half of which are held out.
    is_kept = rng.random(len(y)) < (X["user"] % 10 + 1) / 10
    is_test = rng.random(len(y)) < 0.5
    train, test = is_kept & ~is_test, is_kept & is_test
    model = MFRegressor(rank_by="rating").fit(X[train], y[train])
    mean, std = model.predict(X[test], return_std=True)
    is_inside = np.abs(y[test] - mean) < 1.645 * std
    n_rated = X["user"][test].map(X["user"][train].value_counts()).fillna(0)
    for bounds in ((0, 4), (5, 8), (9, 15), (16, 30), (31, np.inf)):
        of_users = n_rated.between(*bounds)
        assert of_users.sum() > 800
        assert is_inside[of_users].mean() == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("solver", ["vb", "gibbs"])
def test_less_is_known_of_who_was_never_seen(ratings, solver):
    model = MFRegressor(4, solver=solver, max_iter=50, random_state=0).fit(*ratings)
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


@pytest.mark.parametrize("solver", ["vb", "als"])
def test_warm_start_goes_on_where_the_last_fit_ended(ratings, solver):
    cold = MFRegressor(
        3, solver=solver, tol=1e-5, max_iter=900, implicit_features=False
    ).fit(*ratings)
    warm = clone(cold).set_params(warm_start=True).fit(*ratings)
    assert warm.fit(*ratings).n_iter_ < cold.n_iter_ / 3
    assert_allclose(warm.predict(ratings[0]), cold.predict(ratings[0]), atol=0.02)


@pytest.mark.usefixtures("short_chain")
@pytest.mark.parametrize("solver", SOLVERS)
def test_warm_start_knows_rows_by_their_ids(ratings, solver):
    X, y = ratings
    max_iter = 30 if solver == "gibbs" else None
    model = MFRegressor(
        3, solver=solver, max_iter=max_iter, warm_start=True, random_state=0
    )
    late = X["user"] % 5 == 0
    model.fit(X[~late], y[~late])
    with unconverged():
        model.set_params(max_iter=30).fit(X, y)
    cold = clone(model).set_params(max_iter=max_iter)
    cold.fit(X, y)
    assert model.user_ids_.tolist() == cold.user_ids_.tolist()
    error = root_mean_squared_error(cold.predict(X), model.predict(X))
    assert error < 0.3 * np.std(cold.predict(X))


@pytest.mark.parametrize(
    ("solver", "n_factors"), [("vb", "auto"), ("vb", 8), ("gibbs", "auto")]
)
def test_a_warm_start_finds_what_the_first_ratings_did_not_show(solver, n_factors):
    rng = np.random.default_rng(0)
    X = np.c_[rng.integers(0, 150, 6000), rng.integers(0, 100, 6000)]
    P, Q = rng.normal(size=(150, 3)), rng.normal(size=(100, 3))
    y = (P[X[:, 0]] * Q[X[:, 1]]).sum(axis=1) + rng.normal(size=6000)
    model = MFRegressor(n_factors, solver=solver, max_iter=40, random_state=0)
    cold = clone(model).fit(X[:5000], y[:5000])
    model.set_params(warm_start=True).fit(X[:150], y[:150]).fit(X[:5000], y[:5000])
    least = root_mean_squared_error(y[5000:], cold.predict(X[5000:]))
    error = root_mean_squared_error(y[5000:], model.predict(X[5000:]))
    assert error < 1.02 * least < 1.3
    assert model.n_factors_ == cold.n_factors_


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("n_users", "n_items"), [(3, 30), (30, 3), (1, 30), (30, 1)])
def test_a_warm_start_may_have_more_factors_than_rows(n_users, n_items, biased):
    X, y = make_ratings(n_users, n_items, n_users * n_items, random_state=0)
    model = MFRegressor(8, biased=biased, warm_start=True).fit(X, y)
    before = rmse(model, X, y)
    assert rmse(model.fit(X, y), X, y) < 1.05 * before
    later = X.assign(user=X["user"] + X["item"] % 2)
    assert np.isfinite(model.fit(later, y).predict(later)).all()


def test_a_warm_start_decides_again_on_implicit_features(ratings):
    model = MFRegressor().fit(*ratings)
    warm = clone(model).set_params(warm_start=True).fit(*ratings).fit(*ratings)
    assert warm.n_factors_ == model.n_factors_
    assert warm.loo_curve_[-1] < 1.001 * model.loo_curve_[-1]


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


@pytest.mark.usefixtures("short_chain")
@pytest.mark.parametrize("solver", ALL)
def test_no_sparse_product_is_needed_of_torch(ratings, solver):
    with RecordOperators() as record:
        max_iter = 2 if solver == "adam" else 20
        model = MFRegressor(2, solver=solver, max_iter=max_iter, random_state=0)
        model.fit(*ratings)
        model.recommend(as_frame=True)
    assert "mm" in record.names
    assert not [name for name in record.names if "sparse" in name or "mkl" in name]


@pytest.mark.usefixtures("short_chain")
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_gpu_fits_what_the_cpu_fits(ratings, solver, gpu):
    params = {"solver": solver, "random_state": 0}
    if solver == "gibbs":
        params["max_iter"] = 5
    models = [
        MFRegressor(4, device=device, **params).fit(*ratings) for device in ("cpu", gpu)
    ]
    assert_allclose(*[model.predict(ratings[0]) for model in models], atol=1e-3)
    assert_array_equal(*[model.recommend(n_items=3)[:, 0] for model in models])


@pytest.fixture(scope="module")
def real_model(ml_100k_fold):
    return MFRegressor().fit(*ml_100k_fold[:2])


class TestMovieLens100K:
    def test_error_is_that_of_the_measured_figures(self, real_model, ml_100k_fold):
        assert (
            root_mean_squared_error(
                ml_100k_fold[3], real_model.predict(ml_100k_fold[2])
            )
            < 0.88
        )

    def test_intervals_cover(self, real_model, ml_100k_fold):
        mean, std = real_model.predict(ml_100k_fold[2], return_std=True)
        inside = np.mean(np.abs(ml_100k_fold[3] - mean) < 1.645 * std)
        assert 0.87 < inside < 0.93

    def test_the_order_of_rows_does_not_matter(self, real_model, ml_100k_fold):
        order = np.random.default_rng(0).permutation(len(ml_100k_fold[0]))
        again = MFRegressor().fit(
            ml_100k_fold[0].iloc[order], ml_100k_fold[1].iloc[order]
        )
        assert_array_equal(
            again.predict(ml_100k_fold[2]), real_model.predict(ml_100k_fold[2])
        )

    def test_sequels_are_alike(self, real_model):
        star_wars, empire, jedi = 50, 172, 181
        similar = real_model.similar_items([star_wars], n_items=5)[0]
        assert {empire, jedi} <= set(similar)

    def test_recommendations_are_new_to_the_user(self, real_model, ml_100k_fold):
        frame = real_model.recommend(n_items=10, as_frame=True)
        assert len(frame) == 10 * len(real_model.user_ids_)
        assert frame.merge(ml_100k_fold[0], on=["user", "item"]).empty

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

    def test_choices_make_better_lists_than_counts(self, ml_100k_fold):
        X, _, X_test, y_test = ml_100k_fold
        model = MFRegressor(
            32, solver="als", unobserved_weight=0.3, reg=0.01, reg_exponent=1, tol=1e-4
        ).fit(X)
        ndcg = RankingScorer("ndcg", k=10, relevance_threshold=4)
        counts = X["item"].value_counts()
        popular = MFRegressor(0, solver="als", reg=1e-6, tol=1e-5, rank_by="rating")
        popular.fit(X, X["item"].map(counts).to_numpy(dtype=float))
        found, by_counts = (ndcg(m, X_test, y_test) for m in (model, popular))
        assert found > 1.6 * by_counts


@pytest.mark.parametrize("rate", [0.08, 0.9])
def test_predictions_of_skewed_ratings_have_their_mean(rate):
    """Also where the noise of rows of rare events is low."""
    rng = np.random.default_rng(0)
    places = rng.permutation(120 * 80)[:4000]
    users, items = np.divmod(places, 80)
    logits = np.log(rate / (1 - rate)) + rng.normal(0, 0.5, 120)[users]
    logits += rng.normal(0, 0.7, 80)[items]
    y = (rng.random(4000) < 1 / (1 + np.exp(-logits))).astype(float)
    X = np.column_stack([users, items])
    model = MFRegressor(rank_by="rating", clip=False).fit(X, y)
    assert model.predict(X).mean() == pytest.approx(y.mean(), abs=1e-3)
    # Rows of little noise have less of the shift, and may be right without it.
    known, rows = model.predict(X), X[:30]
    n_likes = np.bincount(users, y)[users]
    is_quiet = (n_likes == 0) | (n_likes == np.bincount(users)[users])
    assert is_quiet.any()
    std = model.predict(X, return_std=True)[1]
    assert (np.abs(y - known) < 2 * std)[is_quiet].all()
    before = model.predict(X)
    model.partial_fit(rows, y[:30])
    assert_allclose(model.predict(X), known, atol=0.15)
    is_apart = ~(np.isin(X[:, 0], rows[:, 0]) | np.isin(X[:, 1], rows[:, 1]))
    assert is_apart.any()
    assert_allclose(model.predict(X[is_apart]), before[is_apart], atol=1e-6)


@pytest.mark.parametrize("n_factors", [0, 2])
def test_draws_of_skewed_ratings_have_their_mean(n_factors):
    rng = np.random.default_rng(0)
    users, items = np.divmod(rng.permutation(100 * 80)[:3000], 80)
    effects = rng.normal(0, 0.5, 100)[users] + rng.normal(0, 0.5, 80)[items]
    y = np.exp(3 + effects + 0.7 * rng.normal(size=3000))
    X = np.column_stack([users, items])
    model = MFRegressor(n_factors, solver="gibbs", max_iter=30, random_state=0)
    model.set_params(rank_by="rating", clip=False).fit(X, y)
    assert model.predict(X).mean() == pytest.approx(y.mean(), rel=1e-3)
