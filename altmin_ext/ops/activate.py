from __future__ import annotations

from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops._twins import raise_unless_finite
from altmin_ext.ops.activation import Activation


@op(written=("code", "activation", "guard"))
def activate(
    code: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    activation: Tensor,
    sigma: Activation,
    guard: Tensor | None = None,
) -> None:
    """code <- code + bias; activation = mask * sigma(code).

    Args:
        code: (B, n), in and out.
        bias: (n,) or None.
        mask: (B, n) dropout mask, 0 or 1/(1-p), or None.
        activation: (B, n), out; may be ``code``, which is overwritten then.
        sigma: the activation.
        guard: (1,) float64, raised if a code is not finite.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if bias is not None:
        code += bias
    raise_unless_finite(guard, code.double().square().sum())
    a = sigma.value(code)
    activation.copy_(a if mask is None else a * mask)
