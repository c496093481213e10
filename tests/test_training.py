"""What the estimators that train a network share: losses, stopping, learning on."""

from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Recording, copied, default_threads
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import roc_auc_score, root_mean_squared_error
from sklearn.utils import check_random_state

from skrec import MFRegressor, NCFRegressor
from skrec._data.weights import Weighting
from skrec._gradient.solver import GradientSolver
from skrec.datasets import make_ratings

X, Y = make_ratings(40, 30, 600, random_state=0)
CHOSEN = (Y > 3).astype(float)

SETTINGS = {
    "n_factors": 2,
    "solver": "adam",
    "batch_size": 64,
    "max_iter": 8,
    "clip": False,
    "random_state": 0,
}
ESTIMATORS = {
    "mf": MFRegressor(**SETTINGS),
    "ncf": NCFRegressor(hidden_layer_sizes=(4,), n_members=2, **SETTINGS),
}


@pytest.fixture(params=ESTIMATORS.values(), ids=list(ESTIMATORS.keys()))
def estimator(request):
    return clone(request.param)


# Users from 34 on and items from 26 on are new; known items from 18 on get ratings too.
NEW = ((X["user"] >= 34) & (X["item"] >= 18)).to_numpy()
OLD = ((X["user"] < 34) & (X["item"] < 26)).to_numpy()


@pytest.fixture(scope="module", params=ESTIMATORS.values(), ids=list(ESTIMATORS.keys()))
def grown(request):
    """A fit to the old rows, and the same after partial_fit of the new ones."""
    before = clone(request.param).fit(X[OLD], Y[OLD])
    after = copied(before).partial_fit(X[NEW], Y[NEW])
    return before, after


def test_partial_fit_learns_new_users_and_items(grown):
    before, after = grown
    assert_array_equal(after.user_ids_, np.unique(X["user"][OLD | NEW]))
    assert_array_equal(after.item_ids_, np.unique(X["item"][OLD | NEW]))
    error, error_before = (
        root_mean_squared_error(Y[NEW], model.predict(X[NEW]))
        for model in (after, before)
    )
    assert error < error_before - 0.02


def test_partial_fit_leaves_the_others_as_they_were(grown):
    before, after = grown
    untouched = X[OLD & (X["item"] < 18)]
    assert_allclose(after.predict(untouched), before.predict(untouched), rtol=1e-6)
    touched = X[OLD & (X["item"] >= 18)]
    moved = np.abs(after.predict(touched) - before.predict(touched))
    assert 0 < moved.mean() < 0.2


def test_partial_fit_goes_on_counting(grown):
    before, after = grown
    assert before.n_iter_ == len(before.loss_curve_) == 8
    assert 8 < after.n_iter_ == len(after.loss_curve_) <= 16
    assert after.loss_curve_[:8] == before.loss_curve_
    assert after.loss_curve_[-1] < after.loss_curve_[8]


def test_partial_fit_leaves_the_effects_of_features(estimator):
    rows = X.assign(hour=np.arange(len(Y)) % 24)
    model = estimator.fit(rows[OLD], Y[OLD])
    asked = rows[OLD & (X["item"] < 18)]
    before = model.predict(asked)
    model.partial_fit(rows[NEW], Y[NEW])
    assert_allclose(model.predict(asked), before, rtol=1e-6)


def test_partial_fit_learns_of_drawn_items(estimator):
    model = estimator.set_params(loss="log_loss", n_negatives=2)
    model.fit(X[OLD], np.ones(OLD.sum()))
    before = model.predict(X[NEW])
    model.partial_fit(X[NEW], np.ones(NEW.sum()))
    assert model.predict(X[NEW]).mean() > before.mean()
    assert model.rating_range_ == (0, 1)


def test_partial_fit_keeps_ids_apart_that_floats_cannot():
    far = 2**60
    rows = X.assign(user=X["user"] + far)
    model = clone(ESTIMATORS["mf"]).fit(rows.astype(np.int64), Y)
    model.partial_fit(rows[:5].astype(np.uint64), Y[:5])
    assert [int(user) - far for user in model.user_ids_] == list(range(40))


def test_draws_have_no_partial_fit():
    model = MFRegressor(solver="gibbs")
    assert not hasattr(model, "partial_fit")
    reason = "no attribute 'partial_fit' with solver='gibbs', .* such as solver='vb'"
    with pytest.raises(AttributeError, match=reason):
        model.partial_fit(X, Y)
    assert hasattr(model.set_params(solver="vb"), "partial_fit")


def test_partial_fit_goes_on_from_another_solver():
    model = MFRegressor(2, solver="vb", tol=1e9, clip=False).fit(X[OLD], Y[OLD])
    untouched = X[OLD & (X["item"] < 18)]
    before = model.predict(untouched)
    model.set_params(solver="adam", tol=None).partial_fit(X[NEW], Y[NEW])
    assert_allclose(model.predict(untouched), before, rtol=1e-5)
    assert 39 in model.user_ids_


@pytest.fixture
def stopped(estimator, callbacks):
    """A fit to noise, which nothing can be learned from, and what it went through."""
    noise = np.random.default_rng(0).permutation(Y)
    record = Recording()
    model = estimator.set_params(
        early_stopping=True, n_iter_no_change=2, tol=0.0, max_iter=60, reg=1e-3
    )
    return model.set_callbacks(record).fit(X, noise), record.fitted


def test_early_stopping_stops_on_noise(stopped):
    model, _ = stopped
    scores = model.validation_scores_
    assert model.n_iter_ == len(scores) == len(model.loss_curve_) < 60
    assert model.n_iter_ == np.argmax(scores) + 1 + 2


def test_early_stopping_keeps_the_best_weights(stopped):
    model, fits = stopped
    best = np.argmax(model.validation_scores_)
    assert best < len(fits) - 1
    assert_array_equal(model.predict(X), fits[best].predict(X))
    assert fits[best].validation_scores_ == model.validation_scores_[: best + 1]


def test_the_best_validation_score_is_that_of_the_fit(estimator, monkeypatch):
    parts = []

    true_split = GradientSolver._split

    def split(self, *args):
        parts.append(true_split(self, *args))
        return parts[0]

    monkeypatch.setattr(GradientSolver, "_split", split)
    monkeypatch.setattr(Weighting, "applied", lambda self, data: data)
    weight = 1 + np.arange(len(Y)) % 3
    model = estimator.set_params(early_stopping=True, validation_fraction=0.2)
    model.fit(X, Y, weight)
    ((part, rest),) = parts
    held_out = part.samples
    assert len(held_out) == 120
    assert len(rest) == 480
    users, items, target, weight_of_row = (
        getattr(held_out, name).numpy()
        for name in ("users", "items", "target", "weight")
    )
    rows = {"user": model.user_ids_[users], "item": model.item_ids_[items]}
    mean = np.average(Y, weights=weight)
    std = np.sqrt(np.average((Y - mean) ** 2, weights=weight))
    predicted = (model.predict(pd.DataFrame(rows)) - mean) / std
    score = -np.average((target - predicted) ** 2, weights=weight_of_row)
    assert max(model.validation_scores_) == pytest.approx(score, rel=1e-4)


def test_early_stopping_waits_while_ratings_are_learned(estimator):
    model = estimator.set_params(early_stopping=True, n_iter_no_change=50)
    model.fit(X, Y)
    assert model.n_iter_ == 8
    assert max(model.validation_scores_) > model.validation_scores_[0]


def test_validation_scores_are_those_of_the_last_fit(estimator):
    model = estimator.set_params(early_stopping=True).fit(X, Y)
    assert model.validation_scores_
    model.set_params(early_stopping=False).fit(X, Y)
    assert model.validation_scores_ is None


@pytest.mark.parametrize("loss", ["log_loss", "bpr"])
def test_early_stopping_works_with_drawn_items(estimator, loss):
    model = estimator.set_params(loss=loss, early_stopping=True)
    model.fit(X[CHOSEN > 0], np.ones(int(CHOSEN.sum())))
    assert np.isfinite(model.validation_scores_).all()
    assert max(model.validation_scores_) < 0


def test_verbose_tells_the_validation_score(estimator, capsys):
    model = estimator.set_params(early_stopping=True, verbose=1).fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_
    for line, score in zip(lines, model.validation_scores_, strict=True):
        assert line.endswith(f"validation score {score:.6f}")


@pytest.mark.parametrize("solver", ["vb", "gibbs", "als"])
def test_a_warm_start_goes_on_from_another_solver(solver):
    # With a penalty that is given, a cold start is at zero.
    model = clone(ESTIMATORS["mf"]).set_params(reg=1.0)
    cold = model.fit(X, Y).loss_curve_
    other = {"solver": solver, "max_iter": 20, "tol": 1e9, "warm_start": True}
    model = clone(model).set_params(**other).fit(X, Y)
    model.set_params(solver="adam", max_iter=8).fit(X, Y)
    assert model.loss_curve_[0] < cold[0] - 0.02
    back = model.set_params(**other).fit(X, Y)
    assert np.isfinite(back.predict(X)).all()
    assert back.score(X, Y) > 0.1


def test_a_warm_start_refuses_another_architecture(estimator):
    model = estimator.set_params(warm_start=True).fit(X, Y)
    with pytest.raises(
        ValueError,
        match=r"last fit.* had another network: n_factors \(was 2, now 3\).*"
        r"warm_start=False",
    ):
        model.set_params(n_factors=3).fit(X, Y)


def test_a_warm_start_with_another_loss_is_in_its_units(estimator):
    model = estimator.set_params(warm_start=True).fit(X, Y)
    model.set_params(loss="log_loss", n_negatives=0).fit(X, CHOSEN)
    assert min(model.loss_curve_) > 0
    assert model.predict(X).mean() == pytest.approx(CHOSEN.mean(), abs=0.1)


def test_squared_errors_can_go_on_from_drawn_items():
    model = clone(ESTIMATORS["mf"]).set_params(loss="log_loss", warm_start=True)
    model.fit(X[CHOSEN > 0], np.ones(int(CHOSEN.sum())))
    model.set_params(loss="squared_error", solver="vb", tol=1e9).fit(X, Y)
    assert model.score(X, Y) > 0


OUTLIERS = np.where(np.random.default_rng(0).random(len(Y)) < 0.1, 100.0, Y)


def test_outliers_matter_less_to_a_robust_loss(estimator):
    errors = {
        loss: root_mean_squared_error(
            Y, clone(estimator).set_params(loss=loss).fit(X, OUTLIERS).predict(X)
        )
        for loss in ("squared_error", "huber", "absolute_error")
    }
    assert errors["absolute_error"] < errors["huber"] < errors["squared_error"]
    assert errors["absolute_error"] < 1.5
    assert errors["squared_error"] > 5


def test_absolute_errors_find_the_median():
    rows = [["user", "item"]] * 5
    y = [0.0, 1.0, 2.0, 10.0, 100.0]
    params = SETTINGS | {"n_factors": 0, "max_iter": 300, "reg": 1e-6}
    model = MFRegressor(**params)
    assert model.fit(rows, y).predict(rows[:1]) == pytest.approx(22.6, abs=0.1)
    model.set_params(loss="absolute_error")
    assert model.fit(rows, y).predict(rows[:1]) == pytest.approx(2, abs=0.3)


def test_log_loss_predicts_frequencies(estimator):
    share = np.where(X["item"] < 15, 0.2, 0.9)
    y = (np.random.default_rng(0).random(len(X)) < share).astype(float)
    model = estimator.set_params(
        loss="log_loss", n_negatives=0, clip=True, reg=0.1, max_iter=20
    ).fit(X, y)
    predicted = model.predict(X)
    assert model.rating_range_ == (0, 1)
    assert ((predicted > 0) & (predicted < 1)).all()
    assert predicted.mean() == pytest.approx(y.mean(), abs=0.03)
    for level in (0.2, 0.9):
        group = share == level
        assert predicted[group].mean() == pytest.approx(y[group].mean(), abs=0.15)
    _, scores = model.recommend(exclude_seen=False, return_scores=True)
    assert ((scores > 0) & (scores < 1)).all()


@pytest.fixture(scope="module")
def blocks():
    """Even users choose even items, odd users odd ones; some choices are held out."""
    u, i = np.divmod(np.arange(24 * 20), 20)
    rows = pd.DataFrame({"user": u, "item": i})
    chosen = u % 2 == i % 2
    kept = chosen & (np.random.default_rng(0).random(len(u)) < 0.7)
    return rows[kept], rows[~kept], chosen[~kept]


@pytest.mark.parametrize(
    ("loss", "reg"), [("bpr", None), ("log_loss", 0.1), ("squared_error", 0.1)]
)
def test_drawn_items_teach_what_a_user_would_choose(estimator, blocks, loss, reg):
    train, test, chosen = blocks
    reg = estimator.reg if reg is None else reg
    model = estimator.set_params(loss=loss, n_negatives=4, reg=reg, max_iter=40)
    model.fit(train, np.ones(len(train)))
    assert roc_auc_score(chosen, model.predict(test)) > 0.9
    best = model.recommend(n_items=1)[:, 0]
    assert (best % 2 == model.user_ids_ % 2).mean() > 0.9


@pytest.mark.filterwarnings("ignore:All .* ratings in y are")
def test_without_drawn_items_ones_are_all_there_is(estimator, blocks):
    model = estimator.fit(blocks[0], np.ones(len(blocks[0])))
    assert_allclose(model.predict(blocks[1]), 1, atol=0.1)


def test_an_item_that_the_user_has_chosen_does_not_count_as_drawn(estimator):
    u, i = np.divmod(np.arange(8 * 6), 6)
    model = estimator.set_params(loss="log_loss", n_negatives=3, max_iter=40)
    model.fit(np.column_stack([u, i]), np.ones(len(u)))
    assert (model.predict(np.column_stack([u, i])) > 0.7).all()


def test_weights_count_with_drawn_items(estimator):
    rows, y = X[CHOSEN > 0], np.ones(int(CHOSEN.sum()))
    weight = np.where(rows["item"] < 15, 10, 1)
    model = estimator.set_params(loss="log_loss")
    plain, weighted = (
        clone(model).fit(rows, y, sample_weight).predict(rows[weight == 10]).mean()
        for sample_weight in (None, weight)
    )
    assert weighted > plain


@default_threads(2)
@pytest.mark.parametrize("fails", [False, True])
def test_global_seeds_and_threads_are_left_alone(estimator, fails):
    state = torch.get_rng_state()
    numpy_state = check_random_state(None).get_state()[1].copy()
    if isinstance(estimator, NCFRegressor):
        estimator.set_params(dropout=0.5)
    model = estimator.set_params(loss="log_loss", early_stopping=True).fit(X, CHOSEN)
    model.set_params(learning_rate_init=1e30 if fails else None)
    model.partial_fit(X, CHOSEN)
    with pytest.raises(FloatingPointError) if fails else nullcontext():
        model.fit(X, CHOSEN)
    assert torch.equal(torch.get_rng_state(), state)
    assert_array_equal(check_random_state(None).get_state()[1], numpy_state)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_settings_of_the_descent_reach_it(estimator, solver):
    model = estimator.set_params(solver=solver, max_iter=2)
    expected = clone(model).fit(X, Y).predict(X)
    for params in ({"batch_size": 600}, {"learning_rate_init": 1e-3}, {"reg": 50.0}):
        found = clone(model).set_params(**params).fit(X, Y).predict(X)
        assert np.abs(found - expected).max() > 1e-3


def test_a_high_penalty_leaves_the_mean(estimator):
    model = estimator.set_params(reg=1e4, max_iter=30).fit(X, Y)
    assert_allclose(model.predict(X), Y.mean(), atol=0.1)


@pytest.mark.parametrize("loss", ["squared_error", "log_loss", "bpr"])
def test_one_fit_answers_alike_on_every_device(estimator, gpu, loss):
    y = Y if loss == "squared_error" else CHOSEN
    model = estimator.set_params(device=gpu, loss=loss, max_iter=2).fit(X, y)
    model.partial_fit(X[:9], y[:9])
    answers = [
        model.set_params(device=where).predict(X[:200]) for where in ("cpu", gpu)
    ]
    assert_allclose(*answers, rtol=1e-5, atol=1e-7)
    scores = [
        model.set_params(device=where).recommend(
            n_items=3, exclude_seen=False, return_scores=True
        )[1]
        for where in ("cpu", gpu)
    ]
    assert_allclose(*scores, rtol=1e-4, atol=1e-6)


def test_a_fit_on_a_gpu_is_as_good_as_one_on_the_cpu(estimator, gpu):
    scores = [
        clone(estimator)
        .set_params(device=device, early_stopping=True, max_iter=4)
        .fit(X, Y)
        for device in ("cpu", gpu)
    ]
    on_cpu, on_cuda = (model.score(X, Y) for model in scores)
    assert on_cuda == pytest.approx(on_cpu, abs=0.1)


def test_options_of_the_network_leave_other_solvers_alone():
    plain = MFRegressor(3).fit(X, Y)
    other = MFRegressor(3, n_negatives=4, batch_size=7).fit(X, Y)
    assert_array_equal(plain.predict(X), other.predict(X))
    assert other.rating_range_ == (Y.min(), Y.max())
