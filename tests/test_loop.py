"""The gradient loop against the objective of its options, in float64."""

import math
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from helpers import default_threads
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.optimizer import register_optimizer_step_pre_hook

from skrec._gradient.loop import OPTIMIZERS, train
from skrec._gradient.losses import LOSSES
from skrec._gradient.network import (
    PLAIN_TABLES,
    NeuMF,
    Shape,
    initial_weights,
)
from skrec._gradient.objective import TrainingOptions
from skrec._gradient.samples import Part, Samples

USER_TABLES, ITEM_TABLES = PLAIN_TABLES.values()
TABLES = USER_TABLES + ITEM_TABLES

SHAPE = Shape(
    n_users=7,
    n_items=6,
    n_context=1,
    n_factors=2,
    n_embedding=2,
    hidden_layer_sizes=(3,),
    activation="tanh",
    n_members=2,
)
BIASES = replace(SHAPE, n_factors=0, n_embedding=0, hidden_layer_sizes=())

# One batch, one epoch, no penalty.
OPTIONS = TrainingOptions(
    loss="squared_error",
    n_negatives=0,
    optimizer="sgd",
    learning_rate=0.05,
    batch_size=1000,
    n_epochs=1,
    reg=0.0,
)

# Every loss with the numbers of drawn items that it can have.
DRAWING = [(loss, n) for loss in LOSSES for n in (0, 3) if n > 0 or loss != "bpr"]

FORMULAS = {
    "squared_error": lambda s, y: (s - y) ** 2,
    "absolute_error": lambda s, y: (s - y).abs(),
    "huber": lambda s, y: torch.where(
        (s - y).abs() < 1, (s - y) ** 2 / 2, (s - y).abs() - 0.5
    ),
    "log_loss": lambda s, y: (
        -y * torch.log(torch.sigmoid(s)) - (1 - y) * torch.log(torch.sigmoid(-s))
    ),
}


class Watched(NeuMF):
    """Records its inputs in training, and outside of it."""

    def __init__(self, shape, weights):
        super().__init__(shape, weights)
        self.trained, self.validated, self.threads = [], [], set()

    def forward(self, users, items, context, *args):
        calls = self.trained if torch.is_grad_enabled() else self.validated
        calls.append((users, items, context))
        self.threads.add(torch.get_num_threads())
        return super().forward(users, items, context, *args)


def make_network(shape=SHAPE, seed=0, kind=Watched, device="cpu"):
    """A network whose every weight is about 1/2, biases and unseen rows included."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: (torch.randn(value.shape, generator=generator) / 2).to(device)
        for name, value in initial_weights(shape, range(shape.n_members)).items()
    }
    return kind(shape, weights)


def make_samples(n=24, shape=SHAPE, seed=0, device="cpu"):
    """Distinct pairs in sorted order, none of the last user nor of the last item."""
    rng = np.random.default_rng(seed)
    n_pairs = (shape.n_users - 1) * (shape.n_items - 1)
    users, items = np.divmod(np.sort(rng.permutation(n_pairs)[:n]), shape.n_items - 1)
    floats = {
        "context": rng.normal(size=(n, shape.n_context)),
        "target": rng.uniform(size=n),
        "weight": rng.uniform(0.5, 2, size=n),
    }
    return Samples(
        torch.as_tensor(users, device=device),
        torch.as_tensor(items, device=device),
        **{
            name: torch.as_tensor(value, dtype=torch.float32, device=device)
            for name, value in floats.items()
        },
    )


def keys_of(users, items, shape=SHAPE):
    return users * shape.n_items + items


def run(network, samples, options, held_out=None, *, seed=0, **kwargs):
    """Epochs, with the pairs of all samples as those that are never drawn."""
    keys = [keys_of(s.users, s.items, network.shape) for s in (samples, held_out) if s]
    kwargs.setdefault("seen", torch.cat(keys).unique())
    generator = torch.Generator(samples.users.device).manual_seed(seed)
    part = held_out and Part(held_out, None, len(held_out))
    return list(train(network, samples, options, generator, part, **kwargs))


def weights_of(network):
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def assert_same_weights(network, other, **tolerance):
    for name, value in weights_of(other).items():
        torch.testing.assert_close(
            network.get_parameter(name).detach(), value, msg=name, **tolerance
        )


def in_float64(network):
    weights = {name: value.double() for name, value in weights_of(network).items()}
    return NeuMF(network.shape, weights)


def brute_force_losses(loss, score, target):
    if loss != "bpr":
        return FORMULAS[loss](score, target)
    above = torch.log(torch.sigmoid(score[:, :1] - score[:, 1:]))
    return torch.cat([torch.zeros_like(score[:, :1]), -target[:, :1] * above], dim=1)


def targets_and_weights(samples, call, seen):
    """Targets and weights, in float64, of the pairs of a call."""
    users, items, _ = call
    keys = keys_of(users[:, None], items)
    rows = torch.searchsorted(
        keys_of(samples.users, samples.items), keys[:, 0].contiguous()
    )
    target = torch.zeros(items.shape, dtype=torch.float64)
    target[:, 0] = samples.target[rows]
    weight = samples.weight[rows].double()[:, None].repeat(1, items.shape[1])
    weight[:, 1:][torch.isin(keys[:, 1:], seen)] = 0
    return target, weight


def brute_force_mean_loss(network, loss, samples, call, seen, *, of_mean=False):
    """Loss per unit of weight, a sum over members or that of their mean."""
    users, items, context = call
    target, weight = targets_and_weights(samples, call, seen)
    score = in_float64(network)(users, items, context.double())
    if of_mean:
        score = score.mean(-1, keepdim=True)
    losses = brute_force_losses(loss, score, target[..., None])
    return (losses * weight[..., None]).sum() / weight.sum()


def brute_force_penalty(network, samples, reg):
    """Of the objective of `TrainingOptions`, row by row."""
    total, penalty = samples.weight.double().sum(), 0
    for names, rows, n_rows in (
        (USER_TABLES, samples.users, network.shape.n_users),
        (ITEM_TABLES, samples.items, network.shape.n_items),
    ):
        for table in network.tables(names):
            for row in range(n_rows):
                of_row = samples.weight.double()[rows == row].sum()
                penalty = penalty + of_row.sqrt() * table[row].square().sum()
    for name, parameter in network.named_parameters():
        if "weight" in name or name == "coef":
            penalty = penalty + total.sqrt() * parameter.square().sum()
    return reg * penalty / total


def brute_force_gradient(network, samples, options):
    """Of the objective without drawn items, by name of the weights."""
    network = in_float64(network)
    score = network(samples.users, samples.items[:, None], samples.context.double())
    target, weight = (
        x.double()[:, None, None] for x in (samples.target, samples.weight)
    )
    losses = FORMULAS[options.loss](score, target) * weight
    objective = losses.sum() / weight.sum()
    (objective + brute_force_penalty(network, samples, options.reg)).backward()
    return {name: p.grad for name, p in network.named_parameters()}


def curvatures_of(network, samples, options):
    """Curvatures of the objective of a batch of all samples, by name of the weights."""
    weight = samples.weight.double()
    curvature = LOSSES[options.loss].relative_curvature
    total = weight.sum()
    curvatures = {}
    for names, rows, n_rows in (
        (USER_TABLES, samples.users, network.shape.n_users),
        (ITEM_TABLES, samples.items, network.shape.n_items),
    ):
        of_row = torch.zeros(n_rows + 1, dtype=torch.float64)
        of_row.index_add_(0, rows, weight)
        penalty = torch.where(of_row > 0, options.reg * of_row.rsqrt(), 0)
        of_table = (of_row / total).clamp_min(1 / len(samples)) * (curvature + penalty)
        for name in names:
            if hasattr(network, name):
                table = network.get_parameter(name)
                curvatures[name] = of_table.view(-1, *[1] * (table.dim() - 1))
    for name, _ in network.named_parameters():
        is_held = "weight" in name or name == "coef"
        penalty = options.reg / total.sqrt() if is_held else 0
        curvatures.setdefault(name, curvature + penalty)
    return curvatures


@pytest.fixture
def steps():
    """Learning rate, and the gradients in the order of the weights, of every step."""
    steps = []

    def record(optimizer, *_):
        (group,) = optimizer.param_groups
        steps.append((float(group["lr"]), [p.grad.clone() for p in group["params"]]))

    handle = register_optimizer_step_pre_hook(record)
    yield steps
    handle.remove()


@pytest.mark.parametrize(("loss", "n_negatives"), DRAWING)
def test_loss_of_an_epoch_is_the_mean_of_its_pairs(loss, n_negatives):
    network, samples = make_network(), make_samples()
    first = make_network()
    seen = keys_of(samples.users, samples.items)
    options = replace(OPTIONS, loss=loss, n_negatives=n_negatives, reg=0.5)
    (epoch,) = run(network, samples, options)
    (call,) = network.trained
    assert call[1].shape == (24, 1 + n_negatives)
    expected = brute_force_mean_loss(first, loss, samples, call, seen).item() / 2
    assert epoch.loss == pytest.approx(expected, rel=1e-5)
    assert epoch.validation_score is None


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "bpr"])
def test_first_step_of_sgd_is_the_gradient_over_the_curvature(loss, steps):
    network, samples = make_network(), make_samples()
    options = replace(OPTIONS, loss=loss, reg=0.5)
    expected = brute_force_gradient(network, samples, options)
    before = weights_of(network)
    run(network, samples, options)
    ((learning_rate, _),) = steps
    curvatures = curvatures_of(network, samples, options)
    for name, weight in before.items():
        expected[name] /= curvatures[name]
        # Nesterov's first step is longer by the momentum, which is 0.9.
        moved = (network.get_parameter(name) - weight) / (-1.9 * learning_rate)
        np.testing.assert_allclose(
            moved.detach(), expected[name], rtol=1e-3, atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize(("loss", "n_negatives"), DRAWING)
def test_gradient_of_a_step_is_that_of_its_pairs(loss, n_negatives, steps):
    network, samples = make_network(), make_samples()
    first = in_float64(network)
    options = replace(OPTIONS, loss=loss, n_negatives=n_negatives, optimizer="adam")
    run(network, samples, options)
    users, items, context = network.trained[0]
    call = users, items, context.double()
    target, weight = targets_and_weights(
        samples, call, keys_of(samples.users, samples.items)
    )
    losses = brute_force_losses(loss, first(*call), target[..., None])
    ((losses * weight[..., None]).sum() / weight.sum()).backward()
    ((_, gradients),) = steps
    for gradient, parameter in zip(gradients, first.parameters(), strict=True):
        np.testing.assert_allclose(gradient, parameter.grad, rtol=1e-3, atol=1e-6)


def test_gradients_of_batches_average_to_that_of_the_objective(steps):
    network, samples = make_network(), make_samples()
    samples = replace(samples, weight=torch.ones(24))
    # Steps too short to move anything, so that all are taken at the same weights.
    options = replace(
        OPTIONS, optimizer="adam", batch_size=4, reg=0.5, learning_rate=1e-30
    )
    expected = brute_force_gradient(network, samples, options)
    run(network, samples, options)
    assert len(steps) == 6
    gradients = zip(*(gradients for _, gradients in steps), strict=True)
    for name, of_batches in zip(expected, gradients, strict=True):
        mean = torch.stack(of_batches).mean(0)
        np.testing.assert_allclose(
            mean, expected[name], rtol=1e-3, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_ends_where_the_closed_form_of_biases_does(optimizer):
    network, samples = make_network(BIASES), make_samples()
    options = replace(
        OPTIONS, optimizer=optimizer, learning_rate=0.1, n_epochs=250, reg=0.3
    )
    u, i, f, y, w = (
        getattr(samples, field.name).double().numpy() for field in fields(samples)
    )
    n_users, n_items = SHAPE.n_users, SHAPE.n_items
    b, c = np.eye(n_users)[u.astype(int)], np.eye(n_items)[i.astype(int)]
    root = np.sqrt(np.concatenate([w @ b, w @ c, [w.sum(), 0]]))
    design = np.hstack([b, c, f, np.ones((len(y), 1))])
    before = {
        name: value.double().numpy() for name, value in weights_of(network).items()
    }
    start = np.vstack([before[f"{side}_bias"][:-1] for side in ("user", "item")])
    start = np.vstack([start, before["coef"].T, before["intercept"]])

    run(network, samples, options)
    after = {name: value.numpy() for name, value in weights_of(network).items()}
    precision = design.T * w @ design + 0.3 * np.diag(root)
    for m in range(2):
        # What no pair touches is not pulled.
        expected = np.linalg.pinv(precision) @ (design.T @ (w * y))
        expected += np.where(precision.any(0), 0, start[:, m])
        found = np.concatenate([after["user_bias"][:-1, m], after["item_bias"][:-1, m]])
        np.testing.assert_allclose(found, expected[: len(found)], atol=2e-3)
        found = after["coef"][m, 0], after["intercept"][m]
        np.testing.assert_allclose(found, expected[-2:], atol=2e-3)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "bpr"])
def test_weight_two_is_the_row_twice(loss):
    once, twice = make_network(), make_network()
    samples = make_samples()
    chosen = torch.arange(24) % 3 == 0
    doubled = replace(samples, weight=samples.weight * (1 + chosen.float()))
    repeated = samples.take(torch.cat([torch.arange(24), chosen.nonzero()[:, 0]]))
    options = replace(OPTIONS, loss=loss, n_epochs=10, reg=0.5)
    losses = [
        [epoch.loss for epoch in run(network, rows, options)]
        for network, rows in ((once, doubled), (twice, repeated))
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert_same_weights(once, twice, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_members_train_as_if_alone(optimizer):
    samples = make_samples()
    options = replace(
        OPTIONS,
        loss="log_loss",
        n_negatives=2,
        optimizer=optimizer,
        learning_rate=0.02,
        batch_size=7,
        n_epochs=4,
        reg=0.5,
    )
    together = make_network(replace(SHAPE, n_members=3))
    first = weights_of(together)
    losses = [epoch.loss for epoch in run(together, samples, options)]
    losses_alone = []
    for m in range(3):
        alone = NeuMF(
            replace(SHAPE, n_members=1),
            {
                n: value.narrow(int(n in TABLES), m, 1).contiguous()
                for n, value in first.items()
            },
        )
        losses_alone.append([epoch.loss for epoch in run(alone, samples, options)])
        for name, value in weights_of(alone).items():
            member = together.get_parameter(name).narrow(int(name in TABLES), m, 1)
            torch.testing.assert_close(
                member.detach(), value, rtol=1e-3, atol=1e-4, msg=name
            )
    np.testing.assert_allclose(losses, np.mean(losses_alone, axis=0), rtol=1e-4)


RANDOM = replace(
    OPTIONS, loss="log_loss", n_negatives=2, batch_size=7, n_epochs=3, dropout=0.3
)


def test_one_seed_gives_one_result():
    results = []
    for seed in (0, 0, 1):
        network = make_network()
        losses = [
            epoch.loss for epoch in run(network, make_samples(), RANDOM, seed=seed)
        ]
        results.append((losses, network))
    assert results[0][0] == results[1][0] != results[2][0]
    assert_same_weights(results[0][1], results[1][1], rtol=0, atol=0)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    run(make_network(), make_samples(), RANDOM, make_samples(5, seed=1))
    assert torch.equal(before, torch.get_rng_state())


def test_every_row_is_in_one_batch_of_an_epoch_in_an_order_of_its_own():
    network, samples = make_network(), make_samples()
    run(network, samples, replace(OPTIONS, batch_size=5, n_epochs=3))
    assert len(network.trained) == 3 * 5
    orders = []
    for epoch in range(3):
        batches = network.trained[5 * epoch : 5 * epoch + 5]
        assert max(len(users) for users, _, _ in batches) <= 5
        users, items, context = (torch.cat(part) for part in zip(*batches, strict=True))
        keys = keys_of(users, items[:, 0])
        order = keys.argsort()
        assert torch.equal(keys[order], keys_of(samples.users, samples.items))
        assert torch.equal(context[order], samples.context)
        orders.append(tuple(order.tolist()))
    assert len(set(orders)) == 3


def test_dropout_is_that_of_the_options():
    losses = []
    for dropout in (0.0, 0.5):
        (epoch,) = run(
            make_network(), make_samples(), replace(OPTIONS, dropout=dropout)
        )
        losses.append(epoch.loss)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("loss", ["log_loss", "bpr"])
@pytest.mark.parametrize("unseen", [0, 2, SHAPE.n_items - 1])
@pytest.mark.parametrize("user", [0, SHAPE.n_users - 1])
def test_seen_pairs_are_no_negatives(loss, unseen, user):
    network = make_network()
    before = weights_of(network)
    samples = replace(
        make_samples(1), users=torch.tensor([user]), items=torch.tensor([1])
    )
    items = torch.arange(SHAPE.n_items)
    seen = keys_of(user, items[items != unseen])
    options = replace(OPTIONS, loss=loss, n_negatives=4, n_epochs=20)
    run(network, samples, options, seen=seen)
    drawn = torch.cat([items[:, 1:] for _, items, _ in network.trained])
    assert len(drawn.unique()) == SHAPE.n_items
    # The row behind the last is nobody's.
    others = torch.tensor([i for i in range(SHAPE.n_items + 1) if i not in (1, unseen)])
    for name in ITEM_TABLES:
        table = network.get_parameter(name)
        assert torch.equal(table[others], before[name][others])
        assert (table[unseen] != before[name][unseen]).any()


def test_items_are_drawn_uniformly_and_afresh():
    network, samples = make_network(), make_samples()
    n, n_items = 50, SHAPE.n_items
    run(
        network,
        samples,
        replace(OPTIONS, n_negatives=n, n_epochs=40, learning_rate=1e-6),
    )
    drawn = torch.stack(
        [items[users.argsort(stable=True), 1:] for users, items, _ in network.trained]
    )
    assert not (drawn[0] == drawn[1]).all(1).any()
    count = torch.bincount(drawn.flatten(), minlength=n_items).numpy()
    assert len(count) == n_items
    p = 1 / n_items
    spread = np.sqrt(drawn.numel() * p * (1 - p))
    assert (np.abs(count - drawn.numel() * p) < 4 * spread).all()


def blocks(seed=0, n_users=40, n_items=30):
    """Users who chose some items of their half, as samples; and who is in which."""
    rng = np.random.default_rng(seed)
    own = np.equal.outer(np.arange(n_users) % 2, np.arange(n_items) % 2)
    chosen = own & (rng.random(own.shape) < 0.5)
    users, items = map(torch.from_numpy, np.nonzero(chosen))
    ones = torch.ones(len(users))
    return Samples(users, items, torch.zeros(len(users), 0), ones, ones), own, chosen


@pytest.mark.parametrize("loss", ["bpr", "log_loss"])
@pytest.mark.parametrize(("n_factors", "n_embedding"), [(3, 0), (0, 3)])
def test_ranking_losses_find_preferred_items(loss, n_factors, n_embedding):
    samples, own, chosen = blocks()
    shape = Shape(*own.shape, 0, n_factors, n_embedding, (8,))
    network = NeuMF(shape, initial_weights(shape, [0]))
    options = TrainingOptions(loss, 3, "adam", 0.05, 32, 20, 0.01)
    run(network, samples, options)
    users, items = (torch.from_numpy(index) for index in np.indices(own.shape))
    score = network(users[:, 0], items, torch.zeros(len(users), 0))[..., 0]
    score = score.detach().numpy()
    above = [
        np.greater.outer(
            score[user, own[user] & ~chosen[user]], score[user, ~own[user]]
        )
        for user in range(len(own))
    ]
    assert np.mean([pairs.mean() for pairs in above]) > 0.95
    if loss == "log_loss":
        assert score[chosen].mean() > 0 > score[~own].mean()


def test_factors_of_a_noiseless_matrix_are_found():
    rng = np.random.default_rng(0)
    n_users, n_items = 50, 40
    taste = rng.normal(size=(n_users, 2)) @ rng.normal(size=(2, n_items))
    held_out = rng.random(taste.shape) < 0.3
    users, items = map(torch.from_numpy, np.nonzero(~held_out))
    target = torch.from_numpy(taste[~held_out]).float()
    none, ones = torch.zeros(len(users), 0), torch.ones(len(users))
    shape = Shape(n_users, n_items, 0, 2, biased=False)
    network = NeuMF(shape, initial_weights(shape, [0]))
    samples = Samples(users, items, none, target, ones)
    run(
        network,
        samples,
        replace(OPTIONS, optimizer="adam", batch_size=100, n_epochs=40),
    )
    found = network.user_factors[:-1, 0] @ network.item_factors[:-1, 0].T
    error = found.detach().numpy() - taste
    assert np.sqrt((error[held_out] ** 2).mean()) < 0.02 * taste.std()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("loss", "n_negatives"), DRAWING)
def test_the_loss_falls(optimizer, loss, n_negatives):
    options = replace(
        OPTIONS,
        loss=loss,
        n_negatives=n_negatives,
        optimizer=optimizer,
        batch_size=8,
        n_epochs=20,
    )
    samples = make_samples()
    epochs = run(make_network(), samples, options, samples)
    assert len(epochs) == 20
    # Of pairs that are the same in all epochs, and of those that vary.
    assert epochs[-1].validation_score > 0.8 * epochs[0].validation_score
    losses = [epoch.loss for epoch in epochs]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:2])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_learning_rate_rises_for_a_tenth_and_falls_as_a_cosine(optimizer, steps):
    options = replace(OPTIONS, optimizer=optimizer, batch_size=12, n_epochs=100)
    run(make_network(BIASES), make_samples(), options)
    rates = np.array([rate for rate, _ in steps]) / options.learning_rate
    n = len(rates)
    assert n == 200
    progress = np.arange(n) / n
    cosine = (1 + np.cos(np.pi * (progress - 0.1) / 0.9)) / 2
    expected = np.where(progress < 0.1, progress / 0.1, cosine)
    # Steps may be counted from 0 or 1: the rise is by 1/20 a step.
    np.testing.assert_allclose(rates, expected, atol=1.01 / 20)
    assert 0 < rates[-1] < 1e-3
    assert (rates <= 1).all()
    np.testing.assert_allclose(np.diff(rates[:20], 2), 0, atol=1e-9)


@pytest.mark.parametrize("n_epochs", [1, 2])
def test_short_trainings_have_positive_learning_rates(n_epochs, steps):
    run(make_network(), make_samples(), replace(OPTIONS, n_epochs=n_epochs))
    assert all(0 < rate <= OPTIONS.learning_rate for rate, _ in steps)


@pytest.mark.parametrize("tile_size", [4, 2**14])
@pytest.mark.parametrize(("loss", "n_negatives"), DRAWING)
def test_validation_scores_the_mean_of_members(
    monkeypatch, loss, n_negatives, tile_size
):
    monkeypatch.setattr("skrec._gradient.measures.TILE_SIZE", tile_size)
    rows = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    samples, held_out = (make_samples()[part.sort().values] for part in rows.split(14))
    seen = keys_of(make_samples().users, make_samples().items)
    network = make_network()
    # Dropout is for training alone.
    options = replace(
        OPTIONS,
        loss=loss,
        n_negatives=n_negatives,
        batch_size=4,
        n_epochs=3,
        reg=0.5,
        dropout=0.5,
    )
    generator = torch.Generator().manual_seed(0)
    calls = []
    part = Part(held_out, None, len(held_out))
    for epoch in train(network, samples, options, generator, part, seen):
        validated = zip(*network.validated, strict=True)
        calls.append([torch.cat(part) for part in validated])
        network.validated.clear()
        expected = brute_force_mean_loss(
            network, loss, held_out, calls[-1], seen, of_mean=True
        )
        assert epoch.validation_score == pytest.approx(-expected.item(), rel=1e-5)
    assert len(calls) == 3
    # All epochs are scored on the same pairs.
    for call in calls:
        assert torch.equal(call[0], held_out.users)
        assert torch.equal(call[1], calls[0][1])


def test_held_out_samples_are_not_trained_on():
    options = replace(OPTIONS, batch_size=5, n_epochs=3, dropout=0.2)
    with_it, without = make_network(), make_network()
    run(with_it, make_samples(), options, make_samples(9, seed=1))
    run(without, make_samples(), options)
    assert_same_weights(with_it, without, rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("reg", [0.0, 10.0])
def test_rows_that_no_pair_touches_stay(optimizer, reg):
    network, samples = make_network(), make_samples()
    before = weights_of(network)
    options = replace(
        OPTIONS,
        optimizer=optimizer,
        learning_rate=0.01,
        batch_size=5,
        n_epochs=3,
        reg=reg,
    )
    run(network, samples, options)
    for name in TABLES:
        moved = (network.get_parameter(name) != before[name]).flatten(1).any(1)
        # Those of the last user or item, and of the unseen.
        assert moved.tolist() == [True] * (len(moved) - 2) + [False] * 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_loss_that_diverges_is_not_finite(optimizer):
    options = replace(OPTIONS, optimizer=optimizer, learning_rate=1e30, n_epochs=5)
    losses = [epoch.loss for epoch in run(make_network(), make_samples(), options)]
    assert math.isfinite(losses[0])
    assert not math.isfinite(losses[-1])


class Cramped(NeuMF):
    """Has memory for so many rows in training; certain calls find none."""

    room = 3
    failing = ()
    drops_first = False
    n_calls = 0

    def forward(self, users, *args):
        if not torch.is_grad_enabled():
            return super().forward(users, *args)
        self.n_calls += 1
        full = len(users) > self.room or self.n_calls in self.failing
        if full and self.drops_first:
            super().forward(users, *args)
        if full:
            raise torch.OutOfMemoryError("no room")
        return super().forward(users, *args)


@pytest.mark.parametrize(("loss", "n_negatives"), DRAWING)
@pytest.mark.parametrize("batch_size", [11, 1000])
def test_a_batch_that_is_split_gives_the_same(loss, n_negatives, batch_size):
    options = replace(
        OPTIONS,
        loss=loss,
        n_negatives=n_negatives,
        batch_size=batch_size,
        n_epochs=3,
        reg=0.5,
    )
    samples, held_out = make_samples(), make_samples(10, seed=1)
    whole, cramped = make_network(), make_network(kind=Cramped)
    expected = run(whole, samples, options, held_out)
    with pytest.warns(RuntimeWarning, match="does not fit into the memory") as caught:
        epochs = run(cramped, samples, options, held_out)
    assert len(caught) == 1
    for name in ("loss", "validation_score"):
        values = [[getattr(e, name) for e in found] for found in (expected, epochs)]
        np.testing.assert_allclose(*values, rtol=1e-4)
    assert_same_weights(whole, cramped, rtol=1e-3, atol=1e-4)


def test_parts_before_the_one_that_does_not_fit_count_once():
    options = replace(OPTIONS, n_epochs=2, reg=0.5)
    whole, cramped = make_network(), make_network(kind=Cramped)
    # Twelve rows fit, but in the first epoch the second dozen does not.
    cramped.room, cramped.failing = 12, (3,)
    expected = run(whole, make_samples(), options)
    with pytest.warns(RuntimeWarning, match="does not fit") as caught:
        epochs = run(cramped, make_samples(), options)
    assert len(caught) == 1
    assert cramped.n_calls == 3 + 4 + 4
    np.testing.assert_allclose(
        [e.loss for e in expected], [e.loss for e in epochs], rtol=1e-5
    )
    assert_same_weights(whole, cramped, rtol=1e-3, atol=1e-5)


def test_dropout_of_an_attempt_that_failed_is_drawn_again():
    results = []
    for drops_first in (False, True):
        network = make_network(kind=Cramped)
        network.drops_first = drops_first
        with pytest.warns(RuntimeWarning, match="does not fit"):
            run(network, make_samples(), RANDOM)
        results.append(network)
    assert_same_weights(*results, rtol=0, atol=0)


@pytest.mark.parametrize("batch_size", [1, 24])
def test_a_row_that_does_not_fit_is_an_error(batch_size):
    network = make_network(kind=Cramped)
    network.room = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(torch.OutOfMemoryError, match="no room"):
            run(network, make_samples(), replace(OPTIONS, batch_size=batch_size))
    assert len(caught) == (batch_size > 1)


@default_threads(3)
@pytest.mark.parametrize(("enough", "n_threads"), [(2**30, 1), (1, 3)])
def test_threads_are_as_before_between_epochs(monkeypatch, enough, n_threads):
    monkeypatch.setattr("skrec._gradient.loop.MIN_NUMBERS_PER_THREAD", enough)
    network = make_network()
    generator = torch.Generator().manual_seed(0)
    epochs = train(network, make_samples(), replace(OPTIONS, n_epochs=3), generator)
    for _ in epochs:
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 3
    assert network.threads == {n_threads}


@default_threads(3)
def test_threads_are_as_before_after_an_error():
    network = make_network(kind=Cramped)
    network.room = 0
    with pytest.raises(torch.OutOfMemoryError):
        run(network, make_samples(), replace(OPTIONS, batch_size=1))
    assert torch.get_num_threads() == 3


@settings(max_examples=20)
@given(
    st.sampled_from([(24, 1), (24, 5), (24, 23), (24, 24), (24, 99), (1, 1), (2, 1)]),
    st.sampled_from(DRAWING),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_any_batches_leave_finite_weights(sizes, drawing, n_epochs, seed):
    n, batch_size = sizes
    network, samples = make_network(seed=seed), make_samples(n, seed=seed)
    options = TrainingOptions(*drawing, "adam", 0.02, batch_size, n_epochs, 0.5)
    epochs = run(network, samples, options, samples, seed=seed)
    assert len(epochs) == n_epochs
    assert all(math.isfinite(e.loss + e.validation_score) for e in epochs)
    assert all(value.isfinite().all() for value in weights_of(network).values())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_gpu_and_the_cpu_agree(optimizer, gpu):
    options = replace(OPTIONS, optimizer=optimizer, n_epochs=10, reg=0.5)
    losses, networks = [], []
    for device in ("cpu", gpu):
        network = make_network(device=device)
        samples = make_samples(device=device)
        held_out = make_samples(10, seed=1, device=device)
        epochs = run(network, samples, options, held_out)
        losses.append([(e.loss, e.validation_score) for e in epochs])
        networks.append(network.cpu())
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert_same_weights(*networks, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(("loss", "n_negatives"), DRAWING)
def test_the_objective_is_that_of_its_formula_and_that_of_alike_rows(loss, n_negatives):
    torch.manual_seed(0)
    n, reg = 40, 0.7
    users, items = torch.randint(7, (n,)), torch.randint(6, (n,))
    weight, target = torch.rand(n) + 0.5, torch.rand(n)
    samples = Samples(users, items, torch.zeros(n, 1), target, weight)
    network = NeuMF(SHAPE, initial_weights(SHAPE, range(2)))
    options = replace(OPTIONS, loss=loss, n_negatives=n_negatives, reg=reg)
    # No pair is seen, so that every drawn one counts.
    seen = torch.empty(0, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)

    def penalty():
        total = (1 + n_negatives) * weight.sum()
        row_weights = {}
        for side, rows, size in (("user", users, 7), ("item", items, 6)):
            of_rows = torch.bincount(rows, weight, size)
            drawn = n_negatives * weight.sum() / size
            row_weights[side] = (
                of_rows * (1 + n_negatives) if side == "user" else of_rows + drawn
            )
        squares = 0.0
        for side, tables in (("user", USER_TABLES), ("item", ITEM_TABLES)):
            for name in tables:
                table = dict(network.named_parameters())[name][:-1].detach()
                of_row = table.flatten(1).square().sum(1)
                squares += float(row_weights[side].sqrt() @ of_row)
        for layer in network.dense():
            squares += float(total.sqrt() * layer.detach().square().sum())
        return reg * squares / float(total) / SHAPE.n_members

    first = penalty()
    (epoch,) = train(network, samples, options, generator, seen=seen)
    end, alike, first_batch = epoch.objective()
    assert end == pytest.approx(epoch.loss + penalty(), rel=1e-5)
    if loss == "bpr":
        of_pairs = n_negatives * (weight @ target) * math.log(2)
    else:
        zero = torch.zeros(n)
        of_pairs = weight @ FORMULAS[loss](zero, target)
        of_pairs += n_negatives * weight.sum() * FORMULAS[loss](zero, zero)[0]
    expected = float(of_pairs / ((1 + n_negatives) * weight.sum()))
    assert alike == pytest.approx(expected + first, rel=1e-5)
    # The only batch is scored before its step.
    assert first_batch == pytest.approx(epoch.loss + first, rel=1e-5)
