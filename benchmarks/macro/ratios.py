"""Step times side by side: contenders take turns within one run, so that the machine's drift hits all alike.

    python -m benchmarks.macro.ratios [--threads 1 2] [--rounds 30] [--cpu-time] [--output FILE.json]

Prints, per network and thread count, each contender's median step time and the median over the rounds of its ratio
to eager autograd, with quartiles. ``--cpu-time`` counts processor time, which other load on the machine disturbs
less; it is meaningful for one thread. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.macro import processor
from benchmarks.macro.contenders import contenders, entries
from benchmarks.macro.networks import networks, published
from benchmarks.macro.turns import ratio, take_turns

base = "autograd, Adam(fused)"
pairs = {
    "am-adam": base,
    "am-adam, 1 iteration": base,
    "am-sgd": base,
    "am-mem": base,
    "block-admm": base,
    "block-admm, jacobi": base,
    "yardstick adam": base,
    "autograd, SGD(fused)": base,
    "jax.jit, optax adam": base,
    "numpy by hand, Adam": base,
    "numpy by hand, SGD": base,
    "torch.compile, Adam(fused)": base,
    "am-adam's products alone": base,
    "autograd's products alone": base,
    "am-adam, released scaling": "authors' released code",
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--networks", nargs="+", choices=list(networks), default=published)
    parser.add_argument("--contenders", nargs="+", choices=list(contenders), default=list(contenders))
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(argv)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    rows = []
    print(f"{processor.heading('torch', 'jax')}\n")
    print("| network | threads | contender | ms per step | ratio | to | quartiles |")
    print("|---|---|---|---|---|---|---|")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for network in arguments.networks:
            chosen, left_out = entries(networks[network], arguments.contenders)
            times = take_turns(chosen, arguments.rounds, clock=clock)
            for name, values in times.items():
                to = pairs.get(name, "")
                row = {
                    "network": network,
                    "threads": threads,
                    "contender": name,
                    "ms": 1e3 * statistics.median(values),
                }
                if to in times:
                    found = ratio(times, name, to)
                    row |= {"ratio": found.median, "to": to, "quartiles": [found.low, found.high]}
                    tail = f"{found.median:.3f} | {to} | {found.low:.3f} to {found.high:.3f}"
                else:
                    tail = " | | "
                print(f"| {network} | {threads} | {name} | {row['ms']:.3f} | {tail} |", flush=True)
                rows.append(row)
            for name, reason in left_out.items():
                print(f"| {network} | {threads} | {name} | left out: {reason} | | | |")
    if arguments.output:
        machine = {"processor": processor.name(), "cores": os.cpu_count(), "torch": torch.__version__}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
