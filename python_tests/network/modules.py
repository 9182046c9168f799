"""Modules that the tests of this folder look at, with an input for each."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altmin_ext.network import Piece
from altmin_ext.network.activations import known_activations
from altmin_ext.network.pieces import piece_of
from altmin_ext.nn import GRU, LSTM, Elman

BATCH = 4


class Block(nn.Module):
    """x + f(x) with an activation that overwrites x, and a parameter that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.ELU(inplace=True), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 5))
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.layers(x)
        return x + inner


class Power(nn.Module):
    """Without parameters, and with a slope that has no bound."""

    def forward(self, x: Tensor) -> Tensor:
        return x**3 / 3


# Smooth where a random point lies, so that torch has a derivative; signs are below.
ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    name: (known.make, (7,)) for name, known in known_activations.items() if not name.startswith("sign")
} | {
    "leaky_relu, slope": (lambda: nn.LeakyReLU(0.3), (7,)),
    "elu, alpha": (lambda: nn.ELU(1.7), (2, 3)),
    "softplus, beta": (lambda: nn.Softplus(3.0), (7,)),
}
SIGNS = {name: (known.make, (7,)) for name, known in known_activations.items() if name.startswith("sign")}
RESHAPES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "flatten": (nn.Flatten, (2, 3, 2)),
    "flatten some": (lambda: nn.Flatten(1, 2), (2, 3, 2)),
}
POOLS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "pool": (lambda: nn.MaxPool2d(2), (2, 6, 4)),
    "overlapping pool": (lambda: nn.MaxPool2d(3, 2, padding=1), (2, 7, 7)),
    "uneven pool": (lambda: nn.MaxPool2d((2, 3), (1, 2), dilation=(1, 2), ceil_mode=True), (1, 7, 8)),
}
AVERAGES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "average": (lambda: nn.AvgPool2d(2), (2, 4, 5)),
    "average of windows that overlap": (
        lambda: nn.AvgPool2d((3, 2), stride=(1, 2), padding=(1, 0)),
        (2, 5, 4),
    ),
    "average at the edges": (
        lambda: nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
        (2, 6, 4),
    ),
    "average by another divisor": (lambda: nn.AvgPool2d(2, stride=1, divisor_override=3), (4, 4)),
}
AFFINE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "linear without bias": (lambda: nn.Linear(5, 3, bias=False), (5,)),
    "linear on sequences": (lambda: nn.Linear(5, 3), (4, 5)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, padding=1), (2, 6)),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, dilation=2, groups=2), (2, 7, 6)),
    "conv2d, one group": (
        lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(2, 3)),
        (2, 7, 6),
    ),
    "conv2d, many channels": (lambda: nn.Conv2d(17, 2, 3, padding=1, bias=False), (17, 4, 5)),
    "conv2d, circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 4)),
    "conv2d, same": (lambda: nn.Conv2d(2, 3, 4, padding="same", bias=False), (2, 5, 4)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2), (1, 3, 4, 3)),
}
NORMALISATIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "batchnorm1d": (lambda: nn.BatchNorm1d(5), (5,)),
    "batchnorm1d on sequences": (lambda: nn.BatchNorm1d(3, momentum=None), (3, 4)),
    "batchnorm2d without gain": (lambda: nn.BatchNorm2d(2, affine=False), (2, 3, 3)),
    "batchnorm3d without statistics": (lambda: nn.BatchNorm3d(2, track_running_stats=False), (2, 2, 3, 2)),
}


class Residual(nn.Module):
    """As residual blocks are often written: a shortcut that may be missing, functions, and sums in place."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(n_in, n_out, 3, padding=1), nn.Conv2d(n_out, n_out, 3, padding=1)
        self.act = nn.ELU(inplace=True)
        self.shortcut = None if n_in == n_out else nn.Conv2d(n_in, n_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.first(x))
        out = self.second(out)
        if self.shortcut is not None:
            out += self.shortcut(x)
        else:
            out = out + x
        return torch.tanh(out)


class Gated(nn.Module):
    """A sum of tensors of different shapes, a block within a block, and a module of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Sequential(nn.Linear(5, 4), nn.SiLU()), nn.Linear(5, 1)
        self.inner, self.norm = Inner(), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.inner(self.wide(x)) + self.narrow(x)))


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


BLOCKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (lambda: Residual(2, 2), (2, 4, 3)),
    "residual with a shortcut": (lambda: Residual(2, 3), (2, 4, 3)),
    "inner": (Inner, (4,)),
}
OTHERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "block": (Block, (5,)),
    "gated": (Gated, (5,)),
    "layer norm": (lambda: nn.LayerNorm(5), (5,)),
    "prelu": (nn.PReLU, (5,)),
    "power": (Power, (5,)),
    "elman": (lambda: Elman(3, 4), (5, 3)),
    "gru": (lambda: GRU(3, 4, num_layers=2), (5, 3)),
    "lstm": (lambda: LSTM(3, 4, bidirectional=True), (5, 3)),
}
SMOOTH = ACTIVATIONS | RESHAPES | POOLS | AVERAGES | AFFINE | NORMALISATIONS | BLOCKS | OTHERS


def module_and_points(
    case: tuple[Callable[[], nn.Module], tuple[int, ...]], dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, Tensor, Tensor]:
    """A module of random parameters and statistics, a minibatch, and a displacement of it."""
    make, shape = case
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = make().to(dtype)
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.data.add_(torch.rand_like(tensor) / 2)
        a, delta = torch.randn(2, BATCH, *shape, dtype=torch.float64).to(dtype)
    return module, a, delta


def as_function(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """The module as torch computes it, without a trace in its buffers."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def function(a: Tensor) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        value: Tensor = torch.func.functional_call(module, (parameters, buffers), (a.clone(),))
        return value

    return function


def in_double(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).double()


def piece(module: nn.Module) -> Piece:
    return piece_of("0", module)


def batch_norm_by(module: nn.Module, point: Tensor) -> Callable[[Tensor], Tensor]:
    """Batch normalisation by the statistics of ``point``, whatever it is given."""
    over = [0, *range(2, point.ndim)]
    mean, variance = point.mean(over), point.var(over, correction=0)
    return lambda a: F.batch_norm(a, mean, variance, module.weight, module.bias, False, 0.0, module.eps)
