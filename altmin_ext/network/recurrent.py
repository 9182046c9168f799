"""The maps of an Elman layer and of a linear map that reads its whole output sequence.

Two codes lie between the input and the logits: the pre-activations of all time steps, c_t = V x_t + U h_{t-1} + b
with h_t = tanh(c_t), and the output sequence o = phi(h). What moves o is a loss of W o, so that it stays in the row
space of W: o0 - o = W^T s with as many numbers s per sample as there are logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from altmin_ext.network.activations import activation_of
from altmin_ext.network.chain import PreMap
from altmin_ext.network.maps import Iterations, LinearMap, Map
from altmin_ext.network.pieces import PointwisePiece, ReshapePiece, piece_of
from altmin_ext.network.splitting import BoundStage, Leaves, known_chains
from altmin_ext.nn import Elman
from altmin_ext.ops import Activation
from altmin_ext.ops.activation import identity


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


class OutputSequenceMap(Map):
    """What ties the output sequence to the hidden states: it has no parameters, and nothing to fit.

    Attributes:
        sigma: phi.
        reader: W, which reads the output sequence.
        matrix: U, through which a hidden state has its other reader.
    """

    calls_modules = False
    has_local_term = False

    def __init__(self, sigma: Activation, elman: Elman, reader: SequenceMap) -> None:
        super().__init__(())
        self.sigma, self.reader = sigma, reader
        self._elman = elman

    @property
    def matrix(self) -> Tensor:  # type: ignore[override]
        return self._elman.weight_hh_l0

    def output_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size([shape.numel()])


class ElmanMap(Map):
    """The recurrent layer: its output are the pre-activations of all time steps.

    Attributes:
        module: the layer.
        output: the map above.
    """

    calls_modules = False
    default_iterations = Iterations(codes=5, weights=5)
    # The sweep over the time steps has no threshold, and knows the paper's sums only.
    lacks = frozenset({"l1_codes", "released"})

    def __init__(self, module: Elman, output: OutputSequenceMap) -> None:
        super().__init__(module.parameters())
        self.module, self.output = module, output

    def output_shape(self, shape: torch.Size) -> torch.Size:
        if len(shape) != 2 or shape[1] != self.module.input_size:
            raise ValueError(f"takes (T, {self.module.input_size}) sequences")
        return torch.Size([shape[0], self.module.hidden_size])


def elman_stages(leaves: Leaves) -> list[BoundStage] | None:
    """The stages of an Elman layer, an activation, Flatten and Linear, with anything without parameters in front.

    Anything else in front of the layer or behind it, and it is a stage like any other, differentiated within itself,
    whose code is its output.
    """
    first = next((i for i, (_, m) in enumerate(leaves) if any(True for _ in m.parameters())), len(leaves))
    front, rest = leaves[:first], list(leaves[first:])
    sigma = activation_of(rest[1][1]) if len(rest) == 4 else identity
    if len(rest) == 4:
        del rest[1]
    if [type(module) for _, module in rest] != [Elman, nn.Flatten, nn.Linear] or sigma is None:
        return None
    (path, elman), (_, flatten), (end, linear) = rest
    assert isinstance(elman, Elman)
    assert isinstance(flatten, nn.Flatten)
    assert isinstance(linear, nn.Linear)
    reader = SequenceMap(linear)
    output = OutputSequenceMap(sigma, elman, reader)
    return [
        BoundStage(path, PreMap([piece_of(p, m) for p, m in front]), ElmanMap(elman, output), "Elman"),
        BoundStage(f"{path}, output", PreMap([PointwisePiece(sigma)]), output),
        BoundStage(end, PreMap([ReshapePiece(flatten)]), reader),
    ]


known_chains.append(elman_stages)
