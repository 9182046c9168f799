from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops._twins import keep_finite, no_flag_is_up
from altmin_ext.ops.numerics import soft_threshold
from altmin_ext.ops.scalars import UpdateScalar


@op(written=("weights", "guard"))
def sgd_update(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    *,
    scalars: Tensor,
    guard: Tensor | None = None,
    guard_index: Tensor | None = None,
) -> None:
    """Gradient descent with decoupled weight decay and a soft threshold, on all tensors in one call.

    w <- (1 - learning_rate decay) w - learning_rate gradient_factor gradient, then soft-thresholded by
    learning_rate threshold.

    The guard works as in :func:`adam_update`.

    Args:
        weights, gradients: lists of contiguous tensors. The i-th entries of both have the same shape, dtype and
            device.
        scalars: (len(weights), 4) float64, rows of :class:`UpdateScalar`.
        guard: (flags,) float64 or None.
        guard_index: (len(weights),) int64 on the CPU, the number of each tensor's flag; None if all share the first.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    go = no_flag_is_up(guard)
    indices = [0] * len(weights) if guard_index is None else guard_index.tolist()
    for w, gradient, row, index in zip(weights, gradients, scalars, indices, strict=True):
        lr = row[UpdateScalar.learning_rate]
        new_w = (1 - lr * row[UpdateScalar.decay]) * w - lr * row[UpdateScalar.gradient_factor] * gradient
        new_w = soft_threshold(new_w, lr * row[UpdateScalar.threshold])
        take = keep_finite(new_w, new_w, go, guard, index)
        w.copy_(torch.where(take, new_w, w))
