"""What a minibatch does to the inverse of a memory."""

from __future__ import annotations

import torch
from torch import Tensor

from altmin_ext.ops._declaration import op


@op(written=("factor", "solution", "smallest_pivot"))
def memory_solve(
    inputs: Tensor,
    product: Tensor,
    *,
    factor: Tensor,
    solution: Tensor,
    smallest_pivot: Tensor,
    removes: bool = False,
) -> None:
    """Solve for what a minibatch changes: S = I + U X^T = C C^T with U = X P; K = C^-1 U; Z = C^-T K.

    P is the inverse of a memory A, X a minibatch. A + X^T X then has the inverse P - K^T K (Sherman, Morrison and
    Woodbury), and Z is X times that inverse: recursive least squares for B samples at once. With ``removes`` the
    minibatch is taken out again: S = I - U X^T, and A - X^T X has the inverse P + K^T K.

    Args:
        inputs: (B, n), X.
        product: (B, n), U.
        factor: (B, n), out: K; may be ``product``.
        solution: (B, n), out: Z.
        smallest_pivot: (1,) float64, out: the smallest square on C's diagonal, 1 if B or n is 0. It is NaN unless all
            are positive and finite, and K and Z are NaN then, too.
        removes: whether the minibatch is taken out.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    overlap = (product @ inputs.T).triu().T  # a Cholesky factor takes the lower triangle
    identity = torch.eye(len(product), dtype=product.dtype, device=product.device)
    lower, failed = torch.linalg.cholesky_ex(identity - overlap if removes else identity + overlap)
    pivots = lower.diagonal().double().square()
    is_sound = (failed == 0) & pivots.isfinite().all()
    k = torch.linalg.solve_triangular(lower, product, upper=False)
    nan = torch.full((), torch.nan, dtype=product.dtype, device=product.device)
    solution.copy_(torch.where(is_sound, torch.linalg.solve_triangular(lower.T, k, upper=True), nan))
    factor.copy_(torch.where(is_sound, k, nan))
    smallest = pivots.amin() if product.numel() else torch.ones_like(smallest_pivot)
    smallest_pivot.copy_(torch.where(is_sound, smallest, torch.nan))
