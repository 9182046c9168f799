"""What the tests on a GPU train: a small network on epochs of blobs, by every method."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from altmin_ext import Method, NonNegativeFactors, StepReport, make_method

from ..ops.calling import same_bits
from .device import GPU, REHEARSES

FEATURES, CLASSES = 12, 5
SIZES = (32, 32, 32, 9)  # of an epoch's minibatches

# Those that never wait for the GPU, so that their steps can be captured.
# Learning rates are powers of two: fused optimisers keep a rate that may change under a graph in float32.
METHODS: dict[str, dict[str, Any]] = {
    "am-adam": {"lr": 2**-7, "mu_increment": 0.01, "mu_multiplier": 1.25},
    "am-sgd": {"lr": 2**-4, "mu_increment": 0.01, "mu_multiplier": 1.25},
    "adam": {"lr": 2**-7, "weight_decay": 2**-6},
    "sgd": {"lr": 2**-4, "momentum": 0.5},
    "ste": {"lr": 2**-7},
}
METHODS_WITH_CODES = ("am-adam", "am-sgd")
# Those that look in every step at what it did. Without noise dtp computes the same on every device.
LOOKING: dict[str, dict[str, Any]] = {
    "admm": {"relaxation": 1.0, "loss": "cross_entropy", "beta": 0.1, "ridge": 1e-4},
    "am-adam-off": {"lr": 2**-7},
    "am-mem": {"lr": 2**-7, "lr_memory": 0.5},
    "am-mem-off": {"lr": 2**-7, "lr_memory": 0.5},
    "block-admm": {"lr": 2**-7},
    "deepfacto": {"lr": 2**-7, "lr_dictionary": 1.0},
    "dladmm": {"relaxation": 1.0, "rho": 0.1, "nu": 0.1},
    "dtp": {"lr": 2**-8, "lr_inverse": 2**-9, "noise": 0.0},
    "mdlam": {"relaxation": 1.0, "eps0": 0.1, "eps_decay": 0.7},
    "ncm": {},
    "rls": {"ridge": 0.1, "loss": "cross_entropy"},
    "slda": {"ridge": 0.1},
}
every_method = pytest.mark.parametrize("name", METHODS)
methods_with_codes = pytest.mark.parametrize("name", METHODS_WITH_CODES)
methods_that_look = pytest.mark.parametrize("name", LOOKING)
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


def network_for(name: str, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """The network, for deepfacto with its layer of factors in front of the last Linear."""
    if name != "deepfacto":
        return network(dtype=dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        factors = [NonNegativeFactors(16, 8), nn.Linear(8, CLASSES)]
        return nn.Sequential(*list(network())[:-1], *factors).to(dtype)


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


def data_for(method: Method, count: int = 3, **options: Any) -> list[list[Batch]]:
    """Epochs that the method can be trained on: always the same samples where a step takes all of them."""
    data = epochs(count, device=method.device, dtype=method.dtype, **options)
    return [data[0][:1] * 4] * count if method.full_batch else data


def made(name: str, model: nn.Module, device: torch.device | str = GPU, **options: Any) -> Method:
    """A rehearsal on the CPU, which has no graphs, takes eager steps in their place."""
    given = {**METHODS.get(name, LOOKING.get(name, {})), **options}
    given["graph"] = given.get("graph", False) and not REHEARSES
    return make_method(name, model, device=device, **given)


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
