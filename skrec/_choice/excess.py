"""Excess: damped choices less those expected by popularity alone, the matrix R."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from .._data.interactions import Interactions
from .._share import Share
from .gain import Gain

# Powers of the numbers of choices that those of a user and of an item are divided by.
# Both even out the noise; that of users is lower, since many choices tell more of
# tastes.
USER_DAMPING, ITEM_DAMPING = 1 / 4, 1 / 3

# Keeps quotients of zeros finite.
TINY = float(np.finfo(np.float32).tiny)

# Largest share of an item's own choice in its score.
MAX_OWN_SHARE = 0.98


@dataclass(frozen=True)
class Excess:
    """Damped choices less those expected without tastes, users by items.

    Attributes
    ----------
    damped : csr_array of shape (n_rows, n_items)
        The damped choices of the users of a share.
    of_users : ndarray of shape (n_rows,)
    of_items : ndarray of shape (n_items,)
        Their outer product is the expectation.
    of_item : ndarray of shape (n_items,)
        Damping of one choice of each item.
    """

    damped: sparse.csr_array
    of_users: np.ndarray
    of_items: np.ndarray
    of_item: np.ndarray

    @classmethod
    def of(
        cls,
        data: Interactions,
        n_choices: np.ndarray,
        gain: Gain,
    ) -> Excess:
        """By the mean gain of each pair, for the users of this process."""
        seen, share = data.seen, data.shares.user
        own = share.rows(seen.n_users)
        offsets = seen.offsets[own.start : own.stop + 1]
        items = seen.items[offsets[0] : offsets[-1]]
        lengths = np.diff(offsets)
        strength = _mean_gain(data, gain)
        strength /= share.sum(float(strength.sum())) / len(seen)
        strength *= np.repeat(lengths**-USER_DAMPING, lengths)
        of_item = n_choices**-ITEM_DAMPING
        strength *= of_item[items]
        strength = strength.astype(np.float32)
        shape = len(lengths), len(n_choices)
        # Offsets of the type of the items, which the matrix then shares with `seen`.
        is_short = len(items) < 2**31
        offsets = (offsets - offsets[0]).astype(items.dtype if is_short else np.int64)
        return cls(
            sparse.csr_array((strength, items, offsets), shape),
            (lengths ** (1 - USER_DAMPING)).astype(np.float32),
            (n_choices * of_item / len(seen)).astype(np.float32),
            of_item,
        )

    def without(self, is_out: np.ndarray, share: Share) -> tuple[Excess, Excess]:
        """That of users who are not left out, and of those by the former's counts."""
        others, n_items = self.of_rows(~is_out), self.damped.shape[1]
        counts = share.sum(np.bincount(others.damped.indices, minlength=n_items))
        of_items = counts * (self.of_item / max(counts.sum(), 1))
        of_items = of_items.astype(np.float32)
        left_out = replace(self.of_rows(is_out), of_items=of_items)
        return replace(others, of_items=of_items), left_out

    def of_rows(self, rows: np.ndarray) -> Excess:
        return replace(self, damped=self.damped[rows], of_users=self.of_users[rows])

    def explained(self, V: np.ndarray, share: Share) -> np.ndarray:
        """Along columns of V: squares that other items explain, their variance, all.

        The variance is that of independent Gaussian elements.
        """
        total = share.sum(np.square(self @ V).sum(axis=0, dtype=np.float64))
        own = self._squares_of_items() @ np.square(V, dtype=np.float64)
        own = share.sum(own)
        of_users = self.damped.power(2).sum(axis=1, dtype=np.float64)
        n_users = share.sum(float(of_users.sum())) ** 2
        n_users /= max(share.sum(float(of_users @ of_users)), TINY)
        return np.stack([total - own, 2 * own**2 / max(n_users, TINY), total])

    def rounding(self, share: Share) -> float:
        """Largest eigenvalue that is an error of rounding."""
        own = share.sum(float(self.damped.data @ self.damped.data))
        return float(own * np.finfo(np.float32).eps)

    def energy(self, share: Share) -> float:
        """Sum of squares."""
        return share.sum(float(self._squares_of_items().sum()))

    def _squares_of_items(self) -> np.ndarray:
        """Sums of squares of the columns."""
        expected = self.of_items * np.square(self.of_users).sum()
        expected -= 2 * (self.of_users @ self.damped)
        return self.damped.power(2).sum(axis=0) + self.of_items * expected

    def __matmul__(self, Q: np.ndarray) -> np.ndarray:
        product = self.damped @ Q
        product -= self.of_users[:, None] * (self.of_items @ Q)
        return product

    def projected(self, Y: np.ndarray, share: Share) -> np.ndarray:
        """RᵀY."""
        product = self.damped.T @ Y
        product -= self.of_items[:, None] * (self.of_users @ Y)
        return share.sum(product)

    def square(self, share: Share) -> np.ndarray:
        """RᵀR."""
        product = (self.damped.T @ self.damped).toarray()
        squared = float(self.of_users @ self.of_users)
        mixed = self.of_users @ self.damped - squared / 2 * self.of_items
        mixed = np.outer(mixed, self.of_items)
        product -= mixed
        product -= mixed.T
        return share.sum(product)


def _mean_gain(data: Interactions, gain: Gain) -> np.ndarray:
    """Mean gain of the ratings of each pair."""
    mean, weight, starts = gain(data.rating), data.weight, data.pair_starts
    mean *= weight
    if starts is not None:
        mean, weight = np.add.reduceat(mean, starts), np.add.reduceat(weight, starts)
    mean /= weight
    return mean


def output_scale(
    V: np.ndarray, shrinkage: np.ndarray, of_item: np.ndarray
) -> np.ndarray:
    """Factor of each item's row of V in scores: back from A, without its own choice."""
    own_share = np.minimum(np.square(V) @ shrinkage, MAX_OWN_SHARE)
    return (1 / (of_item * (1 - own_share))).astype(np.float32)
