"""Streams whose world changes: prequential accuracy, every minibatch being tested on before it is trained on.

    python -m benchmarks.paper.drift tune
    python -m benchmarks.paper.drift run [--seeds 3]
    python -m benchmarks.paper.drift table|figure

100,000 samples in minibatches of 100, drawn from the training set in one order after another, so that MNIST's 60,000
come again, if turned by another angle, and the 41,233 of the HIGGS sample twice:

- ``rotation, abrupt``: MNIST, upright, then turned by 90 degrees after every fifth of the stream;
- ``rotation, gradual``: MNIST, turned slowly by 180 degrees in all;
- ``flip, abrupt``: HIGGS, whose classes change places after every third of the stream;
- ``flip, gradual``: HIGGS, every label changing places with a probability that goes from 0 to 1.

Networks 784-100-100-10 and 28-100-100-2. Every contender's number, the learning rate or the share of the past that is
forgotten, was chosen on another seed of the stream at hand. Results are JSON lines under benchmarks/results/drift.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import altmin_ext
from altmin_ext.data import streams
from benchmarks.paper import records

results = Path(__file__).parent.parent / "results" / "drift"
samples, batch_size = 100_000, 100
Minibatches = Iterator[tuple[Tensor, Tensor]]


def turned(x: Tensor, degrees: float) -> Tensor:
    """Images (B, C, H, W) rotated about their middle; what comes in from outside is the background."""
    angle = math.radians(degrees)
    matrix = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]
    ).expand(len(x), 2, 3)
    background = x.min()
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x - background, grid, align_corners=False) + background


def _drawn(data: str, seed: int) -> Iterator[tuple[float, Tensor, Tensor]]:
    """How much of the stream is over, and the next minibatch."""
    x, y = altmin_ext.data.load(data).train
    stream = streams.endless(x, y, batch_size, seed)
    for number, (own, labels) in enumerate(itertools.islice(stream, samples // batch_size)):
        yield number * batch_size / samples, own, labels


def rotation_abrupt(seed: int) -> Minibatches:
    for past, x, y in _drawn("mnist", seed):
        yield turned(x, 90.0 * int(5 * past)), y


def rotation_gradual(seed: int) -> Minibatches:
    for past, x, y in _drawn("mnist", seed):
        yield turned(x, 180.0 * past), y


def flip_abrupt(seed: int) -> Minibatches:
    for past, x, y in _drawn("higgs", seed):
        yield x, 1 - y if int(3 * past) == 1 else y


def flip_gradual(seed: int) -> Minibatches:
    generator = torch.Generator().manual_seed(seed)
    for past, x, y in _drawn("higgs", seed):
        flipped = torch.rand(len(y), generator=generator) < past
        yield x, torch.where(flipped, 1 - y, y)


worlds: dict[str, Callable[[int], Minibatches]] = {
    "rotation, abrupt": rotation_abrupt,
    "rotation, gradual": rotation_gradual,
    "flip, abrupt": flip_abrupt,
    "flip, gradual": flip_gradual,
}
# Method, fixed options, the option to tune, and its values.
contenders: dict[str, tuple[str, dict[str, Any], str, tuple[float, ...]]] = {
    "sgd": ("sgd", {}, "lr", (0.01, 0.03, 0.1, 0.3, 1.0)),
    "adam": ("adam", {}, "lr", (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)),
    "am-adam": ("am-adam", {}, "lr", (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)),
    "am-mem, nothing forgotten": ("am-mem", {"forgetting": 0.0}, "lr_memory", (0.5, 2.0, 8.0, 32.0)),
    "am-mem, forgetting tuned": ("am-mem", {}, "forgetting", (0.03, 0.1, 0.3, 0.5, 0.8)),
}


def prequential(world: str, contender: str, value: float, seed: int) -> list[float]:
    """Accuracy on every minibatch at the weights before it."""
    method, options, tuned, _ = contenders[contender]
    hidden_layers = (100, 100)
    n_in, classes = (784, 10) if world.startswith("rotation") else (28, 2)
    torch.manual_seed(seed)
    model = altmin_ext.models.mlp(n_in, hidden_layers, classes)
    learner = altmin_ext.make_method(method, model, seed=seed, **options, **{tuned: value})
    return [int(learner.step(x, y).correct or 0) / len(x) for x, y in worlds[world](seed)]


def _path(kind: str) -> Path:
    return results / f"{kind}.jsonl"


def _records(kind: str) -> list[dict[str, Any]]:
    return records.read(_path(kind))


def tune() -> None:
    """Every value of every contender, on a seed of its own."""
    done = {(r["world"], r["contender"], r["value"]) for r in _records("tuning")}
    for world, contender in itertools.product(worlds, contenders):
        for value in contenders[contender][3]:
            if (world, contender, value) in done:
                continue
            try:
                accuracy = statistics.mean(prequential(world, contender, value, 1000))
            except altmin_ext.DivergenceError:
                accuracy = 0.0
            records.append(
                _path("tuning"),
                {"world": world, "contender": contender, "value": value, "accuracy": accuracy},
            )
            print(f"{world}, {contender}, {value:g}: {accuracy:.4f}", flush=True)


def best_value(world: str, contender: str) -> float:
    """What was found best."""
    tried = [r for r in _records("tuning") if (r["world"], r["contender"]) == (world, contender)]
    if not tried:
        raise SystemExit(f"{contender} has not been tuned for {world}: run `tune`.")
    return float(max(tried, key=lambda r: r["accuracy"])["value"])


def run(seeds: int) -> None:
    """Every contender with its best value; of the curve, the means of every ten minibatches are kept."""
    done = {(r["world"], r["contender"], r["value"], r["seed"]) for r in _records("runs")}
    for seed, world, contender in itertools.product(range(seeds), worlds, contenders):
        value = best_value(world, contender)
        if (world, contender, value, seed) in done:
            continue
        curve = prequential(world, contender, value, seed)
        means = [round(statistics.mean(curve[i : i + 10]), 5) for i in range(0, len(curve), 10)]
        record = {"world": world, "contender": contender, "value": value, "seed": seed}
        records.append(_path("runs"), {**record, "accuracy": statistics.mean(curve), "curve": means})
        print(f"{world}, {contender}, {seed}: {statistics.mean(curve):.4f}", flush=True)


def _groups() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The runs of every stream and contender with the value that is the best by now."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in _records("runs"):
        if record["value"] == best_value(record["world"], record["contender"]):
            groups.setdefault((record["world"], record["contender"]), []).append(record)
    return groups


def table() -> str:
    """Mean prequential accuracy and its standard deviation over the seeds."""
    head = ["| stream | contender | tuned | prequential accuracy | seeds |", "|---|---|---|---|---|"]
    lines = []
    for (world, contender), runs in sorted(
        _groups().items(), key=lambda entry: list(worlds).index(entry[0][0])
    ):
        values = [record["accuracy"] for record in runs]
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        tuned = f"{contenders[contender][2]} {runs[0]['value']:g}"
        lines.append(
            f"| {world} | {contender} | {tuned} | {statistics.mean(values):.4f}{spread} | {len(values)} |"
        )
    return "\n".join(head + lines)


def figure(path: Path) -> None:
    """Prequential accuracy along the stream, a panel per world."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    picture, axes = pyplot.subplots(1, len(worlds), figsize=(4 * len(worlds), 4), layout="constrained")
    for axis, world in zip(axes, worlds, strict=True):
        for (own, contender), runs in _groups().items():
            if own != world:
                continue
            curve = [statistics.mean(values) for values in zip(*(r["curve"] for r in runs), strict=True)]
            axis.plot([1000 * (i + 1) for i in range(len(curve))], curve, linewidth=1, label=contender)
        axis.set(title=world, xlabel="samples seen")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("prequential accuracy, means of 1,000")
    handles, labels = axes[0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize="small")
    picture.savefig(path, dpi=130)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("tune", "run", "table", "figure"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    if arguments.action == "tune":
        tune()
    elif arguments.action == "run":
        run(arguments.seeds)
    elif arguments.action == "table":
        print(table())
    else:
        figure(results / "drift.png")


if __name__ == "__main__":
    main()
