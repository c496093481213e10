"""ItemAutoencoder: a linear autoencoder of who chose which items, with nothing to tune.

It is a ridge regression of choices on choices: with A the matrix of choices, users by
items, each divided by the fourth roots of the numbers of choices of its user and of its
item, and with the leading eigenvectors V and eigenvalues w of AᵀA, the score of user u
and item j is::

    s_uj = Σ_i x_ui B_ij / (1 − B_jj),    B = V diag(w / (w + λ)) Vᵀ

in units of A. The denominator leaves out of a score the choice of the item itself, as
Steck (2019) does by a constraint. If choices were independent, no eigenvalue would be
above (1 + √(n_items / n_users))² times the mean squared norm of a column (Marchenko and
Pastur, 1967). Eigenvectors well below that edge are left out, and λ is twice the edge.

References: Steck (2019). Embarrassingly shallow autoencoders for sparse data. WWW.
Marchenko, Pastur (1967). Distribution of eigenvalues for some sets of random matrices.
Musco, Musco (2015). Randomized block Krylov methods for stronger and faster approximate
singular value decomposition. NeurIPS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy import sparse

from .._data.forgotten import ForgottenRows
from .._data.interactions import FurtherRows, Interactions
from .._data.messages import quote_first
from .._data.seen import SeenItems
from .._data.sides import SideName
from .._interfaces import CHOICES, Iteration, Model, Objective, Solver, Start
from .._share import ALL_ROWS, Share
from .._storage import stored
from .._threads import torch_threads
from .._topk import Fill, inner_products_of_tiles
from .._warn import warn
from .gain import gain_of

# Power of the number of choices that those of a user and of an item are divided by.
DAMPING = 0.25

# Smallest eigenvalue that is kept, and λ, in units of the noise edge.
LEAST_EIGENVALUE, RIDGE = 0.7, 2.0

# Eigenvectors at most: as many as leave this many numbers in the table of items, which
# one list reads as a whole, within these limits.
TABLE_SIZE, MIN_FACTORS, MAX_FACTORS = 2**21, 64, 256

# Blocks of the Krylov space in which eigenvectors are found: columns of one, as a share
# of the eigenvectors at most, and blocks at most. Fewer are enough once their columns
# are this many times the eigenvalues to keep. Few eigenvectors are exact.
BLOCK_SHARE, MIN_BLOCK, MAX_BLOCKS, ENOUGH = 0.25, 16, 6, 4

# Share of a block beyond the space of those before it that may be rounding.
MIN_REST = 1e-4

# Rows of a tall matrix that are squared at once, in double precision.
BLOCK_ROWS = 2**13

# Smallest pivot of a scaled Cholesky root at which columns count as independent.
MIN_PIVOT = 1e-3

# Largest share of an item's own choice in its score.
MAX_OWN_SHARE = 0.98

# Choices of the mean user that are added to those of each.
PRIOR_CHOICES = 1.0


@stored
@dataclass(frozen=True)
class ItemAutoencoder(Model):
    """A fitted linear autoencoder.

    Attributes
    ----------
    item_vectors : ndarray of shape (n_items, n_factors), dtype float32
        Their inner products with vectors of users are scores.
    input_scale : ndarray of shape (n_items,), dtype float32
        Factor that turns an item's vector into the share of its choice in a user's.
    shrinkage, eigenvalues : ndarray of shape (n_factors,), dtype float32
        w / (w + λ), and w.
    mean_choice : ndarray of shape (n_factors,), dtype float32
        Mean share of a choice.
    new_item : ndarray of shape (n_factors,), dtype float32
        Mean vector of the items with the fewest choices, for an item with none.
    seen : SeenItems
        The choices of each user.
    """

    item_vectors: np.ndarray
    input_scale: np.ndarray
    shrinkage: np.ndarray
    eigenvalues: np.ndarray
    mean_choice: np.ndarray
    new_item: np.ndarray
    seen: SeenItems
    objective: Objective = CHOICES
    rating_range: tuple[float, float] = (-np.inf, np.inf)

    @classmethod
    def fit(cls, data: Interactions) -> ItemAutoencoder:
        """Fit to all pairs of the rows, each by the gain of its mean rating."""
        (n_users, n_items), seen, share = data.shape, data.seen, data.shares.user
        n_choices = np.bincount(seen.items, minlength=n_items)
        of_item = n_choices**-DAMPING
        # Choices of the users of this process.
        own = share.rows(n_users)
        offsets = seen.offsets[own.start : own.stop + 1]
        items = seen.items[offsets[0] : offsets[-1]]
        lengths = np.diff(offsets)
        strength = _mean_gain(data)
        strength /= share.sum(float(strength.sum())) / len(seen)
        strength *= np.repeat(lengths**-DAMPING, lengths)
        strength *= of_item[items]
        strength = strength.astype(np.float32)
        shape = len(lengths), n_items
        A = sparse.csr_array((strength, items, offsets - offsets[0]), shape)
        mean_square = share.sum(float(A.data @ A.data)) / n_items
        edge = (1 + math.sqrt(n_items / n_users)) ** 2 * mean_square
        most = min(n_users, n_items)
        eigenvalues, V = _leading_eigenvectors(A, LEAST_EIGENVALUE * edge, most, share)
        shrinkage = eigenvalues / (eigenvalues + RIDGE * edge)
        scale = _output_scale(V, shrinkage, n_choices)
        item_vectors = V * scale[:, None]
        input_scale = (of_item / scale).astype(np.float32)
        shares = (n_choices / len(seen)).astype(np.float32)
        return cls(
            item_vectors=item_vectors,
            input_scale=input_scale,
            shrinkage=shrinkage,
            eigenvalues=eigenvalues,
            mean_choice=(input_scale * shares) @ item_vectors,
            new_item=item_vectors[n_choices == n_choices.min()].mean(axis=0),
            seen=seen,
        )

    def user_vectors(self, users: np.ndarray) -> np.ndarray:
        """Vectors of numbered users; that of an unknown one is that of the mean."""
        return (self._inputs(users) + PRIOR_CHOICES * self.mean_choice) * self.shrinkage

    def _inputs(self, users: np.ndarray) -> np.ndarray:
        """Sums of the shares of all choices of users."""
        position, _, items = self.seen.of_users(users)
        offsets = np.searchsorted(position, np.arange(len(users) + 1))
        shape = len(users), len(self.item_vectors)
        choices = sparse.csr_array((self.input_scale[items], items, offsets), shape)
        return choices @ self.item_vectors

    def contributions(
        self, user: int, items: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Items of a user, and their shares in scores of known items.

        Shares are of shape (n_items, n_seen + 1); the last is that of the mean user.
        """
        _, _, seen = self.seen.of_users(np.array([user]))
        inputs = self.input_scale[seen, None] * self.item_vectors[seen]
        inputs = np.vstack([inputs, PRIOR_CHOICES * self.mean_choice])
        return seen, self.item_vectors[items] @ (inputs * self.shrinkage).T

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
        return (
            self.user_vectors(rows) if side == "user" else self.vectors_of_items(rows)
        )

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
            vectors = self.item_vectors * root
        else:
            vectors = self._inputs(np.arange(self.seen.n_users)) * root
        lengths = np.linalg.norm(vectors, axis=1)
        lengths[lengths == 0] = np.inf
        return vectors, lengths

    def without(self, forgotten: ForgottenRows) -> ItemAutoencoder:
        items = forgotten.kept.item
        return replace(
            self,
            item_vectors=self.item_vectors[items],
            input_scale=self.input_scale[items],
            seen=forgotten.seen_after,
        )

    def updated(self, further: FurtherRows) -> ItemAutoencoder:
        """With further choices; a new item is where those who chose it put it."""
        items = further.growths.item
        model = replace(
            self,
            item_vectors=items.inserted(self.item_vectors),
            input_scale=items.inserted(self.input_scale),
            seen=further.seen_after,
        )
        new = items.given[items.is_new]
        if not len(new):
            return model
        position, users, _ = model.seen.of_items(new)
        distinct, place = np.unique(users, return_inverse=True)
        inputs = model._inputs(distinct)
        inputs *= np.diff(model.seen.offsets)[distinct, None] ** (-2 * DAMPING)
        shape = len(new), len(distinct)
        chosen_by = sparse.csr_array((np.ones(len(users)), (position, place)), shape)
        n_choices = np.bincount(position, minlength=len(new))
        V = (chosen_by @ inputs) / self.eigenvalues
        V *= n_choices[:, None] ** -DAMPING
        scale = _output_scale(V, self.shrinkage, n_choices)
        model.item_vectors[new] = V * scale[:, None]
        model.input_scale[new] = n_choices**-DAMPING / scale
        return model


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
                "Side features tell nothing about choices without y, and are left out. "
                "Pass ratings as y, or set unobserved_weight of MFRegressor."
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
        rest = 1 - float(model.eigenvalues.sum()) / _energy(model)
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


def _mean_gain(data: Interactions) -> np.ndarray:
    """Gain of the mean rating of each pair."""
    gain = gain_of(data.rating, *data.rating_range)
    gain *= data.weight
    starts, weight = data.pair_starts, data.weight
    if starts is not None:
        gain, weight = np.add.reduceat(gain, starts), np.add.reduceat(weight, starts)
    gain /= weight
    return gain


def _energy(model: ItemAutoencoder) -> float:
    """Sum of squares of the damped choices."""
    of_user = np.diff(model.seen.offsets) ** (-2 * DAMPING)
    n_choices = np.bincount(model.seen.items, minlength=model.seen.n_items)
    users, items = model.seen.take(np.arange(len(model.seen)))
    return float(of_user[users] @ n_choices[items] ** (-2 * DAMPING))


def _output_scale(
    V: np.ndarray, shrinkage: np.ndarray, n_choices: np.ndarray
) -> np.ndarray:
    """Factor of each item's row of V in scores: back from A, without its own choice."""
    own_share = np.minimum(np.square(V) @ shrinkage, MAX_OWN_SHARE)
    return (n_choices**DAMPING / (1 - own_share)).astype(np.float32)


def _leading_eigenvectors(
    A: sparse.csr_array, least: float, most: int, share: Share = ALL_ROWS
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of AᵀA from `least` on, largest first, and their eigenvectors.

    By a block Krylov method from random vectors (Musco and Musco, 2015), at least one
    and `most` at most. A has the rows of a share.
    """
    n_items = A.shape[1]
    n_factors = int(np.clip(TABLE_SIZE // n_items, MIN_FACTORS, MAX_FACTORS))
    n_factors = min(n_factors, most)
    n_columns = min(max(math.ceil(BLOCK_SHARE * n_factors), MIN_BLOCK), most)
    At = A.T.tocsr()
    rng = np.random.RandomState(0)

    def drawn(n_columns: int) -> np.ndarray:
        return rng.standard_normal((n_items, n_columns)).astype(np.float32)

    image = A @ drawn(n_columns)
    Q, AQ = np.empty((n_items, 0), np.float32), image[:, :0]
    square = torch.zeros(0, 0, dtype=torch.float64)
    for _ in range(MAX_BLOCKS):
        rest = min(n_columns, most - len(square))
        block = _new_directions(share.sum(At @ image)[:, :rest], Q)
        if block is None:
            # More eigenvalues may be equal than a block has columns.
            block = _new_directions(drawn(rest), Q)
        if block is None:
            break
        image = A @ block
        Q, AQ = np.hstack([Q, block]), np.hstack([AQ, image])
        square = _with_columns(square, share.sum(_product(AQ.T, image)))
        if len(square) == most or _has_enough(square, least):
            break
    eigenvalues, W = _eigen(square)
    n_kept = max(1, int((eigenvalues[:n_factors] >= least).sum()))
    W = W[:, :n_kept].astype(np.float32)
    return eigenvalues[:n_kept].astype(np.float32), _product(Q, W)


def _new_directions(block: np.ndarray, Q: np.ndarray) -> np.ndarray | None:
    """An orthonormal basis of columns beyond those of Q; None if there are none."""
    # Once is not enough in single precision.
    for _ in range(2):
        length = np.linalg.norm(block)
        block = block - _product(Q, _product(Q.T, block))
        if np.linalg.norm(block) <= MIN_REST * length:
            return None
        block = _orthonormal(block)
    return block


def _with_columns(square: torch.Tensor, columns: np.ndarray) -> torch.Tensor:
    """A symmetric matrix with further columns, and rows."""
    new = torch.from_numpy(columns).double()
    top = torch.cat([square, new[: len(square)].T])
    return torch.cat([top, new], 1)


@torch_threads(1)
def _has_enough(square: torch.Tensor, least: float) -> bool:
    """Whether a Krylov space is large enough for the eigenvalues from `least` on."""
    n_kept = int((torch.linalg.eigvalsh(square) >= least).sum())
    return len(square) >= ENOUGH * max(n_kept, MIN_BLOCK)


def _orthonormal(Y: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the columns of a tall matrix."""
    # By YᵀY, since Householder's method takes many times as long, and in double
    # precision, since the condition of YᵀY is the square of that of Y.
    basis = _by_root(Y)
    if basis is not None:
        return basis
    squares, W = _eigen(_square(Y))
    least = (len(squares) * np.finfo(Y.dtype).eps) ** 2 * squares[0]
    is_kept = squares >= max(least, np.finfo(Y.dtype).tiny)
    is_kept[0] = True
    return _product(Y, (W[:, is_kept] / np.sqrt(squares[is_kept])).astype(Y.dtype))


# One thread: these products are short, and numpy's threads wait for each other where
# others compete for the cores.
@torch_threads(1)
def _eigen(square: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of a symmetric matrix, largest first, and its eigenvectors."""
    values, W = torch.linalg.eigh(square)
    return values.flip(0).numpy(), W.flip(1).numpy()


@torch_threads(1)
def _by_root(Y: np.ndarray) -> np.ndarray | None:
    """An orthonormal basis by a Cholesky root; None where columns are dependent."""
    square = _square(Y)
    scale = square.diagonal().clamp(min=torch.finfo(square.dtype).tiny).rsqrt()
    root, failure = torch.linalg.cholesky_ex(scale[:, None] * square * scale)
    if failure or root.diagonal().min() < MIN_PIVOT:
        return None
    # Y R⁻¹ for YᵀY = RᵀR, some thirty times as fast as by eigenvectors.
    one = torch.eye(len(root), dtype=root.dtype)
    inverse = torch.linalg.solve_triangular(root, one, upper=False).T
    return _product(Y, (scale[:, None] * inverse).numpy().astype(Y.dtype))


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
