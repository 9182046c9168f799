"""Pointwise activations that the kernels know (csrc/ops/activation.h), with the properties that methods ask for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext.errors import unknown_name

# Stand-ins for the derivative of the sign.
surrogates: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": torch.ones_like,
    "clipped": lambda c: (c.abs() <= 1).to(c.dtype),
    "none": torch.zeros_like,
}


def sign(c: Tensor) -> Tensor:
    """-1 for c <= 0, +1 for c > 0; NaN stays NaN."""
    # Not by torch.where, which takes six times as long.
    return torch.maximum(2 * (c > 0).to(c.dtype) - 1, c.clamp(max=-1))


def _normal(c: Tensor) -> Tensor:
    # To the last digit far below, where 1 + erf would be nothing but rounding.
    return torch.erfc(-c / math.sqrt(2)) / 2


def _gelu_tanh_gate(c: Tensor) -> Tensor:
    """(1 + tanh(x)) / 2 is the logistic function at 2 x; this is 2 x."""
    return math.sqrt(8 / math.pi) * (c + 0.044715 * c**3)


def _gelu_tanh(c: Tensor) -> Tensor:
    # Beyond the bounds the gate is 0 or 1, and a cube may overflow.
    return c * torch.sigmoid(_gelu_tanh_gate(c.clamp(-32, 32)))


def _gelu_tanh_derivative(c: Tensor) -> Tensor:
    c = c.clamp(-32, 32)
    x = _gelu_tanh_gate(c)
    s = torch.sigmoid(x)
    return s + c * s * torch.sigmoid(-x) * math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * c * c)


def _silu_derivative(c: Tensor) -> Tensor:
    s = torch.sigmoid(c)
    return s * (1 + c * (1 - s))


@dataclasses.dataclass(frozen=True)
class _Formula:
    value: Callable[[Tensor, float], Tensor]
    derivative: Callable[[Tensor, float], Tensor]
    lipschitz: Callable[[float], float]  # max |sigma'|
    monotone: Callable[[float], bool] = lambda p: False  # never falls, and has no jump
    jumps: bool = False  # constant between jumps: its derivative is a stand-in, for gradients only


def _always(p: float) -> bool:
    return True


# The order is that of the kernels' enumeration.
_formulas: dict[str, _Formula] = {
    "identity": _Formula(lambda c, p: c, lambda c, p: torch.ones_like(c), lambda p: 1.0, _always),
    "relu": _Formula(lambda c, p: torch.relu(c), lambda c, p: (c > 0).to(c.dtype), lambda p: 1.0, _always),
    "leaky_relu": _Formula(
        lambda c, p: F.leaky_relu(c, p),
        lambda c, p: torch.where(c > 0, torch.ones_like(c), p),
        lambda p: max(1.0, abs(p)),
        lambda p: p >= 0,
    ),
    "elu": _Formula(
        lambda c, p: F.elu(c, p),
        lambda c, p: torch.where(c > 0, 1.0, p * torch.exp(c)).to(c.dtype),
        lambda p: max(1.0, abs(p)),
        lambda p: p >= 0,
    ),
    "tanh": _Formula(lambda c, p: torch.tanh(c), lambda c, p: 1 - torch.tanh(c) ** 2, lambda p: 1.0, _always),
    "sigmoid": _Formula(
        lambda c, p: torch.sigmoid(c),
        lambda c, p: torch.sigmoid(c) * torch.sigmoid(-c),
        lambda p: 0.25,
        _always,
    ),
    "gelu": _Formula(
        lambda c, p: c * _normal(c),
        lambda c, p: _normal(c) + c * torch.exp(-c * c / 2) / math.sqrt(2 * math.pi),
        lambda p: 1.1289041,  # at c = sqrt 2
    ),
    "gelu_tanh": _Formula(
        lambda c, p: _gelu_tanh(c),
        lambda c, p: _gelu_tanh_derivative(c),
        lambda p: 1.1290,  # rounded up from 1.12898
    ),
    "silu": _Formula(lambda c, p: F.silu(c), lambda c, p: _silu_derivative(c), lambda p: 1.0998393),
    "softplus": _Formula(
        lambda c, p: F.softplus(c, p),
        lambda c, p: torch.where(p * c > 20, 1.0, torch.sigmoid(p * c)).to(c.dtype),
        lambda p: 1.0,
        _always,
    ),
    "sign": _Formula(lambda c, p: sign(c), lambda c, p: surrogates["identity"](c), lambda p: 1.0, jumps=True),
    "sign_clipped": _Formula(
        lambda c, p: sign(c), lambda c, p: surrogates["clipped"](c), lambda p: 1.0, jumps=True
    ),
    # Tanh and then a Sign: with either surrogate, since a tanh is at most 1.
    "sign_of_tanh": _Formula(
        lambda c, p: sign(c), lambda c, p: 1 - torch.tanh(c) ** 2, lambda p: 1.0, jumps=True
    ),
    # Its codes move by what a flip is worth, not along the derivative: the bound is that of the sign itself, 1.
    "sign_none": _Formula(
        lambda c, p: sign(c), lambda c, p: surrogates["none"](c), lambda p: 1.0, jumps=True
    ),
}

names = tuple(_formulas)


@dataclasses.dataclass(frozen=True)
class Activation:
    """A pointwise activation sigma.

    Attributes:
        name: "identity", "relu", "leaky_relu", "elu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu", "softplus",
            "sign", "sign_clipped", "sign_of_tanh" or "sign_none".
        parameter: leaky_relu's slope, elu's alpha or softplus's beta; 0 by default, unused by the others.
        kind: its number in the kernels.

    Raises:
        ValueError: there is no activation of that name.
    """

    name: str
    parameter: float = 0.0
    kind: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        if self.name not in _formulas:
            raise unknown_name("activation", self.name, names)
        object.__setattr__(self, "kind", names.index(self.name))

    def value(self, c: Tensor) -> Tensor:
        """Evaluate the activation.

        Args:
            c: any shape.

        Returns:
            sigma(c), shaped like ``c``.
        """
        return _formulas[self.name].value(c, self.parameter)

    def derivative(self, c: Tensor) -> Tensor:
        """Evaluate the derivative; for a sign, the surrogate that stands in for it.

        Args:
            c: any shape.

        Returns:
            sigma'(c), shaped like ``c``; 0 at the kink of relu.
        """
        return _formulas[self.name].derivative(c, self.parameter)

    def difference(self, c0: Tensor, delta: Tensor, unit: Tensor | float) -> Tensor:
        """The change of the activation under a displacement of the code, without cancellation.

        For a small displacement it is the integral of sigma' by the two-point Gauss rule. The exception is a
        displacement across a kink at zero: there sigma' jumps, but the plain difference does not cancel. The plain
        difference is also exact for a sign.

        Args:
            c0: any shape.
            delta: shaped like ``c0``, the displacement c0 - c in units of ``unit``.
            unit: 0-d, positive.

        Returns:
            (sigma(c0 - unit delta) - sigma(c0)) / unit, shaped like ``c0``.
        """
        d = unit * delta
        if self.jumps:
            jump = self.value(c0 - d) - self.value(c0)
            return torch.where(jump == 0, jump, jump / unit)  # no 0 / 0 if the unit underflows
        node = (1 - 1 / math.sqrt(3)) / 2
        slope = (self.derivative(c0 - node * d) + self.derivative(c0 - (1 - node) * d)) / 2
        plain = (self.value(c0 - d) - self.value(c0)) / unit
        sharpness = max(1.0, self.parameter) if self.name == "softplus" else 1.0
        smooth = d.abs() * sharpness < (1e-3 if c0.dtype == torch.float64 else 0.1)
        smooth &= ~c0.isnan()  # of which a derivative may tell nothing
        if self.name in ("relu", "leaky_relu", "elu"):
            smooth &= (c0 > 0) == (c0 - d > 0)
        return torch.where(smooth, -delta * slope, plain)

    @property
    def lipschitz(self) -> float:
        """The largest ``|sigma'|``; 1 for every sign."""
        return _formulas[self.name].lipschitz(self.parameter)

    @property
    def jumps(self) -> bool:
        """Whether it is constant between jumps, as a sign is."""
        return _formulas[self.name].jumps

    @property
    def is_monotone(self) -> bool:
        """Whether it never falls and has no jump, so that the largest of several codes has the largest activation."""
        return _formulas[self.name].monotone(self.parameter)


identity = Activation("identity")

_signs_of_tanh = {"sign": "sign_of_tanh", "sign_clipped": "sign_of_tanh", "sign_none": "sign_none"}


def fused(first: Activation, second: Activation) -> Activation | None:
    """The activation that computes second(first(c)); None if the kernels know no such activation."""
    if first == identity:
        return second
    if second == identity:
        return first
    if first.name == "tanh" and second.name in _signs_of_tanh:
        return Activation(_signs_of_tanh[second.name])
    return None
