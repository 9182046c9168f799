"""Step times on a GPU: eager and as a CUDA graph, beside backpropagation by autograd and by torch.compile.

    python -m benchmarks.macro.gpu [--rounds 30] [--output FILE.json]

Prints, per network and batch, each contender's median step time and the median over the rounds of its ratio to the
yardstick adam under a graph, with quartiles. Contenders take turns, and times are those between two CUDA events: the
host's, where it is slower than the GPU. float32 throughout, without TF32.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import altmin_ext
from benchmarks.macro.contenders import Step, classes, networks
from python_tests.gpu.device import GPU, missing

batches = (200, 1024, 8192)
base = "yardstick adam, graph"
round_milliseconds = 50.0


mlps = {name: network for name, network in networks.items() if network.width}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return mlps[name].make().to(GPU)


def method(name: str, graph: bool) -> Callable[[nn.Module], Step]:
    return lambda net: altmin_ext.make_method(name, net, graph=graph).step


def compiled(net: nn.Module) -> Step:
    """Forward and backward by torch.compile, which makes CUDA graphs of them, and Adam(fused)."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    criterion = nn.CrossEntropyLoss()
    loss = torch.compile(lambda x, y: criterion(net(x), y), mode="reduce-overhead")

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()

    return step


contenders: dict[str, Callable[[nn.Module], Step]] = {
    "am-adam, eager": method("am-adam", graph=False),
    "am-adam, graph": method("am-adam", graph=True),
    "am-sgd, graph": method("am-sgd", graph=True),
    "yardstick adam, eager": method("adam", graph=False),
    base: method("adam", graph=True),
    "torch.compile(reduce-overhead), Adam(fused)": compiled,
}


def minibatch(batch: int, n_in: int) -> tuple[Tensor, Tensor]:
    """Standard normal inputs and uniform labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, n_in, generator=generator)
    return x.to(GPU), torch.randint(classes, (batch,), generator=generator).to(GPU)


def milliseconds(step: Step, x: Tensor, y: Tensor, count: int) -> float:
    """Of one step, the mean of so many."""
    step(x, y)  # the caches belong to the contender before
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    for _ in range(count):
        step(x, y)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / count


def measure(
    net_name: str, batch: int, names: Sequence[str], rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Milliseconds per step of every contender in every round, and why some were left out."""
    x, y = minibatch(batch, *mlps[net_name].shape)
    steps, counts, left_out = {}, {}, {}
    for name in names:
        step = contenders[name](made(net_name))
        try:
            for _ in range(10):  # compiles, captures, and lets libraries choose
                step(x, y)
        except Exception as error:
            if name.startswith(
                "torch.compile"
            ):  # it needs a compiler that suits it, and fails in many ways without
                left_out[name] = str(error).splitlines()[0]
                continue
            raise
        steps[name] = step
        counts[name] = max(3, int(round_milliseconds / milliseconds(step, x, y, 10)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        for name in list(steps) if number % 2 == 0 else list(reversed(steps)):
            times[name].append(milliseconds(steps[name], x, y, counts[name]))
    return times, left_out


def rows_of(net_name: str, batch: int, times: dict[str, list[float]]) -> Iterator[dict[str, Any]]:
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        row = {
            "network": net_name,
            "batch": batch,
            "contender": name,
            "ms": middle,
            "ms_quartiles": [low, high],
        }
        if base in times:
            ratios = [own / of_base for own, of_base in zip(values, times[base], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            row |= {"ratio": middle, "to": base, "ratio_quartiles": [low, high]}
        yield row


def line(row: dict[str, Any]) -> str:
    cells = [row["network"], row["batch"], row["contender"]]
    for value, quartiles in (("ms", "ms_quartiles"), ("ratio", "ratio_quartiles")):
        if value in row:
            cells += [f"{row[value]:.3f}", "{:.3f} to {:.3f}".format(*row[quartiles])]
        else:
            cells += ["", ""]
    return f"| {' | '.join(map(str, cells))} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--networks", nargs="+", choices=list(mlps), default=list(mlps))
    parser.add_argument("--batches", type=int, nargs="+", default=list(batches))
    parser.add_argument("--contenders", nargs="+", choices=list(contenders), default=list(contenders))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(argv)
    if reason := missing():
        print(f"There is no GPU to time steps on: {reason}.")
        return
    torch.set_float32_matmul_precision("highest")
    machine = {
        "gpu": torch.cuda.get_device_name(GPU),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "precision": "float32, TF32 off",
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()), end="\n\n")
    print(f"| network | batch | contender | ms per step | quartiles | ratio to {base} | quartiles |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for net_name in arguments.networks:
        for batch in arguments.batches:
            times, left_out = measure(net_name, batch, arguments.contenders, arguments.rounds)
            for row in rows_of(net_name, batch, times):
                print(line(row), flush=True)
                rows.append(row)
            for name, why in left_out.items():
                print(f"| {net_name} | {batch} | {name} | left out: {why} | | | |", flush=True)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
