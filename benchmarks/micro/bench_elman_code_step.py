"""elman_code_step: beside it the backward pass of torch's own nn.RNN and the Linear that reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import models
from altmin_ext.ops import Activation

from .elman import BATCH, OUTPUTS, STEPS, WIDTHS, hidden_shape


@pytest.mark.parametrize("iterations", [1, 5])
@pytest.mark.parametrize("width", WIDTHS)
def test_elman_code_step(
    time: Callable[..., None],
    normal: Callable[..., Tensor],
    guard: Tensor,
    code_block: Callable[[], Tensor],
    width: int,
    iterations: int,
) -> None:
    inputs = width + 2
    time(
        "elman_code_step",
        f"{width} units, {iterations} iterations",
        hidden=torch.tanh(normal(*hidden_shape(width))),
        x=normal(BATCH, STEPS, 1),
        recurrent_weight=normal(width, width) / (2 * width**0.5),
        output_weight=normal(OUTPUTS, STEPS * width) / (STEPS * width) ** 0.5,
        displacement=normal(BATCH, OUTPUTS),
        residual=normal(BATCH, OUTPUTS),
        cross=torch.empty(width, inputs),
        gram=None if iterations == 1 else torch.empty(inputs, inputs),
        output_gradient=torch.empty(OUTPUTS, STEPS * width),
        output=None,
        scalars=code_block(),
        above=code_block(),
        iterations=iterations,
        sigma=Activation("relu"),
        guard=guard,
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_torch(benchmark: Any, normal: Callable[..., Tensor], width: int) -> None:
    benchmark.group = f"elman_code_step, {width} units, 1 iterations, {torch.get_num_threads()} threads"
    model, x = models.elman_rnn(1, width, STEPS, OUTPUTS), normal(BATCH, STEPS, 1)
    product, parameters, residual = model(x), list(model.parameters()), normal(BATCH, OUTPUTS)
    benchmark(lambda: torch.autograd.grad(product, parameters, residual, retain_graph=True))
