"""Test accuracy over the first 50 minibatches of MNIST (the zoom of the paper's figure 2).

    python -m benchmarks.paper.first_minibatches           # trains, then draws
    python -m benchmarks.paper.first_minibatches figure    # draws what has been recorded

784-100-100-10, batch 200, mean and range over five seeds. Each method runs with the learning rate that has the best
mean accuracy over the 50 minibatches on a held-out tenth of the training set, out of the same number of trials within
three decades. Writes benchmarks/results/first-minibatches.json, .tuning.jsonl and .png.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

import altmin_ext
from altmin_ext.tuning import Range, Space
from benchmarks.paper.tuning import tuned

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


def run() -> dict[str, Any]:
    """Tune and train everyone; the record."""
    torch.set_num_threads(1)
    data = altmin_ext.data.load("mnist")
    part, held_out = altmin_ext.data.split(data.train, 0.1, seed=0)

    def objective(name: str, values: dict[str, Any], length: int) -> float:
        return statistics.mean(curve(name, values["lr"], 1000, part, held_out, length))

    tuning = tuned(
        results / "first-minibatches.tuning.jsonl", objective, spaces, trials=trials, budget=minibatches
    )
    record = {}
    for name, best in tuning.items():
        lr = best.values["lr"]
        curves = [curve(name, lr, seed, data.train, data.test) for seed in range(seeds)]
        mean = [statistics.mean(values) for values in zip(*curves, strict=True)]
        record[name] = {"lr": lr, "tuning": best.value, "mean": mean, "curves": curves}
        print(f"{name}: lr {lr:.2g}, after 10 / 25 / 50 minibatches {mean[9]:.4f} / {mean[24]:.4f} / {mean[49]:.4f}, "
              f"mean of the curve {statistics.mean(mean):.4f}")  # fmt: skip
    return record


def draw(record: dict[str, Any], path: Path) -> None:
    """The mean over the seeds, with the range of all of them behind it."""
    from benchmarks.paper.drawing import AM, BACKPROP, GREEN, label_ends, save, sheet

    reached = {name: found["mean"][-1] for name, found in record.items()}
    numbers = ", ".join(f"{name} {own:.3f}" for name, own in reached.items())
    title = f"MNIST, test accuracy after {minibatches} minibatches: {numbers}"
    figure, ((axis,),) = sheet(1, 1, 4.8, title)
    ends = {}
    for (name, found), colour, style in zip(
        record.items(), (AM, BACKPROP, GREEN), ("-", "--", "-"), strict=True
    ):
        steps = range(1, minibatches + 1)
        axis.plot(steps, found["mean"], style, color=colour, linewidth=2, zorder=3 if style == "--" else 2)
        low, high = zip(*((min(v), max(v)) for v in zip(*found["curves"], strict=True)), strict=True)
        axis.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
        ends[f"{name}, lr {found['lr']:.2g}"] = steps[-1], found["mean"][-1], colour
    axis.set_xlabel(f"minibatches of {batch}", fontsize=10.5)
    axis.set_ylabel("test accuracy, mean and range of five seeds", fontsize=10.5)
    axis.set_xlim(0, minibatches)
    label_ends(axis, ends)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", nargs="?", choices=("run", "figure"), default="run")
    path = results / "first-minibatches.json"
    if parser.parse_args().action == "run":
        results.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(run()) + "\n")
    draw(json.loads(path.read_text()), path.with_suffix(".png"))


if __name__ == "__main__":
    main()
