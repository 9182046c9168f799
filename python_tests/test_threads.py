"""Methods in threads. Oracle: the same methods alone in the main thread, to the bit, and OpenMP's count of threads.

With the interpreter's lock, kernels run beside each other, since they release it; without it, all of this does.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext import _generators, _plan, models
from altmin_ext.ops import _native as native

from .methods.test_methods_common import METHODS, blobs, make, network, same, snapshot

THREADS = 4


@pytest.fixture(autouse=True)
def _frequent_switches() -> Iterator[None]:
    """Threads take turns a thousand times more often than they would."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)


def in_a_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def train(name: str, model: nn.Module) -> dict[str, Tensor]:
    """Train on some minibatches; returns all that is left of it: weights, the reports' losses, the method's state."""
    method = make(name, model, seed=3)
    x, y = blobs()
    parts = [(x, y)] if method.full_batch else [(x[i::4], y[i::4]) for i in range(4)]
    losses = [method.step(*part).loss for part in parts * 3]
    state = {key: value for key, value in method.state_dict().items() if isinstance(value, Tensor)}
    return {**snapshot(model), "losses": torch.stack(losses), **state}


def test_threads_train_to_the_bits_of_one_alone() -> None:
    jobs = [(name, network(name)) for _ in range(THREADS) for name in METHODS]
    alone = {name: train(name, network(name)) for name in METHODS}
    start = threading.Barrier(THREADS)

    def run(own: int) -> list[tuple[str, dict[str, Tensor]]]:
        start.wait()
        # Each thread begins with another method.
        mine = jobs[own::THREADS]
        turned = mine[own * 4 % len(mine) :] + mine[: own * 4 % len(mine)]
        return [(name, train(name, model)) for name, model in turned]

    with ThreadPoolExecutor(THREADS) as pool:
        results = [result for done in pool.map(run, range(THREADS)) for result in done]
    assert len(results) == THREADS * len(METHODS)
    assert [name for name, trained in results if not same(trained, alone[name])] == []


@pytest.mark.parametrize("name", ["am-adam", "am-sgd"])
def test_steps_of_one_native_call_run_at_the_same_time(name: str) -> None:
    x, y = (values.repeat(400, *[1] * (values.ndim - 1)) for values in blobs())
    start = threading.Barrier(THREADS)

    def learn(model: nn.Module, wait: Callable[[], Any]) -> dict[str, Tensor]:
        method = make(name, model, lr=1e-3)
        method.learn(x[:9], y[:9], batch_size=3)
        assert method.why_not_planned is None
        wait()
        losses = method.learn(x, y, batch_size=3).loss
        return {**snapshot(model), "losses": losses}

    alone = learn(network(name, hidden=64), lambda: None)
    models = [network(name, hidden=64) for _ in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(learn, models, [start.wait] * THREADS))
    assert [same(trained, alone) for trained in together] == [True] * THREADS


class Waiting(nn.Module):
    """Lets another thread run in the middle of a forward pass, once it is armed."""

    def __init__(self) -> None:
        super().__init__()
        self.armed, self.reached, self.released = False, threading.Event(), threading.Event()

    def forward(self, x: Tensor) -> Tensor:
        if self.armed:
            self.reached.set()
            assert self.released.wait(60)
        return x.clone()


def test_second_thread_within_a_step_is_refused() -> None:
    torch.manual_seed(0)
    waiting = Waiting()
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), waiting, nn.Linear(8, 3))
    method = altmin_ext.make_method("am-adam", model)
    x, y = blobs()
    method.step(x, y)
    waiting.armed = True
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(method.step, x, y)
        assert waiting.reached.wait(60)
        before = snapshot(model)
        try:
            for call in (method.step, method.learn):
                with pytest.raises(
                    ValueError, match=r"stepped by one thread at a time, .* for each thread\.$"
                ):
                    call(x, y)
            assert same(snapshot(model), before)
            assert method.steps == 1
        finally:
            waiting.released.set()
        first.result()
    waiting.armed = False
    method.step(x, y)
    assert method.steps == 3


@pytest.mark.skipif(native.module is None, reason="the native module is not built")
@pytest.mark.parametrize("call", ["an op", "a replayed step"])
def test_kernels_in_a_new_thread_use_as_many_threads_as_torch(call: str) -> None:
    openmp = ctypes.CDLL(native.module.openmp_runtime())
    x, y = blobs()
    method = altmin_ext.make_method("am-sgd", network("am-sgd"))
    for _ in range(3):
        method.step(x, y)
    planned = method.planned_for(x, y)
    loss, correct = torch.empty(1), torch.empty(1, dtype=torch.int64)
    relu = altmin_ext.ops.Activation("relu")
    calls = {
        "an op": lambda: altmin_ext.ops.activate(x.clone(), activation=torch.empty_like(x), sigma=relu),
        "a replayed step": lambda: planned.run(x, y, 0, 1, loss, correct),
    }

    def counts() -> tuple[int, int]:
        before = openmp.omp_get_max_threads()
        calls[call]()
        return before, openmp.omp_get_max_threads()

    threads = torch.get_num_threads()
    unset, _ = in_a_thread(counts)
    torch.set_num_threads(unset + 2)
    try:
        assert in_a_thread(counts) == (unset, unset + 2)
    finally:
        torch.set_num_threads(threads)


def test_captures_come_one_after_the_other() -> None:
    waiting, may_end = threading.Event(), threading.Event()
    seen = []

    def capture(wait: bool) -> None:
        with _plan._without_garbage_collection():
            if wait:
                waiting.set()
                assert may_end.wait(60)
            seen.append((wait, gc.isenabled()))

    was_enabled = gc.isenabled()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(capture, True)
        assert waiting.wait(60)
        second = pool.submit(capture, False)
        may_end.set()
        first.result(), second.result()
    assert seen == [(True, False), (False, False)]
    assert gc.isenabled() == was_enabled


def test_states_of_generators_are_saved_under_one_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that save and restore torch's generator without a lock of ours can wait for each other (torch 2.13)."""
    locked: list[bool] = []

    def watch(own: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*states: Tensor) -> Any:
            locked.append(_generators.global_state._is_owned())  # type: ignore[attr-defined]
            return own(*states)

        return watched

    for name in ("get_rng_state", "set_rng_state"):
        watched = watch(getattr(torch.random, name))
        for module in (torch, torch.random):
            monkeypatch.setattr(module, name, watched)

    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 0.1 * torch.randn_like(x)

    parts = nn.Linear(64, 8), nn.Dropout(0.1), nn.ReLU(), nn.Linear(8, 8), Noise(), nn.Linear(8, 10)
    x, y = torch.randn(20, 64), torch.arange(20) % 10
    for model in (nn.Sequential(*parts), models.mlp(64, [8], 10)):
        altmin_ext.train(model, (x, y), epochs=2, batch_size=5, validation=(x, y), progress=False)
        altmin_ext.evaluate(model, (x, y))
    assert len(locked) > 20
    assert all(locked)
