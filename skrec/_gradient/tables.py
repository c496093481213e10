"""Tables of rows side by side, as one of shape (n_rows, row_size)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def side_by_side(tables: Iterable[Tensor]) -> Tensor:
    """Rows of tables, one after another."""
    return torch.cat([table.flatten(1) for table in tables], dim=1)


def split_like(joined: Tensor, tables: Sequence[Tensor]) -> list[Tensor]:
    """Parts of joined rows with the shapes of rows of tables, as views."""
    parts = joined.split([table[0].numel() for table in tables], dim=1)
    return [
        part.view(-1, *table.shape[1:])
        for part, table in zip(parts, tables, strict=True)
    ]
