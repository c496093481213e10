"""Sums and checks that stay on the device until the host asks for them."""

import pytest
import torch
from device_simulation import simulated
from helpers import NEEDS_SIMULATION

from skrec._alternating.scalars import (
    NotDefinite,
    fetched,
    is_any,
    postponed_checks,
    total,
)

CPU = torch.device("cpu")


def test_total_is_in_double_precision():
    x = torch.full((3,), 0.1)
    assert total(x).dtype == torch.float64
    assert fetched(total(x), 2.0) == [pytest.approx(3 * float(x[0]), rel=1e-15), 2.0]


def test_checks_on_the_cpu_are_made_at_once():
    with postponed_checks(CPU):
        assert is_any(torch.tensor([False, True]))
        assert not is_any(torch.tensor([False]))


@NEEDS_SIMULATION
def test_scalars_and_checks_of_a_device_come_in_one_copy():
    with simulated() as device:
        x = torch.arange(4.0, device="simulated")
        with postponed_checks(x.device):
            device.reset()
            assert not is_any(x < 0)
            assert fetched(total(x), 7.0, total(x * x)) == [6.0, 7.0, 14.0]
            assert device.waits == 1
            assert not is_any(x > 5)
        assert device.waits == 2


@NEEDS_SIMULATION
def test_a_check_that_fails_is_raised_with_the_next_scalar():
    with simulated():
        x = torch.arange(4.0, device="simulated")
        with postponed_checks(x.device):
            assert not is_any(x > 2)
            with pytest.raises(NotDefinite):
                fetched(total(x))
        with pytest.raises(NotDefinite), postponed_checks(x.device):
            assert not is_any(x > 2)
        assert is_any(x > 2)
