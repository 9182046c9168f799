"""Step times side by side: contenders take turns within one run, so that the machine's drift hits all alike.

    python -m benchmarks.macro.ratios [--threads 1 2] [--rounds 30] [--cpu-time] [--output FILE.json]

Prints, per network and thread count, each contender's median step time and the median over the rounds of its ratio
to eager autograd, with quartiles. ``--cpu-time`` counts processor time, which other load on the machine disturbs
less; it is meaningful for one thread. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.macro.contenders import contenders, minibatches, networks

base = "autograd, Adam(fused)"
pairs = {
    "am-adam": base,
    "am-adam, 1 iteration": base,
    "am-sgd": base,
    "am-mem": base,
    "block-admm": base,
    "block-admm, jacobi": base,
    "yardstick adam": base,
    "torch.compile, Adam(fused)": base,
    "am-adam's products alone": base,
    "autograd's products alone": base,
    "am-adam, released scaling": "authors' released code",
}
round_seconds = 0.15


def measure(
    network: str, names: list[str], rounds: int, clock: Callable[[], float]
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Milliseconds per step of every contender in every round, and why some were left out."""
    chosen = networks[network]
    data = minibatches(chosen)
    steps, left_out = {}, {}
    for name in names:
        try:
            steps[name] = contenders[name](chosen)
        except LookupError as reason:
            left_out[name] = str(reason)
    counts = {}
    for name, step in steps.items():
        trial = list(itertools.islice(itertools.cycle(data), 2 if chosen.pool < 10 else 5))
        for x, y in trial:
            step(x, y)
        start = time.perf_counter()
        for x, y in trial:
            step(x, y)
        seconds = (time.perf_counter() - start) / len(trial)
        counts[name] = max(1 if seconds > round_seconds else 3, int(round_seconds / seconds))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        order = list(steps) if number % 2 == 0 else list(reversed(steps))
        for name in order:
            step, count = steps[name], counts[name]
            step(*data[0])  # the caches belong to the contender before
            ahead = itertools.islice(itertools.cycle(data[1:]), count)
            start = clock()
            for x, y in ahead:
                step(x, y)
            times[name].append(1e3 * (clock() - start) / count)
    return times, left_out


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--networks", nargs="+", choices=list(networks), default=list(networks))
    parser.add_argument("--contenders", nargs="+", choices=list(contenders), default=list(contenders))
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(argv)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    rows = []
    print("| network | threads | contender | ms per step | ratio | to | quartiles |")
    print("|---|---|---|---|---|---|---|")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for network in arguments.networks:
            times, left_out = measure(network, arguments.contenders, arguments.rounds, clock)
            for name, values in times.items():
                to = pairs.get(name, "")
                row = {
                    "network": network,
                    "threads": threads,
                    "contender": name,
                    "ms": statistics.median(values),
                }
                if to in times:
                    ratios = [a / b for a, b in zip(values, times[to], strict=True)]
                    low, row["ratio"], high = statistics.quantiles(ratios, n=4)
                    row |= {"to": to, "quartiles": [low, high]}
                    tail = f"{row['ratio']:.3f} | {to} | {low:.3f} to {high:.3f}"
                else:
                    tail = " | | "
                print(f"| {network} | {threads} | {name} | {row['ms']:.3f} | {tail} |", flush=True)
                rows.append(row)
            for name, reason in left_out.items():
                print(f"| {network} | {threads} | {name} | left out: {reason} | | | |")
    if arguments.output:
        machine = {"processor": platform.processor(), "cores": os.cpu_count(), "torch": torch.__version__}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
