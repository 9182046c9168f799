"""Deep autoencoders, the classic test of second-order methods: error against seconds and epochs, by ten contenders.

    python -m benchmarks.paper.autoencoder tune [--contenders adam ...]           # six points each
    python -m benchmarks.paper.autoencoder run [mnist fashion-mnist ...] [--images 20000] [--seeds 3]
    python -m benchmarks.paper.autoencoder table
    python -m benchmarks.paper.autoencoder figure

Networks 784-500-250-30-250-500-784 and, behind ``-classic``, 784-1000-500-250-30 and back (Hinton & Salakhutdinov
2006), with relu, minibatches of 200, and the mean squared error of pixels in [0, 1]. Rates fall to zero by a cosine
within the contender's own epochs: twelve for those that take a gradient step as it is, four for those that
precondition it, which cost several times as much. am-mem also runs through one and through twelve.

Every contender has a grid of six points, three rates times two values of what else matters to it most: the one with
least training error after its epochs on 10,000 images of MNIST, from another seed, is used everywhere. Every training
has a single thread, and seconds are of its processor time; evaluation is not among them. Training error is that of
the first 5,000 images trained on. Results are JSON lines under benchmarks/results/autoencoder.

SOAP (Vyas et al. 2024) and Shampoo (Gupta et al. 2018) are those of pytorch-optimizer; SINGD is K-FAC with updates of
the inverse's root instead of inverses (Lin et al. 2024), by its authors. Muon's orthogonalisation (Jordan et al.
2024) is in float32 here: a CPU is slow with the bfloat16 of torch.optim.Muon.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from benchmarks.paper import records

results = Path(__file__).parent.parent / "results" / "autoencoder"
batch_size, tuned_images, judged_images = 200, 10_000, 5_000
halves = {"": (500, 250, 30), "-classic": (1000, 500, 250, 30)}
experiments = [name + net for net in halves for name in ("mnist", "fashion-mnist")]
Step = Callable[[Tensor, float], Any]
Options = dict[str, Any]


def by_method(name: str, **fixed: Any) -> Callable[[nn.Module, int, Options], Step]:
    """A method of ours."""

    def make(model: nn.Module, seed: int, options: Options) -> Step:
        method = altmin_ext.make_method(name, model, seed=seed, loss="mse", **fixed, **options)

        def step(x: Tensor, factor: float) -> None:
            method.learning_rate_factor = factor
            method.step(x, x)

        return step

    return make


def by_optimizer(
    optimizer: Callable[..., torch.optim.Optimizer],
) -> Callable[[nn.Module, int, Options], Step]:
    """An optimiser of torch's kind, which is given the model and the options."""

    def make(model: nn.Module, seed: int, options: Options) -> Step:
        own = optimizer(model, **options)
        rates = [group["lr"] for group in own.param_groups]

        def step(x: Tensor, factor: float) -> None:
            for group, rate in zip(own.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            own.zero_grad()
            F.mse_loss(model(x), x).backward()
            own.step()

        return step

    return make


class Muon(torch.optim.Optimizer):
    """Matrices by the orthogonalised Nesterov momentum of their gradients in float32; biases by Adam, lr / 20."""

    def __init__(self, model: nn.Module, lr: float, momentum: float) -> None:
        super().__init__(model.parameters(), {"lr": lr, "momentum": momentum})
        self._biases = torch.optim.Adam([p for p in model.parameters() if p.ndim < 2])

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        (group,) = self.param_groups
        for p in group["params"]:
            if p.ndim < 2 or p.grad is None:
                continue
            buffer = self.state[p].setdefault("buffer", torch.zeros_like(p))
            buffer.lerp_(p.grad, 1 - group["momentum"])
            direction = orthogonalised(p.grad.lerp(buffer, group["momentum"]))
            p.add_(direction, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)
        self._biases.param_groups[0]["lr"] = group["lr"] / 20
        self._biases.step()


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U V^T of U S V^T, by five Newton-Schulz iterations with Muon's coefficients."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()
    x = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.t()
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.t()


def soap(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    from pytorch_optimizer import SOAP

    return SOAP(model.parameters(), weight_decay=0.0, **options)


def shampoo(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    from pytorch_optimizer import ScalableShampoo

    return ScalableShampoo(model.parameters(), start_preconditioning_step=5, **options)


def singd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    from singd.optim.optimizer import SINGD

    return SINGD(model, kfac_like=True, normalize_lr_cov=True, **options)


def adam(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), fused=True, **options)


@dataclasses.dataclass(frozen=True)
class Contender:
    """How it is made, its epochs, and the values of its options that are tried."""

    make: Callable[[nn.Module, int, Options], Step]
    epochs: int
    grid: dict[str, tuple[Any, ...]]
    tuned_as: str = ""  # another contender, whose best point it takes

    def points(self) -> list[Options]:
        return [
            dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())
        ]


rates = (3e-4, 1e-3, 3e-3)
outputs: Options = {"lr_memory_of": "outputs"}
memory_grid = {"lr_memory": (0.01, 0.02, 0.04), "damping": (0.1, 0.3)}
contenders = {
    "adam": Contender(by_optimizer(adam), 12, {"lr": rates, "betas": ((0.9, 0.999), (0.9, 0.99))}),
    "am-adam": Contender(by_method("am-adam"), 12, {"lr": rates, "mu": (0.5, 5.0)}),
    "am-adam, 5 iterations of codes": Contender(
        by_method("am-adam", code_iterations=5), 12, {"lr": rates, "mu": (0.5, 5.0)}
    ),
    "am-adam, 5 iterations of weights": Contender(
        by_method("am-adam", weight_iterations=5), 4, {"lr": (1e-4, 3e-4, 1e-3), "mu": (0.5, 5.0)}
    ),
    "am-mem, targets": Contender(by_method("am-mem"), 4, {"lr_memory": (0.1, 0.2, 0.5), "lr": (1e-3, 3e-3)}),
    "am-mem": Contender(by_method("am-mem", **outputs), 4, memory_grid),
    "am-mem, 1 epoch": Contender(by_method("am-mem", **outputs), 1, memory_grid, "am-mem"),
    "am-mem, 12 epochs": Contender(by_method("am-mem", **outputs), 12, memory_grid, "am-mem"),
    "soap": Contender(by_optimizer(soap), 4, {"lr": (1e-3, 3e-3, 1e-2), "precondition_frequency": (10, 50)}),
    "shampoo": Contender(
        by_optimizer(shampoo), 4, {"lr": (0.3, 1.0, 3.0), "preconditioning_compute_steps": (50, 100)}
    ),
    "singd": Contender(by_optimizer(singd), 4, {"lr": (0.3, 1.0, 3.0), "damping": (1e-3, 1e-2)}),
    "muon": Contender(by_optimizer(Muon), 4, {"lr": (0.01, 0.03, 0.1), "momentum": (0.9, 0.95)}),
}


def network(experiment: str) -> nn.Module:
    half = halves["-classic" if experiment.endswith("-classic") else ""]
    return altmin_ext.models.mlp(784, [*half, *half[-2::-1]], 784)


def images(experiment: str) -> tuple[Tensor, Tensor]:
    """Of the training and the test set, (N, 784) in [0, 1]."""
    data = altmin_ext.data.load(experiment.removesuffix("-classic"))
    train, test = (x.flatten(1) for x in (data.train[0], data.test[0]))
    low, high = train.min(), train.max()
    return (train - low) / (high - low), (test - low) / (high - low)


@torch.no_grad()
def error(model: nn.Module, x: Tensor) -> float:
    return float(F.mse_loss(model(x), x))


def train_once(
    experiment: str, name: str, options: Options, count: int, seed: int, points: int = 12
) -> dict[str, Any]:
    """One training on the first ``count`` images, judged at so many points; the record of it."""
    contender = contenders[name]
    train, test = images(experiment)
    train, judged = train[:count], train[: min(count, judged_images)]
    torch.manual_seed(seed)
    model = network(experiment)
    step = contender.make(model, seed, options)
    generator = torch.Generator().manual_seed(seed)
    steps = contender.epochs * math.ceil(count / batch_size)
    apart = max(1, steps // points)
    done, seconds, curve = 0, 0.0, []
    for _ in range(contender.epochs):
        for rows in torch.randperm(count, generator=generator).split(batch_size):
            x, factor = train[rows], 0.5 * (1 + math.cos(math.pi * done / steps))
            begin = time.process_time()
            step(x, factor)
            seconds += time.process_time() - begin
            done += 1
            if done % apart == 0 or done == steps:
                entry = (done / steps * contender.epochs, seconds, error(model, judged), error(model, test))
                curve.append([round(number, 6) for number in entry])
                if not math.isfinite(entry[2]):
                    raise altmin_ext.DivergenceError(f"{name} has diverged.")
    return {"contender": name, "options": options, "images": count, "seed": seed, "curve": curve}


def _path(kind: str) -> Path:
    return results / f"{kind}.jsonl"


def tune(chosen: Sequence[str]) -> None:
    """Every point of the grids; those already recorded are kept."""
    done = {(r["contender"], json.dumps(r["options"])) for r in records.read(_path("tuning"))}
    for name in chosen:
        for options in [] if contenders[name].tuned_as else contenders[name].points():
            if (name, json.dumps(options)) in done:
                continue
            try:
                found = train_once("mnist", name, options, tuned_images, 1000, points=1)["curve"][-1][2]
            except (
                altmin_ext.DivergenceError,
                RuntimeError,
            ) as reason:  # of a factor that does not exist, too
                print(name, options, reason)
                found = math.inf
            records.append(_path("tuning"), {"contender": name, "options": options, "error": found})
            print(name, options, f"{found:.5f}", flush=True)


def best_options(name: str) -> Options:
    """What was found best."""
    name = contenders[name].tuned_as or name
    tried = [record for record in records.read(_path("tuning")) if record["contender"] == name]
    if not tried:
        raise SystemExit(f"{name} has not been tuned: run `tune`.")
    best: Options = min(tried, key=lambda record: record["error"])["options"]
    return best


def run(experiment: str, count: int, seeds: int, chosen: Sequence[str]) -> None:
    """Every contender from several seeds; runs already recorded are kept."""
    path = _path(experiment)
    done = {(record["contender"], record["images"], record["seed"]) for record in records.read(path)}
    for seed, name in itertools.product(range(seeds), chosen):
        if (name, count, seed) in done:
            continue
        record = train_once(experiment, name, best_options(name), count, seed)
        records.append(path, record)
        _, seconds, on_train, on_test = record["curve"][-1]
        print(experiment, count, name, seed, f"{on_train:.5f} {on_test:.5f}, {seconds:.0f} s", flush=True)


def _groups() -> dict[tuple[str, int], dict[str, list[dict[str, Any]]]]:
    """The runs by experiment and number of images, then by contender."""
    groups: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = {}
    for experiment in experiments:
        for record in records.read(_path(experiment)):
            group = groups.setdefault((experiment, record["images"]), {})
            group.setdefault(record["contender"], []).append(record)
    return dict(sorted(groups.items(), key=lambda entry: (experiments.index(entry[0][0]), entry[0][1])))


def seconds_to(record: dict[str, Any], goal: float) -> float:
    """When the training error is at the goal, by a straight line between the points; infinite if never."""
    before = (0.0, math.inf)
    for _, seconds, on_train, _ in record["curve"]:
        if on_train <= goal:
            share = (before[1] - goal) / (before[1] - on_train) if math.isfinite(before[1]) else 1.0
            return float(before[0] + share * (seconds - before[0]))
        before = (seconds, on_train)
    return math.inf


def _shares(group: dict[str, list[dict[str, Any]]], name: str) -> list[float]:
    """The part of Adam's seconds that each run of a contender takes to Adam's last training error."""
    reference = {record["seed"]: record["curve"][-1] for record in group.get("adam", [])}
    return [
        seconds_to(record, reference[record["seed"]][2]) / reference[record["seed"]][1]
        for record in group.get(name, [])
        if record["seed"] in reference
    ]


def _mean(values: Sequence[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def table() -> str:
    """A row per contender: errors and seconds at the end, and those to Adam's last training error, over Adam's."""
    lines = [
        "| data and network | images | contender | options | epochs | training error | test error | seconds "
        "| of Adam's seconds to its error | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (experiment, count), group in _groups().items():
        for name in (name for name in contenders if name in group):
            runs = group[name]
            last = [record["curve"][-1] for record in runs]
            shares = _shares(group, name)
            share = statistics.median(shares) if shares else math.inf
            options = ", ".join(f"{key} {value}" for key, value in runs[0]["options"].items())
            cells = (
                experiment, count, name, options, contenders[name].epochs, _mean([own[2] for own in last], 4),
                _mean([own[3] for own in last], 4), _mean([own[1] for own in last], 0),
                f"{share:.2f}" if math.isfinite(share) else "never", len(runs),
            )  # fmt: skip
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def figure(path: Path) -> None:
    """Training error against seconds, the median over the seeds; a panel per experiment."""
    from benchmarks.paper.drawing import AM, BACKPROP, GREEN, PURPLE, label_ends, log, save, sheet

    looks = dict(
        zip(("am-mem", "am-mem, 1 epoch", "adam", "soap"), (AM, GREEN, BACKPROP, PURPLE), strict=True)
    )
    groups = _groups()
    shares = [
        share for group in groups.values() for share in _shares(group, "am-mem") if math.isfinite(share)
    ]
    rows = -(-len(groups) // 2)
    picture, axes = sheet(
        rows, 2, 3.0 * rows + 0.6,
        f"Deep autoencoders: am-mem reaches adam's training error of {contenders['adam'].epochs} epochs "
        f"in {min(shares):.2f} to {max(shares):.2f} of adam's time",
    )  # fmt: skip
    for axis in axes.flat[len(groups) :]:
        axis.remove()
    for axis, ((experiment, count), group) in zip(axes.flat, groups.items(), strict=False):
        log(axis, "x", "y")
        ends = {}
        for name in (name for name in contenders if name in group):
            points = zip(*(record["curve"] for record in group[name]), strict=True)
            curve = [[statistics.median(values) for values in zip(*point, strict=True)] for point in points]
            _, seconds, error, *_ = zip(*curve, strict=True)
            axis.plot(
                seconds, error, "-" if name.startswith("am-") else "--", color=looks[name], linewidth=1.8
            )
            epochs = contenders[name].epochs
            label = f"{name.partition(',')[0]},\n{epochs} epoch{'s' if epochs > 1 else ''}"
            ends[label] = seconds[-1], error[-1], looks[name]
        axis.set_title(f"{experiment}, {count:,} images", loc="left", fontsize=10.5)
        label_ends(axis, ends, 9)
    picture.supxlabel("seconds of processor time, one thread", fontsize=10.5)
    picture.supylabel("training error", fontsize=10.5)
    save(picture, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("tune", "run", "table", "figure"))
    parser.add_argument("experiment", nargs="*", choices=(*experiments, []))
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", choices=list(contenders), default=list(contenders))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.action == "tune":
        tune(arguments.contenders)
    elif arguments.action == "run":
        for experiment in arguments.experiment or experiments:
            run(experiment, arguments.images, arguments.seeds, arguments.contenders)
    elif arguments.action == "table":
        print(table())
    else:
        figure(results / "autoencoder.png")


if __name__ == "__main__":
    main()
