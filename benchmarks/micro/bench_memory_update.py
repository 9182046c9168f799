"""memory_update: on the first hidden layer; beside it the two matrix products as torch would do them in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

FORGETTING = 0.1  # keeps the matrices of one size over all the calls of a benchmark


def test_memory_update(
    time: Callable[..., None],
    normal: Callable[..., Tensor],
    network: str,
    widths: tuple[int, ...],
    hidden_shape: tuple[int, int],
) -> None:
    batch, n_out = hidden_shape
    n_in = widths[0]
    time(
        "memory_update",
        f"{network}, {n_in + 1} x {n_out}",
        activation=normal(batch, n_in),
        code=normal(batch, n_out),
        gram=torch.zeros(n_in + 1, n_in + 1),
        cross=torch.zeros(n_out, n_in + 1),
        scalars=torch.tensor([FORGETTING, 0.0, 0.0], dtype=torch.float64),
    )


def test_torch_addmm(
    benchmark: Any,
    normal: Callable[..., Tensor],
    network: str,
    widths: tuple[int, ...],
    hidden_shape: tuple[int, int],
) -> None:
    """With the bias's column of ones already in the activation."""
    batch, n_out = hidden_shape
    n_in = widths[0]
    benchmark.group = f"memory_update, {network}, {n_in + 1} x {n_out}, {torch.get_num_threads()} threads"
    activation, code = normal(batch, n_in + 1), normal(batch, n_out)
    activation[:, -1] = 1
    gram, cross = torch.zeros(n_in + 1, n_in + 1), torch.zeros(n_out, n_in + 1)

    def update() -> None:
        gram.addmm_(activation.T, activation, beta=1 - FORGETTING)
        cross.addmm_(code.T, activation, beta=1 - FORGETTING)

    benchmark(update)
