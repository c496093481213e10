"""Times in text, against Python's own reader of ISO 8601."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skrec._data.times import read_times

# Of the years that nanoseconds can count, which pandas 2 reads.
TIMES = st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))
FORMS = ["%Y-%m-%d", "%Y%m%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S.%f"]
ZONED = [form + zone for form in FORMS[2:] for zone in ("+02:00", "-11:30", "Z")]


# pandas 2 reads text without a zone as in that of the text before it.
@pytest.mark.parametrize("forms", [FORMS, ZONED])
@given(data=st.data())
def test_times_are_those_of_iso_8601_whatever_stands_beside_them(forms, data):
    row = st.tuples(TIMES, st.sampled_from(forms))
    rows = data.draw(st.lists(row, min_size=1))
    text = [time.strftime(form) for time, form in rows]
    expected = [datetime.fromisoformat(value) for value in text]
    expected = [t if t.tzinfo else t.replace(tzinfo=UTC) for t in expected]
    assert read_times(np.array(text, dtype=object), "text").tolist() == expected


def test_missing_values_are_no_times():
    text = np.array(["1998-02-14", None, "", "NaT", np.nan, pd.NaT], dtype=object)
    assert read_times(text, "text").isna().tolist() == [False] + [True] * 5
    assert not len(read_times(text[:0], "text"))


@pytest.mark.parametrize(
    "other",
    [
        "31/12/2020",
        "12/31/2020",
        "20-12-31",
        "noon",
        "now",
        "today",
        "5",
        "884649600",
        "2020-02-30",
        "2020-01-01 10:00 PM",
        b"2020-01-01",
    ],
)
def test_the_first_other_text_is_named(other):
    text = np.array(["2020-01-01", None, "", other, "never", "now"], dtype=object)
    with pytest.raises(ValueError, match=r"times holds text.*2026-01-31") as error:
        read_times(text, "times")
    assert f"such as {other!r}. " in str(error.value)
