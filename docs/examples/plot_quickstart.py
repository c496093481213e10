"""
===========================================
Quickstart: from ratings to recommendations
===========================================

This example fits :class:`~skrec.MFRegressor` to ratings and compares its error on
held-out ratings with those of two baselines. Then it shows a grid search, prediction
intervals, recommendations and similar items.

The ratings are synthetic, so the lowest possible error is known. As a script, the
example also runs on real ratings, downloaded from GroupLens by name or read from a
file::

    python docs/examples/plot_quickstart.py
    python docs/examples/plot_quickstart.py --movielens 100k
    python docs/examples/plot_quickstart.py --movielens path/to/ml-100k.zip

A file is a MovieLens archive under its published name, or an ``.npz`` with the arrays
``user``, ``item`` and ``rating``.
"""

# %%
# The ratings
# -----------
# The model needs a table with a column of users, a column of items and a rating. These
# lines draw one, or read the one that the command line names. Synthetic ratings have a
# known noise floor, and MovieLens archives have titles.

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import GridSearchCV, train_test_split

from skrec import MFRegressor
from skrec.datasets import fetch_movielens, make_ratings

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None


def load(movielens):
    """Users and items, ratings, expected ratings where known, titles where known."""
    titles = pd.Series(dtype=object)
    if movielens is None:
        X, y, expected = make_ratings(
            n_ratings=100_000, return_expected=True, random_state=0
        )
        return X, y, expected, titles
    if movielens.endswith(".npz"):
        with np.load(movielens) as arrays:
            ratings = pd.DataFrame(
                {name: arrays[name] for name in ("user", "item", "rating")}
            )
    else:
        archive = movielens if movielens.endswith(".zip") else None
        name = Path(movielens).stem.removeprefix("ml-")
        release = fetch_movielens(name, archive=archive)
        ratings, titles = release.frame, release.movies["title"]
    return ratings[["user", "item"]], ratings["rating"].to_numpy(), None, titles


parser = argparse.ArgumentParser(description="From ratings to recommendations.")
parser.add_argument(
    "--movielens",
    metavar="NAME-OR-PATH",
    help="a release to download, such as 100k or 1m, or a .zip or .npz file to read; "
    "without it the ratings are synthetic",
)
X, y, expected, titles = load(parser.parse_args().movielens)

print(
    f"{len(y):,} ratings, from {y.min():g} to {y.max():g}, "
    f"by {X['user'].nunique():,} users of {X['item'].nunique():,} items."
)

# %%
# Training and test ratings
# -------------------------
# A random fifth of the ratings is held out, to test the models.

rows = np.arange(len(y))
train, test = train_test_split(rows, test_size=0.2, random_state=0)
X_train, y_train, X_test, y_test = X.iloc[train], y[train], X.iloc[test], y[test]

print(f"{len(train):,} of them train the models; {len(test):,} are held out for tests.")

# %%
# A model and two baselines
# -------------------------
# The first baseline predicts the mean of the training ratings. The second, a model
# without factors, has a bias for each user and each item. :class:`~skrec.MFRegressor`
# adds factors of users and items, which represent taste. Its defaults need no tuning.
#
# Errors are root mean squared errors (RMSE), in units of the ratings.

start = time.perf_counter()
model = MFRegressor().fit(X_train, y_train)
seconds = time.perf_counter() - start
biases = MFRegressor(n_factors=0).fit(X_train, y_train)

rmse = {
    "mean of the training ratings": root_mean_squared_error(
        y_test, np.full(len(y_test), y_train.mean())
    ),
    "biases only, MFRegressor(n_factors=0)": root_mean_squared_error(
        y_test, biases.predict(X_test)
    ),
    "MFRegressor()": root_mean_squared_error(y_test, model.predict(X_test)),
}

print("\nError on the held-out ratings (RMSE, lower is better):\n")
for name, error in rmse.items():
    print(f"    {name:<38}{error:8.4f}")
if expected is not None:
    floor = root_mean_squared_error(y_test, expected[test])
    print(f"    {'noise floor':<38}{floor:8.4f}")
    gain, possible = (
        rmse["mean of the training ratings"] - error
        for error in (rmse["MFRegressor()"], floor)
    )
    print(
        "\nThe noise floor is the error of the expected ratings, around which the data"
        "\nwere drawn: no model beats it on average. The model has"
        f"\n{gain / possible:.0%} of the possible gain over the mean."
    )
print(f"\nThe model was fitted in {seconds:.1f} seconds.")

# %%
# The number of factors
# ---------------------
# :class:`~skrec.MFRegressor` is a scikit-learn estimator, so scikit-learn's grid search
# can select `n_factors`. It uses the training ratings only.

search = GridSearchCV(
    MFRegressor(),
    {"n_factors": [5, 10, 20]},
    scoring="neg_root_mean_squared_error",
    cv=3,
).fit(X_train, y_train)

print("\nGrid search over the number of factors: the mean RMSE of 3 folds. A fit has")
print("two thirds of the training ratings, so the errors are larger than above.\n")
for parameters, score in zip(
    search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
):
    mark = "  <- best" if parameters == search.best_params_ else ""
    print(f"    n_factors = {parameters['n_factors']:<26}{-score:8.4f}{mark}")
model = search.best_estimator_
error = root_mean_squared_error(y_test, model.predict(X_test))
print(
    "\nThe best one, fitted to all training ratings, has an error of "
    f"{error:.4f} on the\nheld-out ratings. It is the model from here on."
)

# %%
# Prediction intervals
# --------------------
# With ``return_std=True``, ``predict`` also returns the standard deviation of a new
# rating about the predicted one, noise included. The prediction plus and minus 1.645
# standard deviations is a nominal 90 % interval. Its ends can lie beyond the scale.

predicted, std = model.predict(X_test, return_std=True)
margin = norm.ppf(0.95) * std
inside = np.mean(np.abs(y_test - predicted) <= margin)

print(f"\n{inside:.1%} of the held-out ratings lie in their 90 % interval. A few:\n")
print(f"    {'user':>8}{'item':>8}{'predicted':>11}{'90 % interval':>18}{'rating':>8}")
for row in range(5):
    user, item = X_test.iloc[row]
    low, high = predicted[row] - margin[row], predicted[row] + margin[row]
    print(
        f"    {user:>8}{item:>8}{predicted[row]:11.2f}"
        f"{f'{low:.2f} to {high:.2f}':>18}{y_test[row]:8g}"
    )

# %%
# Recommendations
# ---------------
# ``recommend`` returns the items that the user is likely to choose and to rate highly,
# without those that the user has rated. Users and items keep their ids.


def title_of(item):
    """Title of an item, or its id."""
    return titles.get(item, f"item {item}")


user = model.user_ids_[0]
own = X_train["user"].to_numpy() == user
best = np.argsort(-y_train[own], kind="stable")[:5]

print(f"\nUser {user} has {own.sum()} ratings in the training data; the highest are:\n")
for item, rating in zip(
    X_train["item"].to_numpy()[own][best], y_train[own][best], strict=True
):
    print(f"    {rating:5g}  {title_of(item)}")

lists = model.recommend([user], n_items=10, as_frame=True)
predicted = model.predict(lists[["user", "item"]])

print("\nOf the items without such a rating, these are recommended")
print("(left: the predicted rating):\n")
for item, rating in zip(lists["item"], predicted, strict=True):
    print(f"    {rating:5.2f}  {title_of(item)}")

# %%
# Similar items
# -------------
# Two items are similar if the same users like them. The cosine of their taste profiles
# is 1 if the profiles agree, and near 0 if they are unrelated.

popular = X_train["item"].mode()[0]
items, cosines = model.similar_items([popular], n_items=5, return_scores=True)

print(f"\nThe item with the most ratings is {title_of(popular)}.")
print("Most similar to it (left: the cosine):\n")
for item, cosine in zip(items[0], cosines[0], strict=True):
    print(f"    {cosine:5.2f}  {title_of(item)}")

# %%
# Comparison of errors
# --------------------

if plt is not None:
    labels = ["mean", "biases only", "MFRegressor"]
    fig, ax = plt.subplots(figsize=(6, 2.5), layout="constrained")
    bars = ax.barh(labels, list(rmse.values()))
    ax.bar_label(bars, fmt="%.3f", padding=3)
    if expected is not None:
        ax.axvline(floor, color="black", linestyle="--", label="noise floor")
        ax.legend(loc="center right")
    ax.set(xlabel="RMSE on held-out ratings", xlim=(0, 1.15 * max(rmse.values())))
    ax.invert_yaxis()
    plt.show()
