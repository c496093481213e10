"""
====================
Search in a pipeline
====================

A table has more columns than users and items. A pipeline selects those that the model
is to see, and a grid search over the pipeline finds the number of factors, by the error
of ratings and by the quality of lists at once. The progress bar needs scikit-learn 1.9.

Real ratings, by name or from an archive::

    python docs/examples/plot_search.py --movielens 100k
"""

# %%
# The ratings
# -----------
# The table has the rating and a time beside the ids, in any order.

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.callback import ProgressBar
from sklearn.compose import make_column_transformer
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline

from skrec import MFRegressor
from skrec.datasets import fetch_movielens, make_ratings
from skrec.metrics import RankingScorer


def load():
    """Ratings as a frame: synthetic, or the release that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--movielens", metavar="NAME-OR-PATH")
    name = parser.parse_args().movielens
    if name is None:
        X, y = make_ratings(300, 200, 15_000, random_state=0)
        return X.assign(rating=y, timestamp=np.arange(len(y)))
    archive = name if name.endswith(".zip") else None
    return fetch_movielens(Path(name).stem.removeprefix("ml-"), archive=archive).frame


ratings = load()
ratings.head()

# %%
# The pipeline
# ------------
# Its first step passes on the two columns of ids. Whatever is fitted to the pipeline,
# the ratings and the times cannot leak into the model.

ids = make_column_transformer(("passthrough", ["user", "item"]))
pipe = make_pipeline(ids, MFRegressor())

# %%
# The search
# ----------
# :class:`~skrec.metrics.RankingScorer` is a scorer as any other. NDCG@10 is that of
# lists of all items that a user has not rated in the training rows, where items with a
# rating of 4 or 5 in the test rows are relevant.

n_factors = [0, 1, 2, 4, 8, 16]
search = GridSearchCV(
    pipe,
    {"mfregressor__n_factors": n_factors},
    scoring={
        "rmse": "neg_root_mean_squared_error",
        "ndcg": RankingScorer("ndcg", k=10, relevance_threshold=4),
    },
    refit="rmse",
    cv=KFold(3, shuffle=True, random_state=0),
)
# Of the search as a whole; each fit within it would have a bar of its own.
search.set_callbacks(ProgressBar(max_propagation_depth=0))
search.fit(ratings, ratings["rating"])

# %%
# Errors and lists
# ----------------
# Without factors, the model predicts by biases alone. Factors lower the error, and more
# than the ratings support do little harm, since the model learns how far to shrink
# them. Lists are by the choice and the rating; the choice has a model of its own, so
# `n_factors` matters less there.

fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for ax, name, label, sign in zip(
    axes, ["rmse", "ndcg"], ["RMSE", "NDCG@10"], [-1, 1], strict=True
):
    folds = np.array(
        [sign * search.cv_results_[f"split{fold}_test_{name}"] for fold in range(3)]
    )
    ax.plot(range(len(n_factors)), folds.T, color="0.8")
    ax.plot(range(len(n_factors)), folds.mean(axis=0), "o-")
    ax.plot(search.best_index_, folds.mean(axis=0)[search.best_index_], "ro")
    ax.set_xticks(range(len(n_factors)), n_factors)
    ax.set(xlabel="n_factors", ylabel=label)
axes[0].set_title("Error: lower is better")
axes[1].set_title("Lists: higher is better")
plt.show()

# %%
# The red points are those of the selected model, the gray lines those of each fold. The
# fitted estimator inside of the search has the methods that a search has not:

search.best_estimator_[-1].recommend(ratings["user"][:3].unique(), n_items=5)
