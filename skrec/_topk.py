"""The best columns of every row: tiled scores, exclusion, top-k.

Arrays come in and go out, no ids. Ties go to the lower column, so that equal scores
give the same list on every machine and for every tile size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ._device import in_halves, work_bytes

# Bytes of work space, whatever the numbers of rows and columns: on the CPU, and at most
# on a device that has as much.
TILE_BYTES, DEVICE_TILE_BYTES = 2**26, 2**30

# More rows than this at a time do not make a matrix product of the CPU faster.
MAX_TILE_ROWS = 512

# Columns at a time. More of them leave work space for so few rows that a matrix product
# is slow.
MAX_TILE_COLUMNS = 2**17

# Columns of a block. Maxima of blocks are vectorised, and only the blocks with the
# largest ones are searched.
MAX_BLOCK, MAX_DEVICE_BLOCK = 64, 128

# Bytes of a key, its score and its column.
KEY_BYTES = 40

LOW_BITS = 2**32 - 1

# A function of a slice of columns and a tensor, into which it writes their scores.
Fill = Callable[[slice, Tensor], object]


def top_k(
    score: Callable[[slice], Fill],
    n_rows: int,
    n_columns: int,
    k: int,
    excluded: Callable[[slice], tuple[np.ndarray, np.ndarray]] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """The k columns of every row with the largest scores, best first.

    Parameters
    ----------
    score : callable
        Takes a slice of rows to the function that writes their scores.
    n_rows, n_columns, k : int
    excluded : callable, optional
        Takes a slice of rows to (row within it, column) of excluded columns.
    device : device, default="cpu"
        Device of the scores.

    Returns
    -------
    columns : ndarray of shape (n_rows, k), dtype int64
        -1 where a row has fewer than k columns left.
    scores : ndarray of shape (n_rows, k), dtype float32
        -inf there.
    """
    columns = np.full((n_rows, k), -1, dtype=np.int64)
    scores = np.full((n_rows, k), -np.inf, dtype=np.float32)
    k = min(k, n_columns)
    if n_rows == 0 or k == 0:
        return columns, scores
    device = torch.device(device)
    width = min(n_columns, MAX_TILE_COLUMNS)
    block = _block(width, k, device)
    height = min(n_rows, _tile_rows(width, k, block, device))
    # One allocation serves all tiles of the CPU, since memory is slow to get from the
    # system. Other devices keep memory that is freed.
    on_cpu = device.type == "cpu"
    space = torch.empty(height * (width + block)) if on_cpu else None

    def search(rows: slice) -> None:
        fill, best = score(rows), None
        places = None if excluded is None else excluded(rows)
        for first in range(0, n_columns, width):
            some = slice(first, min(first + width, n_columns))
            left_out = None if places is None else _within(places, some, device)
            n_found = rows.stop - rows.start
            if space is None:
                taken = torch.empty(n_found * (width + block), device=device)
            else:
                taken = space
            tile = _tile(fill, n_found, some, left_out, block, taken)
            keys = _best_keys(tile, first, k, block)
            best = keys if best is None else _largest(torch.cat([best, keys], 1), k)
        assert best is not None
        where, found = _decoded(best)
        where = where.masked_fill(found == -torch.inf, -1)
        columns[rows, :k], scores[rows, :k] = where.cpu().numpy(), found.cpu().numpy()

    for start in range(0, n_rows, height):
        for _ in in_halves(search, slice(start, min(start + height, n_rows))):
            pass
    return columns, scores


def inner_products(queries: Tensor, vectors: Tensor) -> Fill:
    """Function that writes the inner products of queries and vectors."""
    if len(queries) == 1 and vectors.device.type == "cpu":
        # NumPy reads the vectors as they are, torch brings them in another order first.
        query, rows = queries[0].numpy(), vectors.numpy()
        return lambda columns, out: np.dot(rows[columns], query, out=out[0].numpy())
    return lambda columns, out: torch.mm(queries, vectors[columns].T, out=out)


def inner_products_of_tiles(
    query_vectors: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    vectors: np.ndarray,
    device: torch.device,
) -> Callable[[slice], Fill]:
    """Function from a slice of `rows` to the inner products of their vectors."""
    of_columns = torch.from_numpy(np.require(vectors, requirements="W")).to(device)

    def score(tile: slice) -> Fill:
        queries = torch.from_numpy(query_vectors(rows[tile]))
        return inner_products(queries.to(device), of_columns)

    return score


def _block(n_columns: int, k: int, device: torch.device) -> int:
    """A power of two that keeps both blocks and the columns of k blocks few."""
    largest = MAX_BLOCK if device.type == "cpu" else MAX_DEVICE_BLOCK
    size = min(largest, max(1, 2 * math.sqrt(n_columns / k)))
    return 2 ** int(math.log2(size))


def _tile_rows(width: int, k: int, block: int, device: torch.device) -> int:
    """Number of rows whose scores, and the keys of these, fit into the work space."""
    row_bytes = 4 * (width + block) + KEY_BYTES * (width // block + k * block)
    if device.type == "cpu":
        return min(MAX_TILE_ROWS, max(1, TILE_BYTES // row_bytes))
    return max(1, min(DEVICE_TILE_BYTES, work_bytes(device)) // row_bytes)


def _tile(
    fill: Fill,
    n_rows: int,
    columns: slice,
    left_out: tuple[Tensor, Tensor] | None,
    block: int,
    space: Tensor,
) -> Tensor:
    """Scores of columns, in whole blocks, -inf where excluded."""
    n_columns = columns.stop - columns.start
    width = -(-n_columns // block) * block
    tile = space[: n_rows * width].view(n_rows, width)
    fill(columns, tile[:, :n_columns])
    tile[:, n_columns:] = -torch.inf
    if left_out is not None:
        tile[left_out] = -torch.inf
    return tile


def _within(
    excluded: tuple[np.ndarray, np.ndarray], columns: slice, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Excluded places of a tile of columns."""
    row, column = excluded
    here = (column >= columns.start) & (column < columns.stop)
    row, column = row[here], column[here] - columns.start
    return torch.as_tensor(row).to(device), torch.as_tensor(column).to(device)


def _best_keys(tile: Tensor, first: int, k: int, block: int) -> Tensor:
    """Keys of the k best columns of a tile whose first column has number `first`.

    They are in the k blocks with the largest maxima, ties going to the lower block:
    each of these holds a column that is better than all of any other block, or as good
    and lower.
    """
    n_rows, width = tile.shape
    n_blocks = width // block
    numbers = torch.arange(n_blocks, device=tile.device)
    maxima = tile.view(n_rows, n_blocks, block).amax(2)
    blocks, _ = _decoded(_largest(_keys(maxima, numbers), k))
    rows = torch.arange(n_rows, device=tile.device)[:, None]
    scores = tile.view(-1, block)[(rows * n_blocks + blocks).flatten()]
    within = torch.arange(block, device=tile.device)
    columns = first + blocks[:, :, None] * block + within
    return _largest(_keys(scores.view(n_rows, -1), columns.flatten(1)), k)


def _keys(scores: Tensor, columns: Tensor) -> Tensor:
    """Integers in the order of scores, and for equal scores in reverse of columns."""
    # -0.0 becomes 0.0. Bits of positive floats are in their order, and those of
    # negative floats in reverse.
    bits = (scores + 0.0).view(torch.int32)
    bits = bits ^ (bits >> 31 & 0x7FFFFFFF)
    return bits.long() << 32 | LOW_BITS - columns


def _decoded(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Columns and scores of keys."""
    bits = (keys >> 32).int()
    bits = bits ^ (bits >> 31 & 0x7FFFFFFF)
    return LOW_BITS - (keys & LOW_BITS), bits.view(torch.float32)


def _largest(keys: Tensor, k: int) -> Tensor:
    """The k largest keys of each row, largest first."""
    return keys.topk(min(k, keys.shape[1])).values
