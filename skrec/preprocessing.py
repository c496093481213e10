"""Preprocessing of columns of X: datetimes as categories, which are context."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

import narwhals.stable.v1 as nw
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from ._data.containers import ArrayLike, as_array, as_frame
from ._data.messages import shown

__all__ = ["DatetimeBins"]

WEEKDAYS = np.array(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], dtype=object)

MISSING = "missing"


def _padded(numbers: Any) -> np.ndarray:
    return np.array([f"{number:02d}" for number in numbers], dtype=object)


def _weeks(times: pd.DatetimeIndex) -> np.ndarray:
    parts = times.isocalendar()
    return np.array(
        [f"{y}-W{w:02d}" for y, w in zip(parts["year"], parts["week"], strict=True)],
        dtype=object,
    )


UNITS: dict[str, Callable[[pd.DatetimeIndex], np.ndarray]] = {
    "year": lambda times: times.strftime("%Y").to_numpy(object),
    "quarter": lambda times: np.array([f"Q{q}" for q in times.quarter], dtype=object),
    "month": lambda times: _padded(times.month),
    "week": _weeks,
    "day": lambda times: times.strftime("%Y-%m-%d").to_numpy(object),
    "weekday": lambda times: WEEKDAYS[times.day_of_week],
    "hour": lambda times: _padded(times.hour),
}


class DatetimeBins(TransformerMixin, BaseEstimator):
    """Datetimes as categories, such as the month, the day of the week or the hour.

    A model with these columns behind user and item learns effects of each category, for
    all, for each user and for each item (see the user guide on context). A number of
    days since a date, which has a linear term, is no bin and needs no transformer.

    Parameters
    ----------
    units : sequence of str, default=("month", "weekday", "hour")
        - "year": "1998".
        - "quarter": "Q1" to "Q4".
        - "month": "01" to "12".
        - "week": weeks one after another, such as "1998-W07" of ISO 8601.
        - "day": days one after another, such as "1998-02-14".
        - "weekday": "Mon" to "Sun".
        - "hour": "00" to "23".

        "year", "week" and "day" do not come again: they are for drift within the time
        of the training rows, and later ones are unknown to a model.
    timezone : str, default=None
        Zone of the bins, such as "Europe/Paris". Datetimes without a zone are taken to
        be in UTC. With None, datetimes are binned as they are, those with a zone in
        UTC.
    unit : {"s", "ms", "us", "ns"}, default="s"
        Unit of numbers, which count from 1970 in UTC.

    Attributes
    ----------
    n_features_in_ : int
        Number of columns in `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if they had any.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn.compose import make_column_transformer
    >>> from sklearn.pipeline import make_pipeline
    >>> from skrec import MFRegressor
    >>> from skrec.preprocessing import DatetimeBins
    >>> X = pd.DataFrame({
    ...     "user": ["ann", "ann", "bob", "bob"],
    ...     "item": ["Heat", "Alien", "Heat", "Brazil"],
    ...     "time": pd.to_datetime(["1998-02-14 20:05", "1998-02-15 09:30",
    ...                             "1998-07-01 22:15", "1998-07-05 10:00"])})
    >>> bins = DatetimeBins(["month", "weekday"])
    >>> bins.fit_transform(X[["time"]]).tolist()[:2]
    [['02', 'Sat'], ['02', 'Sun']]
    >>> columns = make_column_transformer(
    ...     ("passthrough", ["user", "item"]), (bins, ["time"]))
    >>> model = make_pipeline(columns, MFRegressor(n_factors=2)).fit(X, [5, 3, 4, 2])
    >>> model.predict(X).shape
    (4,)
    """

    def __init__(
        self,
        units: Sequence[str] = ("month", "weekday", "hour"),
        *,
        timezone: str | None = None,
        unit: str = "s",
    ) -> None:
        self.units = units
        self.timezone = timezone
        self.unit = unit

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        tags.no_validation = True
        return tags

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Check the parameters, and keep the names of the columns.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_columns)
            Datetimes, strings that pandas reads as such, or numbers of `unit`.
        y : None
            Ignored.

        Returns
        -------
        self : object
            The fitted transformer.

        Raises
        ------
        ValueError
            If a unit is unknown, or a column holds no datetimes.
        """
        units = self._unit_names
        unknown = [unit for unit in units if unit not in UNITS]
        if unknown or not units:
            raise ValueError(
                f"units must be some of {list(UNITS)}, such as ['month', 'hour'], got "
                f"{self.units!r}."
            )
        if self.unit not in ("s", "ms", "us", "ns"):
            raise ValueError(
                f"unit must be 's', 'ms', 'us' or 'ns', got {self.unit!r}."
            )
        names, columns = _columns_of(X)
        for name, column in zip(names, columns, strict=True):
            self._times(column, name)
        self.n_features_in_ = len(columns)
        if all(isinstance(name, str) for name in names):
            self.feature_names_in_ = np.array(names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Categories of datetimes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_columns)
            Columns as in `fit`.

        Returns
        -------
        bins : ndarray of shape (n_samples, n_columns × n_units), dtype object
            Strings; "missing" for missing datetimes.

        Raises
        ------
        ValueError
            If there are not as many columns as in `fit`, or one holds no datetimes.
        """
        check_is_fitted(self)
        names, columns = _columns_of(X)
        if len(columns) != self.n_features_in_:
            raise ValueError(
                f"X has {len(columns)} columns, but DatetimeBins was fitted to "
                f"{self.n_features_in_}."
            )
        found = []
        for name, column in zip(names, columns, strict=True):
            times = self._times(column, name)
            is_missing = np.asarray(times.isna())
            known = times[~is_missing]
            for unit in self._unit_names:
                bins = np.full(len(times), MISSING, dtype=object)
                bins[~is_missing] = UNITS[unit](known)
                found.append(bins)
        return np.column_stack(found)

    def get_feature_names_out(
        self, input_features: ArrayLike | None = None
    ) -> np.ndarray:
        """Names of the columns of `transform`.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the columns of X; None is those of `fit`, or x0, x1, …

        Returns
        -------
        names : ndarray of str
            Such as "time_month".
        """
        check_is_fitted(self)
        names = input_features
        if names is None:
            default = [f"x{j}" for j in range(self.n_features_in_)]
            names = getattr(self, "feature_names_in_", default)
        pairs = [(n, u) for n in as_array(names) for u in self._unit_names]
        return np.array([f"{name}_{unit}" for name, unit in pairs], dtype=object)

    @property
    def _unit_names(self) -> list[str]:
        return [self.units] if isinstance(self.units, str) else list(self.units)

    def _times(self, column: Any, name: Any) -> pd.DatetimeIndex:
        """Datetimes of a column in the zone of the bins, without it."""
        values = as_array(column)
        is_number = values.dtype.kind in "iuf"
        if values.dtype.kind == "O":
            kind = pd.api.types.infer_dtype(values, skipna=True)
            is_number = kind in ("integer", "floating", "mixed-integer-float")
        try:
            with warnings.catch_warnings():
                # Strings that are read one by one may be read in several ways.
                warnings.simplefilter("error")
                if is_number:
                    values = values.astype(np.float64)
                    times = pd.to_datetime(values, unit=self.unit, utc=True)
                else:
                    times = pd.to_datetime(values, utc=True)
        except (TypeError, ValueError, OverflowError, UserWarning) as error:
            raise ValueError(
                f"column {shown(name)} must hold datetimes, such as by "
                "pd.to_datetime(column, format='%d/%m/%Y'), or numbers of "
                f"unit={self.unit!r}, but cannot be read so: {error}"
            ) from None
        if self.timezone is not None:
            times = times.tz_convert(self.timezone)
        return pd.DatetimeIndex(times).tz_localize(None)


def _columns_of(X: Any) -> tuple[list[Any], list[Any]]:
    """Names and columns of a table in any container."""
    frame = as_frame(X)
    if isinstance(frame, nw.DataFrame):
        return list(frame.columns), list(frame.iter_columns())
    values = as_array(X) if hasattr(X, "shape") else np.asarray(X, dtype=object)
    if values.ndim != 2:
        raise ValueError(
            "X must have columns of datetimes, such as X[['time']], got shape "
            f"{values.shape}."
        )
    return list(range(values.shape[1])), list(values.T)
