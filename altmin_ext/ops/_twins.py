"""Parts that the twins of several ops share."""

from __future__ import annotations

import torch
from torch import Tensor


def raise_unless_finite(guard: Tensor | None, value: Tensor) -> None:
    """Raise the guard's flag unless all of the value is finite."""
    if guard is not None:
        guard.logical_or_(~torch.isfinite(value))


def keep_finite(
    new: Tensor, other_new: Tensor, go: Tensor | bool, guard: Tensor | None, index: int
) -> Tensor:
    """Where an update that may go on is finite. Raises the tensor's flag unless that is everywhere."""
    finite = torch.isfinite(new) & torch.isfinite(other_new)
    if guard is not None:
        guard[index] = torch.maximum(guard[index], (~finite.all() & go).to(guard.dtype))
    return finite & go


def no_flag_is_up(guard: Tensor | None) -> Tensor | bool:
    return True if guard is None else ~(guard != 0).any()


def outside(labels: Tensor, classes: int) -> Tensor:
    """Which labels are outside [0, classes).

    Raises:
        ValueError: a label on the CPU is. Reading one on a GPU would mean waiting for it.
    """
    wrong = (labels < 0) | (labels >= classes)
    if labels.device.type == "cpu" and wrong.any():
        first = int(wrong.nonzero()[0, 0])
        raise ValueError(f"labels must lie in [0, {classes}), but labels[{first}] is {int(labels[first])}.")
    return wrong
