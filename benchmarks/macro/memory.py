"""The kernels of AM-mem beside what torch offers, in turns within one run.

    python -m benchmarks.macro.memory [--threads 1 2] [--rounds 60]

For the first hidden layer of 784-500-500-10 (785 columns with the bias, 500 rows), minibatches of 200:

- a sweep of block coordinate descent beside the paper's loop over the columns, and beside what the sweep is without a
  threshold, a triangular product and a triangular solve; a sweep from zero beside the solve alone;
- the update of both memory matrices beside two ``addmm_``.

Prints medians and the medians of the ratios with quartiles. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from altmin_ext import ops
from altmin_ext.ops import MemoryScalar
from benchmarks.macro import processor

rows, inputs, batch = 500, 784, 200


def contenders() -> dict[str, tuple[Callable[[], object], str]]:
    """What is timed, and what it is compared with."""
    torch.manual_seed(0)
    columns = inputs + 1
    samples = torch.randn(2 * columns, columns)
    gram, cross = samples.T @ samples, torch.randn(rows, 2 * columns) @ samples
    weight = torch.randn(rows, columns)
    plain = torch.zeros(len(MemoryScalar), dtype=torch.float64)
    soft = plain.clone()
    soft[MemoryScalar.threshold] = 5.0
    activation, code = torch.randn(batch, inputs), torch.randn(batch, rows)
    augmented = torch.cat([activation, torch.ones(batch, 1)], 1)
    past = [torch.zeros(columns, columns), torch.zeros(rows, columns)]
    own = [matrix.clone() for matrix in past]
    forgetting = plain.clone()
    forgetting[MemoryScalar.forgetting] = 0.001

    def column_loop() -> None:
        w = weight.clone()
        for j in range(columns):
            w[:, j] += (cross[:, j] - w @ gram[:, j]) / gram[j, j]

    def triangular() -> None:
        right = torch.addmm(cross, weight, gram.tril(-1), alpha=-1)
        torch.linalg.solve_triangular(gram.triu(), right, upper=True, left=False)

    def solve() -> None:
        torch.linalg.solve_triangular(gram, cross, upper=True, left=False)

    def from_zero() -> None:
        ops.bcd_columns(torch.empty_like(weight), gram, cross, scalars=plain, from_zero=True)

    def sweep(scalars: torch.Tensor, nonnegative: bool = False) -> Callable[[], None]:
        return lambda: ops.bcd_columns(
            weight.clone(), gram, cross, scalars=scalars, sweeps=1, has_bias=True, nonnegative=nonnegative
        )

    def two_products() -> None:
        past[0].addmm_(augmented.t(), augmented, beta=0.999)
        past[1].addmm_(code.t(), augmented, beta=0.999)

    loop, triangle, products = "column loop in torch", "triangular solve in torch", "two addmm_"
    return {
        loop: (column_loop, ""),
        "triangular product and solve in torch": (triangular, loop),
        "sweep": (sweep(plain), loop),
        "sweep, l1": (sweep(soft), loop),
        "sweep, non-negative": (sweep(plain, nonnegative=True), loop),
        triangle: (solve, ""),
        "sweep from zero": (from_zero, triangle),
        products: (two_products, ""),
        "memory_update": (
            lambda: ops.memory_update(activation, code, gram=own[0], cross=own[1], scalars=forgetting),
            products,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    print(f"{processor.heading('torch')}\n")
    print("| what | threads | ms, median | quartiles | over | ratio, median of rounds | quartiles |")
    print("|---|---|---|---|---|---|---|")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        chosen = contenders()
        times: dict[str, list[float]] = {name: [] for name in chosen}
        for number in range(arguments.rounds + 3):
            for name, (call, _) in chosen.items() if number % 2 else reversed(chosen.items()):
                begin = time.perf_counter()
                call()
                if number >= 3:
                    times[name].append(1e3 * (time.perf_counter() - begin))
        for name, (_, base) in chosen.items():
            low, median, high = statistics.quantiles(times[name], n=4)
            row = f"| {name} | {threads} | {median:.2f} | {low:.2f} to {high:.2f} | {base} |"
            if base:
                ratios = [a / b for a, b in zip(times[name], times[base], strict=True)]
                low, median, high = statistics.quantiles(ratios, n=4)
                row += f" {median:.3f} | {low:.3f} to {high:.3f} |"
            print(row if base else f"{row} | |")


if __name__ == "__main__":
    main()
