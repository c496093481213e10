"""The worth of columns in error, by scikit-learn's own functions, as in the guide."""

import numpy as np
import pandas as pd
import pytest
from sklearn.inspection import permutation_importance
from sklearn.model_selection import cross_val_score

from skrec import MFRegressor, NCFRegressor
from skrec.datasets import make_ratings
from skrec.model_selection import ColdStartKFold

X, Y = make_ratings(120, 60, 3000, random_state=0)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "model",
    [
        MFRegressor(2, tol=0.1, rank_by="rating"),
        NCFRegressor(2, n_members=2, max_iter=10, rank_by="rating", random_state=0),
    ],
)
def test_shuffled_context_costs_as_much_as_it_explains(model):
    rows = X.assign(late=RNG.integers(2, size=len(X)), noise=RNG.normal(size=len(X)))
    rating = Y + 1.5 * rows["late"]
    model.fit(rows[:2400], rating[:2400])
    worth = permutation_importance(
        model,
        rows[2400:],
        rating[2400:],
        scoring="neg_root_mean_squared_error",
        n_repeats=3,
        random_state=0,
    )
    worth = dict(zip(rows.columns, worth.importances_mean, strict=True))
    assert worth["late"] > 0.3
    assert worth["item"] > 0.05
    assert abs(worth["noise"]) < 0.02


def test_a_side_feature_is_worth_its_share_in_errors_of_cold_users():
    table = pd.DataFrame(
        {"kind": RNG.integers(2, size=120), "noise": RNG.normal(size=120)}
    )
    rating = Y + 1.5 * table["kind"].to_numpy()[X["user"]]

    def error(features):
        scores = cross_val_score(
            MFRegressor(2, rank_by="rating"),
            X,
            rating,
            scoring="neg_root_mean_squared_error",
            cv=ColdStartKFold(3, random_state=0),
            params={"user_features": lambda: features},
        )
        return -scores.mean()

    whole = error(table)
    assert error(table.drop(columns="kind")) - whole > 0.15
    assert abs(error(table.drop(columns="noise")) - whole) < 0.03
