"""sgd_update: on all parameters of a network; beside it torch's own fused SGD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LEARNING_RATE = 1e-9  # keeps the weights in place over all the calls of a benchmark


def test_sgd_update(
    time: Callable[..., None], guard: Tensor, network: str, weights: list[Tensor], gradients: list[Tensor]
) -> None:
    time(
        "sgd_update",
        network,
        weights=weights,
        gradients=gradients,
        scalars=torch.tensor([[LEARNING_RATE, 1 / 200, 0.0, 0.0]] * len(weights), dtype=torch.float64),
        guard=guard,
        guard_index=torch.zeros(len(weights), dtype=torch.int64),
    )


def test_torch_optim(benchmark: Any, network: str, weights: list[Tensor], gradients: list[Tensor]) -> None:
    benchmark.group = f"sgd_update, {network}, {torch.get_num_threads()} threads"
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    benchmark(torch.optim.SGD(weights, lr=LEARNING_RATE, fused=True).step)
