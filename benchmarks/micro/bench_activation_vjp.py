"""activation_vjp: on the code of a wide convolution."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from altmin_ext.ops import Activation

SHAPE = (8, 64, 32, 32)


@pytest.mark.parametrize("sigma", ["relu", "gelu"])
def test_activation_vjp(time: Callable[..., None], normal: Callable[..., Tensor], sigma: str) -> None:
    time(
        "activation_vjp",
        f"{SHAPE}, {sigma}",
        code=normal(*SHAPE),
        gradient=normal(*SHAPE),
        out=torch.empty(SHAPE),
        sigma=Activation(sigma),
    )
