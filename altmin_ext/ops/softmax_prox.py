from __future__ import annotations

import math

import torch
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops._twins import outside, raise_unless_finite


def _wright_omega(x: Tensor) -> Tensor:
    """omega + log omega = x."""
    middle = x.clamp(min=-40)
    log_x = middle.clamp(min=1).log()
    small, large = torch.exp(torch.minimum(middle, 2 * (middle - 1) / 3)), middle - log_x + log_x / middle
    omega = torch.where(middle < 1, small, large)
    for _ in range(2):
        r = middle - omega - omega.log()
        a = 2 * (1 + omega) * (1 + omega + 2 * r / 3)
        omega = omega + omega * r * (a - r) / ((1 + omega) * (a - 2 * r))
    return torch.where(x < -40, x.exp(), omega)


@op(written=("out", "guard"))
def softmax_prox(
    center: Tensor,
    labels: Tensor,
    *,
    out: Tensor,
    rho: float,
    guard: Tensor | None = None,
) -> None:
    """argmin_z -log softmax(z)[label] + rho / 2 ||z - center||^2, row by row.

    The update of the output code in methods that hold it as a variable (Wang et al. 2019, dlADMM; Wang et al. 2022,
    mDLAM). Exact up to rounding: Newton's method solves a scalar equation in the Wright omega function, in float64.

    Args:
        center: (B, C).
        labels: (B,) int64; on a GPU a label outside [0, C) makes its row NaN, which raises the guard.
        out: (B, C), out; may be ``center``.
        rho: positive.
        guard: (1,) float64, raised if a result is not finite.

    Raises:
        ValueError: a label outside [0, C) (on the CPU), a wrong shape or device, shared memory, or a ``rho`` that is
            not positive and finite.
        TypeError: a wrong dtype.
    """
    classes = center.shape[1]
    wrong = outside(labels, classes)
    v = center.double()
    index = labels.clamp(0, classes - 1).unsqueeze(1)
    of_label = torch.where(wrong.unsqueeze(1), torch.nan, v.gather(1, index))
    difference = v - of_label
    others = torch.ones_like(v).scatter_(1, index, 0)
    # The loss at the minimiser, by Newton's method. The number of steps is fixed, since a test for convergence would
    # wait for the GPU.
    loss = torch.relu(difference.amax(1, keepdim=True) - 2 / rho)
    for _ in range(40):
        rise, rise_slope = -torch.expm1(-loss) / rho, torch.exp(-loss) / rho
        omega = others * _wright_omega(difference - math.log(rho) - rise - loss)
        slope = (omega / (1 + omega)).sum(1, keepdim=True) * (1 + rise_slope) + rise_slope
        loss = loss + (omega.sum(1, keepdim=True) - rise) / slope
    rise = -torch.expm1(-loss) / rho
    omega = others * _wright_omega(difference - math.log(rho) - rise - loss)
    out.copy_(v - omega + (1 - others) * rise)
    raise_unless_finite(guard, (out * 0).sum())
