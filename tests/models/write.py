"""Write small models of this version, and their answers, for `tests/test_saving.py`.

``python tests/models/write.py`` runs once before a release; the files of a version are
never written anew.
"""

import datetime as dt
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

import skrec
from skrec import DummyRecommender, MFRegressor, NCFRegressor

sys.path.append(str(Path(__file__).parents[1]))
from helpers import stored_answers

N_USERS, N_ITEMS, N_ROWS = 9, 7, 40


def ratings():
    """Users by name, items by day, an hour, and ratings."""
    rng = np.random.RandomState(0)
    days = [dt.date(2026, 1, 1 + day) for day in range(N_ITEMS)]
    X = pd.DataFrame(
        {
            "user": [f"user {row}" for row in rng.randint(N_USERS, size=N_ROWS)],
            "item": [days[row] for row in rng.randint(N_ITEMS, size=N_ROWS)],
            "hour": rng.randint(24, size=N_ROWS) / 24,
        }
    )
    return X, rng.randint(1, 6, N_ROWS).astype(float)


def models():
    """Fits of every kind of model, by name."""
    X, y = ratings()
    pairs, instants = X[["user", "item"]], X[["user", "item"]].copy()
    instants["item"] = pd.to_datetime(instants["item"]).dt.tz_localize("UTC")
    users = pd.DataFrame(
        {"user": X["user"].unique(), "age": 30.0, "town": ["Ulm", "Bonn", None] * 3}
    )
    users.loc[::2, "age"] = 50.0
    few = {"n_factors": 2, "max_iter": 3, "random_state": 0}
    described = {"user_features": users}
    return {
        "vb": MFRegressor(implicit_features=True, **few).fit(X, y, **described),
        "als": MFRegressor(solver="als", **few).fit(instants, y),
        "gibbs": MFRegressor(solver="gibbs", **few).fit(pairs, y),
        "choices": MFRegressor().fit(pairs),
        "network": NCFRegressor(hidden_layer_sizes=(2,), n_members=2, **few).fit(
            pairs.assign(user=pairs["user"].str[-1].astype("int16")), y
        ),
        "popularity": DummyRecommender().fit(pairs, y),
    }


if __name__ == "__main__":
    folder = Path(__file__).parent / skrec.__version__
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = models()
    expected = {}
    for name, model in fitted.items():
        model.save(folder / f"{name}.skrec")
        for call, values in stored_answers(model).items():
            expected[f"{name}.{call}"] = values
    np.savez_compressed(folder / "expected.npz", **expected)
