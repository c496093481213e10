"""A device in pure Python, for machines without one: its numbers are CPU tensors.

    with simulated() as device:
        x = torch.randn(3, device="simulated")
        (x @ x).item()
    print(device.launches, device.waits, device.peak)

A tensor of the device holds a CPU tensor, and a dispatch mode runs every operator on
what is held. It refuses operands on two devices, counts launches of kernels, waits of
the host and copies, and keeps the bytes that are alive below a limit. How many kernels
an operator launches is that of CUDA as far as known, and one for the others.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Iterator
from functools import cache

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

try:
    from torch.utils.backend_registration import (
        _setup_privateuseone_for_python_backend as register,
    )
except ImportError:
    # torch can simulate a device since 2.10.
    register = None

CPU = torch.device("cpu")

# Operators that launch nothing, besides views; operators that launch several kernels;
# and operators whose results the host reads to go on.
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "detach", "alias"}
FREE |= {"new_empty_strided", "_unsafe_view", "_local_scalar_dense", "is_pinned"}
FREE |= {"squeeze_"}
KERNELS = {"cumsum": 2, "sort": 6, "topk": 3, "nonzero": 4, "bincount": 6}
KERNELS |= {"randperm": 8, "repeat_interleave": 3, "unique_consecutive": 10}
KERNELS |= {"_linalg_slogdet": 14, "linalg_qr": 40, "_linalg_svd": 120}
KERNELS |= {"_linalg_eigh": 40, "linalg_cholesky_ex": 6, "cholesky_inverse": 14}
KERNELS |= {"cholesky_solve": 10, "linalg_solve_triangular": 5, "baddbmm": 2}
KERNELS |= {"_fused_adam_": 2, "_fused_sgd_": 2}
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal"}
WAITS |= {"unique_consecutive", "_linalg_check_errors", "_linalg_svd", "_linalg_eigh"}


class SimulatedTensor(torch.Tensor):
    """A tensor of the device, whose numbers are those of the CPU tensor `held`."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> SimulatedTensor:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("simulated", 0),
        )
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of simulated()")

    def numpy(self, *, force=False):
        if not force:
            raise TypeError("can't convert a tensor of a device to numpy: use .cpu()")
        return self.detach().cpu().numpy()

    def tolist(self):
        return self.detach().cpu().tolist()

    def __repr__(self, **options):
        return f"SimulatedTensor({self.held!r})"


class Device(TorchDispatchMode):
    """The mode, with counts since the last `reset`.

    Attributes
    ----------
    launches, waits, copies : int
        Copies are those between the host and the device, of which each is a wait.
    operators : Counter
        Number of calls by the name of an operator.
    longest_bag : int
        Entries of the longest bag of an `embedding_bag`, which one thread reads.
    live, peak : int
        Bytes of tensors that are alive, and the most of them.
    memory_limit : int or None
    """

    def __init__(self, memory_limit: int | None = None) -> None:
        super().__init__()
        self.memory_limit, self.live, self.peak = memory_limit, 0, 0
        self.storages: set[int] = set()
        self.reset()

    def reset(self) -> None:
        self.launches = self.waits = self.copies = self.longest_bag = 0
        self.operators: Counter[str] = Counter()
        self.peak = self.live

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        operands = [x for x in tree_leaves((args, kwargs)) if is_tensor(x)]
        outer = {id(x.held): x for x in operands if isinstance(x, SimulatedTensor)}
        target = kwargs.get("device")
        to_device = target is not None and target.type == "simulated"
        if not outer and not to_device:
            return func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        check_devices(name, args, operands)
        out = func(*tree_map(held, args), **tree_map(held, kwargs))
        if torch.Tag.inplace_view in func.tags:
            # Its shape changes with that of the tensor that it holds.
            with no_dispatch():
                func(*args, **kwargs)
        to_cpu = target is not None and not to_device
        if name == "copy_":
            to_cpu = not isinstance(operands[0], SimulatedTensor)
        if name in ("_to_copy", "copy_") and (
            isinstance(operands[-1], SimulatedTensor) == to_cpu
        ):
            self.copies, self.waits = self.copies + 1, self.waits + 1
        else:
            self._count(func, name, tree_map(held, args), kwargs)
        return out if to_cpu else tree_map(lambda x: self._tensor(x, outer), out)

    def _tensor(self, x, outer):
        """The tensor of the device that holds `x`: one that was written to, or new."""
        if not is_tensor(x):
            return x
        return outer[id(x)] if id(x) in outer else self._allocated(x)

    def _allocated(self, x: torch.Tensor) -> SimulatedTensor:
        storage = x.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.storages:
            if self.memory_limit is not None and self.live + size > self.memory_limit:
                raise torch.OutOfMemoryError(f"{size} bytes beyond {self.live}")
            self.live += size
            self.peak = max(self.peak, self.live)
            self.storages.add(key)
            weakref.finalize(storage, self._freed, key, size)
        return SimulatedTensor(x)

    def _freed(self, key: int, size: int) -> None:
        self.live -= size
        self.storages.discard(key)

    def _count(self, func, name, args, kwargs) -> None:
        self.operators[name] += 1
        if not (func.is_view or name in FREE):
            self.launches += KERNELS.get(name, 1)
        self.waits += name in WAITS
        if name == "repeat_interleave":
            self.waits += kwargs.get("output_size") is None
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            # A mask becomes numbers, and the host needs to know how many.
            self.waits += sum(i is not None and i.dtype == torch.bool for i in args[1])
        if name.startswith("_embedding_bag") and "backward" not in name:
            lengths = args[2].diff(append=torch.tensor([len(args[1])]))
            self.longest_bag = max([self.longest_bag, *lengths.tolist()])


def is_tensor(x) -> bool:
    return isinstance(x, torch.Tensor)


def held(x):
    """Operands of the same operator on the CPU."""
    if isinstance(x, SimulatedTensor):
        return x.held
    return CPU if isinstance(x, torch.device) else x


def check_devices(name: str, args, operands) -> None:
    """Refuse operands on two devices, except scalars and indices on the CPU."""
    strangers = [
        x for x in operands if not isinstance(x, SimulatedTensor) and x.dim() > 0
    ]
    if not strangers or len(strangers) == len(operands) or name == "copy_":
        return
    if name.startswith(("index", "_index_put")):
        strangers = [x for x in (args[0], *args[2:3]) if any(x is s for s in strangers)]
    if strangers:
        raise RuntimeError(f"{name} of tensors on the CPU and on the device")


class Generator(torch._C.Generator):
    """A generator for the device, which draws on the CPU."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu")


@cache
def _register() -> None:
    register(rename="simulated")


@contextlib.contextmanager
def simulated(memory_limit: int | None = None) -> Iterator[Device]:
    """torch has the device "simulated" inside."""
    _register()
    generator, overwrite = torch.Generator, "_overwrite_module_params_on_conversion"
    replaced = getattr(torch.__future__, overwrite)
    # Modules that move get new parameters, since the class of a tensor is fixed.
    setattr(torch.__future__, overwrite, True)
    torch.Generator = Generator
    try:
        # Backward passes run in this thread, where the mode is.
        threads = torch.autograd.set_multithreading_enabled(False)
        with threads, Device(memory_limit) as device:
            yield device
    finally:
        torch.Generator = generator
        setattr(torch.__future__, overwrite, replaced)
