"""Context: further columns of X that are categories, and the values that a fit knows.

Columns of numbers have a linear term. A column of strings, categories or bools has
values, which are numbered as ids are. The context of rows is one array: its columns of
numbers, then the number of the value in each column of values; -1 is an unknown one.
A model has those columns that vary, in an order of its own (see `selection`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import narwhals.stable.v1 as nw
import numpy as np
import pandas as pd

from .._storage import stored
from .containers import as_array, as_coded_array, as_frame, object_array
from .messages import counted, quote_first, shown
from .vocabulary import Ids, kind_of, numbered

CATEGORIES = nw.Categorical | nw.Enum | nw.String | nw.Boolean


@stored
@dataclass(frozen=True)
class KnownContext:
    """The further columns of X as `fit` has read them.

    Attributes
    ----------
    names : tuple
        Name of each further column, or its number in X.
    values : tuple of ndarray or None
        Sorted raw values of a column of values, and None for one of numbers.
    selection : tuple of int or None
        Places, among the columns of an array of context, of those that a model has, in
        its order: numbers before values. None is all.
    """

    names: tuple[Any, ...] = ()
    values: tuple[np.ndarray | None, ...] = ()
    selection: tuple[int, ...] | None = None

    @property
    def number_places(self) -> list[int]:
        """Places among the further columns of the numbers that a model has."""
        return [j for j in self._places if self.values[j] is None]

    @property
    def value_places(self) -> list[int]:
        """Places among the further columns of the values that a model has."""
        return [j for j in self._places if self.values[j] is not None]

    @property
    def _places(self) -> list[int]:
        in_array = sorted(range(len(self.values)), key=self.are_values.__getitem__)
        if self.selection is None:
            return in_array
        return [in_array[place] for place in self.selection]

    @property
    def vocabularies(self) -> tuple[np.ndarray, ...]:
        """Raw values of the columns of values that a model has."""
        values = (self.values[place] for place in self.value_places)
        return tuple(v for v in values if v is not None)

    @property
    def value_names(self) -> list[Any]:
        """Names of the columns of values that a model has."""
        return [self.names[place] for place in self.value_places]

    @property
    def first_value_name(self) -> Any:
        """Name of the first of these columns in X."""
        return self.names[min(self.value_places)]

    @property
    def number_names(self) -> list[Any]:
        """Names of the columns of numbers that a model has."""
        return [self.names[place] for place in self.number_places]

    @property
    def has_names(self) -> bool:
        """Whether the further columns have names, as those of a table do."""
        return bool(self.names) and all(isinstance(name, str) for name in self.names)

    @property
    def are_values(self) -> list[bool]:
        """Whether each further column holds values."""
        return [values is not None for values in self.values]

    def select(self, context: np.ndarray) -> np.ndarray:
        """The columns of a context that a model has."""
        return context if self.selection is None else context[:, self.selection]

    def of_all_numbers(self, numbers: np.ndarray) -> np.ndarray:
        """A number for each column of numbers, 0 where a model has none."""
        own = dict(zip(self.number_places, numbers, strict=True))
        places = (j for j, values in enumerate(self.values) if values is None)
        return np.array([own.get(place, 0.0) for place in places])

    def is_category(self, place: int, column: Any) -> bool:
        """Whether a further column has values: as in `fit`, or by its own dtype."""
        if self.names:
            return self.values[place] is not None
        return _is_category(column)

    def with_values(self, values: Sequence[np.ndarray]) -> KnownContext:
        """The same columns, with these raw values in the place of those that it has."""
        left = iter(values)
        return replace(
            self,
            values=tuple(None if v is None else next(left) for v in self.values),
        )

    def places_in(self, other: KnownContext) -> tuple[np.ndarray, np.ndarray]:
        """Places in the model of another fit of values, and of columns of numbers.

        Columns are matched by name, and values are those of one column after another.
        -1 is a value or a column that the other does not know.
        """
        starts = np.cumsum([0, *map(len, other.vocabularies)]).tolist()
        known = zip(other.vocabularies, starts[:-1], strict=True)
        by_name = dict(zip(_numbered(other.value_names), known, strict=True))
        found = [np.empty(0, dtype=np.int64)]
        names = _numbered(self.value_names)
        for name, values in zip(names, self.vocabularies, strict=True):
            fitted, start = by_name.get(name, (values[:0], 0))
            numbers = np.full(len(values), -1)
            if kind_of(fitted[:1]) == kind_of(values[:1]):
                numbers = numbered(values, fitted, f"column {shown(name[0])} of X")
            found.append(np.where(numbers < 0, -1, start + numbers))
        places = {n: place for place, n in enumerate(_numbered(other.number_names))}
        of_numbers = [places.get(name, -1) for name in _numbered(self.number_names)]
        return np.concatenate(found), np.array(of_numbers, dtype=np.int64)

    def read(
        self, context: Any, n_users: int
    ) -> tuple[np.ndarray, dict[str, tuple[Ids, np.ndarray]]]:
        """Context of each user, and values that are given with their numbers by noun.

        `context` has a value for each further column, by name or in their order, or a
        row of them for each user. Numbers are NaN, and values -1, where none is given.
        """
        if not self.names:
            raise ValueError(
                "context needs a model with further columns of X, but this one was "
                "fitted to users and items only."
            )
        given = self._columns_of(context, n_users)
        numbers: list[np.ndarray] = []
        codes: list[np.ndarray] = []
        found = {}
        for place, (name, values) in enumerate(
            zip(self.names, self.values, strict=True)
        ):
            where = f"column {shown(name)} of context"
            column = given.get(place)
            if column is None:
                nothing = np.full(n_users, np.nan if values is None else -1.0)
                (numbers if values is None else codes).append(nothing)
            elif values is None:
                numbers.append(_as_finite(column, where))
            else:
                ids = read_values(column, where)
                codes.append(number_values(ids, values))
                found[f"values of {name!r}"] = ids, codes[-1]
        context = np.column_stack([*numbers, *codes]).astype(np.float64)
        return self.select(context), found

    def _columns_of(self, context: Any, n_users: int) -> dict[int, np.ndarray]:
        """Columns that are given by their places, each of one value per user."""
        frame = as_frame(context)
        if isinstance(context, pd.Series):
            context = dict(context)
        if isinstance(frame, nw.DataFrame):
            columns = dict(zip(frame.columns, frame.iter_columns(), strict=True))
            by_name: Mapping[Any, Any] = {k: as_array(v) for k, v in columns.items()}
        elif isinstance(context, Mapping):
            by_name = {k: _as_column(v) for k, v in context.items()}
        else:
            by_name = dict(zip(self.names, self._in_order(context), strict=True))
        unknown = [name for name in by_name if name not in self.names]
        if unknown:
            raise ValueError(
                f"context has no column {quote_first(unknown)}; the further columns of "
                f"X were {quote_first(self.names)}."
            )
        found = {}
        for name, column in by_name.items():
            if len(column) not in (1, n_users):
                raise ValueError(
                    f"context must hold one value per column, or one per user, but "
                    f"column {shown(name)} has {len(column)} for {n_users} users."
                )
            found[self.names.index(name)] = np.broadcast_to(column, (n_users,))
        return found

    def _in_order(self, context: Any) -> list[np.ndarray]:
        """Columns of values or rows in the order of the further columns."""
        if isinstance(context, str) or not hasattr(context, "__len__"):
            context = [context]
        table = object_array(list(context))
        if table.ndim == 1:
            table = table[None]
        if table.ndim != 2 or table.shape[1] != len(self.names):
            raise ValueError(
                f"context must hold a value for each of {quote_first(self.names)}, "
                f"such as context={{{shown(self.names[0])}: …}}, got shape "
                f"{table.shape}."
            )
        return [_narrowed(column) for column in table.T]


NO_CONTEXT = KnownContext()


def _as_column(values: Any) -> np.ndarray:
    """A value, or values of users, as a column."""
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        values = [values]
    if isinstance(values, list | tuple):
        return _narrowed(object_array(list(values)))
    return as_array(values)


def _narrowed(column: np.ndarray) -> np.ndarray:
    """A column of objects in the dtype of its values."""
    return np.asarray(pd.Series(list(column)).infer_objects())


def _as_finite(column: np.ndarray, where: str) -> np.ndarray:
    values = pd.to_numeric(pd.Series(column), errors="coerce").to_numpy(np.float64)
    wrong = ~np.isfinite(values)
    if wrong.any():
        raise ValueError(
            f"{where} must hold finite numbers, as in fit, but does not for "
            f"{counted(wrong, 'user')}."
        )
    return values


def _is_category(column: Any) -> bool:
    """Whether values of a column are strings, categories or bools."""
    if isinstance(column, nw.Series):
        if isinstance(column.dtype, CATEGORIES):
            return True
        if not isinstance(column.dtype, nw.Object):
            return False
    values = as_array(column)
    if values.dtype.kind != "O":
        return values.dtype.kind in "USb"
    kind = pd.api.types.infer_dtype(values, skipna=True)
    return kind in ("string", "bytes", "boolean", "categorical")


def read_values(column: Any, where: str) -> Ids:
    """Values of a column, none of which may be missing."""
    values, codes = as_coded_array(column)
    missing = pd.isna(values)
    if codes is not None:
        missing = np.append(missing, True)[codes]
    if missing.any():
        raise ValueError(
            f"{where} is missing for {counted(missing, 'row')}. Give missing values a "
            "category of their own, such as by fillna('unknown')."
        )
    return Ids.from_column(column if codes is not None else values, where)


def number_values(ids: Ids, values: np.ndarray) -> np.ndarray:
    """Number of each value among those of `fit`, -1 for unknown ones."""
    return ids.numbered_in(values, "the values of fit are")


def _numbered(names: Sequence[Any]) -> list[tuple[Any, int]]:
    """Names of columns, each with the number of equal names before it."""
    return [(name, names[:j].count(name)) for j, name in enumerate(names)]
