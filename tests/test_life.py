"""The life of a model: any order of calls, some of which fail, breaks nothing.

``SKREC_N_STEPS=5000 python -m pytest tests/test_life.py`` takes so many steps.
"""

import copy
import io
import os
import pickle
import re
import warnings
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from skrec import DummyRecommender, MFRegressor, NCFRegressor, load

N_STEPS = int(os.environ.get("SKREC_N_STEPS", "80"))
STEPS_OF_A_LIFE = min(50, max(20, N_STEPS // 5))
N_USERS, N_ITEMS = 9, 7

SMALL = {"n_factors": 2, "max_iter": 4, "random_state": 0}
ESTIMATORS = {
    "vb": MFRegressor(max_iter=10),
    "described vb": MFRegressor(implicit_features=True, **SMALL),
    "als": MFRegressor(solver="als", **SMALL),
    "als of choices": MFRegressor(solver="als", unobserved_weight=0.2, **SMALL),
    "gibbs": MFRegressor(solver="gibbs", **SMALL),
    "adam": MFRegressor(solver="adam", batch_size=8, **SMALL),
    "bpr": MFRegressor(solver="sgd", loss="bpr", **SMALL),
    "network": NCFRegressor(hidden_layer_sizes=(2,), n_members=2, **SMALL),
    "network of choices": NCFRegressor(
        hidden_layer_sizes=(2,), loss="log_loss", choice_threshold=3, **SMALL
    ),
    "dummy": DummyRecommender(),
}
IDS = {
    "numbers": lambda ids: ids,
    "strings": lambda ids: ids.map("id {}".format),
    "dates": lambda ids: pd.Timestamp("2026-01-01") + pd.to_timedelta(ids, "D"),
}
# Reasons to refuse a call that is sound in itself.
REFUSALS = [
    *("return_std=True needs", "knows no standard deviations", "explain needs"),
    *("requires y to be passed", "ratings must be a tuple", "partial_fit continues"),
    *("partial_fit needs ratings", "ratings holds no rows"),
    *("needs its covariances", "cannot take single rows back", "has not learned"),
    *(
        "No users or no items would be left",
        "must be known, but",
        "handle_unknown='error' refuses",
    ),
    *(
        "needs ratings between 0 and 1",
        "leaves no choices",
        "no vectors to compare",
        "choices of this fit tell of none",
        "needs a fit with it",
    ),
    *("had n_factors=", "had another network", "is not fitted yet"),
]
PARAMETERS = {
    "handle_unknown": ["ignore", "warn", "error"],
    "clip": [True, False],
    "rank_by": ["both", "rating", "choice"],
    "choice_threshold": [None, 3],
    "warm_start": [True, False],
    "store_covariance": [True, False],
    "n_factors": [1, 2, 3],
    "max_iter": [1, 5],
    "tol": [0.1, 1e-4],
    "random_state": [0, None, 7],
}

seeds = st.integers(0, 2**16)


def settings_of_process():
    """Settings that a call must leave as they were."""
    return (
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        tuple(np.geterr().items()),
    )


class Life(RuleBasedStateMachine):
    @initialize(name=st.sampled_from(sorted(ESTIMATORS)), ids=st.sampled_from([*IDS]))
    def born(self, name, ids):
        self.model = clone(ESTIMATORS[name])
        self.ids = IDS[ids]
        self.settings = settings_of_process()

    @property
    def is_fitted(self):
        return hasattr(self.model, "_model")

    def rows(self, seed, most=25):
        """Rows of some users and items, and ratings."""
        rng = np.random.RandomState(seed)
        n = rng.randint(1, most)
        X = pd.DataFrame(
            {
                "user": self.ids(pd.Series(rng.randint(N_USERS, size=n))),
                "item": self.ids(pd.Series(rng.randint(N_ITEMS, size=n))),
            }
        )
        return X, rng.randint(1, 6, n).astype(float)

    def features(self, side, seed):
        n = N_USERS if side == "user" else N_ITEMS
        rng = np.random.RandomState(seed)
        return pd.DataFrame(
            {
                side: self.ids(pd.Series(range(n))),
                "size": rng.randn(n),
                "kind": rng.choice(["a", "b", None], n),
            }
        )

    def predictions(self):
        rows = pd.DataFrame(
            {
                "user": self.ids(pd.Series(np.repeat(range(N_USERS), N_ITEMS))),
                "item": self.ids(pd.Series(np.tile(range(N_ITEMS), N_USERS))),
            }
        )
        model = copy.copy(self.model)
        if hasattr(model, "handle_unknown"):
            model.handle_unknown = "ignore"
        return model.predict(rows)

    def attempt(self, call, *errors):
        """The result of a call, or None where it is refused and changes nothing."""
        before = vars(self.model).copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", ConvergenceWarning)
            try:
                return call()
            except (ValueError, TypeError, NotFittedError, *errors) as error:
                message = str(error)
        after = vars(self.model)
        assert before.keys() == after.keys()
        assert all(before[name] is after[name] for name in before)
        assert errors or re.search("|".join(REFUSALS), message), message
        return None

    @rule(seed=seeds, rated=st.booleans(), weighted=st.booleans(), n=st.integers(2, 60))
    def fit(self, seed, rated, weighted, n):
        X, y = self.rows(seed, n)
        weight = np.arange(len(y)) % 3 + 0.5 if weighted else None
        self.attempt(lambda: self.model.fit(X, y if rated else None, weight))

    @rule(seed=seeds, sides=st.sampled_from(["user", "item", "both"]))
    def fit_with_features(self, seed, sides):
        X, y = self.rows(seed, 60)
        features = {
            f"{side}_features": self.features(side, seed)
            for side in ("user", "item")
            if sides in (side, "both")
        }
        self.attempt(lambda: self.model.fit(X, y, **features))

    @rule(seed=seeds, rated=st.booleans())
    def partial_fit(self, seed, rated):
        X, y = self.rows(seed, 6)
        if hasattr(self.model, "partial_fit"):
            self.attempt(lambda: self.model.partial_fit(X, y if rated else None))

    @rule(name=st.sampled_from(sorted(PARAMETERS)), number=st.integers(0, 2))
    def set_params(self, name, number):
        if name in self.model.get_params():
            values = PARAMETERS[name]
            self.model.set_params(**{name: values[number % len(values)]})

    @rule(goes_on=st.booleans())
    def clone(self, goes_on):
        copied = clone(self.model)
        assert copied.get_params() == self.model.get_params()
        assert not hasattr(copied, "_model")
        if goes_on:
            self.model = copied

    @precondition(lambda self: self.is_fitted)
    @rule(how=st.sampled_from(["save", "pickle", "deepcopy"]))
    def copy(self, how):
        before, file = self.predictions(), io.BytesIO()
        if how == "save":
            self.model.save(file)
            self.model = load(file)
        elif how == "pickle":
            self.model = pickle.loads(pickle.dumps(self.model))
        else:
            self.model = copy.deepcopy(self.model)
        assert_allclose(self.predictions(), before, rtol=1e-12, atol=1e-12)

    @precondition(lambda self: self.is_fitted)
    @rule(seed=seeds, n_items=st.integers(1, 9), exclude_seen=st.booleans())
    def recommend(self, seed, n_items, exclude_seen):
        users = self.rows(seed)[0]["user"].unique()
        found = self.attempt(
            lambda: self.model.recommend(users, n_items, exclude_seen=exclude_seen)
        )
        if found is None:
            return
        assert found.shape == (len(users), n_items)
        known = set(self.model.item_ids_.tolist())
        for items in found.tolist():
            given = [item for item in items if not pd.isna(item)]
            assert len(set(given)) == len(given)
            assert known.issuperset(given)
            assert exclude_seen or len(given) == min(n_items, len(known))

    @precondition(lambda self: self.is_fitted)
    @rule(seed=seeds)
    def ask(self, seed):
        X, y = self.rows(seed, 5)
        for call in (
            lambda: self.model.predict(X, return_std=True)[1],
            lambda: self.model.similar_items(
                self.model.item_ids_[:2], return_scores=True
            )[1],
            lambda: self.model.explain(X["user"][0], X["item"][:1])["contribution"],
            lambda: self.model.score(X, y),
        ):
            found = self.attempt(call)
            if found is not None and len(X) > 1:
                assert not np.isnan(np.asarray(found, dtype=float)).any()

    @precondition(lambda self: self.is_fitted)
    @rule(seed=seeds, side=st.sampled_from(["users", "items", "rows"]))
    def forget(self, seed, side):
        X, y = self.rows(seed, 4)
        if side == "rows":
            self.attempt(lambda: self.model.forget(X, y))
            return
        ids = getattr(self.model, f"{side[:-1]}_ids_")
        forgotten = ids[: 1 + seed % 2]
        if self.attempt(lambda: self.model.forget(**{side: forgotten})) is not None:
            left = getattr(self.model, f"{side[:-1]}_ids_")
            assert_array_equal(left, ids[len(forgotten) :])

    @rule(
        seed=seeds,
        method=st.sampled_from(["fit", "partial_fit"]),
        fault=st.sampled_from(["rating", "length", "id", "kind", "width", "weight"]),
    )
    def fail(self, seed, method, fault):
        X, y = self.rows(seed)
        weight = None
        if not hasattr(self.model, method):
            return
        if fault == "rating":
            y[0] = np.nan
        elif fault == "length":
            y = np.append(y, 3.0)
        elif fault == "id":
            X = X.astype(object)
            X.iloc[0, 0] = None
        elif fault == "kind":
            X["item"] = pd.Series([["nested"]] * len(X))
        elif fault == "width":
            X = X[["user"]]
        else:
            weight = np.full(len(y), -1.0)
        failed = []

        def call():
            try:
                getattr(self.model, method)(X, y, weight)
            except (ValueError, TypeError):
                failed.append(True)
                raise

        self.attempt(call, ValueError)
        assert failed

    @rule(seed=seeds, method=st.sampled_from(["fit", "partial_fit"]))
    def interrupt(self, seed, method):
        X, y = self.rows(seed)
        module = {"fit": "_iterations", "partial_fit": "_base"}[method]
        progress = f"skrec.{module}.print_progress"
        if hasattr(self.model, method):
            call = getattr(self.model, method)
            with patch(progress, side_effect=KeyboardInterrupt):
                self.attempt(lambda: call(X, y), KeyboardInterrupt)

    @invariant()
    def is_sound(self):
        if not hasattr(self, "model"):
            return
        assert settings_of_process() == self.settings
        if not self.is_fitted:
            return
        predicted = self.predictions()
        assert np.isfinite(predicted).all()
        assert_array_equal(self.predictions(), predicted)
        if getattr(self.model, "clip", False):
            low, high = self.model.rating_range_
            assert ((predicted >= low) & (predicted <= high)).all()
        for ids in (self.model.user_ids_, self.model.item_ids_):
            assert (ids[:-1] < ids[1:]).all()


def test_any_order_of_calls_breaks_nothing():
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=N_STEPS // STEPS_OF_A_LIFE,
            stateful_step_count=STEPS_OF_A_LIFE,
            suppress_health_check=list(HealthCheck),
            # Minutes of shrinking show little more than the steps themselves.
            phases=[Phase.reuse, Phase.generate],
        ),
    )
