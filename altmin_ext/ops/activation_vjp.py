"""A gradient pulled back through an activation."""

from __future__ import annotations

from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops.activation import Activation


@op(written=("out",))
def activation_vjp(code: Tensor, gradient: Tensor, *, out: Tensor, sigma: Activation) -> None:
    """out = sigma'(code) gradient, elementwise.

    Args:
        code: any shape.
        gradient: shaped like ``code``.
        out: shaped like ``code``, out; may be ``gradient``.
        sigma: the activation. The derivative of a sign is its surrogate.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    out.copy_(sigma.derivative(code) * gradient)
