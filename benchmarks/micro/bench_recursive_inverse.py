"""The update of recursive least squares: the inverse and its product with a minibatch, beside the formula as printed.

The formula is that of ACIL (Zhuang et al. 2022, arXiv 2205.14922) and of textbooks. Evaluated from left to right, it
multiplies two n x n matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext.updates import RecursiveInverse

SHAPES = [(20, 790), (200, 790), (20, 3072)]


@pytest.mark.parametrize("contender", ["ours", "as printed"])
@pytest.mark.parametrize(("batch", "n"), SHAPES)
def test_update(benchmark: Any, normal: Callable[..., Tensor], contender: str, batch: int, n: int) -> None:
    benchmark.group = f"recursive inverse, {batch} x {n}, {torch.get_num_threads()} threads"
    x, eye = normal(batch, n), torch.eye(batch)
    inverse = RecursiveInverse(x, n)
    inverse.start(1.0)
    p = torch.eye(n)

    def ours() -> None:
        inverse.solve(x)
        inverse.commit()

    def as_printed() -> None:
        p.sub_(p @ x.T @ torch.inverse(eye + x @ p @ x.T) @ x @ p)

    benchmark(ours if contender == "ours" else as_printed)
