"""What was fitted, in scikit-learn's diagram of an estimator."""

import re

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_html_repr

from skrec import DummyRecommender, MFRegressor, NCFRegressor
from skrec.datasets import make_ratings

X, Y = make_ratings(60, 40, 900, random_state=0)


def captions(estimator):
    """Captions of all blocks that have the sizes of a fit."""
    html = estimator_html_repr(estimator)
    found = re.findall(r'<div class="caption">([^<]*)</div>', html)
    return [caption for caption in found if " user" in caption]


def test_a_fit_shows_sizes_iterations_and_noise():
    model = MFRegressor(2).fit(X, Y)
    assert captions(model) == [
        "60 users, 40 items, ratings of 900 pairs, 2 factors, "
        f"{model.n_iter_} iterations, noise {model.noise_std_:.3g}"
    ]
    assert "60 users" in model._repr_html_()
    assert "60 users" in model._repr_mimebundle_()["text/html"]


def test_before_a_fit_there_is_none():
    assert captions(MFRegressor()) == []
    assert "MFRegressor" in estimator_html_repr(MFRegressor())


@pytest.mark.parametrize(
    ("estimator", "rows", "expected"),
    [
        (MFRegressor(), (X,), "60 users, 40 items, choices of 900 pairs, 1 iteration"),
        (
            DummyRecommender(),
            (X,),
            "60 users, 40 items, choices of 900 pairs, 1 iteration",
        ),
        (
            MFRegressor(3, solver="als", unobserved_weight=0.1, max_iter=2, tol=9),
            (X,),
            "60 users, 40 items, choices of 900 pairs, 3 factors, 2 iterations",
        ),
        (
            NCFRegressor(2, n_members=1, max_iter=2, random_state=0),
            (X, Y),
            "60 users, 40 items, ratings of 900 pairs, 2 iterations",
        ),
        (
            MFRegressor(1, solver="adam", loss="huber", max_iter=1, random_state=0),
            ([["ann", "Heat"], ["ann", "Heat"]], [1.0, 2.0]),
            "1 user, 1 item, ratings of 1 pair, 1 factor, 1 iteration, noise ",
        ),
    ],
)
def test_other_fits(estimator, rows, expected):
    (caption,) = captions(estimator.fit(*rows))
    assert caption.startswith(expected)
    assert "nan" not in caption


def test_further_ratings_count():
    further = X[:2].assign(user=1000)
    model = MFRegressor(2).fit(X, Y).partial_fit(further, [1, 5])
    assert captions(model)[0].startswith("61 users, 40 items, ratings of 902 pairs")


def test_fits_within_pipelines_and_searches():
    pipe = make_pipeline("passthrough", MFRegressor(2)).fit(X, Y)
    assert captions(pipe) == captions(pipe[-1])
    search = GridSearchCV(MFRegressor(), {"n_factors": [2]}, cv=2).fit(X, Y)
    assert captions(search) == captions(search.best_estimator_)


def test_ids_and_weights_do_not_matter():
    named = X.astype(str).add_prefix("a<b ")
    weighted = MFRegressor(2).fit(named, Y, np.full(len(Y), 3.0))
    plain = MFRegressor(2).fit(X, Y)
    assert captions(weighted) == captions(plain)
