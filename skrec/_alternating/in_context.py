"""InContext: a fitted model of ratings, for users who ask in a context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .._interfaces import Model, Objective
from .._topk import Fill
from .value_terms import FittedColumn


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
    """

    model: Model
    rows: np.ndarray
    context: np.ndarray
    linear: np.ndarray
    columns: tuple[FittedColumn, ...]
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
        codes = self._codes[users]

        def score(tile: slice) -> Fill:
            fill_without = without_context(tile)
            found = [np.unique(c, return_inverse=True) for c in codes[tile].T]

            def fill(some: slice, out: torch.Tensor) -> None:
                fill_without(some, out)
                for column, (values, place) in zip(self.columns, found, strict=True):
                    terms = column.of_items(values, items[some])[place]
                    out += torch.as_tensor(terms, dtype=out.dtype).to(out.device)

            return fill

        return score

    def score_units(self, users: np.ndarray) -> tuple[float, np.ndarray]:
        scale, offset = self.model.score_units(self.rows[users])
        offset = offset + self.linear[users]
        for column, values in zip(self.columns, self._codes[users].T, strict=True):
            offset = offset + column.of_users(self.rows[users], values)
        return scale, offset

    @property
    def _codes(self) -> np.ndarray:
        n_columns = len(self.columns)
        return self.context[:, self.context.shape[1] - n_columns :].astype(np.int64)
