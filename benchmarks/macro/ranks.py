"""Steps that ranks share, beside those of one process, and beside backpropagation by torch's DistributedDataParallel.

    python -m benchmarks.macro.ranks [--ranks 2] [--rounds 10]

Every rank has one thread. In turns, rank 0 makes steps by itself on whole minibatches while the others wait, and all
make the same steps together, ours and those of DistributedDataParallel with AdamW. Prints the medians over the rounds
of the time alone over the time together, with quartiles, and the bytes that a rank hands to collective calls in a
step, counted. Run it with nothing else running, on as many cores as ranks.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

import altmin_ext
from altmin_ext.parallel import Ranks
from benchmarks.macro import processor

networks = {"784-500-500-10": (784, [500, 500], 200), "784-8x1024-10": (784, [1024] * 8, 256)}


def stepper(
    method: str, n_in: int, hidden: list[int], parallel: str | None
) -> Callable[[Tensor, Tensor], Any]:
    torch.manual_seed(0)
    return altmin_ext.make_method(
        method, altmin_ext.models.mlp(n_in, hidden, 10), lr=1e-4, parallel=parallel
    ).step


def distributed_adam(n_in: int, hidden: list[int]) -> Callable[[Tensor, Tensor], Any]:
    torch.manual_seed(0)
    model = DistributedDataParallel(altmin_ext.models.mlp(n_in, hidden, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def counted(step: Callable[[Tensor, Tensor], Any], x: Tensor, y: Tensor) -> int:
    """The bytes of all tensors that a step hands to a collective call."""
    kept, total = vars(Ranks)["_check"], 0

    def check(tensor: Tensor) -> None:
        nonlocal total
        total += tensor.numel() * tensor.element_size()

    Ranks._check = staticmethod(check)  # type: ignore[method-assign]
    try:
        step(x, y)
    finally:
        Ranks._check = kept  # type: ignore[method-assign]
    return total


def seconds(step: Callable[[Tensor, Tensor], Any], x: Tensor, y: Tensor, steps: int) -> float:
    begun = time.perf_counter()
    for _ in range(steps):
        step(x, y)
    return (time.perf_counter() - begun) / steps


def rank(number: int, size: int, rounds: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29555", RANK=str(number), WORLD_SIZE=str(size))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    for name, (n_in, hidden, batch) in networks.items():
        steps = 20 if len(hidden) < 4 else 4
        x, y = torch.randn(batch, n_in), torch.randint(10, (batch,))
        own = Ranks().share(batch)
        for method in ("am-adam", "adam"):
            alone = stepper(method, n_in, hidden, None)
            together = {"together": stepper(method, n_in, hidden, "data")}
            if method == "adam":
                together["DistributedDataParallel"] = distributed_adam(n_in, hidden)
            ratios: dict[str, list[float]] = {label: [] for label in together}
            for _ in range(rounds + 1):
                distributed.barrier()
                by_itself = seconds(alone, x, y, steps) if number == 0 else 0.0
                for label, step in together.items():
                    distributed.barrier()
                    ratios[label].append(by_itself / seconds(step, x[own], y[own], steps))
            sent = counted(together["together"], x[own], y[own])
            if number == 0:
                for label, found in ratios.items():
                    low, middle, high = statistics.quantiles(found[1:], n=4)
                    more = f", {sent / 1e6:.2f} MB" if label == "together" else ""
                    print(
                        f"{name:16s} {method:8s} {label:24s} {middle:.2f} ({low:.2f} to {high:.2f}){more}",
                        flush=True,
                    )
    distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    print(f"{arguments.ranks} ranks of one thread, {processor.name()}, torch {torch.__version__}")
    print("time alone / time together")
    multiprocessing.spawn(rank, (arguments.ranks, arguments.rounds), arguments.ranks)


if __name__ == "__main__":
    main()
