"""The best candidates of every user: tiled scores, exclusion, top-k.

Knows arrays only. Ties go to the lower column, so that equal scores give the same list
on every machine and for every tile size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Scores held at a time. It bounds the memory whatever the numbers of users and items.
TILE_SIZE = 2**23


def top_k(
    score: Callable[[slice], Tensor],
    n_rows: int,
    n_columns: int,
    k: int,
    excluded: Callable[[slice], tuple[np.ndarray, np.ndarray]] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best columns of every row, best first.

    Parameters
    ----------
    score : callable
        Takes a slice of rows to their scores, of shape (n, n_columns).
    n_rows, n_columns, k : int
        k is at most n_columns.
    excluded : callable, optional
        Takes a slice of rows to (row within it, column) of what may not be taken.

    Returns
    -------
    columns : ndarray of shape (n_rows, k), dtype int64
        -1 where a row has fewer than k columns left.
    scores : ndarray of shape (n_rows, k)
        -inf there.
    """
    columns = np.empty((n_rows, k), dtype=np.int64)
    scores = np.empty((n_rows, k), dtype=np.float32)
    step = max(1, TILE_SIZE // max(1, n_columns))
    for start in range(0, n_rows, step):
        tile = slice(start, min(start + step, n_rows))
        tile_scores = score(tile)
        if excluded is not None:
            index = tuple(
                torch.as_tensor(i).to(tile_scores.device) for i in excluded(tile)
            )
            tile_scores[index] = -torch.inf
        best, where = _stable_top_k(tile_scores, k)
        where[best == -torch.inf] = -1
        columns[tile] = where.cpu().numpy()
        scores[tile] = best.cpu().numpy()
    return columns, scores


def _stable_top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """torch.topk along rows, with ties in the order of the columns."""
    n_columns = scores.shape[1]
    best, where = torch.topk(scores, min(k + 1, n_columns))
    # Among equals topk takes any. Where the first one left out equals the last one
    # taken the whole row decides; elsewhere sorting what was taken does.
    if n_columns > k:
        tied = torch.nonzero(best[:, k] == best[:, k - 1]).squeeze(1)
        best, where = best[:, :k], where[:, :k]
    else:
        tied = where.new_empty(0)
    order = where.argsort(dim=1)
    best, where = best.gather(1, order), where.gather(1, order)
    order = best.argsort(dim=1, descending=True, stable=True)
    best, where = best.gather(1, order), where.gather(1, order)
    if len(tied):
        order = scores[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
        where[tied] = order
        best[tied] = scores[tied].gather(1, order)
    return best, where
