"""interleave: a minibatch of images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def test_interleave(time: Callable[..., None], normal: Callable[..., Tensor]) -> None:
    time("interleave", "128 x 784", rows=normal(128, 784), lanes=torch.empty(8, 784, 16))
