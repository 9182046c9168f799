"""weight_residual: on the codes of one hidden layer."""

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
    guard: Tensor,
    network: str,
    hidden_shape: tuple[int, int],
    first: bool,
) -> None:
    """First from W (a - a0), which is small; afterwards from W a + b - c."""
    time(
        "weight_residual",
        f"{network}, {'first' if first else 'later'} weight iteration",
        displacement=normal(*hidden_shape),
        product=normal(*hidden_shape),
        bias=None if first else normal(hidden_shape[1]),
        code=None if first else normal(*hidden_shape),
        residual=torch.empty(hidden_shape),
        bias_gradient=torch.empty(hidden_shape[1]),
        scalars=code_block(),
        below=code_block() if first else None,
        guard=guard,
    )
