"""Every solver, loss and architecture at its defaults: no choice of them collapses."""

import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.metrics import (
    log_loss,
    mean_absolute_error,
    root_mean_squared_error,
)
from sklearn.model_selection import train_test_split

from skrec import MFRegressor, NCFRegressor
from skrec.datasets import fetch_movielens, make_ratings

# What they run is covered by the tests of its parts.
pytestmark = pytest.mark.no_cover

RATING_LOSSES = "squared_error", "absolute_error", "huber"
CHOICE_LOSSES = "log_loss", "bpr", *RATING_LOSSES
SOLVERS = "adam", "sgd"
ARCHITECTURES = "gmf", "neumf", "mlp"
K = 10

MODELS = {
    f"MFRegressor, {solver}": partial(MFRegressor, solver=solver, random_state=0)
    for solver in SOLVERS
}
# One member is less than the mean of eight, and takes an eighth of the time.
MODELS |= {
    f"{architecture}, {solver}": partial(
        NCFRegressor,
        architecture=architecture,
        solver=solver,
        n_members=1,
        random_state=0,
    )
    for architecture in ARCHITECTURES
    for solver in SOLVERS
}


def by_turns(losses):
    """Estimators and losses: a network has the solvers by turns.

    Each loss meets each architecture and each solver, and each architecture meets each
    solver.
    """
    n_solvers = len(SOLVERS)
    return [
        pytest.param(make, loss, id=f"{name}-{loss}")
        for turn, loss in enumerate(losses)
        for number, (name, make) in enumerate(MODELS.items())
        if number < n_solvers or (number // n_solvers + number + turn) % n_solvers == 0
    ]


def split(X, y):
    """Training and test rows, and what biases alone predict for the latter."""
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.2, random_state=0)
    return X, y, X_test, y_test, MFRegressor(0).fit(X, y).predict(X_test)


@pytest.fixture(scope="module")
def synthetic():
    return split(*make_ratings(400, 300, 20000, random_state=0))


@pytest.fixture(scope="module")
def some_of_ml_100k(ml_100k):
    X, y = ml_100k
    some = (X["user"] % 3 == 0).to_numpy()
    return X[some], y[some]


@pytest.fixture(scope="module")
def real(some_of_ml_100k):
    return split(*some_of_ml_100k)


def assert_no_worse_than_biases(model, data, loss):
    X, y, X_test, y_test, of_biases = data
    predicted = model.fit(X, y).predict(X_test)
    metric = root_mean_squared_error
    if loss == "absolute_error":
        metric = mean_absolute_error
    assert metric(y_test, predicted) < 1.01 * metric(y_test, of_biases)


@pytest.mark.parametrize(("make", "loss"), by_turns(RATING_LOSSES))
def test_ratings_are_predicted_no_worse_than_by_biases(make, loss, real):
    assert_no_worse_than_biases(make(loss=loss, rank_by="rating"), real, loss)


@pytest.mark.parametrize(("make", "loss"), by_turns(RATING_LOSSES[:1]))
def test_synthetic_ratings_are_predicted_no_worse_than_by_biases(make, loss, synthetic):
    assert_no_worse_than_biases(make(loss=loss, rank_by="rating"), synthetic, loss)


@pytest.mark.parametrize(
    "name", ["MFRegressor, adam", "MFRegressor, sgd", "neumf, adam"]
)
def test_labels_are_predicted_no_worse_than_by_biases(name, real):
    X, y, X_test, y_test, _ = real
    liked, liked_test = (y >= 4).astype(float), y_test >= 4
    of_biases, labels = MFRegressor(0), MODELS[name](loss="log_loss", n_negatives=0)
    expected, found = (
        log_loss(liked_test, np.clip(m.fit(X, liked).predict(X_test), 1e-3, 1 - 1e-3))
        for m in (of_biases, labels)
    )
    assert found < expected


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("loss", ["absolute_error", "huber"])
def test_gross_outliers_cost_little(loss, biased):
    X, y = make_ratings(150, 80, 3000, random_state=0)
    X, X_test, y, y_test = train_test_split(X, y, random_state=0)
    wrong = np.where(np.arange(len(y)) % 100 == 0, 1e4 * y, y)
    model = MFRegressor(solver="adam", loss=loss, biased=biased, random_state=0)
    model.set_params(rank_by="rating")
    of_clean, of_wrong = (
        mean_absolute_error(y_test, model.fit(X, rated).predict(X_test))
        for rated in (y, wrong)
    )
    assert of_wrong < 1.05 * of_clean


@pytest.mark.parametrize("data", ["synthetic", "real"])
@pytest.mark.parametrize("solver", ["vb", "gibbs", "als"])
def test_alternating_solvers_predict_better_than_biases(solver, data, request):
    model = MFRegressor(solver=solver, random_state=0)
    if solver == "gibbs":
        model.set_params(max_iter=20)
    assert_no_worse_than_biases(model, request.getfixturevalue(data), "squared_error")


@pytest.fixture(scope="module")
def choices(some_of_ml_100k):
    """Films that users liked, some held out, and NDCG of what most users liked."""
    X, y = some_of_ml_100k
    some = (y >= 4) & (X["user"] % 12 < 9)
    X, X_test = train_test_split(X[some], test_size=0.2, random_state=0)
    count = X["item"].value_counts()
    return X, X_test, ndcg(X, X_test, lambda user: count.index)


def ndcg(X, X_test, ranked):
    """Mean NDCG of the first items of users that they have not chosen in training."""
    seen = X.groupby("user")["item"].agg(set)
    held_out = X_test.groupby("user")["item"].agg(set)
    discount = 1 / np.log2(np.arange(K) + 2)
    found = []
    for user in seen.index.intersection(held_out.index):
        items = [item for item in ranked(user) if item not in seen[user]][:K]
        gain = np.isin(items, list(held_out[user])) @ discount
        found.append(gain / discount[: len(held_out[user])].sum())
    return np.mean(found)


def assert_lists_are_personal(model, choices, at_least=1.3):
    X, X_test, of_popular = choices
    model.fit(X, np.ones(len(X)))
    lists = model.recommend(n_items=K)
    ranked = dict(zip(model.user_ids_, lists.tolist(), strict=True))
    assert ndcg(X, X_test, ranked.get) > at_least * of_popular
    assert len({tuple(items) for items in lists.tolist()}) > 0.9 * len(lists)


@pytest.mark.parametrize(("make", "loss"), by_turns(CHOICE_LOSSES))
def test_lists_of_choices_are_better_than_the_popular(make, loss, choices):
    # The median of what is drawn beside a choice is that nothing is chosen.
    at_least = 0.9 if loss == "absolute_error" else 1.3
    model = make(loss=loss, n_negatives=4)
    if isinstance(model, NCFRegressor):
        model.set_params(n_members=2)
    assert_lists_are_personal(model, choices, at_least)


@pytest.mark.parametrize("weight", [0.01, 0.1, 1.0])
def test_lists_of_als_are_better_than_the_popular(weight, choices):
    model = MFRegressor(solver="als", unobserved_weight=weight)
    assert_lists_are_personal(model, choices)


@pytest.mark.parametrize("weight", [0.01, 0.1, 1.0])
def test_als_tells_users_of_few_choices_apart(weight, ml_100k):
    X, y = ml_100k
    few = X[y >= 4].sample(frac=1, random_state=0).groupby("user").head(3)
    model = MFRegressor(solver="als", unobserved_weight=weight).fit(few)
    lists = model.recommend(n_items=K)
    assert len({tuple(items) for items in lists.tolist()}) > 0.9 * len(lists)


def lopsided(seed):
    """Rows of random shape: few, of one user or item, popular beyond measure."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 2, 50, 500]))
    n_users, n_items = rng.choice([1, 3, 30, 500], 2)
    u, i = (
        (size * rng.random(n) ** rng.choice([1, 6])).astype(int)
        for size in (n_users, n_items)
    )
    y = rng.normal(size=n) * 10.0 ** rng.integers(-3, 6)
    if rng.random() < 0.5:
        y[0] *= 100
    weight = 10 ** rng.uniform(-6, 6, n) if rng.random() < 0.5 else np.ones(n)
    return pd.DataFrame({"user": u, "item": i}), y, weight


@pytest.mark.parametrize("seed", range(10))
def test_sgd_never_diverges(seed):
    X, y, weight = lopsided(seed)
    models = [MFRegressor(solver="sgd", clip=False, random_state=0)]
    if seed % 2:
        # Ten times as slow.
        network = NCFRegressor(solver="sgd", n_members=1, clip=False, random_state=0)
        models.append(network)
    for model in models:
        predicted = model.fit(X, y, weight).predict(X)
        assert np.abs(predicted - y.mean()).max() < 10 * (np.ptp(y) + 1e-9)
        model.set_params(loss="bpr").fit(X, np.ones(len(X)), weight)
        assert np.isfinite(model.predict(X)).all()


@pytest.mark.parametrize("reg", [1e-6, 1e5])
def test_sgd_takes_any_penalty(reg, synthetic):
    X, y, X_test, y_test, _ = synthetic
    predicted = MFRegressor(solver="sgd", reg=reg, random_state=0).fit(X, y)
    assert root_mean_squared_error(y_test, predicted.predict(X_test)) < 1.3 * y.std()


EQUAL = "All 100 ratings in y are 0.1.*unobserved_weight.*log_loss.*bpr"


@pytest.mark.parametrize(
    "model",
    [
        MFRegressor(),
        MFRegressor(solver="als"),
        MFRegressor(solver="adam", random_state=0),
        NCFRegressor(n_members=2, max_iter=2, random_state=0),
    ],
)
def test_equal_ratings_are_said_to_rank_nothing(model):
    X = pd.DataFrame({"user": np.arange(100) % 9, "item": np.arange(100) % 20})
    y = np.full(100, 0.1)
    with pytest.warns(UserWarning, match=EQUAL):
        model.set_params(rank_by="rating").fit(X, y)
    # Ties go to the candidate that comes first.
    lists = model.recommend(n_items=20, exclude_seen=False)
    assert_array_equal(lists, np.tile(np.arange(20), (9, 1)))


@pytest.mark.parametrize(
    "model",
    [
        MFRegressor(solver="als", unobserved_weight=0.1),
        MFRegressor(solver="adam", loss="bpr", max_iter=1),
        NCFRegressor(loss="log_loss", n_members=2, max_iter=1),
        NCFRegressor(n_negatives=2, n_members=2, max_iter=1),
        MFRegressor(),
        MFRegressor(solver="als", rank_by="choice"),
        NCFRegressor(n_members=2, max_iter=1),
    ],
)
def test_choices_are_meant_to_be_equal(model):
    X = pd.DataFrame({"user": np.arange(100) % 9, "item": np.arange(100) % 20})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, np.ones(100))
        MFRegressor(2).fit(X[:1], [1.0])


def effect(model, seed=0):
    """Slope of the predictions of cold items over a flag that adds one."""
    X, y = make_ratings(300, 200, 12000, random_state=seed)
    rng = np.random.default_rng(seed)
    flag = rng.integers(2, size=200)
    cold = rng.permutation(200)[:40]
    y = y + flag[X["item"]]
    known = ~X["item"].isin(cold).to_numpy()
    model.fit(X[known], y[known], item_features=pd.DataFrame({"flag": flag}))
    pairs = pd.DataFrame(
        {"user": np.repeat(np.arange(300), 40), "item": np.tile(cold, 300)}
    )
    mean = model.predict(pairs).reshape(300, 40).mean(0)
    return np.polyfit(flag[cold], mean, 1)[0]


DESCRIBED = [
    pytest.param(partial(MFRegressor, solver="als"), "squared_error", id="als"),
    pytest.param(
        partial(MFRegressor, solver="gibbs", max_iter=20, random_state=0),
        "squared_error",
        id="gibbs",
    ),
    *by_turns(RATING_LOSSES[:1]),
]


@pytest.fixture(scope="module")
def effects_of_vb():
    return [effect(MFRegressor(clip=False), seed) for seed in range(2)]


@pytest.mark.parametrize(("make", "loss"), DESCRIBED)
def test_cold_items_show_the_whole_effect_of_a_feature(make, loss, effects_of_vb):
    """On average of two draws of items, which differ by chance themselves."""
    assert 0.9 < np.mean(effects_of_vb) < 1.1
    model = make(loss=loss, clip=False)
    found = [effect(model, seed) for seed in range(2)]
    assert 0.9 < np.mean(found) < 1.1
    np.testing.assert_allclose(found, effects_of_vb, atol=0.12)


def test_genres_harm_no_prediction_of_als(ml_100k, ml_100k_archive):
    X, X_test, y, y_test = train_test_split(*ml_100k, test_size=0.2, random_state=0)
    ratings = fetch_movielens("100k", archive=ml_100k_archive)
    genres = ratings.movies[list(ratings.genre_names)]
    plain = MFRegressor(solver="als").fit(X, y)
    told = MFRegressor(solver="als").fit(X, y, item_features=genres)
    errors = [root_mean_squared_error(y_test, m.predict(X_test)) for m in (plain, told)]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("make", [MODELS["MFRegressor, adam"], MODELS["neumf, adam"]])
def test_wide_features_harm_no_prediction(make, real):
    X, y, X_test, y_test, _ = real
    n_users, n_items = X.max()[["user", "item"]] + 1
    pairs = sparse.csr_array(
        (np.ones(len(X)), (X["user"], X["item"])), shape=(n_users, n_items)
    )
    users = make_square(pairs, X_test["user"].max() + 1)
    items = make_square(sparse.csr_array(pairs.T), X_test["item"].max() + 1)
    plain, told = make(), make()
    plain.fit(X, y)
    told.fit(X, y, user_features=users, item_features=items)
    errors = [root_mean_squared_error(y_test, m.predict(X_test)) for m in (plain, told)]
    assert errors[1] < 1.01 * errors[0]


def make_square(matrix, n_rows):
    """The matrix with rows of zeros for ids up to `n_rows`."""
    more = max(n_rows - matrix.shape[0], 0)
    return sparse.csr_array(
        sparse.vstack([matrix, sparse.csr_array((more, matrix.shape[1]))])
    )


def test_lists_that_are_the_same_for_all_are_warned_of():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"user": np.repeat(np.arange(200), 3)})
    X["item"] = (100 * rng.random(600) ** 3).astype(int)
    with pytest.warns(UserWarning, match="No factor is left.*solver='als'"):
        MFRegressor(unobserved_weight=0.1).fit(X)


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        (MFRegressor(64, solver="als"), None, "n_factors=64, solver='als'"),
        (NCFRegressor(hidden_layer_sizes=(4,)), None, r"hidden_layer_sizes=\(4,\)"),
        (MFRegressor(), np.arange(1.0, 5.0), "whatever its sample_weight"),
    ],
)
def test_settings_that_mean_nothing_without_y_are_named(model, weights, words):
    X = [["ann", 1], ["ann", 2], ["bob", 1], ["cleo", 3]]
    with pytest.warns(UserWarning, match=words):
        model.fit(X, sample_weight=weights)


@pytest.mark.parametrize(
    "model", [MFRegressor(random_state=0), NCFRegressor(clip=False)]
)
def test_other_settings_mean_something_without_y(model):
    model.fit([[0, 1], [0, 2], [0, 1], [1, 1]], sample_weight=[3.0, 3.0, 3.0, 0.0])


def test_als_without_biases_predicts_better_than_the_mean(synthetic):
    X, y, X_test, y_test, of_biases = synthetic
    predicted = MFRegressor(solver="als", biased=False).fit(X, y).predict(X_test)
    error = root_mean_squared_error(y_test, predicted)
    assert error < 1.05 * root_mean_squared_error(y_test, of_biases)
