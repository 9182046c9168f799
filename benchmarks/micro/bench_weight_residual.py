"""weight_residual: on the codes of all hidden layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.mark.parametrize("first", [True, False], ids=["first weight iteration", "later weight iteration"])
def test_weight_residual(
    time: Callable[..., None],
    normal: Callable[..., Tensor],
    code_block: Callable[[], Tensor],
    network: str,
    widths: tuple[int, ...],
    hidden_shape: tuple[int, int],
    first: bool,
) -> None:
    """First from W (a - a0), which is small, and for the lowest layer nothing; afterwards from W a + b - c."""
    layers = range(len(widths) - 2)
    scalars = [code_block() for _ in layers]
    time(
        "weight_residual",
        f"{network}, {'first' if first else 'later'} weight iteration",
        displacements=[normal(*hidden_shape) for _ in layers],
        products=[None if first and l == 0 else normal(*hidden_shape) for l in layers],
        biases=[None if first else normal(hidden_shape[1]) for _ in layers],
        codes=[None if first else normal(*hidden_shape) for _ in layers],
        residuals=[torch.empty(hidden_shape) for _ in layers],
        bias_gradients=[torch.empty(hidden_shape[1]) for _ in layers],
        scalars=scalars,
        below=[scalars[l - 1] if first and l > 0 else None for l in layers],
        guard=torch.zeros(len(layers), dtype=torch.float64),
    )
