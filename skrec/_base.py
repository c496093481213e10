"""BaseRecommender: fit, partial_fit, predict and score over (user, item) rows.

It validates, numbers the ids, runs the iterations of a solver with callbacks and
stopping, and publishes the model of the last one. An estimator of its own is the solver
that `_solver` makes of the parameters.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import r2_score
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted

from ._data.containers import ArrayLike, TableLike
from ._data.interactions import FurtherRows, Interactions
from ._data.known_ids import KnownIds, handle_unknown
from ._data.reading import Columns, read_ratings, read_weights
from ._data.seen import SeenItems
from ._data.vocabulary import Growth, numbered
from ._data.weights import Weighting
from ._interfaces import Iteration, Solver, Start
from ._lists import ListsMixin
from ._rows import (
    read_columns,
    warn_of_equal_ratings,
    warn_of_ids,
    warn_of_target,
)
from ._settings import own_settings, torch_device
from ._sklearn import (
    CallbackSupportMixin,
    Interval,
    StrOptions,
    fit_context,
    num_samples,
    with_callbacks,
)
from ._snapshot import fitted_attribute, reads_one_fit, snapshot
from ._threads import torch_threads
from ._warn import warn

# Further rows that one thread learns from.
MAX_FEW_ROWS = 2**10

# Rows predicted at a time. Fewer would not take less memory than ids and results.
PREDICTION_ROWS = 2**16


class BaseRecommender(
    ListsMixin, CallbackSupportMixin, RegressorMixin, BaseEstimator, metaclass=ABCMeta
):
    """An estimator over (user, item) rows, but for its solver."""

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

    @abstractmethod
    def _solver(self) -> Solver:
        """The solver that the parameters ask for."""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.regressor_tags.poor_score = True
        return tags

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        user_features: TableLike | None = None,
        item_features: TableLike | None = None,
    ) -> Self:
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
    def _fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None,
        sample_weight: ArrayLike | None,
        user_features: TableLike | None,
        item_features: TableLike | None,
    ) -> dict[str, Any]:
        """Fitted attributes."""
        solver = self._solver()
        solver.check()
        reader = snapshot(self)
        with own_settings():
            columns, data = reader._read(X, y, sample_weight, solver, reset=True)
            is_of_choices = solver.objective.is_of_choices
            learn = Weighting.of_choices if is_of_choices else Weighting.of_ratings
            weighting = learn(data)
            known, data = reader._with_side_features(
                weighting.applied(data),
                {"user": user_features, "item": item_features},
                len(columns.users.values),
            )
            read = {
                "n_features_in_": reader.n_features_in_,
                "feature_names_in_": getattr(reader, "feature_names_in_", None),
                "_users": known["user"],
                "_items": known["item"],
                "_seen": SeenItems.of_pairs(data.users, data.items, *data.shape),
                "_weighting": weighting,
            }
            iterations = solver.iterations(
                data,
                self._start(data) if self.warm_start else None,
                check_random_state(self.random_state),
                torch_device(self.device),
            )
        metadata = {
            "sample_weight": sample_weight,
            "user_features": user_features,
            "item_features": item_features,
        }
        given = {k: v for k, v in metadata.items() if v is not None}
        task = {"estimator": self, "X": X, "y": y, "metadata": given or None}
        context = self._init_callback_context(max_subtasks=solver.max_iter)
        context.call_on_fit_task_begin(**task)
        fitted = self._run(solver, iterations, context, task, read)
        context.call_on_fit_task_end(**task, reconstruction_attributes=lambda: fitted)
        return fitted

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        user_features: TableLike | None = None,
        item_features: TableLike | None = None,
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
        if not hasattr(self, "_model"):
            return self.fit(
                X,
                y,
                sample_weight,
                user_features=user_features,
                item_features=item_features,
            )
        # Threads that wait for each other make a few rows slow.
        few = num_samples(X) <= MAX_FEW_ROWS
        n_threads = 1 if few else torch.get_num_threads()
        # The model that others read stays as it is until all is learned.
        last = snapshot(self)
        with own_settings(), torch_threads(n_threads):
            fitted = last._update(X, y, sample_weight, user_features, item_features)
        self._publish(fitted)
        return self

    def _update(
        self,
        X: ArrayLike,
        y: ArrayLike | None,
        sample_weight: ArrayLike | None,
        user_features: TableLike | None,
        item_features: TableLike | None,
    ) -> dict[str, Any]:
        """Fitted attributes after further rows."""
        solver = self._solver()
        solver.check()
        solver.check_update(self._model)
        columns, data = self._read(X, y, sample_weight, solver, reset=False)
        data = self._weighting.applied(data)
        n_rows = len(columns.users.values)
        users, cold_users = self._users.rows(
            replace(columns.users, values=data.user_ids), user_features, n_rows
        )
        items, cold_items = self._items.rows(
            replace(columns.items, values=data.item_ids), item_features, n_rows
        )
        further = FurtherRows(
            data=data,
            users=users,
            items=items,
            cold=(cold_users, cold_items),
            growths=(
                Growth.of(self._users.ids, data.user_ids, users),
                Growth.of(self._items.ids, data.item_ids, items),
            ),
            seen=self._seen,
        )
        losses: list[float] = []

        def report(objective: float) -> None:
            losses.append(objective)
            self._print_progress(
                len(losses), solver.max_iter, f"objective {objective:.6f}"
            )

        model = solver.update(
            self._model,
            further,
            check_random_state(self.random_state),
            torch_device(self.device),
            report,
        )
        grown_users, grown_items = further.growths
        return {
            "_model": model,
            "_users": replace(self._users, ids=grown_users.ids),
            "_items": replace(self._items, ids=grown_items.ids),
            "_seen": further.seen_after,
            "n_iter_": self.n_iter_ + len(losses),
            "loss_curve_": [*self.loss_curve_, *losses],
            "validation_scores_": None,
        }

    def _publish(self, fitted: dict[str, Any]) -> None:
        """Let readers see a whole fit, all at once."""
        attributes = vars(self) | fitted
        if attributes.get("feature_names_in_") is None:
            attributes.pop("feature_names_in_", None)
        self.__dict__ = attributes

    def _run(
        self,
        solver: Solver,
        iterations: Iterator[Iteration],
        context: Any,
        task: dict[str, Any],
        read: dict[str, Any],
    ) -> dict[str, Any]:
        """Iterate until the solver, `max_iter` or a callback ends it.

        Returns the fitted attributes, those that were `read` from the rows included.
        """

        def fitted() -> dict[str, Any]:
            with own_settings():
                return read | {
                    "_model": iteration.model(),
                    "n_iter_": len(losses),
                    "loss_curve_": losses.copy(),
                    "validation_scores_": iteration.validation_scores,
                }

        losses: list[float] = []
        converged = stopped = False
        while not (converged or stopped or len(losses) == solver.max_iter):
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
            self._print_progress(len(losses), solver.max_iter, str(iteration))
            stopped = step.call_on_fit_task_end(
                **task, reconstruction_attributes=fitted
            )
            converged = iteration.converged
        if iteration.warning:
            warn(iteration.warning)
        if solver.converges and not (converged or stopped):
            warn(
                f"{type(self).__name__} has not converged after max_iter="
                f"{solver.max_iter} iterations; in the last one, {iteration}. Raise "
                "max_iter or tol.",
                ConvergenceWarning,
            )
        return fitted()

    def _print_progress(self, number: int, most: int, progress: str) -> None:
        if self.verbose:
            name = type(self).__name__
            print(f"[{name}] iteration {number} of at most {most}: {progress}")

    @reads_one_fit
    def predict(
        self,
        X: ArrayLike,
        return_std: bool = False,
        *,
        user_features: TableLike | None = None,
        item_features: TableLike | None = None,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
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
        users, cold_users = self._users.rows(columns.users, user_features, n_rows)
        items, cold_items = self._items.rows(columns.items, item_features, n_rows)
        handle_unknown(
            self.handle_unknown,
            {"users": (columns.users, users), "items": (columns.items, items)},
        )
        model = self._model.with_cold_rows(cold_users, cold_items)
        device = torch_device(self.device)
        y, std = np.empty(n_rows), np.empty(n_rows if return_std else 0)
        for start in range(0, n_rows, PREDICTION_ROWS):
            tile = slice(start, start + PREDICTION_ROWS)
            y[tile], deviation = model.predict(
                users[tile], items[tile], columns.features[tile], return_std, device
            )
            if deviation is not None:
                std[tile] = deviation
        if self.clip:
            y.clip(*self.rating_range_, out=y)
        return (y, std) if return_std else y

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        user_features: TableLike | None = None,
        item_features: TableLike | None = None,
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

    @fitted_attribute
    def user_ids_(self) -> np.ndarray:
        """Sorted raw ids of users, ndarray of shape (n_users,)."""
        return self._users.ids

    @fitted_attribute
    def item_ids_(self) -> np.ndarray:
        """Sorted raw ids of items, ndarray of shape (n_items,)."""
        return self._items.ids

    @fitted_attribute
    def rating_range_(self) -> tuple[float, float]:
        """Range that `clip` clips predictions to."""
        return self._model.rating_range

    def _read_columns(self, X: ArrayLike, *, reset: bool) -> Columns:
        """Validated columns of X, with a warning of ids that are unlikely."""
        columns = read_columns(self, X, reset=reset)
        fitted = () if reset else (self._users.ids, self._items.ids)
        named = hasattr(self, "feature_names_in_")
        warn_of_ids(columns, *fitted, named=named)
        return columns

    def _read(
        self,
        X: ArrayLike,
        y: ArrayLike | None,
        sample_weight: ArrayLike | None,
        solver: Solver,
        *,
        reset: bool,
    ) -> tuple[Columns, Interactions]:
        """Columns of X, and canonical rows with their ratings and weights."""
        columns = self._read_columns(X, reset=reset)
        n_rows = len(columns.users.values)
        objective = solver.objective
        if y is not None:
            rating = read_ratings(y, n_rows)
        elif objective.is_of_choices:
            rating = np.ones(n_rows)
        else:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but "
                "the target y is None. Only what users chose, without ratings, needs "
                "none: see unobserved_weight of MFRegressor, and the losses 'log_loss' "
                "and 'bpr'."
            )
        solver.check_ratings(rating)
        data = Interactions.from_columns(
            columns, rating, read_weights(sample_weight, n_rows)
        )
        if reset:
            warn_of_target(columns, rating, getattr(self, "feature_names_in_", None))
            if not objective.counts_unobserved:
                warn_of_equal_ratings(data.rating)
        return columns, data

    def _with_side_features(
        self, data: Interactions, features: dict[str, Any], n_rows: int
    ) -> tuple[dict[str, KnownIds], Interactions]:
        """Known ids of each side, and the rows with their side features."""
        names = getattr(self, "feature_names_in_", (None, None))
        known = {
            "user": KnownIds("user", data.user_ids, names[0]),
            "item": KnownIds("item", data.item_ids, names[1]),
        }
        side_features = {}
        for side in known:
            known[side], found = known[side].with_features(features[side], n_rows)
            if found is not None:
                side_features[side] = found
        return known, replace(data, side_features=side_features)

    def _start(self, data: Interactions) -> Start | None:
        """The last fit, if there was one, for a fit of these rows."""
        if not hasattr(self, "_model"):
            return None
        known = {"user": self._users, "item": self._items}
        return Start(
            self._model,
            numbered(data.user_ids, self._users.ids, "X (users)"),
            numbered(data.item_ids, self._items.ids, "X (items)"),
            {
                side: known[side].places_of(features)
                for side, features in data.side_features.items()
            },
        )
