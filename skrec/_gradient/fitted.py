"""FittedNetwork: the fitted model of NCFRegressor, in NumPy arrays.

`Conversion` converts between the weights of a network and fitted models of one kind, so
that a gradient solver can fit and update these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, Self, TypeVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .._data.forgotten import ForgottenRows
from .._data.interactions import FurtherRows, Interactions
from .._data.sides import SideName
from .._data.units import Units
from .._interfaces import Estimates, Model, Objective, StandardisedModel
from .._storage import stored
from .._topk import Fill
from .context import network_context
from .network import (
    KEPT_TABLES,
    SLOPE_TABLES,
    TABLES,
    NeuMF,
    Shape,
    SideScores,
    feature_name,
    is_of_rows,
)

# Entries of a hidden layer held at a time in predict and recommend.
TILE_SIZE = 2**22

# Users in the profile of an item, and items in the profile of a user.
N_PROFILE = 256

# Share of the largest score below which a profile consists of rounding errors.
MIN_SIGNAL = 1e-6

Weights = dict[str, np.ndarray]

NetworkModel = TypeVar("NetworkModel", bound=StandardisedModel)


class Conversion(ABC, Generic[NetworkModel]):
    """Conversion between fitted models of one kind and the weights of a network."""

    @abstractmethod
    def shape(self, model: NetworkModel) -> Shape:
        """Sizes of the network of a model."""

    @abstractmethod
    def weights(
        self, model: NetworkModel, users: np.ndarray, items: np.ndarray
    ) -> Weights:
        """Weights as new arrays; tables have the numbered rows, then the unseen row."""

    @abstractmethod
    def model(
        self,
        weights: Weights,
        shape: Shape,
        data: Interactions,
        units: Units,
        objective: Objective,
        rating_range: tuple[float, float],
    ) -> NetworkModel:
        """Model with the weights of a network that was trained on `data`."""

    def rest(self, model: NetworkModel, further: FurtherRows) -> FurtherRows:
        """Further rows without the terms of a model that its network does not have."""
        return further

    @abstractmethod
    def updated(
        self,
        model: NetworkModel,
        tables: dict[str, Weights],
        further: FurtherRows,
        rating_range: tuple[float, float],
    ) -> NetworkModel:
        """Model with updated rows in the tables of a "user" and of an "item"."""


@stored
@dataclass(frozen=True)
class FittedNetwork(StandardisedModel):
    """Fitted network with the units of its ratings.

    Attributes
    ----------
    shape : Shape
    weights : dict of str to ndarray
        Names and shapes of `network.initial_weights`, and weights of side features.
    units : Units
    objective : Objective
    rating_range : tuple of float
    value_weights : tuple of ndarray of shape (n_values,)
        Total weight of the ratings under each value, by column of values.
    """

    shape: Shape
    weights: Weights
    units: Units
    objective: Objective
    rating_range: tuple[float, float]
    value_weights: tuple[np.ndarray, ...] = ()

    @property
    def score_work(self) -> float:
        return self.shape.score_work

    def with_cold_rows(
        self, users: sparse.csr_array | None, items: sparse.csr_array | None
    ) -> Self:
        weights = self.weights.copy()
        sizes = {"user": self.shape.n_users, "item": self.shape.n_items}
        for side, matrix in (("user", users), ("item", items)):
            if matrix is None:
                continue
            sizes[side] += matrix.shape[0]
            centred = matrix[::-1] - weights[f"{side}_feature_mean"]
            for name in weights.keys() & set(TABLES[side]):
                table, coef = weights[name], weights[feature_name(name)]
                effect = centred @ coef.reshape(len(coef), -1)
                cold = table[-1] + effect.reshape(-1, *table.shape[1:])
                weights[name] = np.concatenate(
                    [table[:-1], cold.astype(table.dtype), table[-1:]]
                )
            for name in weights.keys() & {SLOPE_TABLES[side]}:
                table = weights[name]
                # Features do not predict slopes.
                weights[name] = np.insert(table, [-1] * matrix.shape[0], 0, axis=0)
        shape = replace(self.shape, n_users=sizes["user"], n_items=sizes["item"])
        return replace(self, weights=weights, shape=shape)

    def without(self, forgotten: ForgottenRows) -> FittedNetwork:
        kept = forgotten.kept
        weights = _of_rows(self.weights, kept.user, kept.item)
        shape = replace(self.shape, n_users=len(kept.user), n_items=len(kept.item))
        return replace(self, weights=weights, shape=shape)

    def network(self, device: torch.device, dtype: torch.dtype) -> NeuMF:
        """Network without the weights of side features."""
        weights = {
            name: torch.as_tensor(
                np.require(value, requirements="W"), dtype=dtype, device=device
            )
            for name, value in self.weights.items()
            if not is_of_rows(name)
        }
        return NeuMF(self.shape, weights).requires_grad_(False)

    def predict(
        self,
        users: np.ndarray,
        items: np.ndarray,
        context: np.ndarray,
        return_std: bool,
        device: torch.device,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if return_std and self.shape.n_members == 1:
            raise ValueError(
                "return_std=True is the standard deviation over members, and this fit "
                "had n_members=1; fit with n_members of 2 or more."
            )
        network = self.network(device, torch.float64)
        context = network_context(context, self.units, self.shape.n_values)
        mean, std = np.empty(len(users)), np.empty(len(users))
        step = max(1, TILE_SIZE // self._width)
        for start in range(0, len(users), step):
            tile = slice(start, start + step)
            u, i, x = (
                torch.from_numpy(values[tile]).to(device)
                for values in (users, items, context)
            )
            u, i = network.table_rows("user", u), network.table_rows("item", i)
            score = network(u, i[:, None], x)[:, 0].cpu().numpy()
            score = self.units.centre + self.units.scale * score
            mean[tile] = self.objective.response(score.mean(axis=1))
            if return_std:
                std[tile] = self.objective.response(score).std(axis=1, ddof=1)
        return mean, std if return_std else None

    def value_effects(self) -> Iterator[tuple[np.ndarray, Estimates]]:
        """Weights of the values of each column, and their effects on an average pair.

        Effects are against the mean of all ratings, with deviations over members.
        """
        shape = self.shape
        weights = self.value_weights or map(np.ones, shape.n_values)
        start = 0
        for column, weight in enumerate(weights):
            n_values = len(weight)
            context = self._average_context(n_values)
            context[:, shape.n_context + column] = np.arange(start, start + n_values)
            scores = self._average_scores(context)
            yield weight, self._over_members(scores - weight @ scores / weight.sum())
            start += n_values

    def number_effects(self) -> Estimates:
        """Effects of a standard deviation of each number on an average pair.

        From half of one below the mean to half of one above.
        """
        steps = np.eye(self.shape.n_context) * np.isfinite(self.units.feature_scale)
        ends = []
        for sign in (0.5, -0.5):
            context = self._average_context(len(steps))
            context[:, : len(steps)] = sign * steps
            ends.append(self._average_scores(context))
        return self._over_members(ends[0] - ends[1])

    def _average_context(self, n_rows: int) -> np.ndarray:
        """Numbers at their means, and values of no effect, as a network takes them."""
        numbers = np.zeros((n_rows, self.shape.n_context))
        return np.hstack([numbers, np.full((n_rows, len(self.shape.n_values)), -1.0)])

    def _average_scores(self, context: np.ndarray) -> np.ndarray:
        """Scores of an average pair in contexts, of shape (n_rows, n_members)."""
        network = self.network(torch.device("cpu"), torch.float64)
        user, item = (
            network.table_rows(side, torch.full((len(context),), -1)) for side in TABLES
        )
        scores = network(user, item[:, None], torch.from_numpy(context))
        return self.units.scale * scores[:, 0].expand(-1, self.shape.n_members).numpy()

    def _over_members(self, effects: np.ndarray) -> Estimates:
        """Mean and standard deviation over members, which a single one has not."""
        std = np.full(len(effects), np.nan)
        if self.shape.n_members > 1:
            std = effects.std(axis=1, ddof=1)
        return effects.mean(axis=1), std

    def in_context(self, users: np.ndarray, context: np.ndarray) -> NetworkInContext:
        # Numbers that are not given are at their mean.
        context = context.copy()
        numbers = context[:, : len(self.units.feature_mean)]
        np.copyto(numbers, self.units.feature_mean, where=np.isnan(numbers))
        return NetworkInContext(self, users, context, self.objective, self.rating_range)

    def scorer(
        self, users: np.ndarray, items: np.ndarray, device: torch.device
    ) -> Callable[[slice], Fill]:
        return self.scorer_of(users, None, items, device)

    def scorer_of(
        self,
        users: np.ndarray,
        context: np.ndarray | None,
        items: np.ndarray,
        device: torch.device,
    ) -> Callable[[slice], Fill]:
        """As `scorer`, of users each in a context, if there is one."""
        network, shape = self.network(device, torch.float32), self.shape

        def of_side(side: str, numbers: np.ndarray) -> SideScores:
            rows = torch.from_numpy(numbers).to(device)
            return network.side_scores(side, network.table_rows(side, rows))

        of_items = of_side("item", items)
        item_bias = of_items.bias.mean(-1) + network.intercept.mean()
        has_factors = (
            bool(shape.n_factors),
            context is not None and (bool(shape.n_values) or network.has_slopes),
        )
        if context is not None:
            context = network_context(context, self.units, shape.n_values)

        def factors(scores: SideScores) -> Tensor:
            parts = zip(has_factors, (scores.factors, scores.context), strict=True)
            return torch.cat([part for given, part in parts if given], -1).flatten(1)

        def score(tile: slice) -> Fill:
            of_users = of_side("user", users[tile])
            if context is not None:
                own = torch.from_numpy(context[tile]).to(device, torch.float32)
                of_users = network.in_context(of_users, own)
            user_bias = of_users.bias.mean(-1)

            def fill(columns: slice, out: Tensor) -> None:
                torch.add(user_bias[:, None], item_bias[columns], out=out)
                if any(has_factors):
                    # The inner product of concatenated members is the sum over them.
                    p, q = factors(of_users), factors(of_items)[columns]
                    out.addmm_(p, q.T, alpha=1 / shape.n_members)
                if shape.n_embedding:
                    self._add_perceptron(network, of_users, of_items, columns, out)

            return fill

        return score

    def _add_perceptron(
        self,
        network: NeuMF,
        users: SideScores,
        items: SideScores,
        columns: slice,
        out: Tensor,
    ) -> None:
        """Add scores of the perceptron, in tiles of pairs."""
        n_pairs = max(1, TILE_SIZE // self._width)
        width = max(1, min(n_pairs, out.shape[1]))
        height = n_pairs // width
        for hidden, part in zip(
            items.hidden[columns].split(width), out.split(width, dim=1), strict=True
        ):
            for some, piece in zip(
                users.hidden[:, None].split(height), part.split(height), strict=True
            ):
                scores = network.perceptron(some + hidden).mean(-1)
                piece += scores.view(piece.shape)

    @property
    def _width(self) -> int:
        """Largest number of entries of a layer for one pair, over all members."""
        sizes = self.shape.n_factors, *self.shape.hidden_layer_sizes, 1
        return self.shape.n_members * max(sizes)

    def score_units(self, users: np.ndarray) -> tuple[float, np.ndarray]:
        return self.units.scale, np.full(len(users), self.units.centre)

    def index_vectors(self, side: SideName, rows: np.ndarray) -> np.ndarray:
        if self.shape.n_embedding:
            raise ValueError(
                "Scores of a perceptron are not inner products; index vectors need a "
                "fit with architecture='gmf'."
            )
        width = self.shape.n_members * self.shape.n_factors
        factors = self.weights[f"{side}_factors"][rows].reshape(len(rows), width)
        bias = self.weights[f"{side}_bias"][rows].mean(axis=1, keepdims=True)
        ends = [bias, np.ones_like(bias)]
        scale = np.float32(np.sqrt(self.shape.n_members))
        return np.hstack(
            [factors / scale, *(ends if side == "user" else reversed(ends))]
        )

    def profiles(
        self, side: SideName, n_cold: int, device: torch.device
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores with some rows of the other side, centred by row and column.

        Columns are centred at the mean of the rows that are numbered.
        """
        users, items = np.arange(self.shape.n_users), np.arange(self.shape.n_items)
        n_known = (len(items) if side == "item" else len(users)) - n_cold
        rows = np.concatenate([np.arange(n_known), -2 - np.arange(n_cold)])
        if side == "item":
            users, items = _spaced(users), rows
        else:
            users, items = rows, _spaced(items)
        scores = torch.empty(len(users), len(items), device=device)
        self.scorer(users, items, device)(slice(None))(slice(None), scores)
        profiles = (scores.T if side == "item" else scores).double().cpu().numpy()
        least = MIN_SIGNAL * np.abs(profiles[:n_known]).max()
        profiles -= profiles[:n_known].mean(axis=0)
        profiles -= profiles.mean(axis=1, keepdims=True)
        lengths = np.linalg.norm(profiles, axis=1)
        is_negligible = np.abs(profiles).max(axis=1) < least
        lengths[is_negligible | (lengths == 0)] = np.inf
        return profiles.astype(np.float32), lengths.astype(np.float32)


@dataclass(frozen=True)
class NetworkInContext(Model):
    """A network whose rows are those who ask, each in a context.

    Attributes
    ----------
    network : FittedNetwork
    rows : ndarray of shape (n_asking,)
        Row in the network of each.
    context : ndarray of shape (n_asking, n_context)
    """

    network: FittedNetwork
    rows: np.ndarray
    context: np.ndarray
    objective: Objective
    rating_range: tuple[float, float]

    def predict(
        self,
        users: np.ndarray,
        items: np.ndarray,
        context: np.ndarray,
        return_std: bool,
        device: torch.device,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        own = self.rows[users], items, self.context[users]
        return self.network.predict(*own, return_std, device)

    def scorer(
        self, users: np.ndarray, items: np.ndarray, device: torch.device
    ) -> Callable[[slice], Fill]:
        return self.network.scorer_of(
            self.rows[users], self.context[users], items, device
        )

    def score_units(self, users: np.ndarray) -> tuple[float, np.ndarray]:
        return self.network.score_units(self.rows[users])


class NetworkConversion(Conversion[FittedNetwork]):
    """Conversion of a FittedNetwork, which has the weights themselves."""

    def shape(self, model: FittedNetwork) -> Shape:
        return model.shape

    def weights(
        self, model: FittedNetwork, users: np.ndarray, items: np.ndarray
    ) -> Weights:
        return _of_rows(model.weights, users, items)

    def model(
        self,
        weights: Weights,
        shape: Shape,
        data: Interactions,
        units: Units,
        objective: Objective,
        rating_range: tuple[float, float],
    ) -> FittedNetwork:
        value_weights = tuple(data.value_weights)
        return FittedNetwork(
            shape, weights, units, objective, rating_range, value_weights
        )

    def updated(
        self,
        model: FittedNetwork,
        tables: dict[str, Weights],
        further: FurtherRows,
        rating_range: tuple[float, float],
    ) -> FittedNetwork:
        weights = model.weights.copy()
        for side, growth in zip(TABLES, further.growths, strict=True):
            for name, rows in tables[side].items():
                # The row of unseen users or items stays the last.
                weights[name] = growth.inserted(weights[name])
                weights[name][growth.given] = rows
        for side, growth in zip(TABLES, reversed(further.growths), strict=True):
            for name in _of_counterparts(weights, side):
                weights[name] = growth.inserted(weights[name])
        n_users, n_items = (len(growth.ids) for growth in further.growths)
        shape = replace(model.shape, n_users=n_users, n_items=n_items)
        return replace(
            model,
            shape=shape,
            weights=weights,
            rating_range=rating_range,
        )


def _of_rows(weights: Weights, users: np.ndarray, items: np.ndarray) -> Weights:
    """Weights whose tables have the numbered rows, then the unseen row.

    Counterparts are of the same numbers; those below 0 have rows of zeros.
    """
    taken = weights.copy()
    for side, rows, counterparts in (("user", users, items), ("item", items, users)):
        for name in weights.keys() & set(KEPT_TABLES[side]):
            taken[name] = weights[name][np.append(rows, -1)]
        for name in _of_counterparts(weights, side):
            taken[name] = weights[name][np.maximum(counterparts, 0)]
            taken[name][counterparts < 0] = 0
    return taken


def _of_counterparts(weights: Weights, side: str) -> list[str]:
    """Names of arrays with a row for each counterpart of a side."""
    return [name for name in weights if name.startswith(f"{side}_implicit_")]


def _spaced(rows: np.ndarray) -> np.ndarray:
    """A part of the rows, at equal distances."""
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), N_PROFILE))
    return rows[chosen.astype(np.int64)]
