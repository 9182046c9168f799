"""Calls of a module that leave no trace in what it keeps from call to call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

#: What a call has made of a module: the owner of an entry, its name, its value, and whether that is the copy of the
#: tensor that was there before, perhaps changed in place.
Changes = list[tuple[dict[str, Any], str, Any, bool]]

_missing = object()
_fixed = ("_parameters", "_modules")


class ModuleState:
    """What a module keeps from call to call, apart from its parameters: buffers, and attributes that forward sets.

    Within a step a module is evaluated several times, and must be the same function each time. What one forward pass
    would have made of it is kept by :meth:`keep`, once.

    Args:
        module: any module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def call(self, a: Tensor, in_double: bool = False) -> tuple[Tensor, Changes]:
        """Call the module, on copies of all tensors that it keeps.

        Args:
            a: its input.
            in_double: whether to call it in float64, whatever it is in; without derivatives in its parameters.

        Returns:
            Its output, and what the call would have changed.
        """
        # Buffers, and attributes; also those that an attribute holds in a dict.
        owners = [
            owner
            for module in self._module.modules()
            for owner in (
                vars(module),
                *(d for name, d in vars(module).items() if type(d) is dict and name not in _fixed),
            )
        ]
        before = [owner.copy() for owner in owners]
        copies: dict[int, Tensor] = {}  # a tensor of two names stays one
        for owner, kept in zip(owners, before, strict=True):
            for name, value in kept.items():
                if isinstance(value, Tensor):
                    copy = value.double() if in_double and value.is_floating_point() else value.clone()
                    owner[name] = copies.setdefault(id(value), copy)
        given = [owner.copy() for owner in owners]
        parameters = (
            {name: p.detach().double() for name, p in self._module.named_parameters()} if in_double else {}
        )
        try:
            output: Tensor = functional_call(self._module, parameters, (a,)) if in_double else self._module(a)
            # A kernel may have written to a tensor without raising its version, as that of batch normalisation does.
            changes = [
                (owner, name, value, value is kept.get(name, _missing))
                for owner, kept in zip(owners, given, strict=True)
                for name, value in owner.items()
                if value is not kept.get(name, _missing) or isinstance(value, Tensor)
            ]
        finally:
            for owner, kept in zip(owners, before, strict=True):
                if len(owner) > len(kept):
                    for name in owner.keys() - kept.keys():
                        del owner[name]
                owner.update(kept)
        return output, changes

    @staticmethod
    def keep(changes: Changes) -> None:
        """Change the module as a call has found.

        Args:
            changes: the second result of :meth:`call`.
        """
        for owner, name, value, in_place in changes:
            if in_place:
                if not torch.equal(owner[name], value):
                    owner[name].copy_(value)
            else:
                owner[name] = value.detach() if isinstance(value, Tensor) else value
