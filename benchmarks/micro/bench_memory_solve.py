"""memory_solve: on inputs of MNIST's and CIFAR-10's sizes; beside it the product with P that comes before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops

SHAPES = [(20, 785), (200, 785), (20, 3073), (100, 3073)]


@pytest.mark.parametrize(("batch", "n"), SHAPES)
def test_memory_solve(time: Callable[..., None], normal: Callable[..., Tensor], batch: int, n: int) -> None:
    inputs = normal(batch, n)
    time(
        "memory_solve",
        f"{batch} x {n}",
        inputs=inputs,
        product=inputs / n,
        factor=torch.empty(batch, n),
        solution=torch.empty(batch, n),
        smallest_pivot=torch.empty(1, dtype=torch.float64),
    )


@pytest.mark.parametrize(("batch", "n"), SHAPES)
def test_product_with_the_inverse(benchmark: Any, normal: Callable[..., Tensor], batch: int, n: int) -> None:
    benchmark.group = f"memory_solve, {batch} x {n}, {torch.get_num_threads()} threads"
    inputs, inverse, product = normal(batch, n), normal(n, n), torch.empty(batch, n)
    benchmark(lambda: ops.matmul(inputs, inverse, out=product))
