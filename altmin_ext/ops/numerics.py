"""Numerics that ops and methods share."""

from __future__ import annotations

import torch
from torch import Tensor

smallest_displacement = (
    1e-8  # of the top code: below it, stages are scaled down with it (csrc/ops/code_step.h)
)


def soft_threshold(x: Tensor, threshold: Tensor | float) -> Tensor:
    """argmin_u threshold |u| + (u - x)^2 / 2, elementwise.

    Args:
        x: any shape.
        threshold: at least 0.

    Returns:
        A tensor like ``x``: x moved by the threshold towards zero, and zero where it would pass it.
    """
    return torch.sign(x) * torch.relu(x.abs() - threshold)
