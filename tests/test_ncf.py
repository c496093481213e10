"""NCFRegressor: what a user relies on, on ratings of known make and on real ones."""

import os
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import all_scores, small_ncf
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from sklearn.base import clone
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skrec import MFRegressor, NCFRegressor
from skrec._data.weights import Weighting
from skrec.datasets import make_ratings

N_USERS, N_ITEMS = 40, 30
X, Y = make_ratings(N_USERS, N_ITEMS, 600, random_state=0)
CHOSEN = (Y > 3).astype(float)
HOUR = np.random.default_rng(0).uniform(0, 24, len(Y))
TIMED = X.assign(hour=HOUR, constant=7.0)

ARCHITECTURES = pytest.mark.parametrize("architecture", ["neumf", "gmf", "mlp"])
ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "logistic": expit,
    "silu": lambda x: x * expit(x),
}


small = partial(
    small_ncf,
    n_factors=3,
    hidden_layer_sizes=(4,),
    n_members=3,
    max_iter=5,
    clip=False,
)


def by_hand(model, X):
    """Predictions of every member, from the fitted arrays and the equation."""
    weights = {name: w.astype(np.float64) for name, w in model._model.weights.items()}
    units, act = model._model.units, ACTIVATIONS[model.activation]
    u, i = (
        pd.Index(ids).get_indexer(X.iloc[:, column])
        for column, ids in enumerate((model.user_ids_, model.item_ids_))
    )
    # A constant column has no part in a model.
    varying = X.columns[2:].difference(["constant"], sort=False)
    features = X[varying].to_numpy(dtype=float)
    features = (features - units.feature_mean) / units.feature_scale
    predictions = []
    for m in range(model.n_members):

        def product(x, name, m=m):
            return x @ weights[name][m] if name in weights else 0

        score = weights["intercept"][m] + weights["user_bias"][u, m]
        score += weights["item_bias"][i, m]
        score += product(features, "coef")
        if "user_slopes" in weights:
            slopes = weights["user_slopes"][u] + weights["item_slopes"][i]
            score += (slopes * features).sum(axis=1)
        if "user_factors" in weights:
            p, q = weights["user_factors"][u, m], weights["item_factors"][i, m]
            score += (p * q).sum(axis=1)
        if "user_embedding" in weights:
            hidden = product(weights["user_embedding"][u, m], "user_weight")
            hidden += product(weights["item_embedding"][i, m], "item_weight")
            hidden += product(features, "feature_weight")
            hidden += weights["bias_0"][m]
            layer = 1
            while f"weight_{layer}" in weights:
                hidden = product(act(hidden), f"weight_{layer}")
                hidden += weights[f"bias_{layer}"][m]
                layer += 1
            score += hidden[:, 0]
        predictions.append(units.centre + units.scale * score)
    return np.array(predictions)


VARIANTS = {
    "default": {},
    "gmf": {"architecture": "gmf"},
    "mlp": {"architecture": "mlp"},
    "two layers": {"hidden_layer_sizes": [4, 3], "activation": "tanh"},
    "no hidden layer": {"hidden_layer_sizes": []},
    "a number": {"hidden_layer_sizes": 3, "activation": "silu"},
    "an array": {"hidden_layer_sizes": np.array([3, 2]), "activation": "logistic"},
    "dropout": {"dropout": 0.5},
}


@pytest.mark.parametrize("params", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("rows", [X, TIMED], ids=["pairs", "features"])
def test_predict_is_the_mean_of_the_members(params, rows):
    model = small(**params).fit(rows, Y)
    asked = pd.concat([rows, rows[:3].assign(user=-1), rows[:3].assign(item=-1)])
    members = by_hand(model, asked)
    mean, std = model.predict(asked, return_std=True)
    assert mean.dtype == std.dtype == np.float64
    assert_allclose(mean, members.mean(axis=0), rtol=1e-9)
    assert_allclose(std, members.std(axis=0, ddof=1), rtol=1e-9, atol=1e-12)
    assert (std > 0).all()


def test_the_spread_of_log_loss_is_that_of_probabilities():
    model = small(loss="log_loss", n_negatives=0).fit(X, CHOSEN)
    members = by_hand(model, X)
    mean, std = model.predict(X, return_std=True)
    assert_allclose(mean, expit(members.mean(axis=0)), rtol=1e-9)
    assert_allclose(std, expit(members).std(axis=0, ddof=1), rtol=1e-9)


def test_one_network_knows_no_spread():
    model = small(n_members=1).fit(X, Y)
    assert_allclose(model.predict(X), by_hand(model, X)[0], rtol=1e-9)
    with pytest.raises(ValueError, match=r"return_std=True.*n_members=1"):
        model.predict(X, return_std=True)


def test_tiles_of_predict_do_not_matter(monkeypatch):
    model = small().fit(TIMED, Y)
    mean, std = model.predict(TIMED, return_std=True)
    monkeypatch.setattr("skrec._gradient.fitted.TILE_SIZE", 100)
    tiled_mean, tiled_std = model.predict(TIMED, return_std=True)
    assert_allclose(tiled_mean, mean, rtol=1e-12)
    assert_allclose(tiled_std, std, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@ARCHITECTURES
def test_training_ratings_are_learned(architecture, solver):
    params = {"architecture": architecture, "solver": solver, "max_iter": 15}
    model = small(batch_size=64, n_members=2, **params).fit(X, Y)
    assert model.score(X, Y) > 0.15
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    assert model.n_iter_ == len(model.loss_curve_) == 15


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_pickle_predicts_the_same_without_a_gpu(tmp_path):
    model = small(device="auto").fit(X, Y)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    X.to_pickle(tmp_path / "X.pkl")
    code = (
        "import pickle, sys, numpy as np, pandas as pd\n"
        "model = pickle.load(open('model.pkl', 'rb'))\n"
        "np.save('predictions.npy', model.predict(pd.read_pickle('X.pkl')))\n"
    )
    environment = {
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | environment,
        check=True,
    )
    predictions = np.load(tmp_path / "predictions.npy")
    assert_allclose(predictions, model.predict(X), rtol=1e-9)


RECOMMENDERS = {
    "neumf": {},
    "gmf": {"architecture": "gmf"},
    "mlp": {"architecture": "mlp", "hidden_layer_sizes": (4, 3)},
    "log_loss": {"loss": "log_loss", "n_negatives": 0},
    "bpr": {"loss": "bpr"},
}


@pytest.fixture(
    scope="module", params=RECOMMENDERS.values(), ids=list(RECOMMENDERS.keys())
)
def fitted(request):
    y = CHOSEN if "loss" in request.param else Y
    return small(**request.param).fit(X, y)


@ARCHITECTURES
def test_recommend_scores_at_the_mean_of_further_columns(architecture, monkeypatch):
    monkeypatch.setattr(Weighting, "applied", lambda self, data: data)
    weight = np.random.default_rng(1).integers(1, 4, len(Y))
    model = small(architecture=architecture).fit(TIMED, Y + HOUR, weight)
    items, scores = model.recommend(n_items=2, exclude_seen=False, return_scores=True)
    asked = pd.DataFrame(
        {
            "user": np.repeat(model.user_ids_, 2),
            "item": items.ravel(),
            "hour": np.average(HOUR, weights=weight),
            "constant": 7.0,
        }
    )
    assert_allclose(scores.ravel(), model.predict(asked), rtol=1e-5)


@pytest.fixture(scope="module")
def blocks():
    """Even users like even items, odd users odd ones."""
    u, i = np.divmod(np.arange(24 * 20), 20)
    kept = np.random.default_rng(0).random(len(u)) < 0.6
    rows = pd.DataFrame({"user": u, "item": i})[kept]
    return rows, np.where(u % 2 == i % 2, 5.0, 1.0)[kept]


@ARCHITECTURES
def test_similar_items_and_users_are_of_the_same_block(architecture, blocks):
    model = small(architecture=architecture, max_iter=40, batch_size=64).fit(*blocks)
    for ids, similar in (
        (model.item_ids_, model.similar_items),
        (model.user_ids_, model.similar_users),
    ):
        found, scores = similar(ids, 3, return_scores=True)
        assert (found % 2 == ids[:, None] % 2).mean() > 0.9
        assert not (found == ids[:, None]).any()
        assert (np.diff(scores, axis=1) <= 1e-6).all()
        assert (np.abs(scores) < 1 + 1e-5).all()


def test_similar_items_compares_scores_about_their_means(fitted):
    scores = all_scores(fitted, fitted.user_ids_)
    if fitted.loss == "log_loss":
        scores = np.log(scores / (1 - scores))
    scores = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True)
    cosines = np.corrcoef(scores, rowvar=False)
    np.fill_diagonal(cosines, -np.inf)
    _, found = fitted.similar_items(fitted.item_ids_, 3, return_scores=True)
    assert_allclose(found, -np.sort(-cosines, axis=1)[:, :3], atol=2e-3)


SIGNAL = np.random.default_rng(2).uniform(-2, 2, len(Y))
EFFECTS = {"linear": 2 * SIGNAL, "square": 2 * SIGNAL**2}


@pytest.mark.parametrize(
    ("architecture", "effect"),
    [
        ("gmf", "linear"),
        ("neumf", "linear"),
        ("mlp", "linear"),
        ("neumf", "square"),
        ("mlp", "square"),
    ],
)
def test_further_columns_matter(architecture, effect):
    y = Y + EFFECTS[effect]
    train = np.arange(len(y)) % 5 > 0
    model = small(
        architecture=architecture,
        hidden_layer_sizes=(16,),
        n_members=2,
        batch_size=48,
        max_iter=12,
    )
    without, with_it = (
        root_mean_squared_error(
            y[~train],
            clone(model).fit(rows[train], y[train]).predict(rows[~train]),
        )
        for rows in (X, X.assign(signal=SIGNAL, constant=7.0))
    )
    assert with_it < 0.7 * without


def test_a_product_cannot_bend():
    y = Y + EFFECTS["square"]
    rows = X.assign(signal=SIGNAL)
    model = small(architecture="gmf").fit(rows, y)
    low, middle, high = (
        model.predict(rows.assign(signal=signal)) for signal in (-2, 0, 2)
    )
    assert_allclose(middle, (low + high) / 2, rtol=1e-6)


def test_an_unknown_id_of_gmf_gets_the_mean_of_all_users_or_items():
    model = small(architecture="gmf").fit(X, Y)
    scores = all_scores(model, model.user_ids_)
    unknown = all_scores(model, [-1])[0]
    assert_allclose(unknown, scores.mean(axis=0), rtol=1e-5)
    items = pd.DataFrame({"user": model.user_ids_, "item": -1})
    assert_allclose(model.predict(items), scores.mean(axis=1), rtol=1e-5)
    assert_allclose(model.predict(items.assign(user=-1)), scores.mean(), rtol=1e-5)


@pytest.mark.parametrize("architecture", ["neumf", "mlp"])
def test_an_unknown_id_gets_an_answer_in_the_middle(architecture):
    model = small(architecture=architecture, max_iter=15).fit(X, Y)
    scores = all_scores(model, model.user_ids_)
    distance = all_scores(model, [-1])[0] - scores.mean(axis=0)
    assert np.abs(distance).max() < scores.std(axis=0).min()
    items = pd.DataFrame({"user": model.user_ids_, "item": -1})
    distance = model.predict(items) - scores.mean(axis=1)
    assert np.abs(distance).max() < scores.std(axis=1).min()


def test_dropout_changes_the_fit():
    assert not np.allclose(
        small().fit(X, Y).predict(X), small(dropout=0.5).fit(X, Y).predict(X), 1e-3
    )


def test_the_first_member_is_the_fit_of_one_network():
    # Members share slopes in numbers, so there are none.
    ensemble, alone = small().fit(X, Y), small(n_members=1).fit(X, Y)
    first = by_hand(ensemble, X)[0]
    assert_allclose(alone.predict(X), first, rtol=1e-3)
    assert np.abs(by_hand(ensemble, X)[1] - first).max() > 0.05


@pytest.mark.parametrize("warm_start", [False, True])
def test_a_fit_does_not_go_on_with_another_activation(warm_start):
    model = small(warm_start=warm_start).fit(X, Y).set_params(activation="tanh")
    with pytest.raises(ValueError, match="activation"):
        (model.fit if warm_start else model.partial_fit)(X, Y)


def test_parameters_survive_clone_and_set_params():
    model = NCFRegressor(
        5, [8, 4], architecture="mlp", activation="tanh", dropout=0.1, n_members=3
    )
    params = model.get_params()
    assert params["hidden_layer_sizes"] == [8, 4]
    assert clone(model).get_params() == params
    assert NCFRegressor().set_params(**params).get_params() == params


def test_a_search_over_a_pipeline_ends_with_a_fit_of_the_best():
    pipe = make_pipeline(FunctionTransformer(), small())
    name = "ncfregressor__n_factors"
    search = GridSearchCV(pipe, {name: [1, 4]}, cv=KFold(2)).fit(TIMED, Y)
    best = small(n_factors=search.best_params_[name]).fit(TIMED, Y)
    assert_array_equal(search.predict(TIMED), best.predict(TIMED))


def test_cross_validation_scores_the_held_out_rows():
    folds = KFold(2, shuffle=True, random_state=0)
    expected = [
        small().fit(X.iloc[train], Y[train]).score(X.iloc[test], Y[test])
        for train, test in folds.split(X)
    ]
    assert_allclose(cross_val_score(small(), X, Y, cv=folds), expected)


@pytest.fixture(scope="module")
def real_model(ml_100k_fold):
    return NCFRegressor(n_members=2, max_iter=6, random_state=0).fit(*ml_100k_fold[:2])


class TestMovieLens100K:
    def test_tastes_predict_better_than_biases(self, real_model, ml_100k_fold):
        biases = MFRegressor(n_factors=0).fit(*ml_100k_fold[:2])
        error, error_of_biases = (
            root_mean_squared_error(ml_100k_fold[3], model.predict(ml_100k_fold[2]))
            for model in (real_model, biases)
        )
        assert error < error_of_biases - 0.02

    def test_sequels_are_alike(self, real_model):
        star_wars, empire, jedi = 50, 172, 181
        similar = real_model.similar_items([star_wars], n_items=5)[0]
        assert {empire, jedi} <= set(similar)

    def test_recommendations_are_new_to_the_user(self, real_model, ml_100k_fold):
        frame = real_model.recommend(n_items=10, as_frame=True)
        assert len(frame) == 10 * len(real_model.user_ids_)
        assert frame.merge(ml_100k_fold[0], on=["user", "item"]).empty


def test_a_fit_answers_alike_on_every_device(gpu):
    model = small(device=gpu).fit(TIMED, Y)
    answers = [
        model.set_params(device=where).predict(TIMED, return_std=True)
        for where in ("cpu", gpu)
    ]
    for on_cpu, on_cuda in zip(*answers, strict=True):
        assert_allclose(on_cuda, on_cpu, rtol=1e-5)
    scores = [
        model.set_params(device=where).recommend(n_items=3, return_scores=True)[1]
        for where in ("cpu", gpu)
    ]
    assert_allclose(*scores, rtol=1e-4)
