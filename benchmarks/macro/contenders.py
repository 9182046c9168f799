"""One training step of networks, by everything worth comparing.

Each contender trains its own copy of the network, with the same initial weights, by one minibatch after the other.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext import models
from altmin_ext.network import LinearMap, split
from benchmarks.macro.turns import Entry

classes = 10
lr_adam, lr_sgd = 1e-3, 0.1
released_code = "ALTMIN_RELEASED_CODE"


def _as_they_are(x: Tensor, y: Tensor) -> tuple[Any, Any]:
    return x, y


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A contender with its copy of a network.

    Attributes:
        step: trains by one minibatch.
        convert: makes the arguments of ``step`` from a minibatch; not timed.
    """

    step: Callable[[Any, Any], object]
    convert: Callable[[Tensor, Tensor], tuple[Any, Any]] = _as_they_are

    def converted(self, data: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Any, Any]]:
        """All minibatches as arguments of ``step``."""
        return [self.convert(x, y) for x, y in data]


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


Maker = Callable[[Network], Trainer]


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


def _made(network: Network) -> nn.Module:
    torch.manual_seed(0)
    return network.make()


def _needs_widths(network: Network) -> tuple[int, ...]:
    if not network.widths:
        raise LookupError("for the MLPs only.")
    return network.widths


def _needs_plain(network: Network) -> tuple[int, ...]:
    if not network.plain:
        raise LookupError("for the MLPs with ReLU only.")
    return network.widths


def _needs_single_samples(network: Network) -> None:
    if network.batch != 1:
        raise LookupError("for single samples only.")


def _imported(*names: str, install: str) -> list[ModuleType]:
    """Modules of extras, a LookupError with the way to get them if one is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [importlib.import_module(name) for name in names]
    except Exception as error:  # also what an import itself needs, such as Java
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise LookupError(f"to time it, {install} ({reason}).") from error


def _method(name: str, **options: object) -> Maker:
    def make(network: Network) -> Trainer:
        return Trainer(altmin_ext.make_method(name, _made(network), **options).step)

    return make


def _plain_only(maker: Maker) -> Maker:
    def make(network: Network) -> Trainer:
        _needs_plain(network)
        return maker(network)

    return make


def _adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=lr_adam, fused=True)


def _sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=lr_sgd, fused=True)


def _autograd(make_optimizer: Callable[[nn.Module], torch.optim.Optimizer], compiled: bool = False) -> Maker:
    """What people write today, eager torch; through a Sign, straight-through. Or loss and gradient compiled."""

    def make(network: Network) -> Trainer:
        net = _made(network)
        optimizer = make_optimizer(net)
        criterion = nn.CrossEntropyLoss()

        def loss(x: Tensor, y: Tensor) -> Tensor:
            value: Tensor = criterion(net(x), y)
            return value

        evaluate = torch.compile(loss) if compiled else loss

        def step(x: Tensor, y: Tensor) -> None:
            optimizer.zero_grad()
            evaluate(x, y).backward()
            optimizer.step()

        return Trainer(step)

    return make


def _compiled(maker: Maker) -> Maker:
    """A contender that needs a compiler that suits it, and fails in many ways without."""

    def make(network: Network) -> Trainer:
        try:
            maker(network).step(*minibatches(network, 1)[0])
        except Exception as error:
            raise LookupError(f"torch.compile fails here: {str(error).splitlines()[0]}") from error
        return maker(network)

    return make


def in_jax(network: Network) -> Trainer:
    """Loss, gradient and optax's Adam in one function of ``jax.jit``, with donated buffers."""
    _imported("jax", "optax", install="pip install jax optax")
    from benchmarks.macro import jax_network

    step, convert = jax_network.trainer(_made(network), lr_adam)
    return Trainer(step, convert)


def _by_hand(adam: bool) -> Maker:
    """What one writes in numpy: an MLP with ReLU and one sample at a time, all parameters in one vector."""

    def make(network: Network) -> Trainer:
        widths = list(itertools.pairwise(_needs_plain(network)))
        _needs_single_samples(network)
        w = np.concatenate([part.detach().numpy().ravel() for part in _made(network).parameters()])
        g, m, v, t = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w), 0
        ends = np.cumsum([size for n_in, n_out in widths for size in (n_in * n_out, n_out)])[:-1]
        (W, b), (gW, gb) = (
            (
                [part.reshape(n_out, n_in) for part, (n_in, n_out) in zip(parts[::2], widths, strict=True)],
                parts[1::2],
            )
            for parts in (np.split(w, ends), np.split(g, ends))
        )
        last = len(W) - 1

        def step(x: Any, y: int) -> None:
            nonlocal w, m, v, t
            a = [x]
            for l in range(last):
                a.append(np.maximum(W[l] @ a[l] + b[l], 0))
            z = W[last] @ a[last] + b[last]
            r = np.exp(z - z.max())
            r /= r.sum()
            r[y] -= 1
            for l in range(last, -1, -1):
                np.outer(r, a[l], out=gW[l])
                gb[l][:] = r
                if l:
                    r = (r @ W[l]) * (a[l] > 0)
            if not adam:
                w -= lr_sgd * g
                return
            t += 1
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            w -= lr_adam / (1 - 0.9**t) * m / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

        return Trainer(step, lambda x, y: (x[0].numpy(), int(y[0])))

    return make


def released(network: Network) -> Trainer:
    """The authors' code, from a checkout of IBM/online-alt-min that the environment points at.

    Without BatchNorm, since the step it is compared with has none either; K = 5, momentum .9, as it comes.
    """
    widths = _needs_plain(network)
    if len(widths) != 4 or widths[1] != widths[2]:
        raise LookupError("for two hidden layers of the same width only.")
    folder = os.environ.get(released_code)
    if not folder:
        raise LookupError(f"set {released_code} to a checkout of github.com/IBM/online-alt-min to time it.")
    if folder not in sys.path:
        sys.path.append(folder)
    altmin, released_models = importlib.import_module("altmin"), importlib.import_module("models")
    torch.manual_seed(0)
    net = released_models.FFNet(
        widths[0], widths[1], n_hidden_layers=2, n_outputs=widths[-1], bias=True, batchnorm=False
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

    return Trainer(step)


def _products(again: bool) -> Maker:
    """A step's matrix products alone, into buffers: what no kernel between them can undercut.

    Alternating minimisation takes those of all stages but the first ``again`` after the codes have moved.
    """

    def make(network: Network) -> Trainer:
        _needs_widths(network)
        batch, net = network.batch, _made(network)
        maps = [stage.map for stage in split(net) if isinstance(stage.map, LinearMap)]
        activations = [torch.randn(batch, map.n_in) for map in maps]
        codes = [torch.randn(batch, map.n_out) for map in maps]
        outputs = [torch.empty(batch, map.n_out) for map in maps]
        pulled_back = [torch.empty(batch, map.n_in) for map in maps]
        for map in maps:
            map.allocate(map.weight)

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

        return Trainer(step)

    return make


contenders: dict[str, Maker] = {
    "am-adam": _method("am-adam"),
    "am-sgd": _method("am-sgd"),
    "am-adam, 1 iteration": _method("am-adam", code_iterations=1, weight_iterations=1),
    "am-mem": _plain_only(_method("am-mem")),
    "am-adam, released scaling": _plain_only(_method("am-adam", scaling="released")),
    "block-admm": _plain_only(_method("block-admm")),
    "block-admm, jacobi": _plain_only(_method("block-admm", order="jacobi")),
    "yardstick adam": _method("adam"),
    "autograd, Adam(fused)": _autograd(_adam),
    "autograd, SGD(fused)": _autograd(_sgd),
    "torch.compile, Adam(fused)": _compiled(_autograd(_adam, compiled=True)),
    "jax.jit, optax adam": in_jax,
    "numpy by hand, Adam": _by_hand(adam=True),
    "numpy by hand, SGD": _by_hand(adam=False),
    "authors' released code": released,
    "am-adam's products alone": _products(again=True),
    "autograd's products alone": _products(again=False),
}


def entries(network: Network, names: Iterable[str]) -> tuple[dict[str, Entry], dict[str, str]]:
    """Contenders ready to be timed.

    Args:
        network: what they train.
        names: of contenders.

    Returns:
        Those that can train it here, with their minibatches; and for each of the others the reason.
    """
    data = minibatches(network)
    ready, left_out = {}, {}
    for name in names:
        try:
            trainer = contenders[name](network)
        except LookupError as reason:
            left_out[name] = str(reason.args[0])
        else:
            ready[name] = Entry(trainer.step, trainer.converted(data))
    return ready, left_out
