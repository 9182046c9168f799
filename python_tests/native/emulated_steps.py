"""Steps of every method on every kind of network, for a process on an emulated processor: one JSON line a case.

A case takes the same steps twice from the same weights: with the kernels, in its dtype, and with the twins of
:mod:`altmin_ext.ops.reference` in float64. Its line says how far the two are apart, relative to the largest number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext import models
from altmin_ext.ops import _native

STEPS, BATCH, CLASSES = 2, 18, 3  # a minibatch that fills one group of 16 lanes and begins another

# Maker and shape of a sample.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: models.mlp(12, [9, 7], CLASSES), (12,)),
    "lenet5": (lambda: models.lenet5(1, 16, CLASSES), (1, 16, 16)),
    "elman": (lambda: models.elman_rnn(1, 5, 12, CLASSES), (12,)),
    "binary": (lambda: models.binary_mlp(12, [9, 7], CLASSES, "none"), (12,)),
    "factors": (
        lambda: models.deepfacto(nn.Sequential(nn.Linear(12, 9)), 9, 7, nn.Linear(7, CLASSES)),
        (12,),
    ),
}


def steps(name: str, network: str, dtype: torch.dtype, backend: str) -> tuple[list[float], Tensor]:
    """The loss of every step, and all parameters after the last."""
    make, shape = NETWORKS[network]
    torch.manual_seed(0)
    model = make().to(dtype)
    method = altmin_ext.make_method(name, model)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, *shape, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.arange(BATCH) % CLASSES
    with altmin_ext.ops.backend(backend):
        losses = [float(method.step(x, y).loss) for _ in range(STEPS)]
    return losses, torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])


def compare(name: str, network: str) -> Iterator[dict[str, Any]]:
    case = {"method": name, "network": network}
    try:
        exact_losses, exact = steps(name, network, torch.float64, "reference")
    except (TypeError, ValueError) as refusal:
        yield {**case, "refused": str(refusal)}
        return
    for dtype in (torch.float32, torch.float64):
        losses, found = steps(name, network, dtype, "native")
        yield {
            **case,
            "dtype": str(dtype)[6:],
            "loss": max(abs(a / b - 1) for a, b in zip(losses, exact_losses, strict=True)),
            "parameters": float((found - exact).abs().max() / exact.abs().max()),
        }


def main() -> None:
    torch.set_num_threads(1)
    module = _native.module
    assert module is not None, _native.reason
    print(json.dumps({"instruction_set": module.instruction_set()}), flush=True)
    for name in altmin_ext.methods.names():
        for network in NETWORKS:
            for case in compare(name, network):
                print(json.dumps(case), flush=True)


if __name__ == "__main__":
    main()
