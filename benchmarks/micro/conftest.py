"""What the micro benchmarks share: the shapes of the paper's networks, and the contenders of every op.

    python -m pytest benchmarks/micro -o python_files="bench_*.py"

times each op's kernel beside its twin in eager torch, with as many threads as torch has been given (OMP_NUM_THREADS).
``ALTMIN_BENCHMARK_COMPILED=1`` adds the twin through torch.compile, which takes a minute to compile.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.ops import CodeScalar, reference

BATCH = 200
NETWORKS = {"784-100-100-10": (784, 100, 100, 10), "784-500-500-10": (784, 500, 500, 10)}
CONTENDERS = ["kernel", "eager twin"]
if os.environ.get("ALTMIN_BENCHMARK_COMPILED"):
    CONTENDERS.append("compiled twin")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A third of a second per benchmark: an op takes microseconds."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.benchmark(max_time=0.3, warmup=True, warmup_iterations=10))


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def widths(network: str) -> tuple[int, ...]:
    """Of the layers, input and output included."""
    return NETWORKS[network]


@pytest.fixture
def hidden_shape(widths: tuple[int, ...]) -> tuple[int, int]:
    """Of a code: the batch and the width of the hidden layers."""
    return BATCH, widths[1]


@pytest.fixture(params=CONTENDERS)
def contender(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def time(benchmark: Any, contender: str) -> Callable[..., None]:
    """time(op, what, **arguments) times the contender's version of an op under the heading of that op."""

    def run(op: str, what: str, **arguments: Any) -> None:
        function = getattr(ops if contender == "kernel" else reference, op)
        if contender == "compiled twin":
            function = torch.compile(function)
        benchmark.group = f"{op}, {what}, {torch.get_num_threads()} threads"
        benchmark(function, **arguments)

    return run


@pytest.fixture
def normal() -> Callable[..., Tensor]:
    """normal(*shape): standard normal float32, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


@pytest.fixture
def weights(normal: Callable[..., Tensor], widths: tuple[int, ...]) -> list[Tensor]:
    """All parameters of the network, matrices and biases."""
    layers = itertools.pairwise(widths)
    return [tensor for n_in, n_out in layers for tensor in (normal(n_out, n_in), normal(n_out))]


@pytest.fixture
def gradients(normal: Callable[..., Tensor], weights: list[Tensor]) -> list[Tensor]:
    return [normal(*weight.shape) for weight in weights]


@pytest.fixture
def guard() -> Tensor:
    return torch.zeros(1, dtype=torch.float64)


@pytest.fixture
def code_block() -> Callable[[], Tensor]:
    """code_block(): a code's parameter block."""

    def make() -> Tensor:
        block = torch.zeros(len(CodeScalar), dtype=torch.float64)
        for entry in (CodeScalar.step_size, CodeScalar.step_taken, CodeScalar.downstream, CodeScalar.anchor):
            block[entry] = 1.0
        block[CodeScalar.unit] = block[CodeScalar.scale] = 0.1
        block[CodeScalar.normalised] = 1.0
        return block

    return make
