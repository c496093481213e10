"""
====================
Prediction intervals
====================

A prediction comes with a standard deviation, of the noise of a rating and of what the
model does not know. This example checks it twice: whether intervals hold the share of
ratings that they should, and whether they are wide where errors are large.

Real ratings, by name or from an archive::

    python docs/examples/plot_intervals.py --movielens 100k
"""

# %%
# The ratings and the model
# -------------------------
# Some of the users and items have few ratings, so predictions are not equally certain.

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import train_test_split

from skrec import MFRegressor
from skrec.datasets import fetch_movielens, make_ratings
from skrec.inspection import ErrorByCountDisplay, IntervalCalibrationDisplay


def load():
    """Ratings: synthetic, or the release that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--movielens", metavar="NAME-OR-PATH")
    name = parser.parse_args().movielens
    if name is None:
        return make_ratings(1000, 1000, 40_000, levels=None, activity=1, random_state=0)
    archive = name if name.endswith(".zip") else None
    release = Path(name).stem.removeprefix("ml-")
    return fetch_movielens(release, archive=archive, return_X_y=True)


X, y = load()
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
model = MFRegressor(rank_by="rating").fit(X_train, y_train)
predicted, std = model.predict(X_test, return_std=True)

# %%
# Calibration and width
# ---------------------
# An interval of 90 % is the prediction plus and minus 1.645 standard deviations. It
# should hold 90 % of the ratings of the test rows, and likewise for every other share
# (left). The second curve has the same width for all ratings, and is too narrow:
# training residuals are smaller than errors.
#
# The error is larger for users with few ratings, and the standard deviations say so
# (right): the dashed line is their root mean square.

fig, axes = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
IntervalCalibrationDisplay.from_estimator(model, X_test, y_test, ax=axes[0])
residual = np.std(y_train - model.predict(X_train))
IntervalCalibrationDisplay.from_predictions(
    y_test,
    predicted,
    np.full(len(y_test), residual),
    name="standard deviation\nof training residuals",
    ax=axes[0],
)

counts = X_train["user"].value_counts().reindex(X_test["user"], fill_value=0)
ErrorByCountDisplay.from_estimator(model, X_test, y_test, name="error", ax=axes[1])
ErrorByCountDisplay.from_predictions(
    std,
    np.zeros(len(std)),
    counts,
    name="standard deviations",
    ax=axes[1],
    line_kwargs={"linestyle": "--"},
)
axes[1].set_ylabel("RMSE of test ratings")
plt.show()
