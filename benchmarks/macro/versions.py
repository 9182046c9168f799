"""Step times of two versions of the package, taken in turns, so that the machine's drift hits both alike.

    python -m benchmarks.macro.versions --before OTHER/.venv/bin/python [--rounds 30] [--threads 1] [--cpu-time]

Each version lives in a process of its own and trains the same networks on the same minibatches; the two take turns.
Prints, per method and network, the median over the rounds of this version's time over the other's, with quartiles.
Uses the public interface alone, so that it runs on old versions. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import nn

classes = 10
round_seconds = 0.1


def _networks() -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]:
    """Maker and shape of a sample."""
    from altmin_ext import models

    return {
        "8-16-4": (lambda: models.mlp(8, [16], 4), (8,)),
        "784-100-100-10": (lambda: models.mlp(784, [100, 100], classes), (784,)),
        "784-256-256-10": (lambda: models.mlp(784, [256, 256], classes), (784,)),
        "784-500-500-10": (lambda: models.mlp(784, [500, 500], classes), (784,)),
        "784-10x100-10": (lambda: models.mlp(784, [100] * 10, classes), (784,)),
        "lenet5": (lambda: models.lenet5(), (1, 28, 28)),
        "binary": (lambda: models.binary_mlp(), (784,)),
        "elman 15": (lambda: models.elman_rnn(hidden=15), (784,)),
        "factors": (
            lambda: models.deepfacto(
                nn.Sequential(nn.Flatten(), nn.Linear(784, 100)), 100, 32, nn.Linear(32, classes)
            ),
            (784,),
        ),
    }


class Case(NamedTuple):
    """A method on a network, at a minibatch size; for the methods that take the whole training set, its size."""

    method: str
    network: str
    batch: int
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The method with its options."""
        return " ".join([self.method, *(f"{option}={value}" for option, value in self.options)])


cases = [
    Case("am-adam", "8-16-4", 1),
    Case("am-adam", "784-100-100-10", 1),
    Case("am-adam", "784-100-100-10", 28),
    Case("am-adam", "784-100-100-10", 200),
    Case("am-adam", "784-500-500-10", 200),
    Case("am-adam", "784-10x100-10", 200),
    Case("am-adam", "lenet5", 128),
    Case("am-adam", "binary", 100),
    Case("am-adam", "elman 15", 64),
    Case("am-sgd", "784-100-100-10", 200),
    Case("am-mem", "784-100-100-10", 200),
    Case("am-adam-off", "784-100-100-10", 1000),
    Case("am-mem-off", "784-100-100-10", 1000),
    Case("block-admm", "784-100-100-10", 200),
    Case("block-admm", "784-256-256-10", 128, (("order", "gauss-seidel"),)),
    Case("block-admm", "784-256-256-10", 128, (("order", "jacobi"),)),
    Case("deepfacto", "factors", 200),
    Case("dtp", "784-100-100-10", 100),
    Case("dtp", "784-100-100-10", 200),
    Case("dtp", "binary", 100),
    Case("admm", "784-100-100-10", 1000),
    Case("admm", "784-100-100-10", 10_000),
    Case("mdlam", "784-100-100-10", 1000),
    Case("mdlam", "784-100-100-10", 10_000),
    Case("dladmm", "784-100-100-10", 1000),
    Case("dladmm", "784-100-100-10", 10_000),
    Case("ste", "binary", 100),
    Case("sgd", "784-100-100-10", 200),
    Case("adam", "784-100-100-10", 200),
]


class _Worker:
    """One version in a process of its own."""

    def __init__(self, python: str, arguments: Sequence[str]) -> None:
        # By its path, so that the package is the interpreter's own and not the one beside this file.
        command = [python, "-P", str(Path(__file__).resolve()), "--worker", *arguments]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, cwd=Path(python).parent, env=environment
        )

    def ask(self, message: dict[str, Any]) -> Any:
        """Send a message, wait for the answer."""
        sent, received = self._process.stdin, self._process.stdout
        assert sent is not None
        assert received is not None
        sent.write(json.dumps(message) + "\n")
        sent.flush()
        answer = received.readline()
        if not answer:
            raise SystemExit(f"the process of {self._process.args!r} has ended")
        return json.loads(answer)


def _serve(requests: IO[str], answers: IO[str], clock: Callable[[], float]) -> None:
    """What a worker does: make a method for a case, then run as many steps as asked, and say how long they took."""
    import altmin_ext

    step: Callable[[], Any] = lambda: None  # noqa: E731
    for line in requests:
        message = json.loads(line)
        if "case" in message:
            name, network, batch, options = message["case"]
            make, shape = _networks()[network]
            torch.manual_seed(0)
            method = altmin_ext.make_method(name, make(), **dict(options))
            whole = name.endswith("-off") or name in ("admm", "mdlam", "dladmm")
            outputs = 4 if network == "8-16-4" else classes
            pool = [
                (torch.randn(batch, *shape), torch.randint(outputs, (batch,)))
                for _ in range(1 if whole else 50)
            ]
            data = itertools.cycle(pool)
            step = lambda method=method, data=data: method.step(*next(data))  # noqa: E731
        for _ in range(message["warm"]):
            step()
        start = clock()
        for _ in range(message["steps"]):
            step()
        answers.write(json.dumps(clock() - start) + "\n")
        answers.flush()


def measure(case: Case, workers: Sequence[_Worker], rounds: int) -> list[tuple[float, float]]:
    """Seconds per step before and after, round by round."""
    first = [worker.ask({"case": case, "warm": 3, "steps": 3}) / 3 for worker in workers]
    steps = max(1, int(round_seconds / max(*first, 1e-9)))
    pairs = []
    for number in range(rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        seconds = {i: workers[i].ask({"warm": 1, "steps": steps}) / steps for i in order}
        pairs.append((seconds[0], seconds[1]))
    return pairs


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", help="the interpreter of an environment with the other version")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--cpu-time", action="store_true", help="count processor time, which other load hardly moves"
    )
    parser.add_argument("--methods", nargs="+", help="these alone")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.worker:
        _serve(sys.stdin, sys.stdout, time.process_time if arguments.cpu_time else time.perf_counter)
        return
    if arguments.before is None:
        parser.error("--before must name the interpreter of the other version")
    from benchmarks.macro import processor  # not in the workers: the other version may not have it

    passed = ["--threads", str(arguments.threads), *(["--cpu-time"] if arguments.cpu_time else [])]
    workers = [_Worker(python, passed) for python in (arguments.before, sys.executable)]
    print(f"{processor.heading('torch')}; threads: {arguments.threads}\n")
    print("| method | network | batch | ms before | ms after | after / before (quartiles) |")
    print("|---|---|---|---|---|---|")
    for case in cases:
        if arguments.methods and case.method not in arguments.methods:
            continue
        pairs = measure(case, workers, arguments.rounds)
        low, middle, high = statistics.quantiles([after / before for before, after in pairs], n=4)
        before, after = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
        times = f"{before:.3f} | {after:.3f} | {middle:.3f} ({low:.3f} to {high:.3f})"
        print(f"| {case.name} | {case.network} | {case.batch} | {times} |", flush=True)


if __name__ == "__main__":
    main()
