"""Which modules compute an activation that the kernels know."""

from __future__ import annotations

from torch import nn

from altmin_ext.nn import Sign
from altmin_ext.ops import Activation

_signs = {"identity": "sign", "clipped": "sign_clipped", "none": "sign_none"}
_simple: dict[type[nn.Module], str] = {
    nn.Identity: "identity",
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
}


def activation_of(module: nn.Module) -> Activation | None:
    """The activation that a module computes, or None if it is not one the kernels know."""
    kind = type(module)
    if kind in _simple:
        return Activation(_simple[kind])
    if isinstance(module, nn.LeakyReLU):
        return Activation("leaky_relu", module.negative_slope)
    if isinstance(module, nn.ELU):
        return Activation("elu", module.alpha)
    if isinstance(module, nn.GELU):
        return Activation("gelu" if module.approximate == "none" else "gelu_tanh")
    if isinstance(module, nn.Softplus) and module.threshold == 20:
        return Activation("softplus", module.beta)
    if isinstance(module, Sign):
        return Activation(_signs[module.surrogate])
    return None
