from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from altmin_ext.ops._declaration import op
from altmin_ext.ops._lanes import at_winners, convolved_extents, images_of
from altmin_ext.ops._twins import raise_unless_finite
from altmin_ext.ops.scalars import CodeScalar


@op(written=("weight_gradient", "bias_gradient", "scalars", "guard"))
def convolution_weight_gradient(
    displacement: Tensor,
    weight: Tensor,
    input: Tensor,
    *,
    winner: Tensor | None = None,
    input_displacement: Tensor | None = None,
    weight_gradient: Tensor | None = None,
    bias_gradient: Tensor | None = None,
    scalars: Tensor,
    below: Tensor | None,
    padding: tuple[int, int],
    pool: int,
    guard: Tensor | None = None,
) -> None:
    """The gradient of a convolutional stage's weight subproblem, divided by the stage's scale.

    The subproblem is equation (6) of Choromanska et al. (2019). Its residual is
    r = (unit d + unit_below conv(input_displacement)) / scale, where d has the displacement of each code at its
    winner's place, and zeros elsewhere. The residual itself is not kept.

    Args:
        displacement: like the code of :func:`convolve`, in its unit.
        weight, padding, pool: as in :func:`convolve`.
        input: the updated input, sigma of the code below.
        winner: as written by :func:`convolve`; None if ``pool`` is 1.
        input_displacement: like the input, in the unit of ``below``; None for zero.
        weight_gradient: like the weight, out: sum over samples and places of residual times input; or None.
        bias_gradient: (m,), out: sum over samples and places of the residual; or None.
        scalars: the code's parameter block, a row of :class:`CodeScalar`.
        below: the block of the code below; None for a unit of 1.
        guard: (1,) float64, raised if the residual is not finite.

    Raises:
        TypeError, ValueError: an argument does not fit, or arguments share memory.
    """
    s = CodeScalar
    extents = convolved_extents(input, weight, padding)
    scale = scalars[s.scale]
    residual = scalars[s.unit] / scale * images_of(at_winners(displacement, winner, pool, extents))
    if input_displacement is not None:
        unit_below = 1.0 if below is None else below[s.unit]
        moved = F.conv2d(images_of(input_displacement), weight, padding=padding)
        residual = residual + unit_below / scale * moved
    if weight_gradient is not None:
        weight_gradient.copy_(conv2d_weight(images_of(input), list(weight.shape), residual, padding=padding))
    if bias_gradient is not None:
        bias_gradient.copy_(residual.sum((0, 2, 3)))
    scalars[s.residual_square] = residual.double().square().sum()
    raise_unless_finite(guard, scalars[s.residual_square])
