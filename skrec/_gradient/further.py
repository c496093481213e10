"""Weights of a fitted network for the rows that further ratings update.

Rows of users and of items have numbers in which new ones follow the known ones. Those
whose rows are described by counterparts (see `implicit`) begin where the further
counterparts move them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import numpy as np
from scipy import sparse

from .._data.interactions import FurtherRows
from .fitted import Conversion, NetworkModel, Weights
from .network import PLAIN_TABLES, TABLES, implicit_name


@dataclass(frozen=True)
class Numbering:
    """Consecutive numbers of updated rows, in which new ones follow the known ones.

    Attributes
    ----------
    rows : ndarray of shape (n_rows,)
        Row numbers in the model, negative where new.
    n_known : int
        Number of rows of the model.
    """

    rows: np.ndarray
    n_known: int

    @property
    def new(self) -> np.ndarray:
        """Row numbers of the new rows."""
        return self.rows[self.rows < 0]

    @property
    def numbers(self) -> np.ndarray:
        """Numbers of `rows`."""
        is_new = self.rows < 0
        return np.where(is_new, self.n_known + np.cumsum(is_new) - 1, self.rows)

    def rows_of(self, numbers: np.ndarray) -> np.ndarray:
        """Row numbers in the model of given numbers."""
        is_new = numbers >= self.n_known
        rows = numbers.copy()
        rows[is_new] = self.new[numbers[is_new] - self.n_known]
        return rows


class UpdatedRows(Generic[NetworkModel]):
    """Users and items of further rows, and weights of the model that is updated.

    Attributes
    ----------
    numberings : dict of str to Numbering
        Of a "user" and of an "item".
    """

    def __init__(
        self,
        conversion: Conversion[NetworkModel],
        model: NetworkModel,
        further: FurtherRows,
        implicit_features: bool,
    ) -> None:
        self.conversion, self.model = conversion, model.with_cold_rows(*further.cold)
        self.numberings = {
            "user": Numbering(further.users, further.seen.n_users),
            "item": Numbering(further.items, further.seen.n_items),
        }
        self.changes = self._implicit_changes(further) if implicit_features else {}

    def weights(self, users: np.ndarray, items: np.ndarray) -> Weights:
        """Weights whose tables have the rows of sorted numbers, then the unseen row."""
        numbers = {"user": users, "item": items}
        rows = (self.numberings[side].rows_of(numbers[side]) for side in TABLES)
        weights = self.conversion.weights(self.model, *rows)
        for side, changes in self.changes.items():
            places = np.searchsorted(numbers[side], self.numberings[side].numbers)
            for name, change in changes.items():
                weights[name][places] += change
        return weights

    def _implicit_changes(self, further: FurtherRows) -> dict[str, Weights]:
        """Changes of rows by their further counterparts, by side and table."""
        changes: dict[str, Weights] = {side: {} for side in TABLES}
        everyone = [np.arange(n) for n in (further.seen.n_users, further.seen.n_items)]
        weights = self.conversion.weights(self.model, *everyone)
        for side in TABLES:
            factors, shares = factor_changes(side, further)
            for name in weights.keys() & set(PLAIN_TABLES[side]):
                rows = weights[implicit_name(name)]
                change = factors @ rows.reshape(len(rows), -1)
                # Rows of no counterparts are at the mean of all.
                mean = weights[f"{side}_implicit_mean"] @ rows.reshape(len(rows), -1)
                change -= shares[:, None] * mean
                changes[side][name] = change.reshape(-1, *rows.shape[1:]).astype("f4")
        return changes


def factor_changes(
    side: str, further: FurtherRows
) -> tuple[sparse.csr_array, np.ndarray]:
    """Changes by further rows of the factors of each row's counterparts.

    Of shape (n_given, n_known), for the users, or the items, of the further rows and
    known counterparts, and changes of the share of their mean, shape (n_given,). Rows
    with n counterparts have factors 1/√n less the mean of all, times the root of
    n relative to the least number of nearly all rows where they are fewer.
    """
    data, seen = further.data, further.seen
    given, others = further.users, further.items
    rows, met, n_known = data.users, others[data.items], seen.n_items
    if side == "item":
        given, others, n_known = others, given, seen.n_users
        rows, met = data.items, others[data.users]
    known = np.flatnonzero(given >= 0)
    of_known = seen.of_users if side == "user" else seen.of_items
    place, *pairs = of_known(given[known])
    before = known[place], pairs[side == "user"]
    # New counterparts follow the known ones; they have no factor yet, but count.
    new = n_known + np.arange(len(others))
    met = np.where(met < 0, new[data.items if side == "user" else data.users], met)
    shape = len(given), n_known + len(others)
    old, all_pairs = (
        sparse.csr_array((np.ones(len(row)), (row, column)), shape)
        for row, column in (
            before,
            [np.concatenate(part) for part in zip(before, (rows, met), strict=True)],
        )
    )
    least = further.seen.least_count(side)
    (before, share_before), (after, share) = (
        _factors(pairs, least) for pairs in (old, all_pairs)
    )
    return sparse.csr_array((after - before)[:, :n_known]), share - share_before


def _factors(
    pairs: sparse.csr_array, least: float
) -> tuple[sparse.csr_array, np.ndarray]:
    """Factors of the places that a row has, and its share of the mean."""
    pairs.sum_duplicates()
    counts = np.diff(pairs.indptr)
    pairs.data = np.repeat(1 / np.sqrt(np.maximum(counts, least)), counts)
    return pairs, np.sqrt(np.minimum(1, counts / least))
