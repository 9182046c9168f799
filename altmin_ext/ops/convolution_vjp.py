from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from altmin_ext.ops._declaration import op
from altmin_ext.ops._lanes import at_winners, convolved_extents, images_of, lanes_of


@op(written=("pulled_back",))
def convolution_vjp(
    displacement: Tensor,
    weight: Tensor,
    *,
    winner: Tensor | None = None,
    pulled_back: Tensor,
    padding: tuple[int, int],
    pool: int,
) -> None:
    """pulled_back = the transpose of :func:`convolve`'s convolution, applied to the displacements of the winners.

    Args:
        displacement: like the code of :func:`convolve`.
        weight, padding, pool: as in :func:`convolve`.
        winner: as written by :func:`convolve`; None if ``pool`` is 1.
        pulled_back: like the input of :func:`convolve`, out.

    Raises:
        TypeError, ValueError: an argument does not fit, or arguments share memory.
    """
    extents = convolved_extents(pulled_back, weight, padding)
    expanded = at_winners(displacement, winner, pool, extents)
    pulled_back.copy_(lanes_of(F.conv_transpose2d(images_of(expanded), weight, padding=padding)))
