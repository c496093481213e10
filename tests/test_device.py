"""Memory of a device, halves of work that does not fit, and advice where none does."""

import threading
from concurrent.futures import BrokenExecutor

import pytest
import torch
from device_simulation import simulated
from helpers import NEEDS_SIMULATION

from skrec._device import DEFAULT_WORK_BYTES, in_halves, memory_errors, work_bytes


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


def too_large_for_torch():
    torch.empty(2**60, dtype=torch.uint8)


def too_large_for_numpy():
    raise MemoryError("Unable to allocate 1. EiB")


def no_memory_of_a_device():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 EiB\nTry")


def no_thread():
    raise BrokenExecutor("A thread initializer failed")


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (too_large_for_torch, MemoryError, "can't allocate memory"),
        (too_large_for_numpy, MemoryError, "1. EiB"),
        (no_memory_of_a_device, torch.OutOfMemoryError, "CUDA out of memory"),
        (no_thread, MemoryError, "initializer failed"),
    ],
)
def test_errors_for_want_of_memory_have_advice_once(call, kind, words):
    with pytest.raises(kind) as error, memory_errors(), memory_errors():
        call()
    message = str(error.value)
    assert words in message
    assert message.count("not enough memory") == message.count("n_factors") == 1


def test_a_thread_that_cannot_start_is_want_of_memory(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(MemoryError, match="new thread"), memory_errors():
        threading.Thread().start()


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ValueError("memory")])
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(type(error)) as found, memory_errors():
        raise error
    assert found.value is error
