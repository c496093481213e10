"""The fitted network: cold rows, conversion to weights, and tiles."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import small_ncf
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skrec._data.interactions import FurtherRows
from skrec._data.vocabulary import Growth
from skrec._gradient.fitted import NetworkConversion
from skrec._gradient.network import TABLES, feature_name
from skrec.datasets import make_ratings

X, Y = make_ratings(30, 20, 300, random_state=0)
AGES = pd.DataFrame({"age": np.arange(30) / 7, "old": np.arange(30) > 20})
ARCHITECTURES = ("neumf", "gmf", "mlp")


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    return small_ncf(architecture=request.param).fit(X, Y, user_features=AGES)._model


def predict(model, users, items=None):
    users = np.asarray(users)
    items = np.arange(len(users)) if items is None else items
    return model.predict(users, items, np.zeros((len(users), 0)), False, "cpu")[0]


def test_a_cold_row_is_the_mean_row_moved_by_its_features(model):
    features = np.array([[0.5, 1.0], [-2.0, 0.0]])
    cold = model.with_cold_rows(sparse.csr_array(features), None)
    assert cold.shape.n_users == model.shape.n_users + 2
    weights = model.weights.copy()
    for j in range(2):
        away = features[j] - weights["user_feature_mean"]
        moved = dict(weights)
        for name in weights.keys() & set(TABLES["user"]):
            row = weights[name][-1].copy()
            for f, coef in zip(away, weights[feature_name(name)], strict=True):
                row += f * coef
            moved[name] = np.concatenate([weights[name][:-1], row[None]])
        expected = predict(replace(model, weights=moved), np.full(20, -1))
        assert_allclose(predict(cold, np.full(20, -2 - j)), expected, rtol=1e-6)
    # The other rows are where they were.
    for row in (-1, 0, 29):
        users = np.full(20, row)
        assert_array_equal(predict(cold, users), predict(model, users))


def test_weights_of_numbered_rows_and_the_unseen_are_those_of_the_model(model):
    conversion = NetworkConversion()
    assert conversion.shape(model) == model.shape
    users, items = np.array([7, 3, -1]), np.array([2])
    weights = conversion.weights(model, users, items)
    for side, rows in (("user", users), ("item", items)):
        for name in weights.keys() & set(TABLES[side]):
            assert_array_equal(weights[name], model.weights[name][[*rows, -1]])
    # New arrays, which training may change.
    for name in TABLES["user"]:
        if name in weights:
            weights[name][:] = 0
            assert model.weights[name].any()


def test_an_update_inserts_new_rows_and_leaves_the_others(model):
    users = Growth.of(np.arange(30), np.array([4, 30]), np.array([4, -1]))
    items = Growth.of(np.arange(20), np.array([5]), np.array([5]))
    rng = np.random.default_rng(0)
    tables = {
        side: {
            name: rng.normal(
                size=(len(growth.given), *model.weights[name].shape[1:])
            ).astype(np.float32)
            for name in model.weights.keys() & set(TABLES[side])
        }
        for side, growth in (("user", users), ("item", items))
    }
    further = FurtherRows(None, None, None, (None, None), (users, items), None)
    updated = NetworkConversion().updated(model, tables, further, (0.0, 9.0))
    assert (updated.shape.n_users, updated.shape.n_items) == (31, 20)
    assert updated.rating_range == (0.0, 9.0)
    for side, growth in (("user", users), ("item", items)):
        for name, rows in tables[side].items():
            table = updated.weights[name]
            assert_array_equal(table[growth.given], rows)
            kept = np.setdiff1d(np.arange(len(model.weights[name]) - 1), growth.given)
            assert_array_equal(table[kept], model.weights[name][kept])
            assert_array_equal(table[-1], model.weights[name][-1])


@pytest.mark.parametrize("tile_size", [1, 50, 2**20])
def test_tiles_of_scores_do_not_matter(model, tile_size, monkeypatch):
    users, items = np.array([4, 0, -1]), np.arange(20)
    monkeypatch.setattr("skrec._gradient.fitted.TILE_SIZE", tile_size)
    scores = torch.empty(3, 20)
    model.scorer(users, items, torch.device("cpu"))(slice(None))(slice(None), scores)
    found = model.scores_to_ratings(scores.numpy(), users)
    for user, row in zip(users, found, strict=True):
        expected = predict(model, np.full(20, user), items)
        assert_allclose(row, expected, rtol=1e-5)


def test_vectors_to_compare_are_centred_scores(model):
    profiles, lengths = model.profiles("user", 0, torch.device("cpu"))
    scores = np.array([predict(model, np.full(20, user)) for user in range(30)])
    scores = (scores - model.units.centre) / model.units.scale
    centred = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True)
    centred += scores.mean()
    assert_allclose(profiles, centred, atol=1e-5)
    assert_allclose(lengths, np.linalg.norm(centred, axis=1), rtol=1e-3)
