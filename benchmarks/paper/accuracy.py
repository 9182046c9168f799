"""Test accuracy on the paper's networks, am-adam beside backpropagation tuned with the same effort.

    python -m benchmarks.paper.accuracy tune  mnist-2x100     # every trial of the grid, on a validation split
    python -m benchmarks.paper.accuracy run   mnist-2x100     # five seeds with the best trial of each method
    python -m benchmarks.paper.accuracy table                 # what has been run, as a table
    python -m benchmarks.paper.accuracy curves mnist-elman-15 mnist-elman-50    # and as a picture, epoch by epoch

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import altmin_ext
from altmin_ext.callbacks import EarlyStopping
from benchmarks.paper import records

results = Path(__file__).parent.parent / "results" / "accuracy"
held_out = 0.1
Network = Callable[[Any, float], nn.Module]  # (data, dropout) -> network


def mlp(*hidden: int) -> Network:
    """The paper's MLP; with dropout, a Dropout behind every hidden activation and half as much on the input."""

    def make(data: Any, dropout: float) -> nn.Module:
        modules: list[nn.Module] = [nn.Flatten()]
        if dropout:
            modules.append(nn.Dropout(dropout / 2))
        for width_in, width in itertools.pairwise((data.n_in, *hidden)):
            modules += [nn.Linear(width_in, width), nn.ReLU()]
            if dropout:
                modules.append(nn.Dropout(dropout))
        return nn.Sequential(*modules, nn.Linear(hidden[-1], data.classes))

    return make


def lenet5(data: Any, dropout: float) -> nn.Module:
    """LeNet-5; with dropout, one in front of either of its hidden fully connected layers' successors."""
    channels, size, _ = data.train[0].shape[1:]
    network = altmin_ext.models.lenet5(channels, size, data.classes)
    if not dropout:
        return network
    modules: list[nn.Module] = []
    for below, module in itertools.pairwise((nn.Flatten(), *network)):
        if isinstance(module, nn.Linear) and isinstance(below, nn.ReLU):
            modules.append(nn.Dropout(dropout))
        modules.append(module)
    return nn.Sequential(*modules)


def elman_rnn(hidden: int) -> Network:
    """The recurrent network of appendix C, which reads images pixel by pixel."""

    def make(data: Any, dropout: float) -> nn.Module:
        return altmin_ext.models.elman_rnn(1, hidden, data.n_in, data.classes)

    return make


def initialised(network: nn.Module) -> nn.Module:
    """He's initialisation, with which the codes keep their size however deep the network."""
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def deep_mlp(depth: int) -> Network:
    """``depth`` hidden layers of 100 units."""
    return lambda data, dropout: initialised(altmin_ext.models.mlp(data.n_in, [100] * depth, data.classes))


def vgg8(data: Any, dropout: float) -> nn.Module:
    """Eight 3 x 3 convolutions of 16 to 64 channels, pooled after every second: 11 M multiply-adds on CIFAR-10."""
    channels, size, _ = data.train[0].shape[1:]
    modules: list[nn.Module] = []
    for width in (16, 32, 64, 64):
        for _ in range(2):
            modules += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        modules.append(nn.MaxPool2d(2))
    features = channels * (size // 16) ** 2
    return initialised(nn.Sequential(*modules, nn.Flatten(), nn.Linear(features, data.classes)))


def binary_mlp(data: Any, dropout: float) -> nn.Module:
    """784-500-500-10 with a Sign behind the first hidden layer."""
    return altmin_ext.models.binary_mlp(data.n_in)


def derivative_free_binary_mlp(data: Any, dropout: float) -> nn.Module:
    """The same without any derivative for the Sign."""
    return altmin_ext.models.binary_mlp(data.n_in, surrogate="none")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A network on a data set, and the grid both methods are tuned on."""

    data: str
    network: Network
    epochs: int
    goal: float
    tuning_epochs: int
    early_stopping: bool = False
    tuned_as: str = ""  # the experiment whose trials decide, when not its own
    methods: tuple[str, ...] = ("am-adam", "adam")
    batch_size: int = 200
    lr: tuple[float, ...] = (5e-4, 1e-3, 2e-3, 4e-3)
    faster: tuple[
        tuple[str, float], ...
    ] = ()  # (method, factor): its grid of lr is as many times the others'
    lr_schedule: tuple[str, ...] = ("constant", "cosine")
    weight_decay: tuple[float, ...] = (0.0, 0.1)
    dropout: tuple[float, ...] = (0.0,)

    extra: tuple[tuple[str, str, float], ...] = ()  # (method, option, value): more trials, as many for each
    # (method, options): where the paper has tuned, with its learning rates instead of trials
    published: tuple[tuple[str, dict[str, Any]], ...] = ()

    def trials(self, method: str) -> list[dict[str, Any]]:
        """The grid, then for every extra value the grid's points at its largest lr with that value set."""
        keys = ("lr", "lr_schedule", "weight_decay", "dropout")
        rates = tuple(dict(self.faster).get(method, 1.0) * lr for lr in self.lr)
        grid = itertools.product(rates, self.lr_schedule, self.weight_decay, self.dropout)
        trials = [dict(zip(keys, point, strict=True)) for point in grid]
        base = [trial for trial in trials if trial["lr"] == max(rates)]
        more = [(option, value) for owner, option, value in self.extra if owner == method]
        return trials + [{**trial, option: value} for option, value in more for trial in base]


cifar = {"lr_schedule": ("cosine",), "early_stopping": True}
larger_mu_or_lr = (("am-adam", "mu", 5.0), ("adam", "lr", 4e-3))
mnist_500 = {"lr": (1e-3, 2e-3), "weight_decay": (0.0, 0.1)}
convolutional = {
    "batch_size": 128,
    "lr": (1e-3, 2e-3),
    "lr_schedule": ("cosine",),
    "weight_decay": (0.0, 0.1),
}
deep = {"lr": (3e-4, 1e-3), "lr_schedule": ("cosine",), "weight_decay": (0.0,)}
binary = {"batch_size": 100, "lr": (2.5e-4, 5e-4, 1e-3, 2e-3), "weight_decay": (0.0,)}
experiments = {
    "mnist-2x100": Experiment("mnist", mlp(100, 100), 10, 0.977, 10),
    "mnist-2x500": Experiment("mnist", mlp(500, 500), 10, 0.980, 10, **mnist_500),
    "mnist-2x100-long": Experiment("mnist", (100, 100), 50, 0.980, 10, tuned_as="mnist-2x100"),
    "mnist-2x500-long": Experiment("mnist", (500, 500), 50, 0.980, 10, tuned_as="mnist-2x500"),
    "fashion-mnist-2x100": Experiment("fashion-mnist", mlp(100, 100), 10, 0.880, 10),
    "cifar-10-2x100": Experiment(
        "cifar-10",
        mlp(100, 100),
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
        mlp(500, 500),
        12,
        0.55,
        8,
        lr=(5e-4, 1e-3),
        weight_decay=(0.3,),
        dropout=(0.2,),
        extra=(("am-adam", "mu", 5.0), ("adam", "lr", 2e-3)),
        **cifar,
    ),
    "mnist-lenet5": Experiment("mnist", lenet5, 10, 0.989, 10, **convolutional),
    "fashion-mnist-lenet5": Experiment(
        "fashion-mnist",
        lenet5,
        10,
        0.900,
        10,
        extra=(("am-adam", "mu", 5.0), ("adam", "lr", 8e-3)),
        **{**convolutional, "lr": (1e-3, 2e-3, 4e-3)},
    ),
    "cifar-10-lenet5": Experiment(
        "cifar-10",
        lenet5,
        20,
        0.63,
        12,
        **{**convolutional, **cifar, "lr": (1e-3, 2e-3, 4e-3), "weight_decay": (0.1,), "dropout": (0.0, 0.1)},
    ),
    **{
        f"mnist-elman-{hidden}": Experiment(
            "mnist",
            elman_rnn(hidden),
            10,
            0.0,
            0,
            methods=("am-adam", "adam", "sgd"),
            batch_size=1024,
            published=(
                # A single iteration of either learns more than the paper's five, and so does a larger mu.
                ("am-adam", {"lr": 5e-3, "mu": 50.0, "code_iterations": 1, "weight_iterations": 1}),
                ("adam", {"lr": 5e-3}),
                ("sgd", {"lr": sgd}),
            ),
        )
        for hidden, sgd in ((15, 0.05), (50, 0.005))
    },
    **{
        f"mnist-{depth}x100": Experiment("mnist", deep_mlp(depth), 5, 0.0, 5, **deep)
        for depth in (10, 20, 50)
    },
    "cifar-10-vgg8": Experiment("cifar-10", vgg8, 10, 0.0, 4, batch_size=128, **deep),
    "mnist-binary": Experiment("mnist", binary_mlp, 10, 0.978, 10, methods=("am-adam", "ste"), **binary),
    "mnist-binary-none": Experiment(
        "mnist",
        derivative_free_binary_mlp,
        10,
        0.900,
        10,
        methods=("am-adam",),
        **{**binary, "lr": (2.5e-4, 5e-4)},
    ),
}


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
    model = experiment.network(data, trial["dropout"])
    history = altmin_ext.train(
        model, train, method=method, epochs=epochs, batch_size=experiment.batch_size, seed=seed,
        validation=validation, progress=False, callbacks=stopping, **options,
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
    return records.read(_path(name, kind))


def _append(name: str, kind: str, record: dict[str, Any]) -> None:
    records.append(_path(name, kind), record)


def tune(name: str, methods: Sequence[str] | None) -> None:
    """Every trial of the grid for all methods; trials already recorded are kept."""
    experiment = experiments[name]
    if experiment.tuned_as or experiment.published:
        return
    done = {(r["method"], json.dumps(r["trial"])) for r in _records(name, "tuning")}
    for method, trial in (
        (m, trial) for m in methods or experiment.methods for trial in experiment.trials(m)
    ):
        if (method, json.dumps(trial)) not in done:
            record = train_once(experiment, method, trial, 1000, experiment.tuning_epochs, tuning=True)
            _append(name, "tuning", record)
            print(name, method, trial, f"{record['accuracy']:.4f} {record['seconds']:.0f} s", flush=True)


def best_trial(name: str, method: str) -> dict[str, Any]:
    """The setting with the best validation accuracy."""
    if method in (settings := dict(experiments[name].published)):
        return {"lr_schedule": "constant", "weight_decay": 0.0, "dropout": 0.0, **settings[method]}
    tried = [r for r in _records(experiments[name].tuned_as or name, "tuning") if r["method"] == method]
    if not tried:
        raise SystemExit(
            f"{name} has not been tuned for {method}: run `tune {experiments[name].tuned_as or name}`."
        )
    return max(tried, key=lambda r: r["accuracy"])["trial"]


def run(name: str, seeds: int, methods: Sequence[str] | None) -> None:
    """The best trial of each method from several seeds; runs already recorded are kept."""
    experiment = experiments[name]
    done = {(r["method"], r["seed"]) for r in _records(name, "runs")}
    for seed, method in itertools.product(range(seeds), methods or experiment.methods):
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
        for method in experiment.methods:
            runs = [r for r in _records(name, "runs") if r["method"] == method]
            if len(runs) < 2:
                continue
            values, t = [r["accuracy"] for r in runs], runs[0]["trial"]
            spread = f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
            goal = f"≥ {experiment.goal:.3f}" if method == "am-adam" and experiment.goal else ""
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


def draw_curves(names: Sequence[str], path: Path) -> None:
    """Test accuracy after every epoch, a panel per experiment: the mean over the seeds, and each of them thinly."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    picture, axes = pyplot.subplots(
        1, len(names), figsize=(4.5 * len(names), 3.8), layout="constrained", squeeze=False
    )
    for axis, name in zip(axes[0], names, strict=True):
        for number, method in enumerate(experiments[name].methods):
            curves = [record["curve"] for record in _records(name, "runs") if record["method"] == method]
            epochs = range(1, len(curves[0]) + 1) if curves else []
            for curve in curves:
                axis.plot(epochs, curve, color=f"C{number}", linewidth=0.5, alpha=0.5)
            if curves:
                means = [statistics.mean(values) for values in zip(*curves, strict=True)]
                seeds = f"{len(curves)} {'seed' if len(curves) == 1 else 'seeds'}"
                axis.plot(epochs, means, ".-", color=f"C{number}", label=f"{method}, {seeds}")
        axis.set(title=name, xlabel="epochs")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    axes[0, 0].set_ylabel("test accuracy")
    picture.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("tune", "run", "table", "curves"))
    parser.add_argument("experiment", nargs="*", choices=(*experiments, []))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.action == "curves":
        draw_curves(arguments.experiment, results / f"{'-'.join(arguments.experiment)}.png")
    for name in arguments.experiment or experiments:
        if arguments.action == "tune":
            tune(name, arguments.methods)
        elif arguments.action == "run":
            run(name, arguments.seeds, arguments.methods)
    if arguments.action == "table":
        print(table())


if __name__ == "__main__":
    main()
