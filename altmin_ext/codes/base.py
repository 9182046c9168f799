"""How the code of a hidden stage is held while a minibatch is trained on: made, moved, and fitted to.

A code is held as its displacement delta from the encode, c0 - c = unit delta, since after a few layers a code moves
by less than a unit in the last place of its value. It belongs to its own stage's map, which makes it, and to the
pre-map of the stage above, which reads it.
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
    """A stage's flags of the guard: of its code, and of its weights."""

    code: Tensor
    weights: Tensor


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where a code stands in its network, and what is asked of it in every step.

    Attributes:
        stage: whose map makes it.
        above: the stage that reads it.
        row: its parameter block, a row of :class:`CodeScalar`.
        flags: raised where it, or its stage's residual, is not finite.
        code_iterations, weight_iterations: how many steps the code takes, and the stage's weights after it.
        once: whether the code takes a single step without threshold, its weights take a single one, and nobody reads
            the code afterwards: then it need not outlive its activation.
    """

    stage: BoundStage
    above: BoundStage
    row: Tensor
    flags: Flags
    code_iterations: int = 1
    weight_iterations: int = 1
    once: bool = False


class Code(abc.ABC):
    """The code of a hidden stage on the minibatch at hand.

    Args:
        slot: where it stands.

    Attributes:
        below, above: the codes beside it; None at the ends of the chain.
        unit: 0-d, what ``displacement`` is measured in; an entry of ``row``.
        width: numbers per sample.
        activation: what the stage above takes, at the code as it is now.
        activation_displacement: (a - a0) / unit, shaped like it.
    """

    activation: Tensor
    activation_displacement: Tensor | None
    iterates_itself = False  # whether one call of step is all of them
    activation_moves = True  # whether the stage above reads anything else than at the encode
    in_lanes = False  # whether 16 samples lie side by side
    below: Code | None = None
    above: Code | None = None

    def __init__(self, slot: Slot) -> None:
        self.pre = slot.above.pre
        self.row, self.flags = slot.row, slot.flags
        self.unit = slot.row[CodeScalar.unit]
        self.shape = self.activation_shape = torch.Size()
        self.width = 0

    def connect(self, below: Code | None, above: Code | None) -> None:
        """Say which codes are beside it, once all have been made."""
        self.below, self.above = below, above

    def set_shapes(self, shape: torch.Size, activation_shape: torch.Size) -> None:
        """Say of which shape a sample's code and its activation are."""
        self.shape, self.activation_shape, self.width = shape, activation_shape, shape.numel()

    @abc.abstractmethod
    def set_batch(self, batch: int, like: Tensor) -> None:
        """Make buffers for a minibatch of this size; those of a larger one are used in part."""

    @abc.abstractmethod
    def encode(self, activation: Tensor) -> Tensor:
        """c0 <- map(activation below); returns the activation for the stage above."""

    @property
    def moved(self) -> Tensor:
        """0-d float64, RMS of c0 - c after the last step."""
        return self.row[CodeScalar.moved]

    @property
    def spread(self) -> float:
        """How many numbers the code has for each that is held."""
        return 1.0

    @property
    def destination(self) -> Tensor | None:
        """Where the stage above may put what it pulls back for :meth:`step`."""
        return None

    @abc.abstractmethod
    def step(self, pulled_back: Tensor, change: Tensor | None, above: Tensor | None, first: bool) -> None:
        """A gradient step on the local objective, equation (4) for the top code and (5) for the others.

        Args:
            pulled_back: J^T of the stage above on its residual, in units of the code above.
            change: J^T J of the stage above on the activation's displacement, in this code's unit, or None.
            above: the parameter block of the code above; None for the top code.
            first: whether it is the first step on this minibatch.
        """

    @abc.abstractmethod
    def vjp(self, out: Tensor | None) -> Tensor:
        """J^T displacement, J of this code's own map: the residual W a + b - c before the activation below moved."""

    @abc.abstractmethod
    def vjp_after_move(self, below: Code, pulled_back: Tensor, more: int) -> tuple[Tensor, Tensor | None]:
        """The same after it has: what :meth:`step` takes as ``pulled_back`` and ``change``.

        Args:
            below: the code that has moved.
            pulled_back: what :meth:`vjp` gave in this step.
            more: how often this will be asked for in a step.
        """

    @abc.abstractmethod
    def fit(self, activation: Tensor, below: Code | None, first: bool) -> None:
        """The gradients of the weight objective, equation (6), into the map's buffers.

        Args:
            activation: the input of the map, as it is now.
            below: the code it comes from; None for the network's input.
            first: whether the weights are still those of the encode.
        """

    def residual_call(self, activation: Tensor, below: Code | None, first: bool) -> dict[str, Any] | None:
        """The arguments of :func:`ops.weight_residual` for this stage alone, given what :meth:`fit` is given.

        Those of several stages can be put into one call; :meth:`finish_fit` of each then does the rest of
        :meth:`fit`. None: this code's :meth:`fit` must be called instead.
        """
        return None

    def finish_fit(self, activation: Tensor, call: dict[str, Any]) -> None:
        """What is left of :meth:`fit` once the residual that ``call`` asked for is there."""
        raise NotImplementedError

    def buffers(self) -> Any:
        """What a captured step uses and the code may replace later."""
        return None


def remembers_activation(map: Map) -> bool:
    """Whether a map keeps the activation of the encode by itself, and not by a copy: then that must stay."""
    return isinstance(map, EvaluatedMap) and not map.uses_buffers
