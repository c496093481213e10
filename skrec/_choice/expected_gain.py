"""ExpectedGain: scores that weigh the choice of an item by the rating it would get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .._data.sides import SideName
from .._interfaces import CHOICES, Model, Objective
from .._topk import Fill
from .autoencoder import ItemAutoencoder
from .gain import Gain

# Columns at a time, whose scores by both parts stay in the cache.
MAX_COLUMNS = 2**13


@dataclass(frozen=True)
class ExpectedGain(Model):
    """Score of a choice, times the gain of the expected rating.

    Where the score of the choice is negative it is divided by the gain, so that a
    higher rating never ranks lower.

    Attributes
    ----------
    rating : Model
    choice : ItemAutoencoder
    rows : ndarray of shape (n_asking,) or None
        Row in the model of choices of each row, where these ask in a context.
    """

    rating: Model
    choice: ItemAutoencoder
    objective: Objective = CHOICES
    rating_range: tuple[float, float] = (-np.inf, np.inf)
    rows: np.ndarray | None = None

    def with_cold_rows(
        self, users: sparse.csr_array | None, items: sparse.csr_array | None
    ) -> Self:
        return replace(self, rating=self.rating.with_cold_rows(users, items))

    def draw(
        self, users: np.ndarray, items: np.ndarray, random_state: np.random.RandomState
    ) -> ExpectedGain:
        return replace(self, rating=self.rating.draw(users, items, random_state))

    def in_context(self, users: np.ndarray, context: np.ndarray) -> ExpectedGain:
        return replace(self, rating=self.rating.in_context(users, context), rows=users)

    def lower_bound(self) -> ExpectedGain:
        return replace(self, rating=self.rating.lower_bound())

    def predict(
        self,
        users: np.ndarray,
        items: np.ndarray,
        context: np.ndarray,
        return_std: bool,
        device: torch.device,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        rating, _ = self.rating.predict(users, items, context, False, device)
        users = users if self.rows is None else self.rows[users]
        choice, _ = self.choice.predict(users, items, context, return_std, device)
        gain = Gain.of(self.choice.ratings)(rating)
        return np.where(choice > 0, choice * gain, choice / gain), None

    def scorer(
        self, users: np.ndarray, items: np.ndarray, device: torch.device
    ) -> Callable[[slice], Fill]:
        by_rating = self.rating.scorer(users, items, device)
        chosen_by = users if self.rows is None else self.rows[users]
        by_choice = self.choice.scorer(chosen_by, items, device)
        gain_of = Gain.of(self.choice.ratings)

        def score(tile: slice) -> Fill:
            fill_rating, fill_choice = by_rating(tile), by_choice(tile)
            scale, of_users = self.rating.score_units(users[tile])
            # In units of the range, where single precision is enough.
            span = gain_of.span or 1.0
            of_users = np.asarray((of_users - gain_of.low) / span, dtype=np.float32)
            offset = torch.as_tensor(of_users, device=device)[:, None]

            def fill(columns: slice, out: Tensor) -> None:
                for start in range(columns.start, columns.stop, MAX_COLUMNS):
                    some = slice(start, min(start + MAX_COLUMNS, columns.stop))
                    choice = out[:, start - columns.start : some.stop - columns.start]
                    gain = torch.empty(choice.shape, device=device)
                    fill_rating(some, gain)
                    fill_choice(some, choice)
                    if gain_of.span:
                        gain_of.at_places_(gain.mul_(scale / span).add_(offset))
                        torch.where(
                            choice > 0, choice * gain, choice / gain, out=choice
                        )

            return fill

        return score

    def index_vectors(self, side: SideName, rows: np.ndarray) -> np.ndarray:
        return self.choice.index_vectors(side, rows)

    def profiles(
        self, side: SideName, n_cold: int, device: torch.device
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.choice.profiles(side, n_cold, device)
