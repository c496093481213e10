"""KnownIds: the users, or the items, that a fit knows, and their row numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from .._sklearn import arguments_may_be_cut
from .._storage import stored
from .._warn import warn
from .interactions import FurtherRows, Interactions, SideFeatures
from .messages import quote_first, shown
from .reading import Columns, read_ids
from .seen import SeenItems
from .side_features import ColdRows
from .sides import SideName, Sides
from .vocabulary import Growth, Ids


@stored
@dataclass(frozen=True)
class KnownIds:
    """The ids of one side that have ratings, and side features of others.

    Attributes
    ----------
    side : {"user", "item"}
    ids : ndarray of shape (n_ids,)
        Sorted raw ids.
    column : str or None
        Name of the column of X that holds them.
    described : ColdRows or None
        How side features were encoded, and those of ids without ratings.
    """

    side: SideName
    ids: np.ndarray
    column: str | None = None
    described: ColdRows | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def with_features(
        self, features: Any, n_rows: int
    ) -> tuple[KnownIds, SideFeatures | None]:
        """The same ids with side features for them, and these as a matrix.

        `n_rows` is the length of X.
        """
        if features is None:
            return self, None
        described, matrix = ColdRows.of(
            features,
            self.ids,
            f"{self.side}_features",
            id_name=self.column,
            n_rows=n_rows if arguments_may_be_cut() else None,
        )
        names = described.encoder.names
        if not names:
            warn(
                f"{self.side}_features holds no value for any {self.side} of X, so "
                "nothing is learned from it."
            )
        side_features = SideFeatures(names, matrix) if names else None
        return replace(self, described=described), side_features

    @property
    def feature_names(self) -> list[str]:
        """Columns of the encoded side features."""
        return [] if self.described is None else self.described.encoder.names

    def check_features(self, features: Any) -> None:
        """Refuse side features if `fit` was given none."""
        if features is not None and self.described is None:
            raise ValueError(
                f"{self.side}_features were not given to fit, so this model has "
                "learned nothing about them. Pass them to fit too."
            )

    def rows(
        self, ids: Ids, features: Any = None, n_rows: int | None = None
    ) -> tuple[np.ndarray, sparse.csr_array | None]:
        """Row number of each id, and the features of those that have no ratings.

        -1 is an id of which nothing is known, and -2 - j one that has row j of the
        features. `n_rows` is the length of X, where ids come from one.
        """
        rows = self._numbered(ids)
        unknown = np.flatnonzero(rows < 0)
        self.check_features(features)
        if self.described is None or not (self.feature_names and len(unknown)):
            return rows, None
        place, asked = pd.factorize(ids.take(unknown).values, sort=True)
        found, matrix = self.described.rows_of(
            np.asarray(asked),
            features,
            f"{self.side}_features",
            id_name=self.column,
            n_rows=n_rows if arguments_may_be_cut() else None,
        )
        number = np.full(len(found), -1)
        number[found] = -2 - np.arange(matrix.shape[0])
        rows[unknown] = number[place]
        return rows, matrix if matrix.shape[0] else None

    def known_rows(self, values: Any) -> np.ndarray:
        """Row numbers of ids given as an argument, which must all have ratings."""
        ids = read_ids(values, f"{self.side}s")
        rows = self._numbered(ids)
        self.refuse_unknown(ids, rows < 0)
        return rows

    def named_rows(self, values: Any) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers of ids given as an argument, and all of them, sorted.

        Those of which the model has side features alone have no row number.
        """
        ids = read_ids(values, f"{self.side}s")
        rows = self._numbered(ids)
        places, distinct = ids.numbered()
        is_unknown = rows < 0
        if self.described is not None:
            is_unknown &= ~self.described.have(distinct)[places]
        self.refuse_unknown(ids, is_unknown)
        return rows[rows >= 0], distinct

    def _numbered(self, ids: Ids) -> np.ndarray:
        """Row numbers of ids, -1 where unknown. A mask is refused, which is no ids."""
        known = self.ids
        is_mask = len(ids) and ids.distinct.dtype.kind == "b"
        if is_mask and len(known) and known.dtype.kind in "iuf" and known[-1] > 1:
            raise TypeError(
                f"{ids.where} holds True and False, which would be the ids 1 and 0, "
                f"but this model was fitted on ids such as {shown(known[-1])}. Take "
                f"ids by a mask first, as in {self.side}_ids_[mask]."
            )
        return ids.numbered_in(known)

    def refuse_unknown(self, ids: Ids, is_unknown: np.ndarray) -> None:
        """Refuse ids given as an argument if some are unknown."""
        unknown = ids.values[is_unknown]
        if len(unknown):
            raise ValueError(
                f"{self.side}s must be known, but {len(unknown)} of {len(ids.values)} "
                f"were not in the training rows, such as {quote_first(unknown)}."
            )

    def distinct_rows(
        self, ids: Ids, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Raw ids and row numbers, as `rows` returns them, of each id once."""
        # Unknown ids share a row number.
        codes, _ = pd.factorize(ids.values)
        _, first = np.unique(
            np.where(rows == -1, rows.min(initial=-1) - 1 - codes, rows),
            return_index=True,
        )
        first.sort()
        rows = rows[first]
        return self.like_fitted(ids.values[first], rows), rows

    def without(self, forgotten: np.ndarray, kept: np.ndarray) -> KnownIds:
        """The rows that are kept, without the features of forgotten ids, sorted."""
        described = self.described and self.described.without(forgotten)
        return replace(self, ids=self.ids[kept], described=described)

    def columns_of(self, features: SideFeatures | None) -> np.ndarray:
        """Columns of other side features among those of these; -1 is new."""
        names = [] if features is None else features.names
        return pd.Index(self.feature_names).get_indexer(names)

    def like_fitted(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Numbered ids as in `fit`; new ones in the same dtype, if it can hold them."""
        fitted = self.ids
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


def with_side_features(
    data: Interactions,
    features: Sides[Any],
    columns: Sides[str | None],
    n_rows: int,
) -> tuple[Sides[KnownIds], Interactions]:
    """Known ids of each side, and the rows with their side features.

    `columns` are the names of the columns of ids, and `n_rows` is the length of X.
    """
    users, of_users = KnownIds("user", data.user_ids, columns.user).with_features(
        features.user, n_rows
    )
    items, of_items = KnownIds("item", data.item_ids, columns.item).with_features(
        features.item, n_rows
    )
    data = replace(data, side_features=Sides(of_users, of_items))
    return Sides(users, items), data


def further_rows(
    known: Sides[KnownIds],
    columns: Columns,
    data: Interactions,
    features: Sides[Any],
    seen: SeenItems,
) -> FurtherRows:
    """Canonical rows of `partial_fit` with row numbers in the model."""
    n_rows = len(columns.users)
    users, cold_users = known.user.rows(
        columns.users.of_kind(data.user_ids), features.user, n_rows
    )
    items, cold_items = known.item.rows(
        columns.items.of_kind(data.item_ids), features.item, n_rows
    )
    growths = Sides(
        Growth.of(known.user.ids, data.user_ids, users),
        Growth.of(known.item.ids, data.item_ids, items),
    )
    return FurtherRows(data, users, items, Sides(cold_users, cold_items), growths, seen)


def handle_unknown(
    how: str,
    found: Mapping[str, tuple[Ids, np.ndarray]],
    consequence: str = "answered from what is known",
) -> None:
    """Ignore, warn of or refuse ids that are unknown, by noun."""
    if how == "ignore":
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
    if how == "error":
        raise ValueError(f"Found {message}; handle_unknown='error' refuses them.")
    warn(f"Found {message}; they are {consequence}.")


def take_ids(ids: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Ids at their places; at -1 is the missing value of their dtype."""
    empty = places < 0
    if not empty.any():
        return ids[places]
    dtype: Any = ids.dtype
    missing: Any = None
    if dtype.kind == "f":
        missing = np.nan
    elif dtype.kind in "mM":
        missing = np.array("NaT", dtype)
    else:
        dtype = object
    taken = np.full(places.shape, missing, dtype)
    taken[~empty] = ids[places[~empty]]
    return taken
