"""The networks whose steps are timed, and their minibatches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from altmin_ext import models
from altmin_ext.nn import Stage

classes = 10


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and its minibatches.

    Attributes:
        make: makes it, from torch's generator.
        shape: of a sample.
        batch: samples of a minibatch.
        widths: of the layers of an MLP, input and output included; else empty.
        plain: whether it is an MLP with ReLU, which all contenders know how to train.
        pool: how many minibatches to take in turn.
        classes: outputs of the network, all of which occur as labels.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int = 200
    widths: tuple[int, ...] = ()
    plain: bool = False
    pool: int = 100
    classes: int = classes


class Residual(nn.Module):
    """x + f(x), as users write it: the package knows nothing of this class."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.inner(x)
        return x + inner


def _wide_convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128 * 64, classes),
    )  # fmt: skip


def _stages() -> nn.Module:
    def stage(pre: nn.Module | None, n_in: int, n_out: int) -> Stage:
        return Stage(pre, nn.Conv2d(n_in, n_out, 3, padding=1))

    pooled = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(
        stage(None, 3, 16), stage(nn.ReLU(), 16, 32), stage(pooled, 32, 64), stage(pooled, 64, 64),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 16, classes),
    )  # fmt: skip


def _residual() -> nn.Module:
    blocks = [module for _ in range(3) for module in (Residual(32), nn.ReLU())]
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        *blocks, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(32 * 64, classes),
    )  # fmt: skip


def mlp(widths: tuple[int, ...], batch: int = 200, activation: str = "relu") -> Network:
    """A fully connected network and its minibatches.

    Args:
        widths: of the layers, input and output included.
        batch: samples of a minibatch.
        activation: a name that :func:`altmin_ext.models.mlp` knows.
    """
    n_in, *hidden, n_out = widths
    return Network(
        lambda: models.mlp(n_in, hidden, n_out, activation),
        (n_in,),
        batch,
        widths=widths,
        plain=activation == "relu",
        classes=n_out,
    )


narrow, wide = (784, 100, 100, classes), (784, 500, 500, classes)
networks = {
    "2x100": mlp(narrow),
    "2x500": mlp(wide),
    "2x256, batch 128": mlp((784, 256, 256, classes), 128),
    "lenet5 28x28": Network(lambda: models.lenet5(1, 28), (1, 28, 28), 128),
    "lenet5 32x32x3": Network(lambda: models.lenet5(3, 32), (3, 32, 32), 128),
    "binary 2x500": Network(models.binary_mlp, (784,), 100, widths=wide),
    "elman 15": Network(lambda: models.elman_rnn(hidden=15), (784,), 1024, pool=4),
    "elman 50": Network(lambda: models.elman_rnn(hidden=50), (784,), 1024, pool=4),
    "2x100, batch 28": mlp(narrow, 28),
    "2x500, batch 1": mlp(wide, 1),
    "10x100": mlp((784, *[100] * 10, classes)),
    "3072 inputs, 2x500": mlp((3072, 500, 500, classes)),
    "2x500, gelu": mlp(wide, activation="gelu"),
    "2x500, elu": mlp(wide, activation="elu"),
    "2x500, softplus": mlp(wide, activation="softplus"),
    "8-16-4, batch 1": mlp((8, 16, 4), 1),
    "30-64-64-2, batch 1": mlp((30, 64, 64, 2), 1),
    "convolutions 64-128": Network(_wide_convolutions, (3, 32, 32), 8, pool=20),
    "vgg of stages": Network(_stages, (3, 32, 32), 32, pool=8),
    "residual, batch norm": Network(_residual, (3, 32, 32), 32, pool=8),
}
published = list(networks)[: list(networks).index("elman 50") + 1]


def minibatches(network: Network, count: int | None = None, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Standard normal inputs and uniform labels.

    Many of them: a single one is learned by heart within fifty steps, and then the gradients of a loss of zero are
    denormal numbers, with which processors are several times slower than with those of any real training.
    """
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(network.batch, *network.shape, generator=generator),
            torch.randint(network.classes, (network.batch,), generator=generator),
        )
        for _ in range(network.pool if count is None else count)
    ]


def made(network: Network) -> nn.Module:
    torch.manual_seed(0)
    return network.make()
