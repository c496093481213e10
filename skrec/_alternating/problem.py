"""The ratings that an alternating solver fits, sorted for both sides.

Everything here is arrays in, arrays out: no raw ids, no estimator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .._data.interactions import NO_FEATURES, ONE_PROCESS, Interactions
from .._data.sides import Sides
from .._data.units import Units
from .._share import Share
from .._threads import torch_threads
from .feature_weights import Block
from .layout import Layout
from .links import DESCRIBED, IMPLICIT
from .ratings import Ratings, UnobservedPairs
from .value_pairs import ValueColumn

# Up to this number of ratings the time of sweeps in double precision is negligible, and
# residuals of small data can be far smaller than the ratings.
MAX_DOUBLE_ROWS = 2**15


@dataclass(frozen=True)
class RatingArrays:
    """Standardised ratings, sorted by user, then item.

    Attributes
    ----------
    users, items : ndarray of shape (n_ratings,)
        Numbers of the user and the item of each rating.
    shape : tuple of int
        Number of users and of items.
    target, weight : ndarray of shape (n_ratings,)
    context : ndarray of shape (n_ratings, n_context)
    shares : Sides of Share
        The users and the items that this process computes. The ratings are those of
        these users.
    values : ndarray of shape (n_ratings, n_columns)
        Number of the value of each rating in each column of context that has values.
    n_values : sequence of int
        Number of values of these columns.
    slopes : sequence of int
        Columns of numbers of which users and items have slopes.
    count : ndarray of shape (n_ratings,) or None
        Number of squares of the noise that each rating counts as; None is its weight.
    side_features : Sides of sparse array or None
        Shape (n_rows, n_columns) each.
    """

    users: np.ndarray
    items: np.ndarray
    shape: tuple[int, int]
    target: np.ndarray
    weight: np.ndarray
    context: np.ndarray
    shares: Sides[Share] = ONE_PROCESS
    values: np.ndarray | None = None
    n_values: Sequence[int] = ()
    slopes: Sequence[int] = ()
    count: np.ndarray | None = None
    side_features: Sides[sparse.sparray | None] = NO_FEATURES

    @classmethod
    def of(
        cls,
        data: Interactions,
        units: Units,
        *,
        has_slopes: bool = False,
        counts_squares: bool = False,
        max_double_rows: int = MAX_DOUBLE_ROWS,
    ) -> RatingArrays:
        """Canonical rows in these units, perhaps with slopes of numbers.

        With `counts_squares` the noise is learned, by as many squares as the rows
        count. Up to `max_double_rows` are in double precision.
        """
        counts = data.counts if counts_squares else None
        dtype = np.float64 if data.n_rows <= max_double_rows else np.float32
        varies = np.flatnonzero(np.isfinite(units.feature_scale))
        return cls(
            data.users,
            data.items,
            data.shape,
            units.standard_ratings(data.rating).astype(dtype, copy=False),
            data.weight.astype(dtype, copy=False),
            units.standard_features(data.context).astype(dtype, copy=False),
            data.shares,
            data.codes,
            data.n_values,
            varies.tolist() if has_slopes else (),
            None if counts is None else counts.astype(dtype, copy=False),
            Sides(*(side and side.matrix for side in data.side_features)),
        )

    def columns(self, context: Tensor) -> tuple[ValueColumn, ...]:
        """Columns of numbers with slopes, and the ratings by the values of others.

        `context` is that of the ratings as a tensor.
        """
        rows = self.users, self.items
        columns = [
            ValueColumn.of_numbers(*rows, context, place, self.shape, self.shares)
            for place in self.slopes
        ]
        if self.values is not None:
            columns += [
                ValueColumn.of(*rows, values, (*self.shape, n_values), context.device)
                for values, n_values in zip(self.values.T, self.n_values, strict=True)
            ]
        return tuple(columns)


def order_by_item(
    users: np.ndarray, items: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Places of ratings that are sorted by user and item, sorted by item and user."""
    # A counting sort: the transpose of a sparse matrix that holds these places.
    offsets = np.append(0, np.cumsum(np.bincount(users, minlength=shape[0])))
    places = np.arange(len(items), dtype=np.int32 if len(items) < 2**31 else np.int64)
    matrix = sparse.csr_array((places, items, offsets), shape=shape)
    return matrix.tocsc().data


@dataclass(frozen=True)
class Problem:
    """Ratings in canonical order, by user and by item.

    Attributes
    ----------
    users, items : Ratings
        The same ratings, sorted by user and by item.
    user_index : Tensor of shape (n_ratings,)
        User of each rating, in the order of `users`.
    to_items : Tensor of shape (n_ratings,)
        Permutation from the order of `users` to that of `items`; where processes share
        the ratings, from the order in which their owners send those of `items`.
    target : Tensor of shape (n_ratings,)
        Standardised ratings, in the order of `users`.
    context : Tensor of shape (n_ratings, n_context)
        Standardised columns of context, in the order of `users`.
    layout : Layout
    weight : float
        Sum of the counts of all rows, including unobserved pairs.
    columns : tuple of ValueColumn
        Columns of context that users and items have terms of.
    """

    users: Ratings
    items: Ratings
    user_index: Tensor
    to_items: Tensor
    target: Tensor
    context: Tensor
    layout: Layout
    weight: float
    columns: tuple[ValueColumn, ...] = ()

    @classmethod
    @torch_threads(1)
    def from_arrays(
        cls, arrays: RatingArrays, layout: Layout, dtype: torch.dtype
    ) -> Problem:
        """Ratings and side features, without unobserved pairs."""
        index = partial(torch.as_tensor, device=layout.device)
        number = partial(torch.as_tensor, dtype=dtype, device=layout.device)
        of_users, of_items = arrays.shares
        users, items = index(arrays.users), index(arrays.items)
        y, w = number(arrays.target), number(arrays.weight)
        counts = arrays.weight if arrays.count is None else arrays.count
        n = w if arrays.count is None else number(counts)
        context = number(arrays.context)
        u, i = (of_items.sent(torch.as_tensor(x)) for x in (arrays.users, arrays.items))
        to_items = index(order_by_item(u.numpy(), i.numpy(), arrays.shape))
        own_items, others, weight, target = (
            of_items.sent(x).index_select(0, to_items) for x in (items, users, w, y)
        )
        count = weight if n is w else of_items.sent(n).index_select(0, to_items)
        n_users, n_items = arrays.shape
        of_rows = Ratings.from_sorted(
            own_items, others, n_items, weight, target, count, of_items
        )
        del own_items, count
        problem = cls(
            users=Ratings.from_sorted(users, items, n_users, w, y, n, of_users),
            items=of_rows,
            user_index=users.int(),
            to_items=to_items,
            target=y,
            context=context,
            layout=layout,
            weight=of_users.sum(float(counts.sum(dtype=np.float64))),
            columns=arrays.columns(context),
        )
        return problem.with_features(*arrays.side_features)

    def with_features(
        self,
        users: sparse.sparray | None = None,
        items: sparse.sparray | None = None,
    ) -> Problem:
        """The same problem, with side features of shape (n_rows, n_columns)."""
        y = self.target
        blocks = [
            None if m is None else Block.from_matrix(DESCRIBED, m, y.dtype, y.device)
            for m in (users, items)
        ]
        return self._with_blocks(*blocks)

    @torch_threads(1)
    def with_ties(self) -> Problem:
        """The same problem, with the ties of rows whose ratings are nearly equal."""
        return replace(self, users=self.users.with_ties(), items=self.items.with_ties())

    @torch_threads(1)
    def with_pairs(self) -> Problem:
        """The same problem, where the noise of a pair is that of its mean."""
        users, items = self.users.with_pairs(), self.items.with_pairs()
        return replace(self, users=users, items=items)

    @torch_threads(1)
    def with_implicit_features(self) -> Problem:
        """The same problem, with the others of each row as features (as in SVD++)."""
        by_user, pair = torch.ones_like(self.target), self.users.with_pairs().pair
        if pair is not None:
            # Repeated ratings of a pair count once together.
            by_user = pair.bincount().to(self.target).reciprocal()[pair]
        by_item = self.by_item(by_user)
        return self._with_blocks(
            _implicit_block(self.users, by_user, self.items, by_item),
            _implicit_block(self.items, by_item, self.users, by_user),
        )

    def with_all_pairs(self, weight: float) -> Problem:
        """The same problem, where all pairs count as ratings of 0, with this weight."""
        y = self.target
        new = y.new_ones(len(self.users)), y.new_ones(len(self.items))
        background = y.new_zeros(self.layout.n_packed)
        return self.with_unobserved(
            UnobservedPairs(weight, *new, background, 0),
            UnobservedPairs(weight, *new[::-1], background, 0),
        )

    def with_unobserved(
        self, of_users: UnobservedPairs, of_items: UnobservedPairs
    ) -> Problem:
        """The same problem, with pairs that count as ratings of 0."""
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

    @property
    def has_more_user_pairs(self) -> bool:
        """Whether the pairs of users weigh more than those of items.

        Where further ratings come with unobserved pairs, a new user's are those with
        all items, of which these are a part.
        """
        return self.users.total_weight > (1 + 1e-4) * self.items.total_weight

    def without_context(self, coef: Tensor, coef_factor: Tensor | None) -> Problem:
        """The same problem, with the ratings minus the linear term of the context."""
        if not len(coef):
            return self
        return self.without(*self.context_moments(coef, coef_factor))

    def context_moments(
        self, coef: Tensor, coef_factor: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Mean and variance of the linear term of the context; None is 0."""
        variance = None
        if coef_factor is not None:
            variance = (self.context @ coef_factor.T).square().sum(1)
        return self.context @ coef, variance

    def without(self, mean: Tensor, variance: Tensor | None) -> Problem:
        """The same problem, with the ratings minus terms of known moments."""
        target = self.users.target - mean
        before = self.users.target_variance
        if before is not None:
            variance = before if variance is None else variance + before
        of_items = None if variance is None else self.by_item(variance)
        return replace(
            self,
            users=replace(self.users, target=target, target_variance=variance),
            items=replace(
                self.items, target=self.by_item(target), target_variance=of_items
            ),
        )

    def by_item(self, values: Tensor) -> Tensor:
        """Values of ratings in the order of `items`, from that of `users`."""
        return self.items.share.sent(values).index_select(0, self.to_items)

    def at(self, places: Tensor, values: Tensor) -> Tensor:
        """Values of ratings, given in the order of `users`, at places among all."""
        share, n_own = self.users.share, len(self.target)
        own = places - share.n_before(n_own)
        is_here = (own >= 0) & (own < n_own)
        taken = values[own.clamp(0, n_own - 1)]
        return share.sum(taken * is_here.to(values).view(-1, *[1] * (values.ndim - 1)))

    def _with_blocks(self, of_users: Block | None, of_items: Block | None) -> Problem:
        """The same problem, with one more block of features of a side, or of both."""
        users, items = (
            ratings
            if block is None
            else replace(ratings, features=(*ratings.features, block))
            for ratings, block in ((self.users, of_users), (self.items, of_items))
        )
        return replace(self, users=users, items=items)


def standard_problem(arrays: RatingArrays, device: torch.device) -> Problem:
    """These ratings, with their side features but without a structure."""
    dtype = torch.as_tensor(arrays.target).dtype
    return Problem.from_arrays(arrays, Layout(0, True, device), dtype)


def _implicit_block(
    rows: Ratings, row_shares: Tensor, columns: Ratings, column_shares: Tensor
) -> Block:
    """Features 1/√n for each of the n others that a row has ratings with."""
    root = rows.sum_values(row_shares).rsqrt()
    of_ratings = root.repeat_interleave(rows.lengths)
    squares = rows.sum_values(of_ratings.square().mul_(row_shares))
    of_columns = root.index_select(0, columns.others)
    return Block.from_entries(
        IMPLICIT,
        (rows, of_ratings.mul_(row_shares)),
        (columns, of_columns.mul_(column_shares)),
        squares,
    )
