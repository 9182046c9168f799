"""How far the signal of the loss reaches down a network, by alternating minimisation and by backpropagation.

    python -m benchmarks.paper.depth [--networks "20 x 100" vgg8] [--minibatches 469]
    python -m benchmarks.paper.depth --networks            # draws what has been recorded

Every contender trains the same network on the same minibatches: MLPs of 2 to 50 hidden layers of 100 units and
LeNet-5 on MNIST, and a VGG-like network of 8 convolutions on CIFAR-10, all but LeNet-5 with He's initialisation. An
epoch of LeNet-5 has 469 minibatches. For every layer two numbers are kept:

- how far its code moves in a step, RMS(c0 - c) / RMS(c0), the median over the minibatches. For backpropagation it is
  how far the gradient of a sample's loss would move it at a step size of 1;
- how far its weights have come at the end, ||W - W0|| / ||W0||.

Writes depth.json, which keeps what it has of other networks, and the picture depth.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import altmin_ext
from benchmarks.paper.accuracy import deep_mlp, lenet5, vgg8

results = Path(__file__).parent.parent / "results"
layers = (nn.Linear, nn.Conv2d)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, its data, and its minibatch."""

    make: Callable[[Any, float], nn.Module]
    data: str
    batch: int = 200


networks = {f"{depth} x 100": Network(deep_mlp(depth), "mnist") for depth in (2, 5, 10, 20, 50)}
networks["lenet5"] = Network(lenet5, "mnist", 128)
networks["vgg8"] = Network(vgg8, "cifar-10", 128)
contenders: dict[str, tuple[str, dict[str, Any]]] = {
    "am-adam": ("am-adam", {}),
    "am-adam, not scaled": ("am-adam", {"stage_scaling": "none"}),
    "am-adam, fixed step": ("am-adam", {"lr_codes": 0.1, "stage_scaling": "none"}),
    "am-adam, released": ("am-adam", {"scaling": "released"}),
    "adam": ("adam", {}),
    "sgd": ("sgd", {"lr": 0.05}),
}


def minibatches(data: str, batch: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """So many minibatches in the same order for everyone."""
    x, y = altmin_ext.data.load(data).train
    generator = torch.Generator().manual_seed(0)
    while True:
        for indices in torch.randperm(len(x), generator=generator).split(batch):
            if count == 0:
                return
            count -= 1
            yield x[indices], y[indices]


def _weights(network: nn.Module) -> list[Tensor]:
    return [module.weight.detach().clone() for module in network.modules() if isinstance(module, layers)]


def _codes(network: nn.Module, x: Tensor) -> list[Tensor]:
    """The outputs of all layers but the last, which autograd can be asked about."""
    codes: list[Tensor] = []
    for module in network:  # type: ignore[attr-defined]
        x = module(x)
        if isinstance(module, layers):
            codes.append(x)
    return codes


def _rms(tensor: Tensor) -> float:
    return float(tensor.detach().double().square().mean().sqrt())


def measure(network: Network, method: str, options: dict[str, Any], count: int) -> dict[str, Any]:
    """Both numbers of every layer, the codes' for hidden ones only, and the loss over the last tenth."""
    torch.manual_seed(0)
    model = network.make(altmin_ext.data.load(network.data), 0.0)
    trainer = altmin_ext.make_method(method, model, **options)
    before, moves, losses = _weights(model), [], []
    for x, y in minibatches(network.data, network.batch, count):
        *codes, logits = _codes(model, x)
        sizes = [_rms(code) for code in codes]
        if hasattr(trainer, "code_displacements"):
            losses.append(float(trainer.step(x, y).loss))
            moved = trainer.code_displacements.tolist()
        else:
            total = nn.functional.cross_entropy(logits, y, reduction="sum")
            moved = [_rms(gradient) for gradient in torch.autograd.grad(total, codes)]
            losses.append(float(trainer.step(x, y).loss))
        moves.append([m / s if s else 0.0 for m, s in zip(moved, sizes, strict=True)])
    changes = [float((w - w0).norm() / w0.norm()) for w, w0 in zip(_weights(model), before, strict=True)]
    tail = losses[-max(1, count // 10) :]
    return {
        "loss": statistics.mean(tail),
        "displacement": [statistics.median(layer) for layer in zip(*moves, strict=True)],
        "weight_change": changes,
    }


def draw(record: dict[str, dict[str, Any]], path: Path) -> None:
    """A row per network; codes on the left, weights on the right; a line per contender, from the first layer up."""
    from benchmarks.paper.drawing import AM, BACKPROP, BROWN, GREEN, GREY, PURPLE, log, save, sheet

    looks = dict(zip(contenders, (AM, GREEN, PURPLE, BROWN, BACKPROP, GREY), strict=True))
    deepest = max(record, key=lambda network: len(record[network]["am-adam"]["displacement"]))
    share = record[deepest]["am-adam"]["weight_change"][0] / record[deepest]["adam"]["weight_change"][0]
    moved = record[deepest]["am-adam"]["displacement"][0]
    figure, axes = sheet(
        len(record), 2, 2.1 * len(record) + 1,
        f"{deepest}: the first code moves by {moved:.0e} of its size, and am-adam's weights "
        f"below it still come {share:.2f} times as far as adam's: stages are scaled by displacement",
        sharey="col",
    )  # fmt: skip
    titles = ("how far codes move in a step", "how far weights have come")
    for row, (network, found) in zip(axes, record.items(), strict=True):
        for axis, key, title in zip(row, ("displacement", "weight_change"), titles, strict=True):
            log(axis, "y")
            for name, numbers in found.items():
                values = [value or 1e-300 for value in numbers[key]]  # moves that float32 has lost
                axis.plot(
                    range(1, len(values) + 1), values, "--" if name in ("adam", "sgd") else "-", color=looks[name],
                    marker="." if len(values) < 25 else None, linewidth=1.5, label=name,
                )  # fmt: skip
            axis.set_ylim((1e-12, 10) if key == "displacement" else (1e-5, 10))
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.set_title(f"{network}: {title}", loc="left", fontsize=10.5)
    for axis, label in zip(axes[-1], ("RMS(c0 - c) / RMS(c0)", "|W - W0| / |W0|"), strict=True):
        axis.set_xlabel(f"layer (upwards: {label})", fontsize=10.5)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=10.5)
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="*", choices=list(networks), default=list(networks))
    parser.add_argument("--minibatches", type=int, default=469)
    parser.add_argument("--output", type=Path, default=results)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "depth.json"
    record: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    for network in arguments.networks:
        record[network] = {}
        for name, (method, options) in contenders.items():
            numbers = measure(networks[network], method, options, arguments.minibatches)
            record[network][name] = numbers
            moved, changed = numbers["displacement"], numbers["weight_change"]
            print(
                f"{network}, {name}: loss {numbers['loss']:.3f}, code moves {moved[0]:.1e} to {moved[-1]:.1e}, "
                f"weights change {changed[0]:.1e} to {changed[-2]:.1e}",
                flush=True,
            )
        path.write_text(json.dumps(record) + "\n")
    ordered = {network: record[network] for network in networks if network in record}
    draw(ordered, arguments.output / "depth.png")


if __name__ == "__main__":
    main()
