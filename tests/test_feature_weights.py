"""Features of rows and their weights, against dense algebra in float64."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import sparse

from skrec._alternating import feature_weights as _weights
from skrec._alternating.feature_weights import (
    Block,
    LinkMatrix,
    RowsGivenWeights,
    draw_weights,
    own_covariance,
    shift_of,
    step_weights,
)
from skrec._alternating.layout import Layout

N_ROWS, SIZE = 12, 3


def dense(block):
    """The matrix of a block, from its products."""
    return block.times(torch.eye(len(block.columns)).double()).numpy()


def make_block(rng, n_columns=5, density=0.5, n_rows=N_ROWS, name="described"):
    matrix = rng.normal(size=(n_rows, n_columns))
    matrix[rng.random(matrix.shape) > density] = 0
    return Block.from_matrix(
        name, sparse.csr_array(matrix), torch.float64, torch.device("cpu")
    ), matrix


def positive_definite(rng, n=None, size=SIZE):
    root = rng.normal(size=(size, 2 * size) if n is None else (n, size, 2 * size))
    return torch.as_tensor(root @ np.swapaxes(root, -1, -2) / size)


def test_a_block_is_the_centred_matrix_of_mean_square_one():
    rng = np.random.default_rng(0)
    block, matrix = make_block(rng)
    centred = matrix - matrix.mean(axis=0)
    expected = centred / np.sqrt((centred**2).sum(axis=1).mean())
    assert_allclose(dense(block), expected, atol=1e-12)
    assert_allclose(block.square, (expected**2).sum(axis=1), atol=1e-12)
    x = torch.as_tensor(rng.normal(size=(N_ROWS, SIZE)))
    assert_allclose(block.transposed_times(x), expected.T @ x.numpy(), atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e6])
def test_columns_that_do_not_vary_are_zero(value):
    matrix = sparse.csr_array(np.full((N_ROWS, 2), value))
    block = Block.from_matrix("described", matrix, torch.float64, torch.device("cpu"))
    assert block.scale == 0
    assert not dense(block).any()


@pytest.fixture(params=[1, 2], ids=["one block", "two blocks"])
def case(request):
    rng = np.random.default_rng(1)
    blocks = [make_block(rng)[0], make_block(rng, 20, 0.2)[0]][: request.param]
    weights = [
        LinkMatrix.at(
            torch.as_tensor(rng.normal(size=(len(block.columns), SIZE))),
            positive_definite(rng),
        )
        for block in blocks
    ]
    V = torch.linalg.inv(positive_definite(rng, N_ROWS))
    # A = βG + Λ exceeds Λ.
    Lambda = 0.3 * torch.linalg.inv(V.mean(0))
    V = torch.linalg.inv(torch.linalg.inv(V) + Lambda)
    return {
        "blocks": blocks,
        "weights": weights,
        "deviation": torch.as_tensor(rng.normal(size=(N_ROWS, SIZE))),
        "V": V,
        "Lambda": Lambda,
        "firm": torch.as_tensor(rng.uniform(0.5, 2, size=N_ROWS)),
    }


def stepped(case, firm=None, covariance=None):
    layout = Layout(SIZE, False, torch.device("cpu"))
    return step_weights(
        case["blocks"],
        case["weights"],
        RowsGivenWeights(
            case["deviation"],
            layout.pack(case["V"]) if covariance is None else covariance,
            case["Lambda"],
            firm,
        ),
        layout,
        map,
        with_covariance=covariance is not None,
    )


def objective(case, weights, firm):
    """Minus the log density by weights that rows follow, up to a constant.

    With a the deviation and D the change of the weights,
    −(Σ c (a·ΛDᵀf − ½ (Dᵀf)ᵀ M Dᵀf) − ½ tr(BΩBᵀ)).
    """
    Lambda, V = case["Lambda"].numpy(), case["V"].numpy()
    shift = sum(
        block.times(new.mean - old.mean).numpy()
        for block, new, old in zip(
            case["blocks"], weights, case["weights"], strict=True
        )
    )
    M = Lambda - Lambda @ V @ Lambda
    gain = np.einsum("nj,jk,nk->n", case["deviation"].numpy(), Lambda, shift)
    gain -= np.einsum("nj,njk,nk->n", shift, M, shift) / 2
    penalty = sum(np.einsum("nj,jk,nk->", w.mean, w.precision, w.mean) for w in weights)
    return penalty / 2 - firm @ gain


@pytest.mark.parametrize("firm", [False, True])
def test_a_step_goes_down_to_the_lowest_point_of_its_line(case, firm):
    c = case["firm"] if firm else torch.ones(N_ROWS).double()
    new = stepped(case, case["firm"] if firm else None).weights

    def along(share):
        there = [
            LinkMatrix.at(old.mean + share * (w.mean - old.mean), w.precision)
            for old, w in zip(case["weights"], new, strict=True)
        ]
        return objective(case, there, c.numpy())

    values = [along(share) for share in (0, 0.5, 1)]
    assert all(later < sooner for sooner, later in pairwise(values))
    assert abs(along(1 + 1e-4) - along(1 - 1e-4)) < 1e-6


def test_steps_lead_to_the_mode_of_rows_and_weights(case):
    """By a dense solve over all weights."""
    Lambda, V = case["Lambda"].numpy(), case["V"].numpy()
    F = np.hstack([dense(block) for block in case["blocks"]])
    sizes = np.cumsum([0] + [len(block.columns) for block in case["blocks"]])
    M = Lambda - Lambda @ V @ Lambda
    A = np.einsum("ni,nj,nab->iajb", F, F, M)
    B = np.vstack([w.mean for w in case["weights"]])
    before = F @ B
    for (start, stop), w in zip(pairwise(sizes), case["weights"], strict=True):
        for column in range(start, stop):
            A[column, :, column] += w.precision.numpy()
    A = A.reshape(F.shape[1] * SIZE, -1)
    # At weights of zero, rows would not have followed them.
    back = np.einsum("nab,bc,nc->na", V, Lambda, before)
    deviation = case["deviation"].numpy() + before - back
    right = np.einsum("ni,na->ia", F, deviation @ Lambda).ravel()
    expected = np.linalg.solve(A, right).reshape(-1, SIZE)

    for _ in range(3000):
        step = stepped(case)
        case["weights"] = step.weights
        case["deviation"] = case["deviation"] + step.length * (
            step.row_direction - step.shift_direction
        )
    found = np.vstack([w.mean for w in case["weights"]])
    assert_allclose(found, expected, atol=1e-5)


def test_covariances_are_the_best_that_are_the_same_for_all_weights(case):
    Lambda, V = case["Lambda"].numpy(), case["V"].numpy()
    M = Lambda - Lambda @ V @ Lambda
    new = stepped(case).weights
    for block, w in zip(case["blocks"], new, strict=True):
        square = (dense(block) ** 2).sum(axis=1)
        information = np.einsum("n,nab->ab", square, M) / len(block.columns)
        expected = np.linalg.inv(information + w.precision.numpy())
        assert_allclose(w.covariance, expected, rtol=1e-9)
        K = V @ Lambda
        assert_allclose(w.response, np.einsum("n,nab->ab", square, K), rtol=1e-9)
        away = K - np.eye(SIZE)
        own = square[:, None, None] * (away @ expected @ away.transpose(0, 2, 1))
        of_rows = square[:, None, None] * (K @ expected @ K.transpose(0, 2, 1))
        assert_allclose(
            own_covariance(square.sum(), w.response.numpy(), w.covariance.numpy()),
            (own - of_rows).sum(axis=0),
            rtol=1e-9,
        )


def test_the_shift_is_that_of_the_change_of_the_weights(case):
    step = stepped(case)
    change = shift_of(case["blocks"], step.weights)
    change -= shift_of(case["blocks"], case["weights"])
    assert_allclose(step.length * step.shift_direction, change, atol=1e-10)


def test_rows_follow_as_their_conditional_says(case):
    layout = Layout(SIZE, False, torch.device("cpu"))
    V, Lambda = case["V"], case["Lambda"]
    S = layout.pack(V)
    step = stepped(case, covariance=S)
    assert_allclose(
        step.row_direction,
        torch.einsum("nab,bc,nc->na", V, Lambda, step.shift_direction),
        atol=1e-10,
    )
    spread = sum(
        block.square[:, None, None] * w.covariance
        for block, w in zip(case["blocks"], step.weights, strict=True)
    )
    K = V @ Lambda
    expected = V + K @ spread @ K.mT
    assert_allclose(layout.unpack(S), expected, atol=1e-10)
    information = torch.linalg.inv(V) - Lambda
    trace = (information @ expected).diagonal(dim1=1, dim2=2).sum(1)
    assert_allclose(step.trace, trace, atol=1e-8)


def test_draws_of_weights_have_the_moments_of_their_gaussian(monkeypatch):
    monkeypatch.setattr(_weights, "DRAW_TOL", 1e-8)
    rng = np.random.default_rng(2)
    block, _ = make_block(rng, n_columns=2)
    Lambda, Omega = positive_definite(rng, size=2), positive_definite(rng, size=2)
    rows = torch.as_tensor(rng.normal(size=(N_ROWS, 2)))
    F = dense(block)
    # The rows of B one after the other, as a vector.
    precision = np.kron(F.T @ F, Lambda) + np.kron(np.eye(2), Omega)
    expected = np.linalg.solve(precision, (F.T @ rows.numpy() @ Lambda.numpy()).ravel())

    weights = LinkMatrix.at(torch.zeros(2, 2).double(), Omega)
    random_state = np.random.RandomState(0)
    draws = np.array(
        [
            draw_weights(block, weights, rows, Lambda, random_state)
            .mean.numpy()
            .ravel()
            for _ in range(4000)
        ]
    )
    covariance = np.linalg.inv(precision)
    scale = np.sqrt(np.diag(covariance)).max()
    assert_allclose(draws.mean(axis=0), expected, atol=0.06 * scale)
    assert_allclose(np.cov(draws.T), covariance, atol=0.08 * scale**2)


def test_a_draw_is_as_exact_as_its_tolerance(monkeypatch):
    rng = np.random.default_rng(3)
    block, _ = make_block(rng, 60, 0.3, n_rows=40)
    Lambda, Omega = positive_definite(rng), positive_definite(rng)
    rows = torch.as_tensor(rng.normal(size=(40, SIZE)))

    def drawn(tol):
        monkeypatch.setattr(_weights, "DRAW_TOL", tol)
        monkeypatch.setattr(_weights, "DRAW_MAX_STEPS", 1000)
        weights = LinkMatrix.at(torch.zeros(60, SIZE).double(), Omega)
        state = np.random.RandomState(0)
        return draw_weights(block, weights, rows, Lambda, state).mean

    exact = drawn(1e-10)
    assert (drawn(0.03) - exact).norm() < 0.1 * exact.norm()


def test_a_draw_is_a_point():
    rng = np.random.default_rng(4)
    block, _ = make_block(rng, n_columns=2)
    Lambda, Omega = positive_definite(rng, size=2), positive_definite(rng, size=2)
    uncertain = LinkMatrix(torch.zeros(2, 2).double(), Omega, Lambda, Lambda)
    rows = torch.as_tensor(rng.normal(size=(N_ROWS, 2)))
    drawn = draw_weights(block, uncertain, rows, Lambda, np.random.RandomState(0))
    assert not drawn.covariance.any()
    assert not drawn.response.any()
