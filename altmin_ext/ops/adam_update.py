from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops._twins import keep_finite, no_flag_is_up
from altmin_ext.ops.numerics import soft_threshold
from altmin_ext.ops.scalars import AdamScalar, UpdateScalar


@op(written=("weights", "first_moments", "second_moments", "adam", "guard"))
def adam_update(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    first_moments: Sequence[Tensor],
    second_moments: Sequence[Tensor],
    *,
    scalars: Tensor,
    adam: Tensor,
    guard: Tensor | None = None,
    guard_index: Tensor | None = None,
) -> None:
    """Adam (Kingma & Ba 2015) with decoupled weight decay and a soft threshold, on all tensors in one call.

    Does nothing if a flag of the guard is up, or without a tensor. An element whose weight or moment would not be
    finite keeps its old values and raises the flag of its tensor.

    Args:
        weights, gradients, first_moments, second_moments: lists of contiguous tensors. The i-th entries of all lists
            have the same shape, dtype and device.
        scalars: (len(weights), 4) float64, rows of :class:`UpdateScalar`.
        adam: (4,) float64, :class:`AdamScalar`; its ``step`` is advanced.
        guard: (flags,) float64 or None.
        guard_index: (len(weights),) int64 on the CPU, the number of each tensor's flag; None if all share the first.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if not weights:
        return
    go = no_flag_is_up(guard)
    beta1, beta2, epsilon = adam[AdamScalar.beta1], adam[AdamScalar.beta2], adam[AdamScalar.epsilon]
    adam[AdamScalar.step] += go
    t = adam[AdamScalar.step].clamp(min=1)
    indices = [0] * len(weights) if guard_index is None else guard_index.tolist()
    rows = zip(weights, gradients, first_moments, second_moments, scalars, indices, strict=True)
    for w, gradient, m, v, row, index in rows:
        lr = row[UpdateScalar.learning_rate]
        g = row[UpdateScalar.gradient_factor] * gradient
        new_m = beta1 * m + (1 - beta1) * g
        new_v = beta2 * v + (1 - beta2) * g * g
        step = lr / (1 - beta1**t) * new_m / (new_v.sqrt() / (1 - beta2**t).sqrt() + epsilon)
        new_w = (1 - lr * row[UpdateScalar.decay]) * w - step
        new_w = soft_threshold(new_w, lr * row[UpdateScalar.threshold])
        take = keep_finite(new_w, new_v, go, guard, index)
        for old, new in ((w, new_w), (m, new_m), (v, new_v)):
            old.copy_(torch.where(take, new, old))
