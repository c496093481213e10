"""Fits by two processes, against one process with all rows."""

import os
import pickle
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import distributed_fit
import numpy as np
import pandas as pd
import pytest
import torch.distributed as dist
from helpers import PATIENCE, unconverged

from skrec import MFRegressor, NCFRegressor, distributed
from skrec._data.vocabulary import Ids
from skrec._ranks import RankShare, _numbered_together
from skrec.datasets import make_ratings

SCRIPT = Path(distributed_fit.__file__)


def launched(tmp_path, cases, n_processes=2, by=None, others_end=True):
    """Results of each process, one for each case.

    Where not all of them end, they are those of when the first has.
    """
    path = tmp_path / "cases.pickle"
    path.write_bytes(pickle.dumps(cases))
    folders = [str(SCRIPT.parent), str(Path(distributed.__file__).parents[1])]
    # The processes meet at a store of this one, whose port is taken before they start.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(folders),
        "MASTER_ADDR": store.host,
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(n_processes),
    }
    script = [str(SCRIPT), str(path), str(tmp_path)]
    if by is None:
        commands = [[sys.executable, *script]] * n_processes
    else:
        commands = [[*by, *script]]
    processes = [
        subprocess.Popen(
            command, env=environment | {"RANK": str(rank)}, stderr=subprocess.PIPE
        )
        for rank, command in enumerate(commands)
    ]
    try:
        _, errors = processes[0].communicate(timeout=PATIENCE)
        for process in processes[1:] if others_end else ():
            process.communicate(timeout=PATIENCE)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert not processes[0].returncode, errors.decode()
    files = [tmp_path / f"{rank}.pickle" for rank in range(n_processes)]
    return [pickle.loads(f.read_bytes()) if f.exists() else [] for f in files]


@pytest.fixture(scope="module")
def rows():
    X, y = make_ratings(60, 60, 1200, random_state=0)
    rng = np.random.default_rng(0)
    X = X.assign(user=X["user"].map("user {}".format), hour=rng.normal(size=len(X)))
    X["season"] = np.array(["autumn", "spring", "winter"])[rng.integers(3, size=len(X))]
    X.loc[7, "season"] = "monsoon"
    # A pair that is repeated, and is read by several processes.
    X = pd.concat([X, X[:20]], ignore_index=True)
    return X, np.append(y, y[1:21]), rng.uniform(0.5, 2, len(X)).round(1)


def cut(X, y, weight, n_processes=2):
    """Shards of different sizes, in no order."""
    owner = np.random.default_rng(1).integers(n_processes + 1, size=len(X))
    owner = np.minimum(owner, n_processes - 1)
    weight = [
        None if weight is None else weight[owner == r] for r in range(n_processes)
    ]
    return [(X[owner == r], y[owner == r], weight[r]) for r in range(n_processes)]


GRADIENT = {"solver": "adam", "n_factors": 3, "max_iter": 4, "random_state": 0}
FEATURES = pd.DataFrame({"half": np.arange(60) % 2}, index=pd.Index(range(60)))
CASES = {
    "vb": ({"n_factors": 3}, 2, False, None),
    "vb with weights and context": ({"n_factors": 3}, 3, True, None),
    "vb without biases": ({"n_factors": 3, "biased": False}, 2, False, None),
    "vb of features": ({"n_factors": 2, "rank_by": "rating"}, 2, False, FEATURES),
    "als": ({"solver": "als"}, 3, True, None),
    "als of choices": (
        {"solver": "als", "unobserved_weight": 0.1, "n_factors": 20},
        *(2, True, None),
    ),
    "als with features": (
        {"solver": "als", "implicit_features": True, "reg_exponent": 0.5},
        *(2, False, FEATURES),
    ),
    "als of many factors": (
        {"solver": "als", "n_factors": 50, "implicit_features": True},
        *(3, True, None),
    ),
    "als of choices, many factors": (
        {"solver": "als", "n_factors": 50, "unobserved_weight": 0.1},
        *(2, False, None),
    ),
    "adam": (GRADIENT, 3, True, None),
    "adam of values": (GRADIENT, 4, True, None),
    "adam with early stopping": (
        {**GRADIENT, "early_stopping": True, "n_factors": 20, "tol": 0.01},
        *(3, False, None),
    ),
    "sgd of choices": (
        {**GRADIENT, "solver": "sgd", "loss": "bpr", "choice_threshold": 3.0}
        | {"early_stopping": True},
        *(4, True, None),
    ),
}
NETWORK = {"n_factors": 3, "hidden_layer_sizes": (4,), "n_members": 2, "max_iter": 3}
NETWORK |= {"random_state": 0, "batch_size": 200}
NETWORK_CASES = {
    "network": (NETWORK, 4, True, None),
    "network with features": (
        {**NETWORK, "implicit_features": True, "early_stopping": True},
        *(2, False, FEATURES),
    ),
    # Most batches have no row of one of the processes.
    "network of small batches": (
        {**NETWORK, "batch_size": 4, "max_iter": 1, "rank_by": "rating"},
        *(2, False, None),
    ),
    "network of choices": (
        {**NETWORK, "loss": "log_loss", "choice_threshold": 3.0, "solver": "sgd"},
        *(2, False, None),
    ),
}


# Masks of dropout are those of each process.
DROPOUT = {**NETWORK, "dropout": 0.2}
ALL_CASES = CASES | NETWORK_CASES | {"dropout": (DROPOUT, 2, False, None)}


def without_rows(X, y):
    """Shards of which the second has no row."""
    return [(X, y, None), (X[:0], y[:0], None)]


def without_weight(X, y):
    """Shards of which the second has weights of zero alone."""
    return [(X, y, np.ones(len(y))), (X[:9].assign(user="z"), y[:9], np.zeros(9))]


IDLE_CASES = {
    "vb": (without_rows, MFRegressor, {"n_factors": 2}, 2),
    "vb, without weight": (without_weight, MFRegressor, {"n_factors": 2}, 2),
    "network": (without_rows, NCFRegressor, NETWORK, 4),
}


WARM_UP = {"n_factors": 21, "implicit_features": True, "rank_by": "rating"}


def many_rows():
    """Rows that support the factors of a warm-up."""
    return make_ratings(130, 120, 13_500, random_state=0)


REPEATED = {"n_factors": 2, "rank_by": "rating"}


def repeated_rows():
    """Rows of pairs that repeat, each about a rating of its own."""
    X, y = make_ratings(30, 20, 200, random_state=0)
    rng = np.random.default_rng(0)
    rows = rng.integers(len(X), size=900)
    return X.iloc[rows], y[rows] + 0.1 * rng.normal(size=len(rows))


@pytest.fixture(scope="module")
def together(tmp_path_factory, rows):
    """Estimators of each process by case; the second process dies in the last."""
    X, y, weight = rows
    cases = {
        name: {
            "params": params,
            "shards": cut(X.iloc[:, :width], y, weight if weighs else None),
            "features": features,
            "kind": NCFRegressor if "n_members" in params else MFRegressor,
        }
        for name, (params, width, weighs, features) in ALL_CASES.items()
    }
    for name, (shards, kind, params, width) in IDLE_CASES.items():
        case = {"params": params, "kind": kind, "shards": shards(X.iloc[:, :width], y)}
        cases[f"idle {name}"] = case
    cases["warm-up"] = {"params": WARM_UP, "shards": cut(*many_rows(), None)}
    cases["repeats"] = {"params": REPEATED, "shards": cut(*repeated_rows(), None)}
    cases["death"] = {
        "params": NETWORK,
        "shards": cut(X[["user", "item"]], y, None),
        "kind": distributed_fit.Dies,
        "timeout": 2 * PATIENCE,
    }
    results = launched(tmp_path_factory.mktemp("processes"), list(cases.values()))
    return {name: models for name, *models in zip_longest(cases, *results)}


@pytest.mark.parametrize("case", CASES | NETWORK_CASES)
def test_processes_fit_as_one(case, together, rows):
    X, y, weight = rows
    params, width, weighs, features = ALL_CASES[case]
    X = X.iloc[:, :width]
    kind = NCFRegressor if case in NETWORK_CASES else MFRegressor
    one = kind(**params)
    with unconverged():
        one.fit(X, y, weight if weighs else None, item_features=features)
    expected, lists = one.predict(X), one.recommend(n_items=5)
    for model in together[case]:
        assert type(model) is kind
        assert vars(model).keys() == vars(one).keys()
        assert model.n_iter_ == one.n_iter_
        assert model.predict(X) == pytest.approx(expected, abs=1e-5)
        assert (model.recommend(n_items=5) == lists).all()
        assert (model.user_ids_ == one.user_ids_).all()
        further = X[:1].assign(user="new")
        with unconverged():
            model.partial_fit(further, y[:1])
        assert np.isfinite(model.predict(further)).all()


def test_processes_warm_up_together(together):
    X, y = many_rows()
    first, second = together["warm-up"]
    one = MFRegressor(**WARM_UP).fit(X, y)
    assert (first.predict(X) == second.predict(X)).all()
    assert first.n_iter_ == one.n_iter_
    assert first.loss_curve_ == pytest.approx(one.loss_curve_, rel=1e-5)
    found, expected = (m.predict(X, return_std=True) for m in (first, one))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_processes_learn_effects_of_pairs_together(together):
    X, y = repeated_rows()
    one = MFRegressor(**REPEATED).fit(X, y)
    assert one._pair_effects is not None
    for model in together["repeats"]:
        assert model.predict(X) == pytest.approx(one.predict(X), abs=1e-5)


def test_dropout_of_processes_is_as_good_as_that_of_one(together, rows):
    X, y, _ = rows
    pair = X.iloc[:, :2]
    one = NCFRegressor(**DROPOUT).fit(pair, y)
    first, second = together["dropout"]
    assert (first.predict(pair) == second.predict(pair)).all()
    assert first.loss_curve_ == pytest.approx(one.loss_curve_, rel=0.05)
    assert first.loss_curve_ != pytest.approx(one.loss_curve_, rel=1e-5)


@pytest.mark.parametrize("case", IDLE_CASES)
def test_a_process_may_have_no_rows(case, together, rows):
    X, y, _ = rows
    _, kind, params, width = IDLE_CASES[case]
    pair = X.iloc[:, :width]
    one = kind(**params).fit(pair, y)
    for model in together[f"idle {case}"]:
        assert model.predict(pair) == pytest.approx(one.predict(pair), abs=1e-5)
        assert (model.feature_names_in_ == one.feature_names_in_).all()
        assert "z" not in model.user_ids_


def test_three_processes_of_torchrun(tmp_path, rows):
    X, y, _ = rows
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "3"]
    X = X[["user", "item"]]
    shards = cut(X, y, None, n_processes=3)
    case = {"params": {"n_factors": 2}, "shards": shards}
    results = launched(tmp_path, [case], 3, by=torchrun)
    expected = MFRegressor(2).fit(X, y).predict(X)
    for (model,) in results:
        assert model.predict(X) == pytest.approx(expected, abs=1e-5)


NO_CHOICES = {"solver": "adam", "loss": "bpr", "choice_threshold": 9.5}


def test_a_process_that_cannot_go_on_is_an_error_on_all(tmp_path, rows):
    X, y, _ = rows
    pair = X[["user", "item"]]
    shards = cut(pair, y, None)
    bad = [shards[0], (shards[1][0], np.full(len(shards[1][0]), np.nan), None)]
    kinds = [shards[0], (shards[1][0].assign(user=1), *shards[1][1:])]
    hourly, seasonal, late = (
        [(columns.loc[X_.index], *rest) for X_, *rest in shards]
        for columns in (
            X[["user", "item", "hour"]],
            X[["user", "item", "season"]],
            X[["user", "item"]].assign(season=0.5),
        )
    )
    widths, dtypes = [shards[0], hourly[1]], [seasonal[0], late[1]]
    names = [hourly[0], late[1]]
    few = [(part[0][:1].assign(user="a"), part[1][:1], None) for part in shards]
    end = {"params": {}, "shards": shards, "timeout": 5}
    nothing = [(part[0][:0], part[1][:0], None) for part in shards]
    cases = [
        *({"params": {}, "shards": s} for s in (bad, kinds, widths, few)),
        {"params": {"solver": "gibbs"}, "shards": shards},
        {"params": {"warm_start": True}, "shards": shards},
        {"params": {}, "shards": nothing},
        {"params": NO_CHOICES, "shards": shards},
        {"params": {"solver": "adam"}, "shards": dtypes},
        {"params": {}, "shards": seasonal},
        {"params": {}, "shards": names},
        {"params": {}, "shards": shards, "features": [FEATURES, FEATURES]},
        end | {"features": [FEATURES, distributed_fit.Sleeps()]},
    ]
    waits, sleeps = launched(tmp_path, cases, others_end=False)
    assert "Process 1 has no rows to fit. ValueError: y must hold" in str(waits[0])
    assert "y must hold finite" in str(sleeps[0])
    for number, match in [
        (1, "ids of one kind, got 'string' in process 0, 'number' in process 1"),
        (2, "as many columns in all processes, got"),
        (3, "2 processes for 1 users"),
        (4, "GibbsSolver"),
        (5, "warm_start=False"),
        (6, "no rows of positive weight in any process"),
        (7, "choice_threshold=9.5 leaves no choices, since the largest rating in y"),
        (8, "numbers in one process and categories in another"),
        (9, "column 2 of X ('season') holds categories, whose terms"),
        (10, "after users and items has ['hour'] in one and ['season'] in another"),
    ]:
        for results in (waits, sleeps):
            assert match in str(results[number])
    # An error before is no hindrance.
    assert isinstance(waits[11], MFRegressor)
    assert isinstance(waits[12], ConnectionError)
    assert "has not answered for 5 seconds" in str(waits[12])


def test_a_process_that_dies_is_an_error_on_all(together):
    # The other one does not wait for an answer that cannot come.
    error, died = together["death"]
    assert died is None
    assert isinstance(error, ConnectionError)


def test_processes_have_to_be_started(rows):
    X, y, _ = rows
    with pytest.raises(RuntimeError, match="run the file by torchrun"):
        distributed.fit(MFRegressor(), X, y)
    with pytest.raises(ValueError, match="timeout must be"):
        distributed.fit(MFRegressor(), X, y, timeout=-1)
    with pytest.raises(ValueError, match="NCFRegressor with ChoiceSolver"):
        distributed._checked_solver(NCFRegressor(), None)


class Alone:
    """Ranks of so many processes, of which none is asked."""

    rank = 0

    def __init__(self, size):
        self.size = size


@pytest.mark.parametrize("seed", range(10))
def test_owners_have_rows_of_equal_cost(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 6))
    counts = rng.zipf(1.5, size=rng.integers(size, 50)).clip(max=10_000)
    share = RankShare.of(Alone(size), counts, "users")
    assert share.bounds[0] == 0
    assert share.bounds[-1] == len(counts)
    assert (np.diff(share.bounds) > 0).all()
    owners = share.owners(np.arange(len(counts)))
    assert (np.bincount(owners, minlength=size) == np.diff(share.bounds)).all()
    cost = np.bincount(owners, counts + 64)
    # No cut is off by more than a row.
    assert cost.max() <= cost.sum() / size + (counts + 64).max() * size


def test_ids_of_processes_are_numbered_as_those_of_one():
    parts = [np.array(["b", "c"]), np.array(["a", "bb", "c"])]
    found = [("string", ids) for ids in parts]
    ranks = Alone(2)
    for ranks.rank, own in enumerate(parts):
        rows = np.array([1, 0, 1])
        numbers, ids = _numbered_together(ranks, found, "X", rows)
        assert (ids == ["a", "b", "bb", "c"]).all()
        assert (ids[numbers] == own[rows]).all()
        assert ids.dtype == Ids(np.concatenate(parts), "string", "").numbered()[1].dtype
