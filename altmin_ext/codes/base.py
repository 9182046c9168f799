"""What every code offers to the methods: encode, step, and the gradients of the weights that fit it.

A code c is held as its displacement delta from the encode, c0 - c = unit delta. After a few layers a code moves by
less than a unit in the last place of its value, which would be lost in c itself. The map of its own stage makes the
code; the pre-map of the stage above reads it. The equations are those of Choromanska et al. (2019).
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import torch
from torch import Tensor

from altmin_ext.network import BoundStage, EvaluatedMap, Map
from altmin_ext.ops import CodeScalar


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of the guard that belong to a stage.

    Attributes:
        code: (1,) float64, raised if the stage's code is not finite.
        weights: (1,) float64, raised if the gradient of its weights is not finite.
    """

    code: Tensor
    weights: Tensor


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where a code stands in its network, and what it has to do in every step.

    Attributes:
        stage: the stage whose map makes it.
        above: the stage that reads it.
        row: its parameter block, a row of :class:`CodeScalar`.
        flags: raised if the code, or the residual of its stage, is not finite.
        code_iterations: gradient steps of the code on each minibatch.
        weight_iterations: gradient steps of the stage's weights after that.
        once: whether code and weights each take a single step, the code without threshold, and nothing reads the code
            afterwards. The memory of the code may then be overwritten once its activation has been computed.
        sparse: whether a threshold makes some numbers of the code exactly zero.
        weighs: whether samples have weights.
    """

    stage: BoundStage
    above: BoundStage
    row: Tensor
    flags: Flags
    code_iterations: int = 1
    weight_iterations: int = 1
    once: bool = False
    sparse: bool = False
    weighs: bool = False


class Code(abc.ABC):
    """The code of a hidden stage on the current minibatch.

    Args:
        slot: where it stands.

    Attributes:
        below, above: the neighbouring codes; None at the ends of the chain.
        pre: the pre-map of the stage above.
        row, flags: its parameter block and its flags, those of the slot.
        unit: 0-d, the unit of the displacement; an entry of ``row``.
        shape, activation_shape: the shapes of one sample's code and activation.
        width: numbers per sample.
        activation: (B, ...), the input of the map above, at the current code.
        activation_displacement: (a - a0) / unit, shaped like ``activation``; None if nothing needs it.
    """

    activation: Tensor
    activation_displacement: Tensor | None
    iterates_itself = False  # whether one call of ``step`` makes all iterations
    activation_moves = True  # whether the activation changes with the code
    in_lanes = False  # whether 16 samples lie side by side
    below: Code | None = None
    above: Code | None = None

    def __init__(self, slot: Slot) -> None:
        self.pre = slot.above.pre
        self.row, self.flags = slot.row, slot.flags
        self.unit = slot.row[CodeScalar.unit]
        self.shape = self.activation_shape = torch.Size()
        self.width = self._batch = 0

    def connect(self, below: Code | None, above: Code | None) -> None:
        """Introduce the neighbours, once all codes have been made.

        Args:
            below: the code below; None for the lowest code.
            above: the code above; None for the top code.
        """
        self.below, self.above = below, above

    def set_shapes(self, shape: torch.Size, activation_shape: torch.Size) -> None:
        """Set the shapes of one sample.

        Args:
            shape: of its code.
            activation_shape: of its activation.
        """
        if (shape, activation_shape) != (self.shape, self.activation_shape):
            self._batch = 0
        self.shape, self.activation_shape, self.width = shape, activation_shape, shape.numel()

    def set_batch(self, batch: int, like: Tensor) -> None:
        """Make buffers for minibatches of a new size, unless there are such.

        Args:
            batch: B, the number of samples.
            like: a tensor of the model's dtype and device.
        """
        if batch != self._batch:
            self._batch = 0  # should one of them fail to be made
            self._make_buffers(batch, like)
            self._batch = batch

    @abc.abstractmethod
    def _make_buffers(self, batch: int, like: Tensor) -> None:
        """Make the buffers for a size of minibatches, or for other shapes of samples; arguments as above."""

    @abc.abstractmethod
    def encode(self, activation: Tensor) -> Tensor:
        """Make the code of a new minibatch: c0 <- map(activation).

        Args:
            activation: (B, ...), that of the code below, or the network's input behind the first pre-map.

        Returns:
            ``self.activation``, the input of the map above.
        """

    @property
    def moved(self) -> Tensor:
        """0-d float64, RMS of c0 - c after the last step."""
        return self.row[CodeScalar.moved]

    @property
    def spread(self) -> float:
        """Numbers of the code per number that is held; more than 1 if pooling drops some."""
        return 1.0

    @property
    def is_planned(self) -> bool:
        """Whether a step makes the same calls on the same buffers for every minibatch of a shape."""
        return True

    @property
    def destination(self) -> Tensor | None:
        """A buffer for the ``pulled_back`` of :meth:`step`, which the stage above may write to; or None."""
        return None

    @abc.abstractmethod
    def step(self, pulled_back: Tensor, change: Tensor | None, above: Tensor | None, first: bool) -> None:
        """A gradient step on the local objective, equation (4) for the top code and (5) for the others.

        Args:
            pulled_back: J^T r, with J and r the Jacobian and the residual of the stage above, in the unit of the code
                above; shaped like ``activation``.
            change: J^T J times the displacement of the activation, in this code's unit, shaped like ``activation``;
                or None.
            above: the parameter block of the code above; None for the top code.
            first: whether it is the first step on this minibatch.
        """

    @abc.abstractmethod
    def vjp(self, out: Tensor | None) -> Tensor:
        """Pull this stage's residual back to its input, before the activation below has moved.

        The residual W a + b - c is then the displacement of this code.

        Args:
            out: a buffer for the result, which need not be used; or None.

        Returns:
            J^T displacement, with J the Jacobian of this code's own map; shaped like the map's input.
        """

    @abc.abstractmethod
    def vjp_after_move(self, below: Code, pulled_back: Tensor, more: int) -> tuple[Tensor, Tensor | None]:
        """Pull this stage's residual back to its input, after the activation below has moved.

        Args:
            below: the code that has moved.
            pulled_back: the result of :meth:`vjp` in this step.
            more: the number of calls in a step.

        Returns:
            The ``pulled_back`` and ``change`` for the next :meth:`step` of ``below``.
        """

    @abc.abstractmethod
    def fit(self, activation: Tensor, below: Code | None, first: bool) -> None:
        """Write the gradients of the weight objective, equation (6), into the map's buffers.

        Args:
            activation: (B, ...), the current input of the map.
            below: the code that it is the activation of; None for the network's input.
            first: whether the weights are still those of the encode.
        """

    def residual_call(self, activation: Tensor, below: Code | None, first: bool) -> dict[str, Any] | None:
        """The first part of :meth:`fit`, up to the residual.

        The residuals of several stages can then be computed in one call; :meth:`finish_fit` does the rest.

        Args:
            activation, below, first: as for :meth:`fit`.

        Returns:
            The arguments of :func:`altmin_ext.ops.weight_residual` for this stage alone; None if :meth:`fit` must be
            called instead.
        """
        return None

    def finish_fit(self, activation: Tensor, call: dict[str, Any]) -> None:
        """The rest of :meth:`fit`, once the residual has been computed.

        Args:
            activation: as for :meth:`fit`.
            call: the result of :meth:`residual_call`.
        """
        raise NotImplementedError

    def rescale(self, ratio: Tensor) -> None:  # noqa: B027  (most read the scale only when they are fitted)
        """Let :meth:`fit` on this minibatch divide by another scale than that of the last :meth:`step`.

        Args:
            ratio: 0-d float64, the scale of that step over the new one, which the parameter block gets.
        """

    def weigh(self, weights: Tensor, damping: Tensor | None) -> Tensor:
        """Let samples count differently in :meth:`fit` on this minibatch; the code itself is each sample's own.

        Args:
            weights: (B,), with a mean of 1.
            damping: the damping of the top code at these weights; None for the top code, which sets it.

        Returns:
            0-d float64, that damping.
        """
        raise NotImplementedError

    def buffers(self) -> Any:
        """The buffers of a captured step that the code may replace later; the CUDA graph keeps them alive."""
        return None


def remembers_activation(map: Map) -> bool:
    """Whether a map keeps the activation of the encode without copying it, so that it must not be overwritten."""
    return isinstance(map, EvaluatedMap) and not map.uses_buffers
