"""The Gaussian conditional of one side's rows given the other side.

One side of a matrix factorisation is a table of rows x = (p, b): factors and bias. The
other side meets a row as the extended row e = (p, 1, b). With the other side's
e = (q, 1, c) cut into the part z = (q, 1) that x meets and the offset c, the prediction
is x·z + c, and the posterior of a row depends on its ratings through the sums

    G = Σ w E[z zᵀ]     g = Σ w (E[y z] − E[c z])     s = Σ w E[(y − c)²]

alone. It is N(A⁻¹h, A⁻¹) where

    A = β G + Λ         h = β g + Λ m.

m may differ from row to row (see `feature_weights`). With unobserved pairs that count
as ratings of 0, of weight α, G, g and s also have the sums over all of the other side's
rows: α Σ E[z zᵀ], −α Σ E[c z] and α Σ E[c²], the same for every row.

The expected residual sum of squares of the row is s − 2 E[x]·g + ⟨E[x xᵀ], G⟩. Without
biases e is q, and there is no offset.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .._device import in_halves, work_bytes
from .._sparse import ParallelMap
from .ratings import Ratings, UnobservedPairs
from .symmetric import cholesky, covariance_and_log_det, log_det_of_product, times

# Rows are visited in tiles whose packed moments hold about this many numbers, so that
# the work space neither grows with the number of rows nor leaves the processor's cache.
TILE_SIZE = 2**17

# Tiles that a few threads can share evenly, and rows that are not worth sharing. Of
# narrow rows those are more, whose packed moments hold so many numbers: in smaller
# tiles calls take longer than arithmetic.
MIN_TILES, MIN_TILE_ROWS, MIN_TILE_SIZE = 4, 512, 25_000

# The same of a thread that is alone. Its tiles need not be several, and fewer of them
# are fewer calls.
ALONE_TILE_SIZE = 160_000

# From this size of e on, sums over ratings of points are batched matrix products of
# rows of similar length, which move fewer bytes than a table of packed moments.
WIDE_SIZE = 48

# Rows whose sums are formed at once, at most.
MAX_BLOCK_ROWS = 2048

# Matrices of single precision that a row holds at a time, on devices other than the
# CPU: there is no cache to stay in, and a tile is as large as the memory lets it be.
MATRICES_OF_ROW = 10

# Columns of a part of a table of packed moments. Rows of a part are short enough for
# the tables of many rows to stay in the cache while ratings are visited.
MAX_COLUMNS = 128

# Bytes of a table of packed moments beyond which only parts of its columns are held, if
# the sums over its rows take less memory.
MAX_TABLE_BYTES = 3 * 2**26

# Standard errors up to which the mean residual of a row is noise.
MAX_LEVEL_ERROR = 2.0

T = TypeVar("T")

# Means, covariances if there are any, and the sum of the log determinants of these.
Moments = tuple[Tensor, Tensor | None, Tensor | float]


def slices(rows: slice, size: int) -> Iterator[slice]:
    """Consecutive slices of some rows, of so many rows each but the last."""
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))


class Layout:
    """Places of the coordinates of a row in e and in packed symmetric matrices.

    A row x is (p, b) and e is (p, 1, b), or p both where there are no biases. Symmetric
    matrices are packed as their lower triangle, row by row, so that the moments of
    z = (p, 1) are the head of the packed moments of e, and those of the offset their
    tail.
    """

    def __init__(self, n_factors: int, biased: bool, device: torch.device) -> None:
        self.n_factors = n_factors
        self.biased = biased
        self.device = device
        self.row_size = d = n_factors + biased
        self.extended_size = d + biased
        self.n_packed = self.extended_size * (self.extended_size + 1) // 2
        self.n_packed_row = d * (d + 1) // 2

        rows, columns = torch.tril_indices(d, d, device=device)
        self._pack = rows * d + columns
        self._unpack = torch.empty(d, d, dtype=torch.long, device=device)
        self._unpack[rows, columns] = torch.arange(len(rows), device=device)
        self._unpack[columns, rows] = torch.arange(len(rows), device=device)
        size = self.extended_size
        self.triangle = torch.tril_indices(size, size, device=device)
        self._pack_extended = self.triangle[0] * size + self.triangle[1]

    @property
    def is_wide(self) -> bool:
        """Whether sums over ratings of points do without a table of moments."""
        return self.extended_size >= WIDE_SIZE

    @cached_property
    def column_parts(self) -> list[slice]:
        """Parts of the columns of packed moments, whose tables stay in the cache."""
        size, n = self.n_packed, self.n_packed
        if self.device.type == "cpu" and n >= 2 * MAX_COLUMNS:
            size = MAX_COLUMNS
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    @cached_property
    def covariance_places(self) -> Tensor:
        """Place in a packed covariance of each column of moments of e, -1 for none."""
        moments = torch.zeros(1, self.n_packed, dtype=torch.float64)
        numbers = torch.arange(self.n_packed_row, dtype=torch.float64)[None]
        self.add_covariance(moments, numbers + 1, torch.ones(1, dtype=torch.float64))
        return moments[0].long() - 1

    @cached_property
    def work_size(self) -> int:
        """Numbers in single precision that fit into the work space of a device."""
        return work_bytes(self.device) // 4

    def map_tiles(
        self,
        function: Callable[[slice], T],
        rows: slice,
        parallel_map: ParallelMap,
        size: int | None = None,
    ) -> list[T]:
        """Values of a function of consecutive rows, tile by tile.

        A tile has `tile_rows` rows, or a given number. Where memory does not suffice,
        the function is called again for the halves.
        """
        n_rows = rows.stop - rows.start
        tiles = slices(rows, size or self.tile_rows(n_rows, parallel_map))
        parts = parallel_map(lambda tile: list(in_halves(function, tile)), tiles)
        return list(chain.from_iterable(parts))

    def tile_rows(self, n_rows: int, parallel_map: ParallelMap) -> int:
        """Number of rows of a tile; large tables have several tiles.

        The plain `map` is that of one thread, which has no tiles to share.
        """
        if self.device.type != "cpu":
            n_numbers = MATRICES_OF_ROW * self.extended_size**2
            return max(1, min(n_rows, self.work_size // n_numbers))
        if len(self.column_parts) > 1:
            return max(1, min(n_rows, TILE_SIZE // self.n_packed))
        if parallel_map is map:
            return max(1, min(n_rows, ALONE_TILE_SIZE // self.n_packed))
        least = max(MIN_TILE_ROWS, MIN_TILE_SIZE // self.n_packed)
        most = max(1, TILE_SIZE // self.n_packed)
        n_tiles = max(min(MIN_TILES, n_rows // least), -(-n_rows // most))
        # An even number, of tiles of the same length.
        n_tiles += n_tiles > 1 and n_tiles % 2
        return max(1, -(-n_rows // max(1, n_tiles)))

    def block_rows(self, n_rows: int, parallel_map: ParallelMap) -> int:
        """Number of rows whose sums over ratings are formed at once.

        More than those of a tile where tables have parts: each of them stays in the
        cache while the ratings of the block are visited.
        """
        if len(self.column_parts) == 1:
            return self.tile_rows(n_rows, parallel_map)
        return min(max(MIN_TILE_ROWS, -(-n_rows // MIN_TILES)), MAX_BLOCK_ROWS)

    def pack(self, matrices: Tensor, out: Tensor | None = None) -> Tensor:
        """Lower triangles of matrices over x, shape (n_rows, n_packed_row)."""
        return torch.index_select(matrices.flatten(1), 1, self._pack, out=out)

    def unpack(self, packed: Tensor) -> Tensor:
        """Matrices over x, shape (n_rows, row_size, row_size), from their triangles."""
        d = self.row_size
        return packed.index_select(1, self._unpack.flatten()).view(-1, d, d)

    def quadratic_forms(self, packed: Tensor, vectors: Tensor) -> Tensor:
        """vᵀMv of every packed matrix M over x and its vector v."""
        size = self.row_size
        left, right = self._pack // size, self._pack % size
        products = packed * vectors.index_select(1, left)
        products *= vectors.index_select(1, right)
        # Entries off the diagonal are packed once.
        on_diagonal = products.index_select(1, self._unpack.diagonal())
        return 2 * products.sum(1) - on_diagonal.sum(1)

    def pack_extended(self, matrices: Tensor, out: Tensor | None = None) -> Tensor:
        """Lower triangles of matrices over e, shape (n_rows, n_packed)."""
        return torch.index_select(matrices.flatten(1), 1, self._pack_extended, out=out)

    def unpack_extended(self, packed: Tensor) -> Tensor:
        """Matrices over e, shape (n_rows, size of e, size of e)."""
        size = self.extended_size
        matrices = packed.new_zeros(len(packed), size**2)
        matrices[:, self._pack_extended] = packed
        matrices = matrices.view(-1, size, size)
        return matrices + matrices.tril(-1).mT

    def extend(self, rows: Tensor) -> Tensor:
        """E[e] of rows, shape (n_rows, size of e)."""
        if not self.biased:
            return rows
        one = rows.new_ones(len(rows), 1)
        return torch.cat([rows[:, :-1], one, rows[:, -1:]], dim=1)

    def add_covariance(
        self, moments: Tensor, covariance: Tensor, scale: Tensor
    ) -> None:
        """Add packed covariances of rows, times a scale of each, to moments of e."""
        k = self.n_factors
        head = k * (k + 1) // 2
        parts = [(slice(0, head), slice(0, head))]
        if self.biased:
            parts.append((slice(-k - 2, -2), slice(head, -1)))
            parts.append((slice(-1, None), slice(-1, None)))
        for extended, own in parts:
            moments[:, extended].addcmul_(covariance[:, own], scale[:, None])


@dataclass(frozen=True)
class SideMoments:
    """Moments of one side's extended rows, as the other side's conditional needs them.

    Attributes
    ----------
    mean : Tensor of shape (n_rows, size of e)
        E[e] times the relative precision.
    precision : Tensor of shape (n_rows,)
        The relative precision.
    tables : tuple of Tensor of shape (n_rows, n_columns)
        E[e eᵀ] times the relative precision, packed: parts of the columns. Empty for
        points that are wide.
    roots : Tensor of shape (n_rows + 1, size of e) or None
        For points that are wide, e times the root of the relative precision, and a row
        of zeros.
    summed : Tensor of shape (n_others, n_packed) or None
        In place of tables that take more memory, their sums for each other row.
    """

    mean: Tensor
    precision: Tensor
    tables: tuple[Tensor, ...] = ()
    roots: Tensor | None = None
    summed: Tensor | None = None

    @classmethod
    def of(
        cls,
        rows: Tensor,
        covariance: Tensor | None,
        precision: Tensor,
        layout: Layout,
        parallel_map: ParallelMap,
        ratings: Ratings | None = None,
    ) -> SideMoments:
        """Moments of rows with packed covariances, or of points.

        If they need not be known but for their sums over `ratings`, these may be taken.
        """
        extended = layout.extend(rows)
        mean = extended * precision[:, None]
        if covariance is None and layout.is_wide:
            roots = F.pad(extended * precision.sqrt()[:, None], (0, 0, 0, 1))
            return cls(mean, precision, roots=roots)
        if covariance is not None and ratings is not None:
            table_bytes = rows.element_size() * len(rows) * layout.n_packed
            is_large = table_bytes > MAX_TABLE_BYTES and len(rows) > 2 * len(ratings)
            if is_large and layout.device.type == "cpu":
                moments = cls(mean, precision)
                summed = moments._summed_by(
                    ratings, rows, covariance, layout, parallel_map
                )
                return replace(moments, summed=summed)
        parts = layout.column_parts
        tables = tuple(
            rows.new_empty(len(rows), part.stop - part.start) for part in parts
        )

        def write(tile: slice) -> None:
            outer = mean[tile, :, None] * extended[tile, None, :]
            whole = tables[0][tile] if len(tables) == 1 else None
            packed = layout.pack_extended(outer, out=whole)
            if covariance is not None:
                layout.add_covariance(packed, covariance[tile], precision[tile])
            if whole is None:
                for table, part in zip(tables, parts, strict=True):
                    table[tile] = packed[:, part]

        layout.map_tiles(write, slice(0, len(rows)), parallel_map)
        return cls(mean, precision, tables)

    def at(self, rows: slice) -> SideMoments:
        """The same moments, with the sums of some rows of the other side."""
        if self.summed is None:
            return self
        return replace(self, summed=self.summed[rows])

    def summed_over(self, ratings: Ratings) -> SideMoments:
        """The same moments, with the sums over `ratings` for each row of these."""
        return replace(self, summed=self.sums(ratings))

    def _summed_by(
        self,
        ratings: Ratings,
        rows: Tensor,
        covariance: Tensor,
        layout: Layout,
        parallel_map: ParallelMap,
    ) -> Tensor:
        """Packed sums over the ratings of each row, a few columns at a time."""
        n_rows, n_columns = len(rows), layout.n_packed
        summed = rows.new_empty(len(ratings), n_columns)

        def write(tile: slice, columns: Tensor, table: Tensor) -> None:
            place = layout.covariance_places[columns]
            left, right = layout.triangle[:, columns]
            torch.index_select(self.mean[tile], 1, left, out=table[tile])
            table[tile] *= layout.extend(rows[tile]).index_select(1, right)
            own = covariance[tile].index_select(1, place.clamp(min=0))
            own *= place >= 0
            table[tile].addcmul_(own, self.precision[tile, None])

        def add_up(tile: slice, part: slice, table: Tensor) -> None:
            own = ratings.tile(tile)
            summed[tile, part] = own.sum(table, own.weight)

        n_bytes = n_rows * n_columns * rows.element_size()
        n_parts = min(-(-n_bytes // MAX_TABLE_BYTES), n_columns)
        size = -(-n_columns // n_parts)
        space = rows.new_empty(n_rows * size)
        for start in range(0, n_columns, size):
            part = slice(start, min(start + size, n_columns))
            table = space[: n_rows * (part.stop - start)].view(n_rows, -1)
            columns = torch.arange(start, part.stop)
            layout.map_tiles(
                partial(write, columns=columns, table=table),
                slice(0, n_rows),
                parallel_map,
            )
            layout.map_tiles(
                partial(add_up, part=part, table=table),
                ratings.share.rows(len(ratings)),
                parallel_map,
            )
        return summed

    def sums(self, ratings: Ratings) -> Tensor:
        """Σ weight · E[e eᵀ] over the ratings of each row, packed unless of roots."""
        if self.summed is not None:
            return self.summed
        if self.roots is not None:
            return ratings.sum_of_squares(self.roots)
        sums = [ratings.sum(table, ratings.weight) for table in self.tables]
        return sums[0] if len(sums) == 1 else torch.cat(sums, dim=1)

    def total(self, share: Tensor, layout: Layout) -> Tensor:
        """Σ share · E[e eᵀ] over the rows, times the relative precision, packed."""
        if self.roots is None:
            return torch.cat([share @ table for table in self.tables])
        e = self.roots[:-1]
        return layout.pack_extended(((e * share[:, None]).T @ e)[None])[0]


def unobserved_totals(
    pairs: UnobservedPairs | None, moments: SideMoments, layout: Layout
) -> list[tuple[Tensor | None, Tensor]]:
    """Factors of rows and packed Σ E[e eᵀ] over unobserved pairs, to be added up.

    A factor of None is 1 for all rows.
    """
    if pairs is None:
        return []
    new = pairs.weight * moments.total(pairs.is_new_other, layout)
    if bool(pairs.is_new_other.all()) and pairs.n_background == 0:
        return [(None, new)]
    known = moments.total(1 - pairs.is_new_other, layout) + pairs.background
    known *= pairs.weight
    return [(None, new), (pairs.is_new[:, None], known)]


def unobserved_moments(
    pairs: UnobservedPairs | None, moments: SideMoments, layout: Layout
) -> Callable[[slice], Tensor | None]:
    """Function from rows to their sums over unobserved pairs.

    It returns packed Σ E[e eᵀ] of each row, or one for all rows if they are alike; None
    if there are no pairs.
    """
    totals = unobserved_totals(pairs, moments, layout)
    if not totals:
        return lambda rows: None
    (_, new), *rest = totals
    if not rest:
        return lambda rows: new[None]
    ((is_new, known),) = rest
    assert is_new is not None
    return lambda rows: new + is_new[rows] * known


@dataclass(frozen=True)
class Sums:
    """Sums G, g and s over the ratings of each row; `moments` is G, perhaps packed."""

    moments: Tensor
    g: Tensor
    s: Tensor
    layout: Layout

    @classmethod
    def over(
        cls,
        ratings: Ratings,
        others: SideMoments,
        layout: Layout,
        unobserved: Tensor | None = None,
    ) -> Sums:
        """Sums over the ratings of each row, plus those over its unobserved pairs."""
        d = layout.row_size
        first, second = ratings.weighted_targets
        products = ratings.sum(others.mean, first)
        squares = ratings.sum(others.precision[:, None], second).squeeze(1)
        moments = others.sums(ratings)
        if others.roots is not None:
            if unobserved is not None:
                moments += layout.unpack_extended(unobserved)
            G, along = moments[:, :d, :d], moments[:, -1, :d]
            square = moments[:, -1, -1]
        else:
            if unobserved is not None:
                moments += unobserved
            G = moments[:, : layout.n_packed_row]
            along, square = moments[:, -d - 1 : -1], moments[:, -1]
        if not layout.biased:
            return cls(G, products, squares, layout)
        products, offset = products[:, :-1] - along, products[:, -1]
        squares = torch.sub(squares, offset, alpha=2) + square
        return cls(G, products, squares, layout)

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

    @property
    def G_of_bias(self) -> Tensor:
        """Σ w E[z] of each row, the last row of its G; shape (n_rows, row_size)."""
        is_packed = self.moments.ndim == 2
        d = self.layout.row_size
        return self.moments[:, -d:] if is_packed else self.moments[:, -1]

    def squares_of(self, rows: Tensor) -> Tensor:
        """Σ w E[(x·z)²] of each row x."""
        return (rows * times(self.G, rows)).sum(1)

    def residual(self, rows: Tensor, covariance: Tensor | None) -> Tensor:
        """Expected residual sum of squares of rows: points, or with a covariance."""
        residual = self.s - 2 * (rows * self.g).sum(1) + self.squares_of(rows)
        if covariance is not None:
            residual += (covariance * self.G).sum((1, 2))
        return residual


def squares_of_level(
    g_of_bias: Tensor, G_of_bias: Tensor, rows: Tensor, noise_precision: float
) -> Tensor:
    """Part of the residual sum of squares of each row that is no noise.

    Σ w r², with the residuals r of a row, has the part (Σ w r)² / Σ w of their mean.
    That of a row whose prior holds it far from its ratings says nothing of their noise,
    however large it is: only as much counts as noise may bring.
    """
    first = torch.baddbmm(
        g_of_bias[:, None, None], G_of_bias[:, None], rows[:, :, None], alpha=-1
    )
    weight = G_of_bias[:, -1].clamp(min=torch.finfo(rows.dtype).tiny)
    level = first.flatten().square_().div_(weight)
    return F.softshrink(level, MAX_LEVEL_ERROR**2 / noise_precision)


class Gaussians(ABC):
    """A Gaussian distribution of each row."""

    @abstractmethod
    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Means, covariances, and the sum of the log determinants of these."""

    def mean(self) -> Tensor:
        """Mean of each row."""
        return self.moments()[0]

    def draw(self, normal: Tensor) -> Tensor:
        """A draw of each row, by a standard normal one."""
        mean, covariance, _ = self.moments()
        return mean + times(cholesky(covariance), normal)


@dataclass(frozen=True)
class NaturalGaussians(Gaussians):
    """N(A⁻¹h, A⁻¹) of each row, by natural parameters.

    Attributes
    ----------
    A : Tensor of shape (n_rows, size, size)
    h : Tensor of shape (n_rows, size)
    """

    A: Tensor
    h: Tensor

    def mean(self) -> Tensor:
        root = cholesky(self.A)
        return torch.cholesky_solve(self.h[:, :, None], root).squeeze(2)

    def draw(self, normal: Tensor) -> Tensor:
        root = cholesky(self.A)
        half = torch.linalg.solve_triangular(root, self.h[:, :, None], upper=False)
        half += normal[:, :, None]
        return torch.linalg.solve_triangular(root.mT, half, upper=True).squeeze(2)

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        covariance, log_det = covariance_and_log_det(self.A)
        return times(covariance, self.h), covariance, log_det


@dataclass(frozen=True)
class Conditional(NaturalGaussians):
    """Posterior of each row given the other side, where rows share Λ.

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
        """Posterior by a prior mean that rows share, or by one for each row."""
        A = sums.precision(noise_precision, prior_precision)
        # Rounding can make a sum of moments indefinite by a few ulps of its size.
        size = len(prior_precision)
        A.diagonal(dim1=1, dim2=2).mul_(1 + 4 * size * torch.finfo(A.dtype).eps)
        of_prior = prior_mean @ prior_precision
        h = torch.addcmul(of_prior, noise_precision[:, None], sums.g)
        return cls(A, h, sums, noise_precision, prior_precision)

    def residual(self, rows: Tensor, covariance: Tensor | None) -> Tensor:
        """Expected residual sum of squares of rows.

        They are points, or have the covariance of `moments`.
        """
        # βG = A − Λ, and A times its inverse has the trace of the identity.
        Lambda, sums = self.prior_precision, self.sums
        image = torch.addmm(times(self.A, rows), rows, Lambda, alpha=-1)
        square = (rows * image).sum(1)
        if covariance is not None:
            square.addmv_(covariance.flatten(1), Lambda.flatten(), alpha=-1)
            square += len(Lambda)
        squares = torch.sub(sums.s, (rows * sums.g).sum(1), alpha=2)
        return squares.addcdiv_(square, self.noise_precision)


@dataclass(frozen=True)
class UpdatedRows(Gaussians):
    """Posterior of each row after further ratings, where each has its own prior.

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

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        L, G = cholesky(self.prior_covariance), self.sums.G
        K = self.noise_precision[:, None, None] * (L.mT @ G @ L)
        K.diagonal(dim1=1, dim2=2).add_(1)
        C = cholesky(K)
        R = torch.linalg.solve_triangular(C, L.mT, upper=False)
        covariance = R.mT @ R
        h = self.sums.g - times(G, self.prior_mean)
        h *= self.noise_precision[:, None]
        log_det = log_det_of_product(L) - log_det_of_product(C)
        return self.prior_mean + times(covariance, h), covariance, log_det

    def residual(self, rows: Tensor, covariance: Tensor | None) -> Tensor:
        """Expected residual sum of squares of rows: points, or with a covariance."""
        return self.sums.residual(rows, covariance)


def fitted_values(
    ratings: Ratings, rows: Tensor, others: Tensor, layout: Layout
) -> Tensor:
    """Predictions x·z + c of every rating, for points, in the order of `ratings`."""
    if layout.biased:
        one = rows.new_ones(len(rows), 1)
        rows = torch.cat([rows, one], dim=1)
        others = layout.extend(others)
    return ratings.inner_products(rows, others)
