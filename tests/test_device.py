"""Memory of a device, and halves of work that does not fit."""

import pytest
import torch
from device_simulation import simulated
from helpers import NEEDS_SIMULATION

from skrec._device import DEFAULT_WORK_BYTES, in_halves, work_bytes


@pytest.mark.parametrize("most", [1, 2, 5, 100])
def test_rows_are_halved_until_they_fit(most):
    called = []

    def function(rows):
        called.append(rows)
        if rows.stop - rows.start > most:
            raise torch.OutOfMemoryError
        return list(range(rows.start, rows.stop))

    parts = list(in_halves(function, slice(3, 20)))
    assert [row for part in parts for row in part] == list(range(3, 20))
    assert max(map(len, parts)) <= most


def test_one_row_that_does_not_fit_is_an_error():
    def function(rows):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        list(in_halves(function, slice(0, 4)))


@NEEDS_SIMULATION
def test_halves_fit_into_the_memory_of_a_device():
    with simulated(memory_limit=3000) as device:

        def function(rows):
            x = torch.zeros(rows.stop - rows.start, 10, device="simulated")
            return x.sum().item()

        assert len(list(in_halves(function, slice(0, 160)))) == 4
        assert device.peak <= 3000


def test_a_device_that_does_not_tell_its_memory_has_a_default():
    if torch.cuda.is_available():
        assert 0 < work_bytes(torch.device("cuda")) < 2**40
    else:
        assert work_bytes(torch.device("cuda")) == DEFAULT_WORK_BYTES
