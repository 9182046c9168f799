"""softmax_prox: on the ten logits of 10,000 samples; beside it 50 iterations of the published code's FISTA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

BATCH, CLASSES = 10_000, 10
RHOS = (1e-6, 1e-3, 1.0)


@pytest.mark.parametrize("rho", RHOS)
def test_softmax_prox(
    time: Callable[..., None], normal: Callable[..., Tensor], guard: Tensor, rho: float
) -> None:
    time(
        "softmax_prox",
        f"rho {rho:g}",
        center=normal(BATCH, CLASSES),
        labels=torch.arange(BATCH) % CLASSES,
        out=torch.empty(BATCH, CLASSES),
        rho=rho,
        guard=guard,
    )


@pytest.mark.parametrize("rho", RHOS)
def test_fista(benchmark: Any, normal: Callable[..., Tensor], rho: float) -> None:
    benchmark.group = f"softmax_prox, rho {rho:g}, {torch.get_num_threads()} threads"
    center, targets = normal(BATCH, CLASSES), F.one_hot(torch.arange(BATCH) % CLASSES, CLASSES)
    eta = 4.0  # the inverse step size

    def fista() -> Tensor:
        z = before = center
        momentum = 1.0
        for _ in range(50):
            grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            gradient = z.softmax(1) - targets
            after = (rho * center + z / eta - gradient) / (rho + 1 / eta)
            z = after + (momentum - 1) / grown * (after - before)
            before, momentum = after, grown
        return before

    benchmark(fista)
