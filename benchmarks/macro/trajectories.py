"""Weights after every step of every method on every kind of network, as hashes: what a rebuild must leave as it was.

    python -m benchmarks.macro.trajectories --output before.json      # with the code before
    python -m benchmarks.macro.trajectories --against before.json     # with the code after

Uses the public interface alone, so that it runs on both. Exits with 1 where a step differs, and says by how much.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext import models

steps = 30
classes = 10


def _factors() -> nn.Module:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(36, 24))
    return models.deepfacto(encoder, 24, 16, nn.Linear(16, classes))


# Maker, shape of a sample, and minibatch size.
networks: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "mlp": (lambda: models.mlp(36, (20, 20), classes), (36,), 28),
    "mlp, tanh": (lambda: models.mlp(36, (20, 20, 20), classes, "tanh"), (36,), 28),
    "mlp, dropout": (
        lambda: nn.Sequential(nn.Linear(36, 20), nn.ReLU(), nn.Dropout(0.3), nn.Linear(20, classes)),
        (36,),
        28,
    ),
    "batch normalisation": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, classes)
        ),
        (1, 6, 6),
        28,
    ),
    "lenet5": (lambda: models.lenet5(1, 16), (1, 16, 16), 12),
    "elman": (lambda: models.elman_rnn(1, 7, 36), (36,), 12),
    "binary": (lambda: models.binary_mlp(36, (20, 20), classes), (36,), 28),
    "binary, none": (lambda: models.binary_mlp(36, (20, 20), classes, "none"), (36,), 28),
    "factors": (_factors, (36,), 28),
}
variants: dict[str, list[dict[str, Any]]] = {
    "am-adam": [
        {},
        {"code_iterations": 3, "code_momentum": 0.5},
        {"scaling": "released"},
        {"l1_codes": 0.01, "l1_weights": 0.01, "mu_increment": 0.01},
        {"weight_iterations": 2, "weight_decay": 0.01},
        {"loss": "mse"},
    ],
    "am-sgd": [{}, {"loss": "mse"}],
    "am-mem": [{}, {"targets": "refreshed", "forgetting": 0.1}, {"nonnegative": True}],
    "block-admm": [{}, {"order": "jacobi"}],
}


def data(
    shape: tuple[int, ...], batch: int, dtype: torch.dtype, full_batch: bool
) -> list[tuple[Tensor, Tensor]]:
    """Minibatches of a fixed stream; the same one again and again for methods that take the whole training set."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(1 if full_batch else steps):
        x = torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(dtype)
        batches.append((x, torch.randint(classes, (batch,), generator=generator)))
    return batches * (steps // len(batches))


def trajectory(
    name: str, network: str, dtype: torch.dtype, options: dict[str, Any]
) -> Iterator[tuple[Tensor, float]]:
    """All weights and buffers, flat, after every step, and the loss it reports."""
    make, shape, batch = networks[network]
    torch.manual_seed(0)
    model = make().to(dtype)
    method = altmin_ext.make_method(name, model, **options)
    for x, y in data(shape, batch, dtype, name.endswith("-off") or name in ("mdlam", "dladmm", "admm")):
        target = nn.functional.one_hot(y, classes).to(dtype) if options.get("loss") == "mse" else y
        report = method.step(x, target)
        weights = torch.cat([part.detach().double().flatten() for part in model.state_dict().values()])
        yield weights, float(report.loss)


def record() -> dict[str, Any]:
    """Per case the hash and the loss of every step and the last weights, or the kind of a refusal."""
    rows: dict[str, Any] = {}
    torch.set_num_threads(1)
    for name in altmin_ext.methods.names():
        for options in variants.get(name, [{}]):
            for network in networks:
                for dtype in (torch.float32, torch.float64):
                    key = f"{name} {json.dumps(options)} | {network} | {str(dtype)[6:]}"
                    hashes, losses, last = [], [], torch.empty(0)
                    try:
                        for last, loss in trajectory(name, network, dtype, options):
                            losses.append(loss)
                            hashes.append(hashlib.sha256(last.numpy().tobytes()).hexdigest()[:16])
                    except (ValueError, TypeError, altmin_ext.DivergenceError) as error:
                        hashes.append(type(error).__name__)
                    rows[key] = {"hashes": hashes, "losses": losses, "last": last.tolist()}
    return rows


def _difference(one: list[float], other: list[float]) -> str:
    a, b = torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
    if a.shape != b.shape or not len(a):
        return f"{len(a)} numbers before and {len(b)} after"
    return f"{float((a - b).abs().max() / a.abs().max()):.1e} of the largest number after the last"


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Print what differs, and how much; returns how many cases do."""
    differing = 0
    for key in [*before, *(k for k in after if k not in before)]:
        if key not in before or key not in after:
            print(f"{key}: only {'before' if key in before else 'after'}")
            differing += 1
            continue
        one, other = before[key], after[key]
        if one["hashes"] == other["hashes"]:
            if one["losses"] != other["losses"]:
                print(f"{key}: the same weights, but other losses are reported")
            continue
        differing += 1
        pairs = list(zip(one["hashes"], other["hashes"], strict=False))
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        print(f"{key}: from step {first + 1} on, {_difference(one['last'], other['last'])}")
    refused = sum(len(row["hashes"]) < steps for row in after.values())
    print(f"{len(after)} cases ({refused} refused or stopped), {differing} differ")
    return differing


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help="write the trajectories of this code to a JSON file")
    parser.add_argument("--against", type=Path, help="compare with those of such a file")
    arguments = parser.parse_args(argv)
    rows = record()
    if arguments.output:
        arguments.output.write_text(json.dumps(rows))
    if arguments.against:
        sys.exit(compare(json.loads(arguments.against.read_text()), rows) > 0)


if __name__ == "__main__":
    main()
