"""Network of the gradient solvers, from row numbers to scores.

It is independent of fitting, ratings and ids. Every tensor has an axis of members:
networks of one shape that share no weights, evaluated together as batched matrix
products.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from operator import add
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from .._storage import stored
from .implicit import Counterparts
from .layers import FirstLayer
from .products import PairProducts, PairRows
from .row_features import RowFeatures
from .tables import side_by_side, split_like

# In place where the gradient needs the result only, since memory takes the time.
ACTIVATIONS = {
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "logistic": torch.sigmoid_,
    "silu": nn.functional.silu,
}

# Tables with a row for each user or item, by side. Others of them are context factors,
# which have no term from counterparts and do not learn from further rows, and slopes in
# numbers of context, which all members share and which take steps of their own (see
# `slopes`).
PLAIN_TABLES = {
    side: (f"{side}_factors", f"{side}_embedding", f"{side}_bias")
    for side in ("user", "item")
}
TABLES = {side: (*PLAIN_TABLES[side], f"{side}_context") for side in PLAIN_TABLES}
SLOPE_TABLES = {side: f"{side}_slopes" for side in TABLES}
KEPT_TABLES = {side: (*TABLES[side], SLOPE_TABLES[side]) for side in TABLES}

# Tables with a row for each value of context: factors that meet the context factors of
# users and those of items, and effects.
VALUE_TABLES = ("value_users", "value_items", "value_bias")

# Tables that take the steps of an optimizer. All other weights are shared by all pairs.
ROW_TABLES = {**TABLES, "value": VALUE_TABLES}
ALL_TABLES = {name for tables in ROW_TABLES.values() for name in tables}

# Factors of the context of values, of all columns together.
N_CONTEXT_FACTORS = 12

# Lookups per row, on average, from which the first layer is applied to the whole table
# where autograd follows the rows of pairs.
WHOLE_TABLE_LOOKUPS = 4

# Numbers of a sample's factors from which on pairs have products without copied rows.
MIN_WIDTH = 192

# Standard deviation of the initial factors and embeddings. The score of a perceptron is
# a product of an embedding and at least two layers, and a penalty of each draws small
# products to zero. So embeddings start larger, and so does the last layer, relative to
# the scale that keeps the variance of its inputs.
INITIAL_SCALE, INITIAL_EMBEDDING_SCALE = 0.03, 0.1
INITIAL_LAST_SCALE = 3.0


@stored
@dataclass(frozen=True)
class Shape:
    """Sizes of a network.

    Attributes
    ----------
    n_users, n_items, n_context : int
    n_factors : int
        Factors of the product of a user and an item; 0 for no product.
    n_embedding : int
        Size of the embeddings that enter the perceptron; 0 for no perceptron.
    hidden_layer_sizes : tuple of int
    activation : str
    biased : bool
        Whether users, items and the output have biases.
    n_members : int
    implicit_features : bool
        Whether rows have a share from the rows of the other side that they have ratings
        with.
    n_values : tuple of int
        Number of values of each column of context that has values.
    """

    n_users: int
    n_items: int
    n_context: int
    n_factors: int
    n_embedding: int = 0
    hidden_layer_sizes: tuple[int, ...] = ()
    activation: str = "relu"
    biased: bool = True
    n_members: int = 1
    implicit_features: bool = False
    n_values: tuple[int, ...] = ()

    def n_rows(self, side: str) -> int:
        """Number of users, of items, or of values of all columns."""
        if side == "value":
            return sum(self.n_values)
        return self.n_users if side == "user" else self.n_items

    @property
    def score_work(self) -> float:
        """About how many multiplications a score takes."""
        sizes = (2 * self.n_embedding, *self.hidden_layer_sizes, 1)
        layers = sum(n_in * n_out for n_in, n_out in pairwise(sizes))
        return self.n_members * (self.n_factors + layers)


@dataclass(frozen=True)
class SideScores:
    """Contribution of one side to scores.

    Leading axes are those of the row numbers. Terms that the network does not have are
    tensors of size 0.

    Attributes
    ----------
    factors : Tensor of shape (..., n_members, n_factors)
    hidden : Tensor of shape (..., n_members, n_hidden)
        Part of the first layer of the perceptron; that of an item includes the bias.
    bias : Tensor of shape (..., n_members)
    context : Tensor of shape (..., n_members, n_context_factors + n_context)
        Context factors, then slopes; of users in a context, factors that the items'
        meet, then numbers.
    """

    factors: Tensor
    hidden: Tensor
    bias: Tensor
    context: Tensor


class NeuMF(nn.Module):
    """Neural matrix factorisation (He et al. 2017, eq. 12), with biases.

    The score of user u and item i in context f is::

        a + b_u + c_i + p_u·q_i + MLP(r_u, s_i, f) + f·w

    With the sums v, w and e over the rows of the values of a context, the score has the
    further terms e + a_u·v + d_i·w, where a and d are context factors: interactions of
    pairs as in factorisation machines, with factors for each pair of fields (Rendle and
    Schmidt-Thieme 2010). Numbers have the terms f·(β_u + γ_i) with slopes of the user
    and of the item.

    The paper weights the factors of the product, too. Scaling p and q has the same
    effect, and weights would void a penalty of their squares, so they are left out.

    The last row of each table is that of unseen users or items (see `table_rows`).

    Features of a side and their weights, and those of counterparts, are kept for
    training; scores depend on the rows only.
    """

    coef: nn.Parameter
    feature_weight: nn.Parameter
    intercept: nn.Parameter

    def __init__(
        self,
        shape: Shape,
        weights: Mapping[str, Tensor],
        features: Mapping[str, RowFeatures] | None = None,
    ) -> None:
        """Network with given weights, named and shaped as in `initial_weights`.

        `features` of a "user" or "item" side need the weights of `feature_weights`.
        """
        super().__init__()
        self.shape = shape
        self.features = nn.ModuleDict(features or {})
        self.counterparts: Counterparts | None = None
        self.joined: dict[str, nn.Parameter] = {}
        for name, value in weights.items():
            # Fused optimizers assume contiguous parameters.
            parameter = nn.Parameter(
                value.contiguous(), name not in SLOPE_TABLES.values()
            )
            self.register_parameter(name, parameter)
        self.has_slopes = SLOPE_TABLES["user"] in weights
        self.names = {
            side: [name for name in names if name in weights]
            for side, names in TABLES.items()
        }

    @torch.no_grad()
    def begin_at(self, level: float, effects: Mapping[str, np.ndarray]) -> None:
        """Set the biases of all members to effects of users, items and values."""
        self.intercept.fill_(level)
        for side, values in effects.items():
            bias = self.get_parameter(f"{side}_bias")
            bias[:-1] = torch.as_tensor(values).to(bias)[:, None]

    def join_tables(self) -> None:
        """Make the tables of each side parts of one, in `joined`, which is trained.

        A step then takes and adds rows by one kernel for each side. Named tables are
        views. Processors are faster on tables that are contiguous.
        """
        for side, names in self.names.items():
            tables = self.tables(names)
            whole = side_by_side(tables).detach()
            for name, part in zip(names, split_like(whole, tables), strict=True):
                setattr(self, name, nn.Parameter(part))
            self.joined[side] = nn.Parameter(whole)

    def rows(self, side: str) -> list[nn.Parameter]:
        """Tables of a side that are trained: all in one, if they are joined."""
        if side in self.joined:
            return [self.joined[side]]
        return self.tables(ROW_TABLES[side])

    def split_gradients(self) -> None:
        """Give named tables the gradients of `joined`, as views."""
        for side, joined in self.joined.items():
            tables = self.tables(TABLES[side])
            assert joined.grad is not None
            for table, part in zip(
                tables, split_like(joined.grad, tables), strict=True
            ):
                table.grad = part

    def tables(self, names: Iterable[str]) -> list[nn.Parameter]:
        """Named tables, or other weights, that the network has."""
        weights = (getattr(self, name, None) for name in names)
        return [weight for weight in weights if weight is not None]

    def table_rows(self, side: str, numbers: Tensor) -> Tensor:
        """Rows of numbers that count from the end where negative, as -1 of unseen."""
        return numbers % (self.shape.n_rows(side) + 1)

    def row_features(self, side: str) -> RowFeatures:
        return cast(RowFeatures, self.features[side])

    def described_tables(self, side: str) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Tables of a side, each with the weights of its features."""
        weights = self.tables(map(feature_name, TABLES[side]))
        return list(zip(self.tables(TABLES[side]), weights, strict=True))

    def shared(self) -> list[nn.Parameter]:
        """Weights shared by all pairs."""
        return [
            parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
            and name not in ALL_TABLES
            and not is_of_rows(name)
        ]

    def dense(self) -> list[nn.Parameter]:
        """Weights shared by all pairs, without biases."""
        return [
            parameter
            for name, parameter in self.named_parameters()
            if name == "coef" or "weight" in name
        ]

    def constants(self) -> list[nn.Parameter]:
        """Weights that add as much to the scores of all items of a user in context."""
        last = f"bias_{len(self.shape.hidden_layer_sizes)}"
        of_values = "user_context", "value_users", "value_bias"
        return self.tables(["user_bias", "coef", "intercept", last, *of_values])

    def forward(
        self,
        users: Tensor,
        items: Tensor,
        context: Tensor,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Scores of shape (n, n_candidates, n_members).

        Parameters
        ----------
        users : Tensor of shape (n,)
        items : Tensor of shape (n, n_candidates)
        context : Tensor of shape (n, n_context + n_columns)
            Standardised numbers, then a row of the tables of values for each column of
            values; -1 is an unknown one, which has no effect.
        dropout : float
            Share of hidden units set to zero.
        generator : Generator
            Source of randomness for the dropout.
        """
        shape, without = self.shape, []
        products = hidden = None
        if users.device.type == "cpu":
            # Rows are not copied for each pair.
            products, hidden = self._products(users, items), self._hidden(users, items)
            without += ["factors"] * (products is not None)
            without += ["embedding"] * (hidden is not None)
        user = self.side_scores("user", users[:, None], without)
        user = self.in_context(user, context[:, None])
        item = self.side_scores("item", items, without)
        scores = self.inner(user, item)
        if products is not None:
            scores = scores + products
        if shape.n_embedding:
            if hidden is None:
                hidden = user.hidden + item.hidden
            elif user.hidden.shape[-1]:
                hidden = hidden.view(*items.shape, *user.hidden.shape[2:]) + user.hidden
            of_layers = self.perceptron(hidden, dropout, generator)
            scores = scores + of_layers.view(*items.shape, shape.n_members)
        return scores

    def in_context(self, user: SideScores, context: Tensor) -> SideScores:
        """The contribution of users, each in a context of shape (n_columns,)."""
        if not context.shape[-1]:
            return user
        n, hidden = self.shape.n_context, user.hidden
        bias = user.bias if self.shape.biased else torch.zeros(())
        numbers = context[..., :n]
        if n:
            bias = bias + numbers @ self.coef.T
            if self.shape.n_embedding:
                repeated = numbers.unsqueeze(-2)
                repeated = repeated.expand(*numbers.shape[:-1], self.shape.n_members, n)
                of_numbers = _dense(repeated, self.feature_weight)
                hidden = hidden + of_numbers if hidden.shape[-1] else of_numbers
        met = []
        if self.shape.n_values:
            effects, factors = self._of_values(user, self.value_rows(context))
            bias = bias + effects
            met.append(factors)
        if self.has_slopes:
            repeated = numbers.unsqueeze(-2)
            bias = bias + (user.context[..., -n:] * repeated).sum(-1)
            met.append(repeated.expand(*numbers.shape[:-1], self.shape.n_members, n))
        if met:
            user = replace(user, context=torch.cat(met, -1))
        return replace(user, hidden=hidden, bias=bias)

    def value_rows(self, context: Tensor) -> Tensor:
        """Rows in the tables of values, along the last axis."""
        return context[..., self.shape.n_context :].long()

    def _of_values(self, user: SideScores, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Terms of users under values, one of each column, and factors for items."""
        flat = self.table_rows("value", rows.flatten())
        of_users, of_items, effects = (
            _table_rows(table, flat).view(*rows.shape, *table.shape[1:])
            for table in map(self.get_parameter, VALUE_TABLES)
        )
        factors = user.context[..., :N_CONTEXT_FACTORS]
        products = (factors * of_users.sum(-3)).sum(-1)
        return effects.sum(-2) + products, of_items.sum(-3)

    def _products(self, users: Tensor, items: Tensor) -> Tensor | None:
        """Products of factors; None where they are faster with a row for each pair."""
        shape = self.shape
        width = shape.n_members * shape.n_factors * items.shape[1]
        if not shape.n_factors or width < MIN_WIDTH:
            return None
        tables = self.tables(["user_factors", "item_factors"])
        # Tables that are gathered for a few rows have none of the unseen.
        n_users, n_items = map(len, tables)
        pairs = PairRows.of_members(users, items, n_users, n_items, shape.n_members)
        if not pairs.are_products_fast:
            return None
        products = PairProducts.apply(*(table.flatten(0, 1) for table in tables), pairs)
        return products.view(*items.shape, shape.n_members)

    def _hidden(self, users: Tensor, items: Tensor) -> Tensor | None:
        """First layer of the perceptron before the activation, if there is one."""
        if not self.shape.n_embedding:
            return None
        names = "user_embedding", "user_weight", "item_embedding", "item_weight"
        return FirstLayer.apply(*self.tables([*names, "bias_0"]), users, items)

    def side_scores(
        self, side: str, rows: Tensor, without: Iterable[str] = ()
    ) -> SideScores:
        """Contribution of one side to scores, for row numbers of any shape."""
        shape, flat = self.shape, rows.flatten()
        parts = self._parts(side)
        for name in without:
            del parts[name]
        # Rows that are looked up often enter the layer once. For few lookups the other
        # order is faster, since it has members in the order of the layers.
        enters_once = len(flat) > WHOLE_TABLE_LOOKUPS * (shape.n_rows(side) + 1)
        is_changed = "embedding" in parts and enters_once
        if is_changed:
            parts["embedding"] = self._first_layer(side, parts["embedding"])
        taken = self._taken(side, parts, flat, is_changed)
        factors, hidden, bias, context = (
            taken[name].view(*rows.shape, *taken[name].shape[1:])
            if name in taken
            else torch.empty(0)
            for name in ("factors", "embedding", "bias", "context")
        )
        if "embedding" in parts and not is_changed:
            hidden = self._first_layer(side, hidden)
        if self.has_slopes:
            slopes = self.get_parameter(SLOPE_TABLES[side]).index_select(0, flat)
            slopes = slopes.view(*rows.shape, 1, slopes.shape[-1])
            slopes = slopes.expand(*rows.shape, shape.n_members, -1)
            context = torch.cat([context, slopes], -1) if shape.n_values else slopes
        return SideScores(factors, hidden, bias, context)

    def _parts(self, side: str) -> dict[str, Tensor]:
        """Tables of a side by the second part of their names."""
        names = self.names[side]
        tables: list[Tensor] = [*self.tables(names)]
        if side in self.joined:
            tables = split_like(self.joined[side], tables)
        return {
            name.removeprefix(f"{side}_"): table
            for name, table in zip(names, tables, strict=True)
        }

    def _taken(
        self, side: str, parts: Mapping[str, Tensor], flat: Tensor, is_changed: bool
    ) -> dict[str, Tensor]:
        """Numbered rows of the parts; of joined tables in one piece."""
        if side not in self.joined:
            return {name: _table_rows(part, flat) for name, part in parts.items()}
        joined: Tensor = self.joined[side]
        if is_changed:
            joined = side_by_side(parts.values())
        rows = split_like(joined.index_select(0, flat), [*parts.values()])
        return dict(zip(parts, rows, strict=True))

    def _first_layer(self, side: str, embedding: Tensor) -> Tensor:
        weight = self.get_parameter(f"{side}_weight")
        bias = self.get_parameter("bias_0") if side == "item" else None
        return _dense(embedding, weight, bias)

    def inner(self, user: SideScores, item: SideScores) -> Tensor:
        """Products of factors plus biases, broadcast over leading axes.

        With context of values, of users in a context.
        """
        parts = []
        if user.factors.shape[-1]:
            parts.append((user.factors * item.factors).sum(-1))
        if self.shape.n_values or self.has_slopes:
            parts.append((user.context * item.context).sum(-1))
        if self.shape.biased:
            parts.append(user.bias + item.bias + self.intercept)
        elif user.bias.numel():
            # Context has terms of its own.
            parts.append(user.bias)
        return reduce(add, parts) if parts else torch.zeros(())

    def perceptron(
        self,
        hidden: Tensor,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Scores of the perceptron, of shape (n_pairs, n_members).

        `hidden` is its first layer before the activation, of pairs in any shape.
        """
        sizes, members = self.shape.hidden_layer_sizes, self.shape.n_members
        act = ACTIVATIONS[self.shape.activation]
        for layer, size in enumerate(sizes, 1):
            hidden = _drop(act(hidden), dropout, generator)
            if layer == 1:
                # After the activation, since in-place operations on views copy.
                hidden = hidden.reshape(-1, members, size).transpose(0, 1)
            hidden = torch.baddbmm(
                getattr(self, f"bias_{layer}"),
                hidden,
                getattr(self, f"weight_{layer}"),
            )
        if not sizes:
            return hidden.reshape(-1, members)
        return hidden.squeeze(-1).T


def feature_name(table: str) -> str:
    """Name of the weights of features: "user_factors", "user_feature_factors"."""
    return table.replace("_", "_feature_", 1)


def is_of_features(name: str) -> bool:
    """Whether an array belongs to side features: their weights, or their mean."""
    return name.startswith(("user_feature_", "item_feature_"))


def implicit_name(table: str) -> str:
    """Name of the rows of counterparts: "user_factors", "user_implicit_factors"."""
    return table.replace("_", "_implicit_", 1)


def is_of_rows(name: str) -> bool:
    """Whether an array belongs to features of rows, given or implicit."""
    return is_of_features(name) or "_implicit_" in name


def feature_weights(
    side: str, n_columns: int, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Zero weights for the features of a side, one array for each of its tables."""
    return {
        feature_name(name): weights[name].new_zeros(n_columns, *weights[name].shape[1:])
        for name in TABLES[side]
        if name in weights
    }


def initial_weights(shape: Shape, seeds: Iterable[int]) -> dict[str, Tensor]:
    """Weights before training, each member drawn with a seed of its own."""
    generators = (torch.Generator().manual_seed(seed) for seed in seeds)
    members = [_initial_member(shape, generator) for generator in generators]
    # Tables have members as the second axis, so that a row is contiguous.
    weights = {
        name: torch.stack(
            [member[name] for member in members],
            dim=int(name in ALL_TABLES),
        )
        for name in members[0]
    }
    if shape.n_values:
        # Values have no effect yet.
        size = shape.n_rows("value") + 1, shape.n_members
        weights["value_users"] = torch.zeros(*size, N_CONTEXT_FACTORS)
        weights["value_items"] = torch.zeros(*size, N_CONTEXT_FACTORS)
        weights["value_bias"] = torch.zeros(size)
    if shape.implicit_features:
        for side, n_others in (("user", shape.n_items), ("item", shape.n_users)):
            for name in weights.keys() & set(PLAIN_TABLES[side]):
                size = n_others, *weights[name].shape[1:]
                weights[implicit_name(name)] = torch.zeros(size)
    return weights


def slope_weights(shape: Shape) -> dict[str, Tensor]:
    """Slopes before training, which have no effect yet."""
    if not shape.n_context:
        return {}
    return {
        name: torch.zeros(shape.n_rows(side) + 1, shape.n_context)
        for side, name in SLOPE_TABLES.items()
    }


def _initial_member(shape: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """Initial weights of one member, without its axis."""
    values = {}
    for side, n_rows in (("user", shape.n_users), ("item", shape.n_items)):
        for name, size, scale in (
            ("factors", shape.n_factors, INITIAL_SCALE),
            ("embedding", shape.n_embedding, INITIAL_EMBEDDING_SCALE),
            ("context", N_CONTEXT_FACTORS * bool(shape.n_values), INITIAL_SCALE),
        ):
            if size:
                drawn = torch.randn(n_rows + 1, size, generator=generator)
                values[f"{side}_{name}"] = scale * drawn
        if shape.biased:
            values[f"{side}_bias"] = torch.zeros(n_rows + 1)
    if shape.n_context:
        values["coef"] = torch.zeros(shape.n_context)
    if shape.biased:
        values["intercept"] = torch.zeros(())
    if shape.n_embedding:
        values |= _initial_layers(shape, generator)
    return values


def _initial_layers(shape: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """Initial weights of the perceptron, at the scale of He et al. (2015)."""

    def normal(n_in: int, n_out: int, scale: float) -> Tensor:
        return scale * torch.randn(n_in, n_out, generator=generator)

    sizes = (*shape.hidden_layer_sizes, 1)
    scale = math.sqrt(1 / shape.n_embedding)
    values = {
        "user_weight": normal(shape.n_embedding, sizes[0], scale),
        "item_weight": normal(shape.n_embedding, sizes[0], scale),
    }
    if shape.n_context:
        # Layers begin without context, which may say nothing.
        values["feature_weight"] = torch.zeros(shape.n_context, sizes[0])
    values["bias_0"] = torch.zeros(1, sizes[0])
    for layer, (n_in, n_out) in enumerate(pairwise(sizes), 1):
        is_last = layer == len(sizes) - 1
        scale = math.sqrt(2 / n_in) * (INITIAL_LAST_SCALE if is_last else 1)
        values[f"weight_{layer}"] = normal(n_in, n_out, scale)
        values[f"bias_{layer}"] = torch.zeros(1, n_out)
    return values


def _table_rows(table: Tensor, numbers: Tensor) -> Tensor:
    """Numbered rows, by an operation whose gradient is faster than that of indexing."""
    # A vector takes a quarter of the time of a table of one column.
    is_vector = table.shape[1:].numel() == 1
    rows = table.flatten(0 if is_vector else 1).index_select(0, numbers)
    return rows.view(-1, *table.shape[1:])


def _dense(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Each member's x @ weight + bias, for x of shape (..., n_members, n_in)."""
    *leading, members, n_in = x.shape
    inputs = x.reshape(-1, members, n_in).transpose(0, 1)
    if bias is None:
        product = torch.bmm(inputs, weight)
    else:
        product = torch.baddbmm(bias, inputs, weight)
    return product.transpose(0, 1).reshape(*leading, members, weight.shape[-1])


def _drop(x: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """Dropout that does not use the global generator."""
    if share == 0:
        return x
    kept = torch.empty_like(x).bernoulli_(1 - share, generator=generator)
    # Scaled before the product, whose gradient needs one operation then.
    return x * kept.div_(1 - share)
