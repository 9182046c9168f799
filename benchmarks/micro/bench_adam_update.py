"""adam_update: on all parameters of a network; beside it torch's own fused Adam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LEARNING_RATE = 1e-6  # keeps the weights in place over all the calls of a benchmark


def test_adam_update(
    time: Callable[..., None], guard: Tensor, network: str, weights: list[Tensor], gradients: list[Tensor]
) -> None:
    time(
        "adam_update",
        network,
        weights=weights,
        gradients=gradients,
        first_moments=[torch.zeros_like(weight) for weight in weights],
        second_moments=[torch.zeros_like(weight) for weight in weights],
        scalars=torch.tensor([[LEARNING_RATE, 1 / 200, 0.0, 0.0]] * len(weights), dtype=torch.float64),
        adam=torch.tensor([0.9, 0.999, 1e-8, 0.0], dtype=torch.float64),
        guard=guard,
        guard_index=torch.zeros(len(weights), dtype=torch.int64),
    )


def test_torch_optim(benchmark: Any, network: str, weights: list[Tensor], gradients: list[Tensor]) -> None:
    benchmark.group = f"adam_update, {network}, {torch.get_num_threads()} threads"
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    benchmark(torch.optim.Adam(weights, lr=LEARNING_RATE, fused=True).step)
