"""The examples of docs/training.md. Oracle: they must run as they stand, and do what the page says."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import altmin_ext
from altmin_ext.__main__ import main

page = Path(__file__).parents[2] / "docs" / "training.md"
if not page.is_file():
    pytest.skip("only the tests are here, not the documentation", allow_module_level=True)
pytest.importorskip("sklearn")
TEXT = page.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
METRICS, TENSORBOARD, LOGGER, SEARCH, OPTUNA = range(5)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*blocks: int) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in blocks:
            exec(compile(BLOCKS[block], "docs/training.md", "exec"), names)
    return names


def test_every_example_has_a_test() -> None:
    assert len(BLOCKS) == 5


def test_a_metric_is_monitored_and_the_best_model_kept() -> None:
    names = run(METRICS)
    values = [row["validation_confidence"] for row in names["history"].epochs]
    assert names["stopping"].best == names["best"].best == max(values) > 0.8
    kept = altmin_ext.checkpoint.load("best.safetensors")
    assert kept.extra["validation_confidence"] == max(values)
    # Early stopping has put the same weights back.
    assert all(torch.equal(kept.model[name], own) for name, own in names["model"].state_dict().items())


def test_a_run_is_written_to_tensorboard() -> None:
    pytest.importorskip("tensorboard")
    run(TENSORBOARD)
    assert list(Path("runs/digits").glob("events.out.tfevents.*"))


def test_a_logger_of_one_s_own_prints(capsys: pytest.CaptureFixture[str]) -> None:
    names = run(METRICS, LOGGER)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == "complete"
    minibatches = 2 * math.ceil(len(names["digits"].train[0]) / 200)
    assert sum("step_loss" in line for line in printed) == minibatches // 5


def test_a_study_of_one_s_own_finds_options() -> None:
    pytest.importorskip("optuna")
    names = run(METRICS, SEARCH, OPTUNA)
    assert len(names["study"].trials) == 3
    assert {method: len(trials) for method, trials in names["found"].items()} == {"am-adam": 3, "adam": 3}


def test_the_command_searches(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    (command,) = re.findall(r"^```\n(altmin tune .*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    arguments = shlex.split(command.replace("\\\n", "").replace("30 --epochs 10", "1 --epochs 1"))[1:]
    assert arguments[-6:-2] == ["--trials", "1", "--epochs", "1"]
    assert main([*arguments, "--hidden", "8"]) == 0
    assert "altmin train --data digits" in capsys.readouterr().out
    assert Path("runs/tuned/study.db").exists()
