"""am-sgd and am-adam on convolutions, pooling, residual blocks and modules of the user's own.

Oracles: autograd on the local objectives in float64 (local_objectives.py); backpropagation for which stages there
are; and laws that hold for any chain, such as that evaluation mode is left alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import altmin_ext
from altmin_ext.network import split

from .local_objectives import LocalObjectives
from .test_online_am import distance, eta_list, seeded

NAMES = ("am-adam", "am-sgd")
TOLERANCE = 1e-9
CLASSES = 5


class Residual(nn.Module):
    """x + f(x), with activations inside that no stage of its own may see."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.second(torch.tanh(self.first(x)))
        return x + inner


class Scaled(nn.Module):
    """A module of the user's own, with a parameter that no formula knows."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features, features) / features)
        self.power = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight) * torch.sin(self.power)


class Swish(nn.Module):
    """A module of the user's own without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(2 * x)


def image_chains() -> dict[str, Callable[[], nn.Module]]:
    def head(n: int) -> list[nn.Module]:
        return [nn.Flatten(), nn.Linear(n, 7), nn.Tanh(), nn.Linear(7, CLASSES)]

    return {
        "conv, relu, pool": lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(3, 4, 2), nn.ReLU(), nn.MaxPool2d(2), *head(4),
        ),
        "pool, tanh": lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.MaxPool2d(2), nn.Tanh(), nn.Conv2d(3, 4, 3), nn.Sigmoid(), *head(4)
        ),
        "overlapping pool": lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.LeakyReLU(0.2), nn.MaxPool2d(3, 2, padding=1), *head(27)
        ),
        "average pool": lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ELU(), nn.AvgPool2d(2), *head(12)),
        "stride, dilation, groups": lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Tanh(),
            nn.Conv2d(4, 4, 2, dilation=2, groups=2, bias=False), nn.GELU(), *head(16),
        ),
        "circular": lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.Conv2d(3, 2, 3, padding="same"),
            nn.Tanh(), *head(98),
        ),
        "batch norm": lambda: nn.Sequential(
            # A bias in front of it has no gradient but rounding, which Adam would scale up.
            nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Tanh(), nn.MaxPool2d(2),
            nn.BatchNorm2d(3), nn.Conv2d(3, 4, 2), nn.SiLU(), *head(4),
        ),
        "one dimension": lambda: nn.Sequential(
            nn.Flatten(2), nn.Conv1d(2, 3, 4), nn.Tanh(), nn.MaxPool1d(2), *head(69)
        ),
        "residual block": lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.Tanh(), Residual(3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), *head(12)
        ),
        "layer norm, of one's own": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(98, 9, bias=False), nn.LayerNorm(9), Swish(), Scaled(9), nn.PReLU(), nn.Tanh(),
            nn.Linear(9, CLASSES),
        ),
    }  # fmt: skip


CHAINS = image_chains()


def images(size: int, number: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(size, 2, 7, 7, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(CLASSES, (size,), generator=generator)


OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "fixed": {"lr_codes": 0.1, "stage_scaling": "none"},
    "iterations": {"code_iterations": 3, "code_momentum": 0.5, "weight_iterations": 2, "lr": 1e-3},
    "released": {"scaling": "released"},
    "l1": {"l1_codes": 0.1, "l1_weights": 0.01},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("options", OPTIONS)
def test_step(name: str, chain: str, options: str) -> None:
    """20 steps beside autograd on the local objectives, some of them with a smaller minibatch."""
    chosen = OPTIONS[options]
    model = seeded(CHAINS[chain])
    reference = LocalObjectives(model, name, **chosen)
    method = altmin_ext.make_method(name, model, report_objective=True, **chosen)
    for number in range(20):
        x, y = images(5 if number % 7 == 6 else 12, number)
        report = method.step(x, y)
        expected = reference.step(x, y, step_sizes=eta_list(method))
        assert float(report.loss) == pytest.approx(expected.loss, rel=TOLERANCE, abs=TOLERANCE)
        objective = [float(value) for value in report.objective]
        assert objective == pytest.approx(expected.objective, rel=TOLERANCE, abs=TOLERANCE), number
        assert distance(model, reference.model) < TOLERANCE, number
