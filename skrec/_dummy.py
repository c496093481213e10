"""DummyRecommender: the baseline that every list should beat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from ._base import BaseRecommender
from ._data.context import KnownContext
from ._data.forgotten import ForgottenRows
from ._data.interactions import FurtherRows, Interactions
from ._interfaces import CHOICES, Iteration, Model, Objective, Solver, Start
from ._storage import stored
from ._topk import Fill


@stored
@dataclass(frozen=True)
class Popularity(Model):
    """Numbers of users by item, and the mean rating.

    Attributes
    ----------
    n_users : ndarray of shape (n_items,)
        Number of users that have rated each item.
    mean, weight : float
        Of all ratings.
    """

    n_users: np.ndarray
    mean: float
    weight: float
    rating_range: tuple[float, float]
    objective: Objective = CHOICES

    @classmethod
    def of(cls, data: Interactions) -> Popularity:
        return cls(
            n_users=data.seen.counts.item,
            mean=float(np.average(data.rating, weights=data.weight)),
            weight=float(data.weight.sum()),
            rating_range=(float(data.rating.min()), float(data.rating.max())),
        )

    def predict(
        self,
        users: np.ndarray,
        items: np.ndarray,
        context: np.ndarray,
        return_std: bool,
        device: torch.device,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if return_std:
            raise ValueError("DummyRecommender knows no standard deviations.")
        return np.full(len(users), self.mean), None

    def without(self, forgotten: ForgottenRows) -> Popularity:
        return replace(self, n_users=forgotten.seen_after.counts.item)

    def scorer(
        self, users: np.ndarray, items: np.ndarray, device: torch.device
    ) -> Callable[[slice], Fill]:
        counts = np.append(self.n_users, 0)[np.maximum(items, -1)]
        scores = torch.as_tensor(counts, dtype=torch.float32, device=device)

        def fill(columns: slice, out: torch.Tensor) -> None:
            out[:] = scores[columns]

        return lambda tile: fill


@dataclass(frozen=True)
class PopularitySolver(Solver[Popularity]):
    """Counts, in one iteration."""

    objective: Objective = CHOICES
    max_iter: int = 1

    def iterations(
        self,
        data: Interactions,
        start: Start[Popularity] | None,
        random_state: np.random.RandomState,
        device: torch.device,
    ) -> Iterator[Iteration]:
        model = Popularity.of(data)
        variance = np.average((data.rating - model.mean) ** 2, weights=data.weight)
        yield Iteration(float(variance), "counted", True, lambda: model)

    def check_context(self, known: KnownContext) -> None:
        """Popularity has no context, of whatever kind."""

    def check_update(self, model: Model) -> None:
        """Counts can always go on."""

    def update(
        self,
        model: Popularity,
        further: FurtherRows,
        random_state: np.random.RandomState,
        device: torch.device,
        report: Callable[[float], None],
    ) -> Popularity:
        new = Popularity.of(further.data)
        weight = model.weight + new.weight
        ranges = model.rating_range, new.rating_range
        return replace(
            model,
            n_users=further.seen_after.counts.item,
            mean=(model.weight * model.mean + new.weight * new.mean) / weight,
            weight=weight,
            rating_range=(min(r[0] for r in ranges), max(r[1] for r in ranges)),
        )

    def check_retraction(self, model: Model) -> None:
        """Counts can always go back."""

    def retract(self, model: Popularity, forgotten: ForgottenRows) -> Popularity:
        data = forgotten.data
        assert data is not None
        weight = model.weight - data.weight.sum()
        if weight <= 0:
            return model
        total = model.weight * model.mean - data.weight @ data.rating
        return replace(model, mean=total / weight, weight=weight)


@stored
class DummyRecommender(BaseRecommender):
    """Recommend the items with most users, and predict the mean rating.

    It is a baseline for lists, as :class:`~sklearn.dummy.DummyRegressor` is one for
    errors: a list that is no better than the best sellers has learned nothing of its
    user.

    Parameters
    ----------
    handle_unknown : {"ignore", "warn", "error"}, default="ignore"
        Users and items that `fit` has not seen: answer, answer with a warning, or
        refuse.

    Attributes
    ----------
    user_ids_, item_ids_ : ndarray of shape (n_users,) and (n_items,)
        Sorted raw ids.
    rating_range_ : tuple of float
        Least and largest rating.
    n_iter_ : int
        1.
    loss_curve_ : list of float
        Variance of the ratings.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X had any.

    Examples
    --------
    >>> from skrec import DummyRecommender
    >>> X = [["ann", "Heat"], ["ann", "Alien"], ["bob", "Heat"], ["cleo", "Brazil"],
    ...      ["dan", "Brazil"], ["eve", "Brazil"]]
    >>> DummyRecommender().fit(X).recommend(["ann", "cleo"], n_items=1)
    array([['Brazil'],
           ['Heat']], dtype=object)
    """

    # Parameters of other estimators, which change nothing here.
    clip, warm_start, device, random_state, verbose = False, False, "cpu", None, 0

    def __init__(
        self, *, handle_unknown: Literal["ignore", "warn", "error"] = "ignore"
    ) -> None:
        self.handle_unknown = handle_unknown

    def _solver(self) -> Solver:
        return PopularitySolver()
