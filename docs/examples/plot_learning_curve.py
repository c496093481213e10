"""
==================================
Learning curve with a progress bar
==================================

A long fit should show how far it is, and whether it still learns. Callbacks of
scikit-learn (1.9 or later) do both. This example follows the error over the sweeps of a
fit, and then over the number of ratings.

Real ratings, by name or from an archive::

    python docs/examples/plot_learning_curve.py --movielens 100k
"""

# %%
# The ratings
# -----------

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.callback import ProgressBar
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import LearningCurveDisplay, ShuffleSplit, train_test_split

from skrec import MFRegressor
from skrec.datasets import fetch_movielens, make_ratings
from skrec.inspection import FitCurveDisplay


def load():
    """Ratings: synthetic, or the release that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--movielens", metavar="NAME-OR-PATH")
    name = parser.parse_args().movielens
    if name is None:
        return make_ratings(random_state=0)
    archive = name if name.endswith(".zip") else None
    release = Path(name).stem.removeprefix("ml-")
    return fetch_movielens(release, archive=archive, return_X_y=True)


X, y = load()
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)

# %%
# A fit with a progress bar
# -------------------------
# A callback is an object with four methods. This one keeps the error on test rows after
# every sweep; the progress bar comes with scikit-learn.


class TestError:
    """Error on test rows after every iteration."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def setup(self, estimator, context):
        self.errors = []

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        if context.task_name == "iteration":
            predicted = fitted_estimator.predict(self.X)
            self.errors.append(root_mean_squared_error(self.y, predicted))


test_error = TestError(X_test, y_test)
model = MFRegressor(rank_by="rating").set_callbacks(ProgressBar(), test_error)
model.fit(X_train, y_train)

# %%
# The bar counts sweeps up to `max_iter`, and is full as soon as the solver has
# converged.
#
# Errors over sweeps and over ratings
# -----------------------------------
# `loo_curve_` estimates the error on unseen ratings from the training rows alone, so no
# rows have to be held out (left). It is some per cent too low, since the priors have
# seen all ratings; it is for the comparison of fits. The learning curve of scikit-learn
# fits the model to growing shares of the ratings (right): the error on test rows still
# falls, so more ratings would help.

fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
FitCurveDisplay.from_estimator(model, curve="loo", name="estimate", ax=axes[0])
axes[0].plot(np.arange(model.n_iter_) + 1, test_error.errors, label="test rows")
axes[0].set(ylabel="RMSE", title="Sweeps of one fit")
axes[0].legend()
LearningCurveDisplay.from_estimator(
    MFRegressor(rank_by="rating"),
    X,
    y,
    train_sizes=[0.1, 0.2, 0.4, 0.6, 0.8, 1.0],
    cv=ShuffleSplit(2, test_size=0.2, random_state=0),
    scoring="neg_root_mean_squared_error",
    negate_score=True,
    score_name="RMSE",
    ax=axes[1],
)
axes[1].set_title("More ratings")
plt.show()
