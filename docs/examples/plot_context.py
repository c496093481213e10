"""
=======
Context
=======

A column of `X` behind the user and the item describes the circumstances of a rating:
its hour, the device, the weather. This example learns an effect of the hour of the day.

Real ratings, by name or from an archive::

    python docs/examples/plot_context.py --movielens 100k
"""

# %%
# Ratings with an hour
# --------------------
# The synthetic users are more generous in the evening.

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.inspection import permutation_importance
from sklearn.model_selection import train_test_split

from skrec import MFRegressor
from skrec.datasets import fetch_movielens, make_ratings


def load():
    """Users, items and hours, ratings, and the effect of each hour where known."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--movielens", metavar="NAME-OR-PATH")
    name = parser.parse_args().movielens
    if name is None:
        X, y = make_ratings(500, 300, 20_000, levels=None, random_state=0)
        hour = np.random.default_rng(0).integers(24, size=len(X))
        effect = 0.4 * np.sin(2 * np.pi * (np.arange(24) - 14) / 24)
        return X.assign(hour=hour), y + effect[hour], effect
    archive = name if name.endswith(".zip") else None
    release = fetch_movielens(Path(name).stem.removeprefix("ml-"), archive=archive)
    hour = release.frame["timestamp"] // 3600 % 24
    return release.data.assign(hour=hour), release.target, None


X, y, effect = load()
X.head()

# %%
# Columns of numbers
# ------------------
# A column of numbers is linear, with slopes. The hour is not: 23 is as close to 0 as to
# 22. A sine and a cosine of one turn a day let the effect be any wave of that length.


def with_waves(X):
    """Users, items, and the hour as a sine and a cosine."""
    angle = 2 * np.pi * X["hour"] / 24
    return X[["user", "item"]].assign(sine=np.sin(angle), cosine=np.cos(angle))


waves = with_waves(X)
X_train, X_test, y_train, y_test = train_test_split(waves, y, random_state=0)
model = MFRegressor(rank_by="rating").fit(X_train, y_train)
pd.Series(model.coef_, index=["sine", "cosine"]).round(3)

# %%
# The effect of an hour, and the worth of each column
# ---------------------------------------------------
# The coefficients make a curve over the day. The worth of a column is the error that
# its shuffling adds on the test rows, with the user and the item for comparison.

worth = permutation_importance(
    model,
    X_test,
    y_test,
    scoring="neg_root_mean_squared_error",
    n_repeats=3,
    random_state=0,
)

fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.2), layout="constrained")
hours = with_waves(pd.DataFrame({"user": 0, "item": 0, "hour": np.arange(24)}))
learned = hours[["sine", "cosine"]] @ model.coef_
axes[0].plot(learned, label="learned")
if effect is not None:
    axes[0].plot(effect, "--", color="black", label="true")
axes[0].set(xlabel="Hour of the day", ylabel="Effect on the rating", xlim=(0, 23))
axes[0].legend()
axes[1].barh(X_train.columns, worth.importances_mean, xerr=worth.importances_std)
axes[1].set(xlabel="Error added by shuffling (RMSE)")
axes[1].invert_yaxis()
plt.show()

# %%
# Columns of values
# -----------------
# As a category, each hour has an effect of its own, and what it changes for each user
# and each item is learned too. Nothing says that neighbouring hours are alike.

by_hour = X.astype({"hour": "category"})
X_train, X_test, y_train, y_test = train_test_split(by_hour, y, random_state=0)
model = MFRegressor(rank_by="rating").fit(X_train, y_train)
effects = model.feature_effects()

fig, ax = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
ax.errorbar(
    np.arange(24), effects["effect"], 2 * effects["std"], fmt="o", label="learned"
)
if effect is not None:
    ax.plot(effect, "--", color="black", label="true")
ax.set(xlabel="Hour of the day", ylabel="Effect on the rating, ± 2 std")
ax.legend()
plt.show()

# %%
# Lists can be asked for in a context.

users = model.user_ids_[:3]
model.recommend(users, n_items=4, context={"hour": 21}, return_scores=True)
