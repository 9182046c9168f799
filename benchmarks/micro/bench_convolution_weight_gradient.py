"""convolution_weight_gradient: the weight phase of LeNet-5's convolutions. The first one's input has not moved."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from .convolution import GEOMETRY, STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_convolution_weight_gradient(
    time: Callable[..., None],
    normal: Callable[..., Tensor],
    code_block: Callable[[], Tensor],
    guard: Tensor,
    stage: str,
) -> None:
    shape = STAGES[stage]
    moved = stage.endswith("second")
    time(
        "convolution_weight_gradient",
        stage,
        displacement=normal(*shape.code),
        winner=torch.randint(4, shape.code, dtype=torch.uint8),
        weight=normal(*shape.weight),
        input_displacement=normal(*shape.input) if moved else None,
        input=normal(*shape.input),
        weight_gradient=torch.empty(shape.weight),
        bias_gradient=torch.empty(shape.outputs),
        scalars=code_block(),
        below=code_block() if moved else None,
        **GEOMETRY,
        guard=guard,
    )
