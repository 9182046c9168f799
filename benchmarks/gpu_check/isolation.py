"""Runs cases in processes of their own: one that crashes, hangs or loses the GPU costs its own case and no other."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from .journal import Entry, Journal, finished, unfinished

ROOT = Path(__file__).parents[2]
LOST = 86  # the exit status of a process whose GPU answers with errors from then on
MOST_RESTARTS = 8
NO_TIME = "there was no time left"
# Python's command line for the cases that are not in the file of its last argument, and the journal to keep.
Command = Callable[[Path, Path], Sequence[str]]


@dataclasses.dataclass
class Setting:
    """Where processes run, and for how long.

    Attributes:
        environment: theirs.
        deadline: on the monotonic clock.
        log: takes what they print.
        stall: seconds without a word in the journal after which a process counts as hanging.
    """

    environment: Mapping[str, str]
    deadline: float
    log: Path
    stall: float

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()


def through(command: Command, setting: Setting, fine: Sequence[int] = (0,)) -> tuple[list[Entry], str]:
    """Run all cases of a command, in a new process after each that ends one.

    Args:
        command: makes the command line.
        setting: where, and for how long.
        fine: exit statuses of a process that got through.

    Returns:
        What the journal holds, a case that ended its process as ``{"case": ..., "error": ...}``; and why it goes no
        further, or nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        journal, done = Journal(Path(folder) / "journal"), Path(folder) / "done"
        for _ in range(MOST_RESTARTS + 1):
            if setting.left <= 0:
                return journal.entries(), NO_TIME
            done.write_text("\n".join(finished(journal.entries())))
            status, problem = _one_process(command(journal.path, done), journal, setting)
            entries = journal.entries()
            if not problem and status in fine:
                return entries, ""
            if setting.left <= 0:
                return entries, NO_TIME
            if (culprit := unfinished(entries)) is not None:
                journal.add({"case": culprit, "error": problem or _ending(status)})
            elif status != LOST:
                return entries, problem or _ending(status)
        return journal.entries(), f"it was begun anew {MOST_RESTARTS} times, which is enough"


def _ending(status: int) -> str:
    return (
        f"the process ended by signal {-status}" if status < 0 else f"the process ended with status {status}"
    )


def _one_process(arguments: Sequence[str], journal: Journal, setting: Setting) -> tuple[int, str]:
    """The exit status, and why the process was stopped, if it was."""
    with tempfile.TemporaryFile() as output:
        process = started(arguments, output, setting.environment)
        try:
            problem = _watch(process, journal, setting)
        finally:
            status = ended(process)
            output.seek(0)
            with setting.log.open("ab") as log:
                log.write(f"\n$ {' '.join(map(str, arguments))}\n".encode() + output.read())
        return status, problem


def started(
    arguments: Sequence[str], output: IO[bytes], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """A process that leads a group of its own, so that all that it starts can be ended with it."""
    return subprocess.Popen(
        arguments,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        cwd=ROOT,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[bytes]) -> int:
    """Its exit status, after its group has been ended if it still runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _watch(process: subprocess.Popen[bytes], journal: Journal, setting: Setting) -> str:
    heard, size = time.monotonic(), 0
    while process.poll() is None:
        time.sleep(0.05)
        now = journal.path.stat().st_size if journal.path.is_file() else 0
        if now != size:
            heard, size = time.monotonic(), now
        if setting.left <= 0:
            return NO_TIME
        if time.monotonic() - heard > setting.stall:
            return f"it gave no sign for {setting.stall:.0f} s"
    return ""
