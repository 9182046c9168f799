"""Methods beside each other on the same data and network, for the same time or the same number of epochs.

    python -m benchmarks.paper.methods tune   [mlp binary ...] [--methods am-adam ...]    # a grid each
    python -m benchmarks.paper.methods run    [mlp binary ...] [--methods am-adam ...]    # three seeds
    python -m benchmarks.paper.methods memory [mlp binary ...] [--methods am-adam ...]    # of one epoch
    python -m benchmarks.paper.methods table                                          # all that has been run
    python -m benchmarks.paper.methods figure

- ``mlp``: MNIST, 784-100-100-10 with relu, half a minute of training for each method. Whatever takes the whole
  training set at once takes its 60,000 images in every epoch; the others take minibatches of 200.
- ``binary``: MNIST, 784-500-500-10 with a sign behind the first hidden layer, 20 epochs in minibatches of 100: the
  paper's Figure 8, of alternating minimisation beside difference target propagation and straight-through;
- ``blocks-mlp``, ``blocks-lenet5``: Block-ADMM beside backpropagation, 10 epochs in minibatches of 128:
  Fashion-MNIST, 784-256-256-10 in three blocks, by default options, and MNIST, LeNet-5 in three blocks, with a
  cosine from twice the default learning rate.

A method is tuned on its rate and, where it has one, its penalty: every point of its grid trains on nine tenths of the
training set, for half the time or epochs, and is judged on the last tenth, unless it is the only one. Every training
has a process of its own, with a single thread, and seconds are of its processor time; the evaluation after each epoch
is not among them. Memory is how far a process grows in an epoch, once a few steps have loaded all libraries. Results
are JSON lines under benchmarks/results/methods.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

import altmin_ext
from altmin_ext.schedules import make_schedule
from benchmarks.paper import records

results = Path(__file__).parent.parent / "results" / "methods"
held_out = 0.1
Grid = dict[str, tuple[Any, ...]]


def mlp() -> nn.Module:
    return altmin_ext.models.mlp(784, [100, 100], 10)


def deepfacto() -> nn.Module:
    """The MLP with the factorisation of its second hidden layer between that and the classes."""
    encoder = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.BatchNorm1d(100)
    )
    return altmin_ext.models.deepfacto(encoder, 100, 64, nn.Linear(64, 10))


def mlp_256() -> nn.Module:
    return altmin_ext.models.mlp(784, [256, 256], 10)


def binary() -> nn.Module:
    return altmin_ext.models.binary_mlp(784)


def derivative_free() -> nn.Module:
    return altmin_ext.models.binary_mlp(784, surrogate="none")


@dataclasses.dataclass(frozen=True)
class Contender:
    """A method, the values of its options that are tried, and the network if it is another than the others'."""

    method: str
    grid: Grid
    network: Callable[[], nn.Module] | None = None
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or self.method

    def points(self) -> list[dict[str, Any]]:
        return [
            dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())
        ]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Contenders that train on the same; the budget of each is in seconds or in epochs, its goal an accuracy."""

    network: Callable[[], nn.Module]
    batch_size: int
    seconds: float
    epochs: int
    goal: float
    contenders: tuple[Contender, ...]
    data: str = "mnist"
    lr_schedule: str = "constant"


rates = (5e-4, 1e-3, 2e-3)
comparisons = {
    "mlp": Comparison(
        mlp,
        200,
        30.0,
        10**6,
        0.95,
        (
            Contender("am-adam", {"lr": rates}),
            Contender("am-sgd", {"lr": (0.03, 0.1, 0.3)}),
            Contender("am-mem", {"lr": (1e-3, 3e-3)}),
            Contender("am-adam-off", {"lr": (1e-2, 3e-2)}),
            Contender("am-mem-off", {"lr": (1e-2, 3e-2)}),
            Contender("block-admm", {"lr": rates}),
            Contender("deepfacto", {"lr": (1e-3, 3e-3)}, deepfacto),
            Contender("dtp", {"lr": (6.6e-4, 2e-3)}),
            Contender("mdlam", {"eps0": (1e-3, 100.0)}),
            Contender("dladmm", {"rho": (1e-6, 1e-2)}),
            Contender("admm", {"gamma": (10.0, 1000.0)}),
            Contender("sgd", {"lr": (0.03, 0.1, 0.3)}),
            Contender("adam", {"lr": rates}),
        ),
    ),
    "binary": Comparison(
        binary,
        100,
        float("inf"),
        20,
        0.80,
        (
            # What benchmarks.paper.accuracy has found best at a constant rate; of dtp the authors' own.
            Contender("am-adam", {"lr": (5e-4,)}),
            Contender("am-adam", {"lr": (5e-4,)}, derivative_free, "am-adam, no derivative"),
            Contender("ste", {"lr": (5e-4,)}),
            Contender("dtp", {}),
        ),
    ),
    "blocks-mlp": Comparison(
        mlp_256,
        128,
        float("inf"),
        10,
        0.85,
        (
            Contender("block-admm", {}),
            Contender("block-admm", {"order": ("jacobi",)}, label="block-admm, jacobi"),
            Contender("adam", {}),
        ),
        "fashion-mnist",
    ),
    "blocks-lenet5": Comparison(
        altmin_ext.models.lenet5,
        128,
        float("inf"),
        10,
        0.98,
        (
            Contender("block-admm", {"blocks": (3,), "lr": (2e-3,)}),
            Contender(
                "block-admm",
                {"blocks": (3,), "lr": (2e-3,), "order": ("jacobi",)},
                label="block-admm, jacobi",
            ),
            Contender("adam", {"lr": (2e-3,)}),
        ),
        lr_schedule="cosine",
    ),
}


def _memory(field: str) -> int:
    """A field of the process's status in kB: VmRSS, what it occupies, or VmHWM, the most it has."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])


def train_once(
    experiment: str, name: str, options: dict[str, Any], seed: int, tuning: bool
) -> dict[str, Any]:
    """One training, in a process that does nothing else; the record of it."""
    torch.set_num_threads(1)
    comparison = comparisons[experiment]
    contender = next(c for c in comparison.contenders if c.name == name)
    data = altmin_ext.data.load(comparison.data)
    train, judge = altmin_ext.data.split(data.train, held_out) if tuning else (data.train, data.test)
    share = 0.5 if tuning else 1.0
    torch.manual_seed(seed)
    model = (contender.network or comparison.network)()
    altmin_ext.evaluate(model, judge)
    method = altmin_ext.make_method(contender.method, model, seed=seed, **options)
    schedule = make_schedule(comparison.lr_schedule, comparison.epochs)
    seconds, curve, times = 0.0, [], []
    while len(curve) < share * comparison.epochs and seconds < share * comparison.seconds:
        factor = schedule(len(curve))
        begin = time.process_time()
        altmin_ext.train(
            model, train, method=method, epochs=1, batch_size=comparison.batch_size, seed=1000 * seed + len(curve),
            lr_schedule=lambda _, factor=factor: factor, progress=False,
        )  # fmt: skip
        seconds += time.process_time() - begin
        curve.append(altmin_ext.evaluate(model, judge).accuracy)
        times.append(round(seconds, 3))
    return {
        "method": name, "options": options, "seed": seed, "curve": curve, "seconds": times,
    }  # fmt: skip


def epoch_memory(experiment: str, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """How far the process, which does nothing else, grows in an epoch; the record of it."""
    torch.set_num_threads(1)
    comparison = comparisons[experiment]
    contender = next(c for c in comparison.contenders if c.name == name)
    x, y = altmin_ext.data.load(comparison.data).train
    settings = {"method": contender.method, "epochs": 1, "batch_size": comparison.batch_size, **options}
    make = contender.network or comparison.network
    few = 4 * comparison.batch_size
    altmin_ext.train(make(), (x[:few], y[:few]), progress=False, **settings)
    model = make()
    Path("/proc/self/clear_refs").write_text("5")  # the most that it has occupied is now what it occupies
    before = _memory("VmRSS")
    altmin_ext.train(model, (x, y), progress=False, **settings)
    return {"method": name, "megabytes": round((_memory("VmHWM") - before) / 1024, 1)}


def _alone(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def _trained_alone(
    experiment: str, name: str, options: dict[str, Any], seed: int, tuning: bool
) -> dict[str, Any]:
    try:
        return _alone(train_once, experiment, name, options, seed, tuning)
    except altmin_ext.DivergenceError as error:
        return {
            "method": name, "options": options, "seed": seed, "curve": [0.0], "seconds": [0.0], "diverged": str(error)
        }  # fmt: skip


def _path(experiment: str, kind: str) -> Path:
    return results / f"{experiment}.{kind}.jsonl"


def tune(experiment: str, methods: Sequence[str] | None) -> None:
    """Every point of the grids with more than one; those already recorded are kept."""
    path = _path(experiment, "tuning")
    done = {(record["method"], json.dumps(record["options"])) for record in records.read(path)}
    for contender in comparisons[experiment].contenders:
        points = contender.points()
        wanted = len(points) > 1 and (not methods or contender.method in methods)
        for options in points:
            if wanted and (contender.name, json.dumps(options)) not in done:
                record = _trained_alone(experiment, contender.name, options, 1000, True)
                records.append(path, record)
                print(experiment, contender.name, options, f"{max(record['curve']):.4f}", flush=True)


def best_options(experiment: str, contender: Contender) -> dict[str, Any]:
    """The point of its grid that ended best on the validation part."""
    if len(points := contender.points()) == 1:
        return points[0]
    tried = [r for r in records.read(_path(experiment, "tuning")) if r["method"] == contender.name]
    if not tried:
        raise SystemExit(f"{contender.name} has not been tuned for {experiment}: run `tune {experiment}`.")
    best: dict[str, Any] = max(tried, key=lambda record: record["curve"][-1])["options"]
    return best


def run(experiment: str, seeds: int, methods: Sequence[str] | None) -> None:
    """The best point of every method from several seeds; runs already recorded are kept."""
    path = _path(experiment, "runs")
    done = {(record["method"], record["seed"]) for record in records.read(path)}
    for seed, contender in itertools.product(range(seeds), comparisons[experiment].contenders):
        if (not methods or contender.method in methods) and (contender.name, seed) not in done:
            record = _trained_alone(
                experiment, contender.name, best_options(experiment, contender), seed, False
            )
            records.append(path, record)
            print(experiment, contender.name, seed, f"{record['curve'][-1]:.4f}", flush=True)


def memory(experiment: str, methods: Sequence[str] | None) -> None:
    """An epoch of every contender; those already recorded are kept."""
    path = _path(experiment, "memory")
    done = {record["method"] for record in records.read(path)}
    for contender in comparisons[experiment].contenders:
        if (not methods or contender.method in methods) and contender.name not in done:
            options = best_options(experiment, contender)
            runs = [_alone(epoch_memory, experiment, contender.name, options) for _ in range(3)]
            # Now and then a run is charged with the whole data once more: the least is the method's own.
            record = min(runs, key=lambda run: run["megabytes"])
            records.append(path, record)
            print(experiment, contender.name, record["megabytes"], flush=True)


def _runs(experiment: str, name: str) -> list[dict[str, Any]]:
    return [record for record in records.read(_path(experiment, "runs")) if record["method"] == name]


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def _first(record: dict[str, Any], accuracy: float) -> int | None:
    """The number of the first epoch that ends at this accuracy or above."""
    return next((number for number, reached in enumerate(record["curve"], 1) if reached >= accuracy), None)


def table(experiment: str) -> str:
    """A row per contender: accuracies after the first and the last epoch, time and epochs to the goal, memory."""
    goal = comparisons[experiment].goal
    megabytes = {
        record["method"]: record["megabytes"] for record in records.read(_path(experiment, "memory"))
    }
    lines = [
        f"| {experiment} | options | epochs | s per epoch | after epoch 1 | at the end | epochs, s to {goal:g} | MB "
        "| seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for contender in comparisons[experiment].contenders:
        if not (found := _runs(experiment, contender.name)):
            continue
        reached = [(_first(record, goal), record) for record in found]
        way = "not by all"
        if all(epoch is not None for epoch, _ in reached):
            epochs = statistics.median(epoch for epoch, _ in reached)
            way = f"{epochs:g}, {statistics.median(record['seconds'][epoch - 1] for epoch, record in reached):.1f}"
        cells = (
            contender.name,
            ", ".join(f"{key} {value}" for key, value in found[0]["options"].items()),
            f"{statistics.median(len(record['curve']) for record in found):g}",
            f"{statistics.median(record['seconds'][-1] / len(record['seconds']) for record in found):.2f}",
            _mean([record["curve"][0] for record in found]),
            _mean([record["curve"][-1] for record in found]),
            way,
            f"{megabytes[contender.name]:.0f}" if contender.name in megabytes else "",
            len(found),
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def figure(experiment: str, path: Path) -> None:
    """Test error against seconds and against epochs, the median over the seeds."""
    from benchmarks.paper import drawing

    colours = {
        "am": drawing.AM,
        "adam": drawing.BACKPROP,
        "sgd": drawing.BACKPROP,
        "deepfacto": drawing.BROWN,
    }
    colours |= {"dtp": drawing.GREEN, "ste": drawing.GREEN, "block": drawing.PURPLE}
    comparison, curves = comparisons[experiment], {}
    for contender in comparison.contenders:
        if found := _runs(experiment, contender.name):
            length = min(len(record["curve"]) for record in found)
            accuracy, seconds = (
                [
                    statistics.median(values)
                    for values in zip(*(own[key][:length] for own in found), strict=True)
                ]
                for key in ("curve", "seconds")
            )
            curves[contender.name] = [1 - reached for reached in accuracy], seconds
    last = {name: error[-1] for name, (error, _) in curves.items()}
    best = sorted(last, key=last.__getitem__)[:3]
    budget = (
        f"{comparison.seconds:g} s" if math.isfinite(comparison.seconds) else f"{comparison.epochs} epochs"
    )
    title = f"{experiment}, {comparison.data}: least test error after {budget}: "
    picture, axes = drawing.sheet(2, 1, 9.5, title + ", ".join(f"{name} {last[name]:.3f}" for name in best))
    for axis, name in zip(axes[:, 0], ("seconds of processor time, one thread", "epochs"), strict=True):
        drawing.log(axis, "x", "y")
        axis.set_xlabel(name, fontsize=10.5)
        axis.set_ylabel("test error, median over the seeds", fontsize=10.5)
        ends = {}
        for label, (error, seconds) in curves.items():
            x = seconds if name.startswith("seconds") else list(range(1, len(error) + 1))
            colour = colours.get(label.partition("-")[0], drawing.GREY)
            # Dashed: the whole training set in every step, or no alternating minimisation; dotted: variants.
            style = (
                "--" if label.endswith("-off") or colour == drawing.BACKPROP else ":" if "," in label else "-"
            )
            axis.plot(x, error, style, color=colour, linewidth=1.6)
            ends[label] = x[-1], error[-1], colour
        drawing.label_ends(axis, ends)
    drawing.save(picture, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("tune", "run", "memory", "table", "figure"))
    parser.add_argument("experiment", nargs="*", choices=(*comparisons, []))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+")
    arguments = parser.parse_args()
    for experiment in arguments.experiment or comparisons:
        if arguments.action == "tune":
            tune(experiment, arguments.methods)
        elif arguments.action == "run":
            run(experiment, arguments.seeds, arguments.methods)
        elif arguments.action == "memory":
            memory(experiment, arguments.methods)
        elif arguments.action == "table":
            print(table(experiment), end="\n\n")
        else:
            figure(experiment, results / f"{experiment}.png")


if __name__ == "__main__":
    main()
