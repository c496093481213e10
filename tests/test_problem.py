"""Problems of alternating solvers, against loops over ratings."""

import numpy as np
import pytest
import torch
from helpers import as_problem, make_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from skrec._alternating.links import DESCRIBED, IMPLICIT


def repeated_ratings(seed):
    """Sorted ratings of which some are of the same pair."""
    rng = np.random.default_rng(seed)
    u, i = rng.integers(0, 6, 30), rng.integers(0, 5, 30)
    u, i = np.append(u, range(6)), np.append(i, np.arange(6) % 5)
    order = np.lexsort((i, u))
    return u[order], i[order], rng.normal(size=36), rng.uniform(0.5, 2, 36)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**16))
def test_both_sides_hold_the_same_ratings(seed):
    u, i, y, w = repeated_ratings(seed)
    problem = as_problem(u, i, (6, 5), y, w)
    by_item = np.lexsort((u, i))
    np.testing.assert_array_equal(problem.to_items, by_item)
    np.testing.assert_array_equal(problem.users.others, i)
    np.testing.assert_array_equal(problem.items.others, u[by_item])
    np.testing.assert_array_equal(problem.users.target, y)
    np.testing.assert_array_equal(problem.items.target, y[by_item])
    np.testing.assert_array_equal(problem.items.weight, w[by_item])
    np.testing.assert_array_equal(problem.user_index, u)
    assert problem.weight == pytest.approx(w.sum())


@settings(max_examples=25)
@given(seed=st.integers(0, 2**16))
def test_implicit_features_are_the_others_over_the_root_of_their_number(seed):
    u, i, y, w = repeated_ratings(seed)
    problem = as_problem(u, i, (6, 5), y, w).with_implicit_features()
    met = np.zeros((6, 5))
    met[u, i] = 1
    for ratings, matrix in ((problem.users, met), (problem.items, met.T)):
        (block,) = ratings.features
        assert block.name == IMPLICIT
        # Items that nobody has rated have no features.
        lonely = matrix.sum(axis=1) == 0
        matrix = matrix / np.sqrt(np.where(lonely, 1, matrix.sum(axis=1)))[:, None]
        centred = (matrix - matrix.mean(axis=0)) * block.scale
        found = block.times(torch.eye(matrix.shape[1]).double())
        np.testing.assert_allclose(found, centred, atol=1e-12)


def test_side_features_come_before_implicit_ones():
    users = sparse.csr_array(np.eye(6))
    problem = as_problem(*repeated_ratings(0)[:2], (6, 5), *repeated_ratings(0)[2:])
    problem = problem.with_features(users=users).with_implicit_features()
    names = [block.name for block in problem.users.features]
    assert names == [DESCRIBED, IMPLICIT]
    assert [block.name for block in problem.items.features] == [IMPLICIT]


def test_all_pairs_count():
    problem, (u, i, _, w, _) = make_problem(unobserved_weight=0.3)
    for ratings, own in ((problem.users, u), (problem.items, i)):
        np.testing.assert_allclose(ratings.count, np.bincount(own, w))
    assert problem.weight == pytest.approx(w.sum())
    assert not problem.has_more_user_pairs


@pytest.mark.parametrize("is_uncertain", [False, True])
def test_ratings_without_context_are_residuals_of_the_linear_term(is_uncertain):
    problem, (_, _, y, w, context) = make_problem(n_context=2)
    coef = torch.tensor([0.5, -2.0]).double()
    factor = torch.tensor([[1.0, 0.5], [0.0, 2.0]]).double() if is_uncertain else None
    rest = problem.without_context(coef, factor)
    target = y - context @ coef.numpy()
    square = target**2
    if is_uncertain:
        covariance = (factor.T @ factor).numpy()
        square = square + np.einsum("nj,jk,nk->n", context, covariance, context)
    for ratings, order in ((rest.users, slice(None)), (rest.items, problem.to_items)):
        np.testing.assert_allclose(ratings.target, target[order])
        first, second = ratings.weighted_targets
        np.testing.assert_allclose(first, (w * target)[order])
        np.testing.assert_allclose(second, (w * square)[order])
    bare, _ = make_problem()
    assert bare.without_context(torch.zeros(0), None) is bare
