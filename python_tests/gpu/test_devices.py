"""Tensors in the wrong place, and a second GPU.

Oracles: one sentence that names the argument and both places, and nothing written; the same steps on the first GPU.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from altmin_ext import ops

from ..native.test_kernels import CASES
from ..ops.calling import Output, Random, assert_close, refused
from .cases import eager_and_graph, epochs, every_method, made, network, run, same, weights
from .device import GPU, needs_gpu

pytestmark = needs_gpu
second_gpu = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is no second GPU")


def placed(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [placed(entry, device) for entry in value]
    if isinstance(value, Output):
        value = torch.zeros(value.shape, dtype=value.dtype)
    if not isinstance(value, Tensor):
        return value
    return value.to(device, torch.float64 if value.is_floating_point() else value.dtype)


def on_gpu(op: str) -> dict[str, Any]:
    """Good arguments of an op, of several tensors each, all where they belong."""
    given = {name: placed(value, GPU) for name, value in CASES[op](Random(0)).items()}
    if "guard_index" in given:
        given["guard_index"] = given["guard_index"].cpu()
    return given


def assert_refuses_elsewhere(op: str, elsewhere: torch.device, place: str) -> None:
    good = on_gpu(op)
    for name, value in good.items():
        entries = value if isinstance(value, list) else [value]
        if name == "guard_index" or not any(isinstance(entry, Tensor) for entry in entries):
            continue
        moved = [*entries[:-1], placed(entries[-1], elsewhere)]
        arguments = {**good, name: moved if isinstance(value, list) else moved[0]}
        before = [entry.clone() for entry in _tensors(arguments)]
        # Both places, for either tensor may be the one that the message is about.
        with refused(ValueError, "must be on", "cuda:0", place):
            getattr(ops, op)(**arguments)
        assert same(_tensors(arguments), before)


def _tensors(arguments: dict[str, Any]) -> list[Tensor]:
    values = [
        entry for value in arguments.values() for entry in (value if isinstance(value, list) else [value])
    ]
    return [value for value in values if isinstance(value, Tensor)]


@pytest.mark.parametrize("op", ops.names)
def test_ops_refuse_a_tensor_on_the_cpu(op: str) -> None:
    getattr(ops, op)(**on_gpu(op))
    assert_refuses_elsewhere(op, torch.device("cpu"), "the CPU")


@second_gpu
@pytest.mark.parametrize("op", ops.names)
def test_ops_refuse_a_tensor_on_another_gpu(op: str) -> None:
    assert_refuses_elsewhere(op, torch.device("cuda:1"), "cuda:1")


@pytest.mark.parametrize("op", ["adam_update", "sgd_update"])
def test_the_guard_index_belongs_on_the_cpu(op: str) -> None:
    good = on_gpu(op)
    with refused(ValueError, "guard_index", "must be on the CPU", "cuda:0"):
        getattr(ops, op)(**{**good, "guard_index": good["guard_index"].to(GPU)})


@every_method
@pytest.mark.parametrize("elsewhere", ["cpu", pytest.param("cuda:1", marks=second_gpu)])
@pytest.mark.parametrize("argument", ["x", "y"])
def test_a_minibatch_elsewhere_is_refused(name: str, elsewhere: str, argument: str) -> None:
    method = made(name, network())
    x, y = epochs(1)[0][0]
    method.step(x, y)
    before = weights(method)
    given = {"x": x, "y": y}
    given[argument] = given[argument].to(elsewhere)
    with refused(ValueError, f"{argument} must be on cuda:0 like the model", elsewhere):
        method.step(**given)
    assert same(weights(method), before)


@second_gpu
@every_method
@eager_and_graph
def test_the_second_gpu_computes_what_the_first_does(name: str, graph: bool) -> None:
    """Though it is not the current one; the two may be of different kinds."""
    results = []
    for device in ("cuda:0", "cuda:1"):
        method = made(name, network(dtype=torch.float64), device, graph=graph)
        results.append(run(method, epochs(dtype=torch.float64, device=device)))
        assert torch.cuda.current_device() == 0
        assert {parameter.device for parameter in method.model.parameters()} == {torch.device(device)}
    for first, second in zip(*results, strict=True):
        assert_close(second.cpu(), first.cpu(), 1e-9)
