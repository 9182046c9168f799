"""sign_flip: on the codes of one hidden layer that has another above it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from altmin_ext.ops import CodeScalar


def test_sign_flip(
    time: Callable[..., None],
    normal: Callable[..., Tensor],
    code_block: Callable[[], Tensor],
    guard: Tensor,
    network: str,
    hidden_shape: tuple[int, int],
) -> None:
    scalars = code_block()
    scalars[CodeScalar.curvature] = 1.0
    time(
        "sign_flip",
        network,
        code=normal(*hidden_shape),
        pulled_back=normal(*hidden_shape),
        norm=normal(hidden_shape[1]).abs(),
        mask=None,
        displacement=torch.empty(hidden_shape),
        scalars=scalars,
        above=code_block(),
        guard=guard,
    )
