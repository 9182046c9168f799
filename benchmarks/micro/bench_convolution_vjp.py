"""convolution_vjp: from the codes of LeNet-5's second convolution to those of the first."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from .convolution import GEOMETRY, STAGES


@pytest.mark.parametrize("stage", [name for name in STAGES if name.endswith("second")])
def test_convolution_vjp(time: Callable[..., None], normal: Callable[..., Tensor], stage: str) -> None:
    shape = STAGES[stage]
    time(
        "convolution_vjp",
        stage,
        displacement=normal(*shape.code),
        winner=torch.randint(4, shape.code, dtype=torch.uint8),
        weight=normal(*shape.weight),
        pulled_back=torch.empty(shape.input),
        **GEOMETRY,
    )
