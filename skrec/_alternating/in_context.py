"""InContext: a fitted model of ratings, for users who ask in a context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from .._interfaces import Model, Objective
from .._topk import Fill
from .value_terms import FittedColumn, Places


@dataclass(frozen=True)
class InContext(Model):
    """A model whose rows are those who ask, each in a context.

    Attributes
    ----------
    model : Model
        The model without context.
    rows : ndarray of shape (n_asking,)
        Row in this model of each.
    context : ndarray of shape (n_asking, n_context)
    linear : ndarray of shape (n_asking,)
        Linear term of the context.
    columns : tuple of FittedColumn
    at : tuple of Places
        Value and number of each in these columns.
    """

    model: Model
    rows: np.ndarray
    context: np.ndarray
    linear: np.ndarray
    columns: tuple[FittedColumn, ...]
    at: tuple[Places, ...]
    objective: Objective
    rating_range: tuple[float, float]

    def predict(
        self,
        users: np.ndarray,
        items: np.ndarray,
        context: np.ndarray,
        return_std: bool,
        device: torch.device,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        own = self.rows[users], items, self.context[users]
        return self.model.predict(*own, return_std, device)

    def scorer(
        self, users: np.ndarray, items: np.ndarray, device: torch.device
    ) -> Callable[[slice], Fill]:
        without_context = self.model.scorer(self.rows[users], items, device)

        def score(tile: slice) -> Fill:
            fill_without = without_context(tile)

            def fill(some: slice, out: torch.Tensor) -> None:
                fill_without(some, out)
                for column, at in self._columns_at(users[tile]):
                    terms = column.of_items(at, items[some])
                    out += torch.as_tensor(terms, dtype=out.dtype).to(out.device)

            return fill

        return score

    def score_units(self, users: np.ndarray) -> tuple[float, np.ndarray]:
        scale, offset = self.model.score_units(self.rows[users])
        offset = offset + self.linear[users]
        for column, at in self._columns_at(users):
            offset = offset + column.of_users(self.rows[users], at)
        return scale, offset

    def _columns_at(self, users: np.ndarray) -> Iterator[tuple[FittedColumn, Places]]:
        """Each column, and the value and number of users in it."""
        for column, (values, numbers) in zip(self.columns, self.at, strict=True):
            yield column, (values[users], numbers[users])
