"""The roll-back by which a failed step leaves everything as it was, for all methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Undoable(Protocol):
    """A part of a method, such as the moments of Adam, that a step changes before its last possible failure."""

    def remember(self) -> Any:
        """What :meth:`recall` needs, in memory that a step does not write to."""

    def recall(self, kept: Any) -> None:
        """Restore the state at :meth:`remember`, bit for bit."""


class Undo:
    """Restores parts of a method to their state at its creation, as often as it is called.

    Autograd is not told of either, whatever its mode: weights are no less to be restored where it is enabled.

    Args:
        parts: the parts to restore. If nothing can fail after the first change there are none, and it costs nothing.
    """

    __slots__ = ("_kept",)

    def __init__(self, parts: Sequence[Undoable]) -> None:
        self._kept: list[tuple[Undoable, Any]] = []
        if parts:
            with torch.no_grad():
                self._kept = [(part, part.remember()) for part in parts]

    def __call__(self) -> None:
        with torch.no_grad():
            for part, kept in self._kept:
                part.recall(kept)


class Tensors:
    """Tensors that steps write in place, with memory for one copy of each.

    Args:
        tensors: the same ones in every step.

    Attributes:
        tensors: as a list.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list(tensors)
        self._copies: list[Tensor] = []

    def remember(self) -> Sequence[Tensor]:
        if not self._copies:
            self._copies = [torch.empty_like(tensor, requires_grad=False) for tensor in self.tensors]
        for copy, tensor in zip(self._copies, self.tensors, strict=True):
            copy.copy_(tensor)
        return self._copies

    def recall(self, kept: Sequence[Tensor]) -> None:
        for tensor, copy in zip(self.tensors, kept, strict=True):
            tensor.copy_(copy)


class Buffers:
    """The buffers of a model, such as the running statistics of batch normalisation.

    Only the dicts that hold buffers are listed, once, since walking through the modules would take a notable part of
    a small step. The tensors themselves change when the model is moved.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._owners = [module._buffers for module in model.modules()]

    def __bool__(self) -> bool:
        return any(self._owners)

    @property
    def tensors(self) -> list[Tensor]:
        """The buffers at present, apart from those that a module has given up."""
        return [buffer for owner in self._owners for buffer in owner.values() if buffer is not None]

    def remember(self) -> list[tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]]:
        return [
            (
                owner,
                dict(owner),
                {name: buffer.clone() for name, buffer in owner.items() if buffer is not None},
            )
            for owner in self._owners
            if owner
        ]

    def recall(self, kept: list[tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]]) -> None:
        for owner, buffers, copies in kept:
            for name, copy in copies.items():
                buffers[name].copy_(copy)
            owner.clear()  # a module may have replaced some
            owner.update(buffers)


class Generator:
    """A generator of random numbers."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def remember(self) -> Tensor:
        return self._generator.get_state()

    def recall(self, kept: Tensor) -> None:
        self._generator.set_state(kept)
