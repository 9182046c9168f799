"""Lanes: batches whose samples lie side by side, 16 at a time (csrc/ops/lanes.h)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

#: Samples that lie side by side in interleaved tensors.
LANES = 16


def images_of(lanes: Tensor) -> Tensor:
    """Lanes (G, channels, height, width, 16) as images (16 G, channels, height, width)."""
    return lanes.permute(0, 4, 1, 2, 3).flatten(0, 1)


def lanes_of(images: Tensor) -> Tensor:
    """The opposite of :func:`images_of`."""
    return images.unflatten(0, (-1, LANES) if len(images) else (0, LANES)).permute(0, 2, 3, 4, 1)


def convolved_extents(images: Tensor, weight: Tensor, padding: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the output of a convolution of images in lanes."""
    height, width = (
        n + 2 * p - k + 1 for n, p, k in zip(images.shape[2:4], padding, weight.shape[2:], strict=True)
    )
    return height, width


def at_winners(displacement: Tensor, winner: Tensor | None, pool: int, extents: tuple[int, int]) -> Tensor:
    """The displacement before pooling, (G, m, height, width, 16): at each winner's place, and zero elsewhere."""
    if winner is None:
        return displacement
    windows = displacement.new_zeros(*displacement.shape, pool * pool)
    windows.scatter_(-1, winner.long().unsqueeze(-1), displacement.unsqueeze(-1))
    rows, columns = displacement.shape[2:4]
    grid = windows.unflatten(-1, (pool, pool)).movedim((5, 6), (3, 5)).flatten(4, 5).flatten(2, 3)
    height, width = extents
    return F.pad(grid, (0, 0, 0, width - columns * pool, 0, height - rows * pool))
