"""What a checkpoint costs: beside torch.save and torch.load, and as a part of training.

    python -m benchmarks.macro.checkpoint [--rounds 15] [--threads 1] [--folder DIR]

The first table saves am-adam on 784-2000-2000-10, weights and moments, 67 MB, and loads it into the same model and
method. Our side hashes every tensor, writes to a new file, waits until it is on disk and renames it; loading checks
every hash. The other side is torch.save and torch.load(weights_only=True) of the same two states, with and without an
fsync of its file, and the two load_state_dict. They take turns; ratios are taken round by round.

The second is the time of one save while 784-500-500-10 trains, over 30 s: the part of the training that a checkpoint
every 30 s takes.

The folder decides as much as the code: it should be on the disk that checkpoints go to.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import altmin_ext
from altmin_ext import checkpoint
from benchmarks.macro import processor

every = 30.0  # seconds between two checkpoints


def trained(hidden: tuple[int, ...], steps: int = 3) -> Any:
    """am-adam on MNIST's sizes, with moments."""
    torch.manual_seed(0)
    method = altmin_ext.make_method("am-adam", altmin_ext.models.mlp(784, hidden, 10))
    for _ in range(steps):
        method.step(torch.rand(200, 784), torch.randint(10, (200,)))
    return method


def contenders(method: Any, folder: Path) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """What saves and what loads, by name."""
    ours, theirs = folder / "ours.safetensors", folder / "theirs.pt"

    def torch_save() -> None:
        torch.save({"model": method.model.state_dict(), "method": method.state_dict()}, theirs)

    def torch_save_to_disk() -> None:
        torch_save()
        with open(theirs, "rb") as file:
            os.fsync(file.fileno())

    def torch_load() -> None:
        state = torch.load(theirs, weights_only=True)
        method.model.load_state_dict(state["model"])
        method.load_state_dict(state["method"])

    return {
        "checkpoint": (
            lambda: checkpoint.save(ours, method=method),
            lambda: checkpoint.load(ours, method=method),
        ),
        "torch": (torch_save, torch_load),
        "torch with fsync": (torch_save_to_disk, torch_load),
    }


def in_turns(method: Any, folder: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """The seconds of saving and of loading, round by round."""
    calls = contenders(method, folder)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name in calls if number % 2 == 0 else reversed(list(calls)):
            save, load = calls[name]
            start = time.perf_counter()
            save()
            middle = time.perf_counter()
            load()
            if number:  # the first round makes buffers and files
                times[name].append((middle - start, time.perf_counter() - middle))
    return times


def in_training(folder: Path, rounds: int) -> list[float]:
    """The seconds of one save, each after some steps of training."""
    method = trained((500, 500))
    x, y = torch.rand(200, 784), torch.randint(10, (200,))
    seconds = []
    for _ in range(rounds):
        for _ in range(20):
            method.step(x, y)
        start = time.perf_counter()
        checkpoint.save(folder / "training.safetensors", method=method)
        seconds.append(time.perf_counter() - start)
    return seconds


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="at least 2")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="on the disk to measure")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(f"{processor.heading('torch')}; threads: {arguments.threads}\n")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        times = in_turns(trained((2000, 2000)), Path(folder), arguments.rounds)
        print("| 784-2000-2000-10 with moments | save, ms | load, ms | checkpoint over it | quartiles |")
        print("|---|---|---|---|---|")
        for name, pairs in times.items():
            save, load = (1e3 * statistics.median(values) for values in zip(*pairs, strict=True))
            ratios = [sum(ours) / sum(own) for ours, own in zip(times["checkpoint"], pairs, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"| {name} | {save:.1f} | {load:.1f} | {middle:.2f} | {low:.2f} to {high:.2f} |")
        seconds = in_training(Path(folder), arguments.rounds)
        low, middle, high = statistics.quantiles(seconds, n=4)
        print(
            f"\none save of 784-500-500-10 while it trains: {1e3 * middle:.1f} ms (quartiles {1e3 * low:.1f} to "
            f"{1e3 * high:.1f}), {middle / every:.2%} of {every:.0f} s"
        )


if __name__ == "__main__":
    main()
