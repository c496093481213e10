"""BaseRecommender: the template that every estimator of this package fills in.

It validates, numbers the ids, runs the iterations of a solver with callbacks and
stopping, and turns row numbers back into raw ids. What a model is, and how it is fitted
and scored, are the hooks at the end of the class.
"""

from __future__ import annotations

import functools
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Literal, Self

import narwhals.stable.v1 as nw
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from ._data.containers import as_array, as_frame, object_array
from ._data.interactions import Described, Interactions
from ._data.messages import counted, shown
from ._data.reading import SPARSE_ROWS, Columns, as_numbers, read_pairs
from ._data.side_features import ColdRows, arguments_may_be_cut
from ._data.vocabulary import Growth, Ids, inserted
from ._data.weights import Weighting
from ._settings import own_settings
from ._sklearn import (
    CallbackSupportMixin,
    Interval,
    StrOptions,
    check_columns,
    fit_context,
    num_samples,
    with_callbacks,
)
from ._threads import torch_threads
from ._topk import Fill, inner_products, top_k
from ._warn import warn

__all__ = [
    "BaseRecommender",
    "Integral",
    "Interval",
    "Iteration",
    "Real",
    "StrOptions",
    "reads_one_fit",
    "snapshot",
]

MAX_IDS_SHOWN = 5
MAX_RATING = 1e30
MIN_ROWS_OF_TARGET = 10
MAX_DECIMALS = 3

# Further rows that one thread learns from.
MAX_FEW_ROWS = 2**10

# Rows predicted at a time. Fewer would not take less memory than ids and results.
PREDICTION_ROWS = 2**16


@dataclass(frozen=True)
class Iteration:
    """What a solver reports after an iteration.

    Attributes
    ----------
    objective : float
        What is being lowered, per unit of weight.
    progress : str
        What came of the iteration, in words.
    converged : bool
        Whether there is nothing left to do.
    attributes : callable
        Gives the fitted attributes as if fit had ended here.
    warning : str
        What to warn of if it ends here; empty if there is nothing.
    """

    objective: float
    progress: str
    converged: bool
    attributes: Callable[[], dict[str, Any]]
    warning: str = ""

    def __str__(self) -> str:
        return f"objective {self.objective:.6f}, {self.progress}"


def reads_one_fit(method):
    """Let a method read one fit, whatever another thread publishes meanwhile."""

    @functools.wraps(method)
    def wrapper(self, *args, **kwargs):
        model = snapshot(self)
        with own_settings():
            return method(model, *args, **kwargs)

    return wrapper


def snapshot(estimator):
    """A copy that later fits of the estimator leave alone."""
    model = object.__new__(type(estimator))
    model.__dict__ = vars(estimator).copy()
    return model


class BaseRecommender(
    CallbackSupportMixin, RegressorMixin, BaseEstimator, metaclass=ABCMeta
):
    """Template of an estimator over (user, item) rows."""

    _parameter_constraints: dict = {
        "max_iter": [Interval(Integral, 1, None, closed="left"), None],
        "tol": [Interval(Real, 0, None, closed="left"), None],
        "handle_unknown": [StrOptions({"ignore", "warn", "error"})],
        "clip": ["boolean"],
        "warm_start": ["boolean"],
        "device": [str, torch.device],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.regressor_tags.poor_score = True
        return tags

    def fit(
        self, X, y=None, sample_weight=None, *, user_features=None, item_features=None
    ):
        """Fit the model to ratings.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2 + n_features)
            Column 0 holds the user, column 1 the item, as raw ids of any sortable kind.
            Any further column is a numeric feature of that one rating.
        y : array-like of shape (n_samples,)
            The ratings, on any scale. Where X holds what users chose, and pairs that it
            does not hold count too, None is 1 for every row.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights. A weight of 2 is the row twice, 0 is no row. How much
            a repeated or heavy pair tells is learned from the ratings, and a common
            factor of all weights changes nothing.
        user_features, item_features : DataFrame, matrix or callable, default=None
            What is known of users and of items besides. A frame has ids in the column
            that has the name of the user or item column of `X`; without such a column,
            in its index, or in its first column if the library has no indices. A
            matrix has row i for the id i. Numbers are standardised, and of other
            columns every value becomes a column of 0 and 1; a list in a cell is
            several values.
            Where a value is missing, or the row of an id of `X`, the mean stands for
            it, with a warning. What is said of other ids is kept, and used when
            something is asked about them.
            scikit-learn cuts an argument that is as long as `X` when it cuts `X`; it
            never cuts a function without arguments that returns the table.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If an id, a rating, a weight or a further column of `X` is missing or
            infinite, if lengths differ, if no row has a positive weight, if floats are
            too large to be ids, or if it is ambiguous which id a row of a table
            describes, none of `X` is described, or a matrix may have been cut.
        TypeError
            If the ids of a column are of several kinds, nested, or X is sparse, or a
            column of a table is mixed, nested, or holds times.

        Warns
        -----
        UserWarning
            If ids look like a scaled column or like indicators, if a further column of
            `X` tells the ratings, if a table has gaps or may have been cut, or if all
            ratings are equal and pairs without ratings do not count.
        """
        # What is fitted is kept aside until all of it is there and callbacks are done.
        self._publish(self._fit(X, y, sample_weight, user_features, item_features))
        return self

    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def _fit(self, X, y, sample_weight, user_features, item_features) -> dict[str, Any]:
        """Fitted attributes."""
        model = snapshot(self)
        with own_settings():
            columns = model._read_columns(X, reset=True)
            rating = model._read_ratings(y, columns)
            weight = model._read_weights(sample_weight, columns)
            model._warn_of_target(columns, rating)
            data = Interactions.from_columns(columns, rating, weight)
            model._warn_of_equal_ratings(data.rating)
            of_choices = model._needs_no_ratings()
            learned = Weighting.of_choices if of_choices else Weighting.of_ratings
            weighting = learned(data)
            data = weighting.applied(data)
            data, descriptions = model._described(
                data, user_features, item_features, len(rating)
            )
            iterations = model._iterate(data, model._torch_device())
            read = {
                **_names_of_columns(model),
                **_seen(data.user_ids, data.item_ids, data.users, data.items),
                "_descriptions": descriptions,
                "_weighting": weighting,
                "rating_range_": model._rating_range(data.rating),
            }
        metadata = {
            "sample_weight": sample_weight,
            "user_features": user_features,
            "item_features": item_features,
        }
        metadata = {k: v for k, v in metadata.items() if v is not None} or None
        task = {"estimator": self, "X": X, "y": y, "metadata": metadata}
        context = self._init_callback_context(max_subtasks=self._max_iter())
        context.call_on_fit_task_begin(**task)
        attributes = self._run(iterations, context, task, read)
        context.call_on_fit_task_end(
            **task, reconstruction_attributes=lambda: attributes
        )
        return attributes

    def partial_fit(
        self, X, y=None, sample_weight=None, *, user_features=None, item_features=None
    ) -> Self:
        """Learn from further ratings, of known and of new users and items.

        Only the rows of users and items that occur are revised, so the time follows the
        further ratings. What all rows share, such as their prior or the weights of a
        network's layers, stays as `fit` has learned it. Before the first `fit` this is
        `fit`.

        After the solvers "vb" and "als", what was believed of a row is its prior, and
        given the other side its posterior is that of all ratings together. After "adam"
        and "sgd", rows minimise the objective of the further ratings by Newton steps,
        users given items and items given users, `max_iter` times at most. A row is held
        to where it was by the curvature of the losses of the ratings that it was
        learned from; weights are relative to those of `fit`, and nothing is held out
        for `early_stopping`. So many small calls add up to about what one call does.
        "gibbs" has no `partial_fit`.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2 + n_features)
            Columns as in `fit`.
        y : array-like of shape (n_samples,)
            The ratings. One that was given before counts again. None is as in `fit`.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights.
        user_features, item_features : DataFrame, matrix or callable, default=None
            As in `fit`, of new users and items. Of those that are not described, here
            or in `fit`, nothing is known but their ratings.

        Returns
        -------
        self : object
            The fitted estimator. `user_ids_` and `item_ids_` have grown.

        Raises
        ------
        ValueError
            As `fit`, if X is not as wide as in `fit`, if parameters of the model or the
            loss have changed, or if a fit of "vb" or "als" has stored no covariances.
        TypeError
            As `fit`, and if ids are of another kind than in `fit`.
        """
        self._validate_params()
        if not hasattr(self, "user_ids_"):
            return self.fit(
                X,
                y,
                sample_weight,
                user_features=user_features,
                item_features=item_features,
            )
        # The model that others read stays as it is until all is learned.
        model = snapshot(self)
        # Threads that wait for each other make a few rows slow.
        few = num_samples(X) <= MAX_FEW_ROWS
        n_threads = 1 if few else torch.get_num_threads()
        with own_settings(), torch_threads(n_threads):
            attributes = model._learn_further(
                X, y, sample_weight, user_features, item_features
            )
        self._publish(attributes)
        return self

    def _learn_further(
        self, X, y, sample_weight, user_features, item_features
    ) -> dict[str, Any]:
        """Fitted attributes after further rows as they were given."""
        self._check_can_continue()
        columns = self._read_columns(X, reset=False)
        # Ids of another kind are refused while it is known where they stand.
        columns.users.numbered_in(self.user_ids_)
        columns.items.numbered_in(self.item_ids_)
        rating = self._read_ratings(y, columns)
        weight = self._read_weights(sample_weight, columns)
        data = Interactions.from_columns(columns, rating, weight)
        data = self._weighting.applied(data)
        users, user_rows = self._numbered(
            "user",
            Ids.from_column(data.user_ids, "X (users)"),
            user_features,
            len(rating),
        )
        items, item_rows = self._numbered(
            "item",
            Ids.from_column(data.item_ids, "X (items)"),
            item_features,
            len(rating),
        )
        grown = data.among(
            Growth.of(self.user_ids_, data.user_ids, users),
            Growth.of(self.item_ids_, data.item_ids, items),
        )
        seen = self._seen_after(grown)
        model = self._knowing(user_rows, item_rows)
        attributes = model._learned_further(
            data, users, items, grown, self._torch_device()
        )
        low, high = self._rating_range(data.rating)
        return {
            **attributes,
            **seen,
            "rating_range_": (
                min(low, self.rating_range_[0]),
                max(high, self.rating_range_[1]),
            ),
        }

    def _publish(self, attributes: dict[str, Any]) -> None:
        """Let readers see a whole fit, all at once."""
        fitted = vars(self) | attributes
        if fitted.get("feature_names_in_") is None:
            fitted.pop("feature_names_in_", None)
        self.__dict__ = fitted

    def _run(
        self, iterations: Iterator[Iteration], context, task, read: dict[str, Any]
    ) -> dict[str, Any]:
        """Iterate until `tol`, `max_iter` or a callback says stop.

        Gives the fitted attributes, those that were `read` from the rows among them.
        """

        def attributes() -> dict[str, Any]:
            with own_settings():
                fitted = iteration.attributes()
            losses_so_far = {"n_iter_": len(losses), "loss_curve_": losses.copy()}
            return read | losses_so_far | fitted

        max_iter = self._max_iter()
        losses: list[float] = []
        converged = stopped = False
        while not (converged or stopped or len(losses) == max_iter):
            step = context.subcontext(task_name="iteration")
            step.call_on_fit_task_begin(**task)
            # Callbacks run between iterations, with the settings of the caller.
            with own_settings():
                iteration = next(iterations)
            losses.append(iteration.objective)
            if not np.isfinite(iteration.objective):
                raise FloatingPointError(
                    f"{type(self).__name__} diverged: its objective is "
                    f"{iteration.objective} after iteration {len(losses)}."
                )
            self._tell(len(losses), iteration)
            stopped = step.call_on_fit_task_end(
                **task, reconstruction_attributes=attributes
            )
            converged = iteration.converged
        if iteration.warning:
            warn(iteration.warning)
        if self._can_converge() and not (converged or stopped):
            warn(
                f"{type(self).__name__} has not converged after max_iter={max_iter} "
                f"iterations; in the last one, {iteration}. Raise "
                "max_iter or tol.",
                ConvergenceWarning,
            )
        return attributes()

    def _tell(self, number: int, iteration: Iteration) -> None:
        if self.verbose:
            print(
                f"[{type(self).__name__}] iteration {number} of at most "
                f"{self._max_iter()}: {iteration}"
            )

    @reads_one_fit
    def predict(
        self, X, return_std: bool = False, *, user_features=None, item_features=None
    ):
        """Predict ratings.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2 + n_features)
            Columns as in `fit`. Ids that `fit` has not seen are answered as
            `handle_unknown` says.
        return_std : bool, default=False
            Return a standard deviation of each prediction too: of a rating that would
            be given, noise included, after MFRegressor; of the predictions of the
            members, after NCFRegressor.
        user_features, item_features : DataFrame, matrix or callable, default=None
            As in `fit`, of ids that have no ratings. Such ids are predicted from what
            is said of them here or was said in `fit`.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            Predicted ratings, in the units of the ratings given to `fit`.
        std : ndarray of shape (n_samples,)
            Only with `return_std=True`.

        Raises
        ------
        ValueError
            If an id or a feature is missing or infinite, if X is not as wide as in
            `fit`, if `handle_unknown="error"` and an id is unknown, if features are
            given that `fit` was not given, or if the fit knows no standard deviation.
        TypeError
            If ids are of another kind than in `fit`, such as strings for numbers.
        """
        check_is_fitted(self)
        columns = self._read_columns(X, reset=False)
        n_rows = len(columns.users.values)
        users, user_rows = self._numbered("user", columns.users, user_features, n_rows)
        items, item_rows = self._numbered("item", columns.items, item_features, n_rows)
        self._handle_unknown(
            {"users": (columns.users, users), "items": (columns.items, items)}
        )
        model = self._knowing(user_rows, item_rows)
        y = np.empty(len(users))
        std = np.empty(len(users)) if return_std else None
        for start in range(0, len(users), PREDICTION_ROWS):
            tile = slice(start, start + PREDICTION_ROWS)
            mean, deviation = model._predict(
                users[tile], items[tile], columns.features[tile], return_std
            )
            y[tile] = self._response(mean)
            if return_std:
                std[tile] = deviation
        if self.clip:
            y.clip(*self.rating_range_, out=y)
        return (y, std) if return_std else y

    def score(
        self, X, y=None, sample_weight=None, *, user_features=None, item_features=None
    ) -> float:
        """R², the share of the variance of ratings that predictions explain.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2 + n_features)
            Columns as in `fit`.
        y : array-like of shape (n_samples,)
            The ratings. Choices without ratings have no R²; lists of them can be scored
            by :class:`~skrec.metrics.RankingScorer`.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights.
        user_features, item_features : DataFrame, matrix or callable, default=None
            As in `predict`.

        Returns
        -------
        score : float
            1 − Σ w (y − ŷ)² / Σ w (y − ȳ)².

        Raises
        ------
        ValueError
            As `predict`, or if there is no `y`.
        """
        if y is None:
            raise ValueError(
                f"{type(self).__name__}.score is R², which needs ratings that differ, "
                "but y is None. Score lists of choices by ranking, such as with "
                "scoring=RankingScorer('ndcg') of skrec.metrics."
            )
        predicted = self.predict(
            X, user_features=user_features, item_features=item_features
        )
        return r2_score(y, predicted, sample_weight=sample_weight)

    @reads_one_fit
    def recommend(
        self,
        users=None,
        n_items: int = 10,
        *,
        exclude_seen: bool = True,
        never_exclude=None,
        candidates=None,
        return_scores: bool = False,
        as_frame: bool = False,
        user_features=None,
        item_features=None,
    ):
        """The items that users would rate highest, best first.

        Ties go to the candidate that comes first. A user that was not in the training
        rows gets what is known: the items that suit their features, or else the items
        by their own merit. Whatever the numbers of users and items, scores are held for
        some of them at a time: 64 MiB in all.

        Parameters
        ----------
        users : array-like of shape (n_users,), default=None
            Raw user ids; None is all users of `user_ids_`, in that order.
        n_items : int, default=10
            Length of each list, which may be more than there are candidates.
        exclude_seen : bool, default=True
            Leave out what a user has rated in the training rows.
        never_exclude : array-like of shape (n_rows, 2 or more), default=None
            Rows of user and item to be kept all the same, such as rows of the training
            on which the model is to be scored.
        candidates : array-like of shape (n_candidates,), default=None
            Raw item ids to choose from; None is all items, in the order of `item_ids_`.
            Those that `fit` has not seen are scored or refused as `handle_unknown`
            says, each by its features if it is described.
        return_scores : bool, default=False
            Return scores too: predicted ratings, not clipped, at the mean of any
            further columns of X.
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
            If `n_items` is less than 1, or if `handle_unknown="error"` and a user or a
            candidate is unknown.
        TypeError
            If `n_items` is no int, or if ids are of another kind than in `fit`.
        """
        check_is_fitted(self)
        n_items = _length(n_items, "n_items")
        user_ids, rows, user_rows = self._user_rows(users, user_features)
        item_ids, columns, item_rows = self._candidates(candidates, item_features)
        model = self._knowing(user_rows, item_rows)

        column_of_item = np.full(len(self.item_ids_), -1)
        rated = np.flatnonzero(columns >= 0)
        column_of_item[columns[rated]] = rated
        kept = self._pairs_among_known(never_exclude)

        def seen(tile: slice) -> tuple[np.ndarray, np.ndarray]:
            position, items = self._seen_by(rows[tile])
            where = column_of_item[items]
            pairs = rows[tile][position] * len(self.item_ids_) + items
            left_out = (where >= 0) & ~_occurs(pairs, kept)
            return position[left_out], where[left_out]

        device = self._torch_device()
        best, scores = top_k(
            model._scorer(rows, columns, device),
            len(rows),
            len(columns),
            min(n_items, len(columns)) if as_frame else n_items,
            seen if exclude_seen else None,
            device,
        )
        scores = np.where(best < 0, -np.inf, model._ratings(scores, rows))
        if as_frame:
            return _long_frame(user_ids, item_ids, best, scores, "user", "item")
        items = _taken(item_ids, best)
        return (items, scores) if return_scores else items

    @reads_one_fit
    def similar_items(
        self,
        items,
        n_items: int = 10,
        *,
        return_scores: bool = False,
        as_frame: bool = False,
    ):
        """The items most like given ones, best first, by cosine of their profiles.

        Parameters
        ----------
        items : array-like of shape (n_queries,)
            Raw item ids, all in `item_ids_`.
        n_items : int, default=10
            Length of each list, which may be more than there are other items.
        return_scores : bool, default=False
            Return the cosines too.
        as_frame : bool, default=False
            Return a long frame.

        Returns
        -------
        similar : ndarray of shape (n_queries, n_items)
            Raw item ids, never the item itself. Where there are fewer than `n_items`
            others, the list ends in missing values, as in `recommend`.
        scores : ndarray of shape (n_queries, n_items)
            Only with `return_scores=True`. From -1 to 1; 0 where a profile holds
            nothing, and -inf where there is no item.
        frame : DataFrame with columns item, similar_item, rank and score
            With `as_frame=True`, instead of arrays. Where there are fewer than
            `n_items` others, there are fewer rows.

        Raises
        ------
        ValueError
            If an item is unknown, if `n_items` is less than 1, or if the model has no
            factors to compare.
        TypeError
            If `n_items` is no int, or if ids are of another kind than in `fit`.
        """
        return self._similar("item", items, n_items, return_scores, as_frame)

    @reads_one_fit
    def similar_users(
        self,
        users,
        n_users: int = 10,
        *,
        return_scores: bool = False,
        as_frame: bool = False,
    ):
        """The users most like given ones, best first, by cosine of their profiles.

        Parameters
        ----------
        users : array-like of shape (n_queries,)
            Raw user ids, all in `user_ids_`.
        n_users : int, default=10
            Length of each list, which may be more than there are other users.
        return_scores : bool, default=False
            Return the cosines too.
        as_frame : bool, default=False
            Return a long frame.

        Returns
        -------
        similar : ndarray of shape (n_queries, n_users)
            Raw user ids, never the user itself. Where there are fewer than `n_users`
            others, the list ends in missing values, as in `recommend`.
        scores : ndarray of shape (n_queries, n_users)
            Only with `return_scores=True`. From -1 to 1; 0 where a profile holds
            nothing, and -inf where there is no user.
        frame : DataFrame with columns user, similar_user, rank and score
            With `as_frame=True`, instead of arrays. Where there are fewer than
            `n_users` others, there are fewer rows.

        Raises
        ------
        ValueError
            If a user is unknown, if `n_users` is less than 1, or if the model has no
            factors to compare.
        TypeError
            If `n_users` is no int, or if ids are of another kind than in `fit`.
        """
        return self._similar("user", users, n_users, return_scores, as_frame)

    @reads_one_fit
    def item_index_vectors(self) -> np.ndarray:
        """Vectors of all items, for an index of the largest inner products.

        The inner product of a row of `user_index_vectors` and a row of these is, but
        for a constant, the score by which `recommend` ranks; biases are in it. An
        approximate index of such vectors finds a user's best items among millions
        without looking at each. It knows nothing of what a user has rated: ask it for
        more than is wanted, and leave that out.

        Returns
        -------
        vectors : ndarray of shape (n_items, size), dtype float32
            In the order of `item_ids_`.

        Raises
        ------
        ValueError
            If scores are no inner products: after NCFRegressor with a perceptron.
        """
        check_is_fitted(self)
        return self._vectors("item", np.arange(len(self.item_ids_)))

    @reads_one_fit
    def user_index_vectors(self, users=None, *, user_features=None) -> np.ndarray:
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
            A user that was not in the training rows has what is known: a vector that
            ranks items as their features do, or else by the items' own merit.

        Raises
        ------
        ValueError
            As `item_index_vectors`, or if `handle_unknown="error"` and a user is
            unknown.
        """
        check_is_fitted(self)
        _, rows, user_rows = self._user_rows(users, user_features)
        return self._knowing(user_rows, None)._vectors("user", rows)

    def _user_rows(
        self, users, features
    ) -> tuple[np.ndarray, np.ndarray, sparse.csr_array | None]:
        """Raw ids and row numbers of users, as `_numbered`; None is all of them."""
        if users is None:
            return self.user_ids_, np.arange(len(self.user_ids_)), None
        ids = _read_ids(users, "users")
        rows, described = self._numbered("user", ids, features)
        self._handle_unknown({"users": (ids, rows)})
        return _as_fitted(ids.values, rows, self.user_ids_), rows, described

    def _candidates(
        self, candidates, features
    ) -> tuple[np.ndarray, np.ndarray, sparse.csr_array | None]:
        """Raw ids and row numbers of candidates, each once; None is all items."""
        if candidates is None:
            self._is_described("item", features)
            return self.item_ids_, np.arange(len(self.item_ids_)), None
        ids = _read_ids(candidates, "candidates")
        rows, described = self._numbered("item", ids, features)
        self._handle_unknown({"candidates": (ids, rows)})
        # Ids of which nothing is known share a row number.
        codes, _ = pd.factorize(ids.values)
        _, first = np.unique(
            np.where(rows == -1, rows.min(initial=-1) - 1 - codes, rows),
            return_index=True,
        )
        first.sort()
        rows = rows[first]
        return _as_fitted(ids.values[first], rows, self.item_ids_), rows, described

    def _described(
        self, data: Interactions, user_features, item_features, n_rows: int
    ) -> tuple[Interactions, dict[str, ColdRows]]:
        """Training rows with what is said of their ids, and what is said of others."""
        described, descriptions = {}, {}
        for side, ids, features in (
            ("user", data.user_ids, user_features),
            ("item", data.item_ids, item_features),
        ):
            if features is not None:
                descriptions[side], matrix = ColdRows.of(
                    features,
                    ids,
                    f"{side}_features",
                    id_name=self._id_name(side),
                    n_rows=n_rows if arguments_may_be_cut() else None,
                )
                names = descriptions[side].encoder.names
                if names:
                    described[side] = Described(names, matrix)
                else:
                    warn(
                        f"{side}_features holds no value for any {side} of X, so "
                        "nothing is learned from it."
                    )
        return replace(data, described=described), descriptions

    def _id_name(self, side: str) -> str | None:
        """Name of the column of X that holds the ids of a side."""
        names = getattr(self, "feature_names_in_", (None, None))
        return names[("user", "item").index(side)]

    def _is_described(self, side: str, features) -> bool:
        """Whether `fit` was told of features of users or of items."""
        if features is not None and side not in self._descriptions:
            raise ValueError(
                f"{side}_features were not given to fit, so this "
                f"{type(self).__name__} cannot say what they mean."
            )
        return side in self._descriptions

    def _numbered(
        self, side: str, ids: Ids, features, n_rows: int | None = None
    ) -> tuple[np.ndarray, sparse.csr_array | None]:
        """Row number of each id, and the features of those that have no ratings.

        -1 is an id of which nothing is known, and -2 - j one that stands in row j of
        the features. `n_rows` is the length of X, where ids come from one.
        """
        rows = ids.numbered_in(getattr(self, f"{side}_ids_"))
        unknown = np.flatnonzero(rows < 0)
        is_described = self._is_described(side, features)
        # A table of `fit` that held nothing has left no columns.
        if not (
            is_described and self._descriptions[side].encoder.names and len(unknown)
        ):
            return rows, None
        place, asked = pd.factorize(ids.values[unknown])
        found, matrix = self._descriptions[side].rows_of(
            np.asarray(asked),
            features,
            f"{side}_features",
            id_name=self._id_name(side),
            n_rows=n_rows if arguments_may_be_cut() else None,
        )
        number = np.full(len(found), -1)
        number[found] = -2 - np.arange(matrix.shape[0])
        rows[unknown] = number[place]
        return rows, matrix if matrix.shape[0] else None

    def _places_of_columns(self, data: Interactions) -> dict[str, np.ndarray]:
        """Where columns that describe ids stood in the last fit; -1 is new."""
        known = getattr(self, "_descriptions", {})
        return {
            side: pd.Index(known[side].encoder.names).get_indexer(described.names)
            if side in known
            else np.full(len(described.names), -1)
            for side, described in data.described.items()
        }

    def _similar(self, side, queries, n, return_scores, as_frame):
        check_is_fitted(self)
        n = _length(n, f"n_{side}s")
        ids = getattr(self, f"{side}_ids_")
        rows = _known(queries, f"{side}s", ids)
        profiles, norms = (
            torch.from_numpy(values).to(self._torch_device())
            for values in self._profiles(side)
        )

        def cosines(tile: slice) -> Fill:
            queries = profiles[rows[tile]] / norms[rows[tile], None]
            products = inner_products(queries, profiles)
            # Rounding goes beyond 1.
            return lambda columns, out: (
                products(columns, out).div_(norms[columns]).clamp_(-1, 1)
            )

        def itself(tile: slice) -> tuple[np.ndarray, np.ndarray]:
            return np.arange(tile.stop - tile.start), rows[tile]

        best, scores = top_k(
            cosines,
            len(rows),
            len(ids),
            min(n, len(ids)) if as_frame else n,
            itself,
            profiles.device,
        )
        if as_frame:
            return _long_frame(ids[rows], ids, best, scores, side, f"similar_{side}")
        similar = _taken(ids, best)
        return (similar, scores) if return_scores else similar

    def _read_columns(self, X, *, reset: bool) -> Columns:
        """Validated columns of X, whatever container it came in."""
        if sparse.issparse(X):
            raise TypeError(SPARSE_ROWS.format(name="X"))
        if isinstance(X, np.ndarray) and X.dtype.names:
            X = pd.DataFrame(X)
        frame = as_frame(X)
        if isinstance(frame, nw.DataFrame):
            names = list(getattr(self, "feature_names_in_", ()))
            if reset or frame.columns != names:
                # Looks at names alone, for longer than all else takes of a row.
                check_columns(self, frame, reset)
            if frame.shape[0] == 0:
                raise ValueError(
                    f"Found array with 0 sample(s) (shape={frame.shape}) while a "
                    f"minimum of 1 is required by {type(self).__name__}: X has no rows."
                )
            if frame.shape[1] < 2:
                raise ValueError(
                    f"Found array with {frame.shape[1]} feature(s) (shape="
                    f"{frame.shape}) while a minimum of 2 is required by "
                    f"{type(self).__name__}: X needs a column of users and a column of "
                    "items."
                )
            return self._checked_ids(Columns.from_frame(frame), reset)
        if isinstance(X, list | tuple):
            X = object_array(X)
        elif isinstance(X, np.ndarray | torch.Tensor):
            X = as_array(X)
        X = validate_data(
            self,
            X,
            reset=reset,
            dtype=None,
            ensure_all_finite=False,
            ensure_min_features=2 if reset else 1,
        )
        return self._checked_ids(Columns.from_array(X), reset)

    def _checked_ids(self, columns: Columns, first: bool) -> Columns:
        """Columns, with a warning of ids that are more likely to be numbers.

        Where every column of a wide array is continuous, there is nothing that ids
        could have been mistaken for: so it is in the checks of scikit-learn. And where
        there are but two columns, numbers of few decimals are taken for ids.
        """
        n_further = columns.features.shape[1]
        named = hasattr(self, "feature_names_in_")
        if n_further and not named and columns.all_fractional():
            return columns
        for side, ids in (("user", columns.users), ("item", columns.items)):
            fitted = None if first else Ids(getattr(self, f"{side}_ids_"), "", "")
            fractions = ids.fractions(0 if n_further else MAX_DECIMALS)
            if fractions.any() and (first or not fitted.fractions().any()):
                warn(
                    f"{ids.where} holds {counted(fractions, 'id')} with a fractional "
                    f"part, such as {shown(ids.values[fractions][0])}. It looks like a "
                    f"scaled column in the place of the {side}s: column 0 of X must "
                    "hold the user and column 1 the item. Put other columns after "
                    "them, for example at the end of the list of a ColumnTransformer.",
                )
        if first and columns.are_indicators():
            warn(
                "X holds as many ones in every row, and zeros elsewhere, as indicators "
                "of users and items do. Column 0 must hold user ids and column 1 item "
                "ids: give the ids themselves, without OneHotEncoder.",
            )
        return columns

    def _warn_of_equal_ratings(self, rating: np.ndarray) -> None:
        if len(rating) > 1 and np.ptp(rating) == 0 and not self._counts_unseen_pairs():
            warn(
                f"All {len(rating)} ratings in y are {rating[0]:g}, which tells no "
                "item from another. If X holds what users chose, let the pairs that it "
                "does not hold count, too: MFRegressor(solver='als', "
                "unobserved_weight=0.1) weighs all of them, and loss='log_loss' or "
                "loss='bpr' (solver='adam' or NCFRegressor) draws some.",
            )

    def _read_ratings(self, y, columns: Columns) -> np.ndarray:
        if y is None:
            if self._needs_no_ratings():
                return np.ones(len(columns.users.values))
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but "
                "the target y is None. Only what users chose, without ratings, needs "
                "none: see unobserved_weight of MFRegressor, and the losses 'log_loss' "
                "and 'bpr'."
            )
        if sparse.issparse(y):
            raise TypeError(
                "y is a sparse matrix; it must be a dense array of ratings."
            )
        if isinstance(y, np.ndarray | torch.Tensor):
            y = as_array(y)
        if pd.api.types.is_scalar(y):
            raise TypeError(
                f"y must hold one rating per row of X, got a single "
                f"{type(y).__name__}, {shown(y)}."
            )
        n_rows, n_ratings = len(columns.users.values), num_samples(y)
        if n_rows != n_ratings:
            raise ValueError(
                f"X and y must have as many rows, but X has {n_rows} and y has "
                f"{n_ratings} (inconsistent numbers of samples)."
            )
        rating = as_numbers(column_or_1d(y, warn=True), "y", "rating")
        largest = np.abs(rating).max()
        if largest > MAX_RATING:
            raise ValueError(
                f"y holds a rating of magnitude {largest:.3g}; ratings must be within "
                f"±{MAX_RATING:.0e}, which single precision can represent."
            )
        return rating

    def _warn_of_target(self, columns: Columns, rating: np.ndarray) -> None:
        """Warn of further columns from which the ratings can be read off."""
        if len(rating) < MIN_ROWS_OF_TARGET or np.ptp(rating) == 0:
            return
        y = rating - rating.mean()
        for j, feature in enumerate(columns.features.T, 2):
            x = feature - feature.mean()
            scale = np.abs(x).max()
            if scale <= 1e-9 * np.abs(feature).max():
                continue
            x = x / scale
            explained = (x @ y) ** 2 / ((x @ x) * (y @ y))
            if explained > 1 - 1e-9:
                names = getattr(self, "feature_names_in_", None)
                name = f" ({names[j]!r})" if names is not None else ""
                warn(
                    f"column {j} of X{name} says what the rating is: y is a linear "
                    "function of it. Leave it out of X, such as X[['user', 'item']], "
                    "unless it is known before the rating.",
                )

    def _read_weights(self, sample_weight, columns: Columns) -> np.ndarray | None:
        if sample_weight is None:
            return None
        if sparse.issparse(sample_weight):
            raise TypeError(
                "sample_weight is a sparse matrix; it must be a dense array of weights."
            )
        weight = as_numbers(sample_weight, "sample_weight", "weight")
        if weight.ndim == 0:
            weight = np.full(len(columns.users.values), weight)
        if weight.shape != columns.users.values.shape:
            raise ValueError(
                f"sample_weight has shape {weight.shape}, but X has "
                f"{len(columns.users.values)} rows; it must hold one weight per row."
            )
        if (weight < 0).any():
            raise ValueError(
                "Negative values in data passed to `sample_weight`: "
                f"{counted(weight < 0, 'weight')}; weights must be at least 0."
            )
        if not weight.any():
            raise ValueError(
                "sample_weight is zero in all rows; at least one must be positive."
            )
        return weight

    def _handle_unknown(self, found: dict[str, tuple[Ids, np.ndarray]]) -> None:
        """Say what `handle_unknown` asks to be said of ids that fit has not seen."""
        if self.handle_unknown == "ignore":
            return
        unknown = {
            noun: ids.values[rows == -1]
            for noun, (ids, rows) in found.items()
            if (rows == -1).any()
        }
        if not unknown:
            return
        message = " and ".join(
            f"unknown {noun} in {len(ids)} of {len(found[noun][1])} rows, such as "
            f"{shown(ids[0])}"
            for noun, ids in unknown.items()
        )
        if self.handle_unknown == "error":
            raise ValueError(f"Found {message}; handle_unknown='error' refuses them.")
        warn(
            f"Found {message}; they are answered from what is known.",
        )

    def _torch_device(self) -> torch.device:
        """The device that `device` names, if it is there."""
        name = str(self.device)
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu":
            return torch.device(name)
        try:
            torch.zeros(1, device=name).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            if self.device == "auto":
                # Such as in a forked process whose parent uses it.
                return torch.device("cpu")
            raise ValueError(
                f"device={name!r} is not available here: {error}. Use 'auto', "
                "'cpu', or a device of this machine such as 'cuda' or 'cuda:1'."
            ) from error
        return torch.device(name)

    def _seen_after(self, grown: Interactions) -> dict[str, Any]:
        """Attributes of ids and of seen items after further rows, by insertion."""
        users, items = grown.growths
        offsets, seen = self._seen_offsets, self._seen_items
        if len(items.at):
            places = items.shifted(np.arange(len(self.item_ids_)))
            seen = places.astype(np.int32)[seen]
        offsets = users.inserted(offsets, offsets[users.at])
        n_items = len(items.ids)
        position, known = _gathered(offsets, seen, users.given)
        known += position * n_items
        further = np.searchsorted(users.given, grown.users) * n_items + grown.items
        further = np.unique(further)
        further = further[~_occurs(further, known)]
        which, new = np.divmod(further, n_items)
        starts = np.searchsorted(position, which)
        at = offsets[users.given[which]] + np.searchsorted(known, further) - starts
        counts = np.zeros(len(offsets), dtype=np.int64)
        np.add.at(counts, users.given[which] + 1, 1)
        np.cumsum(counts, out=counts)
        counts += offsets
        return {
            "user_ids_": users.ids,
            "item_ids_": items.ids,
            "_seen_items": inserted(seen, at, new.astype(np.int32)),
            "_seen_offsets": counts,
        }

    def _seen_by(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(position in `rows`, item number) of all that users have rated."""
        return _gathered(self._seen_offsets, self._seen_items, rows)

    def _pairs_among_known(self, X) -> np.ndarray:
        """user * n_items + item of rows of known ids, sorted."""
        if X is None or _is_empty(X):
            return np.empty(0, dtype=np.int64)
        users, items = read_pairs(X, "never_exclude")
        users = users.numbered_in(self.user_ids_)
        items = items.numbered_in(self.item_ids_)
        known = (users >= 0) & (items >= 0)
        return np.sort(users[known] * len(self.item_ids_) + items[known])

    def _rating_range(self, rating: np.ndarray) -> tuple[float, float]:
        """What `clip` clips predictions to."""
        return float(rating.min()), float(rating.max())

    def _response(self, y: np.ndarray) -> np.ndarray:
        """Predicted ratings, from what `_predict` gives."""
        return y

    @abstractmethod
    def _needs_no_ratings(self) -> bool:
        """Whether rows may be what users chose, since other pairs count too."""

    @abstractmethod
    def _counts_unseen_pairs(self) -> bool:
        """Whether pairs that X does not hold count as not chosen."""

    @abstractmethod
    def _max_iter(self) -> int:
        """Iterations at most."""

    @abstractmethod
    def _can_converge(self) -> bool:
        """Whether the solver is to converge within its iterations."""

    @abstractmethod
    def _iterate(self, data: Interactions, device: torch.device) -> Iterator[Iteration]:
        """Endless iterations of the solver."""

    @abstractmethod
    def _check_can_continue(self) -> None:
        """Refuse a partial_fit that the last fit does not allow."""

    @abstractmethod
    def _learned_further(
        self,
        data: Interactions,
        users: np.ndarray,
        items: np.ndarray,
        grown: Interactions,
        device: torch.device,
    ) -> dict[str, Any]:
        """Fitted attributes after further rows.

        `data` numbers these rows among their own ids, which have the row numbers
        `users` and `items` in this estimator, `grown` among all ids.
        """

    @abstractmethod
    def _knowing(
        self, users: sparse.csr_array | None, items: sparse.csr_array | None
    ) -> Self:
        """A copy of this estimator that also knows rows by their features alone.

        Their row numbers are -2 - j for row j of a matrix.
        """

    @abstractmethod
    def _predict(
        self,
        users: np.ndarray,
        items: np.ndarray,
        features: np.ndarray,
        return_std: bool,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Scores of row numbers (-1 is unknown), and deviations of the ratings."""

    @abstractmethod
    def _scorer(
        self, rows: np.ndarray, columns: np.ndarray, device: torch.device
    ) -> Callable[[slice], Fill]:
        """Takes a slice of user `rows` (-1 is unknown) to scores of item `columns`.

        What they are only has to rank.
        """

    @abstractmethod
    def _ratings(self, scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Predicted ratings, from what `_scorer` gives for user rows."""

    @abstractmethod
    def _vectors(self, side: Literal["user", "item"], rows: np.ndarray) -> np.ndarray:
        """Vectors whose inner products rank as scores do."""

    @abstractmethod
    def _profiles(self, side: Literal["user", "item"]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors whose cosine says how alike two users or two items are.

        And their lengths, in float32 both; inf where a vector holds nothing.
        """


def _read_ids(values, name: str) -> Ids:
    """Ids given as an argument."""
    if isinstance(values, torch.Tensor):
        # pandas takes a tensor for a scalar.
        values = as_array(values)
    if isinstance(values, dict) or pd.api.types.is_scalar(values):
        raise ValueError(
            f"{name} must be a one-dimensional array-like of ids, such as ['ann'] for "
            f"the id 'ann', got the single value {shown(values)}."
        )
    if isinstance(values, list | tuple):
        array = np.empty(len(values), dtype=object)
        array[:] = values
    else:
        array = as_array(values)
    if array.ndim != 1:
        raise ValueError(
            f"{name} must be a one-dimensional array-like of ids, such as a list or a "
            f"column of a frame, got {type(values).__name__} of shape {array.shape}."
        )
    return Ids.from_column(array, name)


def _is_empty(values) -> bool:
    """Whether a container holds no rows, of any width."""
    if hasattr(values, "shape"):
        return values.shape[:1] == (0,)
    return hasattr(values, "__len__") and len(values) == 0


def _as_fitted(ids: np.ndarray, rows: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Ids as `fit` has seen them; new ones in the same dtype, if it can hold them."""
    try:
        # NumPy finds a date unlike itself among objects.
        given = pd.to_datetime(ids).to_numpy() if fitted.dtype.kind == "M" else ids
        with np.errstate(invalid="ignore"):
            alike = given.astype(fitted.dtype)
    except (OverflowError, TypeError, ValueError):
        return ids
    if not (alike == given).all():
        return ids
    return np.where(rows >= 0, fitted[np.maximum(rows, 0)], alike)


def _known(values, name: str, fitted: np.ndarray) -> np.ndarray:
    """Row numbers of ids that must all be known."""
    ids = _read_ids(values, name)
    rows = ids.numbered_in(fitted)
    unknown = ids.values[rows < 0]
    if len(unknown):
        first = ", ".join(map(shown, unknown[:MAX_IDS_SHOWN]))
        raise ValueError(
            f"{name} must be known, but {len(unknown)} of {len(rows)} were not in the "
            f"training rows, such as {first}."
        )
    return rows


def _names_of_columns(model) -> dict[str, Any]:
    """What scikit-learn has read of X; no names where X has none."""
    return {
        "n_features_in_": model.n_features_in_,
        "feature_names_in_": getattr(model, "feature_names_in_", None),
    }


def _seen(
    user_ids: np.ndarray, item_ids: np.ndarray, users: np.ndarray, items: np.ndarray
) -> dict[str, Any]:
    """Attributes of ids, and of the items each user has rated, from sorted pairs."""
    first = np.ones(len(users), dtype=bool)
    first[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    return {
        "user_ids_": user_ids,
        "item_ids_": item_ids,
        "_seen_items": items[first].astype(np.int32),
        "_seen_offsets": np.searchsorted(users[first], np.arange(len(user_ids) + 1)),
    }


def _gathered(
    offsets: np.ndarray, items: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(position in `rows`, item number) of all items of users; -1 has none."""
    known = np.maximum(rows, 0)
    starts = offsets[known]
    counts = np.where(rows < 0, 0, offsets[known + 1] - starts)
    position = np.repeat(np.arange(len(rows)), counts)
    shift = np.repeat(starts - np.cumsum(counts) + counts, counts)
    return position, items[shift + np.arange(counts.sum())].astype(np.int64)


def _occurs(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which values occur among sorted ones."""
    where = np.searchsorted(among, values)
    return np.append(among, -1)[where] == values


def _length(n: int, name: str) -> int:
    """Length of lists that was asked for."""
    if not isinstance(n, Integral) or isinstance(n, bool):
        raise TypeError(f"{name} must be an int, got {n!r}.")
    if n < 1:
        raise ValueError(f"{name} must be at least 1, got {n}.")
    return int(n)


def _taken(ids: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Ids at their places; at -1 is the missing value of their dtype."""
    empty = places < 0
    if not empty.any():
        return ids[places]
    dtype, missing = ids.dtype, None
    if dtype.kind == "f":
        missing = np.nan
    elif dtype.kind in "mM":
        missing = np.array("NaT", dtype)
    else:
        dtype = object
    taken = np.full(places.shape, missing, dtype)
    taken[~empty] = ids[places[~empty]]
    return taken


def _long_frame(
    queries: np.ndarray,
    ids: np.ndarray,
    places: np.ndarray,
    scores: np.ndarray,
    query: str,
    item: str,
) -> pd.DataFrame:
    row, column = np.nonzero(places >= 0)
    return pd.DataFrame(
        {
            query: queries[row],
            item: ids[places[row, column]],
            "rank": column + 1,
            "score": scores[row, column],
        }
    )
