from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops._twins import may_go_on, no_flag_is_up
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

    All or nothing: if a weight or moment would not be finite, nothing changes but the flags of the tensors that have
    one, which go up. Does nothing if a flag of the guard is up, or without a tensor.

    Weights and moments must be finite, and moments zero or what earlier updates have left. Where they are not, the
    flag goes up as well, but perhaps only when others have moved: gradients alone are looked at beforehand.

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
    t = adam[AdamScalar.step] + 1
    indices = [0] * len(weights) if guard_index is None else guard_index.tolist()
    old = list(zip(weights, first_moments, second_moments, strict=True))
    new = []
    for (w, m, v), gradient, row in zip(old, gradients, scalars, strict=True):
        lr = row[UpdateScalar.learning_rate]
        g = row[UpdateScalar.gradient_factor] * gradient
        new_m = beta1 * m + (1 - beta1) * g
        new_v = beta2 * v + (1 - beta2) * g * g
        step = lr / (1 - beta1**t) * new_m / (new_v.sqrt() / (1 - beta2**t).sqrt() + epsilon)
        new_w = (1 - lr * row[UpdateScalar.decay]) * w - step
        new.append((soft_threshold(new_w, lr * row[UpdateScalar.threshold]), new_m, new_v))
    take = may_go_on(go, new, guard, indices)
    adam[AdamScalar.step] += take
    for values, new_values in zip(old, new, strict=True):
        for value, new_value in zip(values, new_values, strict=True):
            value.copy_(torch.where(take, new_value, value))
