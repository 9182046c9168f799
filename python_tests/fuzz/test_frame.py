"""The frame of the fuzzers. Oracle: a target whose cases end as their seeds say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from . import frame

TARGET = """
import os, signal, time
def run(seed):
    assert seed != 3, "three is wrong"
    if seed == 4:
        raise LookupError("not found")
    if seed == 5:
        print("last words", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if seed == 6:
        time.sleep(600)
    if seed == 7:
        os._exit(3)
    print("noise")
    return 10
"""


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "fuzzed_target.py").write_text(TARGET)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "fuzzed_target"


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_end_is_told_by_its_seed(target: str, jobs: int) -> None:
    outcome = frame.run(target, cases=10, jobs=jobs, limit=1.5)
    assert outcome.cases == 10
    assert outcome.calls == 50
    assert list(outcome.failures) == [3, 4, 5, 6, 7]
    assert outcome.failures[3] == "three is wrong"
    assert "not found" in outcome.failures[4]
    assert "SIGSEGV" in outcome.failures[5]
    assert "last words" in outcome.failures[5]
    assert "no answer within 1.5 s" in outcome.failures[6]
    assert "in run" in outcome.failures[6]
    assert "exit status 3" in outcome.failures[7]


def test_time_ends_it(target: str) -> None:
    outcome = frame.run(target, first_seed=100, seconds=1.0)
    assert outcome.cases > 10
    assert not outcome.failures
    assert outcome.seconds < 30


def test_a_target_that_cannot_be_imported(target: str) -> None:
    with pytest.raises(RuntimeError, match="could not be run"):
        frame.run(f"no_{target}", cases=3)


def test_seeds_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "SEEDS", tmp_path)
    (tmp_path / "some.txt").write_text("12  # a reason\n# a remark\n\n7\n")
    assert frame.kept_seeds("some") == [12, 7]
    assert frame.kept_seeds("none") == []


def test_the_command_reports_and_fails(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Its exit status, the counts, and a line that repeats the case."""
    from . import __main__ as command

    original = frame.run
    monkeypatch.setattr(frame, "run", lambda module, **options: original(target, **options))
    monkeypatch.setattr(frame, "SEEDS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["fuzz", "files", "--cases", "4", "--first-seed", "0", "--keep"])
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code
    printed = capsys.readouterr().out
    assert "files: 4 cases from seed 0, 30 checked calls, 1 failures" in printed
    assert "python -m python_tests.fuzz files --cases 1 --first-seed 3" in printed
    assert frame.kept_seeds("files") == [3]
