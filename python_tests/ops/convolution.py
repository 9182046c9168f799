"""What the tests of the convolutions share: shapes, and oracles by torch.nn.functional and autograd.

The kernels get 16 samples side by side, (G, channels, height, width, 16); the oracles' images are (16 G, channels,
height, width).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .calling import Random


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of a convolution and its pooling; ``groups`` of 16 samples."""

    groups: int
    inputs: int
    outputs: int
    image: tuple[int, int]
    kernel: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    pool: int = 1

    @property
    def convolved(self) -> tuple[int, int]:
        (h, w), (i, j), (p, q) = self.image, self.kernel, self.padding
        return h + 2 * p - i + 1, w + 2 * q - j + 1

    @property
    def input(self) -> tuple[int, ...]:
        return self.groups, self.inputs, *self.image, 16

    @property
    def weight(self) -> tuple[int, ...]:
        return self.outputs, self.inputs, *self.kernel

    @property
    def code(self) -> tuple[int, ...]:
        height, width = self.convolved
        return self.groups, self.outputs, height // self.pool, width // self.pool, 16


SEVERAL_BLOCKS = Shape(3, 2, 5, (8, 37), (3, 3), (1, 0), 2)  # of a GPU share the work on it
SMALL = (
    Shape(0, 2, 3, (5, 6), (3, 3), pool=2),
    Shape(1, 1, 1, (1, 1), (1, 1)),
    Shape(1, 2, 3, (1, 1), (3, 3), (1, 1)),
    Shape(1, 1, 2, (3, 2), (5, 5), (3, 4), 2),
    Shape(1, 2, 2, (4, 4), (3, 3), (0, 0), 4),  # smaller than a window: no code at all
    Shape(2, 2, 3, (7, 8), (3, 2), (2, 0), 3),
    Shape(1, 3, 7, (6, 5), (3, 3), (1, 1), 1),
    Shape(2, 1, 2, (9, 10), (5, 5), (0, 0), 2),
)
LARGE = (
    Shape(2, 1, 6, (28, 28), (5, 5), (0, 0), 2),
    Shape(3, 6, 16, (12, 12), (5, 5), (0, 0), 2),
    Shape(1, 3, 13, (7, 41), (1, 4), (0, 3), 2),
    Shape(2, 5, 4, (12, 11), (7, 6), (2, 5), 2),
    Shape(1, 2, 25, (17, 19), (3, 3), (1, 1), 3),
    Shape(1, 2, 3, (33, 35), (2, 2), (1, 1), 16),
    Shape(1, 1, 1, (140, 150), (3, 3), (2, 2), 2),  # more than a strip of rows
)


def shapes(kernels: str) -> tuple[Shape, ...]:
    """The emulator takes its time."""
    return SMALL if kernels == "emulated" else (*SMALL, *LARGE)


def images(lanes: Tensor) -> Tensor:
    return torch.cat([group.movedim(-1, 0) for group in lanes]) if len(lanes) else lanes.movedim(-1, 1)[:, 0]


def lanes(images: Tensor) -> Tensor:
    if len(images) == 0:
        return images.new_empty(0, *images.shape[1:], 16)
    return torch.stack([group.movedim(0, -1) for group in images.split(16)])


def indices(winner: Tensor, shape: Shape) -> Tensor:
    """Of the winners' places within the convolved images, as torch counts them."""
    place = images(winner).long()
    rows = torch.arange(shape.code[2])[:, None] * shape.pool + place // shape.pool
    columns = torch.arange(shape.code[3]) * shape.pool + place % shape.pool
    return rows * shape.convolved[1] + columns


def at_winners(displacement: Tensor, winner: Tensor | None, shape: Shape) -> Tensor:
    """Images between convolution and pooling: the displacement where the winners are, else zero."""
    if displacement.numel() == 0:
        return displacement.new_zeros(16 * shape.groups, shape.outputs, *shape.convolved)
    if winner is None:
        return images(displacement)
    places = indices(winner, shape)
    return F.max_unpool2d(images(displacement), places, shape.pool, output_size=shape.convolved)


def random_winner(random: Random, shape: Shape) -> Tensor | None:
    if shape.pool == 1:
        return None
    size = torch.Size(shape.code).numel()
    return random.labels(size, shape.pool**2).to(torch.uint8).view(shape.code)


def geometry(shape: Shape) -> dict[str, Any]:
    return {"padding": shape.padding, "pool": shape.pool}
