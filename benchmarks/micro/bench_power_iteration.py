"""power_iteration: on the matrix of the second hidden layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def test_power_iteration(
    time: Callable[..., None], normal: Callable[..., Tensor], network: str, widths: tuple[int, ...]
) -> None:
    vector = normal(widths[1])
    time(
        "power_iteration",
        network,
        weight=normal(widths[2], widths[1]),
        vector=vector / vector.norm(),
        sigma_squared=torch.empty(1, dtype=torch.float64),
    )
