"""Steps as CUDA graphs, against steps that are launched kernel by kernel."""

import pytest
import torch

from skrec._gradient.graphs import GraphedSteps, tensor_cores

CUDA = torch.device("cuda")


def test_the_cpu_has_no_tensor_cores():
    before = torch.backends.cuda.matmul.allow_tf32
    with tensor_cores(torch.device("cpu")):
        assert torch.backends.cuda.matmul.allow_tf32 == before


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="since torch 2.9"
)
def test_the_precision_of_products_is_restored():
    before = torch.backends.cuda.matmul.fp32_precision
    with tensor_cores(CUDA):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == before


@pytest.mark.skipif(
    not (torch.backends.cuda.is_built() and torch.cuda.is_available()),
    reason="needs a CUDA device",
)
def test_replays_do_what_the_step_does():
    table = torch.zeros(10, device=CUDA)
    generator = torch.Generator(CUDA).manual_seed(0)
    drawn = []

    def step(rows):
        noise = torch.rand(len(rows), generator=generator, device=CUDA)
        table.index_add_(0, rows, torch.ones_like(noise))
        return noise

    step(torch.arange(3, device=CUDA))
    table.zero_()
    graphs = GraphedSteps(step, generator)
    for rows in ([1, 2, 3], [4, 5, 6], [7, 7], [1, 2, 2]):
        drawn.append(graphs(torch.tensor(rows, device=CUDA)).clone())
    assert table.tolist() == [0, 2, 3, 1, 1, 1, 1, 2, 0, 0]
    assert len(graphs.graphs) == 2
    assert not torch.equal(drawn[0], drawn[1])
