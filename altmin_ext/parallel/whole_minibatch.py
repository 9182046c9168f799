"""The loss of a minibatch that lies on several ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from altmin_ext.losses import Loss, LossAround
from altmin_ext.parallel.ranks import Ranks


class WholeMinibatch(LossAround):
    """A loss whose mean is over the samples of all ranks, while logits and targets are those of one.

    The logits of all ranks are collected, which are few numbers beside codes and weights. So the mean, its derivative
    and whatever else a criterion does with a minibatch, such as dividing by the weights of its classes, are those of
    one process, to the same bits on every rank.

    Args:
        loss: of the whole minibatch.
        ranks: among which it is shared.
    """

    captured = True  # a loss is differentiated at the collected logits alone

    def __init__(self, loss: Loss, ranks: Ranks) -> None:
        super().__init__(loss)
        self._ranks = ranks
        self._targets: tuple[int, Tensor, Tensor] | None = None

    @property
    def of_one(self) -> Loss:
        return self._loss

    def _whole(self, y: Tensor) -> Tensor:
        """The targets of the whole minibatch, which stay the same within a step."""
        known = self._targets
        if known is None or known[0] != self._ranks.minibatch or known[1] is not y:
            self._targets = known = self._ranks.minibatch, y, self._ranks.gather(y)
        return known[2]

    def mean(self, logits: Tensor, y: Tensor) -> Tensor:
        return self._loss.mean(self._ranks.gather(logits), self._whole(y))

    def residual(
        self, logits: Tensor, bias: Tensor | None, y: Tensor, out: Tensor, bias_gradient: Tensor | None,
        loss: Tensor, correct: Tensor, flag: Tensor | None = None,
    ) -> None:  # fmt: skip
        whole = self._ranks.gather(logits)
        self._loss.residual(whole, bias, self._whole(y), whole, None, loss, correct, flag)
        out.copy_(whole[self._ranks.own])
        if bias_gradient is not None:
            torch.sum(out, 0, out=bias_gradient)

    def curvature_at(self, logits: Tensor, bias: Tensor | None, y: Tensor) -> Tensor:
        return self._loss.curvature_at(self._ranks.gather(logits), bias, self._whole(y))

    def correct(self, logits: Tensor, y: Tensor) -> Tensor | None:
        return self._loss.correct(self._ranks.gather(logits), self._whole(y))

    def check_target_values(self, y: Tensor, n_out: int) -> None:
        self._loss.check_target_values(y, n_out)
