"""A map of one's own, complete: a Linear whose matrix has a low rank, by its exact products."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from altmin_ext.network import EvaluatedMap, known_maps


class LowRank(nn.Module):
    """(B, n_in) -> (B, n_out): U V x + b, where U is (n_out, rank) and V (rank, n_in)."""

    def __init__(self, n_in: int, n_out: int, rank: int) -> None:
        super().__init__()
        self.U = nn.Parameter(torch.randn(n_out, rank) / rank**0.5)
        self.V = nn.Parameter(torch.randn(rank, n_in) / n_in**0.5)
        self.b = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.V.t() @ self.U.t() + self.b


class LowRankMap(EvaluatedMap):
    def __init__(self, module: LowRank) -> None:
        super().__init__(module.parameters())
        self._module = module

    def output_shape(self, shape: torch.Size) -> torch.Size:
        n_in = self._module.V.shape[1]
        if tuple(shape) != (n_in,):
            raise ValueError(f"takes {n_in} features")
        return self._module.b.shape

    def encode(self, activation: Tensor, out: Tensor | None) -> Tensor:
        return self.forward(activation, out)

    def forward(self, activation: Tensor, out: Tensor | None) -> Tensor:
        return self.sample_jvp(activation) + self._module.b

    def move(self, displacement: Tensor, unit: Tensor, out: Tensor | None) -> Tensor:
        return self.sample_jvp(displacement)  # linear: nothing to subtract, and so nothing cancels

    def vjp(self, residual: Tensor, out: Tensor | None) -> Tensor:
        return self.sample_vjp(residual)

    def weight_gradients(self, residual: Tensor, activation: Tensor) -> None:
        m = self._module
        gradients = {
            m.U: residual.t() @ (activation @ m.V.t()),
            m.V: (residual @ m.U).t() @ activation,
            m.b: residual.sum(0),
        }
        for parameter, gradient in gradients.items():
            buffer = self.gradient_of(parameter)
            if buffer is not None:  # a frozen parameter has none
                buffer.copy_(gradient)

    def sample_jvp(self, v: Tensor) -> Tensor:
        return v @ self._module.V.t() @ self._module.U.t()

    def sample_vjp(self, v: Tensor) -> Tensor:
        return v @ self._module.U @ self._module.V


known_maps[LowRank] = LowRankMap
