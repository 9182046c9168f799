"""The parameters and buffers of a model, also those buffers that its ``state_dict()`` leaves out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from altmin_ext import _check, _state


def save(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, in memory of their own."""
    return {name: tensor.detach().clone() for name, tensor in _tensors(model).items()}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def restoring(model: nn.Module, state: Any) -> Callable[[], None]:
    """Check what :func:`save` has returned for a model of the same architecture.

    Args:
        model: to be restored.
        state: for each parameter and buffer, a tensor of its dtype and shape.

    Returns:
        A function that restores the model and cannot fail.

    Raises:
        TypeError, ValueError: the state is another model's; nothing has changed.
    """
    own = _tensors(model)
    _state.check_keys("model", state, own)
    for name, tensor in own.items():
        other = state[name]
        if type(other) not in (Tensor, nn.Parameter):
            raise TypeError(f"model's {name} must be a torch.Tensor, but is {_check.named_type(other)}.")
        if other.dtype != tensor.dtype:
            raise TypeError(f"model's {name} must be {tensor.dtype}, but is {other.dtype}.")
        if other.shape != tensor.shape:
            raise ValueError(
                f"model's {name} must have the shape {tuple(tensor.shape)}, but has {tuple(other.shape)}."
            )

    def restore() -> None:
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    return restore
