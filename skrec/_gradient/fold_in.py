"""Fold-in: rows of a network learn from new pairs by damped Newton steps.

Given the other side and the shared weights, each row has a small problem of its own.
The past of a row is a Gaussian around its last value (Laplace's approximation), with
the curvature of the past losses as its precision. No learning rate is needed, and no
step raises the objective of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .._threads import torch_threads
from .losses import LOSSES
from .network import KEPT_TABLES, PLAIN_TABLES, TABLES, NeuMF, Shape, is_of_rows
from .objective import own_penalty
from .terms import FoldInProblem, Terms, TermSampler

# Epochs with negatives end before rows reach the minimum of their objective. Rows that
# do reach it are as accurate with the penalty multiplied by this factor.
REG_FACTOR_WITH_NEGATIVES = 2.0

# Sweeps end when one lowers the objective by less than this per unit of weight.
TOL = 3e-3

# Halvings of a step that raises the objective of a row, before the row stays.
MAX_HALVINGS = 6

# Multiple of the mean curvature that keeps the curvature invertible.
MIN_CURVATURE = 1e-5

# Number of entries of a tile of outer products.
TILE_SIZE = 2**22


@dataclass(frozen=True)
class RowPrior:
    """Penalty of rows x: (x - start)ᵀ precision (x - start) + Σ reg (x - mean)².

    The first part stands for the past of a row and its penalty in training. The second
    is the growth of the penalty with the weight of the new pairs.

    Attributes
    ----------
    start : Tensor of shape (n_rows, n_members, row_size)
    precision : Tensor of shape (n_rows, n_members, row_size, row_size)
    mean : Tensor of shape (n_rows, n_members, row_size)
    reg : Tensor of shape (n_rows, 1, row_size)
    """

    start: Tensor
    precision: Tensor
    mean: Tensor
    reg: Tensor

    def penalty(self, rows: Tensor) -> Tensor:
        """Penalty of each row and member."""
        away = rows - self.start
        held = torch.einsum("tmi,tmij,tmj->tm", away, self.precision, away)
        return held + (self.reg * (rows - self.mean).square()).sum(-1)

    def add_derivatives(
        self, rows: Tensor, gradient: Tensor, curvature: Tensor
    ) -> None:
        """Add the gradient and the curvature of the penalty in place."""
        away = rows - self.start
        gradient += 2 * torch.einsum("tmij,tmj->tmi", self.precision, away)
        gradient += 2 * self.reg * (rows - self.mean)
        curvature += 2 * self.precision
        curvature.diagonal(dim1=-2, dim2=-1).add_(2 * self.reg)


class FoldIn:
    """Newton steps on the rows of users and items that new pairs meet.

    Parameters
    ----------
    shape : Shape
        Sizes of the network.
    gather : callable
        Maps numbers of users and of items to weights, whose tables hold these rows and
        behind them the row of the unseen. Those of features tell which sides are
        described: their known rows shrink to where they are, those of other sides to
        the row of the unseen.
    problem : FoldInProblem
    rng : RandomState
    device : torch.device
    """

    def __init__(
        self,
        shape: Shape,
        gather: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]],
        problem: FoldInProblem,
        rng: np.random.RandomState,
        device: torch.device,
    ) -> None:
        self.shape, self.problem, self.device = shape, problem, device
        self.loss = LOSSES["log_loss" if problem.is_pairwise else problem.loss]
        self.rows = {side: problem.rows(side) for side in TABLES}
        sampler = TermSampler(problem, self.rows, rng)
        new = [sampler.new_terms(side) for side in TABLES]
        past = [sampler.past_terms(side) for side in TABLES]

        numbers = [torch.as_tensor(self.rows[side].numbers) for side in TABLES]
        terms = [*new, *past]
        users = torch.cat([numbers[0], *(t.users for t in terms)]).unique()
        items = torch.cat([numbers[1], *(t.items.ravel() for t in terms)]).unique()
        gathered = gather(users.numpy(), items.numpy())
        self.described = {side: f"{side}_feature_mean" in gathered for side in TABLES}
        self.weights = {
            name: torch.as_tensor(np.require(value, requirements="W"), device=device)
            for name, value in gathered.items()
            if not is_of_rows(name)
        }
        self.places = {
            side: torch.searchsorted(among, own).to(device)
            for side, among, own in zip(TABLES, (users, items), numbers, strict=True)
        }
        new, past = (
            [t.renumbered(users, items, device) for t in part] for part in (new, past)
        )
        self.terms = dict(zip(TABLES, new, strict=True))
        self.total = float(self.terms["user"].weight.sum()) or 1.0
        self.priors = {
            side: self._prior(side, of_past)
            for side, of_past in zip(TABLES, past, strict=True)
        }

    def sweep(self) -> tuple[float, bool]:
        """Update users, then items. Returns the mean loss, and whether to stop."""
        # A step is many small operations, in which threads wait for each other.
        with torch_threads(1):
            loss, fall_of_users = self._step("user")
            _, fall_of_items = self._step("item")
        return loss, fall_of_users + fall_of_items < TOL

    def updated(self, side: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Tables of numbered rows, which must be among the updated ones."""
        among_updated = np.searchsorted(self.rows[side].numbers, rows)
        places = self.places[side].cpu().numpy()[among_updated]
        return {
            name: self.weights[name].cpu().numpy()[places]
            for name in self.weights.keys() & set(KEPT_TABLES[side])
        }

    def _prior(self, side: str, past: Terms) -> RowPrior:
        """Penalty of the rows of a side at their first values."""
        rows = self.rows[side]
        of_past, of_new = self.problem.pair_weights(side, rows)
        past_reg, reg = (
            self._penalties(side, weight) for weight in (of_past, of_past + of_new)
        )
        start = mean = self._read(side)
        if not (self.described[side] or self.shape.implicit_features):
            # New rows start at their prior mean.
            is_new = torch.as_tensor(rows.is_new, device=self.device)
            unseen = self._side_by_side(side, slice(-1, None))
            mean = torch.where(is_new[:, None, None], start, unseen)
        with torch_threads(1):
            precision = self._expected_curvature(side, past) / 2
        precision.diagonal(dim1=-2, dim2=-1).add_(past_reg)
        return RowPrior(start, precision, mean, reg - past_reg)

    def _penalties(self, side: str, weight: np.ndarray) -> Tensor:
        """Penalties of rows whose pairs have these weights, as those of a training.

        Shape (n_rows, 1, row_size).
        """
        problem, size = self.problem, self._read(side).shape[-1]
        penalties = np.repeat(problem.reg * np.sqrt(weight)[:, None], size, axis=1)
        if problem.bias_penalties is not None:
            of_biases = dict(zip(TABLES, problem.bias_penalties, strict=True))
            penalties[:, -1] = np.where(weight > 0, of_biases[side], 0)
        penalties *= own_penalty(self.described[side], self.shape.implicit_features)
        if problem.n_negatives:
            penalties *= REG_FACTOR_WITH_NEGATIVES
        return torch.as_tensor(penalties, device=self.device).float()[:, None]

    def _tables(self, side: str) -> list[str]:
        """Tables that learn; the context of past pairs is not kept."""
        return [name for name in PLAIN_TABLES[side] if name in self.weights]

    def _side_by_side(self, side: str, rows: Tensor | slice) -> Tensor:
        """Rows of all tables of a side, of shape (n_rows, n_members, row_size)."""
        return _concatenated([self.weights[name][rows] for name in self._tables(side)])

    def _read(self, side: str) -> Tensor:
        return self._side_by_side(side, self.places[side])

    def _write(self, side: str, rows: Tensor) -> None:
        tables = [self.weights[name] for name in self._tables(side)]
        sizes = [table[0, 0].numel() for table in tables]
        for table, part in zip(tables, rows.split(sizes, dim=-1), strict=True):
            table[self.places[side]] = part.reshape(len(part), *table.shape[1:])

    def _network(self, terms: Terms) -> NeuMF:
        """Network whose tables have a row for each user and each item of a term."""
        weights = dict(self.weights)
        for side, rows in (("user", terms.users), ("item", terms.items.flatten())):
            for name in weights.keys() & set(KEPT_TABLES[side]):
                weights[name] = weights[name][rows]
        n_users, n_items = len(terms), terms.items.numel()
        return NeuMF(replace(self.shape, n_users=n_users, n_items=n_items), weights)

    def _scores(self, network: NeuMF, terms: Terms) -> Tensor:
        """Scores of terms, of shape (n, n_members)."""
        items = torch.arange(terms.items.numel(), device=self.device)
        items = items.view(terms.items.shape)
        scores = network(items[:, 0] // items.shape[1], items, terms.context)
        if not self.problem.is_pairwise:
            return scores[:, 0]
        return terms.sign[:, None] * (scores[:, 0] - scores[:, 1])

    def _linearised(
        self, side: str, terms: Terms
    ) -> Iterator[tuple[Terms, Tensor, Tensor]]:
        """Tiles of terms, with their scores and Jacobians by the rows of a side."""
        names = self._tables(side)
        size = sum(self.weights[name][0, 0].numel() for name in names)
        for tile in terms.tiles(max(1, TILE_SIZE // (self.shape.n_members * size))):
            network = self._network(tile)
            with torch.enable_grad():
                score = self._scores(network, tile)
                jacobian = torch.autograd.grad(score.sum(), network.tables(names))
            # The row of a comparison is its first item.
            n_each = 1 if side == "user" else tile.items.shape[1]
            yield tile, score.detach(), _concatenated([j[::n_each] for j in jacobian])

    def _add_by_row(self, total: Tensor, terms: Terms, values: Tensor) -> None:
        # Values of a tile are summed first, so that rounding depends on tiles alone.
        total += torch.zeros_like(total).index_add_(0, terms.row, values)

    @torch.no_grad()
    def _losses(self, side: str, terms: Terms) -> Tensor:
        """Sum of the losses of each row and member."""
        members = self.shape.n_members
        total = torch.zeros(len(self.places[side]), members, device=self.device)
        for tile in terms.tiles(max(1, TILE_SIZE // (16 * members))):
            score = self._scores(self._network(tile), tile)
            loss = self.loss.value(score, tile.target[:, None])
            self._add_by_row(total, tile, tile.weight[:, None] * loss)
        return total

    def _expand(self, side: str, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of rows, with their gradients and curvatures."""
        gradient = torch.zeros_like(self._read(side))
        loss, curvature = gradient.new_zeros(gradient.shape[:2]), _squares_of(gradient)
        for tile, score, jacobian in self._linearised(side, terms):
            target, weight = tile.target[:, None], tile.weight[:, None]
            value = self.loss.value(score, target)
            self._add_by_row(loss, tile, weight * value)
            derivative = weight * self.loss.derivative(score, target)
            self._add_by_row(gradient, tile, derivative[..., None] * jacobian)
            weight = weight * self.loss.curvature(score, target)
            _add_squares(curvature, tile.row, weight.sqrt()[..., None] * jacobian)
        return loss, gradient, curvature

    def _expected_curvature(self, side: str, terms: Terms) -> Tensor:
        """Curvature of the losses of rows without knowledge of their targets."""
        curvature = _squares_of(self._read(side))
        for tile, score, jacobian in self._linearised(side, terms):
            weight = tile.weight[:, None] * self.loss.expected_curvature(score)
            _add_squares(curvature, tile.row, weight.sqrt()[..., None] * jacobian)
        return curvature

    def _step(self, side: str) -> tuple[float, float]:
        """Update the rows of a side. Returns their mean loss, and its fall."""
        rows, prior = self._read(side), self.priors[side]
        loss, gradient, curvature = self._expand(side, self.terms[side])
        prior.add_derivatives(rows, gradient, curvature)
        diagonal = curvature.diagonal(dim1=-2, dim2=-1)
        diagonal += MIN_CURVATURE * diagonal.mean(-1, keepdim=True)
        factor = torch.linalg.cholesky_ex(curvature).L
        move = torch.cholesky_solve(-gradient[..., None], factor)[..., 0]

        before = loss + prior.penalty(rows)
        after = self._search(side, rows, move, before)
        weight = self.shape.n_members * self.total
        loss = (after - prior.penalty(self._read(side))).sum()
        return float(loss) / weight, float((before - after).sum()) / weight

    def _search(self, side: str, rows: Tensor, move: Tensor, before: Tensor) -> Tensor:
        """Move rows, with halved steps where the objective would rise.

        Returns the objective of each row and member afterwards.
        """
        after, length = before.clone(), torch.ones_like(before)
        terms, is_worse = self.terms[side], torch.ones_like(before, dtype=torch.bool)
        for _ in range(MAX_HALVINGS):
            moved = rows + length[..., None] * move
            self._write(side, moved)
            found = self._losses(side, terms) + self.priors[side].penalty(moved)
            is_better = is_worse & (found <= before)
            after = torch.where(is_better, found, after)
            is_worse &= ~is_better
            if not is_worse.any():
                break
            length = torch.where(is_worse, length / 2, length)
            terms = terms.of_rows(is_worse.any(1))
        self._write(side, torch.where(is_worse[..., None], rows, moved))
        return after


def _concatenated(tables: list[Tensor]) -> Tensor:
    """Tables of factors and of biases as one, along the last axis."""
    return torch.cat([t if t.ndim == 3 else t[..., None] for t in tables], dim=-1)


def _squares_of(rows: Tensor) -> Tensor:
    """Zeros of the shape of the outer products of rows."""
    return rows.new_zeros(*rows.shape, rows.shape[-1])


def _add_squares(total: Tensor, row: Tensor, values: Tensor) -> None:
    """Add the sum of z zᵀ over the values z of each row; rows are sorted.

    Rows with similar numbers of values are padded to the same number, since matrix
    products are far faster than outer products.
    """
    rows, counts = torch.unique_consecutive(row, return_counts=True)
    starts = counts.cumsum(0) - counts
    sizes = 2 ** (counts.double().log2().ceil().long())
    for size in sizes.unique().tolist():
        alike = (sizes == size).nonzero()[:, 0]
        place = torch.arange(size, device=row.device)
        inside = place < counts[alike, None]
        place = torch.where(inside, starts[alike, None] + place, 0)
        padded = values[place] * inside[..., None, None]
        # (row, member, part, value)
        padded = padded.permute(0, 2, 3, 1)
        total.index_add_(0, rows[alike], padded @ padded.transpose(-1, -2))
