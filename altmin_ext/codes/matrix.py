"""A code held as a matrix, for every kind of stage."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from altmin_ext.codes.base import Code, Slot, remembers_activation
from altmin_ext.network import EvaluatedMap, LinearMap
from altmin_ext.ops import CodeScalar
from altmin_ext.ops import unversioned as ops
from altmin_ext.ops.activation import identity
from altmin_ext.ops.numerics import smallest_displacement


class MatrixCode(Code):
    """A code as a (B, n) matrix, whatever its shape.

    The kernels compute an activation that at most a dropout follows. Any other pre-map is evaluated piece by piece,
    and the kernels compute the identity.

    Memory: 5 numbers per sample and unit, 6 with several steps, for the largest minibatch so far.

    Args:
        map: the map of ``slot.stage``.
        slot: where it stands.

    Attributes:
        residual: (B, ...), that of the last :meth:`fit`, in units of the stage's scale.
    """

    def __init__(self, map: EvaluatedMap, slot: Slot) -> None:
        super().__init__(slot)
        self.map = map
        self._above_map = slot.above.map
        self._several, self._once, self._sparse = slot.code_iterations > 1, slot.once, slot.sparse
        self._sigma = self.pre.activation
        # A relu at 0 has no derivative and stays at 0, so a single step needs sigma(c0) only.
        self._in_place = slot.once and not map.saves_output and self.pre.is_relu_or_identity
        self._remembered = self.pre.activation is not None and remembers_activation(self._above_map)
        self._buffers: dict[str, Tensor] = {}
        self._largest: dict[str, Tensor] = {}
        self._mask: Tensor | None = None
        self.residual = torch.empty(0)
        self._calls: dict[bool, dict[str, Any]] = {}
        self._target: dict[str, Any] | None = None
        self._weights: Tensor | None = None
        self._gram = self._gram_times_moved = torch.empty(0, 0)
        self._gram_is_current = False

    def set_shapes(self, shape: torch.Size, activation_shape: torch.Size) -> None:
        if (shape, activation_shape) != (self.shape, self.activation_shape):
            self._largest = {}
        super().set_shapes(shape, activation_shape)

    def _make_buffers(self, batch: int, like: Tensor) -> None:
        if not self._largest or len(self._largest["displacement"]) < batch:
            names = ["displacement", "residual"]
            names += ["code"] if self.map.uses_buffers else []
            names += ["velocity"] if self._several else []
            names += ["activation"] if not self._in_place else []
            names += ["moved_activation"] if self._remembered else []
            names += ["change"] if self._sigma is None else []
            names += ["activation_displacement"] if self.above is not None and self._sigma is not None else []
            self._largest = {name: like.new_empty(batch, self.width) for name in names}
        full = len(self._largest["displacement"]) == batch
        self._buffers = self._largest if full else {name: b[:batch] for name, b in self._largest.items()}
        self._calls = {}
        b = self._buffers
        self.displacement, self._residual = b["displacement"], b["residual"]
        self._velocity = b.get("velocity")
        # A single step turns the pulled-back residual into the displacement in place.
        self._destination = b["residual"] if self._several else b["displacement"]
        self._flat_displacement = b.get("activation_displacement")
        if self._flat_displacement is not None:
            self.activation_displacement = self._flat_displacement.view(batch, *self.activation_shape)
        else:
            self.activation_displacement = None
        self._use_code(b.get("code"))

    def _use_code(self, code: Tensor | None) -> None:
        if code is None:
            return
        self._code = code
        self._flat = code if self._in_place else self._buffers["activation"]
        self._moved_flat = self._buffers["moved_activation"] if self._remembered else self._flat
        if self._sigma is not None:
            shape = (len(code), *self.activation_shape)
            self._activation_of_encode, self._moved_activation = (
                flat.view(shape) for flat in (self._flat, self._moved_flat)
            )

    def buffers(self) -> Any:
        return self._buffers

    def _shaped(self, flat: Tensor) -> Tensor:
        return flat if len(self.shape) == 1 else flat.view(self._batch, *self.shape)

    def encode(self, activation: Tensor) -> Tensor:
        self._target = self._weights = None
        code = self.map.encode(activation, self._buffers.get("code"))
        if not self.map.uses_buffers:
            self._use_code(code.view(self._batch, self.width))
        code = self._code
        if self._sigma is not None:
            self._mask = self.pre.draw_mask(code)
            ops.activate(
                code,
                bias=self.map.bias,
                mask=self._mask,
                activation=self._flat,
                sigma=self._sigma,
                guard=self.flags.code,
            )
        else:
            ops.activate(code, bias=self.map.bias, activation=code, sigma=identity, guard=self.flags.code)
            self._activation_of_encode = self.pre.begin(self._shaped(code)).contiguous()
        self.activation = self._activation_of_encode
        return self.activation

    @property
    def is_planned(self) -> bool:
        return isinstance(self.map, LinearMap) and self._sigma is not None

    @property
    def destination(self) -> Tensor | None:
        return self._destination if self._sigma is not None else None

    def step(self, pulled_back: Tensor, change: Tensor | None, above: Tensor | None, first: bool) -> None:
        flat = (self._batch, self.width)
        if self._sigma is None:
            shape = (self._batch, *self.activation_shape)
            pulled_back = self.pre.vjp(pulled_back.view(shape)).reshape(flat)
            change = None if change is None else self.pre.vjp(change.view(shape)).reshape(flat)
        else:
            pulled_back = pulled_back.view(flat)
        ops.code_step(
            self._code,
            pulled_back,
            pulled_back_change=change,
            mask=self._mask,
            displacement=self.displacement,
            velocity=self._velocity,
            activation=self._moved_flat,
            activation_displacement=self._flat_displacement,
            scalars=self.row,
            above=above,
            first=first,
            sigma=self._sigma or identity,
            guard=self.flags.code,
        )
        if self._sigma is None:
            change = torch.neg(self.displacement, out=self._buffers["change"])
            point = self.moved_code() if self._sparse else None
            moved = self.pre.move(self._shaped(change), self.unit, point)
            self.activation_displacement = moved.contiguous()
            here = self.pre.here
            if here is None:
                here = torch.addcmul(self._activation_of_encode, moved, self.unit.to(moved))
            self.activation = here.contiguous()
        else:
            self.activation = self._moved_activation

    def moved_code(self) -> Tensor:
        """The current code, c0 - unit delta, (B, ...)."""
        return self._shaped(self._code - self.unit * self.displacement)

    def vjp(self, out: Tensor | None) -> Tensor:
        self._gram_is_current = False
        return self.map.vjp(self._shaped(self.displacement), out)

    def vjp_after_move(self, below: Code, pulled_back: Tensor, more: int) -> tuple[Tensor, Tensor | None]:
        assert below.activation_displacement is not None
        if isinstance(self.map, LinearMap):
            return pulled_back, self._gram_product(self.map.weight, below.activation_displacement, more)
        moved = self.map.move_to(below.activation, below.activation_displacement, below.unit, None)
        residual = moved.view(self._batch, self.width) * (below.unit / self.unit) + self.displacement
        return self.map.vjp(self._shaped(residual), None), None

    def _gram_product(self, weight: Tensor, moved: Tensor, more: int) -> Tensor:
        """W^T W moved, by way of the Gram matrix if that takes fewer multiplications."""
        n_out, n_in = weight.shape
        if self._gram_times_moved.shape != moved.shape:
            self._gram_times_moved = torch.empty_like(moved)
        if n_out * n_in + more * self._batch * n_in < more * 2 * self._batch * n_out:
            if not self._gram_is_current:
                if len(self._gram) != n_in:
                    self._gram = moved.new_empty(n_in, n_in)
                ops.matmul(weight, weight, out=self._gram, transpose_a=True)
                self._gram_is_current = True
            ops.matmul(moved, self._gram, out=self._gram_times_moved)
        else:
            ops.matmul(moved, weight, out=self._residual, transpose_b=True)
            ops.matmul(self._residual, weight, out=self._gram_times_moved)
        return self._gram_times_moved

    def fit(self, activation: Tensor, below: Code | None, first: bool) -> None:
        call = self.residual_call(activation, below, first)
        ops.weight_residual(**call)
        self.finish_fit(activation, call)

    def residual_call(self, activation: Tensor, below: Code | None, first: bool) -> dict[str, Any]:
        product = None
        if not first:
            product = self.map.forward(activation, self._residual)
        elif below is not None and below.activation_moves:
            # W a + b - c is W (a - a0) + (c0 - c). Both terms are small, so nothing cancels.
            assert below.activation_displacement is not None
            product = self.map.move_to(activation, below.activation_displacement, below.unit, self._residual)
        if not first and self._target is not None:
            assert product is not None
            product = product.view(self._batch, self.width)
            return {**self._target, "products": [product], "residuals": [product]}
        if first in self._calls:
            return self._calls[first]
        residual = self._residual
        if product is not None:
            product = residual = product.view(self._batch, self.width)
        elif self._once:
            residual = self.displacement  # not needed any more
        call: dict[str, Any] = {
            "displacements": [self.displacement],
            "products": [product],
            "biases": [None if first else self.map.bias],
            "codes": [None if first else self._code],
            "residuals": [residual],
            "bias_gradients": [self.map.bias_gradient],
            "scalars": [self.row],
            "below": [below.row if first and below is not None else None],
            "guard": self.flags.weights,
        }
        if self.map.uses_buffers:
            self._calls[first] = call
        return call

    def fix_target(self, activation: Tensor, distance: Tensor | float) -> None:
        """Let further fits on this minibatch have one target: the present output minus distance times the residual.

        Args:
            activation: (B, ...), the current input of the map.
            distance: of the target, in units of the residual of the last :meth:`fit`.
        """
        flat = (self._batch, self.width)
        row = torch.zeros_like(self.row)
        row[CodeScalar.unit] = row[CodeScalar.scale] = distance
        output = self.map.forward(activation, None).view(flat)
        self._target = {
            "displacements": [self.residual.reshape(flat).clone()],
            "biases": [self.map.bias],
            "codes": [output if self.map.bias is None else output + self.map.bias],
            "bias_gradients": [self.map.bias_gradient],
            "scalars": [row],
            "below": [None],
            "guard": self.flags.weights,
        }

    def weigh(self, weights: Tensor, damping: Tensor | None) -> Tensor:
        # Where a sample counts twice, it also stands twice in the RMS displacement, and so in the scale of the stage.
        squares = self.displacement.square().mean(1).double()
        square, weighted = squares.mean(), squares @ weights.double() / len(weights)
        if damping is None:
            damping = torch.where(weighted > 0, smallest_displacement / weighted.sqrt(), 1.0).clamp(min=1.0)
        ratio = (square / weighted).sqrt() * self.row[CodeScalar.damping] / damping
        scaled = (self.row[CodeScalar.normalised] > 0) & (weighted > 0)
        self._weights = (weights * torch.where(scaled, ratio, 1.0).to(weights))[:, None]
        return damping

    def finish_fit(self, activation: Tensor, call: dict[str, Any]) -> None:
        residual = call["residuals"][0]
        if self._weights is not None:
            residual *= self._weights
            if self.map.bias_gradient is not None:
                torch.sum(residual, 0, out=self.map.bias_gradient)
        self.residual = self._shaped(residual)
        self.map.weight_gradients(self.residual, activation)
