"""Fits on a simulated device: answers, launches, waits and memory."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest
import test_contract as contract
import torch
from device_simulation import simulated
from helpers import NEEDS_SIMULATION, as_problem, unconverged
from sklearn.base import clone

from skrec import MFRegressor, NCFRegressor, _settings
from skrec._alternating.als import als
from skrec._alternating.gibbs import gibbs
from skrec._alternating.start import spectral_start
from skrec._alternating.vb import vb
from skrec._gradient.loop import OPTIMIZERS, _Trainer
from skrec._gradient.network import NeuMF, Shape, initial_weights
from skrec._gradient.objective import TrainingOptions
from skrec._gradient.samples import Sampler, Samples
from skrec._topk import inner_products_of_tiles, top_k
from skrec.datasets import make_ratings

# Lists by choices are those of a solver of choices, and one pair of solvers will do.
NAMES = [*contract.BY_PREDICTIONS, "vb, by both"]

pytestmark = [
    NEEDS_SIMULATION,
    pytest.mark.usefixtures("short_chains"),
    pytest.mark.filterwarnings("ignore:All .* ratings in y are"),
    pytest.mark.filterwarnings("ignore:No factor is left"),
    pytest.mark.filterwarnings("ignore:A fit without y is of choices"),
    pytest.mark.filterwarnings("ignore:Without y each pair counts once"),
]


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """A simulated device, which "auto" finds."""
    with simulated() as device:
        auto = torch.device("simulated", 0)
        monkeypatch.setattr(_settings, "_auto_device", lambda work: auto)
        yield device


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "check",
    [
        contract.test_answers_are_finite_and_of_the_documented_shapes,
        contract.test_recommend_chooses_among_candidates_for_any_users,
        contract.test_a_warm_start_goes_on_with_rows_known_by_their_ids,
    ],
)
def test_fits_and_answers_keep_the_contract(name, check):
    check(name)


@pytest.mark.parametrize("name", [name for name in NAMES if name in contract.UPDATED])
def test_updates_keep_the_contract(name):
    contract.test_partial_fit_knows_new_ids_and_what_was_seen(name)


@pytest.mark.parametrize("model", [MFRegressor(2), NCFRegressor(2, random_state=0)])
def test_pairs_that_repeat_are_answered_as_by_the_cpu(model):
    X, y = make_ratings(20, 15, 100, random_state=0)
    X, y = pd.concat([X, X, X]), np.concatenate([y, y + 0.1, y - 0.1])
    model = clone(model).set_params(rank_by="rating", clip=False, max_iter=20)
    with unconverged():
        model.fit(X, y)
    assert model._pair_effects is not None
    asked = {"exclude_seen": False, "return_scores": True}
    found = model.predict(X), *model.recommend(**asked)
    model.set_params(device="cpu")
    for values, expected in zip(
        found, (model.predict(X), *model.recommend(**asked)), strict=True
    ):
        np.testing.assert_allclose(values, expected, atol=1e-5)


def make_problem(n_users, n_items, n_factors, implicit_features):
    rng = np.random.default_rng(0)
    u, i = np.nonzero(rng.random((n_users, n_items)) < 0.2)
    y, w = rng.normal(size=len(u)), np.ones(len(u))
    shape, nothing = (n_users, n_items), np.empty((len(u), 0))
    problem = as_problem(u, i, shape, y, w, nothing, n_factors, True, "simulated")
    return problem.with_implicit_features() if implicit_features else problem


@pytest.mark.parametrize(
    ("solver", "args", "n_factors", "implicit_features", "launches", "waits"),
    [
        (vb, (), 16, False, 172, 3),
        (vb, (), 16, True, 316, 3),
        (als, (12.0,), 16, False, 150, 2),
        (als, (12.0,), 64, False, 320, 10),
    ],
)
def test_launches_of_a_sweep_do_not_depend_on_the_rows(
    device, solver, args, n_factors, implicit_features, launches, waits
):
    found = []
    for shape in ((40, 30), (400, 200)):
        problem = make_problem(*shape, n_factors, implicit_features)
        states = solver(problem, spectral_start(problem), *args)
        list(islice(states, 2))
        device.reset()
        next(states)
        found.append((device.launches, device.waits))
        assert device.longest_bag <= 256
    # Long rows are bags of bags.
    assert found[1][0] - found[0][0] <= 10
    assert found[1][0] <= launches
    assert {n_waits for _, n_waits in found} == {waits}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("layers", [(), (8, 4)])
@pytest.mark.parametrize("n_negatives", [0, 3])
def test_a_step_of_a_network_never_waits(device, optimizer, layers, n_negatives):
    rng, n = np.random.default_rng(0), 400
    shape = Shape(40, 30, 0, 4, 4 if layers else 0, layers, n_members=2)
    network = NeuMF(shape, initial_weights(shape, range(2))).to("simulated")
    users, items = (torch.as_tensor(rng.integers(m, size=n)) for m in (40, 30))
    users, items = users.to("simulated"), items.to("simulated")
    one = torch.ones(n, device="simulated")
    seen = (users * 30 + items).sort().values
    samples = Samples(users, items, one[:, None], one, one).joined()
    generator = torch.Generator("simulated").manual_seed(0)
    loss = "log_loss" if n_negatives else "squared_error"
    waits, launches = [], []
    for batch_size in (200, 20):
        options = TrainingOptions(
            loss, n_negatives, optimizer, 0.01, batch_size, 9, 0.5, dropout=0.1
        )
        sampler = Sampler(samples, generator, 30, n_negatives, seen)
        trainer = _Trainer(network, sampler, options)
        device.reset()
        trainer.run_epoch()
        waits.append(device.waits)
        rows = torch.arange(9, device="simulated")
        device.reset()
        trainer.update(rows)
        launches.append(device.launches)
    # Layers with dropout take more launches, and drawn items; and with "sgd" gradients
    # are clipped.
    most = 39 + (35 if layers else 0) + (13 if n_negatives else 0)
    if optimizer == "sgd":
        most += 39 if layers else 21
    assert launches[0] == launches[1] <= most
    # The mean loss of the epoch is fetched.
    assert waits == [1, 1]


@pytest.mark.parametrize(
    "params",
    [
        {"implicit_features": True, "early_stopping": True},
        {"solver": "sgd", "dropout": 0.2, "hidden_layer_sizes": (4, 3)},
        {"architecture": "gmf", "loss": "bpr", "choice_threshold": 3},
        # Rows are looked up so often that tables enter the first layer.
        {"batch_size": 900, "loss": "log_loss", "choice_threshold": 3},
    ],
)
def test_networks_are_those_of_the_cpu(params):
    X, y = make_ratings(40, 30, 900, random_state=0)
    kinds = pd.DataFrame({"kind": np.arange(30) % 3}, index=pd.Index(range(30)))
    params = {"max_iter": 2, "random_state": 0, "batch_size": 300} | params
    models = [
        NCFRegressor(4, n_members=2, device=device, rank_by="rating", **params)
        for device in ("auto", "cpu")
    ]
    found, expected = (m.fit(X, y, item_features=kinds).predict(X) for m in models)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implicit_features", [False, True])
@pytest.mark.parametrize("solver", [vb, als, gibbs])
def test_sweeps_that_do_not_fit_are_made_in_parts(device, solver, implicit_features):
    problem = make_problem(300, 60, 8, implicit_features)
    start, found = spectral_start(problem), []
    for share in (None, 0.9):
        if share is not None:
            device.memory_limit = int(share * device.peak)
        args = {als: (12.0,), gibbs: (np.random.RandomState(0),)}.get(solver, ())
        device.reset()
        (*_, state) = islice(solver(problem, start, *args), 2)
        found.append(state.users.mean.cpu())
        del state
    assert device.peak <= device.memory_limit
    np.testing.assert_allclose(*found, rtol=1e-8, atol=1e-10)


def test_lists_that_do_not_fit_are_found_in_parts(device):
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(200, 4)), rng.normal(size=(300, 4))
    users, items = users.astype("f4"), items.astype("f4")

    def search():
        rows, where = np.arange(200), torch.device("simulated", 0)
        score = inner_products_of_tiles(lambda rows: users[rows], rows, items, where)
        return top_k(score, 200, 300, 5, device=where)

    expected = search()
    device.memory_limit = device.peak // 3
    device.reset()
    for found, known in zip(search(), expected, strict=True):
        np.testing.assert_array_equal(found, known)
    assert device.peak <= device.memory_limit


def test_a_matrix_that_is_not_definite_is_seen_and_mended(device):
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(20, size=300), rng.integers(10, size=300)])
    y = 1e6 * rng.normal(size=300)
    weight = 10.0 ** rng.uniform(-12, 12, size=300)
    model = MFRegressor(6, max_iter=5, tol=1e9, rank_by="rating")
    found = model.fit(X, y, weight).predict(X)
    expected = model.set_params(device="cpu").fit(X, y, weight).predict(X)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * y.std())


@pytest.mark.parametrize("model", [MFRegressor(4), NCFRegressor(4, (4,))])
def test_nothing_stays_on_the_device(device, model):
    X, y = make_ratings(40, 30, 300, random_state=0)
    model.set_params(max_iter=2, tol=1e9, random_state=0).fit(X, y)
    model.predict(X)
    model.recommend(n_items=3)
    live = device.live
    model.fit(X, y)
    assert device.live == live


class TestDevice:
    def test_operands_on_two_devices_are_refused(self):
        with pytest.raises(RuntimeError, match="on the CPU and on the device"):
            torch.ones(3, device="simulated") + torch.ones(3)

    def test_numbers_come_back_by_a_copy_alone(self, device):
        x = torch.arange(3.0, device="simulated") * 2
        with pytest.raises(TypeError):
            x.numpy()
        device.reset()
        assert x.cpu().numpy().tolist() == [0, 2, 4]
        assert (device.launches, device.waits, device.copies) == (0, 1, 1)

    def test_launches_are_counted_and_views_are_not(self, device):
        x = torch.ones(4, 3, device="simulated")
        device.reset()
        (x.T[:2].reshape(-1) + 1).sum()
        assert device.launches == 3
        assert device.waits == 0

    def test_bytes_alive_have_a_limit(self, device):
        device.memory_limit = device.live + 1000
        x = torch.zeros(200, device="simulated")
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(200, device="simulated")
        del x
        assert torch.zeros(200, device="simulated").sum() == 0


@pytest.mark.parametrize("solver", ["vb", "als", "gibbs"])
def test_terms_of_context_are_those_of_the_cpu(solver):
    X, y = make_ratings(30, 20, 400, random_state=0)
    X = X.assign(season=np.array(["dry", "wet", "cold"])[np.arange(400) % 3])
    params = {"solver": solver, "max_iter": 3, "random_state": 0, "rank_by": "rating"}
    answers = []
    for device in ("auto", "cpu"):
        model = MFRegressor(2, device=device, **params)
        with unconverged():
            model.fit(X, y)
        scores = model.recommend([1], 3, context=["wet"], return_scores=True)[1]
        answers.append(np.append(model.predict(X), scores))
    np.testing.assert_allclose(*answers, rtol=1e-6)
