"""Calls of a module that leave no trace in what it keeps from call to call."""

from __future__ import annotations

import operator
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from altmin_ext import _generators

Entries = dict[Any, Any]

#: What a call has made of a module: an owner of entries, what it held before the call, what it was given for it, and
#: what it holds after the call.
Changes = list[tuple[Any, Entries, Entries, Entries]]

_fixed = vars(nn.Module()).keys() - {"_buffers"}  # what torch keeps there, such as hooks, no call changes
_sequences = (list, deque)
_containers = {dict, OrderedDict, defaultdict, set, *_sequences}


class ModuleState:
    """What a module keeps from call to call, apart from its parameters.

    That is buffers, attributes that forward sets, what attributes hold in dicts, lists, deques and sets, and the
    states of the module's own generators of random numbers, be they torch's, NumPy's or Python's.

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
        owners = list(_owners(self._module))
        before = [_entries(owner) for owner in owners]
        copies: dict[int, Tensor] = {}  # a tensor of two names stays one

        def copied(value: Any) -> Any:
            if not isinstance(value, Tensor) or isinstance(value, nn.Parameter):
                return value
            copy = value.double() if in_double and value.is_floating_point() else value.clone()
            return copies.setdefault(id(value), copy)

        given = []
        for entries in before:
            tensors = {name: copied(value) for name, value in entries.items() if isinstance(value, Tensor)}
            given.append(entries | tensors if tensors else entries)
        parameters = (
            {name: p.detach().double() for name, p in self._module.named_parameters()} if in_double else {}
        )
        try:
            for owner, held, entries in zip(owners, before, given, strict=True):
                if entries is not held:
                    _fill(owner, entries)
            output: Tensor = functional_call(self._module, parameters, (a,)) if in_double else self._module(a)
            # A kernel may have written to a tensor without raising its version, as that of batch normalisation does.
            changes = [
                (owner, held, entries, after)
                for owner, held, entries in zip(owners, before, given, strict=True)
                if not _is_same(entries, after := _entries(owner)) or entries is not held
            ]
        finally:
            for owner, entries in zip(owners, before, strict=True):
                if not _is_same(entries, _entries(owner)):
                    _fill(owner, entries)
        return output, changes

    @staticmethod
    def keep(changes: Changes) -> None:
        """Change the module as a call has found.

        Args:
            changes: the second result of :meth:`call`.
        """
        originals = {
            id(copy): before[name]
            for _, before, given, _ in changes
            for name, copy in given.items()
            if isinstance(copy, Tensor)
        }
        for owner, *_, after in changes:
            entries = {}
            for name, value in after.items():
                original = originals.get(id(value))
                if original is None:
                    entries[name] = value.detach() if type(value) is Tensor else value
                    continue
                if original is not value and not torch.equal(original, value):
                    original.copy_(value)
                entries[name] = original
            _fill(owner, entries)


def _owners(module: nn.Module) -> Iterator[Any]:
    """All that holds what a module keeps: dicts, lists, deques, sets, generators."""
    seen = set()
    generators = _generators.kinds()
    sought = {*_containers, *generators}

    def within(values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            if type(value) in sought and id(value) not in seen:
                seen.add(id(value))
                yield value
                if not isinstance(value, generators):
                    yield from within(list(value.values() if isinstance(value, dict) else value))

    for part in module.modules():
        own = vars(part)
        yield own
        yield from within([value for name, value in own.items() if name not in _fixed])


def _entries(owner: Any) -> Entries:
    """What an owner holds at present."""
    if isinstance(owner, dict):
        return dict(owner)
    if isinstance(owner, (*_sequences, set)):
        return dict(enumerate(owner))
    return {"state": _generators.save_generator(owner)}


def _fill(owner: Any, entries: Entries) -> None:
    """Have an owner hold these entries."""
    if isinstance(owner, dict):
        for name in owner.keys() - entries.keys():
            del owner[name]
        owner.update(entries)
    elif isinstance(owner, _sequences):
        owner.clear()
        owner.extend(entries.values())
    elif isinstance(owner, set):
        owner.clear()
        owner.update(entries.values())
    else:
        _generators.load_generator(owner, entries["state"])


def _is_same(entries: Entries, others: Entries) -> bool:
    """Whether they are the very same objects; tensors may still have been changed in place."""
    return entries.keys() == others.keys() and all(map(operator.is_, entries.values(), others.values()))
