"""`train`, and saving and resuming, on a GPU.

Oracles: blobs that any working method tells apart, where guessing is right one time in ten; the same run on the CPU;
a method that was never interrupted.
"""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

import altmin_ext
from altmin_ext import Method, models

from ..ops.calling import assert_close
from .cases import eager_and_graph, epochs, every_method, made, network, run, same, weights
from .device import GPU, REHEARSES, needs_gpu

LEARNING_RATES = {"am-adam": 2**-6, "am-sgd": 1.0, "adam": 2**-7, "sgd": 2**-2, "ste": 2**-7}


def digits_like() -> tuple[Tensor, Tensor]:
    """Ten clouds of 64 features."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 64, generator=generator)
    y = torch.arange(500) % 10
    return centres[y] + torch.randn(500, 64, generator=generator), y


def trained(
    name: str, device: str, dtype: torch.dtype, graph: bool = False, **options: Any
) -> altmin_ext.History:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.mlp(64, (50, 50), 10).to(dtype)
    x, y = digits_like()
    return altmin_ext.train(
        model, (x, y), method=name, epochs=6, batch_size=64, validation=(x, y), lr=LEARNING_RATES[name],
        lr_schedule=lambda finished: 1.0 if finished < 4 else 0.5, device=device, progress=False,
        graph=graph and not REHEARSES, **options,
    )  # fmt: skip


@every_method
@eager_and_graph
def test_train_learns(name: str, graph: bool) -> None:
    history = trained(name, GPU.type, torch.float32, graph=graph)
    assert history.steps == len(history.step_loss) == 6 * 8
    assert history.step_loss.isfinite().all()
    last = history.epochs[-1]
    assert [row["epoch"] for row in history.epochs] == [1, 2, 3, 4, 5, 6]
    assert last["loss"] < 0.5 * history.epochs[0]["loss"]
    assert last["accuracy"] > 0.9
    assert last["validation_accuracy"] > 0.9


@every_method
@eager_and_graph
def test_train_sees_what_the_cpu_sees(name: str, graph: bool) -> None:
    """In float64, up to the order of sums: the minibatches come in the same order on every device."""
    on_gpu = trained(name, GPU.type, torch.float64, graph=graph)
    on_cpu = trained(name, "cpu", torch.float64)
    assert_close(on_gpu.step_loss, on_cpu.step_loss, 1e-9)
    assert torch.equal(on_gpu.step_accuracy, on_cpu.step_accuracy)
    for own, expected in zip(on_gpu.epochs, on_cpu.epochs, strict=True):
        assert own["validation_accuracy"] == expected["validation_accuracy"]


@needs_gpu
@every_method
def test_a_device_is_the_same_with_and_without_its_number(name: str) -> None:
    method = made(name, network())
    assert method.device == GPU
    x, y = epochs(1)[0][0]
    altmin_ext.train(method.model, (x, y), method=method, device=GPU.type, progress=False)
    assert method.steps == 1


def test_evaluate() -> None:
    x, y = digits_like()
    model = models.mlp(64, (50,), 10)
    on_cpu = altmin_ext.evaluate(model, (x, y))
    on_gpu = altmin_ext.evaluate(model, (x, y), device=GPU.type)
    assert next(model.parameters()).device == GPU
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=1e-5)
    assert on_gpu.samples == 500


def saved_and_loaded(method: Method, device: str = str(GPU)) -> dict[str, Any]:
    """Weights and state after a round trip through a file."""
    file = io.BytesIO()
    torch.save({"model": method.model.state_dict(), "method": method.state_dict()}, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, map_location=device)
    return loaded


def resume(method: Method, saved: dict[str, Any]) -> Method:
    method.model.load_state_dict(saved["model"])
    method.load_state_dict(saved["method"])
    return method


@every_method
@eager_and_graph
@pytest.mark.parametrize("stepped", [False, True], ids=["new", "captured"])
def test_resumes_bit_for_bit(name: str, graph: bool, stepped: bool) -> None:
    """In a method made anew, and in one that has trained on other things, and captured its steps, before."""
    first, second = epochs(2), epochs(4)[2:]
    method = made(name, network(), graph=graph)
    run(method, first)
    saved = saved_and_loaded(method)
    other = made(name, network(), graph=graph, seed=1)
    if stepped:
        run(other, second)
    resume(other, saved)
    assert other.steps == method.steps
    assert same(run(other, second), run(method, second))


@every_method
@eager_and_graph
@pytest.mark.parametrize("stepped", [False, True], ids=["new", "captured"])
def test_begins_anew_from_the_state_of_the_beginning(name: str, graph: bool, stepped: bool) -> None:
    """A state from before the first step brings back everything that the first step does."""
    data = epochs(2)
    method = made(name, network(), graph=graph)
    saved = saved_and_loaded(method)
    if stepped:
        run(method, data)
    resume(method, saved)
    assert same(run(method, data), run(made(name, network(), graph=graph), data))


@every_method
@pytest.mark.parametrize(("source", "target"), [("cpu", str(GPU)), (str(GPU), "cpu")])
@eager_and_graph
def test_moves_between_devices(name: str, source: str, target: str, graph: bool) -> None:
    """In float64 it goes on as if it had always been there; under a graph, with rates that still can change."""
    if graph and target == "cpu":
        pytest.skip("the CPU has no graphs")

    def data(device: str) -> Any:
        return epochs(5, dtype=torch.float64, device=device)

    method = made(name, network(dtype=torch.float64), source)
    run(method, data(source)[:2])
    saved = saved_and_loaded(method, target)
    moved = resume(made(name, network(dtype=torch.float64), target, graph=graph), saved)
    for each, device in ((method, source), (moved, target)):
        run(each, data(device)[2:])
        each.raise_if_diverged()
    for own, expected in zip(weights(moved), weights(method), strict=True):
        assert_close(own.cpu(), expected.cpu(), 1e-9)
