"""Steps on the GPU compute what they compute on the CPU.

Oracle: the same steps on the CPU, which python_tests/methods holds against autograd on the paper's objectives. In
float64 the two differ by the order of their sums, some 1e-15 of each; twenty steps of a small network do not blow
that up a million times, so that 1e-9 of a tensor's largest value is plenty, and far below what an error of substance
would make.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from altmin_ext import DivergenceError, Method

from ..ops.calling import assert_close
from .cases import METHODS_WITH_CODES, epochs, every_method, made, methods_with_codes, network, run
from .device import GPU, needs_gpu

TOLERANCE = 1e-9
VARIANTS: dict[str, dict[str, Any]] = {
    "paper, K = 1": {},
    "paper, K = 5": {"code_iterations": 5, "code_momentum": 0.9},
    "released, K = 1": {"scaling": "released", "code_iterations": 1},
    "released, K = 5": {"scaling": "released"},
    "fixed step size": {"lr_codes": 0.2, "stage_scaling": "displacement"},
    "penalties": {"weight_decay": 0.05, "l1_weights": 0.01, "l1_codes": 0.01, "weight_iterations": 2},
}
both_losses = pytest.mark.parametrize("loss", ["cross_entropy", "mse"])


def state_of(method: Method) -> list[Tensor]:
    """What a method with codes keeps: the step sizes that the codes took, and Adam's moments."""
    update = method.state_dict()["update"]
    moments = [*update.get("first_moments", ()), *update.get("second_moments", ())]
    return [method.code_step_sizes, *moments]  # type: ignore[attr-defined]


def assert_equal_runs(
    name: str, build: Callable[[], nn.Module], loss: str = "cross_entropy", **options: Any
) -> None:
    found = []
    for device in (GPU, "cpu"):
        method = made(name, build(), device, loss=loss, **options)
        results = run(method, epochs(loss=loss, dtype=torch.float64, device=device))
        if name in METHODS_WITH_CODES:
            results += state_of(method)
        method.raise_if_diverged()
        found.append([result.cpu() for result in results])
    assert len(found[0]) > 20
    for i, (own, expected) in enumerate(zip(*found, strict=True)):
        assert expected.double().isfinite().all()
        if expected.dtype == torch.int64:
            assert torch.equal(own, expected)
        else:
            assert_close(own, expected, TOLERANCE, f"result {i}")


@methods_with_codes
@both_losses
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.GELU])
def test_methods_with_codes(name: str, loss: str, variant: str, activation: type[nn.Module]) -> None:
    assert_equal_runs(name, lambda: network(activation, torch.float64), loss, **VARIANTS[variant])


@both_losses
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adam", {}),
        ("adam", {"weight_decay": 0.0}),
        ("sgd", {}),
        ("sgd", {"momentum": 0.0, "weight_decay": 0.01}),
    ],
    ids=str,
)
def test_yardsticks(name: str, loss: str, options: dict[str, Any]) -> None:
    assert_equal_runs(name, lambda: network(nn.Tanh, torch.float64), loss, **options)


@methods_with_codes
@pytest.mark.parametrize("scaling", ["paper", "released"])
def test_objectives(name: str, scaling: str) -> None:
    options = {"scaling": scaling, "report_objective": True}
    assert_equal_runs(name, lambda: network(nn.Tanh, torch.float64), **options)


@methods_with_codes
def test_two_activations_in_a_row(name: str) -> None:
    """Which torch computes, as no kernel does."""
    assert_equal_runs(name, lambda: network(nn.Tanh, torch.float64, between=[nn.Softplus]), code_iterations=3)


def normalised() -> nn.Sequential:
    """Without a bias in front of the normalisation, which takes it away.

    Its gradient would be rounding errors alone, and Adam, which divides by their size, would take steps of them that
    no two devices share.
    """
    layers = list(network(nn.Tanh, torch.float64))
    layers[1].register_parameter("bias", None)
    return nn.Sequential(*layers[:2], nn.BatchNorm1d(20, dtype=torch.float64), *layers[2:])


@every_method
def test_batch_normalisation(name: str) -> None:
    """Its gradients are taken by autograd; the kernels do the rest."""
    assert_equal_runs(name, normalised)


@needs_gpu
@methods_with_codes
def test_a_step_with_batch_normalisation_looks_for_itself(name: str) -> None:
    """As on the CPU: the running statistics know no guard."""
    method = made(name, normalised())
    (x, y), *_ = epochs(1, dtype=torch.float64)[0]
    x[3, 2] = torch.nan
    before = {key: value.clone() for key, value in method.model.state_dict().items()}
    with pytest.raises(DivergenceError, match="step 1;"):
        method.step(x, y)
    assert all(torch.equal(value, before[key]) for key, value in method.model.state_dict().items())
