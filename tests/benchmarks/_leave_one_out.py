"""The last item of each user of MovieLens 1M, among 99 that they have not chosen."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import pandas as pd
from _common import DATA, Row
from sklearn.base import RegressorMixin

N_CANDIDATES = 99
LIST_LENGTH = 10


class Task(NamedTuple):
    """Find the target of each user among it and candidates that are none.

    `train` has the columns user and item. The others have a row for each user of
    `users`; a candidate that is the target counts once.
    """

    train: pd.DataFrame
    users: np.ndarray
    targets: np.ndarray
    candidates: np.ndarray


def leave_one_out_task() -> Task:
    with np.load(DATA / "ml-1m-leave-one-out.npz", allow_pickle=False) as arrays:
        train = pd.DataFrame(
            {"user": arrays["train_user"], "item": arrays["train_item"]}
        )
        return Task(
            train, arrays["test_user"], arrays["test_item"], arrays["negatives"]
        )


def held_out_task(train: pd.DataFrame) -> Task:
    """A random row of each user as target, and candidates without a row of theirs.

    Made of training rows alone, so that parameters are chosen without the test set. A
    test item can be among the candidates, as any other item without a row.
    """
    random = np.random.RandomState(0)
    shuffled = train.iloc[random.permutation(len(train))]
    targets = shuffled.drop_duplicates("user").sort_values("user")
    users = targets["user"].to_numpy()
    keys = random.rand(len(users), train["item"].max() + 1)
    keys[np.searchsorted(users, train["user"]), train["item"]] = np.inf
    return Task(
        train.drop(targets.index),
        users,
        targets["item"].to_numpy(),
        np.argpartition(keys, N_CANDIDATES, axis=1)[:, :N_CANDIDATES],
    )


def ranks(model: RegressorMixin, task: Task) -> np.ndarray:
    """Candidates ahead of each target; of those with its score, all are."""
    items = np.column_stack([task.targets, task.candidates])
    X = pd.DataFrame(
        {"user": np.repeat(task.users, items.shape[1]), "item": items.ravel()}
    )
    scores = model.predict(X).reshape(items.shape)
    target, others = scores[:, :1], scores[:, 1:]
    ahead = (others >= target) & (task.candidates != task.targets[:, None])
    return ahead.sum(axis=1)


def found(
    model: RegressorMixin,
    *,
    holdout: bool,
    hit_rate_bar: tuple[str, str],
    ndcg_bar: tuple[str, str],
    minutes_bar: tuple[str, str],
) -> list[Row]:
    """Fit, and count how many targets are in the first places, and where.

    With `holdout`, they are random training items instead.
    """
    task, name = leave_one_out_task(), "ML-1M, leave one out"
    if holdout:
        task, name = held_out_task(task.train), "ML-1M, held out of training"
    start = time.perf_counter()
    model.fit(task.train)
    minutes = (time.perf_counter() - start) / 60
    rank = ranks(model, task)
    hit = rank < LIST_LENGTH
    gain = np.where(hit, 1 / np.log2(rank + 2), 0)
    return [
        Row(f"{name}: HR@{LIST_LENGTH}", hit.mean(), *hit_rate_bar),
        Row(f"{name}: NDCG@{LIST_LENGTH}", gain.mean(), *ndcg_bar),
        Row(f"{name}: fit, minutes", minutes, *minutes_bar),
    ]
