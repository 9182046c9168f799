"""What a step asks of the host, of memory and of streams.

Oracles: torch's own watch over synchronisations and its count of allocated bytes; for streams, the same steps on the
default one. A GPU computes the same bits on every stream: these kernels add up in a fixed order, and torch gives
cuBLAS a workspace per stream, on which NVIDIA promises reproducible results.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from altmin_ext import Method

from .cases import (
    METHODS_WITH_CODES,
    Batch,
    eager_and_graph,
    epoch,
    epochs,
    every_method,
    made,
    network,
    run,
    same,
    weights,
)
from .device import needs_gpu

pytestmark = needs_gpu


@contextlib.contextmanager
def no_synchronisation() -> Iterator[None]:
    """Whatever makes the host wait for the GPU raises a RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def settled(name: str, graph: bool, **options: Any) -> tuple[Method, list[Batch]]:
    """A method that has seen both shapes of the minibatches twice, eagerly and to capture them."""
    method = made(name, network(), graph=graph, **options)
    batches = epoch()
    for x, y in batches * 2:
        method.step(x, y)
    torch.cuda.synchronize()
    return method, batches


@every_method
@eager_and_graph
def test_a_step_never_waits_for_the_gpu(name: str, graph: bool) -> None:
    method, batches = settled(name, graph)
    with no_synchronisation():
        for factor in (0.5, 0.25):
            method.learning_rate_factor = factor
            for x, y in batches:
                method.step(x, y)
            method.end_epoch()
    method.raise_if_diverged()


def test_the_watch_sees_a_synchronisation() -> None:
    with no_synchronisation(), pytest.raises(RuntimeError, match="synchron"):
        torch.ones(1, device="cuda:0").item()


@every_method
@eager_and_graph
def test_a_step_returns_while_the_gpu_is_busy(name: str, graph: bool) -> None:
    """So it does not wait behind torch's back either, for instance by allocating memory.

    The GPU sleeps for about a second, a thousand times what a step takes the host.
    """
    constant = {"mu_increment": 0.0} if name in METHODS_WITH_CODES else {}
    method, batches = settled(name, graph, **constant)
    x, y = batches[-1]
    torch.cuda._sleep(2 * 10**9)
    awake = torch.cuda.Event()
    awake.record()
    method.step(x, y)
    assert not awake.query()


@every_method
@eager_and_graph
def test_memory_does_not_grow(name: str, graph: bool) -> None:
    method, batches = settled(name, graph)
    for (
        x,
        y,
    ) in batches:  # the graphs own the buffers that they were captured with: once more, new ones are made
        method.step(x, y)
    before = torch.cuda.memory_allocated()
    for _ in range(10):
        for x, y in batches:
            method.step(x, y)
    assert torch.cuda.memory_allocated() == before


@every_method
@eager_and_graph
def test_a_side_stream_equals_the_default_one(name: str, graph: bool) -> None:
    data = epochs()
    expected = run(made(name, network(), graph=graph), data)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        found = run(made(name, network(), graph=graph), data)
        torch.cuda.synchronize()
    assert same(found, expected)


@pytest.mark.parametrize("names", [("am-adam", "am-adam"), ("am-adam", "am-sgd"), ("am-sgd", "adam")])
@eager_and_graph
def test_two_methods_at_once(names: tuple[str, str], graph: bool) -> None:
    """On two streams, which sleep until many steps are queued on both."""
    batches = epoch(sizes=(512,) * 12)

    def methods() -> list[Method]:
        made_anew = [made(name, network(hidden=(300, 200)), graph=graph) for name in names]
        for method in made_anew:
            for x, y in batches[:2]:
                method.step(x, y)
        torch.cuda.synchronize()
        return made_anew

    alone, together = methods(), methods()
    for method in alone:
        for x, y in batches:
            method.step(x, y)
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    for stream in streams:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(10**8)
    for x, y in batches:
        for method, stream in zip(together, streams, strict=True):
            with torch.cuda.stream(stream):
                method.step(x, y)
    torch.cuda.synchronize()
    for own, expected in zip(together, alone, strict=True):
        assert same(weights(own), weights(expected))


@every_method
@eager_and_graph
def test_two_runs_are_the_same(name: str, graph: bool) -> None:
    assert same(*(run(made(name, network(), graph=graph), epochs()) for _ in range(2)))
