"""The tables of step times, in runs of seconds. Oracles: clocks that the contenders move themselves; the definition
of a ratio; for the stages in parallel the formulas of their step, and one thread, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import altmin_ext
from benchmarks.macro import processor, ratios, single, stages, steps, throughput, versions
from benchmarks.macro.__main__ import main as all_tables
from benchmarks.macro.networks import networks
from benchmarks.macro.turns import Entry, Quartiles, ratio, take_turns

SHORT = ["--rounds", "2", "--seconds", "0.001"]

AMD = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC
flags\t\t: fpu sse2 avx avx2 avx512f avx512bw

processor\t: 1
model name\t: another
"""


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (AMD, "AMD EPYC (family 26, model 2, AVX-512)"),
        (AMD.replace(" avx512f avx512bw", ""), "AMD EPYC (family 26, model 2, AVX2)"),
        (
            AMD.replace("AMD EPYC", "AMD EPYC 7763 64-Core Processor"),
            "AMD EPYC 7763 64-Core Processor (AVX-512)",
        ),
        ("model name : Some Core 9\n", "Some Core 9"),
        ("processor : 0\nFeatures : fp asimd\n", None),
    ],
    ids=["bare name", "without AVX-512", "full name", "no flags", "no name"],
)
def test_processors_are_told_apart(cpuinfo: str, expected: str | None) -> None:
    assert processor.described(cpuinfo) == expected


def test_heading_names_the_processor_and_what_is_installed() -> None:
    heading = processor.heading("torch", "no-such-package")
    assert heading.startswith(processor.name())
    assert f"torch {torch.__version__}" in heading
    assert "no-such-package" not in heading


def test_contenders_take_turns() -> None:
    """Steps of one, three and four seconds by a clock of their own, the last of which counts as eight."""
    now, order = [0.0], []

    def stepping(name: str, seconds: float) -> Any:
        def step(x: str, y: int) -> None:
            assert x == y
            now[0] += seconds
            order.append(name)

        return step

    data = [(number, number) for number in range(3)]
    entries = {
        "one": Entry(stepping("one", 1.0), data),
        "three": Entry(stepping("three", 3.0), data),
        "eight in four": Entry(stepping("eight in four", 4.0), data, steps=8),
    }
    times = take_turns(entries, rounds=2, seconds=0.0, clock=lambda: now[0])
    assert times == {"one": [1.0] * 2, "three": [3.0] * 2, "eight in four": [0.5] * 2}
    assert ratio(times, "three", "one") == Quartiles(3.0, 3.0, 3.0)
    turns = order[-2 * 2 * len(entries) :]  # each with a call before the clock
    assert turns[::2] == ["one", "three", "eight in four", "eight in four", "three", "one"]


def test_ratio_is_taken_round_by_round() -> None:
    """A machine that is ten times slower in one round changes no ratio."""
    times = {"a": [1.0, 10.0, 1.0, 2.0], "b": [2.0, 20.0, 2.0, 4.0]}
    assert ratio(times, "a", "b") == Quartiles(0.5, 0.5, 0.5)


def test_steps_are_timed_in_a_process_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "steps.md"
    row = "8-16-4, batch 1"
    assert steps.main(["--rows", row, "--without", "compile", *SHORT, "--output", str(file)]) == 0
    assert file.read_text() == capsys.readouterr().out
    lines = file.read_text().splitlines()
    assert lines[0].startswith(processor.name())
    (found,) = [line for line in lines if line.startswith(f"| {row} ")]
    cells = [cell.strip() for cell in found.strip("|").split("|")]
    columns = [cell.strip() for cell in lines[2].strip("|").split("|")]
    values = dict(zip(columns, cells, strict=True))
    assert values["threads"] == "1"
    assert values["asked"] == "0.08"
    for column in ("am-adam", "products", "numpy"):
        assert float(values[column].split()[0]) > 0
    assert values["compile"] == ""


def test_a_row_shows_what_is_asked() -> None:
    found = {
        "microseconds": 1234.56,
        "ratios": {"am-adam": (0.6, 0.7, 0.8), "jax.jit, optax adam": (0.65, 0.75, 0.85)},
        "over jax": (0.9, 0.93, 0.95),
    }
    assert steps.line("784-500-500-10", 2, found) == (
        "| 784-500-500-10 | 2 | 1234.6 | 0.98 | 0.700 (0.600 to 0.800) |  | 0.750 (0.650 to 0.850) |  |  "
        "| 0.930 of 1.03 (0.900 to 0.950) |"
    )


def test_every_row_has_its_network() -> None:
    assert {row.network for row in steps.rows.values()} <= set(networks)


def test_single_samples(capsys: pytest.CaptureFixture[str]) -> None:
    assert single.main(["--networks", "8-16-4", *SHORT]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(processor.name())
    found = {cells[1].strip(): cells for line in lines if len(cells := line.strip("|").split("|")) == 5}
    learning = [f"{method}{how}" for method in ("am-sgd", "am-adam") for how in ("", ", learn")]
    for name in (*learning, single.sgd, single.adam, "numpy by hand, SGD"):
        assert float(found[name][2]) > 0


def test_learn_gets_many_samples_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def learn(x: Tensor, y: Tensor, batch_size: int) -> None:
        calls.append((tuple(x.shape), tuple(y.shape), batch_size))

    monkeypatch.setattr(altmin_ext, "make_method", lambda name, model: SimpleNamespace(learn=learn))
    entry = single.learning(networks["8-16-4, batch 1"], "am-sgd")
    entry.run(entry.ahead(1))
    assert calls == [((entry.steps, 8), (entry.steps,), 1)]


def test_ratios_are_printed_with_the_processor(capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    names = ["--contenders", "am-adam", ratios.base, "numpy by hand, SGD"]
    try:
        ratios.main(["--threads", "1", "--rounds", "2", "--networks", "8-16-4, batch 1", *names])
    finally:
        torch.set_num_threads(before)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(processor.name())
    assert len([line for line in lines if f"| {ratios.base} |" in line]) == 3


def test_throughput_is_over_the_bare_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train takes twice the loop's time for an epoch, and four times for all."""
    monkeypatch.setattr(throughput, "bare_loop", lambda x, y: (1.0, 3.0))
    monkeypatch.setattr(throughput, "train", lambda x, y: (2.0, 12.0))
    assert throughput.in_turns(torch.zeros(1), torch.zeros(1), 3) == [(0.5, 0.25)] * 3


def test_both_loops_of_the_throughput_run() -> None:
    x, y = torch.randn(400, 784), torch.randint(10, (400,))
    for loop in (throughput.bare_loop, throughput.train):
        fastest, whole = loop(x, y)
        assert 0 < fastest < whole


MULTIPLIES = stages.multiplies()


@pytest.mark.parametrize("multiply", MULTIPLIES)
@pytest.mark.parametrize("lowest", [False, True])
def test_a_stage_takes_the_step_of_its_weights(multiply: str, lowest: bool) -> None:
    """r = delta + a W^T, the gradient r^T a / B, and Adam's first step, lr times the gradient's sign."""
    stage = stages.Stage(7, 5, batch=6, lowest=lowest, seed=0)
    weight, bias = (tensor.double() for tensor in stage.weights)
    a, residual = stage.activation.double(), stage.displacement.double()
    if not lowest:
        residual = residual + a @ weight.t()
    stage.fit(MULTIPLIES[multiply])
    torch.testing.assert_close(stage.gradients[0].double(), residual.t() @ a, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(stage.gradients[1].double(), residual.sum(0), rtol=1e-4, atol=1e-4)
    step = stages.learning_rate
    for found, before, gradient in zip(stage.weights, (weight, bias), stage.gradients, strict=True):
        torch.testing.assert_close(found.double(), before - step * gradient.sign(), rtol=0, atol=2e-7)


@pytest.mark.parametrize("multiply", MULTIPLIES)
def test_stages_at_once_are_those_one_after_the_other(multiply: str) -> None:
    before = torch.get_num_threads()
    one, other = (stages.network(depth=4, width=20, batch=8) for _ in range(2))
    shared = stages.shares(other, 2)
    try:
        with ThreadPoolExecutor(1) as pool:
            for _ in range(3):
                stages.fit_all(one, MULTIPLIES[multiply])
                stages.fit_at_once(shared, MULTIPLIES[multiply], pool)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(one, other, strict=True):
        assert float(a.adam[-1]) == 3
        for mine, theirs in zip(a.weights, b.weights, strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_stages_are_shared_out_evenly(threads: int) -> None:
    """None is lost, and the largest share exceeds the mean by less than one stage."""
    all_ = stages.network(depth=9, width=30, batch=4)
    shared = stages.shares(all_, threads)
    assert sorted(id(stage) for share in shared for stage in share) == sorted(map(id, all_))
    work = [sum(stage.work for stage in share) for share in shared]
    assert work[0] == max(work)
    assert work[0] - sum(work) / threads < max(stage.work for stage in all_)


def test_table_of_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "stages.md"
    arguments = ["--depths", "1", "2", "--widths", "8", "--batch", "4", "--output", str(file)]
    assert stages.main([*arguments, *SHORT]) == 0
    text = file.read_text()
    assert text == capsys.readouterr().out
    assert len([line for line in text.splitlines() if "| torch.mm |" in line]) == 2


def test_all_tables_are_written_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of them here; without another version there is nothing to compare versions with."""
    folder = tmp_path / "new"
    assert all_tables(["--quick", "--tables", "single", "versions", "--output", str(folder)]) == 0
    (file,) = folder.iterdir()
    assert file.name == "single.md"
    assert file.read_text().rstrip() == capsys.readouterr().out.rstrip()
    assert "| 30-64-64-2 | am-sgd, learn |" in file.read_text()


def test_a_table_that_fails_is_not_passed_over(tmp_path: Path) -> None:
    arguments = ["--quick", "--tables", "versions", "--output", str(tmp_path)]
    assert all_tables([*arguments, "--before", str(tmp_path / "no-python")]) != 0


def test_the_other_version_needs_nothing_of_this_one(tmp_path: Path) -> None:
    """The benchmarks that its process finds are its own, here without any."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    command = [sys.executable, "-P", versions.__file__, "--worker"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert subprocess.run(command, cwd=tmp_path, env=environment, input="", text=True).returncode == 0
