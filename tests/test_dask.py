"""Searches, predictions and lists on a cluster of two processes of Dask."""

import os
from itertools import chain

import numpy as np
import pandas as pd
import pytest
import torch
from dask_fit import Interrupted
from helpers import PATIENCE
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score

from skrec import MFRegressor
from skrec.datasets import make_ratings
from skrec.metrics import RankingScorer

distributed = pytest.importorskip("distributed", reason="needs distributed")
dask = pytest.importorskip("dask", reason="needs dask")

# Of a machine whose disk is busy.
pytestmark = pytest.mark.filterwarnings("ignore:Creating scratch directories")

X, Y = make_ratings(80, 50, 1500, random_state=0)
NAMED = X.assign(user=X["user"].map("u{}".format))
GRID = {"n_factors": [0, 2], "max_iter": [1, 4]}


@pytest.fixture(scope="module")
def client():
    with (
        dask.config.set({"distributed.comm.timeouts.connect": PATIENCE}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def model():
    return MFRegressor(2).fit(NAMED, Y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_search_outlives_a_worker(client, tmp_path):
    splits = list(KFold(3, shuffle=True, random_state=0).split(X))
    here = GridSearchCV(MFRegressor(), GRID, cv=splits, refit=False).fit(X, Y)
    estimator = Interrupted(done=str(tmp_path / "done"))
    search = GridSearchCV(estimator, GRID, cv=splits, refit=False)
    processes = client.run(os.getpid)
    # Dask cannot restore an array that a dead worker alone had, so all have each.
    client.amm.stop()
    with parallel_config("dask", scatter=[X, Y, *chain(*splits)]):
        search.fit(X, Y)
    assert (tmp_path / "done").exists()
    client.wait_for_workers(2, timeout=PATIENCE)
    now = client.run(os.getpid)
    assert len(set(now.values()) & set(processes.values())) == 1
    assert search.best_params_ == here.best_params_
    # Sums of one thread and of several are equal up to rounding.
    scores = (s.cv_results_["mean_test_score"] for s in (search, here))
    assert_allclose(*scores, rtol=1e-5)


def test_scorers_run_on_workers_each_with_its_share_of_threads(client):
    scoring = RankingScorer("ndcg", k=5)
    expected = cross_val_score(MFRegressor(2, max_iter=20), X, Y, scoring=scoring)
    with parallel_config("dask"):
        found = cross_val_score(MFRegressor(2, max_iter=20), X, Y, scoring=scoring)
    assert_allclose(found, expected, rtol=1e-5)
    assert set(client.run(torch.get_num_threads).values()) == {1}


def test_predictions_and_lists_of_partitions(client, model):
    dataframe = pytest.importorskip("dask.dataframe")
    rows = dataframe.from_pandas(NAMED, npartitions=3)

    def predicted(part, model):
        return pd.Series(model.predict(part), part.index)

    found = rows.map_partitions(predicted, model, meta=(None, "f8")).compute()
    assert_array_equal(found.index, NAMED.index)
    assert_allclose(found, model.predict(NAMED), rtol=1e-6)

    users = dataframe.from_pandas(NAMED[["user"]].drop_duplicates(), npartitions=2)

    def lists(part, model):
        return model.recommend(part["user"], n_items=3, as_frame=True)

    expected = lists(users.compute(), model)
    found = users.map_partitions(lists, model, meta=expected[:0]).compute()
    columns = ["user", "item", "rank"]
    assert_frame_equal(
        found[columns].reset_index(drop=True).astype({"user": object}),
        expected[columns].astype({"user": object}),
    )


def test_metrics_of_users_in_partitions_add_up(client, model):
    scorer = RankingScorer("ndcg", k=5)
    test = NAMED.assign(rating=np.asarray(Y)).sample(400, random_state=0)
    parts = [part for _, part in test.groupby(test["user"].str[-1])]
    remote = client.scatter(model)
    scores = [
        client.submit(scorer, remote, part[["user", "item"]], part["rating"])
        for part in parts
    ]
    n_users = [part["user"].nunique() for part in parts]
    expected = scorer(model, test[["user", "item"]], test["rating"])
    found = np.average(client.gather(scores), weights=n_users)
    assert found == pytest.approx(expected, rel=1e-6)
