"""Reads the formula of a block, such as a residual one, from the forward of its class.

A block's own class can compute anything. But many a forward only calls the block's modules one after the other, and
adds up what they return. It is then known what such a block computes, as long as the modules in it are known.
"""

from __future__ import annotations

import dataclasses
import dis
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from altmin_ext.network.inputs import may_write_input
from altmin_ext.network.known import alteration, runs_as, uncompiled

# Functions in place of modules, with no argument but their input.
_functions: dict[Callable[..., Any], type[nn.Module]] = {
    torch.relu: nn.ReLU,
    F.relu: nn.ReLU,
    torch.tanh: nn.Tanh,
    torch.sigmoid: nn.Sigmoid,
    F.silu: nn.SiLU,
    F.gelu: nn.GELU,
}
_libraries = (torch, F)
_names = {"nn", "functional", *(function.__name__ for function in _functions)}
_writes = (
    "STORE_ATTR",
    "STORE_GLOBAL",
    "STORE_DEREF",
    "STORE_SUBSCR",
    "DELETE_",
    "IMPORT_",
    "YIELD",
    "RETURN_GENERATOR",
)
_new_tensor = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a formula. The block's input is value 0, and step k makes value k + 1.

    Attributes:
        module: what is called; None for a sum.
        path: of the module in the block; "" for a sum.
        inputs: the numbers of the values that it takes: one, or two for a sum.
    """

    module: nn.Module | None
    path: str
    inputs: tuple[int, ...]


#: What a block computes: the last value. The steps are in the order in which the block takes them.
Formula: TypeAlias = Sequence[Step]


def formula_of(module: nn.Module) -> Formula | None:
    """Read what a block computes.

    Args:
        module: any module.

    Returns:
        The formula, in which every value but the last is used, every parameter of the block takes part once, and no
        step writes to a value that another one reads. None if there is no such formula, or it cannot be read. It
        holds as long as the block has the same modules, without hooks.
    """
    forward = type(module).forward
    kinds = (nn.Module.__call__, nn.Module.__getattr__, object.__getattribute__)
    own = (type(module).__call__, type(module).__getattr__, type(module).__getattribute__)
    if alteration(module) or own != kinds or not isinstance(forward, types.FunctionType):
        return None
    if not _is_plain(forward, module):
        return None
    trace = _Trace()
    try:
        result = forward(_Part(trace, module, ""), _Value(trace, 0))
    except Exception:  # whatever its code does with what it has been given in place of tensors
        return None
    steps = trace.steps
    if not isinstance(result, _Value) or result.number != len(steps) or not steps:
        return None
    return steps if _is_sound(module, steps) and not trace.overwrites() else None


def _is_plain(forward: types.FunctionType, module: nn.Module) -> bool:
    """Whether the code of a forward can only call modules and known functions, and add; tried before it is run."""
    code = forward.__code__
    if (code.co_argcount, code.co_kwonlyargcount) != (2, 0) or code.co_flags & 0x0C or code.co_freevars:
        return False
    if any(isinstance(constant, types.CodeType) for constant in code.co_consts):
        return False
    parts = {name for part in module.modules() for name in (*part._modules, *vars(part))}
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if name.startswith(_writes):
            return False
        if instruction.opcode in (*dis.hasjrel, *dis.hasjabs) and instruction.argval <= instruction.offset:
            return False  # a loop
        if name in ("LOAD_GLOBAL", "LOAD_NAME"):
            found = forward.__globals__.get(instruction.argval)
            if not any(found is known for known in (*_libraries, *_functions)):
                return False
        elif name.startswith(("LOAD_ATTR", "LOAD_METHOD")) and instruction.argval not in parts | _names:
            return False
    return True


def _is_sound(module: nn.Module, steps: Sequence[Step]) -> bool:
    """Whether every value is used, and every parameter and buffer takes part once."""
    used = {number for step in steps for number in step.inputs}
    called = [step.module for step in steps if step.module is not None]
    kept = [id(t) for part in called for t in (*part.parameters(), *part.buffers())]
    all_kept = {id(t) for t in (*module.parameters(), *module.buffers())}
    return used == set(range(len(steps))) and len(kept) == len(set(kept)) and set(kept) == all_kept


class _Trace:
    """The steps that a forward has taken so far."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._written: list[int] = []  # values that a sum overwrites

    def call(self, module: nn.Module, path: str, value: object) -> _Value:
        if not isinstance(value, _Value):
            raise TypeError
        module = uncompiled(module)
        if runs_as(module, nn.Sequential):
            for name, child in module._modules.items():
                assert child is not None
                value = self.call(child, f"{path}.{name}", value)
            return value
        return self._step(Step(module, path, (value.number,)))

    def add(self, one: _Value, other: object, in_place: bool) -> _Value:
        if not isinstance(other, _Value):
            raise TypeError
        if in_place:
            self._written.append(one.number)
        return self._step(Step(None, "", (one.number, other.number)))

    def _step(self, step: Step) -> _Value:
        self.steps.append(step)
        return _Value(self, len(self.steps))

    def overwrites(self) -> bool:
        """Whether a step may write to a value that is not its alone."""
        inputs = [number for step in self.steps for number in step.inputs]
        written = self._written + [
            step.inputs[0] for step in self.steps if step.module is not None and _may_write(step.module)
        ]
        return any(inputs.count(number) > 1 or not self._is_new(number) for number in written)

    def _is_new(self, number: int) -> bool:
        """Whether a value certainly has memory of its own."""
        if number == 0:
            return False
        made_by = self.steps[number - 1].module
        return made_by is None or type(made_by) in _new_tensor


def _may_write(module: nn.Module) -> bool:
    """Whether a module may write to its input; a block with a formula does not."""
    return may_write_input(module) and formula_of(module) is None


class _Value:
    """Stands for a tensor while a forward is read."""

    def __init__(self, trace: _Trace, number: int) -> None:
        self._trace, self.number = trace, number

    def __add__(self, other: object) -> _Value:
        return self._trace.add(self, other, in_place=False)

    def __iadd__(self, other: object) -> _Value:
        return self._trace.add(self, other, in_place=True)

    def __bool__(self) -> bool:
        raise TypeError

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> _Value:
        (value,) = args
        if function not in _functions or (kwargs or {}) not in ({}, {"inplace": False}):
            raise TypeError
        result: _Value = value._trace.call(_functions[function](), function.__name__, value)
        return result


class _Part:
    """Stands for the block, or a module in it, while the block's forward is read."""

    _trace: _Trace
    _module: nn.Module
    _path: str

    def __init__(self, trace: _Trace, module: nn.Module, path: str) -> None:
        self.__dict__.update(_trace=trace, _module=module, _path=path)

    def __getattr__(self, name: str) -> _Part | None:
        module = self._module
        if name in vars(module) or hasattr(type(module), name):
            if name not in vars(module) or vars(module)[name] is not None:
                raise TypeError  # what is no module may change at any time
            return None
        child = module._modules[name]
        return None if child is None else _Part(self._trace, child, f"{self._path}.{name}".lstrip("."))

    def __call__(self, value: object) -> _Value:
        result: _Value = self._trace.call(self._module, self._path, value)
        return result

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError

    def __bool__(self) -> bool:
        raise TypeError
