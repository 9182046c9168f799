"""An Elman layer in float64 by the local objectives of its codes and weights, differentiated by autograd."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from altmin_ext.ops import Activation

from . import oracle
from .calling import Random


def to_lanes(sequences: Tensor) -> Tensor:
    """(B, T, d) with 16 samples side by side: (ceil(B / 16), T, d, 16), zero beyond the batch."""
    batch, steps, width = sequences.shape
    lanes = torch.zeros(-(-batch // 16), steps, width, 16, dtype=sequences.dtype)
    for b in range(batch):
        lanes[b // 16, :, :, b % 16] = sequences[b]
    return lanes


def derivative(objective: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    with torch.enable_grad():
        at = at.detach().clone().requires_grad_()
        return torch.autograd.grad(objective(at), at)[0]


def descend(
    objective: Callable[[Tensor], Tensor], c: Tensor, eta: float, momentum: float, iterations: int
) -> Tensor:
    """Nesterov's steps."""
    v = torch.zeros_like(c)
    for _ in range(iterations):
        g = derivative(objective, c)
        v = momentum * v + g
        c = c - eta * (g + momentum * v)
    return c


@dataclasses.dataclass
class Layer:
    """h_t = tanh(V x_t + U h_{t-1} + b), and W that reads sigma(h_1), ..., sigma(h_T)."""

    x: Tensor
    input_weight: Tensor
    recurrent_weight: Tensor
    input_bias: Tensor
    recurrent_bias: Tensor
    output_weight: Tensor
    sigma: Activation

    @classmethod
    def random(
        cls, random: Random, batch: int, steps: int, n_in: int, width: int, n_out: int, sigma: Activation
    ) -> Layer:
        return cls(
            random.normal(batch, steps, n_in),
            random.normal(width, n_in, scale=0.7),
            random.normal(width, width, scale=0.8 / width**0.5),
            random.normal(width, scale=0.3),
            random.normal(width, scale=0.3),
            random.normal(n_out, steps * width, scale=1 / max(1, steps * width) ** 0.5),
            sigma,
        )

    @property
    def weights(self) -> Tensor:
        """[U V b]"""
        bias = self.input_bias + self.recurrent_bias
        return torch.cat([self.recurrent_weight, self.input_weight, bias[:, None]], 1)

    def inputs(self, h: Tensor) -> Tensor:
        """[h_{t-1}; x_t; 1] for all t, where h holds h_1, ..., h_T."""
        before = torch.cat([torch.zeros_like(h[:, :1]), h], 1)[:, : self.x.shape[1]]
        return torch.cat([before, self.x, self.x.new_ones(*self.x.shape[:2], 1)], 2)

    def codes(self) -> Tensor:
        """(B, T, d), those of the encode."""
        batch, steps, _ = self.x.shape
        codes = torch.zeros(batch, steps, len(self.recurrent_weight), dtype=torch.float64)
        for t in range(steps):
            codes[:, t] = self.inputs(torch.tanh(codes))[:, t] @ self.weights.T
        return codes

    def product(self, h: Tensor) -> Tensor:
        return oracle.value(self.sigma, h).flatten(1) @ self.output_weight.T

    def moved_codes(
        self, output: Tensor, eta: float, momentum: float, iterations: int, downstream: float, anchor: float
    ) -> Tensor:
        """The codes after their steps, from the last to the first; ``output`` is (B, T d)."""
        start, steps = self.codes(), self.x.shape[1]
        output = output.view(start.shape)
        codes = start.clone()
        for t in reversed(range(steps)):

            def objective(c: Tensor, t: int = t) -> Tensor:
                h = torch.tanh(c)
                misfit = (oracle.value(self.sigma, h) - output[:, t]).square().sum()
                if t + 1 < steps:
                    above = torch.cat([h, self.x[:, t + 1], torch.ones_like(h[:, :1])], 1) @ self.weights.T
                    misfit = misfit + (above - codes[:, t + 1]).square().sum()
                return (downstream * misfit + anchor * (c - start[:, t]).square().sum()) / 2

            codes[:, t] = descend(objective, start[:, t], eta, momentum, iterations)
        return codes

    def misfit(self, weights: Tensor, codes: Tensor) -> Tensor:
        """Half the sum of squares of [U V b] a_t - c_t."""
        return (self.inputs(torch.tanh(codes)) @ weights.T - codes).square().sum() / 2
