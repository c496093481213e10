"""The page on architecture: a solver of one's own, without a change to the package."""

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from skrec.datasets import make_ratings

PAGE = Path(__file__).parent.parent / "docs" / "architecture.rst"
X, Y = make_ratings(40, 30, 600, random_state=0)


def code_of_page():
    """The blocks of Python that the page tells its reader to write, as one."""
    blocks = re.findall(
        r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", PAGE.read_text()
    )
    return "\n".join(inspect.cleandoc("\n" + block) for block in blocks)


@pytest.fixture(scope="module")
def damped_mean():
    names = {"__name__": "toy"}
    exec(compile(code_of_page(), str(PAGE), "exec"), names)
    return names["DampedMeanRegressor"]


def test_the_page_adds_a_solver_in_sixty_lines():
    lines = [line for line in code_of_page().splitlines() if line.strip()]
    assert 20 < len(lines) <= 60
    ast.parse(code_of_page())


def test_the_toy_predicts_damped_means(damped_mean):
    model = damped_mean(damping=3.0).fit(X, Y)
    item = X["item"].iloc[0]
    away = (Y - Y.mean())[X["item"] == item]
    expected = Y.mean() + away.sum() / (len(away) + 3)
    assert_allclose(model.predict(X.iloc[:1]), expected)
    unknown = pd.DataFrame({"user": [10**6], "item": [10**6]})
    assert_allclose(model.predict(unknown), Y.mean())


def test_the_toy_recommends_what_is_unseen(damped_mean):
    model = damped_mean().fit(X, Y)
    items, scores = model.recommend([0, 1], n_items=5, return_scores=True)
    seen = set(X["item"][X["user"] == 0])
    assert not seen & set(items[0])
    pairs = pd.DataFrame({"user": 0, "item": items[0]})
    assert_allclose(model.predict(pairs), scores[0], rtol=1e-6)
    assert (np.diff(scores) <= 0).all()


def test_the_toy_is_an_estimator_of_scikit_learn(damped_mean):
    search = GridSearchCV(damped_mean(), {"damping": [0.1, 5.0]}, cv=2).fit(X, Y)
    assert search.best_params_["damping"] == 5.0
    with pytest.raises(NotFittedError):
        clone(search.best_estimator_).predict(X)
    assert_array_equal(search.best_estimator_.user_ids_, np.unique(X["user"]))


def test_parts_that_the_toy_lacks_are_refused_in_words(damped_mean):
    model = damped_mean().fit(X, Y)
    with pytest.raises(ValueError, match="no standard deviation"):
        model.predict(X, return_std=True)
    with pytest.raises(ValueError, match="cannot update a fitted model"):
        model.partial_fit(X, Y)
    with pytest.raises(ValueError, match="no vectors to compare"):
        model.similar_items([0])
    with pytest.raises(ValueError, match="not inner products"):
        model.item_index_vectors()
