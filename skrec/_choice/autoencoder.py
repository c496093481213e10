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
predicts nothing of other items. The weight w is the one by which choices of the users
left out, hidden one at a time, rank highest among the items that they have not chosen.
Where choices tell nothing of tastes, the factors are zero, and lists are those of the
most chosen items.

References: Steck (2019). Embarrassingly shallow autoencoders for sparse data. WWW.
Bun, Bouchaud, Potters (2017). Cleaning large correlation matrices. Physics Reports.
Halko, Martinsson, Tropp (2011). Finding structure with randomness. SIAM Review.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import sparse

from .._data.forgotten import ForgottenRows
from .._data.interactions import FurtherRows, Interactions
from .._data.messages import quote_first
from .._data.rating_summary import RatingSummary
from .._data.seen import SeenItems
from .._data.sides import SideName, Sides
from .._deferred import Deferred
from .._interfaces import CHOICES, Iteration, Model, Objective, Solver, Start
from .._share import ALL_ROWS, Share
from .._storage import stored
from .._threads import torch_threads
from .._topk import Fill, inner_products_of_tiles
from .._warn import warn
from .content import hashed, places_by_content
from .gain import gain_of

# Powers of the numbers of choices that those of a user and of an item are divided by.
# Both even out the noise; that of users is lower, since many choices tell more of
# tastes.
USER_DAMPING, ITEM_DAMPING = 1 / 4, 1 / 3

# One in so many users is left out, in turns until there have been so many.
N_FOLDS, MIN_LEFT_OUT = 5, 1000

# Standard errors that are taken from the squares that other items explain, and from
# what a weight of tastes gains.
N_DEVIATIONS = 1

# Weights of tastes beside popularity, of which left-out users choose one.
TASTE_WEIGHTS = 2.0 ** (np.arange(-4, 9) / 2)

# Hidden choices, and fewer down to the minimum where the scores of all items by them
# would be more than so many.
MIN_HIDDEN, MAX_HIDDEN, MAX_SCORES = 100, 1000, 2**22

# Eigenvectors of like rank share their factor: each group ends at a rank so many times
# that of the last. Smaller factors than the least change no list.
GROUP_GROWTH, LEAST_SHRINKAGE = 1.4, 0.05

# Eigenvectors at most: as many as leave this many numbers in the table of items, which
# one list reads as a whole, within these limits. Beyond the first so many they are
# computed where all of these explain something.
TABLE_SIZE, MIN_FACTORS, MAX_FACTORS = 2**21, 64, 1024
FIRST_FACTORS = 256
OVERSAMPLING, N_PASSES = 16, 2

# Items per eigenvector up to which all are found at once, from RᵀR itself.
MAX_ITEMS_PER_FACTOR = 2

# Rows of a tall matrix that are squared at once, in double precision.
BLOCK_ROWS = 2**13

# Smallest pivot of a scaled Cholesky root at which columns count as independent.
MIN_PIVOT = 1e-3

# Scores that are ranked at once, and stay in the cache.
MAX_RANKED = 2**16

# Keeps quotients of zeros finite.
TINY = float(np.finfo(np.float32).tiny)

# Largest share of an item's own choice in its score.
MAX_OWN_SHARE = 0.98

# Choices without a taste that are added to those of each user.
PRIOR_CHOICES = 1.0


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
        excess = _Excess.of(data, n_choices, ratings.range)
        fit = Deferred(partial(cls._fit, excess, n_choices, seen, ratings, share))
        if not share.has_all:
            fit()
        return fit

    @classmethod
    def _fit(
        cls,
        excess: _Excess,
        n_choices: np.ndarray,
        seen: SeenItems,
        ratings: RatingSummary,
        share: Share,
    ) -> ItemAutoencoder:
        tastes = _tastes(excess, places_by_content(seen), share)
        eigenvalues, V = _eigenvectors(excess, tastes.basis, share)
        n_factors = min(len(tastes.shrinkage), len(eigenvalues))
        shrinkage, eigenvalues = tastes.shrinkage[:n_factors], eigenvalues[:n_factors]
        is_kept = (shrinkage > 0) & (eigenvalues > excess.rounding(share))
        shrinkage, eigenvalues = shrinkage[is_kept], eigenvalues[is_kept]
        V = V[:, :n_factors][:, is_kept]
        scale = _output_scale(V, shrinkage, excess.of_item)
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
        )

    def user_vectors(self, users: np.ndarray) -> np.ndarray:
        """Vectors of numbered users; that of an unknown one has no taste."""
        vectors = self._inputs(users)
        vectors[:, 0] += PRIOR_CHOICES
        vectors[:, 1:] *= self.taste_weight * self.shrinkage
        return vectors

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
        inputs[:, 1:] *= self.taste_weight * self.shrinkage
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
        scale = _output_scale(V, self.shrinkage, of_item)
        self.item_vectors[items, 1:] = V * scale[:, None]
        self.input_scale[items] = of_item / scale


@dataclass(frozen=True)
class ChoiceSolver(Solver[ItemAutoencoder]):
    """The autoencoder as the only part of a fit, of choices without ratings.

    `ignored` are parameters of the estimator, by name, that were set for a solver.
    """

    ignored: Mapping[str, Any] = field(default_factory=dict)
    objective: Objective = CHOICES
    max_iter: int = 1

    def iterations(
        self,
        data: Interactions,
        start: Start | None,
        random_state: np.random.RandomState,
        device: torch.device,
    ) -> Iterator[Iteration]:
        if self.ignored:
            names = ", ".join(
                f"{name}={value!r}" for name, value in self.ignored.items()
            )
            warn(
                f"A fit without y is of choices, by an autoencoder without parameters, "
                f"so nothing has come of {names}. Pass ratings as y, let MFRegressor "
                "weigh the pairs that are not in X (unobserved_weight=0.1), or use a "
                "loss of choices, such as NCFRegressor(loss='log_loss')."
            )
        if any(features is not None for features in data.side_features):
            warn(
                "A fit of choices without y does not use side features. Set "
                "unobserved_weight of MFRegressor, as in MFRegressor(solver='als', "
                "unobserved_weight=0.1), to rank new users and items by them, or pass "
                "ratings as y."
            )
        numbers = data.known_context.number_names
        if numbers:
            warn(
                f"Columns of numbers in X ({quote_first(numbers)}) tell nothing about "
                "choices without y, and are left out. Pass ratings as y, leave these "
                "columns out, or use a loss of choices with context, such as "
                "NCFRegressor(loss='log_loss'). A matrix, users by items, becomes rows "
                "by skrec.datasets.from_matrix."
            )
        model = ItemAutoencoder.fit(data)
        n_factors = len(model.shrinkage)
        # The share of the energy of the choices that the factors leave.
        rest = 1 - float(model.eigenvalues.sum() / max(model.energy, TINY))
        yield Iteration(rest, f"{n_factors} factors", True, lambda: model)

    def check_ratings(self, rating: np.ndarray, weight: np.ndarray) -> None:
        counted = weight[weight > 0]
        if len(counted) and counted.min() < counted.max():
            warn(
                "Without y each pair counts once, whatever its sample_weight. Set "
                "unobserved_weight of MFRegressor for a fit that weighs choices."
            )

    def check_update(self, model: Model) -> None:
        if not isinstance(model, ItemAutoencoder):
            raise ValueError(
                "partial_fit needs ratings, as the last fit had them, but y is None. "
                "Pass them as y, as in partial_fit(X, y)."
            )

    def update(
        self,
        model: ItemAutoencoder,
        further: FurtherRows,
        random_state: np.random.RandomState,
        device: torch.device,
        report: Callable[[float], None],
    ) -> ItemAutoencoder:
        return model.updated(further)

    def check_retraction(self, model: Model) -> None:
        """Choices of a user are forgotten with their rows."""


def _mean_gain(data: Interactions, rating_range: tuple[float, float]) -> np.ndarray:
    """Gain of the mean rating of each pair."""
    gain = gain_of(data.rating, *rating_range)
    gain *= data.weight
    starts, weight = data.pair_starts, data.weight
    if starts is not None:
        gain, weight = np.add.reduceat(gain, starts), np.add.reduceat(weight, starts)
    gain /= weight
    return gain


@dataclass(frozen=True)
class _Excess:
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
        rating_range: tuple[float, float],
    ) -> _Excess:
        """By the mean gain of each pair, for the users of this process."""
        seen, share = data.seen, data.shares.user
        own = share.rows(seen.n_users)
        offsets = seen.offsets[own.start : own.stop + 1]
        items = seen.items[offsets[0] : offsets[-1]]
        lengths = np.diff(offsets)
        strength = _mean_gain(data, rating_range)
        strength /= share.sum(float(strength.sum())) / len(seen)
        strength *= np.repeat(lengths**-USER_DAMPING, lengths)
        of_item = n_choices**-ITEM_DAMPING
        strength *= of_item[items]
        strength = strength.astype(np.float32)
        shape = len(lengths), len(n_choices)
        return cls(
            sparse.csr_array((strength, items, offsets - offsets[0]), shape),
            (lengths ** (1 - USER_DAMPING)).astype(np.float32),
            (n_choices * of_item / len(seen)).astype(np.float32),
            of_item,
        )

    def without(self, is_out: np.ndarray, share: Share) -> tuple[_Excess, _Excess]:
        """That of users who are not left out, and of those by the former's counts."""
        others, n_items = self.of_rows(~is_out), self.damped.shape[1]
        counts = share.sum(np.bincount(others.damped.indices, minlength=n_items))
        of_items = counts * (self.of_item / max(counts.sum(), 1))
        of_items = of_items.astype(np.float32)
        left_out = replace(self.of_rows(is_out), of_items=of_items)
        return replace(others, of_items=of_items), left_out

    def of_rows(self, rows: np.ndarray) -> _Excess:
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

    def gains_of_hidden(
        self,
        V: np.ndarray,
        shrinkage: np.ndarray,
        keys: Sides[np.ndarray],
        n_hidden: int,
    ) -> np.ndarray:
        """Mean discounted gain of hidden choices of each user, by each taste weight.

        Each choice is hidden alone, and ranked among all items not chosen. Of a user
        with more choices than `n_hidden`, those are hidden that come first by keys.
        """
        n_choices = np.diff(self.damped.indptr)
        row = np.repeat(np.arange(len(n_choices)), n_choices)
        order = np.lexsort(
            (hashed(keys.user[row] + keys.item[self.damped.indices]), row)
        )
        place = np.arange(len(row)) - self.damped.indptr[row]
        order = order[(place < n_hidden) & (n_choices[row] > 1)]
        row, hidden = row[order], self.damped.indices[order]
        chosen, n_others = self.damped[row], n_choices[row, None] - 1
        users, place = np.unique(row, return_inverse=True)
        inputs = V * self.of_item[:, None].astype(V.dtype)
        of_users = self.damped[users]
        of_users.data = np.ones_like(of_users.data)
        vectors = (of_users @ inputs)[place] - inputs[hidden]
        vectors -= n_others * (self.of_items @ V)
        vectors *= shrinkage
        outputs = V * _output_scale(V, shrinkage, self.of_item)[:, None]
        popularity = (self.of_items / self.of_item).astype(V.dtype)
        position = np.repeat(np.arange(len(row)), np.diff(chosen.indptr))
        ranks = np.empty((len(row), len(TASTE_WEIGHTS)))
        for start in range(0, len(row), step := max(1, MAX_RANKED // len(V))):
            some = slice(start, min(start + step, len(row)))
            tastes = _product(vectors[some], outputs.T)
            tastes -= np.take_along_axis(tastes, hidden[some, None], axis=1)
            pairs = slice(chosen.indptr[start], chosen.indptr[some.stop])
            tastes[position[pairs] - start, chosen.indices[pairs]] = -np.inf
            lag = popularity[hidden[some], None] - popularity
            lag *= n_others[some] + PRIOR_CHOICES
            ranks[some] = _ranks(tastes, lag)
        gains = 1 / np.log2(1 + ranks)
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        n_hidden_of = np.diff(starts, append=len(row))[:, None]
        return np.add.reduceat(gains, starts) / n_hidden_of if len(row) else gains

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


@dataclass(frozen=True)
class _Tastes:
    """What users who are left out tell of tastes.

    Attributes
    ----------
    shrinkage : ndarray of shape (n_factors,), dtype float32
        Factors of the leading eigenvectors.
    weight : float
        Weight of tastes beside popularity.
    basis : ndarray of shape (n_items, n), dtype float32
        That from which passes come to the eigenvectors.
    """

    shrinkage: np.ndarray
    weight: float
    basis: np.ndarray


@dataclass(frozen=True)
class _Turn:
    """Users who are left out, with their places, and the others."""

    others: _Excess
    left_out: _Excess
    places: np.ndarray


def _tastes(excess: _Excess, places: Sides[np.ndarray], share: Share) -> _Tastes:
    """By users who are left out in turns.

    By the places of users, each fold has as many of every number of choices.
    """
    n_users, n_items = map(len, places)
    turns = _turns(excess, places.user, share)
    n_most = int(np.clip(TABLE_SIZE // n_items, MIN_FACTORS, MAX_FACTORS))
    n_factors = min(FIRST_FACTORS, n_most)
    while True:
        size = min(n_factors + OVERSAMPLING, n_items, n_users)
        normal = np.random.RandomState(0).standard_normal((n_items, size))
        start = normal.astype(np.float32)[places.item]
        bases = [_eigenvectors(t.others, start, share)[1] for t in turns]
        sums, energy = np.zeros((3, size)), 0.0
        for turn, basis in zip(turns, bases, strict=True):
            sums[:, : basis.shape[1]] += turn.left_out.explained(basis, share)
            energy += turn.left_out.energy(share)
        shrinkage = np.trim_zeros(_shrinkage(sums, energy)[:n_factors], "b")
        if len(shrinkage) < n_factors or n_factors == n_most:
            break
        n_factors = n_most
    bases = [basis[:, : len(shrinkage) + OVERSAMPLING] for basis in bases]
    weight = 1.0
    if len(shrinkage):
        weight = _taste_weight(_gains(turns, bases, shrinkage, places), share)
    # Eigenvectors without a fifth of the users are near those of all.
    return _Tastes(shrinkage, weight, bases[0] if bases else start)


def _turns(excess: _Excess, places: np.ndarray, share: Share) -> list[_Turn]:
    """Folds of users by their places; more than one where these are few."""
    n_users = len(places)
    places = places[share.rows(n_users)]
    n_turns = min(N_FOLDS, math.ceil(MIN_LEFT_OUT * N_FOLDS / n_users), n_users)
    turns = []
    for turn in range(n_turns if n_users > 1 else 0):
        is_out = places % N_FOLDS == turn
        others, left_out = excess.without(is_out, share)
        turns.append(_Turn(others, left_out, places[is_out]))
    return turns


def _gains(
    turns: list[_Turn],
    bases: list[np.ndarray],
    shrinkage: np.ndarray,
    places: Sides[np.ndarray],
) -> np.ndarray:
    """Gains of hidden choices of users left out, by each taste weight.

    So many users are asked, evenly by their places, and so many choices of each, that
    the scores are few.
    """
    n_users, n_items = map(len, places)
    n_hidden = int(np.clip(MAX_SCORES // n_items, MIN_HIDDEN, MAX_HIDDEN))
    n_left_out = n_users * len(turns) / N_FOLDS
    step = math.ceil(n_left_out / n_hidden)
    is_taste = shrinkage > 0
    gains = []
    for turn, basis in zip(turns, bases, strict=True):
        is_asked = turn.places // N_FOLDS % step == 0
        kept = is_taste[: basis.shape[1]]
        gains.append(
            turn.left_out.of_rows(is_asked).gains_of_hidden(
                basis[:, : len(kept)][:, kept],
                shrinkage[: len(kept)][kept],
                Sides(hashed(turn.places[is_asked]), hashed(places.item)),
                math.ceil(n_hidden * step / n_left_out),
            )
        )
    return np.concatenate(gains)


def _shrinkage(sums: np.ndarray, energy: float) -> np.ndarray:
    """Factors of eigenvectors, by sums of what is explained along each.

    The rest of the energy, along no eigenvector that explains anything, has the factor
    that is left for it, below zero, since the sum over all directions is zero. Factors
    are made zero there: B + c (I − B) predicts as B does without its diagonal.
    """
    size = sums.shape[1]
    ends = [0, 1]
    while ends[-1] < size:
        ends.append(min(math.ceil(ends[-1] * GROUP_GROWTH), size))
    explained, variance, total = np.add.reduceat(sums, ends[:-1], axis=1)
    explained -= N_DEVIATIONS * np.sqrt(variance)
    is_taste = explained > 0
    rest = max(energy - total[is_taste].sum(), TINY)
    least = -explained[is_taste].sum() / rest
    factors = explained / np.maximum(total, TINY)
    factors = ((factors - least) / (1 - least)).clip(0, 1)
    factors[factors < LEAST_SHRINKAGE] = 0
    return np.repeat(factors, np.diff(ends)).astype(np.float32)


def _taste_weight(gains: np.ndarray, share: Share) -> float:
    """The weight of tastes by which hidden choices of users gain most.

    One other than 1 has to gain more than chance may give.
    """
    gains = gains - gains[:, TASTE_WEIGHTS == 1]
    n = max(share.sum(len(gains)), 1)
    mean = share.sum(gains.sum(axis=0)) / n
    variance = share.sum(np.square(gains).sum(axis=0)) / n - np.square(mean)
    error = np.sqrt(variance.clip(0) / n)
    mean -= N_DEVIATIONS * error
    best = np.argmax(mean)
    return float(TASTE_WEIGHTS[best]) if mean[best] > 0 else 1.0


def _ranks(tastes: np.ndarray, lag: np.ndarray) -> np.ndarray:
    """Rank of each row among columns whose tastes exceed the lag, by taste weight."""
    ranks = np.empty((len(tastes), len(TASTE_WEIGHTS)))
    weighted, is_before = np.empty_like(tastes), np.empty(tastes.shape, dtype=bool)
    for column, weight in enumerate(TASTE_WEIGHTS.tolist()):
        np.multiply(tastes, weight, out=weighted)
        np.greater(weighted, lag, out=is_before)
        # As numbers, which numpy counts several times as fast as truth values.
        ranks[:, column] = is_before.view(np.uint8).sum(axis=1, dtype=np.uint32)
    return 1 + ranks


def _output_scale(
    V: np.ndarray, shrinkage: np.ndarray, of_item: np.ndarray
) -> np.ndarray:
    """Factor of each item's row of V in scores: back from A, without its own choice."""
    own_share = np.minimum(np.square(V) @ shrinkage, MAX_OWN_SHARE)
    return (1 / (of_item * (1 - own_share))).astype(np.float32)


def _eigenvectors(
    excess: _Excess, basis: np.ndarray, share: Share
) -> tuple[np.ndarray, np.ndarray]:
    """Leading eigenvalues of RᵀR, largest first, and their eigenvectors.

    By block power iteration from a basis (Halko et al., 2011), or from RᵀR itself where
    that is small, or where they are not few among all.
    """
    size = basis.shape[1]
    if len(basis) <= MAX_ITEMS_PER_FACTOR * max(size, FIRST_FACTORS):
        values, V = _decomposed(torch.from_numpy(excess.square(share)))
        return values[:size], np.ascontiguousarray(V[:, :size])
    for _ in range(N_PASSES - 1):
        basis = _orthonormal(excess.projected(excess @ basis, share))
    # The last pass is by half steps, of which the second gives the eigenvectors.
    U = _orthonormal(excess @ basis, share)
    Y = excess.projected(U, share)
    eigenvalues, W = _eigen(Y)
    W /= np.sqrt(eigenvalues.clip(TINY))
    return eigenvalues.astype(np.float32), _product(Y, W.astype(np.float32))


def _orthonormal(Y: np.ndarray, share: Share = ALL_ROWS) -> np.ndarray:
    """An orthonormal basis of the columns of a tall matrix, of the rows of a share."""
    # By YᵀY, since Householder's method takes many times as long, and in double
    # precision, since the condition of YᵀY is the square of that of Y.
    square = share.sum(_square(Y))
    basis = _by_root(Y, square)
    if basis is not None:
        return basis
    squares, W = _decomposed(square)
    least = (len(squares) * np.finfo(Y.dtype).eps) ** 2 * squares[0]
    squares = squares.clip(TINY)
    is_kept = squares >= max(least, TINY)
    is_kept[0] = True
    return _product(Y, (W[:, is_kept] / np.sqrt(squares[is_kept])).astype(Y.dtype))


def _eigen(Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of YᵀY, largest first, and its eigenvectors, in double precision."""
    return _decomposed(_square(Y))


# One thread: these products are short, and numpy's threads wait for each other where
# others compete for the cores.
@torch_threads(1)
def _decomposed(square: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, largest first, and eigenvectors."""
    values, W = torch.linalg.eigh(square)
    return values.flip(0).numpy(), W.flip(1).numpy()


@torch_threads(1)
def _by_root(Y: np.ndarray, square: torch.Tensor) -> np.ndarray | None:
    """An orthonormal basis by a Cholesky root; None where columns are dependent."""
    scale = square.diagonal().clamp(min=torch.finfo(square.dtype).tiny).rsqrt()
    root, failure = torch.linalg.cholesky_ex(scale[:, None] * square * scale)
    if failure or root.diagonal().min() < MIN_PIVOT:
        return None
    # Y R⁻¹ for YᵀY = RᵀR, some thirty times as fast as by eigenvectors.
    one = torch.eye(len(root), dtype=root.dtype)
    inverse = torch.linalg.solve_triangular(root, one, upper=False).T
    return _product(Y, (scale[:, None] * inverse).numpy().astype(Y.dtype))


@torch_threads(1)
def _square(Y: np.ndarray) -> torch.Tensor:
    """YᵀY in double precision."""
    square = torch.zeros(Y.shape[1], Y.shape[1], dtype=torch.float64)
    for block in torch.from_numpy(Y).split(BLOCK_ROWS):
        wide = block.double()
        square.addmm_(wide.T, wide)
    return square


@torch_threads(1)
def _product(Y: np.ndarray, W: np.ndarray) -> np.ndarray:
    return (torch.from_numpy(Y) @ torch.from_numpy(W)).numpy()
