"""What the training loop costs: samples per second of `train` over those of a bare loop, on as many as MNIST has.

    python -m benchmarks.macro.throughput [--rounds 15] [--threads 1] [--samples 60000]

The bare loop gathers each minibatch by index and calls ``method.step``; `train` does the same with progress bar
and history. They take turns at three epochs each; a round's ratio is that of their fastest epochs, and the median
over the rounds is reported, with that of whole calls, which check the data once.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import torch

import altmin_ext
from benchmarks.macro import processor

batch, hidden, epochs = 200, (100, 100), 3


def bare_loop(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Seconds of the fastest epoch, and of all, by hand."""
    torch.manual_seed(0)
    method = altmin_ext.make_method("am-adam", altmin_ext.models.mlp(784, hidden, 10))
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        for index in torch.randperm(len(x)).split(batch):
            method.step(x.index_select(0, index), y.index_select(0, index))
        seconds.append(time.perf_counter() - start)
    return min(seconds), sum(seconds)


def train(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """The same of `train`; all is its whole call."""
    torch.manual_seed(0)
    model = altmin_ext.models.mlp(784, hidden, 10)
    start = time.perf_counter()
    history = altmin_ext.train(model, (x, y), method="am-adam", epochs=epochs, batch_size=batch)
    return min(epoch["seconds"] for epoch in history.epochs), time.perf_counter() - start


def in_turns(x: torch.Tensor, y: torch.Tensor, rounds: int) -> list[tuple[float, ...]]:
    """The throughput of an epoch of `train`, and of its whole call, over that of the bare loop, round by round."""
    bare_loop(x, y)
    ratios = []
    for number in range(rounds):
        if number % 2:
            loop, whole = bare_loop(x, y), train(x, y)
        else:
            whole, loop = train(x, y), bare_loop(x, y)
        ratios.append(tuple(a / b for a, b in zip(loop, whole, strict=True)))
    return ratios


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="at least 2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=60_000)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    print(f"{processor.heading('torch')}; threads: {arguments.threads}; 784-100-100-10, batch {batch}")
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(arguments.samples, 1, 28, 28, generator=generator)
    y = torch.randint(10, (arguments.samples,), generator=generator)
    ratios = in_turns(x, y, arguments.rounds)
    for what, values in zip(("an epoch", "the whole call"), zip(*ratios, strict=True), strict=True):
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"throughput of {what} over the bare loop: {middle:.3f} (quartiles {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
