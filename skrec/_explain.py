"""ExplainMixin: shares of a user's rows in predicted choices and ratings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd

from ._candidates import holds_rows
from ._choice.autoencoder import ItemAutoencoder
from ._data.containers import ArrayLike, is_empty
from ._data.interactions import Interactions
from ._data.known_ids import KnownIds
from ._data.messages import shown
from ._data.reading import Columns, read_ids, read_pairs
from ._data.seen import SeenItems
from ._data.sides import Sides
from ._data.weights import Weighting
from ._deferred import Deferred, now
from ._interfaces import Model, Solver
from ._pair_effects import PairEffects
from ._snapshot import reads_one_fit
from ._threads import torch_threads

PAIR = "a tuple of X and y, such as ratings=([['ann', 'Heat']], [5.0])"


class ExplainMixin:
    """Reasons of lists, by the rows of a user."""

    _model: Model
    _choice: ItemAutoencoder | Deferred[ItemAutoencoder] | None = None
    _users: KnownIds
    _items: KnownIds
    _seen: SeenItems
    _pair_effects: PairEffects | None = None
    _weighting: Weighting
    _solver: Callable[[], Solver]
    _read: Callable[..., tuple[Columns, Interactions]]
    _update: Callable[..., dict[str, Any]]
    _publish: Callable[[dict[str, Any]], None]

    @property
    def _autoencoder(self) -> ItemAutoencoder | None:
        """The part of choices, which is fitted when it is first used."""
        return now(self._choice)

    @reads_one_fit
    def explain(
        self,
        user: Any,
        items: ArrayLike,
        *,
        part: Literal["choice", "rating"] = "choice",
        ratings: Any = None,
    ) -> pd.DataFrame:
        r"""Share of each item of a user in the choice or the rating of other items.

        The strength of a choice is a sum over the items that the user has rated, and
        the mean user. An expected rating is linear in the ratings of the user,

        .. math::

           \hat y_{uj} = a_{uj} + \sum_i z_j^\top \Sigma_u z_i \,
           \beta \alpha_u \gamma_i w_i (y_{ui} - \mu - c_i),

        with :math:`z = (q, 1)` of an item and :math:`\Sigma_u` the posterior
        covariance of the user, which does not depend on ratings. So both have exact
        shares; where pairs repeat (see :ref:`repeated_pairs`), rows of the pair itself
        are a reason too. They explain lists by `rank_by="choice"` and `"rating"`, and
        the two factors of the score of "both".

        Parameters
        ----------
        user : id
            Raw user id, in `user_ids_` or in the rows of `ratings`.
        items : array-like of shape (n_items,)
            Raw item ids, in `item_ids_`, such as a list of `recommend`.
        part : {"choice", "rating"}, default="choice"
            Strength of the choice, or expected rating. The latter needs
            `solver="vb"` or `"als"`, and `ratings`.
        ratings : tuple of X and y, or X, default=None
            Rows of the user, since a fitted model keeps no ratings. Rows of pairs that
            the model has not learned count in this call alone, as in `recommend`.

        Returns
        -------
        reasons : DataFrame with columns item, because and contribution
            Sorted by contribution, item by item. `because` is an item of the user, or
            None for all else: the mean user; or the mean, the bias of the item, the
            prior of the user and rows that were not given. Contributions sum to the
            strength, or to the expected rating at the mean context, not clipped.

        Raises
        ------
        ValueError
            If the user or an item is unknown, if the fit had no such part, or if rows
            are missing or are those of another user.

        Examples
        --------
        >>> from skrec import MFRegressor
        >>> kinds = ("Heat", "Ronin", "Thief"), ("Alien", "Dune", "Solaris")
        >>> X = [[user, item] for user in range(8) for item in kinds[user % 2]]
        >>> X.remove([0, "Ronin"])
        >>> MFRegressor().fit(X).explain(0, ["Ronin"])["because"].tolist()
        ['Heat', 'Thief', None]

        The same list may have other reasons in the ratings:

        >>> X = [["ann", "Heat"], ["ann", "Alien"], ["bob", "Heat"], ["bob", "Alien"],
        ...      ["bob", "Ronin"], ["cleo", "Heat"], ["cleo", "Ronin"]]
        >>> y = [5, 2, 4, 3, 4, 5, 4]
        >>> mf = MFRegressor(n_factors=2).fit(X, y)
        >>> rows = X[:2], y[:2]
        >>> reasons = mf.explain("ann", ["Ronin"], part="rating", ratings=rows)
        >>> expected = mf.set_params(clip=False).predict([["ann", "Ronin"]])
        >>> bool(abs(reasons["contribution"].sum() - expected[0]) < 1e-6)
        True
        """
        if part not in ("choice", "rating"):
            raise ValueError(
                f"part must be 'choice' or 'rating', as in part='rating', got {part!r}."
            )
        if ratings is not None:
            self._learn_new_rows(user, ratings)
        (row,), columns = self._users.known_rows([user]), self._items.known_rows(items)
        if part == "choice":
            choice = self._autoencoder or self._model
            if not isinstance(choice, ItemAutoencoder):
                raise ValueError(
                    f"explain needs the part of choices, and this {type(self).__name__}"
                    " has none. Fit MFRegressor or NCFRegressor to ratings with "
                    "rank_by='both' or 'choice', or to choices without y, loss and "
                    "unobserved_weight. Expected ratings of MFRegressor are explained "
                    "by part='rating' and the rows of the user as ratings."
                )
            return self._reasons(columns, *choice.contributions(row, columns))
        X, y = (None, None) if ratings is None else _further_ratings(ratings)
        if y is None:
            raise ValueError(
                "part='rating' needs the rows of the user with their ratings, since a "
                "fitted model keeps none: pass ratings=(X, y)."
            )
        _, data = self._read(X, y, None, self._solver(), reset=False)
        data = self._weighting.applied(data)
        numbers = self._items.known_rows(data.item_ids)
        shares = self._model.row_shares(int(row), columns, data, numbers)
        if self._pair_effects is not None:
            places = self._seen.places(np.full(len(columns), row), columns)
            shares = self._pair_effects.explained(shares, places, columns, numbers)
        return self._reasons(columns, numbers, shares)

    def _learn_new_rows(self, user: Any, ratings: Any) -> None:
        """Learn from rows of a user that are new; this is a snapshot."""
        X, _ = _further_ratings(ratings)
        of_users, of_items = read_pairs(X, "ratings")
        own = read_ids([user], "user")
        is_other = of_users.numbered_in(own.values, "user is an id") < 0
        if is_other.any():
            raise ValueError(
                f"ratings must hold rows of user {shown(user)} alone, but "
                f"{is_other.sum()} of {len(is_other)} are of others, such as "
                f"{shown(of_users.values[is_other][0])}."
            )
        users = of_users.numbered_in(self._users.ids)
        items = of_items.numbered_in(self._items.ids)
        is_new = (users < 0) | (items < 0)
        is_new |= ~self._seen.contain(np.maximum(users, 0), items)
        if is_new.any():
            self._learn_for_one_call(ratings, Sides(None, None), is_new.astype(float))

    def _learn_for_one_call(
        self, ratings: Any, features: Sides, weight: np.ndarray | None = None
    ) -> ArrayLike:
        """Learn from further ratings, and return their X; this is a snapshot."""
        X, y = _further_ratings(ratings)
        is_of_choices = (
            isinstance(self._model, ItemAutoencoder)
            or self._solver().objective.is_of_choices
        )
        if y is None and not is_of_choices:
            raise ValueError(
                f"ratings must be {PAIR}, since the last fit had ratings y; got a "
                f"{type(ratings).__name__} without ratings."
            )
        with torch_threads(1):
            self._publish(self._update(X, y, weight, features))
        return X

    def _reasons(
        self, columns: np.ndarray, numbers: np.ndarray, shares: np.ndarray
    ) -> pd.DataFrame:
        """Shares of numbered items, and of all else, in those of columns."""
        because = [*self._items.ids[numbers], None]
        n_reasons = len(because)
        frame = pd.DataFrame(
            {
                "item": np.repeat(self._items.ids[columns], n_reasons),
                "because": pd.Series(because * len(columns), dtype=object),
                "contribution": shares.ravel(),
            }
        )
        order = np.lexsort(
            (-frame["contribution"], np.repeat(np.arange(len(columns)), n_reasons))
        )
        return frame.iloc[order].reset_index(drop=True)


def _further_ratings(ratings: Any) -> tuple[Any, Any]:
    """X and y of further rows, or an error that names their argument."""
    # A list of rows has rows of one dimension; that of a pair begins with a table.
    is_pair = isinstance(ratings, tuple) or (
        isinstance(ratings, list) and bool(ratings) and holds_rows(ratings[0])
    )
    given = tuple(ratings) if is_pair else (ratings, None)
    if len(given) != 2:
        kind = type(ratings).__name__
        raise ValueError(
            f"ratings must be {PAIR}, got a {kind} of length {len(given)}."
        )
    if is_empty(given[0]):
        raise ValueError(
            "ratings holds no rows. Leave it out for a user without further ratings."
        )
    return given
