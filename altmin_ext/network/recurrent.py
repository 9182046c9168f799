"""The maps of an Elman layer and of the Linear that reads its output sequence (Choromanska et al. 2019, appendix C).

There are two codes between the input and the logits: the pre-activations of all time steps,
c_t = V x_t + U h_{t-1} + b with h_t = tanh(c_t), and the output sequence o = phi(h). The code o moves by the gradient
of a loss of W o, so its displacement lies in the row space of W: o0 - o = W^T s, with one number in s per logit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from altmin_ext.network.activations import activation_of
from altmin_ext.network.chain import PreMap
from altmin_ext.network.known import known_as
from altmin_ext.network.maps import Iterations, LinearMap, Map
from altmin_ext.network.pieces import PointwisePiece, ReshapePiece, piece_of
from altmin_ext.network.splitting import BoundStage, Leaves, known_chains
from altmin_ext.nn import Elman
from altmin_ext.ops import Activation
from altmin_ext.ops.activation import identity


class SequenceMap(LinearMap):
    """The linear map W that reads the flattened output sequence o; its input is W o instead of o.

    Args:
        linear: the module.

    Attributes:
        output: (B, T d), o at the updated codes.
        has_output: whether ``output`` has been computed for this minibatch.
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
    """The map from the hidden states to the output sequence; it has no parameters.

    Args:
        sigma: phi, the activation between them.
        elman: the recurrent layer.
        reader: the map W that reads the output sequence.

    Attributes:
        sigma, reader: as above.
        matrix: U, (d, d), which reads each hidden state as well.
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
    """The map of the recurrent layer, whose output is the pre-activations of all time steps.

    Args:
        module: the layer.
        output: the map of the stage above.

    Attributes:
        module, output: as above.
    """

    calls_modules = False
    default_iterations = Iterations(codes=5, weights=5)
    # The sweep over the time steps has no soft threshold, and computes the paper's sums only.
    lacks = frozenset({"l1_codes", "released"})

    def __init__(self, module: Elman, output: OutputSequenceMap) -> None:
        super().__init__(module.parameters())
        self.module, self.output = module, output

    def output_shape(self, shape: torch.Size) -> torch.Size:
        if len(shape) != 2 or shape[1] != self.module.input_size:
            raise ValueError(f"takes (T, {self.module.input_size}) sequences")
        return torch.Size([shape[0], self.module.hidden_size])


def elman_stages(leaves: Leaves) -> list[BoundStage] | None:
    """The stages of a chain Elman, activation, Flatten, Linear; modules without parameters may come first.

    None for any other chain: an Elman layer in it is an ordinary stage, whose code is the output of the layer.
    """
    first = next((i for i, (_, m) in enumerate(leaves) if any(True for _ in m.parameters())), len(leaves))
    front, rest = leaves[:first], list(leaves[first:])
    sigma = activation_of(rest[1][1]) if len(rest) == 4 else identity
    if len(rest) == 4:
        del rest[1]
    if [known_as(module) for _, module in rest] != [Elman, nn.Flatten, nn.Linear] or sigma is None:
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
