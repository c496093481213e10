"""Effects of pairs of user and item that have several rows."""

import numpy as np
import pandas as pd
import pytest
from helpers import unconverged
from numpy.testing import assert_allclose
from scipy.stats import norm
from sklearn.base import clone
from sklearn.metrics import root_mean_squared_error

from skrec import MFRegressor, NCFRegressor
from skrec._data.interactions import Interactions
from skrec._data.sides import Sides
from skrec._pair_effects import Repeats, _best_ratio

RATINGS = MFRegressor(rank_by="rating", clip=False, random_state=0)


def drawn_log(
    seed=0, n=3000, n_users=70, n_items=100, std_of_pairs=1.0, noise=0.5, context=False
):
    """Rows of a log in which few users and items come often, and their ratings."""
    rng = np.random.default_rng(seed)
    users, items = (
        rng.choice(size, n, p=1 / np.arange(1, size + 1) / harmonic(size))
        for size in (n_users, n_items)
    )
    rows = pd.DataFrame({"user": users, "item": items})
    y = rng.normal(size=n_users)[users] / 2 + rng.normal(size=n_items)[items] / 2
    y += std_of_pairs * rng.normal(size=(n_users, n_items))[users, items]
    if context:
        rows["hour"] = rng.normal(size=n)
        y += rows["hour"]
    return rows, np.asarray(y + noise * rng.normal(size=n))


def harmonic(n):
    return (1 / np.arange(1, n + 1)).sum()


def have_met(rows, before):
    """Whether the pairs of rows are among the rows before."""
    known = set(zip(before["user"], before["item"], strict=True))
    return np.array([p in known for p in zip(rows["user"], rows["item"], strict=True)])


def pair_means(X, y, rows):
    """Mean rating of the pair of each row; NaN if it has none."""
    means = X.assign(y=y).groupby(["user", "item"])["y"].mean().rename("mean")
    return rows.merge(means.reset_index(), how="left", on=["user", "item"])["mean"]


@pytest.mark.parametrize(
    "model",
    [
        RATINGS,
        MFRegressor(solver="als"),
        MFRegressor(4, solver="gibbs", max_iter=20, random_state=0),
        MFRegressor(4, solver="adam", random_state=0),
        NCFRegressor(random_state=0),
    ],
    ids=["vb", "als", "gibbs", "adam", "ncf"],
)
def test_pairs_that_repeat_are_predicted_better_than_by_means_and_factors(model):
    X, y = drawn_log()
    X, new, y, truth = X[:2000], X[2000:], y[:2000], y[2000:]
    with unconverged():
        model = clone(model).fit(X, y)
    met = have_met(new, X)
    assert 0.5 < met.mean() < 0.8
    error = root_mean_squared_error(truth[met], model.predict(new[met]))
    of_means = root_mean_squared_error(truth[met], pair_means(X, y, new[met]))
    # With the effects and the noise known, it is 0.55.
    assert error < min(0.6, of_means)
    # Each pair once, as its mean.
    means = X.assign(y=y).groupby(["user", "item"], as_index=False)["y"].mean()
    with unconverged():
        once = clone(model).fit(means[["user", "item"]], means["y"])
    of_factors = root_mean_squared_error(truth[met], once.predict(new[met]))
    assert error < 0.7 * of_factors


@pytest.mark.parametrize("n_users", [1, 60])
def test_a_user_of_one_item_is_predicted_as_often_rated(n_users):
    rng = np.random.default_rng(0)
    n_items = 30 if n_users == 1 else 20
    items = rng.integers(n_items, size=max(n_users, n_items))
    users = np.arange(len(items)) % n_users
    if n_users == 1:
        items = np.arange(n_items)
    level = 3 * rng.normal(size=len(items))
    X = np.column_stack([users, items])
    number = np.repeat(np.arange(len(X)), 20)
    y = level[number] + rng.normal(size=len(number))
    model = clone(RATINGS).fit(X[number], y)
    assert root_mean_squared_error(level, model.predict(X)) < 0.3


@pytest.mark.parametrize("model", [RATINGS, NCFRegressor(random_state=0)])
def test_a_few_pairs_of_many_rows_are_predicted_as_rated(model):
    rng = np.random.default_rng(0)
    X = np.column_stack([np.zeros(200, dtype=int), rng.integers(3, size=200)])
    level = np.array([-1.0, 0.0, 2.0])[X[:, 1]]
    model = clone(model).fit(X, level + 0.05 * rng.normal(size=200))
    assert root_mean_squared_error(level, model.predict(X)) < 0.02


@pytest.mark.parametrize("solver", ["vb", "als"])
@pytest.mark.parametrize("seed", range(3))
def test_pairs_without_effects_have_none(solver, seed):
    X, y = drawn_log(seed, std_of_pairs=0, noise=1)
    model = MFRegressor(1, solver=solver, reg=1.0).fit(X, y)
    effects = model._pair_effects
    assert effects is None or effects.variance < 0.02


@pytest.mark.parametrize("weight", [None, "given"])
def test_copies_of_rows_and_weights_are_no_repeats(weight):
    X, y = drawn_log()
    first = ~X.duplicated()
    X, y = X[first], y[first]
    counts = np.random.default_rng(0).integers(1, 4, size=len(X))
    if weight is None:
        model = clone(RATINGS).fit(X.loc[X.index.repeat(counts)], np.repeat(y, counts))
    else:
        model = clone(RATINGS).fit(X, y, sample_weight=counts)
    assert model._pair_effects is None


def test_other_losses_and_choices_have_no_effects_of_pairs():
    X, y = drawn_log(n=1000)
    for model in (
        MFRegressor(2, solver="adam", loss="huber", random_state=0, max_iter=3),
        MFRegressor(2, solver="als", unobserved_weight=0.1),
        MFRegressor(
            2,
            solver="adam",
            loss="log_loss",
            n_negatives=1,
            choice_threshold=0,
            random_state=0,
            max_iter=3,
        ),
    ):
        with unconverged():
            assert model.fit(X, y)._pair_effects is None


def as_interactions(X, y, weight=None):
    users, items = X["user"].to_numpy(), X["item"].to_numpy()
    ids = Sides(np.arange(users.max() + 1), np.arange(items.max() + 1))
    weight = np.ones(len(y)) if weight is None else weight
    nothing = np.zeros((len(y), 0))
    return Interactions.from_numbers(ids, Sides(users, items), y, weight, nothing)


class Nothing:
    """A model that predicts 0."""

    def predictions(self, users, *arguments):
        return np.zeros(len(users)), None


@pytest.mark.parametrize(("std_of_pairs", "noise"), [(1, 0.5), (0.5, 1), (2, 1)])
def test_the_variances_are_those_that_ratings_are_drawn_with(std_of_pairs, noise):
    rng = np.random.default_rng(0)
    places = np.repeat(rng.permutation(10_000)[:4000], rng.integers(1, 6, size=4000))
    effect = std_of_pairs * rng.normal(size=10_000)
    y = effect[places] + noise * rng.normal(size=len(places))
    X = pd.DataFrame(dict(zip(("user", "item"), np.divmod(places, 100), strict=True)))
    rows = as_interactions(X, y)
    ratio, variance, of_noise = _best_ratio(Repeats.of(rows), Nothing(), "cpu")
    assert variance == pytest.approx(std_of_pairs**2, rel=0.1)
    assert of_noise == pytest.approx(noise**2, rel=0.1)
    assert ratio == pytest.approx(noise**2 / std_of_pairs**2, rel=0.2)


def test_the_ratio_is_the_best_by_brute_force():
    X, y = drawn_log(n=400, n_users=10, n_items=15)
    # Equal rows are one with their number as its weight.
    y = np.round(y)
    rows = as_interactions(X, y)
    ratio, *_ = _best_ratio(Repeats.of(rows), Nothing(), "cpu")

    def cost(ratio):
        total = 0.0
        for _, of_pair in X.assign(y=y).groupby(["user", "item"])["y"]:
            values = of_pair.to_numpy()
            for j in range(len(values) if len(values) > 1 else 0):
                rest = np.delete(values, j)
                predicted = rest.sum() / (len(rest) + ratio)
                total += (values[j] - predicted) ** 2 / len(values)
        return total

    assert len(rows.rating) < len(y)
    assert cost(ratio) < min(cost(0.97 * ratio), cost(1.03 * ratio))


def test_effects_are_expectations_of_a_gaussian():
    X, y = drawn_log(n=800)
    model = clone(RATINGS).fit(X, y)
    effects = model._pair_effects
    noise_variance = effects.ratio * effects.variance
    without = model._model
    users, items = X["user"].to_numpy(), X["item"].to_numpy()
    rows = [
        np.searchsorted(ids, values)
        for ids, values in ((model.user_ids_, users), (model.item_ids_, items))
    ]
    expected, _ = without.predict(*rows, np.zeros((800, 0)), False, "cpu")
    same = (users[:, None] == users) & (items[:, None] == items)
    covariance = effects.variance * same
    solved = np.linalg.solve(covariance + noise_variance * np.eye(800), y - expected)
    assert_allclose(model.predict(X), expected + covariance @ solved, atol=1e-5)


@pytest.mark.parametrize("context", [False, True])
def test_intervals_cover_new_ratings_of_pairs_that_repeat(context):
    X, y = drawn_log(n=6000, context=context)
    model = clone(RATINGS).fit(X[:3000], y[:3000])
    predicted, std = model.predict(X[3000:], return_std=True)
    met = have_met(X[3000:], X[:3000])
    inside = np.abs(y[3000:] - predicted) < norm.ppf(0.95) * std
    assert 0.86 < inside[met].mean() < 0.94
    assert 0.85 < inside[~met].mean() < 0.95
    assert std[met].mean() < 0.7 * std[~met].mean()


def test_the_order_of_rows_and_the_unit_of_weights_do_not_matter():
    X, y = drawn_log(n=1500)
    y = np.round(y)
    expected = clone(RATINGS).fit(X, y).predict(X)
    order = np.random.default_rng(1).permutation(len(X))
    counted = X.assign(y=y).groupby(["user", "item", "y"], as_index=False).size()
    for rows, rating, weight in (
        (X.iloc[order], y[order], None),
        (X, y, np.full(len(X), 0.3)),
        (counted[["user", "item"]], counted["y"], counted["size"]),
    ):
        model = clone(RATINGS).fit(rows, rating, sample_weight=weight)
        assert_allclose(model.predict(X), expected, atol=1e-4)


def scores_of(model, X, lists, scores, by_user=True):
    """Pairs of lists, with the context of X, and their scores."""
    queries = X["user" if by_user else "item"].to_numpy()
    of_queries, others = np.repeat(queries, lists.shape[1]), lists.ravel()
    pairs = (of_queries, others) if by_user else (others, of_queries)
    rows = pd.DataFrame(dict(zip(("user", "item"), pairs, strict=True)))
    for name in X.columns[2:]:
        rows[name] = np.repeat(X[name].to_numpy(), lists.shape[1])
    return rows, scores.ravel()


@pytest.mark.parametrize(
    "model",
    [RATINGS, NCFRegressor(2, rank_by="rating", clip=False, random_state=0)],
    ids=["mf", "ncf"],
)
@pytest.mark.parametrize("context", [False, True])
def test_lists_with_seen_items_are_by_predictions(model, context):
    X, y = drawn_log(n=1500, context=context)
    with unconverged():
        model = clone(model).fit(X, y)
    assert model._pair_effects is not None
    some = X.groupby("user").head(1).iloc[:7]
    given = {"context": some[["hour"]]} if context else {}
    asked = {"exclude_seen": False, "return_scores": True, **given}
    lists = model.recommend(some["user"], 30, **asked)
    rows, scores = scores_of(model, some, *lists)
    assert have_met(rows, X).mean() > 0.05
    assert_allclose(model.predict(rows), scores, atol=1e-5)
    pairs = rows[["user", "item"]]
    of_pairs = model.recommend(some["user"], 30, candidates=pairs, **asked)
    np.testing.assert_array_equal(of_pairs[0], lists[0])
    assert_allclose(of_pairs[1], lists[1], atol=1e-5)
    if not context:
        items = ["item"]
        some = X.groupby(items).head(1).iloc[[3, 5, 3]]
        lists = model.recommend_users(
            some["item"], 10, exclude_seen=False, return_scores=True
        )
        rows, scores = scores_of(model, some, *lists, by_user=False)
        assert have_met(rows, X).mean() > 0.05
        assert_allclose(model.predict(rows), scores, atol=1e-5)


@pytest.mark.parametrize("strategy", ["sample", "lower_bound"])
def test_effects_of_pairs_count_in_lists_that_explore(strategy):
    X, y = drawn_log(n=1500, std_of_pairs=4)
    model = clone(RATINGS).fit(X, y)
    options = {"exclude_seen": False, "return_scores": True, "strategy": strategy}
    user = X["user"].mode()
    lists, scores = model.recommend(user, 100, random_state=0, **options)
    rows, scores = scores_of(model, pd.DataFrame({"user": user}), lists, scores)
    met = have_met(rows, X)
    means = pair_means(X, y, rows[met])
    assert np.corrcoef(means, scores[met])[0, 1] > 0.9


@pytest.mark.parametrize("solver", ["vb", "als"])
def test_reasons_of_ratings_add_up_with_the_rows_of_a_pair_itself(solver):
    X, y = drawn_log(n=1500)
    model = MFRegressor(3, solver=solver, clip=False).fit(X, y)
    mine = (X["user"] == 0).to_numpy()
    items = model.item_ids_
    reasons = model.explain(0, items, part="rating", ratings=(X[mine], y[mine]))
    of_item = reasons.groupby("item")["contribution"].sum()
    expected = model.predict(pd.DataFrame({"user": 0, "item": items}))
    assert_allclose(of_item[items], expected, atol=1e-5)
    own = reasons[reasons["item"] == reasons["because"]].set_index("item")
    often = X[mine]["item"].mode()[0]
    mean = pair_means(X, y, X[mine & (X["item"] == often)]).iloc[0]
    assert own.loc[often, "contribution"] == pytest.approx(mean, abs=0.2)


def test_partial_fit_learns_effects_of_known_and_of_new_pairs():
    X, y = drawn_log(n=5000)
    first, later, new = np.split(np.arange(5000), [1500, 3500])
    whole = clone(RATINGS).fit(X.iloc[:3500], y[:3500])
    model = clone(RATINGS).fit(X.iloc[first], y[first])
    for rows in np.array_split(later, 5):
        model.partial_fit(X.iloc[rows], y[rows])
    error, of_whole = (
        root_mean_squared_error(y[new], m.predict(X.iloc[new])) for m in (model, whole)
    )
    assert error < 1.02 * of_whole
    places = model._seen.take(np.arange(len(model._seen)))
    known = pd.DataFrame(
        {"user": model.user_ids_[places[0]], "item": model.item_ids_[places[1]]}
    )
    means = pair_means(X[:3500], y[:3500], known)
    assert_allclose(model._pair_effects.level, means)
    assert model._pair_effects.weight.sum() == 3500


def test_what_is_forgotten_has_no_effect():
    X, y = drawn_log(n=1500)
    model = clone(RATINGS).fit(X, y)
    pair = X[X["user"] == 0]["item"].mode()[0]
    is_gone = ((X["user"] == 0) & (X["item"] == pair)).to_numpy()
    before = model.predict(X[~is_gone])
    model.forget(X[is_gone], y[is_gone], users=[1])
    assert len(model._pair_effects.level) == len(model._seen)
    left = ~is_gone & (X["user"] != 1).to_numpy()
    after = model.predict(X[left])
    assert_allclose(after, before[left[~is_gone]], atol=0.3)
    # Without an effect it is predicted as a pair that has never met.
    assert not model._seen.contain(
        np.searchsorted(model.user_ids_, [0]), np.searchsorted(model.item_ids_, [pair])
    )


def test_a_fit_without_repeats_forgets_the_effects_of_the_last():
    X, y = drawn_log(n=1000)
    model = clone(RATINGS).fit(X, y)
    first = ~X.duplicated()
    model.fit(X[first], y[first])
    assert model._pair_effects is None
