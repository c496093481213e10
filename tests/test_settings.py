"""Settings inside the package, and devices by name."""

import threading

import numpy as np
import pytest
import sklearn
import torch
from helpers import PATIENCE, default_dtype

from skrec import _settings
from skrec._settings import own_settings, torch_device


def test_settings_are_those_of_the_package_inside_and_of_the_caller_outside():
    with (
        default_dtype(torch.float64),
        torch.inference_mode(),
        torch.device("meta"),
        torch.autocast("cpu", dtype=torch.bfloat16),
        np.errstate(all="raise"),
        sklearn.config_context(transform_output="pandas"),
    ):
        with own_settings():
            assert torch.get_default_dtype() == torch.float32
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_autocast_enabled("cpu")
            assert torch.zeros(2).device.type == "cpu"
            assert np.geterr()["under"] == "ignore"
            assert np.geterr()["divide"] == "warn"
            assert sklearn.get_config()["transform_output"] == "default"
        assert torch.get_default_dtype() == torch.float64
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
        assert torch.zeros(2).device.type == "meta"
        assert set(np.geterr().values()) == {"raise"}
        assert sklearn.get_config()["transform_output"] == "pandas"


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_settings_are_restored_after_an_error(error):
    with default_dtype(torch.float64), torch.no_grad():
        with pytest.raises(error), own_settings():
            raise error
        assert torch.get_default_dtype() == torch.float64
        assert not torch.is_grad_enabled()


def test_the_default_dtype_is_put_back_by_the_last_that_leaves():
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with own_settings():
            inside.set()
            leave.wait(PATIENCE)

    with default_dtype(torch.float64):
        other = threading.Thread(target=stay)
        other.start()
        assert inside.wait(PATIENCE)
        with own_settings():
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float32
        leave.set()
        other.join()
        assert torch.get_default_dtype() == torch.float64


@pytest.mark.parametrize("name", ["cpu", torch.device("cpu")])
def test_a_device_is_found_by_its_name(name):
    assert torch_device(name) == torch.device("cpu")


def test_auto_is_a_gpu_if_there_is_one():
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    assert torch_device("auto").type == kind


def test_auto_is_the_cpu_where_a_gpu_cannot_be_used(monkeypatch):
    """Such as in a forked process whose parent uses it."""

    def fail(*args, **kwargs):
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", fail)
    assert torch_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"device='cuda' is not available.*re-in"):
        torch_device("cuda")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "meta"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match=f"device='{name}' is not available here: .*"):
        torch_device(name)


@pytest.fixture
def full_gpu(monkeypatch):
    """CUDA with hardly any memory left."""
    zeros = torch.zeros
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: zeros(*shape))
    monkeypatch.setattr(_settings, "free_bytes", lambda device: 2**20)


def test_auto_is_the_cpu_where_a_gpu_is_full(full_gpu):
    with pytest.warns(RuntimeWarning, match=r"GPU is not used: 1 MiB are free\. Free"):
        assert torch_device("auto") == torch.device("cpu")


def test_auto_is_the_cpu_where_a_gpu_is_too_old(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", fail)
    with pytest.warns(RuntimeWarning, match=r"no kernel image is available\. Free it"):
        assert torch_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("is_started", [False, True])
def test_auto_is_the_cpu_where_a_gpu_does_not_pay(full_gpu, monkeypatch, is_started):
    monkeypatch.setattr(_settings, "free_bytes", lambda device: 2**40)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: is_started)
    least = _settings.MIN_WORK if is_started else _settings.MIN_WORK_TO_START
    assert torch_device("auto", least / 2) == torch.device("cpu")
    assert torch_device("auto", 2 * least) == torch.device("cuda")
