"""The one table of the modules whose activation the kernels know."""

from __future__ import annotations

from typing import Any

from torch import nn

from altmin_ext.network.known import known_as
from altmin_ext.nn import Sign
from altmin_ext.ops import Activation


class _Known:
    """The modules that compute one activation: of exactly one type, and with certain attributes.

    Args:
        module: their type.
        parameter: the name of the attribute that is the activation's parameter; "" if it has none.
        **attributes: the values that other attributes must have; the constructor takes arguments of the same names.
    """

    def __init__(self, module: type[nn.Module], parameter: str = "", **attributes: Any) -> None:
        self._module, self._parameter, self._attributes = module, parameter, attributes

    def make(self) -> nn.Module:
        """Make such a module, with torch's default for the parameter."""
        return self._module(**self._attributes)

    def matches(self, module: nn.Module) -> bool:
        """Whether a module is such a module."""
        return known_as(module) is self._module and all(
            getattr(module, name) == value for name, value in self._attributes.items()
        )

    def parameter_of(self, module: nn.Module) -> float:
        """The parameter of a module's activation."""
        return float(getattr(module, self._parameter)) if self._parameter else 0.0


known_activations = {
    "identity": _Known(nn.Identity),
    "relu": _Known(nn.ReLU),
    "leaky_relu": _Known(nn.LeakyReLU, "negative_slope"),
    "elu": _Known(nn.ELU, "alpha"),
    "tanh": _Known(nn.Tanh),
    "sigmoid": _Known(nn.Sigmoid),
    "gelu": _Known(nn.GELU, approximate="none"),
    "gelu_tanh": _Known(nn.GELU, approximate="tanh"),
    "silu": _Known(nn.SiLU),
    "softplus": _Known(nn.Softplus, "beta", threshold=20),
    "sign": _Known(Sign, surrogate="identity"),
    "sign_clipped": _Known(Sign, surrogate="clipped"),
    "sign_none": _Known(Sign, surrogate="none"),
}


def activation_of(module: nn.Module) -> Activation | None:
    """Find the activation that a module computes.

    Args:
        module: any module.

    Returns:
        The activation; None if the module computes none that the kernels know.
    """
    for name, known in known_activations.items():
        if known.matches(module):
            return Activation(name, known.parameter_of(module))
    return None
