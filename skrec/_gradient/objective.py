"""Objective of a training: options, and the penalties and anchors of weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .._data.units import mean_factors
from .._share import Share
from .context import ValuePenalties
from .implicit import PENALTY as IMPLICIT_PENALTY
from .implicit import ImplicitTerm
from .losses import LOSSES
from .network import PLAIN_TABLES, ROW_TABLES, TABLES, NeuMF, implicit_name
from .samples import Samples
from .tables import side_by_side, split_like

# Deviation of residuals, in standard units, below which a penalty follows the noise.
# Residuals of a training are too small where it learns noise, and more so with less
# penalty.
LARGE_NOISE = 0.5

# Least multiple of a penalty that follows the noise, where ratings are exact.
LEAST_MULTIPLE = 0.05

# Growth of the penalty of a row's own part by features of each kind.
DESCRIBED_GROWTH, IMPLICIT_GROWTH = 0.3, 0.8


@dataclass(frozen=True)
class TrainingOptions:
    """Objective and optimizer of a training.

    With W the total weight of all pairs and W_r that of the pairs of row or weight r,
    the objective is::

        (1 / W) (Σ w loss(score, target) + reg Σ_r √W_r ‖r‖²)

    Negatives enter W_r with their expected number, whether seen or not. Rows with many
    pairs are penalised less than by a penalty of each pair, and more than by one of
    each row. Weights of layers are shared by all pairs and penalised alike; biases of
    layers are not penalised.

    Factors of values of context have a penalty that is larger by the square of what
    noise needs (see `context.ValuePenalties`), so that products with them are nothing
    where a column says nothing.

    If a side has features, r is the deviation of a row from its prediction by the
    features. After every epoch, feature weights are a ridge regression of the rows, and
    rows move with their predictions by the share of the penalty in their curvature.
    With implicit features it is the deviation from the term of the counterparts, too,
    whose rows take a step for every fifth of an epoch.

    Attributes
    ----------
    loss : str
        A key of LOSSES.
    n_negatives : int
        Negatives drawn for each sample.
    optimizer : str
        A key of OPTIMIZERS.
    learning_rate : float
        The maximum. It rises linearly for a tenth of the steps, then falls as a cosine.
    batch_size : int
        Samples of a step, negatives not counted.
    n_epochs : int
    reg : float
    dropout : float
    mean : float
        Mean rating without biases, 0 for others. Rows are penalised around a row of
        each side with this product: products of rows near zero are a saddle, and where
        ratings are few the least of penalties.
    follows_noise : bool
        Whether the penalty is smaller than `reg` where residuals are small (see
        `Prior.adapt`).
    effect_penalties : dict of str to ndarray of shape (n_rows,)
        Penalties of the squares of biases by side, in place of reg √W_r; None for
        those. Features of a side raise either (see `own_penalty`).
    """

    loss: str
    n_negatives: int
    optimizer: str
    learning_rate: float
    batch_size: int
    n_epochs: int
    reg: float
    dropout: float = 0.0
    mean: float = 0.0
    follows_noise: bool = False
    effect_penalties: dict[str, np.ndarray] | None = None


class Prior:
    """Penalties of rows and of weights of layers, as `TrainingOptions` states them.

    Rows are penalised by their distance from anchors: predictions of given features,
    terms of counterparts, and rows whose product is the mean rating.

    Parameters
    ----------
    network : NeuMF
    row_weights : dict of str to Tensor
        W_r of users, items and values; 0 in the last row, that of the unseen.
    total : Tensor
        W.
    options : TrainingOptions

    Attributes
    ----------
    penalties : dict of str to Tensor of shape (n_rows + 1,)
        Penalty of a row for each unit of the weight of its pairs, by side.
    anchors : dict of Tensor to Tensor
        By table; tables that are not there have anchors at zero.
    multiple : float
        Multiple of all penalties by the noise, 1 before `adapt`.
    curvature : float
        That of the loss, relative to the squared error.
    shared_penalties : dict of Parameter to float
        Penalties of the weights that all pairs share.
    value_penalties : ValuePenalties
    excess : dict of str to (Parameter, Tensor of shape (n_rows + 1,))
        Biases by side, and their penalties beyond those of rows, relative to these.
    implicit : list of ImplicitTerm
        Of users and of items, if the network has counterparts.
    """

    def __init__(
        self,
        network: NeuMF,
        row_weights: dict[str, Tensor],
        total: Tensor,
        options: TrainingOptions,
    ) -> None:
        self.network, self.options = network, options
        self.row_weights = row_weights
        self.tables = {side: network.tables(ROW_TABLES[side]) for side in ROW_TABLES}
        self.rows = {side: network.rows(side) for side in ROW_TABLES}
        self.curvature = LOSSES[options.loss].relative_curvature
        self.multiple = 1.0
        # A pair of weight w has w / √W_r of the penalty of row r.
        self.penalties = {
            side: self._reg_of_rows(side) * _inverse_root(weight)
            for side, weight in row_weights.items()
        }
        self.gradient_scales = {
            side: 2 * penalty for side, penalty in self.penalties.items()
        }
        self.dense: list[Tensor] = list(network.dense())
        self.dense_penalty = float(options.reg * _inverse_root(total))
        # Of the sizes of the weights, for one kernel that recorded steps can repeat.
        self.dense_gradient_scales = [
            torch.full_like(weight, 2 * self.dense_penalty, requires_grad=False)
            for weight in self.dense
        ]
        self.shared_penalties = dict.fromkeys(network.shared(), 0.0)
        self.shared_penalties |= dict.fromkeys(network.dense(), self.dense_penalty)
        # Drawn items differ between epochs, which do not learn their noise.
        curvature = 1.0 if options.n_negatives else self.curvature
        self.value_penalties = ValuePenalties(network, row_weights, curvature)
        self.excess = self._excess_of_biases()

        self.anchors: dict[Tensor, Tensor] = {}
        # Parts of anchors by given features, by table.
        self.predictions: dict[Tensor, Tensor] = {}
        self.leverages: dict[str, Tensor] = {}
        self._anchor_at_features()
        if options.mean:
            self._anchor_at_mean()
        self.implicit = self._implicit_terms(total)

    @torch.no_grad()
    def penalty(self) -> float:
        """Penalty of rows and of weights of layers, as a mean of the members."""
        total = torch.zeros((), device=self.row_weights["user"].device)
        for side, penalty in self.penalties.items():
            of_side = penalty * self.row_weights[side]
            for table in self.rows[side]:
                squares = self._away(table).square().sum(1)
                total += self.value_penalties.of(table, of_side) @ squares
            if side in self.excess:
                bias, excess = self.excess[side]
                total += (of_side * excess) @ self._away(bias).square().sum(1)
        total /= self.row_weights["user"].sum()
        for weight in self.dense:
            total += self.dense_penalty * weight.square().sum()
        return float(total) / self.network.shape.n_members

    @torch.no_grad()
    def add_gradients(self, weights: dict[str, Tensor]) -> None:
        """Add the gradient of the penalty, of rows by their weights in a batch."""
        for side, weight in weights.items():
            of_side = weight * self.gradient_scales[side]
            for table in self.rows[side]:
                scale = self.value_penalties.of(table, of_side)[:, None]
                gradient_of(table).flatten(1).addcmul_(scale, self._away(table))
            if side in self.excess:
                bias, excess = self.excess[side]
                scale = (of_side * excess)[:, None]
                gradient_of(bias).addcmul_(scale, self._away(bias))
        if self.dense:
            gradients = [gradient_of(parameter) for parameter in self.dense]
            torch._foreach_addcmul_(gradients, self.dense, self.dense_gradient_scales)

    @torch.no_grad()
    def adapt(self, noise: Tensor) -> None:
        """Penalties by the deviation of the noise.

        A penalty of both factors of a product is a threshold of singular values, and
        those of noise are in proportion to its deviation. A larger one shrinks products
        of nearly exact ratings for nothing, and a smaller one lets them learn noise.
        """
        if self.options.follows_noise:
            relative = float(noise) / (self.curvature * LARGE_NOISE)
            multiple = min(max(relative, LEAST_MULTIPLE), 1.0)
            # In place, where recorded steps read them.
            tables = [*self.penalties.values(), *self.gradient_scales.values()]
            change = multiple / self.multiple
            torch._foreach_mul_([*tables, *self.dense_gradient_scales], change)
            self.dense_penalty *= change
            for term in self.implicit:
                term.penalty *= change
            self.multiple = multiple
        self.value_penalties.adapt(noise / self.multiple)

    @torch.no_grad()
    def update_implicit(self, kept: Tensor | None) -> None:
        """Move rows with their implicit terms by the pairs that are kept."""
        for term in self.implicit:
            changes = term.update(kept)
            for table, change in zip(term.tables, changes, strict=True):
                table[:-1] += change
                self.anchors[table][:-1] += change

    @torch.no_grad()
    def update_feature_weights(self, side: str) -> None:
        """Fit feature weights to the rows, and move rows with their predictions."""
        described = self.network.described_tables(side)
        row_weight = self.row_weights[side][:-1]
        # Without their implicit terms.
        rows = [
            table[:-1] - self.anchors[table][:-1] + self.predictions[table]
            for table, _ in described
        ]
        fitted = self.network.row_features(side).ridge(
            side_by_side(rows),
            row_weight.sqrt(),
            side_by_side(weights for _, weights in described),
        )
        # Share of the penalty in the curvature of a row.
        penalty = self.penalties[side][:-1]
        share = torch.where(row_weight > 0, penalty / (self.curvature + penalty), 1)
        parts = split_like(fitted, [weights for _, weights in described])
        for (table, weights), part, own in zip(described, parts, rows, strict=True):
            weights.copy_(part)
            predicted = self.predicted_rows(side, weights, own)
            change = predicted - self.predictions[table]
            table[:-1].flatten(1).addcmul_(share[:, None], change.flatten(1))
            self.anchors[table][:-1] += change
            self.predictions[table] = predicted

    @torch.no_grad()
    def predicted_rows(
        self, side: str, weights: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """Rows of a table predicted from features, by the weights of other `rows`.

        They are zero on average, as the prior mean of rows without features. Where
        features are many, a ridge regression reproduces a row by features of its own,
        so that its penalty would be for nothing. The prediction of others than
        itself follows from its leverage.
        """
        share = self.row_weights[side][:-1].sqrt()
        share = (share / share.sum())[:, None]
        predicted = self.network.row_features(side).times(weights.flatten(1))
        if rows is not None:
            rows, leverage = rows.flatten(1), self.leverages[side]
            away = rows - (share * rows).sum(0)
            predicted = (predicted - leverage * away) / (1 - leverage)
        predicted -= (share * predicted).sum(0)
        return predicted.view(-1, *weights.shape[1:])

    def _reg_of_rows(self, side: str) -> float:
        is_described = side in self.network.features
        has_implicit = side != "value" and self.network.shape.implicit_features
        return self.options.reg * own_penalty(is_described, has_implicit)

    def _excess_of_biases(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Biases by side, and `effect_penalties` beyond the penalties of rows."""
        excess: dict[str, tuple[Tensor, Tensor]] = {}
        for side, given in (self.options.effect_penalties or {}).items():
            weight = self.row_weights[side]
            penalty = self.curvature * F.pad(torch.as_tensor(given).to(weight), (0, 1))
            of_rows = self.options.reg * weight.sqrt()
            ratio = torch.where(weight > 0, penalty / of_rows, 1)
            excess[side] = self.network.get_parameter(f"{side}_bias"), ratio - 1
        return excess

    def _away(self, table: Tensor) -> Tensor:
        """Rows of a table less their anchors."""
        anchor = self.anchors.get(table)
        away = table if anchor is None else table - anchor
        return away.flatten(1)

    def _anchor_at_features(self) -> None:
        """Anchors of sides with features, at the predictions of given ones."""
        network = self.network
        for side in TABLES:
            if side in network.features or network.counterparts is not None:
                self._anchor_at_zero(side)
        for side in network.features:
            weight = self.row_weights[side][:-1].sqrt()
            self.leverages[side] = network.row_features(side).leverages(weight)[:, None]
            for table, weights in network.described_tables(side):
                predicted = self.predicted_rows(side, weights)
                self.predictions[table] = predicted
                self.anchors[table][:-1] = predicted

    def _anchor_at_mean(self) -> None:
        """Add rows with the product `options.mean` to the anchors of factors."""
        for side, centre in mean_factors(self.options.mean)._asdict().items():
            if self.rows[side][0] not in self.anchors:
                self._anchor_at_zero(side)
            (table,) = self.network.tables([f"{side}_factors"])
            self.anchors[table][..., 0] += centre

    def _anchor_at_zero(self, side: str) -> None:
        """Anchors of the tables of a side, which are views where these are."""
        for table in self.rows[side]:
            self.anchors[table] = torch.zeros_like(table, requires_grad=False)
        if side in self.network.joined:
            tables = self.tables[side]
            whole = self.anchors[self.network.joined[side]]
            self.anchors |= zip(tables, split_like(whole, tables), strict=True)

    def _implicit_terms(self, total: Tensor) -> list[ImplicitTerm]:
        """Terms of the rows of each side by their counterparts, at their start."""
        counterparts = self.network.counterparts
        reg, implicit = IMPLICIT_PENALTY * self.options.reg, []
        if counterparts is None:
            return []
        for side in TABLES:
            tables = self.network.tables(PLAIN_TABLES[side])
            row_weight = self.row_weights[side][:-1]
            term = ImplicitTerm(
                counterparts,
                side,
                tables,
                self.network.tables(map(implicit_name, PLAIN_TABLES[side])),
                float(reg * row_weight.sqrt().mean() / total),
                self.curvature * row_weight / total,
            )
            for table, part in zip(tables, term.update(None), strict=True):
                self.anchors[table][:-1] += part
            implicit.append(term)
        return implicit


def weights_of_rows(
    network: NeuMF, samples: Samples, n_negatives: int, share: Share
) -> dict[str, Tensor]:
    """W_r of users, of items and of values; the last row, of the unseen, has 0."""
    n, shape = n_negatives, network.shape
    users = torch.zeros(shape.n_users).to(samples.weight)
    users.index_add_(0, samples.users, (1 + n) * samples.weight)
    items = torch.zeros(shape.n_items).to(samples.weight)
    items += n * samples.weight.sum() / shape.n_items
    items.index_add_(0, samples.items, samples.weight)
    weights = {"user": users, "item": items}
    if shape.n_values:
        weights["value"] = values = torch.zeros(shape.n_rows("value")).to(users)
        for rows in network.value_rows(samples.context).unbind(-1):
            values.index_add_(0, rows, (1 + n) * samples.weight)
    added = share.add_up(list(weights.values()))
    return {
        side: F.pad(weight, (0, 1)) for side, weight in zip(weights, added, strict=True)
    }


def own_penalty(is_described: bool, has_implicit: bool) -> float:
    """Penalty of the rows' own parts, relative to that of rows without features.

    Features add to the variance that is expected of rows, which their own parts lose.
    """
    return 1 + DESCRIBED_GROWTH * is_described + IMPLICIT_GROWTH * has_implicit


def _inverse_root(weight: Tensor) -> Tensor:
    return torch.where(weight > 0, weight.rsqrt(), 0)


def gradient_of(parameter: Tensor) -> Tensor:
    """The gradient of a backward pass that has been made."""
    assert parameter.grad is not None
    return parameter.grad
