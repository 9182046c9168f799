"""AM-mem tuned to the stream, beside closed forms that keep as many bytes.

    python -m benchmarks.paper.continual_variants permuted-mnist --seeds 3
    python -m benchmarks.paper.continual_variants split-cifar-10 split-fashion-mnist split-mnist --seeds 3

One pass in minibatches of 100, no task named, accuracy over all classes after the last task, mean over tasks. Every
variant is a frozen ``features`` under a fully connected network that am-mem trains:

- permuted-mnist: pixels under 784-100-100-10;
- split-fashion-mnist, split-mnist: a frozen random convolution, averaged over 3 x 3 windows, under 792-300-10;
- split-cifar-10: the same, but the filters come from whitened patches of the first 300 images of the stream: their
  winner-take-all directions (spherical k-means; Coates & Ng 2012), without labels. Nothing moves under the memory
  once they are there, so that its sums stay right.

Bytes: the matrix A of every layer and all weights, as float32. A frozen random convolution of 981 features under
recursive least squares keeps as many. Settings were chosen on a held-out tenth of the training set, with seed 0.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext.data import DataSet, streams

KEPT: dict[str, Any] = {
    "forgetting": 0.0, "damping": 0.0, "exact": True, "predictor": "memory"
}  # fmt: skip
OPTIONS: dict[str, dict[str, float]] = {
    "permuted-mnist": {"lr_memory": 2.0, "prior": 0.05},
    "split-fashion-mnist": {"lr_memory": 0.3, "prior": 2e-6, "prior_out": 0.2},
    "split-mnist": {"lr_memory": 0.3, "prior": 1e-5, "prior_out": 0.02},
    "split-cifar-10": {"lr_memory": 1.0, "prior": 2e-4, "prior_out": 0.5},
}
FILTERS, SIZE, GRID, HIDDEN = 88, 5, 3, 300
IMAGES = 300  # that filters and scales are learned from


def learned_filters(images: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Directions of whitened patches by winner-take-all codes; returns filters (count, entries) and biases."""
    patches = F.unfold(images, SIZE).mT.flatten(0, 1)
    mean = patches.mean(0)
    covariance = (patches - mean).T @ (patches - mean) / len(patches)
    variances, axes = torch.linalg.eigh(covariance)
    whitening = (axes * (variances + 0.03 * variances.mean()).rsqrt()) @ axes.T
    z = (patches[torch.randperm(len(patches), generator=generator)[:40_000]] - mean) @ whitening
    directions = F.normalize(torch.randn(count, z.shape[1], generator=generator), dim=1)
    for _ in range(10):
        similarity = z @ directions.T
        winner = similarity.abs().argmax(1, keepdim=True)
        sums = torch.zeros_like(directions).index_add_(0, winner[:, 0], z * similarity.gather(1, winner))
        directions = F.normalize(sums + 1e-6 * directions, dim=1)
    filters = directions @ whitening
    filters /= ((filters @ covariance) * filters).sum(1, keepdim=True).sqrt()
    return filters, -filters @ mean


def convolution(images: Tensor, learned: bool, seed: int) -> nn.Module:
    """A frozen convolution whose pooled outputs have a standard deviation of 1 on these images."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Conv2d(images.shape[1], FILTERS, SIZE).requires_grad_(False)
    if learned:
        filters, biases = learned_filters(images, FILTERS, generator)
    else:
        filters = torch.randn(FILTERS, layer.weight[0].numel(), generator=generator)
        filters, biases = (
            filters / math.sqrt(filters.shape[1]),
            0.3 * torch.randn(FILTERS, generator=generator),
        )
    layer.weight.copy_(filters.view_as(layer.weight))
    assert layer.bias is not None
    layer.bias.copy_(biases)
    features = nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(GRID), nn.Flatten())
    scale = features(images).std()
    layer.weight /= scale
    layer.bias /= scale
    return features


STREAMS: dict[str, Callable[[], list[DataSet]]] = {
    "permuted-mnist": lambda: streams.permuted_tasks(altmin_ext.data.load("mnist"), 10),
    **{
        f"split-{name}": lambda name=name: streams.class_tasks(altmin_ext.data.load(name))  # type: ignore[misc]
        for name in ("mnist", "fashion-mnist", "cifar-10")
    },
}


def run(name: str, seed: int) -> dict[str, Any]:
    """One run: accuracy on each task after the last one, bytes and processor seconds."""
    tasks, generator = STREAMS[name](), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    features: nn.Module = nn.Flatten()
    if name == "permuted-mnist":
        model = altmin_ext.models.mlp(tasks[0].n_in, [100, 100], tasks[0].classes)
    else:
        features = convolution(tasks[0].train[0][:IMAGES], name == "split-cifar-10", seed)
        model = altmin_ext.models.mlp(FILTERS * GRID**2, [HIDDEN], tasks[0].classes)
    method = altmin_ext.make_method("am-mem", model, seed=seed, **KEPT, **OPTIONS[name])
    begin = time.process_time()
    for task in tasks:
        x, y = task.train
        for chosen in torch.randperm(len(x), generator=generator).split(100):
            method.step(features(x[chosen]), y[chosen])
    seconds = time.process_time() - begin
    accuracies = []
    for task in tasks:
        x, y = task.test
        logits = torch.cat([model(features(part)) for part in x.split(500)])
        accuracies.append(float((logits.argmax(1) == y).double().mean()))
    kept = [gram.numel() for gram, _ in method.memories]
    kept += [p.numel() for module in (features, model) for p in module.parameters()]
    return {
        "stream": name, "seed": seed, "average": sum(accuracies) / len(tasks), "tasks": accuracies,
        "bytes": 4 * sum(kept), "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("streams", nargs="+", choices=list(STREAMS))
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for name in chosen.streams:
        for seed in range(chosen.seeds):
            with torch.no_grad():
                print(json.dumps(run(name, seed)), flush=True)


if __name__ == "__main__":
    main()
