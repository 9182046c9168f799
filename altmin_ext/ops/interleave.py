from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from altmin_ext.ops._declaration import op


@op(written=("lanes",))
def interleave(
    rows: Tensor,
    lanes: Tensor,
) -> None:
    """lanes[g, i, l] = rows[16 g + l, i]: from one sample per row to 16 samples side by side.

    Lanes without a sample are zero.

    Args:
        rows: (B, n).
        lanes: (ceil(B / 16), n, 16), out.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    groups, width, side = lanes.shape
    filled = F.pad(rows, (0, 0, 0, groups * side - len(rows)))
    lanes.copy_(filled.view(groups, side, width).transpose(1, 2))
