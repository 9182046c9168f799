from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops._twins import may_go_on, no_flag_is_up
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

    All or nothing, with a guard, as in :func:`adam_update`; weights must be finite.

    Args:
        weights, gradients: lists of contiguous tensors. The i-th entries of both have the same shape, dtype and
            device.
        scalars: (len(weights), 4) float64, rows of :class:`UpdateScalar`.
        guard: (flags,) float64 or None.
        guard_index: (len(weights),) int64 on the CPU, the number of each tensor's flag; None if all share the first.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if not weights:
        return
    indices = [0] * len(weights) if guard_index is None else guard_index.tolist()
    new = []
    for w, gradient, row in zip(weights, gradients, scalars, strict=True):
        lr = row[UpdateScalar.learning_rate]
        new_w = (1 - lr * row[UpdateScalar.decay]) * w - lr * row[UpdateScalar.gradient_factor] * gradient
        new.append(soft_threshold(new_w, lr * row[UpdateScalar.threshold]))
    take = may_go_on(no_flag_is_up(guard), [(w,) for w in new], guard, indices)
    for w, new_w in zip(weights, new, strict=True):
        w.copy_(torch.where(take, new_w, w))
