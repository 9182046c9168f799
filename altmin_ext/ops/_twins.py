"""Parts that the twins of several ops share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def raise_unless_finite(guard: Tensor | None, value: Tensor) -> None:
    """Raise the guard's flag unless all of the value is finite."""
    if guard is not None:
        guard.logical_or_(~torch.isfinite(value))


def may_go_on(
    go: Tensor | bool, new: Sequence[Sequence[Tensor]], guard: Tensor | None, indices: Sequence[int]
) -> Tensor:
    """Whether an update that may go on leaves all finite. Otherwise raises the flags of the tensors that it does not.

    Args:
        go: whether it may.
        new: what every tensor, and its moments, would become.
        guard: flags or None.
        indices: the number of each tensor's flag.
    """
    finite = [torch.stack([value.isfinite().all() for value in values]).all() for values in new]
    for own, index in zip(finite, indices, strict=True):
        if guard is not None:
            guard[index] = torch.maximum(guard[index], (~own & go).to(guard.dtype))
    return torch.stack([*finite, torch.as_tensor(go, device=finite[0].device)]).all()


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
