"""ChoiceSolver: the autoencoder as the only part of a fit, where there is no y."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .._data.interactions import FurtherRows, Interactions
from .._data.messages import quote_first
from .._interfaces import CHOICES, Iteration, Model, Objective, Solver, Start
from .._warn import warn
from .autoencoder import ItemAutoencoder
from .excess import TINY


@dataclass(frozen=True)
class ChoiceSolver(Solver[ItemAutoencoder]):
    """The autoencoder as the only part of a fit, of choices without ratings.

    `ignored` are parameters of the estimator, by name, that were set for a solver.
    """

    ignored: Mapping[str, Any] = field(default_factory=dict)
    objective: Objective = CHOICES
    max_iter: int = 1

    def iterations(
        self,
        data: Interactions,
        start: Start | None,
        random_state: np.random.RandomState,
        device: torch.device,
    ) -> Iterator[Iteration]:
        if self.ignored:
            names = ", ".join(
                f"{name}={value!r}" for name, value in self.ignored.items()
            )
            warn(
                f"A fit without y is of choices, by an autoencoder without parameters, "
                f"so nothing has come of {names}. Pass ratings as y, let MFRegressor "
                "weigh the pairs that are not in X (unobserved_weight=0.1), or use a "
                "loss of choices, such as NCFRegressor(loss='log_loss')."
            )
        if any(features is not None for features in data.side_features):
            warn(
                "A fit of choices without y does not use side features. Set "
                "unobserved_weight of MFRegressor, as in MFRegressor(solver='als', "
                "unobserved_weight=0.1), to rank new users and items by them, or pass "
                "ratings as y."
            )
        numbers = data.known_context.number_names
        if numbers:
            warn(
                f"Columns of numbers in X ({quote_first(numbers)}) tell nothing about "
                "choices without y, and are left out. Pass ratings as y, leave these "
                "columns out, or use a loss of choices with context, such as "
                "NCFRegressor(loss='log_loss'). A matrix, users by items, becomes rows "
                "by skrec.datasets.from_matrix."
            )
        model = ItemAutoencoder.fit(data)
        n_factors = len(model.shrinkage)
        # The share of the energy of the choices that the factors leave.
        rest = 1 - float(model.eigenvalues.sum() / max(model.energy, TINY))
        yield Iteration(rest, f"{n_factors} factors", True, lambda: model)

    def check_ratings(self, rating: np.ndarray, weight: np.ndarray) -> None:
        counted = weight[weight > 0]
        if len(counted) and counted.min() < counted.max():
            warn(
                "Without y each pair counts once, whatever its sample_weight. Set "
                "unobserved_weight of MFRegressor for a fit that weighs choices."
            )

    def check_update(self, model: Model) -> None:
        if not isinstance(model, ItemAutoencoder):
            raise ValueError(
                "partial_fit needs ratings, as the last fit had them, but y is None. "
                "Pass them as y, as in partial_fit(X, y)."
            )

    def update(
        self,
        model: ItemAutoencoder,
        further: FurtherRows,
        random_state: np.random.RandomState,
        device: torch.device,
        report: Callable[[float], None],
    ) -> ItemAutoencoder:
        return model.updated(further)

    def check_retraction(self, model: Model) -> None:
        """Choices of a user are forgotten with their rows."""
