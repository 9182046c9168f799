"""What the tests on a GPU train: a small network on epochs of blobs, by every method."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from altmin_ext import Method, StepReport, make_method

from ..ops.calling import same_bits
from .device import GPU

FEATURES, CLASSES = 12, 5
SIZES = (32, 32, 32, 9)  # of an epoch's minibatches

# Learning rates are powers of two: fused optimisers keep a rate that may change under a graph in float32.
METHODS: dict[str, dict[str, Any]] = {
    "am-adam": {"lr": 2**-7, "mu_increment": 0.01, "mu_multiplier": 1.25},
    "am-sgd": {"lr": 2**-4, "mu_increment": 0.01, "mu_multiplier": 1.25},
    "adam": {"lr": 2**-7, "weight_decay": 2**-6},
    "sgd": {"lr": 2**-4, "momentum": 0.5},
    "ste": {"lr": 2**-7},
}
METHODS_WITH_CODES = ("am-adam", "am-sgd")
every_method = pytest.mark.parametrize("name", METHODS)
methods_with_codes = pytest.mark.parametrize("name", METHODS_WITH_CODES)
eager_and_graph = pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])

Batch = tuple[Tensor, Tensor]


def network(
    activation: type[nn.Module] = nn.ReLU,
    dtype: torch.dtype = torch.float32,
    hidden: Sequence[int] = (20, 16),
    between: Sequence[type[nn.Module]] = (),
) -> nn.Sequential:
    """Always the same weights, on the CPU; ``between`` are further activations behind each one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in itertools.pairwise((FEATURES, *hidden)):
            layers += [nn.Linear(n_in, n_out), activation(), *(kind() for kind in between)]
        return nn.Sequential(*layers, nn.Linear(hidden[-1], CLASSES)).to(dtype)


def epoch(
    seed: int = 0,
    sizes: Sequence[int] = SIZES,
    loss: str = "cross_entropy",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = GPU,
) -> list[Batch]:
    """Minibatches of blobs that overlap a little."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.eye(CLASSES, FEATURES, dtype=torch.float64)
    batches = []
    for size in sizes:
        labels = torch.randint(CLASSES, (size,), generator=generator)
        x = centres[labels] + torch.randn(size, FEATURES, generator=generator, dtype=torch.float64)
        y = nn.functional.one_hot(labels, CLASSES).to(dtype) if loss == "mse" else labels
        batches.append((x.to(device, dtype), y.to(device)))
    return batches


def epochs(count: int = 5, **options: Any) -> list[list[Batch]]:
    """With ``SIZES``, 20 steps unless ``count`` says otherwise."""
    return [epoch(seed, **options) for seed in range(count)]


def made(name: str, model: nn.Module, device: torch.device | str = GPU, **options: Any) -> Method:
    return make_method(name, model, device=device, **{**METHODS[name], **options})


def tensors_of(report: StepReport) -> list[Tensor]:
    return [value for value in (report.loss, report.correct, report.objective) if value is not None]


def weights(method: Method) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in method.model.parameters()]


def run(method: Method, data: Iterable[Iterable[Batch]]) -> list[Tensor]:
    """Train, the learning rate halved with every epoch; all reports of the run, and the weights it ends with."""
    reports = []
    for number, batches in enumerate(data):
        method.learning_rate_factor = 0.5**number
        for x, y in batches:
            reports += tensors_of(method.step(x, y))
        method.end_epoch()
    return [*reports, *weights(method)]


def same(ones: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    """Bit for bit."""
    return all(same_bits(one, other) for one, other in zip(ones, others, strict=True))
