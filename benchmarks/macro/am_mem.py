"""The step of am-mem over that of eager Adam, of the same network, in turns.

    python -m benchmarks.macro.am_mem [--rows ROW ...] [--threads 1] [--output FILE.md]

By default, and where it keeps all that it has learned (``exact``, without forgetting or damping). Figures are medians
over the rounds of the ratio of two times in the same round, with quartiles. ``--cpu-time`` counts processor time,
which other load on the machine disturbs less. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.macro import processor
from benchmarks.macro.contenders import entries
from benchmarks.macro.networks import Network, mlp
from benchmarks.macro.teller import teller
from benchmarks.macro.turns import Quartiles, ratio, round_seconds, take_turns

base = "autograd, Adam(fused)"
methods = {"default": "am-mem", "keeping": "am-mem, keeping"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A network and what is asked of am-mem on it.

    Attributes:
        network: the network and the size of its minibatches.
        bounds: for the time over that of eager Adam(fused), by setting.
    """

    network: Network
    bounds: dict[str, float]


rows = {
    "784-100-100-10, batch 20": Row(mlp((784, 100, 100, 10), 20), {"default": 2.2, "keeping": 2.5}),
    "784-100-100-10, batch 200": Row(mlp((784, 100, 100, 10), 200), {"default": 1.8, "keeping": 5}),
    "3072-100-100-10, batch 20": Row(mlp((3072, 100, 100, 10), 20), {"default": 10, "keeping": 10}),
    "3072-200-200-10, batch 100": Row(mlp((3072, 200, 200, 10), 100), {"keeping": 7}),
}
header = "| network | eager, µs | setting | am-mem / eager | asked |\n|---|---|---|---|---|"


def line(name: str, microseconds: float, setting: str, found: Quartiles) -> str:
    """A row of the table."""
    asked = rows[name].bounds.get(setting)
    return (
        f"| {name} | {microseconds:.0f} | {setting} | {found.median:.2f} ({found.low:.2f} to {found.high:.2f}) "
        f"| {'' if asked is None else f'{asked:g}'} |"
    )


def measured(name: str, rounds: int, seconds: float, cpu_time: bool = False) -> list[str]:
    """The lines of a network.

    Args:
        name: of the row.
        rounds: how often every contender is timed.
        seconds: how long a turn is.
        cpu_time: count processor time.
    """
    ready, _ = entries(rows[name].network, [base, *methods.values()])
    times = take_turns(ready, rounds, seconds, time.process_time if cpu_time else time.perf_counter)
    microseconds = 1e6 * statistics.median(times[base])
    return [line(name, microseconds, setting, ratio(times, each, base)) for setting, each in methods.items()]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=list(rows), default=list(rows), metavar="ROW")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30, help="at least 2")
    parser.add_argument("--seconds", type=float, default=round_seconds, help="of a turn")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--output", type=Path, help="write the table to a file, too")
    arguments = parser.parse_args(argv)
    before = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    tell = teller(arguments.output)

    try:
        tell(f"{processor.heading('torch')}, {arguments.threads} threads\n\n{header}")
        for name in arguments.rows:
            for text in measured(name, arguments.rounds, arguments.seconds, arguments.cpu_time):
                tell(text)
    finally:
        torch.set_num_threads(before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
