"""Test accuracy on the paper's MLPs, am-adam beside backpropagation Adam tuned with the same effort.

    python -m benchmarks.paper.accuracy tune  mnist-2x100     # every trial of the grid, on a validation split
    python -m benchmarks.paper.accuracy run   mnist-2x100     # five seeds with the best trial of each method
    python -m benchmarks.paper.accuracy table                 # what has been run, as a table

Each method gets the same grid and the same number of trials. A trial trains on nine tenths of the training set and
is judged on the last tenth; the chosen setting is then trained on the whole training set, from five seeds, and
judged on the test set once, at the last epoch. Where an experiment stops early, the tenth stays held out, and the
epoch with the best validation accuracy is the one tested. Results are JSON lines under benchmarks/results/accuracy.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import altmin_ext
from altmin_ext.callbacks import EarlyStopping

results = Path(__file__).parent.parent / "results" / "accuracy"
methods = ("am-adam", "adam")
held_out = 0.1


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A network on a data set, and the grid both methods are tuned on."""

    data: str
    hidden: tuple[int, ...]
    epochs: int
    goal: float
    tuning_epochs: int
    early_stopping: bool = False
    tuned_as: str = ""  # the experiment whose trials decide, when not its own
    lr: tuple[float, ...] = (5e-4, 1e-3, 2e-3, 4e-3)
    lr_schedule: tuple[str, ...] = ("constant", "cosine")
    weight_decay: tuple[float, ...] = (0.0, 0.1)
    dropout: tuple[float, ...] = (0.0,)

    extra: tuple[
        tuple[str, str, float], ...
    ] = ()  # (method, option, value): more trials, as many for each method

    def trials(self, method: str) -> list[dict[str, Any]]:
        """The grid, then for every extra value the grid's points at its largest lr with that value set."""
        keys = ("lr", "lr_schedule", "weight_decay", "dropout")
        grid = itertools.product(self.lr, self.lr_schedule, self.weight_decay, self.dropout)
        trials = [dict(zip(keys, point, strict=True)) for point in grid]
        base = [trial for trial in trials if trial["lr"] == max(self.lr)]
        more = [(option, value) for owner, option, value in self.extra if owner == method]
        return trials + [{**trial, option: value} for option, value in more for trial in base]


cifar = {"lr_schedule": ("cosine",), "early_stopping": True}
larger_mu_or_lr = (("am-adam", "mu", 5.0), ("adam", "lr", 4e-3))
mnist_500 = {"lr": (1e-3, 2e-3), "weight_decay": (0.0, 0.1)}
experiments = {
    "mnist-2x100": Experiment("mnist", (100, 100), 10, 0.977, 10),
    "mnist-2x500": Experiment("mnist", (500, 500), 10, 0.980, 10, **mnist_500),
    "mnist-2x100-long": Experiment("mnist", (100, 100), 50, 0.980, 10, tuned_as="mnist-2x100"),
    "mnist-2x500-long": Experiment("mnist", (500, 500), 50, 0.980, 10, tuned_as="mnist-2x500"),
    "fashion-mnist-2x100": Experiment("fashion-mnist", (100, 100), 10, 0.880, 10),
    "cifar-10-2x100": Experiment(
        "cifar-10",
        (100, 100),
        30,
        0.53,
        20,
        lr=(1e-3, 2e-3),
        weight_decay=(0.0, 0.3),
        dropout=(0.0, 0.1),
        extra=larger_mu_or_lr,
        **cifar,
    ),
    "cifar-10-2x500": Experiment(
        "cifar-10",
        (500, 500),
        12,
        0.55,
        8,
        lr=(5e-4, 1e-3),
        weight_decay=(0.3,),
        dropout=(0.2,),
        extra=(("am-adam", "mu", 5.0), ("adam", "lr", 2e-3)),
        **cifar,
    ),
}


def network(n_in: int, hidden: tuple[int, ...], n_out: int, dropout: float) -> nn.Sequential:
    """The paper's MLP; with dropout, a Dropout behind every hidden activation and half as much on the input."""
    modules: list[nn.Module] = [nn.Flatten()]
    if dropout:
        modules.append(nn.Dropout(dropout / 2))
    for width_in, width in itertools.pairwise((n_in, *hidden)):
        modules += [nn.Linear(width_in, width), nn.ReLU()]
        if dropout:
            modules.append(nn.Dropout(dropout))
    return nn.Sequential(*modules, nn.Linear(hidden[-1], n_out))


def train_once(
    experiment: Experiment, method: str, trial: dict[str, Any], seed: int, epochs: int, tuning: bool
) -> dict[str, Any]:
    """One training; the record of it."""
    data = altmin_ext.data.load(experiment.data)
    train, judge = data.train, data.test
    stopping: list[EarlyStopping] = []
    validation = judge
    if tuning or experiment.early_stopping:
        train, validation = altmin_ext.data.split(data.train, held_out, seed=0)
        stopping = [EarlyStopping(patience=epochs)] if experiment.early_stopping else []
    options = {key: value for key, value in trial.items() if key != "dropout"}
    torch.manual_seed(seed)
    model = network(data.n_in, experiment.hidden, data.classes, trial["dropout"])
    history = altmin_ext.train(
        model, train, method=method, epochs=epochs, batch_size=200, seed=seed, validation=validation,
        progress=False, callbacks=stopping, **options,
    )  # fmt: skip
    best = altmin_ext.evaluate(model, validation if tuning else judge).accuracy
    return {
        "method": method, "trial": trial, "seed": seed, "epochs": epochs, "accuracy": best,
        "curve": [row["validation_accuracy"] for row in history.epochs],
        "seconds": sum(row["seconds"] for row in history.epochs),
    }  # fmt: skip


def _path(name: str, kind: str) -> Path:
    return results / f"{name}.{kind}.jsonl"


def _records(name: str, kind: str) -> list[dict[str, Any]]:
    path = _path(name, kind)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _append(name: str, kind: str, record: dict[str, Any]) -> None:
    results.mkdir(parents=True, exist_ok=True)
    with _path(name, kind).open("a") as file:
        file.write(json.dumps(record) + "\n")


def tune(name: str) -> None:
    """Every trial of the grid for both methods; trials already recorded are kept."""
    experiment = experiments[name]
    if experiment.tuned_as:
        return
    done = {(r["method"], json.dumps(r["trial"])) for r in _records(name, "tuning")}
    for method, trial in ((m, trial) for m in methods for trial in experiment.trials(m)):
        if (method, json.dumps(trial)) not in done:
            record = train_once(experiment, method, trial, 1000, experiment.tuning_epochs, tuning=True)
            _append(name, "tuning", record)
            print(name, method, trial, f"{record['accuracy']:.4f} {record['seconds']:.0f} s", flush=True)


def best_trial(name: str, method: str) -> dict[str, Any]:
    """The setting with the best validation accuracy."""
    records = [r for r in _records(experiments[name].tuned_as or name, "tuning") if r["method"] == method]
    if not records:
        raise SystemExit(
            f"{name} has not been tuned for {method}: run `tune {experiments[name].tuned_as or name}`."
        )
    return max(records, key=lambda r: r["accuracy"])["trial"]


def run(name: str, seeds: int, methods: Sequence[str]) -> None:
    """The best trial of each method from several seeds; runs already recorded are kept."""
    experiment = experiments[name]
    done = {(r["method"], r["seed"]) for r in _records(name, "runs")}
    for seed, method in itertools.product(range(seeds), methods):
        if (method, seed) not in done:
            record = train_once(
                experiment, method, best_trial(name, method), seed, experiment.epochs, tuning=False
            )
            _append(name, "runs", record)
            print(name, method, seed, f"{record['accuracy']:.4f} {record['seconds']:.0f} s", flush=True)


def table() -> str:
    """One row per experiment and method: mean and standard deviation of the test accuracy over the seeds."""
    lines = [
        "| experiment | epochs | method | setting | test accuracy | seeds | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, experiment in experiments.items():
        for method in methods:
            runs = [r for r in _records(name, "runs") if r["method"] == method]
            if len(runs) < 2:
                continue
            values, t = [r["accuracy"] for r in runs], runs[0]["trial"]
            spread = f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
            goal = f"≥ {experiment.goal:.3f}" if method == "am-adam" else ""
            setting = ", ".join(f"{key} {value:g}" for key, value in t.items() if key != "lr_schedule")
            cells = (
                name,
                experiment.epochs,
                method,
                f"{t['lr_schedule']}, {setting}",
                spread,
                len(runs),
                goal,
            )
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("tune", "run", "table"))
    parser.add_argument("experiment", nargs="*", choices=(*experiments, []))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.experiment or experiments:
        if arguments.action == "tune":
            tune(name)
        elif arguments.action == "run":
            run(name, arguments.seeds, arguments.methods)
    if arguments.action == "table":
        print(table())


if __name__ == "__main__":
    main()
