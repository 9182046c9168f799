"""DeepFacto on Fashion-MNIST: what its layer of non-negative factors costs, and whether factors are of one class.

    python -m benchmarks.paper.factors run [fine coarse weak conv] [--seeds 3]
    python -m benchmarks.paper.factors table|figure

- ``fine``: trained on the ten classes, encoder 784-256, rank 64, beside the same network without the layer, and
  scikit-learn's NMF of the pixels, of the same rank, with logistic regression on its codes;
- ``coarse``: trained on four groups of classes, so that which class of a group a sample is of is never said: tops
  (T-shirt, pullover, coat, shirt), trousers and dresses, shoes (sandal, sneaker, boot), bags;
- ``weak``: nine tenths of the samples are without a label (-1), beside the same with the rest alone;
- ``conv``: two convolutions to 64 maps of 7 x 7, rank 32 at every position, 20,000 samples.

Encoders end with batch normalisation; minibatches of 128, the learning rate going down as a cosine. Of the test set's
codes it is recorded

- ``hoyer``: (sqrt(r) - |s|_1 / |s|_2) / (sqrt(r) - 1), mean over samples: 0 where all are equal, 1 for one alone;
- ``purity``: of a factor's mass, the share that lies on the class that has most of it; mean over the factors in use;
- ``information``: in bits, of the class in which factor is the sample's strongest, each factor divided by its mean;
- ``within``: the same, of the class in its group only: what no coarse label says, 1.28 bits at most;
- ``probe``: test accuracy, over the ten classes, of a logistic regression on the codes.

Without the layer, the codes are the hidden units; of maps, sums over positions are measured. Results are JSON
lines under benchmarks/results/factors.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext import data, models
from benchmarks.paper import records

results = Path(__file__).parent.parent / "results" / "factors"
groups = torch.tensor([0, 1, 0, 1, 0, 2, 0, 2, 3, 2])  # of the ten classes
names = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
epochs, batch_size, rank, hidden = 3, 128, 64, 256
Run = tuple[str, dict[str, Any]]


def hoyer(codes: Tensor) -> float:
    """Mean sparsity of the rows; rows of zeros count as 1."""
    r = codes.shape[1]
    ratio = codes.abs().sum(1) / codes.norm(dim=1)
    return float(((math.sqrt(r) - ratio.nan_to_num(1.0)) / (math.sqrt(r) - 1)).mean())


def _mass(codes: Tensor, y: Tensor) -> Tensor:
    """(classes, factors): how much of every factor lies on a class, as a mean over its samples."""
    return torch.stack([codes[y == label].mean(0) for label in range(int(y.max()) + 1)])


def purity(codes: Tensor, y: Tensor) -> float:
    """Mean over the factors in use of the largest share of a class in a factor's mass."""
    mass = _mass(codes, y)
    used = mass.sum(0) > 0
    return float((mass.max(0).values[used] / mass.sum(0)[used]).mean())


def information(codes: Tensor, y: Tensor) -> float:
    """In bits, what the number of a sample's strongest factor, each divided by its mean, says of its class."""
    strongest = (codes / codes.mean(0).clamp(min=1e-30)).argmax(1)
    joint = torch.zeros(codes.shape[1], int(y.max()) + 1, dtype=torch.float64)
    joint.index_put_((strongest, y), torch.ones(len(y), dtype=torch.float64), accumulate=True)
    joint /= joint.sum()
    product = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return float((joint * (joint / product).log2()).nan_to_num(0.0).sum())


def within(codes: Tensor, y: Tensor) -> float:
    """The same for the class in its group: the mean over groups, each as often as it occurs."""
    total = 0.0
    for group in groups[y].unique():
        own = groups[y] == group
        total += float(own.double().mean()) * information(codes[own], y[own])
    return total


def probe(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Test accuracy of a logistic regression on codes scaled to a mean square of 1."""
    scale = train[0].square().mean(0).sqrt().clamp(min=1e-6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = nn.Sequential(nn.Linear(train[0].shape[1], 10))
    altmin_ext.train(
        classifier, (train[0] / scale, train[1]), method="adam", lr=3e-3, epochs=8, batch_size=200,
        lr_schedule="cosine", progress=False,
    )  # fmt: skip
    return float(altmin_ext.evaluate(classifier, (test[0] / scale, test[1])).accuracy or 0.0)


def measures(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """All of the above, for codes (samples, factors) and classes."""
    codes, y = test
    return {
        "smallest": float(codes.min()), "hoyer": hoyer(codes), "purity": purity(codes, y),
        "information": information(codes, y), "within": within(codes, y), "probe": probe(train, test),
    }  # fmt: skip


def network(layer: bool, classes: int) -> nn.Sequential:
    encoder = nn.Sequential(models.mlp(784, [], hidden), nn.BatchNorm1d(hidden))
    if layer:
        return models.deepfacto(encoder, hidden, rank, nn.Linear(rank, classes))
    return nn.Sequential(encoder, nn.ReLU(), nn.Linear(hidden, classes))


def convolutional(layer: bool, classes: int) -> nn.Sequential:
    encoder = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv2d(16, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64),
    )  # fmt: skip
    if layer:
        return models.deepfacto(
            encoder, 64, rank // 2, nn.Sequential(nn.Flatten(), nn.Linear(49 * rank // 2, classes))
        )
    return nn.Sequential(encoder, nn.ReLU(), nn.Flatten(), nn.Linear(49 * 64, classes))


def trained(
    build: Callable[[bool, int], nn.Sequential],
    layer: bool,
    train: tuple[Tensor, Tensor],
    seed: int,
    classes: int = 10,
    **settings: Any,
) -> nn.Sequential:
    torch.manual_seed(seed)
    model = build(layer, classes)
    method = "deepfacto" if layer else "adam"
    altmin_ext.train(
        model, train, method=method, seed=seed, batch_size=batch_size, lr_schedule="cosine", progress=False,
        **{"epochs": epochs, **settings},
    )  # fmt: skip
    return model.eval()


@torch.no_grad()
def codes_of(model: nn.Sequential, x: Tensor) -> Tensor:
    """(samples, factors): codes, or activations of the last hidden layer; of maps, the sums over positions."""
    last = next(i for i, m in enumerate(model) if isinstance(m, (altmin_ext.NonNegativeFactors, nn.ReLU)))
    if isinstance(model[last + 1], altmin_ext.NonNegativeFactors):
        last += 1
    found = [model[: last + 1](part) for part in x.split(1000)]
    return torch.cat([part.flatten(2).sum(2) if part.ndim > 2 else part for part in found])


def described(model: nn.Sequential, set_: data.DataSet, y_test: Tensor) -> dict[str, Any]:
    """Accuracy on the labels it was trained on, and the measures of its codes with the ten classes."""
    (x, y), (x_test, classes) = set_.train, set_.test
    x, y = x[:20_000], y[:20_000]
    accuracy = altmin_ext.evaluate(model, (x_test, y_test)).accuracy
    return {
        "accuracy": accuracy,
        **measures((codes_of(model, x), y), (codes_of(model, x_test), classes)),
    }


def pixels(set_: data.DataSet, seed: int) -> dict[str, Any]:
    """scikit-learn's NMF of the pixels, in [0, 1], fitted to 10,000 images; logistic regression on 20,000 codes."""
    from sklearn.decomposition import NMF

    low = float(set_.train[0].min())
    (x, y), (x_test, classes) = set_.train, set_.test
    x, y = x[:20_000].flatten(1) - low, y[:20_000]
    x_test = x_test.flatten(1) - low
    top = x.max()
    nmf = NMF(rank, init="nndsvda", max_iter=100, random_state=seed).fit((x[:10_000] / top).numpy())
    train, test = (torch.from_numpy(nmf.transform((part / top).numpy())).float() for part in (x, x_test))
    found = measures((train, y), (test, classes))
    return {"accuracy": found["probe"], **found}


def fine(set_: data.DataSet, seed: int) -> list[Run]:
    """Trained on the ten classes."""
    return [
        ("deepfacto", described(trained(network, True, set_.train, seed), set_, set_.test[1])),
        (
            "deepfacto, fidelity 0",
            described(trained(network, True, set_.train, seed, fidelity=0.0), set_, set_.test[1]),
        ),
        ("without the layer", described(trained(network, False, set_.train, seed), set_, set_.test[1])),
        ("NMF of pixels", pixels(set_, seed)),
    ]


def coarse(set_: data.DataSet, seed: int) -> list[Run]:
    """Trained on four groups."""
    train, target = (set_.train[0], groups[set_.train[1]]), groups[set_.test[1]]
    return [
        (name, described(trained(network, layer, train, seed, classes=4, **settings), set_, target))
        for name, layer, settings in (
            ("deepfacto", True, {}),
            ("deepfacto, fidelity .01", True, {"fidelity": 0.01}),
            ("without the layer", False, {}),
        )
    ]


def weak(set_: data.DataSet, seed: int) -> list[Run]:
    """Trained on the classes of a tenth of the samples."""
    x, y = set_.train
    known = torch.rand(len(y), generator=torch.Generator().manual_seed(seed)) < 0.1
    partial, rest = (x, torch.where(known, y, -1)), (x[known], y[known])
    often = {"epochs": 10 * epochs}
    return [
        ("deepfacto", described(trained(network, True, partial, seed), set_, set_.test[1])),
        (
            "deepfacto, fidelity .01",
            described(trained(network, True, partial, seed, fidelity=0.01), set_, set_.test[1]),
        ),
        (
            "deepfacto, labelled alone",
            described(trained(network, True, rest, seed, **often), set_, set_.test[1]),
        ),
        ("without the layer", described(trained(network, False, rest, seed, **often), set_, set_.test[1])),
    ]


def conv(set_: data.DataSet, seed: int) -> list[Run]:
    """Maps of features, every position with a code."""
    train = (set_.train[0][:20_000], set_.train[1][:20_000])
    return [
        (name, described(trained(convolutional, layer, train, seed, **settings), set_, set_.test[1]))
        for name, layer, settings in (
            ("deepfacto", True, {}),
            ("deepfacto, fidelity 2e-5", True, {"fidelity": 2e-5}),
            ("deepfacto, fidelity 0", True, {"fidelity": 0.0}),
            ("without the layer", False, {}),
        )
    ]


studies: dict[str, Callable[[data.DataSet, int], list[Run]]] = {
    "fine": fine,
    "coarse": coarse,
    "weak": weak,
    "conv": conv,
}


def _records(study: str) -> list[dict[str, Any]]:
    return records.read(results / f"{study}.jsonl")


def run(chosen: Sequence[str], seeds: int) -> None:
    """Every study from several seeds; what is recorded already is kept."""
    set_ = data.load("fashion-mnist")
    for seed, study in itertools.product(range(seeds), chosen):
        if any(record["seed"] == seed for record in _records(study)):
            continue
        for name, found in studies[study](set_, seed):
            records.append(results / f"{study}.jsonl", {"seed": seed, "method": name, **found})
            print(study, seed, name, {key: round(value, 4) for key, value in found.items()}, flush=True)


def table() -> str:
    """Means and standard deviations over the seeds."""
    columns = ("accuracy", "hoyer", "purity", "information", "within", "probe")
    lines = [
        f"| study | method | {' | '.join(columns)} | seeds |",
        f"|---|---|{'---|' * len(columns)}---|",
    ]
    for study in studies:
        methods: dict[str, list[dict[str, Any]]] = {}
        for record in _records(study):
            methods.setdefault(record["method"], []).append(record)
        for method, runs in methods.items():
            cells = []
            for column in columns:
                values = [record[column] for record in runs]
                spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.4f}{spread}")
            lines.append(f"| {study} | {method} | {' | '.join(cells)} | {len(runs)} |")
    return "\n".join(lines)


def figure(path: Path) -> None:
    """What the factors respond to, trained on the four groups: mean test images, weighted by the factor's square."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    set_ = data.load("fashion-mnist")
    model = trained(network, True, (set_.train[0], groups[set_.train[1]]), 0, classes=4)
    x, y = set_.test
    codes = codes_of(model, x)
    mass = _mass(codes, y)
    shares = mass / mass.sum(0).clamp(min=1e-30)
    order = sorted(range(rank), key=lambda j: (int(shares[:, j].argmax()), -float(shares[:, j].max())))
    picture, axes = pyplot.subplots(8, 8, figsize=(10, 11), layout="constrained")
    for axis, j in zip(axes.flat, order, strict=True):
        weights = codes[:, j].square()
        image = (weights[:, None, None] * x[:, 0]).sum(0) / weights.sum().clamp(min=1e-30)
        axis.imshow(image, cmap="gray_r")
        axis.set_title(f"{names[int(shares[:, j].argmax())]} {float(shares[:, j].max()):.2f}", fontsize=8)
        axis.axis("off")
    picture.suptitle("Factors of a network that was told tops, trousers and dresses, shoes, bags")
    picture.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("run", "table", "figure"))
    parser.add_argument("study", nargs="*", choices=(*studies, []))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    if arguments.action == "run":
        run(arguments.study or list(studies), arguments.seeds)
    elif arguments.action == "table":
        print(table())
    else:
        figure(results / "factors.png")


if __name__ == "__main__":
    main()
