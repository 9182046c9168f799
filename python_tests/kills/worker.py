"""Runs cases: forks the processes of each, one after the other, and looks at what they leave.

``python -m python_tests.kills.worker`` reads tasks from its standard input, one JSON line each, and prints what
became of their cases likewise. It has one thread, so that it may fork; and since it has imported torch and made a
step with each method, a forked process costs some 20 ms.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import gc
import hashlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

import altmin_ext
from altmin_ext import checkpoint
from python_tests.kills import cases, child, data
from python_tests.kills.child import Configuration, Start
from python_tests.kills.comparison import differences

ROOT = Path(__file__).parents[2]
LIMIT = 60.0  # seconds, after which a process hangs
NAME = "run.safetensors"
# In memory where the system has such a folder, since every save waits for the disk several times.
MEMORY = Path("/dev/shm")


class Failure(AssertionError):
    """A case has gone wrong."""


@dataclasses.dataclass
class Ended:
    """How a process has ended.

    Attributes:
        code: its exit status; minus the signal, if one ended it.
        said: all it said, in one list of dicts.
        before: how many of these before a timer sent its signal.
    """

    code: int
    said: list[dict[str, Any]]
    before: int

    def all(self, key: str) -> list[Any]:
        """All that it said under a key."""
        return [line[key] for line in self.said if key in line]

    def last(self, key: str, default: Any = None) -> Any:
        """The last that it said under a key."""
        return next(reversed(self.all(key)), default)

    def __str__(self) -> str:
        return f"ended with {self.code}" + "".join(f"\n{error}" for error in self.all("error"))


def started(
    configuration: Configuration,
    start: Start,
    folder: Path,
    *,
    timer: tuple[float, int] | None = None,
    forked: bool = True,
) -> Ended:
    """Start a process, and wait until it has ended.

    Args:
        configuration, start: what it does.
        folder: holds the folder of its checkpoint, and its outcome.
        timer: seconds until it gets a signal, and the number of that.
        forked: whether it is forked, or a fresh interpreter.
    """
    paths = folder / "run" / NAME, folder / "outcome"
    paths[1].unlink(missing_ok=True)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1 << 20)  # nobody reads before the process has ended
    if forked:
        _wait_for_threads()
        number = os.fork()
        if number == 0:
            os.close(reading)
            os.setsid()
            child.main(configuration, start, *paths, writing)
    else:
        what = [dataclasses.asdict(configuration), dataclasses.asdict(start), *map(str, paths), writing]
        number = subprocess.Popen(
            [sys.executable, "-m", "python_tests.kills.child", json.dumps(what)],
            cwd=ROOT, pass_fds=[writing], start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        ).pid  # fmt: skip
    os.close(writing)
    said, before = b"", None
    if timer is not None and not _has_ended(number, timer[0]):
        os.set_blocking(reading, False)
        with contextlib.suppress(BlockingIOError):
            said = os.read(reading, 1 << 20)
        os.set_blocking(reading, True)
        before = said.count(b"\n")
        os.kill(number, timer[1])
    hangs = not _has_ended(number, LIMIT)
    if hangs:
        os.killpg(number, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)  # its workers, as a scheduler does
    with os.fdopen(reading, "rb") as pipe:
        lines = (said + pipe.read()).splitlines()
    if hangs:
        raise Failure(f"a process has not ended within {LIMIT:g} s")
    return Ended(code, [json.loads(line) for line in lines], len(lines) if before is None else before)


def _wait_for_threads() -> None:
    """Wait until the threads that have read a file are gone, since only a process of one thread may be forked."""
    begun = time.monotonic()
    while len(os.listdir("/proc/self/task")) > 1:
        assert time.monotonic() - begun < LIMIT, "a process of several threads must not be forked"
        time.sleep(0.0001)


def _has_ended(number: int, seconds: float) -> bool:
    """Wait so long for the end of a process."""
    descriptor = os.pidfd_open(number)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


@dataclasses.dataclass
class Reference:
    """The undisturbed run, and what it did to save its checkpoint.

    Attributes:
        outcome: what it led to.
        steps: of the whole run.
        instants: that it went through, but for saves and lines.
        lines: of traced modules.
        saves: the calls of each save.
        sizes: of the files that they wrote.
        seconds: that it took.
    """

    outcome: dict[str, Any]
    steps: int
    instants: list[str]
    lines: int
    saves: list[list[str]]
    sizes: list[int]
    seconds: float


@contextlib.contextmanager
def new_folder() -> Iterator[Path]:
    """A folder with one for a checkpoint in it."""
    with tempfile.TemporaryDirectory(prefix="altmin-kills-", dir=MEMORY if MEMORY.is_dir() else None) as name:
        (Path(name) / "run").mkdir()
        yield Path(name)


def outcome_of(folder: Path) -> dict[str, Any]:
    """What a run has led to."""
    found: dict[str, Any] = torch.load(folder / "outcome", weights_only=False)
    return found


def check_outcome(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise unless a run has led to what the undisturbed one has."""
    wrong = differences(expected, found)
    if wrong:
        raise Failure("the result differs: " + "; ".join(wrong[:4]) + (" ..." if len(wrong) > 4 else ""))


def refer(configuration: Configuration, mutant: str = "") -> Reference:
    """The undisturbed run without a checkpoint; raises if one with a checkpoint leads to something else."""
    with new_folder() as folder:
        plain = started(configuration, Start(checkpoint=False), folder)
        if plain.code != 0:
            raise Failure(f"the run without a checkpoint {plain}")
        outcome = outcome_of(folder)
    with new_folder() as folder:
        begun = time.perf_counter()
        saving = started(configuration, Start(tells=True, mutant=mutant), folder)
        seconds = time.perf_counter() - begun
        if saving.code != 0:
            raise Failure(f"the run with a checkpoint {saving}")
        check_said(saving)
        check_outcome(outcome, outcome_of(folder))
        check_folder(folder, configuration)
    return Reference(
        outcome,
        saving.last("steps"),
        saving.last("instants"),
        saving.last("lines"),
        saving.last("saves"),
        saving.all("size"),
        seconds,
    )


def check_said(ended: Ended) -> None:
    """Raise if a process has seen its calls in a dangerous order, or has failed."""
    for sentence in ended.all("disorder"):
        raise Failure(sentence)
    if ended.code == child.FAILED and not {child.WORKER, *child.TO_ALL} & {*ended.all("what")}:
        raise Failure(f"a process {ended}")


def check_folder(folder: Path, configuration: Configuration) -> None:
    """Raise unless the folder holds the checkpoint, former ones that are to be kept, and nothing else."""
    names = sorted(path.name for path in (folder / "run").iterdir())
    formers = [name for name in names if name.startswith("run-") and name.endswith(".safetensors")]
    if NAME not in names or set(names) - {NAME, *formers} or len(formers) > configuration.keep:
        raise Failure(f"the folder holds {names}")
    for name in formers:
        read(folder / "run" / name)


def read(path: Path) -> int:
    """The number of steps in a checkpoint; raises unless it is whole."""
    try:
        found = checkpoint.load(path)
    except Exception as error:
        raise Failure(f"{path.name} cannot be read: {error}") from error
    assert found.method is not None
    steps: int = found.method["steps"]
    return steps


def run_case(case: cases.Case, reference: Reference, mutant: str = "") -> list[dict[str, Any]]:
    """Run a case; returns what happened in its ends, in a list of dicts each of which has a ``kill``.

    Raises:
        Failure: something has been lost.
    """
    configuration = case.configuration
    landed: list[dict[str, Any]] = []
    content: str | None = None  # of the file, by its sha256
    with new_folder() as folder:
        path = folder / "run" / NAME
        for number, end in enumerate([*case.ends, cases.End()], 1):
            # Whoever resumes has other weights and generators to begin with, as a program without seeds does.
            seed = number if path.exists() else 0
            start = Start(end.triggers, seed=seed, limit=end.limit, mutant=mutant)
            ended = started(configuration, start, folder, timer=end.timer, forked=not case.fresh)
            check_said(ended)
            landed += _landed(end, ended)
            possible = [content, *ended.all("replaced")][-1:] + ended.all("replacing")[-1:]
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
            if content not in possible:
                raise Failure(f"after {landed[-1:]} the file is neither the last one nor the one before")
            if content is not None:
                _check_steps(read(path), ended, configuration)
            if ended.code == 0:
                break
        check_end(reference, folder, configuration)
        if case.again:  # of a run that is over, nothing is left to do
            check_said(started(configuration, Start(seed=99, mutant=mutant), folder))
            check_end(reference, folder, configuration)
    return landed


def check_end(reference: Reference, folder: Path, configuration: Configuration) -> None:
    """Raise unless the run has ended as the undisturbed one has."""
    check_outcome(reference.outcome, outcome_of(folder))
    check_folder(folder, configuration)


def _landed(end: cases.End, ended: Ended) -> list[dict[str, Any]]:
    """What has ended a process; raises if it has ended otherwise."""
    found = [line for line in ended.said if "kill" in line]
    if end.timer is not None and sum("replaced" in line for line in ended.said[ended.before :]) > 3:
        raise Failure(f"{signal.Signals(end.timer[1]).name} is lost")
    if end.timer is not None and ended.code != 0:
        in_save = bool(ended.all("saving")) and ended.last("saving")
        found.append({"kill": "any moment", "what": signal.Signals(end.timer[1]).name, "in save": in_save})
    if end.limit is not None and ended.code == child.NOT_WRITTEN:
        found.append({"kill": "save", "what": "file-size limit"})
    allowed = set().union(*(_codes[kill["what"]] for kill in found)) or {0}
    if ended.code not in allowed:
        raise Failure(f"after {found} a process {ended}")
    return found


# With which exit statuses a process may answer. Before train has begun, SIGTERM kills.
_codes = {
    "SIGKILL": {-signal.SIGKILL},
    "SIGTERM": {child.TERMINATED, -signal.SIGTERM},
    "SIGINT": {child.INTERRUPTED},
    "SIGHUP": {child.HUNG_UP, -signal.SIGHUP},
    # The end of a worker may be noticed before the signal.
    "SIGTERM to all": {child.TERMINATED, child.FAILED},
    "SIGINT to all": {child.INTERRUPTED, child.FAILED},
    "disk full": {0, child.NOT_WRITTEN},
    "disk broken": {0, child.NOT_WRITTEN},
    "file-size limit": {child.NOT_WRITTEN},
    child.WORKER: {child.FAILED},
}


def _check_steps(kept: int, ended: Ended, configuration: Configuration) -> None:
    """Raise if more minibatches are lost than may be."""
    done = ended.last("steps")
    if done is None:
        return
    if ended.code in (child.TERMINATED, child.INTERRUPTED, child.HUNG_UP) and kept < done:
        raise Failure(f"after an interrupt the file holds {kept} of {done} minibatches")
    if isinstance(configuration.every, int) and done - kept > configuration.every:
        raise Failure(
            f"the file holds {kept} of {done} minibatches, where every {configuration.every} are saved"
        )


def run_task(task: cases.Task) -> Iterator[dict[str, Any]]:
    """Run the cases of a configuration; yields what became of each."""
    configuration = task.configuration
    row: dict[str, Any] = {
        "configuration": str(configuration),
        "method": configuration.method,
        "form": configuration.form,
        "mutant": task.mutant,
    }
    try:
        reference = refer(configuration, task.mutant)
    except Failure as failure:
        yield {**row, "case": "undisturbed", "resumes": 0, "gap": False, "kills": [], "failure": str(failure)}
        return
    for case in cases.draw(task, reference, random.Random(f"{task.seed} {configuration}")):
        row |= {"case": str(case), "resumes": len(case.ends), "gap": case.gap}
        try:
            yield {**row, "kills": run_case(case, reference, task.mutant), "failure": None}
        except Failure as failure:
            yield {**row, "kills": [], "failure": str(failure)}


def warm_up(methods: Iterable[str]) -> None:
    """Let the first step of each method load what it loads, so that no forked process has to."""
    torch.set_num_threads(1)
    x, y = data.samples(torch.float32, 0)
    for name in methods:
        for noisy in (False, True):
            configuration = Configuration(name, noisy=noisy)
            model = child.network(configuration, 0)
            altmin_ext.make_method(name, model, **child.options(configuration)).step(x, y)
    gc.collect()
    gc.freeze()


def main() -> None:
    """Run the tasks of standard input."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    tasks = [cases.Task.from_json(line) for line in sys.stdin]
    warm_up({task.configuration.method for task in tasks})
    for task in tasks:
        for row in run_task(task):
            channel.write(json.dumps(row) + "\n")
            channel.flush()


if __name__ == "__main__":
    main()
