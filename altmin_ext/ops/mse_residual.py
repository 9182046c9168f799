from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops._twins import raise_unless_finite


@op(written=("residual", "bias_gradient", "loss", "guard"))
def mse_residual(
    logits: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor,
    bias_gradient: Tensor | None = None,
    loss: Tensor,
    guard: Tensor | None = None,
) -> None:
    """residual = (2 / C) (logits + bias - targets), with the mean squared error in the same pass.

    Args:
        logits: (B, C).
        targets: (B, C).
        bias: (C,) or None.
        residual: (B, C), out; may be ``logits``.
        bias_gradient: (C,), out: sum over the batch of the residual; or None.
        loss: 0-d, out: mean over B and C of the squared error.
        guard: (1,) float64, raised if the loss is not finite.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    z = logits if bias is None else logits + bias
    loss.copy_(F.mse_loss(z, targets))
    residual.copy_((2 / max(1, logits.shape[1])) * (z - targets))
    if bias_gradient is not None:
        torch.sum(residual, 0, out=bias_gradient)
    raise_unless_finite(guard, loss)
