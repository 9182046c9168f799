"""Splits a chain of modules into stages.

A stage is a pre-map (activation, dropout) followed by a map (one Linear with the BatchNorm1d next to it); a *code*
is the output of a stage's map. The last stage is the predictor, whose output are the logits::

    x -> [pre | map] -> c_1 -> [pre | map] -> c_2 -> ... -> [pre | map] -> logits
"""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Iterator
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altmin_ext.ops import Activation, activation_of
from altmin_ext.ops.activation import identity

_known = (
    "Flatten, Linear, BatchNorm1d, Dropout, Identity, ReLU, LeakyReLU, ELU, Tanh, Sigmoid, GELU, SiLU "
    "and Softplus"
)


class PreMap:
    """The pointwise part of a stage: activations and dropout, applied to the code below.

    Attributes:
        activation: the activation when the pre-map is one activation and then at most one dropout, the case
            that the kernels compute; else None.
    """

    def __init__(self, pieces: list[Activation | nn.Dropout]) -> None:
        self._pieces = [p for p in pieces if p != identity]
        self._masks: list[Tensor | None] = [None] * len(self._pieces)
        self._drops = any(isinstance(p, nn.Dropout) for p in self._pieces)
        activations = [p for p in self._pieces if isinstance(p, Activation)]
        leading = not self._pieces or isinstance(self._pieces[0], Activation) or len(self._pieces) == 1
        self.activation: Activation | None = None
        if len(activations) <= 1 and len(self._pieces) <= 2 and leading:
            self.activation = activations[0] if activations else identity

    def _rate(self, piece: Activation | nn.Dropout) -> float:
        return piece.p if isinstance(piece, nn.Dropout) and piece.training else 0.0

    def draw_masks(self, code: Tensor) -> Tensor | None:
        """Draw the dropout masks of this step for a (B, n) code; return the kernels' one, if any.

        The draw is torch's own, from its global generator, as the user's Dropout module would make it.
        """
        if not self._drops:
            return None
        self._masks = [
            F.dropout(torch.ones_like(code), rate, True) if (rate := self._rate(piece)) > 0 else None
            for piece in self._pieces
        ]
        drawn = [mask for mask in self._masks if mask is not None]
        return drawn[0] if self.activation is not None and drawn else None

    def value(self, code: Tensor) -> Tensor:
        """The pre-map's output at a code, under the masks of this step."""
        for piece, mask in zip(self._pieces, self._masks, strict=True):
            if isinstance(piece, Activation):
                code = piece.value(code)
            elif mask is not None:
                code = code * mask
        return code

    def derivative(self, code: Tensor) -> Tensor:
        """Its elementwise derivative there."""
        product = torch.ones_like(code)
        for piece, mask in zip(self._pieces, self._masks, strict=True):
            if isinstance(piece, Activation):
                product = product * piece.derivative(code)
                code = piece.value(code)
            elif mask is not None:
                product = product * mask
                code = code * mask
        return product

    def difference(self, code: Tensor, delta: Tensor, unit: Tensor) -> Tensor:
        """(value(code - unit delta) - value(code)) / unit, without cancellation."""
        for piece, mask in zip(self._pieces, self._masks, strict=True):
            if isinstance(piece, Activation):
                code, delta = piece.value(code), -piece.difference(code, delta, unit)
            elif mask is not None:
                code, delta = code * mask, delta * mask
        return -delta

    @property
    def is_identity(self) -> bool:
        """Whether it passes its input through, whatever the training mode."""
        return not self._pieces

    @property
    def passes_or_rests(self) -> bool:
        """Whether it is a relu or the identity alone: what it passes is unchanged, what it stops has no slope."""
        return (
            not self._drops and self.activation is not None and self.activation.name in ("relu", "identity")
        )

    @property
    def steepest(self) -> float:
        """The largest magnitude of the derivative."""
        slopes = (
            piece.steepest if isinstance(piece, Activation) else 1 / (1 - self._rate(piece))
            for piece in self._pieces
        )
        return math.prod(slopes)


class Map(abc.ABC):
    """The affine part of a stage, whose output is a code.

    Attributes:
        n_in, n_out: features in and out.
        bias: (n_out,), which the caller adds to :meth:`forward`'s output; None: it is in there, or there is none.
        parameters: the trainable parameters; a frozen one is left out.
        gradients: one buffer per entry of ``parameters``.
        bias_gradient: where the sum of the residual over the batch belongs; None if nobody needs it.
    """

    n_in: int
    n_out: int
    bias: Tensor | None = None
    bias_gradient: Tensor | None = None
    parameters: list[nn.Parameter]
    gradients: list[Tensor]

    @abc.abstractmethod
    def forward(self, activation: Tensor, out: Tensor) -> None:
        """out = map(activation) without ``bias``."""

    def encode(self, activation: Tensor, out: Tensor) -> None:
        """The first forward of a step, whose batch statistics :meth:`commit` keeps."""
        self.forward(activation, out)

    @abc.abstractmethod
    def pull_back(self, residual: Tensor, out: Tensor) -> None:
        """out = J^T residual, J the Jacobian in the activation where forward was last called."""

    @abc.abstractmethod
    def weight_gradients(self, residual: Tensor, activation: Tensor) -> None:
        """gradients = J_w^T residual, J_w the Jacobian in the parameters where forward was last called.

        The bias's own sum over the batch is left to the kernel that made the residual, see ``bias_gradient``.
        """

    @abc.abstractmethod
    def matrix(self) -> Tensor:
        """(n_out, n_in), the Jacobian in the activation apart from the coupling within a batch."""

    def commit(self) -> None:  # noqa: B027  (only batch normalisation has anything to commit)
        """Keep what the last encode saw: the running statistics of batch normalisation."""


class _Transposed:
    """Keeps the transposed view of a matrix between steps: making one costs as much as a small product."""

    def __init__(self) -> None:
        self._matrix = self._view = torch.empty(0, 0)
        self._address = -1

    def __call__(self, matrix: Tensor) -> Tensor:
        # The address too: ``parameter.data = ...`` gives the same object other memory.
        if matrix is not self._matrix or matrix.data_ptr() != self._address:
            self._matrix, self._view, self._address = matrix, matrix.detach().t(), matrix.data_ptr()
        return self._view


class LinearMap(Map):
    """A single Linear: every product is one matrix product into a buffer."""

    def __init__(self, linear: nn.Linear) -> None:
        self.weight, self.bias = linear.weight, linear.bias
        self.n_in, self.n_out = linear.in_features, linear.out_features
        self.parameters = [p for p in linear.parameters() if p.requires_grad]
        self.gradients: list[Tensor] = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        of = dict(zip(map(id, self.parameters), self.gradients, strict=True))
        self._weight_gradient = of.get(id(linear.weight))
        self.bias_gradient = of.get(id(linear.bias))
        self._weight_transposed, self._residual_transposed = _Transposed(), _Transposed()

    def forward(self, activation: Tensor, out: Tensor) -> None:
        torch.mm(activation, self._weight_transposed(self.weight), out=out)

    def pull_back(self, residual: Tensor, out: Tensor) -> None:
        torch.mm(residual, self.weight, out=out)

    def weight_gradients(self, residual: Tensor, activation: Tensor) -> None:
        if self._weight_gradient is not None:
            torch.mm(self._residual_transposed(residual), activation, out=self._weight_gradient)

    def matrix(self) -> Tensor:
        return self.weight


class ChainMap(Map):
    """Linear and BatchNorm1d in any order, differentiated by autograd within the stage.

    Batch normalisation uses the statistics of the batch at every evaluation of a step; the running statistics
    move once per step, by those of the encode.
    """

    def __init__(self, modules: list[nn.Linear | nn.BatchNorm1d]) -> None:
        self._modules = modules
        first, last = modules[0], modules[-1]
        self.n_in = first.in_features if isinstance(first, nn.Linear) else first.num_features
        self.n_out = last.out_features if isinstance(last, nn.Linear) else last.num_features
        self.parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
        self.gradients: list[Tensor] = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        self._statistics: dict[nn.BatchNorm1d, tuple[Tensor, Tensor]] = {}
        self._input = self._output = torch.empty(0)

    def forward(self, activation: Tensor, out: Tensor) -> None:
        self._input = activation.detach().clone().requires_grad_()
        value = self._input
        with torch.enable_grad():
            for module in self._modules:
                value = (
                    self._normalise(module, value) if isinstance(module, nn.BatchNorm1d) else module(value)
                )
        self._output = value
        out.copy_(value)

    def encode(self, activation: Tensor, out: Tensor) -> None:
        self._statistics.clear()
        self.forward(activation, out)

    def _uses_batch(self, module: nn.BatchNorm1d) -> bool:
        return module.training or module.running_mean is None

    def _normalise(self, module: nn.BatchNorm1d, value: Tensor) -> Tensor:
        if not self._uses_batch(module):
            return F.batch_norm(
                value,
                module.running_mean,
                module.running_var,
                module.weight,
                module.bias,
                False,
                0.0,
                module.eps,
            )
        if len(value) == 1:
            raise ValueError("x must hold at least 2 samples for BatchNorm1d in training mode, but holds 1.")
        if module not in self._statistics:
            variance, mean = torch.var_mean(value.detach(), 0)
            self._statistics[module] = (mean, variance)
        return F.batch_norm(value, None, None, module.weight, module.bias, True, 0.0, module.eps)

    def pull_back(self, residual: Tensor, out: Tensor) -> None:
        out.copy_(torch.autograd.grad(self._output, self._input, residual, retain_graph=True)[0])

    def weight_gradients(self, residual: Tensor, activation: Tensor) -> None:
        if self.parameters:
            values = torch.autograd.grad(self._output, self.parameters, residual)
            for buffer, value in zip(self.gradients, values, strict=True):
                buffer.copy_(value)

    def matrix(self) -> Tensor:
        factors = []
        for module in self._modules:
            if isinstance(module, nn.Linear):
                factors.append(module.weight.detach())
            else:
                factors.append(torch.diag(self._slope(module)))
        return reduce(lambda product, factor: factor @ product, factors).contiguous()

    def _slope(self, module: nn.BatchNorm1d) -> Tensor:
        if module in self._statistics:
            count = len(self._input)
            variance = self._statistics[module][1] * ((count - 1) / count)
        else:
            assert module.running_var is not None  # else the batch's statistics are there
            variance = module.running_var
        slope = (variance + module.eps).rsqrt()
        return slope if module.weight is None else slope * module.weight.detach()

    def commit(self) -> None:
        for module, (mean, variance) in self._statistics.items():
            if not module.training or module.running_mean is None:
                continue
            assert module.running_var is not None
            assert module.num_batches_tracked is not None
            module.num_batches_tracked.add_(1)
            momentum = module.momentum
            if momentum is None:
                momentum = 1.0 / float(module.num_batches_tracked)
            module.running_mean.lerp_(mean, momentum)
            module.running_var.lerp_(variance, momentum)


class Stage:
    """A pre-map and a map. ``name`` is the path of the map's first module within the model."""

    def __init__(
        self,
        name: str,
        flatten: bool,
        pieces: list[Activation | nn.Dropout],
        modules: list[nn.Linear | nn.BatchNorm1d],
    ) -> None:
        self.name = name
        self.flatten = flatten
        self.pre = PreMap(pieces)
        only = modules[0]
        self.map: Map = (
            LinearMap(only) if len(modules) == 1 and isinstance(only, nn.Linear) else ChainMap(modules)
        )


def _leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for name, child in zip(
            module._modules, module, strict=True
        ):  # named_children() leaves repetitions out
            yield from _leaves(child, f"{path}.{name}" if path else name)
    else:
        yield path or type(module).__name__, module


def split(model: nn.Module) -> list[Stage]:
    """The stages of a chain of modules, the predictor last.

    Args:
        model: nested ``nn.Sequential`` of Flatten, Linear, BatchNorm1d, Dropout and pointwise activations.

    Raises:
        ValueError: a module that cannot be split, no Linear at all, something behind the last map, or a parameter
            that two stages share.
    """
    stages: list[Stage] = []
    flatten, name = False, ""
    pieces: list[Activation | nn.Dropout] = []
    maps: list[nn.Linear | nn.BatchNorm1d] = []
    for path, module in _leaves(model, ""):
        has_linear = any(isinstance(m, nn.Linear) for m in maps)
        joins = isinstance(module, nn.BatchNorm1d) or (isinstance(module, nn.Linear) and not has_linear)
        if maps and not joins:
            stages.append(Stage(name, flatten, pieces, maps))
            flatten, pieces, maps, name = False, [], [], ""
        if isinstance(module, (nn.Linear, nn.BatchNorm1d)):
            name = name or path
            maps.append(module)
            continue
        activation = activation_of(module)
        if activation is not None:
            pieces.append(activation)
        elif type(module) is nn.Dropout:
            pieces.append(module)
        elif isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim in (-1, 1):
            flatten = True
        else:
            what = repr(module) if "\n" not in repr(module) else type(module).__name__
            raise ValueError(f"model cannot be split at {path!r}: {what} is not one of {_known}.")
    if maps:
        stages.append(Stage(name, flatten, pieces, maps))
    elif any(piece != identity for piece in pieces):
        raise ValueError(
            f"model must end with its last Linear, whose output are the logits; remove {path!r} ({module}) "
            "behind it."
        )
    if not any(isinstance(m, nn.Linear) for m in model.modules()):
        raise ValueError(f"model must hold at least one Linear, but {type(model).__name__} holds none.")
    _check_chain(stages)
    return stages


def _check_chain(stages: list[Stage]) -> None:
    owners: dict[int, str] = {}
    for stage in stages:
        for parameter in stage.map.parameters:
            if id(parameter) in owners:
                raise ValueError(
                    f"stages {owners[id(parameter)]!r} and {stage.name!r} share a parameter; "
                    "give each stage a parameter of its own."
                )
            owners[id(parameter)] = stage.name
            if not parameter.is_contiguous():
                raise ValueError(f"a parameter of stage {stage.name!r} must be contiguous.")
    for below, stage in itertools.pairwise(stages):
        if below.map.n_out != stage.map.n_in:
            raise ValueError(
                f"stage {stage.name!r} takes {stage.map.n_in} features, but stage {below.name!r} below it gives "
                f"{below.map.n_out}."
            )
