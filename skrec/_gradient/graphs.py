"""Steps of a training as CUDA graphs: a launch each, and the precision of tensor cores.

A step is a hundred kernels, which the host launches more slowly than a GPU computes
them where batches are small. Recorded once for each size of a batch, they are launched
as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Steps before the first graph, in which libraries and the optimizer allocate what they
# keep; and the least number of steps that pays for a graph.
WARM_UP_STEPS, MIN_STEPS = 3, 30


class GraphedSteps:
    """Replays of a step, which is a function of the numbers of a batch's samples.

    The function returns a tensor, which the next replay overwrites. Whatever else it
    reads or writes has to stay where it is, and must not be needed by the host.
    """

    def __init__(
        self, step: Callable[[Tensor], Tensor], generator: torch.Generator
    ) -> None:
        self.step, self.generator = step, generator
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def __call__(self, rows: Tensor) -> Tensor:
        if len(rows) not in self.graphs:
            self.graphs[len(rows)] = self._recorded(rows)
        graph, static_rows, result = self.graphs[len(rows)]
        static_rows.copy_(rows)
        graph.replay()
        return result

    def _recorded(self, rows: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        static_rows, graph = rows.clone(), torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        # Graphs that are replayed in turns may share their memory.
        pool = next((other.pool() for other, _, _ in self.graphs.values()), None)
        with torch.cuda.graph(graph, pool, capture_error_mode="thread_local"):
            result = self.step(static_rows)
        return graph, static_rows, result


@contextmanager
def tensor_cores(device: torch.device) -> Iterator[None]:
    """Matrix products of CUDA in TensorFloat-32, whose errors shuffling exceeds."""
    matmul = torch.backends.cuda.matmul
    name = "fp32_precision" if hasattr(matmul, "fp32_precision") else "allow_tf32"
    if device.type != "cuda":
        yield
        return
    before = getattr(matmul, name)
    setattr(matmul, name, "tf32" if name == "fp32_precision" else True)
    try:
        yield
    finally:
        setattr(matmul, name, before)
