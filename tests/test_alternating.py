"""Solvers against brute force in float64."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import linalg, sparse, stats

from skrec._alternating.conditional import Gaussians
from skrec._alternating.rules import (
    MIN_NOISE_VARIANCE,
    PRIOR_NOISE_VARIANCE,
    PRIOR_RATINGS,
    PRIOR_ROWS,
    PRIOR_VARIANCE,
    WEIGHT_PENALTY,
    Draw,
    Moments,
    noise_variance,
)
from skrec._alternating.state import Problem, Side, State
from skrec._alternating.sweep import (
    _sweeps,
    als,
    gibbs,
    mode_as_belief,
    revise,
    spectral_start,
    vb,
    with_covariance,
)


def make_problem(
    seed=0,
    n_users=12,
    n_items=9,
    n_factors=2,
    biased=True,
    n_features=0,
    device="cpu",
    dtype=torch.float64,
    described=False,
    **options,
):
    """A small problem and the arrays that it is made of."""
    rng = np.random.default_rng(seed)
    u, i = np.nonzero(rng.random((n_users, n_items)) < 0.5)
    u = np.unique(u, return_inverse=True)[1]
    order = np.lexsort((i, u))
    u, i = u[order], i[order]
    taste = rng.normal(size=(n_users, 2)) @ rng.normal(size=(2, n_items))
    features = rng.normal(size=(len(u), n_features))
    y = taste[u, i] + rng.normal(size=n_users)[u] + features.sum(1)
    y = (y - y.mean()) / y.std()
    w = rng.uniform(0.5, 2, size=len(u))
    shape = (u.max() + 1, n_items)
    if described:
        traits = [rng.normal(size=(n, 3)) for n in shape]
        options |= {
            "user_features": sparse.csr_array(traits[0]),
            "item_features": sparse.csr_array(traits[1] * (traits[1] > 0)),
        }
    problem = Problem.from_arrays(
        u,
        i,
        shape,
        y,
        w,
        features,
        n_factors=n_factors,
        biased=biased,
        device=torch.device(device),
        dtype=dtype,
        **options,
    )
    alpha = options.get("unobserved_weight", 0)
    if alpha:
        # Every pair is a rating of 0 besides.
        every = np.indices(shape).reshape(2, -1)
        u, i = np.append(u, every[0]), np.append(i, every[1])
        y, w = np.append(y, 0 * every[0]), np.append(w, alpha + 0 * every[0])
        features = np.vstack([features, np.zeros((len(every[0]), n_features))])
    return problem, (u, i, y, w, features)


VARIANTS = {
    "biased": {},
    "plain": {"biased": False},
    "biases alone": {"n_factors": 0},
    "features": {"n_features": 2},
    "more factors than items": {"n_factors": 11},
    "described rows": {"described": True},
    "implicit features": {"implicit_features": True, "n_factors": 3},
    "all features": {"described": True, "implicit_features": True, "n_features": 2},
    "unobserved pairs": {"unobserved_weight": 0.3},
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request):
    return request.param


def run(solver, problem, n_sweeps, *args):
    return list(islice(solver(problem, spectral_start(problem), *args), n_sweeps))


@pytest.mark.parametrize("seed", range(5))
def test_vb_never_lowers_the_bound(variant, seed):
    problem, _ = make_problem(seed, **variant)
    objective = [state.objective for state in run(vb, problem, 60)]
    assert np.diff(objective).max() < 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_als_never_raises_its_objective(variant, seed):
    problem, _ = make_problem(seed, **variant)
    objective = [state.objective for state in run(als, problem, 60, 0.3)]
    assert np.diff(objective).max() < 1e-9


class Recording(Moments):
    """The rule of "vb", and each side as it was before anything was learned."""

    def __init__(self):
        self.sides = []

    def learn(self, side, ratings, squares, layout, noise_precision):
        self.sides = [*self.sides[-1:], side]
        return super().learn(side, ratings, squares, layout, noise_precision)


def recorded(problem, n_sweeps):
    """The state after some sweeps of "vb", and its users and items before `learn`."""
    rule = Recording()
    state = list(islice(_sweeps(problem, spectral_start(problem), rule), n_sweeps))[-1]
    return state, rule.sides


def joint(side, ratings, layout):
    """Covariances of rows given the weights, and those of x − Bᵀf, from those of rows.

    A row has S = V + VQV with Q = Λ Cov[Bᵀf] Λ, and follows the weights by K = VΛ.
    """
    S = layout.unpack(side.covariance).numpy()
    if not side.weights:
        return S, S
    Lambda = side.prior_precision.numpy()
    V, own = np.empty_like(S), np.empty_like(S)
    for row in range(len(S)):
        C = sum(
            float(block.energy[row]) * w.covariance.numpy()
            for block, w in zip(ratings.features, side.weights, strict=True)
        )
        root = linalg.sqrtm(Lambda @ C @ Lambda)
        inner = linalg.sqrtm(np.eye(len(C)) / 4 + root @ S[row] @ root)
        V[row] = np.linalg.solve(root, inner - np.eye(len(C)) / 2) @ np.linalg.inv(root)
        away = V[row] @ Lambda - np.eye(len(C))
        own[row] = V[row] + away @ C @ away.T
    return V, own


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
    u, i, y, _, features = arrays
    k = problem.layout.n_factors
    x, S = as_arrays(state.users, problem.layout)
    z, T = as_arrays(state.items, problem.layout)
    x, S, z, T = x[u], S[u], z[i], T[i]
    y = y - features @ state.coef.numpy()
    fitted = (x[:, :k] * z[:, :k]).sum(1) + x[:, k:].sum(1) + z[:, k:].sum(1)
    # A bias meets the other side's 1.
    x, z = x.copy(), z.copy()
    x[:, k:] = z[:, k:] = 1
    spread = np.einsum("nj,njk,nk->n", z, S, z) + np.einsum("nj,njk,nk->n", x, T, x)
    spread += np.einsum("njk,njk->n", S[:, :k, :k], T[:, :k, :k])
    if state.coef_factor is not None:
        factor = state.coef_factor.numpy()
        spread += ((features @ factor.T) ** 2).sum(1)
    return (y - fitted) ** 2 + spread


def brute_force_bound(problem, arrays, state, before):
    u, i, _, w, _ = arrays
    bound = 0.0
    log_precision = np.log(state.noise_precision)
    precision = state.noise_precision
    for side, was, ratings, rows in (
        (state.users, before[0], problem.users, u),
        (state.items, before[1], problem.items, i),
    ):
        mean = side.own.numpy()
        given, own = joint(was, ratings, problem.layout)
        m = side.prior_mean.numpy()
        prior_covariance = np.linalg.inv(side.prior_precision.numpy())
        for x, V, S in zip(mean, given, own, strict=True):
            bound += stats.multivariate_normal(m, prior_covariance).logpdf(x)
            bound -= np.trace(side.prior_precision.numpy() @ S) / 2
            bound += stats.multivariate_normal(cov=V).entropy()
        for weights in side.weights:
            Omega, C = weights.precision.numpy(), weights.covariance.numpy()
            for B in weights.mean.numpy():
                bound += stats.multivariate_normal(cov=np.linalg.inv(Omega)).logpdf(B)
                bound -= np.trace(Omega @ C) / 2
                bound += stats.multivariate_normal(cov=C).entropy()
            log_det = np.linalg.slogdet(Omega)[1]
            bound += PRIOR_ROWS / 2 * (log_det - PRIOR_VARIANCE * np.trace(Omega))
        # The priors' own priors, which are not normalised.
        log_det = np.linalg.slogdet(side.prior_precision.numpy())[1]
        trace = np.trace(side.prior_precision.numpy())
        bound += PRIOR_ROWS / 2 * (log_det - PRIOR_VARIANCE * trace)

        a, shape = side.concentration, side.relative_shape.numpy()
        alpha = stats.gamma(shape, scale=side.relative_precision.numpy() / shape)
        for row in range(len(mean)):
            q = stats.gamma(shape[row], scale=alpha.kwds["scale"][row])
            bound += q.expect(lambda x, a=a: stats.gamma(a, scale=1 / a).logpdf(x))
            bound += q.entropy()
        expected_log = [
            stats.gamma(s, scale=c).expect(np.log)
            for s, c in zip(shape, alpha.kwds["scale"], strict=True)
        ]
        log_precision = log_precision + np.array(expected_log)[rows]
        precision = precision * side.relative_precision.numpy()[rows]
    if state.coef_factor is not None:
        factor, lam = state.coef_factor.numpy(), state.coef_precision
        coef, n = state.coef.numpy(), len(state.coef)
        S = factor.T @ factor
        bound += stats.norm(scale=lam**-0.5).logpdf(coef).sum() - lam * np.trace(S) / 2
        bound += stats.multivariate_normal(cov=S).entropy()
        bound += PRIOR_ROWS / 2 * (np.log(lam) - PRIOR_VARIANCE * lam)
        assert n == 2
    likelihood = log_precision - np.log(2 * np.pi)
    likelihood = likelihood - precision * residuals(problem, arrays, state)
    beta = state.noise_precision
    bound += PRIOR_RATINGS / 2 * (np.log(beta) - beta * PRIOR_NOISE_VARIANCE)
    return bound + (w * likelihood).sum() / 2


@pytest.mark.parametrize("n_sweeps", [1, 4])
def test_vb_bound_is_the_brute_force_one(variant, n_sweeps):
    problem, arrays = make_problem(n_users=5, n_items=4, **variant)
    state, before = recorded(problem, n_sweeps)
    expected = brute_force_bound(problem, arrays, state, before)
    assert -state.objective * problem.weight == pytest.approx(expected, rel=1e-6)


def test_noise_variance_is_the_mean_square_of_residuals_and_its_prior(variant):
    problem, arrays = make_problem(**variant)
    u, i, _, w, _ = arrays
    state = run(vb, problem, 5)[-1]
    alpha = state.users.relative_precision.numpy()[u]
    alpha = alpha * state.items.relative_precision.numpy()[i]
    squares = (w * alpha * residuals(problem, arrays, state)).sum()
    squares += PRIOR_RATINGS * PRIOR_NOISE_VARIANCE
    expected = squares / (w.sum() + PRIOR_RATINGS)
    assert state.noise_variance == pytest.approx(expected)


def test_als_objective_is_the_penalised_sum_of_squares(variant):
    problem, arrays = make_problem(**variant)
    state = run(als, problem, 3, 0.3)[-1]
    points = [state.users.own, state.items.own, state.coef]
    for weights in (*state.users.weights, *state.items.weights):
        points.append(WEIGHT_PENALTY**0.5 * weights.mean)
    penalty = sum(float((x**2).sum()) for x in points)
    expected = (arrays[3] * residuals(problem, arrays, state)).sum() + 0.3 * penalty
    assert state.objective * problem.weight == pytest.approx(expected)


def test_als_ends_where_no_coordinate_can_be_improved(variant):
    problem, arrays = make_problem(**variant)
    state = run(als, problem, 600, 0.5)[-1]
    sides = {"users": state.users, "items": state.items}

    def objective(points):
        penalty = float((points["coef"] ** 2).sum())
        moved = {}
        for name in sides:
            ratings, mean = getattr(problem, name), points[name]
            own = mean.clone()
            for place, block in enumerate(ratings.features):
                weights = points[name, place]
                own -= block.times(weights)
                penalty += WEIGHT_PENALTY * float((weights**2).sum())
            penalty += float((own**2).sum())
            moved[name] = Side.at(mean, problem.layout)
        moved = State(**moved, coef=points["coef"])
        return (arrays[3] * residuals(problem, arrays, moved)).sum() + 0.5 * penalty

    points = {"coef": state.coef}
    for name, side in sides.items():
        points[name] = side.mean
        points |= {(name, place): w.mean for place, w in enumerate(side.weights)}
    for which, point in points.items():
        for index in np.ndindex(*point.shape):
            step = torch.zeros_like(point)
            step[index] = 1e-5
            ends = [
                objective(points | {which: point + sign * step}) for sign in (1, -1)
            ]
            assert abs(ends[0] - ends[1]) / 2e-5 < 1e-4


class FixedDraw(Draw):
    """Gibbs with everything but the rows fixed."""

    def learn(self, side, ratings, squares, layout, noise_precision):
        return side

    def noise_precision(self, weight, residual):
        return 2.0


def test_gibbs_draws_have_the_moments_of_the_closed_form():
    problem, (u, i, y, w, _) = make_problem(n_users=4, n_items=3, n_factors=0)
    n_users, n_items = len(problem.users), len(problem.items)
    design = np.hstack([np.eye(n_users)[u], np.eye(n_items)[i]])
    precision = 2 * (design.T * w) @ design + np.eye(n_users + n_items)
    mean = np.linalg.solve(precision, 2 * design.T @ (w * y))

    start = State(
        users=Side.at(torch.zeros(n_users, 1).double(), problem.layout),
        items=Side.at(torch.zeros(n_items, 1).double(), problem.layout),
        coef=torch.zeros(0).double(),
        noise_precision=2.0,
    )
    states = _sweeps(problem, start, FixedDraw(np.random.RandomState(0)))
    draws = np.array(
        [
            torch.cat([state.users.mean, state.items.mean])[:, 0].numpy()
            for state in islice(states, 50, 4_050)
        ]
    )
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(np.cov(draws.T), np.linalg.inv(precision), atol=0.06)


def test_gibbs_draws_rows_from_their_gaussian():
    rng = np.random.default_rng(0)
    root = torch.as_tensor(rng.normal(size=(3, 3)))
    expected = root @ root.T
    mean = torch.as_tensor(rng.normal(size=3))
    n = 40_000
    rule = Draw(np.random.RandomState(0))
    A = torch.linalg.inv(expected)
    belief = Gaussians(A.expand(n, 3, 3), (A @ mean).expand(n, 3))
    draws, covariance, _ = rule.rows(belief, rule.companion(belief.h))
    assert covariance is None
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(
        np.cov(draws.numpy().T), expected, atol=0.03 * float(expected.max())
    )


def test_gibbs_draws_the_prior_from_its_normal_wishart():
    rng = np.random.default_rng(0)
    rows = torch.as_tensor(rng.normal(1.0, 2.0, size=(200, 2)))
    problem, _ = make_problem(n_factors=1)
    side = Side.at(rows, problem.layout)
    rule = Draw(np.random.RandomState(0))
    zeros = torch.zeros(200).double()
    ratings = replace(problem.users, count=zeros)
    draws = [rule.learn(side, ratings, zeros, problem.layout) for _ in range(4000)]
    means = np.array([draw.prior_mean.numpy() for draw in draws])
    precisions = np.array([draw.prior_precision.numpy() for draw in draws])

    strength, x = PRIOR_ROWS + 200, rows.numpy()
    centre = x.mean(0)
    scatter = (x - centre).T @ (x - centre) + 2 * PRIOR_VARIANCE * np.eye(2)
    scatter += PRIOR_ROWS * 200 / strength * np.outer(centre, centre)
    np.testing.assert_allclose(means.mean(0), centre * 200 / strength, atol=0.02)
    np.testing.assert_allclose(
        precisions.mean(0), 202 * np.linalg.inv(scatter), rtol=0.02, atol=0.003
    )
    expected = scatter / strength / (202 - 3)
    np.testing.assert_allclose(np.cov(means.T), expected, atol=0.1 * expected.max())


def test_gibbs_draws_relative_precisions_from_their_gamma():
    problem, _ = make_problem(n_factors=1)
    n = 40_000
    side = Side.at(torch.ones(n, 2).double(), problem.layout)
    count, squares = torch.full((n,), 6.0), torch.full((n,), 4.0).double()
    rule = Draw(np.random.RandomState(0))
    ratings = replace(problem.users, count=count)
    alpha = rule.learn(side, ratings, squares, problem.layout).relative_precision
    gamma = stats.gamma(side.concentration + 3, scale=1 / (side.concentration + 2))
    assert float(alpha.mean()) == pytest.approx(gamma.mean(), rel=0.01)
    assert float(alpha.std()) == pytest.approx(gamma.std(), rel=0.02)


@pytest.mark.parametrize("solver", [vb, gibbs, als])
def test_the_number_of_threads_does_not_matter(monkeypatch, solver):
    monkeypatch.setattr("skrec._alternating.conditional.TILE_SIZE", 40)
    args = {vb: [], gibbs: [np.random.RandomState], als: [0.3]}[solver]
    threads, means = torch.get_num_threads(), []
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            problem, _ = make_problem(n_users=60)
            drawn = [arg(0) if callable(arg) else arg for arg in args]
            means.append(run(solver, problem, 4, *drawn)[-1].users.mean)
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*means)


def test_gibbs_repeats_itself_under_one_seed():
    problem, _ = make_problem()
    chains = [run(gibbs, problem, 3, np.random.RandomState(7))[-1] for _ in range(2)]
    assert torch.equal(chains[0].users.mean, chains[1].users.mean)


def test_start_finds_the_leading_directions_of_a_low_rank_matrix():
    rng = np.random.default_rng(0)
    n_users, n_items = 60, 40
    u, i = (index.ravel() for index in np.indices((n_users, n_items)))
    taste = rng.normal(size=(n_users, 2)) @ rng.normal(size=(2, n_items))
    taste -= taste.mean(0)
    taste -= taste.mean(1, keepdims=True)
    problem = Problem.from_arrays(
        u,
        i,
        (n_users, n_items),
        taste[u, i],
        np.ones(len(u)),
        np.zeros((len(u), 0)),
        n_factors=2,
        biased=True,
        device=torch.device("cpu"),
        dtype=torch.float64,
    )
    found = np.linalg.qr(spectral_start(problem).items.mean[:, :2].numpy())[0]
    expected = np.linalg.svd(taste)[2][:2].T
    cosines = np.linalg.svd(found.T @ expected, compute_uv=False)
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("solver", [vb, gibbs, als])
def test_cuda_gives_what_the_cpu_gives(solver):
    args = {vb: (), gibbs: (np.random.RandomState,), als: (0.3,)}[solver]
    states = []
    for device in ("cpu", "cuda"):
        problem, _ = make_problem(device=device, n_features=1)
        drawn = [arg(0) if callable(arg) else arg for arg in args]
        states.append(run(solver, problem, 5, *drawn)[-1])
    for side in ("users", "items"):
        means = [getattr(state, side).mean.cpu() for state in states]
        np.testing.assert_allclose(means[0], means[1], rtol=1e-8, atol=1e-10)


def points(side):
    return replace(side, covariance=None)


def random_belief(problem, *, is_certain, seed=0):
    """What some past ratings might have left: every row knows something else."""
    rng = np.random.default_rng(seed)
    layout, d = problem.layout, problem.layout.row_size

    def side(n_rows):
        root = rng.normal(size=(n_rows, d, d + 2)) / np.sqrt(16 * d + 32)
        gamma = {} if is_certain else {"relative_shape": rng.uniform(3, 9, n_rows)}
        if not is_certain:
            gamma["relative_precision"] = rng.uniform(0.5, 2, n_rows)
        return Side.at(
            torch.as_tensor(rng.normal(size=(n_rows, d)) / 2),
            layout,
            covariance=layout.pack(torch.as_tensor(root @ root.transpose(0, 2, 1))),
            **{name: torch.as_tensor(value) for name, value in gamma.items()},
        )

    n_features = problem.features.shape[1]
    return State(
        users=side(len(problem.users)),
        items=side(len(problem.items)),
        coef=torch.as_tensor(rng.normal(size=n_features)),
        coef_factor=torch.as_tensor(rng.normal(size=(n_features, n_features)) / 3),
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


def gaussian(precision, information):
    """Means and covariances."""
    covariance = np.linalg.inv(precision)
    return np.einsum("njk,nk->nj", covariance, information), covariance


def assert_gaussian(side, layout, expected):
    for found, moment in zip(as_arrays(side, layout), expected, strict=True):
        np.testing.assert_allclose(found, moment, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("is_certain", [True, False])
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    n_factors=st.integers(0, 3),
    biased=st.booleans(),
    share=st.sampled_from([0.1, 0.5, 0.9]),
)
def test_further_ratings_leave_users_with_the_posterior_of_all_ratings(
    is_certain, seed, n_factors, biased, share
):
    assume(n_factors or biased)
    problem, (u, i, y, w, features) = make_problem(
        seed, n_factors=n_factors, biased=biased
    )
    layout, n_users = problem.layout, len(problem.users)
    shared = random_belief(problem, is_certain=is_certain, seed=seed)
    m, precision = (
        shared.users.mean[0].numpy(),
        np.linalg.inv(as_arrays(shared.users, layout)[1][0]),
    )
    alpha = shared.users.relative_precision.numpy()
    gamma = shared.items.relative_precision.numpy()
    items = shared.items
    items = as_arrays(points(items) if is_certain else items, layout)

    def posterior_of(rows):
        G, g = brute_force_sums(
            problem, y[rows], (w * gamma[i])[rows], u[rows], i[rows], n_users, items
        )
        beta = 3 * alpha
        return gaussian(
            beta[:, None, None] * G + precision, beta[:, None] * g + precision @ m
        )

    # Users of whom all ratings are further ones start at what rows share.
    is_new = np.random.default_rng(seed).random(len(y)) < share
    is_new[0] = True
    mean, covariance = map(torch.as_tensor, posterior_of(~is_new))
    further = Problem.from_arrays(
        u[is_new],
        i[is_new],
        (n_users, len(problem.items)),
        y[is_new],
        w[is_new],
        features[is_new],
        n_factors=n_factors,
        biased=biased,
        device=torch.device("cpu"),
        dtype=torch.float64,
    )
    past = replace(shared.users, mean=mean, covariance=layout.pack(covariance))
    state = revise(
        further,
        replace(shared, users=past),
        is_certain=is_certain,
        past_weight=w[~is_new].sum(),
        max_sweeps=1,
        tol=0.0,
    )
    assert_gaussian(state.users, layout, posterior_of(np.full(len(y), True)))


@pytest.fixture(params=[True, False], ids=["certain", "uncertain"])
def revised(variant, request):
    """A converged revision: the problem, its arrays, before, after."""
    problem, arrays = make_problem(**variant)
    start = random_belief(problem, is_certain=request.param)
    state = revise(
        problem,
        start,
        is_certain=request.param,
        past_weight=50.0,
        max_sweeps=80,
        tol=0.0,
    )
    return problem, arrays, start, state, request.param


def test_moved_is_the_change_of_the_predictions():
    problem, (u, i, _, w, _) = make_problem(n_factors=3)
    before, after = (
        revise(
            problem,
            random_belief(problem, is_certain=True),
            is_certain=True,
            past_weight=9.0,
            max_sweeps=n_sweeps,
            tol=0.0,
        )
        for n_sweeps in (1, 2)
    )

    def fitted(users, items):
        x, z = users.mean.numpy()[u], items.mean.numpy()[i]
        return (x[:, :3] * z[:, :3]).sum(1) + x[:, 3] + z[:, 3]

    steps = [
        fitted(before.users, before.items),
        fitted(after.users, before.items),
        fitted(after.users, after.items),
    ]
    by_users, by_items = (w * np.diff(steps, axis=0) ** 2).sum(1)
    assert after.users.moved == pytest.approx(by_users)
    assert after.items.moved == pytest.approx(by_items)


def test_what_was_believed_of_rows_is_their_prior(revised):
    problem, (u, i, y, w, features), start, state, is_certain = revised
    target = y - features @ state.coef.numpy()
    alpha = state.users.relative_precision.numpy()
    gamma = state.items.relative_precision.numpy()
    for side, before, own, own_alpha, other, others, other_alpha in (
        (state.users, start.users, u, alpha, state.items, i, gamma),
        (state.items, start.items, i, gamma, state.users, u, alpha),
    ):
        G, g = brute_force_sums(
            problem,
            target,
            w * other_alpha[others],
            own,
            others,
            len(own_alpha),
            as_arrays(points(other) if is_certain else other, problem.layout),
        )
        mean, covariance = as_arrays(before, problem.layout)
        precision = np.linalg.inv(covariance)
        beta = state.noise_precision * own_alpha
        expected = gaussian(
            beta[:, None, None] * G + precision,
            beta[:, None] * g + np.einsum("njk,nk->nj", precision, mean),
        )
        assert_gaussian(side, problem.layout, expected)


def test_what_was_believed_of_coefficients_is_their_prior():
    problem, (u, i, y, w, features) = make_problem(n_features=2)
    start = random_belief(problem, is_certain=False)
    state = revise(
        problem, start, is_certain=False, past_weight=9.0, max_sweeps=80, tol=0.0
    )
    x, z = state.users.mean.numpy()[u], state.items.mean.numpy()[i]
    fitted = (x[:, :2] * z[:, :2]).sum(1) + x[:, 2] + z[:, 2]
    precision = w * state.users.relative_precision.numpy()[u]
    precision *= state.items.relative_precision.numpy()[i] * state.noise_precision
    before = start.coef_factor.numpy()
    before = np.linalg.inv(before.T @ before)
    A = (features.T * precision) @ features + before
    h = features.T @ (precision * (y - fitted)) + before @ start.coef.numpy()
    np.testing.assert_allclose(state.coef, np.linalg.solve(A, h), rtol=1e-6)
    found = state.coef_factor.numpy()
    np.testing.assert_allclose(found.T @ found, np.linalg.inv(A), rtol=1e-6)


def test_noise_and_relative_precisions_are_those_of_all_ratings(revised):
    problem, arrays, start, state, is_certain = revised
    u, i, _, w, _ = arrays
    seen = state
    if is_certain:
        users, items = points(state.users), points(state.items)
        seen = replace(state, users=users, items=items, coef_factor=None)
    squares = w * residuals(problem, arrays, seen)
    alpha = state.users.relative_precision.numpy()
    gamma = state.items.relative_precision.numpy()
    residual = (squares * alpha[u] * gamma[i]).sum()
    variance = (50 / start.noise_precision + residual) / (50 + w.sum())
    assert state.noise_variance == pytest.approx(variance)
    # What a penalty is relative to stays.
    believed = start.noise_precision if is_certain else 1 / variance
    assert state.noise_precision == pytest.approx(believed)
    if is_certain:
        assert (alpha == 1).all()
        assert (gamma == 1).all()
        return
    for side, before, own, theirs in (
        (state.users, start.users, u, gamma[i]),
        (state.items, start.items, i, alpha[u]),
    ):
        shape = before.relative_shape.numpy()
        rate = shape / before.relative_precision.numpy()
        n_rows = len(shape)
        shape = shape + np.bincount(own, w, n_rows) / 2
        rate = rate + np.bincount(own, squares * theirs, n_rows) / variance / 2
        np.testing.assert_allclose(side.relative_shape, shape, rtol=1e-6)
        np.testing.assert_allclose(side.relative_precision, shape / rate, rtol=1e-6)


def test_a_revision_ends_once_the_items_stay():
    problem, _ = make_problem()
    start = random_belief(problem, is_certain=False)

    def means(**kwargs):
        state = revise(problem, start, is_certain=False, past_weight=50.0, **kwargs)
        return state.users.mean

    once = means(max_sweeps=1, tol=0.0)
    assert torch.equal(means(max_sweeps=9, tol=1e9), once)
    assert not torch.equal(means(max_sweeps=9, tol=1e-9), once)
    np.testing.assert_allclose(
        means(max_sweeps=80, tol=1e-9), means(max_sweeps=120, tol=0.0), atol=1e-7
    )


def test_a_revision_depends_neither_on_tiles_nor_on_threads(monkeypatch):
    problem, _ = make_problem(n_users=60, n_features=1)
    start = random_belief(problem, is_certain=False)
    threads, states = torch.get_num_threads(), []
    try:
        for tile_size, n_threads in ((2**17, 1), (40, 1), (40, 3)):
            monkeypatch.setattr("skrec._alternating.conditional.TILE_SIZE", tile_size)
            torch.set_num_threads(n_threads)
            states.append(
                revise(
                    problem,
                    start,
                    is_certain=False,
                    past_weight=50.0,
                    max_sweeps=3,
                    tol=0.0,
                )
            )
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(threads)
    whole, tiled, threaded = states
    assert torch.equal(tiled.users.mean, threaded.users.mean)
    for name in ("mean", "covariance"):
        found, expected = getattr(tiled.users, name), getattr(whole.users, name)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_covariances_of_als_are_its_normal_equations_times_the_noise(variant):
    problem, (u, i, y, w, features) = make_problem(**variant)
    sweep = run(als, problem, 5, 0.3)[-1]
    state = with_covariance(problem, mode_as_belief(sweep))
    variance = sweep.noise_variance
    assert 1 / state.noise_precision == pytest.approx(variance)
    for noun, own, others, other in (
        ("users", u, i, sweep.items),
        ("items", i, u, sweep.users),
    ):
        side = getattr(state, noun)
        assert torch.equal(side.mean, getattr(sweep, noun).mean)
        n_rows, d = side.mean.shape
        rows = as_arrays(other, problem.layout)
        G, _ = brute_force_sums(problem, y, w, own, others, n_rows, rows)
        expected = variance * np.linalg.inv(G + 0.3 * np.eye(d))
        found = problem.layout.unpack(side.covariance)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)
        prior = np.linalg.inv(side.prior_precision)
        np.testing.assert_allclose(prior, variance / 0.3 * np.eye(d))
    assert torch.equal(state.coef, sweep.coef)
    if features.shape[1]:
        expected = variance * np.linalg.inv(
            (features.T * w) @ features + 0.3 * np.eye(2)
        )
        found = state.coef_factor.T @ state.coef_factor
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_there_is_some_noise_where_residuals_vanish():
    assert noise_variance(3.0, 0.0) > 0.1
    assert noise_variance(1e9, 0.0) == MIN_NOISE_VARIANCE
