from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops.scalars import MemoryScalar


@op(written=("gram", "cross"))
def memory_update(
    activation: Tensor,
    code: Tensor,
    *,
    gram: Tensor,
    cross: Tensor,
    scalars: Tensor,
    subtract: bool = False,
    upper: bool = False,
    gram_before: Tensor | None = None,
    cross_before: Tensor | None = None,
) -> None:
    """gram <- (1 - forgetting) gram + sum_b a~ a~^T; cross <- (1 - forgetting) cross + sum_b c a~^T.

    These two matrices are all that a stage remembers of its past data (AM-mem, Choromanska et al. 2019, equation 7).
    With ``subtract`` both sums are taken off: the minibatch is removed from the past. The inverse P of gram follows
    gram by the same op: in P <- P / (1 - f) - K^T K, ``activation`` is K and forgetting -f / (1 - f).

    Args:
        activation: (B, n), a.
        code: (B, m), c.
        gram: (n, n), or (n + 1, n + 1) with a~ = [a; 1] for a bias; in and out. Its upper triangle is
            read, and both are written.
        cross: (m, n) or (m, n + 1), in and out.
        scalars: (3,) float64, :class:`MemoryScalar`; a forgetting below 0 lets the past grow.
        subtract: take the sums off instead of adding them.
        upper: write the upper triangle of ``gram`` alone; the other one stays as it is.
        gram_before: A to add to, shaped like ``gram``, which then is only written; None for ``gram`` itself. Its
            upper triangle is read.
        cross_before: in the same way, for ``cross``.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if len(gram) > activation.shape[1]:
        activation = F.pad(activation, (0, 1), value=1.0)
    forgetting = scalars[MemoryScalar.forgetting]
    sign = -1 if subtract else 1
    past = (gram if gram_before is None else gram_before).triu()
    past = past + past.triu(1).T
    past_cross = cross if cross_before is None else cross_before
    new = (past - forgetting * past) + sign * (activation.T @ activation)
    written = torch.ones_like(gram, dtype=torch.bool)
    gram.copy_(torch.where(written.triu() if upper else written, new, gram))
    cross.copy_((past_cross - forgetting * past_cross) + sign * (code.T @ activation))
