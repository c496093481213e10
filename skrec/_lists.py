"""ListsMixin: recommendations, similar rows and index vectors of a fitted model."""

from __future__ import annotations

from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from ._candidates import Pairs, UserCandidates, holds_rows, number_pairs
from ._choice.expected_gain import ExpectedGain
from ._data.containers import ArrayLike, TableLike, is_empty
from ._data.context import NO_CONTEXT, KnownContext
from ._data.known_ids import KnownIds, handle_unknown, take_ids
from ._data.reading import read_ids, read_pairs
from ._data.seen import SeenItems, is_in_sorted
from ._data.sides import SideName, Sides
from ._data.vocabulary import Ids
from ._explain import ExplainMixin
from ._explore import (
    N_PER_PLACE,
    Strategy,
    check_exploration,
    diversified,
    explored,
)
from ._interfaces import Model
from ._pair_effects import WithPairEffects
from ._settings import torch_device
from ._snapshot import reads_one_fit
from ._topk import Fill, inner_products, top_k

# Missing values at the ends of lists in arrays: some gigabytes.
MAX_PADDING = 2**28

Lists: TypeAlias = np.ndarray | tuple[np.ndarray, np.ndarray] | pd.DataFrame


class ListsMixin(ExplainMixin):
    """Lists of items and of users, by the scores of a model."""

    handle_unknown: str
    device: str | torch.device
    _model: Model
    _users: KnownIds
    _items: KnownIds
    _seen: SeenItems
    _context: KnownContext = NO_CONTEXT

    @property
    def _rating_model(self) -> Model:
        """The fitted model, with effects of pairs if there are any."""
        model, effects = self._model, self._pair_effects
        return WithPairEffects(model, effects, self._seen, model) if effects else model

    @property
    def _ranking(self) -> Model:
        """The model that `rank_by` asks for."""
        rank_by = getattr(self, "rank_by", "rating")
        if rank_by == "rating" or self._model.objective.is_of_choices:
            return self._rating_model
        if self._autoencoder is None:
            raise ValueError(
                f"rank_by={rank_by!r} needs a fit with it, but the last fit had "
                "rank_by='rating'. Set it back, or fit anew."
            )
        if rank_by == "choice":
            return self._autoencoder
        return ExpectedGain(self._rating_model, self._autoencoder)

    @reads_one_fit
    def recommend(
        self,
        users: ArrayLike | None = None,
        n_items: int = 10,
        *,
        exclude_seen: bool = True,
        exclude: ArrayLike | None = None,
        never_exclude: ArrayLike | None = None,
        candidates: ArrayLike | None = None,
        ratings: Any = None,
        context: Any = None,
        strategy: Strategy = "mean",
        diversity: float = 0.0,
        random_state: int | np.random.RandomState | None = None,
        return_scores: bool = False,
        as_frame: bool = False,
        user_features: TableLike | None = None,
        item_features: TableLike | None = None,
    ) -> Lists:
        r"""Items with the highest scores for each user, best first.

        The score is that of `rank_by`. Ties go to the candidate that comes first. For
        users without ratings, the ranking depends on their features, or without any on
        the items only. Scores are computed in tiles, with 64 MiB of work space for any
        numbers of users and items.

        Parameters
        ----------
        users : array-like of shape (n_users,), default=None
            Raw user ids; None is all users of `user_ids_`, in that order, or the users
            in the rows of `candidates` or of `ratings`, sorted.
        n_items : int, default=10
            Length of each list. It may exceed the number of candidates.
        exclude_seen : bool, default=True
            Leave out items that the user has rated in the training rows.
        exclude : array-like of shape (n_rows, 2 or more), default=None
            Rows of user and item to leave out besides, such as items in a basket.
        never_exclude : array-like of shape (n_rows, 2 or more), default=None
            Rows of user and item that `exclude_seen` keeps, such as training rows on
            which the model is scored. Those in `exclude` are left out all the same.
        candidates : array-like of shape (n_candidates,) or (n_rows, 2), default=None
            Raw item ids to choose from; None is all items, in the order of `item_ids_`.
            Rows of user and item, such as those that another model has retrieved, are
            candidates of each user alone; a user without rows has an empty list.
            `handle_unknown` applies to ids that `fit` has not seen; they are scored by
            their features if they have any.
        ratings : tuple of X and y, or X, default=None
            Further rows that count in this call alone, such as those of a visitor; X
            alone after a fit of choices. The lists are those after `partial_fit` with
            these rows.
        context : dict, frame or array-like, default=None
            Context of the lists: a value for each further column of `X`, by its name
            or in their order, or a row of them for each user. Columns that are left
            out are at their mean, and have no effect of their values. Needs ratings, or
            a loss of choices; the part of choices does not depend on it.
            `handle_unknown` applies to values that `fit` has not seen.
        strategy : {"mean", "sample", "lower_bound"}, default="mean"
            Rating that the score is computed with: "mean" is the expected rating,
            "sample" that of one draw of the factors and biases of users and items from
            the posterior (Thompson sampling [1]_, [2]_), and "lower_bound" the expected
            rating minus its posterior standard deviation, without noise. The last two
            need ratings and `solver="vb"` or `"gibbs"`. Unknown ids without features
            share one draw.
        diversity : float, default=0.0
            Weight :math:`d` in [0, 1] of maximal marginal relevance [3]_. Among the
            `5 * n_items` items with the highest scores, each place of the list goes to
            the item :math:`i` with the largest

            .. math::

               (1 - d)\, s_i - d \max_{j \in L} \cos(q_i, q_j),

            where :math:`s_i` is the score, scaled to [0, 1] for each user, :math:`L`
            are the items taken already and :math:`q` the profiles of items: those of
            choices with a part of choices, else of `similar_items`. Items without
            ratings have a likeness of 0 to others.
        random_state : int, RandomState instance or None, default=None
            Seed of `strategy="sample"`.
        return_scores : bool, default=False
            Return scores too: with `rank_by="rating"` predicted ratings, not clipped,
            at the mean context or at `context`. They need not fall along a list with
            `diversity`.
        as_frame : bool, default=False
            Return a long frame.
        user_features, item_features : DataFrame, matrix or callable, default=None
            As in `predict`, of users and candidates that have no ratings.

        Returns
        -------
        items : ndarray of shape (n_users, n_items)
            Raw item ids. Where a user has fewer than `n_items` candidates left, the
            list ends in missing values, which :func:`pandas.isna` finds: NaN among
            floats, NaT among dates, else None in an array of objects.
        scores : ndarray of shape (n_users, n_items)
            Only with `return_scores=True`; -inf where there is no item.
        frame : DataFrame with columns user, item, rank and score
            With `as_frame=True`, instead of arrays. A user with fewer than `n_items`
            candidates left has fewer rows.

        Raises
        ------
        ValueError
            If `n_items` is less than 1, or so large that missing values would take
            gigabytes, if `handle_unknown="error"` and a user or a candidate is unknown,
            as `partial_fit` for `ratings`, if `context` has unknown columns or another
            number of rows, or if the model has no posterior for the `strategy`, no item
            profiles for `diversity` or no `context`.
        TypeError
            If `n_items` is no int, or if ids are of another kind than in `fit`.

        References
        ----------
        .. [1] W. R. Thompson, "On the likelihood that one unknown probability exceeds
           another in view of the evidence of two samples", Biometrika, 1933.
        .. [2] O. Chapelle and L. Li, "An empirical evaluation of Thompson sampling",
           NeurIPS, 2011.
        .. [3] J. Carbonell and J. Goldstein, "The use of MMR, diversity-based reranking
           for reordering documents and producing summaries", SIGIR, 1998.
        """
        check_exploration(strategy, diversity)
        n_items = _length(n_items, "n_items")
        features = Sides(user_features, item_features)
        asked, among, own = self._asked(users, candidates, ratings, features)
        user_ids, rows, cold_users = self._queried_users(asked, user_features)
        item_ids, columns, cold_items = self._candidates(among, item_features)
        model = self._ranking.with_cold_rows(cold_users, cold_items)
        model = explored(model, strategy, rows, columns, random_state)
        model, asking = self._in_context(model, rows, context)
        left_out = self._excluded(exclude, user_ids, item_ids)
        seen = self._seen_columns(rows, columns, never_exclude)
        left_out = _union(left_out, seen) if exclude_seen else left_out
        device = torch_device(self.device, model.score_work * len(rows) * len(columns))
        n_listed = min(n_items, len(columns)) if as_frame else n_items
        _check_padding(len(rows), n_listed, len(columns), "n_items")
        k = n_listed
        if diversity:
            k = max(k, min(N_PER_PLACE * k, len(columns)))
        if own is None:
            score = model.scorer(asking, columns, device)
            best, scores = top_k(score, len(rows), len(columns), k, left_out, device)
        else:
            of_users = UserCandidates.of(*number_pairs(*own, user_ids, item_ids))
            best, scores = of_users.top_k(model, asking, columns, k, left_out, device)
        if diversity:
            vectors = self._unit_profiles(columns, device)
            best, scores = diversified(best, scores, vectors, n_listed, diversity)
        scores = np.where(best < 0, -np.inf, model.scores_to_ratings(scores, asking))
        if as_frame:
            return _long_frame(user_ids, item_ids, best, scores, "user", "item")
        items = take_ids(item_ids, best)
        return (items, scores) if return_scores else items

    @reads_one_fit
    def recommend_users(
        self,
        items: ArrayLike,
        n_users: int = 10,
        *,
        exclude_seen: bool = True,
        return_scores: bool = False,
        as_frame: bool = False,
        item_features: TableLike | None = None,
    ) -> Lists:
        """Users with the highest scores for each item, best first.

        The score is that of `recommend`. Ties go to the user that comes first in
        `user_ids_`.

        Parameters
        ----------
        items : array-like of shape (n_queries,)
            Raw item ids.
        n_users : int, default=10
            Length of each list. It may exceed the number of users.
        exclude_seen : bool, default=True
            Leave out users that have rated the item in the training rows.
        return_scores : bool, default=False
            Return the scores too.
        as_frame : bool, default=False
            Return a long frame.
        item_features : DataFrame, matrix or callable, default=None
            As in `predict`, of items that have no ratings.

        Returns
        -------
        users : ndarray of shape (n_queries, n_users)
            Raw user ids; lists that cannot be filled end as in `recommend`.
        scores : ndarray of shape (n_queries, n_users)
            Only with `return_scores=True`; -inf where there is no user.
        frame : DataFrame with columns item, user, rank and score
            With `as_frame=True`, instead of arrays.

        Raises
        ------
        ValueError
            If `n_users` is less than 1, or if `handle_unknown="error"` and an item is
            unknown.
        TypeError
            If `n_users` is no int, or if ids are of another kind than in `fit`.
        """
        n_users = _length(n_users, "n_users")
        ids = read_ids(items, "items")
        columns, cold = self._items.rows(ids, item_features)
        handle_unknown(self.handle_unknown, {"items": (ids, columns)})
        item_ids = self._items.like_fitted(ids.values, columns)
        model = self._ranking.with_cold_rows(None, cold)
        rows = np.arange(len(self._users))
        work = model.score_work * len(rows) * len(columns)
        device = torch_device(self.device, work)
        scale, of_users = model.score_units(rows)
        offset = torch.as_tensor(of_users, dtype=torch.float32, device=device)

        def score(tile: slice) -> Fill:
            tile_scorer = model.scorer(rows, columns[tile], device)
            n_items = tile.stop - tile.start

            def fill(some: slice, out: torch.Tensor) -> None:
                scores = torch.empty(some.stop - some.start, n_items, device=device)
                tile_scorer(some)(slice(0, n_items), scores)
                out.copy_(scores.T).mul_(scale).add_(offset[some])

            return fill

        def seen_by(tile: slice) -> tuple[np.ndarray, np.ndarray]:
            known = np.flatnonzero(columns[tile] >= 0)
            numbers, place = np.unique(columns[tile][known], return_inverse=True)
            position, users, _ = self._seen.of_items(numbers)
            # An item may be asked for more than once.
            pairs = sparse.csr_array(
                (np.ones(len(users)), (position, users)), (len(numbers), len(rows))
            )[place].tocoo()
            return known[pairs.coords[0]], pairs.coords[1]

        n_listed = min(n_users, len(rows)) if as_frame else n_users
        _check_padding(len(columns), n_listed, len(rows), "n_users")
        best, scores = top_k(
            score,
            len(columns),
            len(rows),
            n_listed,
            seen_by if exclude_seen else None,
            device,
        )
        ratings = model.objective.response(scores)
        scores = np.where(best < 0, -np.inf, ratings)
        if as_frame:
            return _long_frame(item_ids, self._users.ids, best, scores, "item", "user")
        users = take_ids(self._users.ids, best)
        return (users, scores) if return_scores else users

    @reads_one_fit
    def similar_items(
        self,
        items: ArrayLike,
        n_items: int = 10,
        *,
        candidates: ArrayLike | None = None,
        return_scores: bool = False,
        as_frame: bool = False,
        item_features: TableLike | None = None,
    ) -> Lists:
        """Items most similar to given ones, best first, by cosine of their profiles.

        Parameters
        ----------
        items : array-like of shape (n_queries,)
            Raw item ids, in `item_ids_` or with side features.
        n_items : int, default=10
            Length of each list. It may exceed the number of other items.
        candidates : array-like of shape (n_candidates,), default=None
            Raw item ids to choose from; None is all of `item_ids_`. Unknown ids are
            left out, unless `handle_unknown` refuses them.
        return_scores : bool, default=False
            Return the cosines too.
        as_frame : bool, default=False
            Return a long frame.
        item_features : DataFrame, matrix or callable, default=None
            As in `predict`, of queries and candidates that have no ratings. Their
            profiles are those that their features let expect.

        Returns
        -------
        similar : ndarray of shape (n_queries, n_items)
            Raw item ids, never the item itself. Where there are fewer than `n_items`
            others, the list ends in missing values, as in `recommend`.
        scores : ndarray of shape (n_queries, n_items)
            Only with `return_scores=True`. From -1 to 1; 0 if a profile is negligible,
            and -inf where there is no item.
        frame : DataFrame with columns item, similar_item, rank and score
            With `as_frame=True`, instead of arrays. Where there are fewer than
            `n_items` others, there are fewer rows.

        Raises
        ------
        ValueError
            If an item is unknown, or a candidate with `handle_unknown="error"`, if
            `n_items` is less than 1, or if the model has no factors to compare.
        TypeError
            If `n_items` is no int, or if ids are of another kind than in `fit`.
        """
        return self._similar(
            "item",
            items,
            n_items,
            candidates,
            item_features,
            return_scores,
            as_frame,
        )

    @reads_one_fit
    def similar_users(
        self,
        users: ArrayLike,
        n_users: int = 10,
        *,
        candidates: ArrayLike | None = None,
        return_scores: bool = False,
        as_frame: bool = False,
        user_features: TableLike | None = None,
    ) -> Lists:
        """Users most similar to given ones, best first, by cosine of their profiles.

        Parameters
        ----------
        users : array-like of shape (n_queries,)
            Raw user ids, in `user_ids_` or with side features.
        n_users : int, default=10
            Length of each list. It may exceed the number of other users.
        candidates : array-like of shape (n_candidates,), default=None
            Raw user ids to choose from; None is all of `user_ids_`. Unknown ids are
            left out, unless `handle_unknown` refuses them.
        return_scores : bool, default=False
            Return the cosines too.
        as_frame : bool, default=False
            Return a long frame.
        user_features : DataFrame, matrix or callable, default=None
            As in `predict`, of queries and candidates that have no ratings. Their
            profiles are those that their features let expect.

        Returns
        -------
        similar : ndarray of shape (n_queries, n_users)
            Raw user ids, never the user itself. Where there are fewer than `n_users`
            others, the list ends in missing values, as in `recommend`.
        scores : ndarray of shape (n_queries, n_users)
            Only with `return_scores=True`. From -1 to 1; 0 if a profile is negligible,
            and -inf where there is no user.
        frame : DataFrame with columns user, similar_user, rank and score
            With `as_frame=True`, instead of arrays. Where there are fewer than
            `n_users` others, there are fewer rows.

        Raises
        ------
        ValueError
            If a user is unknown, or a candidate with `handle_unknown="error"`, if
            `n_users` is less than 1, or if the model has no factors to compare.
        TypeError
            If `n_users` is no int, or if ids are of another kind than in `fit`.
        """
        return self._similar(
            "user",
            users,
            n_users,
            candidates,
            user_features,
            return_scores,
            as_frame,
        )

    @reads_one_fit
    def item_index_vectors(self) -> np.ndarray:
        """Vectors of all items, for an index of the largest inner products.

        The inner product of a row of `user_index_vectors` and a row of these is the
        score by which `recommend` ranks items that the user has not rated, including
        biases, minus a constant. With `rank_by="both"` it is the strength of the choice
        alone: rank the items that are found by `recommend(users, candidates=...)`. An
        approximate index of such vectors finds a user's best items among millions
        without a score of each. It does not exclude seen items: query it for more items
        than needed, and leave out those that the user has rated.

        Returns
        -------
        vectors : ndarray of shape (n_items, size), dtype float32
            In the order of `item_ids_`.

        Raises
        ------
        ValueError
            If scores are no inner products: after NCFRegressor with a perceptron and
            `rank_by="rating"`.
        """
        return self._ranking.index_vectors("item", np.arange(len(self._items)))

    @reads_one_fit
    def user_index_vectors(
        self,
        users: ArrayLike | None = None,
        *,
        user_features: TableLike | None = None,
    ) -> np.ndarray:
        """Vectors of users to query an index of `item_index_vectors` with.

        Parameters
        ----------
        users : array-like of shape (n_users,), default=None
            Raw user ids; None is all users of `user_ids_`, in that order.
        user_features : DataFrame, matrix or callable, default=None
            As in `predict`, of users that have no ratings.

        Returns
        -------
        vectors : ndarray of shape (n_users, size), dtype float32
            With `rank_by="rating"` the vector of a user without ratings depends on
            their features. Otherwise, or without any, it ranks items for an average
            user.

        Raises
        ------
        ValueError
            As `item_index_vectors`, or if `handle_unknown="error"` and a user is
            unknown.
        """
        _, rows, cold_users = self._queried_users(users, user_features)
        model = self._ranking.with_cold_rows(cold_users, None)
        return model.index_vectors("user", rows)

    def _asked(
        self,
        users: ArrayLike | None,
        candidates: ArrayLike | None,
        ratings: Any,
        features: Sides,
    ) -> tuple[ArrayLike | None, ArrayLike | Ids | None, tuple[Ids, Ids] | None]:
        """Users and candidates of `recommend`, and candidates of each user by rows.

        It learns from `ratings`; this is a snapshot.
        """
        own = None
        if holds_rows(candidates):
            own = _read_rows(candidates, "candidates")
            # Ids of another kind are refused.
            own[0].numbered_in(self._users.ids)
            users = np.unique(own[0].values) if users is None else users
        if ratings is not None:
            X = self._learn_for_one_call(ratings, features)
            if users is None:
                users = np.unique(read_pairs(X, "ratings")[0].values)
        return users, candidates if own is None else own[1], own

    def _queried_users(
        self, users: ArrayLike | None, features: TableLike | None
    ) -> tuple[np.ndarray, np.ndarray, sparse.csr_array | None]:
        """Raw ids and row numbers of users, as `KnownIds.rows`; None is all of them."""
        if users is None:
            return self._users.ids, np.arange(len(self._users)), None
        ids = read_ids(users, "users")
        rows, cold = self._users.rows(ids, features)
        handle_unknown(self.handle_unknown, {"users": (ids, rows)})
        return self._users.like_fitted(ids.values, rows), rows, cold

    def _in_context(
        self, model: Model, rows: np.ndarray, context: Any
    ) -> tuple[Model, np.ndarray]:
        """A model of those who ask in a context, and their rows in it."""
        if context is None:
            return model, rows
        given, found = self._context.read(context, len(rows))
        handle_unknown(self.handle_unknown, found)
        return model.in_context(rows, given), np.arange(len(rows))

    def _candidates(
        self, candidates: ArrayLike | Ids | None, features: TableLike | None
    ) -> tuple[np.ndarray, np.ndarray, sparse.csr_array | None]:
        """Raw ids and row numbers of candidates, each once; None is all items."""
        if candidates is None:
            self._items.check_features(features)
            return self._items.ids, np.arange(len(self._items)), None
        ids = candidates
        if not isinstance(ids, Ids):
            ids = read_ids(ids, "candidates")
        rows, cold = self._items.rows(ids, features)
        handle_unknown(self.handle_unknown, {"candidates": (ids, rows)})
        return *self._items.distinct_rows(ids, rows), cold

    def _unit_profiles(self, columns: np.ndarray, device: torch.device) -> np.ndarray:
        """Profiles of items of length 1, or 0 if negligible or without ratings."""
        profiles, lengths = self._ranking.profiles("item", 0, device)
        unit = profiles[columns] / lengths[columns, None]
        unit[columns < 0] = 0
        return unit

    def _seen_columns(
        self, rows: np.ndarray, columns: np.ndarray, never_exclude: ArrayLike | None
    ) -> Pairs:
        """Positions and columns that users of a slice of `rows` have seen."""
        column_of_item = np.full(len(self._items), -1)
        rated = np.flatnonzero(columns >= 0)
        column_of_item[columns[rated]] = rated
        kept = self._known_pairs(never_exclude)

        def seen(tile: slice) -> tuple[np.ndarray, np.ndarray]:
            position, users, items = self._seen.of_users(rows[tile])
            where = column_of_item[items]
            pairs = users * len(self._items) + items
            is_out = (where >= 0) & ~is_in_sorted(pairs, kept)
            return position[is_out], where[is_out]

        return seen

    def _excluded(
        self, exclude: ArrayLike | None, user_ids: np.ndarray, item_ids: np.ndarray
    ) -> Pairs:
        """Positions and columns of a slice of `user_ids` that `exclude` holds."""
        if exclude is None or is_empty(exclude):
            nothing = np.empty(0, dtype=np.int64)
            return lambda tile: (nothing, nothing)
        of_users, of_items = read_pairs(exclude, "exclude")
        # Ids of another kind are refused.
        of_users.numbered_in(self._users.ids)
        of_items.numbered_in(self._items.ids)
        n_items = len(item_ids)
        codes, rows, columns = number_pairs(of_users, of_items, user_ids, item_ids)
        pairs = np.unique(rows * n_items + columns)
        rows, columns = np.divmod(pairs, max(n_items, 1))
        n_users = codes.max(initial=-1) + 1
        excluded = SeenItems.of_pairs(rows, columns, n_users, n_items)

        def of_tile(tile: slice) -> tuple[np.ndarray, np.ndarray]:
            position, _, column = excluded.of_users(codes[tile])
            return position, column

        return of_tile

    def _known_pairs(self, X: ArrayLike | None) -> np.ndarray:
        """Sorted user * n_items + item of rows of known ids."""
        if X is None or is_empty(X):
            return np.empty(0, dtype=np.int64)
        user_ids, item_ids = read_pairs(X, "never_exclude")
        users = user_ids.numbered_in(self._users.ids)
        items = item_ids.numbered_in(self._items.ids)
        known = (users >= 0) & (items >= 0)
        return np.sort(users[known] * len(self._items) + items[known])

    def _similar(
        self,
        side: SideName,
        queries: ArrayLike,
        n: int,
        candidates: ArrayLike | None,
        features: TableLike | None,
        return_scores: bool,
        as_frame: bool,
    ) -> Lists:
        n = _length(n, f"n_{side}s")
        known = self._users if side == "user" else self._items
        asked = read_ids(queries, f"{side}s")
        rows, cold = known.rows(asked, features)
        known.refuse_unknown(asked, rows == -1)
        query_ids = known.like_fitted(asked.values, rows)
        ids, columns, cold_columns = self._similar_candidates(
            known, candidates, features
        )
        if candidates is None:
            own_column = np.maximum(rows, -1)
        else:
            own_column = pd.Index(ids).get_indexer(query_ids)
        n_listed = min(n, len(columns)) if as_frame else n
        _check_padding(len(rows), n_listed, len(columns), f"n_{side}s")
        work = float(len(rows)) * len(columns) * self._model.score_work
        device = torch_device(self.device, work)
        profiles, norms = self._profiles(side, device, cold, cold_columns)
        n_known, n_cold = len(known), 0 if cold is None else cold.shape[0]
        rows = np.where(rows < 0, n_known - 2 - rows, rows)
        columns = np.where(columns < 0, n_known + n_cold - 2 - columns, columns)
        scaled = profiles[rows] / norms[rows, None]
        if not np.array_equal(columns, np.arange(len(profiles))):
            profiles, norms = profiles[columns], norms[columns]

        def itself(tile: slice) -> tuple[np.ndarray, np.ndarray]:
            own = own_column[tile]
            found = np.flatnonzero(own >= 0)
            return found, own[found]

        best, scores = top_k(
            lambda tile: _cosines(scaled[tile], profiles, norms),
            len(rows),
            len(columns),
            n_listed,
            itself,
            device,
        )
        if as_frame:
            return _long_frame(query_ids, ids, best, scores, side, f"similar_{side}")
        similar = take_ids(ids, best)
        return (similar, scores) if return_scores else similar

    def _similar_candidates(
        self,
        known: KnownIds,
        candidates: ArrayLike | None,
        features: TableLike | None,
    ) -> tuple[np.ndarray, np.ndarray, sparse.csr_array | None]:
        """Raw ids and row numbers of candidates, each once, without unknown ones."""
        if candidates is None:
            return known.ids, np.arange(len(known)), None
        given = read_ids(candidates, "candidates")
        rows, cold = known.rows(given, features)
        found = {"candidates": (given, rows)}
        handle_unknown(self.handle_unknown, found, "left out")
        ids, rows = known.distinct_rows(given, rows)
        return ids[rows != -1], rows[rows != -1], cold

    def _profiles(
        self, side: SideName, device: torch.device, *cold: sparse.csr_array | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Profiles and lengths of all rows, then of the cold rows of each matrix."""
        given = [matrix for matrix in cold if matrix is not None]
        model, n_cold = self._model, 0
        if given:
            both = sparse.csr_array(sparse.vstack(given))
            n_cold = both.shape[0]
            model = model.with_cold_rows(
                both if side == "user" else None, both if side == "item" else None
            )
        profiles, lengths = model.profiles(side, n_cold, device)
        if not profiles.shape[1]:
            raise ValueError(
                "Similarity compares tastes, and the choices of this fit tell of none. "
                "Give more rows, or ratings as y with n_factors such as 4."
            )
        return (
            torch.from_numpy(profiles).to(device),
            torch.from_numpy(lengths).to(device),
        )


def _union(first: Pairs, second: Pairs) -> Pairs:
    """Positions and columns of either of two functions."""

    def of_tile(tile: slice) -> tuple[np.ndarray, np.ndarray]:
        both = zip(first(tile), second(tile), strict=True)
        position, column = map(np.concatenate, both)
        return position, column

    return of_tile


def _cosines(scaled: torch.Tensor, profiles: torch.Tensor, norms: torch.Tensor) -> Fill:
    """Function that writes cosines of queries, scaled to length 1, and profiles."""
    products = inner_products(scaled, profiles)

    # Rounding goes beyond 1.
    def fill(columns: slice, out: torch.Tensor) -> None:
        products(columns, out)
        out.div_(norms[columns]).clamp_(-1, 1)

    return fill


def _read_rows(X: Any, name: str) -> tuple[Ids, Ids]:
    """Users and items of rows, of which there may be none."""
    if is_empty(X):
        nothing = np.empty(0, dtype=object)
        return Ids(nothing, "empty", name), Ids(nothing, "empty", name)
    return read_pairs(X, name)


def _length(n: Any, name: str) -> int:
    """Length of lists, given as an argument."""
    if not isinstance(n, Integral) or isinstance(n, bool):
        raise TypeError(f"{name} must be an int, got {n!r}.")
    if n < 1:
        raise ValueError(f"{name} must be at least 1, got {n}.")
    return int(n)


def _check_padding(n_lists: int, n: int, n_candidates: int, name: str) -> None:
    """Refuse an array of lists of which nearly all would be missing values."""
    if n_lists * (n - n_candidates) > MAX_PADDING:
        raise ValueError(
            f"{name} asks for arrays of {n_lists} lists of {n} places, but there are "
            f"{n_candidates} candidates. Use {name}={max(n_candidates, 1)} or less, or "
            "as_frame=True, which has no rows for missing values."
        )


def _long_frame(
    queries: np.ndarray,
    ids: np.ndarray,
    places: np.ndarray,
    scores: np.ndarray,
    query: str,
    item: str,
) -> pd.DataFrame:
    """Lists as a frame of one row per item; places of -1 are left out."""
    row, column = np.nonzero(places >= 0)
    return pd.DataFrame(
        {
            query: queries[row],
            item: ids[places[row, column]],
            "rank": column + 1,
            "score": scores[row, column],
        }
    )
