"""Adam and SGD on the weights of all stages at once, with gradients that the method has computed."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from altmin_ext import _check, _state
from altmin_ext._guard import Guard
from altmin_ext.network import BoundStage
from altmin_ext.ops import AdamScalar, UpdateScalar
from altmin_ext.ops import unversioned as ops


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

    Attributes:
        state: what the update keeps between steps.
    """

    state: _state.Part = _state.Entries({})

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
    def update(self) -> None:
        """Move the weights, or none if a flag of the guard is raised or a number would not be finite."""

    def remember(self) -> Any:
        """What :meth:`recall` needs, in memory that a step does not write to."""
        return self.state.save()

    def recall(self, kept: Any) -> None:
        """Restore the state at :meth:`remember`, bit for bit, from its result ``kept``."""
        self.state.load(kept)


class SGDUpdate(WeightUpdate):
    """Gradient descent, w <- w - lr g, by :func:`altmin_ext.ops.sgd_update`."""

    def update(self) -> None:
        ops.sgd_update(
            self.weights,
            self.gradients,
            scalars=self._scalars,
            guard=self._guard,
            guard_index=self._guard_index,
        )


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
        self.state = _state.Entries(
            {
                "first_moments": _state.Listed(map(_state.InPlace, self._first_moments)),
                "second_moments": _state.Listed(
                    _state.InPlace(moments, _state.at_least_zero) for moments in self._second_moments
                ),
                "updates": _state.Attribute(self, "_updates", _whole),
            }
        )

    @property
    def _updates(self) -> float:
        return float(self._adam[AdamScalar.step])

    @_updates.setter
    def _updates(self, updates: float) -> None:
        self._adam[AdamScalar.step] = updates

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


def _whole(name: str, value: Any) -> float:
    """A count, held as a float."""
    result = _check.number(name, value, 0.0)
    if not result.is_integer():
        raise ValueError(f"{name} must be a whole number, but is {_check.shown(value)}.")
    return result
