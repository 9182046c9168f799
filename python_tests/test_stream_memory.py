"""A method keeps nothing of a stream that has gone by: neither tensors nor other objects.

Oracle: what the interpreter knows of, once the first steps are over: its list of objects, and its count of allocated
bytes. Memory that a process holds for other reasons is the matter of benchmarks.macro.stream_memory.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import altmin_ext
from altmin_ext import _restore
from altmin_ext.data import streams

from .methods.test_methods_common import CLASSES, FEATURES, make, network

FIRST, LAST = 600, 1200  # steps
MOST_TENSORS = 320  # a hundred reports that wait for the record, and a few that are made in advance
MOST_BYTES = (
    50_000  # those and the interpreter's own; a report kept from each step takes more than twice as many
)
STREAMING = [
    name for name in altmin_ext.methods.names() if not altmin_ext.methods.method_class(name).full_batch
]


@pytest.fixture(autouse=True)
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


class Growth:
    """What has been kept between two numbers of steps."""

    def __init__(self) -> None:
        self._found: list[tuple[int, int]] = []

    def watch(self, step: int) -> None:
        if step in (FIRST, LAST):
            gc.collect()
            count = sum(issubclass(type(known), Tensor) for known in gc.get_objects())
            self._found.append((count, tracemalloc.get_traced_memory()[0]))

    def __call__(self) -> tuple[int, int]:
        """Tensors and bytes."""
        (tensors, bytes_before), (tensors_after, bytes_after) = self._found
        return tensors_after - tensors, bytes_after - bytes_before

    def on_step(self, state: Any) -> None:
        self.watch(state.step)


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, FEATURES, generator=generator), torch.arange(40) % CLASSES


def by_step(
    name: str, growth: Growth, keep: Callable[[Any], None] = lambda report: None, **options: Any
) -> Any:
    method = make(name, network(name), **options)
    minibatches = list(zip(*(part.split(4) for part in samples()), strict=True))
    for number in range(1, LAST + 1):
        if options:
            method.learning_rate_factor = 1e300 if number % 100 == 50 else 1.0
        keep(method.step(*minibatches[number % 10]))
        growth.watch(number)
    return method


def by_learn(name: str, growth: Growth) -> None:
    method, (x, y) = make(name, network(name)), samples()
    for number in range(10, LAST + 1, 10):
        method.learn(x, y, batch_size=4)
        growth.watch(number)


def by_train(name: str, growth: Growth) -> None:
    model = network(name)
    method = make(name, model)
    stream = streams.endless(*samples(), 4)
    altmin_ext.train(model, stream, method=method, steps=LAST, progress=False, callbacks=[growth])


@pytest.mark.parametrize("way", [by_step, by_learn, by_train], ids=["step", "learn", "train"])
@pytest.mark.parametrize("name", STREAMING)
def test_nothing_is_kept_of_a_stream(name: str, way: Callable[[str, Growth], Any]) -> None:
    growth = Growth()
    way(name, growth)
    tensors, bytes_kept = growth()
    assert tensors <= MOST_TENSORS
    assert bytes_kept <= MOST_BYTES


@pytest.mark.parametrize(
    "name", [name for name in STREAMING if altmin_ext.methods.method_class(name).has_rate]
)
def test_nothing_is_kept_of_restores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But two copies."""
    for bound in ("_shortest", "_longest"):
        monkeypatch.setattr(_restore, bound, 20)
    growth = Growth()
    assert by_step(name, growth, on_nonfinite="restore").restores >= 10
    tensors, bytes_kept = growth()
    assert tensors <= MOST_TENSORS
    assert bytes_kept <= MOST_BYTES


@pytest.mark.parametrize("name", ["am-adam", "sgd"])
def test_a_list_of_reports_is_seen(name: str) -> None:
    kept: list[Any] = []
    growth = Growth()
    by_step(name, growth, kept.append)
    tensors, bytes_kept = growth()
    assert tensors > 2 * MOST_TENSORS
    assert bytes_kept > 2 * MOST_BYTES
