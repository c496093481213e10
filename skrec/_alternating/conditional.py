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

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from .symmetric import cholesky

# Rows are visited in tiles whose packed moments hold about this many numbers, so that
# the work space neither grows with the number of rows nor leaves the processor's cache.
TILE_SIZE = 2**17

# What a few threads can share evenly, and what is not worth sharing.
MIN_TILES, MIN_TILE_ROWS = 4, 512

# From this size of e on, sums over ratings of points are batched matrix products of
# rows of like length, which move fewer bytes than a table of packed moments. Tiles then
# have so many rows at most, and blocks of like length so many ratings.
WIDE_SIZE, MAX_WIDE_ROWS, BLOCK_RATINGS = 48, 512, 2**13

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

    @property
    def is_wide(self) -> bool:
        """Whether sums over ratings of points do without a table of moments."""
        return self.e_size >= WIDE_SIZE

    def tile_rows(self, n_rows: int) -> int:
        """Rows of a tile, so that tables from a certain size on have several."""
        share = max(MIN_TILE_ROWS, -(-n_rows // MIN_TILES))
        if self.is_wide:
            return min(share, MAX_WIDE_ROWS)
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

    def pack_seen(self, matrices: Tensor) -> Tensor:
        """Lower triangles of matrices over e, shape (n_rows, n_packed)."""
        return matrices.flatten(1).index_select(1, self._pack_e)

    def unpack_seen(self, packed: Tensor) -> Tensor:
        """Matrices over e, shape (n_rows, e_size, e_size), from their triangles."""
        matrices = packed.new_zeros(len(packed), self.e_size**2)
        matrices[:, self._pack_e] = packed
        matrices = matrices.view(-1, self.e_size, self.e_size)
        return matrices + matrices.tril(-1).mT

    def seen(self, rows: Tensor) -> Tensor:
        """E[e] of rows, shape (n_rows, e_size)."""
        if not self.biased:
            return rows
        one = rows.new_ones(len(rows), 1)
        return torch.cat([rows[:, :-1], one, rows[:, -1:]], dim=1)

    def moments(
        self,
        e: Tensor,
        scaled: Tensor,
        covariance: Tensor | None,
        scale: Tensor,
        out: Tensor,
    ) -> None:
        """E[e eᵀ] of rows times a scale of each, packed, by E[e] and that scaled.

        `covariance` is that of the rows, packed; points have none.
        """
        outer = scaled[:, :, None] * e[:, None, :]
        torch.index_select(outer.flatten(1), 1, self._pack_e, out=out)
        if covariance is None:
            return
        k = self.n_factors
        head = k * (k + 1) // 2
        parts = [(slice(0, head), slice(0, head))]
        if self.biased:
            parts.append((slice(-k - 2, -2), slice(head, -1)))
            parts.append((slice(-1, None), slice(-1, None)))
        for seen, own in parts:
            out[:, seen].addcmul_(covariance[:, own], scale[:, None])


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
        return F.embedding_bag(
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
    unobserved : Unobserved or None
        Pairs of the rows that count as ratings of 0; None if there are none.
    """

    weight: Tensor
    target: Tensor
    target_square: Tensor
    count: Tensor
    features: tuple = ()
    unobserved: Unobserved | None = None

    @property
    def total_weight(self) -> float:
        """Sum of the weights of all rows."""
        return total(self.count)

    @classmethod
    def from_sorted(
        cls, rows: Tensor, others: Tensor, n_rows: int, weight: Tensor, target: Tensor
    ) -> Ratings:
        """Ratings given in the order of `rows`."""
        offsets = torch.zeros(n_rows + 1, dtype=torch.long, device=rows.device)
        torch.cumsum(torch.bincount(rows, minlength=n_rows), 0, out=offsets[1:])
        below = torch.cat([weight.new_zeros(1).double(), weight.double().cumsum(0)])
        return cls(
            offsets=offsets.int(),
            others=others.int(),
            weight=weight,
            target=target,
            target_square=target.square(),
            count=below[offsets].diff().to(weight.dtype),
        )

    def sum_of_squares(self, points: Tensor) -> Tensor:
        """Σ weight · point pointᵀ over the ratings of every row.

        As `sum` would have it from a table of all such squares, which is slower where
        they are large. The last point is zero.
        """
        size = points.shape[1]
        sums = points.new_empty(len(self), size, size)
        lengths, order = self.lengths.sort(descending=True)
        longest, start = lengths.tolist(), 0
        last = max(len(self.others) - 1, 0)
        root = None if bool((self.weight == 1).all()) else self.weight.sqrt()
        while start < len(order):
            length = max(1, longest[start])
            rows = order[start : start + max(1, BLOCK_RATINGS // length)]
            within = torch.arange(length, device=order.device)
            is_link = (within < self.lengths[rows, None]).flatten()
            links = (self.offsets[rows, None] + within).clamp_(max=last).flatten()
            # Short rows of a block end in links to the point that is zero.
            others = self.others[links].where(is_link, len(points) - 1)
            block = points.index_select(0, others)
            if root is not None:
                block *= root[links][:, None]
            block = block.view(len(rows), length, size)
            sums[rows] = block.mT @ block
            start += len(rows)
        return sums

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
class Shown:
    """What the rows of one side show the other.

    Attributes
    ----------
    seen : Tensor of shape (n_rows, e_size)
        E[e] times the relative precision.
    precision : Tensor of shape (n_rows,)
        The relative precision.
    table : Tensor of shape (n_rows, n_packed) or None
        E[e eᵀ] times the relative precision, packed.
    roots : Tensor of shape (n_rows + 1, e_size) or None
        Instead of it, for wide points: e times the root of the relative precision, and
        a row of zeros.
    """

    seen: Tensor
    precision: Tensor
    table: Tensor | None = None
    roots: Tensor | None = None

    @classmethod
    def by(
        cls,
        mean: Tensor,
        covariance: Tensor | None,
        precision: Tensor,
        layout: Layout,
        tile_map: Callable,
    ) -> Shown:
        """What rows with packed covariance show; points have none."""
        e = layout.seen(mean)
        seen = e * precision[:, None]
        if covariance is None and layout.is_wide:
            roots = F.pad(e * precision.sqrt()[:, None], (0, 0, 0, 1))
            return cls(seen, precision, roots=roots)
        table = mean.new_empty(len(mean), layout.n_packed)
        step = layout.tile_rows(len(mean))

        def visit(start: int) -> None:
            rows = slice(start, start + step)
            spread = None if covariance is None else covariance[rows]
            layout.moments(e[rows], seen[rows], spread, precision[rows], table[rows])

        list(tile_map(visit, range(0, len(table), step)))
        return cls(seen, precision, table=table)

    def total(self, share: Tensor, layout: Layout) -> Tensor:
        """Σ share · E[e eᵀ] over the rows, times the relative precision, packed."""
        if self.table is not None:
            return share @ self.table
        e = self.roots[:-1]
        return layout.pack_seen(((e * share[:, None]).T @ e)[None])[0]


@dataclass(frozen=True)
class Unobserved:
    """Pairs of one side's rows and the other's that count as ratings of 0.

    Attributes
    ----------
    weight : float
        Of each pair, besides the weight of its rating if it has one.
    is_new : Tensor of shape (n_rows,)
        1 for rows that are new, 0 for those whose pairs with known others have counted
        before.
    others_new : Tensor of shape (n_others,)
        The same of the other side's rows.
    background : Tensor of shape (n_packed,)
        Σ E[e eᵀ] · precision of the known others that are not among these.
    n_background : int
        Their number.
    """

    weight: float
    is_new: Tensor
    others_new: Tensor
    background: Tensor
    n_background: int

    @property
    def count(self) -> Tensor:
        """Weight of the pairs of each row."""
        n_new = self.others_new.sum()
        n_known = len(self.others_new) - n_new + self.n_background
        return self.weight * (n_new + self.is_new * n_known)

    def moments(self, shown: Shown, layout: Layout) -> Callable[[slice], Tensor]:
        """Gives the sums over the pairs of rows, packed; one if they are all alike."""
        new = self.weight * shown.total(self.others_new, layout)
        if bool(self.others_new.all()) and self.n_background == 0:
            return lambda rows: new[None]
        known = shown.total(1 - self.others_new, layout) + self.background
        known *= self.weight
        return lambda rows: new + self.is_new[rows, None] * known


@dataclass(frozen=True)
class Sums:
    """The sums G, g and s over the ratings of each row; G may be packed."""

    moments: Tensor
    g: Tensor
    s: Tensor
    layout: Layout

    @classmethod
    def over(
        cls,
        ratings: Ratings,
        shown: Shown,
        layout: Layout,
        unobserved: Tensor | None = None,
    ) -> Sums:
        """Sum over each row's ratings what is shown, and over its unobserved pairs."""
        weight, d = ratings.weight, layout.row_size
        products = ratings.sum(shown.seen, weight * ratings.target)
        squares = ratings.sum(shown.precision[:, None], weight * ratings.target_square)
        squares = squares.squeeze(1)
        if shown.table is None:
            moments = ratings.sum_of_squares(shown.roots)
            if unobserved is not None:
                moments += layout.unpack_seen(unobserved)
            G, along = moments[:, :d, :d], moments[:, -1, :d]
            square = moments[:, -1, -1]
        else:
            moments = ratings.sum(shown.table, weight)
            if unobserved is not None:
                moments += unobserved
            G = moments[:, : layout.n_packed_row]
            along, square = moments[:, -d - 1 : -1], moments[:, -1]
        if not layout.biased:
            return cls(G, products, squares, layout)
        products, offset = products[:, :-1] - along, products[:, -1]
        return cls(G, products, squares - 2 * offset + square, layout)

    @cached_property
    def G(self) -> Tensor:
        """G of each row, shape (n_rows, row_size, row_size)."""
        is_packed = self.moments.ndim == 2
        return self.layout.unpack(self.moments) if is_packed else self.moments

    def precision(self, noise_precision: Tensor, prior_precision: Tensor) -> Tensor:
        """A = βG + Λ of each row."""
        if self.moments.ndim == 2:
            prior = self.layout.pack(prior_precision[None])
            A = torch.addcmul(prior, noise_precision[:, None], self.moments)
            return self.layout.unpack(A)
        return torch.addcmul(
            prior_precision, noise_precision[:, None, None], self.moments
        )


def total(x: Tensor) -> float:
    """Sum of all, in double precision."""
    return float(x.sum(dtype=torch.float64))


def times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """The product of each matrix and its vector."""
    # On small matrices twice as fast as a batched matrix product.
    return (matrices * vectors[:, None, :]).sum(2)


@dataclass(frozen=True)
class Gaussians:
    """N(A⁻¹h, A⁻¹) of each row.

    Attributes
    ----------
    A : Tensor of shape (n_rows, size, size)
    h : Tensor of shape (n_rows, size)
    """

    A: Tensor
    h: Tensor

    def mean(self) -> Tensor:
        """Mean of each row."""
        root = cholesky(self.A)
        return torch.cholesky_solve(self.h[:, :, None], root).squeeze(2)

    def draw(self, normal: Tensor) -> Tensor:
        """A draw of each row by a standard normal one."""
        root = cholesky(self.A)
        half = torch.linalg.solve_triangular(root, self.h[:, :, None], upper=False)
        half += normal[:, :, None]
        return torch.linalg.solve_triangular(root.mT, half, upper=True).squeeze(2)

    def moments(self) -> tuple[Tensor, Tensor, float]:
        """Means, covariances, and the sum of the log determinants of these."""
        if self.A.shape[-1] <= MAX_LAPACK_SIZE:
            root = cholesky(self.A)
            # Symmetric, and the transpose is what is contiguous.
            covariance = torch.cholesky_inverse(root).mT
            log_det = -_log_det(root)
        else:
            root = inverse_root(self.A)
            covariance = root.mT @ root
            log_det = _log_det(root)
        return times(covariance, self.h), covariance, log_det


@dataclass(frozen=True)
class Conditional(Gaussians):
    """Posterior of each row given the other side, under the Λ that rows share.

    Attributes
    ----------
    sums : Sums
        Sums over the ratings of each row.
    noise_precision : Tensor of shape (n_rows,)
        β of each row.
    prior_precision : Tensor of shape (row_size, row_size)
        Λ.
    """

    sums: Sums
    noise_precision: Tensor
    prior_precision: Tensor

    @classmethod
    def given(
        cls,
        sums: Sums,
        noise_precision: Tensor,
        prior_mean: Tensor,
        prior_precision: Tensor,
    ) -> Conditional:
        """Posterior for a prior mean of all rows or one of each."""
        A = sums.precision(noise_precision, prior_precision)
        # Rounding can make a sum of moments indefinite by a few ulps of its size.
        size = len(prior_precision)
        A.diagonal(dim1=1, dim2=2).mul_(1 + 4 * size * torch.finfo(A.dtype).eps)
        h = noise_precision[:, None] * sums.g + prior_mean @ prior_precision
        return cls(A, h, sums, noise_precision, prior_precision)

    def residual(self, rows: Tensor, covariance: Tensor | None) -> Tensor:
        """Expected residual sum of squares of rows.

        They are points, or have the covariance of `moments`.
        """
        # βG = A − Λ, and A times its inverse has the trace of the identity.
        square = (rows * (times(self.A, rows) - rows @ self.prior_precision)).sum(1)
        if covariance is not None:
            prior = self.prior_precision.flatten()
            square += len(self.prior_precision) - covariance.flatten(1) @ prior
        sums = self.sums
        return sums.s - 2 * (rows * sums.g).sum(1) + square / self.noise_precision


def _log_det(roots: Tensor) -> float:
    """Sum of the log determinants of products of triangular roots."""
    return 2 * total(roots.diagonal(dim1=1, dim2=2).log())


def inverse_root(A: Tensor) -> Tensor:
    """L⁻¹ for the Cholesky factors A = LLᵀ of positive definite matrices."""
    size = A.shape[-1]
    if size <= MAX_LAPACK_SIZE:
        identity = torch.eye(size, dtype=A.dtype, device=A.device)
        return torch.linalg.solve_triangular(cholesky(A), identity, upper=False)
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


@dataclass(frozen=True)
class Revised:
    """Posterior of each row where each has a prior of its own.

    With the prior covariance LLᵀ and CCᵀ = I + β LᵀGL, the posterior covariance is RᵀR
    for R = C⁻¹Lᵀ, and no covariance has to be inverted.

    Attributes
    ----------
    sums : Sums
        Sums over the further ratings of each row.
    noise_precision : Tensor of shape (n_rows,)
        β of each row.
    prior_mean : Tensor of shape (n_rows, row_size)
    prior_covariance : Tensor of shape (n_rows, row_size, row_size)
    """

    sums: Sums
    noise_precision: Tensor
    prior_mean: Tensor
    prior_covariance: Tensor

    def moments(self) -> tuple[Tensor, Tensor, float]:
        """Means, covariances, and the sum of the log determinants of these."""
        L, G = cholesky(self.prior_covariance), self.sums.G
        K = self.noise_precision[:, None, None] * (L.mT @ G @ L)
        K.diagonal(dim1=1, dim2=2).add_(1)
        C = cholesky(K)
        R = torch.linalg.solve_triangular(C, L.mT, upper=False)
        covariance = R.mT @ R
        h = self.sums.g - times(G, self.prior_mean)
        h *= self.noise_precision[:, None]
        return (
            self.prior_mean + times(covariance, h),
            covariance,
            _log_det(L) - _log_det(C),
        )

    def residual(self, rows: Tensor, covariance: Tensor | None) -> Tensor:
        """Expected residual sum of squares of rows: points, or with a covariance."""
        residual = self.sums.s - 2 * (rows * self.sums.g).sum(1) + self.squared(rows)
        if covariance is not None:
            residual += (covariance * self.sums.G).sum((1, 2))
        return residual

    def squared(self, rows: Tensor) -> Tensor:
        """Sum of squares of what `rows` add to the predictions."""
        return (rows * times(self.sums.G, rows)).sum(1)


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
