"""The data that killed runs train on: the forms that train takes, each of the same samples."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

FEATURES, CLASSES, SIZE, BATCH = 6, 3, 18, 3
MINIBATCHES = SIZE // BATCH

#: Called for each sample or minibatch that is fetched. The data do not hold them: they hold nothing but themselves.
watchers: list[Callable[[], None]] = []


def _fetched() -> None:
    for watcher in watchers:
        watcher()


def samples(dtype: torch.dtype, seed: int, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Three clouds that overlap, so that no loss vanishes."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(size) % CLASSES
    noise = torch.randn(size, FEATURES, generator=generator, dtype=torch.float64)
    return (2 * torch.eye(CLASSES, FEATURES, dtype=torch.float64)[y] + noise).to(dtype), y


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Samples with noise from all three global generators, and from one of their own."""

    def __init__(self, x: Tensor, y: Tensor, seed: int) -> None:
        self._x, self._y = x, y
        self._own = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        _fetched()
        noise = 0.1 * torch.randn(FEATURES, dtype=self._x.dtype)
        noise += 0.1 * np.random.randn() + 0.1 * random.random()  # noqa: NPY002  (as augmentations do)
        noise += 0.1 * self._own.standard_normal()
        return self._x[index] + noise, self._y[index]


class Validation(Dataset[tuple[Tensor, Tensor]]):
    """Samples as they are; calls ``fetched`` for each."""

    def __init__(self, x: Tensor, y: Tensor, fetched: Callable[[], None]) -> None:
        self._x, self._y, self._fetched = x, y, fetched

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self._fetched()
        return self._x[index], self._y[index]


class Stream:
    """Minibatches drawn with a generator of its own; the state is that of torchdata's protocol.

    Args:
        x, y: samples to draw from.
        seed: of the generator.
        length: minibatches in a pass; None for a pass without end.
    """

    def __init__(self, x: Tensor, y: Tensor, seed: int, length: int | None) -> None:
        self._x, self._y, self._length = x, y, length
        self._generator = torch.Generator().manual_seed(seed)
        self._given = 0  # in this pass

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while self._length is None or self._given < self._length:
            _fetched()
            rows = torch.randint(len(self._x), (BATCH,), generator=self._generator)
            self._given += 1
            yield self._x[rows], self._y[rows]
        self._given = 0

    def state_dict(self) -> dict[str, Any]:
        return {"given": self._given, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._given = state["given"]
        self._generator.set_state(state["generator"])


FORMS = (
    "tensors",
    "dataset",
    "loader with 0 workers",
    "loader with 0 workers, own generator",
    "loader with 2 workers",
    "loader with 2 workers, own generator",
    "list",
    "stream",
    "endless stream",
)


def made(form: str, dtype: torch.dtype, seed: int) -> Any:
    """Data in one of the forms.

    Args:
        form: one of FORMS.
        dtype: of x.
        seed: of what has a generator of its own.
    """
    x, y = samples(dtype, 0)
    if form == "tensors":
        return x, y
    if form == "list":
        return list(zip(x.split(BATCH), y.split(BATCH), strict=True))
    if form in ("stream", "endless stream"):
        return Stream(x, y, seed, MINIBATCHES if form == "stream" else None)
    dataset = Augmented(x, y, seed)
    if form == "dataset":
        return dataset
    generator = torch.Generator().manual_seed(seed) if form.endswith("own generator") else None
    workers = 2 if "2 workers" in form else 0
    return DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, generator=generator)


def state_of(data: Any) -> Any:
    """What the data keep of their own."""
    if isinstance(data, Stream):
        return data.state_dict()
    generator = getattr(data, "generator", None)
    return None if generator is None else generator.get_state()
