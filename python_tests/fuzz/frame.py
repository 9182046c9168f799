"""Runs a target's cases in processes of their own, so that a crash or a hang is known by its seed."""

from __future__ import annotations

import dataclasses
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
SEEDS = Path(__file__).with_name("seeds")


@dataclasses.dataclass
class Outcome:
    """What became of a target's cases.

    Attributes:
        cases: cases that have been run.
        calls: checked calls in all of them.
        failures: seed -> what was wrong.
        seconds: how long it took.
    """

    cases: int = 0
    calls: int = 0
    failures: dict[int, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


def kept_seeds(target: str) -> list[int]:
    """The seeds of cases that failed once, a line each in seeds/<target>.txt, with the reason behind a #."""
    file = SEEDS / f"{target}.txt"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [int(seed) for line in lines if (seed := line.partition("#")[0].strip())]


class _Job:
    """Every ``step``-th seed, in one process after another: a new one begins behind a seed that killed the last."""

    def __init__(self, module: str, first: int, step: int, count: int, limit: float) -> None:
        self._module, self._next, self._step, self._left, self._limit = module, first, step, count, limit
        self.outcome = Outcome()
        self._stop = threading.Event()
        self._process: subprocess.Popen[str] | None = None

    def stop(self) -> None:
        """End the process; its unfinished case does not count."""
        self._stop.set()
        if self._process is not None:
            self._process.kill()

    def run(self) -> None:
        while self._left != 0 and not self._stop.is_set():
            if not self._run_process():
                return

    def _run_process(self) -> bool:
        """Run cases until the process ends; returns whether there may be more."""
        with tempfile.TemporaryFile("w+") as errors:
            numbers = map(str, (self._next, self._step, self._left))
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "python_tests.fuzz.child", self._module, *numbers],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            if self._stop.is_set():
                process.kill()
            begun, hangs = self._listen(process)
            code = process.wait()
            if self._stop.is_set():
                return False
            errors.seek(0)
            last_words = errors.read()[-4000:]
        if begun is not None:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            if hangs:
                how = f"no answer within {self._limit:g} s"
            self._end(begun, failure=f"the process ended: {how}\n{last_words}")
            return True
        if code != 0:
            raise RuntimeError(f"{self._module} could not be run:\n{last_words}")
        return False

    def _listen(self, process: subprocess.Popen[str]) -> tuple[int | None, bool]:
        """Take note of what the process says; returns the seed at which it fell silent, if any, and if it hangs."""
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        assert process.stdout is not None
        threading.Thread(target=_pass_on, args=(process.stdout, lines), daemon=True).start()
        begun = None
        while True:
            try:
                line = lines.get(timeout=self._limit)
            except queue.Empty:
                process.send_signal(signal.SIGABRT)  # faulthandler then says where it is
                return begun, True
            if not line:
                return begun, False
            said: dict[str, Any] = json.loads(line)
            if "begin" in said:
                begun = said["begin"]
            elif "seed" in said:
                self._end(**said)
                begun = None

    def _end(self, seed: int, calls: int = 0, failure: str = "") -> None:
        self.outcome.cases += 1
        self.outcome.calls += calls
        if failure:
            self.outcome.failures[seed] = failure
        self._next = seed + self._step
        self._left = max(self._left - 1, -1)


def _pass_on(pipe: IO[str], lines: queue.SimpleQueue[str]) -> None:
    for line in pipe:
        lines.put(line)
    lines.put("")


def run(
    module: str,
    *,
    first_seed: int = 0,
    cases: int | None = None,
    seconds: float | None = None,
    jobs: int = 1,
    limit: float = 60.0,
) -> Outcome:
    """Run cases of a target.

    Args:
        module: the target; its ``run(seed)`` returns the number of checked calls, or raises.
        first_seed: the seed of the first case; the others follow.
        cases: how many; None for as many as there is time for.
        seconds: the time to end at; None to run all cases.
        jobs: processes that share the seeds.
        limit: seconds after which a case counts as hanging.

    Raises:
        RuntimeError: the target could not be imported.
    """
    started = time.monotonic()
    counts = [-1 if cases is None else len(range(i, cases, jobs)) for i in range(jobs)]
    all_jobs = [_Job(module, first_seed + i, jobs, count, limit) for i, count in enumerate(counts)]
    problems: list[Exception] = []

    def work(job: _Job) -> None:
        try:
            job.run()
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(job,)) for job in all_jobs]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            left = None if seconds is None else max(0.0, started + seconds - time.monotonic())
            thread.join(left)
    finally:
        for job in all_jobs:
            job.stop()
        for thread in threads:
            thread.join()
    if problems:
        raise problems[0]
    total = Outcome(seconds=time.monotonic() - started)
    for job in all_jobs:
        total.cases += job.outcome.cases
        total.calls += job.outcome.calls
        total.failures.update(job.outcome.failures)
    total.failures = dict(sorted(total.failures.items()))
    return total
