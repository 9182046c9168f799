"""activate: the epilogue of the encode, on the codes of one hidden layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from altmin_ext.ops import Activation


@pytest.mark.parametrize("sigma", ["relu", "tanh", "gelu"])
def test_activate(
    time: Callable[..., None],
    normal: Callable[..., Tensor],
    guard: Tensor,
    network: str,
    hidden_shape: tuple[int, int],
    sigma: str,
) -> None:
    time(
        "activate",
        f"{network}, {sigma}",
        code=normal(*hidden_shape),
        bias=torch.zeros(hidden_shape[1]),  # so that calls in a row leave the codes where they are
        mask=None,
        activation=torch.empty(hidden_shape),
        sigma=Activation(sigma),
        guard=guard,
    )
