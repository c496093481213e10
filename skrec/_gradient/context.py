"""Context of a network: standardised numbers, and values with rows in tables.

The products of the factors of values must not learn noise. A penalty of both factors of
a product is one of singular values (Srebro, Rennie and Jaakkola 2005), and those below
a threshold become zero. So the threshold is that of noise, whose level is estimated as
training goes on; that is the idea of the square-root lasso (Belloni, Chernozhukov and
Wang 2011).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .._data.units import Units
from .network import NeuMF


def network_context(
    context: np.ndarray, units: Units, n_values: Sequence[int]
) -> np.ndarray:
    """Standardised numbers, then a row of the tables of values for each column.

    Tables have the values of one column after those of another; -1 is an unknown one.
    """
    numbers = units.standard_features(context)
    codes = context[:, numbers.shape[1] :]
    starts = np.cumsum([0, *n_values])[:-1]
    return np.hstack([numbers, np.where(codes < 0, -1, codes + starts)])


class ValuePenalties:
    """Penalties of factors of values, relative to those of other rows.

    With penalties λ√W_r of the rows r of both sides of a product, singular values up to
    λ are nothing. Those of noise are up to m times its deviation σ. Rows of users and
    of items keep the penalty λ of all rows, and those of values have λ (σ m / κ)² with
    the curvature κ of the loss. λ / κ is about 1 by default; a smaller one shrinks
    products with values by less than noise, as it does other products.

    Parameters
    ----------
    network : NeuMF
    row_weights : dict of str to Tensor
        W_r of users, items and values; the last row is that of the unseen.
    curvature : float
        κ, relative to the squared error.

    Attributes
    ----------
    multiples : dict of Tensor to Tensor of shape (n_values + 1,)
        (σ m / κ)² by table; m² before `adapt`.
    edges : dict of Tensor to Tensor of shape (n_values + 1,)
        m / κ by table; 0 for the row of the unseen.
    """

    def __init__(
        self, network: NeuMF, row_weights: dict[str, Tensor], curvature: float = 1.0
    ) -> None:
        self.multiples: dict[Tensor, Tensor] = {}
        self.edges: dict[Tensor, Tensor] = {}
        n_values = network.shape.n_values
        if not n_values:
            return
        weights = {side: weight[:-1] for side, weight in row_weights.items()}
        for side, name in (("user", "value_users"), ("item", "value_items")):
            edges = noise_edges(weights[side], weights["value"], n_values)
            table = network.get_parameter(name)
            edges = F.pad(edges, (0, 1))
            self.multiples[table] = edges.square()
            self.edges[table] = edges / curvature

    def adapt(self, noise: Tensor) -> None:
        """Penalties by the deviation of the noise."""
        for table, multiple in self.multiples.items():
            # In place, where recorded steps read it.
            multiple.copy_((noise * self.edges[table]).square())

    def of(self, table: Tensor, penalty: Tensor) -> Tensor:
        """The penalty of a table, by that of all rows of its side."""
        multiple = self.multiples.get(table)
        return penalty if multiple is None else penalty * multiple


def noise_edges(
    row_weight: Tensor, value_weight: Tensor, n_values: Sequence[int]
) -> Tensor:
    """Largest singular value of noise in the products of rows and of values.

    The noise has variance 1 for a unit of weight, and weights of pairs are as if rows
    and values were independent. In units where the penalty of a row r is √W_r ‖r‖², an
    entry has variance √(W_r W_v) / W; a matrix with independent entries has a largest
    singular value of about the sum of the largest norms of its rows and columns (Latała
    2005). Shape (n_values,), for the values of all columns.

    Parameters
    ----------
    row_weight, value_weight : Tensor of shape (n_rows,) and (n_values,)
        W of users or items, and of values.
    n_values : sequence of int
        Number of values of each column.
    """
    roots, total = row_weight.sqrt(), row_weight.sum()
    edges = []
    for of_column in value_weight.sqrt().split(list(n_values)):
        largest = roots.max() * of_column.sum(), of_column.max() * roots.sum()
        edge = sum((square / total).sqrt() for square in largest)
        edges.append(edge.expand(len(of_column)))
    return torch.cat(edges)
