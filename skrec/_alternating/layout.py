"""Layout: places of the coordinates of a row, and tiles that rows are visited in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor

from .._device import in_halves, work_bytes
from .._sparse import ParallelMap
from .symmetric import is_last

# Rows are visited in tiles whose packed moments hold about this many numbers in single
# precision, so that the work space neither grows with the number of rows nor leaves the
# processor's cache.
TILE_SIZE = 2**17

# Tiles that a few threads can share evenly, and rows that are not worth sharing. Of
# narrow rows those are more, whose packed moments hold so many numbers: in smaller
# tiles calls take longer than arithmetic.
MIN_TILES, MIN_TILE_ROWS, MIN_TILE_SIZE = 4, 512, 25_000

# The same of a thread that is alone. Its tiles need not be several, and fewer of them
# are fewer calls.
ALONE_TILE_SIZE = 320_000

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

T = TypeVar("T")


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

    def tile_rows(
        self, n_rows: int, parallel_map: ParallelMap, itemsize: int = 4
    ) -> int:
        """Number of rows of a tile; large tables have several tiles.

        The plain `map` is that of one thread, which has no tiles to share. A number
        takes `itemsize` bytes.
        """
        if self.device.type != "cpu":
            n_numbers = MATRICES_OF_ROW * self.extended_size**2
            return max(1, min(n_rows, self.work_size // n_numbers))
        if len(self.column_parts) > 1:
            return max(1, min(n_rows, TILE_SIZE // self.n_packed))
        size = ALONE_TILE_SIZE if parallel_map is map else TILE_SIZE
        n_tiles = -(-n_rows // max(1, 4 * size // (itemsize * self.n_packed)))
        if parallel_map is not map:
            least = max(MIN_TILE_ROWS, MIN_TILE_SIZE // self.n_packed)
            n_tiles = max(min(MIN_TILES, n_rows // least), n_tiles)
            # An even number, of tiles of the same length.
            n_tiles += n_tiles > 1 and n_tiles % 2
        return max(1, -(-n_rows // max(1, n_tiles)))

    def block_rows(
        self, n_rows: int, parallel_map: ParallelMap, itemsize: int = 4
    ) -> int:
        """Number of rows whose sums over ratings are formed at once.

        More than those of a tile where tables have parts: each of them stays in the
        cache while the ratings of the block are visited.
        """
        if len(self.column_parts) == 1:
            return self.tile_rows(n_rows, parallel_map, itemsize)
        return min(max(MIN_TILE_ROWS, -(-n_rows // MIN_TILES)), MAX_BLOCK_ROWS)

    def pack(self, matrices: Tensor, out: Tensor | None = None) -> Tensor:
        """Lower triangles of matrices over x, shape (n_rows, n_packed_row)."""
        if not is_last(matrices):
            return torch.index_select(matrices.flatten(1), 1, self._pack, out=out)
        entries = matrices.permute(1, 2, 0).flatten(0, 1)
        packed = entries.index_select(0, self._pack).T
        return packed.contiguous() if out is None else out.copy_(packed)

    def unpack(self, packed: Tensor) -> Tensor:
        """Matrices over x, shape (n_rows, row_size, row_size), from their triangles."""
        d = self.row_size
        return packed.index_select(1, self._unpack.flatten()).view(-1, d, d)

    def unpack_last(self, packed: Tensor) -> Tensor:
        """As `unpack`, with the matrices along the last axis (see `is_last`)."""
        d = self.row_size
        entries = packed.T.contiguous().index_select(0, self._unpack.flatten())
        return entries.view(d, d, -1).permute(2, 0, 1)

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
