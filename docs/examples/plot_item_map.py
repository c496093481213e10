"""
==============
A map of items
==============

Factors place items that the same users like close to each other. Their two main axes
are a map. It often shows what nobody told the model, such as genres.

Real ratings, by name or from an archive::

    python docs/examples/plot_item_map.py --movielens 100k
"""

# %%
# Items of four kinds
# -------------------
# Users of the synthetic ratings like items of some kinds more than others. The model
# gets users, items and ratings, and no kinds.

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skrec import MFRegressor
from skrec.datasets import fetch_movielens
from skrec.inspection import FactorMapDisplay

GENRES = ["Drama", "Comedy", "Action", "Horror"]


def load():
    """Ratings, and for each item a label and a kind, None where it has several."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--movielens", metavar="NAME-OR-PATH")
    name = parser.parse_args().movielens
    if name is None:
        return drawn_ratings(np.random.default_rng(0))
    archive = name if name.endswith(".zip") else None
    release = fetch_movielens(Path(name).stem.removeprefix("ml-"), archive=archive)
    genres = release.movies[GENRES]
    kind = genres.idxmax(axis=1).where(genres.sum(axis=1) == 1)
    return release.data, release.target, release.movies.assign(kind=kind)


def drawn_ratings(rng, n_users=600, n_items=240, n_each=30):
    """Ratings by how much users like each kind of items."""
    kind = rng.integers(4, size=n_items)
    taste = rng.normal(size=(n_users, 4)) / 1.5
    appeal = -0.7 * np.log(np.arange(n_items) + 1) + rng.gumbel(size=(n_users, n_items))
    items = np.argsort(-appeal)[:, :n_each]
    X = pd.DataFrame({"user": np.arange(n_users).repeat(n_each), "item": items.ravel()})
    liking = 3.3 + taste[X["user"], kind[X["item"]]]
    y = (liking + rng.normal(0, 0.8, len(X))).round().clip(1, 5)
    number = pd.Series(kind).groupby(kind).cumcount() + 1
    kinds = np.array(["tragedy", "farce", "thriller", "ghost story"])[kind]
    titles = [f"{name} {n}" for name, n in zip(kinds, number, strict=True)]
    return X, y, pd.DataFrame({"title": titles, "kind": kinds})


X, y, items = load()
model = MFRegressor().fit(X, y)
model

# %%
# The map
# -------
# Points are larger, and have labels, where items have many ratings. Colours are kinds,
# which the model has not seen.

kind = items["kind"].reindex(model.item_ids_)
names = kind.dropna().unique().tolist()
colours = {name: f"C{place}" for place, name in enumerate(names)}

fig, ax = plt.subplots(figsize=(8, 6), layout="constrained")
display = FactorMapDisplay.from_estimator(
    model,
    labels=items["title"],
    n_labels=16,
    ax=ax,
    scatter_kwargs={"c": kind.map(colours).fillna("0.85")},
)
for name, colour in colours.items():
    ax.plot([], [], "o", color=colour, label=name)
ax.legend(loc="best")
plt.show()

# %%
# The nearest items, by all factors rather than by two axes:

popular = X["item"].mode()[0]
near = model.similar_items([popular], n_items=5)[0]
print(items["title"][popular], "is liked by the users who like")
print(items["title"][near].tolist())
