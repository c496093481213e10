"""Preprocessing of columns of X: datetimes as categories, which are context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, tzinfo
from typing import Any, Self

import narwhals.stable.v1 as nw
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from ._data.containers import ArrayLike, as_array, as_frame
from ._data.messages import shown
from ._data.reading import as_numbers, describe_column
from ._data.times import read_times
from ._data.vocabulary import DATE_KINDS
from ._sklearn import check_columns, check_feature_names_in
from ._warn import warn

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

# Kinds of values that count from 1970; a column without a value has no other.
NUMBERS = {"integer", "floating", "mixed-integer-float", "decimal", "empty"}
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

# Seconds of the years 1 to 9999, in every zone.
YEARS = np.array(["0001-01-02", "9999-12-31"], dtype="M8[s]").astype(np.int64)


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
    timezone : str or tzinfo, default=None
        Zone of the bins, such as "Europe/Paris". Datetimes without a zone are taken to
        be in UTC. With None, datetimes are binned as they are, those with a zone in
        UTC.
    unit : {"s", "ms", "us", "ns"}, default="s"
        Unit of numbers, which count from 1970 in UTC. JavaScript and Java have
        milliseconds.

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
        timezone: str | tzinfo | None = None,
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
            Datetimes, numbers of `unit`, or strings of ISO 8601 such as "1998-02-14" or
            "1998-02-14T20:05". Others, such as "14/02/1998", may be read in several
            ways and are refused: ``pd.to_datetime(column, format="%d/%m/%Y")`` reads
            them in one.
        y : None
            Ignored.

        Returns
        -------
        self : object
            The fitted transformer.

        Raises
        ------
        ValueError
            If a parameter is out of its range, or a column holds no datetimes, or
            numbers beyond the years 1 to 9999.

        Warns
        -----
        UserWarning
            If all times of a column are in 1970, where numbers of another unit are.
        """
        self._check_parameters()
        frame = _as_columns(X)
        check_columns(self, frame, reset=True)
        for where, column in _columns_of(frame):
            known = self._times(column, where).dropna()
            if len(known) and (known.year == 1970).all():
                warn(
                    f"All times of {where} are in 1970, where numbers of another unit "
                    f"are. Check unit={self.unit!r}, or that of "
                    "pandas.to_datetime(column, unit='s')."
                )
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
            If the columns are not those of `fit`, or one holds no datetimes.
        """
        check_is_fitted(self)
        units = self._check_parameters()
        frame = _as_columns(X)
        check_columns(self, frame, reset=False)
        found = []
        for where, column in _columns_of(frame):
            times = self._times(column, where)
            is_missing = np.asarray(times.isna())
            known = times[~is_missing]
            for unit in units:
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

        Raises
        ------
        ValueError
            If `input_features` are not the names of `fit`, or not as many.
        """
        check_is_fitted(self)
        names = check_feature_names_in(self, input_features)
        pairs = [(name, unit) for name in names for unit in self._check_parameters()]
        return np.array([f"{name}_{unit}" for name, unit in pairs], dtype=object)

    def _check_parameters(self) -> list[str]:
        """Refuse parameters out of their range; the units as a list."""
        given: Any = [self.units] if isinstance(self.units, str) else self.units
        units = list(given) if np.iterable(given) else []
        if not units or not all(isinstance(u, str) and u in UNITS for u in units):
            raise ValueError(
                f"units must be some of {list(UNITS)}, such as ['month', 'hour'], got "
                f"{self.units!r}."
            )
        if self.unit not in [*PER_SECOND]:
            raise ValueError(
                f"unit must be 's', 'ms', 'us' or 'ns', got {self.unit!r}."
            )
        if not _is_zone(self.timezone):
            raise ValueError(
                "timezone must be None or the name of a zone, such as 'Europe/Paris', "
                f"got {self.timezone!r}."
            )
        return units

    def _times(self, column: Any, where: str) -> pd.DatetimeIndex:
        """Datetimes of a column in the zone of the bins, without it."""
        values = pd.Series(as_array(column)).infer_objects()
        kind = pd.api.types.infer_dtype(values, skipna=True)
        if kind in ("string", "bytes"):
            times = read_times(values.to_numpy(object), where)
        elif kind in NUMBERS:
            times = self._counted(values, where)
        else:
            times = _converted(values, kind, where)
        if self.timezone is not None:
            times = times.tz_convert(self.timezone)
        return times.tz_localize(None)

    def _counted(self, values: pd.Series, where: str) -> pd.DatetimeIndex:
        """Datetimes of numbers, in whole seconds: bins need no more."""
        numbers = values.to_numpy()
        if numbers.dtype.kind not in "iu":
            numbers = as_numbers(numbers, where, "row", may_be_missing=True)
        elif numbers.dtype != np.uint64:
            numbers = numbers.astype(np.int64)
        seconds = numbers // PER_SECOND[self.unit]
        is_beyond = _are_beyond(seconds)
        if is_beyond.any():
            fitting = [
                f" Give unit={unit!r}, in which all are in range."
                for unit, per_second in PER_SECOND.items()
                if not _are_beyond(numbers // per_second).any()
            ]
            raise ValueError(
                f"{where} holds numbers that are beyond the years 1 to 9999 in "
                f"unit={self.unit!r}, such as {shown(numbers[is_beyond][0])}."
                f"{''.join(fitting[:1])}"
            )
        return pd.DatetimeIndex(seconds.astype("M8[s]")).tz_localize("UTC")


def _are_beyond(seconds: np.ndarray) -> np.ndarray:
    return (seconds < YEARS[0]) | (seconds > YEARS[1])


def _is_zone(timezone: Any) -> bool:
    """Whether pandas has a zone, or none is given."""
    if timezone is None:
        return True
    try:
        pd.Timestamp(0, tz="UTC").tz_convert(timezone)
    except (LookupError, OSError, TypeError, ValueError):
        return False
    # pandas takes an int, too.
    return isinstance(timezone, str | tzinfo)


def _converted(values: pd.Series, kind: str, where: str) -> pd.DatetimeIndex:
    """Datetimes in UTC of a column of datetimes."""
    if kind not in DATE_KINDS:
        advice = "pandas.to_datetime(numbers, unit='s')"
        if kind == "period":
            advice = "column.dt.to_timestamp()"
        for value in values:
            if not (isinstance(value, date | np.datetime64) or pd.isna(value)):
                raise ValueError(
                    f"{where} must hold datetimes, or text such as '2026-01-31', or "
                    f"numbers, and one of these alone; but holds values of kind "
                    f"{kind!r}, such as {shown(value)}. Turn these into datetimes, "
                    f"such as by {advice}."
                )
    try:
        times = pd.DatetimeIndex(pd.to_datetime(values, utc=True))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where} holds no datetimes: {error}") from None
    is_late = times.year > 9999
    if is_late.any():
        raise ValueError(
            f"{where} holds times beyond the year 9999, such as {times[is_late][0]}. "
            "Milliseconds are turned into datetimes by "
            "pandas.to_datetime(column, unit='ms')."
        )
    return times


def _as_columns(X: Any) -> nw.DataFrame:
    """A table of any container with at least one column."""
    frame = as_frame(X)
    if not isinstance(frame, nw.DataFrame):
        values = as_array(X) if hasattr(X, "shape") else np.asarray(X, dtype=object)
        if values.ndim != 2:
            raise ValueError(
                "X must have columns of datetimes, such as X[['time']], got shape "
                f"{values.shape}."
            )
        frame = as_frame(pd.DataFrame(values))
    if not frame.shape[1]:
        raise ValueError(f"X has no column of datetimes, got shape {frame.shape}.")
    return frame


def _columns_of(frame: nw.DataFrame) -> list[tuple[str, Any]]:
    """Columns of a table, each with its place in words."""
    columns = enumerate(zip(frame.columns, frame.iter_columns(), strict=True))
    return [(describe_column(j, "X", name), column) for j, (name, column) in columns]
