"""Sums over the entries of sparse rows, as a device computes them best."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ._share import ALL_ROWS, Share

# Longest bag on devices other than the CPU, where one thread reads a bag; at least 2,
# so that pieces are fewer than entries.
MAX_BAG = 256

# Numbers of rows that are copied at once.
GATHERED_SIZE = 2**24

# Parts of rows that threads share.
N_PARTS = 16

# Sparse products of CUDA are faster by a sixth where rows of a table are aligned, and
# sampled products of processors by a quarter.
ALIGNED, ALIGNED_SAMPLED = 32, 8

# Bags of processors are faster by a fifth where rows of a table are aligned. They are
# worth a copy if they are wider than that, but no multiple of what a processor adds at
# once, and read so many times each.
ALIGNED_BAG, VECTOR_SIZE, MIN_READS = 16, 8, 32

# `map`, or the one of a pool of threads.
ParallelMap = Callable[..., Iterable[Any]]


class _Order(threading.local):
    is_fixed = False


_order = _Order()


@contextmanager
def fixed_order() -> Iterator[None]:
    """Sums of this thread are in the order of the entries, on every device."""
    before, _order.is_fixed = _order.is_fixed, True
    try:
        yield
    finally:
        _order.is_fixed = before


@dataclass(frozen=True)
class SparseRows:
    """Pattern of a sparse matrix, in compressed sparse rows.

    Attributes
    ----------
    offsets : Tensor of shape (n_rows + 1,)
        Start of each row among the entries.
    others : Tensor of shape (n_entries,)
        Column of each entry: the number of a row of another table.
    parts : dict
        Offsets of parts of the rows, kept once they are computed.
    share : Share
        The rows with entries, where other processes have those of others.
    """

    offsets: Tensor
    others: Tensor
    parts: dict[Any, Any] = field(
        default_factory=dict, kw_only=True, repr=False, compare=False
    )
    share: Share = field(default=ALL_ROWS, kw_only=True)

    @staticmethod
    def of_entries(rows: Tensor, others: Tensor, n_rows: int) -> SparseRows:
        """The pattern of entries that are sorted by row."""
        lengths = torch.bincount(rows, minlength=n_rows)
        offsets = F.pad(lengths.cumsum(0), (1, 0))
        return SparseRows(offsets.int(), others.int())

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Number of entries of each row."""
        return self.offsets.diff()

    def sum(
        self,
        table: Tensor,
        weight: Tensor | None,
        parallel_map: ParallelMap = map,
    ) -> Tensor:
        """Σ weight · table[other] over the entries of every row.

        On the CPU a parallel map shares the rows among its threads.
        """
        sums = self._own_sums(table, weight, parallel_map)
        self.share.complete(sums)
        return sums

    def _own_sums(
        self, table: Tensor, weight: Tensor | None, parallel_map: ParallelMap
    ) -> Tensor:
        device = table.device
        if device.type == "cpu":
            # A sparse matrix product in effect, which is fast without MKL.
            width = table.shape[1]
            if self._gains_by_alignment(table):
                table = F.pad(table, (0, -width % ALIGNED_BAG))
            if parallel_map is map or weight is None:
                sums = _bags(self, table, weight)
            else:
                sums = _bags_of_parts(self, table, weight, parallel_map)
            return sums[:, :width]
        if weight is not None and self._has_product(table):
            return _product(self, table, weight)
        split = self._pieces()
        if split is None:
            return _bags(self, table, weight)
        pieces, of_rows = split
        return of_rows.sum(_bags(pieces, table, weight), None)

    def _gains_by_alignment(self, table: Tensor) -> bool:
        """Whether sums of aligned rows of a table save more than a copy takes."""
        is_odd = table.shape[1] > ALIGNED_BAG and table.shape[1] % VECTOR_SIZE > 0
        is_often_read = len(self.others) >= MIN_READS * len(table)
        is_own = self.share.has_all and table.dtype == torch.float32
        return is_odd and is_often_read and is_own

    def sum_values(self, values: Tensor) -> Tensor:
        """Σ value over the entries of every row, shape (n_rows,)."""
        ones = replace(self, others=torch.zeros_like(self.others))
        return ones.sum(values.new_ones(1, 1), values).squeeze(1)

    def inner_products(self, rows: Tensor, table: Tensor) -> Tensor:
        """row · table[other] of the entries of every row."""
        n_entries = len(self.others)
        if has_sampled_products(table.device):
            # Libraries refuse more entries than places, which repeated entries can be.
            missing = n_entries // max(1, len(rows)) + 1 - len(table)
            if missing > 0:
                table = F.pad(table, (0, 0, 0, missing))
            return sampled_product(self, rows, table)
        row = torch.arange(len(rows), device=rows.device).repeat_interleave(
            self.lengths, output_size=n_entries
        )
        size = max(1, GATHERED_SIZE // max(1, table.shape[1]))
        products = rows.new_empty(n_entries)
        for start in range(0, n_entries, size):
            part = slice(start, start + size)
            gathered = rows.index_select(0, row[part])
            gathered *= table.index_select(0, self.others[part])
            torch.sum(gathered, 1, out=products[part])
        return products

    def _has_product(self, table: Tensor) -> bool:
        """Whether a sparse product may replace bags."""
        if _order.is_fixed or torch.are_deterministic_algorithms_enabled():
            return False
        # Libraries refuse more entries than places, which repeated entries can be.
        n_places = len(self) * len(table)
        return len(self.others) <= n_places and has_sparse_products(table.device)

    def _pieces(self) -> tuple[SparseRows, SparseRows] | None:
        """Rows of at most MAX_BAG entries, and their sums that are those of rows."""
        if "pieces" not in self.parts:
            self.parts["pieces"] = _piece_offsets(self.offsets)
        if self.parts["pieces"] is None:
            return None
        offsets, of_rows = self.parts["pieces"]
        return SparseRows(offsets, self.others), of_rows


def _bags(rows: SparseRows, table: Tensor, weight: Tensor | None) -> Tensor:
    return F.embedding_bag(
        rows.others,
        table,
        rows.offsets,
        mode="sum",
        per_sample_weights=weight,
        include_last_offset=True,
    )


def _bags_of_parts(
    rows: SparseRows, table: Tensor, weight: Tensor, parallel_map: ParallelMap
) -> Tensor:
    def bags(bounds: tuple[int, int]) -> Tensor:
        offsets = rows.offsets[bounds[0] : bounds[1] + 1]
        entries = slice(int(offsets[0]), int(offsets[-1]))
        part = SparseRows(offsets - offsets[0], rows.others[entries])
        return _bags(part, table, weight[entries])

    bounds = torch.linspace(0, len(rows), N_PARTS + 1).long().tolist()
    return torch.cat(list(parallel_map(bags, list(pairwise(bounds)))))


def _product(rows: SparseRows, table: Tensor, weight: Tensor) -> Tensor:
    matrix = torch.sparse_csr_tensor(
        rows.offsets,
        rows.others,
        weight,
        (len(rows), len(table)),
        check_invariants=False,
    )
    width = table.shape[1]
    if width <= ALIGNED:
        return matrix @ table
    return (matrix @ F.pad(table, (0, -width % ALIGNED)))[:, :width]


def sampled_product(pattern: SparseRows, rows: Tensor, table: Tensor) -> Tensor:
    """row · table[other] of the entries of every row, at most one for each place."""
    missing = -table.shape[1] % ALIGNED_SAMPLED
    if missing:
        rows, table = F.pad(rows, (0, missing)), F.pad(table, (0, missing))
    product = torch.sparse_csr_tensor(
        pattern.offsets,
        pattern.others,
        table.new_zeros(len(pattern.others)),
        (len(rows), len(table)),
        check_invariants=False,
    )
    # In place, which spares a copy of the pattern.
    torch.sparse.sampled_addmm(product, rows, table.T, beta=0, out=product)
    return product.values()


def _piece_offsets(offsets: Tensor) -> tuple[Tensor, SparseRows] | None:
    """Offsets of pieces of rows, and the pieces of each row; None if all are one."""
    bounds = offsets.cpu().numpy()
    n_pieces = -(-np.diff(bounds) // MAX_BAG)
    if n_pieces.max(initial=0) <= 1:
        return None
    first = np.append(0, np.cumsum(n_pieces))
    row = np.repeat(np.arange(len(n_pieces)), n_pieces)
    numbers = np.arange(first[-1])
    starts = np.append(bounds[row] + MAX_BAG * (numbers - first[row]), bounds[-1])
    index = partial(torch.as_tensor, dtype=offsets.dtype, device=offsets.device)
    return index(starts), SparseRows(index(first), index(numbers))


@cache
def has_sparse_products(device: torch.device) -> bool:
    """Whether a device multiplies sparse and dense matrices.

    On CUDA these products are three times as fast as bags. Sums of long rows are in no
    fixed order, so that they are reproducible up to rounding only.
    """
    try:
        with warnings.catch_warnings():
            # The first sparse matrix of a process warns that support is in beta.
            warnings.simplefilter("ignore")
            index = torch.zeros(2, dtype=torch.int32)
            one = torch.ones(1, 1).to(device)
            _product(
                SparseRows(index.to(device), index[:0].to(device)), one, one[:0, 0]
            )
    except (RuntimeError, NotImplementedError):
        return False
    return True


@cache
def has_sampled_products(device: torch.device) -> bool:
    """Whether a device computes single elements of a product of dense matrices.

    These are ten times as fast as products of copied rows, on processors and on CUDA.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            index = torch.tensor([0, 1], dtype=torch.int32, device=device)
            one = torch.ones(1, 1, device=device)
            sampled_product(SparseRows(index, index[:1]), one, one)
    except (RuntimeError, NotImplementedError):
        return False
    return True
