"""Test accuracy over the first 50 minibatches of MNIST (the zoom of the paper's figure 2).

    python -m benchmarks.paper.first_minibatches

784-100-100-10, batch 200, mean and range over five seeds. Each method runs with the learning rate, out of the same
grid, that has the best mean accuracy over the 50 minibatches on a held-out tenth of the training set. Writes
benchmarks/results/first-minibatches.json and .png.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import matplotlib
import torch

import altmin_ext

matplotlib.use("Agg")
from matplotlib import pyplot

results = Path(__file__).parent.parent / "results"
minibatches, batch, seeds = 50, 200, 5
grids = {
    "am-adam": (1e-3, 2e-3, 4e-3, 8e-3),
    "adam": (1e-3, 2e-3, 4e-3, 8e-3),
    "sgd": (0.1, 0.2, 0.4, 0.8),
}


def curve(
    name: str,
    lr: float,
    seed: int,
    train: tuple[torch.Tensor, torch.Tensor],
    judge: tuple[torch.Tensor, torch.Tensor],
) -> list[float]:
    """Accuracy on ``judge`` after each of the first minibatches."""
    torch.manual_seed(seed)
    model = altmin_ext.models.mlp(784, (100, 100), 10)
    method = altmin_ext.make_method(name, model, lr=lr)
    x, y = train
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    accuracies = []
    for index in order.split(batch)[:minibatches]:
        method.step(x[index], y[index])
        accuracies.append(altmin_ext.evaluate(model, judge, batch_size=10000).accuracy or 0.0)
    return accuracies


def main() -> None:
    torch.set_num_threads(1)
    data = altmin_ext.data.load("mnist")
    part, held_out = altmin_ext.data.split(data.train, 0.1, seed=0)
    record = {}
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, grid in grids.items():
        scores = {lr: statistics.mean(curve(name, lr, 1000, part, held_out)) for lr in grid}
        lr = max(scores, key=scores.__getitem__)
        curves = [curve(name, lr, seed, data.train, data.test) for seed in range(seeds)]
        mean = [statistics.mean(values) for values in zip(*curves, strict=True)]
        record[name] = {"lr": lr, "tuning": scores, "mean": mean, "curves": curves}
        steps = range(1, minibatches + 1)
        (line,) = axes.plot(steps, mean, label=f"{name}, lr {lr:g}")
        low, high = zip(*((min(v), max(v)) for v in zip(*curves, strict=True)), strict=True)
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        print(f"{name}: lr {lr:g}, after 10 / 25 / 50 minibatches {mean[9]:.4f} / {mean[24]:.4f} / {mean[49]:.4f}, "
              f"mean of the curve {statistics.mean(mean):.4f}")  # fmt: skip
    axes.set(xlabel="minibatches of 200", ylabel="test accuracy", title="MNIST, 784-100-100-10, five seeds")
    axes.grid(alpha=0.3)
    axes.legend()
    results.mkdir(parents=True, exist_ok=True)
    figure.savefig(results / "first-minibatches.png", dpi=130)
    (results / "first-minibatches.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
