"""The linear autoencoder of choices, by brute force, and lists that it makes."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skrec import MFRegressor, NCFRegressor
from skrec._choice.autoencoder import (
    DAMPING,
    LEAST_EIGENVALUE,
    PRIOR_CHOICES,
    RIDGE,
    ItemAutoencoder,
    _leading_eigenvectors,
)
from skrec._data.interactions import Interactions
from skrec._data.reading import Columns
from skrec.datasets import make_ratings

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


def brute_force(data):
    """Scores of all pairs, in float64 and by a full eigendecomposition."""
    n_users, n_items = data.shape
    choices = np.zeros(data.shape)
    choices[data.users, data.items] = 1
    n_u, n_i = choices.sum(1), choices.sum(0)
    low, high = data.rating.min(), data.rating.max()
    gain = np.zeros(data.shape)
    gain[data.users, data.items] = (data.rating - low) / (high - low) + 0.25
    gain /= gain.sum() / choices.sum()
    A = gain * n_u[:, None] ** -DAMPING * n_i**-DAMPING
    edge = (1 + np.sqrt(n_items / n_users)) ** 2 * np.square(A).sum() / n_items
    w, V = np.linalg.eigh(A.T @ A)
    kept = w >= LEAST_EIGENVALUE * edge
    w, V = w[kept], V[:, kept]
    B = V * (w / (w + RIDGE * edge)) @ V.T
    inputs = choices * n_i**-DAMPING
    inputs += PRIOR_CHOICES * inputs.sum(0) / choices.sum()
    return inputs @ B * n_i**DAMPING / (1 - np.diag(B))


def test_scores_are_those_of_the_closed_form():
    data, model = fitted(*of_tastes())
    expected = brute_force(data)
    users, items = np.indices(data.shape)
    found, _ = model.predict(users.ravel(), items.ravel(), None, False, "cpu")
    assert 2 < model.item_vectors.shape[1] < 40
    assert_allclose(found.reshape(data.shape), expected, atol=2e-3 * expected.max())


def test_an_unknown_user_is_the_mean_choice():
    data, model = fitted(X, Y)
    unknown = model.user_vectors(np.array([-1]))[0]
    everybody = model.user_vectors(np.arange(data.shape[0]))
    n_choices = np.diff(model.seen.offsets)[:, None]
    of_choices = everybody - unknown
    assert_allclose(of_choices.sum(0) / n_choices.sum(), unknown, rtol=1e-3, atol=1e-5)


def test_an_unknown_item_is_like_those_with_the_fewest_choices():
    data, model = fitted(X, Y)
    users = np.arange(5)
    n_choices = np.bincount(model.seen.items)
    rare = n_choices == n_choices.min()
    scores = model.user_vectors(users) @ model.item_vectors.T
    found, _ = model.predict(users, np.full(5, -1), None, False, "cpu")
    assert_allclose(found, scores[:, rare].mean(1), rtol=1e-4)
    unknown_last = (
        MFRegressor()
        .fit(X)
        .recommend([999], 20, candidates=[10**6, *data.item_ids[~rare][:19]])
    )
    assert unknown_last[0, -1] == 10**6


def test_side_features_of_choices_alone_are_warned_of():
    ages = pd.DataFrame({"age": range(80)})
    with pytest.warns(UserWarning, match="Side features tell nothing about choices"):
        model = MFRegressor().fit(X, user_features=ages)
    with pytest.raises(AttributeError, match="not fitted to ratings with"):
        model.feature_effects()
    with pytest.raises(AttributeError, match="coef_' after a fit of choices without y"):
        model.coef_  # noqa: B018
    new = pd.DataFrame({"age": [30]}, index=[999])
    with pytest.raises(ValueError, match="no profile of users without rows"):
        model.similar_users([999], user_features=new)


def test_repeated_rows_of_a_pair_are_one_choice_of_their_mean_rating():
    again = np.flatnonzero(Y == Y)[:200]
    rows = pd.concat([X, X.iloc[again]], ignore_index=True)
    _, once = fitted(X, Y)
    _, twice = fitted(rows, np.append(Y, Y[again]))
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


def test_parts_that_do_not_match_are_refused_in_words():
    model = MFRegressor(2).fit(X, Y)
    with pytest.raises(ValueError, match="as the last fit had them, but y is None"):
        model.partial_fit(X[:3])


@pytest.mark.parametrize("model", [MFRegressor(), NCFRegressor()])
def test_numbers_tell_nothing_about_choices_alone(model):
    rows = X.assign(amount=np.arange(len(X)) % 7)
    message = r"Columns of numbers in X \('amount'\) tell nothing about choices"
    with pytest.warns(UserWarning, match=message):
        found = model.fit(rows).predict(rows)
    assert_array_equal(found, model.fit(X).predict(X))


def planted(spectrum, n_rows=400, n_columns=300):
    """A sparse matrix by its singular values, and its right singular vectors."""
    rng = np.random.default_rng(0)
    U, V = (
        np.linalg.qr(rng.normal(size=(n, len(spectrum))))[0]
        for n in (n_rows, n_columns)
    )
    A = (U * spectrum) @ V.T
    return sparse.csr_array(A.astype(np.float32)), V


@pytest.mark.parametrize("n_large", [1, 30, 90])
def test_leading_eigenvectors_of_a_matrix_of_many_columns(n_large):
    spectrum = np.append(np.linspace(20, 4, n_large), np.linspace(2, 0.1, 150))
    A, V = planted(spectrum)
    values, vectors = _leading_eigenvectors(A, 9.0, 300)
    assert_allclose(values, spectrum[:n_large] ** 2, rtol=1e-4)
    assert_allclose(vectors.T @ vectors, np.eye(n_large), atol=1e-5)
    assert_allclose(np.abs((vectors * V[:, :n_large]).sum(0)), 1, atol=1e-2)


@pytest.mark.parametrize("rank", [1, 20, 64, 70])
def test_eigenvectors_end_with_the_rank(rank):
    A, V = planted(np.full(rank, 3.0))
    values, vectors = _leading_eigenvectors(A, 1e-3, 300)
    assert len(values) == rank
    assert_allclose(values, 9, rtol=1e-4)
    assert_allclose(vectors @ vectors.T, V @ V.T, atol=1e-4)
