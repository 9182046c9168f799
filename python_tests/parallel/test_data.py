"""Ranks that share minibatches. Oracle: one process that trains on the whole of them, in float64.

What a rank sums over its samples is then summed over the ranks, so that results differ by rounding alone: 1e-10 is
asked for, where weights are of the size of 1. Ranks among each other, and a second run, have the same bits, since
gloo adds in the same order everywhere and always.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import altmin_ext
from altmin_ext import models
from python_tests.parallel import worker
from python_tests.parallel.cases import CASES, trained

ROOT = Path(__file__).parents[2]


def _start(folder: Path, size: int, *what: str) -> list[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "python_tests.parallel.worker", str(folder)]
    return [
        subprocess.Popen([*command, str(rank), str(size), *what], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for rank in range(size)
    ]


def _of_ranks(folder: Path, size: int, *what: str) -> list[Any]:
    """What each of so many ranks has found."""
    ranks = _start(folder, size, *what)
    try:
        for rank in ranks:
            _, said = rank.communicate(timeout=300)
            assert rank.returncode == 0, said
    finally:
        for rank in ranks:
            rank.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    pytest.importorskip("sklearn")  # which has the digits
    return _of_ranks(tmp_path_factory.mktemp("two"), 2, "steps", "runs", "errors", "whole")


@pytest.fixture(scope="module")
def of_three(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return _of_ranks(tmp_path_factory.mktemp("three"), 3, "steps")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ranks", ["of_two", "of_three"])
def test_steps_are_those_of_one_process(ranks: str, name: str, request: pytest.FixtureRequest) -> None:
    found = [rank["steps"] for rank in request.getfixturevalue(ranks)]
    expected = trained(CASES[name], None)
    shared, again = found[0][name]
    torch.testing.assert_close(shared["weights"], expected["weights"], rtol=0, atol=1e-10)
    for reported in ("loss", "objective", "displacement"):
        torch.testing.assert_close(shared[reported], expected[reported], rtol=1e-12, atol=0)
    assert torch.equal(shared["correct"], expected["correct"])
    torch.manual_seed(0)  # as in ``trained``
    untrained = CASES[name].model().double().state_dict()
    moved = [float((untrained[key] - value).abs().max()) for key, value in shared["weights"].items()]
    assert max(moved) > 1e-4  # far above the tolerance
    for other in (again, *(rank[name][0] for rank in found[1:])):
        for key, value in shared["weights"].items():
            assert torch.equal(other["weights"][key], value), key


def test_runs_of_training_are_those_of_one_process(of_two: list[Any]) -> None:
    first, second = (rank["runs"] for rank in of_two)
    expected = worker.runs(parallel=None)
    for form, run in expected.items():
        torch.testing.assert_close(first[form], run, rtol=1e-10, atol=1e-12)
        for name, value in first[form]["weights"].items():
            assert torch.equal(second[form]["weights"][name], value)


def test_refusals_are_said_on_every_rank(of_two: list[Any]) -> None:
    said = [rank["errors"] for rank in of_two]
    assert said[0] == said[1]
    parts = {
        "method": "parallel must be None for am-adam-off",
        "threads": "workers must be 1 with parallel='data', but is 2",
        "stages": "parallel must be 'data', but is 'stages'",
        "checkpoint": "data must be tensors or a Dataset where ranks share minibatches and a checkpoint is written",
        "last minibatch": "a sample for each of the 2 ranks in the last minibatch of an epoch, but leaves 1",
        "another width": "the shapes of the model's parameters and buffers must be the same on all ranks",
        "another option": "options must be the same on all ranks",
        "streams of other lengths": "as many minibatches on every rank, but after 2 they are over on 1 of 2",
        "a strided tensor": "must be contiguous",
        "a label outside on the last rank": "y must lie in [0, 10), but y[8] is",
    }
    assert said[0].keys() == parts.keys()
    for name, part in parts.items():
        assert part in said[0][name]


def test_run_whose_ranks_are_killed_goes_on_to_the_same_bits(of_two: list[Any], tmp_path: Path) -> None:
    for number, (victim, step) in enumerate([(1, 7), (0, 15)]):  # one after another
        folder = tmp_path / str(number)
        folder.mkdir()
        ranks = _start(folder, 2, "killed", str(victim), str(step))
        try:
            assert ranks[victim].wait(timeout=300) == -signal.SIGKILL
            _, said = ranks[1 - victim].communicate(timeout=10)  # ends by itself
            assert "ConnectionError: all 2 ranks must take part" in said
        finally:
            for rank in ranks:
                rank.kill()
    folder = tmp_path / "last"
    folder.mkdir()
    undisturbed = of_two[0]["whole"]
    for run in _of_ranks(folder, 2, "killed", "-1", "0"):
        assert run["accuracies"] == undisturbed["accuracies"]
        assert torch.equal(run["loss"], undisturbed["loss"])
        for name, value in undisturbed["weights"].items():
            assert torch.equal(run["weights"][name], value)


def test_outside_a_process_group_is_refused() -> None:
    with pytest.raises(ValueError, match=r"outside a process group.*torchrun"):
        altmin_ext.make_method("am-adam", models.mlp(3, [2], 2), parallel="data")
