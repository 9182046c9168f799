"""The product of two matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from altmin_ext.ops._declaration import op


@op(written=("out",))
def matmul(
    a: Tensor, b: Tensor, *, out: Tensor, transpose_a: bool = False, transpose_b: bool = False
) -> None:
    """out = op(a) op(b), where op transposes or does nothing.

    On a CPU it is computed by kernels of our own, whose result no number of threads changes, or by the BLAS that
    torch has loaded: which of them depends on the processor and the extents alone. On a GPU ``torch.mm`` computes it.

    Args:
        a: (m, k); (k, m) if ``transpose_a``.
        b: (k, n); (n, k) if ``transpose_b``.
        out: (m, n), out.
        transpose_a: whether op(a) is a transposed.
        transpose_b: whether op(b) is b transposed.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    torch.mm(a.t() if transpose_a else a, b.t() if transpose_b else b, out=out)
