"""The table of modules that compute an activation which the kernels know.

Oracle: the modules themselves, on a grid.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from altmin_ext import models
from altmin_ext.network.activations import activation_of, known_activations
from altmin_ext.nn import Sign
from altmin_ext.ops import activation

GRID = torch.linspace(-9, 9, 3601, dtype=torch.float64)
FOREIGN_PARAMETERS = {
    "leaky_relu": nn.LeakyReLU(0.3),
    "elu": nn.ELU(1.7),
    "softplus": nn.Softplus(3.0),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "sign_none": Sign("none"),
}


@pytest.mark.parametrize("name", known_activations)
def test_a_module_is_known_by_the_activation_that_it_computes(name: str) -> None:
    module = known_activations[name].make()
    found = activation_of(module)
    assert found is not None
    assert found.name == name
    torch.testing.assert_close(found.value(GRID), module(GRID), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", FOREIGN_PARAMETERS)
def test_parameters_are_the_modules(name: str) -> None:
    module = FOREIGN_PARAMETERS[name]
    found = activation_of(module)
    assert found is not None
    assert found.name == name
    torch.testing.assert_close(found.value(GRID), module(GRID), rtol=1e-13, atol=1e-13)


def test_every_activation_of_the_kernels_has_a_module() -> None:
    """But for that of a tanh and a sign together, which two modules compute."""
    assert {*known_activations, "sign_of_tanh"} == set(activation.names)


class Louder(nn.Tanh):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "module", [nn.Softplus(threshold=10), nn.PReLU(), Louder(), nn.Linear(2, 2)], ids=str
)
def test_other_modules_are_unknown(module: nn.Module) -> None:
    assert activation_of(module) is None


@pytest.mark.parametrize("name", known_activations)
def test_networks_can_have_each(name: str) -> None:
    model = models.mlp(4, (5, 6), 3, activation=name)
    found = [a.name for module in model if (a := activation_of(module)) is not None]
    assert found == [name, name]
