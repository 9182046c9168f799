"""Runs tasks in workers, and counts what has been killed where."""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from python_tests.kills import child
from python_tests.kills.cases import Task
from python_tests.kills.worker import ROOT

Row = dict[str, Any]
SIGNALS = (*child.SIGNALS, *child.TO_ALL, child.WORKER)


def run(tasks: Sequence[Task], jobs: int = 1, told: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """Run tasks; returns a row for each of their cases.

    Args:
        tasks: what to run.
        jobs: workers that share them.
        told: each row, as soon as it is known.
    """
    rows: list[Row] = []
    lock = threading.Lock()

    def work(own: Sequence[Task]) -> None:
        for row in _rows_of(own):
            with lock:
                rows.append(row)
                told(row)

    threads = [threading.Thread(target=work, args=(tasks[i::jobs],)) for i in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows


def _rows_of(tasks: Sequence[Task]) -> Iterable[Row]:
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryFile("w+") as lines:
        lines.write("".join(task.to_json() + "\n" for task in tasks))
        lines.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "python_tests.kills.worker"],
            cwd=ROOT, stdin=lines, stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert process.stdout is not None
        with process.stdout:
            yield from map(json.loads, process.stdout)
        if process.wait() != 0:
            errors.seek(0)
            raise RuntimeError(f"a worker has ended with {process.returncode}:\n{errors.read()[-4000:]}")


def failures(rows: Iterable[Row]) -> list[str]:
    """What has gone wrong, a sentence each."""
    return [f"{row['configuration']}: {row['case']}: {row['failure']}" for row in rows if row["failure"]]


def is_signal(kill: Row) -> bool:
    """Whether it was a signal, and not a fault of the disk."""
    return kill["what"] in SIGNALS


def is_within_save(kill: Row) -> bool:
    """Whether a save had made some of its calls, but not all."""
    *_, call, side = kill["kill"].split() if "save " in kill["kill"] else ("", "")
    return bool(kill.get("in save")) or side == "within" or (side == "before" and int(call) > 1)


def kills(rows: Iterable[Row]) -> list[Row]:
    """All that has landed, each with its row's configuration."""
    return [{**row, **kill} for row in rows for kill in row["kills"]]


def instant(kill: Row) -> str:
    """At what kind of instant it was."""
    if is_within_save(kill):
        return "within a save"
    word = "any moment" if kill["kill"] == "any moment" else kill["kill"].split()[0]
    return _kinds.get(word, word)


_kinds = {
    "save": "before or after a save",
    "then": "before or after a save",
    "prepare": "within a step",
    "compute": "within a step",
    "commit": "within a step",
    "finish": "within a step",
    "step": "between two steps (on_step)",
    "fetch": "while a minibatch is fetched",
    "worker": "while a worker fetches",
    "line": "between two lines of the training loop",
    "pass": "while a DataLoader starts",
    "begin_epoch": "in a pass before the steps (begin_epoch)",
    "end_epoch": "in end_epoch",
    "epoch": "between two epochs (on_epoch)",
    "validation": "in validation",
    "restore": "while a file is restored",
    "start": "in on_start",
    "end": "in on_end",
}


def table(rows: Sequence[Row], title: str, key: Callable[[Row], Any]) -> list[str]:
    """What has landed, by something and by signal or fault, as a table in Markdown."""
    landed = kills(rows)
    counts = collections.Counter((key(kill), kill["what"]) for kill in landed)
    columns = [what for what in _columns if any(c == what for _, c in counts)]
    names = sorted({name for name, _ in counts}, key=str)
    lines = ["| " + " | ".join([title, *columns, "all"]) + " |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for name in names:
        numbers = [counts[name, column] for column in columns]
        lines.append("| " + " | ".join(map(str, [name, *numbers, sum(numbers)])) + " |")
    sums = [sum(counts[name, column] for name in names) for column in columns]
    lines.append("| " + " | ".join(map(str, ["all", *sums, sum(sums)])) + " |")
    return lines


_columns = (*SIGNALS, *child.FAULTS, "file-size limit")


def report(rows: Sequence[Row]) -> str:
    """All tables, and what has gone wrong."""
    landed = kills(rows)
    signals = [kill for kill in landed if is_signal(kill)]
    parts = [
        [
            f"{len(rows)} cases; {len(signals)} kills by signal, "
            f"{sum(map(is_within_save, signals))} of them within a save; "
            f"{len(landed) - len(signals)} faults of the disk; {len(failures(rows))} failures."
        ],
        table(rows, "instant", instant),
        table(rows, "form of data", lambda kill: kill["form"]),
        table(rows, "processes before the last", lambda kill: kill["resumes"]),
        table(rows, "method", lambda kill: kill["method"]),
    ]
    wrong = [f"- {failure}" for failure in failures(rows)]
    return "\n\n".join("\n".join(part) for part in [*parts, wrong] if part) + "\n"
