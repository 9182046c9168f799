"""dlADMM: deep learning ADMM that sweeps backward and forward (Wang, Yu, Chen & Zhao, "ADMM for efficient deep
learning with global convergence", KDD 2019, arXiv 1905.13611).

Pre-activations z_l and activations a_l are variables. Only the last layer is a constraint, with a dual variable u:

    L_rho = sum over samples of  loss(z_L, y) + nu/2 sum_{l<L} (||z_l - W_l a_{l-1} - b_l||^2 + ||a_l - h(z_l)||^2)
            + u^T (z_L - W_L a_{L-1} - b_L) + rho/2 ||z_L - W_L a_{L-1} - b_L||^2  +  sum_l Omega(W_l) .

An iteration updates every variable twice, always with the newest values of the others: backward z_L, b_L, W_L,
a_{L-1}, z_{L-1}, ..., W_1, and forward W_1, b_1, z_1, a_1, W_2, ..., z_L. Then u <- u + rho (z_L - W_L a_{L-1} -
b_L).

- W_l takes a step on its quadratic term and Omega, see :mod:`altmin_ext.methods._lifted`;
- b_l is the minimiser, the mean of z_l - W_l a_{l-1} (+ u / rho in the last layer);
- a_l takes a gradient step on its two terms, with a step size for each sample, as the paper allows;
- z_l is the minimiser; z_L is the proximal map of the loss at W_L a_{L-1} + b_L - u / rho.

Every ``rho_interval`` iterations rho is multiplied by ``rho_multiplier``. After its update, u is minus the derivative
of the loss at z_L, so u / rho is large if rho is small: u is held in float64.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import partial

import torch
from torch import Tensor, nn

from altmin_ext._state import Attribute, Part, Replaced, count
from altmin_ext.methods._lifted import Lifted, LiftedLayer, LiftedOptions, WeightProblem, squared_norm
from altmin_ext.methods._options import integer, number, option, positive
from altmin_ext.ops import Activation
from altmin_ext.ops import unversioned as ops


@dataclasses.dataclass(frozen=True)
class DLADMMOptions(LiftedOptions):
    """Options of :class:`DLADMM`.

    ``rho`` is the initial penalty on the last layer's constraint; ``nu`` is that of the other layers.
    """

    rho: float = option(1e-6, check=number(sys.float_info.min))
    nu: float = option(
        1e-6,
        "factor of the penalty nu/2 ||.||^2 of all layers but the last, which has rho",
        positive(),
    )
    rho_multiplier: float = option(
        10.0, "factor by which rho is raised every rho_interval iterations", number(1.0)
    )
    rho_interval: int = option(100, "iterations until rho is raised", integer())
    rho_max: float = option(0.1, "rho is not raised above this", positive(infinite=True))


class LastLayer(LiftedLayer):
    """The last layer, whose residual is a constraint with the dual u (N, n_L), in float64."""

    dual: Tensor

    def release(self) -> None:
        super().release()
        self.dual = self.pre_activations.double()

    def target(self, rows: slice) -> Tensor:
        """z + u / rho."""
        z = self.pre_activations[rows]
        return (z + self.dual[rows] / self.rho).to(z.dtype)


class DLADMM(Lifted):
    """dlADMM: ADMM on the whole training set at once, with a backward and a forward pass.

    The objective of a layer below the last is nu/2 (||z - W a - b||^2 + ||a - h(z)||^2) + Omega(W). That of the last
    layer is the rest of L_rho, after the update of u; it may be negative. By the theory, L_rho never rises while rho
    is constant and large enough for the loss; ``objective_rose`` says whether it did.

    Memory: 2 N numbers for z and W a of every unit, N for a of every unit below the last layer, and 2 N for u of
    every output.

    Attributes:
        rho: the penalty on the last layer in the next step.
        dual: u (N, n_L) in float64, empty before the first step.
    """

    name = "dladmm"
    Options = DLADMMOptions
    options: DLADMMOptions
    _last: LastLayer

    def _allocate(self) -> None:
        super()._allocate()
        self._to_raise = self.options.rho_interval

    def _make_layers(self) -> list[LiftedLayer]:
        layers = super()._make_layers()
        for layer in layers:
            layer.rho = self.options.nu
        self._last = LastLayer(self._stages[-1], None, self.options.rho)
        return [*layers[:-1], self._last]

    @property
    def rho(self) -> float:
        return self._last.rho

    @property
    def dual(self) -> Tensor:
        return self._last.dual

    def _bind(self, x: Tensor, y: Tensor) -> None:
        shape = len(x), len(self._last.weight)
        self._last.dual = torch.zeros(shape, dtype=torch.float64, device=self.device)
        super()._bind(x, y)

    def _sweep(self, x: Tensor, y: Tensor) -> Tensor:
        top = len(self._layers) - 1
        for l in range(top, -1, -1):
            self._fit_pre_activations(l, x, y)
            problem = self._weight_problem(l, x)
            self._fit_bias(self._layers[l], problem)
            self._fit_weight(self._layers[l], problem)
            if l > 0:
                self._fit_activations(l - 1, x)
        for l, layer in enumerate(self._layers):
            problem = self._weight_problem(l, x)
            self._fit_weight(layer, problem)
            self._fit_bias(layer, problem)
            self._fit_pre_activations(l, x, y)
            if l < top:
                self._fit_activations(l, x)
        return self._raise_dual(x, y)

    def _fit_weight(self, layer: LiftedLayer, problem: WeightProblem) -> None:
        if layer.weight.requires_grad:
            change, _ = self._weight_step(layer, problem)
            self._move_weight(layer, problem, change)

    def _fit_pre_activations(self, l: int, x: Tensor, y: Tensor) -> None:
        layer = self._layers[l]
        for rows in self._chunks(x):
            center = layer.center(self._input(l, x, rows), rows)
            if layer.activation is None:
                z = self._output(center, y[rows], rows)
                layer.pre_activations[rows] = z
            else:
                z = layer.pre_activations[rows]
                pre_activation(layer.activation, layer.activations[rows], center, z, out=z)

    def _fit_activations(self, l: int, x: Tensor) -> None:
        layer, above, nu = self._layers[l], self._layers[l + 1], self.options.nu
        assert layer.activation is not None
        for rows in self._chunks(x):
            a = layer.activations[rows]
            image = layer.activation.value(layer.pre_activations[rows])
            # In units of nu, since the squares of small gradients would be zero.
            ratio = above.rho / nu
            gradient = ratio * above.pull_back(above.residual(a, rows)) + (a - image)
            direction = nn.functional.normalize(gradient, dim=1)
            curvature = above.rho * above.linear(direction).square().sum(1, keepdim=True) + nu
            self._to_be_written(l, rows).sub_(nu * gradient / self.options.searched(curvature))

    def _output(self, center: Tensor, y: Tensor, rows: slice) -> Tensor:
        center = center.double() - self.dual[rows] / self.rho
        return self.loss.proximal(center, y.double() if y.is_floating_point() else y, self.rho)

    def _raise_dual(self, x: Tensor, y: Tensor) -> Tensor:
        """u <- u + rho (z_L - W_L a_{L-1} - b_L); returns the terms of L_rho after that."""
        terms = torch.zeros(len(self._layers), dtype=torch.float64, device=self.device)
        for rows in self._chunks(x):
            for l, layer in enumerate(self._layers):
                z = layer.pre_activations[rows]
                gap = (z - layer.center(self._input(l, x, rows), rows)).double()
                terms[l] += layer.rho / 2 * squared_norm(gap)
                if layer.activation is not None:
                    distance = layer.activations[rows] - layer.activation.value(z)
                    terms[l] += self.options.nu / 2 * distance.square().sum(dtype=torch.float64)
                else:
                    self.dual[rows] += self.rho * gap
                    terms[l] += self._loss_of(z, y[rows]) + (self.dual[rows] * gap).sum()
        return self._sum(terms) + torch.stack([self._penalty(layer) for layer in self._layers])

    def _advance(self) -> None:
        self._to_raise -= 1
        if self._to_raise == 0:
            self._to_raise = self.options.rho_interval
            rho = max(self.rho, min(self.options.rho_multiplier * self.rho, self.options.rho_max))
            if rho != self.rho:
                self._last.rho, self._objective = rho, None

    def _state(self) -> dict[str, Part]:
        return {
            **super()._state(),
            "rho": Attribute(self._last, "rho", positive()),
            "dual": Replaced(self._last, "dual", ["samples", len(self._last.weight)]),
            "to_raise": Attribute(self, "_to_raise", partial(count, minimum=1)),
        }


def pre_activation(
    activation: Activation, a: Tensor, center: Tensor, before: Tensor, out: Tensor | None = None
) -> Tensor:
    """argmin_z (a - h(z))^2 + (z - center)^2, elementwise.

    In closed form for relu, leaky relu and the identity. For tanh and sigmoid it is, by bisection, a point between
    ``center`` and ``center`` + a - h(center) with derivative zero. If there are several such points, it is at least
    as good as ``before``. The result goes to ``out``, if given, which may be ``before``.
    """
    out = torch.empty_like(center) if out is None else out
    if activation.name == "relu":
        ops.relu_prox(a, center, out=out, gamma=1.0, beta=1.0)
        return out
    if activation.name in ("identity", "leaky_relu"):
        slope = 1.0 if activation.name == "identity" else activation.parameter
        right, left = ((a + center) / 2).clamp(min=0), ((slope * a + center) / (slope**2 + 1)).clamp(max=0)
        return out.copy_(_nearer(activation, a, center, right, left))
    way = a - activation.value(center)
    low, high = torch.zeros_like(center), torch.ones_like(center)
    for _ in range(24 if center.dtype == torch.float32 else 53):
        middle = (low + high) / 2
        z = center + middle * way
        # Divided by ``way``, the derivative rises through zero.
        short = middle * way.abs() < (a - activation.value(z)) * activation.derivative(z) * way.sign()
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    z = center + (low + high) / 2 * way
    return out.copy_(_nearer(activation, a, center, z, before))


def _nearer(activation: Activation, a: Tensor, center: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """The better of two z, elementwise; ``one`` if they are equally good."""
    first, second = ((a - activation.value(z)).square() + (z - center).square() for z in (one, other))
    return torch.where(first <= second, one, other)
