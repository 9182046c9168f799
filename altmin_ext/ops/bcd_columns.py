from __future__ import annotations

import torch
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops.numerics import soft_threshold
from altmin_ext.ops.scalars import MemoryScalar


@op(written=("weight",))
def bcd_columns(
    weight: Tensor,
    gram: Tensor,
    cross: Tensor,
    *,
    scalars: Tensor,
    sweeps: int = 1,
    has_bias: bool = False,
    nonnegative: bool = False,
) -> None:
    """Block coordinate descent over the columns of W: w_j <- w_j + (b_j - W a_j) / A_jj for j = 0, 1, ...

    Each sweep goes once through the columns, in increasing order. This is algorithm 3 of AM-mem (Choromanska et al.
    2019); with ``nonnegative`` it is the HALS update of non-negative matrix factorisation (Cichocki & Phan 2009).

    Args:
        weight: (m, n), W, in and out.
        gram: (n, n), A, symmetric; a column with A_jj <= eps max_k A_kk keeps its w_j.
        cross: (m, n), B.
        scalars: (2,) float64, :class:`MemoryScalar`: after its step w_j is soft-thresholded by threshold / A_jj.
        sweeps: the number of sweeps, at least 1.
        has_bias: the last column is the bias, which is neither thresholded nor clipped.
        nonnegative: clip w_j at zero.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, ``sweeps`` is less than 1, or arguments share
            memory.
    """
    if len(gram) == 0:
        return
    diagonal = gram.diagonal()
    smallest = torch.finfo(gram.dtype).eps * diagonal.max()
    for _ in range(sweeps):
        for j in range(len(gram)):
            w = weight[:, j] + (cross[:, j] - weight @ gram[:, j]) / diagonal[j]
            if not (has_bias and j == len(gram) - 1):
                w = soft_threshold(w, scalars[MemoryScalar.threshold] / diagonal[j])
                w = torch.relu(w) if nonnegative else w
            weight[:, j] = torch.where(diagonal[j] <= smallest, weight[:, j], w)
