"""Maps: the parts of stages that have the parameters, and whose outputs are the codes."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from altmin_ext.network.chain import Chain
from altmin_ext.network.known import known_as
from altmin_ext.network.pieces import AffinePiece, Piece
from altmin_ext.ops import unversioned as ops
from altmin_ext.parallel.ranks import Ranks

Affine: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d

_largest_kernel, _most_channels = 5, 32  # above these, torch's own convolutions are as fast


@dataclasses.dataclass(frozen=True)
class Iterations:
    """The default number of gradient steps per minibatch.

    Attributes:
        codes: steps of a code.
        weights: steps of the weights that fit it.
    """

    codes: int = 1
    weights: int = 1


class Map(abc.ABC):
    """The part of a stage that has the parameters.

    The kind of code that belongs to it is chosen by :func:`altmin_ext.codes.code_for`.

    Args:
        parameters: all parameters, including frozen ones.

    Attributes:
        parameters: the trainable parameters.
        gradients: a buffer for each entry of ``parameters``, made by :meth:`allocate`.
        matrix: a matrix whose norm bounds the Jacobian in the input; None if there is none.
        has_constant_jacobian: whether that Jacobian is the same for all samples, apart from the coupling of samples
            by batch normalisation.
        affine: the Linear or convolution, if the map is a single one; else None.
        calls_modules: whether an evaluation runs modules whose code may raise anything at any time.
        has_local_term: whether the objective has a term ||map(a) - c||^2 for this stage.
        regressors: what a Linear's residual is multiplied with for its gradients, (B, n) with a last column for the
            bias if that is trained; None for the inputs, with a 1 for the bias.
        default_iterations: steps of its code and its weights, unless the user chooses.
        lacks: what its code cannot do: "l1_codes", "released" (scaling). If a user asks for that, the module becomes
            an ordinary stage, which torch differentiates.
    """

    matrix: Tensor | None = None
    has_constant_jacobian = True
    affine: Affine | None = None
    calls_modules = True
    regressors: Tensor | None = None
    has_local_term: ClassVar[bool] = True
    default_iterations: ClassVar[Iterations] = Iterations()
    lacks: ClassVar[frozenset[str]] = frozenset()

    @property
    def convolution(self) -> nn.Conv2d | None:
        """The module, if it is a single convolution that the kernels compute, small and with stride 1. Else None."""
        return None

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.gradients: list[Tensor] = []

    def allocate(self, like: Tensor) -> None:
        """Make the gradient buffers; ``like`` has the dtype and device that the parameters have by now."""
        self.gradients = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]

    def gradient_of(self, parameter: Tensor | None) -> Tensor | None:
        """Find the buffer for a parameter's gradient.

        Args:
            parameter: one of the map's, or None.

        Returns:
            The entry of ``gradients``; None if the parameter is not trained.
        """
        return next((g for p, g in zip(self.parameters, self.gradients, strict=True) if p is parameter), None)

    @abc.abstractmethod
    def output_shape(self, shape: torch.Size) -> torch.Size:
        """Find the shape of a sample's output.

        Args:
            shape: of a sample's input.

        Returns:
            The shape of its output.

        Raises:
            ValueError: the input does not fit. The message is half a sentence; the caller puts the stage's name in
                front.
        """

    def sample_jvp(self, v: Tensor) -> Tensor:
        """Multiply by the Jacobian of single samples; the coupling of samples by batch normalisation is left out.

        Args:
            v: shaped like the inputs of the first len(v) samples of the minibatch.

        Returns:
            J v, shaped like their outputs.
        """
        raise NotImplementedError

    def sample_vjp(self, v: Tensor) -> Tensor:
        """Multiply by the transposed Jacobian of single samples, as in :meth:`sample_jvp`.

        Args:
            v: shaped like the outputs of the first len(v) samples of the minibatch.

        Returns:
            J^T v, shaped like their inputs.
        """
        raise NotImplementedError

    def commit(self) -> None:  # noqa: B027  (only batch normalisation and its like have anything to commit)
        """Update what depends on the encode, such as the running statistics of batch normalisation."""

    def share(self, ranks: Ranks) -> None:  # noqa: B027  (most maps take each sample by itself)
        """Evaluate the samples of one rank, see :meth:`Piece.share`.

        Args:
            ranks: that share the minibatches.

        Raises:
            ValueError: a module in it needs all samples at once.
        """


class EvaluatedMap(Map):
    """A map that is evaluated through the methods below, at the encode's activation a0 and near it.

    Results are written to ``out`` if the map ``uses_buffers`` and ``out`` is given; otherwise they are new tensors.

    Attributes:
        bias: (n,), which the caller must add to the output of :meth:`encode` and :meth:`forward`; None if they add it
            themselves, or there is none.
        bias_gradient: a buffer for the sum of the residual over the batch; None if it is not needed.
        uses_buffers: whether results are written to ``out``.
        saves_output: whether the output must not be overwritten until the next evaluation.
    """

    bias: Tensor | None = None
    bias_gradient: Tensor | None = None
    uses_buffers = False
    saves_output = False

    @abc.abstractmethod
    def encode(self, activation: Tensor, out: Tensor | None) -> Tensor:
        """Evaluate the map for the first time in a step.

        Args:
            activation: (B, ...), a0.
            out: (B, n), a buffer for the result; or None.

        Returns:
            map(a0) without ``bias``, (B, ...).
        """

    @abc.abstractmethod
    def forward(self, activation: Tensor, out: Tensor | None) -> Tensor:
        """Evaluate the map again, later in the step.

        Args:
            activation: (B, ...).
            out: (B, n), a buffer for the result; or None.

        Returns:
            map(activation) without ``bias``, (B, ...).
        """

    @abc.abstractmethod
    def move(self, displacement: Tensor, unit: Tensor, out: Tensor | None) -> Tensor:
        """The change of the output when the activation moves, without cancellation.

        Args:
            displacement: (B, ...), in units of ``unit``.
            unit: 0-d.
            out: as in :meth:`encode`.

        Returns:
            (map(a0 + unit displacement) - map(a0)) / unit.
        """

    def move_to(self, activation: Tensor, displacement: Tensor, unit: Tensor, out: Tensor | None) -> Tensor:
        """The same as :meth:`move`, for a map that may jump at the exact numbers of a0 + unit displacement.

        Args:
            activation: (B, ...), a0 + unit displacement.
            displacement, unit, out: as in :meth:`move`.

        Returns:
            (map(activation) - map(a0)) / unit.
        """
        return self.move(displacement, unit, out)

    @abc.abstractmethod
    def vjp(self, residual: Tensor, out: Tensor | None) -> Tensor:
        """Multiply by the transposed Jacobian in the activation.

        Args:
            residual: (B, ...), shaped like the output.
            out: a buffer shaped like the result; or None.

        Returns:
            J^T residual, with J where the map was evaluated last.
        """

    @abc.abstractmethod
    def weight_gradients(self, residual: Tensor, activation: Tensor) -> None:
        """Write J_w^T residual to ``gradients``, with J_w the Jacobian in the parameters at the last evaluation.

        If there is a ``bias_gradient``, the kernel that makes the residual has written it already.

        Args:
            residual: (B, ...), shaped like the output.
            activation: (B, ...), the activation of the last evaluation.
        """


class LinearMap(EvaluatedMap):
    """The map of a single Linear: every evaluation is one matrix product into a buffer.

    Args:
        linear: the module.

    Attributes:
        matrix: its weight, (n_out, n_in).
    """

    uses_buffers = True
    calls_modules = False

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.parameters())
        self.affine = linear
        self.weight, self.bias = linear.weight, linear.bias
        self.n_in, self.n_out = linear.in_features, linear.out_features
        self._weight_gradient: Tensor | None = None

    def allocate(self, like: Tensor) -> None:
        super().allocate(like)
        self._weight_gradient = self.gradient_of(self.weight)
        self.bias_gradient = self.gradient_of(self.bias)

    def output_shape(self, shape: torch.Size) -> torch.Size:
        if tuple(shape) != (self.n_in,):
            flatten = "; add a Flatten in front" if math.prod(shape) == self.n_in else ""
            raise ValueError(f"takes {self.n_in} features{flatten}")
        return torch.Size([self.n_out])

    def encode(self, activation: Tensor, out: Tensor | None) -> Tensor:
        return self.forward(activation, out)

    def forward(self, activation: Tensor, out: Tensor | None) -> Tensor:
        out = activation.new_empty(activation.shape[0], self.n_out) if out is None else out
        ops.matmul(activation.contiguous(), self.weight, out=out, transpose_b=True)
        return out

    def move(self, displacement: Tensor, unit: Tensor, out: Tensor | None) -> Tensor:
        return self.forward(displacement, out)

    def vjp(self, residual: Tensor, out: Tensor | None) -> Tensor:
        out = residual.new_empty(residual.shape[0], self.n_in) if out is None else out
        ops.matmul(residual.contiguous(), self.weight, out=out)
        return out

    def weight_gradients(self, residual: Tensor, activation: Tensor) -> None:
        r = residual.contiguous()
        if self.regressors is not None:
            activation = self.regressors[:, : self.n_in]
            if self.bias_gradient is not None:
                of_bias = self.regressors[:, self.n_in :].contiguous()
                ops.matmul(r, of_bias, out=self.bias_gradient.view(-1, 1), transpose_a=True)
        if self._weight_gradient is not None:
            ops.matmul(r, activation.contiguous(), out=self._weight_gradient, transpose_a=True)

    @property
    def matrix(self) -> Tensor:  # type: ignore[override]
        return self.weight

    def sample_jvp(self, v: Tensor) -> Tensor:
        return v @ self.weight.t()

    def sample_vjp(self, v: Tensor) -> Tensor:
        return v @ self.weight


class LocalMap(EvaluatedMap):
    """The map of any chain of modules, differentiated within the stage.

    Args:
        pieces: the modules as pieces, in the order of the forward pass.
        like: a tensor of the model's dtype and device.
    """

    def __init__(self, pieces: Sequence[Piece], like: Tensor) -> None:
        super().__init__(p for piece in pieces for p in piece.parameters)
        self._chain = Chain(pieces)
        self._like = like
        self.saves_output = self._chain.saves_output
        self.calls_modules = self._chain.calls_modules
        self.has_constant_jacobian = all(piece.has_constant_jacobian for piece in pieces)
        if len(pieces) == 1 and isinstance(pieces[0], AffinePiece):
            self.affine = pieces[0].module

    def allocate(self, like: Tensor) -> None:
        super().allocate(like)
        self._like = like
        buffers = iter(self.gradients)
        for piece in self._chain.pieces:
            piece.gradient_buffers = list(itertools.islice(buffers, len(piece.parameters)))

    @property
    def convolution(self) -> nn.Conv2d | None:
        module = self.affine
        if not isinstance(module, nn.Conv2d) or isinstance(module.padding, str) or module.groups != 1:
            return None
        plain = module.stride == module.dilation == (1, 1) and module.padding_mode == "zeros"
        narrow = all(
            p < k <= _largest_kernel for p, k in zip(module.padding, module.kernel_size, strict=True)
        )
        few = max(module.in_channels, module.out_channels) <= _most_channels
        return module if plain and narrow and few else None

    def output_shape(self, shape: torch.Size) -> torch.Size:
        return self._chain.output_shape(shape, self._like)

    def encode(self, activation: Tensor, out: Tensor | None) -> Tensor:
        return self._chain.begin(activation).contiguous()

    def forward(self, activation: Tensor, out: Tensor | None) -> Tensor:
        return self._chain.value(activation).contiguous()

    def move(self, displacement: Tensor, unit: Tensor, out: Tensor | None) -> Tensor:
        return self._chain.move(displacement, unit).contiguous()

    def move_to(self, activation: Tensor, displacement: Tensor, unit: Tensor, out: Tensor | None) -> Tensor:
        return self._chain.move(displacement, unit, activation).contiguous()

    def vjp(self, residual: Tensor, out: Tensor | None) -> Tensor:
        return self._chain.vjp(residual).contiguous()

    def weight_gradients(self, residual: Tensor, activation: Tensor) -> None:
        for buffer, value in zip(self.gradients, self._chain.parameter_gradients(residual), strict=True):
            if value is not buffer:
                buffer.copy_(value)

    def sample_jvp(self, v: Tensor) -> Tensor:
        return self._chain.sample_jvp(v)

    def sample_vjp(self, v: Tensor) -> Tensor:
        return self._chain.sample_vjp(v)

    def commit(self) -> None:
        self._chain.commit()

    def share(self, ranks: Ranks) -> None:
        self._chain.share(ranks)


#: The map of a single module of exactly this type. All other modules, and chains of several, get a LocalMap.
known_maps: dict[type[nn.Module], Callable[[Any], EvaluatedMap]] = {nn.Linear: LinearMap}


def map_of(modules: Sequence[nn.Module], pieces: Sequence[Piece], like: Tensor) -> EvaluatedMap:
    """Make the map of a chain of modules.

    Args:
        modules: in the order of the forward pass, at least one with parameters.
        pieces: the same modules as pieces.
        like: a tensor of the model's dtype and device.

    Returns:
        The map of ``known_maps`` for a single module of a known type; else a :class:`LocalMap`.
    """
    kind = known_as(modules[0]) if len(modules) == 1 else None
    make = known_maps.get(kind) if kind is not None else None
    return LocalMap(pieces, like) if make is None else make(modules[0])
