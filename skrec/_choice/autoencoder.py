"""ItemAutoencoder: a linear autoencoder of who chose which items, with nothing to tune.

It predicts the choices of a user from the same choices. Without tastes, a user with n_u
of all N choices would make n_u n_j / N of item j. With A the matrix of choices, users
by items, divided by powers of the numbers of choices of its user and of its item, R is
A less the same of these expected choices, and V are the leading eigenvectors of RᵀR.
The score of user u and item j is::

    s_uj = (n_u + 1) n_j / N + w Σ_i (x_ui − n_u n_i / N) B_ij / (1 − B_jj),
    B = V diag(f) Vᵀ

with its sum in units of A. The denominator leaves out of a score the choice of the item
itself, as Steck (2019) does by a constraint. The factors f have the least squared error
on users who are left out of R, of each choice given the others of its user::

    f_k = Σ_u (z_uk² − Σ_i r_ui² v_ik²) / Σ_u z_uk²,    z_uk = Σ_i r_ui v_ik

Bun, Bouchaud and Potters (2017) have this for covariances. All directions
together explain nothing, so those that do not explain have the negative factor −c that
balances the others. Only differences from it count, (f_k + c) / (1 + c), since c I
predicts nothing of other items. As shares of signal they hold for users with about as
many choices as those that tell of them. A user with n, fewer than nearly all of these
have, has f / (f + (1 − f) m / n) instead, m the least number of theirs: the signal of a
sum of n choices is as n², its noise as n. The weight w is the one by which choices of
the users left out, hidden one at a time, rank highest among the items that they have
not chosen. Where choices tell nothing of tastes, the factors are zero, and lists are
those of the most chosen items.

References: Steck (2019). Embarrassingly shallow autoencoders for sparse data. WWW.
Bun, Bouchaud, Potters (2017). Cleaning large correlation matrices. Physics Reports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy import sparse

from .._data.forgotten import ForgottenRows
from .._data.interactions import FurtherRows, Interactions
from .._data.rating_summary import RatingSummary
from .._data.seen import SeenItems
from .._data.sides import SideName
from .._deferred import Deferred
from .._interfaces import CHOICES, Model, Objective
from .._share import Share
from .._storage import stored
from .._threads import torch_threads
from .._topk import Fill, inner_products_of_tiles
from .content import places_by_content
from .eigenvectors import eigenvectors
from .excess import ITEM_DAMPING, TINY, USER_DAMPING, Excess, output_scale
from .gain import Gain
from .tastes import PRIOR_CHOICES, Tastes


@stored
@dataclass(frozen=True)
class ItemAutoencoder(Model):
    """A fitted linear autoencoder.

    Attributes
    ----------
    item_vectors : ndarray of shape (n_items, 1 + n_factors), dtype float32
        Their inner products with vectors of users are scores. The first column is the
        share of the item in all choices.
    input_scale : ndarray of shape (n_items,), dtype float32
        Factor that turns an item's vector into that of its choice by a user.
    mean_input : ndarray of shape (n_factors,), dtype float32
        Mean vector of a choice.
    shrinkage, eigenvalues : ndarray of shape (n_factors,), dtype float32
        Factors f, and eigenvalues of RᵀR.
    taste_weight : float
        Weight of tastes beside popularity.
    energy : float
        Sum of all eigenvalues.
    new_item : ndarray of shape (1 + n_factors,), dtype float32
        Mean vector of the items with the fewest choices, for an item with none.
    seen : SeenItems
        The choices of each user.
    ratings : RatingSummary
        Ratings of the choices, by whose range these count.
    is_placed : ndarray of shape (n_items,), dtype bool
        Items that came after the fit.
    least_count : float
        Number of choices m from which on factors hold.
    """

    item_vectors: np.ndarray
    input_scale: np.ndarray
    mean_input: np.ndarray
    shrinkage: np.ndarray
    eigenvalues: np.ndarray
    taste_weight: float
    energy: float
    new_item: np.ndarray
    seen: SeenItems
    ratings: RatingSummary
    is_placed: np.ndarray
    objective: Objective = CHOICES
    rating_range: tuple[float, float] = (-np.inf, np.inf)
    least_count: float = 1.0

    @classmethod
    def fit(cls, data: Interactions) -> ItemAutoencoder:
        """Fit to all pairs of the rows, each by the gain of its mean rating."""
        return cls.deferred(data)()

    @classmethod
    def deferred(cls, data: Interactions) -> Deferred[ItemAutoencoder]:
        """The fit, at its first use; it needs the pairs, with a number each.

        Several processes fit at once, since all of them take part.
        """
        seen, share = data.seen, data.shares.user
        n_choices, ratings = seen.counts.item, RatingSummary.of(data)
        excess = Excess.of(data, n_choices, Gain.of(ratings))
        fit = Deferred(partial(cls._fit, excess, n_choices, seen, ratings, share))
        if not share.has_all:
            fit()
        return fit

    # Products are short, and threads would wait for each other.
    @classmethod
    @torch_threads(1)
    def _fit(
        cls,
        excess: Excess,
        n_choices: np.ndarray,
        seen: SeenItems,
        ratings: RatingSummary,
        share: Share,
    ) -> ItemAutoencoder:
        tastes = Tastes.of(excess, places_by_content(seen), share)
        eigenvalues, V = eigenvectors(excess, tastes.basis, share)
        n_factors = min(len(tastes.shrinkage), len(eigenvalues))
        shrinkage, eigenvalues = tastes.shrinkage[:n_factors], eigenvalues[:n_factors]
        is_kept = (shrinkage > 0) & (eigenvalues > excess.rounding(share))
        shrinkage, eigenvalues = shrinkage[is_kept], eigenvalues[is_kept]
        V = V[:, :n_factors][:, is_kept]
        scale = output_scale(V, shrinkage, excess.of_item)
        shares = (n_choices / len(seen)).astype(np.float32)
        item_vectors = np.column_stack([shares, V * scale[:, None]])
        return cls(
            item_vectors=item_vectors,
            input_scale=(excess.of_item / scale).astype(np.float32),
            mean_input=excess.of_items @ V,
            shrinkage=shrinkage,
            eigenvalues=eigenvalues,
            taste_weight=tastes.weight,
            energy=excess.energy(share),
            new_item=item_vectors[n_choices == n_choices.min()].mean(axis=0),
            seen=seen,
            ratings=ratings,
            is_placed=np.zeros(seen.n_items, dtype=bool),
            least_count=seen.least_count("user"),
        )

    def user_vectors(self, users: np.ndarray) -> np.ndarray:
        """Vectors of numbered users; that of an unknown one has no taste."""
        vectors = self._inputs(users)
        vectors[:, 1:] *= self.taste_weight * self._shrinkage_of(vectors[:, :1])
        vectors[:, 0] += PRIOR_CHOICES
        return vectors

    def _shrinkage_of(self, counts: np.ndarray) -> np.ndarray:
        """Factors of users with so many choices, shape (n_users, n_factors)."""
        signal = np.minimum(counts / self.least_count, 1) * self.shrinkage
        return signal / np.maximum(signal + (1 - self.shrinkage), TINY)

    def _inputs(
        self, users: np.ndarray, counts: np.ndarray | None = None
    ) -> np.ndarray:
        """Numbers of choices of users, and sums of their vectors less the mean.

        Of all items, or of those that count.
        """
        position, _, items = self.seen.of_users(users)
        if counts is not None:
            position, items = position[counts[items]], items[counts[items]]
        offsets = np.searchsorted(position, np.arange(len(users) + 1))
        shape = len(users), len(self.item_vectors)
        choices = sparse.csr_array((self.input_scale[items], items, offsets), shape)
        inputs = choices @ self.item_vectors
        inputs[:, 0] = np.diff(offsets)
        inputs[:, 1:] -= inputs[:, :1] * self.mean_input
        return inputs

    def contributions(
        self, user: int, items: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Items of a user, and their shares in scores of known items.

        Shares are of shape (n_items, n_seen + 1); the last is that of an unknown user.
        """
        _, _, seen = self.seen.of_users(np.array([user]))
        inputs = np.zeros((len(seen) + 1, self.item_vectors.shape[1]), np.float32)
        inputs[:-1] = self.input_scale[seen, None] * self.item_vectors[seen]
        inputs[:-1, 1:] -= self.mean_input
        count = np.full((1, 1), len(seen), dtype=np.float32)
        inputs[:, 1:] *= self.taste_weight * self._shrinkage_of(count)
        inputs[:-1, 0], inputs[-1, 0] = 1, PRIOR_CHOICES
        return seen, self.item_vectors[items] @ inputs.T

    def vectors_of_items(self, items: np.ndarray) -> np.ndarray:
        """Vectors of numbered items; unknown ones have that of a new item."""
        if np.array_equal(items, np.arange(len(self.item_vectors))):
            return self.item_vectors
        vectors = self.item_vectors[np.maximum(items, 0)]
        vectors[items < 0] = self.new_item
        return vectors

    def predict(
        self,
        users: np.ndarray,
        items: np.ndarray,
        context: np.ndarray,
        return_std: bool,
        device: torch.device,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if return_std:
            raise ValueError(
                "return_std=True needs ratings, but this fit was of choices alone."
            )
        distinct, place = np.unique(users, return_inverse=True)
        vectors = self.user_vectors(distinct)[place]
        return np.einsum("nk,nk->n", vectors, self.vectors_of_items(items)), None

    def scorer(
        self, users: np.ndarray, items: np.ndarray, device: torch.device
    ) -> Callable[[slice], Fill]:
        vectors = self.vectors_of_items(items)
        return inner_products_of_tiles(self.user_vectors, users, vectors, device)

    def index_vectors(self, side: SideName, rows: np.ndarray) -> np.ndarray:
        if side == "user":
            return self.user_vectors(rows)
        # Callers may scale them in place.
        return self.vectors_of_items(rows).copy()

    def profiles(
        self, side: SideName, n_cold: int, device: torch.device
    ) -> tuple[np.ndarray, np.ndarray]:
        if n_cold:
            raise ValueError(
                f"A model of choices alone has no profile of {side}s without rows, "
                "since it learns nothing from side features. Fit ratings, or leave "
                f"out these {side}s."
            )
        root = np.sqrt(self.shrinkage)
        if side == "item":
            vectors = self.item_vectors[:, 1:] * root
        else:
            vectors = self._inputs(np.arange(self.seen.n_users))[:, 1:] * root
        lengths = np.linalg.norm(vectors, axis=1)
        lengths[lengths == 0] = np.inf
        return vectors, lengths

    def without(self, forgotten: ForgottenRows) -> ItemAutoencoder:
        items = forgotten.kept.item
        model = replace(
            self,
            item_vectors=self.item_vectors[items],
            input_scale=self.input_scale[items],
            is_placed=self.is_placed[items],
            seen=forgotten.seen_after,
        )
        model._count()
        return model

    def updated(self, further: FurtherRows) -> ItemAutoencoder:
        """With further choices; a new item is where those who chose it put it."""
        items, ratings = further.growths.item, self.ratings
        model = replace(
            self,
            item_vectors=items.inserted(self.item_vectors),
            input_scale=items.inserted(self.input_scale),
            is_placed=items.inserted(self.is_placed, True),
            seen=further.seen_after,
            ratings=ratings.with_further(further.data.rating, further.data.weight),
        )
        model._place(items.given[model.is_placed[items.given]])
        model._count()
        return model

    def _count(self) -> None:
        """Set the shares of items in all choices."""
        self.item_vectors[:, 0] = self.seen.counts.item / max(len(self.seen), 1)

    def _place(self, items: np.ndarray) -> None:
        """Put items where the fitted items of those who chose them do.

        So it does not matter in how many calls the choices came.
        """
        position, users, _ = self.seen.of_items(items)
        distinct, place = np.unique(users, return_inverse=True)
        inputs = self._inputs(distinct, ~self.is_placed)[:, 1:]
        lengths = np.diff(self.seen.offsets)[distinct, None]
        inputs *= lengths ** (-2 * USER_DAMPING)
        shape = len(items), len(distinct)
        chosen_by = sparse.csr_array((np.ones(len(users)), (position, place)), shape)
        n_choices = np.bincount(position, minlength=len(items))
        V = (chosen_by @ inputs) / self.eigenvalues
        of_item = n_choices**-ITEM_DAMPING
        V *= of_item[:, None]
        scale = output_scale(V, self.shrinkage, of_item)
        self.item_vectors[items, 1:] = V * scale[:, None]
        self.input_scale[items] = of_item / scale
