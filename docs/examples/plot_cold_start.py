"""
==========
Cold start
==========

Users without ratings are predicted from their features. Each rating that they give is
learned by `partial_fit`, without a new fit. This example shows how the error falls with
the first ratings, and how many of them the features are worth.

Real ratings, by name or from an archive (a release with a table of users)::

    python docs/examples/plot_cold_start.py --movielens 100k
"""

# %%
# Users with features
# -------------------
# The tastes of the synthetic users depend on their age and on their region in part.

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.metrics import root_mean_squared_error

from skrec import MFRegressor
from skrec.datasets import fetch_movielens


def load():
    """Ratings, and a table of users: synthetic, or a release of MovieLens."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--movielens", metavar="NAME-OR-PATH")
    name = parser.parse_args().movielens
    if name is None:
        return drawn_ratings(np.random.default_rng(0))
    archive = name if name.endswith(".zip") else None
    release = fetch_movielens(Path(name).stem.removeprefix("ml-"), archive=archive)
    return release.data, release.target, release.users[["age", "gender", "occupation"]]


def drawn_ratings(rng, n_users=800, n_items=200, n_each=30):
    """Ratings by tastes that follow from features, and vary besides."""
    age, region = rng.uniform(18, 80, n_users), rng.integers(4, size=n_users)
    columns = np.column_stack([(age - 49) / 18, np.eye(4)[region]])
    taste = columns @ rng.normal(size=(5, 3)) + 0.5 * rng.normal(size=(n_users, 3))
    liking = taste @ rng.normal(size=(3, n_items)) / 3 + rng.normal(size=n_items) / 2
    items = np.argsort(rng.random((n_users, n_items)))[:, :n_each]
    X = pd.DataFrame({"user": np.arange(n_users).repeat(n_each), "item": items.ravel()})
    y = 3 + liking[X["user"], X["item"]] + rng.normal(0, 0.7, len(X))
    users = pd.DataFrame({"age": age, "region": [f"region {r}" for r in region]})
    return X, y.round().clip(1, 5), users


X, y, users = load()
users.head()

# %%
# New users
# ---------
# A tenth of the users is new: none of their ratings is in the fit. Up to twenty ratings
# of each are given one after the other, in random order, and all others are predicted.

ids = np.unique(X["user"])
new = np.random.default_rng(1).choice(ids, len(ids) // 10, replace=False)
is_new = X["user"].isin(new).to_numpy()
mine = X[is_new].assign(rating=np.asarray(y)[is_new]).sample(frac=1, random_state=0)
turn = mine.groupby("user").cumcount()
given, held_out = mine[turn < 20], mine[turn >= 20]
numbers = [0, 1, 2, 3, 5, 10, 20]

errors = {}
for name, table in {"without features": None, "with features": users}.items():
    model = MFRegressor(rank_by="rating").fit(
        X[~is_new], y[~is_new], user_features=table
    )
    first, errors[name] = 0, []
    for number in numbers:
        rows = given[turn[given.index].between(first, number - 1)]
        if len(rows):
            model.partial_fit(rows[["user", "item"]], rows["rating"])
        predicted = model.predict(held_out[["user", "item"]])
        errors[name].append(root_mean_squared_error(held_out["rating"], predicted))
        first = number
pd.DataFrame(errors, index=pd.Index(numbers, name="ratings")).round(3)

# %%
# The dashed line is the error of a fit to all of these ratings, with the features.

everything = clone(model).fit(
    pd.concat([X[~is_new], given[["user", "item"]]]),
    np.append(y[~is_new], given["rating"]),
    user_features=users,
)
predicted = everything.predict(held_out[["user", "item"]])
floor = root_mean_squared_error(held_out["rating"], predicted)

fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, values in errors.items():
    ax.plot(numbers, values, "o-", label=name)
ax.axhline(floor, color="gray", linestyle="--", label="a new fit, 20 ratings")
ax.set(xlabel="Ratings given by each new user", ylabel="RMSE on their other ratings")
ax.legend()
plt.show()
