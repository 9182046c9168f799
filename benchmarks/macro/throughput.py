"""What the training loop costs: samples per second of `train` over those of a bare loop, on MNIST.

    python -m benchmarks.macro.throughput [--rounds 7] [--threads 1]

The bare loop gathers each minibatch by index and calls ``method.step``; `train` does the same with progress bar,
history and checks. They take turns; the ratio of each round is taken, and the median of the ratios is reported.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import altmin_ext

batch, hidden = 200, (100, 100)


def bare_loop(x: torch.Tensor, y: torch.Tensor) -> float:
    """Seconds of one epoch by hand."""
    torch.manual_seed(0)
    method = altmin_ext.make_method("am-adam", altmin_ext.models.mlp(784, hidden, 10))
    start = time.perf_counter()
    for index in torch.randperm(len(x)).split(batch):
        method.step(x[index], y[index])
    return time.perf_counter() - start


def train(x: torch.Tensor, y: torch.Tensor) -> float:
    """Seconds of one call of `train` for one epoch, everything included."""
    torch.manual_seed(0)
    model = altmin_ext.models.mlp(784, hidden, 10)
    start = time.perf_counter()
    altmin_ext.train(model, (x, y), method="am-adam", epochs=1, batch_size=batch)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    x, y = altmin_ext.data.load("mnist").train
    bare_loop(x, y)
    ratios = []
    for number in range(arguments.rounds):
        if number % 2:
            loop, whole = bare_loop(x, y), train(x, y)
        else:
            whole, loop = train(x, y), bare_loop(x, y)
        ratios.append(loop / whole)
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"throughput of train over the bare loop: {middle:.3f} (quartiles {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
