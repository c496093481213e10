"""The linear autoencoder of choices, by brute force, and lists that it makes."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from helpers import least_count
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skrec import DummyRecommender, MFRegressor
from skrec._choice.autoencoder import ItemAutoencoder
from skrec._choice.content import places_by_content
from skrec._choice.excess import ITEM_DAMPING, USER_DAMPING
from skrec._choice.tastes import (
    FIRST_FACTORS,
    GROUP_GROWTH,
    LEAST_SHRINKAGE,
    N_DEVIATIONS,
    N_FOLDS,
    PRIOR_CHOICES,
)
from skrec._data.interactions import Interactions
from skrec._data.reading import Columns
from skrec.datasets import make_ratings
from skrec.metrics import RankingScorer
from skrec.model_selection import UserHoldout

X, Y = make_ratings(80, 50, 1200, random_state=0)


def interactions(X, y):
    columns = Columns.from_array(np.asarray(X))
    return Interactions.from_columns(columns, np.asarray(y, float), np.ones(len(y)))


def fitted(X, y):
    data = interactions(X, y)
    return data, ItemAutoencoder.fit(data)


def of_tastes():
    """Ratings of items of four kinds, by users that prefer one of them."""
    rng = np.random.default_rng(0)
    likes = np.where(np.arange(120)[:, None] % 4 == np.arange(40) % 4, 0.6, 0.1)
    rows = np.argwhere(rng.random(likes.shape) < likes)
    return rows, rng.integers(1, 6, len(rows))


def brute_force(data, taste_weight):
    """Scores of all pairs, in float64 and by a full eigendecomposition."""
    choices = np.zeros(data.shape)
    choices[data.users, data.items] = 1
    n_u, n_i = choices.sum(1), choices.sum(0)
    low, high = data.rating.min(), data.rating.max()
    gain = np.zeros(data.shape)
    gain[data.users, data.items] = (data.rating - low) / (high - low) + 0.25
    gain /= gain.sum() / choices.sum()
    expected = np.outer(n_u, n_i) / choices.sum()
    damping = n_u[:, None] ** -USER_DAMPING * n_i**-ITEM_DAMPING
    R = (gain - expected) * damping
    V = np.linalg.eigh(R.T @ R)[1][:, ::-1]
    f = factors(gain, damping, n_u, places_by_content(data.seen).user % N_FOLDS)
    V, f = V[:, f >= LEAST_SHRINKAGE], f[f >= LEAST_SHRINKAGE]
    own = V**2 @ f
    noise = np.maximum(least_count(data.users) / n_u, 1)[:, None] * (1 - f)
    inputs = (choices - expected) * n_i**-ITEM_DAMPING
    of_tastes = (inputs @ V * f / (f + noise)) @ V.T * n_i**ITEM_DAMPING / (1 - own)
    return (n_u[:, None] + PRIOR_CHOICES) * n_i / choices.sum() + (
        taste_weight * of_tastes
    )


def factors(gain, damping, n_u, fold):
    """Share that the other items of users left out explain, by a group of ranks."""
    n_items = gain.shape[1]
    sums = np.zeros((3, n_items))
    # There are few choices, so that all users are left out in turns.
    for turn in range(N_FOLDS):
        is_in = fold != turn
        chosen = (gain[is_in] > 0).sum(0)
        R = (gain - np.outer(n_u, chosen / chosen.sum())) * damping
        V = np.linalg.eigh(R[is_in].T @ R[is_in])[1][:, ::-1]
        out = R[~is_in]
        explained = np.zeros(n_items)
        for item in range(n_items):
            rest = np.delete(np.arange(n_items), item)
            alone = out[:, [item]] * V[item]
            explained += (alone * (out[:, rest] @ V[rest])).sum(0)
        total = np.square(out @ V).sum(0)
        of_users = np.square(gain * damping)[~is_in].sum(1)
        variance = np.square(total - explained) * np.square(of_users).sum()
        sums += [explained, 2 * variance / of_users.sum() ** 2, total]
    ends = [0, 1]
    while ends[-1] < n_items:
        ends.append(min(math.ceil(ends[-1] * GROUP_GROWTH), n_items))
    # Neighbours are pooled until factors fall.
    groups = [sums[:, start:end].sum(1) for start, end in itertools.pairwise(ends)]
    sizes = list(np.diff(ends))
    while True:
        f = [explained / total for explained, _, total in groups]
        rising = [g for g in range(len(f) - 1) if f[g] < f[g + 1]]
        if not rising:
            break
        groups[rising[0]] = groups[rising[0]] + groups.pop(rising[0] + 1)
        sizes[rising[0]] += sizes.pop(rising[0] + 1)
    f, of_tastes = [], np.zeros(2)
    for explained, variance, total in groups:
        explained -= N_DEVIATIONS * variance**0.5
        f.append(explained / total)
        of_tastes += (explained > 0) * np.array([explained, total])
    # Sums over all directions are those over all eigenvectors here.
    least = -of_tastes[0] / (sums[2].sum() - of_tastes[1])
    return ((np.repeat(f, sizes) - least) / (1 - least)).clip(0, 1)


def companions(n_users, n_items, seed=0):
    """Items come in pairs, of which most users who pick one also pick the other."""
    rng = np.random.default_rng(seed)
    popularity = np.arange(1, n_items + 1.0) ** -0.7
    users = np.repeat(np.arange(n_users), 3)
    items = rng.choice(n_items, len(users), p=popularity / popularity.sum())
    both = rng.random(len(users)) < 0.6
    users, items = np.r_[users, users[both]], np.r_[items, items[both] ^ 1]
    return np.unique(np.column_stack([users, items]), axis=0)


@pytest.mark.parametrize("n_items", [40, 100])
def test_a_companion_comes_first(n_items):
    rows = companions(1000, n_items)
    # Users of one choice alone, who are new to the fit.
    items = np.arange(n_items)
    model = MFRegressor().fit(rows)
    model.partial_fit(np.column_stack([2000 + items, items]))
    first = model.recommend(2000 + items, 1)[:, 0]
    assert (first == items ^ 1).mean() > 0.95


def gains_of_hidden_companions(n_users, n_items, seed=0):
    """A model of most choices, and what lists gain of the others.

    By the model, and by items' cosines with those of each user, which count less where
    choices are few.
    """
    rows = companions(n_users, n_items, seed)
    is_test = np.random.default_rng(seed + 1).random(len(rows)) < 0.2
    chosen, hidden = np.zeros((2, n_users, n_items))
    chosen[tuple(rows[~is_test].T)] = 1
    hidden[tuple(rows[is_test].T)] = 1
    together = chosen.T @ chosen
    n_choices = together.diagonal().copy()
    np.fill_diagonal(together, 0)
    lengths = np.sqrt(np.outer(n_choices, n_choices)) + 10
    # By counts where there are no neighbours.
    scores = chosen @ (together / lengths) + 1e-9 * n_choices
    scores[chosen > 0] = -np.inf
    neighbours = np.argsort(-scores, axis=1)[:, :10]
    model = MFRegressor().fit(rows[~is_test])
    users = np.flatnonzero(chosen.any(axis=1) & hidden.any(axis=1))
    discount = 1 / np.log2(2 + np.arange(10))
    ours, theirs = (
        hidden[users[:, None], lists] @ discount
        for lists in (model.recommend(users), neighbours[users])
    )
    return model, ours.mean(), theirs.mean()


def test_lists_of_many_bundles_are_as_good_as_those_of_neighbours():
    """There are more pairs of companions than eigenvectors that are found first."""
    model, ours, theirs = gains_of_hidden_companions(6000, 1000)
    assert len(model._model.shrinkage) > FIRST_FACTORS
    assert ours > 0.98 * theirs


def test_lists_of_few_customers_are_as_good_as_those_of_neighbours():
    gains = [gains_of_hidden_companions(50, 60, seed)[1:] for seed in range(20)]
    ours, theirs = np.mean(gains, axis=0)
    assert ours > 0.9 * theirs


def test_scores_are_those_of_the_closed_form():
    data, model = fitted(*of_tastes())
    expected = brute_force(data, model.taste_weight)
    users, items = np.indices(data.shape)
    found, _ = model.predict(users.ravel(), items.ravel(), None, False, "cpu")
    assert 2 < model.item_vectors.shape[1] < 40
    assert_allclose(found.reshape(data.shape), expected, atol=2e-3 * expected.max())


@pytest.mark.parametrize("has_ratings", [True, False])
def test_lists_do_not_depend_on_the_names_of_ids(has_ratings):
    rows, y = of_tastes()
    y = y if has_ratings else None
    rng = np.random.default_rng(0)
    users, items = (rng.permutation(n) for n in rows.max(0) + 1)
    renamed = np.column_stack([users[rows[:, 0]], items[rows[:, 1]]])
    model = MFRegressor(rank_by="choice")
    lists, scores = model.fit(rows, y).recommend(n_items=5, return_scores=True)
    assert len((model._autoencoder or model._model).shrinkage) > 2
    model.fit(renamed, y)
    found, moved = model.recommend(users, 5, return_scores=True)
    assert_allclose(moved, scores, rtol=1e-4, atol=1e-5)
    assert (found == items[lists]).mean() > 0.99


def test_an_unknown_user_has_the_most_chosen_items():
    data, model = fitted(*of_tastes())
    n_choices = np.bincount(model.seen.items)
    strength = model.user_vectors(np.array([-1])) @ model.item_vectors.T
    assert_allclose(strength[0], n_choices / n_choices.sum(), rtol=1e-6)
    everybody = model._inputs(np.arange(data.shape[0]))
    mean = everybody.sum(0) / everybody[:, 0].sum()
    assert_allclose(mean, np.eye(len(mean))[0], atol=1e-5)


@pytest.mark.no_cover
@pytest.mark.parametrize("n_given", [1, 3])
def test_users_with_few_choices_have_better_lists_than_counts(ml_100k, n_given):
    rows, ratings = ml_100k
    rows, ratings = np.asarray(rows)[:, :2], np.asarray(ratings, dtype=float)
    splitter = UserHoldout(5, given=n_given, random_state=0)
    train, test = next(splitter.split(rows))
    scorer = RankingScorer("ndcg", k=10, relevance_threshold=4)
    ours, counts = (
        scorer(model.fit(rows[train], ratings[train]), rows[test], ratings[test])
        for model in (MFRegressor(), DummyRecommender())
    )
    assert ours > 1.15 * counts


def test_a_choice_of_one_item_tells_its_pair():
    # Items are bought in pairs; the last customers have bought the first of one.
    rng = np.random.default_rng(0)
    pairs = np.concatenate([rng.choice(20, 4, replace=False) for _ in range(100)])
    users = np.arange(100).repeat(4)
    first, second = (np.column_stack([users, 2 * pairs + part]) for part in (0, 1))
    visitors = np.column_stack([np.arange(100, 120), 2 * np.arange(20)])
    lists = (
        MFRegressor()
        .fit(np.vstack([first, second, visitors]))
        .recommend(visitors[:, 0], 1)
    )
    assert_array_equal(lists[:, 0], visitors[:, 1] + 1)


def without_tastes(rng, n_users, n_items, n_rows, steepness):
    """Pairs of users, and of items drawn by their popularity alone."""
    popularity = np.arange(1, n_items + 1.0) ** -steepness
    items = rng.choice(n_items, n_rows, p=popularity / popularity.sum())
    return np.unique(
        np.column_stack([rng.integers(n_users, size=n_rows), items]), axis=0
    )


@pytest.mark.parametrize("has_ratings", [False, True])
@pytest.mark.parametrize(
    "shape",
    [(10, 40, 120), (100, 300, 2000), (1000, 300, 3000), (1000, 60, 8000)],
)
@pytest.mark.parametrize("steepness", [0.4, 1.0])
def test_without_tastes_lists_are_those_of_the_most_chosen_items(
    shape, steepness, has_ratings
):
    rng = np.random.default_rng(0)
    rows = without_tastes(rng, *shape, steepness)
    y = np.full(len(rows), 3.0) if has_ratings else None
    lists = MFRegressor().fit(rows, y).recommend(n_items=10)
    popular = DummyRecommender().fit(rows).recommend(n_items=10)
    shared = [len(set(a) & set(b)) for a, b in zip(lists, popular, strict=True)]
    assert np.mean(shared) > 7.5


def test_tastes_of_a_few_choices_are_found():
    rows, _ = of_tastes()
    kinds = MFRegressor().fit(rows).recommend(n_items=5) % 4
    assert (kinds == np.arange(120)[:, None] % 4).mean() > 0.7


def test_an_unknown_item_is_like_those_with_the_fewest_choices():
    rows, y = of_tastes()
    data, model = fitted(rows, y)
    users = np.arange(5)
    n_choices = np.bincount(model.seen.items)
    rare = n_choices == n_choices.min()
    scores = model.user_vectors(users) @ model.item_vectors.T
    found, _ = model.predict(users, np.full(5, -1), None, False, "cpu")
    assert_allclose(found, scores[:, rare].mean(1), rtol=1e-4)
    unknown_last = (
        MFRegressor()
        .fit(rows)
        .recommend([999], 20, candidates=[10**6, *data.item_ids[~rare][:19]])
    )
    assert unknown_last[0, -1] == 10**6


def test_repeated_rows_of_a_pair_are_one_choice_of_their_mean_rating():
    rows, y = of_tastes()
    _, once = fitted(rows, y)
    _, twice = fitted(np.r_[rows, rows[:200]], np.r_[y, y[:200]])
    assert len(once.eigenvalues) > 1
    assert_allclose(twice.eigenvalues, once.eigenvalues, rtol=1e-3)
    assert_array_equal(twice.seen.items, once.seen.items)


@given(
    pairs=st.sets(
        st.tuples(st.integers(0, 6), st.integers(0, 5)), min_size=1, max_size=30
    ),
    seed=st.integers(0, 5),
)
def test_any_choices_have_finite_scores(pairs, seed):
    rows = np.array(sorted(pairs))
    rating = np.random.default_rng(seed).integers(1, 4, len(rows))
    data, model = fitted(rows, rating)
    users, items = np.indices(data.shape)
    scores, _ = model.predict(users.ravel(), items.ravel(), None, False, "cpu")
    assert np.isfinite(scores).all()
    assert np.isfinite(model.user_vectors(np.array([-1]))).all()


def test_choices_need_no_ratings_and_no_parameter():
    model = MFRegressor().fit(X)
    popular = X["item"].value_counts()
    assert model.n_iter_ == 1
    unknown = pd.DataFrame({"user": 10**6, "item": popular.index})
    strength = model.predict(unknown)
    assert np.corrcoef(strength, popular)[0, 1] > 0.7
    items, scores = model.recommend([0], 5, return_scores=True)
    pairs = pd.DataFrame({"user": 0, "item": items[0]})
    assert_allclose(model.predict(pairs), scores[0], rtol=1e-4)
    with pytest.raises(ValueError, match="this fit was of choices alone"):
        model.predict(X, return_std=True)
    with pytest.raises(AttributeError, match="user_factors_"):
        model.user_factors_  # noqa: B018


def test_further_choices_move_lists_as_a_refit_does():
    is_late = (X["user"] >= 60).to_numpy()
    model = MFRegressor().fit(X[~is_late]).partial_fit(X[is_late])
    whole = MFRegressor().fit(X)
    assert_array_equal(model.user_ids_, whole.user_ids_)
    seen = {user: set(rows["item"]) for user, rows in X.groupby("user")}
    found, expected = model.recommend(range(60, 80)), whole.recommend(range(60, 80))
    overlap = []
    for user, ours, theirs in zip(range(60, 80), found, expected, strict=True):
        assert not seen[user] & set(ours)
        overlap.append(len(set(ours) & set(theirs)) / 10)
    assert np.mean(overlap) > 0.6


def test_a_new_item_is_where_those_who_chose_it_put_it():
    rng = np.random.default_rng(0)
    n = 300
    kind = np.arange(n) % 2
    rows = [
        (user, item + 20 * kind[user])
        for user in range(n)
        for item in rng.choice(20, 8, replace=False)
    ]
    model = MFRegressor().fit(rows)
    model.partial_fit([(user, 99) for user in range(0, 80, 2)])
    candidates = [0, 99, 20]
    fans, others = (
        model.recommend([user], 3, candidates=candidates, return_scores=True)
        for user in (100, 101)
    )
    score = {
        side: dict(zip(i[0], s[0], strict=True))
        for side, (i, s) in {"fan": fans, "other": others}.items()
    }
    assert score["fan"][99] > 3 * max(score["other"][99], 0)
    assert score["fan"][99] > score["fan"].get(20, -1)


def arriving(rng, n_users=120, n_items=40, n_late=20):
    """Choices of users by two tastes, of items of which some come late."""
    taste, kind = rng.integers(2, size=n_users), rng.integers(2, size=n_items)
    likes = np.where(taste[:, None] == kind, 0.3, 0.05)
    users, items = np.nonzero(rng.random((n_users, n_items)) < likes)
    rows = np.column_stack([users, items])[rng.permutation(len(users))]
    is_late = rows[:, 1] >= n_items - n_late
    return rows[~is_late], rows[is_late], taste, kind


@given(seed=st.integers(0, 1000), n_calls=st.integers(2, 12))
@settings(max_examples=20)
def test_new_items_are_the_same_after_many_calls_as_after_one(seed, n_calls):
    early, late, _, _ = arriving(np.random.default_rng(seed))
    parts = np.array_split(late, n_calls)
    one, many = (MFRegressor().fit(early) for _ in range(2))
    one.partial_fit(late)
    for part in parts:
        many.partial_fit(part)
    assert_array_equal(many.item_ids_, one.item_ids_)
    ours, theirs = many._model.item_vectors, one._model.item_vectors
    assert_allclose(ours[:, 0], theirs[:, 0], rtol=1e-6)
    # An item is placed anew by the calls that hold it, here by the last.
    last = np.isin(one.item_ids_, parts[-1][:, 1])
    assert_allclose(ours[last], theirs[last], atol=1e-5 * np.abs(theirs).max())


def test_a_new_item_follows_its_later_choices():
    early, _, taste, _ = arriving(np.random.default_rng(0), n_late=0)
    fans, others = np.flatnonzero(taste == 1)[:30], np.flatnonzero(taste == 0)
    # The first to choose it has the other taste.
    model = MFRegressor().fit(early).partial_fit([[others[0], 99]])
    for user in fans:
        model.partial_fit([[user, 99]])
    pairs = [[user, 99] for user in (*np.flatnonzero(taste == 1)[30:], *others[1:])]
    score = model.predict(pairs)
    n_fans = len(pairs) - len(others) + 1
    assert score[:n_fans].mean() > 2 * score[n_fans:].mean()


def test_what_becomes_popular_is_listed():
    rng = np.random.default_rng(1)
    X = rng.integers((300, 30), size=(2000, 2))
    model = MFRegressor().fit(X)
    hit = [[user, 7] for user in range(300, 900)]
    model.partial_fit(hit)
    # A stranger sees it first, as after a fit of all rows, until it is forgotten.
    (lists,) = model.recommend([-1], 3)
    (expected,) = MFRegressor().fit(np.r_[X, hit]).recommend([-1], 3)
    assert lists[0] == expected[0] == 7
    rest = np.setdiff1d(X[:, 1], [7])
    model.forget(np.unique(np.r_[X[X[:, 1] == 7], hit][5:], axis=0))
    assert model.recommend([-1], len(rest))[0][0] != 7
    # Popularity is that of the rows that are left.
    left = model._model
    n_choices = np.bincount(left.seen.items, minlength=30)
    assert_allclose(left.item_vectors[:, 0], n_choices / len(left.seen), rtol=1e-6)


def test_choices_without_tastes_have_lists_and_no_similarity():
    model = MFRegressor().fit([[0, 0], [0, 1], [1, 1], [1, 2], [2, 3], [2, 0]])
    assert model.recommend([0], 2, diversity=0.5).shape == (1, 2)
    with pytest.raises(ValueError, match="the choices of this fit tell of none"):
        model.similar_items([2], 3)


def test_vectors_for_an_index_are_a_copy():
    rows, _ = of_tastes()
    model = MFRegressor().fit(rows)
    scores = model.predict(rows)
    vectors = model.item_index_vectors()
    vectors /= 7
    assert_allclose(model.predict(rows), scores)
