from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops.scalars import MemoryScalar


@op(written=("factor", "solution", "smallest_pivot"))
def memory_solve(
    activation: Tensor,
    product: Tensor,
    bias: Tensor | None,
    *,
    factor: Tensor,
    solution: Tensor,
    smallest_pivot: Tensor,
    scalars: Tensor,
    removes: bool = False,
) -> None:
    """The part of a recursive least-squares step that fits a minibatch: two triangular solves with a B x B matrix.

    With P the inverse of a memory A, a~ = [a; 1] if there is a bias, else a~ = a, and X~ the minibatch's a~ in rows,
    (1 - forgetting) A + X~^T X~ has the inverse P / (1 - forgetting) - K^T K (Sherman, Morrison and Woodbury), where

        U = X~ P / (1 - forgetting),  S = I + U X~^T = C C^T,  K = C^-1 U .

    Z = C^-T K is X~ times the new inverse. With ``removes`` the minibatch is taken out of A instead: then
    S = I - U X~^T, and the new inverse is P / (1 - forgetting) + K^T K.

    The block's entry is that of P, 1 - 1 / (1 - forgetting), where the above has A's. So the same block serves
    :func:`memory_update`, which then changes P.

    Args:
        activation: (B, n_in), a.
        product: (B, n), X~ P, but for the bias: n = n_in, or n_in + 1 with a bias.
        bias: (n,), the last row of P, which is added to each row of ``product``; None without a bias.
        factor: (B, n), out: K; may be ``product``.
        solution: (B, n), out: Z.
        smallest_pivot: (1,) float64, out: the smallest of the squares of C's diagonal. NaN unless all of them are
            positive and finite, and K and Z then are NaN, too.
        scalars: (2,) float64, :class:`MemoryScalar`.
        removes: whether the minibatch is taken out.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    past = product if bias is None else product + bias
    past = past - scalars[MemoryScalar.forgetting].to(past.dtype) * past
    inputs = activation if bias is None else F.pad(activation, (0, 1), value=1.0)
    overlap = past @ inputs.T
    s = torch.eye(len(past), dtype=past.dtype, device=past.device)
    s = s - overlap if removes else s + overlap
    lower, failed = torch.linalg.cholesky_ex(s)
    pivots = lower.diagonal().double().square()
    is_sound = (failed == 0) & pivots.isfinite().all()
    nan = torch.full((), torch.nan, dtype=past.dtype, device=past.device)
    k = torch.linalg.solve_triangular(lower, past, upper=False)
    solution.copy_(torch.where(is_sound, torch.linalg.solve_triangular(lower.T, k, upper=True), nan))
    factor.copy_(torch.where(is_sound, k, nan))
    smallest = pivots.amin() if len(pivots) else torch.ones_like(smallest_pivot)
    smallest_pivot.copy_(torch.where(is_sound, smallest, torch.nan))
