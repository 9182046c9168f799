"""softmax_residual: on the ten logits of both networks; beside it autograd through torch's cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BATCH, CLASSES = 200, 10


def test_softmax_residual(time: Callable[..., None], normal: Callable[..., Tensor], guard: Tensor) -> None:
    time(
        "softmax_residual",
        "10 classes",
        logits=normal(BATCH, CLASSES),
        bias=normal(CLASSES),
        labels=torch.arange(BATCH) % CLASSES,
        residual=torch.empty(BATCH, CLASSES),
        bias_gradient=torch.empty(CLASSES),
        loss=torch.empty(()),
        correct=torch.empty((), dtype=torch.int64),
        guard=guard,
    )


def test_autograd(benchmark: Any, normal: Callable[..., Tensor]) -> None:
    benchmark.group = f"softmax_residual, 10 classes, {torch.get_num_threads()} threads"
    logits, bias = normal(BATCH, CLASSES).requires_grad_(), normal(CLASSES).requires_grad_()
    labels = torch.arange(BATCH) % CLASSES

    def forward_and_backward() -> tuple[Tensor, ...]:
        z = logits + bias
        correct = (z.argmax(1) == labels).sum()
        return (correct, *torch.autograd.grad(F.cross_entropy(z, labels), (logits, bias)))

    benchmark(forward_and_backward)
