"""How a pass over an iterable of minibatches is left by one process and entered by another."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from altmin_ext._generators import (
    ProcessGenerators,
    check_held,
    held_generators,
    held_parts,
    load_generator,
    save_generator,
)

Start = Callable[[], Iterator[Any]]


class Progress(Protocol):
    """Where the passes over an iterable stand."""

    def check(self) -> None:
        """Raise a ValueError if passes over this one cannot be entered."""

    def keep(self) -> None:
        """From now on, note what :meth:`state` needs."""

    def begin(self) -> None:
        """Note this moment, at which a pass begins; its iterator is yet to be made."""

    def enter(self, start: Start, taken: int) -> Iterator[Any]:
        """Enter a pass behind its first ``taken`` minibatches; ``start`` makes its iterator."""

    def note(self) -> None:
        """Note this moment, which is between two minibatches."""

    def state(self, begun: bool) -> Any:
        """What :meth:`load` needs, as of the last :meth:`note`; ``begun`` is whether that was within a pass."""

    def load(self, state: Any, begun: bool) -> None:
        """Go on where :meth:`state` stood."""


def is_stateful(source: object) -> bool:
    """Whether an object can tell and take its state, by the protocol of torchdata and of torch's optimisers."""
    return all(callable(getattr(source, name, None)) for name in ("state_dict", "load_state_dict"))


class Listed:
    """A list, or anything else that yields the same minibatches in every pass."""

    def check(self) -> None:
        pass

    def keep(self) -> None:
        pass

    def begin(self) -> None:
        pass

    def enter(self, start: Start, taken: int) -> Iterator[Any]:
        return itertools.islice(start(), taken, None)

    def note(self) -> None:
        pass

    def state(self, begun: bool) -> Any:
        return None

    def load(self, state: Any, begun: bool) -> None:
        pass


class Stateful:
    """An iterable with a state of its own, such as torchdata's StatefulDataLoader.

    The generators of a loader are kept as well: its state alone gives other orders to later passes (torchdata 0.11).

    Args:
        source: has ``state_dict()`` and ``load_state_dict(state)``. After the latter its iterator goes on behind the
            minibatch that was yielded last before the former, with the next pass if that one was over.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._process = ProcessGenerators()
        self._keeps = False
        self._generators = held_generators(source)
        self._noted: Any = None

    def check(self) -> None:
        sampler = getattr(self._source, "sampler", None)
        draws = isinstance(getattr(sampler, "generator", None), torch.Generator)
        own = type(sampler).__module__.startswith("torchdata.")
        if draws and not own and not is_stateful(sampler):
            raise ValueError(
                f"data must have a sampler that can go on, but the {type(self._source).__name__} has a "
                f"{type(sampler).__name__} with a generator, of which it keeps no state: pass shuffle=True and "
                "generator=, or a plain DataLoader."
            )

    def keep(self) -> None:
        self._keeps = True
        # A loader that has not started does so to tell its state, and draws random numbers.
        if self._noted is None and not isinstance(self._source, DataLoader):
            self.note()

    def begin(self) -> None:
        pass

    def enter(self, start: Start, taken: int) -> Iterator[Any]:
        # What a loader draws when it starts has been drawn when the pass began.
        now = self._process.save()
        batches = start()
        self._process.load(now)
        self._put_back()
        return batches

    def note(self) -> None:
        # At each moment, since a minibatch that is never trained on would be lost if the state were asked for later.
        if self._keeps:
            state = copy.deepcopy(self._source.state_dict())
            self._noted = {"state": state, "generators": self._save_generators()}

    def state(self, begun: bool) -> Any:
        return self._noted or {"state": None, "generators": self._save_generators()}

    def load(self, state: Any, begun: bool) -> None:
        check_held(self._generators, state["generators"])
        self._noted = state
        if state["state"] is not None:
            self._source.load_state_dict(copy.deepcopy(state["state"]))
        self._put_back()

    def _save_generators(self) -> list[Any]:
        return [save_generator(generator) for generator in self._generators]

    def _put_back(self) -> None:
        if self._noted is not None:
            for generator, state in zip(self._generators, self._noted["generators"], strict=True):
                load_generator(generator, state)


class Replayed:
    """A DataLoader, which is put back to the beginning of the pass, and whose first minibatches are read again.

    So its order and what its workers draw are the same, be they drawn from a generator of its own or of the process,
    as long as samples depend on their number and on these generators alone.

    Args:
        loader: the DataLoader.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader
        self._process, self._draws = ProcessGenerators(), _Draws(loader)
        self._keeps = False
        self._at_beginning: Any = None

    def check(self) -> None:
        if self._loader.persistent_workers:
            raise ValueError(
                "data must be a DataLoader without persistent_workers where a checkpoint is written, but has True, "
                "with which workers keep random generators that nobody can read; leave it out."
            )

    def keep(self) -> None:
        self._keeps = True

    def begin(self) -> None:
        if self._keeps:
            self._at_beginning = self._draws.save()

    def enter(self, start: Start, taken: int) -> Iterator[Any]:
        now = self._process.save()
        self._draws.load(self._at_beginning)
        self._process.load(self._at_beginning["process"])
        batches = start()
        for _ in itertools.islice(batches, taken):
            pass
        if taken:  # otherwise the first minibatch has yet to draw the order
            self._process.load(now)
        return batches

    def note(self) -> None:
        pass

    def state(self, begun: bool) -> Any:
        return self._at_beginning if begun else self._draws.save()

    def load(self, state: Any, begun: bool) -> None:
        self._draws.check(state)
        if begun:
            self._at_beginning = state
        else:
            self._draws.load(state)


class _Draws:
    """All that the order and the samples of a loader's pass may be drawn from: generators, and states of its parts.

    Args:
        loader: the DataLoader.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader
        self._process = ProcessGenerators()

    def save(self) -> dict[str, Any]:
        """The present states."""
        return {
            "process": self._process.save(),
            "generators": [save_generator(own) for own in held_generators(self._loader)],
            "parts": [copy.deepcopy(part.state_dict()) for part in self._stateful_parts()],
        }

    def check(self, states: dict[str, Any]) -> None:
        """Raise a ValueError if the loader holds other generators than that of :meth:`save`."""
        check_held(held_generators(self._loader), states["generators"])

    def load(self, states: dict[str, Any]) -> None:
        """Set the states of the loader's parts, but not those of the process."""
        for part, state in zip(self._stateful_parts(), states["parts"], strict=True):
            part.load_state_dict(copy.deepcopy(state))
        for generator, state in zip(held_generators(self._loader), states["generators"], strict=True):
            load_generator(generator, state)

    def _stateful_parts(self) -> list[Any]:
        """Data sets and samplers with a state of their own."""
        samplers = (self._loader.sampler, self._loader.batch_sampler)
        return [
            part
            for part in held_parts(self._loader)
            if (isinstance(part, (Dataset, Sampler)) or any(part is own for own in samplers))
            and is_stateful(part)
        ]
