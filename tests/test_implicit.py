"""What is known from who has ratings with whom, ratings or none, in closed form."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import copied, least_count, unconverged
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import root_mean_squared_error

from skrec import MFRegressor
from skrec._alternating.problem import Problem
from skrec._data.interactions import Interactions
from skrec._data.units import Units
from skrec._data.weights import Weighting
from skrec.datasets import make_ratings

# Few choices leave "vb" no factor, and that is not what these tests are of.
pytestmark = pytest.mark.filterwarnings("ignore:No factor is left")

N_USERS, N_ITEMS = 14, 10
ALPHA = 0.3


def choices():
    """Who chose what, and how sure each choice is. Nobody chose everything."""
    rng = np.random.default_rng(0)
    chosen = rng.random((N_USERS, N_ITEMS)) < 0.4
    chosen[0], chosen[:, 0], chosen[:, 1] = True, True, False
    chosen[2, 1], chosen[0, 2] = True, False
    users, items = np.nonzero(chosen)
    X = pd.DataFrame({"user": users, "item": items})
    weight = rng.uniform(0.5, 3, len(X))
    return X, weight / weight.mean()


X, WEIGHT = choices()
EVERY = pd.DataFrame(np.indices((N_USERS, N_ITEMS)).reshape(2, -1).T, columns=X.columns)


def two_tastes():
    """Users of two groups, and which of the group's items each chose, or did not."""
    rng = np.random.default_rng(0)
    user, rank = np.divmod(np.arange(60 * 20), 20)
    item = np.concatenate([rng.permutation(20) for _ in range(60)])
    rows = pd.DataFrame({"user": user, "item": 20 * (user % 2) + item})
    return rows[rank < 10], rows[rank >= 10]


CHOSEN, HELD_OUT = two_tastes()


def with_zeros(X, y, weight, alpha=ALPHA):
    """The same rows, and a rating of 0 of weight `alpha` for every pair."""
    zeros = np.zeros(len(EVERY))
    return pd.concat([X, EVERY]), np.append(y, zeros), np.append(weight, zeros + alpha)


def sweeps(model, n, *args):
    """A fit of so many sweeps, converged or not."""
    model.set_params(max_iter=n, tol=0)
    with unconverged():
        return model.fit(*args)


def settled(model, *args, rounds=15):
    """A fit that has converged as far as single precision lets it.

    It ends where rounding hides that the objective falls, so it is begun again.
    """
    model = clone(model).set_params(max_iter=100, tol=0, warm_start=True)
    with unconverged():
        for _ in range(rounds):
            model.fit(*args)
    return model.set_params(warm_start=False)


@pytest.fixture(params=["vb", "als"])
def solver(request):
    return request.param


def implicit(solver, **params):
    defaults = {
        "n_factors": 3,
        "reg": 0.4,
        "reg_exponent": 0.0,
        "unobserved_weight": ALPHA,
        "clip": False,
    }
    return MFRegressor(solver=solver, **defaults | params)


def test_choices_need_no_ratings(solver):
    model = implicit(solver).fit(X)
    ones = clone(model).fit(X, np.ones(len(X)))
    assert_array_equal(model.predict(EVERY), ones.predict(EVERY))
    further = pd.DataFrame({"user": 99, "item": [3, 4]})
    model.partial_fit(further)
    ones.partial_fit(further, [1.0, 1.0])
    assert_array_equal(model.predict(further), ones.predict(further))
    with pytest.raises(ValueError, match=r"requires y to be passed.*unobserved_weight"):
        model.set_params(unobserved_weight=0, rank_by="rating").fit(X)


@pytest.mark.usefixtures("raw_weights")
@pytest.mark.parametrize("exponent", [0, 0.5, 1])
def test_pairs_without_ratings_are_ratings_of_zero(exponent):
    y = np.random.default_rng(1).uniform(1, 2, len(X))
    model = implicit("als", biased=False, reg_exponent=exponent)
    sweeps(model, 8, X, y, WEIGHT)
    rows = with_zeros(X, y, WEIGHT)
    # The penalty is in units of the root mean square, which zeros make smaller.
    rms = [np.sqrt(np.average(y**2, weights=w)) for _, y, w in ((X, y, WEIGHT), rows)]
    plain = clone(model).set_params(reg=0.4 * rms[0] / rms[1], unobserved_weight=0)
    sweeps(plain, 8, *rows)
    assert_allclose(model.predict(EVERY), plain.predict(EVERY), atol=1e-5)
    # Of the noise's prior, too, which is in these units.
    assert model.noise_std_ == pytest.approx(plain.noise_std_, rel=1e-2)
    without = sweeps(clone(plain), 8, X, y, WEIGHT)
    assert np.abs(model.predict(EVERY) - without.predict(EVERY)).max() > 0.1


@pytest.fixture
def raw_weights(monkeypatch):
    """Weights are taken as they are, so that zeros do not change their worth."""
    monkeypatch.setattr(Weighting, "applied", lambda self, data: data)
    # Nor the mean that products shrink towards.
    monkeypatch.setattr("skrec._alternating.start._mean", lambda problem: 0.0)


@pytest.fixture
def raw_units(raw_weights, monkeypatch):
    """Ratings are taken as they are, so that zeros do not change their units."""

    def of(data, **kwargs):
        n_columns = data.context.shape[1]
        return Units(0.0, 1.0, np.zeros(n_columns), np.ones(n_columns))

    monkeypatch.setattr(Units, "of", of)


@pytest.fixture
def apart(monkeypatch):
    """A pair with two ratings counts twice in the noise."""
    monkeypatch.setattr(Interactions, "merged", lambda data: (data, 0.0))
    monkeypatch.setattr(Problem, "with_pairs", lambda problem: problem)


@pytest.mark.usefixtures("raw_units", "apart")
@pytest.mark.parametrize("n_factors", [2, 50])
def test_every_sweep_is_that_over_explicit_zeros(solver, n_factors):
    model = implicit(solver, n_factors=n_factors, biased=False)
    plain = clone(model).set_params(unobserved_weight=0, implicit_features=False)
    y = np.ones(len(X))
    # Rows of many factors take steps of als, which lead to the same end.
    is_iterative = solver == "als" and n_factors == 50
    for n in (300,) if is_iterative else (1, 6):
        sweeps(model, n, X, y, WEIGHT)
        sweeps(plain, n, *with_zeros(X, y, WEIGHT))
        assert_allclose(model.predict(EVERY), plain.predict(EVERY), atol=1e-4)
        last = -1 if is_iterative else slice(None)
        assert_allclose(model.loss_curve_[last], plain.loss_curve_[last], rtol=1e-5)
    if solver == "vb":
        std = [m.predict(EVERY, return_std=True)[1] for m in (model, plain)]
        assert_allclose(*std, rtol=1e-4)


@pytest.mark.usefixtures("raw_units", "apart")
def test_a_settled_fit_stays_when_its_zeros_become_explicit(solver):
    model = settled(implicit(solver, n_factors=2, reg=0.2), X, None, WEIGHT)
    plain = copied(model).set_params(unobserved_weight=0, implicit_features=False)
    sweeps(
        plain.set_params(warm_start=True), 5, *with_zeros(X, np.ones(len(X)), WEIGHT)
    )
    assert_allclose(plain.loss_curve_, model.loss_curve_[-1], rtol=1e-4)
    assert_allclose(plain.predict(EVERY), model.predict(EVERY), atol=1e-3)
    assert np.ptp(model.user_biases_) > 0.1


def relative(model, weight):
    """Relative weights of pairs that have a row each."""
    w = model._weighting
    return w.factor / (1 - w.share + w.share * w.mean / weight)


def in_standard_units(model, y, weight):
    """Standard ratings, and rows of users and items as float64 (p, b)."""
    units = model._model.units
    centre, mean_square = 0.0, np.average(y**2, weights=weight)
    if model.biased and not model.unobserved_weight:
        centre = np.average(y, weights=weight)
        mean_square -= centre**2
    scale = np.sqrt(mean_square)
    assert units.centre == pytest.approx(centre)
    assert units.scale == pytest.approx(scale)
    rows = {}
    for side in ("user", "item"):
        table = getattr(model, f"{side}_factors_") / np.sqrt(scale)
        if model.biased:
            bias = getattr(model, f"{side}_biases_") / scale
            table = np.column_stack([table, bias])
        rows[side] = table.astype(np.float64)
    return (y - centre) / scale, rows


PENALTIES = [
    pytest.param(biased, exponent, alpha, id=f"{biased=} {exponent=} {alpha=}")
    for biased in (False, True)
    for exponent, alpha in ((0, 0), (0.5, 0), (1, 0), (0, ALPHA), (1, ALPHA))
]


def centre_of(standard, weight, size, is_zero):
    """Row that products shrink towards; for positive ratings, on both sides."""
    centre = np.zeros(size)
    centre[0] = 0 if is_zero else np.sqrt(np.average(standard, weights=weight))
    return centre


@pytest.mark.parametrize(("biased", "exponent", "alpha"), PENALTIES)
def test_every_row_of_als_solves_its_normal_equations(biased, exponent, alpha):
    y = np.random.default_rng(1).uniform(0, 2, len(X))
    params = {"biased": biased, "reg_exponent": exponent, "unobserved_weight": alpha}
    model = settled(implicit("als", **params), X, y, WEIGHT)
    weight = relative(model, WEIGHT)
    standard, tables = in_standard_units(model, y, weight)
    centre = centre_of(standard, weight, tables["user"].shape[1], biased or alpha)
    rows, standard, weight = with_zeros(X, standard, weight, alpha)
    for side, other in (("user", "item"), ("item", "user")):
        for number, found in enumerate(tables[side]):
            mine = (rows[side] == number).to_numpy()
            z = tables[other][rows[other][mine]]
            target, w = standard[mine], weight[mine]
            if biased:
                target = target - z[:, -1]
                z[:, -1] = 1
            penalty = 0.4 * w.sum() ** exponent * np.eye(z.shape[1])
            pull = z.T @ (w * target) + penalty @ centre
            expected = np.linalg.solve((z.T * w) @ z + penalty, pull)
            assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("biased", "exponent", "alpha"), PENALTIES)
def test_the_objective_of_als_is_its_penalised_squares(biased, exponent, alpha):
    y = np.random.default_rng(1).uniform(0, 2, len(X))
    params = {"biased": biased, "reg_exponent": exponent, "unobserved_weight": alpha}
    model = sweeps(implicit("als", **params), 3, X, y, WEIGHT)
    weight = relative(model, WEIGHT)
    standard, tables = in_standard_units(model, y, weight)
    centre = centre_of(standard, weight, tables["user"].shape[1], biased or alpha)
    rows, standard, weight = with_zeros(X, standard, weight, alpha)
    P, Q = tables["user"][rows["user"]], tables["item"][rows["item"]]
    predicted = (P[:, :3] * Q[:, :3]).sum(1) + P[:, 3:].sum(1) + Q[:, 3:].sum(1)
    objective = weight @ (standard - predicted) ** 2
    for side in ("user", "item"):
        count = np.bincount(rows[side], weight)
        objective += 0.4 * (count**exponent @ (tables[side] - centre) ** 2).sum()
    assert model.loss_curve_[-1] == pytest.approx(objective / weight.sum(), rel=1e-5)


def test_the_penalty_is_the_same_for_all_rows_by_default():
    y = np.random.default_rng(1).uniform(0, 2, len(X))
    default = MFRegressor(3, solver="als").fit(X, y, WEIGHT)
    predicted = [
        clone(default).set_params(reg_exponent=e).fit(X, y, WEIGHT).predict(X)
        for e in (0, 1)
    ]
    assert_array_equal(predicted[0], default.predict(X))
    assert np.abs(predicted[1] - predicted[0]).max() > 0.01


def test_the_exponent_of_a_penalty_means_nothing_to_vb():
    y = np.random.default_rng(1).uniform(0, 2, len(X))
    models = [MFRegressor(3, reg_exponent=e).fit(X, y) for e in (0, 1)]
    assert_array_equal(*[model.predict(X) for model in models])


@pytest.mark.parametrize("exponent", [0, 1])
def test_a_weight_of_two_is_a_choice_made_twice(solver, exponent):
    model = implicit(solver, reg_exponent=exponent)
    twice = np.arange(len(X)) % 3 == 0
    weighted = clone(model).fit(X, sample_weight=1 + twice)
    repeated = clone(model).fit(pd.concat([X, X[twice]]))
    assert_allclose(weighted.predict(EVERY), repeated.predict(EVERY), atol=1e-6)
    plain = clone(model).fit(X)
    assert np.abs(weighted.predict(EVERY) - plain.predict(EVERY)).max() > 0.01


@pytest.mark.parametrize("row", [0, 20, 40])
def test_a_choice_that_is_surer_is_predicted_higher(solver, row):
    model = implicit(solver, max_iter=1000, tol=1e-4)
    predicted = []
    for confidence in (0.5, 2.0, 10.0):
        weight = np.ones(len(X))
        weight[row] = confidence
        model.fit(X, sample_weight=weight)
        predicted.append(model.predict(X[row : row + 1])[0])
    assert (np.diff(predicted) > 0.02).all()


def test_doubt_is_no_negative_weight(solver):
    weight = WEIGHT.copy()
    weight[[2, 5]] = -1
    model = implicit(solver)
    match = r"Negative values.*`sample_weight`: 2 weights \(first rows: 2, 5\)"
    with pytest.raises(ValueError, match=match):
        model.fit(X, sample_weight=weight)
    model.fit(X)
    with pytest.raises(ValueError, match=match):
        model.partial_fit(X, sample_weight=weight)


def test_a_choice_of_weight_zero_was_not_made(solver):
    weight = np.where(X["user"] == 3, 0, WEIGHT)
    weight[X["item"] == 1] = 0
    kept = weight > 0
    model = implicit(solver)
    expected = clone(model).fit(X[kept], sample_weight=weight[kept])
    model.fit(X, sample_weight=weight)
    assert 3 not in model.user_ids_
    assert 1 not in model.item_ids_
    assert_array_equal(model.predict(EVERY), expected.predict(EVERY))
    assert_array_equal(model.recommend(n_items=1), expected.recommend(n_items=1))


@pytest.mark.parametrize(("reg", "exponent"), [(1.0, 0), (0.05, 1)])
def test_tastes_are_told_apart(solver, reg, exponent):
    model = implicit(solver, n_factors=2, reg=reg, reg_exponent=exponent).fit(CHOSEN)
    found = model.recommend(n_items=10)
    for user, items in zip(model.user_ids_, found, strict=True):
        assert set(items) == set(HELD_OUT["item"][HELD_OUT["user"] == user])
    others = HELD_OUT.assign(item=(HELD_OUT["item"] + 20) % 40)
    margin = model.predict(HELD_OUT) - model.predict(others)
    assert margin.min() > 0.1


def test_predictions_are_clipped_between_nothing_and_a_choice():
    model = implicit("als", clip=True, n_factors=2, reg=0.1).fit(CHOSEN)
    free = clone(model).set_params(clip=False).fit(CHOSEN)
    others = HELD_OUT.assign(item=(HELD_OUT["item"] + 20) % 40)
    predicted = free.predict(others)
    assert predicted.min() < 0 < predicted.max()
    assert model.rating_range_ == (0, 1)
    assert_array_equal(model.predict(others), predicted.clip(0, 1))
    model.partial_fit(CHOSEN[:3], [2.0, 3.0, 4.0])
    assert model.rating_range_ == (0, 4)


def new_row(others, chosen, weight, exponent, alpha=ALPHA, reg=0.4):
    """What als makes of a row that chose some of the others, given all of these."""
    count = weight.sum() + alpha * len(others)
    A = alpha * others.T @ others + (others[chosen].T * weight) @ others[chosen]
    A += reg * count**exponent * np.eye(others.shape[1])
    return np.linalg.solve(A, weight @ others[chosen])


@pytest.mark.parametrize("exponent", [0, 0.5, 1])
def test_a_new_user_of_als_is_what_a_fit_would_make_of_it(exponent):
    model = implicit("als", biased=False, reg_exponent=exponent)
    # y is 1, and so is the root mean square: ratings are in standard units as they are.
    model = settled(model, X, None, WEIGHT).set_params(max_iter=1)
    Q = model.item_factors_.astype(np.float64)
    chosen, weight = np.array([2, 5, 6]), np.array([1.0, 2.5, 0.7])
    rows = pd.DataFrame({"user": -5, "item": chosen})
    model.partial_fit(rows, sample_weight=weight)
    assert model.user_ids_[0] == -5
    expected = new_row(Q, chosen, weight, exponent)
    assert_allclose(model.user_factors_[0], expected, atol=1e-5)
    assert np.abs(expected - new_row(Q, chosen, weight, exponent, alpha=0)).max() > 0.05


@pytest.fixture(scope="module")
def many_chosen():
    """A fit to so many choices that a few further ones change no noise to speak of."""
    return settled(implicit("als", biased=False, n_factors=2), CHOSEN)


def assert_is_nearly(found, expected):
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)


def test_a_new_item_of_als_is_what_a_fit_would_make_of_it(many_chosen):
    model = copied(many_chosen).set_params(max_iter=1)
    P = model.user_factors_.astype(np.float64)
    chosen, weight = np.array([1, 4, 7, 8]), np.array([1.0, 2.5, 0.7, 2.0])
    rows = pd.DataFrame({"user": chosen, "item": 77})
    model.partial_fit(rows, sample_weight=weight)
    # The new item stands at zero when users are revised, so they stay.
    assert_allclose(model.user_factors_, P, atol=1e-3)
    expected = new_row(P, chosen, weight, 0)
    assert_is_nearly(model.item_factors_[-1], expected)
    few = new_row(P[chosen], np.arange(4), weight, 0)
    assert np.linalg.norm(few - expected) > 0.2 * np.linalg.norm(expected)


def test_pairs_of_a_known_user_count_once():
    model = implicit("als", biased=False)
    model = settled(model, X, None, WEIGHT).set_params(max_iter=1)
    Q = model.item_factors_.astype(np.float64)
    before = model.user_factors_.copy()
    mine = (X["user"] == 5).to_numpy()
    further = np.setdiff1d(np.arange(N_ITEMS), X["item"][mine])[:2]
    model.partial_fit(pd.DataFrame({"user": 5, "item": further}))
    chosen = np.append(X["item"][mine], further)
    expected = new_row(Q, chosen, np.append(WEIGHT[mine], [1, 1]), 0)
    assert_allclose(model.user_factors_[5], expected, atol=1e-4)
    assert np.abs(before[5] - expected).max() > 0.05


def test_new_users_and_items_have_all_their_pairs(many_chosen):
    model = copied(many_chosen).set_params(max_iter=1)
    known = np.arange(20)
    rows = pd.DataFrame(
        {"user": [90, 90, 90, 91, *known], "item": [3, 8, 77, 77, *(0 * known + 77)]}
    )
    weight = np.array([2.0, 1.0, 1.5, 1.0, *(0 * known + 0.5)])
    Q = model.item_factors_.astype(np.float64)
    model.partial_fit(rows, sample_weight=weight)
    P = model.user_factors_.astype(np.float64)
    assert_array_equal(model.user_ids_[-2:], [90, 91])
    # Users are solved first, when the new item stands at zero.
    at_zero = np.vstack([Q, np.zeros(2)])
    expected = new_row(at_zero, np.array([3, 8, 40]), weight[:3], 0)
    assert_allclose(P[60], expected, atol=1e-5)
    assert_allclose(P[61], 0, atol=1e-6)
    expected = new_row(P, np.array([60, 61, *known]), weight[2:], 0)
    assert_is_nearly(model.item_factors_[40], expected)
    # The pairs of a known item with known users have counted before.
    chosen = np.append(CHOSEN["user"][CHOSEN["item"] == 8], 60)
    expected = new_row(P, chosen, np.ones(len(chosen)), 0)
    assert_is_nearly(model.item_factors_[8], expected)
    again = np.r_[np.arange(62), known]
    twice = new_row(P[again], chosen, np.ones(len(chosen)), 0)
    assert np.linalg.norm(twice - expected) > 0.05 * np.linalg.norm(expected)


@pytest.mark.parametrize("biased", [False, True])
def test_a_new_user_of_vb_is_revised_by_the_conditional(biased):
    model = implicit("vb", biased=biased, n_factors=2)
    model.fit(X, None, WEIGHT).set_params(max_iter=1)
    p, chosen, weight = model._model, np.array([2, 5, 6]), np.array([1.0, 2.5, 0.7])
    precision = np.linalg.inv(p.users.prior_covariance[0, -1].astype(np.float64))
    information = precision @ p.users.prior_mean[0, -1]
    (alpha,), _ = p.users.relative_precisions(np.array([-1]))
    gamma, _ = p.items.relative_precisions(np.arange(N_ITEMS))
    w, y = np.full(N_ITEMS, ALPHA), np.zeros(N_ITEMS)
    w[chosen] += weight
    y[chosen] = weight / w[chosen]
    for item, beta in enumerate(alpha * gamma * w / p.noise_variance):
        z = p.items.mean[0, item].astype(np.float64)
        S = p.items.covariance[0, item].astype(np.float64)
        offset, along = z[2:].sum(), np.append(S[:2, 2:].sum(1), z[2:] * 0)
        z[2:], S[2:], S[:, 2:] = 1, 0, 0
        precision = precision + beta * (np.outer(z, z) + S)
        information = information + beta * (z * (y[item] - offset) - along)
    model.partial_fit(pd.DataFrame({"user": 99, "item": chosen}), sample_weight=weight)
    users = model._model.users
    expected = np.linalg.solve(precision, information)
    assert_allclose(users.mean[0, -1], expected, rtol=1e-3, atol=1e-4)
    expected = np.linalg.inv(precision)
    assert_allclose(users.covariance[0, -1], expected, rtol=1e-3, atol=1e-4)


def test_new_users_are_recommended_what_suits_their_taste(solver):
    new = CHOSEN["user"] >= 50
    model = implicit(solver, n_factors=2, reg=0.1).fit(CHOSEN[~new])
    model.partial_fit(CHOSEN[new])
    for user in range(50, 60):
        expected = HELD_OUT["item"][HELD_OUT["user"] == user]
        assert set(model.recommend([user], 10)[0]) == set(expected)


@pytest.mark.parametrize("gradient_solver", ["adam", "sgd"])
@pytest.mark.parametrize("y", [None, np.ones(len(X))], ids=["no ratings", "ratings"])
def test_gradient_solvers_draw_pairs_instead(gradient_solver, y):
    model = implicit(gradient_solver)
    with pytest.raises(ValueError, match=rf"'{gradient_solver}'.*n_negatives"):
        model.fit(X, y)
    assert not hasattr(model, "user_ids_")


def test_implicit_features_would_tell_what_is_to_be_predicted(solver):
    model = implicit(solver, implicit_features=True)
    with pytest.raises(ValueError, match=r"implicit_features=True.*unobserved_weight="):
        model.fit(X)
    expected = implicit(solver, implicit_features=False).fit(X)
    found = implicit(solver).fit(X)
    assert_array_equal(found.predict(EVERY), expected.predict(EVERY))


def test_an_unknown_user_has_chosen_nothing(solver):
    model = implicit(solver).fit(X)
    rows = pd.DataFrame({"user": -1, "item": model.item_ids_})
    _, scores = model.recommend([-1], N_ITEMS, return_scores=True)
    assert_allclose(-np.sort(-model.predict(rows)), scores[0], atol=1e-6)


RATED, RATINGS = make_ratings(40, 25, 500, random_state=0)


@pytest.mark.parametrize("name", ["vb", "gibbs"])
def test_who_rated_what_counts_by_default(name):
    max_iter = 200 if name == "vb" else 3
    model = MFRegressor(3, solver=name, max_iter=max_iter, random_state=0)
    default, same, other = (
        clone(model).set_params(implicit_features=on).fit(RATED, RATINGS).predict(RATED)
        for on in (None, True, False)
    )
    # vb keeps the fit of the lower estimated error, and gibbs begins at its end.
    assert np.array_equal(default, same) or np.array_equal(default, other)
    assert np.abs(same - other).max() > 0.01


def test_als_looks_at_who_rated_what_if_asked_to():
    model = MFRegressor(3, solver="als")
    default, same, other = (
        clone(model).set_params(implicit_features=on).fit(RATED, RATINGS).predict(RATED)
        for on in (None, False, True)
    )
    assert_array_equal(default, same)
    assert np.abs(default - other).max() > 0.01


IMPLICIT_MODELS = {
    "vb": MFRegressor(3),
    "gibbs": MFRegressor(3, solver="gibbs", max_iter=2, random_state=0),
    "als": MFRegressor(3, solver="als", reg=2.0, implicit_features=True),
}


@pytest.fixture(params=IMPLICIT_MODELS)
def implicit_model(request):
    return clone(IMPLICIT_MODELS[request.param])


SMALL = slice(120)


def counterparts(rows, n_rows, n_others, side="user", other="item"):
    """1 / √n of whom each row has ratings with, by numpy."""
    matrix = np.zeros((n_rows, n_others))
    matrix[rows[side], rows[other]] = 1
    return matrix / np.sqrt(matrix.sum(axis=1, keepdims=True))


def test_a_pair_is_one_counterpart_however_often_it_is_rated():
    rows, y = pd.concat([RATED, RATED[::2]]), np.append(RATINGS, RATINGS[::2] % 5 + 1)
    posterior = MFRegressor(2, implicit_features=True).fit(rows, y)._model
    for side, other, shape in (("user", "item", (40, 25)), ("item", "user", (25, 40))):
        found = getattr(posterior, f"{side}s").links["implicit"].feature_mean
        expected = counterparts(RATED, *shape, side, other).mean(axis=0)
        assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.usefixtures("raw_weights")
def test_rows_are_expected_where_their_counterparts_put_them():
    """The conditional of every row, whose prior mean is m + Bᵀf."""
    # Pairs that are rated twice, if not alike, are counterparts once.
    rows, n_shape = pd.concat([RATED, RATED[:150]]), (40, 25)
    y = np.append(RATINGS, RATINGS[:150] % 5 + 1)
    weight = 1.0 + np.arange(len(rows)) % 2
    model = settled(MFRegressor(2, clip=False), rows, y, weight, rounds=5)
    p = model._model
    for side, other, n_rows, n_others in (
        ("user", "item", *n_shape),
        ("item", "user", *n_shape[::-1]),
    ):
        mine, others = (getattr(p, f"{s}s") for s in (side, other))
        B = mine.links["implicit"]
        f = counterparts(rows, n_rows, n_others, side, other)
        f -= f.mean(axis=0)
        f /= np.sqrt((f**2).sum(axis=1).mean())
        prior_mean = mine.prior_mean[0, 0] + f @ B.mean[0].astype(np.float64)
        Lambda = np.linalg.inv(mine.residual_covariance[0].astype(np.float64))
        alpha, _ = mine.relative_precisions(np.arange(n_rows))
        gamma, _ = others.relative_precisions(np.arange(n_others))
        prior_means_matter = np.abs(prior_mean - prior_mean.mean(axis=0)).max()
        assert prior_means_matter > 0.03
        for row in range(n_rows):
            precision, information = Lambda, Lambda @ prior_mean[row]
            for n in np.flatnonzero(rows[side] == row):
                met = rows[other].iloc[n]
                z = others.mean[0, met].astype(np.float64)
                S = others.covariance[0, met].astype(np.float64)
                offset, along = p.centre + z[2], np.append(S[:2, 2], 0)
                z[2], S[2], S[:, 2] = 1, 0, 0
                beta = weight[n] * alpha[row] * gamma[met] / p.noise_variance
                precision = precision + beta * (np.outer(z, z) + S)
                information = information + beta * (z * (y[n] - offset) - along)
            expected = np.linalg.solve(precision, information)
            assert_allclose(mine.mean[0, row], expected, atol=3e-3)


NEW = (RATED["user"] >= 30).to_numpy()


def test_new_users_come_close_to_a_refit():
    model = MFRegressor(3).fit(RATED[~NEW], RATINGS[~NEW])
    refit = clone(model).fit(RATED, RATINGS).predict(RATED[NEW])
    unknown = model.predict(RATED[NEW])
    folded_in = model.partial_fit(RATED[NEW], RATINGS[NEW]).predict(RATED[NEW])
    apart = root_mean_squared_error(refit, folded_in)
    assert apart < root_mean_squared_error(refit, unknown) / 3


@pytest.mark.parametrize("items", [[4, 20], [*range(4, 21)]], ids=["few", "many"])
def test_a_new_user_is_expected_where_its_items_put_it(items):
    model = MFRegressor(3, implicit_features=True).fit(RATED[~NEW], RATINGS[~NEW])
    users = model._model.users
    B = users.links["implicit"]
    # Items of the fit, each rated, one of them twice; and one that it lacks.
    rows = pd.DataFrame({"user": 99, "item": [*items, 20, 777]})
    n, least = len(items) + 1, least_count(RATED[~NEW]["user"])
    f = -B.column_mean.astype(np.float64)
    f[items] += B.scale / np.sqrt(n)
    # Fewer items than those of nearly all users tell less.
    share = min(1, n / least)
    mean = users.prior_mean[0, -1] + np.sqrt(share) * (f @ B.mean[0])
    change = f @ f * B.covariance[0] - B.effect_covariance[0]
    covariance = users.prior_covariance[0, -1] + share * change
    ratings = np.resize([1.0, 5.0, 4.0, 2.0], len(rows))
    after = copied(model).partial_fit(rows, ratings, np.full(len(rows), 1e-9))
    found = after._model.users
    assert_allclose(found.mean[0, -1], mean, rtol=1e-4, atol=1e-5)
    atol = 1e-4 * np.abs(covariance).max()
    assert_allclose(found.covariance[0, -1], covariance, rtol=1e-3, atol=atol)
    assert np.abs(mean - users.prior_mean[0, -1]).max() > 1e-3


AFFINE_MODELS = {
    "vb": MFRegressor(3, clip=False),
    "vb without implicit features": MFRegressor(3, implicit_features=False, clip=False),
    "gibbs": MFRegressor(3, solver="gibbs", max_iter=4, random_state=0, clip=False),
    "als": MFRegressor(3, solver="als", reg=2.0, clip=False),
    "plain als": MFRegressor(3, solver="als", reg=2.0, biased=False, clip=False),
}


@pytest.fixture(params=AFFINE_MODELS)
def affine_model(request):
    return clone(AFFINE_MODELS[request.param])


def unknown_counterpart(model, side, rows, weight, said=None):
    """What a row of a side is predicted to have with an unknown counterpart.

    The counterpart is a typical one, and then has the mean of what sets those apart
    that the row has ratings with, shrunk as far as such means vary by chance.
    """
    p, other = model._model, "item" if side == "user" else "user"
    mine, others = getattr(p, f"{side}s"), getattr(p, f"{other}s")
    k, predicted = p.n_factors, np.full(len(mine.count), p.centre)
    n_draws, ratios, selection = len(mine.mean), [], np.zeros(len(mine.count))
    w = np.zeros((len(mine.count), len(others.count)))
    np.add.at(w, (rows[side], rows[other]), weight)
    for draw in range(n_draws):
        x, z = mine.mean[draw].astype(np.float64), others.mean[draw].astype(np.float64)
        m = (others.prior_mean[draw, -1] + others.cold_offset[draw]).astype(np.float64)
        predicted += (x[:, k:].sum(1) + x[:, :k] @ m[:k] + m[k:].sum()) / n_draws
        apart = z - m
        if said is not None:
            apart = apart - said
        liking = x[:, :k] @ apart[:, :k].T + apart[:, k:].sum(1)
        ratios.append(variance_ratio(liking, w))
        selection += (w * liking).sum(1) / n_draws
    ratio = np.mean(ratios)
    # As many shares of the mean as the row has squares of the noise.
    mean = selection / np.where(w.any(1), w.sum(1), 1)
    return predicted + ratio * mine.count * mean / (1 + ratio * mine.count)


def variance_ratio(liking, w):
    """Variance of means between rows to that within, by the expectations of squares.

    With the variances V = T + S of a row's likings, T of them between rows, and
    counterparts as frequent as among ratings, E[(Σ w l)²] = T (Σ w)² + S Σ w².
    """
    if not w.any():
        return 0.0
    V = (liking**2 * w.sum(0)).sum(1) / w.sum()
    scaled, total = (w * liking).sum(1) ** 2 / V / w.sum(1), w.sum(1)
    chance = (w**2).sum(1) / total
    T = (scaled - chance).sum() / (total - chance).sum()
    return np.clip(T / max(1 - T, T), 0, 1) if T > 0 else 0.0


def selected(rng, share, n_users=40, n_items=25):
    """Rows of which a share are of generous users and bad items, or of neither."""
    is_generous, is_bad = np.arange(n_users) % 2, np.arange(n_items) % 2
    alike = is_generous[:, None] == is_bad
    is_row = rng.random(alike.shape) < np.where(alike, share, 1 - share)
    users, items = np.nonzero(is_row)
    y = 3 + 2 * is_generous[users] - is_bad[items] + rng.normal(size=len(users))
    return pd.DataFrame({"user": users, "item": items}), y


@pytest.mark.parametrize("side", ["user", "item"])
def test_an_unknown_counterpart_is_taken_for_one_of_a_rows_own(affine_model, side):
    rated, y = selected(np.random.default_rng(0), 0.8)
    weight = 1.0 + np.arange(len(rated)) % 2
    model = affine_model.fit(rated, y, weight)
    rows = pd.DataFrame({"user": model.user_ids_, "item": -1})
    if side == "item":
        rows = pd.DataFrame({"user": -1, "item": model.item_ids_})
    found = model.predict(rows)
    assert_allclose(
        found,
        unknown_counterpart(model, side, rated, relative(model, weight)),
        rtol=1e-4,
        atol=1e-4,
    )
    no_more_than_merit = unknown_counterpart(model, side, rated, 0 * weight)
    assert np.abs(found - no_more_than_merit).max() > 0.01


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_an_unknown_user_is_like_those_of_an_item_as_far_as_these_are_alike(share):
    rng = np.random.default_rng(1)
    rows, y = selected(rng, share, n_users=300, n_items=100)
    params = {"implicit_features": False, "rank_by": "rating"}
    model = MFRegressor(0, **params).fit(rows, y)
    ratio = model._model.items.selection_ratio
    # The mean of the users of an item is 2 share - 1 of the deviation from the mean.
    expected = (2 * share - 1) ** 2
    assert ratio == pytest.approx(expected / (1 - expected), abs=0.05)
    new, y_new = selected(rng, share, n_users=300, n_items=100)
    new["user"] = -1
    by_items = model.intercept_ + model.item_biases_[new["item"]]
    by_items += model._model.users.prior_mean[0, -1, 0]
    error, plain = (
        root_mean_squared_error(y_new, p) for p in (model.predict(new), by_items)
    )
    if share == 0.5:
        assert error == pytest.approx(plain, rel=1e-3)
    else:
        assert error < 0.95 * plain


def test_nothing_sets_a_pair_apart_of_which_both_are_unknown(affine_model):
    model = affine_model.fit(RATED, RATINGS)
    p, k = model._model, 3
    m, n = (
        (side.prior_mean[:, -1] + side.cold_offset).astype(float)
        for side in (p.users, p.items)
    )
    expected = (m[:, :k] * n[:, :k]).sum(1) + m[:, k:].sum(1) + n[:, k:].sum(1)
    found = model.predict(pd.DataFrame({"user": [-1], "item": [-1]}))
    assert found[0] == pytest.approx(p.centre + expected.mean(), rel=1e-5, abs=1e-5)


def test_an_unknown_user_is_recommended_what_everybody_would_like(affine_model):
    weight = np.ones(len(RATED))
    model = affine_model.set_params(rank_by="rating").fit(RATED, RATINGS)
    merit = unknown_counterpart(model, "item", RATED, 0 * weight)
    items, scores = model.recommend([-1], 25, return_scores=True)
    assert_allclose(scores[0], merit[items[0]], rtol=1e-4, atol=1e-4)
    assert_allclose(scores[0], -np.sort(-merit), rtol=1e-4, atol=1e-4)


def test_what_describes_users_sets_nobody_apart():
    rng = np.random.default_rng(0)
    traits = pd.DataFrame(rng.normal(size=(42, 2)), columns=["age", "size"])
    y = RATINGS + traits["age"].to_numpy()[RATED["user"]]
    model = MFRegressor(3, clip=False).fit(RATED, y, user_features=traits)
    users = model._model.users
    B = users.links["described"]
    rated = traits[:40]
    standard = (rated - rated.mean()) / rated.std(ddof=0)
    f = B.scale * standard.to_numpy() - B.column_mean
    said = f @ B.mean[0]
    assert np.abs(said).max() > 0.3
    weight = np.ones(len(RATED))
    expected = unknown_counterpart(model, "item", RATED, weight, said)
    rows = pd.DataFrame({"user": -1, "item": model.item_ids_})
    assert_allclose(model.predict(rows), expected, rtol=1e-4, atol=1e-4)


def test_selection_effects_follow_further_ratings():
    model = MFRegressor(3, solver="als", reg=2.0, clip=False)
    model.fit(RATED[~NEW], RATINGS[~NEW])
    items = replace(model._model.items, selection_ratio=0.5)
    model._model = replace(model._model, items=items)
    p, before = model._model, items.selection_effects(np.arange(25))
    model.partial_fit(RATED[NEW], RATINGS[NEW])
    after = model._model.items
    new = RATED[NEW]
    x, z = after.mean[0].astype(float), model._model.users.mean[0].astype(float)
    z = z - model._model.users.cold_offset[0]
    liking = (x[new["item"], :3] * z[new["user"], :3]).sum(1) + z[new["user"], 3]
    total = p.items.selection + np.bincount(new["item"], liking, 25)
    count = np.bincount(RATED["item"], minlength=25)
    found = after.selection_effects(np.arange(25))
    assert after.selection_ratio == p.items.selection_ratio == 0.5
    assert_allclose(found, total / (2 + count), rtol=1e-4, atol=1e-4)
    assert np.abs(found - before).max() > 0.01


@pytest.mark.parametrize("of_users", [True, False])
def test_noise_after_further_choices_is_that_of_all_pairs(of_users):
    u, i = np.nonzero(np.random.default_rng(0).random((60, 40)) < 0.2)
    first = pd.DataFrame({"user": u, "item": i})
    new, known = np.repeat(np.arange(100, 130), 2), np.tile([0, 1], 30)
    further = pd.DataFrame(
        {"user": new, "item": known} if of_users else {"user": known, "item": new}
    )
    params = {"solver": "als", "reg": 1, "unobserved_weight": 0.3, "clip": False}
    model = MFRegressor(3, biased=False, **params).fit(first).partial_fit(further)
    scores = model.user_factors_ @ model.item_factors_.T
    pairs = pd.concat([first, further])
    rows = np.searchsorted(model.user_ids_, pairs["user"])
    columns = np.searchsorted(model.item_ids_, pairs["item"])
    squares = 0.3 * (scores**2).sum() + ((1 - scores[rows, columns]) ** 2).sum()
    expected = np.sqrt(squares / (0.3 * scores.size + len(pairs)))
    assert model.noise_std_ == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("solver", ["als", "vb", "adam"])
def test_further_choices_count_as_those_of_the_fit(solver):
    X, y = make_ratings(40, 25, 500, random_state=0)
    model = MFRegressor(2).fit(X, y).set_params(unobserved_weight=0.3, solver=solver)
    match = "unobserved_weight=0.3" if solver == "adam" else "without unobserved_weight"
    with pytest.raises(ValueError, match=match):
        model.partial_fit(X)
    model.set_params(solver="als").fit(X)
    with pytest.raises(ValueError, match=r"with unobserved_weight, .* 0\.0"):
        model.set_params(unobserved_weight=0.0).partial_fit(X, y)


def test_draws_learn_from_choices_too():
    X, _ = make_ratings(80, 50, 1600, random_state=0)
    params = {"unobserved_weight": 0.3, "clip": False}
    drawn = MFRegressor(4, solver="gibbs", max_iter=20, random_state=0, **params).fit(X)
    found = MFRegressor(4, **params).fit(X)
    assert np.corrcoef(drawn.predict(X), found.predict(X))[0, 1] > 0.9
