from __future__ import annotations

import torch
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops._twins import raise_unless_finite


@op(written=("out", "guard"))
def relu_prox(
    activation: Tensor,
    center: Tensor,
    *,
    out: Tensor,
    gamma: float,
    beta: float,
    guard: Tensor | None = None,
) -> None:
    """argmin_z gamma (activation - relu(z))^2 + beta (z - center)^2, elementwise.

    The update of a pre-activation in methods that hold pre-activations and activations as variables (Taylor et al.
    2016; Wang et al. 2019, dlADMM). Of two equally good values it takes the positive one.

    Args:
        activation: (B, n).
        center: (B, n).
        out: (B, n), out; may be ``activation`` or ``center``.
        gamma, beta: positive.
        guard: (1,) float64, raised if a result is not finite.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, arguments share memory, or ``gamma`` or ``beta``
            is not positive and finite.
    """

    right = torch.relu((gamma * activation + beta * center) / (gamma + beta))
    # What the center loses to `right` in the first term, and gains in the second.
    loss = torch.where(right > 0, gamma * right * (2 * activation - right), 0)
    gain = beta * (right - center) ** 2
    out.copy_(torch.where((center < 0) & (loss < gain), center, right))
    raise_unless_finite(guard, (out * 0).sum())
