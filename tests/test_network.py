"""The network against its formula, pair by pair, in float64."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from torch.func import functional_call

from skrec._gradient.network import (
    ACTIVATIONS,
    INITIAL_EMBEDDING_SCALE,
    INITIAL_LAST_SCALE,
    INITIAL_SCALE,
    PLAIN_TABLES,
    NeuMF,
    Shape,
    feature_weights,
    initial_weights,
    slope_weights,
)
from skrec._gradient.row_features import RowFeatures

USER_TABLES, ITEM_TABLES = PLAIN_TABLES.values()
TABLES = USER_TABLES + ITEM_TABLES

NEUMF = Shape(
    n_users=5,
    n_items=4,
    n_context=2,
    n_factors=3,
    n_embedding=2,
    hidden_layer_sizes=(4, 3),
    activation="tanh",
    n_members=3,
)

VARIANTS = {
    "neumf": NEUMF,
    "product alone": replace(NEUMF, n_embedding=0, hidden_layer_sizes=()),
    "perceptron alone": replace(NEUMF, n_factors=0),
    "biases alone": replace(NEUMF, n_factors=0, n_embedding=0, hidden_layer_sizes=()),
    "no context": replace(NEUMF, n_context=0),
    "no biases": replace(NEUMF, biased=False),
    "products only": replace(NEUMF, n_context=0, n_embedding=0, biased=False),
    "no hidden layer": replace(NEUMF, hidden_layer_sizes=()),
    "one hidden layer": replace(NEUMF, hidden_layer_sizes=(6,)),
    "three hidden layers": replace(NEUMF, hidden_layer_sizes=(2, 5, 1)),
    "one member": replace(NEUMF, n_members=1),
}

FUNCTIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def shape(request):
    return request.param


def random_network(shape, seed=0, slopes=False):
    """A network whose every weight is about 1, biases and unseen rows included."""
    generator = torch.Generator().manual_seed(seed)
    initial = initial_weights(shape, range(shape.n_members))
    if slopes:
        initial |= slope_weights(shape)
    weights = {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in initial.items()
    }
    return NeuMF(shape, weights)


def random_pairs(shape, n=6, n_candidates=3, seed=0):
    """Rows of tables, that of the unseen among them, and context."""
    rng = np.random.default_rng(seed)
    users = rng.integers(shape.n_users + 1, size=n)
    items = rng.integers(shape.n_items + 1, size=(n, n_candidates))
    context = rng.normal(size=(n, shape.n_context))
    return [torch.from_numpy(array) for array in (users, items, context)]


def arrays_of(network):
    return {name: p.detach().numpy() for name, p in network.named_parameters()}


def brute_force_score(shape, weights, user, item, f, m):
    score = 0.0
    if shape.n_factors:
        p, q = weights["user_factors"][user, m], weights["item_factors"][item, m]
        score += p @ q
    if shape.biased:
        score += weights["user_bias"][user, m] + weights["item_bias"][item, m]
        score += weights["intercept"][m]
    if shape.n_context:
        score += f @ weights["coef"][m]
    if "user_slopes" in weights:
        score += f @ (weights["user_slopes"][user] + weights["item_slopes"][item])
    if shape.n_embedding:
        r, s = weights["user_embedding"][user, m], weights["item_embedding"][item, m]
        hidden = r @ weights["user_weight"][m] + s @ weights["item_weight"][m]
        if shape.n_context:
            hidden = hidden + f @ weights["feature_weight"][m]
        hidden = hidden + weights["bias_0"][m, 0]
        for layer in range(1, len(shape.hidden_layer_sizes) + 1):
            hidden = FUNCTIONS[shape.activation](hidden)
            hidden = hidden @ weights[f"weight_{layer}"][m]
            hidden = hidden + weights[f"bias_{layer}"][m, 0]
        score += hidden.item()
    return score


def brute_force(network, users, items, context):
    shape, weights = network.shape, arrays_of(network)
    scores = np.empty((*items.shape, shape.n_members))
    for n, j, m in np.ndindex(*scores.shape):
        scores[n, j, m] = brute_force_score(
            shape, weights, users[n], items[n, j], context[n].numpy(), m
        )
    return scores


@pytest.mark.parametrize("slopes", [False, True])
def test_forward_is_the_formula_of_every_pair_and_member(shape, slopes):
    network, pairs = random_network(shape, slopes=slopes), random_pairs(shape)
    scores = network(*pairs).detach()
    np.testing.assert_allclose(scores, brute_force(network, *pairs), rtol=1e-10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_applies_the_activation(activation):
    shape = replace(NEUMF, activation=activation)
    network, pairs = random_network(shape), random_pairs(shape)
    scores = network(*pairs).detach()
    np.testing.assert_allclose(scores, brute_force(network, *pairs), rtol=1e-10)


@st.composite
def shapes(draw):
    small = st.integers(0, 3)
    n_factors, n_embedding = draw(small), draw(small)
    return Shape(
        n_users=draw(st.integers(1, 4)),
        n_items=draw(st.integers(1, 4)),
        n_context=draw(small),
        n_factors=n_factors,
        n_embedding=n_embedding,
        hidden_layer_sizes=tuple(draw(st.lists(st.integers(1, 4), max_size=3))),
        activation=draw(st.sampled_from(sorted(ACTIVATIONS))),
        # A row holds something.
        biased=n_factors + n_embedding == 0 or draw(st.booleans()),
        n_members=draw(st.integers(1, 3)),
    )


@given(
    shapes(), st.integers(0, 4), st.integers(0, 3), st.booleans(), st.integers(0, 99)
)
def test_forward_is_the_formula_at_any_shape(shape, n, n_candidates, slopes, seed):
    network = random_network(shape, seed, slopes and shape.n_context > 0)
    pairs = random_pairs(shape, n, n_candidates, seed)
    scores = network(*pairs).detach()
    assert scores.shape == (n, n_candidates, shape.n_members)
    np.testing.assert_allclose(
        scores, brute_force(network, *pairs), rtol=1e-9, atol=1e-9
    )


def test_numbers_below_zero_are_rows_counted_from_the_last(shape):
    network = random_network(shape)
    for side, n in (("user", shape.n_users), ("item", shape.n_items)):
        numbers = torch.tensor([[0, n - 1], [-1, -2]])
        rows = network.table_rows(side, numbers)
        assert rows.tolist() == [[0, n - 1], [n, n - 1]]


def test_side_scores_take_row_numbers_of_any_shape(shape):
    network = random_network(shape)
    rows = torch.arange(24).reshape(2, 3, 4) % shape.n_items
    scores, flat = (network.side_scores("item", x) for x in (rows, rows.flatten()))
    for name in ("factors", "hidden", "bias"):
        part, of_flat = getattr(scores, name), getattr(flat, name)
        if part.numel():
            assert part.shape[:3] == rows.shape
            part = part.flatten(0, 2)
        torch.testing.assert_close(part, of_flat)


@pytest.mark.parametrize("slopes", [False, True])
@pytest.mark.parametrize("n_values", [(), (2, 3)])
def test_scores_of_no_rows_are_none(shape, n_values, slopes):
    has_slopes = slopes and shape.n_context > 0
    network = random_network(replace(shape, n_values=n_values), slopes=has_slopes)
    for side in ("user", "item"):
        none = network.side_scores(side, torch.empty(0, dtype=torch.int64))
        one = network.side_scores(side, torch.zeros(1, dtype=torch.int64))
        for part, of_one in zip(vars(none).values(), vars(one).values(), strict=True):
            assert part.shape[1:] == of_one[:0].shape[1:]


def test_rows_that_are_looked_up_often_have_the_same_scores():
    network = random_network(NEUMF)
    rows = torch.arange(100 * NEUMF.n_items) % NEUMF.n_items
    often = network.side_scores("item", rows).hidden
    seldom = network.side_scores("item", rows[: NEUMF.n_items]).hidden
    torch.testing.assert_close(often[-NEUMF.n_items :], seldom)


def grid_of_side_scores(network):
    """Every user, and every item, computed once; ready to be broadcast."""
    user = network.side_scores("user", torch.arange(network.shape.n_users)[:, None])
    return user, network.side_scores("item", torch.arange(network.shape.n_items))


def grid_of_pairs(shape):
    users = torch.arange(shape.n_users)
    return users, torch.arange(shape.n_items).expand(shape.n_users, -1)


@pytest.mark.parametrize("n_context", [0, 2])
def test_broadcast_side_scores_equal_forward(shape, n_context):
    shape = replace(shape, n_context=n_context)
    network = random_network(shape)
    context = torch.randn(shape.n_users, n_context, dtype=torch.float64)
    user, item = grid_of_side_scores(network)
    user = network.in_context(user, context[:, None])
    scores = network.inner(user, item)
    if shape.n_embedding:
        of_layers = network.perceptron(user.hidden + item.hidden)
        scores = scores + of_layers.view(scores.shape)
    torch.testing.assert_close(scores, network(*grid_of_pairs(shape), context))


@pytest.mark.parametrize("name", ["neumf", "no hidden layer", "no context"])
def test_perceptron_without_features_is_that_of_zeros(name):
    shape = VARIANTS[name]
    network = random_network(shape)
    user, item = grid_of_side_scores(network)
    scores = network.inner(user, item)
    scores = scores + network.perceptron(user.hidden + item.hidden).view(scores.shape)
    zeros = torch.zeros(shape.n_users, shape.n_context).double()
    torch.testing.assert_close(scores, network(*grid_of_pairs(shape), zeros))


def test_a_member_alone_scores_as_it_does_among_others(shape):
    network, pairs = random_network(shape), random_pairs(shape)
    scores = network(*pairs)
    for m in range(shape.n_members):
        weights = {
            name: p.detach().narrow(int(name in TABLES), m, 1)
            for name, p in network.named_parameters()
        }
        alone = NeuMF(replace(shape, n_members=1), weights)
        torch.testing.assert_close(alone(*pairs)[..., 0], scores[..., m])


def test_dense_weights_are_shared_and_no_biases():
    network = random_network(NEUMF)
    dense = {id(parameter) for parameter in network.dense()}
    names = {name for name, p in network.named_parameters() if id(p) in dense}
    layers = {"user_weight", "item_weight", "feature_weight", "weight_1", "weight_2"}
    assert names == layers | {"coef"}
    assert len(dense) == len(network.dense())


def test_initial_weights_of_a_member_depend_on_its_seed_alone(shape):
    shape = replace(shape, n_members=3)
    together = initial_weights(shape, [7, 8, 9])
    shuffled = initial_weights(shape, [9, 7, 8])
    alone = initial_weights(replace(shape, n_members=1), [8])
    for name, value in together.items():
        axis = int(name in TABLES)
        assert torch.equal(value.select(axis, 0), shuffled[name].select(axis, 1))
        assert torch.equal(value.select(axis, 1), alone[name].select(axis, 0))
        assert torch.equal(value.select(axis, 2), shuffled[name].select(axis, 0))


def test_initial_weights_of_other_seeds_are_others():
    weights = initial_weights(replace(NEUMF, n_members=2), [0, 1])
    for name in ("user_factors", "user_weight", "item_weight", "weight_1"):
        axis = int(name in TABLES)
        assert not torch.equal(
            weights[name].select(axis, 0), weights[name].select(axis, 1)
        )


def test_initial_weights_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    initial_weights(NEUMF, range(3))
    assert torch.equal(before, torch.get_rng_state())


def test_initial_weights_are_zero_except_factors_and_layers(shape):
    weights = initial_weights(shape, range(shape.n_members))
    for names, n_rows in ((USER_TABLES, shape.n_users), (ITEM_TABLES, shape.n_items)):
        for name in weights.keys() & set(names):
            assert weights[name].shape[:2] == (n_rows + 1, shape.n_members)
            assert weights[name].any() != ("bias" in name)
    for name in weights.keys() - set(TABLES):
        # Context, which may say nothing, enters no layer yet.
        assert weights[name].any() == ("weight" in name and "feature" not in name)


def test_initial_weights_have_their_scale():
    sizes = (300, 200)
    shape = Shape(400, 300, 50, 20, 100, sizes)
    weights = initial_weights(shape, [0])
    for name in TABLES:
        if "bias" not in name:
            drawn = weights[name][:-1]
            scale = INITIAL_EMBEDDING_SCALE if "emb" in name else INITIAL_SCALE
            assert drawn.std().item() == pytest.approx(scale, rel=0.05)
    # The first layer has both embeddings and the context as its inputs.
    first = [weights[f"{side}_weight"] for side in ("user", "item", "feature")]
    last = weights["weight_2"] / INITIAL_LAST_SCALE
    layers = [torch.cat(first, dim=1), weights["weight_1"], last]
    for layer, (n_in, n_out) in zip(layers, pairwise((250, *sizes, 1)), strict=True):
        assert layer.shape == (1, n_in, n_out)
        assert layer.std().item() == pytest.approx(np.sqrt(2 / n_in), rel=0.15)


def test_dropout_is_off_by_default():
    network, pairs = random_network(NEUMF), random_pairs(NEUMF)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    scores = network(*pairs)
    assert torch.equal(scores, network(*pairs, generator=generator))
    assert torch.equal(scores, network(*pairs, 0.0, generator))
    assert torch.equal(before, generator.get_state())


def test_dropout_draws_from_the_given_generator_alone():
    network, pairs = random_network(NEUMF), random_pairs(NEUMF)
    generator = torch.Generator().manual_seed(0)
    state, before = torch.get_rng_state(), generator.get_state()
    first, second = (network(*pairs, 0.5, generator) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, second)
    generator.set_state(before)
    assert torch.equal(first, network(*pairs, 0.5, generator))


def test_dropout_leaves_the_product_alone():
    shape = VARIANTS["product alone"]
    network, pairs = random_network(shape), random_pairs(shape)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(network(*pairs), network(*pairs, 0.5, generator))


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_dropout_silences_its_share_and_keeps_the_mean(share):
    n, shape = 40_000, replace(NEUMF, hidden_layer_sizes=(6,), n_members=2)
    network = random_network(shape)
    weights = arrays_of(network)
    pair = torch.tensor([1]), torch.tensor([[2]]), torch.ones(1, 2).double()
    generator = torch.Generator().manual_seed(0)
    many = [x.expand(n, *x.shape[1:]) for x in pair]
    draws = network(*many, share, generator)[:, 0].detach().numpy()
    # A unit that adds x is x / (1 - share) or nothing.
    r, s = weights["user_embedding"][1], weights["item_embedding"][2]
    hidden = np.einsum("mj,mjh->mh", r, weights["user_weight"])
    hidden += np.einsum("mj,mjh->mh", s, weights["item_weight"])
    hidden += weights["feature_weight"].sum(1) + weights["bias_0"][:, 0]
    added = np.tanh(hidden) * weights["weight_1"][..., 0]
    variance = (added**2).sum(1) * share / (1 - share)
    mean = network(*pair)[0, 0].detach().numpy()
    assert (np.abs(draws.mean(0) - mean) < 4 * np.sqrt(variance / n)).all()
    np.testing.assert_allclose(draws.var(0), variance, rtol=0.05)
    # Units and members are silenced one by one.
    assert abs(np.corrcoef(draws.T)[0, 1]) < 4 / np.sqrt(n)


def test_gradient_of_the_factorisation_is_the_closed_form():
    shape = replace(NEUMF, n_embedding=0, hidden_layer_sizes=())
    network = random_network(shape)
    weights = arrays_of(network)
    users, items, context = random_pairs(shape, n=20, n_candidates=2)
    y = np.random.default_rng(1).normal(size=(20, 2, 1))
    scores = network(users, items, context)
    (scores - torch.from_numpy(y)).square().sum().backward()

    error = 2 * (brute_force(network, users, items, context) - y)
    expected = {name: np.zeros_like(value) for name, value in weights.items()}
    for n, j, m in np.ndindex(*error.shape):
        user, item, e = users[n], items[n, j], error[n, j, m]
        expected["user_factors"][user, m] += e * weights["item_factors"][item, m]
        expected["item_factors"][item, m] += e * weights["user_factors"][user, m]
        expected["user_bias"][user, m] += e
        expected["item_bias"][item, m] += e
        expected["intercept"][m] += e
        expected["coef"][m] += e * context[n].numpy()
    for name, parameter in network.named_parameters():
        np.testing.assert_allclose(
            parameter.grad, expected[name], rtol=1e-9, atol=1e-9, err_msg=name
        )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_the_limits_of_differences(activation):
    shape = Shape(2, 3, 1, 2, 2, (3, 2), activation, n_members=2)
    network, pairs = random_network(shape), random_pairs(shape, 3, 2)
    names, values = zip(*network.named_parameters(), strict=True)

    def scores(*values):
        weights = dict(zip(names, values, strict=True))
        return functional_call(network, weights, tuple(pairs))

    assert torch.autograd.gradcheck(scores, values)


def test_parameters_are_contiguous_whatever_the_weights():
    weights = initial_weights(NEUMF, range(NEUMF.n_members))
    strided = {
        name: value.mT.contiguous().mT
        for name, value in weights.items()
        if value.dim() > 1
    }
    network = NeuMF(NEUMF, weights | strided)
    assert any(not value.is_contiguous() for value in strided.values())
    assert all(parameter.is_contiguous() for parameter in network.parameters())


def test_weights_of_features_are_zeros_named_after_their_tables():
    weights = initial_weights(NEUMF, range(3))
    added = feature_weights("user", 4, weights)
    assert {name: tuple(value.shape) for name, value in added.items()} == {
        "user_feature_factors": (4, 3, 3),
        "user_feature_embedding": (4, 3, 2),
        "user_feature_bias": (4, 3),
    }
    assert not any(value.any() for value in added.values())
    matrix = sparse.csr_array(np.eye(NEUMF.n_users, 4))
    network = NeuMF(NEUMF, weights | added, {"user": RowFeatures(matrix)})
    users, items, columns = random_pairs(NEUMF, n=30)
    pairs = users, items, columns.float()
    assert torch.equal(network(*pairs), NeuMF(NEUMF, weights)(*pairs))


@pytest.mark.parametrize("n_factors", [2, 300])
def test_tables_without_a_row_of_the_unseen_have_the_same_scores(n_factors):
    network = random_network(replace(NEUMF, n_factors=n_factors))
    shorter = {
        name: p.detach()[:-1] if name in TABLES else p.detach()
        for name, p in network.named_parameters()
    }
    pairs = *grid_of_pairs(NEUMF), torch.zeros(NEUMF.n_users, NEUMF.n_context).double()
    torch.testing.assert_close(NeuMF(network.shape, shorter)(*pairs), network(*pairs))
