"""Test accuracy over the first 50 minibatches of MNIST (the zoom of the paper's figure 2).

    python -m benchmarks.paper.first_minibatches

784-100-100-10, batch 200, mean and range over five seeds. Each method runs with the learning rate that has the best
mean accuracy over the 50 minibatches on a held-out tenth of the training set, out of the same number of trials within
three decades. Writes benchmarks/results/first-minibatches.json, .tuning.jsonl and .png.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib
import torch

import altmin_ext
from altmin_ext.tuning import Range, Space
from benchmarks.paper.tuning import tuned

matplotlib.use("Agg")
from matplotlib import pyplot

results = Path(__file__).parent.parent / "results"
minibatches, batch, seeds, trials = 50, 200, 5, 12
spaces: dict[str, Space] = {
    "am-adam": {"lr": Range(1e-4, 1e-1, log=True)},
    "adam": {"lr": Range(1e-4, 1e-1, log=True)},
    "sgd": {"lr": Range(1e-2, 1e1, log=True)},
}


def curve(
    name: str,
    lr: float,
    seed: int,
    train: tuple[torch.Tensor, torch.Tensor],
    judge: tuple[torch.Tensor, torch.Tensor],
    length: int = minibatches,
) -> list[float]:
    """Accuracy on ``judge`` after each of the first ``length`` minibatches."""
    torch.manual_seed(seed)
    model = altmin_ext.models.mlp(784, (100, 100), 10)
    method = altmin_ext.make_method(name, model, lr=lr)
    x, y = train
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    accuracies = []
    for index in order.split(batch)[:length]:
        method.step(x[index], y[index])
        accuracies.append(altmin_ext.evaluate(model, judge, batch_size=10000).accuracy or 0.0)
    return accuracies


def main() -> None:
    torch.set_num_threads(1)
    data = altmin_ext.data.load("mnist")
    part, held_out = altmin_ext.data.split(data.train, 0.1, seed=0)

    def objective(name: str, values: dict[str, Any], length: int) -> float:
        return statistics.mean(curve(name, values["lr"], 1000, part, held_out, length))

    tuning = tuned(
        results / "first-minibatches.tuning.jsonl", objective, spaces, trials=trials, budget=minibatches
    )
    record = {}
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, best in tuning.items():
        lr = best.values["lr"]
        curves = [curve(name, lr, seed, data.train, data.test) for seed in range(seeds)]
        mean = [statistics.mean(values) for values in zip(*curves, strict=True)]
        record[name] = {"lr": lr, "tuning": best.value, "mean": mean, "curves": curves}
        steps = range(1, minibatches + 1)
        (line,) = axes.plot(steps, mean, label=f"{name}, lr {lr:.2g}")
        low, high = zip(*((min(v), max(v)) for v in zip(*curves, strict=True)), strict=True)
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        print(f"{name}: lr {lr:.2g}, after 10 / 25 / 50 minibatches {mean[9]:.4f} / {mean[24]:.4f} / {mean[49]:.4f}, "
              f"mean of the curve {statistics.mean(mean):.4f}")  # fmt: skip
    axes.set(xlabel="minibatches of 200", ylabel="test accuracy", title="MNIST, 784-100-100-10, five seeds")
    axes.grid(alpha=0.3)
    axes.legend()
    results.mkdir(parents=True, exist_ok=True)
    figure.savefig(results / "first-minibatches.png", dpi=130)
    (results / "first-minibatches.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
