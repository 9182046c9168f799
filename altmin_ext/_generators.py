"""The states of generators of random numbers: those of the process, and those that an object holds."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


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
        states = {"torch": torch.random.get_rng_state()}
        if self._cuda is not None:
            states["cuda"] = torch.cuda.get_rng_state(self._cuda)
        return states

    def moved(self, before: dict[str, Any]) -> set[str]:
        """The names of those whose states are no longer what :meth:`save` has returned before."""
        now = self.save()
        return {name for name, state in now.items() if not _same(state, before[name])}

    def load(self, states: dict[str, Any]) -> None:
        """Set those that are named."""
        if "torch" in states:
            torch.random.set_rng_state(states["torch"])
        if "numpy" in states:
            np.random.set_state(states["numpy"])  # noqa: NPY002
        if "python" in states:
            random.setstate(states["python"])
        if "cuda" in states and self._cuda is not None:
            torch.cuda.set_rng_state(states["cuda"], self._cuda)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)


def held_generators(owner: object) -> Iterator[Any]:
    """The generators that are attributes of an object, in the order of their names."""
    attributes, sought = getattr(owner, "__dict__", {}), kinds()
    for name in sorted(attributes):
        if isinstance(attributes[name], sought):
            yield attributes[name]


def save_generator(generator: Any) -> Any:
    """The state of a generator of any of the kinds that :func:`held_generators` finds."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.getstate()


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
