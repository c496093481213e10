"""Values and rows in the words of error messages."""

import numpy as np
import pytest

from skrec._data.messages import counted, quote_first, shown


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.int64(3), "3"),
        (np.float32(0.5), "0.5"),
        (np.str_("Heat"), "'Heat'"),
        (np.bool_(True), "True"),
        ("Heat", "'Heat'"),
        (None, "None"),
    ],
)
def test_values_are_shown_as_python_writes_them(value, words):
    assert shown(value) == words


def test_some_values_are_quoted_and_the_others_hinted_at():
    assert quote_first([]) == ""
    assert quote_first(np.array(["a", "b"])) == "'a', 'b'"
    assert quote_first(np.arange(5)) == "0, 1, 2, 3, 4"
    assert quote_first(np.arange(6)) == "0, 1, 2, 3, 4, …"


def test_rows_of_a_mask_are_counted():
    mask = np.zeros(9, dtype=bool)
    mask[4] = True
    assert counted(mask, "rating") == "1 rating (first rows: 4)"
    mask[1] = True
    assert counted(mask, "id") == "2 ids (first rows: 1, 4)"
    words = counted(~mask, "row")
    assert words == "7 rows (first rows: 0, 2, 3, 5, 6, …)"
