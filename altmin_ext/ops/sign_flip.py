from __future__ import annotations

import torch
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops.activation import sign
from altmin_ext.ops.code_step import conclude
from altmin_ext.ops.scalars import CodeScalar


@op(written=("displacement", "scalars", "guard"))
def sign_flip(
    code: Tensor,
    pulled_back: Tensor,
    norm: Tensor,
    *,
    mask: Tensor | None = None,
    displacement: Tensor,
    scalars: Tensor,
    above: Tensor | None,
    guard: Tensor | None = None,
) -> None:
    """Move a code that is read through a sign to the minimiser of its local objective, without a derivative.

    As long as all other units keep their signs, the local objective is a parabola in the output of one unit, with the
    minimiser target = sign(c0) - downstream incoming pulled_back / (curvature mask norm^2). The sign of the target is
    the better of -1 and +1; its size says by how much. Codes in [-1, 1] move to their target,
    displacement = c0 - target; the others stay. ``incoming`` rescales the objective as if the code above had moved by
    a root mean square of 1: its real move is so short that no flip would ever pay. For the same reason the activation
    stays that of the encode.

    Args:
        code: (B, n), c0.
        pulled_back: (B, n), W^T times the residual of the stage above, in the unit of the code above.
        norm: (n,), the norms of the columns of W, the weight of the stage above.
        mask: (B, n) dropout mask or None.
        displacement: (B, n), out, in a unit of 1; may be ``pulled_back``.
        scalars: this code's parameter block, a row of :class:`CodeScalar`.
        above: the block of the code above; None for the top code, whose objective is a quadratic upper bound of the
            loss.
        guard: (1,) float64, raised if a displacement is not finite.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    s = CodeScalar
    scalars[s.unit] = scalars[s.step_taken] = 1.0
    incoming = torch.ones_like(scalars[s.unit])
    if above is not None:
        incoming = torch.where(above[s.moved] > 0, above[s.unit] / (above[s.moved] * above[s.damping]), 0.0)
    strength = norm if mask is None else norm * mask
    pull = scalars[s.downstream] * incoming / scalars[s.curvature] * pulled_back
    target = sign(code) - pull / strength / norm
    stays = (code.abs() > 1) | (strength == 0)
    displacement.copy_(torch.where(stays, 0, code - target))
    conclude(displacement, scalars, above, guard)
