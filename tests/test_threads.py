"""Limits of threads are those of one thread, and leave nothing behind."""

import threading
from contextlib import nullcontext

import pytest
import torch
from helpers import PATIENCE, default_threads, in_thread

from skrec import _threads
from skrec._threads import set_own_threads, torch_threads


@pytest.mark.parametrize("failing", [False, True])
def test_a_limit_of_threads_is_that_of_one_thread(failing):
    with default_threads(3):
        with pytest.raises(KeyError) if failing else nullcontext(), torch_threads(1):
            assert torch.get_num_threads() == 1
            assert in_thread(torch.get_num_threads) == 3
            with torch_threads(2):
                assert torch.get_num_threads() == 2
                assert in_thread(torch.get_num_threads) == 3
            assert torch.get_num_threads() == 1
            if failing:
                raise KeyError
        assert torch.get_num_threads() == in_thread(torch.get_num_threads) == 3


def test_limits_that_overlap_leave_the_number_of_threads_alone():
    """The one that enters first leaves first."""
    entered, left = threading.Event(), threading.Event()

    def second():
        with torch_threads(1):
            entered.set()
            left.wait(PATIENCE)
        return torch.get_num_threads()

    with default_threads(3):
        with torch_threads(1):
            found = []
            other = threading.Thread(target=lambda: found.append(second()))
            other.start()
            assert entered.wait(PATIENCE)
        left.set()
        other.join()
        assert found == [3]
        assert torch.get_num_threads() == in_thread(torch.get_num_threads) == 3


def test_a_thread_sets_its_own_number_and_leaves_the_default():
    def one():
        torch.get_num_threads()
        default = set_own_threads(1)
        return default, torch.get_num_threads()

    with default_threads(3):
        assert in_thread(one) == (3, 1)
        assert torch.get_num_threads() == in_thread(torch.get_num_threads) == 3


@pytest.mark.parametrize("n_threads", [1, 5])
def test_an_interrupt_while_threads_are_set_leaves_nothing(n_threads, monkeypatch):
    calls = []

    def interrupted(number):
        calls.append(number)
        default = set_own_threads(number)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return default

    monkeypatch.setattr(_threads, "set_own_threads", interrupted)
    with default_threads(3):
        with pytest.raises(KeyboardInterrupt), torch_threads(n_threads):
            pytest.fail("a block must not run with other threads")
        assert torch.get_num_threads() == in_thread(torch.get_num_threads) == 3
    assert calls == [n_threads, 3]


def no_thread(function, arguments):
    raise RuntimeError("can't start new thread")


def thread_without_memory(function, arguments):
    """It ends before it runs a line."""


@pytest.mark.parametrize("start", [no_thread, thread_without_memory])
def test_the_number_of_threads_is_restored_where_no_thread_can_start(
    start, monkeypatch
):
    """Such as where no memory is left."""
    with default_threads(3):
        with torch_threads(1):
            monkeypatch.setattr(_threads, "start_new_thread", start)
            monkeypatch.setattr(_threads, "PATIENCE", 0.01)
        assert torch.get_num_threads() == 3
        with pytest.raises(RuntimeError, match="new thread"), torch_threads(1):
            pytest.fail("a block must not run with other threads")
        assert torch.get_num_threads() == 3
        monkeypatch.undo()
        assert in_thread(torch.get_num_threads) == 3
