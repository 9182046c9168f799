"""The step of am-adam beside everything that trains the same network, one table for all networks.

    python -m benchmarks.macro.steps [--rows ROW ...] [--threads 1 2] [--without compile] [--output FILE.md]

Every row is a process of its own on as many cores as threads, in which the contenders take turns: eager autograd with
Adam(fused), am-adam, its matrix products alone, ``jax.jit`` with optax, torch.compile, and at batch 1 numpy by hand.
Figures are medians over the rounds of the ratio of two times in the same round, with quartiles. Without ``--threads``
a row is timed at each number of threads that it has a bound for. ``--cpu-time`` counts processor time, which other
load on the machine disturbs less; it is meaningful for one thread. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.macro import processor
from benchmarks.macro.contenders import entries
from benchmarks.macro.networks import networks
from benchmarks.macro.teller import teller
from benchmarks.macro.turns import ratio, round_seconds, take_turns


@dataclasses.dataclass(frozen=True)
class Row:
    """A network and what is asked of am-adam on it.

    Attributes:
        network: its name in :data:`benchmarks.macro.networks.networks`.
        bounds: for the time over that of eager Adam(fused), by the number of threads.
        over_jax: bound for the time over that of ``jax.jit``; None if there is none.
    """

    network: str
    bounds: Mapping[int, float]
    over_jax: float | None = None


rows = {
    "784-100-100-10": Row("2x100", {1: 0.72, 2: 0.72}, 1.0),
    "784-100-100-10, batch 28": Row("2x100, batch 28", {1: 0.45}, 1.0),
    "784-500-500-10": Row("2x500", {1: 0.98, 2: 0.98}, 1.03),
    "784-10x100-10": Row("10x100", {1: 0.78}, 1.0),
    "3072-500-500-10": Row("3072 inputs, 2x500", {1: 1.02}, 1.0),
    "binary 784-500-500-10, batch 100": Row("binary 2x500", {1: 0.85}, 1.0),
    "LeNet-5, batch 128": Row("lenet5 28x28", {1: 0.28}, 1.0),
    "Elman 15, 5 + 5 iterations, batch 1024": Row("elman 15", {1: 0.40}, 1.0),
    "784-500-500-10, GELU": Row("2x500, gelu", {1: 1.05}),
    "784-500-500-10, ELU": Row("2x500, elu", {1: 1.05}),
    "784-500-500-10, softplus": Row("2x500, softplus", {1: 1.05}),
    "convolutions 64-128, batch 8": Row("convolutions 64-128", {1: 1.2}),
    "VGG of stages, batch 32": Row("vgg of stages", {1: 1.2}),
    "residual, batch normalisation, batch 32": Row("residual, batch norm", {1: 1.5}),
    "784-500-500-10, batch 1": Row("2x500, batch 1", {1: 0.8}),
    "8-16-4, batch 1": Row("8-16-4, batch 1", {1: 0.08}, 1.0),
}
base, ours, jax = "autograd, Adam(fused)", "am-adam", "jax.jit, optax adam"
others = {
    "products": "am-adam's products alone",
    "jax": jax,
    "compile": "torch.compile, Adam(fused)",
    "numpy": "numpy by hand, Adam",
}


def figures(
    name: str, rounds: int, seconds: float, cpu_time: bool = False, without: Sequence[str] = ()
) -> dict[str, Any]:
    """The ratios of a row, in this process and with its threads.

    Args:
        name: of the row.
        rounds: how often every contender is timed.
        seconds: how long a turn is.
        cpu_time: count processor time.
        without: columns that stay empty.

    Returns:
        "microseconds" of the base; "ratios", quartiles per contender and over the base; "over jax", those of am-adam
        over ``jax.jit``, or None; "left out", a reason per contender.
    """
    beside = [contender for column, contender in others.items() if column not in without]
    ready, left_out = entries(networks[rows[name].network], [base, ours, *beside])
    times = take_turns(ready, rounds, seconds, time.process_time if cpu_time else time.perf_counter)
    return {
        "microseconds": 1e6 * statistics.median(times[base]),
        "ratios": {each: dataclasses.astuple(ratio(times, each, base)) for each in times if each != base},
        "over jax": dataclasses.astuple(ratio(times, ours, jax)) if jax in times else None,
        "left out": left_out,
    }


def in_process(name: str, threads: int, options: Sequence[str]) -> dict[str, Any]:
    """The same in a process of its own, on as many cores as threads.

    Raises:
        RuntimeError: the process failed.
    """
    flags = "--xla_cpu_multi_thread_eigen=false" if threads == 1 else ""
    environment = {
        **os.environ,
        **{
            variable: str(threads)
            for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        },
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
    }
    command = [sys.executable, "-m", "benchmarks.macro.steps", "--worker", name, "--threads", str(threads)]
    done = subprocess.run([*command, *options], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"the process of {name!r} ended with {done.returncode}.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _cell(quartiles: Sequence[float] | None, bound: float | None = None) -> str:
    if quartiles is None:
        return "|  "
    low, median, high = quartiles
    asked = "" if bound is None else f" of {bound:g}"
    return f"| {median:.3f}{asked} ({low:.3f} to {high:.3f}) "


header = (
    f"| network | threads | eager, µs | asked | am-adam | {' | '.join(others)} | am-adam / jax |\n"
    f"|---|---|---|---|---|{'---|' * len(others)}---|"
)


def line(name: str, threads: int, found: Mapping[str, Any]) -> str:
    """A row of the table; what a contender cannot do stays empty."""
    row, ratios = rows[name], found["ratios"]
    bound = row.bounds.get(threads)
    asked = "" if bound is None else f"{bound:g}"
    cells = [_cell(ratios.get(each)) for each in (ours, *others.values())]
    over_jax = _cell(found["over jax"], row.over_jax)
    return f"| {name} | {threads} | {found['microseconds']:.1f} | {asked} {''.join(cells)}{over_jax}|"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=list(rows), default=list(rows), metavar="ROW")
    parser.add_argument("--threads", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=30, help="at least 2")
    parser.add_argument("--seconds", type=float, default=round_seconds, help="of a turn")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument(
        "--without", nargs="+", choices=list(others), default=[], help="columns to leave empty"
    )
    parser.add_argument("--output", type=Path, help="write the table to a file, too")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        (threads,) = arguments.threads
        if cores := processor.cores():
            os.sched_setaffinity(0, cores[-threads:])
        torch.set_num_threads(threads)
        chosen = (arguments.rounds, arguments.seconds, arguments.cpu_time, arguments.without)
        print(json.dumps(figures(arguments.worker, *chosen)))
        return 0
    options = ["--rounds", str(arguments.rounds), "--seconds", str(arguments.seconds)]
    options += ["--cpu-time"] if arguments.cpu_time else []
    options += ["--without", *arguments.without] if arguments.without else []
    tell = teller(arguments.output)

    tell(
        f"{processor.heading('torch', 'jax', 'optax')}; medians of ratios over eager Adam(fused)\n\n{header}"
    )
    left_out: dict[str, str] = {}
    for name in arguments.rows:
        for threads in arguments.threads or rows[name].bounds:
            found = in_process(name, threads, options)
            tell(line(name, threads, found))
            left_out |= {f"{each}: {reason}": name for each, reason in found["left out"].items()}
    tell("\n" + "\n".join(f"- {reason}" for reason in left_out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
