from __future__ import annotations

from torch import Tensor

from altmin_ext.ops._declaration import op


@op(written=("rows",))
def deinterleave(
    lanes: Tensor,
    rows: Tensor,
) -> None:
    """rows[16 g + l, i] = lanes[g, i, l]: the opposite of :func:`interleave`.

    Args:
        lanes: (ceil(B / 16), n, 16).
        rows: (B, n), out.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    groups, width, side = lanes.shape
    rows.copy_(lanes.transpose(1, 2).reshape(groups * side, width)[: len(rows)])
