"""The activations as functions, and the oracle that the kernels are measured by."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor, nn

from altmin_ext.network import activation_of
from altmin_ext.nn import Sign
from altmin_ext.ops import activation
from altmin_ext.ops.activation import Activation, fused

from . import oracle

MODULES = {
    "identity": nn.Identity(),
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(0.07),
    "elu": nn.ELU(1.5),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "silu": nn.SiLU(),
    "softplus": nn.Softplus(3.0),
    "sign": Sign(),
    "sign_clipped": Sign("clipped"),
    "sign_of_tanh": nn.Sequential(nn.Tanh(), Sign()),
    "sign_none": Sign("none"),
}
GRID = torch.cat(
    [torch.linspace(-12, 12, 4801, dtype=torch.float64), torch.tensor([-1e3, 1e3, 1e-30, -1e-30])]
)


def exactly(sigma: Activation, c: mpf) -> mpf:
    """sigma(c), from its definition."""
    p = mpf(sigma.parameter)
    formulas: dict[str, Callable[[], mpf]] = {
        "identity": lambda: c,
        "relu": lambda: max(c, mpf(0)),
        "leaky_relu": lambda: c if c > 0 else p * c,
        "elu": lambda: c if c > 0 else p * mpmath.expm1(c),
        "tanh": lambda: mpmath.tanh(c),
        "sigmoid": lambda: 1 / (1 + mpmath.exp(-c)),
        "gelu": lambda: c * mpmath.ncdf(c),
        "gelu_tanh": lambda: c / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mp.pi) * (c + mpf(0.044715) * c**3))),
        "silu": lambda: c / (1 + mpmath.exp(-c)),
        "softplus": lambda: mpmath.log1p(mpmath.exp(p * c)) / p,
        **dict.fromkeys(
            ("sign", "sign_clipped", "sign_of_tanh", "sign_none"), lambda: mpf(1) if c > 0 else mpf(-1)
        ),
    }
    return formulas[sigma.name]()


def exact_difference(sigma: Activation, c0: Tensor, delta: Tensor, unit: float) -> Tensor:
    """(sigma(c0 - unit delta) - sigma(c0)) / unit, subtracted with 60 digits."""
    values = []
    with mp.workdps(60):
        for c, d in zip(c0.tolist(), delta.tolist(), strict=True):
            moved = exactly(sigma, mpf(c) - mpf(unit) * mpf(d)) - exactly(sigma, mpf(c))
            values.append(float(moved / mpf(unit)))
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
@pytest.mark.parametrize("unit", [1.0, 0.1, 1e-3, 1e-6, 1e-20])
def test_the_oracle_agrees_with_sixty_digits(sigma: Activation, unit: float) -> None:
    generator = torch.Generator().manual_seed(0)
    c0 = 2 * torch.randn(50, generator=generator, dtype=torch.float64)
    c0[:15] *= unit / 2  # across zero
    c0[0] = 0.0
    delta = torch.randn(50, generator=generator, dtype=torch.float64)
    exact = exact_difference(sigma, c0, delta, unit)
    torch.testing.assert_close(oracle.difference(sigma, c0, delta, unit), exact, rtol=4e-16, atol=1e-13)


@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
@pytest.mark.parametrize("unit", [1.0, 0.1, 1e-3, 1e-6, 1e-20])
def test_difference_is_free_of_cancellation(sigma: Activation, unit: float) -> None:
    generator = torch.Generator().manual_seed(1)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-11)):
        c0, delta = (scale * torch.randn(1000, generator=generator, dtype=dtype) for scale in (2, 1))
        c0[:300] *= unit
        c0[:10] = 0.0
        exact = oracle.difference(sigma, c0.double(), delta.double(), unit)
        error = sigma.difference(c0, delta, unit).double() - exact
        assert float((error / exact.abs().clamp(min=1.0)).abs().max()) < tolerance


@pytest.mark.parametrize("name", activation.names)
def test_values_and_derivatives_are_those_of_torch(name: str) -> None:
    modules = MODULES[name] if isinstance(MODULES[name], nn.Sequential) else [MODULES[name]]
    sigma = functools.reduce(fused, map(activation_of, modules))
    assert sigma is not None
    assert sigma.name == name
    c = GRID.clone().requires_grad_()
    value = MODULES[name](c)
    (slope,) = torch.autograd.grad(value.sum(), c)
    torch.testing.assert_close(sigma.value(GRID), value.detach(), rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(sigma.derivative(GRID), slope, rtol=1e-12, atol=1e-14)
    assert float(slope.abs().max()) <= sigma.lipschitz * (1 + 1e-6)
    if name != "sign_none":  # which has no derivative
        assert float(slope.abs().max()) >= sigma.lipschitz * (1 - 1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", oracle.SIGMAS, ids=oracle.label)
def test_dtype_is_kept_and_no_number_stays_none(sigma: Activation, dtype: torch.dtype) -> None:
    c = torch.tensor([0.0, 1.0, -1.0, float("nan")], dtype=dtype)
    unit = torch.tensor(0.5, dtype=torch.float64)
    for result in (sigma.value(c), sigma.derivative(c), sigma.difference(c, torch.ones_like(c), unit)):
        assert result.dtype == dtype
        assert torch.isfinite(result[:3]).all()
    assert torch.isnan(sigma.value(c)[3])


def test_relu_has_no_derivative_at_zero() -> None:
    assert torch.equal(Activation("relu").derivative(torch.tensor([0.0, -0.0])), torch.zeros(2))


@pytest.mark.parametrize("name", ["sign", "sign_clipped", "sign_of_tanh", "sign_none"])
def test_signs_are_never_zero(name: str) -> None:
    c = torch.tensor([-torch.inf, -1e-45, -0.0, 0.0, 1e-45, torch.inf])
    assert torch.equal(Activation(name).value(c), torch.tensor([-1.0, -1.0, -1.0, -1.0, 1.0, 1.0]))


def test_a_sign_that_does_not_jump_has_moved_by_nothing_in_any_unit() -> None:
    c0, delta = torch.tensor([1.0, -1.0]), torch.tensor([1.0, -1.0])
    for unit in (1e-60, torch.tensor(1e-60, dtype=torch.float64)):
        assert torch.equal(Activation("sign").difference(c0, delta, unit), torch.zeros(2))


def test_a_clipped_sign_has_a_derivative_up_to_one() -> None:
    c = torch.tensor([-1.0, 1.0, -1.0000001, 1.0000001])
    assert torch.equal(Activation("sign_clipped").derivative(c), torch.tensor([1.0, 1.0, 0.0, 0.0]))


def test_fused() -> None:
    """Two activations in a row are one where the composed function is among those the kernels know."""
    relu, tanh, identity = Activation("relu"), Activation("tanh"), Activation("identity")
    sign, clipped = Activation("sign"), Activation("sign_clipped")
    for other in (relu, identity, sign, Activation("elu", 0.5)):
        assert fused(identity, other) == fused(other, identity) == other
    assert fused(tanh, sign) == fused(tanh, clipped) == Activation("sign_of_tanh")
    assert fused(tanh, Activation("sign_none")) == Activation("sign_none")
    for first, second in ((sign, tanh), (tanh, relu), (tanh, tanh), (relu, sign), (sign, sign)):
        assert fused(first, second) is None


def test_kinds_number_the_kernels_names() -> None:
    assert [Activation(name).kind for name in activation.names] == list(range(len(activation.names)))


def test_modules_that_the_kernels_do_not_know() -> None:
    class Squared(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) ** 2

    for module in (
        nn.Hardtanh(),
        nn.PReLU(),
        nn.Softplus(1.0, threshold=10),
        nn.Linear(2, 2),
        Squared(),
        nn.ReLU6(),
    ):
        assert activation_of(module) is None


def test_parameters_of_modules_are_read() -> None:
    assert activation_of(nn.LeakyReLU(0.3)) == Activation("leaky_relu", 0.3)
    assert activation_of(nn.ELU(0.3)) == Activation("elu", 0.3)
    assert activation_of(nn.Softplus(0.3)) == Activation("softplus", 0.3)
    assert activation_of(nn.ReLU(inplace=True)) == Activation("relu")
    assert math.isclose(Activation("leaky_relu", 2.0).lipschitz, 2.0)
    assert math.isclose(Activation("leaky_relu", -3.0).lipschitz, 3.0)
