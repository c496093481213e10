"""The Gaussian conditional of one side's rows given the other side.

One side of a matrix factorisation is a table of rows x = (p, b): factors and bias.
Seen from the other side, a row is e = (p, 1, b). With the other's e = (q, 1, c) cut
into the part z = (q, 1) that x meets and the offset c, the prediction is x·z + c, and
everything that a row's posterior needs of its ratings are sums over them,

    G = Σ w E[z zᵀ]     g = Σ w (E[y z] − E[c z])     s = Σ w E[(y − c)²],

and the posterior of x is N(A⁻¹h, A⁻¹) where

    A = β G + Λ         h = β g + Λ m.

m may differ from row to row (see `_features`). With unobserved pairs that count as
ratings of 0, of weight α, G, g and s also have the sums over all of the other side's
rows: α Σ E[z zᵀ], −α Σ E[c z] and α Σ E[c²], the same for every row.

The expected residual sum of squares of the row is s − 2 E[x]·g + ⟨E[x xᵀ], G⟩. Without
biases e is q, and there is no offset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

# Rows are visited in tiles whose packed moments hold about this many numbers, so that
# the work space neither grows with the number of rows nor leaves the processor's cache.
TILE_SIZE = 2**17

# What a few threads can share evenly, and what is not worth sharing.
MIN_TILES, MIN_TILE_ROWS = 4, 512

# Matrices of more rows than this are taken apart before LAPACK has them.
MAX_LAPACK_SIZE = 24


class Layout:
    """Where the coordinates of a row stand in e and in packed symmetric matrices.

    A row x is (p, b) and e is (p, 1, b), or p both where there are no biases. Symmetric
    matrices are packed as their lower triangle, row by row, so that the moments of
    z = (p, 1) are the head of the packed moments of e, and those of the offset their
    tail.
    """

    def __init__(self, n_factors: int, biased: bool, device: torch.device) -> None:
        self.n_factors = n_factors
        self.biased = biased
        self.row_size = d = n_factors + biased
        self.e_size = d + biased
        self.n_packed = self.e_size * (self.e_size + 1) // 2
        self.n_packed_row = d * (d + 1) // 2

        rows, columns = torch.tril_indices(d, d, device=device)
        self._pack = rows * d + columns
        self._unpack = torch.empty(d, d, dtype=torch.long, device=device)
        self._unpack[rows, columns] = torch.arange(len(rows), device=device)
        self._unpack[columns, rows] = torch.arange(len(rows), device=device)
        rows, columns = torch.tril_indices(self.e_size, self.e_size, device=device)
        self._pack_e = rows * self.e_size + columns

    def tile_rows(self, n_rows: int) -> int:
        """Rows of a tile, so that tables from a certain size on have several."""
        share = max(MIN_TILE_ROWS, -(-n_rows // MIN_TILES))
        return max(1, min(share, TILE_SIZE // self.n_packed))

    def pack(self, matrices: Tensor) -> Tensor:
        """Lower triangles of matrices over x, shape (n_rows, n_packed_row)."""
        return matrices.flatten(1).index_select(1, self._pack)

    def pack_dual(self, matrix: Tensor) -> Tensor:
        """What a packed symmetric matrix meets in the trace of its product with this.

        Entries off the diagonal, which stand once, count twice.
        """
        return self.pack((2 * matrix - matrix.diagonal().diag())[None])[0]

    def unpack(self, packed: Tensor) -> Tensor:
        """Matrices over x, shape (n_rows, row_size, row_size), from their triangles."""
        d = self.row_size
        return packed.index_select(1, self._unpack.flatten()).view(-1, d, d)

    def seen(self, rows: Tensor) -> Tensor:
        """E[e] of rows, shape (n_rows, e_size)."""
        if not self.biased:
            return rows
        one = rows.new_ones(len(rows), 1)
        return torch.cat([rows[:, :-1], one, rows[:, -1:]], dim=1)

    def moments(self, rows: Tensor, covariance: Tensor | None) -> Tensor:
        """E[e eᵀ] of rows with packed covariance, packed; a point has no covariance."""
        e = self.seen(rows)
        packed = (
            (e[:, :, None] * e[:, None, :]).flatten(1).index_select(1, self._pack_e)
        )
        if covariance is not None:
            k = self.n_factors
            head = k * (k + 1) // 2
            packed[:, :head] += covariance[:, :head]
            if self.biased:
                packed[:, -k - 2 : -2] += covariance[:, head:-1]
                packed[:, -1] += covariance[:, -1]
        return packed


@dataclass(frozen=True)
class Links:
    """Which others each row meets, in compressed sparse rows.

    Attributes
    ----------
    offsets : Tensor of shape (n_rows + 1,)
        Where each row's links begin.
    others : Tensor of shape (n_links,)
        The row of another table that each link leads to.
    """

    offsets: Tensor
    others: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Number of links of each row."""
        return self.offsets.diff()

    def sum(self, table: Tensor, weight: Tensor) -> Tensor:
        """Σ weight · table[other] over the links of every row."""
        # A sparse matrix product in effect. As an embedding bag it is fast without
        # MKL, runs on every device, and is no beta feature.
        return embedding_bag(
            self.others,
            table,
            self.offsets,
            mode="sum",
            per_sample_weights=weight,
            include_last_offset=True,
        )


@dataclass(frozen=True)
class Ratings(Links):
    """The ratings as the rows of one side see them.

    Attributes
    ----------
    weight, target, target_square : Tensor of shape (n_ratings,)
        Weight of each rating, E[y] and E[y²].
    count : Tensor of shape (n_rows,)
        Sum of the weights of each row, unobserved pairs among them.
    features : tuple of Block
        What is known of the rows besides.
    """

    weight: Tensor
    target: Tensor
    target_square: Tensor
    count: Tensor
    features: tuple = ()

    @classmethod
    def from_sorted(
        cls, rows: Tensor, others: Tensor, n_rows: int, weight: Tensor, target: Tensor
    ) -> Ratings:
        """Ratings given in the order of `rows`."""
        offsets = torch.zeros(n_rows + 1, dtype=torch.long, device=rows.device)
        torch.cumsum(torch.bincount(rows, minlength=n_rows), 0, out=offsets[1:])
        total = torch.cat([weight.new_zeros(1).double(), weight.double().cumsum(0)])
        return cls(
            offsets=offsets.int(),
            others=others.int(),
            weight=weight,
            target=target,
            target_square=target.square(),
            count=total[offsets].diff().to(weight.dtype),
        )

    def tiles(self, size: int) -> Iterator[tuple[slice, Ratings]]:
        """The same ratings, `size` rows at a time."""
        bounds = self.offsets[::size].tolist()
        bounds.append(int(self.offsets[-1]))
        for tile, (start, stop) in enumerate(pairwise(bounds)):
            rows = slice(tile * size, min((tile + 1) * size, len(self)))
            if rows.start < rows.stop:
                yield (
                    rows,
                    Ratings(
                        self.offsets[rows.start : rows.stop + 1] - start,
                        self.others[start:stop],
                        self.weight[start:stop],
                        self.target[start:stop],
                        self.target_square[start:stop],
                        self.count[rows],
                    ),
                )


@dataclass(frozen=True)
class Sums:
    """The sums G, g and s over the ratings of each row."""

    G: Tensor
    g: Tensor
    s: Tensor

    @classmethod
    def over(
        cls,
        ratings: Ratings,
        moments: Tensor,
        seen: Tensor,
        precision: Tensor,
        layout: Layout,
        everywhere: Tensor | float = 0.0,
    ) -> Sums:
        """Sum over each row's ratings what the other side's rows show of themselves.

        `moments` is E[e eᵀ], packed, and `seen` is E[e], both times the relative
        `precision` of the row. `everywhere` is α times the sum of `moments`.
        """
        moments = ratings.sum(moments, ratings.weight) + everywhere
        products = ratings.sum(seen, ratings.weight * ratings.target)
        squares = ratings.weight * ratings.target_square
        squares = ratings.sum(precision[:, None], squares).squeeze(1)
        d = layout.row_size
        if not layout.biased:
            return cls(layout.unpack(moments), products, squares)
        return cls(
            G=layout.unpack(moments[:, : layout.n_packed_row]),
            g=products[:, :-1] - moments[:, -d - 1 : -1],
            s=squares - 2 * products[:, -1] + moments[:, -1],
        )

    def squared(self, rows: Tensor) -> Tensor:
        """Sum of squares of what `rows` add to the predictions."""
        return (rows * times(self.G, rows)).sum(1)

    def residual(self, rows: Tensor, covariance: Tensor | None) -> Tensor:
        """Expected residual sum of squares of rows with full covariances."""
        residual = self.s - 2 * (rows * self.g).sum(1) + self.squared(rows)
        if covariance is not None:
            residual += (covariance * self.G).sum((1, 2))
        return residual


def total(x: Tensor) -> float:
    """Sum of all, in double precision."""
    return float(x.sum(dtype=torch.float64))


def times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """The product of each matrix and its vector."""
    # On small matrices twice as fast as a batched matrix product.
    return (matrices * vectors[:, None, :]).sum(2)


def conditional(
    sums: Sums,
    noise_precision: Tensor,
    prior_mean: Tensor,
    prior_precision: Tensor,
) -> tuple[Tensor, Tensor]:
    """Posterior of each row given the other side.

    Parameters
    ----------
    sums : Sums
        Sums over the ratings of each row.
    noise_precision : Tensor of shape (n_rows,)
        β of each row.
    prior_mean : Tensor of shape (row_size,) or (n_rows, row_size)
        m.
    prior_precision : Tensor of shape (row_size, row_size)
        Λ.

    Returns
    -------
    mean : Tensor of shape (n_rows, row_size)
        A⁻¹h.
    factor : Tensor of shape (n_rows, row_size, row_size)
        R = L⁻¹ for the Cholesky factor A = LLᵀ, so that A⁻¹ = RᵀR.
    """
    A = noise_precision[:, None, None] * sums.G
    A += prior_precision
    # Rounding can make a sum of moments indefinite by a few ulps of its size.
    size = len(prior_precision)
    A.diagonal(dim1=1, dim2=2).mul_(1 + 4 * size * torch.finfo(A.dtype).eps)
    h = noise_precision[:, None] * sums.g + prior_mean @ prior_precision
    factor = inverse_root(A)
    return times(factor.mT, times(factor, h)), factor


def inverse_root(A: Tensor) -> Tensor:
    """L⁻¹ for the Cholesky factors A = LLᵀ of positive definite matrices."""
    size = A.shape[-1]
    if size <= MAX_LAPACK_SIZE:
        identity = torch.eye(size, dtype=A.dtype, device=A.device)
        return torch.linalg.solve_triangular(
            torch.linalg.cholesky(A), identity, upper=False
        )
    # By halves, since LAPACK is slow on matrices of this size one by one, and batched
    # matrix products are not.
    half = size // 2
    head = inverse_root(A[:, :half, :half])
    below = A[:, half:, :half] @ head.mT
    tail = inverse_root(torch.baddbmm(A[:, half:, half:], below, below.mT, alpha=-1))
    root = torch.zeros_like(A)
    root[:, :half, :half] = head
    root[:, half:, half:] = tail
    torch.neg(tail @ (below @ head), out=root[:, half:, :half])
    return root


def updated(
    sums: Sums, noise_precision: Tensor, prior_mean: Tensor, prior_covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """Posterior of each row where each has a prior of its own.

    With the prior covariance LLᵀ and CCᵀ = I + β LᵀGL, the posterior covariance is RᵀR
    for R = C⁻¹Lᵀ, and no covariance has to be inverted.

    Parameters
    ----------
    sums : Sums
        Sums over the further ratings of each row.
    noise_precision : Tensor of shape (n_rows,)
        β of each row.
    prior_mean : Tensor of shape (n_rows, row_size)
    prior_covariance : Tensor of shape (n_rows, row_size, row_size)

    Returns
    -------
    mean : Tensor of shape (n_rows, row_size)
    factor : Tensor of shape (n_rows, row_size, row_size)
        R.
    """
    L = torch.linalg.cholesky(prior_covariance)
    K = noise_precision[:, None, None] * (L.mT @ sums.G @ L)
    K.diagonal(dim1=1, dim2=2).add_(1)
    factor = torch.linalg.solve_triangular(torch.linalg.cholesky(K), L.mT, upper=False)
    h = noise_precision[:, None] * (sums.g - times(sums.G, prior_mean))
    return prior_mean + times(factor.mT, times(factor, h)), factor


def fitted_values(
    ratings: Ratings, rows: Tensor, others: Tensor, layout: Layout
) -> Tensor:
    """Predictions x·z + c of every rating, for points, in the order of `ratings`."""
    if layout.biased:
        one = rows.new_ones(len(rows), 1)
        rows = torch.cat([rows, one], dim=1)
        others = layout.seen(others)
    mean_length = len(ratings.others) / len(rows)
    tile_rows = max(1, int(TILE_SIZE / (mean_length * layout.e_size)))
    return torch.cat(
        [
            (
                rows[span].repeat_interleave(tile.lengths, dim=0) * others[tile.others]
            ).sum(1)
            for span, tile in ratings.tiles(tile_rows)
        ]
    )
