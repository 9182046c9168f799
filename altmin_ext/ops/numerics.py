"""Numerics that ops and methods share."""

from __future__ import annotations

import torch
from torch import Tensor

smallest_displacement = (
    1e-8  # RMS of the top code's: below it, all weight objectives shrink with it (csrc/ops/code_step.h)
)


def soft_threshold(x: Tensor, threshold: Tensor | float) -> Tensor:
    """argmin_u threshold |u| + (u - x)^2 / 2, elementwise.

    Args:
        x: any shape.
        threshold: at least 0.

    Returns:
        A tensor like ``x``: each entry moved towards zero by the threshold, but not past zero.
    """
    return torch.sign(x) * torch.relu(x.abs() - threshold)
