"""memory_solve: on inputs of MNIST's and CIFAR-10's sizes; beside it the product with P that comes before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext.updates import RecursiveInverse

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


@pytest.mark.parametrize("contender", ["ours", "as printed"])
@pytest.mark.parametrize(("batch", "n"), [(20, 790), (200, 790), (20, 3072)])
def test_update_of_the_inverse(
    benchmark: Any, normal: Callable[..., Tensor], contender: str, batch: int, n: int
) -> None:
    """Beside the formula as ACIL (arXiv 2205.14922) prints it: left to right, a product of two n x n matrices."""
    benchmark.group = f"update of an inverse, {batch} x {n}, {torch.get_num_threads()} threads"
    x, p, eye = normal(batch, n), torch.eye(n), torch.eye(batch)
    inverse = RecursiveInverse(x, n)
    inverse.start(1.0)

    def ours() -> None:
        inverse.solve(x)
        inverse.commit()

    def as_printed() -> None:
        p.sub_(p @ x.T @ torch.inverse(eye + x @ p @ x.T) @ x @ p)

    benchmark(ours if contender == "ours" else as_printed)
