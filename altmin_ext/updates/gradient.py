"""Adam and SGD on the weights of all stages at once, with gradients that the method has computed."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from altmin_ext import ops
from altmin_ext._guard import Guard
from altmin_ext.network import BoundStage
from altmin_ext.ops import AdamScalar, UpdateScalar


def copy_from_host(to: Tensor, host: Tensor) -> None:
    """Copy a tensor from the CPU, without waiting if the destination is on a GPU.

    Args:
        to: the destination.
        host: on the CPU, shaped like ``to``.
    """
    to.copy_(host.pin_memory() if to.is_cuda else host, non_blocking=True)


class WeightUpdate(abc.ABC):
    """A gradient step on the parameters of all stages in one call.

    The gradients are read from the buffers of the stages' maps; :meth:`set_scalars` sets the learning rates.

    Args:
        stages: the stages whose parameters are trained.
        guard: the flags of the method.
        first: the number of the first of these stages in the guard.
    """

    def __init__(self, stages: Sequence[BoundStage], guard: Guard, first: int = 0) -> None:
        self.weights: list[Tensor] = [p for stage in stages for p in stage.map.parameters]
        self.gradients: list[Tensor] = [g for stage in stages for g in stage.map.gradients]
        owners = [i for i, stage in enumerate(stages) for _ in stage.map.parameters]
        self._owners = owners
        self._guard = guard.flags
        self._device = self._guard.device
        flags = [guard.number_of_weights(first + i) for i in owners]
        self._guard_index = torch.tensor(flags, dtype=torch.int64)
        self._scalars = torch.zeros(len(owners), len(UpdateScalar), dtype=torch.float64, device=self._device)

    def set_scalars(
        self, learning_rates: Sequence[float], gradient_factors: Sequence[float], decay: float, l1: float
    ) -> None:
        """Set the scalars of the following updates.

        Args:
            learning_rates: of each stage.
            gradient_factors: factors of the gradients of each stage, such as 1 / B.
            decay: decoupled weight decay; a step shrinks weights by learning rate times decay.
            l1: factor of the penalty ||W||_1; biases are free of it.
        """
        rows = [
            (learning_rates[stage], gradient_factors[stage], decay, l1 if weight.ndim > 1 else 0.0)
            for stage, weight in zip(self._owners, self.weights, strict=True)
        ]
        copy_from_host(self._scalars, torch.tensor(rows, dtype=torch.float64).reshape(self._scalars.shape))

    @abc.abstractmethod
    def longest_step(self, learning_rate: float) -> float:
        """A bound of the change of a weight in one update, by gradients whose squares are finite."""

    def may_overflow(self, learning_rate: float, decay: float) -> bool:
        """Whether such an update may be refused for some weights, after it has moved others.

        The largest finite number overflows only by a step of half its distance to the number below.
        """
        if not self.weights:
            return False
        numbers = torch.finfo(self.weights[0].dtype)
        return self.longest_step(learning_rate) > numbers.max * numbers.eps / 10 or learning_rate * decay > 1

    @abc.abstractmethod
    def update(self) -> None:
        """Move the weights, unless a flag of the guard is raised."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The state that the update keeps between steps, in tensors of its own."""

    @abc.abstractmethod
    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise a ValueError unless the shapes in ``state``, from :meth:`state_dict`, fit the weights."""

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``, the result of an earlier :meth:`state_dict`."""

    def remember(self) -> Any:
        """What :meth:`recall` needs, in memory that a step does not write to."""
        return self.state_dict()

    def recall(self, kept: Any) -> None:
        """Restore the state at :meth:`remember`, bit for bit, from its result ``kept``."""
        self.load_state_dict(kept)


class SGDUpdate(WeightUpdate):
    """Gradient descent, w <- w - lr g, by :func:`altmin_ext.ops.sgd_update`."""

    def longest_step(self, learning_rate: float) -> float:
        return learning_rate * math.sqrt(torch.finfo(self.weights[0].dtype).max)

    def update(self) -> None:
        ops.sgd_update(
            self.weights,
            self.gradients,
            scalars=self._scalars,
            guard=self._guard,
            guard_index=self._guard_index,
        )

    def state_dict(self) -> dict[str, Any]:
        return {}

    def check_state(self, state: Mapping[str, Any]) -> None:
        pass

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class AdamUpdate(WeightUpdate):
    """Adam (Kingma & Ba 2015) with bias correction: betas .9 and .999, epsilon 1e-8.

    Args:
        stages, guard, first: as for :class:`WeightUpdate`.
    """

    def __init__(self, stages: Sequence[BoundStage], guard: Guard, first: int = 0) -> None:
        super().__init__(stages, guard, first)
        self._first_moments = [torch.zeros_like(w, requires_grad=False) for w in self.weights]
        self._second_moments = [torch.zeros_like(w, requires_grad=False) for w in self.weights]
        self._adam = torch.zeros(len(AdamScalar), dtype=torch.float64, device=self._device)
        for entry, value in ((AdamScalar.beta1, 0.9), (AdamScalar.beta2, 0.999), (AdamScalar.epsilon, 1e-8)):
            self._adam[entry] = value

    def longest_step(self, learning_rate: float) -> float:
        return 7.3 * learning_rate  # by the Cauchy-Schwarz inequality, with these betas

    def update(self) -> None:
        ops.adam_update(
            self.weights,
            self.gradients,
            self._first_moments,
            self._second_moments,
            scalars=self._scalars,
            adam=self._adam,
            guard=self._guard,
            guard_index=self._guard_index,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "first_moments": [m.clone() for m in self._first_moments],
            "second_moments": [v.clone() for v in self._second_moments],
            "updates": float(self._adam[AdamScalar.step]),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        for name, own in (("first_moments", self._first_moments), ("second_moments", self._second_moments)):
            shapes = [tuple(t.shape) for t in state[name]]
            if shapes != [tuple(t.shape) for t in own]:
                raise ValueError(
                    f"state's {name} must have the shapes of the model's weights, but have {shapes}."
                )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        moments = zip(self._first_moments, state["first_moments"], strict=True)
        squares = zip(self._second_moments, state["second_moments"], strict=True)
        for moment, kept in (*moments, *squares):
            moment.copy_(kept)
        self._adam[AdamScalar.step] = state["updates"]
