"""elman_encode: beside it the forward pass of torch's own nn.RNN and the Linear that reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import models
from altmin_ext.ops import Activation

from .elman import BATCH, OUTPUTS, STEPS, WIDTHS, hidden_shape


@pytest.mark.parametrize("width", WIDTHS)
def test_elman_encode(time: Callable[..., None], normal: Callable[..., Tensor], width: int) -> None:
    time(
        "elman_encode",
        f"{width} units",
        x=normal(BATCH, STEPS, 1),
        input_weight=normal(width, 1),
        recurrent_weight=normal(width, width) / (2 * width**0.5),
        input_bias=normal(width),
        recurrent_bias=normal(width),
        output_weight=normal(OUTPUTS, STEPS * width),
        hidden=torch.empty(hidden_shape(width)),
        product=torch.empty(BATCH, OUTPUTS),
        sigma=Activation("relu"),
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_torch(benchmark: Any, normal: Callable[..., Tensor], width: int) -> None:
    """With what its backward pass will need."""
    benchmark.group = f"elman_encode, {width} units, {torch.get_num_threads()} threads"
    model, x = models.elman_rnn(1, width, STEPS, OUTPUTS), normal(BATCH, STEPS, 1)
    benchmark(lambda: model(x))
