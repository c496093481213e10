"""
======================
Members of an ensemble
======================

:class:`~skrec.NCFRegressor` trains several networks side by side and predicts by their
mean. This example shows what each further network is worth, and what their disagreement
tells. The progress bars need scikit-learn 1.9.

Real ratings, by name or from an archive::

    python docs/examples/plot_ensemble.py --movielens 100k
"""

# %%
# The ratings
# -----------

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.callback import ProgressBar
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import train_test_split

from skrec import NCFRegressor
from skrec.datasets import fetch_movielens, make_ratings


def load():
    """Ratings, and expected ratings where they are known."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--movielens", metavar="NAME-OR-PATH")
    name = parser.parse_args().movielens
    if name is None:
        return make_ratings(
            400, 300, 15_000, noise=0.4, return_expected=True, random_state=0
        )
    archive = name if name.endswith(".zip") else None
    release = Path(name).stem.removeprefix("ml-")
    X, y = fetch_movielens(release, archive=archive, return_X_y=True)
    return X, y, y


X, y, expected = load()
X_train, X_test, y_train, y_test, _, true = train_test_split(
    X, y, expected, random_state=0
)

# %%
# One network to eight
# --------------------
# The networks differ in their random start only. A single one is fitted three times,
# with three seeds, to show how much the start matters.

numbers, single = [1, 2, 4, 8], []
errors = []
for n_members in numbers:
    model = NCFRegressor(n_members=n_members, rank_by="rating", random_state=0)
    model.set_callbacks(ProgressBar())
    predicted = model.fit(X_train, y_train).predict(X_test)
    errors.append(root_mean_squared_error(y_test, predicted))
predicted, spread = model.predict(X_test, return_std=True)
for seed in range(3):
    one = NCFRegressor(n_members=1, rank_by="rating", random_state=seed)
    one.fit(X_train, y_train)
    single.append(root_mean_squared_error(y_test, one.predict(X_test)))
pd.Series(errors, index=pd.Index(numbers, name="n_members")).round(4)

# %%
# Worth and disagreement
# ----------------------
# The mean of the networks has a lower error than any of them (left). Where the networks
# disagree most, predictions are worst (right). They are compared with the expected
# ratings, which are known of synthetic ones, since the noise of a single rating hides
# the difference. The disagreement is no standard deviation of a rating: it lacks the
# noise. For intervals, use :class:`~skrec.MFRegressor`.

fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
axes[0].plot(numbers, errors, "o-", label="mean of the members")
axes[0].plot([1] * 3, single, "x", color="black", label="single networks")
axes[0].set(xlabel="n_members", ylabel="RMSE on test rows", xticks=numbers)
axes[0].legend()
fifth = pd.qcut(spread, 5, labels=False)
error = pd.Series((true - predicted) ** 2).groupby(fifth).mean() ** 0.5
axes[1].bar(np.arange(5) + 1, error)
axes[1].set(
    xlabel="Fifth of the rows, by disagreement",
    ylabel="RMSE against expected ratings",
)
plt.show()
