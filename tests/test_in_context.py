"""Lists in a context: scores, containers of contexts, and errors."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers import copied, small_ncf
from numpy.testing import assert_allclose, assert_array_equal

from skrec import MFRegressor
from skrec._choice.gain import Gain

N_USERS, N_ITEMS = 30, 12
SEASONS = np.array(["autumn", "spring", "summer", "winter"])
ASKED = [1, 2, 99]


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    u, i, s = (rng.integers(n, size=900) for n in (N_USERS, N_ITEMS, 4))
    hour, is_free = rng.integers(24, size=900), rng.random(900) < 0.5
    X = pd.DataFrame(
        {"user": u, "item": i, "hour": hour, "season": SEASONS[s], "free": is_free}
    )
    y = 3 + rng.normal(size=(N_ITEMS, 4))[i, s] + 0.02 * hour
    return X, y + rng.normal(size=N_USERS)[u] + 0.3 * rng.normal(size=900)


@pytest.fixture(scope="module", params=["vb", "als", "gibbs", "adam"])
def model(rows, request):
    params = {"max_iter": 8} if request.param == "gibbs" else {}
    model = MFRegressor(2, solver=request.param, random_state=0, clip=False, **params)
    return model.fit(*rows)


@pytest.fixture
def by_rating(model):
    return copied(model).set_params(rank_by="rating")


def scores_of(model, context, users=ASKED, **options):
    """Scores of all items, in the order of their ids."""
    items, scores = model.recommend(
        users,
        N_ITEMS,
        exclude_seen=False,
        context=context,
        return_scores=True,
        **options,
    )
    return np.take_along_axis(scores, items.astype(int).argsort(axis=1), axis=1)


WINTER = {"hour": 3, "season": "winter", "free": True}
CONTEXTS = {
    "names": WINTER,
    "another order": dict(reversed(WINTER.items())),
    "values": [3, "winter", True],
    "series": pd.Series(WINTER),
    "row": np.array([[3, "winter", True]], dtype=object),
    "rows": [[3, "winter", True]] * 3,
    "frame": pd.DataFrame([WINTER] * 3),
    "polars": pl.DataFrame([WINTER] * 3),
    "lists": {"hour": [3] * 3, "season": ["winter"] * 3, "free": [True]},
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
def test_scores_are_the_predictions_in_the_context(by_rating, context):
    asked = pd.DataFrame(
        {
            "user": np.repeat(ASKED[:2], N_ITEMS),
            "item": np.tile(np.arange(N_ITEMS), 2),
            **WINTER,
        }
    )
    scores = scores_of(by_rating, context)
    assert_allclose(scores[:2].ravel(), by_rating.predict(asked), atol=1e-5)


def test_each_user_may_have_a_context_and_a_user_several(by_rating):
    context = {"season": ["winter", "summer", "monsoon"]}
    scores = scores_of(by_rating, context, users=[4, 4, 4])
    for row, season in zip(scores, context["season"], strict=True):
        alone = scores_of(by_rating, {"season": season}, users=[4])
        assert_allclose(row, alone[0], atol=1e-6)
    # A value that fit has not seen has no effect, and neither has none.
    assert_allclose(scores[2], scores_of(by_rating, None, users=[4])[0], atol=1e-6)
    assert not np.allclose(scores[0] - scores[0].mean(), scores[1] - scores[1].mean())
    tall = by_rating.recommend(
        [4] * 1000, 3, context={"season": np.resize(SEASONS, 1000)}
    )
    assert_array_equal(tall[:4], tall[-4:])


def test_numbers_move_scores_by_their_slopes(by_rating):
    early, late, mean = (
        scores_of(by_rating, context) for context in ({"hour": 0}, {"hour": 10}, None)
    )

    def slopes(side, ids=None):
        return by_rating.factors_frame(side, ids)["slope_hour"].to_numpy()

    # An unknown user has the slopes of the items alone.
    of_unknown = by_rating.coef_[0] + slopes("item")
    assert_allclose((late - early)[2], 10 * of_unknown, atol=1e-5)
    of_users = slopes("user", ASKED[:2])
    assert_allclose(
        (late - early)[:2], 10 * (of_unknown + of_users[:, None]), atol=1e-5
    )
    center = by_rating._model.units.feature_mean[0]
    assert_allclose(early + (late - early) * center / 10, mean, atol=1e-5)


def test_candidates_of_each_user_are_scored_in_the_context(by_rating):
    pairs = [[1, 3], [1, 5], [2, 3], [2, 4]]
    items, scores = by_rating.recommend(
        [2, 1],
        2,
        candidates=pairs,
        context={"season": ["winter", "summer"]},
        exclude_seen=False,
        return_scores=True,
    )
    for row, (user, season) in enumerate(((2, "winter"), (1, "summer"))):
        every = scores_of(by_rating, {"season": season}, users=[user])[0]
        assert_allclose(scores[row], every[items[row].astype(int)], atol=1e-6)


def test_the_part_of_choices_stays_and_the_part_of_ratings_is_in_context(model):
    alike = scores_of(model, {"season": "winter", "hour": 3, "free": True}, [1, 2])
    plain = scores_of(model, None, [1, 2])
    assert not np.allclose(alike, plain)
    # Of equal ratings, the strengths of choices are left.
    choices = copied(model).set_params(rank_by="choice")
    with pytest.raises(ValueError, match="these lists do not depend on it"):
        choices.recommend([1], 2, context=WINTER)
    strengths = scores_of(choices, None, [1, 2])
    ratings = scores_of(copied(model).set_params(rank_by="rating"), WINTER, [1, 2])
    gain = Gain.of(model._autoencoder.ratings)
    assert gain.power < 1
    gain = np.clip((ratings - gain.low) / gain.span, 0, 1) ** gain.power + 0.25
    expected = np.where(strengths > 0, strengths * gain, strengths / gain)
    assert_allclose(alike, expected, atol=1e-5)


def test_draws_are_in_the_context_and_bounds_are_not(rows):
    model = MFRegressor(2, rank_by="rating").fit(*rows)
    draws = [
        scores_of(model, WINTER, [1], strategy="sample", random_state=seed)[0]
        for seed in range(60)
    ]
    assert_allclose(np.mean(draws, axis=0), scores_of(model, WINTER, [1])[0], atol=0.2)
    with pytest.raises(ValueError, match="strategy='mean' or 'sample'"):
        model.recommend([1], 2, context=WINTER, strategy="lower_bound")


def variances(posterior, users, items):
    """Var[b + c + p·q] with the levels of both rows beside context, by loops."""
    total, k = np.empty((len(users), len(items))), posterior.n_factors
    columns = posterior.columns
    for place in np.ndindex(total.shape):
        u, i = users[place[0]], items[place[1]]
        (x, S), (z, T) = (
            (rows.mean[0, n], rows.covariance[0, n])
            if n >= 0
            else (rows.prior_mean[0, -1], rows.prior_covariance[0, -1])
            for rows, n in ((posterior.users, u), (posterior.items, i))
        )
        x, z = (np.append(row[:k], 1).astype(float) for row in (x, z))
        total[place] = z @ S @ z + x @ T @ x + (S[:k, :k] * T[:k, :k]).sum()
        total[place] += sum(c.users.levels.variance[u] for c in columns)
        total[place] += sum(c.items.levels.variance[i] for c in columns)
    return total


def test_bounds_and_draws_without_context_know_the_levels_beside_it(rows):
    X, y = rows
    model = MFRegressor(2, rank_by="rating").fit(X[: len(X) // 2], y[: len(X) // 2])
    model.partial_fit(
        pd.DataFrame({**WINTER, "user": [70], "item": [5]})[X.columns], [3]
    )
    posterior, asked = model._model, [1, 70, 99]
    users, items = np.array([1, N_USERS, -1]), np.arange(N_ITEMS)
    for column in posterior.columns:
        assert column.users.levels.variance[users[0]] > 1e-3
    expected = variances(posterior, users, items)
    mean = scores_of(model, None, asked)
    bound = scores_of(model, None, asked, strategy="lower_bound")
    assert_allclose(mean - bound, np.sqrt(expected), rtol=1e-4)
    generator, draws = np.random.RandomState(0), np.empty((700, *expected.shape))
    for scores in draws:
        drawn = posterior.draw(users, items, generator)
        out = torch.empty(expected.shape)
        drawn.scorer(users, items, "cpu")(slice(None))(slice(0, N_ITEMS), out)
        scores[:] = drawn.scores_to_ratings(out.numpy(), users)
    assert_allclose(draws.mean(0), mean, atol=0.1 * np.sqrt(expected.max()))
    assert_allclose(draws.var(0), expected, rtol=0.25)


@pytest.mark.parametrize("solver", ["vb", "gibbs"])
def test_bounds_are_at_the_mean_of_numbers(rows, solver):
    """There they are the predictions minus their deviations without noise."""
    X, y = rows[0][["user", "item", "hour"]][:200], rows[1][:200]
    model = MFRegressor(2, solver=solver, rank_by="rating", clip=False, random_state=0)
    if solver == "gibbs":
        model.set_params(max_iter=5)
    model.fit(X, y)
    users, items = np.indices((2, N_ITEMS)).reshape(2, -1)
    where = {"user": users, "item": items, "hour": model._model.units.feature_mean[0]}
    mean, std = model.predict(pd.DataFrame(where), return_std=True)
    relative = (
        side.relative_variances(numbers)
        for side, numbers in ((model._model.users, users), (model._model.items, items))
    )
    noise = model.noise_std_**2 * np.prod(list(relative), axis=0)
    bound = scores_of(model, None, [0, 1], strategy="lower_bound")
    assert_allclose(bound.ravel(), mean - np.sqrt(std**2 - noise), rtol=1e-4)


WRONG = {
    "another column": ({"month": 1}, ValueError, "no column 'month'.*'hour', 'season'"),
    "too few users": ({"season": ["winter"] * 2}, ValueError, "has 2 for 3 users"),
    "no number": ({"hour": "noon"}, ValueError, "'hour' of context must hold finite"),
    "no string": ({"season": 3}, TypeError, "'season' of context holds.*'number'"),
    "too few values": (["winter"], ValueError, "a value for each of 'hour', 'season'"),
    "missing": ({"season": None}, ValueError, "'season' of context is missing"),
}


@pytest.mark.parametrize(("context", "error", "match"), WRONG.values(), ids=WRONG)
def test_wrong_contexts_are_refused_in_words(by_rating, context, error, match):
    with pytest.raises(error, match=match):
        by_rating.recommend(ASKED, 2, context=context)


def test_unknown_values_are_handled_as_unknown_users_are(by_rating):
    by_rating.set_params(handle_unknown="error")
    with pytest.raises(ValueError, match=r"unknown values of 'season'.*'monsoon'"):
        by_rating.recommend([1], 2, context={"season": "monsoon"})


def test_models_without_context_refuse_it(rows):
    X, y = rows
    with pytest.raises(ValueError, match="fitted to users and items only"):
        MFRegressor(2).fit(X[["user", "item"]], y).recommend(context=[3])
    choices = small_ncf(rank_by="choice").fit(X, y)
    with pytest.raises(ValueError, match="Leave context out"):
        choices.recommend([1], context=WINTER)
    # Numbers alone are context too.
    numeric = MFRegressor(2, rank_by="rating").fit(X[["user", "item", "hour"]], y)
    hourly = numeric.coef_[0] + numeric.factors_frame("item")["slope_hour"]
    assert_allclose(
        (scores_of(numeric, [5]) - scores_of(numeric, {"hour": 4}))[-1],
        hourly,
        atol=1e-5,
    )
