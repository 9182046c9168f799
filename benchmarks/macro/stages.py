"""Stages in parallel: the weight phase of all stages at once on threads, beside threads inside each product.

    python -m benchmarks.macro.stages [--depths 2 5 10 20 50] [--widths 32 100 250 500 1000] [--threads 2]

In the weight phase of am-adam every stage takes its product again, makes its residual, takes the product of its
gradient and moves its weights, and no stage needs another one. For 784-depth x width-10 the same calls are made

- one stage after the other, on one thread, over which the other times are ratios;
- one stage after the other, with the threads inside each call;
- at once: the stages are shared out among threads by their arithmetic, and each call has one thread. Python's own
  threads take turns between the calls, which a native loop would not;
- by one of these threads alone, the one with the most arithmetic, which a native loop can at best come down to.

With ``torch.mm``, and with ``ops.matmul`` where the package has it.

A second table has whole steps of am-adam on the same networks as they are planned: with all threads inside each call,
and with stages side by side, on threads of their own, where the plan expects that to be faster.

Medians of ratios over the rounds, in which all take turns in one process. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

import altmin_ext
from altmin_ext import models
from altmin_ext.ops import CodeScalar
from altmin_ext.ops import unversioned as ops
from benchmarks.macro import processor
from benchmarks.macro.teller import teller
from benchmarks.macro.turns import Entry, ratio, round_seconds, take_turns

Multiply = Callable[[Tensor, Tensor, Tensor, bool, bool], object]
learning_rate = 1e-6  # the weights stay in place over all rounds


def _torch_multiply(a: Tensor, b: Tensor, out: Tensor, transpose_a: bool, transpose_b: bool) -> None:
    torch.mm(a.t() if transpose_a else a, b.t() if transpose_b else b, out=out)


def multiplies() -> dict[str, Multiply]:
    """The ways to multiply that there are here."""
    found: dict[str, Multiply] = {"torch.mm": _torch_multiply}
    if own := getattr(ops, "matmul", None):

        def multiply(a: Tensor, b: Tensor, out: Tensor, transpose_a: bool, transpose_b: bool) -> None:
            own(a, b, out=out, transpose_a=transpose_a, transpose_b=transpose_b)

        found["ops.matmul"] = multiply
    return found


class Stage:
    """The weight phase of one Linear stage on fixed buffers.

    Args:
        n_in, n_out: of its Linear.
        batch: samples.
        lowest: whether it reads the network's input, which does not move: then there is no product to take again.
        seed: of its numbers.

    Attributes:
        weights: of the Linear.
        work: multiplications of its products.
    """

    def __init__(self, n_in: int, n_out: int, batch: int, lowest: bool, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.lowest = lowest
        self.activation, self.displacement = normal(batch, n_in), normal(batch, n_out)
        self.weights = [normal(n_out, n_in), normal(n_out)]
        self.gradients, self.first, self.second = (
            [torch.zeros_like(w) for w in self.weights] for _ in range(3)
        )
        self.product, self.residual = torch.zeros(batch, n_out), torch.zeros(batch, n_out)
        self.block = torch.zeros(len(CodeScalar), dtype=torch.float64)
        for entry in (CodeScalar.unit, CodeScalar.scale, CodeScalar.normalised):
            self.block[entry] = 1.0
        self.below = None if lowest else self.block.clone()
        self.guard, self.guard_index = torch.zeros(1, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
        self.scalars = torch.tensor([[learning_rate, 1 / batch, 0.0, 0.0]] * 2, dtype=torch.float64)
        self.adam = torch.tensor([0.9, 0.999, 1e-8, 0.0], dtype=torch.float64)
        self.work = batch * n_in * n_out * (1 if lowest else 2)

    def fit(self, multiply: Multiply) -> None:
        """Products, residual and update."""
        if not self.lowest:
            multiply(self.activation, self.weights[0], self.product, False, True)
        ops.weight_residual(
            [self.displacement],
            products=[None if self.lowest else self.product],
            biases=[None],
            codes=[None],
            residuals=[self.residual],
            bias_gradients=[self.gradients[1]],
            scalars=[self.block],
            below=[self.below],
            guard=self.guard,
        )
        multiply(self.residual, self.activation, self.gradients[0], True, False)
        ops.adam_update(
            self.weights,
            self.gradients,
            self.first,
            self.second,
            scalars=self.scalars,
            adam=self.adam,
            guard=self.guard,
            guard_index=self.guard_index,
        )


def network(depth: int, width: int, batch: int) -> list[Stage]:
    """The stages of 784-depth x width-10."""
    widths = itertools.pairwise([784, *[width] * depth, 10])
    return [Stage(n_in, n_out, batch, l == 0, seed=l) for l, (n_in, n_out) in enumerate(widths)]


def shares(stages: Sequence[Stage], threads: int) -> list[list[Stage]]:
    """Share stages out, the largest first and each to the thread with the least work; the fullest share is first."""
    shared: list[list[Stage]] = [[] for _ in range(threads)]

    def work(share: Sequence[Stage]) -> int:
        return sum(stage.work for stage in share)

    for stage in sorted(stages, key=lambda stage: -stage.work):
        min(shared, key=work).append(stage)
    return sorted(shared, key=lambda share: -work(share))


def fit_all(stages: Sequence[Stage], multiply: Multiply, threads: int = 1) -> None:
    """One stage after the other, with so many threads inside each call."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    for stage in stages:
        stage.fit(multiply)


def fit_at_once(shared: Sequence[Sequence[Stage]], multiply: Multiply, pool: ThreadPoolExecutor) -> None:
    """Every share on a thread of its own, the first on the caller's."""
    others = [pool.submit(fit_all, share, multiply) for share in shared[1:]]
    fit_all(shared[0], multiply)
    for other in others:
        other.result()


def row(depth: int, width: int, batch: int, threads: int, rounds: int, seconds: float) -> list[str]:
    """The lines of a network, one for each way to multiply."""
    stages = network(depth, width, batch)
    shared = shares(stages, threads)
    lines = []
    with ThreadPoolExecutor(threads - 1) as pool:
        for name, multiply in multiplies().items():

            def entry(step: Callable[..., None], *arguments: object, multiply: Multiply = multiply) -> Entry:
                return Entry(lambda _, __: step(arguments[0], multiply, *arguments[1:]), [(None, None)])

            times = take_turns(
                {
                    "one": entry(fit_all, stages),
                    "inside": entry(fit_all, stages, threads),
                    "at once": entry(fit_at_once, shared, pool),
                    "largest share": entry(fit_all, shared[0]),
                },
                rounds,
                seconds,
            )
            cells = [
                f"{found.median:.3f} ({found.low:.3f} to {found.high:.3f})"
                for found in (
                    ratio(times, "inside", "one"),
                    ratio(times, "at once", "one"),
                    ratio(times, "largest share", "one"),
                    ratio(times, "at once", "inside"),
                )
            ]
            microseconds = 1e6 * statistics.median(times["one"])
            lines.append(f"| {depth} | {width} | {name} | {microseconds:.1f} | {' | '.join(cells)} |")
    return lines


def planned(depth: int, width: int, batch: int, recorded_on: int, threads: int) -> Callable[..., None]:
    """A step of am-adam, planned for so many threads; for one, no stages run side by side."""
    torch.manual_seed(0)
    method = altmin_ext.make_method("am-adam", models.mlp(784, (width,) * depth, 10))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 784, generator=generator)
    y = torch.randint(10, (batch,), generator=generator)
    torch.set_num_threads(recorded_on)
    for _ in range(2):
        method.step(x, y)

    def step(*_: object) -> None:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        method.step(x, y)

    return step


def planned_row(depth: int, width: int, batch: int, threads: int, rounds: int, seconds: float) -> str:
    """The line of a network in the table of whole steps."""
    made = {
        "one": planned(depth, width, batch, 1, 1),
        "inside": planned(depth, width, batch, 1, threads),
        "planned": planned(depth, width, batch, threads, threads),
    }
    entries = {name: Entry(step, [(None, None)]) for name, step in made.items()}
    times = take_turns(entries, rounds, seconds)
    cells = [
        f"{found.median:.3f} ({found.low:.3f} to {found.high:.3f})"
        for found in (
            ratio(times, "inside", "one"),
            ratio(times, "planned", "one"),
            ratio(times, "planned", "inside"),
        )
    ]
    return f"| {depth} | {width} | {1e6 * statistics.median(times['one']):.1f} | {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 5, 10, 20, 50])
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 100, 250, 500, 1000])
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2, help="at least 2")
    parser.add_argument("--rounds", type=int, default=20, help="at least 2")
    parser.add_argument("--seconds", type=float, default=round_seconds, help="of a turn")
    parser.add_argument("--output", type=Path, help="write the table to a file, too")
    arguments = parser.parse_args(argv)
    before = torch.get_num_threads()
    tell = teller(arguments.output)

    tell(f"{processor.heading('torch')}; batch {arguments.batch}, {arguments.threads} threads\n")
    tell(
        "| hidden layers | width | product | one thread, µs | threads inside | stages at once | largest share alone "
        "| at once / inside |\n|---|---|---|---|---|---|---|---|"
    )
    try:
        for depth, width in itertools.product(arguments.depths, arguments.widths):
            rest = (arguments.batch, arguments.threads, arguments.rounds, arguments.seconds)
            for text in row(depth, width, *rest):
                tell(text)
        tell(
            "\n| hidden layers | width | whole step, one thread, µs | threads inside | planned | planned / inside |\n"
            "|---|---|---|---|---|---|"
        )
        for depth, width in itertools.product(arguments.depths, arguments.widths):
            rest = (arguments.batch, arguments.threads, arguments.rounds, arguments.seconds)
            tell(planned_row(depth, width, *rest))
    finally:
        torch.set_num_threads(before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
