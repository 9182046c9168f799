"""The states of generators of random numbers: those of the process, and those that an object holds."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Held around whatever saves or restores torch's generators, or changes other things that threads share. Without it,
# threads that save states of the same generator of torch can wait for each other (torch 2.13).
global_state = threading.RLock()


def torch_state() -> Tensor:
    """The state of torch's generator on the CPU."""
    with global_state:
        return torch.random.get_rng_state()


def set_torch_state(state: Tensor) -> None:
    """Set torch's generator on the CPU."""
    with global_state:
        torch.random.set_rng_state(state)


@contextlib.contextmanager
def torch_kept(*devices: torch.device) -> Iterator[None]:
    """Within the block torch's generators, on the CPU and on these devices, may be drawn from; they are put back."""
    with global_state, torch.random.fork_rng(devices):
        yield


def kinds() -> tuple[type, ...]:
    """The types of generators; those of NumPy only once somebody has imported numpy.random, and may have made one."""
    if "numpy.random" not in sys.modules:  # which NumPy puts off, too
        return torch.Generator, random.Random
    return torch.Generator, np.random.Generator, np.random.RandomState, random.Random


class ProcessGenerators:
    """The generators of the process that a user's modules and data may draw from: torch's, NumPy's and Python's.

    Args:
        device: of the model, whose generator is one of them if it is a GPU; None for those of the CPU alone.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._cuda = device if device is not None and device.type == "cuda" else None

    def save(self) -> dict[str, Any]:
        """Their present states."""
        return {
            **self.save_torch(),
            "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
            "python": random.getstate(),
        }

    def save_torch(self) -> dict[str, Any]:
        """The present states of torch's own, within a microsecond on the CPU."""
        states = {"torch": torch_state()}
        if self._cuda is not None:
            states["cuda"] = torch.cuda.get_rng_state(self._cuda)
        return states

    def load(self, states: dict[str, Any]) -> None:
        """Set those that are named."""
        if "torch" in states:
            set_torch_state(states["torch"])
        if "numpy" in states:
            np.random.set_state(states["numpy"])  # noqa: NPY002
        if "python" in states:
            random.setstate(states["python"])
        if "cuda" in states and self._cuda is not None:
            torch.cuda.set_rng_state(states["cuda"], self._cuda)


def held_generators(owner: object) -> list[Any]:
    """The generators that an object holds, directly or in what it holds, such as a list, a transform or a closure.

    Their order is the same for another object that was made in the same way, except in sets, which are left out. Of a
    collection, the first thousand are looked at.
    """
    sought = kinds()
    return [part for part in held_parts(owner) if isinstance(part, sought)]


def held_parts(owner: object) -> Iterator[Any]:
    """An object, and all that it holds, each once; but no method, whose state is its own, and nothing in one."""
    from altmin_ext.methods import Method  # which knows of data, as this module does not

    seen: set[int] = set()
    left, sought, closed = [owner], kinds(), (*_simple, Method)
    while left:
        part = left.pop()
        if isinstance(part, closed) or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if not isinstance(part, sought):
            left.extend(reversed(_held_by(part)))


# What holds no generator, or, as a module of Python does, those of others.
_simple = (
    type(None), bool, int, float, complex, str, bytes, type, ModuleType, torch.Tensor, np.ndarray, np.generic,
    torch.device, torch.dtype,
)  # fmt: skip


_many = 1000  # of a longer collection, such as the names of a million files, no more are looked at


def _held_by(part: Any) -> list[Any]:
    if isinstance(part, dict):
        held = list(itertools.islice(part.values(), _many))
    elif isinstance(part, (list, tuple, deque)):
        held = list(itertools.islice(part, _many))
    elif isinstance(part, FunctionType):
        cells = [cell.cell_contents for cell in part.__closure__ or () if cell != CellType()]
        return [*cells, *(part.__defaults__ or ()), *(part.__kwdefaults__ or {}).values()]
    elif isinstance(part, MethodType):
        return [part.__self__, part.__func__]
    elif isinstance(part, functools.partial):
        held = [part.func, *part.args, *part.keywords.values()]
    else:
        held = []
    attributes = getattr(part, "__dict__", {})
    slots = [name for kind in type(part).__mro__ for name in _names(vars(kind).get("__slots__", ()))]
    held += [attributes[name] for name in sorted(attributes)] if isinstance(attributes, dict) else []
    return held + [getattr(part, name, None) for name in slots if name not in ("__dict__", "__weakref__")]


def _names(slots: Any) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def save_generator(generator: Any) -> Any:
    """The state of a generator of any of the kinds that :func:`held_generators` finds."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.getstate()


def check_held(held: list[Any], states: list[Any]) -> None:
    """Raise a ValueError unless the generators that data hold are as many, and of the kinds, as the states are of."""
    if [type(save_generator(own)) for own in held] != [type(state) for state in states]:
        found = len(held) if len(held) != len(states) else "others"
        raise ValueError(
            f"data must hold the {len(states)} random generators that they held in the run of the checkpoint, but "
            f"hold {found}: make them where the data are made, not when the first sample is drawn."
        )


def load_generator(generator: Any, state: Any) -> None:
    """Set the state of a generator to what :func:`save_generator` has returned."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(state)
