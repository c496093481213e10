"""Accuracy and speed of NCFRegressor and of MFRegressor(solver="adam").

The peer is fastai's collab_learner, set up in its favour. Its clock starts after it has
numbered the ids and built the loader and the learner, and stops before anything is
scored; those of NCFRegressor and MFRegressor start at a DataFrame. fastai has no
validation set, no progress bar and no recorder of losses, and its loader runs in the
process of the training, which is the fastest here. Both have the same threads and the
same device. Progress goes to stderr, the table to stdout.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import islice

import numpy as np
import pandas as pd
import torch
from _common import (
    DATA,
    Outcome,
    Row,
    Split,
    compare,
    decimals,
    first_tenth,
    folds,
    iteration_seconds,
    load_ml_100k,
    load_npz,
    monti,
    options,
    regressor,
    run_command,
    synchronise,
    x_y,
)
from _leave_one_out import found
from sklearn.metrics import root_mean_squared_error

from skrec import MFRegressor, NCFRegressor

NCF = "NCFRegressor()"
MF = 'MFRegressor(solver="adam")'
FASTAI = "fastai"

# The range is wider than the ratings, as in fastai's own examples: without one its RMSE
# on ML-100K is higher by .01.
FASTAI_EPOCHS, FASTAI_LEARNING_RATE = 5, 5e-3
FASTAI_RANGE = (0.5, 5.5)

# Parameters of `leave-one-out`, chosen with --holdout.
LEAVE_ONE_OUT: dict = {
    "loss": "log_loss",
    "architecture": "gmf",
    "n_factors": 128,
    "n_members": 3,
    "reg": 0.12,
    "learning_rate_init": 0.01,
    "max_iter": 20,
    "random_state": 0,
}

# NeuMF of NVIDIA's benchmark, which penalises no weights; and the shape of ML-20M.
LARGE: dict = {
    "n_factors": 64,
    "hidden_layer_sizes": (256, 256, 128, 64),
    "n_members": 1,
    "loss": "log_loss",
    "n_negatives": 4,
    "reg": 0.0,
    "learning_rate_init": 0.0045,
    "random_state": 0,
}
LARGE_SHAPE = (138_493, 26_744)
N_LARGE = 20_000_000


def fastai_learner(ratings: pd.DataFrame, batch_size: int, device: str, **params):
    """A learner without what takes time and does not train."""
    from fastai.collab import CollabDataLoaders, collab_learner
    from fastai.torch_core import set_seed

    # pandas lends fastai arrays that cannot be written to, and torch says so.
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    set_seed(0)
    loaders = CollabDataLoaders.from_df(
        ratings.astype({"rating": np.float32}),
        valid_pct=0,
        bs=batch_size,
        device=torch.device(device),
    )
    learner = collab_learner(loaders, **params)
    learner.remove_cbs([learner.progress, learner.recorder])
    return learner


def fastai_collab(
    split: Split, *, batch_size: int, device: str, wd: float | None = None, **params
) -> Outcome:
    """Time the fit alone, and clip predictions as the other contestants do."""
    learner = fastai_learner(split.train, batch_size, device, **params)
    start = time.perf_counter()
    learner.fit_one_cycle(FASTAI_EPOCHS, FASTAI_LEARNING_RATE, wd=wd)
    synchronise()
    seconds = time.perf_counter() - start
    predicted, _ = learner.get_preds(dl=learner.dls.test_dl(split.test))
    rating = split.train["rating"]
    predicted = predicted.numpy().ravel().clip(rating.min(), rating.max())
    return Outcome(root_mean_squared_error(split.test["rating"], predicted), seconds)


def ncf(args: argparse.Namespace) -> NCFRegressor:
    return NCFRegressor(**{"random_state": 0, "device": args.device, **args.params})


def ml_100k(args: argparse.Namespace) -> list[Row]:
    splits = list(islice(folds(load_ml_100k()), args.folds))
    ours = compare({NCF: partial(regressor, model=ncf(args))}, splits)[NCF]
    # fastai's own batch of 64 makes its fit long: one fold, without a warm-up.
    theirs = fastai_collab(
        splits[0],
        batch_size=64,
        device=args.device,
        use_nn=True,
        y_range=FASTAI_RANGE,
    )
    peer = f"{FASTAI} use_nn=True, fold 1"
    name = f"{NCF}, ML-100K, {args.folds} of 5 folds"
    return [
        Row(f"{name}: mean RMSE", ours.rmse, "≤ .905", "≤ .897", peer, theirs.rmse),
        Row(f"{name}: median fit, s", ours.seconds, "", "", peer, theirs.seconds),
    ]


def held_out(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """RMSE of networks and factorisation, on a tenth held out of training sets."""
    sets = {
        "MovieLens 1M": first_tenth(load_npz(DATA / "ml-1m.npz")).train,
        "MovieLens 100K": next(folds(load_ml_100k())).train,
        "Douban": monti("douban").train,
        "Flixster": monti("flixster").train,
        "Yahoo Music": monti("yahoo_music").train,
        "2,000 of MovieLens 100K": load_ml_100k().sample(2000, random_state=0),
    }
    models = {
        "MFRegressor()": MFRegressor(rank_by="rating", device=args.device),
        NCF: ncf(args),
        "product": ncf(args).set_params(architecture="gmf"),
        "without who rated what": ncf(args).set_params(implicit_features=False),
    }
    rows = []
    for name, ratings in sets.items():
        split = first_tenth(ratings.reset_index(drop=True))
        figures = [decimals(regressor(split, model).rmse) for model in models.values()]
        rows.append([name, f"{len(split.train):,}", *figures])
        print(*rows[-1], file=sys.stderr)
    return {"": pd.DataFrame(rows, columns=["training set", "ratings", *models])}


def members(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Numbers of members, compared on a tenth held out of a training set."""
    train = next(folds(load_ml_100k())).train
    order = np.random.RandomState(0).permutation(len(train))
    held_out, rest = np.split(order, [len(train) // 10])
    split = Split(train.iloc[rest], train.iloc[held_out])
    contestants = {
        str(n): partial(
            regressor,
            model=NCFRegressor(n_members=n, random_state=0, device=args.device),
        )
        for n in (1, 2, 4, 8, 16)
    }
    rows = [
        [name, decimals(outcome.rmse), f"{outcome.seconds:.1f}"]
        for name, outcome in compare(contestants, [split]).items()
    ]
    return {"": pd.DataFrame(rows, columns=["n_members", "RMSE", "fit, s"])}


def ml_1m(args: argparse.Namespace) -> list[Row]:
    adam = MFRegressor(solver="adam", random_state=0, device=args.device)
    peer = f"{FASTAI} n_factors=50"
    outcomes = compare(
        {
            NCF: partial(regressor, model=ncf(args)),
            MF: partial(regressor, model=adam),
            peer: partial(
                fastai_collab,
                batch_size=8192,
                device=args.device,
                wd=0.1,
                n_factors=50,
                y_range=FASTAI_RANGE,
            ),
        },
        [first_tenth(load_npz(DATA / "ml-1m.npz"))] * args.repetitions,
    )
    bars = {
        NCF: (("≤ .845", "≤ .835"), ("", "")),
        MF: (("≤ .855", "≤ .846"), ("ratio ≤ 0.6", "")),
    }
    theirs = outcomes[peer]
    rows = []
    for name, (rmse_bar, seconds_bar) in bars.items():
        ours = outcomes[name]
        title = f"{name}, ML-1M: median fit of {args.repetitions}, s"
        rows += [
            Row(f"{name}, ML-1M: RMSE", ours.rmse, *rmse_bar, peer, theirs.rmse),
            Row(title, ours.seconds, *seconds_bar, peer, theirs.seconds),
        ]
    return rows


def throughput(args: argparse.Namespace) -> list[Row]:
    ratings = load_npz(DATA / "ml-1m.npz")
    if args.rows:
        ratings = ratings.sample(args.rows, random_state=0)
    return [
        row
        for batch_size in args.batch_sizes
        for row in throughput_rows(ratings, batch_size, args)
    ]


def throughput_rows(
    ratings: pd.DataFrame, batch_size: int, args: argparse.Namespace
) -> list[Row]:
    """An epoch of one network, the perceptron of embeddings."""
    model = NCFRegressor(
        args.n_factors,
        args.layers,
        architecture="mlp",
        n_members=1,
        implicit_features=False,
        batch_size=batch_size,
        max_iter=1,
        device=args.device,
        random_state=0,
    )
    learners = {
        peer: fastai_learner(
            ratings,
            batch_size,
            args.device,
            use_nn=True,
            emb_szs={"user": args.n_factors, "item": args.n_factors},
            layers=args.layers,
            config=config,
        )
        for peer, config in (
            (FASTAI, {}),
            (f"{FASTAI} without batch norm", {"use_bn": False}),
        )
    }

    def ours() -> float:
        return len(ratings) / iteration_seconds(model, *x_y(ratings))[0]

    def theirs(learner) -> float:
        """Neither a schedule, nor the last batch, which fastai leaves out."""
        start = time.perf_counter()
        learner.fit(1)
        synchronise()
        return len(learner.dls.train) * batch_size / (time.perf_counter() - start)

    peers = {peer: partial(theirs, learner) for peer, learner in learners.items()}
    figures = in_turns({NCF: ours, **peers}, args.repetitions)
    sizes = f"{args.n_factors} + {args.n_factors}, {', '.join(map(str, args.layers))}"
    bars = {FASTAI: ("ratio ≥ 3", "ratio ≥ 6")}
    return [
        Row(
            f"one MLP of {sizes}, batch {batch_size}: thousand samples per second",
            figures[NCF] / 1e3,
            *bars.get(peer, ("", "")),
            peer,
            figures[peer] / 1e3,
        )
        for peer in peers
    ]


def in_turns(
    contestants: dict[str, Callable[[], float]], repetitions: int
) -> dict[str, float]:
    """Median figure of contestants that take turns; a first turn is not counted."""
    figures = {name: [] for name in contestants}
    for _ in range(repetitions + 1):
        for name, run in contestants.items():
            figures[name].append(run())
            print(f"{name}: {figures[name][-1]:.0f}", file=sys.stderr)
    return {name: statistics.median(found[1:]) for name, found in figures.items()}


def leave_one_out(args: argparse.Namespace) -> list[Row]:
    params = {"device": args.device, "clip": False, **LEAVE_ONE_OUT, **args.params}
    print(f"parameters: {params}")
    return found(
        NCFRegressor(**params),
        holdout=args.holdout,
        hit_rate_bar=("≥ .700", "≥ .730"),
        ndcg_bar=("≥ .420", "≥ .447"),
        minutes_bar=("≤ 15", ""),
    )


def large_interactions(scale: float) -> pd.DataFrame:
    """Distinct pairs of users and items, as many for each pair there is as in ML-20M.

    The shares of users, and those of items, fall as 1 / (rank + n / 1000). The first of
    each has about 65 times the mean.
    """
    rng = np.random.default_rng(0)
    n_users, n_items = (round(n * scale**0.5) for n in LARGE_SHAPE)
    n_rows = round(N_LARGE * scale)

    def drawn(n: int, size: int) -> np.ndarray:
        """By the inverse of the cumulative share."""
        return (n / 1000 * (1001 ** rng.random(size) - 1)).astype(np.int64)

    pairs = np.empty(0, dtype=np.int64)
    while len(pairs) < n_rows:
        # More than are missing, since some come twice.
        size = n_rows // 50 + (n_rows - len(pairs))
        new = drawn(n_users, size) * n_items + drawn(n_items, size)
        # np.unique would take many times as long as a sort.
        pairs = np.sort(np.concatenate([pairs, new]))
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    pairs = rng.choice(pairs, n_rows, replace=False)
    users, items = np.divmod(pairs, n_items)
    return pd.DataFrame({"user": users, "item": items})


def large(args: argparse.Namespace) -> list[Row]:
    """Epochs after the first. A drawn item that the user has seen counts, too."""
    torch.set_float32_matmul_precision(args.matmul_precision)
    X = large_interactions(args.scale)
    params = {"device": args.device, "max_iter": args.epochs, **LARGE, **args.params}
    n_each = 1 + params["n_negatives"]
    params.setdefault("batch_size", args.batch_size // n_each)
    seconds = iteration_seconds(NCFRegressor(**params), X, np.ones(len(X)))
    print(f"parameters: {params}")
    print(f"seconds of the epochs: {', '.join(f'{s:.3f}' for s in seconds)}")
    return [
        Row(
            f"NeuMF, {len(X)} rows of shape ML-20M, {device_name(args.device)}: "
            "million samples per second",
            n_each * len(X) / statistics.median(seconds[1:]) / 1e6,
            "≥ 34 (H100)",
            "≥ 60 (H100)",
        )
    ]


def device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.machine()


def parse_args() -> argparse.Namespace:
    common = options()
    common.add_argument(
        "--device", default="cpu", help="of each contestant (default: cpu)"
    )
    params = argparse.ArgumentParser(add_help=False)
    params.add_argument(
        "--params",
        type=json.loads,
        default={},
        metavar="JSON",
        help="parameters of NCFRegressor instead of the benchmark's own",
    )
    repeated = argparse.ArgumentParser(add_help=False)
    repeated.add_argument("--repetitions", type=int, default=3, help="default: 3")
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="BENCHMARK")

    command = commands.add_parser(
        "ml-100k", parents=[common, params], help="MovieLens 100K: five folds"
    )
    command.add_argument(
        "--folds",
        type=int,
        default=5,
        choices=range(1, 6),
        help="how many of the five folds to run (default: 5)",
    )
    command.set_defaults(run=ml_100k)

    command = commands.add_parser(
        "held-out", parents=[common, params], help=held_out.__doc__
    )
    command.set_defaults(run=held_out)

    command = commands.add_parser(
        "members", parents=[common], help="accuracy and time of n_members"
    )
    command.set_defaults(run=members)

    command = commands.add_parser(
        "ml-1m",
        parents=[common, params, repeated],
        help="MovieLens 1M: one split, repeated",
    )
    command.set_defaults(run=ml_1m)

    command = commands.add_parser(
        "throughput",
        parents=[common, repeated],
        help="samples per second of one network, MovieLens 1M",
    )
    command.add_argument(
        "--n-factors", type=int, default=50, help="of each embedding (default: 50)"
    )
    command.add_argument(
        "--layers",
        type=int,
        nargs="+",
        default=[50],
        help="units of the hidden layers (default: 50, as fastai has them)",
    )
    command.add_argument(
        "--batch-sizes",
        type=int,
        nargs="+",
        default=[8192, 1024],
        help="default: 8192 1024",
    )
    command.add_argument(
        "--rows", type=int, help="how many ratings to train on (default: all)"
    )
    command.set_defaults(run=throughput)

    command = commands.add_parser(
        "leave-one-out",
        parents=[common, params],
        help="MovieLens 1M: HR@10 and NDCG@10 of the last item of each user",
    )
    command.add_argument(
        "--holdout",
        action="store_true",
        help="find a random training item of each user instead, to choose parameters",
    )
    command.set_defaults(run=leave_one_out)

    command = commands.add_parser(
        "large",
        parents=[common, params],
        help="samples per second of NeuMF, synthetic interactions shaped as ML-20M",
    )
    command.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="share of the 20 million interactions, at their density (default: 1)",
    )
    command.add_argument(
        "--batch-size",
        type=int,
        default=2**20,
        help="rows and drawn items in a step, at most (default: 1048576)",
    )
    command.add_argument("--epochs", type=int, default=4, help="default: 4")
    command.add_argument(
        "--matmul-precision",
        default="highest",
        choices=["highest", "high", "medium"],
        help="of torch: highest is float32, high is TF32 on CUDA (default: highest)",
    )
    command.set_defaults(run=large)

    args = parser.parse_args()
    if args.run is large and args.epochs < 2:
        parser.error("--epochs must be 2 or more, since the first is not counted")
    return args


if __name__ == "__main__":
    run_command(parse_args())
