"""The contract of all estimators and solvers, on ratings and on choices."""

import copy
import functools
import itertools
import re
from dataclasses import replace
from io import BytesIO

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers import (
    NEEDS_CALLBACKS,
    Callback,
    Recording,
    all_scores,
    copied,
    default_threads,
    fitted_state,
    rated_rows,
    small_ncf,
    unconverged,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import KFold, learning_curve

from skrec import MFRegressor, NCFRegressor
from skrec._data.seen import SeenItems
from skrec.datasets import make_ratings

pytestmark = [
    # What they run is covered by the tests of its parts.
    pytest.mark.no_cover,
    pytest.mark.usefixtures("short_chains"),
    # Random ratings may all be equal, and few choices leave "vb" no factor.
    pytest.mark.filterwarnings("ignore:All .* ratings in y are"),
    pytest.mark.filterwarnings("ignore:No factor is left"),
    pytest.mark.filterwarnings("ignore:A fit without y is of choices"),
    pytest.mark.filterwarnings("ignore:Without y each pair counts once"),
    # Choices alone leave the numbers of rows out.
    pytest.mark.filterwarnings("ignore:Columns of numbers in X"),
]

N_USERS, N_ITEMS = 30, 20
X, Y = make_ratings(N_USERS, N_ITEMS, 300, random_state=0)
FURTHER = pd.DataFrame({"user": [0, 1, 99, 99, 3], "item": [3, 5, 7, 2, 77]})
FURTHER_Y = np.array([5.0, 4.0, 1.0, 5.0, 3.0])

small = functools.partial(
    MFRegressor,
    3,
    max_iter=3,
    tol=1e9,
    batch_size=100,
    clip=False,
    rank_by="rating",
    random_state=0,
)
network = functools.partial(small_ncf, clip=False, rank_by="rating")
RATINGS = {
    "vb": small(solver="vb"),
    "vb, plain": small(solver="vb", biased=False),
    "gibbs": small(solver="gibbs"),
    "als": small(solver="als", reg=1.0),
    "als, implicit features": small(solver="als", implicit_features=True),
    "adam": small(solver="adam"),
    "sgd, early stopping": small(solver="sgd", early_stopping=True),
    "neumf": network(architecture="neumf", dropout=0.2),
    "gmf, early stopping": network(architecture="gmf", early_stopping=True),
    "mlp": network(architecture="mlp", hidden_layer_sizes=(4, 3)),
}
CHOICES = {
    "vb, choices": small(solver="vb", unobserved_weight=0.2),
    "gibbs, choices": small(solver="gibbs", unobserved_weight=0.2),
    "als, choices": small(solver="als", unobserved_weight=0.2),
    "adam, bpr": small(solver="adam", loss="bpr"),
    "sgd, log_loss": small(solver="sgd", loss="log_loss"),
    "neumf, log_loss": network(loss="log_loss"),
    "gmf, drawn items": network(architecture="gmf", n_negatives=2),
    "mlp, bpr": network(architecture="mlp", loss="bpr", dropout=0.2),
}
# Models of ratings whose lists are by choices too.
BY_CHOICES = {
    "vb, by both": small(solver="vb", rank_by="both"),
    "vb, by choice": small(solver="vb", rank_by="choice"),
    "gibbs, by both": small(solver="gibbs", rank_by="both"),
    "als, by both": small(solver="als", rank_by="both"),
    "adam, by both": small(solver="adam", rank_by="both"),
    "neumf, by both": network(architecture="neumf", rank_by="both"),
}
# Choices without y and without a loss for them.
ALONE = {
    "alone": small(rank_by="both"),
    "alone, of a network": network(rank_by="choice"),
}
BY_PREDICTIONS = RATINGS | CHOICES | ALONE
MODELS = BY_PREDICTIONS | BY_CHOICES
HAS_NO_STD = ("als", "adam", "sgd", "alone")
# A chain of draws has no partial_fit.
UPDATED = [name for name in MODELS if not name.startswith("gibbs")]
EVERY = pytest.mark.parametrize("name", MODELS)
OF_RATINGS = pytest.mark.parametrize("name", RATINGS)
EVERY_UPDATED = pytest.mark.parametrize("name", UPDATED)


def by_turns(argument, **values):
    """Every estimator with one of the values, of which no solver knows."""
    params = [
        pytest.param(name, values[key], id=f"{name}-{key}")
        for name, key in zip(MODELS, itertools.cycle(values), strict=False)
    ]
    return pytest.mark.parametrize(("name", argument), params)


def unfitted(name, **params):
    return clone(MODELS[name]).set_params(**params)


def target(name, y):
    """Ratings, or none where rows are choices."""
    return None if name in CHOICES or name in ALONE else y


@functools.cache
def _fitted(name):
    return unfitted(name).fit(X, target(name, Y))


def fitted(name):
    return copied(_fitted(name))


def settled(name, **params):
    """Unfitted still, with as many sweeps as it takes."""
    if isinstance(MODELS[name], MFRegressor):
        params |= {"max_iter": 10 if name.startswith("gibbs") else 50, "tol": None}
    return unfitted(name, **params)


def is_random(name):
    return not name.startswith(("vb", "als", "alone"))


@EVERY
def test_answers_are_finite_and_of_the_documented_shapes(name):
    model = fitted(name)
    predicted = model.predict(X)
    assert predicted.shape == (len(X),)
    assert predicted.dtype == np.float64
    assert np.isfinite(predicted).all()
    assert_array_equal(model.user_ids_, np.unique(X["user"]))
    assert_array_equal(model.item_ids_, np.unique(X["item"]))
    assert model.n_features_in_ == 2
    assert model.feature_names_in_.tolist() == ["user", "item"]
    assert model.n_iter_ == len(model.loss_curve_) > 0
    assert np.isfinite(model.loss_curve_).all()
    lists, scores = model.recommend([3, 5], 4, exclude_seen=False, return_scores=True)
    assert lists.shape == scores.shape == (2, 4)
    assert lists.dtype == model.item_ids_.dtype
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    similar, cosines = model.similar_users([3, 5], 4, return_scores=True)
    assert similar.shape == cosines.shape == (2, 4)
    assert (np.abs(cosines) <= 1).all()


@EVERY
def test_standard_deviations_are_positive_or_refused(name):
    model = fitted(name)
    if name.startswith(HAS_NO_STD):
        with pytest.raises(ValueError, match="return_std=True needs"):
            model.predict(X, return_std=True)
        return
    mean, std = model.predict(X, return_std=True)
    assert_array_equal(mean, model.predict(X))
    assert std.shape == (len(X),)
    assert std.dtype == np.float64
    assert (std > 0).all()
    assert np.isfinite(std).all()


@EVERY
def test_an_estimator_that_is_not_fitted_says_so(name):
    model = unfitted(name)
    arguments = {"score": (X, Y), "explain": (3, [4]), "factors_frame": ("user",)}
    without = {"feature_effects", "feature_interactions", "item_index_vectors"}
    others = {"fit", "partial_fit", "from_factors", "set_callbacks"}
    methods = [
        m for m in dir(model) if m[0] != "_" and callable(getattr(model, m, None))
    ]
    asked = [m for m in methods if m not in others and "_params" not in m]
    asked = [m for m in asked if "_request" not in m and "_routing" not in m]
    assert len(asked) >= 11
    for method in asked:
        given = () if method in without else arguments.get(method, (X,))
        with pytest.raises(NotFittedError):
            getattr(model, method)(*given)
    assert not hasattr(model, "user_ids_")


@EVERY
def test_predictions_are_clipped_to_the_range_of_ratings(name):
    model = fitted(name)
    wide, (low, high) = model.predict(X), model.rating_range_
    if name in RATINGS or name in BY_CHOICES:
        assert (low, high) == (Y.min(), Y.max())
    elif "bpr" not in name and name not in ALONE:
        assert (low, high) == (0, 1)
    low, high = np.quantile(wide, [0.2, 0.8])
    model._model = replace(model._model, rating_range=(low, high))
    model.set_params(clip=True)
    assert_array_equal(model.predict(X), wide.clip(low, high))


@EVERY
def test_unknown_ids_are_answered_warned_of_or_refused(name):
    model = fitted(name)
    asked = pd.DataFrame({"user": [-1, 3, -1, 3], "item": [4, -1, -2, 4]})
    predicted = model.predict(asked)
    assert np.isfinite(predicted).all()
    # Nothing is known of either unknown user.
    again = model.predict(asked.assign(user=[-7, 3, -8, 3]))
    assert_array_equal(again, predicted)
    lists = model.recommend([-1, -2], N_ITEMS)
    assert_array_equal(np.sort(lists[0]), model.item_ids_)
    assert_array_equal(lists[0], lists[1])
    model.set_params(handle_unknown="warn")
    match = r"users in 2 of 4 rows.*-1\b.*items in 2 of 4 rows, such as -1\b"
    with pytest.warns(UserWarning, match=match):
        assert_array_equal(model.predict(asked), predicted)
    with pytest.warns(UserWarning, match=r"unknown users in 1 of 2 rows.*-1\b"):
        model.recommend([-1, 3], 1)
    model.set_params(handle_unknown="error")
    with pytest.raises(ValueError, match=match):
        model.predict(asked)
    with pytest.raises(TypeError, match=r"users.*'string'.*fitted on.*'number'"):
        model.predict(asked.assign(user="ann"))


def answers(model, rows):
    """Predictions, and scores of lists of all items."""
    lists = model.recommend(n_items=4, exclude_seen=False, return_scores=True)
    return model.predict(rows), *lists


def stopping_early(name, rows):
    """Unfitted, with rows held out as far as there are two to choose from."""
    return unfitted(name, early_stopping=len(np.unique(rows, axis=0)) > 1)


@EVERY
@given(rows=rated_rows(min_weight=1), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5)
def test_the_order_of_rows_does_not_matter(name, rows, seed):
    rows, rating, weight = rows
    order = np.random.default_rng(seed).permutation(len(rows))
    y = target(name, rating)
    model = stopping_early(name, rows)
    expected = answers(model.fit(rows, y, weight), rows)
    y = None if y is None else y[order]
    found = answers(model.fit(rows[order], y, weight[order]), rows)
    for ours, theirs in zip(found, expected, strict=True):
        assert_array_equal(ours, theirs)


@EVERY
@given(rows=rated_rows())
@settings(max_examples=5)
def test_a_whole_weight_is_the_row_so_many_times(name, rows):
    rows, rating, weight = rows
    y, times = target(name, rating), weight.astype(int)
    model = stopping_early(name, rows[weight > 0])
    expected = answers(model.fit(rows, y, weight), rows)
    y = None if y is None else np.repeat(y, times)
    found = answers(model.fit(np.repeat(rows, times, axis=0), y), rows)
    for ours, theirs in zip(found, expected, strict=True):
        assert_array_equal(ours, theirs)


@EVERY
def test_weights_matter_and_their_common_factor_does_not(name):
    y, weight = target(name, Y), 1.0 + 4 * (np.arange(len(Y)) % 3 == 0)
    plain = fitted(name).predict(X)
    weighted = unfitted(name).fit(X, y, weight).predict(X)
    # A choice is made or not.
    assert (np.abs(weighted - plain).max() > 1e-4) == (name not in ALONE)
    for factor in (10.0, 1e-7):
        same = unfitted(name).fit(X, y, np.full(len(X), factor)).predict(X)
        assert_allclose(same, plain, atol=1e-4)


def through_joblib(model):
    file = BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


@by_turns("copied", pickle=copied, joblib=through_joblib, deepcopy=copy.deepcopy)
def test_a_copy_answers_as_the_original_and_holds_nothing_of_torch(name, copied):
    # A pickle shows which objects are one, and a copy has some that were two.
    model = fitted(name)
    twin = copied(model)
    assert b"torch" not in b"".join(fitted_state(model).values())
    assert fitted_state(twin) == fitted_state(model)
    assert_array_equal(twin.predict(X), model.predict(X))
    lists = twin.recommend(n_items=3, return_scores=True)
    assert_array_equal(lists, model.recommend(n_items=3, return_scores=True))
    assert_array_equal(twin.similar_items([1], 3), model.similar_items([1], 3))
    if name in UPDATED:
        for each in (twin, model):
            each.partial_fit(FURTHER, target(name, FURTHER_Y))
        assert fitted_state(twin) == fitted_state(model)
        assert b"torch" not in b"".join(fitted_state(model).values())


@EVERY
def test_a_clone_is_unfitted_and_fits_the_same(name):
    model = _fitted(name)
    twin = clone(model)
    assert twin.get_params() == model.get_params()
    assert not fitted_state(twin)
    with pytest.raises(NotFittedError):
        twin.predict(X)
    twin.fit(X, target(name, Y))
    assert_array_equal(twin.predict(X), model.predict(X))


@EVERY
def test_only_the_seed_is_random(name):
    y = target(name, Y)
    first, again, other = (
        unfitted(name, random_state=seed).fit(X, y).predict(X)
        for seed in (1, np.random.RandomState(1), 2)
    )
    assert_array_equal(first, again)
    assert is_random(name) == (np.abs(first - other).max() > 1e-4)
    if not is_random(name):
        fits = [unfitted(name, random_state=None).fit(X, y) for _ in range(2)]
        assert_array_equal(*(model.predict(X) for model in fits))


@by_turns(
    "container",
    array=pd.DataFrame.to_numpy,
    list=lambda frame: frame.to_numpy().tolist(),
    polars=pl.DataFrame,
    categories=lambda frame: frame.astype("category"),
)
def test_the_container_does_not_matter(name, container):
    model = unfitted(name).fit(container(X), target(name, Y))
    assert_array_equal(model.predict(container(X)), _fitted(name).predict(X))
    assert_array_equal(model.user_ids_, _fitted(name).user_ids_)
    lists = model.recommend([3, 5], 3)
    assert_array_equal(lists, _fitted(name).recommend([3, 5], 3))


@EVERY
@default_threads(2)
def test_seeds_threads_and_modes_are_left_alone(name):
    def state():
        return (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
        )

    before = state()
    model = unfitted(name).fit(X, target(name, Y))
    model.predict(X)
    model.recommend(n_items=2)
    if name in UPDATED:
        model.partial_fit(FURTHER, target(name, FURTHER_Y))
    assert state() == before


def allowed_scores(model):
    """Predictions of all pairs, -inf where they are rows of X."""
    scores = all_scores(model, model.user_ids_)
    users = np.searchsorted(model.user_ids_, X["user"])
    scores[users, np.searchsorted(model.item_ids_, X["item"])] = -np.inf
    return scores


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("name", BY_PREDICTIONS)
def test_recommend_is_the_order_of_predict_without_seen_items(name, tiled, monkeypatch):
    if tiled:
        monkeypatch.setattr("skrec._gradient.fitted.TILE_SIZE", 500)
        monkeypatch.setattr("skrec._topk.TILE_BYTES", 2000)
        monkeypatch.setattr("skrec._topk.MAX_TILE_COLUMNS", 7)
    model = _fitted(name)
    scores, tolerance = allowed_scores(model), {"rtol": 1e-5, "atol": 1e-6}
    frame = model.recommend(n_items=N_ITEMS, as_frame=True)
    best = -np.sort(-scores, axis=1)
    assert_allclose(frame["score"], best[best > -np.inf], **tolerance)
    users = np.searchsorted(model.user_ids_, frame["user"])
    items = np.searchsorted(model.item_ids_, frame["item"])
    assert_allclose(frame["score"], scores[users, items], **tolerance)


@EVERY
def test_recommend_chooses_among_candidates_for_any_users(name):
    model = _fitted(name)
    users, candidates = np.array([7, 3]), np.array([15, 3, 17, 8])
    lists, scores = model.recommend(
        users, 4, candidates=candidates, exclude_seen=False, return_scores=True
    )
    places = np.searchsorted(model.item_ids_, lists)
    if name in BY_PREDICTIONS:
        every = all_scores(model, users)
    else:
        items, every = model.recommend(
            users, N_ITEMS, exclude_seen=False, return_scores=True
        )
        every = np.take_along_axis(every, np.argsort(items, axis=1), axis=1)
    expected = np.take_along_axis(every, places, axis=1)
    assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (np.sort(lists, axis=1) == np.sort(candidates)).all()


@EVERY
def test_ties_go_to_the_candidate_that_comes_first(name):
    asked = [-5, 17, -5, -9, 17, 4]
    model = _fitted(name)
    lists, scores = model.recommend(
        [3, -1], 6, candidates=asked, exclude_seen=False, return_scores=True
    )
    assert_array_equal(np.sort(lists[:, :4].astype(int)), [[-9, -5, 4, 17]] * 2)
    assert pd.isna(lists[:, 4:]).all()
    for user, row, values in zip([3, -1], lists, scores, strict=True):
        row = row[:4].tolist()
        # Nothing is known of either.
        assert values[row.index(-5)] == values[row.index(-9)]
        assert row.index(-5) < row.index(-9)
        # The others predict more of an unknown item, because it has a rating.
        if name in BY_PREDICTIONS and not name.startswith(("vb", "gibbs", "als")):
            predicted = model.predict(pd.DataFrame({"user": user, "item": row}))
            assert_allclose(values[:4], predicted, rtol=1e-4, atol=1e-4)


@EVERY
def test_a_frame_of_lists_holds_the_arrays(name):
    model = _fitted(name)
    users = model.user_ids_[[4, 1]]
    lists, scores = model.recommend(users, 3, return_scores=True)
    frame = model.recommend(users, 3, as_frame=True)
    assert frame.columns.tolist() == ["user", "item", "rank", "score"]
    assert_array_equal(frame["user"], np.repeat(users, 3))
    assert_array_equal(frame["item"], lists.ravel())
    assert_array_equal(frame["rank"], [1, 2, 3, 1, 2, 3])
    assert_array_equal(frame["score"], scores.ravel())


@EVERY
def test_a_warm_start_goes_on_with_rows_known_by_their_ids(name):
    y = target(name, Y)
    early = (X["user"] % 5 > 0).to_numpy()
    model = unfitted(name, warm_start=True).fit(X[early], target(name, Y[early]))
    users, curve = model.user_ids_, model.loss_curve_
    model.fit(X, y)
    assert_array_equal(model.user_ids_, _fitted(name).user_ids_)
    assert np.isfinite(model.predict(X)).all()
    model.fit(X[early], target(name, Y[early]))
    assert_array_equal(model.user_ids_, users)
    # The objective of a draw, or over drawn items, is itself random.
    if (name in RATINGS or name in BY_CHOICES) and not name.startswith("gibbs"):
        assert model.loss_curve_[0] < curve[0]
    if name in ALONE:
        # Its fit is a closed form, that starts from nothing.
        assert_array_equal(model.fit(X).predict(X), _fitted(name).predict(X))
        return
    with pytest.raises(TypeError, match=r"users.*'string'.*fitted on.*'number'"):
        model.fit(X.astype(str), y)
    size = {"hidden_layer_sizes": (5,)} if "mlp" in name else {"n_factors": 5}
    with pytest.raises(ValueError, match=next(iter(size))):
        model.set_params(**size).fit(X, y)


@EVERY
def test_verbose_prints_each_iteration_with_its_objective(name, capsys):
    model = unfitted(name).fit(X, target(name, Y))
    assert capsys.readouterr() == ("", "")
    model.set_params(verbose=1).fit(X, target(name, Y))
    lines = capsys.readouterr().out.splitlines()
    max_iter = 1 if name in ALONE else model.max_iter
    pattern = re.compile(
        rf"\[{type(model).__name__}\] iteration (\d+) of at most {max_iter}: "
        r"objective ([-.\d]+), .*"
    )
    for n, (line, loss) in enumerate(zip(lines, model.loss_curve_, strict=True), 1):
        match = pattern.fullmatch(line)
        assert int(match[1]) == n
        assert float(match[2]) == pytest.approx(loss, abs=1e-6)


@NEEDS_CALLBACKS
@EVERY
def test_a_callback_hears_of_the_fit_and_of_every_iteration_in_order(name):
    record = Recording()
    model = unfitted(name).set_callbacks(record).fit(X, target(name, Y))
    iterations = [("iteration", n) for n in range(model.n_iter_)]
    assert record.begun == [("fit", 0), *iterations]
    assert record.ended == [*iterations, ("fit", 0)]
    assert record.n_setups == record.n_teardowns == 1
    assert_array_equal(model.predict(X), _fitted(name).predict(X))


@NEEDS_CALLBACKS
@pytest.mark.parametrize("name", [name for name in MODELS if name not in ALONE])
def test_a_callback_stops_the_fit_without_a_warning(name):
    record, y = Recording(), target(name, Y)
    with unconverged():
        model = unfitted(name, tol=0.0, max_iter=4).set_callbacks(record).fit(X, y)
    stopped = clone(model).set_callbacks(Recording(stop_after=2)).fit(X, y)
    assert model.n_iter_ == 4
    assert stopped.n_iter_ == len(stopped.loss_curve_) == 2
    assert_array_equal(stopped.predict(X), record.fitted[1].predict(X))
    assert not np.array_equal(stopped.predict(X), model.predict(X))


@NEEDS_CALLBACKS
@EVERY
def test_the_estimator_given_to_a_callback_recommends_during_the_fit(name):
    class Recommending(Callback):
        def __init__(self):
            self.scores, self.predicted = [], []

        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            lists = fitted_estimator.recommend(n_items=2, as_frame=True)
            self.scores.append(lists["score"].to_numpy())
            self.predicted.append(fitted_estimator.predict(X))

    record = Recommending()
    model = unfitted(name).set_callbacks(record).fit(X, target(name, Y))
    assert len(record.scores) == model.n_iter_ + 1
    assert_array_equal(record.predicted[-1], model.predict(X))
    is_of_iterations = name not in ALONE and model.rank_by != "choice"
    assert np.array_equal(record.scores[0], record.scores[-1]) != is_of_iterations


@pytest.mark.parametrize(
    "method", [pytest.param("fit", marks=NEEDS_CALLBACKS), "partial_fit"]
)
@EVERY_UPDATED
def test_nothing_is_published_before_the_end(name, method, monkeypatch):
    """Readers see the old model until a fit ends, and after one that fails."""
    model = fitted(name)
    before = vars(model).copy()

    class Fails(Callback):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            assert len(fitted_estimator.user_ids_) > len(model.user_ids_)
            assert np.isfinite(fitted_estimator.predict(X.to_numpy())).all()
            raise KeyError

    def fail(*args):
        raise KeyError

    if method == "fit":
        wider = np.vstack([X.to_numpy(), [[1000, 1000]]])
        model.set_callbacks(Fails())
        with pytest.raises(KeyError):
            model.fit(wider, target(name, np.append(Y, 3.0)))
        model.set_callbacks()
    else:
        monkeypatch.setattr(SeenItems, "grown", fail)
        with pytest.raises(KeyError):
            model.partial_fit(FURTHER, target(name, FURTHER_Y))
    assert vars(model).keys() - {"_skl_callbacks"} == before.keys()
    assert all(vars(model)[key] is before[key] for key in before)


@EVERY
def test_a_shallow_copy_is_left_alone_by_later_fits(name):
    model = fitted(name)
    kept, state = copy.copy(model), fitted_state(model)
    if name in UPDATED:
        model.partial_fit(FURTHER, target(name, FURTHER_Y))
    model.fit(X[:50], target(name, Y[:50]))
    assert fitted_state(kept) == state


@OF_RATINGS
def test_the_scale_of_the_ratings_needs_no_setting(name):
    plain = settled(name).fit(X, Y)
    for low, high in ((-10, 10), (0, 1e-6), (1e3, 2e3)):
        scaled = clone(plain).fit(X, low + (high - low) * Y)
        expected = low + (high - low) * plain.predict(X)
        tolerance = 1e-3 if isinstance(plain, NCFRegressor) else 1e-4
        atol = tolerance * (high - low) * np.ptp(Y)
        # Without biases, ratings are as far from 0 as they are.
        if plain.get_params().get("biased", True) or low == 0:
            assert_allclose(scaled.predict(X), expected, rtol=tolerance, atol=atol)


@OF_RATINGS
def test_a_constant_rating_is_predicted(name):
    model = settled(name, clip=True).fit(X, np.full(len(Y), 3.5))
    assert_allclose(model.predict(X), 3.5)


@OF_RATINGS
def test_one_rating_is_enough(name):
    model = settled(name, clip=True, early_stopping=False)
    model.fit([["ann", "Heat"]], [4.0])
    assert_allclose(model.predict([["ann", "Heat"], ["bob", "Alien"]]), 4.0)


@EVERY
def test_ratings_are_required_unless_rows_are_choices(name):
    ones = np.ones(len(X))
    if name in CHOICES:
        found = unfitted(name).fit(X, ones).predict(X)
        assert_array_equal(found, _fitted(name).predict(X))
    elif name in ALONE:
        # Ratings that are all equal, with the same lists.
        model = unfitted(name).fit(X, ones)
        assert_allclose(model.predict(X), 1, atol=1e-6)
        assert_array_equal(model.recommend(), _fitted(name).recommend())
    elif name in BY_CHOICES:
        found = unfitted(name).fit(X).predict(X)
        assert_array_equal(found, _fitted("alone").predict(X))
    else:
        with pytest.raises(ValueError, match="requires y to be passed"):
            unfitted(name).fit(X)


@EVERY_UPDATED
def test_partial_fit_before_fit_is_fit(name):
    y, weight = target(name, Y), np.arange(len(Y)) % 3
    expected = unfitted(name).fit(X, y, weight)
    assert fitted_state(unfitted(name).partial_fit(X, y, weight)) == fitted_state(
        expected
    )


@EVERY_UPDATED
def test_partial_fit_knows_new_ids_and_what_was_seen(name):
    model = fitted(name)
    last = model.n_iter_, model.loss_curve_
    model.partial_fit(FURTHER, target(name, FURTHER_Y))
    assert_array_equal(model.user_ids_, np.unique([*X["user"], *FURTHER["user"]]))
    assert_array_equal(model.item_ids_, np.unique([*X["item"], *FURTHER["item"]]))
    frame = model.recommend(n_items=len(model.item_ids_), as_frame=True)
    seen = pd.concat([X, FURTHER]).drop_duplicates()
    assert len(frame) == len(model.user_ids_) * len(model.item_ids_) - len(seen)
    assert frame.merge(seen, on=["user", "item"]).empty
    assert np.isfinite(frame["score"]).all()
    assert model.n_iter_ == len(model.loss_curve_)
    assert model.loss_curve_[: last[0]] == last[1]


@EVERY_UPDATED
def test_further_weights_are_rows_so_many_times(name):
    y, weight = target(name, FURTHER_Y), np.array([2, 1, 3, 0, 0])
    weighted = fitted(name).partial_fit(FURTHER, y, weight)
    rows = np.repeat(np.arange(len(FURTHER)), weight)
    repeated = fitted(name)
    repeated.partial_fit(FURTHER.iloc[rows], None if y is None else y[rows])
    assert fitted_state(weighted) == fitted_state(repeated)
    # An id whose rows have no weight is not there.
    assert 77 not in weighted.item_ids_
    assert 99 in weighted.user_ids_
    plain = fitted(name).partial_fit(FURTHER, y)
    assert np.abs(plain.predict(X) - weighted.predict(X)).max() > 1e-6


@EVERY_UPDATED
@given(order=st.permutations(range(len(FURTHER))))
@settings(max_examples=4)
def test_the_order_of_further_rows_does_not_matter(name, order):
    expected = fitted(name).partial_fit(FURTHER, target(name, FURTHER_Y))
    found = fitted(name)
    found.partial_fit(FURTHER.iloc[order], target(name, FURTHER_Y[order]))
    assert fitted_state(found) == fitted_state(expected)


@pytest.mark.parametrize("name", [name for name in UPDATED if name in RATINGS])
def test_partial_fit_of_parts_is_a_learning_curve(name):
    folds, model = KFold(2), unfitted(name)
    sizes, _, scores = learning_curve(
        model, X, Y, cv=folds, train_sizes=[0.5, 1.0], exploit_incremental_learning=True
    )
    for fold, (train, test) in enumerate(folds.split(X)):
        model = clone(model)
        for n, part in enumerate(np.split(train, sizes)[:-1]):
            model.partial_fit(X.iloc[part], Y[part])
            assert scores[n, fold] == model.score(X.iloc[test], Y[test])


@pytest.mark.parametrize("name", [name for name in UPDATED if name in RATINGS])
def test_partial_fit_widens_the_range_of_ratings(name):
    model = fitted(name)
    assert model.rating_range_ == (1, 5)
    assert model.partial_fit(X[:1], [9.0]).rating_range_ == (1, 9)
    assert model.partial_fit(X[:1], [2.0]).rating_range_ == (1, 9)


@pytest.mark.parametrize("name", [name for name in UPDATED if name in RATINGS])
def test_further_ratings_may_be_tiny_and_not_in_a_far_unit(name):
    model = fitted(name)
    as_zero = copied(model).partial_fit(X[:3], np.zeros(3)).predict(X)
    for tiny in (1e-120, -5e-324):
        after = copied(model).partial_fit(X[:3], np.full(3, tiny))
        assert_allclose(after.predict(X), as_zero, atol=1e-12)
    state = fitted_state(model)
    for far in (1e30, -1e18):
        with pytest.raises(ValueError, match="deviations of the ratings of fit away"):
            model.partial_fit(X[:3], [3.0, far, 3.0])
    assert fitted_state(model) == state


@pytest.mark.parametrize(
    ("rows", "y", "error"),
    [
        (X.astype(str), Y > 3, TypeError),
        (X.assign(item="Heat"), Y > 3, TypeError),
        (X.assign(hour=1.0), Y > 3, ValueError),
        (X, np.full(len(Y), np.nan), ValueError),
        (X, Y[1:] > 3, ValueError),
    ],
    ids=["users of another kind", "items of another kind", "wide", "NaN", "short"],
)
@EVERY_UPDATED
def test_a_failed_partial_fit_changes_nothing(name, rows, y, error):
    model = fitted(name)
    state = fitted_state(model)
    if error is TypeError:
        y = target(name, y)
    with pytest.raises(error):
        model.partial_fit(rows, y)
    assert fitted_state(model) == state


def test_all_solvers_and_architectures_are_here():
    found = {name.partition(",")[0] for name in RATINGS}
    assert found == {name.partition(",")[0] for name in CHOICES}
    (solvers,) = MFRegressor._parameter_constraints["solver"]
    (architectures,) = NCFRegressor._parameter_constraints["architecture"]
    assert found == solvers.options | architectures.options
