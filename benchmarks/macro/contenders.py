"""One training step of networks, by everything worth comparing.

Each contender trains its own copy of the network, with the same initial weights, by one minibatch after the other.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import altmin_ext
from altmin_ext.network import LinearMap, split
from benchmarks.macro import streaming
from benchmarks.macro.networks import Network, made, minibatches
from benchmarks.macro.trainers import (
    Maker,
    Trainer,
    imported,
    lr_adam,
    lr_sgd,
    needs_plain,
    needs_single_samples,
    needs_widths,
    weights_of,
)
from benchmarks.macro.turns import Entry

released_code = "ALTMIN_RELEASED_CODE"


def _method(name: str, **options: object) -> Maker:
    def make(network: Network) -> Trainer:
        net = made(network)
        return Trainer(altmin_ext.make_method(name, net, **options).step, weights=weights_of(net))

    return make


def _plain_only(maker: Maker) -> Maker:
    def make(network: Network) -> Trainer:
        needs_plain(network)
        return maker(network)

    return make


def _adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=lr_adam, fused=True)


def _sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=lr_sgd, fused=True)


def _autograd(make_optimizer: Callable[[nn.Module], torch.optim.Optimizer], compiled: bool = False) -> Maker:
    """What people write today, eager torch; through a Sign, straight-through. Or loss and gradient compiled."""

    def make(network: Network) -> Trainer:
        net = made(network)
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

        return Trainer(step, weights=weights_of(net))

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
    imported("jax", "optax", install="pip install jax optax")
    from benchmarks.macro import jax_network

    step, convert = jax_network.trainer(made(network), lr_adam)
    return Trainer(step, convert)


def _by_hand(adam: bool) -> Maker:
    """What one writes in numpy: an MLP with ReLU and one sample at a time, all parameters in one vector."""

    def make(network: Network) -> Trainer:
        widths = list(itertools.pairwise(needs_plain(network)))
        needs_single_samples(network)
        w = np.concatenate([part.detach().numpy().ravel() for part in made(network).parameters()])
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

        def weights() -> list[Tensor]:
            return [torch.tensor(part) for pair in zip(W, b, strict=True) for part in pair]

        return Trainer(step, lambda x, y: (x[0].numpy(), int(y[0])), weights)

    return make


def released(network: Network) -> Trainer:
    """The authors' code, from a checkout of IBM/online-alt-min that the environment points at.

    Without BatchNorm, since the step it is compared with has none either; K = 5, momentum .9, as it comes.
    """
    widths = needs_plain(network)
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
        needs_widths(network)
        batch, net = network.batch, made(network)
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
    "am-mem, keeping": _plain_only(
        _method("am-mem", forgetting=0, damping=0, prior=0.5, exact=True, predictor="memory")
    ),
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
    "scikit-learn, partial_fit": streaming.partial_fit,
    "deep-river, learn_one": streaming.river,
    "CapyMOA, Finetune.train": streaming.capymoa,
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
