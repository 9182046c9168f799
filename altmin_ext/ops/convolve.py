from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops._lanes import images_of, lanes_of
from altmin_ext.ops._twins import raise_unless_finite
from altmin_ext.ops.activation import Activation


@op(written=("code", "activation", "winner", "gap", "guard"))
def convolve(
    input: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    code: Tensor,
    activation: Tensor,
    winner: Tensor | None = None,
    gap: Tensor | None = None,
    padding: tuple[int, int],
    pool: int,
    sigma: Activation,
    guard: Tensor | None = None,
) -> None:
    """code = the largest of each pooling window of conv(input) + bias; activation = mask * sigma(code).

    16 samples lie side by side, see :func:`interleave`: G = ceil(B / 16). Strides, dilations and groups are 1.
    Windows of pool x pool do not overlap; a remainder at the right and at the bottom belongs to no window.

    Args:
        input: (G, n, H, W, 16).
        weight: (m, n, h, w).
        bias: (m,) or None.
        mask: like ``code``, dropout mask or None.
        code: (G, m, (H + 2 padding[0] - h + 1) // pool, (W + 2 padding[1] - w + 1) // pool, 16), out.
        activation: like ``code``, out; may be ``code``, which is overwritten then.
        winner: like ``code``, uint8, out: the place of the largest in its window, counted row by row, the first of
            equals; or None.
        gap: like ``code``, out: the largest minus the second largest of the window; or None.
        padding: zeros on either side of H and of W, fewer than the kernel's extents.
        pool: side of a window, at most 16; 1 for no pooling, and then neither winner nor gap.
        sigma: the activation; it must be monotone if ``pool`` is more than 1.
        guard: (1,) float64, raised if a code is not finite.

    Raises:
        TypeError, ValueError: an argument does not fit, or arguments share memory.
    """
    convolved = lanes_of(F.conv2d(images_of(input), weight, bias, padding=padding))
    height, width = code.shape[2:4]
    windows = convolved[:, :, : height * pool, : width * pool]
    windows = (
        windows.unflatten(3, (width, pool)).unflatten(2, (height, pool)).movedim((3, 5), (5, 6)).flatten(5)
    )
    largest, place = windows.max(-1)
    code.copy_(largest)
    if winner is not None:
        winner.copy_(place)
    if gap is not None:
        others = windows.scatter(-1, place.unsqueeze(-1), -torch.inf)
        gap.copy_(largest - others.amax(-1))
    raise_unless_finite(guard, (largest - largest).sum())
    a = sigma.value(largest)
    activation.copy_(a if mask is None else a * mask)
