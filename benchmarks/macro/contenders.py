"""One training step of the paper's MLPs, by everything worth comparing.

Each contender is a function of (x, y) that trains its own copy of the network by one minibatch.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext.network import split

Step = Callable[[Tensor, Tensor], object]
Maker = Callable[[int, int], Step]  # (features, width) -> step

batch, classes = 200, 10
networks = {"2x100": (784, 100), "2x500": (784, 500)}
released_code = "ALTMIN_RELEASED_CODE"


def minibatches(n_in: int, count: int = 100, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Standard normal inputs and uniform labels.

    Many of them: a single one is learned by heart within fifty steps, and then the gradients of a loss of zero are
    denormal numbers, with which processors are several times slower than with those of any real training.
    """
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(batch, n_in, generator=generator), torch.randint(classes, (batch,), generator=generator))
        for _ in range(count)
    ]


def _network(n_in: int, width: int) -> nn.Sequential:
    torch.manual_seed(0)
    return altmin_ext.models.mlp(n_in, (width, width), classes)


def _method(name: str, **options: object) -> Maker:
    def make(n_in: int, width: int) -> Step:
        return altmin_ext.make_method(name, _network(n_in, width), **options).step

    return make


def autograd(n_in: int, width: int) -> Step:
    """What people write today: eager torch with Adam(fused=True)."""
    net = _network(n_in, width)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    criterion = nn.CrossEntropyLoss()

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        criterion(net(x), y).backward()
        optimizer.step()

    return step


def compiled_autograd(n_in: int, width: int) -> Step:
    """The same with forward and backward through torch.compile."""
    net = _network(n_in, width)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    criterion = nn.CrossEntropyLoss()
    loss = torch.compile(lambda x, y: criterion(net(x), y))

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()

    try:
        step(*minibatches(n_in, 1)[0])
    except Exception as error:  # it needs a compiler that suits it, and fails in many ways without
        raise LookupError(f"torch.compile fails here: {str(error).splitlines()[0]}") from error
    return step


def released(n_in: int, width: int) -> Step:
    """The authors' code, from a checkout of IBM/online-alt-min that the environment points at.

    Without BatchNorm, since the step it is compared with has none either; K = 5, momentum .9, as it comes.
    """
    folder = os.environ.get(released_code)
    if not folder:
        raise LookupError(f"set {released_code} to a checkout of github.com/IBM/online-alt-min to time it.")
    if folder not in sys.path:
        sys.path.append(folder)
    altmin, models = importlib.import_module("altmin"), importlib.import_module("models")
    torch.manual_seed(0)
    net = models.FFNet(n_in, width, n_hidden_layers=2, n_outputs=classes, bias=True, batchnorm=False)
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

    def make(n_in: int, width: int) -> Step:
        maps = [stage.map for stage in split(_network(n_in, width))]
        activations = [torch.randn(batch, map.n_in) for map in maps]
        codes = [torch.randn(batch, map.n_out) for map in maps]
        outputs = [torch.empty(batch, map.n_out) for map in maps]
        pulled_back = [torch.empty(batch, map.n_in) for map in maps]

        def step(x: Tensor, y: Tensor) -> None:
            with torch.no_grad():
                for l, map in enumerate(maps):
                    map.forward(x if l == 0 else activations[l], outputs[l])
                for l in range(len(maps) - 1, 0, -1):
                    maps[l].pull_back(codes[l], pulled_back[l])
                for l, map in enumerate(maps):
                    if again and l > 0:
                        map.forward(activations[l], outputs[l])
                    map.weight_gradients(codes[l], x if l == 0 else activations[l])

        return step

    return make


contenders: dict[str, Maker] = {
    "am-adam": _method("am-adam"),
    "am-sgd": _method("am-sgd"),
    "am-adam, released scaling": _method("am-adam", scaling="released"),
    "yardstick adam": _method("adam"),
    "autograd, Adam(fused)": autograd,
    "torch.compile, Adam(fused)": compiled_autograd,
    "authors' released code": released,
    "am-adam's products alone": _products(again=True),
    "autograd's products alone": _products(again=False),
}
