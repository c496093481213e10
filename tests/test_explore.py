"""Lists by draws from the posterior, by lower bounds, and diversified ones."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skrec import DummyRecommender, MFRegressor, NCFRegressor
from skrec._explore import diversified
from skrec.datasets import make_ratings

X, Y = make_ratings(60, 30, 900, random_state=0)
VB = MFRegressor(3, rank_by="rating").fit(X, Y)
GIBBS = MFRegressor(2, rank_by="rating", solver="gibbs", max_iter=30, random_state=0)
GIBBS.fit(X, Y)
BOTH = MFRegressor(3).fit(X, Y)


def table(model, users, strategy, seed=None, n_items=30):
    """Scores of the first items by id, a row for each user."""
    lists, scores = model.recommend(
        users,
        n_items,
        strategy=strategy,
        random_state=seed,
        exclude_seen=False,
        return_scores=True,
    )
    return np.take_along_axis(scores, np.argsort(lists, axis=1), axis=1)


def moments(model, user):
    """Mean and variance of the expected ratings of all items, without noise."""
    items = model.item_ids_
    pairs = pd.DataFrame({"user": user, "item": items})
    mean, std = model.set_params(clip=False).predict(pairs, return_std=True)
    users, columns = np.full(len(items), user), np.arange(len(items))
    posterior = model._model
    relative = posterior.users.relative_variances(users)
    relative = relative * posterior.items.relative_variances(columns)
    return mean, std**2 - posterior.noise_variance * relative


@pytest.mark.parametrize("model", [VB, GIBBS], ids=["vb", "gibbs"])
def test_draws_have_the_moments_of_the_posterior(model):
    draws = np.array([table(model, [4], "sample", seed)[0] for seed in range(600)])
    mean, variance = moments(model, 4)
    std = np.sqrt(variance)
    assert (np.abs(draws.mean(axis=0) - mean) < 5 * std / np.sqrt(600)).all()
    assert_allclose(draws.std(axis=0), std, rtol=0.12)


def test_an_item_is_first_as_often_as_it_is_best_in_the_posterior():
    rng, rows = np.random.default_rng(0), VB._model
    p, q = (
        np.stack(
            [
                rng.multivariate_normal(m, c, 6000)
                for m, c in zip(
                    side.mean[0][some], side.covariance[0, some], strict=True
                )
            ]
        )
        for side, some in ((rows.users, np.array([7])), (rows.items, np.arange(30)))
    )
    ratings = np.einsum("udk,idk->di", p[..., :3], q[..., :3]) + q[..., 3].T
    expected = np.bincount(ratings.argmax(axis=1), minlength=30) / 6000
    first = [
        VB.recommend(
            [7], 1, strategy="sample", random_state=seed, exclude_seen=False
        ).item()
        for seed in range(600)
    ]
    frequency = np.bincount(first, minlength=30) / 600
    assert np.count_nonzero(expected > 0.02) >= 3
    assert_allclose(frequency, expected, atol=0.06)


@pytest.mark.parametrize("model", [VB, GIBBS, BOTH], ids=["vb", "gibbs", "both"])
def test_a_seed_gives_the_same_lists_and_another_seed_others(model):
    first, again, other = (
        model.recommend(n_items=5, strategy="sample", random_state=seed)
        for seed in (1, np.random.RandomState(1), 2)
    )
    assert_array_equal(first, again)
    assert (first != other).any()


def test_one_draw_of_an_item_serves_all_users():
    biases = MFRegressor(0, rank_by="rating").fit(X, Y)
    scores = table(biases, [1, 5, 9, 5], "sample", seed=3)
    # Without factors, lists differ by the bias of the user alone.
    assert_allclose(scores - scores[:, :1], scores[[0] * 4] - scores[0, 0], atol=1e-5)
    assert_array_equal(scores[1], scores[3])
    assert np.ptp(scores[:, 0]) > 1e-3


@pytest.mark.parametrize("model", [VB, GIBBS], ids=["vb", "gibbs"])
def test_lower_bounds_are_predictions_minus_their_standard_deviation(model):
    for user, bounds in zip((0, 8), table(model, [0, 8], "lower_bound"), strict=True):
        mean, variance = moments(model, user)
        assert_allclose(bounds, mean - np.sqrt(variance), rtol=1e-5)


def test_scores_of_both_parts_are_strength_times_the_gain_of_the_explored_rating():
    low, high = BOTH._autoencoder.ratings.range
    strength = table(MFRegressor(3, rank_by="choice").fit(X, Y), [5], "mean")[0]
    for strategy in ("sample", "lower_bound"):
        rating = table(VB, [5], strategy, seed=0)[0].clip(low, high)
        gain = (rating - low) / (high - low) + 0.25
        expected = np.where(strength > 0, strength * gain, strength / gain)
        assert_allclose(table(BOTH, [5], strategy, seed=0)[0], expected, rtol=1e-3)


@pytest.mark.parametrize("strategy", ["sample", "lower_bound"])
@pytest.mark.parametrize("model", [VB, GIBBS, BOTH], ids=["vb", "gibbs", "both"])
def test_tiles_do_not_matter(model, strategy, monkeypatch):
    expected = table(model, None, strategy, seed=0)
    lists = model.recommend(n_items=4, diversity=0.5)
    monkeypatch.setattr("skrec._topk.MAX_TILE_ROWS", 7)
    monkeypatch.setattr("skrec._topk.MAX_TILE_COLUMNS", 11)
    monkeypatch.setattr("skrec._alternating.rows.DRAW_SIZE", 50)
    monkeypatch.setattr("skrec._alternating.posterior.TABLE_SIZE", 50)
    monkeypatch.setattr("skrec._explore.TILE_SIZE", 100)
    assert_allclose(table(model, None, strategy, seed=0), expected, rtol=1e-5)
    assert_array_equal(model.recommend(n_items=4, diversity=0.5), lists)


@pytest.mark.parametrize("model", [VB, GIBBS], ids=["vb", "gibbs"])
def test_unknown_users_have_the_uncertainty_of_the_prior(model):
    options = {"exclude_seen": False, "return_scores": True}
    known, unknown = (
        np.std(
            [
                model.recommend(
                    [user], 30, strategy="sample", random_state=seed, **options
                )[1].mean()
                for seed in range(300)
            ]
        )
        for user in (4, 999)
    )
    prior = model._model.users.prior_covariance[:, -1, -1, -1].mean()
    assert known < unknown
    assert_allclose(unknown, np.sqrt(prior), rtol=0.25)


@pytest.mark.parametrize("strategy", ["sample", "lower_bound"])
@pytest.mark.parametrize(("scale", "shift"), [(1e-6, 0), (1e9, 0), (50, -300)])
def test_explored_scores_move_with_the_units_of_ratings(strategy, scale, shift):
    expected = scale * table(VB, [1, 2], strategy, seed=0) + shift
    model = MFRegressor(**VB.get_params()).fit(X, scale * Y + shift)
    found = table(model, [1, 2], strategy, seed=0)
    assert_allclose(found, expected, atol=2e-3 * scale)


@pytest.mark.parametrize("strategy", ["sample", "lower_bound"])
def test_ratings_of_one_call_are_explored_as_after_partial_fit(strategy):
    rows = pd.DataFrame({"user": 99, "item": range(20)}), np.linspace(1, 5, 20)
    options = {"strategy": strategy, "random_state": 0, "return_scores": True}
    visitor = VB.recommend(ratings=rows, **options)
    model = MFRegressor(3, rank_by="rating").fit(X, Y).partial_fit(*rows)
    for found, expected in zip(visitor, model.recommend([99], **options), strict=True):
        assert_array_equal(found, expected)


def test_a_described_newcomer_is_drawn_about_its_prediction():
    features = pd.DataFrame({"odd": np.arange(60) % 2})
    model = MFRegressor(2, rank_by="rating").fit(X, Y, user_features=features)
    new = pd.DataFrame({"odd": [1]}, index=[99])
    options = {"user_features": new, "exclude_seen": False, "return_scores": True}
    _, expected = model.recommend([99], 30, **options)
    draws = np.array(
        [
            model.recommend([99], 30, strategy="sample", random_state=seed, **options)[
                1
            ]
            for seed in range(300)
        ]
    )
    assert draws.std(axis=0).min() > 0.05
    assert abs(draws.mean() - expected.mean()) < 5 * draws.mean(axis=2).std() / 300**0.5


def test_no_diversity_is_the_plain_list():
    plain = BOTH.recommend(n_items=6, return_scores=True)
    for found, expected in zip(
        BOTH.recommend(n_items=6, diversity=0, return_scores=True), plain, strict=True
    ):
        assert_array_equal(found, expected)
    # A weight too small to matter changes nothing either.
    assert_array_equal(BOTH.recommend(n_items=6, diversity=1e-9), plain[0])


def test_diversity_spreads_lists_over_kinds():
    rng = np.random.default_rng(0)
    kind = np.arange(40) % 4
    # Customers buy of one kind mostly, and sometimes of others.
    taste = np.where(kind == np.arange(200)[:, None] % 4, 1, 0.08)
    log = np.argwhere(rng.random((200, 40)) < 0.5 * taste)
    model = MFRegressor().fit(log)
    n_kinds = [
        np.mean(
            [len(set(row)) for row in kind[model.recommend(n_items=4, diversity=d)]]
        )
        for d in (0, 0.5, 1)
    ]
    assert n_kinds == sorted(n_kinds)
    assert n_kinds[2] > n_kinds[0] + 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 8), st.floats(0, 1))
def test_lists_are_those_of_maximal_marginal_relevance(
    seed, n_candidates, n, diversity
):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(12, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = -np.sort(-rng.normal(size=(1, n_candidates)))
    best = rng.permutation(12)[None, :n_candidates]
    found, of_found = diversified(best, scores, vectors, n, diversity)

    span = np.ptp(scores) or 1
    relevance = dict(zip(best[0], (scores[0] - scores.min()) / span, strict=True))
    taken = []
    for _ in range(min(n, n_candidates)):
        value = {
            i: (1 - diversity) * s
            - diversity * max((vectors[i] @ vectors[j] for j in taken), default=0)
            for i, s in relevance.items()
            if i not in taken
        }
        # Of two as good, rounding may prefer either.
        place = found[0, len(taken)]
        assert value[place] >= max(value.values()) - 1e-9
        taken.append(place)
    assert (found[0, len(taken) :] == -1).all()
    assert (of_found[0, len(taken) :] == -np.inf).all()
    known = dict(zip(best[0], scores[0], strict=True))
    assert_array_equal(of_found[0, : len(taken)], [known[i] for i in taken])


def test_diversified_lists_leave_out_what_plain_ones_do():
    model, seen = BOTH, set(map(tuple, X.to_numpy()))
    frame = model.recommend(n_items=12, diversity=0.7, as_frame=True)
    assert not frame.duplicated(["user", "item"]).any()
    assert not seen & set(zip(frame["user"], frame["item"], strict=True))
    n_left = 30 - X.groupby("user")["item"].nunique()
    counts = frame.groupby("user").size()
    assert_array_equal(counts, n_left[counts.index].clip(upper=12))
    lists = model.recommend(n_items=40, diversity=0.7, exclude_seen=False)
    assert lists.shape == (60, 40)
    assert_array_equal(np.sort(lists[0, :30].astype(int)), np.arange(30))
    assert pd.isna(lists[:, 30:].astype(object)).all()


@pytest.mark.parametrize("strategy", ["sample", "lower_bound"])
@pytest.mark.parametrize(
    ("estimator", "y"),
    [
        (MFRegressor(2, solver="als"), Y),
        (MFRegressor(2, store_covariance=False), Y),
        (MFRegressor(2, rank_by="choice"), Y),
        (MFRegressor(), None),
        (NCFRegressor(2, n_members=1, max_iter=1, random_state=0), Y),
        (DummyRecommender(), None),
    ],
    ids=["als", "means", "by choice", "choices", "network", "counts"],
)
def test_models_without_a_posterior_refuse_to_explore(estimator, y, strategy):
    model = estimator.fit(X, y)
    with pytest.raises(ValueError, match=f"strategy='{strategy}' needs a posterior"):
        model.recommend([3], strategy=strategy)
    assert model.recommend([3]).shape == (1, 10)


def test_models_without_profiles_refuse_diversity():
    with pytest.raises(ValueError, match="no vectors to compare"):
        DummyRecommender().fit(X).recommend([3], diversity=0.5)


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        ({"strategy": "thompson"}, ValueError, "strategy must be 'mean', 'sample'"),
        ({"strategy": None}, ValueError, "got None"),
        ({"diversity": 1.5}, ValueError, "diversity must be from 0 to 1"),
        ({"diversity": np.nan}, ValueError, "diversity=0.3, got nan"),
        ({"diversity": "much"}, TypeError, "diversity must be a number, got 'much'"),
        ({"diversity": True}, TypeError, "got True"),
        ({"random_state": "seed"}, ValueError, "cannot be used to seed"),
    ],
)
def test_wrong_arguments_are_refused(argument, error, message):
    with pytest.raises(error, match=message):
        BOTH.recommend([3], **argument)
