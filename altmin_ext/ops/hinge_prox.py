from __future__ import annotations

import torch
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops._twins import raise_unless_finite


@op(written=("out", "guard"))
def hinge_prox(
    center: Tensor,
    targets: Tensor,
    multiplier: Tensor,
    *,
    out: Tensor,
    beta: float,
    guard: Tensor | None = None,
) -> None:
    """argmin_z l(z, target) + multiplier z + beta (z - center)^2, elementwise.

    With the hinge loss l(z, 1) = max(1 - z, 0), l(z, 0) = max(z, 0): the output code of Taylor et al. (2016).

    Args:
        center: (B, n).
        targets: (B, n), 0 or 1; any other value makes its result NaN.
        multiplier: (B, n).
        out: (B, n), out; may be ``center``.
        beta: positive.
        guard: (1,) float64, raised if a result is not finite.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, arguments share memory, or ``beta`` is not
            positive and finite.
    """
    flat = center - multiplier / (2 * beta)
    lower, upper = flat - (1 - targets) / (2 * beta), flat + targets / (2 * beta)
    result = torch.clamp(targets, lower, upper)
    out.copy_(torch.where((targets == 0) | (targets == 1), result, torch.nan))
    raise_unless_finite(guard, (out * 0).sum())
