"""Fit one model in the environment that this runs in; `peers.py` runs it.

Each peer is a class that fits, and predicts or recommends. It takes raw ids, as a user
has them. `prepare` reads and numbers them, and is timed apart. A peer imports its own
package, and nothing else here needs more than NumPy and SciPy.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

WARM_UP_ROWS = 5000
LIST_LENGTH = 10


class Rows(NamedTuple):
    """Raw ids and ratings, one entry a row."""

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray

    def head(self, n: int) -> Rows:
        return Rows(*(column[:n] for column in self))


class Numbering:
    """Sorted ids of training rows, and rows as numbers; -1 is an unknown id."""

    def __init__(self, train: Rows):
        self.users, self.items = np.unique(train.user), np.unique(train.item)
        self.shape = len(self.users), len(self.items)
        self.rows = self.of(train.user, train.item)

    def of(self, user: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.numbers(self.users, user), self.numbers(self.items, item)

    @staticmethod
    def numbers(ids: np.ndarray, raw: np.ndarray) -> np.ndarray:
        places = np.searchsorted(ids, raw).clip(max=len(ids) - 1)
        return np.where(ids[places] == raw, places, -1)


class Peer:
    """A model of another package. `threads` is how many it may use."""

    package: str

    def __init__(self, threads: int, **settings: Any):
        self.threads, self.settings = threads, settings

    def prepare(self, train: Rows) -> None:
        """Read and number rows, in the form that the package asks for."""
        self.ids = Numbering(train)
        self.mean, self.limits = (
            train.rating.mean(),
            (train.rating.min(), train.rating.max()),
        )
        self.rating = train.rating

    def fit(self) -> None:
        raise NotImplementedError

    @cached_property
    def matrix(self) -> sparse.csr_matrix:
        """A user by item matrix of ones."""
        ones = np.ones(len(self.rating), dtype=np.float32)
        return sparse.csr_matrix((ones, self.ids.rows), shape=self.ids.shape)

    def clipped(self, predicted: np.ndarray) -> np.ndarray:
        """Predictions within the training ratings; the mean where there is none."""
        predicted = np.asarray(predicted, dtype=float)
        return np.where(np.isnan(predicted), self.mean, predicted).clip(*self.limits)

    def best(self, users: np.ndarray, scores: Callable) -> np.ndarray:
        """Items of the highest scores that each user has no row with."""
        lists = []
        for tile in np.array_split(users, max(1, len(users) // 1000)):
            rows = self.ids.numbers(self.ids.users, tile)
            values = np.array(scores(rows), dtype=float)
            values[self.matrix[rows].nonzero()] = -np.inf
            first = np.argpartition(-values, LIST_LENGTH, axis=1)[:, :LIST_LENGTH]
            order = np.argsort(-np.take_along_axis(values, first, 1), axis=1)
            lists.append(self.ids.items[np.take_along_axis(first, order, 1)])
        return np.concatenate(lists)


class Skrec(Peer):
    """`estimator` names the class; other settings are its parameters."""

    package = "skrec-torch"

    def prepare(self, train: Rows) -> None:
        import pandas as pd

        self.X = pd.DataFrame({"user": train.user, "item": train.item})
        self.y = train.rating

    def fit(self) -> None:
        import skrec

        settings = dict(self.settings)
        estimator = getattr(skrec, settings.pop("estimator", "MFRegressor"))
        if estimator is not skrec.DummyRecommender:
            settings = {"device": "cpu", **settings}
        choices = settings.pop("choices", False)
        self.model = estimator(**settings)
        self.model.fit(self.X, None if choices else self.y)

    def predict(self, test: Rows) -> np.ndarray:
        import pandas as pd

        return self.model.predict(pd.DataFrame({"user": test.user, "item": test.item}))

    def recommend(self, users: np.ndarray) -> np.ndarray:
        return self.model.recommend(users, n_items=LIST_LENGTH)


class Surprise(Peer):
    package = "scikit-surprise"

    def prepare(self, train: Rows) -> None:
        import pandas as pd
        from surprise import Dataset, Reader

        super().prepare(train)
        frame = pd.DataFrame(train._asdict())
        data = Dataset.load_from_df(frame, Reader(rating_scale=self.limits))
        self.trainset = data.build_full_trainset()

    def fit(self) -> None:
        import surprise

        settings = {"random_state": 0, **self.settings}
        self.model = getattr(surprise, settings.pop("algorithm"))(**settings)
        self.model.fit(self.trainset)

    def predict(self, test: Rows) -> np.ndarray:
        found = self.model.test(zip(*(column.tolist() for column in test), strict=True))
        return np.array([prediction.est for prediction in found])


class Cmfrec(Peer):
    package = "cmfrec"

    def prepare(self, train: Rows) -> None:
        import pandas as pd

        super().prepare(train)
        self.frame = pd.DataFrame(
            {"UserId": train.user, "ItemId": train.item, "Rating": train.rating * 1.0}
        )

    def fit(self) -> None:
        from cmfrec import CMF

        settings = {"random_state": 1, "verbose": False, **self.settings}
        self.model = CMF(nthreads=self.threads, **settings).fit(self.frame)

    def predict(self, test: Rows) -> np.ndarray:
        return self.clipped(self.model.predict(test.user, test.item))


class Cornac(Peer):
    package = "cornac"

    def prepare(self, train: Rows) -> None:
        from cornac.data import Dataset

        super().prepare(train)
        rows = zip(*(column.tolist() for column in train), strict=True)
        self.data = Dataset.from_uir(rows)

    def fit(self) -> None:
        import cornac.models

        settings = {"seed": 0, "verbose": False, **self.settings}
        make = getattr(cornac.models, settings.pop("model"))
        if make in (cornac.models.MF, cornac.models.BPR):
            settings["num_threads"] = self.threads
        self.model = make(**settings).fit(self.data)

    def predict(self, test: Rows) -> np.ndarray:
        users, items = self.data.uid_map, self.data.iid_map
        rate = self.model.rate
        found = [
            rate(users[u], items[i]) if u in users and i in items else np.nan
            for u, i in zip(test.user.tolist(), test.item.tolist(), strict=True)
        ]
        return self.clipped(found)

    def recommend(self, users: np.ndarray) -> np.ndarray:
        items = [self.data.iid_map[item] for item in self.ids.items.tolist()]
        user_map, names = self.data.uid_map, self.ids.users.tolist()

        def scores(rows: np.ndarray) -> np.ndarray:
            found = (self.model.score(user_map[names[u]]) for u in rows)
            return np.stack([np.ravel(one)[items] for one in found])

        return self.best(users, scores)


class MyFM(Peer):
    """A factorisation machine of ids and, as its authors do, of who rated what.

    Its priors expect ratings of about unit scale.
    """

    package = "myfm"

    def prepare(self, train: Rows) -> None:
        super().prepare(train)
        matrix = self.matrix

        def scaled(rows: sparse.csr_matrix) -> sparse.csr_matrix:
            counts = np.maximum(rows.getnnz(axis=1), 1)
            return sparse.diags(counts**-0.5) @ rows

        self.blocks = [
            sparse.hstack([sparse.identity(n), scaled(rows)]).tocsr()
            for n, rows in zip(self.ids.shape, (matrix, matrix.T.tocsr()), strict=True)
        ]
        # An unknown id has no column of its own, and no counterparts.
        self.blocks = [
            sparse.vstack([block, sparse.csr_matrix((1, block.shape[1]))]).tocsr()
            for block in self.blocks
        ]

    def relations(self, rows: tuple[np.ndarray, np.ndarray]) -> list:
        from myfm import RelationBlock

        return [
            RelationBlock(np.where(number < 0, block.shape[0] - 1, number), block)
            for number, block in zip(rows, self.blocks, strict=True)
        ]

    def fit(self) -> None:
        import myfm

        settings = dict(self.settings)
        ordinal, n_iter = settings.pop("ordinal", False), settings.pop("n_iter")
        make = myfm.MyFMOrderedProbit if ordinal else myfm.MyFMGibbsRegressor
        levels, rating = np.unique(self.rating, return_inverse=True)
        self.levels = levels if ordinal else None
        self.scale = self.rating.std() or 1.0
        n_users, n_items = self.ids.shape
        self.model = make(random_seed=0, **settings).fit(
            np.zeros((len(rating), 0)),
            rating if ordinal else (self.rating - self.mean) / self.scale,
            X_rel=self.relations(self.ids.rows),
            n_iter=n_iter,
            n_kept_samples=n_iter - n_iter // 10,
            group_shapes=[n_users, n_items, n_items, n_users],
        )

    def predict(self, test: Rows) -> np.ndarray:
        relations = self.relations(self.ids.of(test.user, test.item))
        empty = np.zeros((len(test.user), 0))
        if self.levels is None:
            predicted = self.model.predict(empty, relations)
            return self.clipped(self.mean + self.scale * predicted)
        return self.model.predict_proba(empty, relations) @ self.levels


class Fastai(Peer):
    """`collab_learner`, whose range is wider than the ratings, as in its examples."""

    package = "fastai"

    def prepare(self, train: Rows) -> None:
        import pandas as pd
        import torch
        from fastai.collab import CollabDataLoaders, collab_learner
        from fastai.torch_core import set_seed

        super().prepare(train)
        set_seed(0)
        settings = dict(self.settings)
        self.schedule = settings.pop("epochs"), settings.pop("lr"), settings.pop("wd")
        frame = pd.DataFrame(train._asdict()).astype({"rating": np.float32})
        loaders = CollabDataLoaders.from_df(
            frame, valid_pct=0, bs=settings.pop("bs"), device=torch.device("cpu")
        )
        low, high = self.limits
        self.learner = collab_learner(
            loaders, y_range=(low - 0.5, high + 0.5), **settings
        )
        self.learner.remove_cbs([self.learner.progress, self.learner.recorder])

    def fit(self) -> None:
        epochs, learning_rate, penalty = self.schedule
        self.learner.fit_one_cycle(epochs, learning_rate, wd=penalty)

    def predict(self, test: Rows) -> np.ndarray:
        import pandas as pd

        loader = self.learner.dls.test_dl(pd.DataFrame(test._asdict()))
        predicted, _ = self.learner.get_preds(dl=loader)
        return self.clipped(predicted.numpy().ravel())


class LensKit(Peer):
    package = "lenskit"

    def prepare(self, train: Rows) -> None:
        import pandas as pd
        from lenskit.data import from_interactions_df

        super().prepare(train)
        frame = pd.DataFrame(train._asdict()).set_axis(
            ["user_id", "item_id", "rating"], axis=1
        )
        self.data = from_interactions_df(frame)

    def fit(self) -> None:
        from lenskit.als import BiasedMFScorer
        from lenskit.pipeline import predict_pipeline
        from lenskit.random import init_global_rng

        init_global_rng(0)
        self.model = predict_pipeline(BiasedMFScorer(**self.settings))
        self.model.train(self.data)

    def predict(self, test: Rows) -> np.ndarray:
        import pandas as pd
        from lenskit.batch import predict

        frame = pd.DataFrame({"user_id": test.user, "item_id": test.item})
        found = predict(self.model, frame, n_jobs=1).to_df()
        frame = frame.merge(found, on=["user_id", "item_id"], how="left")
        return self.clipped(frame["score"].to_numpy())


class Implicit(Peer):
    package = "implicit"

    def fit(self) -> None:
        import implicit

        settings = {"random_state": 0, "num_threads": self.threads, **self.settings}
        make = {
            "als": implicit.als.AlternatingLeastSquares,
            "bpr": implicit.bpr.BayesianPersonalizedRanking,
        }[settings.pop("model")]
        self.model = make(**settings)
        self.model.fit(self.matrix, show_progress=False)

    def recommend(self, users: np.ndarray) -> np.ndarray:
        rows = self.ids.numbers(self.ids.users, users)
        lists, _ = self.model.recommend(rows, self.matrix[rows], N=LIST_LENGTH)
        return self.ids.items[lists]


class LightFM(Peer):
    package = "rectools-lightfm"

    def fit(self) -> None:
        import lightfm

        settings = dict(self.settings)
        epochs = settings.pop("epochs")
        self.model = lightfm.LightFM(random_state=0, **settings)
        matrix = self.matrix.tocoo()
        self.model.fit(matrix, epochs=epochs, num_threads=self.threads)

    def recommend(self, users: np.ndarray) -> np.ndarray:
        _, user = self.model.get_user_representations()
        item_bias, item = self.model.get_item_representations()
        return self.best(users, lambda rows: user[rows] @ item.T + item_bias)


class Skrecsys(Peer):
    package = "skrecsys"

    def prepare(self, train: Rows) -> None:
        super().prepare(train)
        self.X = np.column_stack([train.user, train.item])

    def fit(self) -> None:
        import skrecsys.recommendation

        settings = dict(self.settings)
        name = settings.pop("model")
        make = getattr(skrecsys.recommendation, name)
        self.model = make(**settings)
        self.model.fit(self.X, None if name == "EASE" else self.rating)

    def predict(self, test: Rows) -> np.ndarray:
        known = np.all(
            [rows >= 0 for rows in self.ids.of(test.user, test.item)], axis=0
        )
        predicted = np.full(len(known), np.nan)
        rows = np.column_stack([test.user, test.item])[known]
        predicted[known] = self.model.predict(rows)
        return self.clipped(predicted)

    def recommend(self, users: np.ndarray) -> np.ndarray:
        return self.model.recommend(users, n_recommendations=LIST_LENGTH)[0]


PEERS: dict[str, type[Peer]] = {peer.__name__: peer for peer in Peer.__subclasses__()}


class Clock:
    """Seconds of the wall and of the processor since it was started."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        wall, processor = self.start
        return {
            "wall": time.perf_counter() - wall,
            "processor": time.process_time() - processor,
        }


def timed(function: Callable, *args: Any) -> tuple[Any, dict[str, float]]:
    clock = Clock()
    return function(*args), clock.read()


def mebibytes(field: str) -> float:
    """Of this process: VmRSS is resident now, VmHWM at most since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024


def run(
    peer: Peer, task: str, train: Rows, test: Rows
) -> tuple[dict[str, np.ndarray], dict]:
    """Answers of a fitted model, and its times and memory."""
    # Forgets the peak of the first fit.
    Path("/proc/self/clear_refs").write_text("5")
    before = mebibytes("VmRSS")
    figures: dict[str, Any] = {}
    _, figures["prepare"] = timed(peer.prepare, train)
    _, figures["fit"] = timed(peer.fit)
    figures["memory"] = mebibytes("VmHWM") - before
    if task == "predict":
        answers, figures["answers"] = timed(peer.predict, test)
        return {"predicted": answers}, figures
    users = np.intersect1d(test.user, train.user)
    answers, figures["answers"] = timed(peer.recommend, users)
    _, figures["one list"] = timed(peer.recommend, users[:1])
    return {"users": users, "lists": answers}, figures


def main() -> None:
    """Arguments: peer, settings, task, file of rows, file of answers, threads."""
    name, settings, task, rows, answers_file, threads = sys.argv[1:]
    warnings.simplefilter("ignore")
    with np.load(rows) as arrays:
        train, test = (
            Rows(*(arrays[f"{part}_{column}"] for column in Rows._fields))
            for part in ("train", "test")
        )
    make = partial(PEERS[name], int(threads), **json.loads(settings))
    run(make(), task, train.head(WARM_UP_ROWS), test.head(100))
    answers, figures = run(make(), task, train, test)
    np.savez(answers_file, **answers)
    figures["version"] = version(PEERS[name].package)
    print(json.dumps(figures), flush=True)
    # Some peers leave threads behind that would wait for ever.
    os._exit(0)


if __name__ == "__main__":
    main()
