"""Memory over an endless stream of samples, for every method that takes one.

    python -m benchmarks.macro.stream_memory [--samples 1000000] [--output benchmarks/results/stream-memory.md]

A network 30-64-64-2, by each of the ways in which samples reach a method:

- ``step``: a loop of ``method.step`` on minibatches of 50;
- ``learn``: ``method.learn`` on 5,000 samples at a time, one by one by am-sgd and am-adam, else in minibatches of 50;
- ``train``: ``altmin_ext.train(steps=...)`` over ``data.streams.endless``, minibatches of 50. What the record of its
  steps holds at each time, which grows up to 100,000 steps, is subtracted;
- ``restore``: as ``step``, with ``on_nonfinite="restore"`` and a divergence after every tenth of the samples.

Each row is a process of its own. Growth is from a tenth of the samples on: of the resident memory, and of its peak.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext.data import streams
from benchmarks.macro import processor
from benchmarks.macro.teller import teller

features, classes, batch, held = 30, 2, 50, 5000
limit = 1000  # kB of growth
# The steps of these are planned natively, so that single samples are fast.
planned = ("am-sgd", "am-adam")


def network(name: str) -> nn.Sequential:
    """30-64-64-2, for deepfacto with a layer of 64 factors in front of the last Linear."""
    torch.manual_seed(0)
    if name == "deepfacto":
        encoder = nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        return altmin_ext.models.deepfacto(encoder, 64, 64, nn.Linear(64, classes))
    return altmin_ext.models.mlp(features, (64, 64), classes)


def samples() -> tuple[Tensor, Tensor]:
    """What the stream draws from."""
    x = torch.randn(held, features, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] * x[:, 1] > 0).long()


def made(name: str, **options: Any) -> altmin_ext.Method:
    return altmin_ext.make_method(name, network(name), **options)


def minibatches() -> Iterator[tuple[Tensor, Tensor]]:
    return zip(*(itertools.cycle(part.split(batch)) for part in samples()), strict=True)


Watch = Callable[[int, int], None]  # takes the samples so far, and the bytes to be subtracted


def by_step(name: str, count: int, watch: Watch) -> None:
    method = made(name)
    for number, (x, y) in enumerate(itertools.islice(minibatches(), count // batch), start=1):
        method.step(x, y)
        watch(number * batch, 0)


def by_learn(name: str, count: int, watch: Watch) -> None:
    method, size, (x, y) = made(name), 1 if name in planned else batch, samples()
    for number in range(1, count // held + 1):
        method.learn(x, y, batch_size=size)
        watch(number * held, 0)


def by_train(name: str, count: int, watch: Watch) -> None:
    class Watching:
        def on_step(self, state: Any) -> None:
            h = state.history
            kept = (h.step_loss, h.step_accuracy, h.step_objective)
            watch(state.step * batch, sum(record.nbytes for record in kept if record is not None))

    method, stream = made(name), streams.endless(*samples(), batch)
    altmin_ext.train(
        method.model, stream, method=method, steps=count // batch, progress=False, callbacks=[Watching()]
    )


def by_restore(name: str, count: int, watch: Watch) -> None:
    method, tenth, expected = made(name, on_nonfinite="restore"), count // batch // 10, 0
    for number, (x, y) in enumerate(itertools.islice(minibatches(), count // batch), start=1):
        expected += number % tenth == tenth // 2
        method.learning_rate_factor = 1e300 if method.restores < expected else 1.0
        method.step(x, y)
        watch(number * batch, 0)
    if method.restores != expected:
        raise RuntimeError(f"{name} has restored {method.restores} times, not {expected}")


ways = {"step": by_step, "learn": by_learn, "train": by_train, "restore": by_restore}


def methods(way: str) -> list[str]:
    """The names of those that take a stream in this way."""
    classes = {name: altmin_ext.methods.method_class(name) for name in altmin_ext.methods.names()}
    return [n for n, c in classes.items() if not c.full_batch and (way != "restore" or c.has_rate)]


def measured(name: str, way: str, count: int) -> dict[str, float]:
    """Resident memory and its peak in kB, after a tenth of the samples and after all."""
    found: dict[str, float] = {}

    def watch(seen: int, kept: int) -> None:
        part = {count // 10: "tenth", count: "all"}.get(seen)
        if part:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            found[part] = (pages * resource.getpagesize() - kept) / 1024
            found[f"peak of {part}"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - kept / 1024

    ways[way](name, count, watch)
    return found


def row(name: str, way: str, count: int) -> tuple[str, bool]:
    """A line of the table, from a process of its own, and whether the growth is below the limit."""
    command = [sys.executable, "-m", "benchmarks.macro.stream_memory", "--samples", str(count)]
    done = subprocess.run([*command, "--worker", name, way], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} by {way} failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    growth, peak = found["all"] - found["tenth"], found["peak of all"] - found["peak of tenth"]
    cells = (name, way, f"{found['all'] / 1024:.1f}", f"{growth:.0f}", f"{peak:.0f}")
    return "| " + " | ".join(cells) + " |", max(growth, peak) < limit


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1_000_000, help="a multiple of 100,000")
    parser.add_argument("--ways", nargs="+", choices=list(ways), default=list(ways), metavar="WAY")
    parser.add_argument("--methods", nargs="+", choices=altmin_ext.methods.names(), metavar="NAME")
    parser.add_argument("--output", type=Path, help="write the table to a file, too")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        torch.set_num_threads(1)
        print(json.dumps(measured(*arguments.worker, arguments.samples)))
        return 0
    tell = teller(arguments.output)
    count = arguments.samples
    tell(
        f"{processor.heading('torch')}: `python -m benchmarks.macro.stream_memory`\n\n"
        f"Resident memory after {count:,} samples, and its growth since {count // 10:,}.\n\n"
        "| method | by | MB | growth, kB | growth of the peak, kB |\n|---|---|---|---|---|"
    )
    grown = []
    for way in arguments.ways:
        for name in arguments.methods or methods(way):
            if name in methods(way):
                line, is_flat = row(name, way, count)
                tell(line)
                grown += [] if is_flat else [f"{name} by {way}"]
    if grown:
        print(f"grown by {limit} kB or more: {', '.join(grown)}", file=sys.stderr)
    return bool(grown)


if __name__ == "__main__":
    sys.exit(main())
