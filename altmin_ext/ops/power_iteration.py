from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from altmin_ext.ops._declaration import op


@op(written=("vectors", "sigma_squared"))
def power_iteration(
    weights: Sequence[Tensor],
    vectors: Sequence[Tensor],
    sigma_squared: Sequence[Tensor],
) -> None:
    """One step of power iteration towards the largest squared singular value of each matrix.

    t = W^T W v; sigma_squared = ||t||; v <- t / ||t||, unless t is zero or not finite.

    Args:
        weights: a list of matrices W, (rows, columns) each.
        vectors: a list of vectors v, (columns,) each, of unit norm, in and out.
        sigma_squared: a list of (1,) float64 each, out: ||W^T W v||, which approaches sigma_max(W)^2 from below.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    for weight, vector, square in zip(weights, vectors, sigma_squared, strict=True):
        t = weight.T @ (weight @ vector)
        norm = t.double().norm()
        square.copy_(norm)
        moved = (norm > 0) & torch.isfinite(norm)
        vector.copy_(torch.where(moved, t / norm.to(t.dtype), vector))
