"""mse_residual: on ten outputs; beside it autograd through torch's mean squared error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BATCH, OUTPUTS = 200, 10


def test_mse_residual(time: Callable[..., None], normal: Callable[..., Tensor], guard: Tensor) -> None:
    time(
        "mse_residual",
        "10 outputs",
        logits=normal(BATCH, OUTPUTS),
        bias=normal(OUTPUTS),
        targets=normal(BATCH, OUTPUTS),
        residual=torch.empty(BATCH, OUTPUTS),
        bias_gradient=torch.empty(OUTPUTS),
        loss=torch.empty(()),
        guard=guard,
    )


def test_autograd(benchmark: Any, normal: Callable[..., Tensor]) -> None:
    benchmark.group = f"mse_residual, 10 outputs, {torch.get_num_threads()} threads"
    logits, bias = normal(BATCH, OUTPUTS).requires_grad_(), normal(OUTPUTS).requires_grad_()
    targets = normal(BATCH, OUTPUTS)
    benchmark(lambda: torch.autograd.grad(F.mse_loss(logits + bias, targets), (logits, bias)))
