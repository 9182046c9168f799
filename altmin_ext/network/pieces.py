"""Pieces: modules with their value, their Jacobian, and the change of their value when their input moves.

A stage is differentiated within itself only. Its pre-map and its map are chains of pieces, one for each module. A
piece f is first evaluated at the input a0 of the encode, then at points near it:

- ``value(a)`` moves the piece to the point a and returns f(a);
- ``move(delta, unit)`` moves it to a0 + unit delta and returns (f(a0 + unit delta) - f(a0)) / unit, without
  cancellation if the module's structure allows that; ``here`` is f(a0 + unit delta) where its numbers are exact;
- ``vjp(g)`` returns J^T g at the current point, and ``parameter_gradients(g)`` the same for the parameters.

Within a step a piece is the same function at every evaluation: same dropout mask, same statistics of the batch.
"""

from __future__ import annotations

import abc
import contextlib
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jvp

from altmin_ext._check import first_sentence, named_type
from altmin_ext._generators import global_state, torch_kept, torch_state
from altmin_ext.network.activations import activation_of
from altmin_ext.network.formulas import Formula, formula_of
from altmin_ext.network.inputs import may_write_input
from altmin_ext.network.known import described, known_as, uncompiled
from altmin_ext.network.module_state import Changes, ModuleState
from altmin_ext.nn import Sign
from altmin_ext.ops import Activation
from altmin_ext.ops import unversioned as ops
from altmin_ext.parallel.ranks import Ranks

affine = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
batch_normalisations = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Piece(abc.ABC):
    """One module of a stage, as a function f of its input.

    Attributes:
        parameters: the trainable parameters of the module.
        gradient_buffers: a buffer for each of them, which :meth:`parameter_gradients` may write to; or none.
        saves_output: whether a returned value must not be overwritten until the next evaluation.
        has_constant_jacobian: whether its Jacobian is the same for all samples, apart from the coupling of samples by
            batch normalisation.
        calls_module: whether it runs a module whose formula is not known, and whose code may raise anything.
    """

    parameters: Sequence[nn.Parameter] = ()
    gradient_buffers: Sequence[Tensor] = ()
    saves_output = False
    has_constant_jacobian = False
    calls_module = False

    def __init__(self) -> None:
        self._start = self._point = torch.empty(0)
        self._here: Tensor | None = None
        self._buffers: dict[str, Tensor] = {}

    def _buffer(
        self, name: str, like: Tensor, shape: Sequence[int] | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Memory of the piece's own, like a tensor; fresh memory can cost more than what is written to it."""
        shape, dtype = shape or like.shape, dtype or like.dtype
        kept = self._buffers.get(name)
        fits = kept is not None and kept.shape[1:] == torch.Size(shape[1:]) and len(kept) >= shape[0]
        if kept is None or not fits or kept.dtype != dtype or kept.device != like.device:
            kept = self._buffers[name] = torch.empty(shape, dtype=dtype, device=like.device)
        return kept[: shape[0]]

    def _moved(self, delta: Tensor, unit: Tensor) -> Tensor:
        """a0 + unit delta, in the piece's own memory."""
        return torch.addcmul(self._start, delta, unit.to(delta), out=self._buffer("point", delta))

    @property
    def here(self) -> Tensor | None:
        """f(a0 + unit delta) after :meth:`move`, if some of its numbers are exact; else None.

        Such as the 0 of a relu or the 1 of a sign, at which the next piece may jump: added up from their change, they
        would be off by rounding, and that would decide.
        """
        return self._here

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
    def move(self, delta: Tensor, unit: Tensor, point: Tensor | None = None) -> Tensor:
        """Move the piece to a0 + unit delta, where it stands from now on.

        Args:
            delta: shaped like a0.
            unit: 0-d, positive.
            point: a0 + unit delta, if some of its numbers are exact; None: the piece adds it up.

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
            J_w^T gradient for each parameter w of ``parameters``: the entries of ``gradients``, or new tensors.
        """
        return []

    def gradients(self, gradient: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Both of :meth:`vjp` and :meth:`parameter_gradients`, with what they share computed once.

        Args:
            gradient: shaped like the value.

        Returns:
            J^T gradient, and J_w^T gradient for each parameter w of ``parameters``.
        """
        return self.vjp(gradient), self.parameter_gradients(gradient)

    def commit(self) -> None:  # noqa: B027  (only what keeps running statistics has anything to commit)
        """Update what depends on the encode, such as running statistics, by what :meth:`begin` has seen."""

    def share(self, ranks: Ranks) -> None:  # noqa: B027  (most pieces take each sample by itself)
        """From now on, evaluate the samples of one rank, of minibatches that several share.

        Args:
            ranks: that share them.

        Raises:
            ValueError: the piece needs all samples at once, and knows no sums that would replace them.
        """

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
        self._is_exact = False

    def begin(self, a: Tensor) -> Tensor:
        self._start = a.contiguous()
        return self._evaluate(self._start, self._buffer("value", a))

    def value(self, a: Tensor) -> Tensor:
        return self._evaluate(a.contiguous(), torch.empty_like(a, memory_format=torch.contiguous_format))

    def _evaluate(self, a: Tensor, out: Tensor) -> Tensor:
        self._point = a
        rows = len(a), math.prod(a.shape[1:])
        ops.activate(a.view(rows), activation=out.view(rows), sigma=self.activation)
        return out

    def move(self, delta: Tensor, unit: Tensor, point: Tensor | None = None) -> Tensor:
        self._is_exact = point is not None or self.activation.jumps or self.activation.name == "relu"
        if point is not None and self.activation.jumps:
            return self.value(point).sub_(self._buffer("value", self._start)).div_(unit)
        self._point, difference = self._buffer("point", self._start), self._buffer("moved", self._start)
        ops.activation_difference(
            self._start,
            delta.contiguous(),
            unit=unit.double(),
            point=self._point,
            difference=difference,
            sigma=self.activation,
        )
        if point is not None:
            self._point = point.contiguous()
        return difference

    @property
    def here(self) -> Tensor | None:
        return self.value(self._point) if self._is_exact else None

    def vjp(self, gradient: Tensor) -> Tensor:
        return self.sample_vjp(gradient)

    def sample_jvp(self, v: Tensor) -> Tensor:
        product = torch.empty_like(v, memory_format=torch.contiguous_format)
        ops.activation_vjp(self._point[: len(v)], v.contiguous(), out=product, sigma=self.activation)
        return product

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
        self._ranks: Ranks | None = None
        self.mask: Tensor | None = None

    def share(self, ranks: Ranks) -> None:
        self._ranks = ranks

    @property
    def rate(self) -> float:
        """The rate in effect: 0 in eval mode."""
        return self._module.p if self._module.training else 0.0

    def draw(self, like: Tensor) -> Tensor | None:
        """Draw the mask of this step, 0 or 1 / (1 - p); None if nothing is dropped."""
        self.mask = None
        if self.rate > 0:
            ranks = self._ranks
            if ranks is None or len(like) != ranks.sizes[ranks.rank]:  # it would be a trial run
                self.mask = F.dropout(torch.ones_like(like), self.rate, True)
            else:
                # All ranks draw the mask of the whole minibatch, so that it is that of one process.
                whole = F.dropout(like.new_ones(ranks.samples, *like.shape[1:]), self.rate, True)
                self.mask = whole[ranks.own].contiguous()
        return self.mask

    def begin(self, a: Tensor) -> Tensor:
        self.draw(a)
        return super().begin(a)

    def value(self, a: Tensor) -> Tensor:
        return self.sample_jvp(a)

    def move(self, delta: Tensor, unit: Tensor, point: Tensor | None = None) -> Tensor:
        self._here = None if point is None else self.sample_jvp(point)
        return self.sample_jvp(delta)

    def vjp(self, gradient: Tensor) -> Tensor:
        return self.sample_jvp(gradient)

    def sample_jvp(self, v: Tensor) -> Tensor:
        return v if self.mask is None else v * self.mask[: len(v)]

    def sample_vjp(self, v: Tensor) -> Tensor:
        return self.sample_jvp(v)

    @property
    def lipschitz(self) -> float:
        return 1 / (1 - self.rate) if self.rate < 1 else 0.0  # everything is dropped


class ReshapePiece(Piece):
    """A flatten: the same numbers in another shape."""

    def __init__(self, module: nn.Flatten) -> None:
        super().__init__()
        self._module = module

    def value(self, a: Tensor) -> Tensor:
        self._point = a
        return a.flatten(self._module.start_dim, self._module.end_dim)

    def move(self, delta: Tensor, unit: Tensor, point: Tensor | None = None) -> Tensor:
        self._here = None if point is None else self.sample_jvp(point)
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
        self._places = self._start_value = torch.empty(0)
        self._corners: tuple[tuple[torch.Size, int], Tensor] = (torch.Size(), 0), torch.empty(0)

    @property
    def window(self) -> int | None:
        """p if the windows are p x p without overlap or padding; else None."""
        m = self._module
        sizes = {*_pair(m.kernel_size), *_pair(m.stride)}
        plain = m.padding in (0, (0, 0)) and m.dilation in (1, (1, 1)) and not m.ceil_mode
        return sizes.pop() if plain and len(sizes) == 1 else None

    def begin(self, a: Tensor) -> Tensor:
        self._start = a
        self._start_value = self._evaluate(a, "value")
        return self._start_value

    def value(self, a: Tensor) -> Tensor:
        return self._evaluate(a)

    def _evaluate(self, a: Tensor, name: str = "") -> Tensor:
        """The value, in own memory of that name, if there is one and windows do not overlap."""
        m, size = self._module, self.window
        self._point = a
        if size is None or a.is_cuda or min(a.shape[-2:]) < size:
            value, self._places = F.max_pool2d(
                a, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, return_indices=True
            )
            return value
        shape = (*a.shape[:-2], *(n // size for n in a.shape[-2:]))
        value = self._buffer(name, a, shape) if name else a.new_empty(shape)
        self._places = self._buffer("places", a, shape, torch.int64)
        scratch = [self._buffer(f"scratch {i}", a, shape) for i in range(3)]
        _largest_of_windows(a, size, self._corners_for(a, shape, size), value, self._places, scratch)
        return value

    def _corners_for(self, a: Tensor, shape: Sequence[int], size: int) -> Tensor:
        """The places of the windows' corners in images like these, for each result of that shape."""
        images, corners = self._corners
        if images != (a.shape[1:], size) or len(corners) < shape[0]:
            corners = _corners_of_windows(a, size).expand(*shape).contiguous()
            self._corners = (a.shape[1:], size), corners
        return corners[: shape[0]]

    def move(self, delta: Tensor, unit: Tensor, point: Tensor | None = None) -> Tensor:
        value = self._evaluate(self._moved(delta, unit) if point is None else point, "moved value")
        self._here = None if point is None else value
        # The last two dimensions are the image, whether or not there are channels in front.
        start, now = self._start.flatten(-2), self._places.flatten(-2)
        # The old and the new maximum of a window: if their difference is small, it is exact.
        apart = start.gather(-1, now).sub_(self._start_value.flatten(-2)).div_(unit)
        return apart.add_(delta.flatten(-2).gather(-1, now)).view(self._places.shape)

    def vjp(self, gradient: Tensor) -> Tensor:
        return self.sample_vjp(gradient)

    def sample_jvp(self, v: Tensor) -> Tensor:
        places = self._places[: len(v)]
        return v.flatten(-2).gather(-1, places.flatten(-2)).view(places.shape)

    def sample_vjp(self, v: Tensor) -> Tensor:
        spread = torch.zeros_like(self._point[: len(v)]).flatten(-2)
        spread.scatter_add_(-1, self._places[: len(v)].flatten(-2), v.flatten(-2))
        return spread.view(len(v), *self._point.shape[1:])

    @property
    def lipschitz(self) -> float:
        m = self._module
        sizes, strides = _pair(m.kernel_size), _pair(m.stride)
        # The number of windows that an element may be the maximum of.
        return math.sqrt(math.prod(math.ceil(k / s) for k, s in zip(sizes, strides, strict=True)))


class AveragePoolPiece(Piece):
    """2-d average-pooling."""

    has_constant_jacobian = True

    def __init__(self, module: nn.AvgPool2d) -> None:
        super().__init__()
        self._module = module

    def value(self, a: Tensor) -> Tensor:
        self._point = a
        return self.sample_jvp(a)

    def move(self, delta: Tensor, unit: Tensor, point: Tensor | None = None) -> Tensor:
        return self.sample_jvp(delta)

    def vjp(self, gradient: Tensor) -> Tensor:
        return self.sample_vjp(gradient)

    def sample_jvp(self, v: Tensor) -> Tensor:
        product: Tensor = self._module(v)
        return product

    def sample_vjp(self, v: Tensor) -> Tensor:
        m = self._module
        sizes, strides = _pair(m.kernel_size), _pair(m.stride)
        product: Tensor = torch.ops.aten.avg_pool2d_backward(
            v.contiguous(),
            self._point[: len(v)],
            sizes,
            strides,
            _pair(m.padding),
            m.ceil_mode,
            m.count_include_pad,
            m.divisor_override,
        )
        return product

    @property
    def lipschitz(self) -> float:
        m = self._module
        # By the largest sums of a row and of a column, whose entries are 1 / divisor. A window at the edge may count
        # fewer numbers than another, but at least one.
        sizes, strides, paddings = _pair(m.kernel_size), _pair(m.stride), _pair(m.padding)
        numbers = math.prod(sizes)
        overlaps = math.prod(math.ceil(k / s) for k, s in zip(sizes, strides, strict=True))
        if m.divisor_override:
            return math.sqrt(numbers * overlaps) / abs(m.divisor_override)
        whole = not m.ceil_mode and (m.count_include_pad or not any(paddings))
        return math.sqrt(overlaps / numbers) if whole else math.sqrt(overlaps)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _corners_of_windows(a: Tensor, size: int) -> Tensor:
    """The places of the upper left corners of windows in the flattened image, (H // size, W // size)."""
    (rows, columns), width = (n // size for n in a.shape[-2:]), a.shape[-1]
    return torch.arange(rows)[:, None] * (size * width) + torch.arange(columns) * size


def _largest_of_windows(
    a: Tensor, size: int, corners: Tensor, largest: Tensor, places: Tensor, scratch: Sequence[Tensor]
) -> None:
    """Max-pooling over windows without overlap; on CPUs many times faster than ``F.max_pool2d``.

    Args:
        a: (..., H, W).
        size: the side of the windows.
        corners: int64, like ``largest``: the places of the windows' upper left corners.
        largest: (..., H // size, W // size), out: the maxima.
        places: int64, like ``largest``, out: their places in the flattened image. Of equal numbers the first one is
            taken, as torch does.
        scratch: three tensors like ``largest``, whose contents are lost.
    """
    (rows, columns), width = largest.shape[-2:], a.shape[-1]
    a = a[..., : rows * size, : columns * size]
    offsets, other, larger = scratch
    largest.copy_(a[..., ::size, ::size])
    # From the corner of its window to the last number that is larger than all before it, which is the maximum.
    offsets.zero_()
    for i, j in itertools.product(range(size), repeat=2):
        if i or j:
            other.copy_(a[..., i::size, j::size])
            torch.gt(other, largest, out=larger)
            torch.maximum(offsets, larger.mul_(i * width + j), out=offsets)
            torch.maximum(largest, other, out=largest)
    places.copy_(offsets).add_(corners)


class AffinePiece(Piece):
    """A convolution, or a :class:`LinearPiece`: its Jacobian is the same at all points."""

    has_constant_jacobian = True
    module: Any

    def __init__(self, module: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self.module = module
        self.parameters = [p for p in module.parameters() if p.requires_grad]

    def value(self, a: Tensor) -> Tensor:
        self._point = a
        return self.module(a)

    def move(self, delta: Tensor, unit: Tensor, point: Tensor | None = None) -> Tensor:
        self._point = self._moved(delta, unit)
        return self.sample_jvp(delta)

    def sample_jvp(self, v: Tensor) -> Tensor:
        product: Tensor = self.module._conv_forward(v, self.module.weight, None)
        return product

    def sample_vjp(self, v: Tensor) -> Tensor:
        # At a point of as many samples: where kernels do the piece's work, its own is that of a trial run.
        return self._backward(v, v.new_zeros(len(v), *self._point.shape[1:]), parameters=False)[0]

    def vjp(self, gradient: Tensor) -> Tensor:
        return self._backward(gradient, self._point, parameters=False)[0]

    def parameter_gradients(self, gradient: Tensor) -> list[Tensor]:
        return self._of_parameters(self._backward(gradient, self._point, of_input=False))

    def gradients(self, gradient: Tensor) -> tuple[Tensor, list[Tensor]]:
        found = self._backward(gradient, self._point)
        return found[0], self._of_parameters(found)

    def _of_parameters(self, found: Sequence[Tensor]) -> list[Tensor]:
        named = zip((self.module.weight, self.module.bias), found[1:], strict=True)
        return [value for parameter, value in named if parameter is not None and parameter.requires_grad]

    def _backward(
        self, gradient: Tensor, point: Tensor, of_input: bool = True, parameters: bool = True
    ) -> list[Tensor]:
        """Gradients in (input, weight, bias); those that are not wanted have no meaning."""
        m = self.module
        wanted = [of_input, parameters and m.weight.requires_grad, parameters and m.bias is not None]
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


class ConvolutionPiece(AffinePiece):
    """A 2-d convolution, on a CPU by products of its weight and the patches of the images where those are faster.

    Torch convolves single images by a slow path. Where patches are so small that they take no more memory than the
    value, torch is not faster either, and fresh memory for a large value can cost more than the convolution; that of
    a product is kept.
    """

    module: nn.Conv2d

    def begin(self, a: Tensor) -> Tensor:
        self._start = a
        if not self._multiplies(a):
            return self.value(a)
        self._point = a
        return self._product(a, self.module.bias, "value")

    def _multiplies(self, a: Tensor) -> bool:
        m = self.module
        plain = m.groups == 1 and m.padding_mode == "zeros" and not isinstance(m.padding, str)
        if not plain or a.is_cuda or a.ndim != 4 or a.shape[1] != m.in_channels:
            return False
        extents = self._extents(a)
        if min(extents) < 1:
            return False
        size = len(a) * m.out_channels * math.prod(extents) * a.element_size()
        return len(a) == 1 or (size >= _large and m.weight[0].numel() <= m.out_channels)

    def _extents(self, a: Tensor) -> list[int]:
        """Height and width of the value."""
        m = self.module
        assert not isinstance(m.padding, str)
        sides = zip(a.shape[2:], m.kernel_size, m.stride, m.padding, m.dilation, strict=True)
        return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides]

    def _padded(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Zeros that a padded image fits into: the part for the image, and the patches, (B, n, h, w, H, W)."""
        m = self.module
        assert not isinstance(m.padding, str)
        (height, width), (above, left) = a.shape[2:], m.padding
        padded = self._buffer("padded", a, (*a.shape[:2], height + 2 * above, width + 2 * left)).zero_()
        sample, channel, row, column = padded.stride()
        (row_step, column_step), (row_gap, column_gap) = m.stride, m.dilation
        patches = padded.as_strided(
            (*a.shape[:2], *m.kernel_size, *self._extents(a)),
            (sample, channel, row_gap * row, column_gap * column, row_step * row, column_step * column),
        )
        return padded[:, :, above : above + height, left : left + width], patches

    def _product(self, a: Tensor, bias: Tensor | None, name: str) -> Tensor:
        """The convolution of images, in own memory of that name."""
        image, patches = self._padded(a)
        image.copy_(a)
        matrix, extents = self._matrix, patches.shape[4:]
        size, places = matrix.shape[1], math.prod(extents)
        if bias is not None:  # as a weight of ones
            matrix = torch.cat([matrix, bias.detach()[:, None]], 1)
        columns = self._buffer(f"columns of {name}", a, (len(a), matrix.shape[1], places))
        columns[:, :size].view(patches.shape).copy_(patches)
        columns[:, size:].fill_(1)
        product = self._buffer(name, a, (len(a), len(matrix), *extents))
        for own, out in zip(columns, product, strict=True):
            ops.matmul(matrix, own, out=out.flatten(1))
        return product

    @property
    def _matrix(self) -> Tensor:
        """The weight: (channels of the value, entries of a patch)."""
        return self.module.weight.detach().flatten(1).contiguous()

    def sample_jvp(self, v: Tensor) -> Tensor:
        return self._product(v, None, "product") if self._multiplies(v) else super().sample_jvp(v)

    def sample_vjp(self, v: Tensor) -> Tensor:
        like = v.new_empty(len(v), *self._point.shape[1:])
        if len(v) != 1 or not self._multiplies(like):
            return super().sample_vjp(v)
        image, patches = self._padded(like)
        columns = self._buffer("columns", like, patches.shape)
        gradient, of_patches = v[0].flatten(1).contiguous(), columns[0].flatten(0, 2).flatten(1)
        ops.matmul(self._matrix, gradient, out=of_patches, transpose_a=True)
        # Patches overlap, but those of the same place in each do not.
        for i, j in itertools.product(*map(range, self.module.kernel_size)):
            patches[:, :, i, j].add_(columns[:, :, i, j])
        return image.clone()


_large = 2**20  # bytes


class LinearPiece(AffinePiece):
    """A Linear, by products of matrices whose rows are samples, or places of samples."""

    module: nn.Linear

    def value(self, a: Tensor) -> Tensor:
        m = self.module
        self._point = a
        if a.shape[-1:] != (m.in_features,):
            return m(a)  # torch says what is wrong
        value = self.sample_jvp(a)
        return value if m.bias is None else value.add_(m.bias)

    def sample_jvp(self, v: Tensor) -> Tensor:
        m = self.module
        product = v.new_empty(*v.shape[:-1], m.out_features)
        ops.matmul(_rows(v), m.weight, out=_rows(product), transpose_b=True)
        return product

    def vjp(self, gradient: Tensor) -> Tensor:
        return self.sample_vjp(gradient)

    def sample_vjp(self, v: Tensor) -> Tensor:
        m = self.module
        product = v.new_empty(*v.shape[:-1], m.in_features)
        ops.matmul(_rows(v), m.weight, out=_rows(product))
        return product

    def gradients(self, gradient: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.sample_vjp(gradient), self.parameter_gradients(gradient)

    def parameter_gradients(self, gradient: Tensor) -> list[Tensor]:
        found = list(self.gradient_buffers) or [
            torch.empty_like(p, requires_grad=False) for p in self.parameters
        ]
        for parameter, out in zip(self.parameters, found, strict=True):
            if parameter is self.module.bias:
                torch.sum(_rows(gradient), 0, out=out)
            else:
                ops.matmul(_rows(gradient), _rows(self._point), out=out, transpose_a=True)
        return found


def _rows(a: Tensor) -> Tensor:
    """A tensor (..., n) as a matrix of rows of n; a view if it is contiguous."""
    return a.flatten(0, -2).contiguous()


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
        self._ranks: Ranks | None = None

    def share(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def begin(self, a: Tensor) -> Tensor:
        self._module._check_input_dim(a)
        self._start = a
        value = self._evaluate(a, self._buffer("value", a), self._buffer("centred", a))
        self._start_mean, self._start_factor = self._mean, self._factor
        return value

    def value(self, a: Tensor) -> Tensor:
        return self._evaluate(a, torch.empty_like(a), torch.empty_like(a))

    @property
    def _uses_batch(self) -> bool:
        return self._module.training or self._module.running_mean is None

    def _along(self, statistic: Tensor, a: Tensor) -> Tensor:
        return statistic.view(1, -1, *[1] * (a.ndim - 2))

    def _evaluate(self, a: Tensor, out: Tensor, centred: Tensor) -> Tensor:
        """The value, written to ``out``; in training mode ``centred`` becomes a less its mean."""
        m = self._module
        self._point = a
        if not self._uses_batch:
            assert m.running_mean is not None
            assert m.running_var is not None
            self._mean, self._factor = m.running_mean, (m.running_var + m.eps).rsqrt()
            return F.batch_norm(a, m.running_mean, m.running_var, m.weight, m.bias, False, 0.0, m.eps)
        self._count = self._count_of(a)
        if self._count == 1:
            raise ValueError(
                f"x must hold at least 2 samples for {type(m).__name__} in training mode, but holds 1."
            )
        self._mean = self._sums(a, a, a.new_zeros(a.shape[1]))[0] / self._count
        torch.sub(a, self._along(self._mean, a), out=centred)
        variance = self._sums(centred, centred, torch.zeros_like(self._mean))[1] / self._count
        self._factor = (variance + m.eps).rsqrt()
        gain = self._factor if m.weight is None else self._factor * m.weight
        return self._scaled(centred, gain, torch.zeros_like(gain) if m.bias is None else m.bias, out)

    def move(self, delta: Tensor, unit: Tensor, point: Tensor | None = None) -> Tensor:
        start, gain = self._start, self._module.weight
        before = self._start_factor
        self._point = self._moved(delta, unit)
        if not self._uses_batch:
            return delta * self._along(before if gain is None else before * gain, delta)
        count = self._count
        mean_of_delta, covariance = self._sums(delta, start, self._start_mean)
        mean_of_delta, covariance = mean_of_delta / count, covariance / count
        variance_of_delta = self._sums(delta, delta, mean_of_delta)[1] / count
        # The change of the variance over unit: twice the covariance with delta, plus unit times delta's variance.
        change = 2 * covariance + unit * variance_of_delta
        after = (before**-2 + unit * change).rsqrt()
        self._mean, self._factor = self._start_mean + unit * mean_of_delta, after
        change_of_factor = -change * (before * after) ** 2 / (before + after)
        if gain is not None:
            after, change_of_factor = after * gain, change_of_factor * gain
        # Of delta and of start, each less its mean, times a number per channel.
        moved = self._scaled(delta, after, -after * mean_of_delta, self._buffer("moved", delta))
        return moved.addcmul_(self._buffer("centred", start), self._along(change_of_factor, start))

    def _count_of(self, a: Tensor) -> int:
        """The numbers per channel, those of all ranks together."""
        count = a.numel() // a.shape[1]
        return count if self._ranks is None else int(self._ranks.sum(torch.tensor([count])))

    def _sums(self, gradient: Tensor, a: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Per channel, the sums of g and of g (a - mean), in one pass, over the samples of all ranks."""
        one = torch.ones_like(mean)
        _, products, sums = torch.ops.aten.native_batch_norm_backward(
            gradient, a, None, None, None, mean, one, True, 0.0, [False, True, True]
        )
        if self._ranks is not None:
            sums, products = self._ranks.sum(torch.stack([sums, products]))
        return sums, products

    @staticmethod
    def _scaled(a: Tensor, factor: Tensor, shift: Tensor, out: Tensor) -> Tensor:
        """factor a + shift, with a factor and a shift per channel, in one pass."""
        zero, one, none = torch.zeros_like(factor), torch.ones_like(factor), factor.new_empty(0)
        torch.native_batch_norm(
            a, factor, shift, zero, one, False, 0.0, 0.0, out=(out, none, torch.empty_like(none))
        )
        return out

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
        if self._ranks is not None and self._uses_batch:
            return self._shared_vjp(gradient)
        return self._backward(gradient, [True, False, False])[0]

    def _shared_vjp(self, gradient: Tensor) -> Tensor:
        """J^T gradient, whose means are over the samples of all ranks."""
        gain, a = self._module.weight, self._point
        sums, products = self._sums(gradient, a, self._mean)
        along = self._along
        centred = a - along(self._mean, a)
        own = gradient - along(sums / self._count, a)
        own -= centred * along(products / self._count * self._factor**2, a)
        return own * along(self._factor if gain is None else self._factor * gain, a)

    def parameter_gradients(self, gradient: Tensor) -> list[Tensor]:
        return self._of_parameters(self._backward(gradient, [False, True, True])) if self.parameters else []

    def gradients(self, gradient: Tensor) -> tuple[Tensor, list[Tensor]]:
        if self._ranks is not None:
            return self.vjp(gradient), self.parameter_gradients(gradient)
        found = self._backward(gradient, [True, True, True])
        return found[0], self._of_parameters(found)

    def _of_parameters(self, found: Sequence[Tensor]) -> list[Tensor]:
        named = zip((self._module.weight, self._module.bias), found[1:], strict=True)
        return [value for parameter, value in named if parameter is not None and parameter.requires_grad]

    def commit(self) -> None:
        m = self._module
        if not m.training or not m.track_running_stats or m.running_mean is None:
            return
        assert m.running_var is not None
        momentum = 0.0 if m.momentum is None else m.momentum
        if m.num_batches_tracked is not None:
            m.num_batches_tracked.add_(1)
            if m.momentum is None:
                momentum = 1.0 / float(m.num_batches_tracked)
        variance = self._start_factor**-2 - m.eps
        m.running_mean.lerp_(self._start_mean, momentum)
        m.running_var.lerp_(variance * (self._count / (self._count - 1)), momentum)

    def sample_jvp(self, v: Tensor) -> Tensor:
        gain = self._module.weight
        return v * self._along(self._factor if gain is None else self._factor * gain, v)

    def sample_vjp(self, v: Tensor) -> Tensor:
        return self.sample_jvp(v)


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


class WrongOutput(TypeError):
    """A module returns something that a part of a chain cannot return."""


class LocalPiece(Piece):
    """Any other module with one input and one output, differentiated by torch within the stage.

    Buffers such as running statistics, and other things that the module keeps from call to call, move once per step,
    by the encode. A module that draws random numbers from torch's generator, such as dropout, draws the same ones at
    every evaluation of a step. Recurrent layers run without cuDNN: it has no second derivative for them, no first one
    in evaluation mode, and its masks do not follow torch's generator. They run without oneDNN if a second derivative
    is needed. What ``torch.compile`` has compiled runs eagerly, for the same reason.

    J v comes from the backward pass: g -> J^T g is linear, and J v is the product of v with its transpose. Where
    torch cannot differentiate the backward pass, it comes from forward mode, if that agrees with J^T. Forward mode is
    slower: in sums and products it goes through Python for zeros where there is no tangent, and imports torch's
    compiler for the first of them.

    In float32 a small change of the value is found by J v. Where the derivative is a surrogate, as behind a sign, the
    value does not follow it, and its change is the difference of two values, in float64 if the module can run so.

    Args:
        module: the module.
        path: of the module in the model, for error messages.
    """

    saves_output = True
    calls_module = True

    def __init__(self, module: nn.Module, path: str = "") -> None:
        super().__init__()
        self._module, self._path = module, path
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self._recurs = any(isinstance(m, nn.RNNBase) for m in module.modules())
        self._in_place = may_write_input(module)
        self._compiled = any(
            uncompiled(m) is not m or m._compiled_call_impl is not None for m in module.modules()
        )
        self._state = ModuleState(module)
        self._changes: Changes = []
        self._start_changes = self._changes
        self._random_state: tuple[Tensor, Tensor | None] | None = None
        self._input = self._output = self._start_value = torch.empty(0)
        self._start_in_double: Tensor | None = None
        self._follows_derivative: bool | None = None  # None until it has been tried
        self._has_second_derivative = True
        self._is_transpose = False  # whether J v has been found to agree with J^T

    def share(self, ranks: Ranks) -> None:
        couples = (*batch_normalisations, nn.SyncBatchNorm)
        found = next((type(m).__name__ for m in self._module.modules() if isinstance(m, couples)), None)
        if found is not None:
            raise ValueError(
                f"parallel must be None for a model with a {found} within the module {self._path!r}, which torch "
                "runs as a whole, but is 'data'; put the modules in it into an nn.Sequential."
            )

    def _evaluate(self, a: Tensor, fused: bool = True) -> Tensor:
        """The module's output with the masks of this step; ``fused`` allows layers that lack second derivatives."""
        in_steps = self._recurs and (a.is_cuda or not fused)
        a = a.clone() if self._in_place else a
        if self._random_state is None and not in_steps and not self._compiled:
            output, self._changes = self._state.call(a)
            return output
        with global_state, contextlib.ExitStack() as stack:
            if self._compiled:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if in_steps:
                stack.enter_context(_without_fused_layers())
            if self._random_state is not None:
                cpu, gpu = self._random_state
                stack.enter_context(torch_kept(*([a.device] if gpu is not None else [])))
                torch.set_rng_state(cpu)
                if gpu is not None:
                    torch.cuda.set_rng_state(gpu, a.device)
            output, self._changes = self._state.call(a)
            return output

    def _differentiable(self, a: Tensor) -> Tensor:
        """The same, with derivatives of every order."""
        return self._evaluate(a, fused=False)

    def begin(self, a: Tensor) -> Tensor:
        self._start, self._random_state, self._start_in_double = a, None, None
        cpu, gpu = torch_state(), torch.cuda.get_rng_state(a.device) if a.is_cuda else None
        self._start_value = self.value(a)
        drew = not torch.equal(torch_state(), cpu)
        if gpu is not None and not drew:
            drew = not torch.equal(torch.cuda.get_rng_state(a.device), gpu)
        self._start_changes, self._random_state = self._changes, (cpu, gpu) if drew else None
        return self._start_value

    def value(self, a: Tensor) -> Tensor:
        with torch.enable_grad():
            self._input = a.detach().requires_grad_()
            self._output = self._evaluate(self._input)
        self._check_output(a)
        return self._output.detach()

    def _check_output(self, a: Tensor) -> None:
        """Raise unless the output is one tensor, with a row for each sample, in the dtype of the input."""
        output, problem = self._output, ""
        if not isinstance(output, Tensor):
            problem = f"{named_type(output)}; wrap it in a module that returns the tensor alone"
        elif output.dtype != a.dtype:
            problem = f"{output.dtype}; convert its output to {a.dtype}, that of its input"
        elif output.ndim == 0 or output.shape[0] != a.shape[0]:
            problem = f"shape {tuple(output.shape)} for {len(a)} samples; samples must come first"
        if problem:
            raise WrongOutput(
                f"model must consist of modules that return one {a.dtype} tensor, with a row for each sample, but "
                f"{self._path!r} ({described(self._module)}) returns {problem}."
            )

    @property
    def here(self) -> Tensor:
        return self._output.detach()

    def move(self, delta: Tensor, unit: Tensor, point: Tensor | None = None) -> Tensor:
        if delta.dtype == torch.float32 and self._follows_derivative is None:
            self._follows_derivative = self._compare_with_derivative(delta)
        change = self.value(self._start + unit * delta if point is None else point) - self._start_value
        if delta.dtype == torch.float64:
            return change / unit
        largest = self._start_value.abs().max()
        if self._follows_derivative is False:
            precise = self._change_in_double(delta, unit, point)
            return (
                torch.where(change.abs() > _rounding * largest, change / unit, 0)
                if precise is None
                else precise
            )
        # The difference of values would be mostly rounding. The derivative half-way has an error of order unit^2.
        derivative = self._jvp_at(self._start + unit * delta / 2, delta)
        if derivative is None:
            return change / unit
        # Where the value bends within the displacement, the difference is far above its rounding.
        bends = (change - unit * derivative).abs() > _far_above_rounding * largest
        return torch.where(bends, change / unit, derivative)

    def _change_in_double(self, delta: Tensor, unit: Tensor, point: Tensor | None) -> Tensor | None:
        """The change of the value over unit, by a difference in float64; None for what can run in float32 alone."""
        if self._random_state is not None:
            return None
        try:
            if self._start_in_double is None:
                self._start_in_double = self._state.call(self._start.double(), in_double=True)[0]
            moved = self._start.double() + unit.double() * delta.double()
            value = self._state.call(moved, in_double=True)[0]
            if point is not None:
                exact = self._state.call(point.double(), in_double=True)[0]
                # Where the two are a jump apart, rounding has decided on the side of the one that was added up.
                apart = (value - exact).abs() > _far_above_rounding * exact.abs().max()
                value = torch.where(apart, exact, value)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError):
            return None
        if value.dtype != torch.float64:
            return None
        return ((value - self._start_in_double) / unit).to(delta)

    def _compare_with_derivative(self, delta: Tensor) -> bool | None:
        """Whether the value changes as its derivative says; False for a sign with a surrogate.

        It is tried at a displacement of a hundredth of the input. None if delta is zero, so that it cannot be told.
        """
        step = 0.01 * self._start.norm() / delta.norm()
        if not step.isfinite() or step == 0:
            return None
        derivative = self._jvp_at(self._start + step * delta / 2, delta)
        if derivative is None:
            return False
        change, derivative = self.value(self._start + step * delta) - self._start_value, step * derivative
        return bool((change - derivative).norm() <= 0.1 * (change.norm() + derivative.norm()))

    def _jvp_at(self, a: Tensor, v: Tensor) -> Tensor | None:
        """J v at a; None if torch cannot find it."""
        if self._has_second_derivative:
            product = self._jvp_by_double_vjp(a, v)
            if product is not None and self._agrees_with_vjp(a, v, product):
                return product
        product = self._jvp_by_forward_mode(a, v)
        if product is None or not self._agrees_with_vjp(a, v, product):
            return None
        self._has_second_derivative = False
        return product

    def _jvp_by_forward_mode(self, a: Tensor, v: Tensor) -> Tensor | None:
        try:
            product: Tensor = jvp(self._differentiable, (a,), (v,))[1]
        except torch.OutOfMemoryError:
            raise
        except (NotImplementedError, RuntimeError):
            return None
        return product.detach()

    def _jvp_by_double_vjp(self, a: Tensor, v: Tensor) -> Tensor | None:
        with torch.enable_grad():
            at = a.detach().requires_grad_()
            value = self._differentiable(at)
            g = torch.zeros_like(value, requires_grad=True)
            try:
                pulled_back = _gradients(value, [at], g, create_graph=True)[0]
                return _gradients(pulled_back, [g], v)[0].detach()
            except torch.OutOfMemoryError:
                raise
            except (NotImplementedError, RuntimeError):
                return None

    def _agrees_with_vjp(self, a: Tensor, v: Tensor, product: Tensor) -> bool:
        """Whether <g, J v> = <J^T g, v> with the J^T of the backward pass; tried until both have not been zero."""
        if self._is_transpose:
            return True
        count = product.numel()
        # Any direction will do. It is short, since some surrogates clip the gradients that they are given.
        g = torch.arange(count, device=v.device).cos().to(v).view(product.shape) / 1024
        pulled_back = self._vjp_at(a, g)
        one, other = g * product, pulled_back * v
        scale = float(one.norm() + other.norm())
        if scale == 0:
            return True
        apart = abs(float(one.sum(dtype=torch.float64) - other.sum(dtype=torch.float64)))
        agrees = apart <= (1e-3 if v.dtype == torch.float32 else 1e-8) * scale
        self._is_transpose = agrees
        return agrees

    def _vjp_at(self, a: Tensor, gradient: Tensor) -> Tensor:
        with torch.enable_grad():
            at = a.detach().requires_grad_()
            value = self._differentiable(at)
        return _gradients(value, [at], gradient)[0]

    def vjp(self, gradient: Tensor) -> Tensor:
        return self._backward([self._input], gradient)[0]

    def parameter_gradients(self, gradient: Tensor) -> list[Tensor]:
        return self._backward(self.parameters, gradient)

    def gradients(self, gradient: Tensor) -> tuple[Tensor, list[Tensor]]:
        of_input, *of_parameters = self._backward([self._input, *self.parameters], gradient)
        return of_input, of_parameters

    def _backward(self, inputs: Sequence[Tensor], gradient: Tensor) -> list[Tensor]:
        try:
            return _gradients(self._output, inputs, gradient, retain_graph=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(
                f"model must be differentiable, but the backward pass of {self._path!r} "
                f"({described(self._module)}) fails: {first_sentence(error)}."
            ) from error

    def commit(self) -> None:
        self._state.keep(self._start_changes)
        self._start_changes = []

    def sample_jvp(self, v: Tensor) -> Tensor:
        product = self._jvp_at(self._input.detach()[: len(v)], v)
        if product is None:
            raise ValueError(
                f"lr_codes must be a number for this model, since torch cannot differentiate the backward pass of "
                f"{self._path!r} ({described(self._module)}), which lr_codes='auto' needs; set it, or write the "
                "backward of its torch.autograd.Function in differentiable torch operations."
            )
        return product

    def sample_vjp(self, v: Tensor) -> Tensor:
        return self._vjp_at(self._input.detach()[: len(v)], v)


# Changes of a value in float32, as shares of the largest value: those that may be rounding, and those that cannot be.
_rounding, _far_above_rounding = 1e-6, 1e-4


def _gradients(output: Tensor, inputs: Sequence[Tensor], gradient: Tensor, **options: bool) -> list[Tensor]:
    """J^T gradient for every input; zeros where the output does not depend on it."""
    if not inputs or not output.requires_grad:
        return [torch.zeros_like(input) for input in inputs]
    found = torch.autograd.grad(
        output, inputs, gradient, allow_unused=True, materialize_grads=True, **options
    )
    return list(found)


class BlockPiece(Piece):
    """A block whose formula has been read: its modules as pieces, with sums of what they return.

    Args:
        module: the block.
        formula: what it computes.
        pieces: one for each step of the formula; None for a sum.
    """

    def __init__(self, module: nn.Module, formula: Formula, pieces: Sequence[Piece | None]) -> None:
        super().__init__()
        self._steps = [(piece, step.inputs) for piece, step in zip(pieces, formula, strict=True)]
        self._pieces = [piece for piece in pieces if piece is not None]
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.saves_output = any(piece.saves_output for piece in self._pieces)
        self.has_constant_jacobian = all(piece.has_constant_jacobian for piece in self._pieces)
        self.calls_module = any(piece.calls_module for piece in self._pieces)
        self._shapes: list[torch.Size] = []  # of all values
        # Whether parameters come in front of a value, so that their gradients need its own.
        self._is_learned = [False]
        for piece, inputs in self._steps:
            learned = any(self._is_learned[i] for i in inputs)
            self._is_learned.append(learned or (piece is not None and len(piece.parameters) > 0))

    def _forward(self, a: Tensor, go: Callable[[Piece, Tensor], Tensor], name: str = "") -> Tensor:
        """The last value; sums are written to own memory of that name, if there is one."""
        values = [a]
        for number, (piece, inputs) in enumerate(self._steps):
            value = values[inputs[0]]
            if piece is not None:
                values.append(go(piece, value))
                continue
            other = values[inputs[1]]
            out = self._buffer(f"{name} {number}", value) if name and value.shape == other.shape else None
            values.append(torch.add(value, other, out=out))
        self._shapes = [value.shape for value in values]
        return values[-1]

    def _backward(
        self, gradient: Tensor, go: Callable[[Piece, Tensor, int], Tensor | None]
    ) -> list[Tensor | None]:
        """Gradients of all values; ``go`` returns that of a piece's input, whose number it is given."""
        found: list[Tensor | None] = [*[None] * len(self._steps), gradient]
        for number, (piece, inputs) in reversed(list(enumerate(self._steps, 1))):
            own = found[number]
            if own is None:
                continue
            for i in inputs:
                if piece is None:
                    share: Tensor | None = own.sum_to_size(len(own), *self._shapes[i][1:])
                else:
                    share = go(piece, own, i)
                before = found[i]
                found[i] = share if before is None or share is None else before + share
        return found

    def begin(self, a: Tensor) -> Tensor:
        return self._forward(a, lambda piece, value: piece.begin(value), "value")

    def value(self, a: Tensor) -> Tensor:
        return self._forward(a, lambda piece, value: piece.value(value))

    def move(self, delta: Tensor, unit: Tensor, point: Tensor | None = None) -> Tensor:
        exact, number = [point], itertools.count()  # of all values; that of a sum is added up

        def go(piece: Piece, change: Tensor) -> Tensor:
            while self._steps[i := next(number)][0] is None:
                exact.append(None)
            moved = piece.move(change, unit, exact[self._steps[i][1][0]])
            exact.append(piece.here)
            return moved

        change = self._forward(delta, go, "change")
        self._here = exact[-1] if len(exact) > len(self._steps) else None
        return change

    def vjp(self, gradient: Tensor) -> Tensor:
        return self._at_input(self._backward(gradient, lambda piece, g, i: piece.vjp(g)))

    def parameter_gradients(self, gradient: Tensor) -> list[Tensor]:
        return self._with_parameters(gradient, self._is_learned)[1]

    def gradients(self, gradient: Tensor) -> tuple[Tensor, list[Tensor]]:
        found, of_parameters = self._with_parameters(gradient, [True] * len(self._is_learned))
        return self._at_input(found), of_parameters

    def _with_parameters(
        self, gradient: Tensor, wanted: Sequence[bool]
    ) -> tuple[list[Tensor | None], list[Tensor]]:
        """Gradients in the values that are wanted, and in all parameters."""
        of_parameters: dict[int, Tensor] = {}

        def go(piece: Piece, g: Tensor, i: int) -> Tensor | None:
            if not piece.parameters:
                return piece.vjp(g) if wanted[i] else None
            of_input, own = piece.gradients(g) if wanted[i] else (None, piece.parameter_gradients(g))
            of_parameters.update(zip(map(id, piece.parameters), own, strict=True))
            return of_input

        found = self._backward(gradient, go)
        return found, [of_parameters[id(p)] for p in self.parameters]

    def commit(self) -> None:
        for piece in self._pieces:
            piece.commit()

    def share(self, ranks: Ranks) -> None:
        for piece in self._pieces:
            piece.share(ranks)

    def sample_jvp(self, v: Tensor) -> Tensor:
        shapes = self._shapes
        product = self._forward(v, lambda piece, own: piece.sample_jvp(own))
        self._shapes = shapes
        return product

    def sample_vjp(self, v: Tensor) -> Tensor:
        return self._at_input(self._backward(v, lambda piece, g, i: piece.sample_vjp(g)))

    @staticmethod
    def _at_input(found: Sequence[Tensor | None]) -> Tensor:
        assert found[0] is not None
        return found[0]


#: The piece of a module of exactly this type. All other modules get a BlockPiece or a LocalPiece.
known_pieces: dict[type[nn.Module], Callable[[Any], Piece]] = {
    nn.Dropout: DropoutPiece,
    nn.MaxPool2d: MaxPoolPiece,
    nn.AvgPool2d: AveragePoolPiece,
    **dict.fromkeys(affine, AffinePiece),
    nn.Conv2d: ConvolutionPiece,
    nn.Linear: LinearPiece,
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
    kind = known_as(module)
    if kind is nn.Flatten and isinstance(module, nn.Flatten) and module.start_dim == 1:
        return ReshapePiece(module)
    make = known_pieces.get(kind) if kind is not None else None
    if make is not None and not getattr(module, "return_indices", False):  # of a pooling, beside its value
        return make(module)
    _check_inputs(path, module)
    return block_of(path, module) or LocalPiece(module, path)


def block_of(path: str, module: nn.Module) -> BlockPiece | None:
    """Make the piece of a block by its formula.

    Args:
        path: of the block in the model, for error messages.
        module: a module that is not known itself.

    Returns:
        The piece; None if the formula cannot be read, or a module in it takes or returns more than one tensor.
    """
    formula = formula_of(module)
    if formula is None:
        return None
    try:
        pieces = [
            None if step.module is None else piece_of(f"{path}.{step.path}", step.module) for step in formula
        ]
    except ValueError:
        return None
    return BlockPiece(module, formula, pieces)


def _check_inputs(path: str, module: nn.Module) -> None:
    """Raise unless a module takes one tensor and, as far as can be known, returns one, in ways torch can follow."""
    name = type(module).__name__
    refusal = f"model cannot be split at {path!r}: "
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention, nn.Transformer)) and (
        type(module).forward.__module__.startswith("torch.")
    ):
        ours = {"RNN": "Elman", "GRU": "GRU", "LSTM": "LSTM"}.get(name)
        remedy = "wrap it in a module that takes and returns one tensor"
        if ours is not None:
            remedy = f"use altmin_ext.nn.{ours}, which returns its output sequence alone, or {remedy}"
        raise ValueError(f"{refusal}{name} has more than one output or input; {remedy}.")
    if isinstance(module, nn.Embedding):
        raise ValueError(f"{refusal}Embedding takes integers, and codes are real; embed x beforehand.")
    for part in module.modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise ValueError(
                f"{refusal}{name} is or holds a scripted module, whose buffers a step cannot keep still; use the "
                "module that was scripted."
            )
        if isinstance(part, Sign) and part.surrogate == "none":
            raise ValueError(
                f"{refusal}{described(module)} is differentiated by torch, and its Sign(surrogate='none') has no "
                "derivative; choose another surrogate."
            )
    parameters = inspect.signature(module.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind in positional]
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    has_forward = getattr(module.forward, "__func__", None) is not nn.Module.forward
    if len(required) != 1 and not (takes_any and not required and has_forward):
        takes = ", ".join(required) or ("nothing" if has_forward else "nothing, having no forward")
        raise ValueError(
            f"{refusal}{name} takes {takes}, but a part of a chain takes one tensor and returns one; wrap it in a "
            "module that does."
        )
