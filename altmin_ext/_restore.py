"""Copies of a method and its model in memory, to which a run that diverges goes back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from altmin_ext import _state
from altmin_ext._interrupt import HeldInterrupt
from altmin_ext.errors import DivergenceError

# Steps between two copies: a tenth of those so far, within these bounds; one on the whole training set is an epoch.
_shortest, _shortest_of_full_batch, _longest = 100, 10, 1000
_most_in_a_row = 10

Tree = dict[str, Any]


class Copies:
    """The last two copies of a method and its model, made every so many steps.

    The state that was copied shortly before a divergence may itself be about to diverge. So if the method diverges
    again before the next copy is due, the older one is restored from then on. Copies that hold a number that is not
    finite are not kept.

    It is passed the method each time: one that knew it would keep its memory until the interpreter looks for cycles.

    Attributes:
        restores: how often a copy has been restored.
        kept: the copies, the last one at the end.
    """

    def __init__(self) -> None:
        self.restores = 0
        self._in_a_row = 0  # since the last copy was made
        self.kept: list[Tree] = []

    def state(self, method: Any) -> _state.Part:
        """The copies and the counts, an entry of the method's state."""
        parts: dict[str, _state.Part] = {
            "count": _state.Attribute(self, "restores", _state.count),
            "in_a_row": _state.Attribute(self, "_in_a_row", _state.count),
            "copies": _Kept(self, method),
        }
        return _state.Added(_state.Entries(parts), {"count": 0, "in_a_row": 0, "copies": []})

    @property
    def factor(self) -> float:
        """The factor of the size of steps, halved by every restore."""
        return 0.5**self.restores

    def keep(self, method: Any) -> int:
        """Make a copy of the method if one is due.

        Returns:
            The number of steps, at least 1, after which the next one is due.
        """
        left = self._left(method)
        if left > 0:
            return left
        with torch.no_grad():
            made = _entries(method).save()
        if _is_finite(made["method"]):
            self.kept = [*self.kept[-1:], made]
            self._in_a_row = 0
        return max(self._left(method), 1)

    def _left(self, method: Any) -> int:
        if not self.kept:
            return 0
        last: int = self.kept[-1]["method"]["steps"]
        shortest = _shortest_of_full_batch if method.full_batch else _shortest
        return last + min(max(last // 10, shortest), _longest) - int(method.steps)

    def restore(self, method: Any, divergence: str) -> None:
        """Take the method and its model back to a copy, and halve the size of steps.

        Args:
            method: that has diverged.
            divergence: what is not finite and where, and what to do, as two parts of a sentence.

        Raises:
            DivergenceError: ten restores in a row have not helped; the last copy has been restored.
        """
        if self._in_a_row and len(self.kept) > 1:
            self.kept.pop()
        if self.kept:
            with HeldInterrupt(held=True):
                method._adopt(_entries(method), copy.deepcopy(self.kept[-1]))
        if self._in_a_row >= _most_in_a_row or not self.kept:
            raise DivergenceError(divergence)
        self.restores += 1
        self._in_a_row += 1


def _entries(method: Any) -> _state.Entries:
    """What a copy holds."""
    own = {name: part for name, part in method._state().items() if name not in method._of_the_run}
    return _state.Entries({"model": _Model(method), "method": _state.Entries(own)})


class _Kept:
    """The copies, as a part of a method's state."""

    def __init__(self, copies: Copies, method: Any) -> None:
        self._copies, self._method = copies, method

    def save(self) -> list[Tree]:
        return copy.deepcopy(self._copies.kept)

    def read(self, name: str, value: Any, sizes: _state.Sizes) -> list[Tree]:
        values = _state.as_list(name, value)
        if len(values) > 2:
            raise ValueError(f"{name} must have at most 2 entries, but has {len(values)}.")
        entries, read = _entries(self._method), []
        for i, own in enumerate(values):
            read.append(entries.read(f"{name}[{i}]", own, {}))
            self._method._check_state(read[-1]["method"])
        return read

    def load(self, value: list[Tree]) -> None:
        self._copies.kept = value


class _Model:
    """What a method changes of its model: the parameters that require a gradient, and all buffers, by name."""

    def __init__(self, method: Any) -> None:
        self._model: nn.Module = method.model
        self._parameters = {name: p for name, p in method._parameters if p.requires_grad}

    def save(self) -> dict[str, Tensor]:
        named = {**self._parameters, **dict(self._model.named_buffers())}
        return {name: tensor.detach().clone() for name, tensor in named.items()}

    def read(self, name: str, value: Any, sizes: _state.Sizes) -> dict[str, Tensor]:
        buffers = dict(self._model.named_buffers())
        _state.check_keys(name, value, [*self._parameters, *buffers])
        read = {}
        for key, own in self._parameters.items():
            read[key] = _state.read_tensor(f"{name}[{key!r}]", value[key], own, own.shape, {})
        for key, own in buffers.items():  # of which a module may make what it likes
            read[key] = _state.read_tensor(f"{name}[{key!r}]", value[key], own, [...], {}, finite=False)
        return read

    def load(self, value: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(value[name])
        for name, buffer in list(self._model.named_buffers()):
            kept = value.get(name)
            if kept is None:
                continue
            if (kept.shape, kept.dtype) == (buffer.shape, buffer.dtype):
                buffer.copy_(kept)
            else:  # a module has replaced it
                path, _, own = name.rpartition(".")
                self._model.get_submodule(path)._buffers[own] = kept


def _is_finite(tree: Any) -> bool:
    """Whether all tensors of a state are finite, as a state that is loaded must be."""
    if isinstance(tree, Mapping):
        return all(map(_is_finite, tree.values()))
    if isinstance(tree, (list, tuple)):
        return all(map(_is_finite, tree))
    return not isinstance(tree, Tensor) or _state.is_finite(tree)


__all__ = ["Copies"]
