from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops._twins import outside, raise_unless_finite


@op(written=("residual", "bias_gradient", "loss", "correct", "guard"))
def softmax_residual(
    logits: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor,
    bias_gradient: Tensor | None = None,
    loss: Tensor,
    correct: Tensor,
    guard: Tensor | None = None,
) -> None:
    """residual = softmax(logits + bias) - onehot(labels), with the cross-entropy and the correct count in one pass.

    Args:
        logits: (B, C).
        labels: (B,) int64; on a GPU a label outside [0, C) makes the loss NaN, which raises the guard.
        bias: (C,) or None.
        residual: (B, C), out; may be ``logits``.
        bias_gradient: (C,), out: sum over the batch of the residual; or None.
        loss: 0-d, out: batch mean of the cross-entropy.
        correct: 0-d int64, out: the number of samples whose largest logit is that of their label.
        guard: (1,) float64, raised if the loss is not finite.

    Raises:
        ValueError: a label outside [0, C) (on the CPU), a wrong shape or device, or shared memory.
        TypeError: a wrong dtype.
    """
    classes = logits.shape[1]
    wrong = outside(labels, classes)
    z = logits if bias is None else logits + bias
    inside = labels.clamp(0, classes - 1)
    loss.copy_(torch.where(wrong.any(), torch.nan, F.cross_entropy(z, inside)))
    correct.copy_((z.argmax(1) == labels).sum())
    residual.copy_(z.softmax(1) - F.one_hot(inside, classes))
    if bias_gradient is not None:
        torch.sum(residual, 0, out=bias_gradient)
    raise_unless_finite(guard, loss)
