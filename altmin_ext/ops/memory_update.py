from __future__ import annotations

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
) -> None:
    """gram <- (1 - forgetting) gram + sum_b a~ a~^T; cross <- (1 - forgetting) cross + sum_b c a~^T.

    These two matrices are all that a stage remembers of its past data (AM-mem, Choromanska et al. 2019, equation 7).
    With ``subtract`` both sums are taken off: the minibatch is removed from the past. So the inverse P of gram follows
    it, too: P <- P / (1 - forgetting) - K^T K, where ``activation`` is K and the block's own forgetting
    -forgetting / (1 - forgetting).

    Args:
        activation: (B, n), a.
        code: (B, m), c.
        gram: (n, n), or (n + 1, n + 1) with a~ = [a; 1] for a bias; in and out, both triangles.
        cross: (m, n) or (m, n + 1), in and out.
        scalars: (3,) float64, :class:`MemoryScalar`; a forgetting below 0 lets the past grow.
        subtract: take the sums off instead of adding them.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if len(gram) > activation.shape[1]:
        activation = F.pad(activation, (0, 1), value=1.0)
    forgetting = scalars[MemoryScalar.forgetting]
    sign = -1 if subtract else 1
    gram.copy_((gram - forgetting * gram) + sign * (activation.T @ activation))
    cross.copy_((cross - forgetting * cross) + sign * (code.T @ activation))
