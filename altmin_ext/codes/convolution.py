"""The code of a convolutional stage, by kernels that convolve, activate and pool in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from altmin_ext.codes.base import Code, Slot, remembers_activation
from altmin_ext.ops import LANES, CodeScalar
from altmin_ext.ops import unversioned as ops
from altmin_ext.ops.activation import identity


class ConvolutionCode(Code):
    """The code of a convolutional stage that the stage above activates and pools, in either order.

    Only the largest code of a pooling window affects the activation, so only that one is kept and moves. With it is
    kept the gap by which it may fall until another code of the window is larger. The samples lie side by side in
    lanes: (groups, channels, height, width, 16). It serves ``slot.once`` only: more steps would need the other codes
    of a window, too.

    Memory: 4 to 5 numbers per sample and pooled unit, and a copy of the input unless that comes in lanes.

    Args:
        module: the ``convolution`` of the map of ``slot.stage``.
        slot: where it stands.
    """

    in_lanes = True

    def __init__(self, module: nn.Conv2d, slot: Slot) -> None:
        super().__init__(slot)
        self._module = module
        self._weight_gradient = slot.stage.map.gradient_of(module.weight)
        self._bias_gradient = slot.stage.map.gradient_of(module.bias)
        self._from_lanes = self._to_lanes = False
        self._sigma = self.pre.pooled_activation or identity
        self._pool = self.pre.pool
        self._above_map = slot.above.map
        self._in_place = self._sigma.name in ("relu", "identity")

    @staticmethod
    def suits(slot: Slot) -> bool:
        """Whether the kernels can compute this code.

        Args:
            slot: where it would stand.

        Returns:
            Whether the map is a convolution that they know, the pre-map above an activation and a pooling that they
            know, everything happens ``once``, and samples have no weights.
        """
        convolves = slot.stage.map.convolution is not None
        return slot.once and not slot.weighs and convolves and slot.above.pre.pooled_activation is not None

    def connect(self, below: Code | None, above: Code | None) -> None:
        super().connect(below, above)
        self._from_lanes = below is not None and below.in_lanes
        self._to_lanes = above is not None and above.in_lanes

    def _make_buffers(self, batch: int, like: Tensor) -> None:
        groups = -(-batch // LANES)
        channels, height, width = self.shape
        module = self._module
        kernel, padding = module.kernel_size, module.padding
        assert not isinstance(padding, str)
        self._padding = (padding[0], padding[1])
        pooled = (groups, channels, height // self._pool, width // self._pool, LANES)
        below = [size + k - 1 - 2 * p for size, k, p in zip((height, width), kernel, padding, strict=True)]
        self._input_shape = (module.in_channels, *below)

        def lanes(*shape: int) -> Tensor:
            return like.new_empty(groups, *shape, LANES)

        self._code = like.new_empty(pooled)
        self._lane_activation = self._code if self._in_place else like.new_empty(pooled)
        self.displacement = like.new_empty(pooled)
        self._winner = self._gap = self._lane_activation_displacement = None
        if self._pool > 1:
            self._winner = torch.empty(pooled, dtype=torch.uint8, device=like.device)
            self._gap = like.new_empty(pooled)
        if self.above is not None:
            self._lane_activation_displacement = like.new_empty(pooled)
        self.activation = self._lane_activation
        self.activation_displacement = self._lane_activation_displacement
        if not self._to_lanes:
            rows = (batch, *self.activation_shape)
            self._activation_of_encode = self.activation = like.new_empty(rows)
            stays = remembers_activation(self._above_map)
            self._moved_activation = like.new_empty(rows) if stays else self.activation
            self.activation_displacement = None if self.above is None else like.new_empty(rows)
        if not self._from_lanes:
            self._lane_input = lanes(*self._input_shape)
            self._lane_input_displacement = lanes(*self._input_shape)
            self._pulled_back = lanes(*self._input_shape)

    def buffers(self) -> Any:
        return dict(vars(self))

    def _interleaved(self, rows: Tensor, lanes: Tensor) -> Tensor:
        ops.interleave(rows.reshape(self._batch, -1).contiguous(), lanes.view(len(lanes), -1, LANES))
        return lanes

    def _deinterleave(self, lanes: Tensor | None, rows: Tensor | None) -> None:
        if lanes is not None and rows is not None:
            ops.deinterleave(lanes.view(len(lanes), -1, LANES), rows.view(self._batch, -1))

    def encode(self, activation: Tensor) -> Tensor:
        source = activation if self._from_lanes else self._interleaved(activation, self._lane_input)
        ops.convolve(
            source,
            self._module.weight,
            bias=self._module.bias,
            code=self._code,
            activation=self._lane_activation,
            winner=self._winner,
            gap=self._gap,
            padding=self._padding,
            pool=self._pool,
            sigma=self._sigma,
            guard=self.flags.code,
        )
        if not self._to_lanes:
            self.activation = self._activation_of_encode
            self._deinterleave(self._lane_activation, self.activation)
        return self.activation

    @property
    def spread(self) -> float:
        return self._batch * self.width / self.displacement.numel()

    @property
    def moved(self) -> Tensor:
        # Unless it normalises, the kernel averages over the codes that are held, not over all.
        of_all = self.row[CodeScalar.moved]
        return torch.where(self.row[CodeScalar.normalised] > 0, of_all, of_all / self.spread**0.5)

    @property
    def destination(self) -> Tensor | None:
        return self.displacement if self._to_lanes else None

    def step(self, pulled_back: Tensor, change: Tensor | None, above: Tensor | None, first: bool) -> None:
        if not self._to_lanes:
            pulled_back = self._interleaved(pulled_back, self.displacement)

        def flat(lanes: Any) -> Any:
            return None if lanes is None else lanes.view(-1, LANES)

        ops.code_step(
            flat(self._code),
            flat(pulled_back),
            displacement=flat(self.displacement),
            activation=flat(self._lane_activation),
            activation_displacement=flat(self._lane_activation_displacement),
            gap=flat(self._gap),
            scalars=self.row,
            above=above,
            first=first,
            sigma=self._sigma,
            guard=self.flags.code,
        )
        if not self._to_lanes:
            self.activation = self._moved_activation
            self._deinterleave(self._lane_activation, self.activation)
            self._deinterleave(self._lane_activation_displacement, self.activation_displacement)

    def vjp(self, out: Tensor | None) -> Tensor:
        to = self._pulled_back if out is None or not self._from_lanes else out
        ops.convolution_vjp(
            self.displacement,
            self._module.weight,
            winner=self._winner,
            pulled_back=to,
            padding=self._padding,
            pool=self._pool,
        )
        if self._from_lanes:
            return to
        rows = to.new_empty(self._batch, *self._input_shape)
        self._deinterleave(to, rows)
        return rows

    def vjp_after_move(self, below: Code, pulled_back: Tensor, more: int) -> tuple[Tensor, Tensor | None]:
        raise AssertionError("such a code takes a single step")

    def fit(self, activation: Tensor, below: Code | None, first: bool) -> None:
        moved = None if below is None else below.activation_displacement
        source = activation if self._from_lanes else self._lane_input
        if moved is not None and not self._from_lanes:
            moved = self._interleaved(moved, self._lane_input_displacement)
            source = self._interleaved(activation, self._lane_input)
        ops.convolution_weight_gradient(
            self.displacement,
            self._module.weight,
            source,
            winner=self._winner,
            input_displacement=moved,
            weight_gradient=self._weight_gradient,
            bias_gradient=self._bias_gradient,
            scalars=self.row,
            below=None if below is None else below.row,
            padding=self._padding,
            pool=self._pool,
            guard=self.flags.weights,
        )
