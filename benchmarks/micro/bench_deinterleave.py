"""deinterleave: what LeNet-5's convolutions make of a minibatch, on its way to the linear layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def test_deinterleave(time: Callable[..., None], normal: Callable[..., Tensor]) -> None:
    time("deinterleave", "128 x 256", lanes=normal(8, 256, 16), rows=torch.empty(128, 256))
