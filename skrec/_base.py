"""BaseRecommender: fit, partial_fit, predict and score over (user, item) rows.

It validates, numbers the ids, runs the iterations of a solver with callbacks, and
publishes the model of the last one. `_solver` of a subclass makes a solver.
"""

from __future__ import annotations

import sys
from abc import ABCMeta, abstractmethod
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import Tags, check_random_state

from ._choice.autoencoder import ItemAutoencoder
from ._choice.solver import ChoiceSolver
from ._data.containers import ArrayLike, TableLike
from ._data.interactions import Collect, Interactions
from ._data.known_ids import further_rows, handle_unknown, with_side_features
from ._data.reading import (
    Columns,
    as_rows,
    check_scale,
    read_ratings,
    read_weights,
)
from ._data.selection import with_selected_context
from ._data.sides import Sides
from ._data.vocabulary import numbered
from ._data.weights import NOT_CHOSEN, Weighting, as_choices
from ._deferred import changed
from ._diagram import DiagramMixin
from ._forget import ForgetMixin
from ._interfaces import CURVES, Model, Solver, StandardisedModel, Start
from ._iterations import BegunFit, print_progress, run
from ._lists import ListsMixin
from ._pair_effects import PairEffects, Repeats
from ._rows import (
    check_choices,
    read_columns,
    warn_of_equal_ratings,
    warn_of_growth,
    warn_of_ids,
    warn_of_target,
)
from ._saving import SavingMixin
from ._settings import own_settings, torch_device
from ._sklearn import (
    CallbackSupportMixin,
    Interval,
    StrOptions,
    changed_parameters,
    fit_context,
    has_callbacks,
    num_samples,
    with_callbacks,
)
from ._snapshot import fitted_attribute, reads_one_fit, snapshot
from ._threads import torch_threads

# Further rows that one thread learns from.
MAX_FEW_ROWS = 2**10

# Parameters of which something comes in a fit of choices alone. It is the same for all
# seeds, and its predictions are never clipped.
USED_BY_CHOICES = {"handle_unknown", "clip", "rank_by", "device"}
USED_BY_CHOICES |= {"random_state", "verbose"}


class BaseRecommender(
    ListsMixin,
    ForgetMixin,
    SavingMixin,
    DiagramMixin,
    CallbackSupportMixin,
    RegressorMixin,
    BaseEstimator,
    metaclass=ABCMeta,
):
    """Base class of estimators over (user, item) rows."""

    _parameter_constraints: dict = {
        "max_iter": [Interval(Integral, 1, sys.maxsize, closed="both"), None],
        "tol": [Interval(Real, 0, None, closed="left"), None],
        "handle_unknown": [StrOptions({"ignore", "warn", "error"})],
        "clip": ["boolean"],
        "rank_by": [StrOptions({"both", "rating", "choice"})],
        "choice_threshold": [Interval(Real, None, None, closed="neither"), None],
        "warm_start": ["boolean"],
        "device": [str, torch.device],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    @abstractmethod
    def _solver(self) -> Solver:
        """Solver with the options of the parameters."""

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
            Others are context: numbers, or values such as strings (see the user guide).
        y : array-like of shape (n_samples,)
            Ratings, on any scale. With None, rows of X are choices, and other pairs
            count as not chosen; this needs `rank_by` other than "rating", or a loss or
            an `unobserved_weight` for choices.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights. A weight of 2 is the row twice, 0 is no row. The
            information in repeated or heavy pairs is learned from the ratings, and a
            common factor of all weights changes nothing. Choices without `y` count
            once each, whatever their weights.
        user_features, item_features : DataFrame, matrix or callable, default=None
            Side features of users and of items. The ids of a frame are in the column
            with the name of the user or item column of `X`; without such a column, in
            its index, or in its first column if the library has no indices. A matrix
            has row i for the id i. Columns of numbers are standardised, and other
            columns become indicators of their values; a list in a cell is several
            values.
            Missing values, and ids of `X` without a row, get the mean, with a warning.
            Rows of other ids are kept for predictions of these ids.
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
            If ids look like a scaled column or like indicators, if the ratings are a
            linear function of a further column of `X`, if a table has gaps or may have
            been cut, if all ratings are equal and neither lists nor the loss count
            pairs without ratings, if a fit without `y` has no use for parameters or
            weights that were given, or if training by gradients ends worse than it
            began, by steps that were too long.
        """
        # A fit that fails, or that a callback ends by an error, changes nothing.
        features = Sides(user_features, item_features)
        self._publish(self._fit(X, y, sample_weight, features))
        return self

    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def _fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None,
        sample_weight: ArrayLike | None,
        features: Sides[TableLike | None],
        collect: Collect = Interactions.from_columns,
    ) -> dict[str, Any]:
        """Fitted attributes, by canonical rows that `collect` makes of columns."""
        solver = self._solver_for(y)
        with own_settings():
            rows = X, y, sample_weight, features
            begun = snapshot(self)._begin(*rows, solver, collect)
        metadata = {
            "sample_weight": sample_weight,
            "user_features": features.user,
            "item_features": features.item,
        }
        given = {k: v for k, v in metadata.items() if v is not None}
        task = {"estimator": self, "X": X, "y": y, "metadata": given or None}
        context = self._init_callback_context(max_subtasks=solver.max_iter)
        context.call_on_fit_task_begin(**task)
        # Callbacks run with the threads of the caller, which change for each iteration.
        n_threads = torch.get_num_threads() if has_callbacks(self) else begun.n_threads
        with torch_threads(n_threads):
            fitted = run(self, solver, begun, context, task)
        context.call_on_fit_task_end(**task, reconstruction_attributes=lambda: fitted)
        return fitted

    def _begin(
        self,
        X: ArrayLike,
        y: ArrayLike | None,
        sample_weight: ArrayLike | None,
        features: Sides[TableLike | None],
        solver: Solver,
        collect: Collect,
    ) -> BegunFit:
        """The rows read, and the iterations over them."""
        arguments = X, y, sample_weight, solver
        columns, data = self._read(*arguments, reset=True, collect=collect)
        objective = solver.objective
        is_of_choices = objective.is_of_choices
        learn = Weighting.of_choices if is_of_choices else Weighting.of_ratings
        if data.n_values:
            solver.check_context(data.known_context)
        weighting = learn(data)
        names = getattr(self, "feature_names_in_", (None, None))[:2]
        has_residuals = objective.loss == "squared_error" and not is_of_choices
        repeats = Repeats.of(data) if has_residuals else None
        known, data = with_side_features(
            weighting.applied(data), features, Sides(*names), len(columns.users)
        )
        has_choices = self._ranks_by_choice and not is_of_choices
        read = {
            "n_features_in_": self.n_features_in_,
            "feature_names_in_": getattr(self, "feature_names_in_", None),
            "_users": known.user,
            "_items": known.item,
            "_seen": data.seen,
            "_context": data.known_context,
            "_choice": ItemAutoencoder.deferred(data) if has_choices else None,
            "_weighting": weighting,
            "_n_pairs_of_fit": len(data.seen),
        }
        n_threads = solver.n_threads(data)
        iterations = solver.iterations(
            data,
            self._start(data) if self.warm_start else None,
            check_random_state(self.random_state),
            torch_device(self.device, solver.rating_work * data.n_rows),
        )
        of_model = partial(self._of_model, repeats)
        return BegunFit(read, iterations, n_threads, of_model)

    def _of_model(self, repeats: Repeats | None, model: Model) -> dict[str, Any]:
        """A model, and effects of pairs that repeat by what it leaves of their rows."""
        effects = None
        if repeats is not None:
            assert isinstance(model, StandardisedModel)
            work = model.score_work * repeats.n_predicted
            device = torch_device(self.device, work)
            effects = PairEffects.learned(repeats, model, device)
        return {"_model": model, "_pair_effects": effects}

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

        Only the rows of the users and items in X are updated, so the time is
        proportional to the further ratings. Shared parameters, such as priors or the
        weights of a network's layers, stay as in `fit`. Before the first `fit` this is
        `fit`.

        After the solvers "vb" and "als", the previous posterior of a row is its prior,
        and given the other side its posterior is that of all ratings. After "adam" and
        "sgd", rows minimise the objective of the further ratings by Newton steps, users
        given items and items given users, at most `max_iter` times. The past ratings of
        a row enter as a quadratic penalty, with the curvature of their losses; weights
        are relative to those of `fit`, and no rows are held out for `early_stopping`.
        Many small calls have about the same result as one call. "gibbs" has no
        `partial_fit`.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2 + n_features)
            Columns as in `fit`.
        y : array-like of shape (n_samples,)
            Ratings. A rating that was given before counts again, unless the old one is
            forgotten (see `forget`). None is as in `fit`.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights.
        user_features, item_features : DataFrame, matrix or callable, default=None
            As in `fit`, of new users and items. New ids without features, here or in
            `fit`, are learned from their ratings only.

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

        Warns
        -----
        UserWarning
            As `fit`, and each time the number of pairs has doubled since the last fit,
            from the second time on.
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
        # A few rows are slower with several threads, which wait for each other.
        few = num_samples(as_rows(X, "X")) <= MAX_FEW_ROWS
        n_threads = 1 if few else torch.get_num_threads()
        # Other threads can read the last fit until the update is complete.
        last = snapshot(self)
        with own_settings(), torch_threads(n_threads):
            fitted = last._update(
                X, y, sample_weight, Sides(user_features, item_features)
            )
        n_of_fit = getattr(last, "_n_pairs_of_fit", 0)
        warn_of_growth(n_of_fit, len(last._seen), len(fitted["_seen"]))
        self._publish(fitted)
        return self

    def _update(
        self,
        X: ArrayLike,
        y: ArrayLike | None,
        sample_weight: ArrayLike | None,
        features: Sides[TableLike | None],
    ) -> dict[str, Any]:
        """Fitted attributes after further rows."""
        solver = self._solver_for(y)
        is_alone = isinstance(self._model, ItemAutoencoder)
        if is_alone and not isinstance(solver, ChoiceSolver):
            raise ValueError(
                "partial_fit continues a fit of choices without y. Leave out y, with "
                f"rank_by as it was, or fit anew; got rank_by={self.rank_by!r}."
            )
        solver.check_update(self._model)
        columns, data = self._read(X, y, sample_weight, solver, reset=False)
        known, weight = Sides(self._users, self._items), data.weight
        data = self._weighting.applied(data)
        further = further_rows(known, columns, data, features, self._seen)
        losses: list[float] = []

        def report(objective: float) -> None:
            losses.append(objective)
            progress = f"objective {objective:.6f}"
            print_progress(self, len(losses), solver.max_iter, progress)

        device = torch_device(self.device, solver.rating_work * len(data.rating))
        model = solver.update(
            self._model,
            further,
            check_random_state(self.random_state),
            device,
            report,
        )
        effects = self._pair_effects
        if effects is not None:
            effects = effects.updated(further, weight, model, device)
        return {
            "_model": model,
            "_users": replace(self._users, ids=further.growths.user.ids),
            "_items": replace(self._items, ids=further.growths.item.ids),
            "_seen": further.seen_after,
            "_choice": changed(self._choice, lambda choice: choice.updated(further)),
            "_pair_effects": effects,
            "n_iter_": self.n_iter_ + len(losses),
            "loss_curve_": [*self.loss_curve_, *losses],
        } | CURVES

    def _publish(self, fitted: dict[str, Any]) -> None:
        """Replace the fitted attributes in one assignment."""
        attributes = vars(self) | fitted
        if attributes.get("feature_names_in_") is None:
            attributes.pop("feature_names_in_", None)
        self.__dict__ = attributes

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
            Columns as in `fit`. `handle_unknown` applies to ids that `fit` has not
            seen.
        return_std : bool, default=False
            Return a standard deviation of each prediction too: that of a new rating,
            including noise, after MFRegressor; that of the predictions of the members
            after NCFRegressor.
        user_features, item_features : DataFrame, matrix or callable, default=None
            As in `fit`, of ids that have no ratings. Such ids are predicted from their
            features, given here or in `fit`.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            Predicted ratings, in the units of the ratings of `fit`; strengths of
            choices after a fit without `y`.
        std : ndarray of shape (n_samples,)
            Only with `return_std=True`.

        Raises
        ------
        ValueError
            If an id or a feature is missing or infinite, if X is not as wide as in
            `fit`, if `handle_unknown="error"` and an id is unknown, if there are
            features that `fit` was not given, or if the fit has no standard deviations.
        TypeError
            If ids are of another kind than in `fit`, such as strings for numbers.
        """
        columns = self._read_columns(X, reset=False)
        n_rows = len(columns.users)
        users, cold_users = self._users.rows(columns.users, user_features, n_rows)
        items, cold_items = self._items.rows(columns.items, item_features, n_rows)
        handle_unknown(self.handle_unknown, columns.found(users, items))
        model = self._rating_model.with_cold_rows(cold_users, cold_items)
        device = torch_device(self.device, model.score_work * n_rows)
        y, std = model.predictions(users, items, columns.context, return_std, device)
        if self.clip:
            y.clip(*self.rating_range_, out=y)
        return y if std is None else (y, std)

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
            Ratings. Choices without ratings have no R²; use
            :class:`~skrec.metrics.RankingScorer` to score rankings.
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
        """Bounds of clipped predictions."""
        return self._model.rating_range

    @property
    def _ranks_by_choice(self) -> bool:
        return getattr(self, "rank_by", "rating") != "rating"

    def _solver_for(self, y: ArrayLike | None) -> Solver:
        """The solver, or that of choices alone where there are no ratings."""
        solver = self._solver()
        solver.check()
        if y is None and self._ranks_by_choice and not solver.objective.is_of_choices:
            changed = changed_parameters(self).items()
            return ChoiceSolver({k: v for k, v in changed if k not in USED_BY_CHOICES})
        return solver

    def _read_columns(
        self, X: ArrayLike, *, reset: bool, may_be_empty: bool = False
    ) -> Columns:
        """Validated columns of X, with a warning of unlikely ids."""
        columns = read_columns(self, X, reset=reset, may_be_empty=may_be_empty)
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
        collect: Collect = Interactions.from_columns,
    ) -> tuple[Columns, Interactions]:
        """Columns of X, and canonical rows with their ratings and weights."""
        may_be_empty = collect != Interactions.from_columns  # Others have rows.
        columns = self._read_columns(X, reset=reset, may_be_empty=may_be_empty)
        n_rows = len(columns.users)
        objective = solver.objective
        if y is not None:
            rating = given = read_ratings(y, n_rows)
        elif objective.is_of_choices:
            rating = given = np.ones(n_rows)
        else:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but "
                "the target y is None. Only fits to choices have no y: see rank_by, "
                "unobserved_weight of MFRegressor, and the losses 'log_loss' and 'bpr'."
            )
        weight = read_weights(sample_weight, n_rows, may_be_zero=may_be_empty)
        threshold: Any = getattr(self, "choice_threshold", None)
        if objective.is_of_choices and y is not None and threshold is not None:
            share = NOT_CHOSEN if objective.counts_unobserved else 1.0
            rating, weight = as_choices(rating, weight, threshold, share)
        solver.check_ratings(rating, weight)
        data = collect(columns, rating, weight)
        if reset:
            check_scale(rating)
            data = with_selected_context(data)
            if rating is not given:
                check_choices(data, given[weight > 0], threshold)
            warn_of_target(columns, rating, getattr(self, "feature_names_in_", None))
            if not (objective.counts_unobserved or self._ranks_by_choice):
                warn_of_equal_ratings(data)
        return columns, data

    def _start(self, data: Interactions) -> Start | None:
        """The last fit as a start for a fit of these rows."""
        if isinstance(getattr(self, "_model", None), ItemAutoencoder | type(None)):
            return None
        of_users, of_items = data.side_features
        return Start(
            self._model,
            numbered(data.user_ids, self._users.ids, "X (users)"),
            numbered(data.item_ids, self._items.ids, "X (items)"),
            Sides(self._users.columns_of(of_users), self._items.columns_of(of_items)),
            *data.known_context.places_in(self._context),
        )
