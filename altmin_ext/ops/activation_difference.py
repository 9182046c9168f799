"""How much an activation changes where its code moves."""

from __future__ import annotations

from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops.activation import Activation


@op(written=("point", "difference"))
def activation_difference(
    code: Tensor,
    moved: Tensor,
    *,
    unit: Tensor,
    point: Tensor | None = None,
    difference: Tensor,
    sigma: Activation,
) -> None:
    """point = code + unit moved; difference = (sigma(point) - sigma(code)) / unit, without cancellation.

    Args:
        code: any shape.
        moved: shaped like ``code``: how far it moves, in units of ``unit``.
        unit: 0-d float64, positive.
        point: shaped like ``code``, out; None if nothing needs it.
        difference: shaped like ``code``, out.
        sigma: the activation.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if point is not None:
        point.copy_(code + unit * moved)
    difference.copy_(sigma.difference(code, -moved, unit))
