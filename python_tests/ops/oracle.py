"""Activations and the code step in float64, by other formulas than the library's.

Values and derivatives come from torch.nn.functional and autograd, displacements of activations from identities
that hold exactly: tanh x - tanh y = sinh(x - y) / (cosh x cosh y) and its like. test_activation.py checks these
against mpmath's 60 digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext.ops import Activation, CodeScalar

SIGMAS = (
    Activation("identity"),
    Activation("relu"),
    Activation("leaky_relu", 0.01),
    Activation("leaky_relu", 0.5),
    Activation("elu", 1.0),
    Activation("elu", 0.6),
    Activation("tanh"),
    Activation("sigmoid"),
    Activation("gelu"),
    Activation("gelu_tanh"),
    Activation("silu"),
    Activation("softplus", 1.0),
    Activation("softplus", 2.5),
    Activation("sign"),
    Activation("sign_clipped"),
    Activation("sign_of_tanh"),
    Activation("sign_none"),
)


def label(sigma: Activation) -> str:
    return f"{sigma.name}-{sigma.parameter:g}" if sigma.parameter else sigma.name


def _sign(c: Tensor, differentiated: Tensor) -> Tensor:
    """The sign of c, whose derivative is that of ``differentiated``."""
    jumps = 2 * torch.heaviside(c.detach(), torch.zeros_like(c)) - 1
    return jumps + (differentiated - differentiated.detach())


def _functional(sigma: Activation) -> Callable[[Tensor], Tensor]:
    parameter = sigma.parameter
    return {
        "identity": lambda c: c * 1.0,
        "relu": F.relu,
        "leaky_relu": lambda c: F.leaky_relu(c, parameter),
        "elu": lambda c: F.elu(c, parameter),
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "gelu": F.gelu,
        "gelu_tanh": lambda c: F.gelu(c, approximate="tanh"),
        "silu": F.silu,
        "softplus": lambda c: F.softplus(c, parameter),
        "sign": lambda c: _sign(c, c),
        "sign_clipped": lambda c: _sign(c, c.clamp(-1, 1)),
        "sign_of_tanh": lambda c: _sign(c, c.tanh()),
        "sign_none": lambda c: _sign(c, 0 * c),
    }[sigma.name]


def value(sigma: Activation, c: Tensor) -> Tensor:
    """sigma(c)."""
    return _functional(sigma)(c)


def derivative(sigma: Activation, c: Tensor) -> Tensor:
    """sigma'(c), by autograd."""
    with torch.enable_grad():
        c = c.detach().clone().requires_grad_()
        return torch.autograd.grad(value(sigma, c).sum(), c)[0]


# Each of these is sigma(x) - sigma(x + d), where d may be far below the rounding of x. A large d needs no identity,
# and the exponentials of some would overflow.


def _logistic_difference(x: Tensor, d: Tensor) -> Tensor:
    small = -torch.sinh(d / 2) / (2 * torch.cosh(x / 2) * torch.cosh((x + d) / 2))
    return torch.where(d.abs() < 0.5, small, torch.sigmoid(x) - torch.sigmoid(x + d))


def _tanh_difference(x: Tensor, d: Tensor) -> Tensor:
    small = -torch.sinh(d) / (torch.cosh(x) * torch.cosh(x + d))
    return torch.where(d.abs() < 0.5, small, torch.tanh(x) - torch.tanh(x + d))


# Five-point Gauss rule: node -> weight.
_gauss = {
    -0.9061798459386640: 0.2369268850561891,
    -0.5384693101056831: 0.4786286704993665,
    0.0: 0.5688888888888889,
    0.5384693101056831: 0.4786286704993665,
    0.9061798459386640: 0.2369268850561891,
}


def _normal_difference(x: Tensor, d: Tensor) -> Tensor:
    """Of the normal distribution function: by quadrature where the difference of erf would cancel."""
    density = torch.zeros_like(x)
    for node, weight in _gauss.items():
        density += weight / 2 * torch.exp(-((x + d * (1 + node) / 2) ** 2) / 2) / math.sqrt(2 * math.pi)
    plain = (torch.erf(x / math.sqrt(2)) - torch.erf((x + d) / math.sqrt(2))) / 2
    return torch.where(d.abs() < 0.05, -d * density, plain)


def _elu_difference(alpha: float, x: Tensor, d: Tensor) -> Tensor:
    y = x + d
    both_below = -alpha * torch.exp(x) * torch.expm1(d)
    across = F.elu(x, alpha) - F.elu(y, alpha)  # of opposite signs: nothing cancels
    return torch.where((x > 0) & (y > 0), -d, torch.where((x <= 0) & (y <= 0), both_below, across))


def _piecewise_linear_difference(slope: float, x: Tensor, d: Tensor) -> Tensor:
    y = x + d
    across = F.leaky_relu(x, slope) - F.leaky_relu(y, slope)
    return torch.where((x > 0) & (y > 0), -d, torch.where((x <= 0) & (y <= 0), -slope * d, across))


def _gelu_tanh_difference(x: Tensor, d: Tensor) -> Tensor:
    outer, cubic = math.sqrt(2 / math.pi), 0.044715
    y = x + d
    argument = outer * (x + cubic * x**3)
    argument_step = outer * d * (1 + cubic * (x * x + x * y + y * y))
    return (-d * (1 + torch.tanh(argument)) + y * _tanh_difference(argument, argument_step)) / 2


def _softplus_difference(beta: float, x: Tensor, d: Tensor) -> Tensor:
    # log((1 + e^x) / (1 + e^y)); beyond torch's threshold of 20 it is the identity up to e^-20.
    small = -torch.log1p(torch.sigmoid(beta * x) * torch.expm1(beta * d)) / beta
    plain = F.softplus(x, beta) - F.softplus(x + d, beta)
    small = torch.where(beta * torch.minimum(x, x + d) > 20, -d, small)
    return torch.where(d.abs() < 0.5, small, plain)


def _silu_difference(x: Tensor, d: Tensor) -> Tensor:
    return -d * torch.sigmoid(x) + (x + d) * _logistic_difference(x, d)


def _gelu_difference(x: Tensor, d: Tensor) -> Tensor:
    normal = (1 + torch.erf(x / math.sqrt(2))) / 2
    return -d * normal + (x + d) * _normal_difference(x, d)


def _sign_difference(x: Tensor, d: Tensor) -> Tensor:
    return 2 * ((x > 0).to(x.dtype) - (x + d > 0).to(x.dtype))


def difference(sigma: Activation, c0: Tensor, delta: Tensor, unit: float) -> Tensor:
    """(sigma(c0 - unit delta) - sigma(c0)) / unit."""
    parameter = sigma.parameter
    fall: Callable[[Tensor, Tensor], Tensor] = {
        "identity": lambda x, d: -d,
        "relu": lambda x, d: _piecewise_linear_difference(0.0, x, d),
        "leaky_relu": lambda x, d: _piecewise_linear_difference(parameter, x, d),
        "elu": lambda x, d: _elu_difference(parameter, x, d),
        "tanh": _tanh_difference,
        "sigmoid": _logistic_difference,
        "gelu": _gelu_difference,
        "gelu_tanh": _gelu_tanh_difference,
        "silu": _silu_difference,
        "softplus": lambda x, d: _softplus_difference(parameter, x, d),
        "sign": _sign_difference,
        "sign_clipped": _sign_difference,
        "sign_of_tanh": _sign_difference,
        "sign_none": _sign_difference,
    }[sigma.name]
    return -fall(c0, -unit * delta) / unit


def soft_threshold(x: Tensor, threshold: float) -> Tensor:
    return torch.sign(x) * torch.clamp(x.abs() - threshold, min=0)


def code_step(arguments: dict[str, Any]) -> dict[str, Tensor]:
    """What code_step must leave in its outputs and in its parameter block."""
    s = {entry.name: float(arguments["scalars"][entry]) for entry in CodeScalar}
    above, first, sigma = arguments["above"], arguments["first"], arguments["sigma"]
    code, pulled_back = arguments["code"], arguments["pulled_back"]
    unit_above = 1.0 if above is None else float(above[CodeScalar.unit])
    unit, eta = s["unit"], s["step_taken"]
    delta = arguments["displacement"]
    if first:
        eta = s["step_size"] if s["step_size"] >= 0 else 1 / (1 + s["curvature"] * s["sigma_squared"])
        unit = float(above[CodeScalar.scale]) if above is not None and s["threshold"] == 0 else 1.0
        delta = torch.zeros_like(code)
    mask = torch.ones_like(code) if arguments["mask"] is None else arguments["mask"]

    pull = unit_above * pulled_back / unit if above is not None else pulled_back
    if arguments["pulled_back_change"] is not None:
        pull = pull + arguments["pulled_back_change"]
    gradient = s["downstream"] * pull * mask * derivative(sigma, code - unit * delta) - s["anchor"] * delta
    velocity = None
    if arguments["velocity"] is None:
        delta = delta + eta * (1 + s["momentum"]) * gradient
    else:
        old = torch.zeros_like(code) if first else arguments["velocity"]
        velocity = s["momentum"] * old + gradient
        delta = delta + eta * (gradient + s["momentum"] * velocity)
    if s["threshold"] > 0:
        delta = (code - soft_threshold(code - unit * delta, eta * s["threshold"])) / unit

    held = delta.numel() * (s["normalised"] or 1.0)
    rms = math.sqrt(float(delta.square().sum()) / held) if held else 0.0
    own = max(1.0, 1e-8 / rms) if rms > 0 else 1.0
    damping = own if above is None else float(above[CodeScalar.damping])
    moved = delta if arguments["gap"] is None else torch.minimum(delta, arguments["gap"] / unit)
    outputs = {
        "displacement": delta,
        "activation": mask * value(sigma, code - unit * moved),
        "scalars": arguments["scalars"].clone(),
    }
    if velocity is not None:
        outputs["velocity"] = velocity
    if arguments["activation_displacement"] is not None:
        outputs["activation_displacement"] = mask * difference(sigma, code, moved, unit)
    for entry, number in (
        (CodeScalar.unit, unit),
        (CodeScalar.step_taken, eta),
        (CodeScalar.scale, unit * rms * damping if s["normalised"] and rms > 0 else unit),
        (CodeScalar.damping, damping),
        (CodeScalar.moved, unit * rms),
    ):
        outputs["scalars"][entry] = number
    return outputs
