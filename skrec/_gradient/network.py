"""The network behind the gradient solvers: row numbers in, scores out.

It knows nothing of fitting, ratings or ids. Every tensor has an axis of members:
networks of one shape that share nothing, evaluated side by side as batched matrix
products.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from .row_features import RowFeatures

# In place where the gradient needs the result alone: it is memory that takes time.
ACTIVATIONS = {
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "logistic": torch.sigmoid_,
    "silu": nn.functional.silu,
}

# Tables that hold a row for each user and each item. All other weights are met by every
# pair.
USER_TABLES = ("user_factors", "user_embedding", "user_bias")
ITEM_TABLES = ("item_factors", "item_embedding", "item_bias")
TABLES = {"user": USER_TABLES, "item": ITEM_TABLES}

# From how many takes of a row on, on average, the first layer is applied to the table.
MANY_TAKES = 4

# Standard deviation of the first factors, and of the first embeddings. The score of a
# perceptron is a product of an embedding and of two layers at least, which a penalty of
# each draws to zero from nearby; so embeddings start larger, and so does the last
# layer, in units of what leaves the scale of its inputs alone.
INITIAL_SCALE, INITIAL_EMBEDDING_SCALE = 0.03, 0.1
INITIAL_LAST_SCALE = 3.0


@dataclass(frozen=True)
class Shape:
    """Sizes of a network.

    Attributes
    ----------
    n_users, n_items, n_features : int
    n_factors : int
        Factors of the product of a user and an item; 0 is no such branch.
    n_embedding : int
        Factors that enter the perceptron, of a user and of an item each; 0 is no
        perceptron.
    hidden_layer_sizes : tuple of int
    activation : str
    biased : bool
        Whether users, items and the output have biases.
    n_members : int
    """

    n_users: int
    n_items: int
    n_features: int
    n_factors: int
    n_embedding: int = 0
    hidden_layer_sizes: tuple[int, ...] = ()
    activation: str = "relu"
    biased: bool = True
    n_members: int = 1


@dataclass(frozen=True)
class Half:
    """What one side contributes to scores; leading axes are those of its row numbers.

    Attributes
    ----------
    factors : Tensor of shape (..., n_members, n_factors) or None
    hidden : Tensor of shape (..., n_members, n_hidden) or None
        Its part of the perceptron's first layer; that of an item holds the bias.
    bias : Tensor of shape (..., n_members) or None
    """

    factors: Tensor | None
    hidden: Tensor | None
    bias: Tensor | None


class NeuMF(nn.Module):
    """Neural matrix factorisation (He et al. 2017, eq. 12), with biases.

    The score of user u and item i at features f is::

        a + b_u + c_i + p_u·q_i + MLP(r_u, s_i, f) + f·w

    The paper weighs the factors of the product, too. Any such weights can be had by
    scaling p and q, and would void a penalty of their squares, so here they are one.

    Behind the last row of each table stands one more, which -1 takes: that of what
    training has not seen.

    Features of a side are kept beside its tables, with weights of what they say of the
    rows; scores take the rows alone.
    """

    def __init__(
        self,
        shape: Shape,
        weights: Mapping[str, Tensor],
        features: Mapping[str, RowFeatures] | None = None,
    ) -> None:
        """A network at given weights, named and shaped as in `first_weights`.

        `features` of a "user" or an "item" need the weights of `feature_weights`.
        """
        super().__init__()
        self.shape = shape
        self.features = nn.ModuleDict(features or {})
        for name, value in weights.items():
            # Fused optimizers take strides for granted.
            self.register_parameter(name, nn.Parameter(value.contiguous()))

    def tables(self, names: Iterable[str]) -> list[nn.Parameter]:
        """Those of the named tables that this network has."""
        return [self.get_parameter(name) for name in names if hasattr(self, name)]

    def described_tables(self, side: str) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Tables of a side, each with the weights of its features."""
        return [
            (self.get_parameter(name), self.get_parameter(feature_name(name)))
            for name in TABLES[side]
            if hasattr(self, name)
        ]

    def shared(self) -> list[nn.Parameter]:
        """Weights that every pair meets."""
        return [
            parameter
            for name, parameter in self.named_parameters()
            if name not in USER_TABLES + ITEM_TABLES and not is_of_features(name)
        ]

    def dense(self) -> list[nn.Parameter]:
        """Weights that every pair meets, without biases."""
        return [
            parameter
            for name, parameter in self.named_parameters()
            if name == "coef" or "weight" in name
        ]

    def forward(
        self,
        users: Tensor,
        items: Tensor,
        features: Tensor,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Scores of shape (n, n_candidates, n_members).

        Parameters
        ----------
        users : Tensor of shape (n,)
        items : Tensor of shape (n, n_candidates)
        features : Tensor of shape (n, n_features)
        dropout : float
            Share of hidden units that are silenced.
        generator : Generator
            Source of the dropout.
        """
        user, item = self.half("user", users[:, None]), self.half("item", items)
        scores = self.inner(user, item)
        if self.shape.n_features:
            scores = scores + (features @ self.coef.T)[:, None]
        if self.shape.n_embedding:
            scores = scores + self.perceptron(
                user.hidden, item.hidden, features[:, None], dropout, generator
            )
        return scores

    def half(self, side: str, rows: Tensor) -> Half:
        """One side's part of scores, for row numbers of any shape."""
        shape = self.shape
        n_rows = shape.n_users if side == "user" else shape.n_items
        flat = rows.flatten() % (n_rows + 1)

        def take(table: Tensor) -> Tensor:
            # Its gradient is faster than those of indexing and embedding().
            taken = table.flatten(1).index_select(0, flat)
            return taken.view(*rows.shape, *table.shape[1:])

        factors = hidden = bias = None
        if shape.n_factors:
            factors = take(self.get_parameter(f"{side}_factors"))
        if shape.biased:
            bias = take(self.get_parameter(f"{side}_bias"))
        if shape.n_embedding:
            table = self.get_parameter(f"{side}_embedding")
            dense = partial(_dense, weight=self.get_parameter(f"{side}_weight"))
            if side == "item":
                dense = partial(dense, bias=self.get_parameter("bias_0"))
            # Rows taken often enter the layer once. The other way round has the
            # members in the order that the layers want, and wins at few takes of each.
            if len(flat) > MANY_TAKES * len(table):
                hidden = take(dense(table))
            else:
                hidden = dense(take(table))
        return Half(factors, hidden, bias)

    def inner(self, user: Half, item: Half) -> Tensor:
        """All but the perceptron and the features, broadcast over leading axes."""
        terms = []
        if self.shape.n_factors:
            terms.append((user.factors * item.factors).sum(-1))
        if self.shape.biased:
            terms.append(user.bias + item.bias + self.intercept)
        return sum(terms)

    def perceptron(
        self,
        user: Tensor,
        item: Tensor,
        features: Tensor | None = None,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Scores of the perceptron from both sides' parts of its first layer.

        Leading axes are broadcast. Without `features` they are at their means.
        """
        act = ACTIVATIONS[self.shape.activation]
        hidden = user + item
        if features is not None and self.shape.n_features:
            members = self.shape.n_members
            repeated = features.unsqueeze(-2).expand(*features.shape[:-1], members, -1)
            hidden = hidden + _dense(repeated, self.feature_weight)
        *leading, members, size = hidden.shape
        n_layers = len(self.shape.hidden_layer_sizes)
        for layer in range(1, n_layers + 1):
            hidden = _drop(act(hidden), dropout, generator)
            if layer == 1:
                # Not before the activation: in place on a view costs copies.
                hidden = hidden.reshape(-1, members, size).transpose(0, 1)
            hidden = torch.baddbmm(
                self.get_parameter(f"bias_{layer}"),
                hidden,
                self.get_parameter(f"weight_{layer}"),
            )
        if n_layers == 0:
            return hidden.squeeze(-1)
        return hidden.squeeze(-1).T.reshape(*leading, members)


def feature_name(table: str) -> str:
    """Name of the weights of features: "user_factors", "user_feature_factors"."""
    return table.replace("_", "_feature_", 1)


def is_of_features(name: str) -> bool:
    """Whether a name is that of weights of features, or of their mean."""
    return name.startswith(("user_feature_", "item_feature_"))


def feature_weights(
    side: str, n_columns: int, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Weights of zero for features of a side, one set for each of its tables."""
    return {
        feature_name(name): weights[name].new_zeros(n_columns, *weights[name].shape[1:])
        for name in TABLES[side]
        if name in weights
    }


def first_weights(shape: Shape, seeds: Iterable[int]) -> dict[str, Tensor]:
    """What training starts from; each member is drawn from a seed of its own."""
    members = [_member(shape, torch.Generator().manual_seed(seed)) for seed in seeds]
    # Tables have the axis of members second, so that a row of all members is one piece.
    return {
        name: torch.stack(
            [member[name] for member in members],
            dim=int(name in USER_TABLES + ITEM_TABLES),
        )
        for name in members[0]
    }


def _member(shape: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """First weights without the axis of members."""

    def normal(*sizes: int, scale: float) -> Tensor:
        return scale * torch.randn(*sizes, generator=generator)

    values = {}
    for side, n_rows in (("user", shape.n_users), ("item", shape.n_items)):
        for name, size, scale in (
            ("factors", shape.n_factors, INITIAL_SCALE),
            ("embedding", shape.n_embedding, INITIAL_EMBEDDING_SCALE),
        ):
            if size:
                values[f"{side}_{name}"] = normal(n_rows + 1, size, scale=scale)
        if shape.biased:
            values[f"{side}_bias"] = torch.zeros(n_rows + 1)
    if shape.n_features:
        values["coef"] = torch.zeros(shape.n_features)
    if shape.biased:
        values["intercept"] = torch.zeros(())
    if shape.n_embedding:
        sizes = (*shape.hidden_layer_sizes, 1)
        n_inputs = 2 * shape.n_embedding + shape.n_features
        scale = math.sqrt(2 / n_inputs)
        for side in ("user", "item"):
            values[f"{side}_weight"] = normal(shape.n_embedding, sizes[0], scale=scale)
        if shape.n_features:
            size = (shape.n_features, sizes[0])
            values["feature_weight"] = normal(*size, scale=scale)
        values["bias_0"] = torch.zeros(1, sizes[0])
        for layer, (n_in, n_out) in enumerate(pairwise(sizes), 1):
            scale = math.sqrt(2 / n_in)
            if layer == len(sizes) - 1:
                scale *= INITIAL_LAST_SCALE
            values[f"weight_{layer}"] = normal(n_in, n_out, scale=scale)
            values[f"bias_{layer}"] = torch.zeros(1, n_out)
    return values


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
    """Dropout that leaves torch's global generator alone."""
    if share == 0:
        return x
    kept = torch.empty_like(x).bernoulli_(1 - share, generator=generator)
    return x * kept / (1 - share)
