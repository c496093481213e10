"""What an alternating solver works on: the ratings, and what it believes of rows.

Everything here is arrays in, arrays out: no raw ids, no estimator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .._threads import torch_threads
from .conditional import Layout, Ratings, Unobserved
from .feature_weights import Block, Weights, shift_of
from .posterior import COUNTERPARTS, DESCRIBED

# Concentration of the relative precisions before ratings have been seen.
INITIAL_CONCENTRATION = 10.0


@dataclass(frozen=True)
class Problem:
    """Ratings in canonical order, as both sides see them.

    Attributes
    ----------
    users, items : Ratings
        The same ratings, sorted by user and by item.
    user_index : Tensor of shape (n_ratings,)
        User of each rating, in the order of `users`.
    to_items : Tensor of shape (n_ratings,)
        Takes the order of `users` to the order of `items`.
    target : Tensor of shape (n_ratings,)
        Standardised ratings, in the order of `users`.
    features : Tensor of shape (n_ratings, n_features)
        Standardised features, in the order of `users`.
    layout : Layout
    weight : float
        Sum of the weights, those of unobserved pairs among them.
    """

    users: Ratings
    items: Ratings
    user_index: Tensor
    to_items: Tensor
    target: Tensor
    features: Tensor
    layout: Layout
    weight: float

    @classmethod
    @torch_threads(1)
    def from_arrays(
        cls,
        user_index: np.ndarray,
        item_index: np.ndarray,
        shape: tuple[int, int],
        target: np.ndarray,
        weight: np.ndarray,
        features: np.ndarray,
        *,
        n_factors: int,
        biased: bool,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        unobserved_weight: float = 0.0,
        implicit_features: bool = False,
        user_features: sparse.sparray | None = None,
        item_features: sparse.sparray | None = None,
    ) -> Problem:
        """Ratings sorted by user, then item."""
        users = torch.as_tensor(user_index, device=device)
        items = torch.as_tensor(item_index, device=device)
        y = torch.as_tensor(target, dtype=dtype, device=device)
        w = torch.as_tensor(weight, dtype=dtype, device=device)
        # A counting sort: the transpose of a sparse matrix that holds row numbers.
        by_user = np.searchsorted(user_index, np.arange(shape[0] + 1))
        numbers = sparse.csr_array(
            (np.arange(len(item_index)), item_index, by_user), shape=shape
        )
        to_items = torch.as_tensor(numbers.tocsc().data, device=device)
        described = [
            []
            if matrix is None
            else [Block.from_matrix(DESCRIBED, matrix, dtype, device)]
            for matrix in (user_features, item_features)
        ]
        by_user = Ratings.from_sorted(users, items, shape[0], w, y)
        by_item = Ratings.from_sorted(
            items[to_items], users[to_items], shape[1], w[to_items], y[to_items]
        )
        if implicit_features:
            share = torch.as_tensor(_shares(user_index, item_index)).to(w)
            for rows, columns, values, blocks in (
                (by_user, by_item, (share, share[to_items]), described[0]),
                (by_item, by_user, (share[to_items], share), described[1]),
            ):
                blocks.append(_counterparts(rows, columns, *values))
        problem = cls(
            users=replace(by_user, features=tuple(described[0])),
            items=replace(by_item, features=tuple(described[1])),
            user_index=users,
            to_items=to_items,
            target=y,
            features=torch.as_tensor(features, dtype=dtype, device=device),
            layout=Layout(n_factors, biased, device),
            weight=float(weight.sum(dtype=np.float64)),
        )
        if not unobserved_weight:
            return problem
        new = y.new_ones(shape[0]), y.new_ones(shape[1])
        background = y.new_zeros(problem.layout.n_packed)
        return problem.with_unobserved(
            Unobserved(unobserved_weight, *new, background, 0),
            Unobserved(unobserved_weight, *new[::-1], background, 0),
        )

    @property
    def is_of_users(self) -> bool:
        """Whether users have more pairs here than items.

        Where further ratings bring unobserved pairs along, a new user's are those with
        all items, of which these are but some.
        """
        return self.users.total_weight > (1 + 1e-4) * self.items.total_weight

    def with_unobserved(self, of_users: Unobserved, of_items: Unobserved) -> Problem:
        """The same problem with pairs that count as ratings of 0."""
        users, items = (
            replace(ratings, unobserved=pairs, count=ratings.count + pairs.count)
            for ratings, pairs in ((self.users, of_users), (self.items, of_items))
        )
        return replace(
            self,
            users=users,
            items=items,
            weight=self.weight + float(of_users.count.sum(dtype=torch.float64)),
        )

    def without_features(self, coef: Tensor, coef_factor: Tensor | None) -> Problem:
        """The same problem once the features' share is taken off the ratings."""
        if not len(coef):
            return self
        target = self.target - self.features @ coef
        square = target.square()
        if coef_factor is not None:
            square += (self.features @ coef_factor.T).square().sum(1)
        return replace(
            self,
            users=replace(self.users, target=target, target_square=square),
            items=replace(
                self.items,
                target=target[self.to_items],
                target_square=square[self.to_items],
            ),
        )


def _shares(user_index: np.ndarray, item_index: np.ndarray) -> np.ndarray:
    """One over the number of ratings of the same pair, of every sorted rating."""
    first = np.ones(len(user_index), dtype=bool)
    first[1:] = np.diff(user_index) != 0
    first[1:] |= np.diff(item_index) != 0
    counts = np.diff(np.append(np.flatnonzero(first), len(first)))
    return np.repeat(1 / counts, counts)


def _counterparts(
    rows: Ratings, columns: Ratings, row_shares: Tensor, column_shares: Tensor
) -> Block:
    """Whom each row has ratings with, over the root of their number (as in SVD++)."""
    one = row_shares.new_ones(len(columns), 1)
    root = rows.sum(one, row_shares).squeeze(1).rsqrt()
    of_links = root.repeat_interleave(rows.lengths)
    return Block.from_links(
        COUNTERPARTS,
        rows,
        columns,
        row_shares * of_links,
        column_shares * root[columns.others],
        row_shares * of_links.square(),
    )


@dataclass(frozen=True)
class Side:
    """What is believed of one side's rows.

    Attributes
    ----------
    mean : Tensor of shape (n_rows, row_size)
        Posterior means, or points.
    covariance : Tensor of shape (n_rows, row_size (row_size + 1) / 2) or None
        Packed posterior covariances; None where the rule has none.
    log_det : float
        Sum of the log determinants of the covariances.
    prior_mean, prior_precision : Tensor
        m and Λ, which rows share.
    relative_precision : Tensor of shape (n_rows,)
        α (users) or γ (items).
    relative_shape : Tensor of shape (n_rows,) or None
        Shape of the Gamma posterior with mean `relative_precision`; None for points.
    concentration : float
        a.
    before : Side or None
        What was believed of these rows before the ratings at hand, instead of what
        rows share.
    prior_weight : Tensor of shape (n_rows,) or None
        How much firmer than Λ the prior of each row is; None is 1.
    weights : tuple of Weights
        Of each block of features.
    shift : Tensor of shape (n_rows, row_size) or None
        What features add to the prior mean of each row; None without features.
    moved : float
        Sum over the ratings of the squared change of the predictions that the last
        update of these rows made, weighted, if there is a `before`.
    """

    mean: Tensor
    covariance: Tensor | None
    log_det: float
    prior_mean: Tensor
    prior_precision: Tensor
    relative_precision: Tensor
    relative_shape: Tensor | None
    concentration: float
    moved: float = 0.0
    before: Side | None = None
    prior_weight: Tensor | None = None
    weights: tuple[Weights, ...] = ()
    shift: Tensor | None = None

    @classmethod
    def at(
        cls,
        mean: Tensor,
        layout: Layout,
        *,
        covariance: Tensor | None = None,
        prior_mean: Tensor | None = None,
        prior_precision: Tensor | None = None,
        relative_precision: Tensor | None = None,
        relative_shape: Tensor | None = None,
        concentration: float = INITIAL_CONCENTRATION,
    ) -> Side:
        """Rows at `mean`; what else is not known yet is at its start."""
        if prior_mean is None:
            prior_mean = mean.new_zeros(layout.row_size)
        if prior_precision is None:
            prior_precision = torch.eye(layout.row_size).to(mean)
        if relative_precision is None:
            relative_precision = mean.new_ones(len(mean))
        return cls(
            mean=mean,
            covariance=covariance,
            log_det=0.0,
            prior_mean=prior_mean,
            prior_precision=prior_precision,
            relative_precision=relative_precision,
            relative_shape=relative_shape,
            concentration=concentration,
        )

    def with_weights(self, ratings: Ratings, weights: Sequence[Weights]) -> Side:
        """The same rows, with weights for the features of `ratings`."""
        shift = None
        if weights:
            shift = shift_of(ratings.features, weights)
        return replace(self, weights=tuple(weights), shift=shift)

    @property
    def own(self) -> Tensor:
        """Rows less what their features say of them."""
        return self.mean if self.shift is None else self.mean - self.shift

    @property
    def relative_variance(self) -> Tensor:
        """E[1 / α] of each row."""
        if self.relative_shape is None:
            return 1 / self.relative_precision
        shape = self.relative_shape
        return shape / (shape - 1) / self.relative_precision


@dataclass(frozen=True)
class State:
    """Where a solver stands after a sweep.

    Attributes
    ----------
    users, items : Side
    coef : Tensor of shape (n_features,)
        Posterior mean of w, or its point.
    coef_factor : Tensor of shape (n_features, n_features) or None
        R, where RᵀR is the posterior covariance of w; None for a point.
    coef_precision : float
        λ.
    coef_prior : tuple of Tensor of shape (n_features,) and (n_features, n_features)
        Mean and precision of w before further ratings; None is 0 and λ I.
    noise_precision : float
        β.
    noise_variance : float
        Mean squared residual, weighted by all precisions but β.
    objective : float
        What the solver lowers, per unit of weight (see the rules).
    """

    users: Side
    items: Side
    coef: Tensor
    coef_factor: Tensor | None = None
    coef_precision: float = 1.0
    coef_prior: tuple[Tensor, Tensor] | None = None
    noise_precision: float = 1.0
    noise_variance: float = 1.0
    objective: float = math.nan

    def taste_ratio(self, n_factors: int) -> float:
        """Variance of p·q about what users share, over that of what they share."""
        P, Q = self.users.mean.double(), self.items.mean.double()
        mean_user = P[:, :n_factors].mean(0)
        away = P[:, :n_factors] - mean_user
        spread = Q[:, :n_factors] - Q[:, :n_factors].mean(0)
        own = float(((away.T @ away) * (spread.T @ spread)).sum()) / (len(P) * len(Q))
        shared = Q[:, :n_factors] @ mean_user + Q[:, n_factors:].sum(1)
        return own / max(float(shared.var(correction=0)), 1e-300)
