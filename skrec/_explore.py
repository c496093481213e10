"""Explored scores of a model, and lists diversified by maximal marginal relevance."""

from __future__ import annotations

from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from sklearn.utils import check_random_state

from ._interfaces import Model

Strategy: TypeAlias = Literal["mean", "sample", "lower_bound"]

# Candidates for each place of a diversified list.
N_PER_PLACE = 5

# Elements of the candidates' vectors that are held at a time.
TILE_SIZE = 2**23


def check_exploration(strategy: Any, diversity: Any) -> None:
    """Raise an error for arguments of `recommend` out of their domains."""
    if strategy not in get_args(Strategy):
        raise ValueError(
            "strategy must be 'mean', 'sample' or 'lower_bound', as in "
            f"strategy='sample', got {strategy!r}."
        )
    if not isinstance(diversity, Real) or isinstance(diversity, bool):
        raise TypeError(f"diversity must be a number, got {diversity!r}.")
    if not 0 <= float(diversity) <= 1:
        raise ValueError(
            f"diversity must be from 0 to 1, as in diversity=0.3, got {diversity!r}."
        )


def explored(
    model: Model,
    strategy: str,
    users: np.ndarray,
    items: np.ndarray,
    random_state: int | np.random.RandomState | None,
) -> Model:
    """The model whose scores a strategy ranks by, for these rows."""
    generator = check_random_state(random_state)
    if strategy == "sample":
        return model.draw(users, items, generator)
    return model.lower_bound() if strategy == "lower_bound" else model


def diversified(
    best: np.ndarray,
    scores: np.ndarray,
    vectors: np.ndarray,
    n: int,
    diversity: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Lists of n candidates by maximal marginal relevance, and their scores.

    Parameters
    ----------
    best : ndarray of shape (n_lists, n_candidates)
        Rows of the candidates in `vectors`, best first; -1 where there is none.
    scores : ndarray of shape (n_lists, n_candidates)
        -inf where there is no candidate.
    vectors : ndarray of shape (n_columns, size)
        Of length 1 or 0, whose inner products are likenesses.
    n : int
    diversity : float
        Weight of the likeness to candidates that are taken already; the score, scaled
        to [0, 1] in each list, has the rest.
    """
    n_lists, n_candidates = best.shape
    places = np.empty((n_lists, n), dtype=np.int64)
    height = max(1, TILE_SIZE // max(1, n_candidates * vectors.shape[1]))
    for start in range(0, n_lists, height):
        tile = slice(start, start + height)
        relevance = _scaled(scores[tile])
        relevance[relevance >= 0] *= 1 - diversity
        of_candidates = vectors[best[tile]]
        lists = np.arange(len(relevance))
        likeness = np.zeros_like(relevance)
        for place in range(n):
            taken = (relevance - diversity * likeness).argmax(axis=1)
            is_left = relevance[lists, taken] > -np.inf
            places[tile, place] = np.where(is_left, taken, -1)
            relevance[lists, taken] = -np.inf
            others = of_candidates[lists, taken]
            products = np.einsum("lcs,ls->lc", of_candidates, others)
            # Likeness may be negative once there is an item to be like.
            likeness = np.maximum(likeness, products) if place else products
    lists = np.arange(n_lists)[:, None]
    is_none = places < 0
    return (
        np.where(is_none, -1, best[lists, places]),
        np.where(is_none, -np.inf, scores[lists, places]),
    )


def _scaled(scores: np.ndarray) -> np.ndarray:
    """Scores of each list in [0, 1], -inf where there is none."""
    exists = scores > -np.inf
    scores = scores.astype(np.float64)
    best = scores.max(axis=1, initial=-np.inf, keepdims=True)
    least = scores.min(axis=1, where=exists, initial=np.inf, keepdims=True)
    span = np.where(best > least, best - least, 1)
    return np.where(exists, (scores - np.where(exists, least, 0)) / span, -np.inf)
