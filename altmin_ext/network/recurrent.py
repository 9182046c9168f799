"""The maps of an Elman layer and of a linear map that reads its whole output sequence.

Two codes lie between the input and the logits: the pre-activations of all time steps, c_t = V x_t + U h_{t-1} + b
with h_t = tanh(c_t), and the output sequence o = phi(h). What moves o is a loss of W o, so that it stays in the row
space of W: o0 - o = W^T s with as many numbers s per sample as there are logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from altmin_ext.network.maps import LinearMap, Map
from altmin_ext.nn import Elman
from altmin_ext.ops import Activation


class ElmanMap(Map):
    """The recurrent layer: its output are the pre-activations of all time steps."""

    calls_modules = False

    def __init__(self, module: Elman) -> None:
        super().__init__(module.parameters())
        self.module = module

    def output_shape(self, shape: torch.Size) -> torch.Size:
        if len(shape) != 2 or shape[1] != self.module.input_size:
            raise ValueError(f"takes (T, {self.module.input_size}) sequences")
        return torch.Size([shape[0], self.module.hidden_size])


class OutputSequenceMap(Map):
    """What ties the output sequence to the hidden states: it has no parameters.

    Attributes:
        sigma: phi.
        matrix: U, through which a hidden state has its other reader.
    """

    calls_modules = False

    def __init__(self, sigma: Activation, elman: Elman) -> None:
        super().__init__(())
        self.sigma = sigma
        self._elman = elman

    @property
    def matrix(self) -> Tensor:  # type: ignore[override]
        return self._elman.weight_hh_l0

    def output_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size([shape.numel()])


class SequenceMap(LinearMap):
    """The linear map W that reads the flattened output sequence, given W o in place of o.

    Attributes:
        output: (B, T d), o itself at the updated codes.
        has_output: whether that is of this minibatch yet.
    """

    has_output = False

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.output = torch.empty(0)

    def output_shape(self, shape: torch.Size) -> torch.Size:
        return super().output_shape(torch.Size([shape.numel()]))

    def encode(self, activation: Tensor, out: Tensor | None) -> Tensor:
        return activation

    def forward(self, activation: Tensor, out: Tensor | None) -> Tensor:
        return super().forward(self.output, out) if self.has_output else activation

    def vjp(self, residual: Tensor, out: Tensor | None) -> Tensor:
        return residual

    def weight_gradients(self, residual: Tensor, activation: Tensor) -> None:
        super().weight_gradients(residual, self.output)
