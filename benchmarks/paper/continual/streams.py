"""The streams: tasks one after the other, and how their pixels were standardised."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import altmin_ext
from altmin_ext.data import DataSet, streams


class Pixels:
    """Images as the bytes they came from, and back to the same bits.

    Args:
        mean, deviation: of each channel, by which :func:`altmin_ext.data.load` has standardised pixels in [0, 1].
    """

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        self._mean, self._deviation = (
            torch.tensor(mean)[:, None, None],
            torch.tensor(deviation)[:, None, None],
        )

    def encode(self, x: Tensor) -> Tensor:
        """Standardised images (N, C, H, W) as uint8."""
        return ((x * self._deviation + self._mean) * 255).round_().to(torch.uint8)

    def decode(self, pixels: Tensor) -> Tensor:
        """Bytes (N, C, H, W) as standardised images, rounded as they were when loaded."""
        return pixels.float().div_(255).sub_(self._mean).div_(self._deviation)


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Tasks in a row, with one head for all of them.

    Attributes:
        name: one of :data:`names`.
        tasks: the tasks.
        pixels: how their images were standardised.
    """

    name: str
    tasks: Sequence[DataSet]
    pixels: Pixels

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return self.tasks[0].shape

    @property
    def n_in(self) -> int:
        """The number of pixels of an image, over all channels."""
        return math.prod(self.shape)

    @property
    def classes(self) -> int:
        """The number of classes, over all tasks."""
        return self.tasks[0].classes


@dataclasses.dataclass(frozen=True)
class _Source:
    data: str
    tasks: Callable[[DataSet], list[DataSet]]
    pixels: Pixels
    share_for_tuning: float = 1.0


_gray = Pixels((0.1307,), (0.3081,))
_sources = {
    "split-mnist": _Source("mnist", streams.class_tasks, _gray),
    "split-fashion-mnist": _Source("fashion-mnist", streams.class_tasks, _gray),
    "split-cifar-10": _Source(
        "cifar-10", streams.class_tasks, Pixels((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)), 1 / 2
    ),
    "permuted-mnist": _Source("mnist", streams.permuted_tasks, _gray, 1 / 3),
}
names = tuple(_sources)


def load(name: str) -> Stream:
    """A stream as it is run."""
    source = _sources[name]
    return Stream(name, source.tasks(altmin_ext.data.load(source.data)), source.pixels)


def load_for_tuning(name: str) -> Stream:
    """The same with a tenth of every task's training set in place of its test set; long streams are cut."""
    full, tasks = load(name), []
    for task in full.tasks:
        train, held_out = altmin_ext.data.split(task.train, 0.1, seed=0)
        if (share := _sources[name].share_for_tuning) < 1:
            train = altmin_ext.data.split(train, share, seed=1)[1]
        tasks.append(DataSet(task.name, train, held_out, task.classes))
    return Stream(name, tasks, full.pixels)
