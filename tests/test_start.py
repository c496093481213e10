"""The start of alternating solvers."""

import numpy as np
from helpers import as_problem

from skrec._alternating.start import spectral_start


def test_start_finds_the_leading_directions_of_a_low_rank_matrix():
    rng = np.random.default_rng(0)
    n_users, n_items = 60, 40
    u, i = (index.ravel() for index in np.indices((n_users, n_items)))
    taste = rng.normal(size=(n_users, 2)) @ rng.normal(size=(2, n_items))
    taste -= taste.mean(0)
    taste -= taste.mean(1, keepdims=True)
    shape = n_users, n_items
    problem = as_problem(u, i, shape, taste[u, i], np.ones(len(u)), n_factors=2)
    found = np.linalg.qr(spectral_start(problem).items.mean[:, :2].numpy())[0]
    expected = np.linalg.svd(taste)[2][:2].T
    cosines = np.linalg.svd(found.T @ expected, compute_uv=False)
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
