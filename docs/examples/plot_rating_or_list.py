"""
==============
Rating or list
==============

A good prediction of ratings is not yet a good list. The items with the highest expected
ratings may be such that hardly anybody chooses. This example compares lists by expected
rating, by choice, and by both, which is the default.

Real ratings, by name or from an archive::

    python docs/examples/plot_rating_or_list.py --movielens 100k
"""

# %%
# The ratings
# -----------
# The synthetic users choose items in proportion to their popularity, and more often
# such as they like. Ratings are the liking plus noise.

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from skrec import DummyRecommender, MFRegressor
from skrec.datasets import fetch_movielens
from skrec.inspection import RankingCurveDisplay


def load():
    """Ratings: synthetic, or the release that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--movielens", metavar="NAME-OR-PATH")
    name = parser.parse_args().movielens
    if name is None:
        return drawn_ratings(np.random.default_rng(0))
    archive = name if name.endswith(".zip") else None
    release = Path(name).stem.removeprefix("ml-")
    return fetch_movielens(release, archive=archive, return_X_y=True)


def drawn_ratings(rng, n_users=600, n_items=400, n_each=30):
    """Ratings of items that users chose by popularity and taste."""
    liking = rng.normal(size=(n_users, 5)) @ rng.normal(size=(5, n_items)) / 2
    liking += 0.5 * rng.normal(size=n_items)
    appeal = liking - np.log(rng.permutation(n_items) + 1)
    items = np.argsort(-appeal - rng.gumbel(size=appeal.shape))[:, :n_each]
    X = pd.DataFrame({"user": np.arange(n_users).repeat(n_each), "item": items.ravel()})
    y = 3 + liking[X["user"], X["item"]] + rng.normal(0, 0.8, len(X))
    return X, y.round().clip(1, 5)


X, y = load()
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)

# %%
# One model, three lists
# ----------------------
# `rank_by` can be set after the fit. The lists of :class:`~skrec.DummyRecommender` are
# the most rated items that a user has not rated.

model = MFRegressor().fit(X_train, y_train)
popular = DummyRecommender().fit(X_train, y_train)

fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
n_rated = X_train["item"].value_counts()
for rank_by in ("both", "choice", "rating", None):
    name = "most rated" if rank_by is None else f'rank_by="{rank_by}"'
    estimator = popular if rank_by is None else model.set_params(rank_by=rank_by)
    RankingCurveDisplay.from_estimator(
        estimator, X_test, y_test, relevance_threshold=4, name=name, ax=axes[0]
    )
    lists = estimator.recommend(n_items=10, as_frame=True)
    expected = model.predict(lists[["user", "item"]]).mean()
    popularity = n_rated.reindex(lists["item"]).mean()
    axes[1].plot(popularity, expected, "o", markersize=9)
    axes[1].annotate(
        name, (popularity, expected), (0, 9), textcoords="offset points", ha="center"
    )
axes[1].set(
    xlabel="Mean number of ratings of the items in lists",
    ylabel="Mean expected rating",
    title="What the lists hold",
)
axes[1].margins(0.3)
axes[0].set_title("Held-out items with 4 or 5 in the lists")
plt.show()

# %%
# Lists by rating hold the items with the highest expected ratings, which are little
# known (right), and few of them are among the items that users chose and liked (left).
# Lists by both parts find more of these than lists by choice alone, and expect higher
# ratings.
