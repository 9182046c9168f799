"""One sample at a time: steps at batch 1 and `method.learn` beside what else learns from single samples.

    python -m benchmarks.macro.single [--networks 8-16-4 30-64-64-2] [--rounds 30] [--output FILE.md]

Prints per contender microseconds per sample, and the ratio to a step of eager SGD(fused) and of eager Adam(fused):
medians over the rounds, in which all take turns in one process on one core. ``learn(x, y, batch_size=1)`` gets
256 samples a call. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import altmin_ext
from benchmarks.macro import processor
from benchmarks.macro.contenders import entries
from benchmarks.macro.networks import Network, made, minibatches, networks
from benchmarks.macro.turns import Entry, ratio, round_seconds, take_turns

samples = 256
chosen = {"8-16-4": "8-16-4, batch 1", "30-64-64-2": "30-64-64-2, batch 1"}
sgd, adam = "autograd, SGD(fused)", "autograd, Adam(fused)"
names = [
    sgd,
    adam,
    "am-sgd",
    "am-adam",
    "numpy by hand, SGD",
    "numpy by hand, Adam",
    "jax.jit, optax adam",
    "scikit-learn, partial_fit",
    "deep-river, learn_one",
    "CapyMOA, Finetune.train",
]
# What a contender should reach, over the base.
bounds = {
    ("8-16-4", "am-adam", adam): 0.08,
    ("8-16-4", "am-sgd, learn", sgd): 0.015,
    ("30-64-64-2", "am-sgd, learn", sgd): 0.04,
}


def learning(network: Network, name: str) -> Entry:
    """`learn` of a method, many samples a call."""
    method = altmin_ext.make_method(name, made(network))

    def learn(x: Tensor, y: Tensor) -> None:
        method.learn(x, y, batch_size=1)

    data = minibatches(network, 4 * samples)
    blocks = [data[first : first + samples] for first in range(0, len(data), samples)]
    return Entry(
        learn,
        [(torch.cat([x for x, _ in block]), torch.cat([y for _, y in block])) for block in blocks],
        samples,
    )


def rows(name: str, rounds: int, seconds: float) -> tuple[list[str], dict[str, str]]:
    """The rows of a network's table, and why contenders are left out."""
    network = networks[chosen[name]]
    ready, left_out = entries(network, names)
    for method in ("am-sgd", "am-adam"):
        ready[f"{method}, learn"] = learning(network, method)
    times = take_turns(ready, rounds, seconds)
    lines = []
    for each, values in times.items():
        cells = []
        for base in (sgd, adam):
            found, bound = ratio(times, each, base), bounds.get((name, each, base))
            asked = "" if bound is None else f" of {bound:g}"
            cells.append(f"{found.median:.4f}{asked} ({found.low:.4f} to {found.high:.4f})")
        lines.append(f"| {name} | {each} | {1e6 * statistics.median(values):.2f} | {' | '.join(cells)} |")
    return lines, left_out


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=list(chosen), default=list(chosen))
    parser.add_argument("--rounds", type=int, default=30, help="at least 2")
    parser.add_argument("--seconds", type=float, default=round_seconds, help="of a turn")
    parser.add_argument("--output", type=Path, help="write the table to a file, too")
    arguments = parser.parse_args(argv)
    before, cores = torch.get_num_threads(), processor.cores()
    heading = processor.heading("torch", "numpy", "jax", "scikit-learn", "deep-river", "capymoa")
    torch.set_num_threads(1)
    if cores:
        os.sched_setaffinity(0, cores[-1:])
    try:
        lines = [
            f"{heading}; one thread on one core",
            "",
            "| network | contender | µs per sample | over SGD(fused) | over Adam(fused) |",
            "|---|---|---|---|---|",
        ]
        reasons: dict[str, str] = {}
        for name in arguments.networks:
            found, left_out = rows(name, arguments.rounds, arguments.seconds)
            lines += found
            reasons |= left_out
        lines += ["", *(f"- {each}: {reason}" for each, reason in reasons.items())]
    finally:
        torch.set_num_threads(before)
        if cores:
            os.sched_setaffinity(0, cores)
    print("\n".join(lines))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
