"""One training step of the paper's networks, by everything worth comparing.

Each contender is a function of (x, y) that trains its own copy of the network by one minibatch.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext import models
from altmin_ext.network import LinearMap, split
from altmin_ext.nn import Stage

Step = Callable[[Tensor, Tensor], object]
classes = 10
released_code = "ALTMIN_RELEASED_CODE"


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and its minibatches.

    Attributes:
        make: makes it, from torch's generator.
        shape: of a sample.
        batch: samples of a minibatch.
        width: of the hidden layers of an MLP, which all contenders know how to train; else 0.
        pool: how many minibatches to take in turn.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int = 200
    width: int = 0
    pool: int = 100


Maker = Callable[[Network], Step]


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


def _mlp(width: int, batch: int = 200) -> Network:
    return Network(lambda: models.mlp(784, (width, width), classes), (784,), batch, width=width)


networks = {
    "2x100": _mlp(100),
    "2x500": _mlp(500),
    "2x256, batch 128": _mlp(256, 128),
    "lenet5 28x28": Network(lambda: models.lenet5(1, 28), (1, 28, 28), 128),
    "lenet5 32x32x3": Network(lambda: models.lenet5(3, 32), (3, 32, 32), 128),
    "binary 2x500": Network(models.binary_mlp, (784,), 100),
    "elman 15": Network(lambda: models.elman_rnn(hidden=15), (784,), 1024, pool=4),
    "elman 50": Network(lambda: models.elman_rnn(hidden=50), (784,), 1024, pool=4),
    "convolutions 64-128": Network(_wide_convolutions, (3, 32, 32), 8, pool=20),
    "vgg of stages": Network(_stages, (3, 32, 32), 32, pool=8),
    "residual, batch norm": Network(_residual, (3, 32, 32), 32, pool=8),
}


def minibatches(network: Network, count: int | None = None, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Standard normal inputs and uniform labels.

    Many of them: a single one is learned by heart within fifty steps, and then the gradients of a loss of zero are
    denormal numbers, with which processors are several times slower than with those of any real training.
    """
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(network.batch, *network.shape, generator=generator),
            torch.randint(classes, (network.batch,), generator=generator),
        )
        for _ in range(network.pool if count is None else count)
    ]


def _made(network: Network) -> nn.Module:
    torch.manual_seed(0)
    return network.make()


def _width(network: Network) -> int:
    if not network.width:
        raise LookupError("for the MLPs only.")
    return network.width


def _method(name: str, **options: object) -> Maker:
    def make(network: Network) -> Step:
        return altmin_ext.make_method(name, _made(network), **options).step

    return make


def _mlps_only(maker: Maker) -> Maker:
    def make(network: Network) -> Step:
        _width(network)
        return maker(network)

    return make


def autograd(network: Network) -> Step:
    """What people write today: eager torch with Adam(fused=True); through a Sign, straight-through."""
    net = _made(network)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    criterion = nn.CrossEntropyLoss()

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        criterion(net(x), y).backward()
        optimizer.step()

    return step


def compiled_autograd(network: Network) -> Step:
    """The same with forward and backward through torch.compile."""
    _width(network)
    net = _made(network)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    criterion = nn.CrossEntropyLoss()
    loss = torch.compile(lambda x, y: criterion(net(x), y))

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()

    try:
        step(*minibatches(network, 1)[0])
    except Exception as error:  # it needs a compiler that suits it, and fails in many ways without
        raise LookupError(f"torch.compile fails here: {str(error).splitlines()[0]}") from error
    return step


def released(network: Network) -> Step:
    """The authors' code, from a checkout of IBM/online-alt-min that the environment points at.

    Without BatchNorm, since the step it is compared with has none either; K = 5, momentum .9, as it comes.
    """
    width = _width(network)
    folder = os.environ.get(released_code)
    if not folder:
        raise LookupError(f"set {released_code} to a checkout of github.com/IBM/online-alt-min to time it.")
    if folder not in sys.path:
        sys.path.append(folder)
    altmin, released_models = importlib.import_module("altmin"), importlib.import_module("models")
    torch.manual_seed(0)
    net = released_models.FFNet(
        network.shape[0], width, n_hidden_layers=2, n_outputs=classes, bias=True, batchnorm=False
    )
    stages = altmin.get_mods(
        net, optimizer="Adam", optimizer_params={"lr": 0.008}, scheduler=lambda epoch: 1 / 2 ** (epoch // 8)
    )
    criterion = nn.CrossEntropyLoss()
    for stage in stages:
        stage.train()

    def step(x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            _, codes = altmin.get_codes(stages, x)
        codes = altmin.update_codes(codes, stages, y, criterion, 0.003, lambda_c=0, n_iter=5, lr=0.3)
        altmin.update_last_layer_(stages[-1], codes[-1], y, criterion, n_iter=1)
        altmin.update_hidden_weights_adam_(stages, x, codes, lambda_w=0, n_iter=1)

    return step


def _products(again: bool) -> Maker:
    """A step's matrix products alone, into buffers: what no kernel between them can undercut.

    Alternating minimisation takes those of all stages but the first ``again`` after the codes have moved.
    """

    def make(network: Network) -> Step:
        _width(network)
        batch = network.batch
        maps = [stage.map for stage in split(_made(network)) if isinstance(stage.map, LinearMap)]
        activations = [torch.randn(batch, map.n_in) for map in maps]
        codes = [torch.randn(batch, map.n_out) for map in maps]
        outputs = [torch.empty(batch, map.n_out) for map in maps]
        pulled_back = [torch.empty(batch, map.n_in) for map in maps]

        def step(x: Tensor, y: Tensor) -> None:
            with torch.no_grad():
                for l, map in enumerate(maps):
                    map.forward(x if l == 0 else activations[l], outputs[l])
                for l in range(len(maps) - 1, 0, -1):
                    maps[l].vjp(codes[l], pulled_back[l])
                for l, map in enumerate(maps):
                    if again and l > 0:
                        map.forward(activations[l], outputs[l])
                    map.weight_gradients(codes[l], x if l == 0 else activations[l])

        return step

    return make


contenders: dict[str, Maker] = {
    "am-adam": _method("am-adam"),
    "am-sgd": _method("am-sgd"),
    "am-adam, 1 iteration": _method("am-adam", code_iterations=1, weight_iterations=1),
    "am-mem": _mlps_only(_method("am-mem")),
    "am-adam, released scaling": _mlps_only(_method("am-adam", scaling="released")),
    "block-admm": _mlps_only(_method("block-admm")),
    "block-admm, jacobi": _mlps_only(_method("block-admm", order="jacobi")),
    "yardstick adam": _method("adam"),
    "autograd, Adam(fused)": autograd,
    "torch.compile, Adam(fused)": compiled_autograd,
    "authors' released code": released,
    "am-adam's products alone": _products(again=True),
    "autograd's products alone": _products(again=False),
}
