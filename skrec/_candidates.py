"""Candidates of each user: rows of user and item, ranked user by user."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from ._data.seen import SeenItems, is_in_sorted
from ._data.vocabulary import Ids, index_of
from ._interfaces import Model

# Candidates of a tile of users, and users at most: scores are computed of each user of
# a tile with each candidate of any of them.
TILE_CANDIDATES, MAX_TILE_USERS = 2**13, 512

# A function of a slice of users, which returns positions in it and columns.
Pairs = Callable[[slice], tuple[np.ndarray, np.ndarray]]


def holds_rows(candidates: Any) -> bool:
    """Whether candidates are rows of user and item, and not ids of items."""
    if isinstance(candidates, list | tuple):
        first = candidates[0] if candidates else None
        return isinstance(first, list | tuple | np.ndarray)
    if getattr(getattr(candidates, "dtype", None), "names", None):
        return True
    # Tables that the reader of rows refuses, with the way to pass them.
    if isinstance(candidates, Mapping | pd.MultiIndex) or hasattr(
        candidates, "collect"
    ):
        return True
    # Columns and arrays of ids have one dimension, tables have two.
    shape: tuple[int, ...] = getattr(candidates, "shape", ())
    return len(shape) == 2 and shape[1] > 1


def number_pairs(
    of_users: Ids, of_items: Ids, user_ids: np.ndarray, item_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of distinct `user_ids`, and of the user and the item of each row.

    Rows of other ids are left out. Numbers of items are places in `item_ids`.
    """
    codes, distinct = pd.factorize(user_ids)
    users = index_of(distinct).get_indexer(index_of(of_users.values))
    items = index_of(item_ids).get_indexer(index_of(of_items.values))
    found = (users >= 0) & (items >= 0)
    return codes, users[found], items[found]


@dataclass(frozen=True)
class UserCandidates:
    """Columns that each of some users may be recommended.

    Attributes
    ----------
    codes : ndarray of shape (n_queries,)
        Number of each user asked for, who may be asked for more than once.
    columns : SeenItems
        Candidates of each number, in the order of the rows.
    """

    codes: np.ndarray
    columns: SeenItems

    @classmethod
    def of(
        cls, codes: np.ndarray, users: np.ndarray, columns: np.ndarray
    ) -> UserCandidates:
        """Candidates by pairs of numbered users and columns, in any order."""
        n_columns = columns.max(initial=-1) + 1
        _, first = np.unique(users * n_columns + columns, return_index=True)
        first.sort()
        order = first[np.argsort(users[first], kind="stable")]
        n_users = codes.max(initial=-1) + 1
        return cls(
            codes, SeenItems.of_pairs(users[order], columns[order], n_users, n_columns)
        )

    def top_k(
        self,
        model: Model,
        users: np.ndarray,
        items: np.ndarray,
        k: int,
        excluded: Pairs,
        device: torch.device,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k candidates of every user with the largest scores, as `top_k` does.

        `users` and `items` are the rows of the model. Ties go to the candidate that
        comes first in the rows of the user.
        """
        shape = len(self.codes), k
        best = np.full(shape, -1, dtype=np.int64)
        scores = np.full(shape, -np.inf, dtype=np.float32)
        for tile in self._tiles():
            position, _, columns = self.columns.of_users(self.codes[tile])
            union, place = np.unique(columns, return_inverse=True)
            n_rows, n_columns = tile.stop - tile.start, len(union)
            table = torch.empty(n_rows, n_columns, device=device)
            score = model.scorer(users[tile], items[union], device)
            score(slice(0, n_rows))(slice(0, n_columns), table)
            found = table.cpu().numpy()[position, place]
            found[_are_among(position, columns, *excluded(tile))] = -np.inf
            order = np.lexsort((-found, position))
            starts = np.searchsorted(position, np.arange(n_rows))
            rank = np.arange(len(order)) - starts[position]
            is_listed = (rank < k) & (found[order] > -np.inf)
            listed, rank = order[is_listed], rank[is_listed]
            rows = tile.start + position[listed]
            best[rows, rank], scores[rows, rank] = columns[listed], found[listed]
        return best, scores

    def _tiles(self) -> Iterator[slice]:
        """Slices of the users asked for, of few candidates each."""
        counts = np.diff(self.columns.offsets)[self.codes]
        ends = counts.cumsum()
        start = 0
        while start < len(counts):
            least = ends[start] - counts[start]
            stop = int(np.searchsorted(ends, least + TILE_CANDIDATES, side="right"))
            stop = min(max(stop, start + 1), start + MAX_TILE_USERS, len(counts))
            yield slice(start, stop)
            start = stop


def _are_among(
    position: np.ndarray, columns: np.ndarray, rows: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """Whether pairs of a position and a column are among others."""
    size = max(columns.max(initial=0), others.max(initial=0)) + 1
    return is_in_sorted(position * size + columns, np.unique(rows * size + others))
