"""Pieces: modules with their value, their Jacobian, and the change of their value when their input moves.

A stage is differentiated within itself only. Its pre-map and its map are chains of pieces, one for each module. A
piece f is first evaluated at the input a0 of the encode, then at points near it:

- ``value(a)`` moves the piece to the point a and returns f(a);
- ``move(delta, unit)`` moves it to a0 + unit delta and returns (f(a0 + unit delta) - f(a0)) / unit, without
  cancellation if the module's structure allows that;
- ``vjp(g)`` returns J^T g at the current point, and ``parameter_gradients(g)`` the same for the parameters.

Within a step a piece is the same function at every evaluation: same dropout mask, same statistics of the batch.
"""

from __future__ import annotations

import abc
import contextlib
import inspect
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from altmin_ext.network.activations import activation_of
from altmin_ext.network.inputs import may_write_input
from altmin_ext.ops import Activation

affine = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
batch_normalisations = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_dropouts = nn.modules.dropout._DropoutNd


class Piece(abc.ABC):
    """One module of a stage, as a function f of its input.

    Attributes:
        parameters: the trainable parameters of the module.
        saves_output: whether a returned value must not be overwritten until the next evaluation.
        has_constant_jacobian: whether its Jacobian is the same for all samples, apart from the coupling of samples by
            batch normalisation.
        calls_module: whether it runs a module whose formula is not known, and whose code may raise anything.
    """

    parameters: Sequence[nn.Parameter] = ()
    saves_output = False
    has_constant_jacobian = False
    calls_module = False

    def __init__(self) -> None:
        self._start = self._point = torch.empty(0)

    def begin(self, a: Tensor) -> Tensor:
        """Evaluate the piece for the first time in a step: draw masks and take statistics.

        Args:
            a: (B, ...), a0.

        Returns:
            f(a0), where the piece stands from now on.
        """
        self._start = a
        return self.value(a)

    @abc.abstractmethod
    def value(self, a: Tensor) -> Tensor:
        """Evaluate the piece at another point, where it stands from now on.

        Args:
            a: (B, ...).

        Returns:
            The value f(a).
        """

    @abc.abstractmethod
    def move(self, delta: Tensor, unit: Tensor) -> Tensor:
        """Move the piece to a0 + unit delta, where it stands from now on.

        Args:
            delta: shaped like a0.
            unit: 0-d, positive.

        Returns:
            (f(a0 + unit delta) - f(a0)) / unit.
        """

    @abc.abstractmethod
    def vjp(self, gradient: Tensor) -> Tensor:
        """Multiply by the transposed Jacobian where the piece stands.

        Args:
            gradient: shaped like the value.

        Returns:
            J^T gradient, shaped like the input.
        """

    def parameter_gradients(self, gradient: Tensor) -> list[Tensor]:
        """The gradients in the parameters where the piece stands.

        Args:
            gradient: shaped like the value.

        Returns:
            J_w^T gradient for each parameter w of ``parameters``.
        """
        return []

    def commit(self) -> None:  # noqa: B027  (only what keeps running statistics has anything to commit)
        """Update what depends on the encode, such as running statistics, by what :meth:`begin` has seen."""

    @property
    def lipschitz(self) -> float | None:
        """A bound of the norm of J at all points; None if it has to be estimated by :meth:`sample_jvp`."""
        return None

    @abc.abstractmethod
    def sample_jvp(self, v: Tensor) -> Tensor:
        """Multiply by the Jacobian of single samples; the coupling of samples by batch normalisation is left out.

        Args:
            v: shaped like the input of the first len(v) samples.

        Returns:
            J v where the piece stands, shaped like their value.
        """

    @abc.abstractmethod
    def sample_vjp(self, v: Tensor) -> Tensor:
        """Multiply by the transposed Jacobian of single samples, as in :meth:`sample_jvp`.

        Args:
            v: shaped like the value of the first len(v) samples.

        Returns:
            J^T v where the piece stands, shaped like their input.
        """


class PointwisePiece(Piece):
    """An activation that the kernels know."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def value(self, a: Tensor) -> Tensor:
        self._point = a
        return self.activation.value(a)

    def move(self, delta: Tensor, unit: Tensor) -> Tensor:
        self._point = self._start + unit * delta
        return self.activation.difference(self._start, -delta, unit)

    def vjp(self, gradient: Tensor) -> Tensor:
        return self.sample_vjp(gradient)

    def sample_jvp(self, v: Tensor) -> Tensor:
        return self.activation.differential(self._point[: len(v)], v)

    def sample_vjp(self, v: Tensor) -> Tensor:
        return self.sample_jvp(v)

    @property
    def lipschitz(self) -> float:
        return self.activation.lipschitz


class DropoutPiece(Piece):
    """Dropout of single elements; like the module, it draws its mask from torch's generator, but once per step."""

    def __init__(self, module: nn.Dropout) -> None:
        super().__init__()
        self._module = module
        self.mask: Tensor | None = None

    @property
    def rate(self) -> float:
        """The rate in effect: 0 in eval mode."""
        return self._module.p if self._module.training else 0.0

    def draw(self, like: Tensor) -> Tensor | None:
        """Draw the mask of this step, 0 or 1 / (1 - p); None if nothing is dropped."""
        self.mask = F.dropout(torch.ones_like(like), self.rate, True) if self.rate > 0 else None
        return self.mask

    def begin(self, a: Tensor) -> Tensor:
        self.draw(a)
        return super().begin(a)

    def value(self, a: Tensor) -> Tensor:
        return self.sample_jvp(a)

    def move(self, delta: Tensor, unit: Tensor) -> Tensor:
        return self.sample_jvp(delta)

    def vjp(self, gradient: Tensor) -> Tensor:
        return self.sample_jvp(gradient)

    def sample_jvp(self, v: Tensor) -> Tensor:
        return v if self.mask is None else v * self.mask[: len(v)]

    def sample_vjp(self, v: Tensor) -> Tensor:
        return self.sample_jvp(v)

    @property
    def lipschitz(self) -> float:
        return 1 / (1 - self.rate)


class ReshapePiece(Piece):
    """A flatten: the same numbers in another shape."""

    def __init__(self, module: nn.Flatten) -> None:
        super().__init__()
        self._module = module

    def value(self, a: Tensor) -> Tensor:
        self._point = a
        return a.flatten(self._module.start_dim, self._module.end_dim)

    def move(self, delta: Tensor, unit: Tensor) -> Tensor:
        return self.sample_jvp(delta)

    def vjp(self, gradient: Tensor) -> Tensor:
        return self.sample_vjp(gradient)

    def sample_jvp(self, v: Tensor) -> Tensor:
        return v.flatten(self._module.start_dim, self._module.end_dim)

    def sample_vjp(self, v: Tensor) -> Tensor:
        return v.reshape(len(v), *self._point.shape[1:])

    @property
    def lipschitz(self) -> float:
        return 1.0


class MaxPoolPiece(Piece):
    """2-d max-pooling, through the places of the maxima."""

    def __init__(self, module: nn.MaxPool2d) -> None:
        super().__init__()
        self._module = module
        self._places = self._start_places = torch.empty(0)

    @property
    def window(self) -> int | None:
        """p if the windows are p x p without overlap or padding; else None."""
        m = self._module
        sizes = {
            *(v for pair in (m.kernel_size, m.stride) for v in (pair if isinstance(pair, tuple) else (pair,)))
        }
        plain = m.padding in (0, (0, 0)) and m.dilation in (1, (1, 1)) and not m.ceil_mode
        return sizes.pop() if plain and len(sizes) == 1 else None

    def begin(self, a: Tensor) -> Tensor:
        value = super().begin(a)
        self._start_places = self._places
        return value

    def value(self, a: Tensor) -> Tensor:
        m = self._module
        self._point = a
        value, self._places = F.max_pool2d(
            a, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, return_indices=True
        )
        return value

    def move(self, delta: Tensor, unit: Tensor) -> Tensor:
        self.value(self._start + unit * delta)
        start, before, now = self._start.flatten(2), self._start_places.flatten(2), self._places.flatten(2)
        # The old and the new maximum of a window: if their difference is small, it is exact.
        apart = (start.gather(2, now) - start.gather(2, before)) / unit
        return (apart + delta.flatten(2).gather(2, now)).view(self._places.shape)

    def vjp(self, gradient: Tensor) -> Tensor:
        return self.sample_vjp(gradient)

    def sample_jvp(self, v: Tensor) -> Tensor:
        places = self._places[: len(v)]
        return v.flatten(2).gather(2, places.flatten(2)).view(places.shape)

    def sample_vjp(self, v: Tensor) -> Tensor:
        spread = torch.zeros_like(self._point[: len(v)]).flatten(2)
        spread.scatter_add_(2, self._places[: len(v)].flatten(2), v.flatten(2))
        return spread.view(len(v), *self._point.shape[1:])

    @property
    def lipschitz(self) -> float:
        m = self._module
        sizes, strides = (v if isinstance(v, tuple) else (v, v) for v in (m.kernel_size, m.stride))
        # The number of windows that an element may be the maximum of.
        return math.sqrt(math.prod(math.ceil(k / s) for k, s in zip(sizes, strides, strict=True)))


class AffinePiece(Piece):
    """A Linear or a convolution, whose Jacobian is the same at all points."""

    has_constant_jacobian = True

    def __init__(self, module: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self.module = module
        self.parameters = [p for p in module.parameters() if p.requires_grad]

    def value(self, a: Tensor) -> Tensor:
        self._point = a
        return self.module(a)

    def move(self, delta: Tensor, unit: Tensor) -> Tensor:
        self._point = self._start + unit * delta
        return self.sample_jvp(delta)

    def sample_jvp(self, v: Tensor) -> Tensor:
        m = self.module
        if isinstance(m, nn.Linear):
            return F.linear(v, m.weight)
        return m._conv_forward(v, m.weight, None)

    def sample_vjp(self, v: Tensor) -> Tensor:
        return self._backward(v, self._point[: len(v)], parameters=False)[0]

    def vjp(self, gradient: Tensor) -> Tensor:
        return self._backward(gradient, self._point, parameters=False)[0]

    def parameter_gradients(self, gradient: Tensor) -> list[Tensor]:
        m = self.module
        _, *found = self._backward(gradient, self._point, parameters=True)
        named = zip((m.weight, m.bias), found, strict=True)
        return [value for parameter, value in named if parameter is not None and parameter.requires_grad]

    def _backward(self, gradient: Tensor, point: Tensor, parameters: bool) -> list[Tensor]:
        """Gradients in (input, weight, bias); those that are not wanted have no meaning."""
        m = self.module
        wanted = [not parameters, parameters and m.weight.requires_grad, parameters and m.bias is not None]
        if isinstance(m, nn.Linear):
            flat, features = gradient.reshape(-1, m.out_features), point.reshape(-1, m.in_features)
            return [
                gradient @ m.weight if wanted[0] else gradient,
                flat.t() @ features if wanted[1] else gradient,
                flat.sum(0) if wanted[2] else gradient,
            ]
        if m.padding_mode != "zeros" or isinstance(m.padding, str):
            return self._backward_by_autograd(gradient, point, wanted)
        sizes = [m.out_channels] if m.bias is not None else None
        dims = len(m.kernel_size)
        result: list[Tensor] = torch.ops.aten.convolution_backward(
            gradient,
            point,
            m.weight,
            sizes,
            m.stride,
            m.padding,
            m.dilation,
            False,
            [0] * dims,
            m.groups,
            wanted,
        )
        return result

    def _backward_by_autograd(self, gradient: Tensor, point: Tensor, wanted: list[bool]) -> list[Tensor]:
        m = self.module
        with torch.enable_grad():
            at = point.detach().requires_grad_()
            output = m(at)
        inputs = [t for t, want in zip((at, m.weight, m.bias), wanted, strict=True) if want and t is not None]
        inputs = [t for t in inputs if t.requires_grad]
        found = iter(torch.autograd.grad(output, inputs, gradient))
        return [
            next(found) if want and t is not None and t.requires_grad else gradient
            for t, want in zip((at, m.weight, m.bias), wanted, strict=True)
        ]


class NormalisationPiece(Piece):
    """Batch normalisation, in training mode by the statistics of the minibatch at the current point.

    The running statistics are updated once per step, by the statistics of the encode.
    """

    has_constant_jacobian = True

    def __init__(self, module: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) -> None:
        super().__init__()
        self._module = module
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        # Per channel, the mean and one over the standard deviation where the piece stands.
        self._mean = self._factor = self._start_mean = self._start_factor = torch.empty(0)
        self._count = 1

    def begin(self, a: Tensor) -> Tensor:
        value = super().begin(a)
        self._start_mean, self._start_factor = self._mean, self._factor
        return value

    @property
    def _uses_batch(self) -> bool:
        return self._module.training or self._module.running_mean is None

    def _along(self, statistic: Tensor, a: Tensor) -> Tensor:
        return statistic.view(1, -1, *[1] * (a.ndim - 2))

    def value(self, a: Tensor) -> Tensor:
        m = self._module
        self._point = a
        if self._uses_batch:
            self._count = a.numel() // a.shape[1]
            if self._count == 1:
                raise ValueError(
                    f"x must hold at least 2 samples for {type(m).__name__} in training mode, but holds 1."
                )
            value, self._mean, self._factor = torch.native_batch_norm(
                a, m.weight, m.bias, None, None, True, 0.0, m.eps
            )
            return value
        assert m.running_mean is not None
        assert m.running_var is not None
        self._mean, self._factor = m.running_mean, (m.running_var + m.eps).rsqrt()
        return F.batch_norm(a, m.running_mean, m.running_var, m.weight, m.bias, False, 0.0, m.eps)

    def move(self, delta: Tensor, unit: Tensor) -> Tensor:
        start, gain = self._start, self._module.weight
        before = self._start_factor
        self._point = start + unit * delta
        if not self._uses_batch:
            return delta * self._along(before if gain is None else before * gain, delta)
        over = [0, *range(2, start.ndim)]
        variance_of_delta, mean_of_delta = torch.var_mean(delta, over, correction=0)
        centred = start - self._along(self._start_mean, start)
        centred_delta = delta - self._along(mean_of_delta, start)
        # The change of the variance over unit: twice the covariance with delta, plus unit times delta's variance.
        change = 2 * (centred * centred_delta).mean(over) + unit * variance_of_delta
        after = (before**-2 + unit * change).rsqrt()
        self._mean, self._factor = self._start_mean + unit * mean_of_delta, after
        change_of_factor = -change * (before * after) ** 2 / (before + after)
        moved = centred_delta * self._along(after, start) + centred * self._along(change_of_factor, start)
        return moved if gain is None else moved * self._along(gain, start)

    def _backward(self, gradient: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
        m = self._module
        statistics: tuple[Tensor | None, ...] = (None, None, self._mean, self._factor)
        if not self._uses_batch:
            statistics = (m.running_mean, m.running_var, None, None)
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
            gradient, self._point, m.weight, *statistics, self._uses_batch, m.eps, wanted
        )
        return found

    def vjp(self, gradient: Tensor) -> Tensor:
        return self._backward(gradient, [True, False, False])[0]

    def parameter_gradients(self, gradient: Tensor) -> list[Tensor]:
        if not self.parameters:
            return []
        m = self._module
        _, *found = self._backward(gradient, [False, True, True])
        return [g for p, g in zip((m.weight, m.bias), found, strict=True) if p.requires_grad]

    def commit(self) -> None:
        m = self._module
        if not m.training or m.running_mean is None:
            return
        assert m.running_var is not None
        assert m.num_batches_tracked is not None
        m.num_batches_tracked.add_(1)
        momentum = 1.0 / float(m.num_batches_tracked) if m.momentum is None else m.momentum
        variance = self._start_factor**-2 - m.eps
        m.running_mean.lerp_(self._start_mean, momentum)
        m.running_var.lerp_(variance * (self._count / (self._count - 1)), momentum)

    def sample_jvp(self, v: Tensor) -> Tensor:
        gain = self._module.weight
        return v * self._along(self._factor if gain is None else self._factor * gain, v)

    def sample_vjp(self, v: Tensor) -> Tensor:
        return self.sample_jvp(v)


# Held while torch's generator or backends are changed: all threads share them, and several threads may fit blocks.
_global_state = threading.Lock()


@contextlib.contextmanager
def _without_fused_layers() -> Iterator[None]:
    """Run recurrent layers step by step, by operations with derivatives of every order."""
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.mkldnn)
    enabled = [backend.enabled for backend in backends]
    try:
        for backend in backends:
            backend.enabled = False
        yield
    finally:
        for backend, was in zip(backends, enabled, strict=True):
            backend.enabled = was


def _drops_out(module: nn.Module) -> bool:
    """Whether a module itself, apart from its children, draws masks in training mode."""
    rate = getattr(module, "dropout", 0.0)  # of recurrent layers and of attention
    return isinstance(module, _dropouts) or (isinstance(rate, float) and rate > 0)


class LocalPiece(Piece):
    """Any other module with one input and one output, differentiated by torch within the stage.

    Buffers such as running statistics are updated once per step, by the encode. A module with dropout draws the same
    masks at every evaluation of a step. Recurrent layers run without cuDNN: it has no second derivative for them, no
    first one in evaluation mode, and its masks do not follow torch's generator. They run without oneDNN if a second
    derivative is needed.
    """

    saves_output = True
    calls_module = True

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = module
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self._drops = any(_drops_out(m) for m in module.modules())
        self._recurs = any(isinstance(m, nn.RNNBase) for m in module.modules())
        self._in_place = may_write_input(module)
        self._buffers: dict[str, Tensor] = {}
        self._start_buffers = self._buffers
        self._random_state: tuple[Tensor, Tensor | None] | None = None
        self._input = self._output = self._start_value = torch.empty(0)

    def _call(self, a: Tensor) -> Tensor:
        """The module's output, with copies in place of its buffers."""
        self._buffers = {name: buffer.clone() for name, buffer in self._module.named_buffers()}
        output: Tensor = functional_call(self._module, self._buffers, (a.clone() if self._in_place else a,))
        return output

    def _evaluate(self, a: Tensor, fused: bool = True) -> Tensor:
        """The module's output with the masks of this step; ``fused`` allows layers that lack second derivatives."""
        in_steps = self._recurs and (a.is_cuda or not fused)
        if self._random_state is None and not in_steps:
            return self._call(a)
        with _global_state, contextlib.ExitStack() as stack:
            if in_steps:
                stack.enter_context(_without_fused_layers())
            if self._random_state is not None:
                cpu, gpu = self._random_state
                stack.enter_context(torch.random.fork_rng([a.device] if gpu is not None else []))
                torch.set_rng_state(cpu)
                if gpu is not None:
                    torch.cuda.set_rng_state(gpu, a.device)
            return self._call(a)

    def _differentiable(self, a: Tensor) -> Tensor:
        """The same, with derivatives of every order."""
        return self._evaluate(a, fused=False)

    def begin(self, a: Tensor) -> Tensor:
        state = None
        if self._drops and self._module.training:
            state = (torch.get_rng_state(), torch.cuda.get_rng_state(a.device) if a.is_cuda else None)
        self._start, self._random_state = a, None
        self._start_value = self.value(a)
        self._start_buffers, self._random_state = self._buffers, state
        return self._start_value

    def value(self, a: Tensor) -> Tensor:
        with torch.enable_grad():
            self._input = a.detach().requires_grad_()
            self._output = self._evaluate(self._input)
        return self._output.detach()

    def move(self, delta: Tensor, unit: Tensor) -> Tensor:
        value = self.value(self._start + unit * delta)
        if delta.dtype == torch.float64:
            return (value - self._start_value) / unit
        # The difference of values would be mostly rounding. The derivative half-way has an error of order unit^2.
        return self._jvp_at(self._start + unit * delta / 2, delta)

    def _jvp_at(self, a: Tensor, v: Tensor) -> Tensor:
        try:
            product: Tensor = jvp(self._differentiable, (a,), (v,))[1]
        except (NotImplementedError, RuntimeError):
            # No forward mode. g -> J^T g is linear, and J v is the product of v with its transpose.
            value, transposed, *_ = vjp(self._differentiable, a)
            linear = vjp(lambda g: transposed(g)[0], torch.zeros_like(value))
            product = linear[1](v)[0]
        return product.detach()

    def vjp(self, gradient: Tensor) -> Tensor:
        return torch.autograd.grad(self._output, self._input, gradient, retain_graph=True)[0]

    def parameter_gradients(self, gradient: Tensor) -> list[Tensor]:
        if not self.parameters:
            return []
        found = torch.autograd.grad(
            self._output,
            self.parameters,
            gradient,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return list(found)

    def commit(self) -> None:
        if self._module.training:
            for name, buffer in self._module.named_buffers():
                buffer.copy_(self._start_buffers[name])

    def sample_jvp(self, v: Tensor) -> Tensor:
        return self._jvp_at(self._input.detach()[: len(v)], v)

    def sample_vjp(self, v: Tensor) -> Tensor:
        product: Tensor = vjp(self._differentiable, self._input.detach()[: len(v)])[1](v)[0]
        return product.detach()


# The piece of a module of exactly this type. All other modules get a LocalPiece.
known_pieces: dict[type[nn.Module], Callable[[Any], Piece]] = {
    nn.Dropout: DropoutPiece,
    nn.MaxPool2d: MaxPoolPiece,
    **dict.fromkeys(affine, AffinePiece),
    **dict.fromkeys(batch_normalisations, NormalisationPiece),
}


def piece_of(path: str, module: nn.Module) -> Piece:
    """Make the piece of a module.

    Args:
        path: of the module in the model, for error messages.
        module: a module that takes one tensor and returns one.

    Returns:
        The piece.

    Raises:
        ValueError: the module takes or returns something else.
    """
    activation = activation_of(module)
    if activation is not None:
        return PointwisePiece(activation)
    if type(module) is nn.Flatten and module.start_dim == 1:
        return ReshapePiece(module)
    make = known_pieces.get(type(module))
    if make is not None:
        return make(module)
    _check_inputs(path, module)
    return LocalPiece(module)


def _check_inputs(path: str, module: nn.Module) -> None:
    """Raise unless a module takes one tensor and, as far as can be known, returns one."""
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention, nn.Transformer)) and (
        type(module).forward.__module__.startswith("torch.")
    ):
        name = type(module).__name__
        ours = {"RNN": "Elman", "GRU": "GRU", "LSTM": "LSTM"}.get(name)
        remedy = "wrap it in a module that takes and returns one tensor"
        if ours is not None:
            remedy = f"use altmin_ext.nn.{ours}, which returns its output sequence alone, or {remedy}"
        raise ValueError(
            f"model cannot be split at {path!r}: {name} has more than one output or input; {remedy}."
        )
    if isinstance(module, nn.Embedding):
        raise ValueError(
            f"model cannot be split at {path!r}: Embedding takes integers, and codes are real; embed x beforehand."
        )
    parameters = inspect.signature(module.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind in positional]
    if len(required) != 1:
        takes = ", ".join(required) or "nothing"
        raise ValueError(
            f"model cannot be split at {path!r}: {type(module).__name__} takes {takes}, but a part of a chain takes "
            "one tensor and returns one; wrap it in a module that does."
        )
