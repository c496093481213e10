"""Places of users and items by their choices, whatever their numbers.

A fit that has folds or random numbers for its rows would change with the names of ids,
since these are numbered in sorted order. So rows are ordered by their number of choices
and then by hashes: that of an item begins with its number of choices, those of users
follow from those of their items, and the other way round (Weisfeiler and Leman, 1968).

Reference: Weisfeiler, Leman (1968). The reduction of a graph to canonical form and the
algebra which appears therein. Nauchno-Technicheskaya Informatsiya.
"""

from __future__ import annotations

import numpy as np

from .._data.seen import SeenItems
from .._data.sides import Sides

# Rounds of hashing. Rows of equal content stay equal; few others do.
N_ROUNDS = 2


def places_by_content(seen: SeenItems) -> Sides[np.ndarray]:
    """Places of users and of items; those of equal content are in their own order."""
    starts, lengths = seen.offsets[:-1], np.diff(seen.offsets)
    n_users = seen.counts.item
    of_items = hashed(n_users)
    for _ in range(N_ROUNDS):
        # Sums of integers modulo 2⁶⁴, which have no order.
        of_users = hashed(np.add.reduceat(of_items[seen.items], starts))
        sums = np.zeros_like(of_items)
        np.add.at(sums, seen.items, np.repeat(of_users, lengths))
        of_items = hashed(sums)
    return Sides(_places(lengths, of_users), _places(n_users, of_items))


def _places(counts: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Place of each row in the order of counts, and of hashes where these are equal."""
    places = np.empty(len(counts), dtype=np.intp)
    places[np.lexsort((hashes, counts))] = np.arange(len(counts))
    return places


def hashed(values: np.ndarray) -> np.ndarray:
    """Hashes of integers, by the finaliser of SplitMix64 (Steele et al., 2014)."""
    mixed = values.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
