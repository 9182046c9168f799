"""The part of a stage that has the parameters, and whose output is a code."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from altmin_ext.network.chain import Chain
from altmin_ext.network.pieces import AffinePiece, Piece

Affine: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d

_largest_kernel, _most_channels = 5, 32  # beyond, torch's own convolutions are as fast


@dataclasses.dataclass(frozen=True)
class Iterations:
    """How many gradient steps a minibatch takes, unless the user says otherwise: on a code, and on its weights."""

    codes: int = 1
    weights: int = 1


class Map(abc.ABC):
    """Where a stage's parameters are.

    A subclass says what the methods need to know of it; which kind of code it has, :func:`altmin_ext.codes.code_for`
    says.

    Args:
        parameters: all of them, frozen ones included.

    Attributes:
        parameters: the trainable parameters; a frozen one is left out.
        gradients: one buffer per entry of ``parameters``; made by :meth:`allocate`.
        matrix: whose norm bounds the Jacobian in the input, where that is a matrix.
        has_constant_jacobian: whether that Jacobian is the same for all samples, but for what couples a batch.
        affine: the Linear or convolution that the map is, where it is nothing else.
        calls_modules: whether to evaluate it is to run modules whose code may raise anything at any time.
        has_local_term: whether the stage has a term ||map(a) - c||^2 of its own in the objective.
        default_iterations: what its code and its weights want unless the user says otherwise.
        lacks: what its code cannot do, "l1_codes" or "released" (scaling). Where a user asks for that, the module is
            a stage like any other, differentiated within itself.
    """

    matrix: Tensor | None = None
    has_constant_jacobian = True
    affine: Affine | None = None
    calls_modules = True
    has_local_term: ClassVar[bool] = True
    default_iterations: ClassVar[Iterations] = Iterations()
    lacks: ClassVar[frozenset[str]] = frozenset()

    @property
    def convolution(self) -> nn.Conv2d | None:
        """The module, where it is a single convolution that the kernels compute: small, with stride 1."""
        return None

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.gradients: list[Tensor] = []

    def allocate(self, like: Tensor) -> None:
        """Make what steps write to, where the parameters are by now; ``like`` has their dtype and device."""
        self.gradients = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]

    def gradient_of(self, parameter: Tensor | None) -> Tensor | None:
        """The buffer for a parameter's gradient.

        Args:
            parameter: one of the map's, or None.

        Returns:
            The entry of ``gradients``; None if the parameter is not trained.
        """
        return next((g for p, g in zip(self.parameters, self.gradients, strict=True) if p is parameter), None)

    @abc.abstractmethod
    def output_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of a sample's output.

        Args:
            shape: of a sample's input.

        Raises:
            ValueError: the input does not fit; half a sentence, which the stage's name is put in front of.
        """

    def sample_jvp(self, v: Tensor) -> Tensor:
        """J v for the first samples of the minibatch, apart from what couples the samples of a batch.

        Args:
            v: shaped like the inputs of the first len(v) samples.

        Returns:
            A tensor shaped like their outputs.
        """
        raise NotImplementedError

    def sample_vjp(self, v: Tensor) -> Tensor:
        """J^T v likewise.

        Args:
            v: shaped like the outputs of the first len(v) samples.

        Returns:
            A tensor shaped like their inputs.
        """
        raise NotImplementedError

    def commit(self) -> None:  # noqa: B027  (only batch normalisation and its like have anything to commit)
        """Keep what the encode saw, such as the running statistics of batch normalisation."""


class EvaluatedMap(Map):
    """A map that codes evaluate by asking it.

    What a method returns is in ``out`` where that is given and saves a copy, and else a tensor of its own.

    Attributes:
        bias: (n,), which the caller adds to :meth:`forward`'s output; None: it is in there, or there is none.
        bias_gradient: where the sum of the residual over the batch belongs; None if nobody needs it.
        uses_buffers: whether results are put into ``out``.
        saves_output: whether the output must stay as it is until the map is evaluated again.
    """

    bias: Tensor | None = None
    bias_gradient: Tensor | None = None
    uses_buffers = False
    saves_output = False

    @abc.abstractmethod
    def encode(self, activation: Tensor, out: Tensor | None) -> Tensor:
        """The first evaluation of a step.

        Args:
            activation: (B, ...).
            out: (B, n), where the result goes if the map ``uses_buffers``.

        Returns:
            map(activation) without ``bias``, (B, ...).
        """

    @abc.abstractmethod
    def forward(self, activation: Tensor, out: Tensor | None) -> Tensor:
        """The same, later in the step."""

    @abc.abstractmethod
    def move(self, displacement: Tensor, unit: Tensor, out: Tensor | None) -> Tensor:
        """How the output changes with the activation, without cancellation.

        Args:
            displacement: (B, ...), in units of ``unit``.
            unit: 0-d.
            out: as in :meth:`encode`.

        Returns:
            (map(a0 + unit displacement) - map(a0)) / unit, a0 the activation of the encode.
        """

    @abc.abstractmethod
    def vjp(self, residual: Tensor, out: Tensor | None) -> Tensor:
        """What is pulled back to the activation.

        Args:
            residual: (B, ...), shaped like the output.
            out: as in :meth:`encode`, for the result.

        Returns:
            J^T residual, J the Jacobian in the activation where the map was evaluated last.
        """

    @abc.abstractmethod
    def weight_gradients(self, residual: Tensor, activation: Tensor) -> None:
        """gradients = J_w^T residual, J_w the Jacobian in the parameters where the map was evaluated last.

        The bias's own sum over the batch is left to the kernel that made the residual, see ``bias_gradient``.

        Args:
            residual: (B, ...), shaped like the output.
            activation: where the map was evaluated last.
        """


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


class LinearMap(EvaluatedMap):
    """A single Linear: every product is one matrix product into a buffer."""

    uses_buffers = True
    calls_modules = False

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.parameters())
        self.affine = linear
        self.weight, self.bias = linear.weight, linear.bias
        self.n_in, self.n_out = linear.in_features, linear.out_features
        self._weight_gradient: Tensor | None = None
        self._weight_transposed, self._residual_transposed = _Transposed(), _Transposed()

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
        return torch.mm(activation, self._weight_transposed(self.weight), out=out)

    def move(self, displacement: Tensor, unit: Tensor, out: Tensor | None) -> Tensor:
        return self.forward(displacement, out)

    def vjp(self, residual: Tensor, out: Tensor | None) -> Tensor:
        return torch.mm(residual, self.weight, out=out)

    def weight_gradients(self, residual: Tensor, activation: Tensor) -> None:
        if self._weight_gradient is not None:
            torch.mm(self._residual_transposed(residual), activation, out=self._weight_gradient)

    @property
    def matrix(self) -> Tensor:  # type: ignore[override]
        return self.weight

    def sample_jvp(self, v: Tensor) -> Tensor:
        return v @ self.weight.t()

    def sample_vjp(self, v: Tensor) -> Tensor:
        return v @ self.weight


class LocalMap(EvaluatedMap):
    """Any chain of modules, differentiated within the stage."""

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

    def vjp(self, residual: Tensor, out: Tensor | None) -> Tensor:
        return self._chain.vjp(residual).contiguous()

    def weight_gradients(self, residual: Tensor, activation: Tensor) -> None:
        for buffer, value in zip(self.gradients, self._chain.parameter_gradients(residual), strict=True):
            buffer.copy_(value)

    def sample_jvp(self, v: Tensor) -> Tensor:
        return self._chain.sample_jvp(v)

    def sample_vjp(self, v: Tensor) -> Tensor:
        return self._chain.sample_vjp(v)

    def commit(self) -> None:
        for piece in self._chain.pieces:
            piece.commit()


# Maps of single modules of exactly this type; to every other module, and to several, belongs a LocalMap.
known_maps: dict[type[nn.Module], Callable[[Any], EvaluatedMap]] = {nn.Linear: LinearMap}


def map_of(modules: Sequence[nn.Module], pieces: Sequence[Piece], like: Tensor) -> EvaluatedMap:
    """The map that modules make up, one after the other.

    Args:
        modules: at least one of them with parameters.
        pieces: the same modules.
        like: of the model's dtype and device.
    """
    make = known_maps.get(type(modules[0])) if len(modules) == 1 else None
    return LocalMap(pieces, like) if make is None else make(modules[0])
