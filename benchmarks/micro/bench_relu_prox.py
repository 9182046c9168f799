"""relu_prox: on the codes of one hidden layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def test_relu_prox(
    time: Callable[..., None],
    normal: Callable[..., Tensor],
    guard: Tensor,
    network: str,
    hidden_shape: tuple[int, int],
) -> None:
    time(
        "relu_prox",
        network,
        activation=normal(*hidden_shape),
        center=normal(*hidden_shape),
        out=torch.empty(hidden_shape),
        gamma=10.0,
        beta=1.0,
        guard=guard,
    )
