"""The tests that need a GPU: every file in a process of its own, several at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .isolation import NO_TIME, ROOT, Command, Setting, through
from .journal import DONE, JOURNAL, Entry

WORKERS = 8
# The most telling first; then whatever else is there.
FIRST = ("test_parity", "test_methods_that_look", "test_replays", "test_divergence", "test_streams")
FINE = (0, 1, 5)  # pytest's exit statuses: all passed, some failed, none found
REHEARSED_OP = "test_mse_residual"


def groups(rehearses: bool) -> list[tuple[str, list[str]]]:
    """Names and pytest's arguments; a rehearsal takes one op's tests on the CPU, and the rest as far as it goes."""
    folder = Path("python_tests")
    of_ops = sorted((ROOT / folder / "ops").glob("test_*.py"))
    of_gpu = sorted(
        (ROOT / folder / "gpu").glob("test_*.py"),
        key=lambda path: (FIRST.index(path.stem) if path.stem in FIRST else len(FIRST), path.stem),
    )
    if rehearses:
        chosen = [path for path in of_ops if path.stem == REHEARSED_OP]
        return [
            ("python_tests/ops", [*map(_relative, chosen), "-k", "gpu"]),
            ("python_tests/gpu", [*map(_relative, of_gpu)]),
        ]
    return [(_relative(path), [_relative(path), "-k", "gpu"]) for path in of_ops] + [
        (_relative(path), [_relative(path)]) for path in of_gpu
    ]


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def command(arguments: Sequence[str]) -> Command:
    """Pytest without the options and plugins that an interpreter or a configuration would add."""
    recorder = ["-p", "benchmarks.gpu_check.recorder", "-p", "no:cacheprovider"]
    options = ["-o", "addopts=", "--import-mode=importlib", "--tb=short", "-q"]
    pytest = [sys.executable, "-m", "pytest", *recorder, *options, *arguments]

    def of_pytest(journal: Path, done: Path) -> list[str]:
        return ["env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", f"{JOURNAL}={journal}", f"{DONE}={done}", *pytest]

    return of_pytest


def row(name: str, entries: Sequence[Entry], problem: str) -> dict[str, Any]:
    """How a group went; its failed tests apart."""
    last = {entry["case"]: entry for entry in entries if "case" in entry}
    outcomes = [entry.get("outcome", "failed") for entry in last.values()]
    collected = next((entry["collected"] for entry in entries if "collected" in entry), 0)
    counted: dict[str, Any] = {
        "tests": name,
        **{outcome: outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")},
        "not_run": max(0, collected - len(last)),
    }
    return {**counted, "problem": problem} if problem else counted


def run(setting: Setting, rehearses: bool, save: Any) -> None:
    """Call ``save`` with the rows and the failures so far, after every group."""
    rows: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []

    def one(group: tuple[str, list[str]]) -> None:
        name, arguments = group
        entries, problem = through(command(arguments), setting, FINE)
        rows.append(row(name, entries, problem))
        failures.extend(
            {"test": entry["case"], "error": entry["error"]} for entry in entries if "error" in entry
        )
        if problem not in ("", NO_TIME):
            failures.append({"test": name, "error": problem})
        save(rows, failures)

    workers = 2 if rehearses else max(1, min(WORKERS, os.cpu_count() or 1))
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, groups(rehearses)))
