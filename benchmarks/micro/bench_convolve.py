"""convolve: the encode of LeNet-5's convolutions; beside it what a step of torch calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext.ops import Activation

from .convolution import GEOMETRY, STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_convolve(
    time: Callable[..., None], normal: Callable[..., Tensor], guard: Tensor, stage: str
) -> None:
    shape = STAGES[stage]
    code = torch.empty(shape.code)
    time(
        "convolve",
        stage,
        input=normal(*shape.input),
        weight=normal(*shape.weight),
        bias=normal(shape.outputs),
        mask=None,
        code=code,
        activation=code,
        winner=torch.empty(shape.code, dtype=torch.uint8),
        gap=torch.empty(shape.code),
        **GEOMETRY,
        sigma=Activation("relu"),
        guard=guard,
    )


@pytest.mark.parametrize("stage", STAGES)
def test_torch(benchmark: Any, normal: Callable[..., Tensor], stage: str) -> None:
    """On images in torch's own layout."""
    shape = STAGES[stage]
    benchmark.group = f"convolve, {stage}, {torch.get_num_threads()} threads"
    x = normal(16 * shape.groups, shape.inputs, shape.size, shape.size)
    weight, bias = normal(*shape.weight).requires_grad_(), normal(shape.outputs).requires_grad_()
    benchmark(lambda: F.max_pool2d(F.relu(F.conv2d(x, weight, bias)), 2))
