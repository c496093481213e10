"""ForgetMixin: a fitted model without some users, items or rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ._choice.autoencoder import ItemAutoencoder
from ._choice.solver import ChoiceSolver
from ._data.containers import ArrayLike
from ._data.forgotten import ForgottenRows
from ._data.interactions import Interactions
from ._data.known_ids import KnownIds
from ._data.messages import shown
from ._data.reading import Columns
from ._data.seen import SeenItems
from ._data.sides import Sides
from ._data.weights import Weighting
from ._deferred import Deferred, now
from ._interfaces import Model, Solver
from ._pair_effects import PairEffects
from ._settings import own_settings
from ._snapshot import snapshot

NOBODY = np.empty(0, dtype=np.int64)


class ForgetMixin:
    """The right to be forgotten, and purchases that are withdrawn."""

    _model: Model
    _choice: ItemAutoencoder | Deferred[ItemAutoencoder] | None
    _users: KnownIds
    _items: KnownIds
    _seen: SeenItems
    _pair_effects: PairEffects | None
    _weighting: Weighting
    _solver: Callable[[], Solver]
    _read: Callable[..., tuple[Columns, Interactions]]
    _publish: Callable[[dict[str, Any]], None]

    def forget(
        self,
        X: ArrayLike | None = None,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        users: ArrayLike | None = None,
        items: ArrayLike | None = None,
    ) -> Self:
        """Forget rows, users or items.

        Users and items that are forgotten, and those that lose their last row, are
        unknown again: the model keeps neither their ids nor their factors nor the items
        that they have rated. Side features that it has of ids without rows go with the
        ids that are named.

        Rows are taken back from the posteriors of their users and items. A fitted model
        keeps no ratings, so the rows are given as `fit` or `partial_fit` had them.
        After the solvers "vb" and "als" this is exact given the other side: the
        posterior of a user, given the items, is that of the rows that are left, and
        likewise that of an item. `partial_fit` with the same rows takes them up again,
        nearly as before. The priors stay as in `fit`, also their part of implicit
        features, and so do the vectors of items by which choices are scored. "gibbs"
        and the gradient solvers cannot take rows back.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2 + n_features), default=None
            Rows to forget, with columns as in `fit`. Give all rows of a pair that has
            several.
        y : array-like of shape (n_samples,), default=None
            Their ratings; None is as in `fit`.
        sample_weight : array-like of shape (n_samples,), default=None
            Their weights.
        users, items : array-like of shape (n_users,) and (n_items,), default=None
            Raw ids to forget, in `user_ids_` and `item_ids_` or in the side features of
            `fit`. Their share in the posteriors of others stays, unless their rows are
            given as `X`.

        Returns
        -------
        self : object
            The fitted estimator. `user_ids_` and `item_ids_` may have shrunk.

        Raises
        ------
        ValueError
            If there is nothing to forget, if a row or an id is unknown, if no ids
            would be left, if the solver cannot take rows back, or if a fit of "vb" or
            "als" has stored no covariances.
        TypeError
            If ids are of another kind than in `fit`.

        Examples
        --------
        >>> from skrec import MFRegressor
        >>> X = [["ann", "Heat"], ["ann", "Alien"], ["bob", "Heat"], ["bob", "Brazil"]]
        >>> y = [5, 3, 4, 2]
        >>> mf = MFRegressor(n_factors=2).fit(X, y)
        >>> mf = mf.forget(X[:2], y[:2], users=["ann"])
        >>> mf.user_ids_.tolist(), mf.item_ids_.tolist()
        (['bob'], ['Brazil', 'Heat'])

        A rating that changes is forgotten and learned again:

        >>> mf = mf.forget([["bob", "Heat"]], [4]).partial_fit([["bob", "Heat"]], [1])
        """
        check_is_fitted(self)
        if X is None and users is None and items is None:
            raise ValueError(
                "There is nothing to forget: pass rows as X, or ids, such as "
                "forget(users=['ann'])."
            )
        # Other threads can read the last fit until the update is complete.
        with own_settings():
            fitted = snapshot(self)._without(X, y, sample_weight, users, items)
        self._publish(fitted)
        return self

    def _without(
        self,
        X: ArrayLike | None,
        y: ArrayLike | None,
        sample_weight: ArrayLike | None,
        users: ArrayLike | None,
        items: ArrayLike | None,
    ) -> dict[str, Any]:
        """Fitted attributes without rows and ids."""
        nobody = NOBODY, NOBODY
        of_users = nobody if users is None else self._users.named_rows(users)
        of_items = nobody if items is None else self._items.named_rows(items)
        ids = Sides(of_users[0], of_items[0])
        is_alone = isinstance(self._model, ItemAutoencoder)
        solver: Solver = ChoiceSolver() if is_alone else self._solver()
        if X is None:
            forgotten = ForgottenRows(None, NOBODY, NOBODY, ids, self._seen)
        else:
            solver.check()
            solver.check_retraction(self._model)
            columns, data = self._read(X, y, sample_weight, solver, reset=False)
            forgotten = self._forgotten_rows(columns, data, ids)
        if not all(map(len, forgotten.kept)):
            raise ValueError(
                "No users or no items would be left, and such a model cannot answer. "
                "Delete it, or fit it to other rows."
            )
        model = self._model if X is None else solver.retract(self._model, forgotten)
        kept, choice = forgotten.kept, now(self._choice)
        effects = self._pair_effects
        return {
            "_model": model.without(forgotten),
            "_users": self._users.without(of_users[1], kept.user),
            "_items": self._items.without(of_items[1], kept.item),
            "_seen": forgotten.seen_after,
            "_choice": choice and choice.without(forgotten),
            "_pair_effects": effects and effects.without(forgotten),
        }

    def _forgotten_rows(
        self, columns: Columns, data: Interactions, ids: Sides[np.ndarray]
    ) -> ForgottenRows:
        """Canonical rows with their numbers in the model, which must have them."""
        users = columns.users.of_kind(data.user_ids)
        items = columns.items.of_kind(data.item_ids)
        forgotten = ForgottenRows(
            self._weighting.applied(data),
            users.numbered_in(self._users.ids),
            items.numbered_in(self._items.ids),
            ids,
            self._seen,
        )
        of_users, of_items = forgotten.pairs
        is_known = (of_users >= 0) & (of_items >= 0)
        is_known &= self._seen.contain(np.maximum(of_users, 0), of_items)
        if not is_known.all():
            first = np.flatnonzero(~is_known)[0]
            user = shown(data.user_ids[data.users[first]])
            item = shown(data.item_ids[data.items[first]])
            raise ValueError(
                f"X holds {(~is_known).sum()} of {len(is_known)} rows that the model "
                f"has not learned, such as user {user} with item {item}. Forget rows "
                "that fit or partial_fit had."
            )
        return forgotten
