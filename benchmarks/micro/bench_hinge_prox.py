"""hinge_prox: on the ten outputs of both networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

BATCH, CLASSES = 200, 10


def test_hinge_prox(time: Callable[..., None], normal: Callable[..., Tensor], guard: Tensor) -> None:
    time(
        "hinge_prox",
        "10 outputs",
        center=normal(BATCH, CLASSES),
        targets=F.one_hot(torch.arange(BATCH) % CLASSES, CLASSES).float(),
        multiplier=normal(BATCH, CLASSES),
        out=torch.empty(BATCH, CLASSES),
        beta=1.0,
        guard=guard,
    )
