"""Checkpoints of what is on a GPU. Oracle: the run that nothing has disturbed, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from altmin_ext import checkpoint

from ..checkpoint.second_reader import same as same_trees
from .cases import LOOKING, METHODS, data_for, made, network_for, run, same, weights
from .device import GPU

CASES = [(name, graph) for graph in (False, True) for name in METHODS] + [(name, False) for name in LOOKING]


@pytest.mark.parametrize(
    ("name", "graph"), CASES, ids=[f"{name}{', graph' * graph}" for name, graph in CASES]
)
def test_training_goes_on_to_the_bit(name: str, graph: bool, tmp_path: Path) -> None:
    method = made(name, network_for(name), graph=graph)
    data = data_for(method)
    run(method, data[:1])
    checkpoint.save(tmp_path / "file", method=method)
    reports = run(method, data[1:])
    other = made(name, network_for(name), graph=graph)
    run(other, data[2:])  # which a graph may have captured
    places = [parameter.data_ptr() for parameter in other.model.parameters()]
    checkpoint.load(tmp_path / "file", method=other)
    assert [parameter.data_ptr() for parameter in other.model.parameters()] == places
    assert same(run(other, data[1:]), reports)
    assert same_trees(other.state_dict(), method.state_dict())


def test_a_checkpoint_of_a_gpu_is_read_on_the_cpu(tmp_path: Path) -> None:
    method = made("am-adam", network_for("am-adam"))
    run(method, data_for(method)[:1])
    checkpoint.save(tmp_path / "file", method=method)
    held = checkpoint.load(tmp_path / "file")
    assert held.model is not None
    assert all(tensor.device.type == "cpu" for tensor in held.model.values())
    assert same(held.model.values(), [weight.cpu() for weight in weights(method)])
    assert method.device == GPU
