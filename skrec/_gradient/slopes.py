"""Slopes of users and items in numbers of context, by regression of residuals.

The score of user u and item i has the terms x (β_u + γ_i) for each standardised number
x, with slopes that all members share. Steps of an optimizer would leave noise in slopes
that are nothing, so they take a step of their own after every epoch: given all else,
the slope of a row and its bias minimise the objective, on parabolas of the losses. That
is a ridge regression for each row.

The penalty of slopes is that of a Gaussian prior, σ² / τ for noise of variance σ², and
the variance τ is the one of the largest evidence. So slopes that are nothing become
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .._share import Share
from .losses import LOSSES, weighted_derivatives
from .network import SLOPE_TABLES, TABLES, NeuMF
from .objective import Prior
from .samples import Sampler, Samples

# Samples of a tile of residuals.
TILE_SIZE = 2**14

# Smallest variance of the noise, where residuals are none.
MIN_NOISE = 1e-12

# Precisions 1 / τ among which evidence chooses, and a prior of τ, worth one row. Slopes
# of standardised numbers are smaller than biases, and each lasts for all ratings of a
# row.
PRECISIONS = 10.0 ** torch.arange(-1, 6.01, 0.25, dtype=torch.float64)
PRIOR_VARIANCE = 1e-3


@dataclass(frozen=True)
class Residuals:
    """Weighted residuals of samples with negatives, on parabolas of the losses.

    Drawn items are many, so items have four bytes, and sums are over tiles.

    Attributes
    ----------
    users : Tensor of shape (n,)
    items : Tensor of shape (n, 1 + n_negatives)
    numbers : Tensor of shape (n, n_columns)
        Context.
    weight : Tensor of shape (n, 1 + n_negatives)
        Curvature of the loss of a score, relative to that of the squared error of a
        sample of weight 1.
    descent : Tensor of shape (n, 1 + n_negatives)
        `weight` times the distance of a score from the minimum of its parabola.
    share : Share
    """

    users: Tensor
    items: Tensor
    numbers: Tensor
    weight: Tensor
    descent: Tensor
    share: Share

    @classmethod
    def joined(
        cls, tiles: Iterable[tuple[Samples, Tensor, Tensor]], share: Share
    ) -> Residuals:
        """Those of tiles of samples, with weights and descents."""
        parts = [
            (part.users, part.items.int(), part.context, weight, descent)
            for part, weight, descent in tiles
        ]
        users, items, numbers, weight, descent = map(
            torch.cat, zip(*parts, strict=True)
        )
        return cls(users, items, numbers, weight, descent, share)

    def noise_variance(self) -> Tensor:
        """Mean square of the residuals."""
        tiny = torch.finfo(self.weight.dtype).tiny
        total = torch.zeros(2, device=self.weight.device, dtype=torch.float64)
        for tile in self._tiles():
            weight, descent = self.weight[tile].double(), self.descent[tile].double()
            square = descent.square() / weight.clamp_min(tiny)
            total += torch.stack([square.sum(), weight.sum()])
        square, weight = self.share.sum(total)
        return (square / weight.clamp_min(tiny)).clamp_min(MIN_NOISE)

    def moments(self, side: str, column: int, n_rows: int) -> list[Tensor]:
        """Σ w, Σ w x, Σ w x², Σ d and Σ d x of each row, for descents d."""
        sums = torch.zeros(n_rows, 5, device=self.weight.device, dtype=torch.float64)
        for tile in self._tiles():
            x = self.numbers[tile, column, None].double()
            weight, descent = self.weight[tile], self.descent[tile]
            weighted = weight * x
            values = [
                weight.double(),
                weighted,
                weighted * x,
                descent.double(),
                descent * x,
            ]
            rows = self._rows(side, tile).flatten()
            sums.index_add_(0, rows, torch.stack(values, -1).flatten(0, 1))
        return self.share.add_up(list(sums.unbind(1)))

    def subtract(self, side: str, constant: Tensor, slope: Tensor, column: int) -> None:
        """Change the residuals by constant + x · slope of each row."""
        for tile in self._tiles():
            rows = self._rows(side, tile)
            x = self.numbers[tile, column, None]
            own, by_number = (
                part.index_select(0, rows.flatten()).view(rows.shape)
                for part in (constant, slope)
            )
            change = torch.addcmul(own, by_number, x)
            self.descent[tile].sub_(self.weight[tile] * change)

    def _tiles(self) -> Iterator[slice]:
        for start in range(0, len(self.users), TILE_SIZE):
            yield slice(start, start + TILE_SIZE)

    def _rows(self, side: str, tile: slice) -> Tensor:
        if side == "item":
            return self.items[tile]
        weight = self.weight[tile]
        return self.users[tile, None].expand(weight.shape)


@dataclass(frozen=True)
class RowRegressions:
    """Ridge regression of the residuals of each row on a constant and a number x.

    The constant is the own part b of a bias, with the penalty λ₀ b², and x has the
    slope β, with the penalty λ β². They minimise

        Σ w (r − b − x β)² + λ₀ b² + λ β²

    for residuals r without both.

    Attributes
    ----------
    weight : Tensor of shape (n_rows,)
        Σ w + λ₀; infinite without biases.
    first : Tensor of shape (n_rows,)
        Σ w x.
    total : Tensor of shape (n_rows,)
        Σ w r.
    square, product : Tensor of shape (n_rows,)
        Σ w x² and Σ w x r given the constant.
    """

    weight: Tensor
    first: Tensor
    total: Tensor
    square: Tensor
    product: Tensor

    @classmethod
    def of(
        cls, moments: Sequence[Tensor], penalty: Tensor, bias: Tensor, slope: Tensor
    ) -> RowRegressions:
        """By moments of residuals that are without the present bias and slope."""
        g0, g1, g2, h0, h1 = moments
        h0 = h0 + g0 * bias + g1 * slope
        h1 = h1 + g1 * bias + g2 * slope
        weight = (g0 + penalty).clamp_min(torch.finfo(g0.dtype).tiny)
        square = (g2 - g1.square() / weight).clamp_min(0)
        return cls(weight, g1, h0, square, h1 - g1 * h0 / weight)

    def likeliest_penalty(self, noise_variance: Tensor) -> Tensor:
        """The λ of the largest evidence, for Gaussian noise and slopes."""
        found = []
        for precision in PRECISIONS:
            penalty = noise_variance * precision
            A = self.square + penalty
            # Twice the logarithm, up to a constant.
            value = (self.product.square() / (noise_variance * A)).sum()
            value += (penalty / A).log().sum()
            found.append(value + precision.log() - PRIOR_VARIANCE * precision)
        likeliest = PRECISIONS.to(noise_variance)[torch.stack(found).argmax()]
        return noise_variance * likeliest

    def slopes(self, penalty: Tensor) -> Tensor:
        """Slopes of the rows."""
        return self.product / (self.square + penalty)

    def constants(self, step: Tensor) -> Tensor:
        """Changes of the constants that are due to those of slopes."""
        return -self.first * step / self.weight


class SlopeStep:
    """Step of the slopes of rows in numbers of context, by all residuals."""

    def __init__(
        self, network: NeuMF, sampler: Sampler, loss: str, prior: Prior
    ) -> None:
        self.network, self.sampler = network, sampler
        self.loss, self.prior = loss, prior

    @torch.no_grad()
    def __call__(self) -> None:
        tiles = map(self._on_parabolas, self.sampler.tiles(TILE_SIZE))
        residuals = Residuals.joined(tiles, self.sampler.share)
        update_slopes(self.network, residuals, self._penalties(), self.prior.anchors)

    def _penalties(self) -> dict[str, Tensor]:
        """Penalties of the biases of each side that has slopes."""
        prior, penalties = self.prior, {}
        for side in TABLES:
            if side == "item" or self.loss != "bpr":
                weight = prior.row_weights[side][:-1].double()
                penalty = prior.penalties[side][:-1] * weight / prior.curvature
                if self.loss == "bpr":
                    penalty /= self._mean_target
                is_biased = self.network.shape.biased
                penalties[side] = penalty if is_biased else penalty + torch.inf
        return penalties

    def _on_parabolas(self, part: Samples) -> tuple[Samples, Tensor, Tensor]:
        """Samples with the weights and the descents of their scores."""
        curvature = self.prior.curvature
        score = self.network(part.users, part.items, part.context)
        derivative = weighted_derivatives(
            self.loss, score, part.target[..., None], part.weight[..., None]
        ).mean(-1)
        weight, descent = part.weight, derivative / (-2 * curvature)
        if self.loss == "absolute_error":
            # No parabola of one curvature is above this loss near its kink.
            of_scores = LOSSES[self.loss].curvature(score, part.target[..., None])
            weight = weight * of_scores.mean(-1) / (2 * curvature)
        if self.loss == "bpr":
            # An item is compared with each drawn one, as its target weighs it.
            of_drawn = weight[:, 1:] * part.target[:, :1] / self._mean_target
            weight = torch.cat([of_drawn.sum(1, keepdim=True), of_drawn], dim=1)
            descent = descent / self._mean_target
        return part, weight, descent

    @cached_property
    def _mean_target(self) -> float:
        """Mean target of the samples by their weights."""
        samples = self.sampler.samples
        sums = [(samples.weight * samples.target).sum(), samples.weight.sum()]
        sums = self.sampler.share.add_up(sums)
        return float(sums[0] / sums[1])


@torch.no_grad()
def update_slopes(
    network: NeuMF,
    residuals: Residuals,
    penalties: dict[str, Tensor],
    anchors: dict[Tensor, Tensor],
) -> None:
    """A step of the slopes, and of the biases, of each column and side in turn.

    Parameters
    ----------
    network : NeuMF
    residuals : Residuals
        They change with the scores.
    penalties : dict of str to Tensor of shape (n_rows,)
        Penalty of a bias, by side; without users if only items are compared, whose
        scores have the rest in common.
    anchors : dict of Tensor to Tensor
        Prior means of the rows of a table; 0 for tables that are not there.
    """
    noise_variance = residuals.noise_variance()
    for column in range(network.shape.n_context):
        for side, penalty in penalties.items():
            slopes = network.get_parameter(SLOPE_TABLES[side])[:-1, column]
            biases = network.tables([f"{side}_bias"])
            own = torch.zeros_like(slopes)
            for bias in biases:
                own = (bias - anchors.get(bias, 0)).mean(1)[:-1]
            moments = residuals.moments(side, column, len(slopes))
            rows = RowRegressions.of(moments, penalty, own, slopes)
            slope = rows.slopes(rows.likeliest_penalty(noise_variance))
            step = (slope - slopes).to(slopes)
            change = rows.constants(slope - slopes).to(slopes)
            residuals.subtract(side, change, step, column)
            slopes += step
            for bias in biases:
                bias[:-1] += change[:, None]
            if "user" in penalties:
                # Their mean is a part of the linear term.
                is_given = moments[0] > 0
                mean = (slopes * is_given).sum() / is_given.sum()
                slopes -= mean * is_given
                network.coef[:, column] += mean
