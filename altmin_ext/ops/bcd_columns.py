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
    from_zero: bool = False,
) -> None:
    """Block coordinate descent over the columns of W: w_j <- w_j + (b_j - W a_j) / A_jj for j = 0, 1, ...

    Each sweep goes once through the columns, in increasing order. This is algorithm 3 of AM-mem (Choromanska et al.
    2019); with ``nonnegative`` it is the HALS update of non-negative matrix factorisation (Cichocki & Phan 2009).

    Args:
        weight: (m, n), W, in and out.
        gram: (n, n), A, symmetric; a column with A_jj <= eps max_k A_kk keeps its w_j. What is said of A here means
            A + damping mean_k(A_kk) I, but ``gram`` stays as it is.
        cross: (m, n), B.
        scalars: (3,) float64, :class:`MemoryScalar`: damping; after its step w_j is soft-thresholded by
            threshold / A_jj.
        sweeps: the number of sweeps, at least 1.
        has_bias: the last column is the bias, which is neither thresholded nor clipped.
        nonnegative: clip w_j at zero.
        from_zero: start from W = 0, whatever ``weight`` holds. The first sweep then is a triangular solve,
            W <- B triu(A)^-1 but for thresholds and clipping: half of the work, and only the upper triangle of A is
            read.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, ``sweeps`` is less than 1, or arguments share
            memory.
    """
    if len(gram) == 0:
        return
    gram, damping = gram.clone(), scalars[MemoryScalar.damping]
    diagonal = gram.diagonal()
    diagonal += torch.where(damping > 0, damping * diagonal.double().mean(), 0.0)
    smallest = torch.finfo(gram.dtype).eps * diagonal.max()
    if from_zero:
        weight.zero_()
    for sweep in range(sweeps):
        for j in range(len(gram)):
            known = j if from_zero and sweep == 0 else len(gram)  # those behind are zero
            w = weight[:, j] + (cross[:, j] - weight[:, :known] @ gram[:known, j]) / diagonal[j]
            if not (has_bias and j == len(gram) - 1):
                w = soft_threshold(w, scalars[MemoryScalar.threshold] / diagonal[j])
                w = torch.relu(w) if nonnegative else w
            weight[:, j] = torch.where(diagonal[j] <= smallest, weight[:, j], w)
