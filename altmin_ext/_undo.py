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

    Args:
        parts: the parts to restore. If nothing can fail after the first change there are none, and it costs nothing.
    """

    __slots__ = ("_kept",)

    def __init__(self, parts: Iterable[Undoable]) -> None:
        self._kept = [(part, part.remember()) for part in parts]

    def __call__(self) -> None:
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

    Only the places of the buffers are listed, once, since walking through the modules would take a notable part of a
    small step. The tensors themselves change when the model is moved.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._places: list[tuple[dict[str, Any], str]] = [
            (module._buffers, name)
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def __bool__(self) -> bool:
        return bool(self._places)

    @property
    def tensors(self) -> list[Tensor]:
        """The buffers at present, apart from those that a module has given up."""
        found = [owner.get(name) for owner, name in self._places]
        return [buffer for buffer in found if buffer is not None]

    def remember(self) -> list[tuple[Tensor, Tensor]]:
        buffers = [owner[name] for owner, name in self._places]
        return [(buffer, buffer.clone()) for buffer in buffers]

    def recall(self, kept: list[tuple[Tensor, Tensor]]) -> None:
        for (owner, name), (buffer, copy) in zip(self._places, kept, strict=True):
            buffer.copy_(copy)
            owner[name] = buffer  # a module may have replaced it


class Generator:
    """A generator of random numbers."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def remember(self) -> Tensor:
        return self._generator.get_state()

    def recall(self, kept: Tensor) -> None:
        self._generator.set_state(kept)
