"""Random networks in float64, of the kinds that the methods take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from altmin_ext import models
from altmin_ext.nn import GRU, LSTM, Sign

from .alterations import pick

Generator = np.random.Generator


@dataclasses.dataclass
class Network:
    """A model, the shape of its samples, the number of its outputs, and the smallest minibatch it can learn from."""

    model: nn.Sequential
    shape: tuple[int, ...]
    outputs: int
    smallest_batch: int = 1


class Residual(nn.Module):
    """x + f(x), for vectors and for maps."""

    def __init__(self, first: nn.Module, second: nn.Module, middle: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.middle = first, second, middle

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.second(self.middle(self.first(x)))
        return x + inner


class Scaled(nn.Module):
    """A map of the user's own, with a parameter that no formula knows."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(features, width) / features**0.5)
        self.power = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.matrix) * torch.sin(self.power)


class OwnLinear(nn.Linear):
    """A subclass of a known module that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x) + 0.1


class Swish(nn.Module):
    """An activation of the user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(2 * x)


class _Spike(torch.autograd.Function):
    """A step whose derivative is that of a smooth one, as packages of spiking networks write it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient / (1 + 2 * x.abs()) ** 2


class Spike(nn.Module):
    """An activation by a Function of the user's own."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Spike.apply(x)
        return out


def doubled(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
    """A forward hook that changes what the module returns."""
    return 2 * output


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(doubled)
    return module


class Last(nn.Module):
    """The last step of a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1]


def drawn(rng: Generator, draw: Callable[[Generator], Network]) -> Network:
    """A network in float64 whose gains are not 1 and biases not 0; torch's generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(int(rng.integers(2**31)))
        network = draw(rng)
        network.model.double()
        with torch.no_grad():
            for parameter in network.model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return network


def width(rng: Generator) -> int:
    """From 1 to 40, mostly small."""
    return int(rng.integers(1, 41) if rng.random() < 0.2 else rng.integers(2, 13))


ACTIVATIONS: list[Callable[[], nn.Module]] = [
    nn.ReLU, lambda: nn.ReLU(inplace=True), lambda: nn.LeakyReLU(0.1), lambda: nn.ELU(1.5), nn.Tanh, nn.Sigmoid,
    nn.GELU, lambda: nn.GELU(approximate="tanh"), nn.SiLU, lambda: nn.Softplus(beta=2.0), nn.Identity,
    lambda: nn.Sequential(nn.Tanh(), nn.LeakyReLU(0.2)), Swish, Spike, lambda: hooked(nn.Tanh()),
]  # fmt: skip


def activation(rng: Generator, own: bool = True) -> nn.Module:
    made: nn.Module = pick(rng, ACTIVATIONS if own else ACTIVATIONS[:-4])()
    return made


def without_effect(rng: Generator) -> list[nn.Module]:
    """Sometimes a Dropout that drops nothing: with p = 0, or put into evaluation mode."""
    if rng.random() > 0.1:
        return []
    return [nn.Dropout(0.0) if rng.random() < 0.5 else nn.Dropout(0.5).eval()]


def vector_shape(rng: Generator, largest: int = 12) -> tuple[int, ...]:
    features = int(rng.integers(1, largest + 1))
    return (features,) if rng.random() < 0.7 else (2, features)


def freeze_some(rng: Generator, model: nn.Module) -> None:
    """Sometimes freeze a parameter, but not all."""
    parameters = list(model.parameters())
    if rng.random() < 0.15 and len(parameters) > 1:
        pick(rng, parameters).requires_grad_(False)


def any_chain(rng: Generator) -> Network:
    """Vectors, images or sequences, with modules of the user's own and signs."""
    return pick(rng, (vectors, vectors, vectors, with_signs, images, images, sequences))(rng)


def plain_chain(rng: Generator) -> Network:
    """Linear and convolutional layers behind known activations."""
    kind = pick(rng, (vectors, vectors, images))
    network: Network = kind(rng, own=False, normalised=False)
    return network


def vectors(rng: Generator, *, own: bool = True, normalised: bool = True) -> Network:
    shape, outputs = vector_shape(rng), int(rng.integers(2, 7))
    modules: list[nn.Module] = [nn.Flatten()] if len(shape) > 1 else []
    if own and rng.random() < 0.08:
        modules.append(nn.ReLU(inplace=True))  # on the samples themselves
    smallest, features = 1, int(np.prod(shape))
    for _ in range(int(rng.integers(5))):
        wide, kind = width(rng), rng.random()
        modules += without_effect(rng)
        if own and kind < 0.08:
            modules.append(Scaled(features, wide))
        elif own and kind < 0.14:
            linear = OwnLinear(features, wide) if rng.random() < 0.5 else hooked(nn.Linear(features, wide))
            modules.append(linear)
        elif normalised and kind < 0.26 and wide > 1:
            # Without a bias, whose gradient would be nothing but rounding.
            modules.append(nn.Linear(features, wide, bias=False))
            if rng.random() < 0.4:
                modules.append(nn.LayerNorm(wide))
            else:
                modules.append(nn.BatchNorm1d(wide, momentum=pick(rng, (0.1, None))))
                smallest = 8
        else:
            modules.append(nn.Linear(features, wide, bias=bool(rng.random() < 0.7)))
        features = wide
        if rng.random() < 0.9:
            modules.append(activation(rng, own))
        if own and rng.random() < 0.1 and features > 1:
            middle = pick(rng, (nn.Tanh, nn.Sigmoid, nn.SiLU))()
            modules.append(Residual(nn.Linear(features, features), nn.Linear(features, features), middle))
            modules.append(activation(rng))
    modules += [*without_effect(rng), nn.Linear(features, outputs, bias=bool(rng.random() < 0.7))]
    if len(modules) > 2 and rng.random() < 0.2:
        modules = [nn.Sequential(*modules[:2]), *modules[2:]]
    return Network(nn.Sequential(*modules), shape, outputs, smallest)


def images(rng: Generator, *, own: bool = True, normalised: bool = True) -> Network:
    maps, size, outputs = int(rng.integers(1, 4)), int(rng.integers(4, 8)), int(rng.integers(2, 7))
    shape, smallest = (maps, size, size), 1
    modules: list[nn.Module] = []
    for _ in range(int(rng.integers(1, 3))):
        wide, kernel = int(rng.integers(1, 5)), int(rng.integers(1, 4))
        padding, stride = int(rng.integers(2)) if kernel > 1 else 0, int(rng.integers(1, 3))
        if size + 2 * padding < kernel:
            break
        is_normalised = normalised and rng.random() < 0.2
        bias = bool(rng.random() < 0.7) and not is_normalised
        modules.append(nn.Conv2d(maps, wide, kernel, stride=stride, padding=padding, bias=bias))
        maps, size = wide, (size + 2 * padding - kernel) // stride + 1
        if is_normalised:
            modules.append(nn.BatchNorm2d(maps))
            smallest = 8
        modules.append(activation(rng, own))
        pool = rng.random()
        if pool < 0.25 and size >= 2:
            modules.append(pick(rng, (nn.MaxPool2d, nn.AvgPool2d))(2))
            size //= 2
        elif pool < 0.35:
            size = min(size, 2)
            modules.append(nn.AdaptiveAvgPool2d(size))
        if own and rng.random() < 0.15:
            convolutions = (nn.Conv2d(maps, maps, 3, padding=1) for _ in range(2))
            modules += [Residual(*convolutions, nn.Tanh()), activation(rng)]
    features = maps * size * size
    modules.append(nn.Flatten())
    if rng.random() < 0.5:
        wide = width(rng)
        modules += [nn.Linear(features, wide), activation(rng, own)]
        features = wide
    modules.append(nn.Linear(features, outputs))
    return Network(nn.Sequential(*modules), shape, outputs, smallest)


def with_signs(rng: Generator) -> Network:
    """A chain of vectors in which one activation is followed, or one map read, by a Sign with a surrogate."""
    network = vectors(rng, normalised=False)
    modules = list(network.model)
    place = int(rng.integers(1, len(modules))) if len(modules) > 1 else 0
    if place > 0:
        modules.insert(place, Sign(pick(rng, ("identity", "clipped"))))
    return dataclasses.replace(network, model=nn.Sequential(*modules))


def elman(rng: Generator) -> Network:
    """The Elman network of the online AM paper, which has codes of its own."""
    steps, features, hidden = (int(n) for n in rng.integers(1, 7, size=3))
    outputs = int(rng.integers(2, 7))
    return Network(models.elman_rnn(features, hidden, steps, outputs), (steps, features), outputs)


def sequences(rng: Generator) -> Network:
    steps, features, hidden = (int(n) for n in rng.integers(2, 6, size=3))
    outputs = int(rng.integers(2, 7))
    layer = pick(rng, (GRU, LSTM))(features, hidden)
    if rng.random() < 0.5:
        head = [Last(), nn.Linear(hidden, 4), nn.Tanh(), nn.Linear(4, outputs)]
    else:
        head = [nn.Tanh(), nn.Flatten(), nn.Linear(steps * hidden, outputs)]
    return Network(nn.Sequential(layer, *head), (steps, features), outputs)


def linear_chain(
    rng: Generator,
    kinds: list[Callable[[], nn.Module]],
    *,
    largest: int = 12,
    outputs: int | None = None,
    layers: int | None = None,
    everywhere: bool = True,
) -> Network:
    """Linear layers with one of these activations behind each but the last; ``everywhere``: the same one."""
    shape = vector_shape(rng, 6)
    outputs = int(rng.integers(2, 6)) if outputs is None else outputs
    modules: list[nn.Module] = [nn.Flatten()] if len(shape) > 1 else []
    features, kind = int(np.prod(shape)), pick(rng, kinds)
    for _ in range(int(rng.integers(0, 4)) if layers is None else layers):
        wide = min(width(rng), largest)
        modules += [nn.Linear(features, wide, bias=bool(rng.random() < 0.8))]
        modules.append(kind() if everywhere else pick(rng, kinds)())
        features = wide
    modules.append(nn.Linear(features, outputs, bias=bool(rng.random() < 0.8)))
    return Network(nn.Sequential(*modules), shape, outputs)
