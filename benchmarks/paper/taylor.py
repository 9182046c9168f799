"""ADMM of Taylor et al. beside online alternating minimisation: accuracy per iteration, and time to an accuracy.

    python -m benchmarks.paper.taylor tune [higgs-hinge fashion-mnist-hinge ...]
    python -m benchmarks.paper.taylor run [--seeds 3]
    python -m benchmarks.paper.taylor table

- ``higgs-hinge``: all of the HIGGS sample, 28-300-2, and the time to a test accuracy of .63, for which the paper has
  .64 on 28-300-1. The larger of two outputs is the sign of their difference, one linear function of the hidden units,
  so that the network can say no more than one with a single output;
- ``mnist-*``, ``fashion-mnist-*``: the first 10,000 training images, 784-100-100-10, output loss hinge or squared.

Contenders: ``admm``, 20 iterations, tuned; the same with the multiplier left at zero, a
penalty method; ``admm, as published``: random start, gamma 10, beta 1 and a ridge of 1e-4; and ``am-adam``, five
epochs of minibatches of 200, its learning rate tuned. The multiplier moves after ten iterations, by the published
step. Tuning trains on nine tenths of the training samples, 15 iterations, and looks at the last tenth. Seconds are
processor time of one thread, of training alone; contenders take turns. Results are JSON lines under
benchmarks/results/taylor.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import altmin_ext
from altmin_ext.data import streams
from benchmarks.paper import records

results = Path(__file__).parent.parent / "results" / "taylor"
Samples = tuple[Tensor, Tensor]

iterations, tuning_iterations = 20, 15
epochs, batch_size = 5, 200
wanted = 0.63
tasks = [
    "higgs-hinge",
    *(f"{data}-{loss}" for data in ("fashion-mnist", "mnist") for loss in ("hinge", "squared")),
]
published: dict[str, Any] = {
    "initialisation": "random",
    "ridge": 1e-4,
    "gamma": 10.0,
    "beta": 1.0,
    "multiplier_step": 1.0,
    "warm_start": 10,
}
# In the order of tuning, options of a group together; it begins with the published values, but from a forward pass.
choices: tuple[dict[str, tuple[Any, ...]], ...] = (
    {"ridge": (1e-4, 1e-2, 1e-1), "gamma": (10.0, 100.0, 1000.0)},
    {"beta": (0.1, 1.0, 10.0)},
    {"initialisation": ("forward", "random")},
)
learning_rates = (1e-3, 3e-3, 1e-2)


def _load(task: str) -> tuple[Samples, Samples, int, int, tuple[int, ...]]:
    """Training and test samples, features, classes and hidden layers."""
    name, _, _ = task.rpartition("-")
    data = altmin_ext.data.load(name)
    if name == "higgs":
        return data.train, data.test, data.n_in, data.classes, (300,)
    x, y = data.train
    return (x[:10_000], y[:10_000]), data.test, data.n_in, data.classes, (100, 100)


def _steps(method: str, train: Samples, seed: int, count: int) -> Iterator[list[Samples]]:
    """What is trained on between two looks at the accuracy: an iteration, or ten minibatches."""
    if method == "admm":
        yield from itertools.repeat([train], count)
        return
    stream = streams.endless(*train, batch_size, seed)
    for _ in range(epochs * len(train[0]) // (10 * batch_size)):
        yield list(itertools.islice(stream, 10))


def curve(task: str, method: str, seed: int, held_out: bool, **options: Any) -> dict[str, Any]:
    """Accuracy along a run, on the tuning part or on the test set, and the seconds of training up to there."""
    train, test, n_in, classes, hidden = _load(task)
    if held_out:
        train, test = altmin_ext.data.split(train, 0.1, 0)
    torch.manual_seed(seed)
    model = altmin_ext.models.mlp(n_in, hidden, classes)
    if method == "admm":
        options = {"loss": task.rpartition("-")[2], **options}
    learner = altmin_ext.make_method(method, model, seed=seed, **options)
    seconds, found = 0.0, []
    for minibatches in _steps(method, train, seed, tuning_iterations if held_out else iterations):
        begin = time.process_time()
        try:
            for x, y in minibatches:
                learner.step(x, y)
        except altmin_ext.DivergenceError:
            found.append((round(seconds, 3), 0.0))
            break
        seconds += time.process_time() - begin
        accuracy = altmin_ext.evaluate(model, test).accuracy
        found.append((round(seconds, 3), round(accuracy or 0.0, 5)))
    return {"accuracy": found[-1][1], "curve": found}


def _records(kind: str) -> list[dict[str, Any]]:
    return records.read(results / f"{kind}.jsonl")


def _tried(task: str, method: str, options: dict[str, Any]) -> float:
    """The accuracy of a trial, which is made unless it is on record."""
    for record in _records("tuning"):
        if (record["task"], record["method"], record["options"]) == (task, method, options):
            return float(record["accuracy"])
    found = curve(task, method, 1000, True, **options)
    records.append(results / "tuning.jsonl", {"task": task, "method": method, "options": options, **found})
    print(task, method, options, f"{found['accuracy']:.4f}", flush=True)
    return float(found["accuracy"])


def tune(chosen: Sequence[str]) -> None:
    """Every choice of one group of options after the other, at the best of those before."""
    for task in chosen:
        best = {**published, "initialisation": "forward"}
        for group in choices:
            trials = [
                {**best, **dict(zip(group, values, strict=True))}
                for values in itertools.product(*group.values())
            ]
            best = max(trials, key=lambda options: _tried(task, "admm", options))
        for lr in learning_rates:
            _tried(task, "am-adam", {"lr": lr})


def best_options(task: str, method: str) -> dict[str, Any]:
    """Those of the best trial on record."""
    trials = [r for r in _records("tuning") if (r["task"], r["method"]) == (task, method)]
    if not trials:
        raise SystemExit(f"{method} has not been tuned for {task}: run `tune`.")
    options: dict[str, Any] = max(trials, key=lambda r: r["accuracy"])["options"]
    return options


def run(chosen: Sequence[str], seeds: int) -> None:
    """Every contender from several seeds; what is recorded already is kept."""
    done = {(r["task"], r["contender"], r["seed"]) for r in _records("runs")}
    for task, seed in itertools.product(chosen, range(seeds)):
        contenders = {
            "admm": ("admm", best_options(task, "admm")),
            "admm, no multiplier": ("admm", {**best_options(task, "admm"), "multiplier_step": 0.0}),
            "admm, as published": ("admm", published),
            "am-adam": ("am-adam", best_options(task, "am-adam")),
        }
        for contender, (method, options) in contenders.items():
            if (task, contender, seed) in done:
                continue
            record = {"task": task, "contender": contender, "seed": seed, "options": options}
            record |= curve(task, method, seed, False, **options)
            records.append(results / "runs.jsonl", record)
            print(task, contender, seed, f"{record['accuracy']:.4f}", flush=True)


def seconds_to(points: Sequence[Sequence[float]], accuracy: float) -> float | None:
    """When a curve of (seconds, accuracy) is first that high; None for never."""
    return next((seconds for seconds, found in points if found >= accuracy), None)


def table() -> str:
    """Means and standard deviations over the seeds; of ADMM also after as many iterations as it was tuned for."""
    lines = [
        "| task | contender | test accuracy after 15 iterations | at the end | seconds | seconds to .63 | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in _records("runs"):
        groups.setdefault((record["task"], record["contender"]), []).append(record)
    for (task, contender), runs in groups.items():
        cells = []
        for number in (tuning_iterations - 1, -1):
            values = [record["curve"][number][1] for record in runs]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}")
        if contender == "am-adam":
            cells[0] = ""
        cells.append(f"{statistics.mean(record['curve'][-1][0] for record in runs):.1f}")
        times = [seconds_to(record["curve"], wanted) for record in runs] if task.startswith("higgs") else []
        cells.append(", ".join("never" if t is None else f"{t:.2f}" for t in times))
        lines.append(f"| {task} | {contender} | {' | '.join(cells)} | {len(runs)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("tune", "run", "table"))
    parser.add_argument("task", nargs="*", choices=(*tasks, []))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = arguments.task or tasks
    if arguments.action == "tune":
        tune(chosen)
    elif arguments.action == "run":
        run(chosen, arguments.seeds)
    else:
        print(table())


if __name__ == "__main__":
    main()
