"""Helpers of many test files: estimators, callbacks, and small alternating problems."""

import io
import pickle
import threading
import warnings
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

import device_simulation
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import root_mean_squared_error

from skrec import MFRegressor, NCFRegressor
from skrec._alternating.layout import Layout
from skrec._alternating.problem import Problem, RatingArrays
from skrec._alternating.start import spectral_start
from skrec._alternating.state import Side, State

NEEDS_CALLBACKS = pytest.mark.skipif(
    not hasattr(MFRegressor, "set_callbacks"),
    reason="callbacks are new in scikit-learn 1.9",
)
NEEDS_SIMULATION = pytest.mark.skipif(
    device_simulation.register is None, reason="torch can simulate a device since 2.10"
)

# Seconds after which a thread or a process hangs. It needs a tenth if all is quiet.
PATIENCE = 300


def small(**params):
    """An MFRegressor that stops at once, whatever the data, and does not warn.

    Its lists are by its predictions, as those of `small_ncf` are.
    """
    defaults = {"n_factors": 2, "tol": 1e9, "rank_by": "rating"}
    return MFRegressor(**{**defaults, **params})


def small_ncf(**params):
    """An NCFRegressor of two epochs."""
    network = {"n_factors": 2, "hidden_layer_sizes": (3,), "n_members": 2}
    training = {"batch_size": 100, "max_iter": 2, "random_state": 0}
    return NCFRegressor(**{**network, **training, "rank_by": "rating", **params})


@contextmanager
def unconverged():
    """Fits inside may end before they have converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def copied(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    """Bytes of its file."""
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


def fitted_state(model):
    """All attributes that fit has set, to the byte."""
    others = model.get_params().keys() | {"_skl_callbacks"}
    return {
        name: pickle.dumps(value)
        for name, value in vars(model).items()
        if name not in others
    }


def stored_answers(model):
    """Arrays that a model of `tests/models` answers with, without objects."""
    n_rows = min(len(model.user_ids_), len(model.item_ids_))
    rows = pd.DataFrame(
        {"user": model.user_ids_[:n_rows], "item": model.item_ids_[:n_rows]}
    )
    for name in getattr(model, "feature_names_in_", [])[2:]:
        rows[name] = np.arange(n_rows) / 24
    lists, scores = model.recommend(n_items=3, return_scores=True)
    return {
        "predict": model.predict(rows),
        "strangers": model.predict(rows[::-1].assign(user=rows["user"])),
        "lists": lists.astype(str),
        "scores": scores,
    }


def rmse(model, X, y, **features):
    """Root mean squared error of predictions."""
    return root_mean_squared_error(y, model.predict(X, **features))


def all_scores(model, users):
    """Predictions for all items, a row per user."""
    pairs = {
        "user": np.repeat(users, len(model.item_ids_)),
        "item": np.tile(model.item_ids_, len(users)),
    }
    return model.predict(pd.DataFrame(pairs)).reshape(len(users), -1)


@contextmanager
def default_threads(n_threads):
    """So many threads of torch, in this thread and in new ones."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_thread(function):
    """The value of a function in a thread of its own."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@contextmanager
def default_dtype(dtype):
    """Another default dtype of torch."""
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


class Callback:
    """A callback of scikit-learn that does nothing."""

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        pass


class Recording(Callback):
    """A callback that keeps its arguments and stops after some iterations."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.begun, self.ended, self.fitted, self.known = [], [], [], []
        self.n_setups = self.n_teardowns = 0

    def setup(self, estimator, context):
        self.n_setups += 1

    def teardown(self, estimator, context):
        self.n_teardowns += 1

    def on_fit_task_begin(self, estimator, context):
        self.begun.append((context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self.ended.append((context.task_name, context.task_id))
        self.known.append((X, y, metadata))
        self.fitted.append(fitted_estimator)
        return context.task_name == "iteration" and (
            context.task_id + 1 == self.stop_after
        )


@st.composite
def rated_rows(draw, max_features=1, min_weight=0):
    """Rows of few users and items, so that pairs repeat, their ratings and weights."""
    n = draw(st.integers(1, 25))
    few = st.integers(0, 3)
    users, items, rating = (
        draw(hnp.arrays(np.int64, n, elements=few)) for _ in range(3)
    )
    features = draw(
        hnp.arrays(np.float64, (n, draw(st.integers(0, max_features))), elements=few)
    )
    weight = draw(hnp.arrays(np.int64, n, elements=st.integers(min_weight, 3)))
    assume(weight.any())
    X = np.column_stack([users, items, features])
    return X, rating.astype(float), weight.astype(float)


VARIANTS = {
    "biased": {},
    "plain": {"biased": False},
    "biases alone": {"n_factors": 0},
    "context": {"n_context": 2},
    "more factors than items": {"n_factors": 11},
    "described rows": {"described": True},
    "implicit features": {"implicit_features": True, "n_factors": 3},
    "all features": {"described": True, "implicit_features": True, "n_context": 2},
    "unobserved pairs": {"unobserved_weight": 0.3},
}


def as_problem(
    u, i, shape, y, w, context=None, n_factors=2, biased=True, device="cpu", dtype=None
):
    """The problem of ratings that are sorted by user, then item."""
    if context is None:
        context = np.zeros((len(u), 0))
    return Problem.from_arrays(
        RatingArrays(u, i, shape, y, w, context),
        Layout(n_factors, biased, torch.device(device)),
        torch.float64 if dtype is None else dtype,
    )


def make_problem(
    seed=0,
    n_users=12,
    n_items=9,
    n_factors=2,
    biased=True,
    n_context=0,
    device="cpu",
    described=False,
    implicit_features=False,
    unobserved_weight=0.0,
):
    """A small problem and the arrays that it is made of."""
    rng = np.random.default_rng(seed)
    u, i = np.nonzero(rng.random((n_users, n_items)) < 0.5)
    u = np.unique(u, return_inverse=True)[1]
    order = np.lexsort((i, u))
    u, i = u[order], i[order]
    taste = rng.normal(size=(n_users, 2)) @ rng.normal(size=(2, n_items))
    context = rng.normal(size=(len(u), n_context))
    y = taste[u, i] + rng.normal(size=n_users)[u] + context.sum(1)
    y = (y - y.mean()) / y.std()
    w = rng.uniform(0.5, 2, size=len(u))
    shape = (u.max() + 1, n_items)
    problem = as_problem(u, i, shape, y, w, context, n_factors, biased, device)
    if described:
        users, items = (rng.normal(size=(n, 3)) for n in shape)
        problem = problem.with_features(
            sparse.csr_array(users), sparse.csr_array(items * (items > 0))
        )
    if implicit_features:
        problem = problem.with_implicit_features()
    if unobserved_weight:
        problem = problem.with_all_pairs(unobserved_weight)
        # Every pair is a rating of 0 besides.
        every = np.indices(shape).reshape(2, -1)
        u, i = np.append(u, every[0]), np.append(i, every[1])
        y, w = (
            np.append(y, 0 * every[0]),
            np.append(w, unobserved_weight + 0 * every[0]),
        )
        context = np.vstack([context, np.zeros((len(every[0]), n_context))])
    return problem, (u, i, y, w, context)


def run(solver, problem, n_sweeps, *args):
    return list(islice(solver(problem, spectral_start(problem), *args), n_sweeps))


def as_arrays(side, layout):
    """Means, full covariances, prior, and the Gamma of the relative precisions."""
    mean = side.mean.numpy()
    if side.covariance is None:
        covariance = np.zeros((*mean.shape, mean.shape[1]))
    else:
        covariance = layout.unpack(side.covariance).numpy()
    return mean, covariance


def residuals(problem, arrays, state):
    """E[(y − ŷ)²] of every rating, from the moments of both rows."""
    u, i, y, _, context = arrays
    k = problem.layout.n_factors
    x, S = as_arrays(state.users, problem.layout)
    z, T = as_arrays(state.items, problem.layout)
    x, S, z, T = x[u], S[u], z[i], T[i]
    y = y - context @ state.coef.numpy()
    fitted = (x[:, :k] * z[:, :k]).sum(1) + x[:, k:].sum(1) + z[:, k:].sum(1)
    # A bias meets the other side's 1.
    x, z = x.copy(), z.copy()
    x[:, k:] = z[:, k:] = 1
    spread = np.einsum("nj,njk,nk->n", z, S, z) + np.einsum("nj,njk,nk->n", x, T, x)
    spread += np.einsum("njk,njk->n", S[:, :k, :k], T[:, :k, :k])
    if state.coef_factor is not None:
        factor = state.coef_factor.numpy()
        spread += ((context @ factor.T) ** 2).sum(1)
    return (y - fitted) ** 2 + spread


def random_posterior(problem, *, is_certain, seed=0):
    """A posterior that past ratings might have left: every row has its own."""
    rng = np.random.default_rng(seed)
    layout, d = problem.layout, problem.layout.row_size

    def side(n_rows):
        root = rng.normal(size=(n_rows, d, d + 2)) / np.sqrt(16 * d + 32)
        gamma = {} if is_certain else {"relative_shape": rng.uniform(3, 9, n_rows)}
        if not is_certain:
            gamma["relative_precision"] = rng.uniform(0.5, 2, n_rows)
        return replace(
            Side.at(torch.as_tensor(rng.normal(size=(n_rows, d)) / 2)),
            covariance=layout.pack(torch.as_tensor(root @ root.transpose(0, 2, 1))),
            **{name: torch.as_tensor(value) for name, value in gamma.items()},
        )

    n_context = problem.context.shape[1]
    return State(
        users=side(len(problem.users)),
        items=side(len(problem.items)),
        coef=torch.as_tensor(rng.normal(size=n_context)),
        coef_factor=torch.as_tensor(rng.normal(size=(n_context, n_context)) / 3),
        noise_precision=3.0,
    )


def brute_force_sums(problem, target, weight, own, others, n_rows, other):
    """Σ w E[z zᵀ] and Σ w E[z (y − c)] of every row, one rating at a time.

    `other` holds the means and covariances of the other side.
    """
    k, d = problem.layout.n_factors, problem.layout.row_size
    G, g = np.zeros((n_rows, d, d)), np.zeros((n_rows, d))
    for n, (row, i) in enumerate(zip(own, others, strict=True)):
        mean, covariance = other[0][i], other[1][i]
        z, spread, offset, along = mean.copy(), covariance.copy(), 0.0, np.zeros(d)
        if problem.layout.biased:
            # z = (q, 1) has a part that is certain, and goes along with c.
            offset, along[:k] = mean[k], covariance[:k, k]
            z[k], spread[k], spread[:, k] = 1, 0, 0
        G[row] += weight[n] * (np.outer(z, z) + spread)
        g[row] += weight[n] * (z * (target[n] - offset) - along)
    return G, g


def least_count(ids):
    """Number of rows of an id such that ids with fewer have a twentieth of all rows."""
    counts = np.sort(np.unique(ids, return_counts=True)[1])
    return counts[counts.cumsum() >= counts.sum() / 20][0]
